//! From merged fragments to a checked [`Config`]: defaults, types, Consul's rules and its words for breaking them.

mod http;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};
use spec::state::AutopilotSettings;

use super::gossip::{Area, GossipConfig, GossipKey, GossipTuning};
use super::load::{self, merge, multi_error};
use super::schema::{self, KEYS, Kind, Status};
use super::{Config, ConfigError, Listen, SocketAccess, Sources, sockaddr};
use crate::http::{Network, go};
use crate::telemetry::Level;

fn defaults(dev: bool) -> Value {
    let mut base = json!({
        "bind_addr": "0.0.0.0",
        "client_addr": "127.0.0.1",
        "datacenter": "dc1",
        "default_query_time": "300s",
        "max_query_time": "600s",
        "log_level": "INFO",
        "ports": {"http": 8500, "server": 8300, "serf_lan": 8301, "serf_wan": 8302},
        "performance": {"raft_multiplier": 1, "rpc_hold_timeout": "7s", "leave_drain_time": "5s"},
        "limits": {
            "http_max_conns_per_client": 200,
            "rpc_max_conns_per_client": 100,
            "rpc_rate": -1,
            "rpc_max_burst": 1000,
            "rpc_handshake_timeout": "5s",
            "kv_max_value_size": 512 * 1024,
        },
        "gossip_lan": {
            "gossip_nodes": 3,
            "gossip_interval": "200ms",
            "probe_interval": "1s",
            "probe_timeout": "500ms",
            "suspicion_mult": 4,
            "retransmit_mult": 4,
        },
        // Consul's; memberlist's own profile has 4 gossip_nodes.
        "gossip_wan": {
            "gossip_nodes": 3,
            "gossip_interval": "500ms",
            "probe_interval": "5s",
            "probe_timeout": "3s",
            "suspicion_mult": 6,
            "retransmit_mult": 4,
        },
        "reconnect_timeout": "72h",
        "reconnect_timeout_wan": "72h",
        "sync_coordinate_interval_min": "15s",
        "sync_coordinate_rate_target": 64.0,
        "retry_interval": "30s",
        "retry_interval_wan": "30s",
        "autopilot": {
            "cleanup_dead_servers": true,
            "last_contact_threshold": "200ms",
            "max_trailing_logs": 250,
            "min_quorum": 0,
            "server_stabilization_time": "10s",
        },
        "raft_snapshot_threshold": 16_384,
        "raft_snapshot_interval": "30s",
        "raft_trailing_logs": 10_240,
    });
    if dev {
        let quick = json!({
            "gossip_interval": "100ms",
            "probe_interval": "100ms",
            "probe_timeout": "100ms",
            "suspicion_mult": 3,
        });
        merge(
            &mut base,
            json!({
                "bind_addr": "127.0.0.1",
                "log_level": "DEBUG",
                "server": true,
                "gossip_lan": quick,
                "gossip_wan": quick,
            }),
        );
    }
    base
}

/// Merges what `sources` say and checks it.
pub fn resolve(sources: &Sources) -> Result<Config, ConfigError> {
    let mut merged = defaults(sources.dev);
    let mut given = json!({});
    for fragment in load::read(&sources.files, sources.all_json)? {
        merge(&mut given, fragment);
    }
    merge(&mut given, sources.flags.clone());
    for (number, text) in sources.fragments.iter().enumerate() {
        merge(&mut given, load::parse_argument(number, text)?);
    }
    let mut warnings = settle_unsupported(&given)?;
    let of_the_wan = of_the_wan(&given);
    merge(&mut merged, given);
    let mut reader = Reader { root: &merged, errors: Vec::new(), guesses_address: false };
    let config = read(&mut reader, sources.dev, &mut warnings)?;
    let mut config = match reader.errors.as_slice() {
        [] => config,
        errors => return Err(ConfigError::new(multi_error(errors))),
    };
    validate(&config, reader.guesses_address)?;
    if reader.guesses_address {
        let address = IpAddr::V4(private_address()?);
        config.advertise_address.set_ip(address);
        config.gossip.advertise.set_ip(address);
        if config.advertise_wan.is_unspecified() {
            config.advertise_wan = address;
        }
        if let Some(wan) = &mut config.wan {
            wan.advertise.set_ip(config.advertise_wan);
        }
    }
    if config.wan.is_none() {
        let idle = |path| format!("{path} has no effect: this agent is not in the WAN's pool");
        warnings.extend(of_the_wan.into_iter().map(idle));
    }
    if config.http.socket_access != SocketAccess::default()
        && !config.http.listen.iter().any(|listen| matches!(listen, Listen::Unix(_)))
    {
        warnings.push("unix_sockets has no effect: the HTTP API has no unix socket".to_owned());
    }
    settle_bootstrap(&mut config, &mut warnings);
    config.warnings = warnings;
    Ok(config)
}

