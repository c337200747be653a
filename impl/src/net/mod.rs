//! RPC between servers: framed bincode over TCP.
//!
//! | class of connection | carries | when full or broken |
//! |---|---|---|
//! | Raft | Raft's messages, in order, one way | drops: Raft allows for loss |
//! | Bulk | chunks of snapshots, one way | drops |
//! | Rpc | requests and responses, multiplexed | answers: each call learns whether it was sent |
//! | Http | HTTP/2, in the hands of `http` here and of `client` there | as HTTP/2 has it |
//!
//! Raft's messages never wait behind chunks or requests. A connection of the Raft class that breaks, or can't be had,
//! is told to the handler at once ([`Handler::unreachable`]): it is a suspicion that an election can start from.
//! Every queue is bounded by count and by bytes.

mod accept;
mod hello;
mod link;
mod pipe;
mod rpc;
mod socket;
pub mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use agent_sync::Latch;
use arc_swap::ArcSwap;
use bytes::Bytes;
use spec::raft::{ClusterId, Message, ServerId};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::watch,
    time::Instant,
};

pub use self::{
    hello::{Class, PROTOCOL, Refusal},
    link::dial_http,
    rpc::Caller,
    socket::listen,
};
use self::{link::Link, pipe::Pipe};

/// What a transport is allowed.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// This server.
    pub server: ServerId,
    /// Where it answers, as it tells the others; where it listens, if empty.
    pub advertise: String,
    /// The cluster that it belongs to, if any yet; see [`Transport::set_cluster`].
    pub cluster: Option<ClusterId>,
    /// Connections from one address (`limits.rpc_max_conns_per_client`).
    pub max_conns_per_client: usize,
    /// How long a hello may take (`limits.rpc_handshake_timeout`).
    pub handshake_timeout: Duration,
    /// Raft messages queued for one peer.
    pub raft_queue_frames: usize,
    /// Bytes of Raft messages queued for one peer.
    pub raft_queue_bytes: usize,
    /// Chunks queued for one peer.
    pub bulk_queue_frames: usize,
    /// Bytes of chunks queued for one peer.
    pub bulk_queue_bytes: usize,
    /// Calls of this server under way.
    pub max_calls: usize,
    /// Calls under way over one connection, on either side.
    pub max_calls_per_connection: usize,
    /// Bytes of requests or responses queued for one connection.
    pub rpc_queue_bytes: usize,
    /// Bytes of requests that this server works on.
    pub max_served_bytes: usize,
}

impl TransportConfig {
    /// The settings that Consul has, and our own for what it leaves unbounded.
    pub fn new(server: ServerId) -> Self {
        Self {
            server,
            advertise: String::new(),
            cluster: None,
            max_conns_per_client: 100,
            handshake_timeout: Duration::from_secs(5),
            raft_queue_frames: 4096,
            raft_queue_bytes: 32 << 20,
            bulk_queue_frames: 64,
            bulk_queue_bytes: 16 << 20,
            max_calls: 16_384,
            max_calls_per_connection: 8192,
            rpc_queue_bytes: 32 << 20,
            max_served_bytes: 64 << 20,
        }
    }
}

/// A message of Raft and what the driver attaches to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftMessage {
    /// The message.
    pub message: Message,
    /// The chunk's bytes where it is an `InstallSnapshot`.
    pub bytes: Option<Bytes>,
}

impl From<Message> for RaftMessage {
    fn from(message: Message) -> Self {
        Self { message, bytes: None }
    }
}

/// What a handler answers a call with.
pub type Answer = Pin<Box<dyn Future<Output = Bytes> + Send>>;
/// A connection in somebody's hands, until it ends.
pub type Tunnel = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves the connections of agents that are no servers.
pub trait Tunnels: Send + Sync {
    /// Whether it takes any. One that doesn't is told before a request could be sent in vain.
    fn is_open(&self) -> bool;

    /// Serves one to its end.
    fn serve(&self, stream: TcpStream) -> Tunnel;
}

