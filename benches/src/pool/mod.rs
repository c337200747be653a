//! A pool of agents on loopback, ours or serf's: how soon all of them know who joins, dies, falls silent and leaves, and
//! what an agent takes while nothing happens.
//!
//! Both are started alike: the LAN profile, a file for what gossip must remember, the tags of Consul's agents, log level
//! INFO, all joined to the first one. Ours are client agents; there is no server.
//!
//! What an agent knows is read from its log, which says the same of both, as soon as a line is there: no agent is asked
//! anything, and so none pays for being watched.

mod agents;
mod report;

use std::{
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use self::agents::{Agents, Says};
pub use self::report::Report;
use crate::system::{Cpu, proportional, resident, sleeps};

/// How long anything may take to be known by all.
const PATIENCE: Duration = Duration::from_mins(2);
/// What one death leaves to gossip is gossiped before the next.
const PAUSE: Duration = Duration::from_secs(4);

/// Whose agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Proconsul,
    /// HashiCorp's serf.
    Serf,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Proconsul, Self::Serf];

    /// Its name in tables and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proconsul => "proconsul",
            Self::Serf => "serf",
        }
    }
}

/// What is done to a pool.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The agents' program.
    pub program: PathBuf,
    /// Where their files go.
    pub scratch: PathBuf,
    /// How many agents there are.
    pub agents: usize,
    /// How long the pool is left alone once all have joined.
    pub settle: Duration,
    /// How long it is then watched while nothing happens.
    pub idle: Duration,
    /// How many die: SIGKILL.
    pub kills: usize,
    /// How many fall silent: SIGSTOP. To the others that is like a machine that is gone.
    pub silences: usize,
    /// How many leave: SIGINT.
    pub leavings: usize,
}

/// What became of it. Of each event: when the first of the others knew, and when all did.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// From the start of the second agent until all know all.
    pub join: Duration,
    /// CPU time of one agent for each second.
    pub cpu: f64,
    /// How often the threads of one agent are woken in a second.
    pub wakes: f64,
    /// The bytes that one agent holds, as the system counts them for each process.
    pub resident: f64,
    /// The same, what agents share being counted once.
    pub proportional: f64,
    /// Log lines of one agent in a minute while nothing happens.
    pub lines: f64,
    /// Agents that were killed.
    pub killed: Vec<(Duration, Duration)>,
    /// Agents that were stopped.
    pub silenced: Vec<(Duration, Duration)>,
    /// Agents that left.
    pub left: Vec<(Duration, Duration)>,
    /// What not all knew in time, and what they took it for.
    pub unknown: Vec<String>,
    /// How often an agent was taken for dead that was there.
    pub wrong: usize,
}

/// Starts a pool, does to it what the plan says, and stops it.
pub fn run(kind: Kind, plan: &Plan) -> Result<Sample> {
    let mut pool = Agents::start(kind, plan)?;
    let mut sample = Sample { join: pool.join(PATIENCE)?, ..Sample::default() };
    sleep(plan.settle);
    idle(&mut pool, plan, &mut sample)?;
    let mut victim = plan.agents;
    let Sample { killed, silenced, left, unknown, .. } = &mut sample;
    for (signal, says, count, times) in [
        (Signal::KILL, Says::Failed, plan.kills, killed),
        (Signal::STOP, Says::Failed, plan.silences, silenced),
        (Signal::INT, Says::Leave, plan.leavings, left),
    ] {
        for _ in 0..count {
            victim = victim.checked_sub(1).filter(|first| *first > 0).context("nobody is left")?;
            let sent = Instant::now();
            pool.end(victim, signal)?;
            match pool.wait_for(says, victim, sent, PATIENCE)? {
                Ok(known) => times.push(known),
                Err(missing) => unknown.push(missing),
            }
            sleep(PAUSE);
        }
    }
    sample.wrong = pool.wrong();
    Ok(sample)
}

fn idle(pool: &mut Agents, plan: &Plan, sample: &mut Sample) -> Result<()> {
    let pids = pool.pids();
    let agents = pids.len() as f64;
    let lines = pool.lines();
    let (cpu, slept, start) = (Cpu::of(&pids)?, sleeps(&pids)?, Instant::now());
    sleep(plan.idle);
    let (elapsed, after) = (start.elapsed().as_secs_f64(), Cpu::of(&pids)?);
    let each = agents * elapsed;
    sample.cpu = after.servers.saturating_sub(cpu.servers).as_secs_f64() / each;
    sample.wakes = sleeps(&pids)?.saturating_sub(slept) as f64 / each;
    sample.lines = (pool.lines() - lines) as f64 * 60.0 / each;
    sample.resident = resident(&pids)? as f64 / agents;
    sample.proportional = proportional(&pids)? as f64 / agents;
    Ok(())
}
