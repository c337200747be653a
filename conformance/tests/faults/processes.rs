//! Agents that are killed, and agents that stand still: rows 1 to 5 and 19.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use conformance::{
    agent::alone,
    pool::{LIMIT, Pool},
    process::wait_for,
    writers::Writers,
};
use serde_json::json;

use crate::{WRITES_GO_ON, judge, write_through, writers};

#[test]
fn rows_1_to_5_and_19_agents_that_are_killed_or_stand_still_lose_nothing_and_come_back() {
    let _alone = alone();
    let mut pool = Pool::on_loopback(3, 2, &json!({})).unwrap();
    pool.wait_until_all_alive(LIMIT).unwrap();
    let writers = writers(&pool, 3);
    row_1_the_leader_is_killed(&mut pool, &writers).unwrap();
    row_2_followers_are_killed_again_and_again(&mut pool, &writers).unwrap();
    row_3_all_servers_are_killed_at_once(&mut pool, &writers).unwrap();
    row_4_the_leader_stands_still(&mut pool, &writers).unwrap();
    row_5_a_member_that_stands_still_is_suspected_and_refutes(&mut pool).unwrap();
    row_19_all_agents_are_killed_within_seconds(&mut pool).unwrap();
    judge(&mut pool, writers).unwrap();
}

fn leader(pool: &Pool) -> Result<usize> {
    pool.wait_for_leader(&pool.servers(), LIMIT, |_| true)
}

fn row_1_the_leader_is_killed(pool: &mut Pool, writers: &Writers) -> Result<()> {
    let leader = leader(pool)?;
    pool.agents[leader].process.kill()?;
    let took = writers.wait_for_write(WRITES_GO_ON)?;
    println!("row 1: a write {took:?} after the leader was killed");
    pool.agents[leader].process.restart()?;
    pool.agents[leader].wait_until_ready(LIMIT)
}

fn row_2_followers_are_killed_again_and_again(pool: &mut Pool, writers: &Writers) -> Result<()> {
    const KILLS: usize = 10;
    let since = writers.elapsed();
    for round in 0..KILLS {
        let follower = (leader(pool)? + 1 + round % 2) % 3;
        pool.agents[follower].process.kill()?;
        pool.agents[follower].process.restart()?;
        pool.agents[follower].wait_until_ready(LIMIT)?;
    }
    let stall = writers.longest_stall(since);
    println!("row 2: no more than {stall:?} between writes while followers were killed");
    ensure!(stall < WRITES_GO_ON, "{stall:?} without a write");
    Ok(())
}

fn row_3_all_servers_are_killed_at_once(pool: &mut Pool, writers: &Writers) -> Result<()> {
    for server in pool.servers() {
        pool.agents[server].process.kill()?;
    }
    for server in pool.servers() {
        pool.agents[server].process.restart()?;
    }
    let took = writers.wait_for_write(WRITES_GO_ON)?;
    println!("row 3: a write {took:?} after all servers were started again");
    pool.wait_until_ready(LIMIT)
}

fn row_4_the_leader_stands_still(pool: &mut Pool, writers: &Writers) -> Result<()> {
    let leader = leader(pool)?;
    write_through(&pool.agents[leader], "row-4", "old")?;
    pool.agents[leader].process.pause()?;
    let paused = Instant::now();
    let took = writers.wait_for_write(WRITES_GO_ON)?;
    println!("row 4: a write {took:?} after the leader stood still");
    write_through(&pool.agents[(leader + 1) % 3], "row-4", "new")?;
    // Asked now, these wait in its sockets: it sees them before it sees that it was deposed.
    let reads: Vec<_> = (0..8)
        .map(|n| {
            let mut client = pool.agents[leader].client_with(LIMIT);
            let how = if n % 2 == 0 { "" } else { "&consistent" };
            thread::spawn(move || client.get(&format!("/v1/kv/row-4?raw{how}")))
        })
        .collect();
    thread::sleep(Duration::from_secs(10).saturating_sub(paused.elapsed()));
    pool.agents[leader].process.resume()?;
    let resumed = Instant::now();
    for read in reads {
        let answer = read.join().unwrap()?;
        let fresh = answer.status == 200 && answer.text() == "new";
        ensure!(fresh || answer.status == 500, "a deposed leader serves {answer:?}");
    }
    pool.agents[leader].wait_until_ready(LIMIT)?;
    pool.wait_until_all_alive(LIMIT)?;
    println!("row 4: all alive {:?} after it went on", resumed.elapsed());
    Ok(())
}

fn row_5_a_member_that_stands_still_is_suspected_and_refutes(pool: &mut Pool) -> Result<()> {
    let still = 3;
    let name = pool.agents[still].name.clone();
    let accusation = format!("memberlist: Suspect {name} ");
    let others: Vec<usize> = (0..pool.agents.len()).filter(|i| *i != still).collect();
    let said = |pool: &Pool| -> Vec<usize> {
        others.iter().map(|i| pool.agents[*i].count(&[&accusation])).collect()
    };
    // Who failed, but for the one that stands still.
    let failures = |pool: &Pool| {
        pool.count(&["EventMemberFailed"]) - pool.count(&["EventMemberFailed", &name])
    };
    let (before, failed) = (said(pool), failures(pool));
    let refuted = pool.agents[still].count(&["Refuting an accusation"]);
    pool.agents[still].process.pause()?;
    wait_for("everybody's suspicion", LIMIT, || {
        said(pool).iter().zip(&before).all(|(now, before)| now > before).then_some(())
    })?;
    pool.agents[still].process.resume()?;
    let resumed = Instant::now();
    wait_for("its refutation", LIMIT, || {
        (pool.agents[still].count(&["Refuting an accusation"]) > refuted).then_some(())
    })?;
    pool.wait_until_all_alive(LIMIT)?;
    println!("row 5: refuted, and alive to all, {:?} after it went on", resumed.elapsed());
    ensure!(failures(pool) == failed, "others failed, too:\n{}", pool.logs());
    Ok(())
}

fn row_19_all_agents_are_killed_within_seconds(pool: &mut Pool) -> Result<()> {
    let all = pool.agents.len();
    for agent in &mut pool.agents {
        agent.process.kill()?;
        // Those that are left find out, and say so to each other.
        thread::sleep(Duration::from_millis(800));
    }
    let start = Instant::now();
    // The last ones first: what they knew of the others is the worst.
    for agent in pool.agents.iter_mut().rev() {
        agent.process.restart()?;
    }
    pool.wait_until_all_alive(LIMIT)?;
    println!("row 19: all {all} alive to all {:?} after they were started again", start.elapsed());
    Ok(())
}
