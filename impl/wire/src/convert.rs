//! From the messages of the wire to those of `spec`, and back.
//!
//! What is checked here is only whether a message can be told in `spec`'s types. Whether it is to be believed, such as an
//! incarnation beyond the highest or a range of versions that is none, is the machines' to judge and to count.

pub mod serf;

use std::sync::Arc;

use spec::swim::{
    self, Incarnation, Layer, MemberState, Name, Part, Versions,
    message::{Dead, Suspect},
};

use crate::{
    Refused, Unsendable,
    envelope::Envelope,
    memberlist::{self, Accusation, Ack, Alive, Encode, IndirectPing, Message, NodeState, Ping},
    packet::{Parts, Scratch},
    stream::{PushPull, StreamMessage},
};

/// The bytes of what lies on top of membership.
pub trait LayerCodec: Layer {
    /// Takes apart the contents of memberlist's `user`.
    fn decode_message(bytes: &[u8]) -> Result<Self::Message, Refused>;
    /// Appends the contents of memberlist's `user`.
    fn encode_message(message: &Self::Message, out: &mut Vec<u8>);
    /// Takes apart the user state of a push/pull.
    fn decode_state(bytes: &[u8]) -> Result<Self::State, Refused>;
    /// Appends the user state of a push/pull.
    fn encode_state(state: &Self::State, out: &mut Vec<u8>);
}

impl LayerCodec for swim::NoLayer {
    fn decode_message(_: &[u8]) -> Result<Self::Message, Refused> {
        Err(Refused::Unknown(memberlist::kind::USER))
    }

    fn encode_message(message: &Self::Message, _: &mut Vec<u8>) {
        match *message {}
    }

    fn decode_state(_: &[u8]) -> Result<Self::State, Refused> {
        Err(Refused::Unknown(memberlist::kind::USER))
    }

    fn encode_state(state: &Self::State, _: &mut Vec<u8>) {
        match *state {}
    }
}

/// What an opened packet says; each part that is refused goes to `refused`, and the others still count. A packet of
/// nothing but those gives no parts.
pub fn packet<L: LayerCodec>(parts: Parts<'_>, mut refused: impl FnMut(Refused)) -> Vec<Part<L>> {
    let mut taken = Vec::new();
    for message in parts {
        match message.and_then(|message| part(&message)) {
            Ok(part) => taken.push(part),
            Err(why) => refused(why),
        }
    }
    taken
}

/// One message of a packet as a part.
pub fn part<L: LayerCodec>(message: &Message<'_>) -> Result<Part<L>, Refused> {
    Ok(match message {
        Message::Ping(message) => Part::Ping(ping(message)),
        Message::IndirectPing(message) => Part::IndirectPing(swim::message::IndirectPing {
            seq: message.seq,
            target: message.node.into(),
            target_endpoint: message.target,
            wants_nack: message.nack,
            source: named(message.source_node),
            source_endpoint: message.source,
        }),
        Message::Ack(message) => Part::Ack(ack(message)),
        Message::Nack { seq } => Part::Nack(swim::message::Nack { seq: *seq }),
        Message::Suspect(message) => Part::Suspect(Suspect {
            incarnation: Incarnation(message.incarnation),
            node: message.node.into(),
            from: message.from.into(),
        }),
        Message::Alive(message) => Part::Alive(swim::message::Alive {
            incarnation: Incarnation(message.incarnation),
            node: message.node.into(),
            endpoint: message.endpoint,
            meta: message.meta.into(),
            versions: versions(message.versions),
        }),
        Message::Dead(message) => Part::Dead(Dead {
            incarnation: Incarnation(message.incarnation),
            node: message.node.into(),
            from: message.from.into(),
        }),
        Message::User(body) => Part::User(L::decode_message(body)?),
    })
}

fn ping(message: &Ping<'_>) -> swim::message::Ping {
    swim::message::Ping {
        seq: message.seq,
        target: message.node.into(),
        source: named(message.source_node),
        source_endpoint: message.source,
    }
}

fn ack(message: &Ack<'_>) -> swim::message::Ack {
    swim::message::Ack { seq: message.seq, payload: message.payload.map(Arc::from) }
}

/// Old members leave their name empty; empty is no name.
fn named(name: &str) -> Option<Name> {
    (!name.is_empty()).then(|| name.into())
}

fn name(name: Option<&Name>) -> &str {
    name.map_or("", |name| name)
}

/// Of a member that says nothing: no version, which is no valid range either.
fn versions(versions: Option<memberlist::Versions>) -> Versions {
    let [protocol_min, protocol_max, protocol, delegate_min, delegate_max, delegate] =
        versions.unwrap_or_default();
    Versions { protocol_min, protocol_max, protocol, delegate_min, delegate_max, delegate }
}

const fn versions_bytes(of: Versions) -> memberlist::Versions {
    [of.protocol_min, of.protocol_max, of.protocol, of.delegate_min, of.delegate_max, of.delegate]
}

fn ping_message(ping: &swim::message::Ping) -> Ping<'_> {
    Ping {
        seq: ping.seq,
        node: &ping.target,
        source: ping.source_endpoint,
        source_node: name(ping.source.as_ref()),
    }
}

