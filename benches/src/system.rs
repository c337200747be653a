//! Three servers, or one, of each system, as processes on loopback with the same limits. Ours and Consul's are started from
//! the same configuration file and find each other by gossip.
//!
//! | | Proconsul | Consul | etcd |
//! |---|---|---|---|
//! | durability | fdatasync before the answer | the same | the same |
//! | timing | `raft_multiplier` 1 | `raft_multiplier` 1 | its defaults: heartbeat 100 ms, election 1 s |
//! | connections of one client | 16,384 | 16,384 | unlimited |
//! | log | errors | errors | errors |

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    load::Client,
    wire::{Protocol, Request},
};

/// The most connections that one client may open.
const CONNECTIONS: u32 = 16_384;
const PATIENCE: Duration = Duration::from_secs(30);

/// A system under load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    /// Ours.
    Proconsul,
    /// HashiCorp's.
    Consul,
    /// etcd.
    Etcd,
    /// No system: [`crate::bound`].
    Bound,
    /// Ours, behind a client agent: measured where it is asked for.
    ThroughClient,
}

impl System {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Proconsul, Self::Consul, Self::Etcd, Self::Bound, Self::ThroughClient];

    /// Its name in tables and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proconsul => "proconsul",
            Self::Consul => "consul",
            Self::Etcd => "etcd",
            Self::Bound => "bound",
            Self::ThroughClient => "via-client",
        }
    }

    /// What its clients speak.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Proconsul | Self::Consul | Self::Bound | Self::ThroughClient => Protocol::Http,
            Self::Etcd => Protocol::Grpc,
        }
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Our agent.
    pub proconsul: PathBuf,
    /// A folder with `consul` and `etcd`.
    pub peers: PathBuf,
    /// This program, which has the bound in it.
    pub own: PathBuf,
    /// Data directories go here: a real disk.
    pub scratch: PathBuf,
}

impl Programs {
    /// The program of a system.
    pub fn path(&self, system: System) -> PathBuf {
        match system {
            System::Proconsul | System::ThroughClient => self.proconsul.clone(),
            System::Consul => self.peers.join("consul"),
            System::Etcd => self.peers.join("etcd"),
            System::Bound => self.own.clone(),
        }
    }
}

/// What processes used of the CPUs so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// All servers together.
    pub servers: Duration,
    /// This process.
    pub own: Duration,
}

impl Cpu {
    /// Reads it from /proc.
    pub fn of(pids: &[u32]) -> Result<Self> {
        let mut servers = Duration::ZERO;
        for pid in pids {
            servers += cpu_time(&pid.to_string())?;
        }
        Ok(Self { servers, own: cpu_time("self")? })
    }
}

fn cpu_time(pid: &str) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("server {pid} is gone"))?;
    // The command's name may hold spaces; utime and stime are the 12th and 13th fields after it.
    let fields = stat.rsplit_once(')').context("/proc/stat without a name")?.1;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|ticks| ticks.parse::<u64>().ok());
    let ticks = ticks().zip(ticks()).map(|(user, system)| user + system).context("/proc/stat")?;
    Ok(Duration::from_secs(1) * ticks as u32 / rustix::param::clock_ticks_per_second() as u32)
}

/// The memory that processes hold now, in bytes.
pub fn resident(pids: &[u32]) -> Result<u64> {
    let mut pages = 0;
    for pid in pids {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm"))
            .with_context(|| format!("server {pid} is gone"))?;
        let resident = statm.split(' ').nth(1).context("/proc/statm")?;
        pages += resident.parse::<u64>().context("/proc/statm")?;
    }
    Ok(pages * rustix::param::page_size() as u64)
}

/// The same, but that pages which several processes share are counted in parts: what many processes of one program hold
/// together.
pub fn proportional(pids: &[u32]) -> Result<u64> {
    let mut kibibytes = 0;
    for pid in pids {
        kibibytes += labelled(&format!("/proc/{pid}/smaps_rollup"), "Pss:")?;
    }
    Ok(kibibytes << 10)
}

/// How often the threads of processes went to sleep so far, to be woken again.
pub fn sleeps(pids: &[u32]) -> Result<u64> {
    let mut count = 0;
    for pid in pids {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("process {pid} is gone"))?;
        for thread in threads {
            let status = thread?.path().join("status");
            // A thread may end meanwhile.
            count += labelled(&status.to_string_lossy(), "voluntary_ctxt_switches:").unwrap_or(0);
        }
    }
    Ok(count)
}