/// Refuses keys whose neglect would weaken security, and names the ones that have no effect.
fn settle_unsupported(given: &Value) -> Result<Vec<String>, ConfigError> {
    let mut warnings = Vec::new();
    for key in KEYS {
        let Some(value) = lookup(given, key.path) else { continue };
        match key.status {
            Status::Refused(why) if !schema::is_off(value) => {
                return Err(ConfigError::new(format!("{} cannot be set: {why}", key.path)));
            }
            Status::Ignored if schema::is_off(value) => {}
            Status::Ignored => {
                warnings.push(format!("{} has no effect: it is not supported yet", key.path));
            }
            Status::Moot(anyway) if *value != Value::Bool(anyway) => warnings.push(format!(
                "{} = {value} has no effect: what it would switch on is not supported yet",
                key.path
            )),
            Status::Used | Status::Moot(_) | Status::Refused(_) => {}
        }
    }
    Ok(warnings)
}

/// The keys that are given and have an effect in the WAN's pool only.
fn of_the_wan(given: &Value) -> Vec<&'static str> {
    let paths = KEYS.iter().filter(|key| key.status == Status::Used).map(|key| key.path);
    // What others are told to dial is in the catalog as well, and the port is what switches the pool off.
    let wan = |path: &&str| {
        !matches!(*path, "advertise_addr_wan" | "ports.serf_wan")
            && (path.ends_with("_wan")
                || path.starts_with("gossip_wan.")
                || path.starts_with("serf_wan"))
    };
    paths.filter(wan).filter(|path| lookup(given, path).is_some()).collect()
}

fn lookup<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(root, |value, key| value.get(key)).filter(|value| !value.is_null())
}

/// Reads typed values out of merged ones, and collects what doesn't convert.
struct Reader<'a> {
    root: &'a Value,
    errors: Vec<String>,
    /// Whether nothing says which of this machine's addresses other servers shall dial.
    guesses_address: bool,
}

