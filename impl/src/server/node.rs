//! Putting a server together: storage, threads, connections.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    io,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use agent_sync::{GroupCommit, Latch, Published, Watches};
use bytes::Bytes;
use spec::{
    codec::{self, RPC_LIMIT},
    raft::{Config, Configuration, Entry, Message, ServerId},
    state::State,
    time::Instant,
};
use tokio::sync::watch;

use super::{
    Agreeing, Gauges, Request, Response, Server, Shared, agreement, coordinates, duties, forming,
    health, lock,
    reads::{self, Reads},
};
use crate::{
    config::ServerSettings,
    driver::{
        Clock, Core, Observer, Wire,
        apply::{Applier, Witness},
        consensus::{Consensus, Input, Leadership, Outbox, SnapshotPolicy},
        keeper::{self, Keeper},
        recorder::Recorder,
        writer::Writer,
    },
    net::{Answer, Caller, Handler, RaftMessage, Transport, TransportConfig, Tunnels},
    storage::{self, LogOptions, StorageError},
};

/// Inputs that may wait for the consensus thread; proposals beyond it are answered with overload.
const MAX_INPUTS: usize = 65_536;
/// Bytes of proposals that may wait for it.
const MAX_INPUT_BYTES: usize = 256 << 20;

/// Why a server doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The address for other servers can't be had.
    #[error("failed to start RPC listener on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// A thread can't be started.
    #[error("failed to start a thread: {0}")]
    Thread(#[from] io::Error),
    /// The configuration makes no sense.
    #[error("{0}")]
    Settings(String),
}

/// Bits that nobody guesses: the standard library seeds its hash maps from the system.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::time::SystemTime::now())
}

/// What arrives from other servers goes to the consensus thread or to the server.
struct Dispatch {
    inbox: Arc<GroupCommit<Input>>,
    server: OnceLock<std::sync::Weak<Shared>>,
}

impl Handler for Dispatch {
    fn raft(&self, from: ServerId, RaftMessage { message, bytes }: RaftMessage) {
        // A message more or less: Raft allows for loss, and a full inbox must not grow.
        let size = match &message {
            Message::AppendEntries(append) => append.entries.iter().map(Entry::size).sum(),
            _ => bytes.as_ref().map_or(0, Bytes::len),
        };
        let _ = self.inbox.send_sized(Input::Message { from, message, bytes }, size);
    }

    fn connected(&self, from: ServerId, address: &str) {
        let Some(shared) = self.server.get().and_then(std::sync::Weak::upgrade) else { return };
        let news = {
            let mut known = lock(&shared.known);
            known.insert(from, address.to_owned()).is_none_or(|before| before != address)
        };
        if news {
            let configuration = Arc::clone(&shared.leadership.borrow().configuration);
            connect(&shared, &configuration);
        }
    }

    fn unreachable(&self, server: ServerId) {
        let _ = self.inbox.send(Input::Unreachable(server));
    }

    fn tunnels(&self) -> Option<Arc<dyn Tunnels>> {
        let shared = self.server.get().and_then(std::sync::Weak::upgrade)?;
        lock(&shared.tunnels).clone()
    }

    fn call(&self, caller: Caller, request: Bytes) -> Answer {
        let server = self.server.get().and_then(std::sync::Weak::upgrade).map(Server);
        Box::pin(async move {
            let response = match (server, codec::decode::<Request, RPC_LIMIT>(&request)) {
                (Some(server), Ok(request @ Request::Join { .. })) => server.admit(request).await,
                (Some(server), Ok(Request::Formation(message))) => {
                    if let Some(forming) = server.0.forming.get() {
                        forming.receive(&message.0);
                    }
                    Response::Done
                }
                (Some(server), Ok(Request::Digests(reports))) => {
                    Response::Digests(server.0.agreeing.exchange(caller.server, reports))
                }
                (Some(server), Ok(request)) => server.lead(request).await,
                (None, _) => Response::NotLeader,
                (_, Err(error)) => Response::Refused(format!("undecodable request: {error}")),
            };
            codec::encode(&response).into()
        })
    }
}

/// Raft's messages leave through the transport.
struct Connections(OnceLock<std::sync::Weak<Shared>>);

impl Wire for Connections {
    fn queue(&self, to: ServerId, message: Message, bytes: Option<Bytes>) {
        if let Some(shared) = self.0.get().and_then(std::sync::Weak::upgrade) {
            shared.transport.queue_raft(to, &RaftMessage { message, bytes });
        }
    }

    fn flush(&self) {
        if let Some(shared) = self.0.get().and_then(std::sync::Weak::upgrade) {
            shared.transport.flush_raft();
        }
    }
}

/// What the consensus thread tells the agent.
struct Watcher {
    leadership: watch::Sender<Leadership>,
    gauges: Arc<Gauges>,
    peers: Arc<health::Peers>,
    fatal: watch::Sender<Option<String>>,
    server: Arc<Connections>,
    agreeing: Arc<Agreeing>,
    own: ServerId,
}