/// The number behind a label at the beginning of a line.
fn labelled(path: &str, label: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(label)?.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).with_context(|| format!("{label} in {path}"))
}

/// A running server.
#[derive(Debug)]
struct Server {
    child: Child,
    client: SocketAddr,
    /// What `/v1/status/leader` calls it.
    raft: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The servers of one system; they are stopped when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// Which system.
    pub system: System,
    /// From the start of the first process to the first acknowledged put.
    pub first_put: Duration,
    servers: Vec<Server>,
    leader: usize,
    /// The agent that all requests go through, where there is one.
    agent: Option<Server>,
    data: tempfile::TempDir,
}

/// The addresses of one server.
struct Ports {
    client: SocketAddr,
    raft: SocketAddr,
    serf: SocketAddr,
}

fn free_ports(count: usize) -> Result<Vec<Ports>> {
    let mut held = vec![];
    let mut port = || -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        held.push(listener);
        Ok(address)
    };
    (0..count).map(|_| Ok(Ports { client: port()?, raft: port()?, serf: port()? })).collect()
}

/// A configuration file of Consul's, which ours takes as it is.
fn write_config(dir: &Path, own: &Ports, servers: &[Ports], rest: &Value) -> Result<PathBuf> {
    let mut config = json!({
        "performance": { "raft_multiplier": 1 },
        "limits": {
            "http_max_conns_per_client": CONNECTIONS, "rpc_max_conns_per_client": CONNECTIONS,
        },
        "log_level": "err",
        "data_dir": dir.join("data"),
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "ports": {
            "http": own.client.port(), "server": own.raft.port(), "serf_lan": own.serf.port(),
            "serf_wan": -1, "dns": -1, "grpc": -1,
        },
        "disable_update_check": true,
        "retry_join": servers.iter().map(|p| p.serf.to_string()).collect::<Vec<_>>(),
        "retry_interval": "100ms",
    });
    if let (Some(config), Some(rest)) = (config.as_object_mut(), rest.as_object()) {
        config.extend(rest.clone());
    }
    let path = dir.join("config.json");
    fs::write(&path, config.to_string())?;
    Ok(path)
}

/// A server of Consul or of ours: the same configuration for both.
fn server(command: &mut Command, number: usize, ports: &[Ports], dir: &Path) -> Result<()> {
    let rest = json!({
        "server": true, "bootstrap_expect": ports.len(), "node_name": format!("n{number}"),
    });
    let config = write_config(dir, &ports[number], ports, &rest)?;
    command.arg("agent").arg("-config-file").arg(config);
    Ok(())
}

/// Starts an agent that is no server, in front of these.
fn client_agent(program: &Path, servers: &[Ports], dir: &Path) -> Result<Server> {
    let dir = dir.join("agent");
    fs::create_dir_all(&dir)?;
    let own = free_ports(1)?.remove(0);
    let config = write_config(&dir, &own, servers, &json!({ "node_name": "agent" }))?;
    let log = File::create(dir.join("log"))?;
    let mut command = Command::new(program);
    command.arg("agent").arg("-config-file").arg(config);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = command.spawn().with_context(|| format!("{}", program.display()))?;
    Ok(Server { child, client: own.client, raft: own.raft })
}

fn etcd(command: &mut Command, number: usize, ports: &[Ports], dir: &Path) {
    let own = &ports[number];
    let cluster: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(number, ports)| format!("n{number}=http://{}", ports.raft))
        .collect();
    command
        .args(["--name", &format!("n{number}"), "--log-level", "error"])
        .args(["--listen-client-urls", &format!("http://{}", own.client)])
        .args(["--advertise-client-urls", &format!("http://{}", own.client)])
        .args(["--listen-peer-urls", &format!("http://{}", own.raft)])
        .args(["--initial-advertise-peer-urls", &format!("http://{}", own.raft)])
        .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
        .arg("--data-dir")
        .arg(dir.join("data"));
}

fn bound(command: &mut Command, number: usize, ports: &[Ports], dir: &Path) {
    let servers: Vec<_> = ports.iter().map(|ports| ports.raft.to_string()).collect();
    command.args(["bound", &number.to_string(), &ports[number].client.to_string()]);
    command.arg(dir.join("data")).args(servers);
}

