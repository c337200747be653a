//! Datagrams and streams of a pool: from the wire to the machine's inputs, and back. Everything here may be lost; what
//! can't be read is counted and dropped.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use gossip_wire::{
    Refused,
    convert::{self, Streamed},
    envelope::Envelope,
    packet::Scratch,
    stream::StreamReader,
};
use spec::{
    serf::{Command, Packet, SerfLayer},
    swim::{Message, Peer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{counters::Counters, turn::Input};
use crate::{cli::go_error, http::Network as Cidr};

/// The longest datagram.
const MAX_DATAGRAM: usize = 65_536;
/// Streams that others opened and that are served at one time (memberlist: 128 push/pulls).
const MAX_ACCEPTED: usize = 128;
/// Streams that this member opened at one time.
const MAX_DIALLED: usize = 128;
/// Reasons of failed dials that are remembered, for who asked to join.
const MAX_REASONS: usize = 1024;
/// How long an accept loop rests when the system has no sockets left.
const NO_SOCKETS_PAUSE: Duration = Duration::from_millis(50);

/// The sockets of a pool.
pub(super) struct Wire {
    socket: UdpSocket,
    envelope: Arc<ArcSwap<Envelope>>,
    inputs: mpsc::Sender<Input>,
    control: mpsc::UnboundedSender<Input>,
    allowed: Vec<Cidr>,
    stream_timeout: Duration,
    /// Answers to streams that others opened.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Packet>>>,
    next_stream: AtomicU64,
    dialling: Arc<Semaphore>,
    reasons: Mutex<BTreeMap<SocketAddr, String>>,
    counters: Arc<Counters>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a pool's sockets are made of.
pub(super) struct WireParts {
    pub socket: UdpSocket,
    pub listener: TcpListener,
    pub envelope: Arc<ArcSwap<Envelope>>,
    pub inputs: mpsc::Sender<Input>,
    pub control: mpsc::UnboundedSender<Input>,
    pub allowed: Vec<Cidr>,
    pub stream_timeout: Duration,
    pub counters: Arc<Counters>,
}

impl Wire {
    /// Starts to receive; ends when the pool's task is gone.
    pub(super) fn start(parts: WireParts) -> Arc<Self> {
        let wire = Arc::new(Self {
            socket: parts.socket,
            envelope: parts.envelope,
            inputs: parts.inputs,
            control: parts.control,
            allowed: parts.allowed,
            stream_timeout: parts.stream_timeout,
            waiting: Mutex::default(),
            next_stream: AtomicU64::new(0),
            dialling: Arc::new(Semaphore::new(MAX_DIALLED)),
            reasons: Mutex::default(),
            counters: parts.counters,
        });
        tokio::spawn(Arc::clone(&wire).receive());
        tokio::spawn(Arc::clone(&wire).accept(parts.listener));
        wire
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|network| network.contains(address))
    }

    fn refused(&self, from: SocketAddr, refused: Refused) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%from, "gossip: refused: {refused}");
    }

    /// Hands a message to the machine; one that comes when it has too many before it is lost.
    fn hand(&self, from: Peer, message: Packet) {
        if self.inputs.try_send(Input::Message { from, message }).is_err() {
            self.counters.overrun.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn receive(self: Arc<Self>) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        let mut scratch = Scratch::default();
        loop {
            let received = tokio::select! {
                received = self.socket.recv_from(&mut buffer) => received,
                () = self.inputs.closed() => return,
            };
            // An error is of a datagram that was sent before: nobody was there to take it.
            let Ok((length, from)) = received else { continue };
            if !self.allows(from.ip()) {
                continue;
            }
            let datagram = buffer.get_mut(..length).unwrap_or_default();
            let envelope = self.envelope.load();
            match envelope.open_packet(datagram, &mut scratch) {
                Ok(parts) => {
                    let parts =
                        convert::packet::<SerfLayer>(parts, |refused| self.refused(from, refused));
                    if !parts.is_empty() {
                        self.hand(Peer::Endpoint(from), Message::Packet(parts));
                    }
                }
                Err(refused) => self.refused(from, refused),
            }
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(MAX_ACCEPTED));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.inputs.closed() => return,
            };
            let Ok((stream, from)) = accepted else {
                tokio::time::sleep(NO_SOCKETS_PAUSE).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
            if !self.allows(from.ip()) {
                continue;
            }
            let wire = Arc::clone(&self);
            tokio::spawn(async move {
                let _permit = permit;
                let limit = wire.stream_timeout;
                if let Ok(Err(error)) = timeout(limit, wire.serve(stream, from)).await {
                    tracing::debug!(%from, "gossip: a stream broke: {error}");
                }
            });
        }
    }

    /// Takes the message of a stream that another member opened, and answers it.
    async fn serve(&self, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
        let message = match self.read(&mut stream, false).await? {
            Ok(Streamed::Message(message)) => message,
            Ok(Streamed::Error(error)) => {
                tracing::debug!(%from, "gossip: the other side says: {error}");
                return Ok(());
            }
            Err(refused) => {
                self.refused(from, refused);
                // Who joins with another key gets no answer: whoever looks for the reason finds it here, too.
                tracing::warn!(%from, "memberlist: failed to receive: {refused}");
                return Ok(());
            }
        };
        if matches!(message, Message::Packet(_)) {
            self.hand(Peer::Endpoint(from), message);
            return Ok(());
        }
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let _forget = Forget { wire: self, id };
        self.hand(Peer::Stream(id), message);
        if let Ok(answer) = answer.await {
            self.write(&mut stream, &answer).await?;
            stream.shutdown().await?;
        }
        Ok(())
    }

    async fn read(
        &self,
        stream: &mut TcpStream,
        reply: bool,
    ) -> io::Result<Result<Streamed<SerfLayer>, Refused>> {
        let mut reader = StreamReader::new();
        let mut buffer = vec![0; 16 << 10];
        loop {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let envelope = self.envelope.load_full();
            match reader.receive(&envelope, buffer.get(..length).unwrap_or_default()) {
                Ok(false) => {}
                Ok(true) => {
                    let message = reader.message();
                    return Ok(message.and_then(|message| convert::stream(&message, reply)));
                }
                Err(refused) => return Ok(Err(refused)),
            }
        }
    }

    async fn write(&self, stream: &mut TcpStream, message: &Packet) -> io::Result<()> {
        let bytes = self.seal(message).ok_or(io::ErrorKind::InvalidData)?;
        stream.write_all(&bytes).await
    }

    fn seal(&self, message: &Packet) -> Option<Vec<u8>> {
        let (mut scratch, mut bytes) = (Scratch::default(), Vec::new());
        let envelope = self.envelope.load();
        match envelope.seal(message, false, &mut scratch, &mut bytes) {
            Ok(()) => Some(bytes),
            Err(error) => {
                self.counters.unsent.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("gossip: a message was not sent: {error}");
                None
            }
        }
    }

    /// Sends a message, or loses it. Never blocks.
    pub(super) fn send(self: &Arc<Self>, to: Peer, message: Packet) {
        match (to, message) {
            (Peer::Endpoint(to), message @ Message::Packet(_)) => {
                if let Some(bytes) = self.seal(&message)
                    && self.socket.try_send_to(&bytes, to).is_err()
                {
                    self.counters.unsent.fetch_add(1, Ordering::Relaxed);
                }
            }
            (Peer::Endpoint(to), message) => {
                let wire = Arc::clone(self);
                tokio::spawn(async move { wire.dial(to, message).await });
            }
            (Peer::Stream(id), message) => {
                if let Some(answer) = lock(&self.waiting).remove(&id) {
                    let _ = answer.send(message);
                }
            }
        }
    }

    /// Opens a stream for a message and takes the answer.
    async fn dial(&self, to: SocketAddr, message: Packet) {
        let result = match Arc::clone(&self.dialling).try_acquire_owned() {
            Ok(_permit) => match timeout(self.stream_timeout, self.exchange(to, &message)).await {
                Ok(result) => result,
                Err(_) => Err(format!("dial tcp {to}: i/o timeout").into()),
            },
            Err(_) => Err("too many streams are open".to_owned().into()),
        };
        match result {
            Ok(answer) => self.hand(Peer::Endpoint(to), answer),
            Err(Broken { reason, refused }) => {
                tracing::debug!(%to, "gossip: {reason}");
                self.remember(to, reason);
                let failed = Command::StreamFailed { to, refused };
                let _ = self.control.send(Input::Command(failed));
            }
        }
    }

    async fn exchange(&self, to: SocketAddr, message: &Packet) -> Result<Packet, Broken> {
        let broken = |error: io::Error| match error.kind() {
            // So a member looks to whom it can't understand: there is no key in which it could say so.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => format!(
                "read tcp {to}: {}: it closed the stream without an answer, maybe for want of a common key",
                go_error(&error)
            ),
            _ => format!("read tcp {to}: {}", go_error(&error)),
        };
        let mut stream = TcpStream::connect(to).await.map_err(|error| Broken {
            reason: format!("dial tcp {to}: connect: {}", go_error(&error)),
            refused: error.kind() == io::ErrorKind::ConnectionRefused,
        })?;
        self.write(&mut stream, message).await.map_err(broken)?;
        match self.read(&mut stream, true).await.map_err(broken)? {
            Ok(Streamed::Message(answer)) => Ok(answer),
            Ok(Streamed::Error(error)) => Err(format!("remote error: {error}").into()),
            Err(refused) => {
                self.refused(to, refused);
                Err(format!("read tcp {to}: {refused}").into())
            }
        }
    }

    fn remember(&self, to: SocketAddr, reason: String) {
        let mut reasons = lock(&self.reasons);
        if reasons.len() >= MAX_REASONS {
            reasons.pop_first();
        }
        reasons.insert(to, reason);
    }

    /// Why the last stream to this member failed.
    pub(super) fn reason(&self, to: SocketAddr) -> Option<String> {
        lock(&self.reasons).remove(&to)
    }
}