impl Reader<'_> {
    fn get(&self, path: &str, kind: Kind) -> Option<&Value> {
        debug_assert!(
            schema::find(path).is_some_and(|key| key.kind == kind && key.status == Status::Used),
            "{path} is read but not declared"
        );
        lookup(self.root, path)
    }

    fn bool(&self, path: &str) -> bool {
        self.get(path, Kind::Bool).and_then(Value::as_bool).unwrap_or(false)
    }

    fn number(&self, path: &str) -> f64 {
        self.get(path, Kind::Float).and_then(Value::as_f64).unwrap_or(0.0)
    }

    fn int(&self, path: &str) -> i64 {
        self.get(path, Kind::Int).and_then(Value::as_i64).unwrap_or(0)
    }

    fn count<N: TryFrom<i64> + Default>(&mut self, path: &str) -> N {
        let value = self.int(path);
        N::try_from(value).unwrap_or_else(|_| {
            self.errors
                .push(format!("{path} cannot be {value}. Must be greater than or equal to zero"));
            N::default()
        })
    }

    fn text(&self, path: &str) -> Option<String> {
        self.get(path, Kind::Str).and_then(Value::as_str).map(|text| text.trim().to_owned())
    }

    fn texts(&self, path: &str) -> Vec<String> {
        let items = self.get(path, Kind::Strs).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn pairs(&self, path: &str) -> Vec<(String, String)> {
        let pairs = self.get(path, Kind::Map).and_then(Value::as_object);
        let text =
            |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
        pairs.into_iter().flatten().filter_map(text).collect()
    }

    fn duration(&mut self, path: &str) -> Duration {
        let text = self.get(path, Kind::Duration).and_then(Value::as_str).unwrap_or("0");
        match go::parse_duration(text.as_bytes()) {
            // A negative one counts as zero, as Consul's own uses of them do.
            Ok(nanoseconds) => go::positive(nanoseconds).unwrap_or_default(),
            Err(error) => {
                self.errors.push(format!("{path}: invalid duration: {text:?}: {error}"));
                Duration::ZERO
            }
        }
    }

    /// A switch whose default the caller knows.
    fn switch(&self, path: &str, default: bool) -> bool {
        self.get(path, Kind::Bool).and_then(Value::as_bool).unwrap_or(default)
    }

    fn networks(&mut self, path: &str) -> Vec<Network> {
        let mut networks = Vec::new();
        for text in self.texts(path) {
            match text.parse::<Network>() {
                Ok(network) => networks.push(network),
                Err(_) => self.errors.push(format!("{path}: invalid CIDR address: {text}")),
            }
        }
        networks
    }

    /// A port; 0 and below switch its listener off.
    fn port(&mut self, path: &str) -> Option<u16> {
        let value = self.int(path);
        match u16::try_from(value) {
            Ok(0) => None,
            Ok(port) => Some(port),
            Err(_) if value < 0 => None,
            Err(_) => {
                self.errors.push(format!("{path}: invalid port: {value}"));
                None
            }
        }
    }

    fn ip(&mut self, path: &str, text: &str) -> Option<IpAddr> {
        let address = IpAddr::from_str(text.trim_matches(['[', ']'])).ok();
        if address.is_none() {
            self.errors.push(format!("{path}: invalid ip address: {text}"));
        }
        address
    }

    /// A text whose templates are replaced by what they come to on this machine.
    fn template(&mut self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        match sockaddr::evaluate(&text) {
            Ok(text) => Some(text),
            Err(error) => {
                self.errors.push(format!("{path}: {error}"));
                None
            }
        }
    }

    fn one_ip(&mut self, path: &str) -> Result<Option<IpAddr>, ConfigError> {
        let Some(given) = self.text(path).filter(|text| !text.is_empty()) else { return Ok(None) };
        let Some(text) = self.template(path) else { return Ok(None) };
        if text.is_empty() {
            self.errors.push(format!("{path}: {given} comes to no address"));
            return Ok(None);
        }
        if text.starts_with("unix://") {
            return Err(ConfigError::new(format!("{path} cannot be a unix socket")));
        }
        if text.contains(char::is_whitespace) {
            return Err(ConfigError::new(format!(
                "{path} cannot contain multiple addresses. Use 'addresses.{{dns,http,https}}' instead."
            )));
        }
        Ok(self.ip(path, &text))
    }
}

fn read(
    reader: &mut Reader<'_>,
    dev: bool,
    warnings: &mut Vec<String>,
) -> Result<Config, ConfigError> {
    let bind = reader.one_ip("bind_addr")?;
    if bind.is_none() && reader.errors.is_empty() {
        return Err(ConfigError::new("bind_addr cannot be empty"));
    }
    let bind = bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let advertise = match reader.one_ip("advertise_addr")? {
        Some(address) => address,
        None if !bind.is_unspecified() => bind,
        None => {
            reader.guesses_address = true;
            bind
        }
    };
    let server_port = reader.port("ports.server").unwrap_or_else(|| {
        reader.errors.push("ports.server cannot be switched off".to_owned());
        0
    });
    let raft_multiplier = reader.int("performance.raft_multiplier");
    let node_name = match reader.text("node_name") {
        Some(name) if !name.is_empty() => name,
        _ => host_name(),
    };
    warn_of_names_that_dns_lacks(&node_name, warnings);
    let gossip = read_gossip(reader, bind, advertise)?;
    let advertise_wan = reader.one_ip("advertise_addr_wan")?.unwrap_or(advertise);
    Ok(Config {
        dev,
        server: reader.bool("server"),
        bootstrap: reader.bool("bootstrap"),
        bootstrap_expect: expect(reader.int("bootstrap_expect"))?,
        data_dir: reader
            .text("data_dir")
            .filter(|dir| !dir.is_empty() && !dev)
            .map(PathBuf::from),
        datacenter: reader.text("datacenter").unwrap_or_default().to_lowercase(),
        node_name,
        node_id: reader.text("node_id").filter(|id| !id.is_empty()).map(|id| id.to_lowercase()),
        node_meta: reader.pairs("node_meta").into_iter().collect(),
        wan: read_wan(reader, &gossip, bind, advertise_wan)?,
        advertise_wan,
        gossip,
        bind_address: SocketAddr::new(bind, server_port),
        advertise_address: SocketAddr::new(advertise, server_port),
        server_addresses: server_addresses(reader),
        http: http::read(reader),
        limits: http::read_limits(reader),
        log_level: read_level(reader)?,
        log_json: reader.bool("log_json"),
        raft_multiplier: u32::try_from(raft_multiplier)
            .ok()
            .filter(|multiplier| (1..=10).contains(multiplier))
            .ok_or_else(|| {
                ConfigError::new(format!(
                    "performance.raft_multiplier cannot be {raft_multiplier}. Must be between 1 and 10"
                ))
            })?,
        rpc_hold_timeout: reader.duration("performance.rpc_hold_timeout"),
        autopilot: read_autopilot(reader, warnings),
        leave_drain_time: reader.duration("performance.leave_drain_time"),
        raft_snapshot_threshold: reader.count("raft_snapshot_threshold"),
        raft_snapshot_interval: reader.duration("raft_snapshot_interval"),
        raft_trailing_logs: reader.count("raft_trailing_logs"),
        flight_record_dir: reader
            .text("flight_record_dir")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from),
        pid_file: reader.text("pid_file").filter(|path| !path.is_empty()).map(PathBuf::from),
        warnings: Vec::new(),
    })
}