impl Observer for Watcher {
    fn changed(&self, leadership: &Leadership) {
        self.agreeing.vote(&leadership.configuration);
        if leadership.leader.is_some() {
            self.gauges.ever_led.store(true, Ordering::Relaxed);
        }
        if let Some(shared) = self.server.0.get().and_then(std::sync::Weak::upgrade) {
            connect(&shared, &leadership.configuration);
            forming::tell(&shared, leadership);
        }
        let before = self.leadership.send_replace(leadership.clone());
        if leadership.leads
            && !before.leads
            && let Some(shared) = self.server.0.get().and_then(std::sync::Weak::upgrade)
        {
            let runtime = shared.runtime.clone();
            runtime.spawn(async move { Server(shared).initialize_autopilot().await });
        }
        if before.leads != leadership.leads || before.leader != leadership.leader {
            let leader = leadership.leader_address().unwrap_or("none");
            if leadership.leads {
                tracing::info!(term = leadership.term.0, "raft: cluster leadership acquired");
            } else if before.leads {
                tracing::info!(term = leadership.term.0, leader, "raft: cluster leadership lost");
            } else if leadership.leader.is_some() {
                tracing::info!(term = leadership.term.0, leader, "raft: new leader elected");
            }
        }
        debug_assert_eq!(leadership.leads, leadership.leader == Some(self.own), "leads as another");
    }

    fn turned(&self, consensus: &Consensus, now: Instant, heard: bool) {
        let (node, gauges) = (consensus.node(), &self.gauges);
        self.peers.look(consensus, now);
        let last = node.log.last();
        let snapshot = node.snapshot.as_ref().map(|meta| meta.id).unwrap_or_default();
        for (gauge, value) in [
            (&gauges.term, node.hard_state.term.0),
            (&gauges.commit_index, node.commit_index.0),
            (&gauges.last_index, last.index.0),
            (&gauges.last_term, last.term.0),
            (&gauges.snapshot_index, snapshot.index.0),
            (&gauges.snapshot_term, snapshot.term.0),
        ] {
            gauge.store(value, Ordering::Relaxed);
        }
        if heard {
            gauges.heard_at_us.store(now.0.max(1), Ordering::Relaxed);
        }
    }

    fn fatal(&self, reason: String) {
        tracing::error!("{reason}");
        self.fatal.send_replace(Some(reason));
    }
}

/// Keeps connections to the servers of the configuration, and to those that connected to this one: a server whose log
/// is old may have to answer a leader that joined since.
fn connect(shared: &Shared, configuration: &Configuration) {
    let transport = &shared.transport;
    let servers = &configuration.servers;
    if !servers.is_empty() && transport.cluster() != Some(configuration.cluster) {
        transport.set_cluster(Some(configuration.cluster));
    }
    let mut addresses = lock(&shared.known).clone();
    addresses.extend(servers.iter().map(|(id, member)| (*id, member.address.to_string())));
    transport.set_peers(&addresses);
}

/// Between two heartbeats of a leader.
pub(super) fn heartbeat(settings: &ServerSettings) -> Duration {
    raft_config(settings, ServerId::new(0, 0)).heartbeat
}

fn raft_config(settings: &ServerSettings, id: ServerId) -> Config {
    let mut config = Config::new(id, random());
    let multiplier = settings.raft_multiplier.max(1);
    for delay in [
        &mut config.heartbeat,
        &mut config.election,
        &mut config.election_jitter,
        &mut config.quorum_check,
    ] {
        *delay *= multiplier;
    }
    config.trailing_entries = settings.raft_trailing_logs;
    config
}

fn flight_recorder(settings: &ServerSettings) -> Result<Option<Recorder>, StartError> {
    let Some(folder) = &settings.flight_record_dir else { return Ok(None) };
    let file = storage::flight_record(folder, &settings.node_name)?;
    tracing::info!(folder = %folder.display(), "raft: each step is recorded");
    Ok(Some(Recorder::new(Box::new(file))))
}

