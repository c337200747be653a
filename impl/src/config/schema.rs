//! Every configuration key that is known, what it holds, and what becomes of it: the one list that loading, the
//! flags and the documentation follow.

use serde_json::Value;

/// What a key holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// true or false.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// A string.
    Str,
    /// A Go duration in a string.
    Duration,
    /// A list of strings; lists of several files append.
    Strs,
    /// A map from strings to strings; maps of several files merge.
    Map,
    /// Anything: the inside belongs to a feature that doesn't exist here.
    Any,
}

/// What becomes of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It is honoured.
    Used,
    /// It is accepted, with a warning unless it is switched off: its feature doesn't exist here, and nobody is less
    /// safe without it.
    Ignored,
    /// It is a switch that is accepted in silence where it asks for what happens anyway, which is this value, and with a
    /// warning where it asks for the other.
    Moot(bool),
    /// It is refused unless it is switched off: to ignore it would weaken what its author relies on.
    Refused(&'static str),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Where it stands, its blocks joined by dots.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What becomes of it.
    pub status: Status,
}

const fn used(path: &'static str, kind: Kind) -> Key {
    Key { path, kind, status: Status::Used }
}

const fn ignored(path: &'static str, kind: Kind) -> Key {
    Key { path, kind, status: Status::Ignored }
}

const fn moot(path: &'static str, anyway: bool) -> Key {
    Key { path, kind: Bool, status: Status::Moot(anyway) }
}

const fn refused(path: &'static str, kind: Kind, why: &'static str) -> Key {
    Key { path, kind, status: Status::Refused(why) }
}

const ACL: &str =
    "access control lists are not supported yet, and without them every request is allowed";
const TLS: &str =
    "TLS is not supported yet, and without it traffic is neither encrypted nor verified";
const SCRIPTS: &str = "health checks are not supported yet";
const MESH: &str = "the service mesh is not part of this agent";
const ENTERPRISE: &str = "namespaces, partitions and audit logs are not part of this agent";

use Kind::{Any, Bool, Duration, Float, Int, Map, Str, Strs};