fn read_gossip(
    reader: &mut Reader<'_>,
    bind: IpAddr,
    advertise: IpAddr,
) -> Result<GossipConfig, ConfigError> {
    let server = reader.bool("server");
    let port = reader.port("ports.serf_lan").unwrap_or_else(|| {
        reader.errors.push("ports.serf_lan cannot be switched off".to_owned());
        0
    });
    let listen = reader.one_ip("serf_lan")?.unwrap_or(bind);
    let key = match reader.text("encrypt").filter(|key| !key.is_empty()) {
        None => None,
        Some(text) => Some(
            text.parse::<GossipKey>()
                .map_err(|error| ConfigError::new(format!("encrypt has invalid key: {error}")))?,
        ),
    };
    let tuning = read_tuning(reader, &LAN_TUNING)?;
    Ok(GossipConfig {
        area: Area::Lan,
        bind: SocketAddr::new(listen, port),
        advertise: SocketAddr::new(advertise, port),
        tuning,
        key,
        verify_incoming: reader.switch("encrypt_verify_incoming", true),
        verify_outgoing: reader.switch("encrypt_verify_outgoing", true),
        disable_keyring_file: reader.bool("disable_keyring_file"),
        start_join: reader.texts("start_join"),
        retry_join: reader.texts("retry_join"),
        retry_interval: reader.duration("retry_interval"),
        retry_max: reader.count("retry_max"),
        rejoin_after_leave: reader.bool("rejoin_after_leave"),
        // A client that goes is not missed; a server that goes leaves the others with a smaller quorum.
        leave_on_terminate: reader.switch("leave_on_terminate", !server),
        skip_leave_on_interrupt: reader.switch("skip_leave_on_interrupt", server),
        reconnect_timeout: reader.duration("reconnect_timeout"),
        allowed: reader.networks("serf_lan_allowed_cidrs"),
        disable_coordinates: reader.bool("disable_coordinates"),
        coordinate_rate: reader.number("sync_coordinate_rate_target"),
        coordinate_interval: reader.duration("sync_coordinate_interval_min"),
    })
}

/// The WAN's pool, where this agent is a member: a server with a port for it. What has no key of its own is as in the LAN.
fn read_wan(
    reader: &mut Reader<'_>,
    lan: &GossipConfig,
    bind: IpAddr,
    advertise: IpAddr,
) -> Result<Option<GossipConfig>, ConfigError> {
    let Some(port) = reader.port("ports.serf_wan").filter(|_| reader.bool("server")) else {
        return Ok(None);
    };
    let listen = reader.one_ip("serf_wan")?.unwrap_or(bind);
    let tuning = read_tuning(reader, &WAN_TUNING)?;
    Ok(Some(GossipConfig {
        area: Area::Wan,
        bind: SocketAddr::new(listen, port),
        advertise: SocketAddr::new(advertise, port),
        tuning,
        start_join: reader.texts("start_join_wan"),
        retry_join: reader.texts("retry_join_wan"),
        retry_interval: reader.duration("retry_interval_wan"),
        retry_max: reader.count("retry_max_wan"),
        reconnect_timeout: reader.duration("reconnect_timeout_wan"),
        allowed: reader.networks("serf_wan_allowed_cidrs"),
        ..lan.clone()
    }))
}

/// The keys of a pool's tuning: nodes, gossip's interval, the probe's interval and timeout, the two factors.
type TuningKeys = (&'static str, [&'static str; 6]);

