//! The peers: a real Consul and etcd, where `conformance/peers/get` put them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    agent::{Agent, Kind, Options, workspace_root},
    http::Client,
    ports::Ports,
    process::{Process, touch, wait_for},
};

/// A peer's program: in the folder that `PROCONSUL_PEERS` names, else in `target/peers`.
pub fn find(program: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("PROCONSUL_PEERS")
        .map_or_else(|| workspace_root().join("target/peers"), PathBuf::from);
    let path = folder.join("bin").join(program);
    path.exists().then_some(path)
}

/// Whether the peers must be there: CI says so, once it fetched them. Elsewhere a test without its peer has nothing
/// to compare with and says that it was left out.
pub fn required() -> bool {
    std::env::var_os("PROCONSUL_REQUIRE_PEERS").is_some_and(|value| value == "1")
}

/// Options for a real Consul; none where it isn't there.
pub fn consul(name: &str) -> Option<Options> {
    Some(Options {
        kind: Kind::Consul,
        program: find("consul")?,
        name: name.to_owned(),
        config: json!({}),
        arguments: Vec::new(),
    })
}

/// Real Consul servers of one cluster, in the order of their starts.
pub fn consul_cluster(
    n: usize,
    config: &serde_json::Value,
) -> Result<Option<(Vec<Agent>, TempDir)>> {
    let folder = tempfile::tempdir()?;
    let mut agents: Vec<Agent> = Vec::new();
    for i in 0..n {
        let Some(options) = consul(&format!("c{}", i + 1)) else { return Ok(None) };
        let mut options = options.config(config.clone());
        options.arguments.push(format!("-bootstrap-expect={n}"));
        if let Some(first) = agents.first() {
            options.arguments.push(format!("-retry-join=127.0.0.1:{}", first.ports().port(2)));
            options.arguments.push("-retry-interval=1s".to_owned());
        }
        agents.push(Agent::start(&options, folder.path())?);
    }
    for agent in &mut agents {
        agent.wait_until_ready(Duration::from_mins(1))?;
    }
    Ok(Some((agents, folder)))
}

/// One etcd server.
#[derive(Debug)]
pub struct Etcd {
    /// Its process.
    pub process: Process,
    ports: Ports,
}

impl Etcd {
    /// Starts etcd servers of one cluster, with these flags besides; none where etcd isn't there.
    pub fn cluster(n: usize, flags: &[String]) -> Result<Option<(Vec<Self>, TempDir)>> {
        let Some(program) = find("etcd") else { return Ok(None) };
        let folder = tempfile::tempdir()?;
        let blocks = (0..n).map(|_| Ports::take()).collect::<Result<Vec<_>>>()?;
        let peer = |ports: &Ports| format!("http://127.0.0.1:{}", ports.port(1));
        let initial: Vec<String> =
            blocks.iter().enumerate().map(|(i, ports)| format!("e{i}={}", peer(ports))).collect();
        let initial = initial.join(",");
        let mut servers = Vec::new();
        for (i, ports) in blocks.into_iter().enumerate() {
            servers.push(Self::start(&program, i, ports, &initial, flags, folder.path())?);
        }
        for server in &mut servers {
            let port = server.client_port();
            wait_for("etcd's health", Duration::from_mins(1), || {
                let mut client = Client::new(([127, 0, 0, 1], port).into(), Duration::from_secs(2));
                client.get("/health").ok().filter(|answer| answer.status == 200)
            })?;
        }
        Ok(Some((servers, folder)))
    }

    fn start(
        program: &Path,
        i: usize,
        ports: Ports,
        initial: &str,
        flags: &[String],
        folder: &Path,
    ) -> Result<Self> {
        let name = format!("e{i}");
        let client = format!("http://127.0.0.1:{}", ports.port(0));
        let peer = format!("http://127.0.0.1:{}", ports.port(1));
        let data = folder.join(&name).display().to_string();
        let own = [
            ("name", name.as_str()),
            ("data-dir", &data),
            ("listen-client-urls", &client),
            ("advertise-client-urls", &client),
            ("listen-peer-urls", &peer),
            ("initial-advertise-peer-urls", &peer),
            ("initial-cluster", initial),
            ("initial-cluster-state", "new"),
        ];
        let mut arguments: Vec<String> =
            own.iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
        arguments.extend(flags.iter().cloned());
        let log = folder.join(format!("{name}.log"));
        touch(&log)?;
        let process = Process::start(&name, program, arguments, &log)?;
        Ok(Self { process, ports })
    }

    /// The port that clients use, gRPC and its JSON gateway.
    pub fn client_port(&self) -> u16 {
        self.ports.port(0)
    }
}
