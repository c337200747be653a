//! The consensus turn: sole owner of the Raft machine.
//!
//! A turn takes what arrived, steps the machine, puts its effects through the gate and routes them. It takes no lock,
//! waits for nothing and touches no disk (but for a flight record, where one is asked for), so it runs alike on a thread of
//! its own, in one thread with the log writer, and in a simulator.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use spec::{
    entropy::{Entropy as _, Seeded},
    gate::Gate,
    machine::{Context, Effect, Event, Machine, Ticket},
    raft::{
        Command, Config, Configuration, Durable, Entry, Index, MembershipChange, Message, Node,
        Output, Payload, Proposal, Rejection, ServerId, SnapshotId, SnapshotMeta, Standing, Term,
        Timer, Write, invariant, message::InstallSnapshot,
    },
    state::{Outcome, State, snapshot::CHUNK_BYTES},
    time::{Instant, Timers},
    trace::{self, Opening, Recording},
};
use tokio::sync::oneshot;

use super::recorder::Recorder;

/// Bytes of proposals that one write and one message may carry.
const MAX_PROPOSE_BYTES: usize = 4 << 20;

/// How long a read's confirmation may take. Looked at with each turn, of which there is one at every timer at least.
const READ_PATIENCE: Duration = Duration::from_millis(500);

/// By what the log may outgrow [`SnapshotPolicy::log_bytes`] where the state is larger.
const LOG_GROWTH: usize = 4;

/// The most per cent by which servers stagger the snapshots that the log's size calls for.
const MOST_STAGGER: usize = 50;

/// What became of a proposal.
pub type Proposed = Result<(u64, Outcome), ProposeError>;

/// Why a proposal wasn't carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This server doesn't lead; nothing happened.
    #[error("node is not the leader")]
    NotLeader,
    /// Too much waits already; nothing happened.
    #[error("too many writes are waiting to be replicated")]
    Overloaded,
    /// The disk has no room for the log; nothing happened.
    #[error("the log's disk is full")]
    DiskFull,
    /// It may or may not happen.
    #[error("leadership lost while committing log")]
    Unknown,
}

/// Why the configuration wasn't changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// Nothing happened.
    Rejected(Rejection),
    /// Leadership was lost before the change was committed: the next leader may or may not commit it.
    Unknown,
}

/// What the consensus turn handles.
#[derive(Debug)]
pub enum Input {
    /// A message of another server, with the bytes of its chunk.
    Message {
        /// The sender.
        from: ServerId,
        /// The message.
        message: Message,
        /// What an InstallSnapshot carries.
        bytes: Option<Bytes>,
    },
    /// The connection to a server broke.
    Unreachable(ServerId),
    /// A client's write.
    Propose {
        /// The command.
        payload: Payload,
        /// Where its outcome goes once it is applied.
        reply: oneshot::Sender<Proposed>,
    },
    /// A linearizable read: the answer is the index to apply first.
    Read {
        /// The index, or none where no leader was found.
        reply: oneshot::Sender<Option<Index>>,
    },
    /// A change of the configuration; answered once it is committed.
    Reconfigure {
        /// The index of the configuration that the change was decided by; where another one is in force, it is refused as
        /// one that waits for another. None where it doesn't matter.
        configuration: Option<Index>,
        /// The change.
        change: MembershipChange,
        /// Done, or why not.
        reply: oneshot::Sender<Result<(), ChangeError>>,
    },
    /// A transfer of leadership.
    Transfer {
        /// To whom.
        to: Option<ServerId>,
        /// Done, or why not.
        reply: oneshot::Sender<Result<(), Rejection>>,
    },
    /// The first configuration of a formed cluster.
    Form(Arc<Configuration>),
    /// The log writer synced up to here.
    Durable(Ticket),
    /// The disk is full, or has room again.
    Full(bool),
    /// This server's state is known to be wrong.
    Diverged,
    /// Of the snapshot keeper.
    Snapshot(SnapshotEvent),
}

