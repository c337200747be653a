//! The agent's flags: each is another way to write a configuration key.

use serde_json::{Map, Value, json};

use super::schema::Kind::{self, Any, Bool, Duration, Float, Int, Map as Pairs, Str, Strs};

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct AgentFlag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// The configuration key that it writes.
    pub key: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What `-help` says about it.
    pub help: &'static str,
}

const fn flag(name: &'static str, key: &'static str, kind: Kind, help: &'static str) -> AgentFlag {
    AgentFlag { name, key, kind, help }
}

/// Every flag but `-dev`, `-config-file`, `-config-dir`, `-config-format` and `-hcl`, which aren't keys.
pub const AGENT_FLAGS: &[AgentFlag] = &[
    flag("advertise", "advertise_addr", Str, "Sets the advertise address to use."),
    flag(
        "advertise-wan",
        "advertise_addr_wan",
        Str,
        "Sets address to advertise on WAN instead of -advertise address.",
    ),
    flag(
        "allow-write-http-from",
        "http_config.allow_write_http_from",
        Strs,
        "Only allow write endpoint calls from given network. CIDR format, can be specified multiple times.",
    ),
    flag("alt-domain", "alt_domain", Str, "Alternate domain to use for DNS interface."),
    flag(
        "auto-reload-config",
        "auto_reload_config",
        Bool,
        "Watches config files for changes and auto reloads the files when modified.",
    ),
    flag("bind", "bind_addr", Str, "Sets the bind address for cluster communication."),
    flag("bootstrap", "bootstrap", Bool, "Sets server to bootstrap mode."),
    flag("bootstrap-expect", "bootstrap_expect", Int, "Sets server to expect bootstrap mode."),
    flag(
        "check_output_max_size",
        "check_output_max_size",
        Int,
        "Sets the maximum output size for checks on this agent",
    ),
    flag(
        "client",
        "client_addr",
        Str,
        "Sets the address to bind for client access. This includes RPC, DNS, HTTP, HTTPS and gRPC (if configured).",
    ),
    flag("data-dir", "data_dir", Str, "Path to a data directory to store agent state."),
    flag("datacenter", "datacenter", Str, "Datacenter of the agent."),
    flag(
        "default-query-time",
        "default_query_time",
        Duration,
        "the amount of time a blocking query will wait before Consul will force a response. This value can be overridden by the 'wait' query parameter.",
    ),
    flag(
        "disable-host-node-id",
        "disable_host_node_id",
        Bool,
        "Setting this to true will prevent Consul from using information from the host to generate a node ID, and will cause Consul to generate a random node ID instead.",
    ),
    flag(
        "disable-keyring-file",
        "disable_keyring_file",
        Bool,
        "Disables the backing up of the keyring to a file.",
    ),
    flag("dns-port", "ports.dns", Int, "DNS port to use."),
    flag("domain", "domain", Str, "Domain to use for DNS interface."),
    flag(
        "enable-local-script-checks",
        "enable_local_script_checks",
        Bool,
        "Enables health check scripts from configuration file.",
    ),
    flag("enable-script-checks", "enable_script_checks", Bool, "Enables health check scripts."),
    flag("encrypt", "encrypt", Str, "Provides the gossip encryption key."),
    flag(
        "grpc-port",
        "ports.grpc",
        Int,
        "Sets the gRPC API port to listen on (currently needed for Envoy xDS only).",
    ),
    flag("grpc-tls-port", "ports.grpc_tls", Int, "Sets the gRPC-TLS API port to listen on."),
    flag("http-port", "ports.http", Int, "Sets the HTTP API port to listen on."),
    flag("https-port", "ports.https", Int, "Sets the HTTPS API port to listen on."),
    flag(
        "join",
        "start_join",
        Strs,
        "Address of an agent to join at start time. Can be specified multiple times.",
    ),
    flag(
        "join-wan",
        "start_join_wan",
        Strs,
        "Address of an agent to join -wan at start time. Can be specified multiple times.",
    ),
    flag("log-file", "log_file", Str, "Path to the file the logs get written to"),
    flag("log-json", "log_json", Bool, "Output logs in JSON format."),
    flag("log-level", "log_level", Str, "Log level of the agent."),
    flag(
        "log-rotate-bytes",
        "log_rotate_bytes",
        Int,
        "Maximum number of bytes that should be written to a log file",
    ),
    flag(
        "log-rotate-duration",
        "log_rotate_duration",
        Duration,
        "Time after which log rotation needs to be performed",
    ),
    flag(
        "log-rotate-max-files",
        "log_rotate_max_files",
        Int,
        "Maximum number of log file archives to keep",
    ),
    flag(
        "max-query-time",
        "max_query_time",
        Duration,
        "the maximum amount of time a blocking query can wait before Consul will force a response. Consul applies jitter to the wait time. The jittered time will be capped to MaxQueryTime.",
    ),
    flag("node", "node_name", Str, "Name of this node. Must be unique in the cluster."),
    flag(
        "node-id",
        "node_id",
        Str,
        "A unique ID for this node across space and time. Defaults to a randomly-generated ID that persists in the data-dir.",
    ),
    flag(
        "node-meta",
        "node_meta",
        Pairs,
        "An arbitrary metadata key/value pair for this node, of the format `key:value`. Can be specified multiple times.",
    ),
    flag(
        "non-voting-server",
        "non_voting_server",
        Bool,
        "(Enterprise-only) This flag is used to make the server not participate in the Raft quorum.",
    ),
    flag("pid-file", "pid_file", Str, "Path to file to store agent PID."),
    flag(
        "primary-gateway",
        "primary_gateways",
        Strs,
        "Address of a mesh gateway in the primary datacenter to use to bootstrap WAN federation at start time.",
    ),
    flag("protocol", "protocol", Int, "Sets the protocol version. Defaults to latest."),
    flag(
        "raft-protocol",
        "raft_protocol",
        Int,
        "Sets the Raft protocol version. Defaults to latest.",
    ),
    flag(
        "recursor",
        "recursors",
        Strs,
        "Address of an upstream DNS server. Can be specified multiple times.",
    ),
    flag(
        "rejoin",
        "rejoin_after_leave",
        Bool,
        "Ignores a previous leave and attempts to rejoin the cluster.",
    ),
    flag("retry-interval", "retry_interval", Duration, "Time to wait between join attempts."),
    flag(
        "retry-interval-wan",
        "retry_interval_wan",
        Duration,
        "Time to wait between join -wan attempts.",
    ),
    flag(
        "retry-join",
        "retry_join",
        Strs,
        "Address of an agent to join at start time with retries enabled. Can be specified multiple times.",
    ),
    flag(
        "retry-join-wan",
        "retry_join_wan",
        Strs,
        "Address of an agent to join -wan at start time with retries enabled. Can be specified multiple times.",
    ),
    flag(
        "retry-max",
        "retry_max",
        Int,
        "Maximum number of join attempts. Defaults to 0, which will retry indefinitely.",
    ),
    flag(
        "retry-max-wan",
        "retry_max_wan",
        Int,
        "Maximum number of join -wan attempts. Defaults to 0, which will retry indefinitely.",
    ),
    flag("segment", "segment", Str, "(Enterprise-only) Sets the network segment to join."),
    flag(
        "serf-lan-allowed-cidrs",
        "serf_lan_allowed_cidrs",
        Strs,
        "Networks (eg: 192.168.1.0/24) allowed for Serf LAN. Can be specified multiple times.",
    ),
    flag("serf-lan-bind", "serf_lan", Str, "Address to bind Serf LAN listeners to."),
    flag("serf-lan-port", "ports.serf_lan", Int, "Sets the Serf LAN port to listen on."),
    flag(
        "serf-wan-allowed-cidrs",
        "serf_wan_allowed_cidrs",
        Strs,
        "Networks (eg: 192.168.1.0/24) allowed for Serf WAN. Can be specified multiple times.",
    ),
    flag("serf-wan-bind", "serf_wan", Str, "Address to bind Serf WAN listeners to."),
    flag("serf-wan-port", "ports.serf_wan", Int, "Sets the Serf WAN port to listen on."),
    flag("server", "server", Bool, "Switches agent to server mode."),
    flag(
        "server-address",
        "server_addresses",
        Strs,
        "host:port at which a server listens for other servers. Can be specified multiple times.",
    ),
    flag("server-port", "ports.server", Int, "Sets the server port to listen on."),
    flag("syslog", "enable_syslog", Bool, "Enables logging to syslog."),
    flag("ui", "ui", Bool, "Enables the built-in static web UI server."),
    flag(
        "ui-content-path",
        "ui_content_path",
        Str,
        "Sets the external UI path to a string. Defaults to: /ui/",
    ),
    flag("ui-dir", "ui_dir", Str, "Path to directory containing the web UI resources."),
];

