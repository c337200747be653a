//! Servers that leave for good while clients write, one after another, the leader among them; one that is needed; and what
//! signals do to agents, and restarts to those that left, beside a real Consul.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use conformance::{
    agent::{Agent, Cluster, Kind, Options, alone},
    http::{Address, Client},
    peers,
    pool::Pool,
    ports::Ports,
    process::wait_for,
    writers::{self, Spread},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where in an agent's block of ports its HTTP lies, and its gossip.
const HTTP: u16 = 0;
const SERF_LAN: u16 = 2;
const LIMIT: Duration = Duration::from_secs(40);

/// Three servers that find each other by gossip.
fn three(folder: &TempDir, config: &Value) -> Vec<Agent> {
    let blocks: Vec<Ports> = (0..3).map(|_| Ports::take().unwrap()).collect();
    let gossip = |ports: &Ports| format!("127.0.0.1:{}", ports.port(SERF_LAN));
    let all: Vec<String> = blocks.iter().map(gossip).collect();
    let mut agents = Vec::new();
    for (n, ports) in blocks.into_iter().enumerate() {
        let mut own = config.clone();
        own["bootstrap_expect"] = json!(3);
        own["retry_join"] = json!(all);
        own["retry_interval"] = json!("1s");
        let options = Options::ours(&format!("s{}", n + 1)).unwrap().config(own);
        agents.push(Agent::start_on(ports, &options, folder.path()).unwrap());
    }
    for agent in &mut agents {
        agent.wait_until_ready(LIMIT).unwrap();
    }
    for agent in &agents {
        wait_for("all members", LIMIT, || (members(agent)?.len() == 3).then_some(())).unwrap();
    }
    agents
}

/// The leader's place among these, once all of them know it.
fn leader(agents: &[Agent]) -> usize {
    wait_for("a leader that all know", LIMIT, || {
        let leader = agents.first()?.leader()?;
        let knows = |agent: &Agent| agent.leader().as_ref() == Some(&leader);
        agents.iter().all(knows).then_some(())?;
        agents.iter().position(|agent| agent.server_address() == leader)
    })
    .unwrap()
}

fn members(agent: &Agent) -> Option<Vec<(String, u64)>> {
    let answer = agent.client().get("/v1/agent/members").ok()?.json().ok()?;
    let member =
        |member: &Value| Some((member["Name"].as_str()?.to_owned(), member["Status"].as_u64()?));
    answer.as_array()?.iter().map(member).collect()
}

/// The names of the servers in Raft, as one of them tells it.
fn in_raft(agent: &Agent) -> Option<Vec<String>> {
    let answer = agent.client().get("/v1/operator/raft/configuration").ok()?.json().ok()?;
    let servers = answer["Servers"].as_array()?;
    let mut names: Vec<String> =
        servers.iter().filter_map(|server| server["Node"].as_str().map(str::to_owned)).collect();
    names.sort();
    Some(names)
}

/// Clients that write, each through all servers that are there in turn.
struct Writers {
    stop: AtomicBool,
    ports: Mutex<Vec<u16>>,
    acknowledged: Mutex<Vec<(String, Instant)>>,
}

