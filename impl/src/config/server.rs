//! What the server half of the agent is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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
    /// The limits.
    pub limits: Limits,
    /// How many entries after which a snapshot is due.
    pub raft_snapshot_threshold: u64,
    /// How often that is looked at.
    pub raft_snapshot_interval: Duration,
    /// How many entries stay in the log behind a snapshot.
    pub raft_trailing_logs: u64,
}
