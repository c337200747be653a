//! What the host asks of a node, what a node tells it, and its timers.

use alloc::sync::Arc;

use super::types::{Endpoint, Incarnation, Layer, Member, Name, Peer, Status};

/// A node's timers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A probe's period is over; the next one begins.
    Probe,
    /// The direct ping of the probe wasn't answered: relays and a stream are tried.
    ProbeTimeout,
    /// A round of gossip.
    Gossip,
    /// A push/pull with somebody.
    PushPull,
    /// Leaving has waited long enough.
    Leave,
    /// A relayed ping, by its own number, wasn't answered.
    Relay(u32),
    /// A member didn't refute.
    Suspicion(Name),
    /// A suspect that refused a stream has had time to come back.
    Refusal(Name),
    /// A push/pull with this member takes too long.
    Exchange(Endpoint),
}

/// What a host asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command<L: Layer> {
    /// Begins: announces the member, probes and gossips. Before it a node only answers, and pushes and pulls.
    Start,
    /// Exchanges tables with whoever is at `to`; answered by [`Output::Pushed`].
    PushPull {
        /// Names the host's request.
        request: u64,
        /// With whom.
        to: Endpoint,
        /// To join its pool: the layer may refuse it whole.
        join: bool,
    },
    /// Gossips a message of the layer's: as often as an announcement, behind those in each datagram.
    Broadcast(L::Message),
    /// Sends a message of the layer's, once, in a datagram.
    Send {
        /// To whom.
        to: Endpoint,
        /// What.
        message: L::Message,
    },
    /// Changes what this member says of itself: announced at its next incarnation. Longer than
    /// [`super::types::MAX_META`]: ignored, with [`Output::Dropped`].
    Update {
        /// The metadata from here on.
        meta: Arc<[u8]>,
    },
    /// Announces that this member goes; answered by [`Output::Left`] once that was sent often enough. It goes on
    /// answering until its host stops it, and never says again that it is alive.
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
}

/// What a node tells its host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output<L: Layer> {
    /// A member came: it was unknown or gone. The node's own first announcement is one.
    Joined(Member),
    /// A member's metadata, versions or address changed.
    Updated(Member),
    /// A member is gone, `status` being dead or left. The node's own leaving is one.
    Gone {
        /// As it was last known.
        member: Member,
        /// How it went: [`Status::Dead`] or [`Status::Left`].
        status: Status,
    },
    /// A member that has been gone for long is forgotten.
    Reaped(Name),
    /// Another member announces itself under the name of one that is there.
    Conflict {
        /// The one that is there.
        known: Member,
        /// Where the other one is.
        endpoint: Endpoint,
        /// What the other one says of itself.
        meta: Arc<[u8]>,
    },
    /// A table came from `from` and was merged; what the layer said with it.
    Merged {
        /// From whom.
        from: Peer,
        /// The sender joined with it, or this member did by asking for it.
        join: bool,
        /// The layer's part.
        user: Option<L::State>,
    },
    /// A message of the layer's.
    User {
        /// From whom.
        from: Peer,
        /// What.
        message: L::Message,
    },
    /// A direct ping was acknowledged.
    Rtt {
        /// By whom.
        name: Name,
        /// How long it took, in microseconds.
        micros: u64,
        /// What the layer there said with it.
        payload: Option<Arc<[u8]>>,
    },
    /// Answers [`Command::PushPull`].
    Pushed {
        /// The host's request.
        request: u64,
        /// How it went.
        result: Result<(), ExchangeError>,
    },
    /// Answers [`Command::Leave`].
    Left {
        /// The host's request.
        request: u64,
    },
    /// An accusation of this member was refuted, at this incarnation.
    Refuted(Incarnation),
    /// Health changed: 0 is best.
    Health(u32),
    /// A member was suspected (by this node's own probe, or by another's word).
    Suspected {
        /// Whom.
        name: Name,
        /// By whom.
        from: Name,
    },
    /// A member answers over a stream and not to datagrams: the network drops them.
    OnlyStreams(Name),
    /// Something was dropped. To be counted.
    Dropped(Dropped),
}

/// Why a push/pull failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeError {
    /// The stream couldn't be opened, or broke.
    Failed,
    /// No answer came in time.
    TimedOut,
    /// Too many are under way.
    Busy,
    /// The versions don't go together.
    Versions,
    /// The layer doesn't admit a member, for this reason.
    Refused(&'static str),
}

/// Why something was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// An incarnation that nobody can have, or an accusation at the highest one by hearsay.
    Incarnation,
    /// A range of versions that is none.
    Versions,
    /// A name or metadata that is too long, or a name that is empty.
    Malformed,
    /// Too many members.
    Members,
    /// Too many of the layer's messages wait; the one that was sent most often is dropped.
    Broadcasts,
    /// A message that fits into no datagram.
    Oversized,
    /// A ping for another member.
    Misdirected,
    /// A ping to relay to somebody who isn't a member at that address, or too many at once.
    Relay,
    /// An answer to nothing that was asked.
    Unsolicited,
    /// The layer doesn't admit a member, for this reason.
    Refused(&'static str),
}