/// Who is told what arrives.
pub trait Handler: Send + Sync + 'static {
    /// A message of Raft arrived. Called from the network's tasks: it must not block.
    fn raft(&self, from: ServerId, message: RaftMessage);

    /// This server connected for Raft's messages, and says that it answers at `address`.
    fn connected(&self, from: ServerId, address: &str) {
        let _ = (from, address);
    }

    /// The connection to this server broke, or can't be had. Told again at each failed attempt.
    fn unreachable(&self, server: ServerId);

    /// A server asks for something; dropped at the caller's deadline.
    fn call(&self, caller: Caller, request: Bytes) -> Answer;

    /// Who serves agents that are no servers; their connections are closed where nobody does.
    fn tunnels(&self) -> Option<Arc<dyn Tunnels>> {
        None
    }

    /// The server at this address refused the connection for Raft's messages. It is logged in any case.
    fn refused(&self, address: &str, refusal: &Refusal) {
        let _ = (address, refusal);
    }
}

/// Why a call has no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// No connection: the request never left.
    #[error("rpc error getting client: failed to get conn: {0}")]
    NotConnected(String),
    /// The server at that address refused the connection: the request never left.
    #[error(
        "rpc error getting client: failed to get conn: {address} refused the connection: {refusal}"
    )]
    Refused {
        /// Where.
        address: String,
        /// Why.
        refusal: Refusal,
    },
    /// The server leaves: nothing has come of the request.
    #[error("rpc error making call: No cluster leader")]
    Elsewhere,
    /// Too much is under way, here or there: the request was not looked at.
    #[error("rpc error making call: too many requests in flight")]
    Overloaded,
    /// Longer than a request may be: it never left.
    #[error("rpc error making call: request too large")]
    TooLong,
    /// The request was sent. Whether it happened is not known.
    #[error("rpc error making call: {0}")]
    OutcomeUnknown(String),
}

impl RpcError {
    /// Whether the request certainly didn't happen, so that it may be tried again.
    pub fn is_never_sent(&self) -> bool {
        !matches!(self, Self::OutcomeUnknown(_))
    }
}

/// Who this server is in a hello.
#[derive(Clone, Copy, Debug)]
struct Identity {
    server: ServerId,
    cluster: Option<ClusterId>,
}

struct Shared {
    config: TransportConfig,
    identity: watch::Sender<Identity>,
    runtime: Handle,
    latch: Latch,
    connections: accept::Connections,
    clients: rpc::Clients,
    served_bytes: AtomicUsize,
}

struct Peer {
    address: String,
    raft: Arc<Pipe>,
    bulk: Arc<Pipe>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.raft.close();
        self.bulk.close();
    }
}

type Peers = BTreeMap<ServerId, Arc<Peer>>;

/// This server's connections to the others. Dropping it ends them all.
pub struct Transport {
    shared: Arc<Shared>,
    handler: Arc<dyn Handler>,
    address: SocketAddr,
    peers: ArcSwap<Peers>,
    /// Held while the peers change.
    changing: Mutex<()>,
}

impl Transport {
    /// Listens and serves.
    pub async fn bind(
        address: SocketAddr,
        config: TransportConfig,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        Self::start(listen(address).await?, config, handler)
    }

