//! What the server half of the agent is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use spec::state::{AutopilotSettings, agreement::INTERVAL};

use super::Limits;

/// The settings of one server, in the terms of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// In memory, for trying things out; the server forms a cluster alone.
    pub dev: bool,
    /// Where state lives; nowhere in `-dev`.
    pub data_dir: Option<PathBuf>,
    /// The datacenter's name.
    pub datacenter: String,
    /// The node's name.
    pub node_name: String,
    /// The node's id, where the configuration fixes it; otherwise the data directory's, or a new one.
    pub node_id: Option<String>,
    /// Where the server listens for other servers.
    pub bind_address: SocketAddr,
    /// What other servers are told to dial.
    pub advertise_address: SocketAddr,
    /// Whether this server may form a cluster alone.
    pub bootstrap: bool,
    /// How many servers form the cluster; 0: this server alone (`bootstrap`, `dev`), or it joins one that stands.
    pub bootstrap_expect: usize,
    /// Where the servers are: `host:port` of their RPC listeners; its own may be among them.
    pub server_addresses: Vec<String>,
    /// What Raft's timers are multiplied by.
    pub raft_multiplier: u32,
    /// How long a request is held while there is no leader.
    pub rpc_hold_timeout: Duration,
    /// How long a server may be silent that gossip never knew.
    pub reconnect_timeout: Duration,
    /// What autopilot of a new cluster starts with.
    pub autopilot: AutopilotSettings,
    /// The limits.
    pub limits: Limits,
    /// How many entries after which a snapshot is due.
    pub raft_snapshot_threshold: u64,
    /// How often that is looked at.
    pub raft_snapshot_interval: Duration,
    /// How many entries stay in the log behind a snapshot.
    pub raft_trailing_logs: u64,
    /// Where flight records of Raft go, one for each start; none are written where there is no folder.
    pub flight_record_dir: Option<PathBuf>,
    /// At which indexes servers compare their states: the multiples of it. No key sets it.
    pub digest_interval: u64,
}

impl ServerSettings {
    /// A server as `-dev` starts it: alone, in memory, with Consul's limits.
    pub fn dev(node_name: &str, bind_address: SocketAddr) -> Self {
        Self {
            dev: true,
            data_dir: None,
            datacenter: "dc1".to_owned(),
            node_name: node_name.to_owned(),
            node_id: None,
            bind_address,
            advertise_address: bind_address,
            bootstrap: false,
            bootstrap_expect: 0,
            server_addresses: Vec::new(),
            raft_multiplier: 1,
            rpc_hold_timeout: Duration::from_secs(7),
            reconnect_timeout: Duration::from_hours(72),
            autopilot: AutopilotSettings::default(),
            limits: Limits {
                http_max_conns_per_client: 200,
                rpc_max_conns_per_client: 100,
                rpc_rate: -1.0,
                rpc_max_burst: 1000,
                rpc_handshake_timeout: Duration::from_secs(5),
                kv_max_value_size: 512 << 10,
            },
            raft_snapshot_threshold: 16_384,
            raft_snapshot_interval: Duration::from_secs(30),
            raft_trailing_logs: 10_240,
            flight_record_dir: None,
            digest_interval: INTERVAL,
        }
    }
}
