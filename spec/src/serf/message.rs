//! What Serf's layer sends: its messages on SWIM's packets, and its part of a push/pull (Serf's `messages.go`).

use alloc::{sync::Arc, vec::Vec};
use core::time::Duration;

use super::{
    keyring::{Key, KeyRequest, KeyResponse},
    lamport::LamportTime,
    members::Status,
    ring::Item,
    tags::{self, Rules},
};
use crate::swim::{Endpoint, Layer, Member, MemberState, Name};

/// Serf, as what lies on top of SWIM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SerfLayer {}

/// A message of Serf's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// A member says that it leaves, or an operator says so of a failed one.
    Leave(LeaveIntent),
    /// A member says that it is there.
    Join(JoinIntent),
    /// An event of the users'.
    UserEvent(UserEventMessage),
    /// A question to all, or to those that its filters match.
    Query(Arc<Query>),
    /// Answers a query, straight to who asked.
    QueryResponse(QueryResponse),
    /// Asks the receiver to pass an answer on. It can't hold another relay.
    Relay {
        /// Where the asker receives.
        to: Endpoint,
        /// The asker; empty where an old member relays.
        to_node: Name,
        /// The answer.
        response: QueryResponse,
    },
}

/// A member leaves, or has left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaveIntent {
    /// When it was said.
    pub ltime: LamportTime,
    /// Who leaves.
    pub node: Name,
    /// Forget the member, too.
    pub prune: bool,
}

/// A member is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JoinIntent {
    /// When it was said.
    pub ltime: LamportTime,
    /// Who is there.
    pub node: Name,
}

/// A user event, with its time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserEventMessage {
    /// When it was fired.
    pub ltime: LamportTime,
    /// The event.
    pub event: UserEvent,
    /// Of several with one name that come together, the last will do.
    pub coalesce: bool,
}

/// A user event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserEvent {
    /// Its name.
    pub name: Arc<str>,
    /// What it says.
    pub payload: Arc<[u8]>,
}

impl Item for UserEvent {
    fn weight(&self) -> usize {
        // What the allocations take beside the bytes.
        64 + self.name.len() + self.payload.len()
    }
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Query {
    /// When it was asked.
    pub ltime: LamportTime,
    /// Tells apart what was asked at one time.
    pub id: u32,
    /// Where the asker receives.
    pub source: Endpoint,
    /// The asker; empty where it is too old to say.
    pub source_node: Name,
    /// Who is asked: those that every filter matches.
    pub filters: Vec<Filter>,
    /// Whoever is asked says that the query came.
    pub ack: bool,
    /// Is not passed on.
    pub no_broadcast: bool,
    /// Answers also go through this many other members.
    pub relay_factor: u8,
    /// How long the asker waits.
    pub timeout: Duration,
    /// The question.
    pub body: QueryBody,
}

/// What a query asks. Serf's internal queries bear the prefix `_serf_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueryBody {
    /// A user's question.
    User {
        /// Its name.
        name: Arc<str>,
        /// What it says.
        payload: Arc<[u8]>,
    },
    /// `ping`: only the ack matters.
    Ping,
    /// `conflict`: who has this name?
    Conflict(Name),
    /// `install-key`, `use-key`, `remove-key`, `list-keys`.
    Key(KeyRequest),
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filter {
    /// These members.
    Nodes(Vec<Name>),
    /// Members with a tag whose value the regular expression matches, anywhere in it.
    Tag {
        /// The tag.
        tag: Arc<str>,
        /// The expression.
        expr: Arc<str>,
    },
}

/// Answers a query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryResponse {
    /// The query's time.
    pub ltime: LamportTime,
    /// The query's id.
    pub id: u32,
    /// Who answers.
    pub from: Name,
    /// Only says that the query came.
    pub ack: bool,
    /// The answer.
    pub answer: Answer,
}

/// An answer: bytes to a user's query. Only who asked knows what they are, so the encoding reads those that open like an
/// internal query's answer as such, beside keeping the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Answer {
    /// As they came. Left empty in an own answer to an internal query: the encoding makes them.
    pub bytes: Arc<[u8]>,
    /// Read as the answer to a keyring operation.
    pub key: Option<Arc<KeyResponse>>,
    /// Read as, or to be sent as, the answer to `conflict`.
    pub member: Option<Arc<Known>>,
}

/// A member as an answer to `conflict` tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Known {
    /// The member.
    pub member: MemberState,
    /// How it stands.
    pub status: Status,
}

impl Known {
    /// Tells of a member.
    pub fn new(member: &Member, status: Status) -> Self {
        Self { member: MemberState::from(member), status }
    }
}

