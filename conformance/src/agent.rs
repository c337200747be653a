//! Agents as processes on loopback: ours, and a real Consul by the same configuration.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::{Address, Client},
    ports::Ports,
    process::{Process, touch, wait_for},
};

/// Waits until no other test of this program has a cluster, and keeps others from one for as long as the answer lives:
/// three servers, their clients and the checks of others make a busy machine slow to elect.
#[must_use]
pub fn alone() -> impl Drop {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose agent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Proconsul,
    /// HashiCorp's, as [`crate::peers`] finds it.
    Consul,
}

/// What an agent is started with. The rest is the same for all: loopback, ports of its own, a data directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose agent.
    pub kind: Kind,
    /// Its program.
    pub program: PathBuf,
    /// `node_name`.
    pub name: String,
    /// Configuration keys besides, as in a configuration file; they win over ours.
    pub config: Value,
    /// Command-line arguments besides.
    pub arguments: Vec<String>,
}

impl Options {
    /// Our agent, with nothing besides.
    pub fn ours(name: &str) -> Result<Self> {
        let program = binary()?.to_owned();
        Ok(Self {
            kind: Kind::Proconsul,
            program,
            name: name.to_owned(),
            config: json!({}),
            arguments: Vec::new(),
        })
    }

    /// With this configuration besides.
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }
}

/// A running, or stopped, agent.
#[derive(Debug)]
pub struct Agent {
    /// `node_name`.
    pub name: String,
    /// Its process.
    pub process: Process,
    /// Where it answers clients.
    http: Address,
    place: Place,
    folder: PathBuf,
}

/// Where an agent runs.
#[derive(Debug)]
pub struct Place {
    /// Where other agents reach it.
    pub ip: Ipv4Addr,
    /// Its ports.
    pub ports: Ports,
    /// The network namespace, for `ip netns exec`; none for this process's own.
    pub namespace: Option<String>,
}

impl Place {
    /// On this host's loopback.
    pub const fn loopback(ports: Ports) -> Self {
        Self { ip: Ipv4Addr::LOCALHOST, ports, namespace: None }
    }

    /// Where the Raft port of an agent here answers.
    pub fn server_address(&self) -> String {
        format!("{}:{}", self.ip, self.ports.port(SERVER))
    }

    /// Where its gossip arrives.
    pub fn gossip_address(&self) -> String {
        format!("{}:{}", self.ip, self.ports.port(SERF_LAN))
    }
}

/// Where in an agent's block of ports each of its own lies.
const HTTP: u16 = 0;
const SERVER: u16 = 1;
const SERF_LAN: u16 = 2;
const SERF_WAN: u16 = 3;
const DNS: u16 = 4;

impl Agent {
    /// Writes the configuration into `folder` and starts the agent; doesn't wait for anything.
    pub fn start(options: &Options, folder: &Path) -> Result<Self> {
        Self::start_on(Ports::take()?, options, folder)
    }

    /// As [`Agent::start`], on a block of ports that the caller took: others may have been told of it.
    pub fn start_on(ports: Ports, options: &Options, folder: &Path) -> Result<Self> {
        Self::start_at(Place::loopback(ports), options, folder)
    }

    /// As [`Agent::start`], in a place of the caller's.
    pub fn start_at(place: Place, options: &Options, folder: &Path) -> Result<Self> {
        let folder = folder.join(&options.name);
        fs::create_dir_all(folder.join("data"))?;
        let Place { ip, ports, namespace } = &place;
        let mut config = json!({
            "server": true,
            "node_name": options.name,
            "data_dir": folder.join("data"),
            "bind_addr": ip,
            "client_addr": "127.0.0.1",
            "ports": {
                "http": ports.port(HTTP), "server": ports.port(SERVER),
                "serf_lan": ports.port(SERF_LAN), "serf_wan": ports.port(SERF_WAN),
                "dns": ports.port(DNS), "grpc": -1,
            },
            "performance": { "raft_multiplier": 1 },
            "disable_update_check": true,
        });
        let file = folder.join("agent.json");
        let mut arguments = vec!["agent".to_owned(), format!("-config-file={}", file.display())];
        let (program, http) = match namespace {
            None => {
                let port = ports.port(HTTP);
                (options.program.clone(), Address::Tcp((Ipv4Addr::LOCALHOST, port).into()))
            }
            Some(namespace) => {
                let socket = folder.join("http");
                config["addresses"] = json!({ "http": format!("unix://{}", socket.display()) });
                let program = options.program.display().to_string();
                let inside = ["netns", "exec", namespace, &program].map(str::to_owned);
                arguments.splice(0..0, inside);
                (PathBuf::from("ip"), Address::Unix(socket))
            }
        };
        merge(&mut config, &options.config);
        fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
        arguments.extend(options.arguments.iter().cloned());
        let log = folder.join("log");
        touch(&log)?;
        let process = Process::start(&options.name, &program, arguments, &log)?;
        Ok(Self { name: options.name.clone(), process, http, place, folder })
    }

