//! One pool with real agents: our servers and clients, a real serf, and a real Consul as a client; and our client in the
//! pool of a real Consul server. Who isn't installed is left out, unless peers are required.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use conformance::{
    agent::{Agent, Options, alone},
    peers,
    pool::{self, change_keyring, keyring},
    ports::Ports,
    process::{Process, touch, wait_for},
};
use serde_json::{Value, json};

/// Longer than two exchanges of everything take to come, each half a minute: they bring what gossip lost on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
const KEY: &str = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=";
const NEXT_KEY: &str = "3lg9DxVfKNzI8O+IQ5Ek+Q==";

fn left_out(who: &str) {
    assert!(!peers::required(), "{who} must be there: run conformance/peers/get target/peers");
    eprintln!("left out: no {who} (conformance/peers/get target/peers fetches it)");
}

/// Three servers of ours and clients, and real agents besides.
struct Pool {
    ours: pool::Pool,
    serf: Option<Process>,
    serf_rpc: String,
    /// Where serf writes a line for each event called `deploy` that an agent of Consul's fired.
    serf_events: PathBuf,
}

impl Pool {
    fn start(config: &Value, clients: usize) -> Self {
        let ours = pool::Pool::on_loopback(3, clients, config).unwrap();
        let serf_events = ours.folder.path().join("serf.events");
        Self { ours, serf: None, serf_rpc: String::new(), serf_events }
    }

    /// Adds a real Consul, as a client; false where it isn't installed.
    fn add_consul(&mut self, name: &str) -> bool {
        let Some(options) = peers::consul(name) else {
            left_out("consul");
            return false;
        };
        self.ours.add(options.config(json!({ "server": false }))).unwrap();
        true
    }

    /// Adds a real serf with these tags; false where it isn't installed.
    fn add_serf(&mut self, tags: &[&str]) -> bool {
        let Some(program) = peers::find("serf") else {
            left_out("serf");
            return false;
        };
        let ports = Ports::take().unwrap();
        self.serf_rpc = format!("127.0.0.1:{}", ports.port(1));
        let mut arguments = vec![
            "agent".to_owned(),
            "-node=f1".to_owned(),
            format!("-bind=127.0.0.1:{}", ports.port(0)),
            format!("-rpc-addr={}", self.serf_rpc),
            format!("-join={}", self.ours.agents[0].gossip_address()),
            // What Consul calls an event is one of Serf's under this name.
            format!(
                "-event-handler=user:consul:event:deploy=echo heard >> {}",
                self.serf_events.display()
            ),
        ];
        arguments.extend(tags.iter().map(|tag| format!("-tag={tag}")));
        if let Some(key) = self.ours.config.get("encrypt").and_then(Value::as_str) {
            arguments.push(format!("-encrypt={key}"));
        }
        let log = self.ours.folder.path().join("serf.log");
        touch(&log).unwrap();
        self.serf = Some(Process::start("f1", &program, arguments, &log).unwrap());
        true
    }

    fn agent(&mut self, name: &str) -> &mut Agent {
        self.ours.named(name).unwrap()
    }

    /// What serf says of everybody: how they stand, and what they say of themselves.
    fn asked_of_serf(&self, what: &str) -> Option<BTreeMap<String, Value>> {
        let rpc = format!("-rpc-addr={}", self.serf_rpc);
        let asked = ["members", "-format=json", rpc.as_str()];
        let output = Command::new(peers::find("serf")?).args(asked).output().ok()?;
        let said: Value = serde_json::from_slice(&output.stdout).ok()?;
        let member =
            |member: &Value| Some((member["name"].as_str()?.to_owned(), member[what].clone()));
        said["members"].as_array()?.iter().map(member).collect()
    }

    fn seen_by_serf(&self) -> Option<BTreeMap<String, String>> {
        let seen = self.asked_of_serf("status")?;
        seen.into_iter().map(|(name, status)| Some((name, status.as_str()?.to_owned()))).collect()
    }

    /// Waits until everybody says the same of what each member says of itself.
    fn wait_until_all_see_the_same_tags(&self) {
        let agents = &self.ours.agents;
        wait_for("all to see the same tags", LIMIT, || {
            let first = tags(&agents[0])?;
            let alike = agents.iter().all(|agent| tags(agent).as_ref() == Some(&first));
            let serf = self.serf.is_none() || self.asked_of_serf("tags").as_ref() == Some(&first);
            (alike && serf).then_some(())
        })
        .unwrap();
    }

