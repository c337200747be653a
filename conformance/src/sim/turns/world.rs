//! When each turn is taken, the network, clients, and what goes wrong.

use std::{fmt, time::Duration};

use bytes::Bytes;
use proconsul::driver::consensus::{Apply, Input, Outbox, SnapshotEvent, SnapshotPolicy};
use spec::{
    entropy::{Entropy as _, Seeded},
    machine::Machine as _,
    raft::{Index, Message, Node, Role, ServerId, SnapshotId},
    state::{Command, KvCommand, Outcome},
    time::Instant,
};
use tokio::sync::oneshot;

use super::{
    history::History,
    server::{Asking, Proposing, Server, take_all},
};
use crate::sim::{
    Broken, Plan, Tally,
    ghosts::{Before, Ghosts, Violation, require},
    journal::Journal,
    network::Network,
    schedule::Schedule,
};

/// More turns than any run needs: messages that breed messages would never let a run end.
const MOST_TURNS: u64 = 500_000;
/// The most that a turn waits for others of its inputs.
const GATHER: Duration = Duration::from_micros(300);
/// Keys that clients write.
const KEYS: usize = 8;

/// What happens at some moment.
#[derive(Debug)]
enum Happening {
    /// A message arrives.
    Deliver { from: usize, from_id: ServerId, to: usize, message: Message, bytes: Option<Bytes> },
    /// A turn of one of a server's threads.
    Turn { server: usize, run: u64, thread: Thread },
    /// A server starts again.
    Restart { server: usize },
    /// A disk that was full has room.
    Room { server: usize, run: u64 },
    /// Cuts end.
    Heal,
    /// The next fault.
    Fault,
    /// The next request of a client.
    Request,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    /// Consensus has inputs.
    Consensus,
    /// Its timer, which was set for this moment.
    Timer(Instant),
    /// The log writer.
    Writer,
    /// Apply.
    Apply,
    /// The snapshot keeper.
    Keeper,
}

