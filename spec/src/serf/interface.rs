//! The settings, what the host asks of Serf's layer, and what it is told.

use alloc::{sync::Arc, vec::Vec};
use core::{fmt, time::Duration};

use super::{
    keyring::{KeyRequest, KeyResult, Keyring},
    lamport::{LamportTime, Limits},
    members::{Memory, Refusal, Status},
    message::{Filter, Query, SerfLayer, UserEvent},
    query::QueryKey,
    tags::Tags,
};
use crate::{
    machine::Ticket,
    swim::{self, Endpoint, ExchangeError, Member, Name},
};

/// The most bytes that a user event may take, whatever is configured (Serf's `UserEventSizeLimit`).
pub const EVENT_LIMIT: usize = 9 << 10;
/// The most members that an answer also goes through.
pub const MAX_RELAY_FACTOR: u8 = 5;
/// The most addresses of one join.
pub const MAX_JOIN: usize = 128;

/// What never changes while the machine runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// SWIM's settings; the metadata there is made from `tags`.
    pub swim: swim::Config<SerfLayer>,
    /// The tags at first.
    pub tags: Tags,
    /// The keyring, until it is first changed.
    pub keyring: Keyring,
    /// How long members and intents are remembered.
    pub memory: Memory,
    /// What times the clocks take.
    pub limits: Limits,
    /// How many times the rings of events and of queries remember (Serf: 512).
    pub window: u64,
    /// How many bytes of events are remembered.
    pub max_event_bytes: usize,
    /// How many queries are remembered.
    pub max_query_ids: usize,
    /// The most bytes of a user event.
    pub event_limit: usize,
    /// The most bytes of a query.
    pub query_limit: usize,
    /// The most bytes of a response.
    pub response_limit: usize,
    /// Between two attempts to reach a failed member.
    pub reconnect_interval: Duration,
    /// Between two looks for members to forget.
    pub reap_interval: Duration,
    /// Between two writes of the clocks.
    pub snapshot_interval: Duration,
    /// The most that leaving waits for its intent to be gossiped.
    pub broadcast_timeout: Duration,
    /// How long a member that left goes on answering, so that its leaving spreads.
    pub leave_propagate_delay: Duration,
    /// Join through the members that were known before the start.
    pub rejoin: bool,
    /// Do so even after this member left.
    pub rejoin_after_leave: bool,
    /// The most queries of this member's own at one time.
    pub max_running: usize,
    /// The most queries of others that the host may still answer.
    pub max_open: usize,
}

impl Config {
    /// Serf's defaults on top of these of SWIM's.
    pub fn new(swim: swim::Config<SerfLayer>, tags: Tags) -> Self {
        Self {
            swim,
            tags,
            keyring: Keyring::default(),
            memory: Memory {
                failed: Duration::from_hours(24),
                left: Duration::from_hours(24),
                intent: Duration::from_mins(5),
                flap: Duration::from_mins(1),
                max_intents: 16_384,
            },
            limits: Limits::default(),
            window: 512,
            max_event_bytes: 2 << 20,
            max_query_ids: 16_384,
            event_limit: 512,
            query_limit: 1_024,
            response_limit: 1_024,
            reconnect_interval: Duration::from_secs(30),
            reap_interval: Duration::from_secs(15),
            snapshot_interval: Duration::from_millis(500),
            broadcast_timeout: Duration::from_secs(5),
            leave_propagate_delay: Duration::from_secs(1),
            rejoin: true,
            rejoin_after_leave: false,
            max_running: 256,
            max_open: 1_024,
        }
    }

    /// Consul's: a failed member is known for three days, a node that comes back elsewhere under its name is taken for the
    /// same one half a minute after it failed, and what leaves answers for three seconds.
    pub fn consul(swim: swim::Config<SerfLayer>, tags: Tags) -> Self {
        let mut config = Self::new(swim, tags);
        config.memory.failed = Duration::from_hours(72);
        config.swim.dead_node_reclaim = Some(Duration::from_secs(30));
        config.leave_propagate_delay = Duration::from_secs(3);
        config
    }
}

/// The timers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// One of SWIM's.
    Swim(swim::Timer),
    /// Look for members to forget.
    Reap,
    /// Try to reach a failed member.
    Reconnect,
    /// Write the clocks.
    Snapshot,
    /// The next step of leaving.
    Leave,
    /// A query of this member is over.
    Query(LamportTime, u32),
}

/// A query as the host asks it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Question {
    /// Its name.
    pub name: Arc<str>,
    /// What it says.
    pub payload: Arc<[u8]>,
    /// Whom it is for: those that every filter matches.
    pub filters: Vec<Filter>,
    /// Whoever is asked is to say that it came.
    pub ack: bool,
    /// Is not passed on: only members that gossip brings it to straight from here hear it.
    pub no_broadcast: bool,
    /// Through how many other members an answer also comes; at most [`MAX_RELAY_FACTOR`].
    pub relay_factor: u8,
    /// How long to wait for answers; by the pool's size where not given.
    pub timeout: Option<Duration>,
}