    /// How often serf heard of an event called `deploy`.
    fn heard_by_serf(&self) -> usize {
        fs::read_to_string(&self.serf_events).unwrap_or_default().lines().count()
    }

    /// Waits until everybody who runs sees the same members, as they are told here.
    fn wait_until_all_see(&self, expected: &[(&str, &str)]) {
        let expected: BTreeMap<String, String> = expected
            .iter()
            .map(|(name, status)| ((*name).to_owned(), (*status).to_owned()))
            .collect();
        self.ours.wait_until_all_see(&expected, LIMIT).unwrap();
        if self.serf.is_some() {
            let seen = || self.seen_by_serf().filter(|seen| *seen == expected);
            wait_for("serf to see the same members", LIMIT, seen)
                .unwrap_or_else(|error| panic!("{error}: {:?}", self.seen_by_serf()));
        }
    }
}

/// What each member says of itself, as an agent's API tells it.
fn tags(agent: &Agent) -> Option<BTreeMap<String, Value>> {
    let answer = agent.client().get("/v1/agent/members").ok()?.json().ok()?;
    let member =
        |member: &Value| Some((member["Name"].as_str()?.to_owned(), member["Tags"].clone()));
    answer.as_array()?.iter().map(member).collect()
}

/// How often an agent heard of this event.
fn heard(agent: &Agent, id: &str) -> Option<usize> {
    let list = agent.client().get("/v1/event/list?name=deploy").ok()?.json().ok()?;
    Some(list.as_array()?.iter().filter(|event| event["ID"] == id).count())
}

/// The events that an agent heard of, and what it says of its pool, for messages.
fn events_at(agent: &Agent) -> String {
    let get = |target| agent.client().get(target)?.json();
    let (events, own) = (get("/v1/event/list"), get("/v1/agent/self"));
    format!("{events:?}, {:?}", own.map(|own| own["Stats"]["serf_lan"].clone()))
}

/// Fires an event called `deploy` at an agent, and gives its id.
fn fire(agent: &Agent) -> String {
    let fired = agent.client().put("/v1/event/fire/deploy", b"now").unwrap();
    fired.json().unwrap()["ID"].as_str().unwrap().to_owned()
}

fn serf_health(agent: &Agent, node: &str) -> Option<String> {
    let answer = agent.client().get(&format!("/v1/health/node/{node}")).ok()?.json().ok()?;
    let check = answer.as_array()?.iter().find(|check| check["CheckID"] == "serfHealth")?;
    Some(check["Status"].as_str()?.to_owned())
}

fn wait_for_health(agent: &Agent, node: &str, status: Option<&str>) {
    wait_for("the catalog to follow", LIMIT, || {
        (serf_health(agent, node).as_deref() == status).then_some(())
    })
    .unwrap();
}

fn voters(agent: &Agent) -> usize {
    let answer = agent.client().get("/v1/operator/raft/configuration").unwrap().json().unwrap();
    answer["Servers"].as_array().unwrap().iter().filter(|server| server["Voter"] == true).count()
}

