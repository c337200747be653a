//! Tables of what configurations come to, and of what they are refused with.

use super::*;

fn sources(files: &[&str], flags: Value, dev: bool) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (number, text) in files.iter().enumerate() {
        let path = dir.path().join(format!("{number}.json"));
        fs::write(&path, text).unwrap();
        paths.push(path);
    }
    (dir, Sources { files: paths, flags, dev, ..Sources::default() })
}

fn resolved(files: &[&str], flags: Value, dev: bool) -> Result<Config, String> {
    let (_dir, sources) = sources(files, flags, dev);
    resolve(&sources).map_err(|error| error.to_string())
}

const BASE: &str = r#"{"data_dir":"/tmp","server":true,"bind_addr":"127.0.0.1"}"#;

#[test]
fn a_file_later_on_the_command_line_wins_and_flags_win_over_files() {
    let config = resolved(
        &[
            BASE,
            r#"{"node_name":"one","server_addresses":["a:1"],"limits":{"rpc_rate":5}}"#,
            r#"{"node_name":"two","server_addresses":["b:2"],"limits":{"rpc_max_burst":7}}"#,
        ],
        json!({"node_name": "three", "server_addresses": ["c:3"]}),
        false,
    )
    .unwrap();
    assert_eq!(config.node_name, "three");
    assert_eq!(config.server_addresses, ["a:1", "b:2", "c:3"]);
    assert!((config.limits.rpc_rate - 5.0).abs() < f64::EPSILON);
    assert_eq!(config.limits.rpc_max_burst, 7);
}

