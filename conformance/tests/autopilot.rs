//! Servers that join a cluster, and servers that are gone for good: what autopilot and the reconcile make of them.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::{
    fs,
    time::{Duration, Instant},
};

use conformance::{
    agent::{Agent, Options, alone},
    ports::Ports,
    process::wait_for,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where in an agent's block of ports its gossip lies.
const SERF_LAN: u16 = 2;
const LIMIT: Duration = Duration::from_mins(1);
const STABILIZATION: Duration = Duration::from_secs(4);

/// Servers that find each other by gossip.
struct Servers {
    agents: Vec<Agent>,
    first: String,
    gossip: Value,
    folder: TempDir,
}

impl Servers {
    /// Three of them, with autopilot as it is configured here besides.
    fn start(autopilot: &Value) -> Self {
        Self::start_with(autopilot, json!({}))
    }

    /// As [`Self::start`], with gossip as it is tuned here.
    fn start_with(autopilot: &Value, gossip: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let blocks: Vec<Ports> = (0..3).map(|_| Ports::take().unwrap()).collect();
        let first = format!("127.0.0.1:{}", blocks[0].port(SERF_LAN));
        let mut servers = Self { agents: Vec::new(), first, gossip, folder };
        for (n, ports) in blocks.into_iter().enumerate() {
            let config = json!({ "bootstrap_expect": 3, "autopilot": autopilot });
            servers.add(&format!("s{}", n + 1), ports, config);
        }
        for agent in &mut servers.agents {
            agent.wait_until_ready(LIMIT).unwrap();
        }
        servers.wait_for_members(3);
        servers
    }

    fn add(&mut self, name: &str, ports: Ports, mut config: Value) {
        config["retry_join"] = json!([self.first]);
        config["retry_interval"] = json!("1s");
        config["gossip_lan"] = self.gossip.clone();
        let options = Options::ours(name).unwrap().config(config);
        self.agents.push(Agent::start_on(ports, &options, self.folder.path()).unwrap());
    }

    fn wait_for_members(&self, count: usize) {
        for agent in &self.agents {
            wait_for("all members", LIMIT, || {
                let members = agent.client().get("/v1/agent/members").ok()?.json().ok()?;
                (members.as_array()?.len() == count).then_some(())
            })
            .unwrap();
        }
    }

    /// The leader, once all know it.
    fn leader(&self) -> usize {
        wait_for("a leader that all know", LIMIT, || {
            let leader = self.agents[0].leader()?;
            let knows = |agent: &Agent| agent.leader().as_ref() == Some(&leader);
            self.agents.iter().all(knows).then_some(())?;
            self.agents.iter().position(|agent| agent.server_address() == leader)
        })
        .unwrap()
    }

    /// A server that isn't the leader, and not the one that the others join.
    fn follower(&self) -> usize {
        let leader = self.leader();
        (1..self.agents.len()).find(|at| *at != leader).unwrap()
    }
}

/// The servers in Raft, as one of them tells: name, id, whether it votes.
fn in_raft(agent: &Agent) -> Option<Vec<(String, String, bool)>> {
    let answer = agent.client().get("/v1/operator/raft/configuration").ok()?.json().ok()?;
    let server = |server: &Value| {
        let text = |key: &str| Some(server[key].as_str()?.to_owned());
        Some((text("Node")?, text("ID")?, server["Voter"].as_bool()?))
    };
    let mut servers: Vec<_> =
        answer["Servers"].as_array()?.iter().map(server).collect::<Option<_>>()?;
    servers.sort();
    Some(servers)
}

#[test]
fn a_new_server_votes_once_it_has_been_healthy_for_the_stabilisation_time() {
    let _alone = alone();
    let mut servers = Servers::start(&json!({
        "server_stabilization_time": format!("{}s", STABILIZATION.as_secs()),
        "last_contact_threshold": "2s",
    }));
    // Those that formed the cluster vote from the start.
    assert!(in_raft(&servers.agents[0]).unwrap().iter().all(|(_, _, votes)| *votes));
    // The new leader's first write says so, a moment after it was elected.
    let set = wait_for("autopilot's configuration", LIMIT, || {
        servers.agents[0].client().get("/v1/operator/autopilot/configuration").ok()?.json().ok()
    });
    assert_eq!(set.unwrap()["ServerStabilizationTime"], "4s");
    // When it joins is seen too late on a busy machine, and it can't have been healthy before it was started.
    let started = Instant::now();
    servers.add("s4", Ports::take().unwrap(), json!({}));
    let first = &servers.agents[0];
    let votes = || {
        let all = in_raft(first)?;
        all.iter().find(|(name, ..)| name == "s4").map(|(_, _, votes)| *votes)
    };
    wait_for("a learner", LIMIT, || (!votes()?).then_some(())).unwrap();
    wait_for("a voter", LIMIT, || votes()?.then_some(())).unwrap();
    let waited = started.elapsed();
    // It was healthy a little after it was there, and looked at every 2 s.
    assert!(waited >= STABILIZATION, "{waited:?}");
    assert_eq!(in_raft(first).unwrap().len(), 4);
}

#[test]
fn a_server_that_gossip_is_told_to_forget_leaves_raft() {
    let _alone = alone();
    // Nobody cleans up: what is seen here is the reconcile's.
    let mut servers = Servers::start(&json!({ "cleanup_dead_servers": false }));
    let at = servers.follower();
    let mut gone = servers.agents.remove(at);
    gone.process.kill().unwrap();
    let first = &servers.agents[0];
    wait_for("its failure", LIMIT, || {
        let members = first.client().get("/v1/agent/members").ok()?.json().ok()?;
        members
            .as_array()?
            .iter()
            .any(|member| member["Name"] == gone.name.as_str() && member["Status"] == 4)
            .then_some(())
    })
    .unwrap();
    assert_eq!(in_raft(first).unwrap().len(), 3);
    let prune = format!("/v1/agent/force-leave/{}?prune", gone.name);
    assert_eq!(first.client().put(&prune, b"").unwrap().status, 200);
    wait_for("two servers in Raft", LIMIT, || {
        let left = in_raft(first)?;
        (left.len() == 2 && left.iter().all(|(name, ..)| *name != gone.name)).then_some(())
    })
    .unwrap();
    wait_for("its node's end", LIMIT, || {
        let nodes = first.client().get("/v1/catalog/nodes").ok()?.json().ok()?;
        (nodes.as_array()?.len() == 2).then_some(())
    })
    .unwrap();
}

#[test]
fn a_machine_that_was_set_up_anew_takes_the_place_of_the_old_one() {
    let _alone = alone();
    let mut servers = Servers::start(&json!({
        "cleanup_dead_servers": false, "server_stabilization_time": "1s",
        "last_contact_threshold": "2s",
    }));
    let at = servers.follower();
    // Its node must be in the catalog: that is what tells that gossip knew it.
    let path = format!("/v1/health/node/{}", servers.agents[at].name);
    wait_for("its node", LIMIT, || {
        let checks = servers.agents[0].client().get(&path).ok()?.json().ok()?;
        (!checks.as_array()?.is_empty()).then_some(())
    })
    .unwrap();
    let before = in_raft(&servers.agents[0]).unwrap();
    let agent = &mut servers.agents[at];
    agent.process.kill().unwrap();
    fs::remove_dir_all(agent.data_dir()).unwrap();
    fs::create_dir_all(agent.data_dir()).unwrap();
    agent.process.restart().unwrap();
    let name = servers.agents[at].name.clone();
    let found = wait_for("the new server votes", LIMIT, || {
        let now = in_raft(&servers.agents[0])?;
        let own = now.iter().find(|(other, ..)| *other == name)?;
        (now.len() == 3 && own.2 && !before.contains(own)).then_some(())
    });
    found.unwrap_or_else(|error| {
        let logs: Vec<String> =
            servers.agents.iter().map(|agent| agent.process.log_tail(25)).collect();
        panic!("{error}: {:?}\n{}", in_raft(&servers.agents[0]), logs.join("\n----\n"))
    });
}

fn names(servers: &[(String, String, bool)]) -> Vec<&str> {
    servers.iter().map(|(name, ..)| name.as_str()).collect()
}

/// Waits until the leader's autopilot has looked at a server that gossip says has failed, and has looked once more: what it
/// made of the first look is done by then.
fn wait_until_seen_dead(agent: &Agent, name: &str) {
    let silent_for = || {
        let answer = agent.client().get("/v1/operator/autopilot/health").ok()?.json().ok()?;
        let server = answer["Servers"].as_array()?.iter().find(|server| server["Name"] == name)?;
        (server["SerfStatus"] == "failed" && server["Healthy"] == false)
            .then(|| server["LastContact"].clone())
    };
    let first = wait_for("a look at the dead", LIMIT, silent_for).unwrap();
    wait_for("another look", LIMIT, || (silent_for()? != first).then_some(())).unwrap();
}

/// Changes these keys of autopilot's configuration.
fn configure(agent: &Agent, keys: &Value) {
    let path = "/v1/operator/autopilot/configuration";
    // Another leader may be elected meanwhile, on a busy machine.
    wait_for("autopilot's configuration", LIMIT, || {
        let mut all = agent.client().get(path).ok()?.json().ok()?;
        for (key, value) in keys.as_object()? {
            all[key] = value.clone();
        }
        let answer = agent.client().put(path, all.to_string().as_bytes()).ok()?;
        (answer.status == 200).then_some(())
    })
    .unwrap();
}

/// Waits until whoever leads says for this reason that the dead stay.
fn wait_until_denied(agents: &[Agent], reason: &str) {
    let said = ["autopilot: dead servers stay:", reason];
    wait_for("its word that the dead stay", LIMIT, || {
        agents.iter().any(|agent| agent.count(&said) > 0).then_some(())
    })
    .unwrap();
}

/// As Consul's autopilot has it: of N servers at most (N - 1) / 2 may be removed, and `MinQuorum` are kept.
#[test]
fn a_dead_server_goes_while_the_configuration_and_a_majority_allow_it() {
    let _alone = alone();
    let autopilot = json!({
        "cleanup_dead_servers": false, "server_stabilization_time": "1s",
        "last_contact_threshold": "2s",
    });
    // Who is killed fails within 2 s, also where nobody is left to confirm it.
    let quick = json!({
        "gossip_interval": "50ms", "probe_interval": "500ms", "probe_timeout": "250ms",
        "suspicion_mult": 2,
    });
    let mut servers = Servers::start_with(&autopilot, quick);
    let at = servers.follower();
    let mut gone = servers.agents.remove(at);
    gone.process.kill().unwrap();
    wait_until_seen_dead(&servers.agents[0], &gone.name);
    let first = &servers.agents[0];
    assert_eq!(names(&in_raft(first).unwrap()), ["s1", "s2", "s3"], "nobody cleans up");
    configure(first, &json!({ "CleanupDeadServers": true, "MinQuorum": 3 }));
    let too_few = "removing 1 of 3 servers would leave fewer than min_quorum, 3";
    wait_until_denied(&servers.agents, too_few);
    assert_eq!(names(&in_raft(first).unwrap()), ["s1", "s2", "s3"], "min_quorum are kept");
    // Once another votes there are enough without it.
    servers.add("s4", Ports::take().unwrap(), json!({}));
    let mut left: Vec<String> = servers.agents.iter().map(|agent| agent.name.clone()).collect();
    left.sort();
    let first = &servers.agents[0];
    wait_for("the dead one's removal", LIMIT, || {
        let now = in_raft(first)?;
        (names(&now) == left && now.iter().all(|(_, _, votes)| *votes)).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", in_raft(first)));
    // Gossip is told, so that nobody tries to reach it any more; who came after its death never knew it.
    for agent in &servers.agents {
        wait_for("its leaving", LIMIT, || {
            let members = agent.members()?;
            members.get(&gone.name).is_none_or(|status| status == "left").then_some(())
        })
        .unwrap();
    }
    nobody_goes_without_a_majority(servers);
}

/// Of three servers two stand still, and then one.
fn nobody_goes_without_a_majority(mut servers: Servers) {
    let all = in_raft(&servers.agents[0]).unwrap();
    configure(&servers.agents[0], &json!({ "MinQuorum": 0 }));
    // The leader is left: nobody else would try to remove anyone.
    let leader = servers.leader();
    let leader = servers.agents.remove(leader);
    for agent in &servers.agents {
        agent.process.pause().unwrap();
    }
    wait_for("two failures, and no leader", LIMIT, || {
        let members = leader.members()?;
        let failed = members.values().filter(|status| *status == "failed").count();
        (failed == 2 && leader.leader().is_none()).then_some(())
    })
    .unwrap();
    let stale = leader.client().get("/v1/operator/raft/configuration?stale").unwrap();
    let stale = stale.json().unwrap();
    assert_eq!(stale["Servers"].as_array().unwrap().len(), 3, "{stale}");
    // With one of them back there is a majority, and the other one goes. (One that was started again and leads never knew
    // the other, and would wait until its gossip has settled.)
    servers.agents[0].process.resume().unwrap();
    servers.agents[0].wait_until_ready(LIMIT).unwrap();
    let expected: Vec<_> =
        all.into_iter().filter(|(name, ..)| *name != servers.agents[1].name).collect();
    wait_for("the other one's removal", LIMIT, || (in_raft(&leader)? == expected).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {:?}", in_raft(&leader)));
}