/// Everybody sees everybody; who is killed fails, who leaves has left; events come to all, once.
fn one_pool(config: &Value) {
    let mut pool = Pool::start(config, 1);
    let (consul, serf) = (pool.add_consul("k1"), pool.add_serf(&["rack=r1"]));
    let mut expected = vec![("s1", "alive"), ("s2", "alive"), ("s3", "alive"), ("c1", "alive")];
    if consul {
        expected.push(("k1", "alive"));
    }
    if serf {
        expected.push(("f1", "alive"));
    }
    pool.wait_until_all_see(&expected);
    let first = &pool.ours.agents[0];
    assert_eq!(voters(first), 3, "only our own servers are in Raft");
    wait_for_health(first, "c1", Some("passing"));
    pool.wait_until_all_see_the_same_tags();

    // Through a server and through a client, to all, real ones among them.
    let events = [fire(first), fire(&pool.ours.agents[3])];
    for agent in &pool.ours.agents {
        for id in &events {
            wait_for("the event", LIMIT, || (heard(agent, id)? > 0).then_some(())).unwrap_or_else(
                |error| {
                    panic!("{error}: {} knows of {}, not of {id}", agent.name, events_at(agent))
                },
            );
        }
    }
    if serf {
        let all = || (pool.heard_by_serf() == events.len()).then_some(());
        wait_for("serf to hear of the events", LIMIT, all).unwrap();
    }

    if consul {
        wait_for_health(&pool.ours.agents[0], "k1", Some("passing"));
        pool.agent("k1").process.kill().unwrap();
        expected.iter_mut().filter(|(name, _)| *name == "k1").for_each(|one| one.1 = "failed");
        pool.wait_until_all_see(&expected);
        wait_for_health(&pool.ours.agents[0], "k1", Some("critical"));
    }
    let client = pool.agent("c1");
    assert_eq!(client.client().put("/v1/agent/leave", b"").unwrap().status, 200);
    assert!(client.process.wait(LIMIT).unwrap().success());
    expected.iter_mut().filter(|(name, _)| *name == "c1").for_each(|one| one.1 = "left");
    pool.wait_until_all_see(&expected);
    wait_for_health(&pool.ours.agents[0], "c1", None);
    // Seconds and many exchanges of everything later, each has heard of each event once.
    for agent in pool.ours.agents.iter().filter(|agent| agent.name.starts_with('s')) {
        for id in &events {
            assert_eq!(heard(agent, id), Some(1), "{}", agent.name);
        }
    }
    if serf {
        assert_eq!(pool.heard_by_serf(), events.len());
        let left = Command::new(peers::find("serf").unwrap())
            .args(["leave", &format!("-rpc-addr={}", pool.serf_rpc)])
            .status();
        assert!(left.unwrap().success());
        pool.serf.as_mut().unwrap().wait(LIMIT).unwrap();
        pool.serf = None;
        expected.iter_mut().filter(|(name, _)| *name == "f1").for_each(|one| one.1 = "left");
        pool.wait_until_all_see(&expected);
    }
}

#[test]
fn three_servers_and_five_clients_form_a_cluster_from_consuls_own_configuration() {
    let _alone = alone();
    let config = json!({
        "performance": { "raft_multiplier": 1 },
        "limits": { "http_max_conns_per_client": 400, "rpc_max_conns_per_client": 200 },
        "log_level": "INFO",
        "disable_update_check": true,
        "enable_debug": true,
    });
    let pool = Pool::start(&config, 5);
    match peers::find("consul") {
        // Consul takes the very files that ours run from.
        Some(consul) => {
            for agent in &pool.ours.agents {
                let file = pool.ours.folder.path().join(&agent.name).join("agent.json");
                let said = Command::new(&consul).arg("validate").arg(file).output().unwrap();
                assert!(said.status.success(), "{}: {said:?}", agent.name);
            }
        }
        None => left_out("consul"),
    }
    let names = ["s1", "s2", "s3", "c1", "c2", "c3", "c4", "c5"];
    pool.wait_until_all_see(&names.map(|name| (name, "alive")));
    assert_eq!(voters(&pool.ours.agents[7]), 3);
    for agent in &pool.ours.agents {
        agent.write(&format!("by/{}", agent.name), "written", LIMIT).unwrap();
        wait_for_health(&pool.ours.agents[3], &agent.name, Some("passing"));
    }
    for agent in &pool.ours.agents {
        let keys = agent.client().get("/v1/kv/by?keys").unwrap().json().unwrap();
        assert_eq!(keys.as_array().unwrap().len(), names.len(), "{} sees {keys}", agent.name);
    }
}

#[test]
fn who_is_said_to_leave_shows_as_leaving_until_it_says_otherwise() {
    let _alone = alone();
    // Who stands still for a while is not taken for failed.
    let config = json!({ "gossip_lan": { "suspicion_mult": 60 } });
    let pool = pool::Pool::on_loopback(1, 1, &config).unwrap();
    pool.wait_until_all_alive(LIMIT).unwrap();
    // It can't say otherwise yet.
    pool.agents[1].process.pause().unwrap();
    let forced = pool.agents[0].client().put("/v1/agent/force-leave/c1", b"").unwrap();
    assert_eq!(forced.status, 200, "{}", forced.text());
    pool.wait_until_these_see(&[0], &pool.alive_but(&[1], "leaving"), LIMIT).unwrap();
    pool.agents[1].process.resume().unwrap();
    pool.wait_until_all_alive(LIMIT).unwrap();
    assert_eq!(pool.count(&["EventMemberLeave"]), 0, "{}", pool.logs());
}