    /// Where its HTTP interface answers.
    pub fn http(&self) -> &Address {
        &self.http
    }

    /// Where its Raft port answers.
    pub fn server_address(&self) -> String {
        self.place.server_address()
    }

    /// Where its gossip arrives.
    pub fn gossip_address(&self) -> String {
        self.place.gossip_address()
    }

    /// Its block of ports: HTTP, server, Serf LAN, Serf WAN and DNS, in this order.
    pub fn ports(&self) -> &Ports {
        &self.place.ports
    }

    /// A client for its HTTP interface.
    pub fn client(&self) -> Client {
        self.client_with(Duration::from_secs(30))
    }

    /// A client that gives up after `timeout`.
    pub fn client_with(&self, timeout: Duration) -> Client {
        Client::at(self.http.clone(), timeout)
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Whom it takes for the leader; none where it knows of none or doesn't answer.
    pub fn leader(&self) -> Option<String> {
        let response = self.client_with(Duration::from_secs(1)).get("/v1/status/leader").ok()?;
        let leader = response.json().ok()?.as_str()?.to_owned();
        (response.status == 200 && !leader.is_empty()).then_some(leader)
    }

    /// The members of its pool by its word, with how each stands; none where it doesn't answer.
    pub fn members(&self) -> Option<BTreeMap<String, String>> {
        let mut client = self.client_with(Duration::from_secs(5));
        let answer = client.get("/v1/agent/members").ok()?.json().ok()?;
        let member = |member: &Value| {
            let status = match member["Status"].as_u64()? {
                1 => "alive",
                2 => "leaving",
                3 => "left",
                4 => "failed",
                _ => "none",
            };
            Some((member["Name"].as_str()?.to_owned(), status.to_owned()))
        };
        answer.as_array()?.iter().map(member).collect()
    }

    /// How many lines of its log have all of these words.
    pub fn count(&self, words: &[&str]) -> usize {
        let log = self.process.log();
        log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// Writes a key until that is acknowledged. Servers that stand still for a moment elect another leader, and what was
    /// under way, or came meanwhile, is answered by 500; any other refusal is an error at once.
    pub fn write(&self, key: &str, value: impl AsRef<[u8]>, limit: Duration) -> Result<()> {
        let answer = wait_for("an acknowledged write", limit, || {
            let answer = self.client().put(&format!("/v1/kv/{key}"), value.as_ref());
            (!answer.as_ref().is_ok_and(|answer| answer.status == 500)).then_some(answer)
        })??;
        let done = answer.status == 200 && answer.text().trim() == "true";
        ensure!(done, "a write of {key} through {}: {answer:?}", self.name);
        Ok(())
    }

    /// Waits until it knows of a leader and serves a linearizable read.
    pub fn wait_until_ready(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if self.leader().is_some() && self.reads(deadline) {
                return Ok(());
            }
            if !self.process.is_running() {
                bail!("{} ended:\n{}", self.name, self.process.log_tail(40));
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} has no leader after {limit:?}:\n{}",
                    self.name,
                    self.process.log_tail(40)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn reads(&self, deadline: Instant) -> bool {
        let left =
            deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        let response = self.client_with(left).get("/v1/kv/a-key-that-nobody-has?consistent");
        response.is_ok_and(|response| response.status == 404)
    }
}

/// Our servers, of one cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The servers.
    pub agents: Vec<Agent>,
    folder: TempDir,
}

impl Cluster {
    /// Starts `n` blank servers that expect `n`, each with the addresses of all, and waits for a leader.
    pub fn start(n: usize, config: &Value) -> Result<Self> {
        let mut cluster = Self::start_without_waiting(n, config)?;
        cluster.wait_for_leader(Duration::from_secs(30))?;
        Ok(cluster)
    }

    /// As [`Cluster::start`], but doesn't wait.
    pub fn start_without_waiting(n: usize, config: &Value) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let places =
            (0..n).map(|_| Ok(Place::loopback(Ports::take()?))).collect::<Result<Vec<_>>>()?;
        let addresses: Vec<String> = places
            .iter()
            .map(|place| format!("-server-address={}", place.server_address()))
            .collect();
        let mut agents = Vec::new();
        for (i, place) in places.into_iter().enumerate() {
            let mut options = Options::ours(&format!("s{}", i + 1))?.config(config.clone());
            options.arguments.clone_from(&addresses);
            options.arguments.push(format!("-bootstrap-expect={n}"));
            agents.push(Agent::start_at(place, &options, folder.path())?);
        }
        Ok(Self { agents, folder })
    }

    /// Starts an agent that is no server and knows these; doesn't wait for anything.
    pub fn start_client(&self, name: &str, config: &Value) -> Result<Agent> {
        let mut all = json!({ "server": false });
        merge(&mut all, config);
        let mut options = Options::ours(name)?.config(all);
        let address = |agent: &Agent| format!("-server-address={}", agent.server_address());
        options.arguments = self.agents.iter().map(address).collect();
        Agent::start(&options, self.folder.path())
    }

    /// The leader by the word of the servers that run: the one that itself says that it leads.
    pub fn leader(&mut self) -> Option<usize> {
        self.agents.iter_mut().position(|agent| {
            agent.process.is_running() && agent.leader() == Some(agent.server_address())
        })
    }

    /// Waits until a server leads and every server that runs knows it.
    pub fn wait_for_leader(&mut self, limit: Duration) -> Result<usize> {
        let found = wait_for("a leader that all know", limit, || {
            let leader = self.leader()?;
            let address = self.agents[leader].server_address();
            let agreed = self.agents.iter_mut().all(|agent| {
                !agent.process.is_running() || agent.leader().as_ref() == Some(&address)
            });
            agreed.then_some(leader)
        });
        found.map_err(|error| {
            let logs: Vec<String> = self
                .agents
                .iter()
                .map(|agent| format!("---- {}\n{}", agent.name, agent.process.log_tail(30)))
                .collect();
            anyhow!("{error}\n{}", logs.join("\n"))
        })
    }
}

/// Puts the keys of `over` into `base`; objects are merged.
pub(crate) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Our program: the one next to the running test or tool, built first where it is missing or older than its sources.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| find_binary().map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|error| anyhow!("{error}"))
}

