//! Faults of processes, networks and peers, and what must hold under them for membership and for acknowledged writes.
//!
//! The rows are those of `conformance/FAULTS.md`, which says for every fault which test holds it. Faults of one kind are
//! made one after the other in one pool, with writers going on through all of its agents, whose history is checked at the
//! end. What takes long to wait for is waited for as a condition, with a limit that leaves room for a busy machine; the
//! times that it took are printed.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod disk;
mod hostile;
mod keys;
mod loss;
mod matrix;
mod partitions;
mod processes;
mod uploads;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use conformance::{
    agent::Agent,
    http::Response,
    pool::{LIMIT, Pool},
    process::wait_for,
    writers::{Spread, Tally, Writers},
};
use serde_json::Value;

/// Well above what an election takes on a busy machine, and far below any timeout that would hide that none was held.
const WRITES_GO_ON: Duration = Duration::from_secs(15);

/// Starts writers through all agents of a pool: two of each server, one of each client.
fn writers(pool: &Pool, seed: u64) -> Writers {
    let agents = pool.addresses();
    Writers::start(&agents, agents.len() + pool.servers().len(), Spread::One, seed)
}

/// Ends the writers, and holds what they saw, the servers' terms and the agents' views to what must hold after any fault.
fn judge(pool: &mut Pool, writers: Writers) -> Result<Tally> {
    pool.wait_until_ready(LIMIT)?;
    pool.wait_until_all_alive(LIMIT)?;
    let tally = writers.stop().judge(&pool.agents.iter().collect::<Vec<_>>())?;
    let terms = pool.leaders()?;
    println!("{tally:?}, terms up to {:?}", terms.keys().last());
    ensure!(tally.acknowledged > 100, "{tally:?}");
    Ok(tally)
}

/// Writes through an agent until it is acknowledged; gives how long that took.
fn write_through(agent: &Agent, key: &str, value: &str) -> Result<Duration> {
    write_through_unless(agent, key, value, || false)?.context("nothing stops it")
}

/// As [`write_through`], until it is so that no write can be expected; none then.
fn write_through_unless(
    agent: &Agent,
    key: &str,
    value: &str,
    mut is_so: impl FnMut() -> bool,
) -> Result<Option<Duration>> {
    let start = Instant::now();
    let mut last = String::new();
    let done = wait_for("a write", LIMIT, || {
        let mut client = agent.client();
        match client.put(&format!("/v1/kv/{key}"), value.as_bytes()) {
            Ok(answer) if answer.status == 200 && answer.body == b"true" => {
                return Some(Some(start.elapsed()));
            }
            Ok(answer) => last = format!("{} {}", answer.status, answer.text()),
            Err(error) => last = format!("{error:#}"),
        }
        is_so().then_some(None)
    });
    done.map_err(|error| anyhow!("{error} through {}: {last}", agent.name))
}

/// Whether it is the answer of who knows no leader.
fn no_leader(answer: &Response) -> bool {
    answer.status == 500 && answer.text() == "No cluster leader"
}

/// Waits until an agent answers a write by saying that there is no leader.
fn wait_until_leaderless(agent: &Agent) -> Result<()> {
    let mut last = None;
    let said = wait_for("No cluster leader", LIMIT, || {
        last = agent.client().put("/v1/kv/nobody-leads", b"1").ok();
        last.as_ref().is_some_and(no_leader).then_some(())
    });
    said.map_err(|error| anyhow!("{error}; {} says {last:?}", agent.name))
}

/// A figure of `/v1/agent/self`.
fn figure(agent: &Agent, block: &str, name: &str) -> Option<u64> {
    let own = agent.client().get("/v1/agent/self").ok()?.json().ok()?;
    own["Stats"][block][name].as_str()?.parse().ok()
}

/// The servers of Raft's configuration that vote, by their addresses, as a server has it.
fn voters(server: &Agent) -> Option<Vec<String>> {
    let target = "/v1/operator/raft/configuration?stale";
    let answer = server.client().get(target).ok()?.json().ok()?;
    let voter = |server: &&Value| server["Voter"] == true;
    let mut addresses: Vec<String> = (answer["Servers"].as_array()?.iter().filter(voter))
        .filter_map(|server| Some(server["Address"].as_str()?.to_owned()))
        .collect();
    addresses.sort();
    Some(addresses)
}

/// Waits until all servers of a pool have the configuration in which each of them votes.
fn wait_until_all_vote(pool: &Pool) -> Result<()> {
    let servers = pool.servers().into_iter().map(|i| &pool.agents[i]);
    let mut all: Vec<String> = servers.clone().map(Agent::server_address).collect();
    all.sort();
    let voting = wait_for("every server to vote", LIMIT, || {
        servers.clone().all(|server| voters(server).as_ref() == Some(&all)).then_some(())
    });
    voting.map_err(|error| anyhow!("{error}\n{}", pool.logs()))
}