/// Writes one flag's values into a fragment; the values were checked when the command line was read.
pub fn write(fragment: &mut Map<String, Value>, flag: &AgentFlag, values: &[String]) {
    let Some(last) = values.last() else { return };
    let value = match flag.kind {
        Bool => json!(last == "true"),
        Int => json!(last.parse::<i64>().unwrap_or_default()),
        Strs => json!(values),
        Pairs => values
            .iter()
            .map(|pair| pair.split_once(':').unwrap_or((pair, "")))
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect::<Map<_, _>>()
            .into(),
        Float | Str | Duration | Any => json!(last),
    };
    let mut block = fragment;
    let mut path = flag.key;
    while let Some((outer, inner)) = path.split_once('.') {
        let next = block.entry(outer).or_insert_with(|| json!({}));
        let Value::Object(next) = next else { return };
        block = next;
        path = inner;
    }
    block.insert(path.to_owned(), value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema;

    #[test]
    fn every_flag_writes_a_key_that_is_known_and_takes_what_the_key_holds() {
        for flag in AGENT_FLAGS {
            let key = schema::find(flag.key).unwrap_or_else(|| panic!("{}", flag.key));
            assert_eq!(key.kind, flag.kind, "{}", flag.name);
        }
    }

    #[test]
    fn flags_write_nested_keys_side_by_side() {
        let mut fragment = Map::new();
        for (name, values) in
            [("http-port", vec!["1"]), ("server-port", vec!["2"]), ("join", vec!["a", "b"])]
        {
            let flag = AGENT_FLAGS.iter().find(|flag| flag.name == name).unwrap();
            let values: Vec<_> = values.into_iter().map(str::to_owned).collect();
            write(&mut fragment, flag, &values);
        }
        assert_eq!(
            Value::Object(fragment),
            json!({"ports": {"http": 1, "server": 2}, "start_join": ["a", "b"]})
        );
    }
}
