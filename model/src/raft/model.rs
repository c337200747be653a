//! The Raft model: `spec`'s node under a network that loses, repeats and reorders, on disks that crash.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use spec::{
    entropy::Least,
    gate::Gate,
    machine::{Context, Event, Machine, Ticket},
    raft::{
        Command, Config, Configuration, Durable, Entry, Index, Member, MembershipChange, Message,
        Node, Payload, Proposal, Request, Role, ServerId, SnapshotId, Suffrage, Term, Timer,
        message::{AppendEntries, AppendResult, Appended},
        progress::Mode,
    },
    time::{ClusterTime, Instant},
};
use stateright::Model;

use super::{
    dead,
    observe::Observer,
    progress,
    property::Watch,
    rename::{Renaming, sort_sends},
    run::{Listener as _, Run, drop_unheard},
    world::{Ghosts, Hashed, Packet, Server, Spent, State, TIMERS, World, timer_bit},
};

/// What a scope allows, and the knobs of the machine that it sets.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a knob of its own")]
pub struct Bounds {
    /// Servers that vote from the start.
    pub voters: usize,
    /// Servers that learn from the start.
    pub learners: usize,
    /// Blank servers, in no configuration yet.
    pub blank: usize,
    /// Terms above that of the first configuration.
    pub terms: u64,
    /// What may happen how often, all servers together.
    pub most: Spent,
    /// Whether a write takes time, and a crash keeps any prefix of those under way.
    pub split_disk: bool,
    /// Drop messages that can't matter any more.
    pub drop_dead: bool,
    /// The machine's `pre_vote`.
    pub pre_vote: bool,
    /// The machine's `check_quorum`.
    pub check_quorum: bool,
    /// The machine's `eager_commit`.
    pub eager_commit: bool,
    /// Entries in one AppendEntries.
    pub append_entries: usize,
    /// AppendEntries under way to one follower.
    pub inflight: usize,
    /// Bytes of entries in one AppendEntries.
    pub append_bytes: usize,
    /// Bytes of entries under way to one follower.
    pub inflight_bytes: usize,
    /// Bytes of entries that aren't committed, beyond which proposals are refused.
    pub uncommitted_bytes: usize,
    /// Chunks of a snapshot.
    pub chunks: u64,
    /// Chunks of a snapshot under way to one follower.
    pub credit: u64,
    /// Entries that compaction leaves.
    pub trailing: u64,
    /// The machine's `reach_back`.
    pub reach_back: bool,
    /// The disks that the search starts from, where not those of a cluster that was just formed.
    pub disks: &'static [Disk],
    /// Acknowledgements under way then: from, to, the term, and the index up to which they match.
    pub acks: &'static [(usize, usize, u64, u64)],
    /// Heartbeats under way where the search starts, of terms that are over.
    pub heartbeats: &'static [Heartbeat],
    /// Steps from there on to where the search starts.
    pub start: &'static [Start],
    /// Membership changes that may be asked for.
    pub changes: &'static [Change],
}

/// A disk in the midst of a history, which a person has thought out: one that the rules allow. Its log begins with the
/// cluster's configuration; the first entry of each term is its leader's empty one.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Its term.
    pub term: u64,
    /// Its vote.
    pub vote: Option<usize>,
    /// The terms of its entries from index 2 on.
    pub terms: &'static [u64],
}

/// A heartbeat of a term that is over.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    /// The server that led.
    pub from: usize,
    /// The receiver.
    pub to: usize,
    /// The term that it led.
    pub term: u64,
    /// The last entry, of that term, which was committed then.
    pub index: u64,
    /// Its ReadIndex round.
    pub round: u64,
}

/// A step of the way to where a search starts. Messages that it leaves under way are lost.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// The server at this place is elected, and its first entry committed, with all servers but those.
    Elect(usize, &'static [usize]),
    /// The leader at this place commits one request with all servers but those; nobody else knows of it yet.
    Commit(usize, &'static [usize]),
    /// The leader at this place appends one request, which reaches nobody.
    Append(usize),
}

/// A membership change that may be asked for, by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add as a learner.
    Add(usize),
    /// Let vote.
    Promote(usize),
    /// Remove.
    Remove(usize),
    /// Note a new address.
    SetAddress(usize),
}

