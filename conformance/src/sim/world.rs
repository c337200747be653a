//! What happens when, and how a node's effects happen.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use spec::{
    entropy::{Entropy as _, Seeded},
    gate::Gate,
    machine::{Context, Effect, Event, Machine as _, Ticket},
    raft::{
        Change, Command, Entry, Index, Message, Node, Output, Proposal, ServerId, SnapshotId,
        SnapshotMeta,
    },
    time::{Instant, Timers},
};

use super::{
    Broken, Plan, Tally,
    disk::{Disk, File},
    ghosts::{Before, Ghosts, Violation, require},
    journal::Journal,
    network::Network,
    schedule::Schedule,
    server::{Applied, Incoming, Server, Waiting},
};

/// More steps than any run needs: messages that breed messages would never let a run end.
const MOST_STEPS: u64 = 500_000;

/// What happens at some moment.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// A message arrives.
    Deliver {
        from: usize,
        from_id: ServerId,
        to: usize,
        to_id: ServerId,
        message: Message,
        chunk: Option<File>,
    },
    /// A sync ends.
    Synced { server: usize, run: u64, ticket: Ticket },
    /// The host's snapshot is in a durable file.
    Taken { server: usize, run: u64, content: Applied },
    /// A received snapshot's file is durable, or not.
    Stored { server: usize, run: u64, id: SnapshotId, good: bool },
    /// The host asks its node for something.
    Ask { server: usize, run: u64, command: Command },
    /// A server starts again.
    Restart { server: usize },
    /// Cuts end.
    Heal,
    /// The next fault.
    Fault,
    /// The next request of a client.
    Request,
    /// Leaders look whether the configuration is what it should be.
    Reconcile,
}

impl Happening {
    /// The server that it happens to.
    fn server(&self) -> Option<usize> {
        match self {
            Self::Deliver { to: server, .. }
            | Self::Synced { server, .. }
            | Self::Taken { server, .. }
            | Self::Stored { server, .. }
            | Self::Ask { server, .. } => Some(*server),
            Self::Restart { .. } | Self::Heal | Self::Fault | Self::Request | Self::Reconcile => {
                None
            }
        }
    }
}

/// A cluster and all around it.
#[derive(Debug)]
pub struct World {
    pub(super) plan: Plan,
    pub(super) chance: Seeded,
    pub(super) schedule: Schedule<Happening>,
    pub(super) servers: Vec<Server>,
    /// Until when a server stands still.
    pub(super) paused: Vec<Instant>,
    /// Whether a server should be in the configuration.
    pub(super) wanted: Vec<bool>,
    /// What wiped disks had held: their word still counts for what was committed by it.
    pub(super) graveyard: BTreeMap<ServerId, Disk>,
    pub(super) network: Network,
    pub(super) ghosts: Ghosts,
    pub(super) calm: bool,
    requests: u64,
    reads: u64,
    /// Steps at this very instant: a machine that spins would never let time pass.
    spin: (Instant, u32),
    /// The last request that its client was told of, and its index.
    pub(super) acknowledged: Option<(u64, Index)>,
    /// What happened, in lines.
    pub journal: Journal,
    /// What happened, in numbers.
    pub tally: Tally,
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(plan: Plan, whole_log: bool) -> Self {
        let chance = Seeded::new(plan.seed);
        let (ids, configuration) = plan.founders();
        let servers = ids
            .into_iter()
            .map(|id| {
                let founding = Some(Arc::clone(&configuration));
                let mut server = Server { founding, ..Server::new(id) };
                server.disk.writes.lies = plan.broken == Some(Broken::Disk);
                server
            })
            .collect();
        Self {
            chance,
            schedule: Schedule::default(),
            servers,
            paused: vec![Instant(0); plan.servers],
            wanted: vec![true; plan.servers],
            graveyard: BTreeMap::new(),
            network: Network::default(),
            ghosts: Ghosts::default(),
            calm: false,
            requests: 0,
            reads: 0,
            spin: (Instant(0), 0),
            acknowledged: None,
            journal: Journal::new(whole_log),
            tally: Tally::default(),
            plan,
        }
    }

