//! One direction to one peer: a task that keeps a connection up and says so when it breaks.

use std::{io, sync::Arc, time::Duration};

use agent_sync::Latch;
use spec::raft::{DiskId, NodeId, ServerId};
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    Handler, Identity, RpcError,
    hello::{self, Class, Hello, PROTOCOL, Refusal},
    pipe::Pipe,
    socket,
};

/// How long a connection and its hello may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
/// Well under an election's timeout: a server that comes back is heard before it would stand for election.
const LAST_BACKOFF: Duration = Duration::from_millis(160);
/// A server that refuses us won't think better of it within milliseconds.
const REFUSED_BACKOFF: Duration = Duration::from_secs(1);

/// A connection to a peer, kept up.
pub(super) struct Link {
    pub(super) to: ServerId,
    pub(super) address: String,
    /// Where this server answers itself.
    pub(super) advertise: String,
    pub(super) class: Class,
    pub(super) pipe: Arc<Pipe>,
    pub(super) identity: watch::Receiver<Identity>,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) latch: Latch,
}

enum Failure {
    /// No connection.
    Dial(String),
    Refused(Refusal),
}

impl Link {
    /// Connects again and again until the pipe is closed or the latch trips.
    pub(super) async fn keep(mut self) {
        let stop = self.latch.tripped();
        tokio::select! {
            () = stop => {}
            () = self.reconnect() => {}
        }
    }

    async fn reconnect(&mut self) {
        let mut backoff = Duration::ZERO;
        // Logged when it changes, not each time.
        let mut told = String::new();
        while !self.pipe.is_closed() {
            // Raft's messages belong to a cluster.
            if self.identity.wait_for(|identity| identity.cluster.is_some()).await.is_err() {
                return;
            }
            let started = Instant::now();
            match self.connect().await {
                Ok(stream) => {
                    tracing::debug!(peer = %self.address, class = ?self.class, "connected");
                    told.clear();
                    // Nothing is received here: answers come over the peer's own connection.
                    let end =
                        self.pipe.run(stream, |_| Err(io::ErrorKind::InvalidData.into())).await;
                    let Some(error) = end.error else { return };
                    tracing::debug!(peer = %self.address, class = ?self.class, %error, "connection broke");
                    backoff = Duration::ZERO;
                    if started.elapsed() < LAST_BACKOFF {
                        backoff = LAST_BACKOFF;
                    }
                }
                Err(Failure::Dial(error)) => {
                    if told != error {
                        tracing::warn!(class = ?self.class, "no connection to a server: {error}");
                        told = error;
                    }
                    backoff = (2 * backoff).clamp(FIRST_BACKOFF, LAST_BACKOFF);
                }
                Err(Failure::Refused(refusal)) => {
                    let text = refusal.to_string();
                    if told != text {
                        if refusal == (Refusal::Cluster { belongs_to: None }) {
                            tracing::debug!(class = ?self.class, "{} refused the connection: {text}", self.address);
                        } else {
                            tracing::error!(class = ?self.class, "{} refused the connection: {text}", self.address);
                        }
                        told = text;
                        self.handler.refused(&self.address, &refusal);
                    }
                    backoff = match refusal {
                        // It is being let in, and learns its cluster in a moment.
                        Refusal::Cluster { belongs_to: None } => LAST_BACKOFF,
                        _ => REFUSED_BACKOFF,
                    };
                }
            }
            // What waits is old by the time that a connection stands; the machine sends afresh.
            self.pipe.clear();
            if self.class == Class::Raft {
                self.handler.unreachable(self.to);
            }
            sleep(backoff).await;
        }
    }

    async fn connect(&mut self) -> Result<TcpStream, Failure> {
        let own = *self.identity.borrow_and_update();
        let hello = Hello {
            protocol: PROTOCOL,
            class: self.class,
            cluster: own.cluster,
            from: own.server,
            to: Some(self.to),
            address: Some(self.advertise.clone()),
        };
        let (stream, _) = open(&self.address, &hello, DIAL_TIMEOUT).await?;
        Ok(stream)
    }
}

async fn open(
    address: &str,
    hello: &Hello,
    within: Duration,
) -> Result<(TcpStream, hello::Welcome), Failure> {
    let deadline = Instant::now() + within;
    let mut stream = socket::dial(address, within).await.map_err(Failure::Dial)?;
    let left = deadline.saturating_duration_since(Instant::now());
    match timeout(left, hello::open(&mut stream, hello)).await {
        Ok(Ok(Ok(welcome))) => Ok((stream, welcome)),
        Ok(Ok(Err(refusal))) => Err(Failure::Refused(refusal)),
        Ok(Err(error)) => {
            Err(Failure::Dial(format!("dial tcp {address}: {}", socket::describe(&error))))
        }
        Err(_) => Err(Failure::Dial(format!("dial tcp {address}: i/o timeout"))),
    }
}

/// Dials a server for requests.
pub(super) async fn open_rpc(
    address: &str,
    to: Option<ServerId>,
    own: Identity,
    within: Duration,
) -> Result<TcpStream, RpcError> {
    dial(address, Class::Rpc, to, own, within).await
}

/// Dials the server at `host:port` for requests of clients, which speak HTTP/2 over it. `from` is this agent, which is
/// no server and belongs to the cluster of whoever answers.
pub async fn dial_http(
    address: &str,
    from: NodeId,
    within: Duration,
) -> Result<TcpStream, RpcError> {
    // No disk votes for it.
    let own = Identity { server: ServerId { node: from, disk: DiskId(0) }, cluster: None };
    dial(address, Class::Http, None, own, within).await
}

async fn dial(
    address: &str,
    class: Class,
    to: Option<ServerId>,
    own: Identity,
    within: Duration,
) -> Result<TcpStream, RpcError> {
    let Identity { server: from, cluster } = own;
    let hello = Hello { protocol: PROTOCOL, class, cluster, from, to, address: None };
    match open(address, &hello, within).await {
        Ok((stream, _)) => Ok(stream),
        Err(Failure::Dial(error)) => Err(RpcError::NotConnected(error)),
        Err(Failure::Refused(refusal)) => {
            Err(RpcError::Refused { address: address.to_owned(), refusal })
        }
    }
}