impl Change {
    fn rename(self, names: &Renaming) -> Self {
        match self {
            Self::Add(place) => Self::Add(names.place(place)),
            Self::Promote(place) => Self::Promote(names.place(place)),
            Self::Remove(place) => Self::Remove(names.place(place)),
            Self::SetAddress(place) => Self::SetAddress(names.place(place)),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            voters: 3,
            learners: 0,
            blank: 0,
            terms: 2,
            most: Spent::default(),
            split_disk: false,
            drop_dead: true,
            pre_vote: false,
            check_quorum: false,
            eager_commit: false,
            append_entries: 1,
            inflight: 1,
            append_bytes: 1 << 20,
            inflight_bytes: 8 << 20,
            uncommitted_bytes: 64 << 20,
            chunks: 1,
            credit: 4,
            trailing: 0,
            reach_back: false,
            disks: &[],
            acks: &[],
            heartbeats: &[],
            start: &[],
            changes: &[],
        }
    }
}

impl Bounds {
    /// How many servers there are.
    pub const fn servers(&self) -> usize {
        self.voters + self.learners + self.blank
    }

    /// The highest term that may be entered; the first configuration's is 1.
    pub const fn last_term(&self) -> Term {
        Term(1 + self.terms)
    }
}

/// What may happen next. Servers are named by their places.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A message arrives; it may arrive again.
    Deliver(Arc<Hashed<Packet>>),
    /// A timer runs out.
    Fire(usize, Timer),
    /// The first so many pending writes become durable.
    Sync(usize, usize),
    /// The server stops, keeps the first so many pending writes, and starts again.
    Crash(usize, usize),
    /// A client asks this leader for something.
    Propose(usize),
    /// A client asks this server for a read index.
    Read(usize),
    /// This leader is asked to change the configuration.
    Reconfigure(usize, MembershipChange),
    /// This leader is asked to hand over to another.
    Transfer(usize, usize),
    /// The host has saved a snapshot of what it applied.
    SnapshotSaved(usize),
    /// The host has stored a received snapshot.
    SnapshotStored(usize, SnapshotId),
    /// The host could not store a snapshot that is being received, or it is damaged.
    SnapshotFailed(usize, SnapshotId),
    /// The host can't read the snapshot that this leader sends.
    SnapshotUnreadable(usize, SnapshotId),
    /// The host's disk is full: this leader is told to step down.
    StepDown(usize),
    /// The first server's connection to the second broke.
    Unreachable(usize, usize),
}

/// A model of Raft within bounds.
#[derive(Clone, Debug)]
pub struct RaftModel {
    /// The bounds.
    pub bounds: Arc<Bounds>,
    /// The renamings of the servers under which the same may happen; the first changes nothing.
    pub names: Arc<[Renaming]>,
    /// The properties that are checked.
    pub watch: Watch,
}

fn propose(byte: u8) -> Event<Node> {
    let payload = Payload::from(vec![byte]);
    Event::Command(Command::Propose(vec![Proposal { request: 0, payload }]))
}

/// The server's id at a place.
pub fn id_at(place: usize) -> ServerId {
    ServerId::new(u128::try_from(place + 1).unwrap_or(u128::MAX), 0)
}

/// The place of a server.
pub fn place_of(id: ServerId) -> usize {
    usize::try_from(id.node.0).unwrap_or(usize::MAX).saturating_sub(1)
}

/// The snapshots that a leader feeds its followers, by index and term.
fn sent_snapshots(node: &Node) -> BTreeSet<(Index, Term)> {
    let Role::Leader(leader) = &node.role else { return BTreeSet::new() };
    let sent = leader.progress.values().filter_map(|progress| match &progress.mode {
        Mode::Snapshot { meta, .. } => Some((meta.id.index, meta.id.term)),
        Mode::Probe { .. } | Mode::Replicate => None,
    });
    sent.collect()
}

impl RaftModel {
    /// A model within bounds.
    pub fn new(bounds: Bounds, watch: Watch) -> Self {
        // Symmetry is over the renamings under which the same may happen: changes name servers.
        let mut names = Renaming::all(bounds.servers());
        names.retain(|names| {
            bounds.changes.iter().all(|change| bounds.changes.contains(&change.rename(names)))
        });
        let names = names.into();
        Self { bounds: Arc::new(bounds), names, watch }
    }

