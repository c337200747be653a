//! Whole servers in virtual time, over the turns that the agent's threads take: consensus, log writer, apply and snapshot
//! keeper, on the agent's own log and snapshot files.
//!
//! What the agent spreads over threads are queues on one loop here. Simulated are the directories (in memory; a crash in
//! the middle of a write leaves any of its sectors), the network, and clients that put keys and read them back. The plans
//! and Raft's ghosts are the ones of [`super`]; membership, wiped disks and formation are left to it and to the models.
//!
//! | module | what it is |
//! |---|---|
//! | [`server`] | one server: its turns, its queues, its directories |
//! | [`world`] | when each turn is taken, the network, what goes wrong |
//! | [`history`] | what clients were told: an acknowledged write is in every later read |

pub mod history;
pub mod server;
pub mod world;

use super::{Plan, Report, Tally};
use world::World;

/// Seeds that once found something, and run before all others.
pub const REGRESSIONS: &[u64] = &[];

/// Runs one seed.
pub fn run(plan: &Plan, whole_log: bool) -> Report<Tally> {
    let mut world = World::new(plan.clone(), whole_log);
    let violation = world.run().err();
    let journal = std::mem::take(&mut world.journal);
    Report::new(world.tally, journal, violation)
}
