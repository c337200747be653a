//! The agent's configuration: defaults, then files in command-line order, then flags, checked once and typed.

pub mod flags;
pub mod gossip;
pub mod load;
pub mod resolve;
pub mod schema;
pub mod server;
mod sockaddr;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use resolve::resolve;
use serde_json::Value;
pub use server::ServerSettings;
use spec::raft::NodeId;
use spec::state::{AutopilotSettings, agreement::INTERVAL};

use self::gossip::GossipConfig;
use crate::cli::CONSUL_VERSION;
use crate::client::ClientSettings;
use crate::http;
use crate::http::Network;
use crate::telemetry::Level;

/// What is wrong with a configuration, in Consul's words where it has some.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// What an agent is started with: the files in order, and what the flags say.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `-config-file` and `-config-dir`, in the order of the command line.
    pub files: Vec<PathBuf>,
    /// The other flags, as a fragment of the same shape as a file; it is merged behind the files.
    pub flags: Value,
    /// `-hcl`: fragments as they were given; they are merged last, in this order.
    pub fragments: Vec<String>,
    /// `-dev`.
    pub dev: bool,
    /// `-config-format=json`: files are JSON whatever they are called.
    pub all_json: bool,
}

/// Where the HTTP API listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// An address and port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// `unix_sockets`: whose the sockets in the file system are, and who else may use them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketAccess {
    /// The owner, by name or number; whoever runs the agent, if none.
    pub user: Option<String>,
    /// The group, by name or number; that of whoever runs the agent, if none.
    pub group: Option<String>,
    /// The permissions; what the process's mask leaves, if none.
    pub mode: Option<u32>,
}

/// `limits`.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// How many HTTP connections one client address may hold; 0 is no limit.
    pub http_max_conns_per_client: usize,
    /// How many RPC connections one client address may hold; 0 is no limit.
    pub rpc_max_conns_per_client: usize,
    /// Requests a second that the agent sends to servers; below 0 is no limit.
    pub rpc_rate: f64,
    /// How far a burst may exceed `rpc_rate`.
    pub rpc_max_burst: usize,
    /// How long a new RPC connection may take to introduce itself.
    pub rpc_handshake_timeout: Duration,
    /// The largest value of a key, in bytes.
    pub kv_max_value_size: usize,
}

/// `http_config` and what else shapes the HTTP API.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpConfig {
    /// Where it listens.
    pub listen: Vec<Listen>,
    /// Who may use those of its listeners that are in the file system.
    pub socket_access: SocketAccess,
    /// Headers that every routed answer carries.
    pub response_headers: Vec<(String, String)>,
    /// Path prefixes that answer 403.
    pub block_endpoints: Vec<String>,
    /// Where writes may come from; empty is anywhere.
    pub allow_write_http_from: Vec<Network>,
    /// Whether paths with unprintable characters pass.
    pub disable_unprintable_char_filter: bool,
    /// How long a blocking query waits that doesn't say.
    pub default_query_time: Duration,
    /// How long a blocking query may wait.
    pub max_query_time: Duration,
}