    fn config(&self, place: usize, boot: u64) -> Arc<Config> {
        let bounds = &self.bounds;
        Arc::new(Config {
            pre_vote: bounds.pre_vote,
            check_quorum: bounds.check_quorum,
            eager_commit: bounds.eager_commit,
            max_append_entries: bounds.append_entries,
            max_append_bytes: bounds.append_bytes,
            max_inflight: bounds.inflight,
            max_inflight_bytes: bounds.inflight_bytes,
            max_uncommitted_bytes: bounds.uncommitted_bytes,
            snapshot_credit: bounds.credit,
            trailing_entries: bounds.trailing,
            reach_back: bounds.reach_back,
            catch_up_slack: 0,
            // Delays say nothing here: any armed timer may run out at any time.
            heartbeat: Duration::ZERO,
            election: Duration::ZERO,
            election_jitter: Duration::ZERO,
            quorum_check: Duration::ZERO,
            suspicion_jitter: Duration::ZERO,
            ..Config::new(id_at(place), boot)
        })
    }

    /// What the disks of a formed cluster hold: the first configuration, and nothing on a blank server's.
    ///
    /// The cluster's time stands while a model runs. It isn't 0, so that a leader that starts it afresh is seen.
    fn first_disk(&self, place: usize) -> Durable {
        let bounds = &self.bounds;
        if place >= bounds.voters + bounds.learners {
            return Durable::default();
        }
        let address: Arc<str> = Arc::from("");
        let member = |place: usize| Member {
            suffrage: if place < bounds.voters { Suffrage::Voter } else { Suffrage::Learner },
            address: Arc::clone(&address),
        };
        let servers = (0..bounds.voters + bounds.learners).map(|p| (id_at(p), member(p))).collect();
        let configuration = Arc::new(Configuration { servers, ..Configuration::default() });
        let mut durable = Durable::default();
        durable.hard_state.term = Term(1);
        durable.entries.push(Entry {
            term: Term(1),
            index: Index(1),
            time: ClusterTime(1),
            request: Request::Configuration(configuration),
        });
        if let Some(disk) = bounds.disks.get(place) {
            durable.hard_state.term = Term(disk.term);
            durable.hard_state.voted_for = disk.vote.map(id_at);
            let mut before = 1;
            for (index, term) in (2..).zip(disk.terms) {
                let request = if *term == before {
                    Request::Command(Payload::from(vec![b'a']))
                } else {
                    Request::Noop
                };
                before = *term;
                durable.entries.push(Entry {
                    term: Term(*term),
                    index: Index(index),
                    time: ClusterTime(index),
                    request,
                });
            }
        }
        durable
    }

    /// The first state, before what [`Bounds::start`] adds.
    fn first(&self) -> World {
        let blank = |place: usize| {
            let config = self.config(place, 0);
            let disk = self.first_disk(place);
            let mut last_ticket = Ticket::NONE;
            let mut effects = Vec::new();
            let mut least = Least;
            let mut cx =
                Context { now: Instant(0), entropy: &mut least, last_ticket: &mut last_ticket };
            // Without its disk it does nothing; what starting does is observed in the restart below.
            let node = Node::recover(&config, Durable::default(), &mut cx, &mut effects);
            Server {
                node,
                gate: Gate::default(),
                timers: 0,
                pending: Vec::new(),
                storing: Vec::new(),
                applied: Index(0),
                asked: 0,
                disk,
            }
        };
        let servers = (0..self.bounds.servers()).map(blank);
        let mut world = World {
            servers: servers.map(|server| Hashed::new(server, 1, &self.names)).collect(),
            packets: Vec::new(),
            ghosts: Hashed::new(Ghosts::default(), 3, &self.names),
            spent: Spent::default(),
        };
        for place in 0..self.bounds.servers() {
            world = self.restart(&world, place, 0, 0);
        }
        world
    }

