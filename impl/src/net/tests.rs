//! Servers on loopback, and peers that misbehave.

use std::sync::{
    atomic::Ordering,
    mpsc::{Receiver, Sender, channel},
};

use spec::raft::{
    SnapshotId, SnapshotMeta, Term,
    message::{InstallSnapshot, TimeoutNow},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    hello::{Hello, Welcome},
    *,
};

const CLUSTER: ClusterId = ClusterId(7);
/// Longer than a busy machine stands still.
const PATIENCE: Duration = Duration::from_secs(20);
/// The terms of messages that only look for a connection; those that tests send are below.
const PROBES: u64 = 1 << 32;

#[derive(Debug, PartialEq)]
enum Told {
    Raft(ServerId, RaftMessage),
    Unreachable(ServerId),
    Refused(Refusal),
}

/// Writes down what it is told. A call `sleep N` is answered after N milliseconds, `never` never, others at once.
struct Recorder(Mutex<Sender<Told>>);

impl Recorder {
    fn new() -> (Arc<Self>, Receiver<Told>) {
        let (sender, receiver) = channel();
        (Arc::new(Self(Mutex::new(sender))), receiver)
    }

    fn tell(&self, told: Told) {
        let _ = self.0.lock().unwrap().send(told);
    }
}

impl Handler for Recorder {
    fn raft(&self, from: ServerId, message: RaftMessage) {
        self.tell(Told::Raft(from, message));
    }

    fn unreachable(&self, server: ServerId) {
        self.tell(Told::Unreachable(server));
    }

    fn refused(&self, _address: &str, refusal: &Refusal) {
        self.tell(Told::Refused(refusal.clone()));
    }

    fn call(&self, _caller: Caller, request: Bytes) -> Answer {
        Box::pin(async move {
            match std::str::from_utf8(&request).unwrap_or("") {
                "never" => sleep(Duration::from_hours(1)).await,
                other => {
                    if let Some(time) = other.strip_prefix("sleep ") {
                        sleep(Duration::from_millis(time.parse().unwrap())).await;
                    }
                }
            }
            request
        })
    }
}

fn id(n: u128) -> ServerId {
    ServerId::new(n, 1)
}

fn message(n: u64) -> RaftMessage {
    Message::TimeoutNow(TimeoutNow { term: Term(n) }).into()
}

fn chunk(number: u64, bytes: usize) -> RaftMessage {
    let meta = SnapshotMeta {
        id: SnapshotId::default(),
        time: spec::time::ClusterTime(0),
        configuration: Arc::default(),
        configuration_index: spec::raft::Index(0),
        chunks: 9,
    };
    let message = Message::InstallSnapshot(InstallSnapshot { term: Term(1), meta, number });
    RaftMessage { message, bytes: Some(vec![7; bytes].into()) }
}

struct Server {
    transport: Arc<Transport>,
    told: Receiver<Told>,
}

async fn server_with(n: u128, address: &str, change: impl FnOnce(&mut TransportConfig)) -> Server {
    let mut config = TransportConfig { cluster: Some(CLUSTER), ..TransportConfig::new(id(n)) };
    change(&mut config);
    let (recorder, told) = Recorder::new();
    let address = address.parse().unwrap();
    let started = Instant::now();
    let listener = loop {
        match listen(address).await {
            Ok(listener) => break listener,
            // The server that was shut down here lets go of its socket within a moment.
            Err(error) if started.elapsed() > PATIENCE => panic!("{error}"),
            Err(_) => sleep(Duration::from_millis(2)).await,
        }
    };
    let transport = Transport::start(listener, config, recorder).unwrap();
    Server { transport: Arc::new(transport), told }
}

async fn server(n: u128) -> Server {
    server_with(n, "127.0.0.1:0", |_| {}).await
}

impl Server {
    fn address(&self) -> String {
        self.transport.address().to_string()
    }

    fn peers(&self, peers: &[(ServerId, String)]) {
        self.transport.set_peers(&peers.iter().cloned().collect());
    }