impl Cluster {
    /// Starts `count` servers and waits for their first acknowledged put.
    pub fn start(system: System, count: usize, programs: &Programs) -> Result<Self> {
        let program = programs.path(system);
        ensure!(program.is_file(), "{} isn't there", program.display());
        fs::create_dir_all(&programs.scratch)?;
        let data = tempfile::Builder::new().prefix(system.name()).tempdir_in(&programs.scratch)?;
        let ports = free_ports(count)?;
        let mut commands = vec![];
        for number in 0..count {
            let dir = data.path().join(format!("n{number}"));
            fs::create_dir_all(dir.join("data"))?;
            let log = File::create(dir.join("log"))?;
            let mut command = Command::new(&program);
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            match system {
                System::Proconsul | System::ThroughClient | System::Consul => {
                    server(&mut command, number, &ports, &dir)?;
                }
                System::Etcd => etcd(&mut command, number, &ports, &dir),
                System::Bound => bound(&mut command, number, &ports, &dir),
            }
            commands.push(command);
        }
        let started = Instant::now();
        let agent = match system {
            System::ThroughClient => Some(client_agent(&program, &ports, data.path())?),
            _ => None,
        };
        let first_put = Duration::ZERO;
        let mut cluster = Self { system, first_put, servers: vec![], leader: 0, agent, data };
        for (command, ports) in commands.iter_mut().zip(&ports) {
            let child = command.spawn().with_context(|| format!("{}", program.display()))?;
            cluster.servers.push(Server { child, client: ports.client, raft: ports.raft });
        }
        cluster.await_put(started).with_context(|| cluster.logs())?;
        cluster.first_put = started.elapsed();
        Ok(cluster)
    }

    /// Waits for a leader, then for its first acknowledged put. Both APIs are asked every few milliseconds: a put
    /// that waits inside the server sleeps there by chance.
    fn await_put(&mut self, started: Instant) -> Result<()> {
        loop {
            let put = self.find_leader().and_then(|()| {
                let mut client = Client::connect(self.system.protocol(), self.leader())?;
                let (answer, body) =
                    client.ask(Request::Put { key: "bench/first", value: b"put" }, PATIENCE)?;
                ensure!(answer.ok, "{}", String::from_utf8_lossy(&body));
                Ok(())
            });
            let Err(error) = put else { return Ok(()) };
            if started.elapsed() > PATIENCE {
                return Err(error.context("no put succeeded in time"));
            }
            for server in &mut self.servers {
                if let Some(status) = server.child.try_wait()? {
                    bail!("a server of {} ended with {status}", self.system.name());
                }
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Finds out who leads.
    pub fn find_leader(&mut self) -> Result<()> {
        let mut last = anyhow::anyhow!("no server knows a leader");
        for (number, server) in self.servers.iter().enumerate() {
            let asked = Client::connect(self.system.protocol(), server.client)
                .and_then(|mut client| client.ask(Request::Leader, Duration::from_secs(2)));
            match asked {
                Err(error) => last = error,
                Ok((answer, _)) if self.system == System::Etcd && answer.ok => {
                    self.leader = number;
                    return Ok(());
                }
                Ok((_, body)) => {
                    let leader = String::from_utf8_lossy(&body);
                    let leader = leader.trim().trim_matches('"');
                    let found = self.servers.iter().position(|s| s.raft.to_string() == leader);
                    if let Some(number) = found {
                        self.leader = number;
                        return Ok(());
                    }
                }
            }
        }
        Err(last)
    }

    /// Where the leader's clients go.
    pub fn leader(&self) -> SocketAddr {
        if let Some(agent) = &self.agent {
            return agent.client;
        }
        self.servers[self.leader].client
    }

    /// Where the followers' clients go.
    pub fn followers(&self) -> Vec<SocketAddr> {
        if let Some(agent) = &self.agent {
            return vec![agent.client];
        }
        // The bound's followers take no clients.
        let clients = if self.system == System::Bound { 0 } else { self.servers.len() };
        let all = self.servers.iter().take(clients).enumerate();
        all.filter(|(number, _)| *number != self.leader).map(|(_, server)| server.client).collect()
    }

    /// The processes.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().chain(&self.agent).map(|server| server.child.id()).collect()
    }

    /// The ends of the servers' logs.
    fn logs(&self) -> String {
        let mut text = format!("{}:", self.system.name());
        for number in 0..self.servers.len() {
            let path = self.data.path().join(format!("n{number}/log"));
            let log = fs::read_to_string(path).unwrap_or_default();
            let skip = log.lines().count().saturating_sub(5);
            for line in log.lines().skip(skip) {
                let _ = write!(text, "\n  n{number}: {line}");
            }
        }
        text
    }
}
