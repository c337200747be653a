//! Real servers on loopback: what a cluster holds while its servers are killed, paused, wiped and started again.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use conformance::{
    agent::{Agent, Cluster, Options, alone},
    drill::{self, Plan},
    flight,
    process::wait_for,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(40);

fn put(agent: &Agent, key: &str, value: &str) {
    agent.write(key, value, LIMIT).unwrap();
}

fn get(agent: &Agent, key: &str) -> Option<String> {
    let answer = agent.client().get(&format!("/v1/kv/{key}?raw")).unwrap();
    (answer.status == 200).then(|| answer.text())
}

#[test]
fn acknowledged_writes_survive_servers_that_are_killed_again_and_again() {
    let _alone = alone();
    let records = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(3, &json!({ "flight_record_dir": records.path() })).unwrap();
    let plan = Plan {
        duration: Duration::from_secs(20),
        clients: 6,
        pause: Duration::from_millis(1500),
        seed: 1,
    };
    let tally = drill::run(&mut cluster, &plan).unwrap();
    println!("{tally:?}");
    assert!(tally.kills >= 4 && tally.leaders >= 1, "{tally:?}");
    assert!(tally.work.acknowledged > 100, "{tally:?}");
    // What these servers did is what the machine does that the model checker explores.
    drop(cluster);
    let replayed = flight::replay_all(records.path()).unwrap();
    println!("{replayed:?}");
    assert!(replayed.runs >= 3 + tally.kills, "{replayed:?}");
    assert!(replayed.leaders > tally.leaders && replayed.messages > 1000, "{replayed:?}");
    assert!(replayed.committed > tally.work.acknowledged / 100, "{replayed:?}");
}

#[test]
fn followers_forward_writes_and_serve_fresh_reads() {
    let _alone = alone();
    let mut cluster = Cluster::start(3, &json!({})).unwrap();
    let leader = cluster.wait_for_leader(LIMIT).unwrap();
    for (n, agent) in cluster.agents.iter().enumerate() {
        put(agent, &format!("from/{n}"), agent.name.as_str());
        // Each server, asked next, has it: the read is linearizable wherever it is asked.
        for other in &cluster.agents {
            assert_eq!(get(other, &format!("from/{n}")).as_ref(), Some(&agent.name));
        }
    }
    let follower = &cluster.agents[(leader + 1) % 3];
    // Whoever stood still knows no leader for a moment.
    let knowing = |target: &str| {
        wait_for("an answer of who knows a leader", LIMIT, || {
            let answer = follower.client().get(target).unwrap();
            (answer.header("X-Consul-Knownleader") == Some("true")).then_some(answer)
        })
        .unwrap()
    };
    let answer = knowing("/v1/kv/from/0?stale");
    // A fresh read is no older than its request, however long ago the leader was heard: so it says, even when time for
    // a change has run out at some moment between two heartbeats.
    let index = answer.index().unwrap();
    for _ in 0..3 {
        let answer = knowing(&format!("/v1/kv/from/0?index={index}&wait=110ms"));
        assert_eq!(answer.header("X-Consul-Lastcontact"), Some("0"));
    }
}