/// Waits at an agent for another list of events than the one with this index; gives how many it then has, and its index.
fn wait_at(agent: &Agent, query: &str, index: u64) -> thread::JoinHandle<(usize, u64)> {
    let mut client = agent.client_with(2 * LIMIT);
    let target = format!("/v1/event/list?{query}&index={index}&wait={}s", LIMIT.as_secs());
    thread::spawn(move || {
        let answer = client.get(&target).unwrap();
        let events = answer.json().unwrap();
        (events.as_array().unwrap().len(), answer.index().unwrap())
    })
}

#[test]
fn lists_of_events_are_waited_for_by_the_index_of_all_or_of_a_name() {
    let _alone = alone();
    let pool = pool::Pool::on_loopback(1, 1, &json!({})).unwrap();
    pool.wait_until_all_alive(LIMIT).unwrap();
    let (server, client) = (&pool.agents[0], &pool.agents[1]);
    let fire = |name: &str| {
        let fired = server.client().put(&format!("/v1/event/fire/{name}"), b"").unwrap();
        assert_eq!(fired.status, 200, "{}", fired.text());
    };
    // Waits until the client has so many events; gives the index of the list.
    let listed = |query: &str, count: usize| {
        wait_for("the list", LIMIT, || {
            let answer = client.client().get(&format!("/v1/event/list?{query}")).ok()?;
            (answer.json().ok()?.as_array()?.len() == count).then(|| answer.index())?
        })
        .unwrap()
    };
    // None yet: there is an index to wait by all the same.
    let waiting = wait_at(client, "", listed("", 0));
    fire("deploy");
    let (count, index) = waiting.join().unwrap();
    assert_eq!((count, index), (1, listed("", 1)));
    let named = listed("name=deploy", 1);
    assert_eq!(named, index, "it is the last event's");
    // Of one name: another's event doesn't end the wait, which is over with its own.
    let (all, one) = (wait_at(client, "", index), wait_at(client, "name=deploy", named));
    fire("restart");
    let (count, index) = all.join().unwrap();
    assert_eq!((count, index), (2, listed("", 2)));
    assert_ne!(index, named);
    assert!(!one.is_finished(), "another name's event woke it");
    fire("deploy");
    let (count, index) = one.join().unwrap();
    assert_eq!((count, index), (2, listed("name=deploy", 2)));
    // Where nothing comes, the same list is told at the end.
    let same = client.client().get(&format!("/v1/event/list?index={}&wait=10ms", listed("", 3)));
    assert_eq!(same.unwrap().index(), Some(listed("", 3)));
}

#[test]
fn an_agent_with_a_key_shares_a_pool_with_one_without_where_it_verifies_neither_way() {
    let _alone = alone();
    let lenient = json!({
        "encrypt": KEY, "encrypt_verify_incoming": false, "encrypt_verify_outgoing": false,
    });
    let mut pool = pool::Pool::on_loopback(1, 0, &lenient).unwrap();
    let client = |name, mut config: Value| {
        config["server"] = json!(false);
        Options::ours(name).unwrap().config(config)
    };
    pool.add(client("c1", json!({ "encrypt": "" }))).unwrap();
    pool.wait_until_all_alive(LIMIT).unwrap();
    let expected = pool.alive_but(&[], "alive");
    // What it says is encrypted, and what it hears needn't be.
    let halfway = json!({ "encrypt_verify_outgoing": true });
    let halfway = pool.add(client("c2", halfway)).unwrap();
    wait_for("c2's joining", LIMIT, || {
        (pool.agents[halfway].count(&["(LAN) joined"]) > 0).then_some(())
    })
    .unwrap();
    pool.agents[halfway].process.kill().unwrap();
    // It takes nothing in clear: the server's answer neither.
    let strict = json!({ "encrypt_verify_incoming": true, "encrypt_verify_outgoing": true });
    let strict = pool.add(client("c3", strict)).unwrap();
    wait_for("a clear error", LIMIT, || {
        (pool.agents[strict].count(&["(LAN) couldn't join"]) > 0).then_some(())
    })
    .unwrap();
    let alone = pool.agents[strict].members().unwrap();
    assert_eq!(alone.into_keys().collect::<Vec<_>>(), ["c3"]);
    assert_eq!(pool.agents[strict].count(&["(LAN) joined"]), 0);
    for agent in &pool.agents[..2] {
        let seen = agent.members().unwrap();
        assert!(expected.iter().all(|(name, status)| seen.get(name) == Some(status)), "{seen:?}");
    }
}

