//! The machine: its state, and the one place that dispatches events.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    vec::Vec,
};
use core::time::Duration;

use bincode::{Decode, Encode};

use super::{
    log::Log,
    membership::{Membership, MembershipChange},
    message::{Message, ReadId},
    progress::Progress,
    read::ReadRounds,
    transfer::Transfer,
    types::{
        Change, Configuration, Durable, Entry, HardState, Index, Payload, ServerId, SnapshotId,
        SnapshotMeta, Term, Write,
    },
};
use crate::{
    machine::{Context, Effect, Event, Machine, Ticket},
    time::{ClusterTime, Instant},
};

/// What never changes while a node runs. Delays are at `raft_multiplier` 1 by default.
#[expect(clippy::struct_excessive_bools, reason = "each is a knob of its own")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
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
    /// Compaction leaves the log from the snapshot before the newest on, whose file the newest one's may turn out to
    /// need; from the log's start where there is only one.
    pub reach_back: bool,
    /// Chunks of a snapshot under way to one follower.
    pub snapshot_credit: u64,
    /// A learner may be promoted when it lacks at most this many of the committed entries.
    pub catch_up_slack: u64,
    /// The most reads that wait at one server.
    pub max_reads: usize,
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
            reach_back: true,
            snapshot_credit: 4,
            catch_up_slack: 1024,
            max_reads: 65_536,
        }
    }
}

/// A node's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
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

/// What one step works with: its context, its effects, and what of term and vote is written.
pub struct Turn<'a, 'b> {
    pub(super) cx: &'a mut Context<'b>,
    effects: &'a mut Vec<Effect<Node>>,
    written: HardState,
}

impl Turn<'_, '_> {
    pub(super) fn send(&mut self, to: ServerId, message: Message, after: Ticket) {
        self.effects.push(Effect::Send { to, message, after });
    }

    pub(super) fn emit(&mut self, output: Output, after: Ticket) {
        self.effects.push(Effect::Emit { output, after });
    }

    pub(super) fn arm(&mut self, timer: Timer, delay: Duration) {
        self.effects.push(Effect::Arm { timer, delay });
    }

    pub(super) fn disarm(&mut self, timer: Timer) {
        self.effects.push(Effect::Disarm { timer });
    }
}

impl Node {
    /// Writes a change, with the term and vote as they are.
    pub(super) fn persist(&mut self, change: Change, turn: &mut Turn<'_, '_>) -> Ticket {
        let ticket = turn.cx.next_ticket();
        let hard_state = self.hard_state != turn.written;
        turn.written = self.hard_state;
        self.pending.push_back(Pending { ticket, last: self.log.last_index(), hard_state });
        let write = Write { hard_state: self.hard_state, change };
        turn.effects.push(Effect::Persist { ticket, write });
        ticket
    }

    /// Writes term and vote, where they changed and no other write of this step has them.
    fn flush(&mut self, turn: &mut Turn<'_, '_>) {
        if self.hard_state != turn.written {
            self.persist(Change::None, turn);
        }
    }

    /// The write that the current term and vote stand on.
    pub(super) fn hard_state_ticket(&self) -> Ticket {
        self.pending
            .iter()
            .rev()
            .find(|pending| pending.hard_state)
            .map_or(Ticket::NONE, |pending| pending.ticket)
    }

    /// The write that an answer stands on which says: this is my term, this is my vote, and my log goes up to `index`.
    pub(super) fn reply_ticket(&mut self, index: Index, turn: &mut Turn<'_, '_>) -> Ticket {
        self.flush(turn);
        let log = if index <= self.durable_index {
            Ticket::NONE
        } else {
            self.pending
                .iter()
                .find(|pending| pending.last >= index)
                .map_or(Ticket::NONE, |pending| pending.ticket)
        };
        log.max(self.hard_state_ticket())
    }

    /// Writes up to `ticket` are durable.
    fn became_durable(&mut self, ticket: Ticket, turn: &mut Turn<'_, '_>) {
        while self.pending.front().is_some_and(|pending| pending.ticket <= ticket) {
            if let Some(pending) = self.pending.pop_front() {
                self.durable_index = self.durable_index.max(pending.last);
            }
        }
        match &mut self.role {
            Role::Candidate { votes } => {
                if !self.pending.iter().any(|pending| pending.hard_state) {
                    votes.insert(self.config.id);
                    self.count_votes(turn);
                }
            }
            Role::Leader(_) => self.commit_by_quorum(turn),
            Role::Follower | Role::PreCandidate { .. } => {}
        }
    }

    /// The term that a message shows its sender to be in, where that makes this server step back.
    fn sender_term(message: &Message) -> Option<Term> {
        match message {
            // A granted pre-vote names the term that was asked for, not one that anybody is in.
            Message::Vote(vote) => (!(vote.pre_vote && vote.granted)).then_some(vote.term),
            Message::Appended(appended) => Some(appended.term),
            Message::SnapshotReply(reply) => Some(reply.term),
            // These look at the term themselves: a lease may refuse it, or its sender is the leader.
            Message::RequestVote(_)
            | Message::AppendEntries(_)
            | Message::InstallSnapshot(_)
            | Message::TimeoutNow(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_) => None,
        }
    }