impl Writers {
    fn write(&self, writer: usize) {
        let mut n = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let port = ports[usize::try_from(n).unwrap() % ports.len()];
            let mut client = Client::new(([127, 0, 0, 1], port).into(), Duration::from_secs(10));
            let key = format!("w{writer}/{n}");
            n += 1;
            match client.put(&format!("/v1/kv/{key}"), key.as_bytes()) {
                Ok(answer) if answer.status == 200 => {
                    let mut all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push((key, Instant::now()));
                }
                Ok(_) | Err(_) => thread::sleep(Duration::from_millis(20)),
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Has a server leave by its API; it answers, and ends by itself with success.
fn leave(agent: &mut Agent) {
    let answer = agent.client_with(LIMIT).put("/v1/agent/leave", b"").unwrap();
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), agent.process.log_tail(30));
    let status = agent.process.wait(LIMIT).unwrap();
    assert_eq!(status.code(), Some(0), "{}", agent.process.log_tail(30));
}

#[test]
fn servers_leave_one_after_another_while_clients_write_and_nothing_is_lost() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut agents = three(&folder, &json!({}));
    let writers = Arc::new(Writers {
        stop: AtomicBool::new(false),
        ports: Mutex::new(agents.iter().map(|agent| agent.ports().port(HTTP)).collect()),
        acknowledged: Mutex::default(),
    });
    let threads: Vec<_> = (0..3)
        .map(|writer| {
            let writers = Arc::clone(&writers);
            thread::spawn(move || writers.write(writer))
        })
        .collect();
    let goes_on = |what: &str| {
        let before = writers.acknowledged();
        wait_for(what, LIMIT, || (writers.acknowledged() > before + 20).then_some(())).unwrap();
    };
    goes_on("writes at three");
    // First a follower, then the leader.
    for follows in [1, 0] {
        let at = (leader(&agents) + follows) % agents.len();
        let mut gone = agents.remove(at);
        leave(&mut gone);
        {
            let mut ports = writers.ports.lock().unwrap_or_else(PoisonError::into_inner);
            *ports = agents.iter().map(|agent| agent.ports().port(HTTP)).collect();
        }
        let mut names: Vec<String> = agents.iter().map(|agent| agent.name.clone()).collect();
        names.sort();
        for agent in &agents {
            wait_for("those that stay in Raft", LIMIT, || (in_raft(agent)? == names).then_some(()))
                .unwrap();
            wait_for("its leaving", LIMIT, || {
                members(agent)?.contains(&(gone.name.clone(), 3)).then_some(())
            })
            .unwrap();
            let health = format!("/v1/health/node/{}", gone.name);
            let mut last = None;
            let ended = wait_for("its node's end", LIMIT, || {
                let checks = agent.client().get(&health).ok()?.json().ok()?;
                last = Some(checks.clone());
                checks.as_array()?.is_empty().then_some(())
            });
            ended.unwrap_or_else(|error| {
                let logs: Vec<_> = agents.iter().map(|a| a.process.log_tail(60)).collect();
                panic!("{error}: {last:?}\n{}\n{}", logs.join("\n"), gone.process.log_tail(60))
            });
        }
        goes_on("writes at those that stay");
    }
    writers.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    // The last one leaves as well, and has everything when it is started again.
    let mut last = agents.remove(0);
    leave(&mut last);
    last.process.restart().unwrap();
    last.wait_until_ready(LIMIT).unwrap();
    let acknowledged = writers.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
    let mut client = last.client();
    for (key, _) in acknowledged.iter() {
        let answer = client.get(&format!("/v1/kv/{key}?raw")).unwrap();
        assert_eq!((answer.status, answer.text()), (200, key.clone()), "an acknowledged write");
    }
    let gaps = acknowledged.windows(2).map(|pair| pair[1].1.saturating_duration_since(pair[0].1));
    println!("{} writes, longest stall {:?}", acknowledged.len(), gaps.max());
}

#[test]
fn a_leader_that_leaves_holds_up_nobody_and_votes_again_once_it_is_started_again() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let soon = json!({ "server_stabilization_time": "1s", "last_contact_threshold": "2s" });
    let mut agents = three(&folder, &json!({ "autopilot": soon }));
    let before = voters(&agents[0]).unwrap();
    assert_eq!(before.len(), 3);
    let mut seed = 0;
    // The writers ask the others. On a busy machine one of those may lead by the time that they write.
    let (at, writers) = loop {
        let at = leader(&agents);
        let others = agents.iter().enumerate().filter(|(other, _)| *other != at);
        let http: Vec<Address> = others.map(|(_, agent)| agent.http().clone()).collect();
        // Each time keys of their own: nobody but them wrote there.
        seed += 1;
        let writers = writers::Writers::start(&http, 4, Spread::All, seed);
        writers.wait_for_write(LIMIT).unwrap();
        if leader(&agents) == at {
            break (at, writers);
        }
    };
    let mut leader = agents.remove(at);
    let since = writers.elapsed();
    leave(&mut leader);
    writers.wait_for_write(LIMIT).unwrap();
    // It hands over first: nobody who asks the others waits for an election, even on a busy machine.
    let stall = writers.longest_stall(since);
    assert!(stall < Duration::from_secs(5), "{stall:?}");
    assert!(leader.count(&["raft: this server leaves and hands over what it leads"]) > 0);
    wait_for("two voters", LIMIT, || (voters(&agents[0])?.len() == 2).then_some(())).unwrap();
    leader.process.restart().unwrap();
    // It is the same server as before, not one that takes its place.
    wait_for("its vote", LIMIT, || (voters(&agents[0])? == before).then_some(())).unwrap_or_else(
        |error| panic!("{error}: {:?}\n{}", voters(&agents[0]), leader.process.log_tail(30)),
    );
    leader.wait_until_ready(LIMIT).unwrap();
    agents.push(leader);
    let tally = writers.stop().judge(&agents.iter().collect::<Vec<_>>()).unwrap();
    println!("{tally:?}, longest stall while the leader left {stall:?}");
    assert!(tally.acknowledged > 20, "{tally:?}");
}