#[test]
fn a_long_poll_wakes_at_a_server_other_than_the_one_that_is_written_to() {
    let _alone = alone();
    let cluster = Cluster::start(3, &json!({})).unwrap();
    let [a, b, c] = cluster.agents.as_slice() else { panic!("three") };
    put(a, "watched", "1");
    let index = b.client().get("/v1/kv/watched").unwrap().index().unwrap();
    let mut waiter = b.client();
    let target = format!("/v1/kv/watched?raw&index={index}&wait=20s");
    let start = Instant::now();
    let waiting = thread::spawn(move || waiter.get(&target).unwrap());
    thread::sleep(Duration::from_millis(300));
    put(c, "elsewhere", "x");
    thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished(), "another key's write woke it");
    put(c, "watched", "2");
    let answer = waiting.join().unwrap();
    assert_eq!(answer.text(), "2");
    assert!(answer.index().unwrap() > index);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn without_a_quorum_writes_fail_after_the_hold_time_and_stale_reads_go_on() {
    let _alone = alone();
    let config = json!({ "performance": { "rpc_hold_timeout": "1s" } });
    let mut cluster = Cluster::start(3, &config).unwrap();
    put(&cluster.agents[0], "kept", "1");
    for agent in &cluster.agents {
        assert_eq!(get(agent, "kept").as_deref(), Some("1"));
    }
    cluster.agents[1].process.kill().unwrap();
    cluster.agents[2].process.kill().unwrap();
    let left = &cluster.agents[0];
    // A leader notices within its quorum check; until then its write's outcome is open.
    let refused = |answer: &conformance::http::Response| {
        answer.status == 500 && answer.text().contains("No cluster leader")
    };
    wait_for("No cluster leader", Duration::from_secs(20), || {
        let answer = left.client().put("/v1/kv/kept", b"2").unwrap();
        refused(&answer).then_some(())
    })
    .unwrap();
    let start = Instant::now();
    let answer = left.client().get("/v1/kv/kept").unwrap();
    assert!(refused(&answer), "{answer:?}");
    let held = start.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&held), "{held:?}");
    let answer = left.client().get("/v1/kv/kept?stale&raw").unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("X-Consul-Knownleader"), Some("false"));
    assert_eq!(left.client().get("/v1/status/leader").unwrap().text(), "\"\"");
    // One comes back: there is a quorum, and a leader.
    cluster.agents[1].process.restart().unwrap();
    cluster.wait_for_leader(Duration::from_secs(20)).unwrap();
    put(&cluster.agents[0], "kept", "3");
    assert_eq!(get(&cluster.agents[1], "kept").as_deref(), Some("3"));
}

#[test]
fn a_write_that_a_frozen_leader_was_asked_for_is_answered_once_another_leads() {
    let _alone = alone();
    let mut cluster = Cluster::start(3, &json!({})).unwrap();
    let mut tries = 0..5;
    let (leader, follower) = loop {
        tries.next().expect("a write that leaves before another leader is elected");
        let leader = cluster.wait_for_leader(LIMIT).unwrap();
        let follower = (leader + 1) % 3;
        put(&cluster.agents[follower], "open", "1");
        cluster.agents[leader].process.pause().unwrap();
        let frozen = Instant::now();
        // Its kernel goes on to acknowledge what it is sent: the connection looks well.
        let answer = cluster.agents[follower].client().put("/v1/kv/open", b"2").unwrap();
        if answer.status == 200 {
            // It left too late, and went to another leader.
            cluster.agents[leader].process.resume().unwrap();
            continue;
        }
        let text = answer.text();
        assert_eq!(answer.status, 500, "{text}");
        assert!(text.contains("leadership lost while committing log"), "{text}");
        // Without a word of who leads it would be open for half a minute.
        assert!(frozen.elapsed() < Duration::from_secs(15), "{:?}", frozen.elapsed());
        break (leader, follower);
    };
    put(&cluster.agents[follower], "open", "3");
    cluster.agents[leader].process.resume().unwrap();
    wait_for("the frozen one to follow", Duration::from_secs(20), || {
        (get(&cluster.agents[leader], "open").as_deref() == Some("3")).then_some(())
    })
    .unwrap();
}

#[test]
fn all_three_come_back_with_all_they_had() {
    let _alone = alone();
    let mut cluster = Cluster::start(3, &json!({})).unwrap();
    for n in 0..50 {
        put(&cluster.agents[n % 3], &format!("n/{n}"), &n.to_string());
    }
    let peers = cluster.agents[0].client().get("/v1/status/peers").unwrap().text();
    for agent in &mut cluster.agents {
        agent.process.kill().unwrap();
    }
    for agent in &mut cluster.agents {
        agent.process.restart().unwrap();
    }
    let start = Instant::now();
    cluster.wait_for_leader(Duration::from_secs(20)).unwrap();
    println!("a leader {:?} after all three were started", start.elapsed());
    for agent in &cluster.agents {
        for n in 0..50 {
            assert_eq!(get(agent, &format!("n/{n}")), Some(n.to_string()));
        }
    }
    assert_eq!(cluster.agents[0].client().get("/v1/status/peers").unwrap().text(), peers);
}