    /// Runs the plan: faults first, then calm, in which the cluster must get well.
    pub fn run(&mut self) -> Result<(), Violation> {
        let plan = self.plan.clone();
        self.note(format_args!("{plan:?}"));
        for i in 0..self.servers.len() {
            self.after(Duration::ZERO, Happening::Restart { server: i });
        }
        self.after(Duration::from_millis(10), Happening::Request);
        self.after(plan.fault_pause, Happening::Fault);
        self.after(Duration::from_millis(200), Happening::Reconcile);
        self.run_until(Instant(0).after(plan.faulty), |_| false)?;
        self.become_calm();
        let mark = self.requests;
        let deadline = self.schedule.now().after(Duration::from_mins(1));
        self.run_until(deadline, |world| world.is_well(mark))?;
        let well = self.is_well(mark);
        self.tally.elections = self.ghosts.elections();
        self.tally.committed = self.ghosts.committed();
        require(well, "progress", || {
            format!("60 s without faults, and the cluster isn't well:\n{}", self.describe())
        })
    }

    /// Lets things happen until a moment, or until `done`.
    fn run_until(&mut self, end: Instant, done: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        loop {
            if done(self) {
                return Ok(());
            }
            let timer = (0..self.servers.len())
                .filter(|i| self.servers[*i].node.is_some())
                .filter_map(|i| {
                    let deadline = self.servers[i].timers.next_deadline()?;
                    Some((deadline.max(self.paused[i]).max(self.schedule.now()), i))
                })
                .min();
            let next = self.schedule.next_at();
            match timer {
                // What happens at the moment of a timer comes before it.
                Some((at, i)) if at <= end && next.is_none_or(|next| at < next) => {
                    self.schedule.pass(at);
                    if let Some(timer) = self.servers[i].timers.pop(at) {
                        self.step(i, Event::Fire(timer))?;
                    }
                }
                _ => {
                    let Some(happening) = self.schedule.pop(end) else { return Ok(()) };
                    match happening.server().map(|i| self.paused[i]) {
                        // What comes to a server that stands still waits for it, in its order.
                        Some(until) if until > self.schedule.now() => {
                            self.schedule.at(until, happening);
                        }
                        _ => self.happen(happening)?,
                    }
                }
            }
        }
    }

    pub(super) fn after(&mut self, delay: Duration, happening: Happening) {
        self.schedule.after(delay, happening);
    }