/// Sets it at the end of its scope, however that ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// At a server that is out of Raft nobody confirms a read, and a poll sees no change.
#[test]
fn clients_of_a_server_that_leaves_wait_for_nothing() {
    let _alone = alone();
    // Who waits there is let go of after that time at the latest, or held so long for want of a leader.
    let long = Duration::from_secs(25);
    let times = json!({ "leave_drain_time": "25s", "rpc_hold_timeout": "25s" });
    let config = json!({ "log_level": "debug", "performance": times });
    let mut pool = Pool::on_loopback(3, 1, &config).unwrap();
    pool.wait_until_all_alive(LIMIT).unwrap();
    pool.agents[3].write("k", "before", LIMIT).unwrap();
    let answer = pool.agents[3].client().get("/v1/kv/k").unwrap();
    let poll = format!("/v1/kv/k?raw&index={}&wait=5m", answer.index().unwrap());
    let log = pool.agents[3].process.log();
    let line = log.lines().rfind(|line| line.contains("New server in use")).unwrap();
    let used = (0..3).find(|i| line.contains(&pool.agents[*i].name)).unwrap();
    let http = pool.agents[3].http().clone();
    let client = || Client::at(http.clone(), Duration::from_mins(1));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        let polls = scope.spawn(|| {
            let start = Instant::now();
            (client().get(&poll).unwrap(), start.elapsed())
        });
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut slowest = Duration::ZERO;
                    while !stop.load(Ordering::Relaxed) {
                        let answer = client().get("/v1/kv/k").unwrap();
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        slowest = slowest.max(answer.elapsed);
                        thread::sleep(Duration::from_millis(5));
                    }
                    slowest
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(500));
        let (left, right) = pool.agents.split_at_mut(used);
        let (gone, right) = right.split_first_mut().unwrap();
        let stays = left.iter().chain(right.iter()).next().unwrap();
        let leaves = scope.spawn(|| leave(gone));
        wait_for("its end in Raft", LIMIT, || (in_raft(stays)?.len() == 2).then_some(())).unwrap();
        stays.write("k", "after", LIMIT).unwrap();
        let (answer, took) = polls.join().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "after"));
        assert!(took < long, "{took:?}");
        leaves.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        let slowest = readers.into_iter().map(|reader| reader.join().unwrap()).max();
        assert!(slowest < Some(long), "{slowest:?}");
        println!("a poll saw the change after {took:?}, the slowest read took {slowest:?}");
    });
}

#[test]
fn a_server_that_left_votes_again_where_servers_know_each_other_by_addresses_alone() {
    let _alone = alone();
    let soon = json!({ "server_stabilization_time": "1s", "last_contact_threshold": "2s" });
    let mut cluster = Cluster::start(3, &json!({ "autopilot": soon })).unwrap();
    let leader = cluster.wait_for_leader(LIMIT).unwrap();
    let before = voters(&cluster.agents[leader]).unwrap();
    let mut gone = cluster.agents.remove((leader + 1) % 3);
    leave(&mut gone);
    let stays = &cluster.agents[0];
    wait_for("two voters", LIMIT, || (voters(stays)?.len() == 2).then_some(())).unwrap();
    // Gossip knows nobody else here, so no leader hears that it is back.
    assert_eq!(members(stays).unwrap().len(), 1);
    gone.process.restart().unwrap();
    wait_for("its vote", LIMIT, || (voters(stays)? == before).then_some(())).unwrap_or_else(
        |error| panic!("{error}: {:?}\n{}", voters(stays), gone.process.log_tail(30)),
    );
    gone.wait_until_ready(LIMIT).unwrap();
}

