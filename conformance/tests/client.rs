//! A client agent in front of real servers: what its clients see while servers are killed, paused and started again.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::{
    thread,
    time::{Duration, Instant},
};

use conformance::{
    agent::{Agent, Cluster, alone},
    drill::{self, Plan},
    process::wait_for,
};
use serde_json::{Value, json};
use spec::entropy::Seeded;

/// Three servers, and a client agent that reaches them.
fn start(config: &Value) -> (Cluster, Agent) {
    let cluster = Cluster::start(3, config).unwrap();
    let mut all = config.clone();
    all["log_level"] = json!("debug");
    let mut client = cluster.start_client("c1", &all).unwrap();
    client.wait_until_ready(Duration::from_secs(20)).unwrap();
    (cluster, client)
}

fn put(agent: &Agent, key: &str, value: impl AsRef<[u8]>) {
    agent.write(key, value, Duration::from_secs(40)).unwrap();
}

fn get(agent: &Agent, key: &str) -> Option<String> {
    let answer = agent.client().get(&format!("/v1/kv/{key}?raw")).unwrap();
    assert!(matches!(answer.status, 200 | 404), "{answer:?}");
    (answer.status == 200).then(|| answer.text())
}

/// Which server the client agent uses, as its log has it.
fn server_in_use(cluster: &Cluster, client: &Agent) -> usize {
    let log = client.process.log();
    let line = log.lines().rev().find(|line| line.contains("New server in use")).unwrap();
    let uses = |agent: &Agent| line.contains(&agent.server_address());
    cluster.agents.iter().position(uses).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn acknowledged_writes_through_a_client_agent_survive_servers_that_are_killed() {
    let _alone = alone();
    let (mut cluster, client) = start(&json!({}));
    let plan = Plan {
        duration: Duration::from_secs(20),
        clients: 6,
        pause: Duration::from_millis(1500),
        seed: 2,
    };
    let tally = drill::run_through(&mut cluster, &[client.http().clone()], &plan).unwrap();
    println!("{tally:?}");
    assert!(tally.kills >= 4 && tally.leaders >= 1, "{tally:?}");
    assert!(tally.work.acknowledged > 100, "{tally:?}");
}

#[test]
fn reads_go_on_when_the_server_in_use_is_killed_or_stands_still() {
    let _alone = alone();
    let (mut cluster, client) = start(&json!({}));
    put(&client, "kept", "1");
    for round in 0..3 {
        let victim = server_in_use(&cluster, &client);
        cluster.agents[victim].process.kill().unwrap();
        // At once: neither the loss of the connection nor an election is the client's to bear.
        assert_eq!(get(&client, "kept").as_deref(), Some("1"), "round {round}");
        put(&client, &format!("round/{round}"), "1");
        assert_ne!(server_in_use(&cluster, &client), victim);
        cluster.agents[victim].process.restart().unwrap();
        cluster.wait_for_leader(Duration::from_secs(20)).unwrap();
    }
    let victim = server_in_use(&cluster, &client);
    cluster.agents[victim].process.pause().unwrap();
    let start = Instant::now();
    assert_eq!(get(&client, "kept").as_deref(), Some("1"));
    let noticed = start.elapsed();
    assert!(noticed < Duration::from_secs(12), "{noticed:?}");
    for round in 0..3 {
        put(&client, &format!("round/{round}"), "2");
    }
    cluster.agents[victim].process.resume().unwrap();
    for agent in &cluster.agents {
        for round in 0..3 {
            assert_eq!(get(agent, &format!("round/{round}")).as_deref(), Some("2"));
        }
    }
}

#[test]
fn a_long_poll_through_a_client_agent_wakes_and_outlives_its_server() {
    let _alone = alone();
    let (mut cluster, client) = start(&json!({}));
    put(&client, "watched", "1");
    let index = client.client().get("/v1/kv/watched").unwrap().index().unwrap();
    let mut waiters: Vec<_> = (0..20)
        .map(|_| {
            let mut waiter = client.client();
            let target = format!("/v1/kv/watched?raw&index={index}&wait=25s");
            thread::spawn(move || waiter.get(&target).unwrap())
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    let victim = server_in_use(&cluster, &client);
    cluster.agents[victim].process.kill().unwrap();
    thread::sleep(Duration::from_millis(500));
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    put(&client, "elsewhere", "x");
    put(&client, "watched", "2");
    let start = Instant::now();
    for waiter in waiters.drain(..) {
        let answer = waiter.join().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "2"));
        assert!(answer.index().unwrap() > index);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_snapshot_is_saved_and_restored_through_a_client_agent() {
    let _alone = alone();
    let (cluster, client) = start(&json!({}));
    // More than any body that is read whole on the way, and than a stream's window.
    let mut chance = Seeded::new(1);
    let large: Vec<u8> = (0..62_500).flat_map(|_| chance.next_u64().to_le_bytes()).collect();
    for n in 0..10 {
        put(&client, &format!("large/{n}"), &large);
    }
    let archive = client.client().get("/v1/snapshot").unwrap();
    assert_eq!(archive.status, 200);
    assert_eq!(archive.header("X-Consul-Knownleader"), Some("true"));
    assert!(archive.body.len() > 1 << 20, "{}", archive.body.len());
    let answer = client.client().delete("/v1/kv/large/?recurse").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    put(&client, "later", "1");
    let answer = client.client().put("/v1/snapshot", &archive.body).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    for agent in cluster.agents.iter().chain([&client]) {
        assert_eq!(agent.client().get("/v1/kv/large/7?raw").unwrap().body, large);
        assert_eq!(get(agent, "later"), None);
    }
    let broken = &archive.body[..archive.body.len() - 100_000];
    let answer = client.client().put("/v1/snapshot", broken).unwrap();
    assert_eq!(answer.status, 500, "{answer:?}");
    assert_eq!(client.client().get("/v1/kv/large/7?raw").unwrap().body, large);
}

#[test]
fn without_a_quorum_a_client_agent_passes_on_what_servers_say() {
    let _alone = alone();
    let config = json!({ "performance": { "rpc_hold_timeout": "1s" } });
    let (mut cluster, client) = start(&config);
    put(&client, "kept", "1");
    // A write is acknowledged once two of three have it: the one that is left may be the third.
    wait_for("the write on the server that stays", Duration::from_secs(20), || {
        let answer = cluster.agents[0].client().get("/v1/kv/kept?stale&raw").unwrap();
        (answer.status == 200).then_some(())
    })
    .unwrap();
    cluster.agents[1].process.kill().unwrap();
    cluster.agents[2].process.kill().unwrap();
    wait_for("No cluster leader", Duration::from_secs(20), || {
        let answer = client.client().put("/v1/kv/kept", b"2").unwrap();
        (answer.status == 500 && answer.text() == "No cluster leader").then_some(())
    })
    .unwrap();
    let answer = client.client().get("/v1/kv/kept?stale&raw").unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("X-Consul-Knownleader"), Some("false"));
    assert_eq!(client.client().get("/v1/status/leader").unwrap().text(), "\"\"");
    cluster.agents[0].process.kill().unwrap();
    let answer = client.client().get("/v1/kv/kept?stale").unwrap();
    assert_eq!(answer.status, 500);
    assert!(answer.text().starts_with("rpc error getting client: failed to get conn: dial tcp"));
    let own = client.client().get("/v1/agent/self").unwrap().json().unwrap();
    assert_eq!(own["Stats"]["consul"]["known_servers"], "3");
    for agent in &mut cluster.agents {
        agent.process.restart().unwrap();
    }
    cluster.wait_for_leader(Duration::from_secs(20)).unwrap();
    put(&client, "kept", "3");
}