/// What the snapshot keeper tells.
#[derive(Clone, Copy, Debug)]
pub enum SnapshotEvent {
    /// A snapshot of the applied state is durable.
    Saved {
        /// Its last entry.
        index: Index,
        /// Its chunks.
        chunks: u64,
    },
    /// A received snapshot is durable.
    Stored(SnapshotId),
    /// A received snapshot could not be stored.
    Failed(SnapshotId),
    /// A snapshot to send can't be read.
    Unreadable(SnapshotId),
    /// A snapshot of the applied state could not be written.
    NotSaved,
}

/// What the apply turn handles.
#[derive(Debug)]
pub enum Apply {
    /// Committed entries, and who waits for the outcome of which.
    Entries {
        /// Consecutive entries.
        entries: Vec<Entry>,
        /// Ordered by index.
        waiters: Vec<(Index, oneshot::Sender<Proposed>)>,
    },
    /// The state is to be replaced by an installed snapshot.
    Restore(SnapshotMeta),
    /// The state as it is after the entries before this is to be saved.
    Save(SnapshotId),
}

/// What the snapshot keeper handles.
#[derive(Debug)]
pub enum Snapshot {
    /// Save this state.
    Save {
        /// Its last entry.
        id: SnapshotId,
        /// The state, which readers and the apply turn share.
        state: Box<State>,
    },
    /// Store a chunk of a received snapshot.
    Store {
        /// The snapshot.
        meta: SnapshotMeta,
        /// Which chunk.
        number: u64,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Make a received snapshot durable.
    Finish(SnapshotMeta),
    /// Send a chunk.
    Send {
        /// To whom.
        to: ServerId,
        /// The message that its bytes go with.
        message: InstallSnapshot,
    },
    /// The log starts behind `base`; nothing older is needed.
    Compacted {
        /// The newest snapshot.
        snapshot: SnapshotId,
    },
}

/// Where a turn's effects go.
#[derive(Debug, Default)]
pub struct Outbox {
    /// For the log writer, in order.
    pub persist: Vec<(Ticket, Write)>,
    /// For other servers.
    pub send: Vec<(ServerId, Message)>,
    /// For the apply turn, in order.
    pub apply: Vec<Apply>,
    /// For the snapshot keeper, in order.
    pub snapshots: Vec<Snapshot>,
    /// Term, leader or configuration changed.
    pub changed: bool,
    /// The leader was heard.
    pub heard: bool,
}

/// A machine that broke one of its own invariants; the agent must stop.
#[derive(Clone, Debug, thiserror::Error)]
#[error("Raft invariant `{invariant}` is violated; the agent stops before harm is done: {node}")]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// The node, for the report.
    pub node: String,
}

/// Who this server is, as others of the agent see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The current term.
    pub term: Term,
    /// Whether this server leads.
    pub leads: bool,
    /// The leader.
    pub leader: Option<ServerId>,
    /// The configuration in force.
    pub configuration: Arc<Configuration>,
    /// The index of its entry.
    pub configuration_index: Index,
}

impl Leadership {
    /// Where the leader answers.
    pub fn leader_address(&self) -> Option<&str> {
        let member = self.configuration.servers.get(&self.leader?)?;
        Some(&member.address)
    }
}

type ReadReply = oneshot::Sender<Option<Index>>;
type Answer = oneshot::Sender<Result<(), Rejection>>;
type ChangeReply = oneshot::Sender<Result<(), ChangeError>>;

/// The Raft machine, its gate, its timers, and who waits for it.
pub struct Consensus {
    node: Node,
    gate: Gate<Node>,
    timers: Timers<Timer>,
    entropy: Seeded,
    effects: Vec<Effect<Node>>,
    ready: Vec<Effect<Node>>,
    recorder: Option<Recorder>,
    last_request: u64,
    proposed: HashMap<u64, oneshot::Sender<Proposed>>,
    waiting: VecDeque<(Index, Term, oneshot::Sender<Proposed>)>,
    /// Reads under way, in the order of their requests, each with when it was asked.
    reads: BTreeMap<u64, (Instant, Vec<ReadReply>)>,
    answers: HashMap<u64, Answer>,
    changes: HashMap<u64, ChangeReply>,
    /// The change of the configuration that is in the log and not committed: there is one at most.
    changing: Option<(Index, Term, ChangeReply)>,
    /// When another server was heard last.
    heard: BTreeMap<ServerId, Instant>,
    full: bool,
    diverged: bool,
    /// The last entry that the apply turn was given, in a snapshot or by itself.
    handed: Index,
    policy: SnapshotPolicy,
    saving: bool,
    next_save: Instant,
    /// By how many per cent more this server's log grows between snapshots than it would have to.
    stagger: usize,
}