    /// Stops a server, keeps a prefix of its pending writes, and starts it again.
    fn restart(&self, world: &World, place: usize, keep: usize, boot: u64) -> World {
        let before = world.server(place);
        let mut disk = before.disk.clone();
        let mut observer = Observer::new(self, world, place);
        for (_, write) in before.pending.iter().take(keep) {
            observer.write(&disk, write);
            Node::fold(&mut disk, write);
        }
        let mut last_ticket = Ticket::NONE;
        let mut effects = Vec::new();
        let node = {
            let mut least = Least;
            let mut cx =
                Context { now: Instant(0), entropy: &mut least, last_ticket: &mut last_ticket };
            Node::recover(&self.config(place, boot), disk.clone(), &mut cx, &mut effects)
        };
        let gate = Gate { last: last_ticket, ..Gate::default() };
        let mut server = Server {
            node,
            gate,
            timers: 0,
            pending: Vec::new(),
            storing: Vec::new(),
            applied: Index(0),
            asked: 0,
            disk,
        };
        Run { split_disk: self.bounds.split_disk, server: &mut server, listener: &mut observer }
            .settle(&mut effects);
        self.finish(world, place, server, observer, true)
    }

    /// Steps a server with an event, and with all that follows at once.
    pub fn step(&self, world: &World, place: usize, event: Event<Node>) -> World {
        let mut server = world.server(place).clone();
        let mut observer = Observer::new(self, world, place);
        Run { split_disk: self.bounds.split_disk, server: &mut server, listener: &mut observer }
            .run(event);
        self.finish(world, place, server, observer, false)
    }

    fn finish(
        &self,
        world: &World,
        place: usize,
        mut server: Server,
        observer: Observer<'_>,
        restarted: bool,
    ) -> World {
        server.gate.rebase();
        sort_sends(&mut server.gate);
        drop_unheard(&mut server.gate);
        let (ghosts, packets) = observer.finish(&server, restarted);
        let mut next = world.clone();
        if let Some(ghosts) = ghosts {
            next.ghosts = Hashed::new(ghosts, 3, &self.names);
        }
        if server != *world.server(place) {
            next.servers[place] = Hashed::new(server, 1, &self.names);
        }
        for packet in packets {
            next.send(packet, &self.names);
        }
        if self.bounds.drop_dead {
            dead::remove(self, &mut next);
        }
        next
    }

    /// The world after an action.
    pub fn act(&self, world: &World, action: &Action) -> World {
        let mut world = world.clone();
        let command = |command| Event::Command(command);
        match action {
            Action::Deliver(packet) => {
                let packet = &packet.value;
                let event = Event::Receive { from: packet.from, message: packet.message.clone() };
                self.step(&world, place_of(packet.to), event)
            }
            Action::Fire(place, timer) => {
                match timer {
                    Timer::Election => world.spent.timeouts += 1,
                    Timer::Heartbeat => world.spent.heartbeats += 1,
                    Timer::QuorumCheck => world.spent.quorum_checks += 1,
                    Timer::Lease | Timer::Transfer => {}
                }
                self.step(&world, *place, Event::Fire(*timer))
            }
            Action::Sync(place, count) => {
                let ticket = world.server(*place).pending[count - 1].0;
                self.step(&world, *place, Event::Durable(ticket))
            }
            Action::Crash(place, keep) => {
                world.spent.crashes += 1;
                // A boot's nonce is drawn afresh at each start; nothing but reads looks at it.
                let boot = world.server(*place).node.config.boot;
                let boot = if self.bounds.most.reads > 0 { boot + 1 } else { boot };
                self.restart(&world, *place, *keep, boot)
            }
            Action::Propose(place) => {
                world.spent.requests += 1;
                self.step(&world, *place, propose(b'0' + world.spent.requests))
            }
            Action::Read(place) => {
                world.spent.reads += 1;
                // The host counts its requests afresh at each start; the boot's nonce keeps them apart.
                let mut server = world.server(*place).clone();
                server.asked += 1;
                let n = server.asked;
                world.servers[*place] = Hashed::new(server, 1, &self.names);
                let mut ghosts = world.ghosts().clone();
                let least = Index(u64::try_from(ghosts.committed.len()).unwrap_or(u64::MAX));
                ghosts.reads.push((id_at(*place), n, least));
                ghosts.reads.sort_unstable();
                world.ghosts = Hashed::new(ghosts, 3, &self.names);
                self.step(&world, *place, command(Command::Read { n }))
            }
            Action::Reconfigure(place, change) => {
                world.spent.changes += 1;
                let change = change.clone();
                self.step(&world, *place, command(Command::Reconfigure { request: 0, change }))
            }
            Action::Transfer(place, to) => {
                world.spent.transfers += 1;
                let to = Some(id_at(*to));
                self.step(&world, *place, command(Command::Transfer { request: 0, to }))
            }
            Action::SnapshotSaved(place) => {
                world.spent.snapshots += 1;
                let index = world.server(*place).applied;
                let chunks = self.bounds.chunks;
                self.step(&world, *place, command(Command::SnapshotSaved { index, chunks }))
            }
            Action::SnapshotStored(place, id) => {
                let mut server = world.server(*place).clone();
                server.storing.retain(|meta| meta.id != *id);
                world.servers[*place] = Hashed::new(server, 1, &self.names);
                self.step(&world, *place, command(Command::SnapshotStored(*id)))
            }
            Action::SnapshotFailed(place, id) => {
                world.spent.snapshot_failures += 1;
                let mut server = world.server(*place).clone();
                server.storing.retain(|meta| meta.id != *id);
                world.servers[*place] = Hashed::new(server, 1, &self.names);
                self.step(&world, *place, command(Command::SnapshotFailed(*id)))
            }
            Action::SnapshotUnreadable(place, id) => {
                world.spent.snapshot_failures += 1;
                self.step(&world, *place, command(Command::SnapshotUnreadable(*id)))
            }
            Action::StepDown(place) => {
                world.spent.step_downs += 1;
                self.step(&world, *place, command(Command::StepDown))
            }
            Action::Unreachable(place, other) => {
                world.spent.unreachables += 1;
                self.step(&world, *place, command(Command::Unreachable(id_at(*other))))
            }
        }
    }