/// The servers that vote, by name and id, as one of them tells it.
fn voters(agent: &Agent) -> Option<BTreeMap<String, String>> {
    let answer = agent.client().get("/v1/operator/raft/configuration").ok()?.json().ok()?;
    let servers = answer["Servers"].as_array()?.iter().filter(|server| server["Voter"] == true);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    servers.map(|server| Some((text(&server["Node"])?, text(&server["ID"])?))).collect()
}

#[test]
fn a_server_that_the_others_need_says_so_and_stays() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut agents = three(&folder, &json!({}));
    // Nobody cleans up meanwhile: with the dead one gone, two would do.
    let off = json!({ "CleanupDeadServers": false }).to_string();
    wait_for("autopilot's configuration", LIMIT, || {
        let target = "/v1/operator/autopilot/configuration";
        let answer = agents[0].client().put(target, off.as_bytes()).ok()?;
        (answer.status == 200).then_some(())
    })
    .unwrap();
    let at = (leader(&agents) + 1) % agents.len();
    agents.remove(at).process.kill().unwrap();
    // The leader's word: it has not heard the dead one for a while.
    thread::sleep(Duration::from_secs(2));
    let at = (leader(&agents) + 1) % agents.len();
    let follower = &mut agents[at];
    let answer = follower.client_with(LIMIT).put("/v1/agent/leave", b"").unwrap();
    let needed = "this server cannot leave: of the 2 servers that would be left, ";
    assert!(answer.status == 500 && answer.text().starts_with(needed), "{}", answer.text());
    assert!(follower.process.is_running());
    for agent in &agents {
        let key = format!("/v1/kv/{}", agent.name);
        wait_for("a write", LIMIT, || {
            (agent.client().put(&key, b"1").ok()?.status == 200).then_some(())
        })
        .unwrap();
        assert_eq!(in_raft(agent).unwrap().len(), 3);
    }
}

/// Our agents, and Consul's where it is installed.
fn kinds() -> Vec<Kind> {
    let consul = peers::find("consul").is_some();
    if !consul {
        assert!(!peers::required(), "consul must be there: run conformance/peers/get target/peers");
        eprintln!("left out: no consul (conformance/peers/get target/peers fetches it)");
    }
    [Kind::Proconsul, Kind::Consul].into_iter().take(1 + usize::from(consul)).collect()
}

/// A server that stays, and agents that joined it and are in its Raft where they are servers.
struct Group {
    first: Agent,
    others: Vec<Agent>,
    folder: TempDir,
}