    /// Serves on a socket that already listens. Called from within tokio's runtime, as [`Self::bind`] is; the rest may
    /// be called from any thread.
    pub fn start(
        listener: TcpListener,
        mut config: TransportConfig,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        if config.advertise.is_empty() {
            config.advertise = address.to_string();
        }
        let identity = Identity { server: config.server, cluster: config.cluster };
        let shared = Arc::new(Shared {
            config,
            identity: watch::Sender::new(identity),
            runtime: Handle::current(),
            latch: Latch::new(),
            connections: accept::Connections::default(),
            clients: rpc::Clients::default(),
            served_bytes: AtomicUsize::new(0),
        });
        shared.runtime.spawn(accept::listen(shared.clone(), listener, handler.clone()));
        let peers = ArcSwap::new(Arc::default());
        Ok(Self { shared, handler, address, peers, changing: Mutex::new(()) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says which cluster this server belongs to from here on. Until then it neither sends nor takes Raft's messages.
    pub fn set_cluster(&self, cluster: Option<ClusterId>) {
        self.shared.identity.send_modify(|identity| identity.cluster = cluster);
    }

    /// The cluster that this server belongs to.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.shared.identity.borrow().cluster
    }

    /// Keeps connections to exactly these servers, this one left out. Those that stay as they are stay connected.
    pub fn set_peers(&self, addresses: &BTreeMap<ServerId, String>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.peers.load_full();
        let mut peers = Peers::new();
        for (server, address) in addresses {
            if *server == self.shared.config.server {
                continue;
            }
            let peer = match before.get(server) {
                Some(peer) if peer.address == *address => peer.clone(),
                _ => Arc::new(self.connect(*server, address)),
            };
            peers.insert(*server, peer);
        }
        self.peers.store(Arc::new(peers));
    }

    fn connect(&self, to: ServerId, address: &str) -> Peer {
        let config = &self.shared.config;
        let keep = |class: Class, frames: usize, bytes: usize| {
            let pipe = Arc::new(Pipe::new(frames, bytes));
            let link = Link {
                to,
                address: address.to_owned(),
                advertise: config.advertise.clone(),
                class,
                pipe: pipe.clone(),
                identity: self.shared.identity.subscribe(),
                handler: self.handler.clone(),
                latch: self.shared.latch.clone(),
            };
            self.shared.runtime.spawn(link.keep());
            pipe
        };
        Peer {
            address: address.to_owned(),
            raft: keep(Class::Raft, config.raft_queue_frames, config.raft_queue_bytes),
            bulk: keep(Class::Bulk, config.bulk_queue_frames, config.bulk_queue_bytes),
        }
    }

    /// Sends a message at once, without blocking. False where it was dropped: no such peer, or too much is queued.
    pub fn send_raft(&self, to: ServerId, message: &RaftMessage) -> bool {
        let queued = self.queue_raft(to, message);
        if queued && let Some(peer) = self.peers.load().get(&to) {
            peer.raft.flush();
            peer.bulk.flush();
        }
        queued
    }

    /// Queues a message that leaves, together with all others, at the next [`Self::flush_raft`].
    pub fn queue_raft(&self, to: ServerId, message: &RaftMessage) -> bool {
        let peers = self.peers.load();
        let Some(peer) = peers.get(&to) else { return false };
        let queued = match &message.bytes {
            None => peer.raft.queue(&message.message, &[]),
            Some(bytes) => peer.bulk.queue(&message.message, bytes),
        };
        if let Err(dropped) = queued {
            tracing::debug!(peer = %peer.address, ?dropped, "a message of Raft was dropped");
        }
        queued.is_ok()
    }

    /// Sends all that is queued: one write for each peer.
    pub fn flush_raft(&self) {
        for peer in self.peers.load().values() {
            peer.raft.flush();
            peer.bulk.flush();
        }
    }

    /// Asks the server at `host:port`, whoever that is.
    pub async fn call(
        &self,
        address: &str,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, RpcError> {
        self.call_with(address, |buffer| buffer.extend_from_slice(&request), deadline).await
    }

    /// Asks the server at `host:port`; `encode` appends the request to the connection's buffer.
    pub async fn call_with(
        &self,
        address: &str,
        encode: impl FnOnce(&mut Vec<u8>) + Send,
        deadline: Instant,
    ) -> Result<Bytes, RpcError> {
        self.shared.call(address, None, encode, deadline).await
    }

    /// Asks this server, which must be a peer; another one at its address refuses.
    pub async fn call_server(
        &self,
        server: ServerId,
        encode: impl FnOnce(&mut Vec<u8>) + Send,
        deadline: Instant,
    ) -> Result<Bytes, RpcError> {
        let peer = self.peers.load().get(&server).cloned();
        let Some(peer) = peer else {
            return Err(RpcError::NotConnected("no known address".into()));
        };
        self.shared.call(&peer.address, Some(server), encode, deadline).await
    }

    /// Ends all connections and takes no more.
    pub fn shutdown(&self) {
        self.shared.latch.trip();
        self.peers.store(Arc::default());
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shutdown();
    }
}
