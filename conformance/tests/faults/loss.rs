//! Loss by chance, and networks that let only UDP or only TCP through: rows 11 to 13.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use conformance::{
    agent::{Agent, alone},
    namespaces::Protocol,
    pool::{LIMIT, Pool},
    process::wait_for,
    writers::Writers,
};
use serde_json::json;

use crate::{judge, writers};

const C1: usize = 3;
const C2: usize = 4;

#[test]
fn rows_11_to_13_lost_packets_and_protocols_fail_nobody() {
    let _alone = alone();
    let Some(mut pool) = Pool::in_network(3, 2, &json!({})).unwrap() else { return };
    pool.wait_until_all_alive(LIMIT).unwrap();
    let writers = writers(&pool, 11);
    row_11_three_of_ten_packets_are_lost(&mut pool, &writers).unwrap();
    rows_12_and_13_only_tcp_or_only_udp_passes(&mut pool).unwrap();
    judge(&mut pool, writers).unwrap();
}

/// How often a member may be taken for failed. Of a hundred suspicions, of which a minute brings about as many, less than one
/// runs out: its subject's refutations were all lost to one member. Were they worth nothing, it would be most of them.
const MOST_FAILURES: usize = 2;

/// How often a member of the LAN was taken for failed, as the agent has it that saw most of it.
fn failures(pool: &Pool) -> usize {
    let seen = |agent: &Agent| {
        agent.count(&["EventMemberFailed"]) - agent.count(&["EventMemberFailed", ".dc1"])
    };
    pool.agents.iter().map(seen).max().unwrap_or(0)
}

/// How long packets are lost: a minute in CI, and longer where `PROCONSUL_LOSS_SECONDS` says so.
fn duration() -> Duration {
    let seconds = std::env::var("PROCONSUL_LOSS_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(60))
}

fn row_11_three_of_ten_packets_are_lost(pool: &mut Pool, writers: &Writers) -> Result<()> {
    pool.network()?.lose(30)?;
    let (start, since) = (Instant::now(), writers.elapsed());
    while start.elapsed() < duration() {
        thread::sleep(Duration::from_secs(1));
        ensure!(failures(pool) <= MOST_FAILURES, "failed:\n{}", pool.logs());
    }
    let failures = failures(pool);
    let (suspicions, stall) = (pool.count(&["memberlist: Suspect"]), writers.longest_stall(since));
    println!(
        "row 11: {suspicions} suspicions, {failures} failures; up to {stall:?} between writes"
    );
    ensure!(suspicions > 0, "nothing was lost");
    pool.network()?.heal()?;
    pool.wait_until_ready(LIMIT)?;
    pool.wait_until_all_alive(LIMIT)
}

/// One client without UDP, and after that one without TCP: at the same time they could not reach each other at all.
fn rows_12_and_13_only_tcp_or_only_udp_passes(pool: &mut Pool) -> Result<()> {
    let before = failures(pool);
    pool.network()?.block(C1, Protocol::Udp)?;
    // Everybody's probes of it fail but for the stream, and so do its own; twice each, so that a suspicion would have run out.
    let tcp_only = pool.agents[C1].name.clone();
    let servers = pool.servers();
    wait_for("probes over streams", LIMIT, || {
        let warns = |i: &usize| {
            let agent = &pool.agents[*i];
            agent.count(&["Was able to connect to", &tcp_only, "but other probes failed"]) >= 2
        };
        servers.iter().all(warns).then_some(())
    })?;
    let are_alive = |pool: &Pool, name: &str| {
        for server in &servers {
            let seen = pool.agents[*server].members();
            let status = seen.as_ref().and_then(|seen| seen.get(name)?.as_str().into());
            ensure!(status == Some("alive"), "{name}: {seen:?}\n{}", pool.logs());
        }
        Ok(())
    };
    are_alive(pool, &tcp_only)?;
    wait_until_mended(pool, "row 12")?;

    pool.network()?.block(C2, Protocol::Tcp)?;
    // What needs a stream fails, and says so.
    let agent = &mut pool.agents[C2];
    agent.process.kill()?;
    agent.process.restart()?;
    let failed = ["(LAN) couldn't join", "i/o timeout"];
    wait_for("a join to fail", LIMIT, || (agent.count(&failed) > 0).then_some(()))?;
    let udp_only = agent.name.clone();
    are_alive(pool, &udp_only)?;
    ensure!(failures(pool) == before, "failed:\n{}", pool.logs());
    wait_until_mended(pool, "row 13")
}

fn wait_until_mended(pool: &mut Pool, row: &str) -> Result<()> {
    pool.network()?.heal()?;
    let healed = Instant::now();
    pool.wait_until_ready(LIMIT)?;
    pool.wait_until_all_alive(LIMIT)?;
    println!("{row}: all alive to all and serving {:?} after that", healed.elapsed());
    Ok(())
}