fn ack_message(ack: &swim::message::Ack) -> Ack<'_> {
    Ack { seq: ack.seq, payload: ack.payload.as_deref() }
}

impl<L: LayerCodec> Encode for Part<L> {
    fn encode(&self, out: &mut Vec<u8>) {
        let message = match self {
            Self::Ping(ping) => Message::Ping(ping_message(ping)),
            Self::IndirectPing(ping) => Message::IndirectPing(IndirectPing {
                seq: ping.seq,
                target: ping.target_endpoint,
                node: &ping.target,
                nack: ping.wants_nack,
                source: ping.source_endpoint,
                source_node: name(ping.source.as_ref()),
            }),
            Self::Ack(ack) => Message::Ack(ack_message(ack)),
            Self::Nack(nack) => Message::Nack { seq: nack.seq },
            Self::Suspect(suspect) => Message::Suspect(Accusation {
                incarnation: suspect.incarnation.0,
                node: &suspect.node,
                from: &suspect.from,
            }),
            Self::Alive(alive) => Message::Alive(Alive {
                incarnation: alive.incarnation.0,
                node: &alive.node,
                endpoint: alive.endpoint,
                meta: &alive.meta,
                versions: Some(versions_bytes(alive.versions)),
            }),
            Self::Dead(dead) => Message::Dead(Accusation {
                incarnation: dead.incarnation.0,
                node: &dead.node,
                from: &dead.from,
            }),
            Self::User(message) => {
                out.push(memberlist::kind::USER);
                return L::encode_message(message, out);
            }
        };
        message.encode(out);
    }
}

/// What a stream says. `reply` says whether it came as the answer on a stream that this member opened.
///
/// A `user` message becomes a packet of that one part: memberlist hands both to what lies on top alike. An error, which
/// is the other one's reason for a refusal, is given back as [`Streamed::Error`].
pub fn stream<L: LayerCodec>(
    message: &StreamMessage<'_>,
    reply: bool,
) -> Result<Streamed<L>, Refused> {
    Ok(Streamed::Message(match message {
        StreamMessage::PushPull(state) => swim::Message::PushPull(swim::message::PushPull {
            join: state.join,
            members: state.nodes.iter().map(member).collect(),
            user: if state.user.is_empty() { None } else { Some(L::decode_state(state.user)?) },
            reply,
        }),
        StreamMessage::Ping(message) => swim::Message::StreamPing(ping(message)),
        StreamMessage::Ack(message) => swim::Message::StreamAck(ack(message)),
        StreamMessage::User(body) => {
            swim::Message::Packet(vec![Part::User(L::decode_message(body)?)])
        }
        StreamMessage::Error(text) => return Ok(Streamed::Error((*text).to_owned())),
    }))
}

/// What came over a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Streamed<L: Layer> {
    /// A message for the machine.
    Message(swim::Message<L>),
    /// Why the other one refused: for the log.
    Error(String),
}

fn member(node: &NodeState<'_>) -> MemberState {
    MemberState {
        name: node.name.into(),
        endpoint: node.endpoint,
        meta: node.meta.into(),
        versions: versions(node.versions),
        incarnation: Incarnation(node.incarnation),
        status: match node.status {
            memberlist::Status::Alive => swim::Status::Alive,
            memberlist::Status::Suspect => swim::Status::Suspect,
            memberlist::Status::Dead => swim::Status::Dead,
            memberlist::Status::Left => swim::Status::Left,
        },
    }
}

fn node(member: &MemberState) -> NodeState<'_> {
    NodeState {
        name: &member.name,
        endpoint: member.endpoint,
        meta: &member.meta,
        incarnation: member.incarnation.0,
        status: match member.status {
            swim::Status::Alive => memberlist::Status::Alive,
            swim::Status::Suspect => memberlist::Status::Suspect,
            swim::Status::Dead => memberlist::Status::Dead,
            swim::Status::Left => memberlist::Status::Left,
        },
        versions: Some(versions_bytes(member.versions)),
    }
}

impl Envelope {
    /// Puts a message of the machine into the bytes of a datagram or of a stream, in `out`, which is emptied first.
    /// `checksum` is [`Envelope::seal_packet`]'s.
    pub fn seal<L: LayerCodec>(
        &self,
        message: &swim::Message<L>,
        checksum: bool,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Unsendable> {
        let mut user = Vec::new();
        let message = match message {
            swim::Message::Packet(parts) => return self.seal_packet(parts, checksum, scratch, out),
            swim::Message::PushPull(state) => {
                if let Some(state) = &state.user {
                    L::encode_state(state, &mut user);
                }
                let nodes = state.members.iter().map(node).collect();
                StreamMessage::PushPull(PushPull { join: state.join, nodes, user: &user })
            }
            swim::Message::StreamPing(ping) => StreamMessage::Ping(ping_message(ping)),
            swim::Message::StreamAck(ack) => StreamMessage::Ack(ack_message(ack)),
        };
        self.seal_stream(&message, scratch, out)
    }
}