    /// The state where the search starts.
    fn start(&self) -> World {
        if self.bounds.split_disk && !self.bounds.start.is_empty() {
            // On the way there nobody crashes, and each write is durable at once.
            let bounds = Bounds { split_disk: false, ..Bounds::clone(&self.bounds) };
            return Self { bounds: Arc::new(bounds), ..self.clone() }.start();
        }
        let mut world = self.first();
        for (from, to, term, index) in self.bounds.acks {
            let (from, to) = (id_at(*from), id_at(*to));
            let result = AppendResult::Matched(Index(*index));
            let message = Message::Appended(Appended { term: Term(*term), round: 0, result });
            world.send(Packet { from, to, message }, &self.names);
        }
        for start in self.bounds.start {
            let (place, absent, event) = match *start {
                Start::Elect(place, absent) => (place, absent, Event::Fire(Timer::Election)),
                Start::Commit(place, absent) => (place, absent, propose(b'a')),
                Start::Append(place) => {
                    world = self.step(&world, place, propose(b'b'));
                    world.packets.clear();
                    continue;
                }
            };
            world = progress::deliver_all(self, self.step(&world, place, event), absent);
            if let Start::Commit(..) = start {
                continue;
            }
            // A heartbeat shows what was committed.
            let heartbeat = Event::Fire(Timer::Heartbeat);
            world = progress::deliver_all(self, self.step(&world, place, heartbeat), absent);
        }
        for Heartbeat { from, to, term, index, round } in self.bounds.heartbeats {
            let message = Message::AppendEntries(AppendEntries {
                term: Term(*term),
                previous: SnapshotId { index: Index(*index), term: Term(*term) },
                entries: Vec::new(),
                commit: Index(*index),
                round: *round,
            });
            world.send(Packet { from: id_at(*from), to: id_at(*to), message }, &self.names);
        }
        world
    }

    /// A question for a read index that arrives again and again would start rounds without end: one repeat is enough.
    fn reads_within(&self, node: &Node) -> bool {
        let Role::Leader(leader) = &node.role else { return true };
        let most = usize::from(self.bounds.most.reads) + 1;
        let reads = &leader.reads;
        let under_way = reads.round.as_ref().map_or(0, |round| round.reads.len());
        usize::try_from(reads.n).is_ok_and(|n| n <= most) && under_way + reads.waiting.len() <= most
    }

