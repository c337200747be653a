//! Names, incarnations, members, what is durable, and what lies on top of membership.

use alloc::sync::Arc;
use core::{fmt, net::SocketAddr};

use bincode::{Decode, Encode};

use crate::{machine::Data, time::Instant};

/// Names a member; at most [`MAX_NAME`] bytes, not empty.
pub type Name = Arc<str>;

/// Where a member receives datagrams and accepts streams.
pub type Endpoint = SocketAddr;

/// The longest name, in bytes.
pub const MAX_NAME: usize = 255;
/// The longest metadata of a member, in bytes (memberlist's `MetaMaxSize`).
pub const MAX_META: usize = 512;
/// The longest payload of an acknowledgement that is passed on, in bytes.
pub const MAX_PAYLOAD: usize = 512;

/// Counts a member's own announcements (SWIM §4.2): only its owner raises it, and it never wraps.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Incarnation(pub u32);

impl Incarnation {
    /// The highest: half of what the wire could carry. Higher ones are dropped, so that no message can push a member to
    /// where its next incarnation would wrap to 0 and nobody would believe it again.
    pub const MAX: Self = Self((1 << 31) - 1);

    /// The incarnation after this one; `max` stays `max`.
    #[must_use]
    pub fn next(self, max: Self) -> Self {
        Self(self.0.saturating_add(1)).min(max)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{}", self.0)
    }
}

/// Where a message comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// A datagram from or to it; or a stream that this member opened to it, and the answer on that stream.
    Endpoint(Endpoint),
    /// A stream that this member accepted; an answer goes back on it, once.
    Stream(u64),
}

/// What is believed of a member. The order is that in which a later one beats an earlier one at the same incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It answers, or has announced itself.
    Alive,
    /// It didn't answer somebody; it has some time to refute that.
    Suspect,
    /// It didn't refute the suspicion.
    Dead,
    /// It said itself that it goes.
    Left,
}

impl Status {
    /// Whether the member is gone: dead, or left.
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Dead | Self::Left)
    }
}

/// The versions that a member understands and speaks: of memberlist's protocol, and of the layer's on top of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Versions {
    /// The lowest protocol version that it understands.
    pub protocol_min: u8,
    /// The highest protocol version that it understands.
    pub protocol_max: u8,
    /// The protocol version that it speaks.
    pub protocol: u8,
    /// The lowest version of the layer that it understands.
    pub delegate_min: u8,
    /// The highest version of the layer that it understands.
    pub delegate_max: u8,
    /// The version of the layer that it speaks.
    pub delegate: u8,
}

impl Versions {
    /// memberlist 1 to 5, speaks 2; Serf 2 to 5, speaks 4: what Consul's agents say.
    pub const CURRENT: Self = Self {
        protocol_min: 1,
        protocol_max: 5,
        protocol: 2,
        delegate_min: 2,
        delegate_max: 5,
        delegate: 4,
    };

    /// Whether the protocol's range is one (memberlist drops a member whose isn't).
    pub const fn is_valid(self) -> bool {
        self.protocol_min > 0 && self.protocol_max > 0 && self.protocol_min <= self.protocol_max
    }

    /// Whether it answers pings over a stream (memberlist's protocol 3).
    pub const fn has_stream_ping(self) -> bool {
        self.protocol_max >= 3
    }

    /// Whether it sends nacks when it relays (memberlist's protocol 4).
    pub const fn has_nack(self) -> bool {
        self.protocol_max >= 4
    }
}

/// A member as this one knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Its name.
    pub name: Name,
    /// Where it receives.
    pub endpoint: Endpoint,
    /// What it says of itself; opaque here.
    pub meta: Arc<[u8]>,
    /// The versions that it understands and speaks.
    pub versions: Versions,
    /// The incarnation that `status` is about.
    pub incarnation: Incarnation,
    /// What is believed of it.
    pub status: Status,
    /// When `status` was last changed, on this member's clock.
    pub since: Instant,
}

/// A member as push/pull tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberState {
    /// Its name.
    pub name: Name,
    /// Where it receives.
    pub endpoint: Endpoint,
    /// What it says of itself.
    pub meta: Arc<[u8]>,
    /// The versions that it understands and speaks.
    pub versions: Versions,
    /// The incarnation that `status` is about.
    pub incarnation: Incarnation,
    /// What the sender believes of it.
    pub status: Status,
}

impl From<&Member> for MemberState {
    fn from(member: &Member) -> Self {
        Self {
            name: Arc::clone(&member.name),
            endpoint: member.endpoint,
            meta: Arc::clone(&member.meta),
            versions: member.versions,
            incarnation: member.incarnation,
            status: member.status,
        }
    }
}

/// What lies on top of membership and sends its messages with it (Serf).
pub trait Layer: Data {
    /// A message of the layer.
    type Message: Data;
    /// What the layer exchanges in a push/pull.
    type State: Data;
    /// What [`Layer::admit`] judges by: the layer's own settings. Never changes while the machine runs.
    type Rules: Data;

    /// An upper bound of the message's encoding, in bytes, the byte that says that it is the layer's included.
    fn size(message: &Self::Message) -> usize;

    /// Which of the layer's queued messages go first: the lowest.
    fn priority(_message: &Self::Message) -> u8 {
        0
    }

    /// Whether a member may be one of the pool's: Consul refuses other datacenters, a node id that another name has,
    /// and, among servers of many datacenters, those that are none. A push/pull that joins with a member that isn't
    /// admitted is refused whole; elsewhere that member's announcement is dropped. The reason is for the log.
    fn admit(_member: &MemberState, _rules: &Self::Rules) -> Result<(), &'static str> {
        Ok(())
    }

    /// Whether a member with this metadata is soon taken for dead when its system refuses streams. Else it has as long to
    /// come back as one that is silent.
    fn is_soon_missed(_meta: &[u8]) -> bool {
        true
    }
}

/// No layer: membership alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoLayer {}

/// Nothing: the message of [`NoLayer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Never {}

impl Layer for NoLayer {
    type Message = Never;
    type State = Never;
    type Rules = ();

    fn size(message: &Never) -> usize {
        match *message {}
    }
}

/// What survives a crash: the last incarnation that this member may have announced. A blank one has announced none.
///
/// memberlist doesn't keep it: members that restart together announce what they announced before, while others still
/// hold accusations at a higher incarnation (memberlist#311).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Durable {
    /// The incarnation.
    pub incarnation: Incarnation,
}
