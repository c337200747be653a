//! Pools of gossip in virtual time, over the agent's own turn of gossip and its own bytes.
//!
//! `proconsul::gossip::turn` is what the agent runs. Simulated are what lies around it: datagrams and streams, the disk,
//! the host that starts it, joins, asks and stops. Small pools are looked at after each turn and have to come to rest when
//! the faults stop ([`run`]); large ones give figures ([`figures`]).
//!
//! | module | what it is |
//! |---|---|
//! | [`member`] | one member: a turn, its disk, its host |
//! | [`world`] | the network, the disks, and how a turn's outbox is carried out |
//! | [`carrier`] | messages as bytes, and how many |
//! | [`trial`] | small pools: what goes wrong, by chance, and how all of it ends |
//! | [`ghosts`] | what no member knows |
//! | [`figures`] | large pools: convergence, detection, false positives, traffic |

pub mod brief;
pub mod carrier;
pub mod figures;
pub mod ghosts;
pub mod member;
pub mod trial;
pub mod world;

use std::{fmt, time::Duration};

use spec::entropy::{Entropy as _, Seeded};

use super::{Report, Weather};
use trial::Trial;

/// Seeds that once found something, and run before all others.
pub const REGRESSIONS: &[u64] = &[];

/// What is broken on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The disk says that a write is durable, and a crash loses the last of them all the same.
    Disk,
    /// All that one member sends says the incarnation that it began with, so that it refutes nothing.
    Refutation,
    /// Who passes an announcement on raises its incarnation.
    Incarnation,
}

/// How a run is made; drawn from the seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of everything.
    pub seed: u64,
    /// How many members there are.
    pub members: usize,
    /// How many of them, from the first on, are told to new ones.
    pub seeds: usize,
    /// How long faults go on, in virtual time.
    pub faulty: Duration,
    /// How well the network carries.
    pub weather: Weather,
    /// The most that a sync takes.
    pub sync: Duration,
    /// Between two faults, on the average.
    pub fault_pause: Duration,
    /// Between two requests, on the average.
    pub request_pause: Duration,
    /// Nobody leaves, moves, loses its disk or is made to leave: then members heal without their hosts' help.
    pub plain: bool,
    /// What is broken on purpose.
    pub broken: Option<Broken>,
}

impl Plan {
    /// The plan that belongs to a seed.
    pub fn draw(seed: u64) -> Self {
        let mut chance = Seeded::new(seed ^ 0x9055_1b5e);
        let ms = |n: usize| Duration::from_millis(n as u64);
        let members = [3, 3, 4, 5, 6, 8, 12][chance.choose(7)];
        Self {
            seed,
            members,
            seeds: 1 + chance.choose(3.min(members)),
            faulty: ms(20_000 + chance.choose(60_000)),
            weather: Weather {
                loss: [0, 10, 50, 200, 300][chance.choose(5)],
                repeat: [0, 20, 100][chance.choose(3)],
                delay: ms([1, 5, 20, 60][chance.choose(4)]),
            },
            sync: ms([1, 5, 30, 500][chance.choose(4)]),
            fault_pause: ms([1_000, 3_000, 8_000][chance.choose(3)]),
            request_pause: ms([1_000, 4_000][chance.choose(2)]),
            plain: chance.choose(2) == 0,
            broken: None,
        }
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Turns of all members.
    pub turns: u64,
    /// Starts of members.
    pub starts: u64,
    /// Crashes.
    pub crashes: u64,
    /// Writes that crashes lost.
    pub lost_writes: u64,
    /// Disks wiped.
    pub wipes: u64,
    /// Members that came back elsewhere.
    pub moves: u64,
    /// Members that stood still for a while.
    pub pauses: u64,
    /// Cuts of the network.
    pub cuts: u64,
    /// Messages lost, by chance or by a cut.
    pub lost_messages: u64,
    /// Members that left.
    pub leaves: u64,
    /// Events told to hosts.
    pub events: u64,
    /// Accusations that were refuted.
    pub refutations: u64,
    /// Members that were taken for failed while they ran.
    pub false_failures: u64,
    /// Datagrams, and messages on streams, each as bytes and back.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.turns += other.turns;
        self.starts += other.starts;
        self.crashes += other.crashes;
        self.lost_writes += other.lost_writes;
        self.wipes += other.wipes;
        self.moves += other.moves;
        self.pauses += other.pauses;
        self.cuts += other.cuts;
        self.lost_messages += other.lost_messages;
        self.leaves += other.leaves;
        self.events += other.events;
        self.refutations += other.refutations;
        self.false_failures += other.false_failures;
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} turns, {} starts, {} crashes ({} writes lost), {} disks wiped, {} moves, {} pauses, {} cuts, {} \
             messages ({} bytes, {} lost), {} leaves, {} events told, {} refutations, {} false failures",
            self.turns,
            self.starts,
            self.crashes,
            self.lost_writes,
            self.wipes,
            self.moves,
            self.pauses,
            self.cuts,
            self.messages,
            self.bytes,
            self.lost_messages,
            self.leaves,
            self.events,
            self.refutations,
            self.false_failures
        )
    }
}

/// Runs one seed.
pub fn run(plan: &Plan, whole_log: bool) -> Report<Tally> {
    let mut trial = Trial::new(plan.clone(), whole_log);
    let violation = trial.run().err();
    let tally = trial.tally();
    Report::new(tally, trial.into_journal(), violation)
}
