//! The agent's threads around its machines: consensus, log writer, apply, snapshot keeper.
//!
//! Each is a `turn(inbox) -> outbox` with a thin thread around it. A lone server runs consensus, writer and apply in turn
//! on one thread, since each hop to another costs a wake-up; with the first peer the writer and the apply turn move to
//! threads of their own.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use agent_sync::{GroupCommit, Taken};
use bytes::Bytes;
use spec::{
    machine::Ticket,
    raft::{Message, ServerId, Write},
    time::Instant,
};

pub mod apply;
pub mod consensus;
pub mod formation;
pub mod keeper;
pub mod recorder;
pub mod writer;

use apply::Applier;
use consensus::{Apply, Consensus, Input, Leadership, Outbox, Snapshot};
use writer::Writer;

/// The most inputs of one turn.
const TURN_INPUTS: usize = 1024;
/// How long a full disk is left alone before the same writes are tried again.
const FULL_DISK_RETRY: Duration = Duration::from_secs(1);

/// The agent's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock(std::time::Instant);

impl Default for Clock {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock {
    /// The time since the clock was made.
    pub fn now(&self) -> Instant {
        Instant(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn at(&self, instant: Instant) -> std::time::Instant {
        self.0 + Duration::from_micros(instant.0)
    }
}

/// How messages leave for other servers.
pub trait Wire: Send + Sync {
    /// Queues a message; it may be lost.
    fn queue(&self, to: ServerId, message: Message, bytes: Option<Bytes>);
    /// Sends what is queued.
    fn flush(&self);
}

/// What the agent is told by the consensus thread.
pub trait Observer: Send {
    /// Term, leader or configuration changed.
    fn changed(&self, leadership: &Leadership);
    /// After each turn: where the log stands, and whether the leader was heard.
    fn turned(&self, consensus: &Consensus, now: Instant, heard: bool);
    /// The agent can't go on: everything must stop. Called once, by the thread that found out.
    fn fatal(&self, reason: String);
}

/// A turn on this thread, or on one of its own.
enum Host<T, I> {
    Here(T),
    Thread(Arc<GroupCommit<I>>),
    Moving,
}

/// The consensus thread.
pub struct Core {
    /// The Raft turn.
    pub consensus: Consensus,
    /// What `recover` left to do.
    pub outbox: Outbox,
    /// What arrives.
    pub inbox: Arc<GroupCommit<Input>>,
    /// Other servers.
    pub wire: Arc<dyn Wire>,
    /// The snapshot keeper's inbox.
    pub snapshots: Arc<GroupCommit<Snapshot>>,
    /// The agent.
    pub observer: Arc<dyn Observer + Sync>,
    /// The agent's clock.
    pub clock: Clock,
}

impl Core {
    /// Starts the thread; it ends when the inbox is closed, and takes the writer's and apply's threads with it.
    pub fn spawn(self, writer: Writer, applier: Applier) -> std::io::Result<JoinHandle<()>> {
        thread::Builder::new().name("consensus".into()).spawn(move || {
            let observer = Arc::clone(&self.observer);
            let mut running = Running {
                core: self,
                writer: Host::Here(writer),
                applier: Host::Here(applier),
                threads: Vec::new(),
                full_since: None,
            };
            let result = running.run();
            running.stop();
            if let Err(reason) = result {
                observer.fatal(reason);
            }
        })
    }
}

struct Running {
    core: Core,
    writer: Host<Writer, (Ticket, Write)>,
    applier: Host<Applier, Apply>,
    threads: Vec<JoinHandle<()>>,
    full_since: Option<std::time::Instant>,
}

impl Running {
    fn run(&mut self) -> Result<(), String> {
        let mut inputs = Vec::new();
        loop {
            self.settle(&mut inputs)?;
            let deadline = self.core.consensus.next_deadline().map(|at| self.core.clock.at(at));
            let retry = self.full_since.map(|since| since + FULL_DISK_RETRY);
            let deadline = match (deadline, retry) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            if self.core.inbox.take(&mut inputs, deadline) == Taken::Closed {
                return Ok(());
            }
            if inputs.len() <= TURN_INPUTS {
                self.turn(&mut inputs)?;
                continue;
            }
            // A flood of inputs must not hold up what the first of them gave rise to, and timers.
            let mut flood = std::mem::take(&mut inputs).into_iter();
            while flood.len() > 0 {
                inputs.extend(flood.by_ref().take(TURN_INPUTS));
                self.turn(&mut inputs)?;
                self.settle(&mut inputs)?;
            }
        }
    }

    fn turn(&mut self, inputs: &mut Vec<Input>) -> Result<(), String> {
        let now = self.core.clock.now();
        let core = &mut self.core;
        core.consensus.turn(now, inputs, &mut core.outbox).map_err(|error| error.to_string())
    }

    /// Brings the outbox to where it belongs, until no turn on this thread leaves anything to do.
    fn settle(&mut self, inputs: &mut Vec<Input>) -> Result<(), String> {
        loop {
            self.deliver();
            if let Some(input) = self.write()? {
                inputs.push(input);
                self.turn(inputs)?;
                continue;
            }
            self.apply()?;
            return Ok(());
        }
    }

    fn deliver(&mut self) {
        let core = &mut self.core;
        if !core.outbox.send.is_empty() {
            for (to, message) in core.outbox.send.drain(..) {
                core.wire.queue(to, message, None);
            }
            core.wire.flush();
        }
        for snapshot in core.outbox.snapshots.drain(..) {
            let _ = core.snapshots.push(snapshot);
        }
        let heard = std::mem::take(&mut core.outbox.heard);
        core.observer.turned(&core.consensus, core.clock.now(), heard);
        if std::mem::take(&mut core.outbox.changed) {
            let leadership = core.consensus.leadership();
            let own = core.consensus.node().config.id;
            if leadership.configuration.servers.keys().any(|id| *id != own) {
                self.separate();
            }
            self.core.observer.changed(&leadership);
        }
    }

    /// Moves the writer and the apply turn to threads of their own: there are peers, whose messages must not wait for
    /// this server's disk.
    fn separate(&mut self) {
        if !matches!(self.writer, Host::Here(_)) {
            return;
        }
        if let Host::Here(writer) = std::mem::replace(&mut self.writer, Host::Moving) {
            let inbox = Arc::new(GroupCommit::new(usize::MAX, usize::MAX));
            self.writer = Host::Thread(Arc::clone(&inbox));
            let (core, observer) = (Arc::clone(&self.core.inbox), Arc::clone(&self.core.observer));
            let full = self.full_since.take().is_some();
            self.spawn("log-writer", move || {
                if let Err(reason) = write_log(writer, &inbox, &core, full) {
                    observer.fatal(reason);
                }
            });
        }
        if let Host::Here(mut applier) = std::mem::replace(&mut self.applier, Host::Moving) {
            let inbox: Arc<GroupCommit<Apply>> = Arc::new(GroupCommit::new(usize::MAX, usize::MAX));
            self.applier = Host::Thread(Arc::clone(&inbox));
            let observer = Arc::clone(&self.core.observer);
            self.spawn("apply", move || {
                let mut items = Vec::new();
                while inbox.take(&mut items, None) != Taken::Closed {
                    if let Err(reason) = applier.turn(&mut items) {
                        return observer.fatal(reason);
                    }
                }
            });
        }
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) {
        match thread::Builder::new().name(name.into()).spawn(run) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => self.core.observer.fatal(format!("can't start a thread: {error}")),
        }
    }

    fn write(&mut self) -> Result<Option<Input>, String> {
        let writes = &mut self.core.outbox.persist;
        match &mut self.writer {
            Host::Thread(inbox) => {
                for write in writes.drain(..) {
                    let _ = inbox.push(write);
                }
                Ok(None)
            }
            Host::Here(writer) => {
                let due = self.full_since.is_some_and(|since| since.elapsed() >= FULL_DISK_RETRY);
                if writes.is_empty() && !due {
                    return Ok(None);
                }
                let durable = writer.turn(writes).map_err(|error| error.to_string())?;
                let full = writer.is_full();
                if full != self.full_since.is_some() {
                    let _ = self.core.inbox.push(Input::Full(full));
                }
                self.full_since = full.then(std::time::Instant::now);
                Ok(durable.map(Input::Durable))
            }
            Host::Moving => Ok(None),
        }
    }

    fn apply(&mut self) -> Result<(), String> {
        let items = &mut self.core.outbox.apply;
        match &mut self.applier {
            Host::Thread(inbox) => {
                for item in items.drain(..) {
                    let _ = inbox.push(item);
                }
                Ok(())
            }
            Host::Here(applier) => applier.turn(items),
            Host::Moving => Ok(()),
        }
    }

    fn stop(&mut self) {
        match &mut self.writer {
            Host::Thread(inbox) => inbox.close(),
            Host::Here(writer) => writer.seal(),
            Host::Moving => {}
        }
        if let Host::Thread(inbox) = &self.applier {
            inbox.close();
        }
        self.core.snapshots.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The log writer's thread: ends when its inbox is closed and everything in it is durable.
fn write_log(
    mut writer: Writer,
    inbox: &GroupCommit<(Ticket, Write)>,
    core: &GroupCommit<Input>,
    mut full: bool,
) -> Result<(), String> {
    let mut writes = Vec::new();
    loop {
        let retry = full.then(|| std::time::Instant::now() + FULL_DISK_RETRY);
        if inbox.take(&mut writes, retry) == Taken::Closed {
            writer.seal();
            return Ok(());
        }
        if let Some(ticket) = writer.turn(&mut writes).map_err(|error| error.to_string())? {
            let _ = core.push(Input::Durable(ticket));
        }
        if writer.is_full() != full {
            full = !full;
            let _ = core.push(Input::Full(full));
        }
    }
}
