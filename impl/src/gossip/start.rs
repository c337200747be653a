//! Putting a pool together: sockets, keys, what the disk remembers, and joining.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use agent_sync::GroupCommit;
use arc_swap::ArcSwap;
use gossip_wire::envelope::Envelope;
use spec::{
    serf::{self, Durable, Key, Keyring, Tags, coordinate::Coordinate, tags::Rules},
    swim,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{mpsc, watch},
};

use super::{
    counters::Counters,
    disk::Disk,
    events::Events,
    network::{Wire, WireParts},
    pool::{Figures, Pool, PoolError, Shared},
    task::Task,
    turn::{CoordinateCodec, Outbox, Turn},
};
use crate::{
    config::gossip::{Area, GossipConfig},
    driver::Clock,
    storage::{Directory, Disk as Folder, GossipStore, StorageError, read_keyring, write_keyring},
};

/// Messages that wait for the machine; more are lost (memberlist's handoff queue).
const MAX_WAITING: usize = 1024;
/// How long a pool may take to have its own member, at most.
const FIRST_TURN: Duration = Duration::from_secs(2);
/// What a pool's files are called, in the folder of all pools: as Consul's.
const fn file_name(area: Area) -> &'static str {
    match area {
        Area::Lan => "local",
        Area::Wan => "remote",
    }
}

/// What the kernel keeps of datagrams while the pool's task is busy, in bytes.
const BUFFER: usize = 2 << 20;

/// What a pool is started with.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// The configuration.
    pub gossip: GossipConfig,
    /// This member's name.
    pub name: String,
    /// What it says of itself.
    pub tags: Tags,
    /// This agent's datacenter: all members of a LAN belong to it.
    pub datacenter: String,
    /// This agent's node id.
    pub node_id: String,
    /// Where its file is kept; nowhere in `-dev`.
    pub folder: Option<PathBuf>,
}

/// Why a pool doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address can't be had.
    #[error(
        "Failed to start {pool} serf: Failed to create memberlist: Could not set up network transport: failed to obtain an address: Failed to start {protocol} listener on {address}: {source}"
    )]
    Listen {
        /// Which pool.
        pool: &'static str,
        /// Which socket.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Its file can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Its keyring's file makes no sense.
    #[error("the keyring of gossip can't be used: {0}")]
    Keyring(String),
    /// A thread can't be started.
    #[error("failed to start a thread: {0}")]
    Thread(io::Error),
    /// Its tags don't fit.
    #[error("Encoded length of tags exceeds limit of 512 bytes")]
    Tags,
}

impl Pool {
    /// Starts a pool of this member alone; others are joined.
    pub async fn start(settings: PoolSettings) -> Result<Self, StartError> {
        let gossip = &settings.gossip;
        let area = gossip.area;
        let (store, durable) = match &settings.folder {
            None => (None, Durable::default()),
            Some(folder) => {
                let folder = folder.clone();
                let open = move || {
                    let failed = |source| StorageError::Io {
                        what: "creating",
                        path: folder.clone(),
                        source,
                    };
                    let disk: Arc<dyn Directory> =
                        Arc::new(Folder::create(&folder).map_err(failed)?);
                    GossipStore::open(disk, file_name(area))
                };
                let opened = tokio::task::spawn_blocking(open).await;
                let (store, durable) =
                    opened.map_err(|error| StartError::Keyring(error.to_string()))??;
                (Some(store), durable)
            }
        };
        let keyring_file = keyring_file(gossip, settings.folder.as_deref());
        let keyring = keyring(gossip, keyring_file.as_deref())?;
        let (socket, listener) = bind(area, gossip.bind).await?;
        let bound = listener.local_addr().map_err(|source| StartError::Listen {
            pool: pool_name(area),
            protocol: "TCP",
            address: gossip.bind,
            source,
        })?;
        let mut endpoint = gossip.advertise;
        if endpoint.port() == 0 {
            endpoint.set_port(bound.port());
        }
        let envelope = Arc::new(ArcSwap::from_pointee(Envelope {
            verify_incoming: gossip.verify_incoming,
            verify_outgoing: gossip.verify_outgoing,
            ..Envelope::default()
        }));
        let config = machine(&settings, endpoint, keyring, &envelope.load());
        if serf::tags::encode(&config.tags).is_none() {
            return Err(StartError::Tags);
        }
        let stream_timeout = config.swim.stream_timeout;
        let (clock, mut outbox) = (Clock::default(), Outbox::default());
        let codec = (!gossip.disable_coordinates).then_some(CoordinateCodec::SERF);
        let seed = crate::server::random();
        let mut turn = Turn::recover(&config, durable, codec, seed, clock.now(), &mut outbox);
        if gossip.area == Area::Wan {
            // Datacenters are told by their distance; there are few servers.
            turn.keep_places();
        }

        let counters = Arc::new(Counters::default());
        let (inputs, received) = mpsc::channel(MAX_WAITING);
        let (control, controls) = mpsc::unbounded_channel();
        let (asks, asked) = mpsc::unbounded_channel();
        let wire = Wire::start(WireParts {
            socket,
            listener,
            envelope: Arc::clone(&envelope),
            inputs,
            control: control.clone(),
            allowed: gossip.allowed.clone(),
            stream_timeout,
            counters: Arc::clone(&counters),
        });
        let records = Arc::new(GroupCommit::new(usize::MAX, usize::MAX));
        Disk::new(store, keyring_file)
            .spawn(Arc::clone(&records), control)
            .map_err(StartError::Thread)?;
        let shared = Arc::new(Shared {
            area,
            name: settings.name.as_str().into(),
            endpoint,
            asks,
            next_request: 1.into(),
            members: ArcSwap::from_pointee(Vec::new()),
            version: watch::Sender::new(0),
            events: Events::new(&settings.name),
            coordinate: codec.map(|_| ArcSwap::from_pointee(Coordinate::default())),
            places: ArcSwap::default(),
            fatal: watch::Sender::new(None),
            encrypted: AtomicBool::new(false),
            figures: Figures::default(),
            counters,
        });
        let task = Task {
            turn,
            outbox,
            shared: Arc::clone(&shared),
            clock,
            inputs: received,
            control: controls,
            asks: asked,
            records,
            wire,
            envelope,
            waiting: HashMap::new(),
        };
        tokio::spawn(task.run());
        // Whoever asks for the members from here on finds this one among them.
        let mut changes = shared.version.subscribe();
        let there = changes.wait_for(|version| *version > 0);
        let _ = tokio::time::timeout(FIRST_TURN, there).await;
        Ok(Self::new(shared))
    }

