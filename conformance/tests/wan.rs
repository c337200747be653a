//! The WAN's pool: servers of two datacenters of ours, and of a real Consul's; who follows whom into it, and what each of
//! them makes of the others.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use conformance::{
    agent::{Agent, Options, alone, binary},
    peers,
    ports::Ports,
    process::wait_for,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where in an agent's block of ports its gossip lies.
const SERF_LAN: u16 = 2;
const SERF_WAN: u16 = 3;
const LIMIT: Duration = Duration::from_mins(1);

fn address(ports: &Ports, which: u16) -> String {
    format!("{}:{}", Ipv4Addr::LOCALHOST, ports.port(which))
}

/// A server of a datacenter that waits for so many; the WAN's gossip is as quick as the LAN's, so that tests are.
fn server(folder: &TempDir, name: &str, ports: Ports, config: Value) -> Agent {
    let mut all = json!({
        "gossip_wan": {
            "gossip_interval": "100ms", "probe_interval": "1s", "probe_timeout": "500ms",
            "suspicion_mult": 3,
        },
        "retry_interval": "1s",
        "retry_interval_wan": "1s",
    });
    if let (Some(all), Value::Object(config)) = (all.as_object_mut(), config) {
        all.extend(config);
    }
    Agent::start_on(ports, &Options::ours(name).unwrap().config(all), folder.path()).unwrap()
}

/// The members of the WAN as an agent tells them, by name.
fn wan(agent: &Agent) -> Option<BTreeMap<String, u64>> {
    let answer = agent.client().get("/v1/agent/members?wan=1").ok()?.json().ok()?;
    let member =
        |member: &Value| Some((member["Name"].as_str()?.to_owned(), member["Status"].as_u64()?));
    answer.as_array()?.iter().map(member).collect()
}

fn wait_until_wan_is(agents: &[&Agent], expected: &[(&str, u64)]) {
    let expected: BTreeMap<String, u64> =
        expected.iter().map(|(name, status)| ((*name).to_owned(), *status)).collect();
    for agent in agents {
        let found = wait_for("the WAN's members", LIMIT, || {
            (wan(agent).as_ref() == Some(&expected)).then_some(())
        });
        found.unwrap_or_else(|error| {
            panic!(
                "{error}: {} sees {:?}, not {expected:?}\n{}",
                agent.name,
                wan(agent),
                agent.process.log_tail(30)
            )
        });
    }
}

fn datacenters(agent: &Agent) -> Vec<String> {
    let answer = agent.client().get("/v1/catalog/datacenters").unwrap().json().unwrap();
    answer.as_array().unwrap().iter().map(|dc| dc.as_str().unwrap().to_owned()).collect()
}

