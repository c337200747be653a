//! Connections whose other end vanished without a word: servers in network namespaces of their own, on a bridge whose
//! ports can be closed.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

use std::{
    thread,
    time::{Duration, Instant},
};

use conformance::{
    agent::{Agent, Options, Place},
    namespaces::Network,
    process::wait_for,
};
use serde_json::json;

const SERVERS: usize = 3;
/// What `net` promises of a connection whose other end acknowledges nothing, and what a busy machine adds to it. The kernel's
/// own defaults are a quarter of an hour and two hours.
const NOTICED: Duration = Duration::from_secs(10 + 5);
/// How long anything else may take.
const LIMIT: Duration = Duration::from_secs(40);

/// How many connections to another server a server saw break.
fn broken(server: &Agent, other: &Agent) -> usize {
    server.count(&["connection broke", &other.server_address()])
}

#[test]
fn a_server_that_vanishes_without_a_word_is_missed_by_every_connection_within_ten_seconds() {
    let Some(network) = Network::make(SERVERS, false).unwrap() else { return };
    let folder = tempfile::tempdir().unwrap();
    let places: Vec<Place> = (0..SERVERS).map(|server| network.place(server)).collect();
    let config = json!({
        "bootstrap_expect": SERVERS,
        "server_addresses": places.iter().map(Place::server_address).collect::<Vec<_>>(),
        "log_level": "debug",
    });
    let start = |(n, place)| {
        let options = Options::ours(&format!("s{n}")).unwrap().config(config.clone());
        Agent::start_at(place, &options, folder.path()).unwrap()
    };
    let servers: Vec<Agent> = places.into_iter().enumerate().map(start).collect();
    let leader = wait_for("a leader that all know", Duration::from_secs(30), || {
        let leader = servers[0].leader()?;
        servers.iter().all(|server| server.leader().as_ref() == Some(&leader)).then_some(())?;
        servers.iter().position(|server| server.server_address() == leader)
    })
    .unwrap();
    let put = |value: &str| servers[leader].write("k", value, LIMIT).unwrap();
    put("before");
    // Idle connections have been probed by then, and those in use are in the middle of it.
    thread::sleep(Duration::from_secs(4));
    let lost = (leader + 1) % SERVERS;
    let before = broken(&servers[leader], &servers[lost]);
    let before_lost = broken(&servers[lost], &servers[leader]);
    network.unplug(lost).unwrap();
    let closed = Instant::now();
    // Raft's connection breaks by what it sends; the one for bulk data is idle, and breaks by the kernel's probes.
    wait_for("both of the leader's connections to break", NOTICED, || {
        (broken(&servers[leader], &servers[lost]) >= before + 2).then_some(())
    })
    .unwrap();
    let left = NOTICED.saturating_sub(closed.elapsed());
    wait_for("both of the lost server's connections to break", left, || {
        (broken(&servers[lost], &servers[leader]) >= before_lost + 2).then_some(())
    })
    .unwrap();
    println!("all four broke within {:?}", closed.elapsed());
    // The others go on.
    put("after");
    network.plug(lost).unwrap();
    wait_for("the lost server to catch up", Duration::from_secs(20), || {
        let answer = servers[lost].client().get("/v1/kv/k?raw&stale").ok()?;
        (answer.text() == "after").then_some(())
    })
    .unwrap();
}
