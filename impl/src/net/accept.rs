//! Connections that other servers open: how many, who, and what for.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use spec::codec::{self, CodecError};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::{
    Handler, RaftMessage, Shared,
    hello::{self, Class, Hello, Refusal, Welcome},
    pipe::{End, Frames, Pipe},
    socket,
};

/// Beyond the limit, so many more connections of an address are told why they are refused; the rest are dropped.
const TOLD: usize = 16;
/// How long a connection that is refused anyway may take to say its hello.
const EXCESS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait where a connection can't be accepted (no file descriptor left, say).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How many connections each address has.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<HashMap<IpAddr, usize>>);

#[cfg(test)]
impl Connections {
    /// How many the address has.
    pub(super) fn count(&self, address: IpAddr) -> usize {
        self.0.lock().unwrap().get(&address).copied().unwrap_or(0)
    }
}

/// One connection of an address; counted off when dropped.
struct Connection {
    shared: Arc<Shared>,
    address: IpAddr,
    /// It is beyond the limit.
    excess: bool,
}

impl Connection {
    fn count(shared: &Arc<Shared>, address: IpAddr) -> Option<Self> {
        let mut counts = shared.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        let limit = shared.config.max_conns_per_client;
        if *count >= limit + TOLD {
            return None;
        }
        *count += 1;
        Some(Self { shared: shared.clone(), address, excess: *count > limit })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut counts = self.shared.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Takes connections until the latch trips.
pub(super) async fn listen(shared: Arc<Shared>, listener: TcpListener, handler: Arc<dyn Handler>) {
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let Some(connection) = Connection::count(&shared, from.ip()) else {
                        continue;
                    };
                    let (shared, handler) = (shared.clone(), handler.clone());
                    tokio::spawn(async move {
                        let tripped = shared.latch.tripped();
                        let served = async {
                            if connection.excess {
                                refuse_excess(&shared, stream).await
                            } else {
                                serve(&shared, stream, handler).await
                            }
                        };
                        let result = tokio::select! {
                            result = served => result,
                            () = tripped => Ok(()),
                        };
                        drop(connection);
                        if let Err(error) = result {
                            tracing::debug!(%from, %error, "connection of a server ended");
                        }
                    });
                }
                Err(error) => {
                    // A connection that was reset before it was taken is no reason to wait.
                    if error.kind() != io::ErrorKind::ConnectionAborted {
                        tracing::warn!(%error, "no connection can be accepted");
                        sleep(ACCEPT_BACKOFF).await;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shared.latch.tripped() => {}
    }
}

async fn refuse_excess(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    tracing::warn!(
        "refused a server's connection: its address has more than limits.rpc_max_conns_per_client ({})",
        shared.config.max_conns_per_client
    );
    // Bytes left unread would make the kernel cut off the answer.
    let _ = timeout(EXCESS_TIMEOUT, hello::receive(&mut stream)).await;
    hello::refuse(&mut stream, Refusal::TooManyConnections).await
}

async fn serve(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    handler: Arc<dyn Handler>,
) -> io::Result<()> {
    socket::prepare(&stream)?;
    let tunnels = handler.tunnels().filter(|tunnels| tunnels.is_open());
    let greeted = greet(shared, &mut stream, tunnels.is_some());
    let handshake = timeout(shared.config.handshake_timeout, greeted);
    let Some(hello) = handshake.await.map_err(io::Error::other)?? else { return Ok(()) };
    if let (Class::Raft, Some(address)) = (hello.class, &hello.address) {
        handler.connected(hello.from, address);
    }
    let end = match hello.class {
        Class::Rpc => shared.serve_calls(stream, hello, handler).await,
        Class::Http => {
            if let Some(tunnels) = tunnels {
                tunnels.serve(stream).await;
            }
            return Ok(());
        }
        Class::Raft | Class::Bulk => receive_raft(stream, &hello, &*handler).await,
    };
    match end.error {
        Some(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(()),
    }
}

/// Reads the hello; none where it was refused.
async fn greet(
    shared: &Shared,
    stream: &mut TcpStream,
    takes_agents: bool,
) -> io::Result<Option<Hello>> {
    let hello = hello::receive(stream).await?;
    if hello.class == Class::Http && !takes_agents {
        // Not yet, or not any more: another server is found sooner than a reason is read.
        return Ok(None);
    }
    let identity = *shared.identity.borrow();
    let own = Welcome { cluster: identity.cluster, server: identity.server };
    match hello.check(own) {
        Ok(()) => {
            hello::welcome(stream, own).await?;
            Ok(Some(hello))
        }
        Err(refusal) => {
            let from = stream.peer_addr().map_or_else(|_| String::new(), |from| from.to_string());
            if refusal == (Refusal::Cluster { belongs_to: None }) {
                tracing::debug!(from, "a server connected before this one belongs to its cluster");
                hello::refuse(stream, refusal).await?;
                return Ok(None);
            }
            tracing::warn!(
                from,
                server = %hello.from.node,
                "refused a server: its hello named cluster {:?} and server {:?}; told it that {refusal}",
                hello.cluster.map(|cluster| format!("{:032x}", cluster.0)),
                hello.to,
            );
            hello::refuse(stream, refusal).await?;
            Ok(None)
        }
    }
}

/// Hands Raft's messages to the handler until the connection ends.
async fn receive_raft(stream: TcpStream, hello: &Hello, handler: &dyn Handler) -> End {
    // Nothing is sent here: answers go over this server's own connection.
    let pipe = Pipe::new(0, 0);
    let next = |frames: &mut Frames| -> io::Result<Option<RaftMessage>> {
        if hello.class == Class::Raft {
            let message = frames.next(codec::decode::<_, { codec::RPC_LIMIT }>)?;
            return Ok(message.map(|message| RaftMessage { message, bytes: None }));
        }
        let Some(body) = frames.take()? else { return Ok(None) };
        let (message, bytes) = super::pipe::split(body)?;
        Ok(Some(RaftMessage { message, bytes: Some(bytes) }))
    };
    pipe.run(stream, |frames| {
        while let Some(message) = next(frames)? {
            let chunk = matches!(message.message, spec::raft::Message::InstallSnapshot(_));
            if chunk != message.bytes.is_some() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, CodecError::Malformed));
            }
            handler.raft(hello.from, message);
        }
        Ok(())
    })
    .await
}