#[test]
fn our_agents_share_a_pool_with_real_ones() {
    let _alone = alone();
    one_pool(&json!({}));
}

#[test]
fn our_agents_share_an_encrypted_pool_with_real_ones() {
    let _alone = alone();
    one_pool(&json!({ "encrypt": KEY }));
}

#[test]
fn a_key_is_replaced_on_all_members_at_once_real_ones_among_them() {
    let _alone = alone();
    let mut pool = Pool::start(&json!({ "encrypt": KEY }), 1);
    let mut expected = vec![("s1", "alive"), ("s2", "alive"), ("s3", "alive"), ("c1", "alive")];
    if pool.add_consul("k1") {
        expected.push(("k1", "alive"));
    }
    if pool.add_serf(&[]) {
        expected.push(("f1", "alive"));
    }
    pool.wait_until_all_see(&expected);
    let all = expected.len();
    // What is told while an answer is lost, on a busy machine, tells of fewer members.
    let wait_for_keys = |pool: &Pool, keys: &Value| {
        let mut last = String::new();
        wait_for("all to hold the same keys", LIMIT, || {
            let answer = keyring(&pool.ours.agents[0], "GET", "").ok()?;
            last = answer.text();
            let rings = answer.json().ok()?;
            let of = |wan| rings.as_array()?.iter().find(|ring| ring["WAN"] == wan);
            let (wan, lan) = (of(true)?, of(false)?);
            // The servers' pool between datacenters has the same keys.
            let alike = wan["Keys"].as_object()?.keys().eq(lan["Keys"].as_object()?.keys());
            (alike && lan["Keys"] == *keys && lan["NumNodes"] == all).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {last}, not {keys}"));
    };
    let first = &pool.ours.agents[0];
    change_keyring(first, "POST", NEXT_KEY).unwrap();
    wait_for_keys(&pool, &json!({ KEY: all, NEXT_KEY: all }));
    for (method, key) in [("PUT", NEXT_KEY), ("DELETE", KEY)] {
        change_keyring(first, method, key).unwrap();
    }
    wait_for_keys(&pool, &json!({ NEXT_KEY: all }));
    // And they still understand each other.
    pool.agent("c1").process.kill().unwrap();
    expected.iter_mut().filter(|(name, _)| *name == "c1").for_each(|one| one.1 = "failed");
    pool.wait_until_all_see(&expected);
    // A restart takes the keys from the file: the configured one is nobody's any more.
    pool.agent("c1").process.restart().unwrap();
    expected.iter_mut().filter(|(name, _)| *name == "c1").for_each(|one| one.1 = "alive");
    pool.wait_until_all_see(&expected);
}

#[test]
fn who_calls_itself_a_server_without_our_own_tags_is_not_taken_into_raft() {
    let _alone = alone();
    let mut pool = Pool::start(&json!({}), 0);
    // As a Consul server says it; a real one would take ours into its Raft, so one that has no Raft says it.
    let id = "id=3a2f2b8c-0000-4000-8000-000000000001";
    let server = ["role=consul", "dc=dc1", "port=8300", "vsn=2", "build=1.8.7:", "raft_vsn=3", id];
    if !pool.add_serf(&server) {
        return;
    }
    pool.wait_until_all_see(&["s1", "s2", "s3", "f1"].map(|name| (name, "alive")));
    let first = &pool.ours.agents[0];
    // The leader has looked at it, then.
    wait_for_health(first, "f1", Some("passing"));
    let answer = first.client().get("/v1/operator/raft/configuration").unwrap().json().unwrap();
    assert_eq!(answer["Servers"].as_array().unwrap().len(), 3, "{answer}");
}

#[test]
fn a_real_server_sees_our_clients_as_its_own() {
    real_server(&json!({}));
}

#[test]
fn a_real_server_sees_our_clients_as_its_own_in_an_encrypted_pool() {
    real_server(&json!({ "encrypt": KEY }));
}

fn real_server(config: &Value) {
    let _alone = alone();
    let Some(options) = peers::consul("k1") else { return left_out("consul") };
    let folder = tempfile::tempdir().unwrap();
    let with = |own: Value| {
        let mut all = config.clone();
        all.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        all
    };
    let options = options.config(with(json!({ "bootstrap": true })));
    let mut server = Agent::start(&options, folder.path()).unwrap();
    server.wait_until_ready(Duration::from_mins(1)).unwrap();
    let address = server.gossip_address();
    let own = json!({ "server": false, "retry_join": [address], "retry_interval": "1s" });
    let mut clients: Vec<Agent> = ["c1", "c2"]
        .iter()
        .map(|name| {
            let options = Options::ours(name).unwrap().config(with(own.clone()));
            Agent::start(&options, folder.path()).unwrap()
        })
        .collect();
    let mut expected: BTreeMap<String, String> =
        ["c1", "c2", "k1"].map(|name| (name.to_owned(), "alive".to_owned())).into();
    let see = |agents: &[&Agent], expected: &BTreeMap<String, String>| {
        for agent in agents {
            let seen = || (agent.members()? == *expected).then_some(());
            wait_for(&format!("{} to see all", agent.name), LIMIT, seen).unwrap();
        }
    };
    see(&[&server, &clients[0], &clients[1]], &expected);
    let said = tags(&server).unwrap();
    for client in &clients {
        wait_for_health(&server, &client.name, Some("passing"));
        assert_eq!(tags(client).as_ref(), Some(&said), "{}", client.name);
    }
    let event = fire(&server);
    for agent in clients.iter().chain([&server]) {
        wait_for("the event", LIMIT, || (heard(agent, &event)? > 0).then_some(())).unwrap();
    }
    // It doesn't take Consul's server for one of ours: it has nobody to ask.
    let answer = clients[0].client().get("/v1/kv/a").unwrap();
    assert_eq!(answer.status, 500, "{}", answer.text());
    if config.get("encrypt").is_some() {
        for (method, key) in [("POST", NEXT_KEY), ("PUT", NEXT_KEY), ("DELETE", KEY)] {
            change_keyring(&server, method, key).unwrap();
        }
    }
    // What is told after the keys were changed is understood by all.
    let mut gone = clients.pop().unwrap();
    assert_eq!(gone.client().put("/v1/agent/leave", b"").unwrap().status, 200);
    assert!(gone.process.wait(LIMIT).unwrap().success());
    expected.insert("c2".to_owned(), "left".to_owned());
    see(&[&server, &clients[0]], &expected);
    wait_for_health(&server, "c2", None);
    assert_eq!(heard(&clients[0], &event), Some(1));
    clients[0].process.kill().unwrap();
    expected.insert("c1".to_owned(), "failed".to_owned());
    see(&[&server], &expected);
    wait_for_health(&server, "c1", Some("critical"));
}

/// Options for one of our agents, and for one of Consul's where it is installed.
fn both(name: &str) -> Vec<Options> {
    let consul = peers::consul(name);
    if consul.is_none() {
        left_out("consul");
    }
    [Options::ours(name).unwrap()].into_iter().chain(consul).collect()
}

/// What an agent is told to join, at the addresses that are given; which pool that is, and how often it tries.
fn unjoinable(nobody: &[String]) -> [(&'static str, bool, Value, &'static str, usize); 6] {
    let once = &nobody[..1];
    let retry = json!({ "retry_join": once, "retry_max": 2, "retry_interval": "700ms" });
    let wan = json!({ "retry_join_wan": once, "retry_max_wan": 1, "retry_interval_wan": "300ms" });
    [
        ("server-start", true, json!({ "start_join": once }), "LAN", 1),
        ("client-start", false, json!({ "start_join": nobody }), "LAN", 1),
        ("wan-start", true, json!({ "start_join_wan": once }), "WAN", 1),
        ("server-retry", true, retry.clone(), "LAN", 3),
        ("client-retry", false, retry, "LAN", 3),
        ("wan-retry", true, wan, "WAN", 2),
    ]
}

#[test]
fn an_agent_that_finds_nobody_to_join_gives_up_in_consuls_words() {
    let folder = tempfile::tempdir().unwrap();
    let block = Ports::take().unwrap();
    let nobody = [10, 11].map(|port| format!("127.0.0.1:{}", block.port(port)));
    let cases = unjoinable(&nobody);
    let begin = Instant::now();
    let mut agents = Vec::new();
    for (name, server, config, pool, tries) in &cases {
        for (of, options) in both(name).into_iter().enumerate() {
            let mut config = config.clone();
            config["server"] = json!(server);
            let folder = folder.path().join(of.to_string());
            let agent = Agent::start(&options.config(config.clone()), &folder).unwrap();
            agents.push((agent, *pool, *tries, config));
        }
    }
    for (agent, pool, tries, config) in &mut agents {
        let status = agent.process.wait(LIMIT).unwrap();
        // Ours has a text of several lines on one.
        let log = agent.process.log().replace("\\n", "\n").replace("\\t", "\t");
        let name = agent.process.name();
        assert_eq!(status.code(), Some(1), "{name}: {log}");
        let addresses: Vec<&str> = config
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| key.contains("_join"))
            .flat_map(|(_, list)| list.as_array().unwrap())
            .map(|address| address.as_str().unwrap())
            .collect();
        let joining = format!(
            "agent: ({pool}) joining: {}_addresses=[{}]\n",
            pool.to_lowercase(),
            addresses.join(", ")
        );
        assert_eq!(log.matches(&joining).count(), *tries, "{name}: {joining} {log}");
        let count = match addresses.len() {
            1 => "1 error".to_owned(),
            n => format!("{n} errors"),
        };
        let failed = |address: &&str| {
            format!(
                "\t* Failed to join 127.0.0.1: dial tcp {address}: connect: connection refused\n"
            )
        };
        let failed: String = addresses.iter().map(failed).collect();
        let error = format!("{count} occurred:\n{failed}\n");
        let told = format!("agent: ({pool}) couldn't join: number_of_nodes=0 error=\"{error}\"\n");
        assert_eq!(log.matches(&told).count(), *tries, "{name}: {told} {log}");
        let again =
            format!("agent: Join cluster failed, will retry: cluster={pool} retry_interval=");
        assert_eq!(log.matches(&again).count(), *tries - 1, "{name}: {log}");
        let over = format!(
            "agent: Retry join failed: error=\"agent: max join {pool} retry exhausted, exiting\""
        );
        assert_eq!(log.contains(&over), *tries > 1, "{name}: {log}");
    }
    // Three tries are two intervals.
    assert!(begin.elapsed() >= Duration::from_millis(1400));
}

#[test]
fn one_address_that_answers_is_enough_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let block = Ports::take().unwrap();
    let nobody = format!("127.0.0.1:{}", block.port(10));
    let first = Options::ours("s1").unwrap().config(json!({ "bootstrap": true }));
    let mut first = Agent::start(&first, folder.path()).unwrap();
    first.wait_until_ready(LIMIT).unwrap();
    let mut options = Options::ours("c1").unwrap().config(json!({ "server": false }));
    let there = first.gossip_address();
    options.arguments = [&nobody, &there].map(|address| format!("-join={address}")).into();
    let mut client = Agent::start(&options, folder.path()).unwrap();
    client.wait_until_ready(LIMIT).unwrap();
    let joined = "agent: (LAN) joined: number_of_nodes=1";
    let completed = "agent: Join completed. Initial agents synced with: agent_count=1";
    // It may serve before it has said so.
    wait_for("its word", LIMIT, || (client.count(&[completed]) > 0).then_some(())).unwrap();
    assert_eq!([joined, completed].map(|line| client.count(&[line])), [1, 1]);
}

