//! Three servers in one process: replication, forwarding, linearizable reads, loss of the leader, restart from disk, and
//! a server whose state is wrong.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{path::Path, time::Duration};

use proconsul::{
    config::ServerSettings,
    driver::keeper,
    http::{self, Api},
    server::{Consistency, Server, ServerError},
    storage::{self, LogOptions},
};
use spec::state::{AutopilotSettings, Command, KvCommand, Outcome, snapshot::Saver};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::Instant,
};

/// Ports that nobody has now; the listener that finds them is closed before the server opens its own.
fn free_addresses(n: usize) -> Vec<std::net::SocketAddr> {
    let listeners: Vec<_> =
        (0..n).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

fn settings(n: usize, addresses: &[std::net::SocketAddr], data_dir: &Path) -> ServerSettings {
    ServerSettings {
        dev: false,
        data_dir: Some(data_dir.join(format!("s{n}"))),
        bootstrap_expect: 3,
        server_addresses: addresses.iter().map(ToString::to_string).collect(),
        // Who joins later votes soon, on a busy machine too.
        autopilot: AutopilotSettings {
            last_contact_threshold_ns: 2_000_000_000,
            server_stabilization_time_ns: 1_000_000_000,
            ..AutopilotSettings::default()
        },
        ..ServerSettings::dev(&format!("s{n}"), addresses[n])
    }
}

fn set(key: &str, value: &str) -> Command {
    Command::Kv(KvCommand::Set { key: key.into(), value: value.into(), flags: 0 })
}

async fn voters(server: &Server) -> usize {
    let Ok(configuration) = server.raft_configuration(true).await else { return 0 };
    configuration.servers.iter().filter(|server| server.voter).count()
}

/// How long anything may take, on a machine that stands still now and then.
const PATIENCE: Duration = Duration::from_mins(1);

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Asks until it is done. A machine that stands still for a moment elects another leader, and a request that was under way
/// has an open outcome: all that is asked for here may happen twice.
async fn done<R>(mut ask: impl AsyncFnMut() -> Result<R, ServerError>) -> R {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(
                ServerError::OutcomeUnknown(_)
                | ServerError::NoLeader
                | ServerError::Unavailable(_),
            ) if start.elapsed() < PATIENCE => {}
            Err(error) => panic!("{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Writes through a server until that is acknowledged.
async fn set_until_done(server: &Server, key: &str, value: &str) {
    let (_, outcome) = done(async || server.propose(set(key, value)).await).await;
    assert_eq!(outcome, Outcome::Applied(true), "{key}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_replicate_survive_their_leader_and_restart_from_disk() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = free_addresses(3);
    let mut servers = Vec::new();
    for n in 0..3 {
        servers.push(Server::start(settings(n, &addresses, directory.path())).await.unwrap());
    }
    until("three voters", async || voters(&servers[0]).await == 3).await;

    // A write through each server is seen by a linearizable read at every other.
    for (n, server) in servers.iter().enumerate() {
        let key = format!("through/{n}");
        set_until_done(server, &key, "v").await;
        for reader in &servers {
            until("a read that knows a leader", async || {
                let view = done(async || reader.read(Consistency::Default).await).await;
                assert!(view.state.kv_get(key.as_bytes()).1.is_some(), "{key}");
                view.known_leader
            })
            .await;
        }
    }
    until("one leader", async || {
        servers[1].status().peers.iter().filter(|peer| peer.leader).count() == 1
    })
    .await;

    // Without its leader the cluster elects another and goes on.
    let leads = |server: &Server| server.status().is_leader;
    let mut leader = None;
    until("a leader", async || {
        leader = servers.iter().position(leads);
        leader.is_some()
    })
    .await;
    let gone = servers.remove(leader.unwrap());
    gone.shutdown().await;
    drop(gone);
    set_until_done(&servers[0], "after", "the leader").await;

    // All restart from their disks; nothing that was acknowledged is gone.
    for server in servers.drain(..) {
        server.shutdown().await;
    }
    for n in 0..3 {
        servers.push(Server::start(settings(n, &addresses, directory.path())).await.unwrap());
    }
    for server in &servers {
        let view = done(async || server.read(Consistency::Consistent).await).await;
        for key in ["through/0", "through/1", "through/2", "after"] {
            assert!(view.state.kv_get(key.as_bytes()).1.is_some(), "{key}");
        }
    }

    // A state saved is put back, on all servers.
    let archive = done(async || servers[0].save_snapshot(false).await).await;
    set_until_done(&servers[1], "later", "gone").await;
    done(async || servers[2].restore_snapshot(archive.bytes.clone()).await).await;
    let view = done(async || servers[1].read(Consistency::Default).await).await;
    assert!(view.state.kv_get(b"later").1.is_none());
    assert!(view.state.kv_get(b"after").1.is_some());
    for server in servers {
        server.shutdown().await;
    }
}

/// Puts another state of the same index in place of the one in the newest snapshot, as a faulty memory might have while
/// it was written: file, checksums and digest are in order. Gives the snapshot's index.
fn tamper(data_dir: &Path) -> u64 {
    let opened = storage::open(data_dir, None, LogOptions::default()).unwrap();
    let meta = opened.durable.snapshot.unwrap();
    let mut state = keeper::load(&opened.snapshots, &meta).unwrap();
    let (index, time) = state.applied();
    state.apply(index, time, &set("before", "rotten"), &mut Vec::new());
    let mut writer = opened.snapshots.writer(meta.id).unwrap();
    for chunk in Saver::new(state) {
        writer.write_chunk(&chunk).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), meta.chunks);
    index.0
}

/// Serves a server's API; gives its address and the task.
async fn serve(server: &Server) -> (std::net::SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let api = Api::new(server.clone(), http::Settings::default(), None).unwrap();
    (address, tokio::spawn(http::serve(listener, api, std::future::pending::<()>())))
}

/// What the API answers, head and body.
async fn ask(api: std::net::SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(api).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Asserts that a server refuses everything, and says why and what to do.
async fn assert_refuses(server: &Server, data_dir: &Path) {
    let mut errors = vec![server.propose(set("through", "the wrong one")).await.unwrap_err()];
    for consistency in [Consistency::Default, Consistency::Consistent, Consistency::Stale] {
        errors.push(server.read(consistency).await.unwrap_err());
    }
    errors.push(server.published().unwrap_err());
    errors.push(server.save_snapshot(true).await.unwrap_err());
    for error in errors {
        assert!(matches!(error, ServerError::Diverged(_)), "{error:?}");
        let text = error.to_string();
        let advice = format!("move {} away", data_dir.join("raft").display());
        assert!(text.starts_with("this server has diverged: at index "), "{text}");
        assert!(text.contains(&advice), "{text}");
        assert_eq!(server.status().diverged, Some(text));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_state_is_wrong_stops_serving_and_the_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = free_addresses(3);
    let settings = |n: usize| ServerSettings {
        digest_interval: 8,
        raft_snapshot_threshold: 4,
        raft_snapshot_interval: Duration::ZERO,
        ..settings(n, &addresses, directory.path())
    };
    let data_dir = directory.path().join("s2");
    let (one, two) = tokio::join!(Server::start(settings(0)), Server::start(settings(1)));
    let (one, two) = (one.unwrap(), two.unwrap());
    let bad = Server::start(settings(2)).await.unwrap();
    until("three voters", async || voters(&one).await == 3).await;
    set_until_done(&one, "before", "right").await;
    for n in 0..20 {
        set_until_done(&one, "count", &n.to_string()).await;
    }
    until("a snapshot", async || bad.status().last_snapshot_index > 16).await;
    for server in [&one, &two, &bad] {
        assert_eq!(server.status().diverged, None);
    }

    // A stale read of it would be wrong from here on, until it has compared.
    bad.shutdown().await;
    drop(bad);
    let index = tamper(&data_dir);
    assert!(index > 16);
    let bad = Server::start(settings(2)).await.unwrap();
    let (api, serving) = serve(&bad).await;
    let parked =
        tokio::spawn(
            async move { ask(api, "GET", "/v1/kv/before?stale&index=1000000&wait=60s").await },
        );
    for n in 0..9 {
        set_until_done(&one, "count", &n.to_string()).await;
    }
    until("it is found", async || bad.status().diverged.is_some()).await;
    assert_refuses(&bad, &data_dir).await;
    let reason = bad.status().diverged.unwrap();
    let mut answers = vec![parked.await.unwrap()];
    for (method, path) in [
        ("GET", "/v1/kv/before"),
        ("GET", "/v1/kv/before?consistent"),
        ("GET", "/v1/kv/before?stale"),
        ("PUT", "/v1/kv/before"),
        ("DELETE", "/v1/kv/before"),
        ("GET", "/v1/snapshot?stale"),
    ] {
        answers.push(ask(api, method, path).await);
    }
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 500 ") && answer.ends_with(&reason), "{answer}");
    }
    assert!(ask(api, "GET", "/v1/agent/self").await.contains("\"diverged\":\"this server has"));

    // It doesn't lead, though it may be told to.
    let _ = one.transfer_leadership(Some(bad.status().node_id)).await;
    until("another leads", async || one.status().is_leader || two.status().is_leader).await;
    for server in [&one, &two] {
        set_until_done(server, "after", "right").await;
        let view = done(async || server.read(Consistency::Default).await).await;
        let entry = view.state.kv_get(b"before").1.unwrap();
        assert_eq!(*entry.value, *b"right");
        assert_eq!(server.status().diverged, None);
    }
    assert!(!bad.status().is_leader);
    assert_refuses(&bad, &data_dir).await;

    // Started again it is found again: what it has on disk is still wrong.
    serving.abort();
    let _ = serving.await;
    bad.shutdown().await;
    drop(bad);
    let bad = Server::start(settings(2)).await.unwrap();
    for n in 0..9 {
        set_until_done(&one, "count", &n.to_string()).await;
    }
    until("it is found again", async || bad.status().diverged.is_some()).await;
    assert_refuses(&bad, &data_dir).await;

    // As it says: it rejoins as a new server, and is right.
    bad.shutdown().await;
    drop(bad);
    std::fs::rename(data_dir.join("raft"), directory.path().join("away")).unwrap();
    let new = Server::start(settings(2)).await.unwrap();
    until("it votes again", async || voters(&one).await == 3).await;
    for n in 0..9 {
        set_until_done(&new, "count", &n.to_string()).await;
    }
    let view = done(async || new.read(Consistency::Default).await).await;
    assert_eq!(*view.state.kv_get(b"before").1.unwrap().value, *b"right");
    assert_eq!(new.status().diverged, None);
    for server in [one, two, new] {
        server.shutdown().await;
    }
}