#[test]
fn fragments_on_the_command_line_win_over_flags() {
    let with = |fragments: &[&str]| {
        let (_dir, mut sources) = sources(&[BASE], json!({"node_name": "flag"}), false);
        sources.fragments = fragments.iter().map(|&text| text.to_owned()).collect();
        resolve(&sources).map_err(|error| error.to_string())
    };
    let config =
        with(&[r#"{"node_name":"one","raft_trailing_logs":7}"#, r#" {"node_name":"two"}"#]);
    let config = config.unwrap();
    assert_eq!((config.node_name.as_str(), config.raft_trailing_logs), ("two", 7));
    for (fragment, error) in [
        ("node_name = \"x\"", "HCL is not supported yet: use JSON"),
        ("", "HCL is not supported yet: use JSON"),
        (r#"{"nosuch":1}"#, "1 error occurred:\n\t* invalid config key nosuch\n\n"),
        ("{", "unexpected end of JSON input"),
    ] {
        let text = format!("failed to parse flags-1.hcl: {error}");
        assert_eq!(with(&["{}", fragment]).unwrap_err(), text);
    }
}

#[test]
fn the_defaults_are_consul_s_but_for_the_raft_multiplier() {
    let config = resolved(&[BASE], json!({}), false).unwrap();
    assert_eq!(config.raft_multiplier, 1);
    assert_eq!(config.bind_address, "127.0.0.1:8300".parse().unwrap());
    assert_eq!(config.advertise_address, config.bind_address);
    assert_eq!(config.http.listen, [Listen::Tcp("127.0.0.1:8500".parse().unwrap())]);
    assert_eq!(config.http.default_query_time, Duration::from_mins(5));
    assert_eq!(config.http.max_query_time, Duration::from_mins(10));
    assert_eq!(config.limits.kv_max_value_size, 524_288);
    assert_eq!(config.limits.http_max_conns_per_client, 200);
    assert_eq!(config.rpc_hold_timeout, Duration::from_secs(7));
    assert_eq!(config.raft_snapshot_threshold, 16_384);
    assert_eq!(config.raft_trailing_logs, 10_240);
    assert_eq!(config.log_level, Level::Info);
    assert!(!config.node_name.is_empty());
}

#[test]
fn dev_is_one_server_in_memory_on_the_loopback() {
    let config = resolved(&[r#"{"data_dir":"/tmp"}"#], json!({}), true).unwrap();
    assert!(config.dev && config.server);
    assert_eq!(config.data_dir, None);
    assert_eq!(config.bind_address, "127.0.0.1:8300".parse().unwrap());
    assert_eq!(config.log_level, Level::Debug);
}

#[test]
fn a_broken_rule_is_told_in_consul_s_words() {
    for (flags, dev, error) in [
        (json!({"data_dir": ""}), false, "data_dir cannot be empty"),
        (
            json!({"data_dir": "/etc/hostname"}),
            false,
            "data_dir \"/etc/hostname\" is not a directory",
        ),
        (json!({"datacenter": ""}), false, "datacenter cannot be empty"),
        (
            json!({"datacenter": "UPPER Case"}),
            false,
            "datacenter cannot be \"upper case\". Please use only [a-z0-9-_]",
        ),
        (
            json!({"server": false, "bootstrap_expect": 3}),
            false,
            "'bootstrap_expect > 0' requires 'server = true'",
        ),
        (
            json!({"server": false, "bootstrap": true}),
            false,
            "'bootstrap = true' requires 'server = true'",
        ),
        (json!({"bootstrap_expect": 3}), true, "'bootstrap_expect > 0' not allowed in dev mode"),
        (
            json!({"bootstrap": true, "bootstrap_expect": 3}),
            false,
            "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive",
        ),
        (
            json!({"bootstrap_expect": -1}),
            false,
            "bootstrap_expect cannot be -1. Must be greater than or equal to zero",
        ),
        (
            json!({"performance": {"raft_multiplier": 11}}),
            false,
            "performance.raft_multiplier cannot be 11. Must be between 1 and 10",
        ),
        (
            json!({"advertise_addr": "0.0.0.0"}),
            true,
            "Advertise address cannot be 0.0.0.0, :: or [::]",
        ),
        (
            json!({"bind_addr": "1.1.1.1 2.2.2.2"}),
            true,
            "bind_addr cannot contain multiple addresses. Use 'addresses.{dns,http,https}' instead.",
        ),
        (
            json!({"log_level": "foo"}),
            true,
            "Invalid log level: foo. Valid log levels are: [TRACE DEBUG INFO WARN ERR ERROR]",
        ),
        (
            json!({"node_id": "abc"}),
            true,
            "failed to setup node ID: specified NodeID is invalid: uuid string is wrong length",
        ),
    ] {
        assert_eq!(resolved(&[BASE], flags.clone(), dev).unwrap_err(), error, "{flags}");
    }
}

#[test]
fn what_does_not_convert_is_listed_by_key() {
    for (flags, error) in [
        (json!({"ports": {"http": 99_999_999}}), "ports.http: invalid port: 99999999"),
        (json!({"client_addr": "foo"}), "client_addr: invalid ip address: foo"),
        (json!({"client_addr": "unix:///x"}), "client_addr cannot be a unix socket"),
        (
            json!({"default_query_time": "5"}),
            "default_query_time: invalid duration: \"5\": time: missing unit in duration \"5\"",
        ),
        (
            json!({"http_config": {"allow_write_http_from": ["x"]}}),
            "allow_write_http_from: invalid cidr: x",
        ),
        (json!({"server_addresses": ["a"]}), "server_addresses: \"a\" is not host:port"),
        (
            json!({"server_addresses": ["::1:8300"]}),
            "server_addresses: \"::1:8300\" is not host:port",
        ),
        (
            json!({"limits": {"kv_max_value_size": 3_145_729}}),
            "limits.kv_max_value_size cannot be 3145729. Must be less than or equal to 3145728",
        ),
        (
            json!({"limits": {"rpc_max_burst": -1}}),
            "limits.rpc_max_burst cannot be -1. Must be greater than or equal to zero",
        ),
        (json!({"unix_sockets": {"mode": "rw"}}), "unix_sockets.mode: invalid mode specified: rw"),
        (
            json!({"unix_sockets": {"mode": "1777"}}),
            "unix_sockets.mode: invalid mode specified: 1777",
        ),
        (
            json!({"bind_addr": "{{ GetInterfaceIP \"none\" }}", "advertise_addr": "127.0.0.1"}),
            "bind_addr: {{ GetInterfaceIP \"none\" }} comes to no address",
        ),
    ] {
        let expected = format!("1 error occurred:\n\t* {error}\n\n");
        assert_eq!(resolved(&[BASE], flags.clone(), false).unwrap_err(), expected, "{flags}");
    }
}

#[test]
fn what_would_weaken_security_is_refused_by_name_unless_it_is_off() {
    for (flags, key) in [
        (json!({"acl": {"enabled": true}}), "acl"),
        (json!({"acl_datacenter": "dc1"}), "acl_datacenter"),
        (json!({"verify_incoming": true}), "verify_incoming"),
        (json!({"ca_file": "/ca.pem"}), "ca_file"),
        (json!({"tls": {"defaults": {"verify_incoming": true}}}), "tls"),
        (json!({"auto_encrypt": {"tls": true}}), "auto_encrypt"),
        (json!({"enable_script_checks": true}), "enable_script_checks"),
        (json!({"serf_allowed_cidrs_wan": ["10.0.0.0/8"]}), "serf_allowed_cidrs_wan"),
        (json!({"server_name": "consul.example"}), "server_name"),
    ] {
        let error = resolved(&[BASE], flags, false).unwrap_err();
        assert!(error.starts_with(&format!("{key} cannot be set: ")), "{error}");
    }
    let off = json!({
        "acl": {"enabled": false, "default_policy": "deny"}, "encrypt": "", "verify_incoming": false,
        "enable_script_checks": false, "connect": {"enabled": false}, "ui": false,
    });
    assert_eq!(resolved(&[BASE], off, false).unwrap().warnings, [""; 0]);
}

#[test]
fn what_has_no_effect_is_warned_of_by_name() {
    let flags = json!({"telemetry": {"statsd_address": "x"}, "recursors": ["::1"]});
    let warnings = resolved(&[BASE], flags, false).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "recursors has no effect: it is not supported yet",
            "telemetry has no effect: it is not supported yet",
        ]
    );
}

#[test]
fn a_switch_that_asks_for_what_happens_anyway_is_moot_and_the_other_way_it_is_named() {
    let switches = [
        "disable_anonymous_signature",
        "disable_host_node_id",
        "disable_remote_exec",
        "disable_update_check",
    ];
    let warnings = |flags: Value| resolved(&[BASE], flags, false).unwrap().warnings;
    for switch in switches {
        assert_eq!(warnings(json!({ switch: true })), [""; 0], "{switch}");
        let text =
            format!("{switch} = false has no effect: what it would switch on is not supported yet");
        assert_eq!(warnings(json!({ switch: false })), [text], "{switch}");
    }
}

#[test]
fn what_is_for_dns_and_transactions_is_named_while_there_are_none() {
    let warnings = |flags: Value| resolved(&[BASE], flags, false).unwrap().warnings;
    assert_eq!(warnings(json!({"ports": {"dns": -1}})), [""; 0]);
    assert_eq!(
        warnings(json!({"ports": {"dns": 8600}, "limits": {"txn_max_req_len": 1_048_576}})),
        [
            "limits.txn_max_req_len has no effect: it is not supported yet",
            "ports.dns has no effect: it is not supported yet",
        ]
    );
}

#[test]
fn gossip_is_configured_as_consul_does() {
    let flags = json!({
        "encrypt": "E2Sa95EbCMr+dSmShxpWT4xhA37GAUy7MNhzL+8NyNQ=", "retry_join": ["a", "b:1"],
        "gossip_lan": {"probe_interval": "3s", "suspicion_mult": 7}, "ports": {"serf_lan": 9301},
        "serf_lan": "127.0.0.2", "advertise_addr": "127.0.0.3", "serf_lan_allowed_cidrs": ["127.0.0.0/8"],
    });
    let gossip = resolved(&[BASE], flags.clone(), false).unwrap().gossip;
    assert_eq!(gossip.bind, "127.0.0.2:9301".parse().unwrap());
    assert_eq!(gossip.advertise, "127.0.0.3:9301".parse().unwrap());
    assert_eq!(gossip.tuning.probe_interval, Duration::from_secs(3));
    assert_eq!((gossip.tuning.suspicion_mult, gossip.tuning.gossip_nodes), (7, 3));
    assert_eq!(gossip.key.as_ref().map(|key| key.0.len()), Some(32));
    assert!(!format!("{gossip:?}").contains("19, 100"), "a key isn't shown");
    assert!(gossip.verify_incoming && gossip.verify_outgoing);
    for (incoming, outgoing) in [(false, true), (true, false), (false, false)] {
        let flags = json!({
            "encrypt_verify_incoming": incoming, "encrypt_verify_outgoing": outgoing,
            "encrypt": "aPuGh+5UDskRAbkLaXRzFoSOcSM+5vAK+NEYOWHJH7w=",
        });
        let config = resolved(&[BASE], flags, false).unwrap();
        for gossip in [config.gossip, config.wan.unwrap()] {
            assert_eq!((gossip.verify_incoming, gossip.verify_outgoing), (incoming, outgoing));
        }
    }
    assert_eq!(gossip.retry_join, ["a", "b:1"]);
    assert!(gossip.allowed[0].contains("127.9.9.9".parse().unwrap()));
    // A server stays when it is stopped, a client leaves.
    assert!(!gossip.leave_on_terminate && gossip.skip_leave_on_interrupt);
    let mut client = flags;
    client["server"] = json!(false);
    let gossip = resolved(&[BASE], client, false).unwrap().gossip;
    assert!(gossip.leave_on_terminate && !gossip.skip_leave_on_interrupt);
    for (flags, error) in [
        (json!({"encrypt": "x"}), "encrypt has invalid key: illegal base64 data"),
        (
            json!({"encrypt": "aGVsbG8="}),
            "encrypt has invalid key: key size must be 16, 24 or 32 bytes",
        ),
        (
            json!({"gossip_lan": {"probe_interval": "0s"}}),
            "gossip_lan.probe_interval cannot be 0ns. Must be at least 1ms",
        ),
    ] {
        assert_eq!(resolved(&[BASE], flags, false).unwrap_err(), error);
    }
}

#[test]
fn a_server_is_in_the_wan_unless_its_port_is_off() {
    let wan = resolved(&[BASE], json!({}), false).unwrap().wan.unwrap();
    assert_eq!((wan.area, wan.bind.port(), wan.advertise.port()), (Area::Wan, 8302, 8302));
    // Consul's own profile.
    let tuning = (wan.tuning.gossip_nodes, wan.tuning.probe_interval, wan.tuning.suspicion_mult);
    assert_eq!(tuning, (3, Duration::from_secs(5), 6));
    assert!(wan.retry_join.is_empty());
    let flags = json!({
        "retry_join": ["a"], "retry_join_wan": ["b"], "retry_interval_wan": "7s", "retry_max_wan": 3,
        "start_join_wan": ["c"], "advertise_addr_wan": "127.0.0.5", "serf_wan": "127.0.0.4",
        "ports": {"serf_wan": 9302}, "gossip_wan": {"probe_interval": "9s"},
        "reconnect_timeout_wan": "9h", "serf_wan_allowed_cidrs": ["127.0.0.0/8"],
        "encrypt": "aPuGh+5UDskRAbkLaXRzFoSOcSM+5vAK+NEYOWHJH7w=",
    });
    let config = resolved(&[BASE], flags, false).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    let (lan, wan) = (config.gossip, config.wan.unwrap());
    assert_eq!(wan.bind, "127.0.0.4:9302".parse().unwrap());
    assert_eq!(wan.advertise, "127.0.0.5:9302".parse().unwrap());
    assert_eq!((wan.retry_join, wan.start_join), (vec!["b".to_owned()], vec!["c".to_owned()]));
    assert_eq!((wan.retry_interval, wan.retry_max), (Duration::from_secs(7), 3));
    assert_eq!(wan.tuning.probe_interval, Duration::from_secs(9));
    assert_eq!(wan.reconnect_timeout, Duration::from_hours(9));
    assert_eq!((wan.allowed.len(), lan.allowed.len()), (1, 0));
    // One key for both pools.
    assert!(wan.key.is_some() && wan.key == lan.key);
    for off in [json!({"ports": {"serf_wan": -1}}), json!({"server": false})] {
        assert_eq!(resolved(&[BASE], off, false).unwrap().wan, None);
    }
}

#[test]
fn autopilot_starts_as_it_is_configured() {
    let defaults = resolved(&[BASE], json!({}), false).unwrap();
    assert_eq!(defaults.autopilot, AutopilotSettings::default());
    let flags = json!({"autopilot": {
        "cleanup_dead_servers": false, "last_contact_threshold": "1s", "max_trailing_logs": 7,
        "min_quorum": 3, "server_stabilization_time": "20s", "redundancy_zone_tag": "zone",
    }});
    let config = resolved(&[BASE], flags, false).unwrap();
    let expected = AutopilotSettings {
        cleanup_dead_servers: false,
        last_contact_threshold_ns: 1_000_000_000,
        max_trailing_logs: 7,
        min_quorum: 3,
        server_stabilization_time_ns: 20_000_000_000,
        redundancy_zone_tag: "zone".into(),
        ..AutopilotSettings::default()
    };
    assert_eq!(config.autopilot, expected);
    assert_eq!(config.server_settings().autopilot, expected);
    assert_eq!(
        config.warnings,
        [
            "autopilot.redundancy_zone_tag has no effect: it is part of Consul Enterprise, and only kept"
        ]
    );
    let bad = json!({"autopilot": {"max_trailing_logs": -1}});
    let text = "1 error occurred:\n\t* autopilot.max_trailing_logs cannot be -1. Must be greater than or equal to zero\n\n";
    assert_eq!(resolved(&[BASE], bad, false).unwrap_err(), text);
    let unknown = r#"{"autopilot":{"nosuch":1}}"#;
    assert!(resolved(&[BASE, unknown], json!({}), false).is_err());
}

#[test]
fn without_server_an_agent_is_a_client() {
    let client = r#"{"data_dir":"/tmp","bind_addr":"127.0.0.1"}"#;
    let config = resolved(&[client], json!({}), false).unwrap();
    assert!(!config.server);
    assert_eq!(config.warnings, [""; 0]);
    let flags = json!({"server_addresses": ["a:8300"], "limits": {"rpc_rate": 2.5}});
    let config = resolved(&[client], flags, false).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    let settings = config.client_settings(spec::raft::NodeId(7));
    assert!((settings.rpc_rate - 2.5).abs() < f64::EPSILON);
    assert_eq!((settings.rpc_max_burst, settings.rpc_hold_timeout), (1000, Duration::from_secs(7)));
}

#[test]
fn expecting_one_server_is_bootstrap_mode() {
    let config = resolved(&[BASE], json!({"bootstrap_expect": 1}), false).unwrap();
    assert!(config.bootstrap);
    assert_eq!(config.bootstrap_expect, 0);
    assert_eq!(
        config.warnings,
        [
            "BootstrapExpect is set to 1; this is the same as Bootstrap mode.",
            "bootstrap = true: do not enable unless necessary",
        ]
    );
}

#[test]
fn http_listens_where_addresses_say_and_nowhere_without_a_port() {
    let listen = |flags| resolved(&[BASE], flags, false).unwrap().http.listen;
    assert_eq!(
        listen(json!({"addresses": {"http": "unix:///tmp/a 127.0.0.2"}, "ports": {"http": 9}})),
        [Listen::Unix("/tmp/a".into()), Listen::Tcp("127.0.0.2:9".parse().unwrap())]
    );
    assert_eq!(listen(json!({"ports": {"http": -1}})), []);
}

#[test]
fn who_may_use_unix_sockets_is_read_and_named_where_there_are_none() {
    let access = json!({"user": "0", "group": "adm", "mode": "0660"});
    let http = json!({"http": "unix:///tmp/a"});
    let both = json!({"unix_sockets": access, "addresses": http});
    let config = resolved(&[BASE], both, false).unwrap();
    let read = SocketAccess {
        user: Some("0".to_owned()),
        group: Some("adm".to_owned()),
        mode: Some(0o660),
    };
    assert_eq!((config.http.socket_access, config.warnings), (read, Vec::new()));
    let text = "unix_sockets has no effect: the HTTP API has no unix socket";
    let config = resolved(&[BASE], json!({"unix_sockets": access}), false).unwrap();
    assert_eq!(config.warnings, [text]);
    let none = json!({"unix_sockets": {"user": "", "group": "", "mode": ""}});
    assert_eq!(resolved(&[BASE], none, false).unwrap().warnings, [""; 0]);
}

#[test]
fn private_addresses_are_the_host_s_own_ones_in_the_routing_table() {
    let table = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.1.2.0/24 2 0 2
        |-- 10.1.2.0
           /24 link UNICAST
        |-- 10.1.2.3
           /32 host LOCAL
        |-- 10.1.2.255
           /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
Local:
        |-- 10.1.2.3
           /32 host LOCAL
";
    assert_eq!(private_addresses(table), [Ipv4Addr::new(10, 1, 2, 3)]);
}

#[test]
fn keys_of_the_wan_are_named_where_the_agent_is_not_there() {
    let keys = json!({
        "server": false, "retry_join_wan": ["a"], "serf_wan": "127.0.0.4",
        "gossip_wan": { "probe_interval": "7s" }, "advertise_addr_wan": "127.0.0.5",
        "ports": { "serf_wan": 8302 },
    });
    let mut server = keys.clone();
    server["server"] = true.into();
    let of = |keys: Value| resolved(&[BASE], keys, false).unwrap();
    let (client, server) = (of(keys), of(server));
    let idle: Vec<&str> = client
        .warnings
        .iter()
        .filter_map(|text| text.split_once(" has no effect: this agent is not"))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(idle, ["gossip_wan.probe_interval", "retry_join_wan", "serf_wan"]);
    assert_eq!(client.advertise_wan.to_string(), "127.0.0.5");
    assert!(server.warnings.iter().all(|text| !text.contains("WAN")), "{:?}", server.warnings);
}