/// A member is looked for every 15 s that is to be forgotten: this runs beside the other tests.
#[test]
fn a_member_that_failed_is_forgotten_after_the_time_to_reconnect() {
    let folder = tempfile::tempdir().unwrap();
    let mut pools = Vec::new();
    for (of, server) in both("s1").into_iter().enumerate() {
        let folder = folder.path().join(of.to_string());
        let config = json!({ "bootstrap": true, "reconnect_timeout": "1s" });
        let mut server = Agent::start(&server.config(config), &folder).unwrap();
        server.wait_until_ready(LIMIT).unwrap();
        let client = both("c1").remove(of);
        let config = json!({ "server": false, "start_join": [server.gossip_address()] });
        let client = Agent::start(&client.config(config), &folder).unwrap();
        pools.push((server, client));
    }
    for (server, client) in &mut pools {
        wait_for_health(server, "c1", Some("passing"));
        client.process.kill().unwrap();
    }
    for (server, _) in &pools {
        wait_for("it to be forgotten", LIMIT, || {
            (!server.members()?.contains_key("c1")).then_some(())
        })
        .unwrap();
        wait_for_health(server, "c1", None);
        for event in ["EventMemberFailed: c1 127.0.0.1", "EventMemberReap: c1"] {
            assert_eq!(server.count(&["serf: ", event]), 1, "{event}");
        }
    }
}