/// All keys, in alphabetical order within their fate.
pub const KEYS: &[Key] = &[
    used("addresses.http", Str),
    used("advertise_addr", Str),
    used("advertise_addr_wan", Str),
    used("autopilot.cleanup_dead_servers", Bool),
    used("autopilot.disable_upgrade_migration", Bool),
    used("autopilot.last_contact_threshold", Duration),
    used("autopilot.max_trailing_logs", Int),
    used("autopilot.min_quorum", Int),
    used("autopilot.redundancy_zone_tag", Str),
    used("autopilot.server_stabilization_time", Duration),
    used("autopilot.upgrade_version_tag", Str),
    used("bind_addr", Str),
    used("bootstrap", Bool),
    used("bootstrap_expect", Int),
    used("client_addr", Str),
    used("data_dir", Str),
    used("datacenter", Str),
    used("default_query_time", Duration),
    used("disable_coordinates", Bool),
    used("disable_http_unprintable_char_filter", Bool),
    used("disable_keyring_file", Bool),
    used("encrypt", Str),
    used("encrypt_verify_incoming", Bool),
    used("encrypt_verify_outgoing", Bool),
    used("flight_record_dir", Str),
    used("gossip_lan.gossip_interval", Duration),
    used("gossip_lan.gossip_nodes", Int),
    used("gossip_lan.probe_interval", Duration),
    used("gossip_lan.probe_timeout", Duration),
    used("gossip_lan.retransmit_mult", Int),
    used("gossip_lan.suspicion_mult", Int),
    used("gossip_wan.gossip_interval", Duration),
    used("gossip_wan.gossip_nodes", Int),
    used("gossip_wan.probe_interval", Duration),
    used("gossip_wan.probe_timeout", Duration),
    used("gossip_wan.retransmit_mult", Int),
    used("gossip_wan.suspicion_mult", Int),
    used("http_config.allow_write_http_from", Strs),
    used("http_config.block_endpoints", Strs),
    used("http_config.response_headers", Map),
    used("leave_on_terminate", Bool),
    used("limits.http_max_conns_per_client", Int),
    used("limits.kv_max_value_size", Int),
    used("limits.rpc_handshake_timeout", Duration),
    used("limits.rpc_max_burst", Int),
    used("limits.rpc_max_conns_per_client", Int),
    used("limits.rpc_rate", Float),
    used("log_json", Bool),
    used("log_level", Str),
    used("max_query_time", Duration),
    used("node_id", Str),
    used("node_meta", Map),
    used("node_name", Str),
    used("performance.leave_drain_time", Duration),
    used("performance.raft_multiplier", Int),
    used("performance.rpc_hold_timeout", Duration),
    used("pid_file", Str),
    used("ports.http", Int),
    used("ports.serf_lan", Int),
    used("ports.serf_wan", Int),
    used("ports.server", Int),
    used("raft_snapshot_interval", Duration),
    used("raft_snapshot_threshold", Int),
    used("raft_trailing_logs", Int),
    used("reconnect_timeout", Duration),
    used("reconnect_timeout_wan", Duration),
    used("rejoin_after_leave", Bool),
    used("retry_interval", Duration),
    used("retry_interval_wan", Duration),
    used("retry_join", Strs),
    used("retry_join_wan", Strs),
    used("retry_max", Int),
    used("retry_max_wan", Int),
    used("serf_lan", Str),
    used("serf_lan_allowed_cidrs", Strs),
    used("serf_wan", Str),
    used("serf_wan_allowed_cidrs", Strs),
    used("server", Bool),
    used("server_addresses", Strs),
    used("skip_leave_on_interrupt", Bool),
    used("start_join", Strs),
    used("start_join_wan", Strs),
    used("sync_coordinate_interval_min", Duration),
    used("sync_coordinate_rate_target", Float),
    used("unix_sockets.group", Str),
    used("unix_sockets.mode", Str),
    used("unix_sockets.user", Str),
    // What they ask for happens anyway: ids are drawn, no command of others is run, and nobody is asked for updates.
    moot("disable_anonymous_signature", true),
    moot("disable_host_node_id", true),
    moot("disable_remote_exec", true),
    moot("disable_update_check", true),
    // Features that don't exist here.
    ignored("addresses.dns", Str),
    ignored("addresses.grpc", Str),
    ignored("addresses.grpc_tls", Str),
    ignored("addresses.https", Str),
    ignored("advertise_addr_ipv4", Str),
    ignored("advertise_addr_ipv6", Str),
    ignored("advertise_addr_wan_ipv4", Str),
    ignored("advertise_addr_wan_ipv6", Str),
    ignored("advertise_reconnect_timeout", Duration),
    ignored("alt_domain", Str),
    ignored("auto_reload_config", Bool),
    ignored("cache", Any),
    ignored("check", Any),
    ignored("check_output_max_size", Int),
    ignored("check_update_interval", Duration),
    ignored("checks", Any),
    ignored("disable_kv_key_validation", Bool),
    ignored("discard_check_output", Bool),
    ignored("discovery_max_stale", Duration),
    ignored("dns_config", Any),
    ignored("domain", Str),
    ignored("enable_agent_tls_for_checks", Bool),
    ignored("enable_central_service_config", Bool),
    ignored("enable_debug", Bool),
    ignored("enable_syslog", Bool),
    ignored("http_config.max_header_bytes", Int),
    ignored("http_config.use_cache", Bool),
    ignored("limits.https_handshake_timeout", Duration),
    ignored("limits.txn_max_req_len", Int),
    ignored("log_file", Str),
    ignored("log_rotate_bytes", Int),
    ignored("log_rotate_duration", Duration),
    ignored("log_rotate_max_files", Int),
    ignored("performance.grpc_keepalive_interval", Duration),
    ignored("performance.grpc_keepalive_timeout", Duration),
    ignored("ports.dns", Int),
    ignored("ports.expose_max_port", Int),
    ignored("ports.expose_min_port", Int),
    ignored("ports.grpc", Int),
    ignored("ports.grpc_tls", Int),
    ignored("ports.https", Int),
    ignored("ports.sidecar_max_port", Int),
    ignored("ports.sidecar_min_port", Int),
    ignored("protocol", Int),
    ignored("raft_logstore", Any),
    ignored("raft_protocol", Int),
    ignored("recursors", Strs),
    ignored("reporting", Any),
    ignored("rpc", Any),
    ignored("server_rejoin_age_max", Duration),
    ignored("service", Any),
    ignored("services", Any),
    ignored("session_ttl_min", Duration),
    ignored("snapshot_agent", Any),
    ignored("syslog_facility", Str),
    ignored("tagged_addresses", Map),
    ignored("telemetry", Any),
    ignored("translate_wan_addrs", Bool),
    ignored("ui", Bool),
    ignored("ui_config", Any),
    ignored("ui_content_path", Str),
    ignored("ui_dir", Str),
    ignored("use_streaming_backend", Bool),
    ignored("watches", Any),
    // What can't be ignored without weakening somebody.
    refused("acl", Any, ACL),
    refused("acl_agent_master_token", Str, ACL),
    refused("acl_agent_token", Str, ACL),
    refused("acl_datacenter", Str, ACL),
    refused("acl_default_policy", Str, ACL),
    refused("acl_down_policy", Str, ACL),
    refused("acl_enable_key_list_policy", Bool, ACL),
    refused("acl_master_token", Str, ACL),
    refused("acl_replication_token", Str, ACL),
    refused("acl_token", Str, ACL),
    refused("acl_ttl", Str, ACL),
    refused("audit", Any, ENTERPRISE),
    refused("auto_config", Any, TLS),
    refused("auto_encrypt", Any, TLS),
    refused("ca_file", Str, TLS),
    refused("ca_path", Str, TLS),
    refused("cert_file", Str, TLS),
    refused("cloud", Any, MESH),
    refused("config_entries", Any, MESH),
    refused("connect", Any, MESH),
    refused("enable_acl_replication", Bool, ACL),
    refused("enable_local_script_checks", Bool, SCRIPTS),
    refused("enable_script_checks", Bool, SCRIPTS),
    refused("key_file", Str, TLS),
    refused("license_path", Str, ENTERPRISE),
    refused("limits.request_limits", Any, "request limits are not supported yet"),
    refused("non_voting_server", Bool, ENTERPRISE),
    refused("partition", Str, ENTERPRISE),
    refused("peering", Any, MESH),
    refused("primary_datacenter", Str, "federation of datacenters is not supported yet"),
    refused("primary_gateways", Strs, MESH),
    refused("primary_gateways_interval", Duration, MESH),
    refused("read_replica", Bool, ENTERPRISE),
    refused("segment", Str, ENTERPRISE),
    refused("segments", Any, ENTERPRISE),
    refused("serf_allowed_cidrs_lan", Strs, "the key is called serf_lan_allowed_cidrs"),
    refused("serf_allowed_cidrs_wan", Strs, "the key is called serf_wan_allowed_cidrs"),
    refused("server_name", Str, TLS),
    refused("tls", Any, TLS),
    refused("tls_cipher_suites", Str, TLS),
    refused("tls_min_version", Str, TLS),
    refused("tls_prefer_server_cipher_suites", Bool, TLS),
    refused("verify_incoming", Bool, TLS),
    refused("verify_incoming_https", Bool, TLS),
    refused("verify_incoming_rpc", Bool, TLS),
    refused("verify_outgoing", Bool, TLS),
    refused("verify_server_hostname", Bool, TLS),
    refused("xds", Any, MESH),
];

/// The key at `path`.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `path` is a block that holds keys.
pub fn is_block(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// Whether a refused key's value asks for nothing: false, empty, or a block that is switched off.
///
/// `{"acl": {"enabled": false, "default_policy": "deny"}}` allows everything in Consul too.
pub fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64().is_some_and(|number| number <= 0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(is_off),
        Value::Object(block) => match block.get("enabled") {
            Some(enabled) => is_off(enabled),
            None => block.values().all(is_off),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_key_stands_twice_or_is_also_a_block() {
        for (position, key) in KEYS.iter().enumerate() {
            assert!(
                !KEYS[position + 1..].iter().any(|other| other.path == key.path),
                "{}",
                key.path
            );
            assert!(!is_block(key.path), "{}", key.path);
        }
    }

    #[test]
    fn a_block_that_is_switched_off_asks_for_nothing() {
        for value in [
            json!(false),
            json!(""),
            json!([]),
            json!({}),
            json!({"enabled": false, "default_policy": "deny"}),
        ] {
            assert!(is_off(&value), "{value}");
        }
        for value in
            [json!(true), json!("k"), json!({"enabled": true}), json!({"tokens": {"a": "b"}})]
        {
            assert!(!is_off(&value), "{value}");
        }
    }
}