    pub(super) fn note(&mut self, text: std::fmt::Arguments<'_>) {
        self.journal.line(self.schedule.now(), text);
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Deliver { from, from_id, to, to_id, message, chunk } => {
                // A wiped server doesn't answer to its old name.
                let server = &mut self.servers[to];
                if server.node.is_none() || server.id != to_id || self.network.is_cut(from, to) {
                    return Ok(());
                }
                if let (Message::InstallSnapshot(install), Some(chunk)) = (&message, chunk) {
                    server.incoming.chunks.insert((install.meta.id, install.number), chunk);
                }
                self.step(to, Event::Receive { from: from_id, message })
            }
            Happening::Synced { server, run, ticket } if self.runs(server, run) => {
                self.servers[server].disk.writes.synced(ticket);
                let mut ready = Vec::new();
                self.servers[server].gate.durable(ticket, &mut ready);
                self.perform(server, ready)?;
                self.step(server, Event::Durable(ticket))
            }
            Happening::Taken { server, run, content } if self.runs(server, run) => {
                self.snapshot_taken(server, content)
            }
            Happening::Stored { server, run, id, good } if self.runs(server, run) => {
                self.snapshot_stored(server, id, good)
            }
            Happening::Ask { server, run, command } if self.runs(server, run) => {
                self.step(server, Event::Command(command))
            }
            Happening::Restart { server } => self.restart(server),
            Happening::Heal => {
                self.network.heal();
                self.note(format_args!("the network heals"));
                Ok(())
            }
            Happening::Fault => self.next_fault(),
            Happening::Request => self.next_request(),
            Happening::Reconcile => self.reconcile(),
            _ => Ok(()),
        }
    }

    fn runs(&self, server: usize, run: u64) -> bool {
        self.servers[server].node.is_some() && self.servers[server].run == run
    }

    /// Starts a server from its disk.
    fn restart(&mut self, i: usize) -> Result<(), Violation> {
        let server = &mut self.servers[i];
        if server.node.is_some() {
            return Ok(());
        }
        server.run += 1;
        server.gate = Gate::default();
        server.timers = Timers::default();
        server.applied = Applied::default();
        server.incoming = Incoming::default();
        server.taking = None;
        server.waiting.clear();
        server.reads.clear();
        let config = self.plan.raft_config(server.id, server.run);
        let durable = server.disk.writes.durable.clone();
        let blank = durable == spec::raft::Durable::default();
        let (term, last) = (durable.hard_state.term, durable.last_index());
        let mut effects = Vec::new();
        let mut cx = Context {
            now: self.schedule.now(),
            entropy: &mut self.chance,
            last_ticket: &mut server.gate.last,
        };
        let node = Node::recover(&config, durable, &mut cx, &mut effects);
        let before = Before::of(&node);
        server.node = Some(node);
        let (id, founding) = (server.id, server.founding.clone());
        self.note(format_args!("{id:?} starts with {term:?} and a log up to {last:?}"));
        self.settle(i, before, effects)?;
        if let (true, Some(configuration)) = (blank, founding) {
            self.step(i, Event::Command(Command::Form(configuration)))?;
        }
        Ok(())
    }

    /// Lets a node take a step, and its effects happen.
    pub(super) fn step(&mut self, i: usize, event: Event<Node>) -> Result<(), Violation> {
        let server = &mut self.servers[i];
        let Some(node) = &mut server.node else { return Ok(()) };
        let before = Before::of(node);
        self.journal
            .line(self.schedule.now(), format_args!("{:?} <- {}", server.id, Brief(&event)));
        let mut effects = Vec::new();
        let mut cx = Context {
            now: self.schedule.now(),
            entropy: &mut self.chance,
            last_ticket: &mut server.gate.last,
        };
        node.step(event, &mut cx, &mut effects);
        self.tally.steps += 1;
        self.spin = if self.spin.0 == self.schedule.now() {
            (self.schedule.now(), self.spin.1 + 1)
        } else {
            (self.schedule.now(), 0)
        };
        require(self.spin.1 < 2_000, "time_passes", || "2,000 steps at one instant".to_owned())?;
        require(self.tally.steps < MOST_STEPS, "bounded_work", || {
            format!("{MOST_STEPS} steps in {:?}", self.schedule.now())
        })?;
        self.settle(i, before, effects)
    }

    /// Checks what a node did, and puts its effects through the gate.
    fn settle(
        &mut self,
        i: usize,
        before: Before,
        mut effects: Vec<Effect<Node>>,
    ) -> Result<(), Violation> {
        let (servers, graveyard) = (&self.servers, &self.graveyard);
        let holds = |id: ServerId, entry: SnapshotId| {
            let living = servers.iter().find(|server| server.id == id).map(|server| &server.disk);
            living.or_else(|| graveyard.get(&id)).is_some_and(|disk| disk.holds(entry))
        };
        if let Some(node) = &servers[i].node {
            for effect in &effects {
                if let Effect::Persist { write, .. } = effect {
                    self.ghosts.wrote(node.config.id, write, |index| node.log.term_at(index))?;
                }
            }
            let configurations = [&*node.membership.configuration];
            self.ghosts.after_step(before, node, &configurations, holds)?;
        }
        if self.plan.broken == Some(Broken::Gate) {
            return self.perform(i, effects);
        }
        let mut ready = Vec::new();
        self.servers[i].gate.admit(&mut effects, &mut ready);
        self.perform(i, ready)
    }

    fn perform(&mut self, i: usize, ready: Vec<Effect<Node>>) -> Result<(), Violation> {
        for effect in ready {
            match effect {
                Effect::Persist { ticket, write } => {
                    if let Change::Append { after, entries } = &write.change {
                        let id = self.servers[i].id;
                        let n = entries.len();
                        self.note(format_args!("{id:?} writes {n} entries after {after:?}"));
                    }
                    self.servers[i].disk.writes.pending.push_back((ticket, write));
                }
                Effect::Send { to, message, .. } => self.send(i, to, &message)?,
                Effect::Arm { timer, delay } => {
                    let deadline = self.schedule.now().after(delay);
                    self.servers[i].timers.arm(timer, deadline);
                }
                Effect::Disarm { timer } => self.servers[i].timers.disarm(&timer),
                Effect::Emit { output, .. } => self.emitted(i, output)?,
            }
        }
        self.sync(i);
        Ok(())
    }

    /// Starts a sync of all that waits, where none is under way.
    fn sync(&mut self, i: usize) {
        let server = &mut self.servers[i];
        if let Some(ticket) = server.disk.writes.sync() {
            let run = server.run;
            let slow = if self.chance.choose(40) == 0 { 20 } else { 1 };
            let delay = Duration::from_micros(100) + self.chance.jitter(self.plan.sync * slow);
            self.after(delay, Happening::Synced { server: i, run, ticket });
        }
    }

    fn send(&mut self, i: usize, to_id: ServerId, message: &Message) -> Result<(), Violation> {
        let from_id = self.servers[i].id;
        self.ghosts.sent(from_id, to_id, message, &self.servers[i].disk.writes.durable)?;
        let mut chunk = None;
        if let Message::InstallSnapshot(install) = message {
            let Some(file) = self.servers[i].disk.file(&install.meta) else {
                let command = Command::SnapshotUnreadable(install.meta.id);
                let run = self.servers[i].run;
                self.after(Duration::ZERO, Happening::Ask { server: i, run, command });
                return Ok(());
            };
            chunk = Some(file.clone());
        }
        let Some(to) = self.servers.iter().position(|server| server.id == to_id) else {
            return Ok(());
        };
        let delays = self.network.deliveries(i, to, &self.plan.weather, &mut self.chance);
        if delays.is_empty() {
            self.tally.lost_messages += 1;
        }
        for delay in delays {
            let (message, chunk) = (message.clone(), chunk.clone());
            self.after(delay, Happening::Deliver { from: i, from_id, to, to_id, message, chunk });
        }
        Ok(())
    }

    /// The host hears something from its node.
    fn emitted(&mut self, i: usize, output: Output) -> Result<(), Violation> {
        match output {
            Output::Committed(entries) => entries.iter().try_for_each(|entry| self.apply(i, entry)),
            Output::Appended { request, term, index } => {
                // The same command of a client is a change of the configuration where it has no name.
                if request != 0 {
                    self.servers[i].waiting.insert(index, Waiting { request, term });
                } else {
                    self.tally.changes += 1;
                }
                Ok(())
            }
            Output::ReadReady { n, index } => self.read_ready(i, n, index),
            Output::ReadFailed { n } => {
                self.servers[i].reads.remove(&n);
                Ok(())
            }
            Output::StoreChunk { meta, number } => {
                self.store_chunk(i, &meta, number);
                Ok(())
            }
            Output::FinishSnapshot(meta) => {
                let run = self.servers[i].run;
                let good = self.calm || self.chance.choose(10) != 0;
                let delay = self.chance.jitter(self.plan.sync * 4);
                self.after(delay, Happening::Stored { server: i, run, id: meta.id, good });
                Ok(())
            }
            Output::Restore(meta) => self.restore(i, &meta),
            Output::Compacted { snapshot, base } => {
                let id = self.servers[i].id;
                self.note(format_args!("{id:?} compacts to {snapshot:?}, base {base:?}"));
                self.servers[i].disk.compacted(snapshot);
                Ok(())
            }
            Output::Changed { term, standing, leader } => {
                let id = self.servers[i].id;
                self.note(format_args!("{id:?} is {standing:?} in {term:?} under {leader:?}"));
                Ok(())
            }
            Output::Configured { index, configuration } => {
                let (id, servers) = (self.servers[i].id, &configuration.servers);
                self.journal.line(
                    self.schedule.now(),
                    format_args!("{id:?} has {servers:?} from {index:?} on"),
                );
                Ok(())
            }
            Output::Transferred { .. } => {
                self.tally.transfers += 1;
                Ok(())
            }
            Output::Rejected { .. } | Output::CaughtUp(_) | Output::LeaderHeard => Ok(()),
            Output::Dropped(what) => {
                let id = self.servers[i].id;
                self.note(format_args!("{id:?} drops: {what}"));
                Ok(())
            }
        }
    }

    fn apply(&mut self, i: usize, entry: &Entry) -> Result<(), Violation> {
        let server = &mut self.servers[i];
        let last = server.applied.index;
        require(entry.index == last.next(), "applied_in_order", || {
            format!("{:?} applied {last:?} and is handed {:?}", server.id, entry.index)
        })?;
        server.applied.apply(entry);
        let (id, content) = (server.id, server.applied);
        self.ghosts.applied(id, entry)?;
        self.ghosts.state_at(id, entry.index, content.digest.into())?;
        if let Some(waiting) = server.waiting.remove(&entry.index)
            && waiting.term == entry.term
        {
            self.tally.acknowledged += 1;
            self.acknowledged = self.acknowledged.max(Some((waiting.request, entry.index)));
        }
        let newest = server.disk.writes.durable.snapshot.as_ref().map_or(0, |meta| meta.id.index.0);
        let due = entry.index.0 >= newest + self.plan.snapshot_every;
        if due && server.taking.is_none() {
            server.taking = Some(entry.index);
            let run = server.run;
            let delay = Duration::from_millis(1) + self.chance.jitter(self.plan.sync * 4);
            self.after(delay, Happening::Taken { server: i, run, content });
        }
        Ok(())
    }

    fn snapshot_taken(&mut self, i: usize, content: Applied) -> Result<(), Violation> {
        let chunks = 1 + self.chance.choose(4) as u64;
        let server = &mut self.servers[i];
        server.taking = None;
        let id = SnapshotId { index: content.index, term: content.term };
        // A file of this name that is there already may be what a follower is being fed: it stays as it is.
        let chunks = server.disk.files.entry(id).or_insert(File { content, chunks }).chunks;
        let command = Command::SnapshotSaved { index: content.index, chunks };
        self.step(i, Event::Command(command))
    }

    fn store_chunk(&mut self, i: usize, meta: &SnapshotMeta, number: u64) {
        let incoming = &mut self.servers[i].incoming;
        let Some(chunk) = incoming.chunks.remove(&(meta.id, number)) else { return };
        if number == 0 {
            incoming.file = Some((meta.id, chunk, 1));
        } else if let Some((id, file, next)) = &mut incoming.file
            && *id == meta.id
            && *next == number
            && *file == chunk
        {
            *next += 1;
        }
    }

    fn snapshot_stored(&mut self, i: usize, id: SnapshotId, good: bool) -> Result<(), Violation> {
        let server = &mut self.servers[i];
        let file =
            server.incoming.file.take_if(|(of, file, next)| *of == id && *next == file.chunks);
        let command = match file {
            Some((_, file, _)) if good => {
                server.disk.files.insert(id, file);
                self.tally.installs += 1;
                Command::SnapshotStored(id)
            }
            _ => Command::SnapshotFailed(id),
        };
        self.step(i, Event::Command(command))
    }

    fn restore(&mut self, i: usize, meta: &SnapshotMeta) -> Result<(), Violation> {
        let server = &mut self.servers[i];
        let file = server.disk.file(meta).cloned();
        let id = server.id;
        let Some(file) = file else {
            return require(false, "snapshot_exists", || format!("{id:?} has no file of {meta:?}"));
        };
        require(file.content.index >= server.applied.index, "applied_in_order", || {
            format!("{id:?} applied {:?} and is to restore {meta:?}", server.applied.index)
        })?;
        if self.plan.broken != Some(Broken::Restore) {
            server.applied = file.content;
        }
        let index = file.content.index;
        require(index == meta.id.index, "snapshot_exists", || {
            format!("{id:?}: the file of {meta:?} holds {:?}", file.content)
        })?;
        // What became of requests below the snapshot is not known to this server.
        server.waiting.retain(|at, _| *at > index);
        self.ghosts.state_at(id, index, file.content.digest.into())?;
        self.note(format_args!("{id:?} restores up to {index:?}"));
        Ok(())
    }

    fn read_ready(&mut self, i: usize, n: u64, index: Index) -> Result<(), Violation> {
        let id = self.servers[i].id;
        let Some(least) = self.servers[i].reads.remove(&n) else { return Ok(()) };
        self.tally.reads += 1;
        self.note(format_args!("{id:?} may read {n} from {index:?}"));
        require(index >= least, "linearizable_reads", || {
            format!("{id:?} may read from {index:?}, but {least:?} was visible when the read began")
        })
    }

    /// A client asks some server to write or to read.
    fn next_request(&mut self) -> Result<(), Violation> {
        let pause = self.chance.jitter(self.plan.request_pause * 2);
        self.after(pause, Happening::Request);
        let i = self.chance.choose(self.servers.len());
        if self.servers[i].node.is_none() || self.paused[i] > self.schedule.now() {
            return Ok(());
        }
        if self.chance.choose(3) == 0 {
            self.reads += 1;
            let n = self.reads;
            let least = self.ghosts.visible;
            self.servers[i].reads.insert(n, least);
            return self.step(i, Event::Command(Command::Read { n }));
        }
        // Clients wait for their answers: a log that only grows would never be through at one entry a message.
        let server = &self.servers[i];
        let term = server.node.as_ref().map(|node| node.hard_state.term);
        if server.waiting.values().filter(|waiting| Some(waiting.term) == term).count() > 100 {
            return Ok(());
        }
        let count = 1 + if self.chance.choose(10) == 0 { self.chance.choose(30) } else { 0 };
        let proposals = (0..count)
            .map(|_| {
                self.requests += 1;
                let request = self.requests;
                Proposal { request, payload: format!("r{request}").into_bytes().into() }
            })
            .collect();
        self.step(i, Event::Command(Command::Propose(proposals)))
    }

    /// What the servers are, for a message.
    fn describe(&self) -> String {
        let lines: Vec<String> = self
            .servers
            .iter()
            .map(|server| {
                let node = server.node.as_ref().map(|node| {
                    let role = match &node.role {
                        spec::raft::Role::Leader(_) => "leads".to_owned(),
                        role => format!("{role:?}"),
                    };
                    format!(
                        "{role} in {:?}, commit {:?}, last {:?}, of {:?}, install {:?}",
                        node.hard_state.term,
                        node.commit_index,
                        node.log.last(),
                        node.membership.configuration.servers,
                        node.install
                    )
                });
                format!("{:?}: applied {:?}; {node:?}", server.id, server.applied)
            })
            .collect();
        lines.join("\n")
    }
}

/// An event in one short line.
struct Brief<'a>(&'a Event<Node>);

impl std::fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Event::Receive { from, message: Message::AppendEntries(append) } => write!(
                f,
                "{from:?}: AppendEntries {:?} after {:?}, {} entries, commit {:?}, round {}",
                append.term,
                append.previous,
                append.entries.len(),
                append.commit,
                append.round
            ),
            Event::Receive { from, message } => write!(f, "{from:?}: {message:?}"),
            Event::Command(Command::Propose(proposals)) => {
                write!(
                    f,
                    "propose {} from {:?}",
                    proposals.len(),
                    proposals.first().map(|p| p.request)
                )
            }
            event => write!(f, "{event:?}"),
        }
    }
}
