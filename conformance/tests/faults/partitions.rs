//! Cuts between agents: rows 7 to 10, 17 and 18.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use conformance::{
    agent::alone,
    http::{Body, Client, Request, Response},
    pool::{LIMIT, Pool},
    process::wait_for,
    writers::Writers,
};
use serde_json::json;

use crate::{
    WRITES_GO_ON, figure, judge, no_leader, voters, wait_until_all_vote, wait_until_leaderless,
    write_through, write_through_unless, writers,
};

const C1: usize = 3;
const C2: usize = 4;

#[test]
fn rows_7_to_10_17_and_18_cuts_lose_nothing_and_heal() {
    let _alone = alone();
    let config = json!({
        "performance": { "rpc_hold_timeout": "1s" },
        // Twice as fast as usual: what a side thinks of the other is waited for.
        "gossip_lan": {
            "probe_interval": "500ms", "probe_timeout": "250ms", "gossip_interval": "100ms",
        },
    });
    let Some(mut pool) = Pool::in_network(3, 2, &config).unwrap() else { return };
    pool.wait_until_all_alive(LIMIT).unwrap();
    leave_servers_to_the_operator(&pool).unwrap();
    let writers = writers(&pool, 7);
    // Before a member was deaf to what others refuted, and may take them for failed later.
    row_10_each_reaches_its_neighbours_only(&mut pool, &writers).unwrap();
    row_7_a_minority_is_cut_off(&mut pool, &writers).unwrap();
    row_8_the_leader_is_cut_off(&mut pool, &writers).unwrap();
    row_9_one_direction_is_lost(&mut pool, &writers).unwrap();
    row_17_a_link_goes_up_and_down(&mut pool, &writers).unwrap();
    row_18_a_server_is_removed_while_it_is_cut_off(&mut pool, &writers).unwrap();
    judge(&mut pool, writers).unwrap();
}

/// Has autopilot remove nobody, so that a cut does no more than cut; and has a server that is added vote soon.
fn leave_servers_to_the_operator(pool: &Pool) -> Result<()> {
    let settings = json!({
        "CleanupDeadServers": false, "LastContactThreshold": "2s", "MaxTrailingLogs": 250,
        "MinQuorum": 0, "ServerStabilizationTime": "1s",
    });
    let target = "/v1/operator/autopilot/configuration";
    wait_for("autopilot's configuration", LIMIT, || {
        let answer = pool.agents[0].client().put(target, settings.to_string().as_bytes()).ok()?;
        (answer.status == 200).then_some(())
    })
}

fn leader(pool: &Pool) -> Result<usize> {
    pool.wait_for_leader(&pool.servers(), LIMIT, |_| true)
}

/// Waits until all servers agree on a leader and each agent's writes are acknowledged.
fn wait_until_healed(pool: &Pool) -> Result<Duration> {
    let start = Instant::now();
    leader(pool)?;
    for agent in &pool.agents {
        write_through(agent, "healed", &agent.name)?;
    }
    Ok(start.elapsed())
}

fn row_7_a_minority_is_cut_off(pool: &mut Pool, writers: &Writers) -> Result<()> {
    let leader = leader(pool)?;
    let (lost, stays) = ((leader + 1) % 3, (leader + 2) % 3);
    let (minority, majority) = ([lost, C2], [leader, stays, C1]);
    pool.network()?.cut(&minority, &majority)?;
    for i in minority {
        wait_until_leaderless(&pool.agents[i])?;
    }
    let mut client = pool.agents[lost].client();
    let answer = client.get("/v1/kv/row-7")?;
    ensure!(no_leader(&answer), "a read that can't be linearizable: {answer:?}");
    let answer = client.get("/v1/kv/row-7?stale")?;
    ensure!(answer.status == 404, "a stale read needs nobody: {answer:?}");
    ensure!(answer.header("X-Consul-Knownleader") == Some("false"), "{answer:?}");
    let took = writers.wait_for_write(WRITES_GO_ON)?;
    println!("row 7: a write at the majority within {took:?}");
    for i in majority {
        write_through(&pool.agents[i], "row-7", "majority")?;
    }
    // Each side takes the other for failed.
    pool.wait_until_these_see(&majority, &pool.alive_but(&minority, "failed"), LIMIT)?;
    pool.wait_until_these_see(&minority, &pool.alive_but(&majority, "failed"), LIMIT)?;
    pool.network()?.heal()?;
    let healed = Instant::now();
    write_through(&pool.agents[lost], "row-7", "minority")?;
    println!("row 7: a write at the minority's server {:?} after the cut", healed.elapsed());
    wait_until_healed(pool)?;
    pool.wait_until_all_alive(LIMIT)?;
    println!("row 7: all alive to all {:?} after the cut", healed.elapsed());
    Ok(())
}

/// Asks an agent to remove a server from Raft, on a thread.
fn ask_to_remove(mut agent: Client, server: &str) -> thread::JoinHandle<Result<Response>> {
    let target = format!("/v1/operator/raft/peer?address={server}");
    thread::spawn(move || agent.delete(&target))
}

