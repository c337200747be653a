//! The machine: its state, and the one place that dispatches events.

use alloc::{boxed::Box, collections::{BTreeMap, BTreeSet, VecDeque}, sync::Arc, vec::Vec};
use core::time::Duration;

use super::{
    log::Log,
    membership::{Membership, MembershipChange},
    message::{Message, ReadId},
    progress::Progress,
    read::ReadRounds,
    transfer::Transfer,
    types::{ClusterId, Configuration, Durable, Entry, HardState, Index, Payload, ServerId, SnapshotId, SnapshotMeta, Term, Write},
};
use crate::{
    machine::{Context, Effect, Event, Machine, Ticket},
    time::{ClusterTime, Instant},
};

/// What never changes while a node runs. Delays are at `raft_multiplier` 1 by default.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// This server.
    pub id: ServerId,
    /// Drawn at each start; names this run's read requests.
    pub boot: u64,
    /// Ask for pre-votes before raising the term (thesis §9.6).
    pub pre_vote: bool,
    /// A leader that hears no quorum steps down, and voters refuse while they hear a leader (thesis §6.2, §4.2.3).
    pub check_quorum: bool,
    /// Tell followers of a new commit index at once, not with the next entries or heartbeat.
    pub eager_commit: bool,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// The least time without a leader before an election; also the time that a heard leader is protected.
    pub election: Duration,
    /// At most this is added to `election`, by chance.
    pub election_jitter: Duration,
    /// Between a leader's looks at whether it hears a quorum.
    pub quorum_check: Duration,
    /// The most that an election waits when the connection to the leader broke.
    pub suspicion_jitter: Duration,
    /// The most entries in one AppendEntries.
    pub max_append_entries: usize,
    /// The most bytes of entries in one AppendEntries; a single entry may be larger.
    pub max_append_bytes: usize,
    /// The most AppendEntries with entries under way to one follower.
    pub max_inflight: usize,
    /// The most bytes of entries under way to one follower.
    pub max_inflight_bytes: usize,
    /// The most bytes of entries that are not committed; proposals beyond it are refused.
    pub max_uncommitted_bytes: usize,
    /// Entries that compaction leaves behind the snapshot for slow followers.
    pub trailing_entries: u64,
    /// Chunks of a snapshot under way to one follower.
    pub snapshot_credit: u64,
}

impl Config {
    /// The production settings at `raft_multiplier` 1.
    pub fn new(id: ServerId, boot: u64) -> Self {
        Self {
            id,
            boot,
            pre_vote: true,
            check_quorum: true,
            eager_commit: true,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(300),
            election_jitter: Duration::from_millis(300),
            quorum_check: Duration::from_millis(300),
            suspicion_jitter: Duration::from_millis(50),
            max_append_entries: 4096,
            max_append_bytes: 1 << 20,
            max_inflight: 16,
            max_inflight_bytes: 8 << 20,
            max_uncommitted_bytes: 64 << 20,
            trailing_entries: 10_240,
            snapshot_credit: 4,
        }
    }
}

/// A node's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// No leader was heard: start an election.
    Election,
    /// The heard leader's protection ends (only with `check_quorum`).
    Lease,
    /// Send heartbeats.
    Heartbeat,
    /// Look whether a quorum was heard.
    QuorumCheck,
    /// Give up on a transfer.
    Transfer,
}

/// What a host asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Appends commands to the log; each is answered by [`Output::Appended`] or [`Output::Rejected`].
    Propose(Vec<Proposal>),
    /// Asks for a read index; answered by [`Output::ReadReady`] or [`Output::ReadFailed`].
    Read {
        /// Names the host's request; any count that doesn't repeat within this run.
        n: u64,
    },
    /// Changes the configuration; answered by [`Output::Appended`] or [`Output::Rejected`].
    Reconfigure {
        /// Names the host's request.
        request: u64,
        /// The change.
        change: MembershipChange,
    },
    /// Hands leadership to a voter, the most caught-up one where none is named.
    Transfer {
        /// Names the host's request.
        request: u64,
        /// To whom.
        to: Option<ServerId>,
    },
    /// A blank server becomes a member of a formed cluster: its first entry.
    Form(Arc<Configuration>),
    /// The connection to this server broke, or it refuses connections.
    Unreachable(ServerId),
    /// The host's snapshot of everything up to this entry is durable in a file.
    SnapshotSaved {
        /// The last entry that it holds.
        index: Index,
        /// How many chunks its file has.
        chunks: u64,
    },
    /// A received snapshot's file is durable and verified.
    SnapshotStored(SnapshotId),
    /// A received snapshot's file could not be stored or is damaged.
    SnapshotFailed(SnapshotId),
    /// The host can't read the snapshot that it was to send.
    SnapshotUnreadable(SnapshotId),
    /// The disk is full: lead no more until it isn't.
    StepDown,
}

/// One command for the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// Names the host's request.
    pub request: u64,
    /// The command.
    pub payload: Payload,
}

