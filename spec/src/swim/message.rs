//! What members send each other: memberlist's messages, without their encoding.
//!
//! `size` gives an upper bound of the encoding, so that the machine fills a datagram without knowing the encoding
//! (MessagePack maps with field names, GOSSIP §3): the constants count the type's byte, the map's header, the names of
//! the fields and the longest form of each number.

use alloc::{sync::Arc, vec::Vec};

use super::types::{Endpoint, Incarnation, Layer, MemberState, Name, Versions};

/// The bytes of a datagram's framing, when it holds several parts.
pub const COMPOUND_OVERHEAD: usize = 2;
/// The bytes of framing of each part in a datagram.
pub const PART_OVERHEAD: usize = 2;

/// The longest header of a string or byte string.
const RAW: usize = 5;
/// An address of 16 bytes and a port, with their headers.
const ADDRESS: usize = RAW + 16 + 5;
/// A u32.
const NUMBER: usize = 5;

/// A message between two members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message<L: Layer> {
    /// One datagram. Its parts are independent of each other and are taken in order.
    Packet(Vec<Part<L>>),
    /// The sender's whole table, over a stream; and the answer with the receiver's.
    PushPull(PushPull<L>),
    /// A ping over a stream of its own.
    StreamPing(Ping),
    /// Answers [`Message::StreamPing`] on its stream.
    StreamAck(Ack),
}

/// A part of a datagram.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part<L: Layer> {
    /// Asks for an [`Ack`].
    Ping(Ping),
    /// Asks the receiver to ping a third member (SWIM §3.1).
    IndirectPing(IndirectPing),
    /// Answers a ping.
    Ack(Ack),
    /// A relay got no ack (Lifeguard §IV.A).
    Nack(Nack),
    /// A member is suspected.
    Suspect(Suspect),
    /// A member announces itself.
    Alive(Alive),
    /// A member is dead, or has left.
    Dead(Dead),
    /// A message of the layer.
    User(L::Message),
}

/// Asks for an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ping {
    /// Names the ping among the sender's.
    pub seq: u32,
    /// Whom it is for: another member that has got the address doesn't answer. Empty: whoever is there.
    pub target: Name,
    /// Who pings; old members don't say.
    pub source: Option<Name>,
    /// Where the sender receives; old members don't say.
    pub source_endpoint: Option<Endpoint>,
}

/// Asks a relay to ping.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndirectPing {
    /// Names the ping among the sender's; the relay's ack or nack bears it.
    pub seq: u32,
    /// Whom to ping.
    pub target: Name,
    /// Where the sender believes the target to receive.
    pub target_endpoint: Endpoint,
    /// The relay is to say so when the target doesn't answer.
    pub wants_nack: bool,
    /// Who asks; old members don't say.
    pub source: Option<Name>,
    /// Where the sender receives; old members don't say.
    pub source_endpoint: Option<Endpoint>,
}

/// Acknowledges a ping.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ack {
    /// The ping's.
    pub seq: u32,
    /// What the layer says with it (Serf: its coordinate).
    pub payload: Option<Arc<[u8]>>,
}

/// A relay got no ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nack {
    /// The indirect ping's.
    pub seq: u32,
}

/// An accusation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Suspect {
    /// The incarnation that is accused.
    pub incarnation: Incarnation,
    /// The accused.
    pub node: Name,
    /// The accuser.
    pub from: Name,
}

/// An announcement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alive {
    /// The incarnation that is announced.
    pub incarnation: Incarnation,
    /// Who is alive.
    pub node: Name,
    /// Where it receives.
    pub endpoint: Endpoint,
    /// What it says of itself.
    pub meta: Arc<[u8]>,
    /// The versions that it understands and speaks.
    pub versions: Versions,
}

/// The word that a member is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dead {
    /// The incarnation that is gone.
    pub incarnation: Incarnation,
    /// Who is gone.
    pub node: Name,
    /// Who says so: the member itself, where it leaves.
    pub from: Name,
}

/// A whole table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PushPull<L: Layer> {
    /// The sender joins a pool with it.
    pub join: bool,
    /// Every member that the sender knows, itself included.
    pub members: Vec<MemberState>,
    /// The layer's part. The machine leaves it out; whoever wraps the machine fills it in.
    pub user: Option<L::State>,
    /// It answers another push/pull.
    pub reply: bool,
}

impl<L: Layer> Part<L> {
    /// An upper bound of its encoding, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Ping(ping) => ping.size(),
            Self::IndirectPing(ping) => ping.size(),
            Self::Ack(ack) => ack.size(),
            // SeqNo
            Self::Nack(_) => 2 + 6 + NUMBER,
            // Incarnation, Node, From
            Self::Suspect(suspect) => accusation_size(&suspect.node, &suspect.from),
            Self::Dead(dead) => accusation_size(&dead.node, &dead.from),
            Self::Alive(alive) => alive.size(),
            Self::User(message) => L::size(message),
        }
    }
}

fn accusation_size(node: &Name, from: &Name) -> usize {
    2 + 12 + NUMBER + 5 + RAW + node.len() + 5 + RAW + from.len()
}

fn source_size(source: Option<&Name>) -> usize {
    // SourceAddr, SourcePort, SourceNode
    11 + 11 + ADDRESS + 11 + RAW + source.map_or(0, |name| name.len())
}

impl Ping {
    /// An upper bound of its encoding, in bytes.
    pub fn size(&self) -> usize {
        // SeqNo, Node
        2 + 6 + NUMBER + 5 + RAW + self.target.len() + source_size(self.source.as_ref())
    }
}

impl IndirectPing {
    /// An upper bound of its encoding, in bytes.
    pub fn size(&self) -> usize {
        // SeqNo, Target, Port, Node, Nack
        let own = 2 + 6 + NUMBER + 7 + 5 + ADDRESS + 5 + RAW + self.target.len() + 5 + 1;
        own + source_size(self.source.as_ref())
    }
}

impl Ack {
    /// An upper bound of its encoding, in bytes. Room for a payload that is filled in later is not counted.
    pub fn size(&self) -> usize {
        // SeqNo, Payload
        2 + 6 + NUMBER + 8 + RAW + self.payload.as_ref().map_or(0, |payload| payload.len())
    }
}

impl Alive {
    /// An upper bound of its encoding, in bytes.
    pub fn size(&self) -> usize {
        // Incarnation, Node, Addr, Port, Meta, Vsn
        let numbers = 2 + 12 + NUMBER + 5 + 5 + ADDRESS;
        numbers + 5 + RAW + self.node.len() + 5 + RAW + self.meta.len() + 4 + RAW + 6
    }
}
