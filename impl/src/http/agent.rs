//! `/v1/agent/self`: what this agent is: its configuration, its member, its coordinate and its statistics.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use serde::Serialize;
use spec::{serf::Status, swim::Versions};

use super::{Inner, Settings, go, json, members::Member, respond::Reply, wan};
use crate::{
    gossip::{LocalAgent, PoolMember},
    server::Status as ServerStatus,
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Agent<'a> {
    config: Config<'a>,
    coord: Option<Coordinate>,
    member: Member<'a>,
    stats: Stats,
    meta: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config<'a> {
    datacenter: &'a str,
    primary_datacenter: &'a str,
    node_name: &'a str,
    #[serde(rename = "NodeID")]
    node_id: &'a str,
    revision: &'a str,
    server: bool,
    version: &'a str,
    build_date: &'a str,
}

/// Where the agent is in the network, in seconds.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Coordinate {
    vec: [f64; 8],
    error: f64,
    adjustment: f64,
    height: f64,
}

impl From<&spec::serf::coordinate::Coordinate> for Coordinate {
    fn from(from: &spec::serf::coordinate::Coordinate) -> Self {
        let spec::serf::coordinate::Coordinate { vec, error, adjustment, height } = from.clone();
        Self { vec, error, adjustment, height }
    }
}

/// Describes this agent, a server.
pub(crate) fn describe(inner: &Inner) -> Reply {
    let status = inner.server.status();
    let datacenters = wan::datacenters(&inner.settings, inner.agent.as_ref()).len();
    let stats = stats(&inner.settings, &status, datacenters);
    described(&inner.settings, stats, inner.agent.as_ref())
}

/// Describes this agent, which is no server and knows so many.
pub(crate) fn describe_client(
    settings: &Settings,
    known_servers: usize,
    agent: Option<&LocalAgent>,
) -> Reply {
    let consul = BTreeMap::from([
        ("acl", "disabled".to_owned()),
        ("known_servers", known_servers.to_string()),
        ("server", "false".to_owned()),
    ]);
    let stats =
        BTreeMap::from([("build", build(settings)), ("consul", consul), ("runtime", runtime())]);
    described(settings, stats, agent)
}

type Stats = BTreeMap<&'static str, BTreeMap<&'static str, String>>;

fn described(settings: &Settings, mut stats: Stats, local: Option<&LocalAgent>) -> Reply {
    let mut coord = None;
    let mut known = None;
    if let Some(pool) = local.map(LocalAgent::pool) {
        stats.insert("gossip_lan", pool.counted());
        stats.insert("serf_lan", pool.figures());
        if let Some(wan) = local.and_then(LocalAgent::wan) {
            stats.insert("gossip_wan", wan.counted());
            stats.insert("serf_wan", wan.figures());
        }
        coord = pool.coordinate().map(|coordinate| Coordinate::from(&*coordinate));
        known = pool.member(pool.name());
    }
    let member = known.unwrap_or_else(|| own(settings));
    Reply::json(json::encode(&Agent {
        config: Config {
            datacenter: &settings.datacenter,
            primary_datacenter: &settings.datacenter,
            node_name: &settings.node_name,
            node_id: &settings.node_id,
            revision: &settings.revision,
            server: settings.server,
            version: &settings.version,
            build_date: &settings.build_date,
        },
        coord,
        member: (&*member).into(),
        stats,
        meta: &settings.node_meta,
    }))
}

/// This agent as a member, where it doesn't gossip: as it is configured.
fn own(settings: &Settings) -> Arc<PoolMember> {
    Arc::new(PoolMember {
        name: settings.node_name.as_str().into(),
        endpoint: SocketAddr::new(settings.rpc_address.ip(), settings.serf_lan_port),
        tags: settings.identity(None).tags(),
        status: Status::Alive,
        versions: Versions::CURRENT,
    })
}

fn build(settings: &Settings) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("prerelease", settings.prerelease.clone()),
        ("revision", settings.revision.clone()),
        ("version", settings.version.clone()),
    ])
}

fn stats(settings: &Settings, status: &ServerStatus, datacenters: usize) -> Stats {
    let leader_address = status.leader_address.clone().unwrap_or_default();
    let mut consul = BTreeMap::from([
        ("acl", "disabled".to_owned()),
        ("bootstrap", settings.bootstrap.to_string()),
        ("known_datacenters", datacenters.to_string()),
        ("leader", status.is_leader.to_string()),
        ("leader_addr", leader_address),
        ("server", settings.server.to_string()),
    ]);
    if let Some(reason) = &status.diverged {
        consul.insert("diverged", reason.clone());
    }
    BTreeMap::from([
        ("build", build(settings)),
        ("consul", consul),
        ("raft", raft(status)),
        ("runtime", runtime()),
    ])
}

fn raft(status: &ServerStatus) -> BTreeMap<&'static str, String> {
    let peers: Vec<String> = status
        .peers
        .iter()
        .map(|peer| {
            let suffrage = if peer.voter { "Voter" } else { "Nonvoter" };
            format!("{{Suffrage:{suffrage} ID:{} Address:{}}}", peer.id, peer.address)
        })
        .collect();
    let others = |peer: &&crate::server::PeerStatus| peer.voter && peer.id != status.node_id;
    let last_contact = match status.last_contact {
        _ if status.is_leader => "0".to_owned(),
        None => "never".to_owned(),
        Some(Duration::ZERO) => "0".to_owned(),
        Some(since) => go::duration(since),
    };
    BTreeMap::from([
        ("applied_index", status.applied_index.to_string()),
        ("commit_index", status.commit_index.to_string()),
        ("fsm_pending", status.fsm_pending.to_string()),
        ("last_contact", last_contact),
        ("last_log_index", status.last_log_index.to_string()),
        ("last_log_term", status.last_log_term.to_string()),
        ("last_snapshot_index", status.last_snapshot_index.to_string()),
        ("last_snapshot_term", status.last_snapshot_term.to_string()),
        ("latest_configuration", format!("[{}]", peers.join(" "))),
        ("num_peers", status.peers.iter().filter(others).count().to_string()),
        // Servers are named by id, which Consul calls protocol 3.
        ("protocol_version", "3".to_owned()),
        ("state", if status.is_leader { "Leader" } else { "Follower" }.to_owned()),
        ("term", status.term.to_string()),
    ])
}

fn runtime() -> BTreeMap<&'static str, String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // A runtime's tasks are what comes closest to goroutines.
    let (tasks, workers) = tokio::runtime::Handle::try_current().map_or((0, 0), |handle| {
        let metrics = handle.metrics();
        (metrics.num_alive_tasks(), metrics.num_workers())
    });
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    BTreeMap::from([
        ("arch", arch.to_owned()),
        ("cpu_count", cores.to_string()),
        ("goroutines", tasks.to_string()),
        ("max_procs", workers.to_string()),
        ("os", std::env::consts::OS.to_owned()),
        ("version", concat!("rust", env!("CARGO_PKG_RUST_VERSION")).to_owned()),
    ])
}