/// When a snapshot of the applied state is due.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotPolicy {
    /// After so many entries (`raft_snapshot_threshold`).
    pub threshold: u64,
    /// But for the log's size no sooner than so long after the last one (`raft_snapshot_interval`).
    pub interval: Duration,
    /// Or when the log in memory has so many bytes: as many as the state where that is larger, up to four times as many,
    /// and up to half of it more by chance.
    pub log_bytes: usize,
}

impl Default for SnapshotPolicy {
    /// Consul's settings.
    fn default() -> Self {
        Self { threshold: 16_384, interval: Duration::from_secs(30), log_bytes: 256 << 20 }
    }
}

impl Consensus {
    /// Starts from what was durable.
    pub fn recover(
        config: &Arc<Config>,
        durable: Durable,
        policy: SnapshotPolicy,
        seed: u64,
        now: Instant,
        out: &mut Outbox,
    ) -> Self {
        Self::recover_recorded(config, durable, policy, seed, now, None, out)
    }

    /// As [`Self::recover`], and writes down what happens.
    pub fn recover_recorded(
        config: &Arc<Config>,
        durable: Durable,
        policy: SnapshotPolicy,
        seed: u64,
        now: Instant,
        mut recorder: Option<Recorder>,
        out: &mut Outbox,
    ) -> Self {
        let mut entropy = Seeded::new(seed);
        let mut gate = Gate::default();
        let mut effects = Vec::new();
        let opened = recorder.is_some().then(|| durable.clone());
        let mut recording = Recording::new(&mut entropy);
        let mut cx = Context { now, entropy: &mut recording, last_ticket: &mut gate.last };
        let node = Node::recover(config, durable, &mut cx, &mut effects);
        if let (Some(recorder), Some(durable)) = (&mut recorder, opened) {
            recorder.opening(&Opening {
                version: trace::VERSION,
                config: Arc::clone(config),
                durable,
                now_us: now.0,
                draws: recording.into_draws(),
                effects: trace::fingerprint(&effects),
            });
        }
        let stagger = entropy.choose(MOST_STAGGER);
        let mut consensus = Self {
            node,
            gate,
            timers: Timers::default(),
            entropy,
            effects,
            ready: Vec::new(),
            recorder,
            last_request: 0,
            proposed: HashMap::new(),
            waiting: VecDeque::new(),
            reads: BTreeMap::new(),
            answers: HashMap::new(),
            changes: HashMap::new(),
            changing: None,
            heard: BTreeMap::new(),
            full: false,
            diverged: false,
            handed: Index(0),
            policy,
            saving: false,
            next_save: now,
            stagger,
        };
        consensus.route(now, None, out);
        consensus
    }

    /// The machine, to look at.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// When a server of the configuration was heard last; none before it ever was.
    pub fn heard(&self, server: &ServerId) -> Option<Instant> {
        self.heard.get(server).copied()
    }