/// A cluster and all around it.
pub struct World {
    plan: Plan,
    chance: Seeded,
    schedule: Schedule<Happening>,
    servers: Vec<Server>,
    network: Network,
    ghosts: Ghosts,
    history: History,
    calm: bool,
    requests: u64,
    /// The last request that its client was told of, and its index.
    acknowledged: Option<(u64, Index)>,
    /// What happened, in lines.
    pub journal: Journal,
    /// What happened, in numbers.
    pub tally: Tally,
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(plan: Plan, whole_log: bool) -> Self {
        let (ids, founding) = plan.founders();
        let mut servers: Vec<Server> =
            ids.into_iter().map(|id| Server::new(id, founding.clone())).collect();
        for server in &mut servers {
            server.disk.lies = plan.broken == Some(Broken::Disk);
        }
        Self {
            chance: Seeded::new(plan.seed),
            schedule: Schedule::default(),
            servers,
            network: Network::default(),
            ghosts: Ghosts::default(),
            history: History::default(),
            calm: false,
            requests: 0,
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
        for server in 0..self.servers.len() {
            self.schedule.after(Duration::ZERO, Happening::Restart { server });
        }
        self.schedule.after(Duration::from_millis(10), Happening::Request);
        self.schedule.after(plan.fault_pause, Happening::Fault);
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

    fn run_until(&mut self, end: Instant, done: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        while !done(self) {
            let Some(happening) = self.schedule.pop(end) else { return Ok(()) };
            let server = match &happening {
                Happening::Deliver { to: server, .. }
                | Happening::Turn { server, .. }
                | Happening::Room { server, .. } => Some(*server),
                _ => None,
            };
            match server.map(|server| self.servers[server].paused) {
                // What comes to a server that stands still waits for it, in its order.
                Some(until) if until > self.schedule.now() => self.schedule.at(until, happening),
                _ => self.happen(happening)?,
            }
        }
        Ok(())
    }

    fn note(&mut self, text: fmt::Arguments<'_>) {
        self.journal.line(self.schedule.now(), text);
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Deliver { from, from_id, to, message, bytes } => {
                if self.servers[to].threads.is_some() && !self.network.is_cut(from, to) {
                    let id = self.servers[to].id;
                    self.note(format_args!("{id:?} <- {from_id:?}: {}", brief(&message)));
                    self.input(to, Input::Message { from: from_id, message, bytes });
                }
                Ok(())
            }
            Happening::Turn { server, run, thread } if self.runs(server, run) => match thread {
                Thread::Consensus => self.consensus(server),
                Thread::Timer(at) => {
                    let due = self.servers[server].threads.as_ref().map(|threads| threads.wake);
                    if due == Some(at) { self.consensus(server) } else { Ok(()) }
                }
                Thread::Writer => self.written(server),
                Thread::Apply => self.apply(server),
                Thread::Keeper => self.keep(server),
            },
            Happening::Room { server, run } if self.runs(server, run) => {
                self.input(server, Input::Full(false));
                Ok(())
            }
            Happening::Turn { .. } | Happening::Room { .. } => Ok(()),
            Happening::Restart { server } => self.restart(server),
            Happening::Heal => {
                self.network.heal();
                self.note(format_args!("the network heals"));
                Ok(())
            }
            Happening::Fault => {
                self.fault();
                Ok(())
            }
            Happening::Request => {
                self.request();
                Ok(())
            }
        }
    }

    fn runs(&self, server: usize, run: u64) -> bool {
        self.servers[server].threads.is_some() && self.servers[server].run == run
    }

    fn turn_after(&mut self, i: usize, delay: Duration, thread: Thread) {
        let run = self.servers[i].run;
        self.schedule.after(delay, Happening::Turn { server: i, run, thread });
    }

    // Threads.

    /// Starts a server from its disk.
    fn restart(&mut self, i: usize) -> Result<(), Violation> {
        let now = self.schedule.now();
        let server = &mut self.servers[i];
        if server.threads.is_some() {
            return Ok(());
        }
        let id = server.id;
        let policy = SnapshotPolicy {
            threshold: self.plan.snapshot_every,
            interval: Duration::from_millis(100),
            ..SnapshotPolicy::default()
        };
        let restores = self.plan.broken != Some(Broken::Restore);
        let config = self.plan.raft_config(id, server.run + 1);
        let started = server.start(&config, policy, &mut self.chance, now, restores);
        let (found, out) = started.map_err(|error| Violation {
            property: "what_was_written_is_read",
            detail: format!("{id:?}: {error}"),
        })?;
        let server = &mut self.servers[i];
        require(server.disk.lies || server.disk.explains(&found), "recovers_a_prefix", || {
            format!("{id:?} finds {found:#?}, was told of {:#?}", server.disk.durable)
        })?;
        let blank = found == spec::raft::Durable::default();
        let (term, last) = (found.hard_state.term, found.last_index());
        server.disk.durable = found;
        let founding = server.founding.clone();
        self.note(format_args!("{id:?} starts with {term:?} and a log up to {last:?}"));
        let before = self.servers[i].node().map(Before::of);
        if let Some(before) = before {
            self.settle(i, before, out)?;
        }
        if blank {
            self.input(i, Input::Form(founding));
        }
        Ok(())
    }

    /// Queues an input for consensus, whose turn comes soon.
    fn input(&mut self, i: usize, input: Input) {
        let Some(threads) = &mut self.servers[i].threads else { return };
        threads.inputs.push(input);
        if !std::mem::replace(&mut threads.is_due, true) {
            let delay = self.chance.jitter(GATHER);
            self.turn_after(i, delay, Thread::Consensus);
        }
    }

    fn consensus(&mut self, i: usize) -> Result<(), Violation> {
        let now = self.schedule.now();
        let id = self.servers[i].id;
        let Some(threads) = &mut self.servers[i].threads else { return Ok(()) };
        (threads.is_due, threads.wake) = (false, Instant(u64::MAX));
        let before = Before::of(threads.consensus.node());
        let mut inputs = std::mem::take(&mut threads.inputs);
        let (count, mut out) = (inputs.len(), Outbox::default());
        let turned = threads.consensus.turn(now, &mut inputs, &mut out);
        self.tally.steps += 1;
        self.journal.line(now, format_args!("{id:?} takes a turn with {count} inputs"));
        require(self.tally.steps < MOST_TURNS, "bounded_work", || {
            format!("{MOST_TURNS} turns in {now:?}")
        })?;
        turned.map_err(|broken| Violation { property: broken.invariant, detail: broken.node })?;
        self.settle(i, before, out)
    }

    /// Checks what a turn of consensus did, and brings its outbox to where it belongs.
    fn settle(&mut self, i: usize, before: Before, out: Outbox) -> Result<(), Violation> {
        let id = self.servers[i].id;
        let Some(threads) = &mut self.servers[i].threads else { return Ok(()) };
        let said = out.persist.last().map(|(ticket, _)| *ticket);
        for (ticket, write) in out.persist {
            self.ghosts.wrote(id, &write, |index| threads.term_at(index))?;
            Node::fold(&mut threads.issued, &write);
            threads.writes.push((ticket, write));
        }
        threads.applies.extend(out.apply);
        let keeps = !out.snapshots.is_empty();
        for snapshot in out.snapshots {
            let _ = threads.snapshots.push(snapshot);
        }
        self.check(i, &before)?;
        if let Some(ticket) = said
            && self.plan.broken == Some(Broken::Gate)
        {
            self.input(i, Input::Durable(ticket));
        }
        for (to, message) in out.send {
            self.send(i, to, &message, None)?;
        }
        self.write(i);
        self.apply_later(i);
        if keeps {
            self.keep_later(i);
        }
        if out.changed {
            let leadership =
                self.servers[i].threads.as_ref().map(|threads| threads.consensus.leadership());
            if let Some(leadership) = leadership {
                let (term, leader) = (leadership.term, leadership.leader);
                self.note(format_args!("{id:?} is in {term:?} under {leader:?}"));
            }
        }
        self.answer(i)?;
        let Some(threads) = &mut self.servers[i].threads else { return Ok(()) };
        if let Some(at) = threads.consensus.next_deadline()
            && at != threads.wake
        {
            threads.wake = at;
            let (run, thread) = (self.servers[i].run, Thread::Timer(at));
            self.schedule.at(at, Happening::Turn { server: i, run, thread });
        }
        Ok(())
    }

    fn check(&mut self, i: usize, before: &Before) -> Result<(), Violation> {
        let servers = &self.servers;
        let holds = |id: ServerId, entry: SnapshotId| {
            let server = servers.iter().find(|server| server.id == id);
            server.is_some_and(|server| crate::sim::disk::holds(&server.disk.durable, entry))
        };
        let Some(node) = servers[i].node() else { return Ok(()) };
        let configurations = [&*node.membership.configuration];
        self.ghosts.after_step(*before, node, &configurations, holds)
    }

    /// Starts a write of all that waits, where none is under way.
    fn write(&mut self, i: usize) {
        let Some(threads) = &mut self.servers[i].threads else { return };
        if threads.batch.is_empty() && !threads.writes.is_empty() {
            threads.batch = std::mem::take(&mut threads.writes);
            let slow = if self.chance.choose(40) == 0 { 20 } else { 1 };
            let delay = Duration::from_micros(100) + self.chance.jitter(self.plan.sync * slow);
            self.turn_after(i, delay, Thread::Writer);
        }
    }

    /// The write under way is done.
    fn written(&mut self, i: usize) -> Result<(), Violation> {
        let server = &mut self.servers[i];
        let Some(threads) = &mut server.threads else { return Ok(()) };
        server.disk.begin();
        let batch = threads.batch.clone();
        let durable = threads.writer.turn(&mut threads.batch);
        let id = server.id;
        let Ok(Some(ticket)) = durable else {
            return require(false, "the_log_is_written", || format!("{id:?}: {durable:?}"));
        };
        server.disk.wrote(&batch);
        self.note(format_args!("{id:?} has written {} writes, up to {ticket:?}", batch.len()));
        self.input(i, Input::Durable(ticket));
        self.write(i);
        Ok(())
    }

    fn apply_later(&mut self, i: usize) {
        let Some(threads) = &mut self.servers[i].threads else { return };
        if !threads.applies.is_empty() && !std::mem::replace(&mut threads.is_applying, true) {
            let delay = self.chance.jitter(Duration::from_millis(1));
            self.turn_after(i, delay, Thread::Apply);
        }
    }

    fn apply(&mut self, i: usize) -> Result<(), Violation> {
        let id = self.servers[i].id;
        let Some(threads) = &mut self.servers[i].threads else { return Ok(()) };
        threads.is_applying = false;
        let mut items = std::mem::take(&mut threads.applies);
        let keeps = items.iter().any(|item| matches!(item, Apply::Save(_)));
        for item in &items {
            match item {
                Apply::Entries { entries, .. } => {
                    for entry in entries {
                        require(entry.index == threads.applied.next(), "applied_in_order", || {
                            format!("{id:?} has {:?}, is handed {:?}", threads.applied, entry.index)
                        })?;
                        self.ghosts.applied(id, entry)?;
                        self.history.committed(entry);
                        threads.applied = entry.index;
                    }
                }
                Apply::Restore(meta) => {
                    require(meta.id.index >= threads.applied, "applied_in_order", || {
                        format!("{id:?} has {:?}, restores {meta:?}", threads.applied)
                    })?;
                    threads.applied = meta.id.index;
                }
                Apply::Save(_) => {}
            }
        }
        threads.applier.turn(&mut items).map_err(|detail| Violation {
            property: "snapshot_exists",
            detail: format!("{id:?}: {detail}"),
        })?;
        let (applied, published) = (threads.applied, threads.published.load());
        let state = published.value.applied().0;
        require(published.index == applied.0 && state == applied, "applied_in_order", || {
            format!("{id:?} was handed all up to {applied:?} and publishes {state:?}")
        })?;
        for report in threads.take_digests() {
            self.ghosts.state_at(id, report.index, report.digest.0)?;
        }
        self.ghosts.state_at(id, state, published.value.digest().0)?;
        self.note(format_args!("{id:?} has applied all up to {applied:?}"));
        if keeps {
            self.keep_later(i);
        }
        self.answer(i)
    }

    fn keep_later(&mut self, i: usize) {
        let Some(threads) = &mut self.servers[i].threads else { return };
        if !std::mem::replace(&mut threads.is_keeping, true) {
            let delay = self.chance.jitter(self.plan.sync * 4);
            self.turn_after(i, delay, Thread::Keeper);
        }
    }

    fn keep(&mut self, i: usize) -> Result<(), Violation> {
        let fails = !self.calm && self.chance.choose(20) == 0;
        let server = &mut self.servers[i];
        let id = server.id;
        let Some(threads) = &mut server.threads else { return Ok(()) };
        threads.is_keeping = false;
        let mut items = take_all(&threads.snapshots);
        if fails {
            server.disk.fail_once();
        }
        threads.keeper.turn(&mut items);
        server.disk.heal();
        let (told, chunks) = (take_all(&threads.told), threads.chunks.take());
        for input in told {
            if let Input::Snapshot(event) = &input {
                self.tally.installs += u64::from(matches!(event, SnapshotEvent::Stored(_)));
                self.note(format_args!("{id:?}'s keeper says {event:?}"));
            }
            self.input(i, input);
        }
        for (to, message, bytes) in chunks {
            self.send(i, to, &message, bytes.as_ref())?;
        }
        Ok(())
    }

    fn send(
        &mut self,
        i: usize,
        to_id: ServerId,
        message: &Message,
        bytes: Option<&Bytes>,
    ) -> Result<(), Violation> {
        let from_id = self.servers[i].id;
        self.ghosts.sent(from_id, to_id, message, &self.servers[i].disk.durable)?;
        let Some(to) = self.servers.iter().position(|server| server.id == to_id) else {
            return Ok(());
        };
        let delays = self.network.deliveries(i, to, &self.plan.weather, &mut self.chance);
        self.tally.lost_messages += u64::from(delays.is_empty());
        for delay in delays {
            let (message, bytes) = (message.clone(), bytes.cloned());
            self.schedule.after(delay, Happening::Deliver { from: i, from_id, to, message, bytes });
        }
        Ok(())
    }

    // Clients.

    /// A client asks some server to write or to read.
    fn request(&mut self) {
        let pause = self.chance.jitter(self.plan.request_pause * 2);
        self.schedule.after(pause, Happening::Request);
        let i = self.chance.choose(self.servers.len());
        if self.servers[i].paused > self.schedule.now() {
            return;
        }
        let Some(threads) = &mut self.servers[i].threads else { return };
        let key = |n: usize| format!("k{n}").into_bytes();
        if self.chance.choose(3) == 0 {
            let (reply, answer) = oneshot::channel();
            let read = self.history.begin(key(self.chance.choose(KEYS)), self.ghosts.visible);
            threads.reads.push(Asking { read, answer, index: None });
            return self.input(i, Input::Read { reply });
        }
        // Clients wait for their answers: a log that only grows would never be through at one entry a message.
        if threads.proposals.len() > 100 {
            return;
        }
        let count = 1 + if self.chance.choose(10) == 0 { self.chance.choose(30) } else { 0 };
        for _ in 0..count {
            self.requests += 1;
            let request = self.requests;
            let put = (key(self.chance.choose(KEYS)), format!("v{request}").into_bytes());
            let (reply, answer) = oneshot::channel();
            let set =
                KvCommand::Set { key: put.0.clone().into(), value: put.1.clone().into(), flags: 0 };
            let payload = Command::Kv(set).to_payload();
            if let Some(threads) = &mut self.servers[i].threads {
                threads.proposals.push(Proposing { request, put, answer });
            }
            self.input(i, Input::Propose { payload, reply });
        }
    }

    /// Clients take the answers that are there.
    fn answer(&mut self, i: usize) -> Result<(), Violation> {
        let id = self.servers[i].id;
        let Some(threads) = &mut self.servers[i].threads else { return Ok(()) };
        let mut waiting = Vec::new();
        for mut proposing in std::mem::take(&mut threads.proposals) {
            match proposing.answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => waiting.push(proposing),
                Err(oneshot::error::TryRecvError::Closed) | Ok(Err(_)) => {}
                Ok(Ok((index, outcome))) => {
                    let Proposing { request, put: (key, value), .. } = proposing;
                    require(outcome == Outcome::Applied(true), "writes_are_carried_out", || {
                        format!("{id:?} answers {outcome:?} to request {request}")
                    })?;
                    self.history.acknowledged(index, &key, &value)?;
                    self.tally.acknowledged += 1;
                    self.acknowledged = self.acknowledged.max(Some((request, Index(index))));
                }
            }
        }
        threads.proposals = waiting;
        let published = threads.published.load();
        let mut waiting = Vec::new();
        for mut asking in std::mem::take(&mut threads.reads) {
            if asking.index.is_none() {
                match asking.answer.try_recv() {
                    Ok(Some(index)) => asking.index = Some(index),
                    Err(oneshot::error::TryRecvError::Empty) => {}
                    Ok(None) | Err(oneshot::error::TryRecvError::Closed) => continue,
                }
            }
            match asking.index {
                Some(index) if published.index >= index.0 => {
                    self.history.end(&asking.read, index, &published.value)?;
                    self.tally.reads += 1;
                }
                _ => waiting.push(asking),
            }
        }
        threads.reads = waiting;
        Ok(())
    }