/// What the host asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Begins: announces the member, probes, gossips, and joins again where members are known.
    Start,
    /// Joins the pools of whoever is at these addresses; answered by [`Output::JoinDone`].
    Join {
        /// Names the host's request.
        request: u64,
        /// Whom to ask: all of them.
        to: Vec<Endpoint>,
        /// Events that were fired before are not delivered.
        ignore_old: bool,
    },
    /// Takes these tags; answered by [`Output::Done`].
    SetTags {
        /// Names the host's request.
        request: u64,
        /// All of them.
        tags: Tags,
    },
    /// Fires a user event; answered by [`Output::Done`].
    Event {
        /// Names the host's request.
        request: u64,
        /// The event.
        event: UserEvent,
        /// Of several with one name, the last will do.
        coalesce: bool,
    },
    /// Asks a query; answered by [`Output::Acked`], [`Output::Answered`] and at last [`Output::QueryDone`].
    Query {
        /// Names the host's request.
        request: u64,
        /// The query.
        question: Question,
    },
    /// Answers a query that came as [`Output::Query`]; answered by [`Output::Done`].
    Respond {
        /// Names the host's request.
        request: u64,
        /// Which query.
        query: QueryKey,
        /// The answer.
        payload: Arc<[u8]>,
    },
    /// An operation on every member's keyring; answered by [`Output::KeyringDone`].
    Keyring {
        /// Names the host's request.
        request: u64,
        /// What to do.
        operation: KeyRequest,
        /// Through how many others each answer comes, too (RelayFactor).
        relay_factor: u8,
    },
    /// A failed member has left; answered by [`Output::Done`].
    ForceLeave {
        /// Names the host's request.
        request: u64,
        /// Who.
        name: Name,
        /// Forget it, too. Only one that is gone.
        prune: bool,
    },
    /// Leaves the pool; answered by [`Output::LeaveDone`], after which the host stops the machine.
    Leave {
        /// Names the host's request.
        request: u64,
    },
    /// A stream to this member couldn't be opened, or broke.
    StreamFailed {
        /// To whom it was.
        to: Endpoint,
        /// The system there refused it: nobody listens at that address. False where it was silent, or doubtful.
        refused: bool,
    },
    /// The keyring, or its time, could not be written. What the disk holds of that write is not known; the ticket is told
    /// as durable after this, so that what else waits goes on.
    KeyringNotWritten {
        /// The write.
        ticket: Ticket,
        /// Why, for the operator.
        reason: Arc<str>,
    },
}

/// What the host is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// A member is there; this one, too.
    Joined {
        /// The member; its tags are in its metadata ([`super::tags::decode`]).
        member: Member,
        /// It had failed a moment before.
        flapped: bool,
    },
    /// A member says something new of itself.
    Updated(Member),
    /// A member that is there leaves, by what was said of it, or doesn't any more. Serf has no event for it, and shows it
    /// in its list of members alone.
    Turned {
        /// The member.
        member: Member,
        /// How it stands: alive or leaving.
        status: Status,
    },
    /// A member failed.
    Failed(Member),
    /// A member left.
    Left(Member),
    /// A member is forgotten: it was gone for long, or an operator pruned it.
    Reaped {
        /// The member.
        member: Member,
        /// How it stood.
        status: Status,
    },
    /// A user event. Each comes once, also over a restart.
    Event {
        /// When it was fired.
        ltime: LamportTime,
        /// The event.
        event: UserEvent,
        /// Of several with one name, the last will do.
        coalesce: bool,
    },
    /// A query of another member or of this one: answer it with [`Command::Respond`] within its timeout, or don't.
    Query(Arc<Query>),
    /// A member says that a query came.
    Acked {
        /// The host's request.
        request: u64,
        /// Who.
        from: Name,
    },
    /// A member answers a query.
    Answered {
        /// The host's request.
        request: u64,
        /// Who.
        from: Name,
        /// What.
        payload: Arc<[u8]>,
    },
    /// A query is over.
    QueryDone {
        /// The host's request.
        request: u64,
        /// How many said that it came.
        acks: usize,
        /// How many answered.
        responses: usize,
    },
    /// Encrypt and decrypt with this keyring from here on. Told at start, too.
    Keyring(Keyring),
    /// An operation on the keyrings is over.
    KeyringDone {
        /// The host's request.
        request: u64,
        /// How it went.
        result: KeyResult,
    },
    /// All that a join asked have answered, or failed to.
    JoinDone {
        /// The host's request.
        request: u64,
        /// How many answered.
        joined: usize,
        /// Who didn't, and why.
        failures: Vec<(Endpoint, ExchangeError)>,
    },
    /// The attempts to join again through known members are over.
    Rejoined {
        /// Through whom; none where nobody answered.
        through: Option<Name>,
    },
    /// A request was done: an event was fired, tags were taken, a query was answered, a member was made to leave.
    Done {
        /// The host's request.
        request: u64,
    },
    /// A request was refused; nothing of it will happen.
    Refused {
        /// The host's request.
        request: u64,
        /// Why.
        reason: Refused,
    },
    /// This member has left; stop it.
    LeaveDone {
        /// The host's request.
        request: u64,
    },
    /// Another member announces itself under the name of one that is there. Nobody shuts itself down for it.
    Conflict {
        /// The one that is there.
        known: Member,
        /// Where the other one is.
        endpoint: Endpoint,
    },
    /// A round trip was measured.
    Rtt {
        /// To whom.
        name: Name,
        /// How long it took, in microseconds.
        micros: u64,
        /// The coordinate that came with it, encoded.
        payload: Option<Arc<[u8]>>,
    },
    /// SWIM tells something that is to be counted or logged.
    Swim(swim::Output<SerfLayer>),
    /// Something is to be counted.
    Counted(Counter),
}