    fn receive(&mut self, from: ServerId, message: Message, turn: &mut Turn<'_, '_>) {
        if Self::sender_term(&message).is_some_and(|term| term > self.hard_state.term)
            && let Some(term) = Self::sender_term(&message)
        {
            return self.enter_term(term, turn);
        }
        match message {
            Message::RequestVote(request) => self.receive_request_vote(from, &request, turn),
            Message::Vote(vote) => self.receive_vote(from, &vote, turn),
            Message::AppendEntries(append) => self.receive_append(from, append, turn),
            Message::Appended(appended) => self.receive_appended(from, &appended, turn),
            Message::InstallSnapshot(install) => self.receive_install(from, install, turn),
            Message::SnapshotReply(reply) => self.receive_snapshot_reply(from, &reply, turn),
            Message::TimeoutNow(message) => self.receive_timeout_now(from, &message, turn),
            Message::ReadIndex(read) => self.receive_read_index(from, &read, turn),
            Message::ReadIndexReply(reply) => self.receive_read_reply(&reply, turn),
        }
    }

    fn fire(&mut self, timer: Timer, turn: &mut Turn<'_, '_>) {
        match timer {
            Timer::Election => self.election_timeout(turn),
            Timer::Lease => self.lease = false,
            Timer::Heartbeat => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.reads.nearest.clear();
                    turn.arm(Timer::Heartbeat, self.config.heartbeat);
                    self.resend_lost(turn);
                    self.send_heartbeats(turn);
                }
            }
            Timer::QuorumCheck => self.check_quorum(turn),
            Timer::Transfer => self.abort_transfer(turn),
        }
    }

    fn command(&mut self, command: Command, turn: &mut Turn<'_, '_>) {
        match command {
            Command::Propose(proposals) => self.propose(proposals, turn),
            Command::Read { n } => self.read(n, turn),
            Command::Reconfigure { request, change } => self.reconfigure(request, &change, turn),
            Command::Transfer { request, to } => self.transfer(request, to, turn),
            Command::Form(configuration) => self.form(configuration, turn),
            Command::Unreachable(server) => self.unreachable(server, turn),
            Command::SnapshotSaved { index, chunks } => self.snapshot_saved(index, chunks, turn),
            Command::SnapshotStored(id) => self.snapshot_stored(id, turn),
            Command::SnapshotFailed(id) => self.snapshot_failed(id, turn),
            Command::SnapshotUnreadable(id) => self.snapshot_unreadable(id, turn),
            Command::StepDown => {
                if matches!(self.role, Role::Leader(_)) {
                    self.become_follower(None, turn);
                }
            }
        }
    }

    fn identity(&self) -> (Term, Standing, Option<ServerId>) {
        let standing = match self.role {
            Role::Leader(_) => Standing::Leader,
            Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                Standing::Follower
            }
        };
        (self.hard_state.term, standing, self.leader)
    }
}

impl Machine for Node {
    type Config = Arc<Config>;
    type Peer = ServerId;
    type Message = Message;
    type Timer = Timer;
    type Write = Write;
    type Command = Command;
    type Output = Output;
    type Durable = Durable;

    fn recover(
        config: &Arc<Config>,
        durable: Durable,
        cx: &mut Context<'_>,
        effects: &mut Vec<Effect<Self>>,
    ) -> Self {
        let log = Log::new(durable.base, durable.entries);
        let mut node = Self {
            config: Arc::clone(config),
            hard_state: durable.hard_state,
            membership: Membership::default(),
            commit_index: durable.snapshot.as_ref().map_or(Index(0), |meta| meta.id.index),
            durable_index: log.last_index(),
            log,
            snapshot: durable.snapshot,
            pending: VecDeque::new(),
            role: Role::Follower,
            leader: None,
            lease: false,
            forwarded_reads: BTreeSet::new(),
            install: None,
        };
        let mut turn = Turn { cx, effects, written: node.hard_state };
        if let Some(meta) = &node.snapshot {
            turn.emit(Output::Restore(meta.clone()), Ticket::NONE);
        }
        node.reload_membership(&mut turn);
        if node.is_lone_voter() {
            // Nobody else could be leading, so there is nothing to wait for.
            node.campaign(false, &mut turn);
        } else {
            // A pre-vote harms no leader that lives, so a fresh start needn't wait for its silence.
            let delay = turn.cx.entropy.jitter(node.config.election_jitter);
            turn.arm(Timer::Election, delay);
        }
        let (term, standing, leader) = node.identity();
        turn.emit(Output::Changed { term, standing, leader }, Ticket::NONE);
        node
    }

    fn fold(durable: &mut Durable, write: &Write) {
        durable.fold(write);
    }

    fn step(&mut self, event: Event<Self>, cx: &mut Context<'_>, effects: &mut Vec<Effect<Self>>) {
        let before = self.identity();
        let mut turn = Turn { cx, effects, written: self.hard_state };
        match event {
            Event::Receive { from, message } => self.receive(from, message, &mut turn),
            Event::Fire(timer) => self.fire(timer, &mut turn),
            Event::Durable(ticket) => self.became_durable(ticket, &mut turn),
            Event::Command(command) => self.command(command, &mut turn),
        }
        self.flush(&mut turn);
        let after = self.identity();
        if after != before {
            let (term, standing, leader) = after;
            turn.emit(Output::Changed { term, standing, leader }, Ticket::NONE);
        }
    }
}