    // What goes wrong.

    fn fault(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.chance.jitter(self.plan.fault_pause * 2);
        self.schedule.after(pause, Happening::Fault);
        let victim = self.chance.choose(self.servers.len());
        let leads = |server: &Server| {
            server.node().is_some_and(|node| matches!(node.role, Role::Leader(_)))
        };
        let leader = self.servers.iter().position(leads).unwrap_or(victim);
        match self.chance.choose(14) {
            0 | 1 => self.crash(victim),
            2 | 3 => self.crash(leader),
            4 => (0..self.servers.len()).for_each(|i| self.crash(i)),
            5 | 6 => {
                let sides = self.network.split(self.servers.len(), &mut self.chance);
                self.note(format_args!("the network splits: {sides:?}"));
                self.heal_later();
            }
            7 => {
                self.network.isolate(leader, self.servers.len());
                self.note(format_args!("{leader} is alone"));
                self.heal_later();
            }
            8 => {
                let cut = self.network.cut_some(4, self.servers.len(), &mut self.chance);
                self.note(format_args!("who is not heard by whom: {cut:?}"));
                self.heal_later();
            }
            9 => self.pause(victim),
            10 => self.pause(leader),
            11 => {
                let to = self.servers[victim].id;
                let to = Some(to).filter(|_| self.chance.choose(3) != 0);
                self.tally.transfers += 1;
                self.input(leader, Input::Transfer { to, reply: oneshot::channel().0 });
            }
            12 => {
                let run = self.servers[leader].run;
                self.input(leader, Input::Full(true));
                let delay = self.chance.jitter(Duration::from_secs(1));
                self.schedule.after(delay, Happening::Room { server: leader, run });
            }
            _ => {
                let heard = self.servers[leader].id;
                self.input(victim, Input::Unreachable(heard));
            }
        }
    }