fn find_binary() -> Result<PathBuf> {
    let mut folder = std::env::current_exe()?;
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let binary = folder.join("proconsul");
    let built = fs::metadata(&binary).and_then(|data| data.modified()).ok();
    let root = workspace_root();
    let sources = ["spec", "impl", "Cargo.toml", "Cargo.lock"];
    let newest = sources.iter().map(|part| newest(&root.join(part))).max().flatten();
    if built.is_some() && built >= newest {
        return Ok(binary);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "proconsul", "--bin", "proconsul"]);
    if folder.ends_with("release") {
        command.arg("--release");
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let status = command.current_dir(root).status().context("can't run cargo")?;
    ensure!(status.success(), "cargo could not build proconsul");
    ensure!(binary.exists(), "cargo built no {}", binary.display());
    Ok(binary)
}

/// The newest time of change of a Rust source or manifest under `path`.
fn newest(path: &Path) -> Option<SystemTime> {
    if path.is_dir() {
        let entries = fs::read_dir(path).ok()?;
        return entries.filter_map(|entry| newest(&entry.ok()?.path())).max();
    }
    let extension = path.extension()?;
    if extension == "rs" || extension == "toml" || extension == "lock" {
        return fs::metadata(path).and_then(|data| data.modified()).ok();
    }
    None
}

/// The workspace's folder.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_given_besides_wins_and_objects_are_merged() {
        let mut base = json!({ "server": true, "ports": { "http": 1, "dns": 2 } });
        merge(&mut base, &json!({ "server": false, "ports": { "dns": -1 } }));
        assert_eq!(base, json!({ "server": false, "ports": { "http": 1, "dns": -1 } }));
    }
}