/// Why a stream to another member gave no answer.
struct Broken {
    reason: String,
    /// The other system refused the connection: nobody listens there.
    refused: bool,
}

impl From<String> for Broken {
    fn from(reason: String) -> Self {
        Self { reason, refused: false }
    }
}

/// Forgets a stream that nobody answers any more.
struct Forget<'a> {
    wire: &'a Wire,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.wire.waiting).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use spec::swim::Ping;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A wire on loopback, and what it hands over besides messages.
    async fn wire() -> (Arc<Wire>, mpsc::Receiver<Input>, mpsc::UnboundedReceiver<Input>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (inputs, received) = mpsc::channel(8);
        let (control, controls) = mpsc::unbounded_channel();
        let wire = Wire::start(WireParts {
            socket,
            listener,
            envelope: Arc::default(),
            inputs,
            control,
            allowed: Vec::new(),
            stream_timeout: LIMIT,
            counters: Arc::default(),
        });
        (wire, received, controls)
    }

    #[tokio::test]
    async fn a_stream_is_refused_only_where_nobody_listens() {
        let (wire, _received, mut controls) = wire().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        // Takes one stream, says nothing, and is gone.
        let hangs_up = async move { drop(listener.accept().await.unwrap()) };
        tokio::spawn(hangs_up);
        for refused in [false, true] {
            let ping = Ping { seq: 1, target: "n1".into(), source: None, source_endpoint: None };
            wire.send(Peer::Endpoint(to), Message::StreamPing(ping));
            let told = timeout(LIMIT, controls.recv()).await.unwrap();
            let Some(Input::Command(command)) = told else { unreachable!("{told:?}") };
            assert_eq!(command, Command::StreamFailed { to, refused });
        }
    }
}