    /// Joins what the configuration names: `start_join` now, or the agent doesn't start; `retry_join` until it is done.
    pub async fn join_configured(&self, gossip: &GossipConfig) -> Result<(), String> {
        if !gossip.start_join.is_empty() {
            let joined = self.join_and_tell(&gossip.start_join).await;
            let joined = joined.map_err(|error| error.to_string())?;
            tracing::info!(target: "agent", agent_count = joined, "Join completed. Initial agents synced with");
        }
        if !gossip.retry_join.is_empty() {
            let (pool, gossip) = (self.clone(), gossip.clone());
            tokio::spawn(async move { pool.retry(&gossip).await });
        }
        Ok(())
    }

    /// Joins, and has the log tell of it in Consul's words.
    async fn join_and_tell(&self, addresses: &[String]) -> Result<usize, PoolError> {
        let (area, key) = match self.area() {
            Area::Lan => ("LAN", "lan_addresses"),
            Area::Wan => ("WAN", "wan_addresses"),
        };
        tracing::info!(target: "agent", "({area}) joining: {key}=[{}]", addresses.join(", "));
        let joined = self.join(addresses).await;
        match &joined {
            Ok(count) => {
                tracing::info!(target: "agent", number_of_nodes = count, "({area}) joined");
            }
            Err(error) => {
                tracing::warn!(target: "agent", number_of_nodes = 0, %error, "({area}) couldn't join");
            }
        }
        joined
    }

    async fn retry(&self, gossip: &GossipConfig) {
        let cluster = self.area().name();
        tracing::info!(target: "agent", cluster, "Joining cluster...");
        let mut attempt: u32 = 0;
        loop {
            match self.join_and_tell(&gossip.retry_join).await {
                Ok(joined) => {
                    tracing::info!(
                        target: "agent",
                        cluster,
                        num_agents = joined,
                        "Join cluster completed. Synced with initial agents"
                    );
                    return;
                }
                Err(PoolError::Gone) => return,
                Err(_) => {
                    attempt = attempt.saturating_add(1);
                    if gossip.retry_max > 0 && attempt > gossip.retry_max {
                        let reason = format!("agent: max join {cluster} retry exhausted, exiting");
                        return self.give_up(format!("Retry join failed: error={reason:?}"));
                    }
                    tracing::warn!(
                        target: "agent",
                        cluster,
                        retry_interval = crate::http::go::duration(pause(gossip, attempt)),
                        "Join cluster failed, will retry"
                    );
                }
            }
            tokio::time::sleep(pause(gossip, attempt)).await;
        }
    }
}

