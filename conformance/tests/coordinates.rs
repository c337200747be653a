//! Real agents tell the catalog where they are, and nobody else has to (SYNC-7 to SYNC-9).

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::{process::Command, time::Duration};

use conformance::{
    agent::{Agent, Options, alone, binary},
    ports::Ports,
    process::wait_for,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where in an agent's block of ports its gossip lies.
const SERF_LAN: u16 = 2;
const LIMIT: Duration = Duration::from_secs(40);

/// Three servers, a client, and a client that has no place in the network. They find each other by gossip, and tell their
/// coordinates every second or two.
fn start() -> (Vec<Agent>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let names = ["s1", "s2", "s3", "c1", "c2"];
    let blocks: Vec<Ports> = names.iter().map(|_| Ports::take().unwrap()).collect();
    let join = format!("127.0.0.1:{}", blocks[0].port(SERF_LAN));
    let mut agents = Vec::new();
    for (name, ports) in names.into_iter().zip(blocks) {
        let mut config = json!({
            "retry_join": [join],
            "retry_interval": "1s",
            "sync_coordinate_interval_min": "1s",
            "disable_coordinates": name == "c2",
            "node_meta": { "name": name },
        });
        if name.starts_with('s') {
            config["bootstrap_expect"] = 3.into();
        } else {
            config["server"] = false.into();
        }
        let options = Options::ours(name).unwrap().config(config);
        agents.push(Agent::start_on(ports, &options, folder.path()).unwrap());
    }
    for agent in &mut agents {
        agent.wait_until_ready(LIMIT).unwrap();
    }
    (agents, folder)
}

fn get(agent: &Agent, target: &str) -> Option<Value> {
    agent.client_with(LIMIT).get(target).ok()?.json().ok()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().filter_map(|entry| entry["Node"].as_str()).collect()
}

/// The index of the coordinates, once it is another one than `index`.
fn next_index(agent: &Agent, index: u64) -> u64 {
    let mut client = agent.client_with(LIMIT);
    let answer = client.get(&format!("/v1/coordinate/nodes?index={index}&wait=30s")).unwrap();
    answer.index().unwrap()
}

#[test]
fn coordinates_come_into_the_catalog_by_themselves() {
    let _alone = alone();
    let (mut agents, _folder) = start();
    let c1 = agents.iter().position(|agent| agent.name == "c1").unwrap();
    wait_for("the coordinates of all that have one", LIMIT, || {
        let places = get(&agents[c1], "/v1/coordinate/nodes")?;
        (names(&places) == ["c1", "s1", "s2", "s3"]).then_some(())
    })
    .unwrap();

    let own = get(&agents[c1], "/v1/coordinate/node/c1").unwrap();
    assert_eq!(names(&own), ["c1"]);
    assert_eq!(own[0]["Coord"]["Vec"].as_array().unwrap().len(), 8);
    let place = |agent: &Agent| get(agent, "/v1/agent/self").unwrap()["Coord"].clone();
    assert!(place(&agents[c1])["Vec"].is_array());
    assert_eq!(place(&agents[4]), Value::Null);

    // Whoever is asked is nearest to itself, and who has no place is last, once the leader has put its node there.
    wait_for("all nodes", LIMIT, || {
        let nodes = get(&agents[c1], "/v1/catalog/nodes")?;
        (names(&nodes).len() == agents.len()).then_some(())
    })
    .unwrap();
    for agent in &agents[..=c1] {
        let nodes = get(agent, "/v1/catalog/nodes?near=_agent").unwrap();
        let names = names(&nodes);
        assert_eq!((names.first(), names.last()), (Some(&&*agent.name), Some(&"c2")), "{names:?}");
    }
    let output = Command::new(binary().unwrap())
        .args(["rtt", "s1"])
        .env("CONSUL_HTTP_ADDR", agents[c1].http().to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let estimate = said.strip_prefix("Estimated s1 <-> c1 rtt: ").unwrap();
    let milliseconds: f64 = estimate.split(' ').next().unwrap().parse().unwrap();
    assert!(milliseconds > 0.0 && milliseconds < 1000.0, "{said}");

    // They go on, and another leader goes on with them.
    let index = next_index(&agents[c1], 1);
    assert!(next_index(&agents[c1], index) > index);
    let leader = agents[c1].leader().unwrap();
    let leader = agents.iter().position(|agent| agent.server_address() == leader).unwrap();
    agents[leader].process.kill().unwrap();
    agents[c1].wait_until_ready(LIMIT).unwrap();
    let index = next_index(&agents[c1], 1);
    assert!(next_index(&agents[c1], index) > index);
}

#[test]
fn agents_say_in_the_catalog_what_their_nodes_are() {
    let _alone = alone();
    let (agents, _folder) = start();
    let nodes = wait_for("all nodes as they are", LIMIT, || {
        let nodes = get(&agents[0], "/v1/catalog/nodes")?;
        let told = |node: &Value| node["Meta"]["name"] == node["Node"];
        (names(&nodes).len() == 5 && nodes.as_array()?.iter().all(told)).then_some(nodes)
    })
    .unwrap();
    for node in nodes.as_array().unwrap() {
        let addresses = json!({
            "lan": "127.0.0.1", "lan_ipv4": "127.0.0.1", "wan": "127.0.0.1", "wan_ipv4": "127.0.0.1",
        });
        assert_eq!(node["TaggedAddresses"], addresses);
        assert_eq!(node["Meta"]["consul-network-segment"], "");
    }
    // What says so already is not written again.
    let index = |agent: &Agent| agent.client().get("/v1/catalog/nodes").unwrap().index().unwrap();
    let before = index(&agents[0]);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(index(&agents[0]), before);
}
