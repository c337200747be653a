//! The stories of agents that stay: which agents each case was recorded from, and what they had been told before.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    folder,
    lists::Lists,
    parse::{Case, Step},
    run::Story,
    send::{Target, clean},
};
use crate::{
    agent::{Agent, Kind, Options},
    http::{Body, Request},
    peers,
    process::wait_for,
};

/// How long agents may take to find each other.
const PATIENCE: Duration = Duration::from_mins(1);
/// Where in an agent's block of ports that of its gossip is.
pub(super) const SERF_LAN: u16 = 2;
const SERF_WAN: u16 = 3;

/// Options for an agent of this kind.
pub(super) fn options(kind: Kind, name: &str, config: Value) -> Result<Options> {
    let options = match kind {
        Kind::Proconsul => Options::ours(name)?,
        Kind::Consul => peers::consul(name).context("no real Consul")?,
    };
    Ok(options.config(config))
}

/// The recorded ports of an agent whose HTTP port was `http`, beside its own.
pub(super) fn ports(http: u16, agent: &Agent) -> impl Iterator<Item = (u16, u16)> {
    // HTTP, server, Serf LAN, Serf WAN, DNS.
    let recorded = [http, http - 200, http - 199, http - 198, http + 100];
    recorded.into_iter().zip(0..).map(|(port, n)| (port, agent.ports().port(n)))
}

/// Waits until so many nodes are in the catalog as `agent` itself has it, each with what its agent says of it: later, it
/// would lie among the cases.
pub(super) fn wait_for_nodes(agent: &Agent, count: usize) -> Result<()> {
    let mut client = agent.client();
    wait_for("the nodes in the catalog", PATIENCE, || {
        let nodes = client.get("/v1/catalog/nodes?stale").ok()?.json().ok()?;
        let told = nodes.as_array()?.iter().all(|node| node["TaggedAddresses"].is_object());
        (nodes.as_array()?.len() == count && told).then_some(())
    })
}

/// The recorded server `s1`, its client `c1`, and the other datacenter's `d2s1`.
pub(super) fn main<'a>(
    kind: Kind,
    cases: &[&Case],
    lists: &'a Lists,
    scratch: &Path,
) -> Result<Story<'a>> {
    let mut story = Story::new(lists);
    let (mut agents, target) = start_main(kind, scratch)?;
    prelude(&agents[0], kind)?;
    let mut last = 0;
    for case in cases {
        let number: u32 = case.name.split('-').next().unwrap_or_default().parse()?;
        if number > last + 10 {
            story.forget_indexes();
        }
        last = number;
        // They come by themselves, but not at once: a real Consul's after half a minute.
        if number == 102 {
            wait_for_coordinates(&agents[0])?;
        }
        for step in &case.steps {
            story.send(step, &target);
        }
    }
    story.look_for_the_dead(&mut agents);
    Ok(story)
}

fn wait_for_coordinates(s1: &Agent) -> Result<()> {
    let mut client = s1.client();
    wait_for("the coordinates of s1 and c1", PATIENCE, || {
        let places = client.get("/v1/coordinate/nodes").ok()?.json().ok()?;
        (places.as_array()?.len() == 2).then_some(())
    })?;
    // Servers of two datacenters know them once they have probed each other.
    wait_for("the coordinates of s1 and d2s1", PATIENCE, || {
        let areas = client.get("/v1/coordinate/datacenters").ok()?.json().ok()?;
        let count = |area: &Value| area["Coordinates"].as_array().map_or(0, Vec::len);
        areas.as_array()?.iter().map(count).eq([1_usize, 1]).then_some(())
    })
}