/// A checked configuration.
#[expect(clippy::struct_excessive_bools, reason = "each of them is a key of its own")]
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `-dev`: in memory, one server, for trying things out.
    pub dev: bool,
    /// Whether this agent is a server.
    pub server: bool,
    /// Whether this server may form a cluster alone.
    pub bootstrap: bool,
    /// How many servers form the cluster; 0 where `bootstrap` says it, or where one is joined.
    pub bootstrap_expect: usize,
    /// Where state lives; nowhere in `-dev`.
    pub data_dir: Option<PathBuf>,
    /// The datacenter's name.
    pub datacenter: String,
    /// The node's name.
    pub node_name: String,
    /// The node's id, where the configuration fixes it.
    pub node_id: Option<String>,
    /// What the node says of itself to whoever asks for its metadata.
    pub node_meta: BTreeMap<String, String>,
    /// The LAN's gossip.
    pub gossip: GossipConfig,
    /// The WAN's gossip, where this agent is a member.
    pub wan: Option<GossipConfig>,
    /// Where this agent is found from other datacenters.
    pub advertise_wan: IpAddr,
    /// Where servers listen for each other.
    pub bind_address: SocketAddr,
    /// What other servers are told to dial.
    pub advertise_address: SocketAddr,
    /// Where the servers are: `host:port` of their RPC listeners.
    pub server_addresses: Vec<String>,
    /// The HTTP API.
    pub http: HttpConfig,
    /// The limits.
    pub limits: Limits,
    /// What log lines are shown.
    pub log_level: Level,
    /// Whether log lines are JSON.
    pub log_json: bool,
    /// What Raft's timers are multiplied by; 1 here, where Consul's default is 5.
    pub raft_multiplier: u32,
    /// How long a request is held while there is no leader.
    pub rpc_hold_timeout: Duration,
    /// What autopilot of a new cluster starts with.
    pub autopilot: AutopilotSettings,
    /// How long a server that has left lets requests of client agents end.
    pub leave_drain_time: Duration,
    /// How many entries after which a snapshot is due.
    pub raft_snapshot_threshold: u64,
    /// How often that is looked at.
    pub raft_snapshot_interval: Duration,
    /// How many entries stay in the log behind a snapshot.
    pub raft_trailing_logs: u64,
    /// Where flight records of Raft go; none are written where there is no folder.
    pub flight_record_dir: Option<PathBuf>,
    /// Where the process id is written.
    pub pid_file: Option<PathBuf>,
    /// What its author should know, to be logged at the start.
    pub warnings: Vec<String>,
}

impl Config {
    /// What the HTTP API is started with; the node's id is what the server found or made.
    pub fn http_settings(&self, node_id: String) -> http::Settings {
        let capped = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        http::Settings {
            datacenter: self.datacenter.clone(),
            node_name: self.node_name.clone(),
            node_id,
            version: CONSUL_VERSION.to_owned(),
            server: self.server,
            bootstrap: self.bootstrap,
            bootstrap_expect: Some(capped(self.bootstrap_expect)).filter(|expect| *expect > 0),
            dev: self.dev,
            rpc_address: self.advertise_address,
            serf_lan_port: self.gossip.bind.port(),
            serf_wan_port: self.wan.as_ref().map(|wan| wan.advertise.port()),
            node_meta: self.all_node_meta(),
            response_headers: self.http.response_headers.clone(),
            block_endpoints: self.http.block_endpoints.clone(),
            allow_write_http_from: self.http.allow_write_http_from.clone(),
            kv_max_value_size: self.limits.kv_max_value_size as u64,
            http_max_conns_per_client: capped(self.limits.http_max_conns_per_client),
            default_query_time: self.http.default_query_time,
            max_query_time: self.http.max_query_time,
            disable_http_unprintable_char_filter: self.http.disable_unprintable_char_filter,
            ..http::Settings::default()
        }
    }

    /// What the node says of itself, with what Consul's agents add.
    pub fn all_node_meta(&self) -> BTreeMap<String, String> {
        let mut all = http::Settings::default().node_meta;
        all.extend(self.node_meta.clone());
        all
    }

    /// What the forwarding half of an agent that is no server is started with, as this node.
    pub fn client_settings(&self, node: NodeId) -> ClientSettings {
        ClientSettings {
            node,
            rpc_hold_timeout: self.rpc_hold_timeout,
            rpc_rate: self.limits.rpc_rate,
            rpc_max_burst: self.limits.rpc_max_burst,
        }
    }

    /// What the server half of the agent is started with.
    pub fn server_settings(&self) -> ServerSettings {
        ServerSettings {
            dev: self.dev,
            data_dir: self.data_dir.clone(),
            datacenter: self.datacenter.clone(),
            node_name: self.node_name.clone(),
            node_id: self.node_id.clone(),
            bind_address: self.bind_address,
            advertise_address: self.advertise_address,
            bootstrap: self.bootstrap,
            bootstrap_expect: self.bootstrap_expect,
            server_addresses: self.server_addresses.clone(),
            raft_multiplier: self.raft_multiplier,
            rpc_hold_timeout: self.rpc_hold_timeout,
            reconnect_timeout: self.gossip.reconnect_timeout,
            autopilot: self.autopilot.clone(),
            limits: self.limits.clone(),
            raft_snapshot_threshold: self.raft_snapshot_threshold,
            raft_snapshot_interval: self.raft_snapshot_interval,
            raft_trailing_logs: self.raft_trailing_logs,
            flight_record_dir: self.flight_record_dir.clone(),
            digest_interval: INTERVAL,
        }
    }
}
