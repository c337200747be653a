//! Sockets: where they listen, how they are dialled, and what notices that the other end is gone.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// A connection whose other end acknowledges nothing for so long is broken. Half-open connections are found within
/// ten seconds: by what was sent, or, where nothing was, by the kernel's probes.
const DEAD_AFTER: Duration = Duration::from_secs(8);
const PROBE_AFTER: Duration = Duration::from_secs(3);
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const PROBES: u32 = 3;

/// Listens for other servers.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Sets what every connection between servers has.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(DEAD_AFTER.as_millis()).unwrap_or(8_000))?;
    Ok(())
}

/// Connects to `host:port`. The error reads like Go's, as Consul's users know it.
pub(super) async fn dial(address: &str, within: Duration) -> Result<TcpStream, String> {
    let told = |what: &str| format!("dial tcp {address}: {what}");
    let stream = timeout(within, async {
        if let Ok(address) = address.parse::<SocketAddr>() {
            return TcpStream::connect(address).await;
        }
        // Names are looked up on a thread that may block.
        let name = address.to_owned();
        let found = tokio::task::spawn_blocking(move || name.to_socket_addrs()).await;
        let found: Vec<_> = found.map_err(io::Error::other)??.collect();
        TcpStream::connect(found.as_slice()).await
    })
    .await
    .map_err(|_| told("i/o timeout"))?;
    let stream = stream.map_err(|error| told(&describe(&error)))?;
    prepare(&stream).map_err(|error| told(&describe(&error)))?;
    Ok(stream)
}

/// What Go says of an error in connecting.
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::TimedOut => "connect: connection timed out".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        io::ErrorKind::UnexpectedEof => "EOF".into(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".into(),
        _ => error.to_string(),
    }
}