/// How long to wait before the next try to join.
///
/// Agents that are started together find nobody at first, and Consul's then wait for a whole interval, 30 s by default.
/// These come sooner at first, unless the tries are counted.
fn pause(gossip: &GossipConfig, attempt: u32) -> Duration {
    let sooner = Duration::from_millis(250) * (1 << attempt.min(10));
    let interval = gossip.retry_interval.max(Duration::from_millis(10));
    if gossip.retry_max == 0 { interval.min(sooner) } else { interval }
}

/// Where a pool keeps its keys, in `folder`.
fn keyring_file(gossip: &GossipConfig, folder: Option<&Path>) -> Option<PathBuf> {
    let folder = folder.filter(|_| !gossip.disable_keyring_file)?;
    Some(folder.join(format!("{}.keyring", file_name(gossip.area))))
}

/// Whether a pool that keeps its files in `folder` starts with a key, be it configured or kept.
pub fn starts_encrypted(gossip: &GossipConfig, folder: Option<&Path>) -> bool {
    // A file that can't be read is told when the pool starts.
    let kept = || keyring_file(gossip, folder).and_then(|file| read_keyring(&file).ok().flatten());
    gossip.key.is_some() || kept().is_some()
}

/// The keys: those of the file, or the one that is configured.
fn keyring(gossip: &GossipConfig, file: Option<&Path>) -> Result<Keyring, StartError> {
    let bad = |error: gossip_wire::keyring::KeyError| StartError::Keyring(error.to_string());
    if let Some(ring) = file.map(read_keyring).transpose()?.flatten() {
        if gossip.key.is_some() {
            tracing::warn!(
                "agent: {} keyring exists but -encrypt given, using keyring",
                gossip.area.name()
            );
        }
        let keys: Vec<Key> =
            ring.keys().iter().filter_map(|key| Key::new(key.as_bytes())).collect();
        return Ok(Keyring::of(&keys));
    }
    let Some(key) = gossip.key.as_ref().and_then(|key| Key::new(&key.0)) else {
        return Ok(Keyring::default());
    };
    let keyring = Keyring::of(&[key]);
    if let Some(file) = file {
        write_keyring(file, &super::task::ring(&keyring).map_err(bad)?)?;
    }
    Ok(keyring)
}

/// How a pool is called where it doesn't start.
const fn pool_name(area: Area) -> &'static str {
    match area {
        Area::Lan => "lan",
        Area::Wan => "wan",
    }
}

/// A datagram socket and a listener on one port. For port 0 the system chooses one that both have.
async fn bind(area: Area, address: SocketAddr) -> Result<(UdpSocket, TcpListener), StartError> {
    let pool = pool_name(area);
    let failed = |protocol| move |source| StartError::Listen { pool, protocol, address, source };
    let mut tries = 0;
    loop {
        let listener = crate::net::listen(address).await.map_err(failed("TCP"))?;
        let bound = listener.local_addr().map_err(failed("TCP"))?;
        match UdpSocket::bind(bound).await {
            Ok(socket) => {
                let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BUFFER);
                return Ok((socket, listener));
            }
            Err(_) if address.port() == 0 && tries < 10 => tries += 1,
            Err(source) => return Err(failed("UDP")(source)),
        }
    }
}

fn machine(
    settings: &PoolSettings,
    endpoint: SocketAddr,
    keyring: Keyring,
    envelope: &Envelope,
) -> serf::Config {
    let gossip = &settings.gossip;
    let name = settings.name.as_str().into();
    let mut swim = match gossip.area {
        Area::Lan => {
            let rules = Rules {
                datacenter: Some(settings.datacenter.as_str().into()),
                node_id: Some(settings.node_id.as_str().into()),
                ..Rules::default()
            };
            swim::Config::lan(name, endpoint, rules)
        }
        Area::Wan => {
            let rules = Rules { servers_only: true, ..Rules::default() };
            swim::Config::wan(name, endpoint, rules)
        }
    };
    let tuning = &gossip.tuning;
    swim.gossip_nodes = tuning.gossip_nodes;
    swim.gossip_interval = tuning.gossip_interval;
    swim.probe_interval = tuning.probe_interval;
    swim.probe_timeout = tuning.probe_timeout;
    swim.suspicion_mult = tuning.suspicion_mult;
    swim.retransmit_mult = tuning.retransmit_mult;
    let mut sealed = envelope.clone();
    sealed.keyring = super::task::ring(&keyring).unwrap_or_default();
    swim.max_packet = swim.max_packet.saturating_sub(sealed.packet_overhead());
    let mut config = serf::Config::consul(swim, settings.tags.clone());
    config.keyring = keyring;
    config.memory.failed = gossip.reconnect_timeout;
    config.rejoin_after_leave = gossip.rejoin_after_leave;
    config
}