    fn may_fire(&self, world: &World, server: &Server, timer: Timer) -> bool {
        let (spent, most) = (&world.spent, &self.bounds.most);
        match timer {
            Timer::Election => {
                // With pre-vote a timeout raises no term by itself.
                spent.timeouts < most.timeouts
                    && server.node.hard_state.term < self.bounds.last_term()
            }
            Timer::Heartbeat => spent.heartbeats < most.heartbeats,
            Timer::QuorumCheck => spent.quorum_checks < most.quorum_checks,
            Timer::Lease | Timer::Transfer => true,
        }
    }

    fn list_host_actions(&self, world: &World, place: usize, actions: &mut Vec<Action>) {
        let (spent, most) = (&world.spent, &self.bounds.most);
        let server = world.server(place);
        let leads = matches!(server.node.role, Role::Leader(_));
        if leads && spent.requests < most.requests {
            actions.push(Action::Propose(place));
        }
        if spent.reads < most.reads && server.node.leader.is_some() {
            actions.push(Action::Read(place));
        }
        if leads && spent.changes < most.changes {
            for change in self.bounds.changes {
                let change = match *change {
                    Change::Add(at) => {
                        MembershipChange::AddLearner { id: id_at(at), address: Arc::from("") }
                    }
                    Change::Promote(at) => MembershipChange::Promote(id_at(at)),
                    Change::Remove(at) => MembershipChange::Remove(id_at(at)),
                    Change::SetAddress(at) => {
                        MembershipChange::SetAddress { id: id_at(at), address: Arc::from("moved") }
                    }
                };
                actions.push(Action::Reconfigure(place, change));
            }
        }
        if leads && spent.transfers < most.transfers {
            let others = (0..self.bounds.servers()).filter(|to| *to != place);
            actions.extend(others.map(|to| Action::Transfer(place, to)));
        }
        let snapshot = server.node.snapshot.as_ref().map_or(Index(0), |meta| meta.id.index);
        if spent.snapshots < most.snapshots && server.applied > snapshot {
            actions.push(Action::SnapshotSaved(place));
        }
        let storing = server.storing.iter();
        actions.extend(storing.map(|meta| Action::SnapshotStored(place, meta.id)));
        if spent.snapshot_failures < most.snapshot_failures {
            let received = server.node.install.iter().map(|install| install.meta.id);
            let storing = server.storing.iter().map(|meta| meta.id);
            let failing: BTreeSet<_> =
                received.chain(storing).map(|id| (id.index, id.term)).collect();
            actions.extend(
                failing
                    .into_iter()
                    .map(|(index, term)| Action::SnapshotFailed(place, SnapshotId { index, term })),
            );
            actions.extend(sent_snapshots(&server.node).into_iter().map(|(index, term)| {
                Action::SnapshotUnreadable(place, SnapshotId { index, term })
            }));
        }
        if leads && spent.step_downs < most.step_downs {
            actions.push(Action::StepDown(place));
        }
        if spent.unreachables < most.unreachables {
            let others = (0..self.bounds.servers()).filter(|other| *other != place);
            actions.extend(others.map(|other| Action::Unreachable(place, other)));
        }
    }
}

impl Model for RaftModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.start(), &self.names)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let world = &*state.world;
        for packet in &world.packets {
            actions.push(Action::Deliver(Arc::clone(packet)));
        }
        for place in 0..world.servers.len() {
            let server = world.server(place);
            for timer in TIMERS {
                if server.timers & timer_bit(timer) != 0 && self.may_fire(world, server, timer) {
                    actions.push(Action::Fire(place, timer));
                }
            }
            for count in 1..=server.pending.len() {
                actions.push(Action::Sync(place, count));
            }
            if world.spent.crashes < self.bounds.most.crashes {
                for keep in 0..=server.pending.len() {
                    actions.push(Action::Crash(place, keep));
                }
            }
            self.list_host_actions(world, place, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(State::new(self.act(&state.world, &action), &self.names))
    }

    fn within_boundary(&self, state: &State) -> bool {
        let last = self.bounds.last_term();
        state.world.servers.iter().all(|server| {
            let node = &server.value.node;
            node.hard_state.term <= last && self.reads_within(node)
        })
    }

    fn properties(&self) -> Vec<stateright::Property<Self>> {
        super::property::of(self)
    }

    fn format_action(&self, action: &Action) -> String {
        super::diagram::action_text(action)
    }
}