/// With a change of membership that the leader has begun and can't commit (row 18).
fn row_8_the_leader_is_cut_off(pool: &mut Pool, writers: &Writers) -> Result<()> {
    let old = leader(pool)?;
    let (f, g) = ((old + 1) % 3, (old + 2) % 3);
    let before = voters(&pool.agents[old]);
    pool.network()?.cut(&[old], &[f, g, C1, C2])?;
    let cut = Instant::now();
    // With both changes in its log the leader would be alone, and commit by itself.
    let asked = [f, g].map(|server| {
        ask_to_remove(pool.agents[old].client(), &pool.agents[server].server_address())
    });
    wait_for("the leader to step down", LIMIT, || {
        let answer = pool.agents[old].client().get("/v1/status/leader").ok()?;
        (answer.text() == "\"\"").then_some(())
    })?;
    println!("row 8: stepped down {:?} after the cut", cut.elapsed());
    let mut client = pool.agents[old].client();
    for how in ["", "?consistent"] {
        let answer = client.get(&format!("/v1/kv/row-8{how}"))?;
        ensure!(no_leader(&answer), "a deposed leader serves {answer:?}");
    }
    pool.wait_for_leader(&[f, g], LIMIT, |_| true)?;
    let took = writers.wait_for_write(WRITES_GO_ON)?;
    println!("row 8: the others lead and write {:?} after the cut ({took:?})", cut.elapsed());
    pool.network()?.heal()?;
    let took = wait_until_healed(pool)?;
    println!("row 8: healed {took:?} after the cut");
    wait_until_all_vote(pool)?;
    ensure!(voters(&pool.agents[old]) == before, "the changes came to something");
    // By now other entries have committed where those changes stood.
    for asked in asked {
        let answer = asked.join().unwrap()?;
        ensure!(answer.status >= 500, "told that a change was done which wasn't: {answer:?}");
        println!("row 8: a change without a quorum is answered by {:?}", answer.text());
    }
    Ok(())
}

fn row_9_one_direction_is_lost(pool: &mut Pool, writers: &Writers) -> Result<()> {
    for way in ["deaf", "mute"] {
        let old = leader(pool)?;
        let (f, g) = ((old + 1) % 3, (old + 2) % 3);
        let others = [f, g, C1, C2];
        let network = pool.network()?;
        match way {
            "deaf" => network.silence(&others, &[old])?,
            _ => network.silence(&[old], &others)?,
        }
        let lost = Instant::now();
        let new = pool.wait_for_leader(&[f, g], LIMIT, |_| true)?;
        let took = writers.wait_for_write(WRITES_GO_ON)?;
        println!("row 9: the leader is {way}: another leads and writes after {:?}", lost.elapsed());
        ensure!(new != old, "{took:?}");
        wait_until_leaderless(&pool.agents[old])?;
        pool.network()?.heal()?;
        println!("row 9: healed {:?} after that", wait_until_healed(pool)?);
    }
    // It hears no leader and asks for votes again and again: the others have a leader, and keep their term.
    let leader = leader(pool)?;
    let deaf = (leader + 1) % 3;
    let others: Vec<usize> = (0..pool.agents.len()).filter(|i| *i != deaf).collect();
    let term = |pool: &Pool| figure(&pool.agents[leader], "raft", "term").context("no term");
    let before = term(pool)?;
    pool.network()?.silence(&others, &[deaf])?;
    wait_until_leaderless(&pool.agents[deaf])?;
    // An election's timeout is 300 to 600 ms: five or more of them.
    thread::sleep(Duration::from_secs(3));
    writers.wait_for_write(WRITES_GO_ON)?;
    pool.network()?.heal()?;
    println!("row 9: healed {:?} after a follower was deaf", wait_until_healed(pool)?);
    let after = term(pool)?;
    // A busy machine may elect other leaders; without pre-vote each timeout would cost a term.
    ensure!(after <= before + 4, "terms went from {before} to {after}");
    Ok(())
}

/// A ring in which a follower doesn't reach the leader, but the other follower does (a bridge), and in which two members
/// that don't reach each other always have one that both do.
fn row_10_each_reaches_its_neighbours_only(pool: &mut Pool, writers: &Writers) -> Result<()> {
    for _ in 0..5 {
        if ring_holds(pool, writers)? {
            return Ok(());
        }
        pool.network()?.heal()?;
        wait_until_healed(pool)?;
    }
    bail!("the follower at the far end was elected each time")
}