/// Serf's part of a push/pull.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The sender's member clock.
    pub ltime: LamportTime,
    /// The time of the last intent about each member.
    pub status_ltimes: Vec<(Name, LamportTime)>,
    /// The members that have left; each stands in `status_ltimes`, too.
    pub left_members: Vec<Name>,
    /// The sender's event clock.
    pub event_ltime: LamportTime,
    /// The events that it remembers.
    pub events: Vec<(LamportTime, Vec<UserEvent>)>,
    /// The sender's query clock.
    pub query_ltime: LamportTime,
}

impl Layer for SerfLayer {
    type Message = Message;
    type State = State;
    type Rules = Rules;

    fn size(message: &Message) -> usize {
        // memberlist's byte for a layer's message.
        1 + message.size()
    }

    /// Intents go before queries, and those before events: Serf has a queue for each.
    fn priority(message: &Message) -> u8 {
        match message {
            Message::Leave(_) | Message::Join(_) => 0,
            Message::Query(_) | Message::QueryResponse(_) | Message::Relay { .. } => 1,
            Message::UserEvent(_) => 2,
        }
    }

    fn admit(member: &MemberState, rules: &Rules) -> Result<(), &'static str> {
        tags::admit(member, rules)
    }

    /// Agents are, and servers aren't: one that is taken for dead loses its vote in Raft, and restarts often enough.
    fn is_soon_missed(meta: &[u8]) -> bool {
        !tags::is_server(&tags::decode(meta))
    }
}

/// The bytes of a MessagePack string or byte string in the old form.
const fn raw(len: usize) -> usize {
    len + match len {
        0..32 => 1,
        32..0x1_0000 => 3,
        _ => 5,
    }
}

/// The bytes of an unsigned number.
const fn uint(n: u64) -> usize {
    match n {
        0..0x80 => 1,
        0x80..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}

impl Message {
    /// The bytes of its encoding: Serf's type byte and a MessagePack map. Exact for user events, whose limit is in
    /// encoded bytes; an upper bound for the others.
    pub fn size(&self) -> usize {
        match self {
            // LTime, Node, Prune
            Self::Leave(leave) => 2 + 6 + uint(leave.ltime.0) + 5 + raw(leave.node.len()) + 6 + 1,
            Self::Join(join) => 2 + 6 + uint(join.ltime.0) + 5 + raw(join.node.len()),
            Self::UserEvent(event) => event.size(),
            Self::Query(query) => query.size(),
            Self::QueryResponse(response) => response.size(),
            // DestAddr {IP, Port, Zone}, DestName
            Self::Relay { to_node, response, .. } => {
                2 + 9 + 1 + 3 + 17 + 5 + 3 + 5 + 33 + 9 + raw(to_node.len()) + response.size()
            }
        }
    }
}

impl UserEventMessage {
    /// The bytes of its encoding.
    pub fn size(&self) -> usize {
        // LTime, Name, Payload, CC
        let event = 5 + raw(self.event.name.len()) + 8 + raw(self.event.payload.len());
        2 + 6 + uint(self.ltime.0) + event + 3 + 1
    }
}

impl Query {
    /// An upper bound of the bytes of its encoding.
    pub fn size(&self) -> usize {
        // LTime, ID, Addr, Port, SourceNode, Filters, Flags, RelayFactor, Timeout, Name, Payload
        let numbers = 6 + 9 + 3 + 5 + 5 + 17 + 5 + 3 + 6 + 5 + 12 + 2 + 8 + 9;
        let filters: usize = self.filters.iter().map(Filter::size).sum();
        let (name, payload) = match &self.body {
            QueryBody::User { name, payload } => (name.len(), payload.len()),
            QueryBody::Ping => (10, 0),
            QueryBody::Conflict(name) => (14, name.len()),
            QueryBody::Key(request) => (17, 8 + request.key().map_or(0, Key::len)),
        };
        2 + numbers
            + 11
            + raw(self.source_node.len())
            + 8
            + 5
            + filters
            + 5
            + raw(name)
            + 8
            + raw(payload)
    }
}

impl Filter {
    fn size(&self) -> usize {
        5 + match self {
            Self::Nodes(names) => 6 + names.iter().map(|name| raw(name.len())).sum::<usize>(),
            Self::Tag { tag, expr } => 2 + 4 + raw(tag.len()) + 5 + raw(expr.len()),
        }
    }
}

impl QueryResponse {
    /// An upper bound of the bytes of its encoding.
    pub fn size(&self) -> usize {
        // LTime, ID, From, Flags, Payload
        let answer = &self.answer;
        let typed = answer.key.as_ref().map_or(0, |key| key.size())
            + answer
                .member
                .as_ref()
                .map_or(0, |known| 200 + known.member.name.len() + 2 * known.member.meta.len());
        2 + 6 + 9 + 3 + 5 + 5 + raw(self.from.len()) + 6 + 2 + 8 + raw(answer.bytes.len() + typed)
    }
}