fn start_main(kind: Kind, scratch: &Path) -> Result<(Vec<Agent>, Target)> {
    let mut config = json!({
        "bootstrap": true,
        "datacenter": "dc1",
        "http_config": {
            "response_headers": { "X-Oracle": "yes" },
            "block_endpoints": ["/v1/agent/connect"],
        },
        "telemetry": { "prometheus_retention_time": "60s" },
        "node_meta": { "rack": "r1" },
    });
    let mut client = json!({ "server": false, "datacenter": "dc1", "retry_interval": "1s" });
    if kind == Kind::Proconsul {
        for config in [&mut config, &mut client] {
            config["sync_coordinate_interval_min"] = "1s".into();
        }
    }
    let options = options(kind, "s1", config)?;
    let program = options.program.clone();
    let mut s1 = Agent::start(&options, scratch)?;
    s1.wait_until_ready(PATIENCE)?;
    let address = |n| format!("127.0.0.1:{}", s1.ports().port(n));
    client["retry_join"] = json!([address(SERF_LAN)]);
    let mut agents = vec![Agent::start(&self::options(kind, "c1", client)?, scratch)?];
    let mut recorded: Vec<(u16, u16)> = ports(18500, &s1).chain(ports(28500, &agents[0])).collect();
    let other = json!({
        "bootstrap": true, "datacenter": "dc2",
        "retry_join_wan": [address(SERF_WAN)], "retry_interval_wan": "1s",
    });
    let d2s1 = Agent::start(&self::options(kind, "d2s1", other)?, scratch)?;
    recorded.extend(ports(48500, &d2s1));
    agents.push(d2s1);
    agents[0].wait_until_ready(PATIENCE)?;
    wait_for_nodes(&s1, 2)?;
    let mut client = s1.client();
    wait_for("the other datacenter", PATIENCE, || {
        if kind == Kind::Consul {
            let there = client.get("/v1/catalog/nodes?dc=dc2").ok()?.json().ok()?;
            return (there.as_array()?.len() == 1).then_some(());
        }
        let there = client.get("/v1/catalog/datacenters").ok()?.json().ok()?;
        (there.as_array()?.len() == 2).then_some(())
    })?;
    agents.insert(0, s1);
    let target = Target { program, ports: recorded, folder: scratch.join("main") };
    clean(&target.folder)?;
    Ok((agents, target))
}

/// Tells the server what the recorded one had been told before.
fn prelude(s1: &Agent, kind: Kind) -> Result<()> {
    let mut client = s1.client();
    for line in fs::read_to_string(folder().join("prelude.txt"))?.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (target, body) = line.split_once(' ').unwrap_or((line, ""));
        let response = client.put(target, body.as_bytes())?;
        let catalog = target.starts_with("/v1/catalog") && kind == Kind::Proconsul;
        let event = target.starts_with("/v1/event/fire/") && response.status == 200;
        ensure!(response.text() == "true" || catalog || event, "prelude {line}: {response:?}");
    }
    Ok(())
}

/// The server that expects two others which never come. Its steps are held for seconds each, and have nothing to do with
/// each other: they run side by side.
pub(super) fn without_leader<'a>(
    kind: Kind,
    cases: &[&Case],
    lists: &'a Lists,
    scratch: &Path,
) -> Result<Story<'a>> {
    let mut story = Story::new(lists);
    let config = json!({ "bootstrap_expect": 3, "datacenter": "dc9" });
    let options = options(kind, "nl1", config)?;
    let agent = Agent::start(&options, scratch)?;
    wait_for("an agent without a leader", PATIENCE, || {
        agent.client().get("/v1/status/leader").ok().filter(|answer| answer.status == 200)
    })?;
    let target = Target {
        program: options.program,
        ports: ports(58500, &agent).collect(),
        folder: scratch.join("alone"),
    };
    clean(&target.folder)?;
    let steps: Vec<&Step> = cases.iter().flat_map(|case| &case.steps).collect();
    story.send_side_by_side(&steps, &target);
    Ok(story)
}

/// The server whose gossip is encrypted. With a real Consul it also asks who asks, as the recorded one did.
pub(super) fn encrypted<'a>(
    kind: Kind,
    cases: &[&Case],
    lists: &'a Lists,
    scratch: &Path,
) -> Result<Story<'a>> {
    const TOKEN: &str = "137f19d1-f122-d289-1253-e8bc5b56b7cb";
    let mut story = Story::new(lists);
    let mut config = json!({
        "bootstrap": true, "datacenter": "dcacl",
        "encrypt": "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=",
    });
    if kind == Kind::Consul {
        config["acl"] =
            json!({ "enabled": true, "default_policy": "deny", "tokens": { "master": TOKEN } });
    }
    let options = options(kind, "acl1", config)?;
    let agent = Agent::start(&options, scratch)?;
    wait_for("an agent that knows its keys", PATIENCE, || {
        let request = Request {
            method: "GET",
            target: "/v1/operator/keyring",
            headers: &[("X-Consul-Token", TOKEN)],
            body: Body::None,
        };
        agent.client().send(&request).ok().filter(|answer| answer.status == 200)
    })?;
    let target = Target {
        program: options.program,
        ports: ports(21500, &agent).collect(),
        folder: scratch.join("encrypted"),
    };
    clean(&target.folder)?;
    for step in cases.iter().flat_map(|case| &case.steps) {
        story.send(step, &target);
    }
    story.look_for_the_dead(&mut [agent]);
    Ok(story)
}