    fn crash(&mut self, i: usize) {
        let Some(lost) = self.servers[i].crash(&mut self.chance) else { return };
        self.tally.crashes += 1;
        self.tally.lost_writes += lost as u64;
        let id = self.servers[i].id;
        self.note(format_args!("{id:?} crashes, {lost} writes may be lost"));
        let delay = Duration::from_millis(1) + self.chance.jitter(Duration::from_millis(1500));
        self.schedule.after(delay, Happening::Restart { server: i });
    }

    /// The process stands still; its connections don't.
    fn pause(&mut self, i: usize) {
        let until = self.schedule.now().after(self.chance.jitter(Duration::from_millis(1500)));
        let server = &mut self.servers[i];
        server.paused = server.paused.max(until);
        let id = server.id;
        self.note(format_args!("{id:?} stands still until {until:?}"));
    }

    fn heal_later(&mut self) {
        self.tally.cuts += 1;
        let delay = Duration::from_millis(50) + self.chance.jitter(Duration::from_secs(2));
        self.schedule.after(delay, Happening::Heal);
    }

    // How it ends.

    /// Nothing goes wrong from here on, and every server runs.
    fn become_calm(&mut self) {
        self.note(format_args!("calm"));
        self.calm = true;
        self.plan.sync = self.plan.sync.min(Duration::from_millis(1));
        self.network.calm();
        for i in 0..self.servers.len() {
            self.servers[i].paused = Instant(0);
            self.schedule.after(Duration::ZERO, Happening::Restart { server: i });
            self.input(i, Input::Full(false));
        }
    }