const LAN_TUNING: TuningKeys = (
    "gossip_lan",
    [
        "gossip_lan.gossip_nodes",
        "gossip_lan.gossip_interval",
        "gossip_lan.probe_interval",
        "gossip_lan.probe_timeout",
        "gossip_lan.suspicion_mult",
        "gossip_lan.retransmit_mult",
    ],
);
const WAN_TUNING: TuningKeys = (
    "gossip_wan",
    [
        "gossip_wan.gossip_nodes",
        "gossip_wan.gossip_interval",
        "gossip_wan.probe_interval",
        "gossip_wan.probe_timeout",
        "gossip_wan.suspicion_mult",
        "gossip_wan.retransmit_mult",
    ],
);

fn read_tuning(
    reader: &mut Reader<'_>,
    (block, [nodes, gossip, probe, timeout, suspicion, retransmit]): &TuningKeys,
) -> Result<GossipTuning, ConfigError> {
    let tuning = GossipTuning {
        gossip_nodes: reader.count(nodes),
        gossip_interval: reader.duration(gossip),
        probe_interval: reader.duration(probe),
        probe_timeout: reader.duration(timeout),
        suspicion_mult: reader.count(suspicion),
        retransmit_mult: reader.count(retransmit),
    };
    tuning.check(block)?;
    Ok(tuning)
}

fn read_autopilot(reader: &mut Reader<'_>, warnings: &mut Vec<String>) -> AutopilotSettings {
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let settings = AutopilotSettings {
        cleanup_dead_servers: reader.bool("autopilot.cleanup_dead_servers"),
        last_contact_threshold_ns: nanoseconds(reader.duration("autopilot.last_contact_threshold")),
        max_trailing_logs: reader.count("autopilot.max_trailing_logs"),
        min_quorum: reader.count("autopilot.min_quorum"),
        server_stabilization_time_ns: nanoseconds(
            reader.duration("autopilot.server_stabilization_time"),
        ),
        redundancy_zone_tag: reader
            .text("autopilot.redundancy_zone_tag")
            .unwrap_or_default()
            .as_str()
            .into(),
        disable_upgrade_migration: reader.bool("autopilot.disable_upgrade_migration"),
        upgrade_version_tag: reader
            .text("autopilot.upgrade_version_tag")
            .unwrap_or_default()
            .as_str()
            .into(),
    };
    for (key, is_set) in [
        ("redundancy_zone_tag", !settings.redundancy_zone_tag.is_empty()),
        ("disable_upgrade_migration", settings.disable_upgrade_migration),
        ("upgrade_version_tag", !settings.upgrade_version_tag.is_empty()),
    ] {
        if is_set {
            warnings.push(format!(
                "autopilot.{key} has no effect: it is part of Consul Enterprise, and only kept"
            ));
        }
    }
    settings
}

fn expect(value: i64) -> Result<usize, ConfigError> {
    usize::try_from(value).map_err(|_| {
        ConfigError::new(format!(
            "bootstrap_expect cannot be {value}. Must be greater than or equal to zero"
        ))
    })
}

fn server_addresses(reader: &mut Reader<'_>) -> Vec<String> {
    let addresses = reader.texts("server_addresses");
    for address in &addresses {
        let port = address.rsplit_once(':').and_then(|(host, port)| {
            let bare_v6 = host.contains(':') && !host.starts_with('[');
            (!host.is_empty() && !bare_v6).then(|| port.parse::<u16>().ok()).flatten()
        });
        if port.is_none_or(|port| port == 0) {
            reader.errors.push(format!("server_addresses: {address:?} is not host:port"));
        }
    }
    addresses
}

fn read_level(reader: &Reader<'_>) -> Result<Level, ConfigError> {
    let text = reader.text("log_level").unwrap_or_default();
    Level::from_str(&text).map_err(ConfigError::new)
}

