//! The simulator: whole Raft clusters on one thread, in virtual time, from one seed.
//!
//! The machines, the gate and the timers are spec's own. Simulated are what lies around them: the disk (writes that
//! wait for their sync, of which a crash keeps a prefix; snapshot files), the network (loss, delay, repetition, cuts
//! of single directions), the host (applies, takes snapshots, promotes learners, replaces wiped disks) and clients. After each
//! step the node's own invariants and those of the cluster are checked; at the end the faults stop, and the cluster
//! has to elect, commit and agree. The same seed gives the same log, byte for byte.
//!
//! | module | what it is |
//! |---|---|
//! | [`disk`] | pending and durable writes, snapshot files |
//! | [`network`] | links |
//! | [`server`] | one server: a node, its gate, its timers, its disk, its applied state |
//! | [`world`] | the heap of events, and how a node's effects happen |
//! | [`faults`] | what goes wrong, by chance |
//! | [`ghosts`] | what no server knows: every leader, every committed entry |
//! | [`journal`] | the log of a run |

pub mod disk;
pub mod faults;
pub mod ghosts;
pub mod journal;
pub mod network;
pub mod server;
pub mod world;

use std::{fmt, time::Duration};

use spec::entropy::{Entropy as _, Seeded};

pub use ghosts::Violation;
use world::World;

/// Seeds that once found something, and run before all others.
///
/// 47, 103: a server whose own removal is in its log, not known to be committed, never stood for election, and with the
/// longest log let nobody else win (thesis §4.2.2). 4882: a refusal of an earlier term's AppendEntries said its round in
/// the sender's new term; a leader of both terms took that for the confirmation of a read.
pub const REGRESSIONS: &[u64] = &[47, 103, 4882];

/// What is broken on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The gate lets everything through at once.
    Gate,
    /// The disk says that a write is durable, and a crash loses the last of them all the same.
    Disk,
    /// A host that restores a snapshot leaves its state as it was.
    Restore,
}

/// How a run is made; drawn from the seed.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own in Raft's configuration"
)]
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of everything.
    pub seed: u64,
    /// How many servers form the cluster.
    pub servers: usize,
    /// How long faults go on, in virtual time.
    pub faulty: Duration,
    /// Messages lost, per thousand.
    pub loss: usize,
    /// Messages sent twice, per thousand.
    pub repeat: usize,
    /// The most that a message takes, usually.
    pub delay: Duration,
    /// The most that a sync takes, usually.
    pub sync: Duration,
    /// Between two faults, on the average.
    pub fault_pause: Duration,
    /// Between two requests of clients, on the average.
    pub request_pause: Duration,
    /// Entries between a server's snapshots.
    pub snapshot_every: u64,
    /// Entries that compaction leaves.
    pub trailing: u64,
    /// The most entries in a message.
    pub max_append_entries: usize,
    /// The most messages with entries under way to a server.
    pub max_inflight: usize,
    /// As in Raft's configuration.
    pub pre_vote: bool,
    /// As in Raft's configuration.
    pub check_quorum: bool,
    /// As in Raft's configuration.
    pub eager_commit: bool,
    /// Whether servers come and go.
    pub membership: bool,
    /// What is broken on purpose.
    pub broken: Option<Broken>,
}

impl Plan {
    /// The plan that belongs to a seed: mostly production's settings, sometimes not, with sizes small enough that
    /// each path is taken often.
    pub fn draw(seed: u64) -> Self {
        let mut chance = Seeded::new(seed ^ 0x5eed_5eed);
        let ms = |n: usize| Duration::from_millis(n as u64);
        Self {
            seed,
            servers: [3, 3, 3, 5, 2, 1][chance.choose(6)],
            faulty: ms(10_000 + chance.choose(10_000)),
            loss: [0, 10, 50, 200][chance.choose(4)],
            repeat: [0, 20, 100][chance.choose(3)],
            delay: ms([1, 5, 20, 60][chance.choose(4)]),
            sync: ms([1, 5, 30][chance.choose(3)]),
            fault_pause: ms([150, 400, 1200][chance.choose(3)]),
            request_pause: ms([5, 20, 60][chance.choose(3)]),
            snapshot_every: [20, 60, 1_000_000][chance.choose(3)],
            trailing: [0, 5, 50][chance.choose(3)],
            max_append_entries: [1, 3, 64][chance.choose(3)],
            max_inflight: [1, 2, 16][chance.choose(3)],
            pre_vote: chance.choose(6) != 0,
            check_quorum: chance.choose(6) != 0,
            eager_commit: chance.choose(2) != 0,
            membership: chance.choose(2) != 0,
            broken: None,
        }
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Steps of all nodes.
    pub steps: u64,
    /// Leaders elected.
    pub elections: u64,
    /// Entries committed.
    pub committed: u64,
    /// Requests whose client was told of their success.
    pub acknowledged: u64,
    /// Linearizable reads answered.
    pub reads: u64,
    /// Crashes.
    pub crashes: u64,
    /// Writes that crashes lost.
    pub lost_writes: u64,
    /// Cuts of the network.
    pub cuts: u64,
    /// Snapshots installed from a leader.
    pub installs: u64,
    /// Changes of the configuration that were appended.
    pub changes: u64,
    /// Leaders handed over.
    pub transfers: u64,
    /// Disks wiped.
    pub wipes: u64,
    /// Messages lost, by chance or by a cut.
    pub lost_messages: u64,
}

impl Tally {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.elections += other.elections;
        self.committed += other.committed;
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.crashes += other.crashes;
        self.lost_writes += other.lost_writes;
        self.cuts += other.cuts;
        self.installs += other.installs;
        self.changes += other.changes;
        self.transfers += other.transfers;
        self.wipes += other.wipes;
        self.lost_messages += other.lost_messages;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} steps, {} elections, {} entries committed, {} requests acknowledged, {} reads, {} crashes \
             ({} writes lost), {} cuts, {} messages lost, {} snapshots installed, {} changes of membership, \
             {} transfers, {} disks wiped",
            self.steps,
            self.elections,
            self.committed,
            self.acknowledged,
            self.reads,
            self.crashes,
            self.lost_writes,
            self.cuts,
            self.lost_messages,
            self.installs,
            self.changes,
            self.transfers,
            self.wipes
        )
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// What it did.
    pub tally: Tally,
    /// The log: whole where it was asked for, else its last lines.
    pub log: String,
    /// A fingerprint of the whole log.
    pub fingerprint: u64,
    /// What didn't hold.
    pub violation: Option<Violation>,
}

/// Runs one seed.
pub fn run(plan: &Plan, whole_log: bool) -> Report {
    let mut world = World::new(plan.clone(), whole_log);
    let violation = world.run().err();
    let journal = std::mem::take(&mut world.journal);
    let fingerprint = journal.fingerprint();
    Report { tally: world.tally, log: journal.into_text(), fingerprint, violation }
}