    /// Waits for the first thing told that `choose` makes something of.
    async fn next<R>(&self, mut choose: impl FnMut(Told) -> Option<R>) -> R {
        let started = Instant::now();
        loop {
            match self.told.try_recv() {
                Ok(told) => {
                    if let Some(found) = choose(told) {
                        return found;
                    }
                }
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
            assert!(started.elapsed() < PATIENCE, "waited in vain");
        }
    }

    async fn next_message(&self) -> RaftMessage {
        self.next(|told| match told {
            Told::Raft(_, message) => Some(message),
            _ => None,
        })
        .await
    }

    /// Sends until it arrives, as the connection may still be on its way; and takes all that was sent for that off `other`,
    /// or the test would find it later among its own messages.
    async fn reach(&self, other: &Server, to: ServerId) {
        let started = Instant::now();
        let mut probe = PROBES;
        loop {
            self.transport.send_raft(to, &message(probe));
            probe += 1;
            sleep(Duration::from_millis(2)).await;
            if let Ok(Told::Raft(..)) = other.told.try_recv() {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "no connection");
        }
        let last = message(probe);
        assert!(self.transport.send_raft(to, &last));
        let is_last = |told| matches!(told, Told::Raft(_, message) if message == last);
        other.next(|told| is_last(told).then_some(())).await;
    }

    async fn ask(&self, address: &str, request: &str) -> Result<Bytes, RpcError> {
        self.ask_within(address, request, PATIENCE).await
    }

    async fn ask_within(
        &self,
        address: &str,
        request: &str,
        within: Duration,
    ) -> Result<Bytes, RpcError> {
        let deadline = Instant::now() + within;
        self.transport.call(address, Bytes::copy_from_slice(request.as_bytes()), deadline).await
    }

    /// Waits until it has so many connections of this host.
    async fn connections(&self, count: usize) {
        let local = "127.0.0.1".parse().unwrap();
        until(|| self.transport.shared.connections.count(local) == count).await;
    }

    /// Waits until it works on requests of so many bytes in all.
    async fn serves(&self, bytes: usize) {
        until(|| self.transport.shared.served_bytes.load(Ordering::Relaxed) == bytes).await;
    }
}

/// Waits until it is so.
async fn until(is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "waited in vain");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn free_address() -> String {
    let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_in_order_and_chunks_beside_them() {
    let (a, b) = (server(1).await, server(2).await);
    a.peers(&[(id(1), a.address()), (id(2), b.address())]);
    a.reach(&b, id(2)).await;
    let transport = a.transport.clone();
    // From a thread that tokio doesn't know, as the consensus thread is.
    let sender = std::thread::spawn(move || {
        for n in 1..=2000 {
            assert!(transport.queue_raft(id(2), &message(n)));
            if n % 7 == 0 {
                transport.flush_raft();
            }
        }
        assert!(transport.send_raft(id(2), &chunk(3, 100_000)));
    });
    let (mut next, mut chunks) = (1, 0);
    while next <= 2000 || chunks == 0 {
        let received = a_message(&b).await;
        if received.bytes.is_some() {
            assert_eq!(received, chunk(3, 100_000));
            chunks += 1;
        } else {
            assert_eq!(received, message(next));
            next += 1;
        }
    }
    sender.join().unwrap();
}

async fn a_message(server: &Server) -> RaftMessage {
    server
        .next(|told| match told {
            Told::Raft(from, message) => {
                assert_eq!(from, id(1));
                Some(message)
            }
            other => panic!("{other:?}"),
        })
        .await
}

/// A peer that opens connections as it should and then reads only those of the Raft class.
async fn lazy_peer(n: u128) -> (String, tokio::sync::mpsc::UnboundedReceiver<(Class, TcpStream)>) {
    let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let Hello { class, .. } = hello::receive(&mut stream).await.unwrap();
            let own = Welcome { cluster: Some(CLUSTER), server: id(n) };
            hello::welcome(&mut stream, own).await.unwrap();
            if sender.send((class, stream)).is_err() {
                break;
            }
        }
    });
    (address, receiver)
}