/// Consul's rules, in its order: the first that is broken is the one that is told.
fn validate(config: &Config, guesses_address: bool) -> Result<(), ConfigError> {
    let refuse = |text: String| Err(ConfigError::new(text));
    if config.datacenter.is_empty() {
        return refuse("datacenter cannot be empty".to_owned());
    }
    let in_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if !config.datacenter.chars().all(in_name) {
        return refuse(format!(
            "datacenter cannot be {:?}. Please use only [a-z0-9-_]",
            config.datacenter
        ));
    }
    match &config.data_dir {
        None if !config.dev => return refuse("data_dir cannot be empty".to_owned()),
        Some(dir) => check_data_dir(dir)?,
        None => {}
    }
    if config.node_name.is_empty() {
        return refuse("node_name cannot be empty".to_owned());
    }
    if config.advertise_address.ip().is_unspecified() && !guesses_address {
        return refuse("Advertise address cannot be 0.0.0.0, :: or [::]".to_owned());
    }
    if config.bootstrap_expect > 0 {
        if !config.server {
            return refuse("'bootstrap_expect > 0' requires 'server = true'".to_owned());
        }
        if config.dev {
            return refuse("'bootstrap_expect > 0' not allowed in dev mode".to_owned());
        }
        if config.bootstrap {
            return refuse(
                "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive".to_owned(),
            );
        }
    }
    if config.bootstrap && !config.server {
        return refuse("'bootstrap = true' requires 'server = true'".to_owned());
    }
    if let Some(id) = &config.node_id {
        check_node_id(id)?;
    }
    Ok(())
}

fn check_data_dir(dir: &Path) -> Result<(), ConfigError> {
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => Err(ConfigError::new(format!(
            "data_dir {:?} is not a directory",
            dir.display().to_string()
        ))),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ConfigError::new(format!(
                "Error getting info on data_dir: stat {}: {}",
                dir.display(),
                crate::cli::go_error(&error)
            )))
        }
        _ => Ok(()),
    }
}

fn check_node_id(id: &str) -> Result<(), ConfigError> {
    let fail = |why: &str| {
        Err(ConfigError::new(format!(
            "failed to setup node ID: specified NodeID is invalid: uuid string is {why}"
        )))
    };
    if id.len() != 36 {
        return fail("wrong length");
    }
    let well_formed = id.bytes().enumerate().all(|(place, byte)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    if well_formed { Ok(()) } else { fail("improperly formatted") }
}

fn settle_bootstrap(config: &mut Config, warnings: &mut Vec<String>) {
    let mut warn = |text: String| warnings.push(text);
    match config.bootstrap_expect {
        0 => {}
        1 => {
            warn("BootstrapExpect is set to 1; this is the same as Bootstrap mode.".to_owned());
            config.bootstrap = true;
            config.bootstrap_expect = 0;
        }
        2 => warn(
            "bootstrap_expect = 2: A cluster with 2 servers will provide no failure tolerance. \
             See https://www.consul.io/docs/internals/consensus.html#deployment-table"
                .to_owned(),
        ),
        even if even.is_multiple_of(2) => warn(
            "bootstrap_expect is even number: A cluster with an even number of servers does not \
             achieve optimum fault tolerance. \
             See https://www.consul.io/docs/internals/consensus.html#deployment-table"
                .to_owned(),
        ),
        _ => {}
    }
    if config.bootstrap {
        warn("bootstrap = true: do not enable unless necessary".to_owned());
    }
    let expected = config.bootstrap_expect;
    if expected > 0 {
        warn(format!("bootstrap_expect > 0: expecting {expected} servers"));
    }
}

fn warn_of_names_that_dns_lacks(node_name: &str, warnings: &mut Vec<String>) {
    if node_name.chars().any(|c| !c.is_ascii_alphanumeric() && c != '-') {
        warnings.push(format!(
            "Node name {node_name:?} will not be discoverable via DNS due to invalid characters. \
             Valid characters include all alpha-numerics and dashes."
        ));
    } else if node_name.len() > 63 {
        warnings.push(format!(
            "Node name {node_name:?} will not be discoverable via DNS due to it being too long. \
             Valid lengths are between 1 and 63 bytes."
        ));
    }
}

fn host_name() -> String {
    // The kernel's own name of the host; it changes with the host's, which the environment may not.
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// The one private IPv4 address of this machine: what Consul advertises when it binds to every address. Of several,
/// a wrong guess would split the cluster: the operator is asked.
fn private_address() -> Result<Ipv4Addr, ConfigError> {
    let table = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    match private_addresses(&table).as_slice() {
        [address] => Ok(*address),
        [] => Err(ConfigError::new(
            "No private IPv4 address found. Please configure one with 'bind' and/or 'advertise'.",
        )),
        _ => Err(ConfigError::new(
            "Multiple private IPv4 addresses found. Please configure one with 'bind' and/or 'advertise'.",
        )),
    }
}

/// The host's own addresses in the kernel's routing table: each stands on a line of its own, its kind below it.
fn private_addresses(table: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in table.lines() {
        if let Some(text) = line.trim_start().strip_prefix("|-- ") {
            last = text.trim().parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(
                last.filter(|address| sockaddr::is_private(*address) && !found.contains(address)),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests;