/// Makes the ring, and holds it to what must hold. False where the far follower was elected, as it may be on a busy machine:
/// then others than those that are meant here don't reach the leader.
fn ring_holds(pool: &mut Pool, writers: &Writers) -> Result<bool> {
    let leader = leader(pool)?;
    let (bridge, far) = ((leader + 1) % 3, (leader + 2) % 3);
    let ring = [leader, bridge, far, C1, C2];
    let failed = pool.count(&["EventMemberFailed"]);
    for (at, member) in ring.iter().enumerate() {
        let opposite = [ring[(at + 2) % 5], ring[(at + 3) % 5]];
        pool.network()?.silence(&opposite, &[*member])?;
    }
    let start = Instant::now();
    writers.wait_for_write(WRITES_GO_ON)?;
    // The leader, the bridge, and the client that reaches the leader. It may have used another server so far.
    for i in [leader, bridge, C2] {
        let (agent, far_leads) = (&pool.agents[i], || pool.leader_among(&[far]) == Some(far));
        let Some(took) = write_through_unless(agent, "row-10", "near", far_leads)? else {
            return Ok(false);
        };
        println!("row 10: a write through {} after {took:?}", agent.name);
    }
    // The one that doesn't reach the leader, and the client that reaches only that one, get an answer in any case.
    for i in [far, C1] {
        let answer = pool.agents[i].client().put("/v1/kv/row-10", b"far")?;
        let clear = answer.status == 200 || answer.status >= 500 && !answer.text().is_empty();
        ensure!(clear, "{answer:?}");
    }
    // Longer than a suspicion of what doesn't answer lasts: relays pass the probes on.
    thread::sleep(Duration::from_secs(8).saturating_sub(start.elapsed()));
    pool.wait_until_all_alive(LIMIT)?;
    let now = pool.count(&["EventMemberFailed"]);
    ensure!(now == failed, "{} taken for failed in the ring\n{}", now - failed, pool.logs());
    pool.network()?.heal()?;
    println!("row 10: healed {:?} after that", wait_until_healed(pool)?);
    Ok(true)
}

fn row_17_a_link_goes_up_and_down(pool: &mut Pool, writers: &Writers) -> Result<()> {
    const TIMES: usize = 8;
    let flaps = (leader(pool)? + 1) % 3;
    let name = pool.agents[flaps].name.clone();
    let others: Vec<usize> = (0..pool.agents.len()).filter(|i| *i != flaps).collect();
    let events = |pool: &Pool, i: usize| pool.agents[i].count(&["serf: EventMember"]);
    let before: Vec<usize> = others.iter().map(|i| events(pool, *i)).collect();
    for _ in 0..TIMES {
        pool.network()?.unplug(flaps)?;
        thread::sleep(Duration::from_secs(1));
        pool.network()?.plug(flaps)?;
        thread::sleep(Duration::from_secs(1));
    }
    let last = Instant::now();
    writers.wait_for_write(WRITES_GO_ON)?;
    wait_until_healed(pool)?;
    pool.wait_until_all_alive(LIMIT)?;
    println!("row 17: healed {:?} after the link stayed up", last.elapsed());
    for (i, before) in others.iter().zip(before) {
        let events = events(pool, *i) - before;
        let of = &pool.agents[*i].name;
        println!("row 17: {of} was told {events} times that {name} failed or came back");
        // It may fail and come back once each time, and no more.
        ensure!(events <= 2 * TIMES, "{events} events at {of}\n{}", pool.logs());
    }
    Ok(())
}

fn row_18_a_server_is_removed_while_it_is_cut_off(
    pool: &mut Pool,
    writers: &Writers,
) -> Result<()> {
    let leader = leader(pool)?;
    let (lost, stays) = ((leader + 1) % 3, (leader + 2) % 3);
    pool.network()?.cut(&[lost], &[leader, stays, C1, C2])?;
    let address = pool.agents[lost].server_address();
    let mut last = None;
    let removed = wait_for("its removal", LIMIT, || {
        // Where another was elected meanwhile, on a busy machine, the outcome is open.
        let leader = pool.leader_among(&[leader, stays])?;
        let answer = ask_to_remove(pool.agents[leader].client(), &address).join().unwrap().ok()?;
        let done = answer.status == 200;
        last = Some(answer);
        (done || voters(&pool.agents[leader])?.len() == 2).then_some(())
    });
    removed.with_context(|| format!("{last:?}"))?;
    let (leader, stays) = match pool.wait_for_leader(&[leader, stays], LIMIT, |_| true)? {
        same if same == leader => (leader, stays),
        other => (other, leader),
    };
    // The one that is cut off removes nobody.
    wait_until_leaderless(&pool.agents[lost])?;
    let address = pool.agents[leader].server_address();
    let answer = ask_to_remove(pool.agents[lost].client(), &address).join().unwrap()?;
    ensure!(no_leader(&answer), "{answer:?}");
    writers.wait_for_write(WRITES_GO_ON)?;
    ensure!(voters(&pool.agents[leader]).is_some_and(|voters| voters.len() == 2), "two are left");
    pool.network()?.heal()?;
    let healed = Instant::now();
    // A leader that begins goes through all members, and lets in who isn't in Raft.
    wait_for("another leader", LIMIT, || {
        let now = pool.leader_among(&[leader, stays])?;
        if now == leader {
            // Asked again and again of whoever leads, it would go to and fro.
            let target = "/v1/operator/raft/transfer-leader";
            let request = Request { method: "POST", target, headers: &[], body: Body::None };
            pool.agents[leader].client().send(&request).ok()?;
        }
        (now != leader).then_some(())
    })?;
    wait_until_all_vote(pool)?;
    println!("row 18: back in Raft, and voting, {:?} after the cut", healed.elapsed());
    wait_until_healed(pool)?;
    Ok(())
}