impl Group {
    /// Starts them with these names and configurations; `true` stands for a server.
    fn start(kind: Kind, others: &[(&str, bool, Value)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = |name: &str| match kind {
            Kind::Proconsul => Options::ours(name).unwrap(),
            Kind::Consul => peers::consul(name).unwrap(),
        };
        // Nobody else has to confirm that one has failed: most do at once. Who stands still for a moment on a busy machine
        // must not fail.
        let quick = json!({
            "gossip_interval": "50ms", "probe_interval": "500ms", "probe_timeout": "250ms",
            "suspicion_mult": 2,
        });
        // Servers that join stay learners, so that it doesn't matter who of them goes; and failed ones stay.
        let first = options("s1").config(json!({
            "bootstrap": true,
            "autopilot": { "cleanup_dead_servers": false, "server_stabilization_time": "1h" },
            "gossip_lan": quick,
        }));
        let first = Agent::start(&first, folder.path()).unwrap();
        let mut group = Self { first, others: Vec::new(), folder };
        group.first.wait_until_ready(LIMIT).unwrap();
        for (name, server, config) in others {
            let mut config = config.clone();
            config["server"] = json!(server);
            config["gossip_lan"] = quick.clone();
            let mut options = options(name).config(config);
            options.arguments.push(format!("-join={}", group.first.gossip_address()));
            group.others.push(Agent::start(&options, group.folder.path()).unwrap());
        }
        for agent in &mut group.others {
            agent.wait_until_ready(LIMIT).unwrap();
        }
        group.wait_until_first_sees(|_| "alive");
        let servers = 1 + others.iter().filter(|(_, server, _)| *server).count();
        wait_for("all servers in Raft", LIMIT, || {
            (in_raft(&group.first)?.len() == servers).then_some(())
        })
        .unwrap();
        group
    }

    /// Waits until all others that run see the first one alive: who takes it for failed has nobody to tell that it leaves.
    fn wait_until_first_is_seen(&self) {
        for agent in self.others.iter().filter(|agent| agent.process.id().is_some()) {
            wait_for("the first one alive", LIMIT, || {
                (agent.members()?.get("s1")? == "alive").then_some(())
            })
            .unwrap_or_else(|error| panic!("{error}: {} sees {:?}", agent.name, agent.members()));
        }
    }

    fn wait_until_first_sees(&self, expected: impl Fn(&str) -> &'static str) {
        let expected: BTreeMap<&str, &str> =
            self.others.iter().map(|agent| (&*agent.name, expected(&agent.name))).collect();
        wait_for("the members", LIMIT, || {
            let members = self.first.members()?;
            expected
                .iter()
                .all(|(name, status)| members.get(*name).is_some_and(|now| now == status))
                .then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {expected:?}: {:?}", self.first.members()));
    }
}

/// An agent's name, whether it is a server, what it is configured with, the signal, and whether it leaves on it.
type Case = (&'static str, bool, Value, Signal, bool);

fn signals() -> [Case; 8] {
    let skip = |skip: bool| json!({ "skip_leave_on_interrupt": skip });
    let leave = |leave: bool| json!({ "leave_on_terminate": leave });
    [
        ("client-interrupted", false, json!({}), Signal::INT, true),
        ("client-interrupted-stays", false, skip(true), Signal::INT, false),
        ("client-terminated", false, json!({}), Signal::TERM, true),
        ("client-terminated-stays", false, leave(false), Signal::TERM, false),
        ("server-interrupted", true, json!({}), Signal::INT, false),
        ("server-interrupted-leaves", true, skip(false), Signal::INT, true),
        ("server-terminated", true, json!({}), Signal::TERM, false),
        ("server-terminated-leaves", true, leave(true), Signal::TERM, true),
    ]
}

/// Consul exits with 1 where it doesn't leave, and ours with 0. Its servers that leave are left out: they take the SIGPIPE of
/// a connection that breaks meanwhile for a second signal, and may fail then.
fn signals_are_heeded(kind: Kind) {
    let ours = kind == Kind::Proconsul;
    let cases: Vec<_> = signals()
        .into_iter()
        .filter(|(_, server, .., leaves)| ours || !(*server && *leaves))
        .collect();
    let mut agents: Vec<_> =
        cases.iter().map(|(name, server, config, ..)| (*name, *server, config.clone())).collect();
    agents.push(("client-interrupted-twice", false, json!({})));
    let mut group = Group::start(kind, &agents);
    let mut twice = group.others.pop().unwrap();
    // Those that leave go first: their word may get lost where everybody else dies meanwhile.
    for phase in [true, false] {
        group.wait_until_first_is_seen();
        let now = || cases.iter().enumerate().filter(|(_, case)| case.4 == phase);
        for (at, (_, _, _, signal, _)) in now() {
            group.others[at].process.signal(*signal).unwrap();
        }
        if phase {
            interrupt_twice(&mut twice);
        }
        for (at, case) in now() {
            ends_as_told(&mut group.others[at], case, ours);
        }
        group.wait_until_first_sees(|name| {
            let leaves = cases.iter().find(|(other, ..)| *other == name).unwrap().4;
            match (leaves, phase) {
                (true, _) => "left",
                (false, true) => "alive",
                (false, false) => "failed",
            }
        });
    }
}

/// A second signal ends an agent that is leaving at once.
fn interrupt_twice(agent: &mut Agent) {
    agent.process.signal(Signal::INT).unwrap();
    wait_for("its leaving", LIMIT, || {
        (agent.count(&["agent: Gracefully shutting down agent..."]) > 0).then_some(())
    })
    .unwrap();
    agent.process.signal(Signal::INT).unwrap();
    let status = agent.process.wait(LIMIT).unwrap();
    assert_eq!(status.code(), Some(1), "{}", agent.process.log_tail(20));
    assert_eq!(agent.count(&["agent: Caught second signal, Exiting: signal=interrupt"]), 1);
    assert_eq!(agent.count(&["agent: Graceful exit completed"]), 0);
}

/// An agent that got its signal ends with the code and the words for that.
fn ends_as_told(agent: &mut Agent, (name, _, _, signal, leaves): &Case, ours: bool) {
    let status = agent.process.wait(LIMIT).unwrap();
    let said = |text: &str| agent.count(&[text]) > 0;
    let signal = if *signal == Signal::INT { "interrupt" } else { "terminated" };
    let code = i32::from(!ours && !leaves);
    assert_eq!(status.code(), Some(code), "{name}, ours: {ours}");
    for (text, expected) in [
        (&*format!("agent: Caught: signal={signal}"), true),
        ("agent: Gracefully shutting down agent...", *leaves),
        ("agent: Graceful exit completed", *leaves),
        ("agent: Graceful shutdown disabled. Exiting", !leaves),
        ("agent: Requesting shutdown", true),
        ("agent: shutdown complete", true),
        (&format!("agent: Exit code: code={code}"), true),
    ] {
        assert_eq!(said(text), expected, "{name}, ours: {ours}: {text}");
    }
}

#[test]
fn signals_make_clients_leave_and_servers_stay_unless_configured_otherwise() {
    let _alone = alone();
    thread::scope(|scope| {
        for kind in kinds() {
            scope.spawn(move || signals_are_heeded(kind));
        }
    });
}

fn rejoins_as_configured(kind: Kind) {
    let agents = [
        ("back", false, json!({ "rejoin_after_leave": true })),
        ("stays", false, json!({ "rejoin_after_leave": false })),
    ];
    let mut group = Group::start(kind, &agents);
    group.wait_until_first_is_seen();
    for agent in &group.others {
        agent.process.signal(Signal::INT).unwrap();
    }
    for agent in &mut group.others {
        assert_eq!(agent.process.wait(LIMIT).unwrap().code(), Some(0), "{kind:?} {}", agent.name);
    }
    group.wait_until_first_sees(|_| "left");
    // Nobody tells them whom to join.
    for agent in &mut group.others {
        let file = group.folder.path().join(&agent.name).join("agent.json");
        agent
            .process
            .set_arguments(["agent".to_owned(), format!("-config-file={}", file.display())]);
    }
    group.others[0].process.restart().unwrap();
    group.wait_until_first_sees(|name| if name == "back" { "alive" } else { "left" });
    group.others[1].process.restart().unwrap();
    // What is remembered is tried before the agent answers anybody.
    let alone = BTreeMap::from([("stays".to_owned(), "alive".to_owned())]);
    let members = wait_for("its members", LIMIT, || group.others[1].members()).unwrap();
    assert_eq!(members, alone, "{kind:?}");
    let remembered = ["serf: Re-joined to previously known node: s1"];
    let rejoined: Vec<usize> = group.others.iter().map(|agent| agent.count(&remembered)).collect();
    assert_eq!(rejoined, [1, 0], "{kind:?}");
    group.wait_until_first_sees(|name| if name == "back" { "alive" } else { "left" });
}

#[test]
fn an_agent_that_left_rejoins_whom_it_knew_where_its_configuration_says_so() {
    let _alone = alone();
    thread::scope(|scope| {
        for kind in kinds() {
            scope.spawn(move || rejoins_as_configured(kind));
        }
    });
}