    /// When the next timer fires.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next_deadline()
    }

    /// Who this server is now.
    pub fn leadership(&self) -> Leadership {
        Leadership {
            term: self.node.hard_state.term,
            leads: self.node.leader == Some(self.node.config.id),
            leader: self.node.leader,
            configuration: Arc::clone(&self.node.membership.configuration),
            configuration_index: self.node.membership.index,
        }
    }

    /// Takes one turn.
    pub fn turn(
        &mut self,
        now: Instant,
        inputs: &mut Vec<Input>,
        out: &mut Outbox,
    ) -> Result<(), Violation> {
        while let Some(timer) = self.timers.pop(now) {
            self.step(now, Event::Fire(timer), None, out);
        }
        self.expire_reads(now);
        let mut proposals = Vec::new();
        let mut proposal_bytes = 0;
        let mut readers = Vec::new();
        for input in inputs.drain(..) {
            match input {
                Input::Propose { payload, reply } => {
                    if self.full {
                        let _ = reply.send(Err(ProposeError::DiskFull));
                        continue;
                    }
                    if proposal_bytes + payload.0.len() > MAX_PROPOSE_BYTES {
                        let batch = std::mem::take(&mut proposals);
                        self.step(now, Event::Command(Command::Propose(batch)), None, out);
                        proposal_bytes = 0;
                    }
                    proposal_bytes += payload.0.len();
                    let request = self.next_request();
                    self.proposed.insert(request, reply);
                    proposals.push(Proposal { request, payload });
                }
                Input::Read { reply } => readers.push(reply),
                Input::Message { from, message, bytes } => {
                    if self.node.membership.configuration.servers.contains_key(&from) {
                        self.heard.insert(from, now);
                    }
                    self.step(now, Event::Receive { from, message }, bytes, out);
                }
                Input::Durable(ticket) => {
                    self.gate.durable(ticket, &mut self.ready);
                    self.route(now, None, out);
                    self.step(now, Event::Durable(ticket), None, out);
                }
                Input::Reconfigure { configuration, change, reply } => {
                    if configuration.is_some_and(|index| index != self.node.membership.index) {
                        let moved = ChangeError::Rejected(Rejection::ChangePending);
                        let _ = reply.send(Err(moved));
                        continue;
                    }
                    let request = self.next_request();
                    self.changes.insert(request, reply);
                    let command = Command::Reconfigure { request, change };
                    self.step(now, Event::Command(command), None, out);
                }
                Input::Transfer { to, reply } => {
                    let request = self.next_request();
                    self.answers.insert(request, reply);
                    let command = Command::Transfer { request, to };
                    self.step(now, Event::Command(command), None, out);
                }
                Input::Full(full) => {
                    match full {
                        true if !self.full => tracing::error!(
                            target: "agent.server",
                            "raft: the log's disk is full: this server takes no writes and doesn't lead; free room where its data directory is"
                        ),
                        false if self.full => tracing::info!(
                            target: "agent.server",
                            "raft: the log's disk has room again"
                        ),
                        _ => {}
                    }
                    self.full = full;
                }
                Input::Diverged => self.diverged = true,
                Input::Form(configuration) => {
                    self.step(now, Event::Command(Command::Form(configuration)), None, out);
                }
                Input::Unreachable(server) => {
                    self.step(now, Event::Command(Command::Unreachable(server)), None, out);
                }
                Input::Snapshot(event) => {
                    let command = match event {
                        SnapshotEvent::NotSaved => {
                            self.saving = false;
                            continue;
                        }
                        SnapshotEvent::Saved { index, chunks } => {
                            self.saving = false;
                            Command::SnapshotSaved { index, chunks }
                        }
                        SnapshotEvent::Stored(id) => Command::SnapshotStored(id),
                        SnapshotEvent::Failed(id) => Command::SnapshotFailed(id),
                        SnapshotEvent::Unreadable(id) => Command::SnapshotUnreadable(id),
                    };
                    self.step(now, Event::Command(command), None, out);
                }
            }
        }
        if !proposals.is_empty() {
            self.step(now, Event::Command(Command::Propose(proposals)), None, out);
        }
        if !readers.is_empty() {
            // All reads of a turn share one request, so a turn costs one round at most.
            let n = self.next_request();
            self.reads.insert(n, (now, readers));
            self.step(now, Event::Command(Command::Read { n }), None, out);
        }
        self.save(now, out);
        let unfit = self.full || self.diverged;
        if unfit && self.leadership().leads && !self.node.is_lone_voter() {
            // Another server, whose disk has room and whose state is right, can take writes. A lone voter leads on: with a
            // full disk it still serves reads.
            self.step(now, Event::Command(Command::StepDown), None, out);
        }
        self.check()
    }

    /// Has a snapshot saved where the log has grown by enough since the last one.
    fn save(&mut self, now: Instant, out: &mut Outbox) {
        let node = &self.node;
        let last = node.snapshot.as_ref().map_or(Index(0), |meta| meta.id.index);
        let entries = node.commit_index.0.saturating_sub(last.0);
        let many = entries >= self.policy.threshold && now >= self.next_save;
        // Entries are kept in memory until then, so bytes count, too, and don't wait for the interval.
        let large = node.log.bytes >= self.most_log_bytes() && entries > 0;
        if self.saving || !(many || large) || node.commit_index > node.durable_index {
            return;
        }
        if self.handed != node.commit_index {
            // An installed snapshot waits in the gate for its record, and the entries behind it wait too: what the apply
            // turn has is not yet the state of that index.
            return;
        }
        if let Some(term) = node.log.term_at(node.commit_index) {
            self.saving = true;
            self.next_save = now.after(self.policy.interval);
            out.apply.push(Apply::Save(SnapshotId { index: node.commit_index, term }));
        }
    }

    /// How large the log gets before its size alone calls for a snapshot. A snapshot is as large as the state: written for
    /// each 256 MiB of log, a state of 1 GiB would cost four times what the log does. And a server adds a share of its own,
    /// for the logs of all servers have the same size: they would all write their snapshots in the same moment.
    fn most_log_bytes(&self) -> usize {
        let SnapshotPolicy { log_bytes, .. } = self.policy;
        let chunks = self.node.snapshot.as_ref().map_or(0, |meta| meta.chunks);
        let state = usize::try_from(chunks).unwrap_or(usize::MAX).saturating_mul(CHUNK_BYTES);
        let least = log_bytes.max(state.min(log_bytes.saturating_mul(LOG_GROWTH)));
        least.saturating_add(least / 100 * self.stagger)
    }

    fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    fn check(&self) -> Result<(), Violation> {
        for (invariant, holds) in invariant::ALL {
            if !holds(&self.node) {
                let node = format!(
                    "term {:?} commit {:?} durable {:?} last {:?} base {:?} role {:?}",
                    self.node.hard_state,
                    self.node.commit_index,
                    self.node.durable_index,
                    self.node.log.last(),
                    self.node.log.base,
                    self.node.role
                );
                return Err(Violation { invariant, node });
            }
        }
        Ok(())
    }

    fn step(&mut self, now: Instant, event: Event<Node>, bytes: Option<Bytes>, out: &mut Outbox) {
        let last_ticket = &mut self.gate.last;
        if let Some(recorder) = &mut self.recorder {
            let told = event.clone();
            let mut recording = Recording::new(&mut self.entropy);
            let mut cx = Context { now, entropy: &mut recording, last_ticket };
            self.node.step(event, &mut cx, &mut self.effects);
            let draws = recording.into_draws();
            recorder.step(&trace::step_of(now, draws, &told, &self.effects));
        } else {
            let mut cx = Context { now, entropy: &mut self.entropy, last_ticket };
            self.node.step(event, &mut cx, &mut self.effects);
        }
        self.route(now, bytes, out);
    }

    /// Puts effects through the gate, and what it lets pass to where it belongs.
    fn route(&mut self, now: Instant, mut bytes: Option<Bytes>, out: &mut Outbox) {
        self.gate.admit(&mut self.effects, &mut self.ready);
        let mut ready = std::mem::take(&mut self.ready);
        for effect in ready.drain(..) {
            match effect {
                Effect::Persist { ticket, write } => out.persist.push((ticket, write)),
                Effect::Send { to, message: Message::InstallSnapshot(message), .. } => {
                    out.snapshots.push(Snapshot::Send { to, message });
                }
                Effect::Send { to, message, .. } => out.send.push((to, message)),
                Effect::Arm { timer, delay } => self.timers.arm(timer, now.after(delay)),
                Effect::Disarm { timer } => self.timers.disarm(&timer),
                Effect::Emit { output, .. } => self.output(output, &mut bytes, out),
            }
        }
        self.ready = ready;
    }

    fn output(&mut self, output: Output, bytes: &mut Option<Bytes>, out: &mut Outbox) {
        match output {
            Output::Appended { request, term, index } => {
                if let Some(reply) = self.proposed.remove(&request) {
                    self.waiting.push_back((index, term, reply));
                } else if let Some(reply) = self.changes.remove(&request) {
                    self.changing = Some((index, term, reply));
                }
            }
            Output::Rejected { request, reason } => self.rejected(request, reason),
            Output::Transferred { request } => {
                if let Some(reply) = self.answers.remove(&request) {
                    let _ = reply.send(Ok(()));
                }
            }
            Output::Committed(entries) => self.committed(entries, out),
            Output::ReadReady { n, index } => self.answer_read(n, Some(index)),
            Output::ReadFailed { n } => self.answer_read(n, None),
            Output::Changed { standing, .. } => {
                out.changed = true;
                if standing == Standing::Follower {
                    // The next leader may or may not commit what this one appended.
                    for (_, _, reply) in self.waiting.drain(..) {
                        let _ = reply.send(Err(ProposeError::Unknown));
                    }
                    if let Some((_, _, reply)) = self.changing.take() {
                        let _ = reply.send(Err(ChangeError::Unknown));
                    }
                }
            }
            Output::Configured { .. } => {
                let servers = &self.node.membership.configuration.servers;
                self.heard.retain(|server, _| servers.contains_key(server));
                out.changed = true;
            }
            // Autopilot promotes it, once it has been healthy for long enough.
            Output::CaughtUp(_) => {}
            Output::LeaderHeard => out.heard = true,
            Output::StoreChunk { meta, number } => {
                let bytes = bytes.take().unwrap_or_default();
                out.snapshots.push(Snapshot::Store { meta, number, bytes });
            }
            Output::FinishSnapshot(meta) => out.snapshots.push(Snapshot::Finish(meta)),
            Output::Restore(meta) => {
                self.handed = meta.id.index;
                out.apply.push(Apply::Restore(meta));
            }
            Output::Compacted { snapshot, .. } => {
                out.snapshots.push(Snapshot::Compacted { snapshot });
            }
            Output::Dropped(why) => tracing::warn!("raft: dropped a message: {why}"),
        }
    }

    fn answer_read(&mut self, n: u64, index: Option<Index>) {
        let (_, replies) = self.reads.remove(&n).unwrap_or_default();
        for reply in replies {
            let _ = reply.send(index);
        }
    }

    /// Gives up on reads whose messages may be lost: whoever asked asks again.
    fn expire_reads(&mut self, now: Instant) {
        while let Some((&n, (asked, _))) = self.reads.first_key_value() {
            if now.since(*asked) < READ_PATIENCE {
                break;
            }
            self.answer_read(n, None);
        }
    }

    fn rejected(&mut self, request: u64, reason: Rejection) {
        if let Some(reply) = self.proposed.remove(&request) {
            let error = match reason {
                Rejection::Overloaded => ProposeError::Overloaded,
                _ => ProposeError::NotLeader,
            };
            let _ = reply.send(Err(error));
        } else if let Some(reply) = self.answers.remove(&request) {
            let _ = reply.send(Err(reason));
        } else if let Some(reply) = self.changes.remove(&request) {
            let _ = reply.send(Err(ChangeError::Rejected(reason)));
        }
    }

    fn committed(&mut self, entries: Vec<Entry>, out: &mut Outbox) {
        let mut waiters = Vec::new();
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            self.handed = last.index;
            // What commits at an index may be another leader's entry.
            let is_of = |index: Index, term: Term| {
                let offset = usize::try_from(index.0.saturating_sub(first.index.0));
                let committed = offset.ok().and_then(|offset| entries.get(offset));
                committed.is_some_and(|entry| entry.term == term)
            };
            while self.waiting.front().is_some_and(|(index, ..)| *index <= last.index) {
                let Some((index, term, reply)) = self.waiting.pop_front() else { break };
                if is_of(index, term) {
                    waiters.push((index, reply));
                } else {
                    let _ = reply.send(Err(ProposeError::Unknown));
                }
            }
            if let Some((index, term, reply)) =
                self.changing.take_if(|(index, ..)| *index <= last.index)
            {
                let done = if is_of(index, term) { Ok(()) } else { Err(ChangeError::Unknown) };
                let _ = reply.send(done);
            }
        }
        out.apply.push(Apply::Entries { entries, waiters });
    }
}
