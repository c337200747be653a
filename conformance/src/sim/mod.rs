//! The simulator: Raft clusters, whole servers and pools of gossip on one thread, in virtual time, from one seed.
//!
//! Here are Raft clusters; [`turns`] are whole servers over the agent's own turns, [`pool`] are pools over its turn of
//! gossip. The machines, the gate and the timers are spec's own. Simulated are what lies around them: the disk (writes that
//! wait for their sync, of which a crash keeps a prefix; snapshot files), the network (loss, delay, repetition, cuts
//! of single directions), the host (applies, takes snapshots, promotes learners, replaces wiped disks) and clients. After each
//! step the node's own invariants and those of the cluster are checked; at the end the faults stop, and the cluster
//! has to elect, commit and agree. The same seed gives the same log, byte for byte.
//!
//! | module | what it is |
//! |---|---|
//! | [`disk`] | a server's log and its snapshot files |
//! | [`writes`] | what a machine wrote: durable, or waiting for its sync |
//! | [`network`] | links |
//! | [`server`] | one server: a node, its gate, its timers, its disk, its applied state |
//! | [`world`] | the heap of events, and how a node's effects happen |
//! | [`faults`] | what goes wrong, by chance |
//! | [`ghosts`] | what no server knows: every leader, every committed entry |
//! | [`journal`] | the log of a run |
//! | [`schedule`] | virtual time, for the other two |
//! | [`turns`] | whole servers |
//! | [`pool`] | pools of gossip |

pub mod disk;
pub mod faults;
pub mod ghosts;
pub mod journal;
pub mod network;
pub mod pool;
pub mod schedule;
pub mod server;
pub mod turns;
pub mod world;
pub mod writes;

use std::{fmt, sync::Arc, time::Duration};

use spec::{
    entropy::{Entropy as _, Seeded},
    raft::{ClusterId, Config, Configuration, Member, ServerId, Suffrage},
};

pub use ghosts::Violation;
use journal::Journal;
pub use network::Weather;
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
    /// How well the network carries.
    pub weather: Weather,
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
    /// Raft's `reach_back`.
    pub reach_back: bool,
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
            weather: Weather {
                loss: [0, 10, 50, 200][chance.choose(4)],
                repeat: [0, 20, 100][chance.choose(3)],
                delay: ms([1, 5, 20, 60][chance.choose(4)]),
            },
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
            reach_back: chance.choose(2) != 0,
            broken: None,
        }
    }

    /// Raft's configuration for a server's run.
    fn raft_config(&self, id: ServerId, boot: u64) -> Arc<Config> {
        let mut config = Config::new(id, boot);
        config.pre_vote = self.pre_vote;
        config.check_quorum = self.check_quorum;
        config.eager_commit = self.eager_commit;
        config.max_append_entries = self.max_append_entries;
        config.max_inflight = self.max_inflight;
        config.trailing_entries = self.trailing;
        config.reach_back = self.reach_back;
        config.snapshot_credit = 2;
        config.catch_up_slack = 3;
        Arc::new(config)
    }

    /// The servers that form the cluster, and its first configuration.
    fn founders(&self) -> (Vec<ServerId>, Arc<Configuration>) {
        let ids: Vec<ServerId> = (1..=self.servers).map(|n| ServerId::new(n as u128, 1)).collect();
        let member =
            |id: &ServerId| Member { suffrage: Suffrage::Voter, address: format!("{id:?}").into() };
        let servers = ids.iter().map(|id| (*id, member(id))).collect();
        (ids, Arc::new(Configuration { cluster: ClusterId(1), servers }))
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
pub struct Report<T> {
    /// What it did.
    pub tally: T,
    /// The log: whole where it was asked for, else its last lines.
    pub log: String,
    /// A fingerprint of the whole log.
    pub fingerprint: u64,
    /// What didn't hold.
    pub violation: Option<Violation>,
}

impl<T> Report<T> {
    fn new(tally: T, journal: Journal, violation: Option<Violation>) -> Self {
        let fingerprint = journal.fingerprint();
        Self { tally, log: journal.into_text(), fingerprint, violation }
    }
}

/// Runs one seed.
pub fn run(plan: &Plan, whole_log: bool) -> Report<Tally> {
    let mut world = World::new(plan.clone(), whole_log);
    let violation = world.run().err();
    let journal = std::mem::take(&mut world.journal);
    Report::new(world.tally, journal, violation)
}