/// Why a host's request was refused; nothing of it will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// This node doesn't lead.
    NotLeader,
    /// Leadership is being handed over.
    Transferring,
    /// Too many bytes are not committed.
    Overloaded,
    /// A change is under way, or the leader hasn't committed an entry of its term.
    ChangePending,
    /// The change makes no sense in this configuration.
    BadChange,
    /// The learner has not caught up.
    NotCaughtUp,
    /// The server to transfer to doesn't vote or isn't this cluster's.
    NotVoter,
    /// The transfer didn't finish in time.
    TimedOut,
}

/// Who a node is, as it tells its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Follows, or stands for election.
    Follower,
    /// Leads.
    Leader,
}

/// What a node tells its host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// A proposal or change is in the leader's log; it happened if this index commits in this term, else not.
    Appended {
        /// The host's request.
        request: u64,
        /// The leader's term.
        term: Term,
        /// Its index.
        index: Index,
    },
    /// A request was refused.
    Rejected {
        /// The host's request.
        request: u64,
        /// Why.
        reason: Rejection,
    },
    /// A transfer is done: another server leads.
    Transferred {
        /// The host's request.
        request: u64,
    },
    /// These entries are committed, consecutive from the last such output on: apply them.
    Committed(Vec<Entry>),
    /// A read asked for under `n` may be served once `index` is applied.
    ReadReady {
        /// The host's request.
        n: u64,
        /// Apply up to here first.
        index: Index,
    },
    /// A read asked for under `n` found no leader; ask again.
    ReadFailed {
        /// The host's request.
        n: u64,
    },
    /// Term, standing or leader changed.
    Changed {
        /// The current term.
        term: Term,
        /// Whether this node leads.
        standing: Standing,
        /// The leader, where known.
        leader: Option<ServerId>,
    },
    /// The configuration in force changed.
    Configured {
        /// The index of its entry.
        index: Index,
        /// The configuration.
        configuration: Arc<Configuration>,
    },
    /// A learner has caught up and could vote.
    CaughtUp(ServerId),
    /// A message of the leader of this term arrived.
    LeaderHeard,
    /// Write the chunk that came with this message to the received snapshot's file.
    StoreChunk {
        /// The snapshot.
        meta: SnapshotMeta,
        /// Which chunk; 0 starts the file afresh.
        number: u64,
    },
    /// All chunks are there: verify the file, make it durable, then say [`Command::SnapshotStored`].
    FinishSnapshot(SnapshotMeta),
    /// The installed snapshot is durable: replace the applied state with it.
    Restore(SnapshotMeta),
    /// Everything needed is in the snapshot up to `base`: older snapshots and segments may go.
    Compacted {
        /// The newest snapshot.
        snapshot: SnapshotId,
        /// The last entry that is no longer kept.
        base: SnapshotId,
    },
    /// A peer's message made no sense and was dropped.
    Dropped(&'static str),
}

/// What a node is within its term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows.
    Follower,
    /// Asks whether it would be elected.
    PreCandidate {
        /// Who said yes.
        votes: BTreeSet<ServerId>,
    },
    /// Stands for election.
    Candidate {
        /// Who voted for it; itself once its vote is durable.
        votes: BTreeSet<ServerId>,
    },
    /// Leads.
    Leader(Box<Leader>),
}

/// What a leader knows besides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    /// How far each other server of the configuration is.
    pub progress: BTreeMap<ServerId, Progress>,
    /// The index of the first entry of its term.
    pub term_start: Index,
    /// ReadIndex rounds.
    pub reads: ReadRounds,
    /// The transfer under way.
    pub transfer: Option<Transfer>,
    /// Where its clock stood when it was elected, and the cluster's time then.
    pub clock: (Instant, ClusterTime),
    /// Bytes of entries not committed.
    pub uncommitted_bytes: usize,
}

/// A write on its way to the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// Its ticket.
    pub ticket: Ticket,
    /// The log is durable up to here once it is.
    pub last: Index,
    /// Whether it changed term or vote.
    pub hard_state: bool,
}

/// A snapshot that is being received.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Install {
    /// From whom.
    pub leader: ServerId,
    /// Which.
    pub meta: SnapshotMeta,
    /// The next chunk that is wanted.
    pub next: u64,
}

/// One server's Raft.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its configuration as a program.
    pub config: Arc<Config>,
    /// Term and vote.
    pub hard_state: HardState,
    /// The entries in memory.
    pub log: Log,
    /// The newest snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// The configuration in force, and the committed one before it.
    pub membership: Membership,
    /// Everything up to here is committed, and was handed to the host.
    pub commit_index: Index,
    /// The log is durable up to here.
    pub durable_index: Index,
    /// Writes that are not durable yet, in order.
    pub pending: VecDeque<Pending>,
    /// What it is in this term.
    pub role: Role,
    /// The leader of this term, where known.
    pub leader: Option<ServerId>,
    /// Whether the leader was heard within the election timeout: then votes are refused.
    pub lease: bool,
    /// Reads that it asked the leader for.
    pub forwarded_reads: BTreeSet<ReadId>,
    /// The snapshot that is being received.
    pub install: Option<Install>,
}
