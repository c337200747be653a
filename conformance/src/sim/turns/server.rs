//! One server: the turns of its threads, their queues, and its directories.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_sync::{GroupCommit, Published, Watches};
use bytes::Bytes;
use proconsul::{
    driver::{
        Wire,
        apply::{Applier, LoadSnapshot, Witness},
        consensus::{Apply, Consensus, Input, Outbox, Proposed, Snapshot, SnapshotPolicy},
        keeper::{self, Keeper},
        writer::Writer,
    },
    storage::{
        self, Directory, LogOptions, LogStore, StorageError,
        memory::{Fault, Memory, Operation},
    },
};
use spec::{
    entropy::{Entropy as _, Seeded},
    machine::{Machine as _, Ticket},
    raft::{Config, Configuration, Durable, Index, Message, Node, ServerId, Term, Write},
    state::{
        State,
        agreement::{Event, Report},
    },
    time::Instant,
};
use tokio::sync::oneshot;

use super::history::Reading;

/// Segments small enough that logs have many.
const LOG: LogOptions =
    LogOptions { first_segment_bytes: 32 << 10, segment_bytes: 128 << 10, background: false };

/// What leaves the snapshot keeper for other servers.
#[derive(Debug, Default)]
pub struct Chunks(Mutex<Vec<(ServerId, Message, Option<Bytes>)>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire for Chunks {
    fn queue(&self, to: ServerId, message: Message, bytes: Option<Bytes>) {
        lock(&self.0).push((to, message, bytes));
    }

    fn flush(&self) {}
}

impl Chunks {
    /// What was queued.
    pub fn take(&self) -> Vec<(ServerId, Message, Option<Bytes>)> {
        std::mem::take(&mut lock(&self.0))
    }
}

/// A server's directories, and what they are to hold.
#[derive(Debug, Default)]
pub struct Disk {
    log: Memory,
    snapshots: Memory,
    /// The fold of all that the writer said was durable.
    pub durable: Durable,
    /// The fold that the last crash may have left as well: the write under way was whole.
    perhaps: Option<Durable>,
    /// The disk says that a write is durable, and a crash loses the last one all the same.
    pub lies: bool,
    before: Option<(Memory, Durable)>,
}

impl Disk {
    /// The server's log has been made.
    fn exists(&self) -> bool {
        self.log.list().is_ok_and(|names| !names.is_empty())
    }

    /// A write is about to happen.
    pub fn begin(&mut self) {
        if self.lies {
            self.before = Some((self.log.crash(|_, _| true), self.durable.clone()));
        }
    }

    /// A write is durable.
    pub fn wrote(&mut self, writes: &[(Ticket, Write)]) {
        for (_, write) in writes {
            Node::fold(&mut self.durable, write);
        }
    }

    /// Files can't be written, once.
    pub fn fail_once(&self) {
        let kind = std::io::ErrorKind::Other;
        self.snapshots.inject(Fault { operation: Operation::Any, after: 0, times: 1, kind });
    }

    /// Files can be written again.
    pub fn heal(&self) {
        self.snapshots.heal();
    }

    fn crash(&mut self, chance: &mut Seeded) {
        self.log = self.log.crash(|_, _| chance.choose(2) == 0);
        self.snapshots = self.snapshots.crash(|_, _| chance.choose(2) == 0);
        if let Some((log, durable)) = self.before.take() {
            (self.log, self.durable, self.perhaps) = (log, durable, None);
        }
    }

    /// Whether what was found is what was said to be durable, or that and the write that the crash cut off.
    pub fn explains(&self, found: &Durable) -> bool {
        *found == self.durable || self.perhaps.as_ref() == Some(found)
    }
}

/// A proposal that a client waits for.
#[derive(Debug)]
pub struct Proposing {
    /// The client's request.
    pub request: u64,
    /// What it puts, and where.
    pub put: (Vec<u8>, Vec<u8>),
    /// Brings the answer.
    pub answer: oneshot::Receiver<Proposed>,
}

/// A read that a client waits for.
#[derive(Debug)]
pub struct Asking {
    /// What is read.
    pub read: Reading,
    /// Brings the index to apply first.
    pub answer: oneshot::Receiver<Option<Index>>,
    /// The index, once it came.
    pub index: Option<Index>,
}

/// A server's threads.
pub struct Threads {
    /// The consensus turn.
    pub consensus: Consensus,
    /// What waits for it.
    pub inputs: Vec<Input>,
    /// Its next turn is scheduled.
    pub is_due: bool,
    /// When its next timer wakes it.
    pub wake: Instant,
    /// The fold of all that it had written, durable or not.
    pub issued: Durable,
    /// The log writer's turn.
    pub writer: Writer,
    /// What waits for it.
    pub writes: Vec<(Ticket, Write)>,
    /// What it is writing.
    pub batch: Vec<(Ticket, Write)>,
    /// The apply turn.
    pub applier: Applier,
    /// What waits for it.
    pub applies: Vec<Apply>,
    /// Its next turn is scheduled.
    pub is_applying: bool,
    /// The last entry that it was given.
    pub applied: Index,
    /// What it published.
    pub published: Arc<Published<State>>,
    /// What it tells of digests.
    digests: Arc<Mutex<Vec<Report>>>,
    /// The snapshot keeper's turn.
    pub keeper: Keeper,
    /// What waits for it.
    pub snapshots: Arc<GroupCommit<Snapshot>>,
    /// Its next turn is scheduled.
    pub is_keeping: bool,
    /// What it tells consensus.
    pub told: Arc<GroupCommit<Input>>,
    /// What it sends.
    pub chunks: Arc<Chunks>,
    /// Clients that wait.
    pub proposals: Vec<Proposing>,
    /// Clients that wait.
    pub reads: Vec<Asking>,
}

impl Threads {
    /// The digests that were reported since the last look.
    pub fn take_digests(&self) -> Vec<Report> {
        std::mem::take(&mut lock(&self.digests))
    }

    /// The term of the entry at an index of the log as it will be once all is durable.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        let issued = &self.issued;
        if index == issued.base.index {
            return Some(issued.base.term);
        }
        let at = issued.entries.binary_search_by_key(&index, |entry| entry.index).ok()?;
        issued.entries.get(at).map(|entry| entry.term)
    }
}

