//! The fault drill: writers and readers through all servers of a cluster while servers are killed and started again.
//!
//! What is held is what [`crate::writers`] checks: every acknowledged write is there, none appears that nobody asked for,
//! and each key's history is linearizable.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use spec::entropy::{Entropy as _, Seeded};

use crate::{
    agent::{Agent, Cluster},
    http::Address,
    writers::{self, Spread, Writers},
};

/// How a drill is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long faults go on.
    pub duration: Duration,
    /// Clients at once; each goes from server to server.
    pub clients: usize,
    /// Between a fault's end and the next.
    pub pause: Duration,
    /// Seed of the faults and of the requests.
    pub seed: u64,
}

/// What a drill did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// What the clients did.
    pub work: writers::Tally,
    /// Servers killed.
    pub kills: usize,
    /// Of them, leaders.
    pub leaders: usize,
    /// Servers paused.
    pub pauses: usize,
}

/// Runs a drill on a cluster that has a leader; all servers run and agree at its end.
pub fn run(cluster: &mut Cluster, plan: &Plan) -> Result<Tally> {
    let servers: Vec<Address> = cluster.agents.iter().map(|agent| agent.http().clone()).collect();
    run_through(cluster, &servers, plan)
}

/// As [`run`], with the requests sent to these agents, which ask the cluster.
pub fn run_through(cluster: &mut Cluster, agents: &[Address], plan: &Plan) -> Result<Tally> {
    let mut tally = Tally::default();
    let writers = Writers::start(agents, plan.clients, Spread::All, plan.seed);
    faults(cluster, plan, &mut tally)?;
    let history = writers.stop();
    for agent in &mut cluster.agents {
        if !agent.process.is_running() {
            agent.process.restart()?;
        }
    }
    cluster.wait_for_leader(Duration::from_secs(30)).context("after the faults")?;
    for agent in &mut cluster.agents {
        agent.wait_until_ready(Duration::from_secs(30))?;
    }
    let servers: Vec<&Agent> = cluster.agents.iter().collect();
    tally.work = history.judge(&servers)?;
    Ok(tally)
}

/// Kills the leader, a follower or all; starts them again; now and then pauses one instead.
fn faults(cluster: &mut Cluster, plan: &Plan, tally: &mut Tally) -> Result<()> {
    let mut chance = Seeded::new(plan.seed);
    let deadline = Instant::now() + plan.duration;
    let mut round = 0;
    while Instant::now() < deadline {
        thread::sleep(plan.pause);
        let leader = cluster.leader();
        let any = chance.choose(cluster.agents.len());
        let (victims, pause) = match round % 5 {
            0 | 3 => (vec![leader.unwrap_or(any)], false),
            1 => {
                (vec![(0..cluster.agents.len()).find(|i| Some(*i) != leader).unwrap_or(any)], false)
            }
            2 => (vec![leader.unwrap_or(any)], true),
            _ => ((0..cluster.agents.len()).collect(), false),
        };
        round += 1;
        for i in &victims {
            let agent = &mut cluster.agents[*i];
            // One that ended by itself is no victim of ours.
            ensure!(
                agent.process.is_running(),
                "{} ended:\n{}",
                agent.name,
                agent.process.log_tail(40)
            );
            if pause {
                agent.process.pause()?;
                tally.pauses += 1;
            } else {
                agent.process.kill()?;
                tally.kills += 1;
                tally.leaders += usize::from(Some(*i) == leader);
            }
        }
        thread::sleep(Duration::from_millis(200) + chance.jitter(Duration::from_millis(1300)));
        for i in victims {
            let agent = &mut cluster.agents[i];
            if pause { agent.process.resume()? } else { agent.process.restart()? }
        }
    }
    Ok(())
}