    /// Whether a request made after `mark` was acknowledged, and every server has applied it.
    fn is_well(&self, mark: u64) -> bool {
        let Some((request, index)) = self.acknowledged else { return false };
        request > mark
            && self.servers.iter().all(|server| {
                let published = server.threads.as_ref().map(|threads| threads.published.index());
                published.is_some_and(|published| published >= index.0)
            })
    }

    /// What the servers are, for a message.
    fn describe(&self) -> String {
        let lines: Vec<String> = self
            .servers
            .iter()
            .map(|server| {
                let node = server.node().map(|node| {
                    let leads = matches!(node.role, Role::Leader(_));
                    let (term, commit) = (node.hard_state.term, node.commit_index);
                    format!(
                        "leads {leads} in {term:?}, commit {commit:?}, last {:?}",
                        node.log.last()
                    )
                });
                let applied = server.threads.as_ref().map(|threads| threads.applied);
                format!("{:?}: applied {applied:?}; {node:?}", server.id)
            })
            .collect();
        lines.join("\n")
    }
}

/// A message in one short line.
fn brief(message: &Message) -> String {
    match message {
        Message::AppendEntries(append) => format!(
            "AppendEntries {:?} after {:?}, {} entries, commit {:?}, round {}",
            append.term,
            append.previous,
            append.entries.len(),
            append.commit,
            append.round
        ),
        message => format!("{message:?}"),
    }
}