/// Something to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// A Lamport time that can't be one was dropped.
    ImplausibleTime,
    /// No room for an intent about an unknown name.
    IntentsFull,
    /// An event older than what the ring remembers.
    OldEvent,
    /// A query older than what the ring remembers.
    OldQuery,
    /// A query whose answer would go to somebody who is no member.
    StrangersQuery,
    /// An answer to be relayed to somebody who is no member.
    StrangersRelay,
    /// An answer to no query of this member's, or by no member.
    UnaskedResponse,
    /// A second answer by one member.
    DuplicateResponse,
    /// Too many queries wait for the host's answer; the oldest is forgotten.
    OpenQueriesFull,
    /// Too many operations on the keyring wait for the write of one; this one is not heeded.
    KeyQueriesFull,
    /// Somebody said that this member leaves, and it said that it doesn't.
    RefutedLeave,
}

/// Why a request was refused. The texts are Serf's, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// This member leaves or has left.
    Leaving,
    /// The tags don't fit in the metadata.
    TagsTooLong,
    /// Before encoding, more than is configured.
    EventLimit(usize),
    /// Before encoding, more than is sane.
    EventSaneLimit,
    /// After encoding, more than is configured.
    EncodedEventLimit(usize),
    /// After encoding, more than is sane.
    EncodedEventSaneLimit,
    /// The clock has no more times for events.
    EventClock,
    /// A query takes too many bytes.
    QueryLimit(usize),
    /// A response takes too many bytes.
    ResponseLimit(usize),
    /// The query was answered.
    AlreadyResponded,
    /// The query is over.
    PastDeadline,
    /// Too many queries run.
    TooManyQueries,
    /// Another operation on the keyrings runs.
    KeyringBusy,
    /// Too many addresses, or none.
    Addresses,
    /// What an operator asked of a member can't be.
    Member(Refusal),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaving => f.write_str("Serf can't do this after Leave or Shutdown"),
            Self::TagsTooLong => {
                let limit = swim::types::MAX_META;
                write!(f, "Encoded length of tags exceeds limit of {limit} bytes")
            }
            Self::EventLimit(limit) => {
                write!(f, "user event exceeds configured limit of {limit} bytes before encoding")
            }
            Self::EventSaneLimit => {
                write!(f, "user event exceeds sane limit of {EVENT_LIMIT} bytes before encoding")
            }
            Self::EncodedEventLimit(limit) => write!(
                f,
                "encoded user event exceeds configured limit of {limit} bytes after encoding"
            ),
            Self::EncodedEventSaneLimit => write!(
                f,
                "encoded user event exceeds sane limit of {EVENT_LIMIT} bytes before encoding"
            ),
            Self::EventClock => f.write_str("the event clock has no more times"),
            Self::QueryLimit(limit) => write!(f, "query exceeds limit of {limit} bytes"),
            Self::ResponseLimit(limit) => write!(f, "response exceeds limit of {limit} bytes"),
            Self::AlreadyResponded => f.write_str("response already sent"),
            Self::PastDeadline => f.write_str("response is past the deadline"),
            Self::TooManyQueries => f.write_str("too many queries are running"),
            Self::KeyringBusy => f.write_str("another keyring operation is running"),
            Self::Addresses => write!(f, "a join takes 1 to {MAX_JOIN} addresses"),
            Self::Member(Refusal::Unknown) => f.write_str("no member has this name"),
            Self::Member(Refusal::Own) => {
                f.write_str("a member can't be forced to leave by itself: it can leave")
            }
            Self::Member(Refusal::Live) => f.write_str(
                "the member is alive: only a failed or left member can be pruned; stop it, or let it leave, first",
            ),
        }
    }
}