impl Server {
    /// Starts a server: opens its data directory, recovers, listens, and forms or joins a cluster.
    pub async fn start(settings: ServerSettings) -> Result<Self, StartError> {
        let node =
            match &settings.node_id {
                None => None,
                Some(text) => Some(storage::parse_node_id(text).ok_or_else(|| {
                    StartError::Settings(format!("node_id {text:?} is not a UUID"))
                })?),
            };
        let opened = match &settings.data_dir {
            Some(data_dir) if !settings.dev => {
                let data_dir = data_dir.clone();
                let open = move || storage::open(&data_dir, node, LogOptions::default());
                let opened = tokio::task::spawn_blocking(open).await;
                opened.map_err(|error| StartError::Settings(error.to_string()))??
            }
            _ => storage::in_memory(node)?,
        };
        let id = opened.identity.server();
        let clock = Clock::default();
        let config = Arc::new(raft_config(&settings, id));
        let inbox = Arc::new(GroupCommit::new(MAX_INPUTS, MAX_INPUT_BYTES));
        let snapshots = Arc::new(GroupCommit::new(usize::MAX, usize::MAX));
        let mut outbox = Outbox::default();
        let policy = SnapshotPolicy {
            threshold: settings.raft_snapshot_threshold,
            interval: settings.raft_snapshot_interval,
            ..SnapshotPolicy::default()
        };
        let recorder = flight_recorder(&settings)?;
        let consensus = Consensus::recover_recorded(
            &config,
            opened.durable,
            policy,
            random(),
            clock.now(),
            recorder,
            &mut outbox,
        );
        let leadership = consensus.leadership();
        let blank = leadership.configuration.servers.is_empty();

        let dispatch = Arc::new(Dispatch { inbox: Arc::clone(&inbox), server: OnceLock::new() });
        let mut transport_config = TransportConfig::new(id);
        transport_config.advertise = settings.advertise_address.to_string();
        transport_config.cluster = (!blank).then_some(leadership.configuration.cluster);
        transport_config.max_conns_per_client = settings.limits.rpc_max_conns_per_client;
        transport_config.handshake_timeout = settings.limits.rpc_handshake_timeout;
        let transport =
            Transport::bind(settings.bind_address, transport_config, Arc::clone(&dispatch) as _)
                .await
                .map_err(|source| StartError::Listen {
                    address: settings.bind_address.to_string(),
                    source,
                })?;
        let published = Arc::new(Published::new(0, Arc::new(State::default())));
        let watches = Watches::new();
        let gauges = Arc::new(Gauges::default());
        let data_dir = settings.data_dir.as_deref().filter(|_| !settings.dev);
        let agreeing = Agreeing::new(id, data_dir, Arc::clone(&inbox), watches.clone());
        let agreeing = Arc::new(agreeing);
        let peers = Arc::new(health::Peers::default());
        let (leadership_sender, leadership) = watch::channel(leadership);
        let (fatal_sender, fatal) = watch::channel(None);
        let wire = Arc::new(Connections(OnceLock::new()));
        let observer = Watcher {
            leadership: leadership_sender,
            gauges: Arc::clone(&gauges),
            peers: Arc::clone(&peers),
            fatal: fatal_sender,
            server: Arc::clone(&wire),
            agreeing: Arc::clone(&agreeing),
            own: id,
        };
        let store = opened.snapshots.clone();
        let told = Arc::clone(&agreeing);
        let witness = Witness {
            interval: settings.digest_interval,
            tell: Box::new(move |event| told.tell(event)),
        };
        let applier = Applier::new(
            Arc::clone(&published),
            watches.clone(),
            Box::new(move |meta| keeper::load(&store, meta)),
            Arc::clone(&snapshots),
            witness,
        );
        let names = BTreeMap::from([(id.node, settings.node_name.clone())]);
        let shared = Arc::new(Shared {
            settings,
            id,
            clock,
            inbox: Arc::clone(&inbox),
            reads: Reads::start(Arc::clone(&inbox), reads::PATIENCE),
            published,
            watches,
            leadership,
            transport,
            gauges,
            peers,
            pool: OnceLock::new(),
            wan: OnceLock::new(),
            seen: Mutex::default(),
            names: Mutex::new(names),
            known: Mutex::default(),
            forming: OnceLock::new(),
            joining: AtomicBool::new(false),
            gathering: Mutex::default(),
            agreeing: Arc::clone(&agreeing),
            fatal,
            left: Latch::new(),
            tunnels: Mutex::default(),
            threads: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
            _lock: opened.lock,
        });
        let _ = wire.0.set(Arc::downgrade(&shared));
        let _ = dispatch.server.set(Arc::downgrade(&shared));
        connect(&shared, &Arc::clone(&shared.leadership.borrow().configuration));

        let keeper = Keeper::spawn(
            opened.snapshots,
            Arc::clone(&wire) as _,
            Arc::clone(&inbox),
            Arc::clone(&snapshots),
        )?;
        let core =
            Core { consensus, outbox, inbox, wire, snapshots, observer: Arc::new(observer), clock };
        let core = core.spawn(Writer::new(opened.log), applier)?;
        if let Ok(mut threads) = shared.threads.lock() {
            threads.extend([core, keeper]);
        }
        tokio::spawn(duties::run(Arc::downgrade(&shared)));
        tokio::spawn(coordinates::run(Arc::downgrade(&shared)));
        tokio::spawn(agreement::run(Arc::downgrade(&shared), agreeing));
        let server = Self(shared);
        server.form(opened.records)?;
        Ok(server)
    }

    /// Waits until this server knows a leader.
    pub async fn wait_for_leader(&self, timeout: Duration) -> bool {
        let mut leadership = self.0.leadership.clone();
        super::leader_known(&mut leadership, tokio::time::Instant::now() + timeout).await
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The threads end by themselves, whoever let go of the server last.
        self.inbox.close();
        self.agreeing.wake();
    }
}
