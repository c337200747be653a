//! Three servers in one process: replication, forwarding, linearizable reads, loss of the leader, restart from disk.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{path::Path, time::Duration};

use proconsul::{
    config::ServerSettings,
    server::{Consistency, Server},
};
use spec::state::{Command, KvCommand, Outcome};

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
        ..ServerSettings::dev(&format!("s{n}"), addresses[n])
    }
}

fn set(key: &str, value: &str) -> Command {
    Command::Kv(KvCommand::Set { key: key.into(), value: value.into(), flags: 0 })
}

async fn voters(server: &Server) -> usize {
    let configuration = server.raft_configuration(true).await.unwrap();
    configuration.servers.iter().filter(|server| server.voter).count()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never: {what}");
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
        let (_, outcome) = server.propose(set(&key, "v")).await.unwrap();
        assert_eq!(outcome, Outcome::Applied(true));
        for reader in &servers {
            let view = reader.read(Consistency::Default).await.unwrap();
            assert!(view.state.kv_get(key.as_bytes()).1.is_some(), "{key}");
            assert!(view.known_leader);
        }
    }
    let names: Vec<_> = servers[1].status().peers.into_iter().map(|peer| peer.leader).collect();
    assert_eq!(names.iter().filter(|leads| **leads).count(), 1);

    // Without its leader the cluster elects another and goes on.
    let leader = servers.iter().position(|server| server.status().is_leader).unwrap();
    let gone = servers.remove(leader);
    gone.shutdown().await;
    drop(gone);
    let (_, outcome) = servers[0].propose(set("after", "the leader")).await.unwrap();
    assert_eq!(outcome, Outcome::Applied(true));

    // All restart from their disks; nothing that was acknowledged is gone.
    for server in servers.drain(..) {
        server.shutdown().await;
    }
    for n in 0..3 {
        servers.push(Server::start(settings(n, &addresses, directory.path())).await.unwrap());
    }
    for server in &servers {
        let view = server.read(Consistency::Consistent).await.unwrap();
        for key in ["through/0", "through/1", "through/2", "after"] {
            assert!(view.state.kv_get(key.as_bytes()).1.is_some(), "{key}");
        }
    }

    // A state saved is put back, on all servers.
    let archive = servers[0].save_snapshot(false).await.unwrap();
    servers[1].propose(set("later", "gone")).await.unwrap();
    servers[2].restore_snapshot(archive.bytes).await.unwrap();
    let view = servers[1].read(Consistency::Default).await.unwrap();
    assert!(view.state.kv_get(b"later").1.is_none());
    assert!(view.state.kv_get(b"after").1.is_some());
    for server in servers {
        server.shutdown().await;
    }
}
