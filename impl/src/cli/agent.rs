//! `agent`: reads the configuration, starts a server or a client agent and the HTTP API, and stops them when it is told to.

mod role;
mod running;
mod socket;

use std::path::PathBuf;

use clap::Command;
use serde_json::{Map, Value};

use self::running::Ended;
use super::flags::{Given, integer, list, switch, value};
use super::{CONSUL_VERSION, Ending, Leaf, go_error, validate};
use crate::config::flags::{AGENT_FLAGS, AgentFlag, write};
use crate::config::schema::Kind;
use crate::config::{Config, Sources, resolve};
use crate::telemetry::log::Log;

pub(super) const AGENT: Leaf = Leaf {
    path: &["agent"],
    synopsis: "Runs an agent",
    usage: "agent [options]",
    about: "\
Starts the agent and runs until an interrupt is received. The agent represents
a single node in a cluster.",
    definition,
    run,
};

fn definition() -> Command {
    let flag = |flag: &'static AgentFlag| match flag.kind {
        Kind::Bool => switch(flag.name, flag.help),
        Kind::Int => integer(flag.name, flag.help),
        Kind::Strs => list(flag.name, "value", flag.help),
        Kind::Map => list(flag.name, "key:value", flag.help),
        Kind::Str | Kind::Duration | Kind::Float | Kind::Any => {
            value(flag.name, "value", flag.help)
        }
    };
    Command::new("agent").args(AGENT_FLAGS.iter().map(flag)).args([
        list("config-dir", "value", "Path to a directory to read configuration files from. This will read every file ending in '.json' as configuration in this directory in alphabetical order. Can be specified multiple times."),
        list("config-file", "value", "Path to a file in JSON format with a matching file extension. Can be specified multiple times."),
        value("config-format", "string", "Config files are in this format irrespective of their extension. Must be 'json'"),
        switch("dev", "Starts the agent in development mode."),
        list("hcl", "value", "A fragment of configuration, in JSON, that is merged behind the other flags. Can be specified multiple times."),
    ])
}

/// What the command line says.
fn sources(given: &Given) -> Result<Sources, String> {
    let mut fragment = Map::new();
    for flag in AGENT_FLAGS {
        let values = match flag.kind {
            Kind::Bool if given.given(flag.name) => vec![given.on(flag.name).to_string()],
            Kind::Bool => Vec::new(),
            Kind::Int => {
                given.integer(flag.name).map(|number| number.to_string()).into_iter().collect()
            }
            _ => given.raw(flag.name),
        };
        write(&mut fragment, flag, &values);
    }
    let files = given.in_order(&["config-file", "config-dir"]);
    Ok(Sources {
        files: files.into_iter().map(PathBuf::from).collect(),
        flags: Value::Object(fragment),
        fragments: given.raw("hcl"),
        dev: given.on("dev"),
        all_json: validate::all_json(given)?,
    })
}

fn run(given: &Given) -> Result<Ending, String> {
    let (sources, config) = prepare(given).map_err(|error| format!("==> {error}"))?;
    let log = Log::install(config.log_level, config.log_json)
        .map_err(|error| format!("==> Error starting the log: {}", go_error(&error)))?;
    banner(&config).lines().for_each(|line| log.banner(line));
    let ended = running::run(&sources, &config, &log);
    if let Err(error) = &ended {
        tracing::error!(target: "agent", %error, "Error starting agent");
    }
    let code = u8::from(ended != Ok(Ended::Told));
    tracing::info!(target: "agent", code, "Exit code");
    log.flush();
    // A thread that hangs in the disk must not keep a process that was told to stop.
    Ok(Ending::Code(code))
}

/// What stands before the log.
fn banner(config: &Config) -> String {
    let listen: Vec<_> = config.http.listen.iter().map(ToString::to_string).collect();
    format!(
        "==> Starting Proconsul agent...
           Version: '{}' (Consul '{CONSUL_VERSION}')
         Node name: '{}'
        Datacenter: '{}' (Segment: '<all>')
            Server: {} (Bootstrap: {})
       Client Addr: [{}] (HTTP)
      Cluster Addr: {} (advertised: {})
           Encrypt: Gossip: {}, TLS-Outgoing: false, TLS-Incoming: false, Auto-Encrypt-TLS: false

==> Log data will now stream in as it occurs:

",
        env!("CARGO_PKG_VERSION"),
        config.node_name,
        config.datacenter,
        config.server,
        config.bootstrap,
        listen.join(" "),
        config.bind_address,
        config.advertise_address,
        role::encrypts_gossip(config),
    )
}

fn prepare(given: &Given) -> Result<(Sources, Config), String> {
    let extra: Vec<_> =
        given.arguments().into_iter().map(|extra| extra.to_string_lossy().into_owned()).collect();
    if !extra.is_empty() {
        return Err(format!("Unexpected extra arguments: [{}]", extra.join(" ")));
    }
    let sources = sources(given)?;
    let config = resolve(&sources).map_err(|error| error.to_string())?;
    Ok((sources, config))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_banner_says_whether_gossip_is_encrypted() {
        let folder = tempfile::tempdir().unwrap();
        let encrypted = |keys: Value| {
            let mut flags = json!({ "data_dir": folder.path().to_str(), "bind_addr": "127.0.0.1" });
            crate::config::load::merge(&mut flags, keys);
            let config = resolve(&Sources { flags, ..Sources::default() }).unwrap();
            let text = banner(&config);
            let (_, line) = text.split_once("Encrypt: Gossip: ").unwrap();
            line.split(',').next().unwrap() == "true"
        };
        let key = "aPuGh+5UDskRAbkLaXRzFoSOcSM+5vAK+NEYOWHJH7w=";
        assert!(!encrypted(json!({})));
        assert!(encrypted(json!({ "encrypt": key })));
        // Keys that were kept are used though the configuration names none.
        let kept = folder.path().join("serf/local.keyring");
        std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
        std::fs::write(&kept, json!([key]).to_string()).unwrap();
        assert!(encrypted(json!({})));
        assert!(!encrypted(json!({ "disable_keyring_file": true })));
    }
}
