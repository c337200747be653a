//! `/v1/agent/self`: what this agent is, of what exists: no gossip yet, so no coordinates and no Serf statistics.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{Inner, Settings, go, json, respond::Reply};
use crate::server::Status;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Agent<'a> {
    config: Config<'a>,
    member: Member<'a>,
    stats: BTreeMap<&'static str, BTreeMap<&'static str, String>>,
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

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Member<'a> {
    name: &'a str,
    addr: String,
    port: u16,
    tags: BTreeMap<&'static str, String>,
    status: u8,
    protocol_min: u8,
    protocol_max: u8,
    protocol_cur: u8,
    delegate_min: u8,
    delegate_max: u8,
    delegate_cur: u8,
}

/// Describes this agent.
pub(crate) fn describe(inner: &Inner) -> Reply {
    let settings = &inner.settings;
    let status = inner.server.status();
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
        member: Member {
            name: &settings.node_name,
            addr: settings.rpc_address.ip().to_string(),
            port: settings.serf_lan_port,
            tags: tags(settings),
            status: 1,
            protocol_min: 1,
            protocol_max: 5,
            protocol_cur: 2,
            delegate_min: 2,
            delegate_max: 5,
            delegate_cur: 4,
        },
        stats: stats(settings, &status),
        meta: &settings.node_meta,
    }))
}

fn tags(settings: &Settings) -> BTreeMap<&'static str, String> {
    let mut tags = BTreeMap::from([
        ("acls", "0".to_owned()),
        ("build", format!("{}:{}", settings.version, settings.revision)),
        ("dc", settings.datacenter.clone()),
        ("id", settings.node_id.clone()),
        ("port", settings.rpc_address.port().to_string()),
        ("raft_vsn", "3".to_owned()),
        ("role", if settings.server { "consul" } else { "node" }.to_owned()),
        ("segment", String::new()),
        ("vsn", "2".to_owned()),
        ("vsn_max", "3".to_owned()),
        ("vsn_min", "2".to_owned()),
    ]);
    if settings.bootstrap {
        tags.insert("bootstrap", "1".to_owned());
    }
    if let Some(expect) = settings.bootstrap_expect {
        tags.insert("expect", expect.to_string());
    }
    tags
}

fn stats(
    settings: &Settings,
    status: &Status,
) -> BTreeMap<&'static str, BTreeMap<&'static str, String>> {
    let leader_address = status.leader_address.clone().unwrap_or_default();
    let build = BTreeMap::from([
        ("prerelease", settings.prerelease.clone()),
        ("revision", settings.revision.clone()),
        ("version", settings.version.clone()),
    ]);
    let consul = BTreeMap::from([
        ("acl", "disabled".to_owned()),
        ("bootstrap", settings.bootstrap.to_string()),
        ("known_datacenters", "1".to_owned()),
        ("leader", status.is_leader.to_string()),
        ("leader_addr", leader_address),
        ("server", settings.server.to_string()),
    ]);
    BTreeMap::from([
        ("build", build),
        ("consul", consul),
        ("raft", raft(status)),
        ("runtime", runtime()),
    ])
}

fn raft(status: &Status) -> BTreeMap<&'static str, String> {
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
