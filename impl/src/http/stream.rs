//! A client's connection: TCP or a unix socket, and what it is doing, so that one that dawdles can be ended.

use std::{
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use super::park::Desk;

/// Where clients come in.
#[derive(Debug)]
pub enum Listener {
    /// An address and port.
    Tcp(TcpListener),
    /// A socket file, as `unix://` addresses name it.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl Listener {
    /// Waits for the next client; a client on a unix socket has no address.
    pub(super) async fn accept(&self) -> io::Result<(Socket, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                stream.set_nodelay(true)?;
                // A client that vanished without a word must not hold a long poll for ever.
                rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
                rustix::net::sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE)?;
                rustix::net::sockopt::set_tcp_keepintvl(&stream, KEEP_ALIVE)?;
                Ok((Socket::Tcp(stream), Some(remote.ip().to_canonical())))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), None))
            }
        }
    }
}

const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(30);

/// A connected client.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Waits until there is something to read, if only the end.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    /// Reads into `more` what a client sends that waits for an answer; ends when the client is gone.
    pub(super) async fn gone(&self, more: &mut Vec<u8>) {
        loop {
            match self.readable().await.and_then(|()| self.read_some(more)) {
                // The rest of it may wait where it is.
                Ok(1..) => return std::future::pending().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Writes what the socket takes at once.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    fn read_some(&self, more: &mut Vec<u8>) -> io::Result<usize> {
        let mut piece = [0; 1024];
        let length = match self {
            Self::Tcp(stream) => stream.try_read(&mut piece),
            Self::Unix(stream) => stream.try_read(&mut piece),
        }?;
        more.extend_from_slice(&piece[..length]);
        Ok(length)
    }
}

macro_rules! forward {
    ($socket:expr, $method:ident($($argument:expr),*)) => {
        match $socket {
            Socket::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Socket::Unix(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

/// What a connection is doing, in ticks of a coarse clock: idle or sending a request's head since then, or busy.
#[derive(Debug)]
pub(super) struct Phase {
    clock: Arc<AtomicU32>,
    state: AtomicU32,
    pub(super) desk: Desk,
}

const BUSY: u32 = 0;
const IDLE: u32 = 1;
const HEAD: u32 = 2;
const KINDS: u32 = 4;
/// Ticks are counted modulo this: what the kinds leave of 32 bits.
const TICKS: u32 = 1 << 30;

impl Phase {
    /// A connection that was just accepted owes its first head.
    pub(super) fn new(clock: Arc<AtomicU32>) -> Self {
        let phase = Self { clock, state: AtomicU32::new(BUSY), desk: Desk::default() };
        phase.set(HEAD);
        phase
    }

    fn set(&self, kind: u32) {
        let now = self.clock.load(Ordering::Relaxed);
        self.state.store(now.wrapping_mul(KINDS) | kind, Ordering::Relaxed);
    }

    /// A request's head is here whole.
    pub(super) fn begin(&self) {
        self.state.store(BUSY, Ordering::Relaxed);
        self.desk.fill();
    }

    /// A request was answered.
    pub(super) fn end(&self) {
        self.set(IDLE);
        self.desk.fill();
    }

    /// Whether the last answer has gone out, and nothing came since.
    pub(super) fn is_idle(&self) -> bool {
        self.state.load(Ordering::Relaxed) % KINDS == IDLE && self.desk.is_drained()
    }

    fn received(&self) {
        if self.state.load(Ordering::Relaxed) % KINDS == IDLE {
            self.set(HEAD);
        }
    }

    fn sent(&self) {
        // A large answer that a slow client takes piece by piece isn't idleness.
        if self.state.load(Ordering::Relaxed) % KINDS == IDLE {
            self.set(IDLE);
        }
    }

    /// Whether the connection has been at its head, or idle, for more ticks than it may.
    pub(super) fn overdue(&self, head_ticks: u32, idle_ticks: u32) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        let age = self.clock.load(Ordering::Relaxed).wrapping_sub(state / KINDS) % TICKS;
        match state % KINDS {
            HEAD => age > head_ticks,
            IDLE => age > idle_ticks,
            _ => false,
        }
    }
}

/// A connected client whose phase is kept.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) socket: Socket,
    pub(super) phase: Arc<Phase>,
    /// Read before what comes from the socket.
    pub(super) ahead: Bytes,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..length]);
            self.ahead.advance(length);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = forward!(&mut self.socket, poll_read(cx, buffer));
        if buffer.filled().len() > before {
            self.phase.received();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.phase.sent();
        forward!(&mut self.socket, poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.phase.sent();
        forward!(&mut self.socket, poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.phase.desk.drained();
        forward!(&mut self.socket, poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.socket, poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_overdue_at_its_head_sooner_than_idle_and_never_while_busy() {
        // The count of ticks goes round on the way.
        let clock = Arc::new(AtomicU32::new(u32::MAX - 2));
        let phase = Phase::new(clock.clone());
        let later = |ticks| clock.fetch_add(ticks, Ordering::Relaxed);
        later(5);
        assert!(!phase.overdue(5, 100));
        later(1);
        assert!(phase.overdue(5, 100));
        phase.begin();
        assert!(!phase.overdue(5, 100));
        phase.end();
        later(100);
        assert!(!phase.overdue(5, 100));
        // The first bytes of a head start its time; more of them don't start it again.
        phase.received();
        later(4);
        phase.received();
        later(2);
        assert!(phase.overdue(5, 100));
    }
}