/// The servers of the configuration, as one of them tells it.
fn servers(agent: &Agent) -> Vec<serde_json::Value> {
    let answer = agent.client().get("/v1/operator/raft/configuration").unwrap();
    answer.json().unwrap()["Servers"].as_array().unwrap().clone()
}

#[test]
fn a_server_whose_disk_was_wiped_joins_as_a_new_one_and_gets_everything() {
    let _alone = alone();
    // Who joins votes soon, on a busy machine too.
    let autopilot = json!({ "last_contact_threshold": "2s", "server_stabilization_time": "2s" });
    let mut cluster = Cluster::start(3, &json!({ "autopilot": autopilot })).unwrap();
    for n in 0..20 {
        put(&cluster.agents[0], &format!("n/{n}"), &n.to_string());
    }
    let leader = cluster.wait_for_leader(LIMIT).unwrap();
    let victim = (leader + 1) % 3;
    let address = cluster.agents[victim].server_address();
    let old = servers(&cluster.agents[leader])
        .into_iter()
        .find(|server| server["Address"] == address.as_str())
        .unwrap();
    let agent = &mut cluster.agents[victim];
    agent.process.kill().unwrap();
    fs::remove_dir_all(agent.data_dir()).unwrap();
    fs::create_dir_all(agent.data_dir()).unwrap();
    agent.process.restart().unwrap();
    // It isn't the one that voted: it waits until that one is removed, and says so.
    wait_for("its word", Duration::from_secs(20), || {
        cluster.agents[victim].process.log().contains("must be removed first").then_some(())
    })
    .unwrap();
    assert_eq!(servers(&cluster.agents[leader]).len(), 3);
    let remove = format!("/v1/operator/raft/peer?id={}", old["ID"].as_str().unwrap());
    let answer = cluster.agents[leader].client().delete(&remove).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let agent = &mut cluster.agents[victim];
    agent.wait_until_ready(Duration::from_mins(1)).unwrap();
    for n in 0..20 {
        let answer = agent.client().get(&format!("/v1/kv/n/{n}?raw&stale")).unwrap();
        assert_eq!(answer.text(), n.to_string());
    }
    // It counts again: with another of the first three gone, two make a quorum.
    let other = (leader + 2) % 3;
    wait_for("a voter", Duration::from_mins(1), || {
        let servers = servers(&cluster.agents[leader]);
        let votes = |server: &serde_json::Value| {
            server["Address"] == address.as_str() && server["Voter"] == true
        };
        (servers.len() == 3 && servers.iter().any(votes)).then_some(())
    })
    .unwrap();
    cluster.agents[other].process.kill().unwrap();
    cluster.wait_for_leader(Duration::from_secs(20)).unwrap();
    put(&cluster.agents[victim], "after", "1");
}

#[test]
fn a_terminated_agent_ends_with_success_and_a_dev_agent_serves_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::ours("dev").unwrap();
    options.arguments = vec!["-dev".to_owned()];
    let mut agent = Agent::start(&options, folder.path()).unwrap();
    agent.wait_until_ready(Duration::from_secs(20)).unwrap();
    put(&agent, "k", "v");
    assert_eq!(get(&agent, "k").as_deref(), Some("v"));
    let pretty = agent.client().get("/v1/kv/k").unwrap().text();
    assert!(pretty.contains("\n    {\n"), "{pretty}");
    let status = agent.process.terminate(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(0), "{}", agent.process.log_tail(20));
}