fn names_in_raft(agent: &Agent) -> Vec<String> {
    let answer = agent.client().get("/v1/operator/raft/configuration").unwrap().json().unwrap();
    let servers = answer["Servers"].as_array().unwrap();
    servers.iter().map(|server| server["Node"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn servers_of_two_datacenters_meet_in_the_wan() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (a1, a2, b1) = (Ports::take().unwrap(), Ports::take().unwrap(), Ports::take().unwrap());
    let lan = address(&a1, SERF_LAN);
    let first_wan = address(&a1, SERF_WAN);
    let one = json!({ "datacenter": "a", "bootstrap_expect": 2, "retry_join": [lan] });
    let mut a1 = server(&folder, "a1", a1, one.clone());
    let mut a2 = server(&folder, "a2", a2, one);
    let other = json!({ "datacenter": "b", "bootstrap": true });
    let mut b1 = server(&folder, "b1", b1, other);
    for agent in [&mut a1, &mut a2, &mut b1] {
        agent.wait_until_ready(LIMIT).unwrap();
    }
    // Those of one LAN find each other in the WAN; nobody joined them.
    wait_until_wan_is(&[&a1, &a2], &[("a1.a", 1), ("a2.a", 1)]);
    wait_until_wan_is(&[&b1], &[("b1.b", 1)]);
    assert_eq!(datacenters(&a1), ["a"]);
    // One joins one of the others, and all know all.
    let port = b1.ports().port(0);
    let said = std::process::Command::new(binary().unwrap())
        .args(["join", "-wan", &format!("-http-addr=127.0.0.1:{port}"), &first_wan])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(said, "Successfully joined cluster by contacting 1 nodes.\n");
    let all = [("a1.a", 1), ("a2.a", 1), ("b1.b", 1)];
    wait_until_wan_is(&[&a1, &a2, &b1], &all);
    assert_eq!(datacenters(&a1), ["a", "b"]);
    assert_eq!(datacenters(&b1), ["b", "a"]);
    // The LANs and their clusters stay apart.
    assert_eq!(names_in_raft(&b1), ["b1"]);
    let lan = b1.client().get("/v1/agent/members").unwrap().json().unwrap();
    assert_eq!(lan.as_array().unwrap().len(), 1);
    wait_for("the nodes of one datacenter", LIMIT, || {
        let nodes = a1.client().get("/v1/catalog/nodes").ok()?.json().ok()?;
        (nodes.as_array()?.len() == 2).then_some(())
    })
    .unwrap();
    let elsewhere = a1.client().get("/v1/kv/a?dc=b").unwrap();
    assert_eq!(elsewhere.status, 500);
    assert!(elsewhere.text().contains("No path to datacenter"), "{}", elsewhere.text());
    let stats = b1.client().get("/v1/agent/self").unwrap().json().unwrap()["Stats"].clone();
    assert_eq!(stats["serf_wan"]["members"], "3");
    assert_eq!(stats["consul"]["known_datacenters"], "2");
    // Where they are is known once they have probed each other.
    wait_for("places of both", LIMIT, || {
        let places = a1.client().get("/v1/coordinate/datacenters").ok()?.json().ok()?;
        let counts: Vec<usize> = places
            .as_array()?
            .iter()
            .map(|area| area["Coordinates"].as_array().map_or(0, Vec::len))
            .collect();
        (counts == [2, 1]).then_some(())
    })
    .unwrap();
    // One that crashes fails there, and one that leaves leaves both pools.
    b1.process.kill().unwrap();
    wait_until_wan_is(&[&a1, &a2], &[("a1.a", 1), ("a2.a", 1), ("b1.b", 4)]);
    b1.process.restart().unwrap();
    wait_until_wan_is(&[&a1, &a2, &b1], &all);
    let answer = a2.client_with(LIMIT).put("/v1/agent/leave", b"").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    a2.process.wait(LIMIT).unwrap();
    wait_until_wan_is(&[&a1, &b1], &[("a1.a", 1), ("a2.a", 3), ("b1.b", 1)]);
    // A server that isn't in the WAN says so.
    let off = json!({ "datacenter": "c", "bootstrap": true, "ports": { "serf_wan": -1 } });
    let mut lone = Agent::start(&Options::ours("c1").unwrap().config(off), folder.path()).unwrap();
    lone.wait_until_ready(LIMIT).unwrap();
    assert_eq!(lone.client().get("/v1/agent/members?wan=1").unwrap().text(), "null");
    let refused = lone.client().put(&format!("/v1/agent/join/{first_wan}?wan=1"), b"").unwrap();
    assert_eq!((refused.status, refused.text().as_str()), (500, "WAN federation is disabled"));
}

/// Their clusters never mix: each side takes into Raft whom its own LAN has. Requests from one to the other datacenter are
/// not answered, since the two speak other protocols between servers.
#[test]
fn a_real_server_of_another_datacenter_shares_the_wan() {
    let _alone = alone();
    let Some(options) = peers::consul("k1") else {
        assert!(!peers::required(), "consul must be there: run conformance/peers/get target/peers");
        eprintln!("left out: no consul (conformance/peers/get target/peers fetches it)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Ports::take().unwrap(), Ports::take().unwrap());
    let first = address(&ours, SERF_WAN);
    let one = json!({ "datacenter": "a", "bootstrap": true });
    let mut a1 = server(&folder, "a1", ours, one);
    let config = json!({
        "datacenter": "k", "bootstrap": true, "retry_join_wan": [first], "retry_interval_wan": "1s",
        "gossip_wan": {
            "gossip_interval": "100ms", "probe_interval": "1s", "probe_timeout": "500ms",
            "suspicion_mult": 3,
        },
    });
    let mut k1 = Agent::start_on(theirs, &options.config(config), folder.path()).unwrap();
    a1.wait_until_ready(LIMIT).unwrap();
    k1.wait_until_ready(LIMIT).unwrap();
    let both = [("a1.a", 1), ("k1.k", 1)];
    wait_until_wan_is(&[&a1, &k1], &both);
    for (agent, sees) in [(&a1, ["a", "k"]), (&k1, ["k", "a"])] {
        wait_for("both datacenters", LIMIT, || (datacenters(agent) == sees).then_some(())).unwrap();
        assert_eq!(names_in_raft(agent), [agent.name.as_str()]);
    }
    // Consul probes ours for as long as it is in its routes.
    std::thread::sleep(Duration::from_secs(8));
    wait_until_wan_is(&[&a1, &k1], &both);
    for agent in [&a1, &k1] {
        assert_eq!(names_in_raft(agent), [agent.name.as_str()]);
        let nodes = agent.client().get("/v1/catalog/nodes").unwrap().json().unwrap();
        assert_eq!(nodes.as_array().unwrap().len(), 1, "{}: {nodes}", agent.name);
        let key = format!("/v1/kv/{}", agent.name);
        let answer = agent.client().put(&key, b"1").unwrap();
        assert_eq!((answer.status, answer.text().trim()), (200, "true"), "{}", agent.name);
    }
    // It is taken for failed, and for left, as one of ours is.
    a1.process.kill().unwrap();
    wait_until_wan_is(&[&k1], &[("a1.a", 4), ("k1.k", 1)]);
    a1.process.restart().unwrap();
    wait_until_wan_is(&[&a1, &k1], &both);
    let answer = a1.client_with(LIMIT).put("/v1/agent/leave", b"").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    wait_until_wan_is(&[&k1], &[("a1.a", 3), ("k1.k", 1)]);
}