/// Reads a frame: its length, and so many bytes.
async fn read_frame(stream: &mut TcpStream) {
    let mut length = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut length)).await.unwrap().unwrap();
    let mut frame = vec![0; usize::try_from(u32::from_le_bytes(length)).unwrap()];
    timeout(PATIENCE, stream.read_exact(&mut frame)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_peer_costs_a_bounded_queue_and_delays_no_heartbeat() {
    let a = server_with(1, "127.0.0.1:0", |config| {
        config.bulk_queue_frames = 5;
        config.raft_queue_bytes = 300;
    })
    .await;
    let (address, mut connections) = lazy_peer(2).await;
    a.peers(&[(id(2), address)]);
    let (mut raft, mut bulk) = (None, None);
    while raft.is_none() || bulk.is_none() {
        match connections.recv().await.unwrap() {
            (Class::Raft, stream) => raft = Some(stream),
            (_, stream) => bulk = Some(stream),
        }
    }
    let (mut raft, mut bulk) = (raft.unwrap(), bulk.unwrap());
    // What arrives shows that the queues have their connections: before that they take no more than their bounds.
    for (stream, first) in [(&mut raft, message(0)), (&mut bulk, chunk(0, 10))] {
        assert!(a.transport.send_raft(id(2), &first));
        read_frame(stream).await;
    }
    let accepted = (0..100).filter(|n| a.transport.send_raft(id(2), &chunk(*n, 1 << 20))).count();
    assert!(accepted < 40, "{accepted} MiB for a peer that reads nothing");
    let dropped_at_last = !a.transport.send_raft(id(2), &chunk(100, 1 << 20));
    assert!(dropped_at_last);
    // The heartbeats pass all the same.
    for n in 1..=50 {
        assert!(a.transport.send_raft(id(2), &message(n)));
    }
    let (mut read, mut buffer) = (0, [0; 4096]);
    while read < 50 * 7 {
        read += timeout(PATIENCE, raft.read(&mut buffer)).await.unwrap().unwrap();
    }
    // What was accepted arrives whole once the peer reads.
    let mut buffer = vec![0; 1 << 20];
    let mut read = 0;
    while read < accepted << 20 {
        read += timeout(PATIENCE, bulk.read(&mut buffer)).await.unwrap().unwrap();
    }
    // And what comes then is taken again.
    until(|| a.transport.send_raft(id(2), &chunk(101, 10))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_told_at_once_and_made_again() {
    let (a, b) = (server(1).await, server(2).await);
    let address = b.address();
    a.peers(&[(id(2), address.clone())]);
    a.reach(&b, id(2)).await;
    let killed = Instant::now();
    b.transport.shutdown();
    a.next(|told| (told == Told::Unreachable(id(2))).then_some(())).await;
    // A connection whose end isn't seen breaks after 8 s.
    assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
    // Nobody listens: told again and again. That takes a second and a half; twice as long each time, it would be 40 s.
    drop(b);
    let gone = Instant::now();
    for _ in 0..12 {
        a.next(|told| (told == Told::Unreachable(id(2))).then_some(())).await;
    }
    assert!(gone.elapsed() < Duration::from_secs(15), "{:?}", gone.elapsed());
    let b = server_with(2, &address, |_| {}).await;
    let back = Instant::now();
    a.reach(&b, id(2)).await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    a.transport.send_raft(id(2), &message(5));
    assert_eq!(b.next_message().await, message(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_and_another_server_are_refused_with_the_reason() {
    let a = server(1).await;
    let other = ClusterId(8);
    let b = server_with(2, "127.0.0.1:0", |config| config.cluster = Some(other)).await;
    a.peers(&[(id(2), b.address())]);
    let refusal = a
        .next(|told| match told {
            Told::Refused(refusal) => Some(refusal),
            Told::Unreachable(_) => None,
            Told::Raft(..) => panic!("{told:?}"),
        })
        .await;
    assert_eq!(refusal, Refusal::Cluster { belongs_to: Some(other) });
    let error = a.ask(&b.address(), "x").await.unwrap_err();
    assert!(error.is_never_sent());
    assert_eq!(
        error.to_string(),
        format!(
            "rpc error getting client: failed to get conn: {} refused the connection: it belongs \
             to another cluster (00000000000000000000000000000008)",
            b.address()
        )
    );
    let c = server(3).await;
    a.peers(&[(id(4), c.address())]);
    let refusal = a
        .next(|told| match told {
            Told::Refused(refusal @ Refusal::Addressee { .. }) => Some(refusal),
            _ => None,
        })
        .await;
    assert_eq!(refusal, Refusal::Addressee { is: id(3) });
    let deadline = Instant::now() + PATIENCE;
    let error = a.transport.call_server(id(4), |_| {}, deadline).await.unwrap_err();
    assert!(matches!(error, RpcError::Refused { .. }), "{error}");
    assert!(b.told.try_recv().is_err() && c.told.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn raft_waits_until_the_server_has_a_cluster() {
    let a = server_with(1, "127.0.0.1:0", |config| config.cluster = None).await;
    let b = server(2).await;
    a.peers(&[(id(2), b.address())]);
    assert_eq!(a.ask(&b.address(), "who are you").await.unwrap(), "who are you");
    sleep(Duration::from_millis(30)).await;
    assert!(b.told.try_recv().is_err() && a.told.try_recv().is_err());
    a.transport.set_cluster(Some(CLUSTER));
    a.reach(&b, id(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_share_a_connection_and_return_in_any_order() {
    let (a, b) = (server(1).await, server(2).await);
    let address = b.address();
    let slowest = a.ask_within(&address, "sleep 60000", Duration::from_mins(2));
    let others = async {
        b.serves("sleep 60000".len()).await;
        let slow = a.ask(&address, "sleep 200");
        let fast = async {
            for n in 0..200 {
                let request = format!("request {n}");
                assert_eq!(a.ask(&address, &request).await.unwrap(), request);
            }
        };
        let (slow, ()) = tokio::join!(slow, fast);
        assert_eq!(slow.unwrap(), "sleep 200");
    };
    // No clock tells whether the others wait behind it: it is still under way when all of them have their answers.
    tokio::select! {
        slowest = slowest => panic!("the slowest one is first: {slowest:?}"),
        () = others => {}
    }
    let count = b.transport.shared.connections.count("127.0.0.1".parse().unwrap());
    assert_eq!(count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_learns_whether_it_was_sent() {
    let (a, b) = (server(1).await, server(2).await);
    let nobody = free_address().await;
    let error = a.ask(&nobody, "x").await.unwrap_err();
    assert!(error.is_never_sent());
    assert_eq!(
        error.to_string(),
        format!(
            "rpc error getting client: failed to get conn: dial tcp {nobody}: connect: connection refused"
        )
    );
    // Its time is short: it must not go by while the connection is made.
    assert_eq!(a.ask(&b.address(), "x").await.unwrap(), "x");
    let started = Instant::now();
    let within = Duration::from_millis(500);
    let error = a.ask_within(&b.address(), "never", within).await.unwrap_err();
    assert_eq!(error.to_string(), "rpc error making call: i/o deadline reached");
    assert!(!error.is_never_sent() && started.elapsed() < Duration::from_secs(5));
    // The server gives it up as well.
    b.serves(0).await;
    let address = b.address();
    let call = a.ask(&address, "never");
    let kill = async {
        // What the server hasn't read when it closes would make a reset of its end.
        b.serves("never".len()).await;
        b.transport.shutdown();
    };
    let (result, ()) = tokio::join!(call, kill);
    let error = result.unwrap_err();
    assert_eq!(error.to_string(), "rpc error making call: EOF");
    assert!(!error.is_never_sent());
    // A new server at that address is reached by a new connection.
    drop(b);
    let b = server_with(2, &address, |_| {}).await;
    assert_eq!(a.ask(&b.address(), "again").await.unwrap(), "again");
    assert_eq!(a.transport.shared.clients.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_beyond_the_limits_is_answered_and_not_looked_at() {
    let a = server(1).await;
    let b = server_with(2, "127.0.0.1:0", |config| config.max_calls_per_connection = 2).await;
    let address = b.address();
    let busy = async {
        b.serves(2 * "sleep 3000".len()).await;
        a.ask(&address, "x").await
    };
    let (first, second, third) =
        tokio::join!(a.ask(&address, "sleep 3000"), a.ask(&address, "sleep 3000"), busy);
    assert_eq!((first.unwrap(), second.unwrap()), ("sleep 3000".into(), "sleep 3000".into()));
    assert_eq!(third, Err(RpcError::Overloaded));
    let large = Bytes::from(vec![0; spec::codec::RPC_LIMIT]);
    let deadline = Instant::now() + PATIENCE;
    assert_eq!(a.transport.call(&address, large, deadline).await, Err(RpcError::TooLong));
    assert_eq!(a.ask(&address, "still there").await.unwrap(), "still there");
    assert_eq!(b.transport.shared.served_bytes.load(Ordering::Relaxed), 0);
}

/// Opens a connection by hand.
async fn raw(to: &Server, class: Class) -> TcpStream {
    let mut stream = socket::dial(&to.address(), PATIENCE).await.unwrap();
    let cluster = Some(CLUSTER);
    let hello = Hello { protocol: PROTOCOL, class, cluster, from: id(9), to: None, address: None };
    hello::open(&mut stream, &hello).await.unwrap().unwrap();
    stream
}

async fn ends(mut stream: TcpStream) {
    let end = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("stays open");
    assert!(end.is_err() || end.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_its_connection_and_nothing_else() {
    let a = server(1).await;
    // It isn't the time for a hello that ends them.
    let b = server_with(2, "127.0.0.1:0", |config| {
        config.handshake_timeout = Duration::from_hours(1);
    })
    .await;
    assert_eq!(a.ask(&b.address(), "before").await.unwrap(), "before");
    // Before the hello: Consul's own first byte, an HTTP request, our magic with nonsense behind it.
    for bytes in [
        &[0; 64][..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"PCNS\xff\xff\xff\xff",
        b"PCNS\x02\0\0\0\x01\x07",
    ] {
        let mut stream = socket::dial(&b.address(), PATIENCE).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        ends(stream).await;
    }
    // Behind it: a frame too long, an unknown version, nonsense, an empty frame, a chunk that is none.
    let mut heartbeat = vec![];
    spec::codec::frame(&message(1).message, &mut heartbeat);
    let frames = [&b"\xff\xff\xff\xff"[..], b"\x05\0\0\0\x63", b"\x03\0\0\0\x01\xee\xee", &[0; 4]];
    for class in [Class::Raft, Class::Rpc, Class::Bulk] {
        for bytes in frames {
            let mut stream = raw(&b, class).await;
            stream.write_all(bytes).await.unwrap();
            ends(stream).await;
        }
    }
    let mut stream = raw(&b, Class::Bulk).await;
    stream.write_all(&heartbeat).await.unwrap();
    ends(stream).await;
    assert!(b.told.try_recv().is_err());
    let mut stream = raw(&b, Class::Raft).await;
    stream.write_all(&heartbeat).await.unwrap();
    assert_eq!(b.next_message().await, message(1));
    assert_eq!(a.ask(&b.address(), "after").await.unwrap(), "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_an_address_and_their_hellos_are_limited() {
    let a = server(1).await;
    let b = server_with(2, "127.0.0.1:0", |config| {
        config.max_conns_per_client = 2;
        // The one that says nothing must be there until two others have been greeted.
        config.handshake_timeout = Duration::from_secs(2);
    })
    .await;
    let silent = TcpStream::connect(b.address()).await.unwrap();
    let served = raw(&b, Class::Rpc).await;
    let error = a.ask(&b.address(), "x").await.unwrap_err();
    assert!(
        matches!(error, RpcError::Refused { refusal: Refusal::TooManyConnections, .. }),
        "{error}"
    );
    // The one that says nothing is dropped in time, and makes room.
    ends(silent).await;
    // Its end is seen before it is counted off.
    b.connections(1).await;
    assert_eq!(a.ask(&b.address(), "x").await.unwrap(), "x");
    drop(served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_every_connection() {
    let (a, b) = (server(1).await, server(2).await);
    a.peers(&[(id(2), b.address())]);
    a.reach(&b, id(2)).await;
    assert_eq!(a.ask(&b.address(), "x").await.unwrap(), "x");
    // For Raft, for chunks and for calls.
    b.connections(3).await;
    drop(a);
    b.connections(0).await;
}