/// All that is queued for one that waits for something, without waiting.
pub fn take_all<T>(queue: &GroupCommit<T>) -> Vec<T> {
    let mut items = Vec::new();
    // A moment that is over: it doesn't wait, and reads no more of the clock than that it is.
    queue.take(&mut items, Some(std::time::Instant::now()));
    items
}

/// One server.
pub struct Server {
    /// Its name in Raft.
    pub id: ServerId,
    /// Its threads, while it runs.
    pub threads: Option<Threads>,
    /// Its disk.
    pub disk: Disk,
    /// Counts its starts; what was meant for an earlier run is dropped.
    pub run: u64,
    /// Until when it stands still.
    pub paused: Instant,
    /// The configuration that it forms the cluster with.
    pub founding: Arc<Configuration>,
}

impl Server {
    /// A blank server that doesn't run.
    pub fn new(id: ServerId, founding: Arc<Configuration>) -> Self {
        let disk = Disk::default();
        Self { id, threads: None, disk, run: 0, paused: Instant(0), founding }
    }

    /// The machine, while it runs.
    pub fn node(&self) -> Option<&Node> {
        self.threads.as_ref().map(|threads| threads.consensus.node())
    }

    /// Starts from the disk; gives what recovery found, and what it leaves to do. Where `restores` is false the state of an
    /// installed snapshot is not loaded.
    pub fn start(
        &mut self,
        config: &Arc<Config>,
        policy: SnapshotPolicy,
        chance: &mut Seeded,
        now: Instant,
        restores: bool,
    ) -> Result<(Durable, Outbox), StorageError> {
        self.run += 1;
        let log: Arc<dyn Directory> = Arc::new(self.disk.log.clone());
        if !self.disk.exists() {
            LogStore::create(&log, self.id.disk, LOG)?;
        }
        let snapshots: Arc<dyn Directory> = Arc::new(self.disk.snapshots.clone());
        let (durable, log, store) =
            storage::recover(Path::new("simulated"), log, &snapshots, self.id.disk, LOG)?;
        let mut out = Outbox::default();
        let seed = chance.next_u64();
        let consensus = Consensus::recover(config, durable.clone(), policy, seed, now, &mut out);
        let published = Arc::new(Published::new(0, Arc::new(State::default())));
        let snapshots = Arc::new(GroupCommit::new(usize::MAX, usize::MAX));
        let told = Arc::new(GroupCommit::new(usize::MAX, usize::MAX));
        let (digests, chunks) = (Arc::<Mutex<Vec<Report>>>::default(), Arc::<Chunks>::default());
        let reported = Arc::clone(&digests);
        let witness = Witness {
            interval: 1,
            tell: Box::new(move |event| {
                if let Event::Applied(report) = event {
                    lock(&reported).push(report);
                }
            }),
        };
        let loaded = store.clone();
        let load: LoadSnapshot = if restores {
            Box::new(move |meta| keeper::load(&loaded, meta))
        } else {
            Box::new(|_| Ok(State::default()))
        };
        let applier = Applier::new(
            Arc::clone(&published),
            Watches::new(),
            load,
            Arc::clone(&snapshots),
            witness,
        );
        let wire: Arc<dyn Wire> = Arc::clone(&chunks) as _;
        self.threads = Some(Threads {
            consensus,
            inputs: Vec::new(),
            is_due: false,
            wake: Instant(u64::MAX),
            issued: durable.clone(),
            writer: Writer::new(log),
            writes: Vec::new(),
            batch: Vec::new(),
            applier,
            applies: Vec::new(),
            is_applying: false,
            applied: Index(0),
            published,
            digests,
            keeper: Keeper::new(store, wire, Arc::clone(&told)),
            snapshots,
            is_keeping: false,
            told,
            chunks,
            proposals: Vec::new(),
            reads: Vec::new(),
        });
        Ok((durable, out))
    }

    /// The process ends between two instructions, or in the middle of a write. Tells how many writes may be lost.
    pub fn crash(&mut self, chance: &mut Seeded) -> Option<usize> {
        let mut threads = self.threads.take()?;
        self.paused = Instant(0);
        let lost = threads.writes.len() + threads.batch.len();
        self.disk.perhaps = None;
        if !threads.batch.is_empty() && chance.choose(4) != 0 {
            // Written and not synced: what is left of it is chance.
            let mut whole = self.disk.durable.clone();
            for (_, write) in &threads.batch {
                Node::fold(&mut whole, write);
            }
            self.disk.perhaps = Some(whole);
            let kind = std::io::ErrorKind::Other;
            let fault = Fault { operation: Operation::Sync, after: 0, times: u64::MAX, kind };
            self.disk.log.inject(fault);
            let _ = threads.writer.turn(&mut threads.batch);
        }
        self.disk.crash(chance);
        Some(lost)
    }
}
