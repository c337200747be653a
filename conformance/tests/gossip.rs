//! The codec beside real agents: a small member, made of nothing but `gossip-wire` and sockets, joins a real serf, and is
//! found alive for as long as it answers.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use conformance::{
    peers,
    ports::Ports,
    process::{Process, touch, wait_for},
};
use gossip_wire::{
    coordinate,
    envelope::Envelope,
    keyring::{Keyring, format_key},
    memberlist::{Ack, Alive, Message, NodeState, Status},
    packet::Scratch,
    serf,
    stream::{PushPull, StreamMessage, StreamReader},
    tags,
};
use spec::serf::coordinate::Coordinate;
use tempfile::TempDir;

fn left_out() {
    assert!(!peers::required(), "serf must be there: run conformance/peers/get target/peers");
    eprintln!("left out: no serf (conformance/peers/get target/peers fetches it)");
}

const TIMEOUT: Duration = Duration::from_secs(20);

/// A real serf agent.
struct Serf {
    _process: Process,
    _folder: TempDir,
    gossip: SocketAddr,
    rpc: SocketAddr,
}

impl Serf {
    fn start(ports: &Ports, arguments: &[String]) -> Option<Self> {
        let program = peers::find("serf")?;
        let folder = tempfile::tempdir().unwrap();
        let at = |n| SocketAddr::from((Ipv4Addr::LOCALHOST, ports.port(n)));
        let (gossip, rpc) = (at(0), at(1));
        let own = ["agent", "-node=real", "-profile=local", "-tag=dc=dc1", "-tag=role=web"];
        let mut all: Vec<String> = own.map(str::to_owned).to_vec();
        all.extend([format!("-bind={gossip}"), format!("-rpc-addr={rpc}")]);
        all.extend(arguments.iter().cloned());
        let log = folder.path().join("serf.log");
        touch(&log).unwrap();
        let process = Process::start("serf", &program, all, &log).unwrap();
        wait_for("serf's port", TIMEOUT, || TcpStream::connect(gossip).ok()).unwrap();
        Some(Self { _process: process, _folder: folder, gossip, rpc })
    }

    fn run(&self, arguments: &[&str]) -> String {
        let rpc = format!("-rpc-addr={}", self.rpc);
        let mut command = std::process::Command::new(peers::find("serf").unwrap());
        let output = command.arg(arguments[0]).arg(rpc).args(&arguments[1..]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What serf says of our member: `alive`, `failed`, `left`; with its tags.
    fn sees(&self) -> Option<String> {
        self.run(&["members"]).lines().find(|line| line.starts_with("ours ")).map(str::to_owned)
    }
}

/// Our member: it answers pings over UDP, push/pulls and pings over TCP, and queries.
struct Ours {
    envelope: Envelope,
    endpoint: SocketAddr,
    meta: Vec<u8>,
    incarnation: AtomicU32,
    stop: AtomicBool,
    pings: AtomicUsize,
    refutations: AtomicUsize,
    refused: AtomicUsize,
    events: AtomicUsize,
    exchanges: AtomicUsize,
}

impl Ours {
    fn new(ports: &Ports, envelope: Envelope) -> Self {
        let tags =
            [("dc", "dc1"), ("id", "01234567-89ab-cdef-0123-456789abcdef"), ("role", "node")];
        Self {
            envelope,
            endpoint: SocketAddr::from((Ipv4Addr::LOCALHOST, ports.port(2))),
            meta: tags::encode(tags.into_iter()),
            incarnation: AtomicU32::new(1),
            stop: AtomicBool::new(false),
            pings: AtomicUsize::new(0),
            refutations: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            events: AtomicUsize::new(0),
            exchanges: AtomicUsize::new(0),
        }
    }

    fn state(&self, join: bool) -> Vec<u8> {
        let mut user = Vec::new();
        let state = serf::PushPull {
            ltime: 1,
            status: vec![("ours", 1)],
            event_ltime: 1,
            query_ltime: 1,
            ..serf::PushPull::default()
        };
        state.encode(&mut user);
        let node = NodeState {
            name: "ours",
            endpoint: self.endpoint,
            meta: &self.meta,
            incarnation: self.incarnation.load(Ordering::Relaxed),
            status: Status::Alive,
            versions: Some([1, 5, 2, 2, 5, 4]),
        };
        let message = StreamMessage::PushPull(PushPull { join, nodes: vec![node], user: &user });
        self.sealed_stream(&message)
    }

    fn sealed_stream(&self, message: &StreamMessage<'_>) -> Vec<u8> {
        let (mut scratch, mut out) = (Scratch::default(), Vec::new());
        self.envelope.seal_stream(message, &mut scratch, &mut out).unwrap();
        out
    }

    fn read(&self, stream: &mut TcpStream) -> Option<StreamReader> {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let (mut reader, mut buffer) = (StreamReader::new(), [0; 4096]);
        loop {
            let n = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
            match reader.receive(&self.envelope, &buffer[..n]) {
                Ok(true) => return Some(reader),
                Ok(false) => {}
                Err(_) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
            }
        }
    }

    /// Joins by a push/pull; gives the members that the other one knows, with their tags.
    fn join(&self, to: SocketAddr) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(&self.state(true)).unwrap();
        let reader = self.read(&mut stream).expect("an answer");
        let StreamMessage::PushPull(state) = reader.message().unwrap() else {
            panic!("{:?}", reader.message())
        };
        let user = serf::PushPull::decode(state.user).unwrap();
        assert!(user.status.iter().any(|(name, _)| *name == "real"), "{user:?}");
        let tags = |node: &NodeState<'_>| {
            let tags = tags::decode(node.meta).unwrap();
            tags.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        state.nodes.iter().map(|node| (node.name.to_owned(), tags(node))).collect()
    }

    fn serve_packets(&self, socket: &UdpSocket) {
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (mut buffer, mut scratch) = (vec![0; 65_536], Scratch::default());
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
            let Ok(parts) = self.envelope.open_packet(&mut buffer[..n], &mut scratch) else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let mut answers = Vec::new();
            for message in parts {
                match message {
                    Ok(Message::Ping(ping)) => {
                        assert_eq!((ping.node, ping.source_node), ("ours", "real"));
                        self.pings.fetch_add(1, Ordering::Relaxed);
                        answers.push((ping.source.unwrap_or(from), Answer::Ack(ping.seq)));
                    }
                    Ok(Message::Suspect(accusation) | Message::Dead(accusation))
                        if accusation.node == "ours" =>
                    {
                        let next = accusation.incarnation + 1;
                        // Each accusation comes several times.
                        if self.incarnation.fetch_max(next, Ordering::Relaxed) < next {
                            self.refutations.fetch_add(1, Ordering::Relaxed);
                        }
                        answers.push((from, Answer::Alive));
                    }
                    Ok(Message::User(body)) => answers.extend(self.heed(body)),
                    Ok(_) => {}
                    Err(_) => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
                }
            }
            for (to, answer) in answers {
                self.answer(socket, to, &answer);
            }
        }
    }

    fn heed(&self, body: &[u8]) -> Option<(SocketAddr, Answer)> {
        match serf::Message::decode(body) {
            Ok(serf::Message::Query(query)) => {
                Some((query.endpoint, Answer::Query(query.ltime, query.id)))
            }
            Ok(serf::Message::UserEvent(event)) => {
                assert_eq!((event.name, event.payload), ("deploy", &b"v42"[..]));
                self.events.fetch_add(1, Ordering::Relaxed);
                None
            }
            Ok(_) => None,
            Err(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    fn answer(&self, socket: &UdpSocket, to: SocketAddr, answer: &Answer) {
        let (mut scratch, mut out) = (Scratch::default(), Vec::new());
        let sealed = match answer {
            Answer::Ack(seq) => {
                let payload = coordinate::encode(&Coordinate::default());
                let ack = Message::Ack(Ack { seq: *seq, payload: Some(&payload) });
                self.envelope.seal_packet(&[ack], true, &mut scratch, &mut out)
            }
            Answer::Alive => {
                let alive = Message::Alive(Alive {
                    incarnation: self.incarnation.load(Ordering::Relaxed),
                    node: "ours",
                    endpoint: self.endpoint,
                    meta: &self.meta,
                    versions: Some([1, 5, 2, 2, 5, 4]),
                });
                self.envelope.seal_packet(&[alive], true, &mut scratch, &mut out)
            }
            Answer::Query(ltime, id) => {
                let (ltime, id, from) = (*ltime, *id, "ours");
                // The confirmation and the answer in one packet: a compound.
                let responses = [(serf::flags::ACK, &[][..]), (0, b"hello from ours")];
                let responses = responses.map(|(flags, payload)| {
                    serf::Message::QueryResponse(serf::QueryResponse {
                        ltime,
                        id,
                        from,
                        flags,
                        payload,
                    })
                });
                self.envelope.seal_packet(&responses, true, &mut scratch, &mut out)
            }
        };
        sealed.unwrap();
        socket.send_to(&out, to).unwrap();
    }

    fn serve_streams(&self, listener: &TcpListener) {
        listener.set_nonblocking(true).unwrap();
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            stream.set_nonblocking(false).unwrap();
            let Some(reader) = self.read(&mut stream) else { continue };
            let answer = match reader.message().unwrap() {
                StreamMessage::PushPull(_) => {
                    self.exchanges.fetch_add(1, Ordering::Relaxed);
                    self.state(false)
                }
                StreamMessage::Ping(ping) => {
                    self.sealed_stream(&StreamMessage::Ack(Ack { seq: ping.seq, payload: None }))
                }
                _ => continue,
            };
            let _ = stream.write_all(&answer);
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}

enum Answer {
    Ack(u32),
    /// That it is alive, whatever was said of it.
    Alive,
    Query(u64, u32),
}

/// Joins a real serf that was started with these arguments, and stays its member for a while.
fn stays_alive(arguments: &[String], envelope: Envelope) {
    let ports = Ports::take().unwrap();
    let Some(serf) = Serf::start(&ports, arguments) else { return left_out() };
    let ours = Arc::new(Ours::new(&ports, envelope));
    let socket = UdpSocket::bind(ours.endpoint).unwrap();
    let listener = TcpListener::bind(ours.endpoint).unwrap();
    let packets = thread::spawn({
        let ours = Arc::clone(&ours);
        move || ours.serve_packets(&socket)
    });
    let streams = thread::spawn({
        let ours = Arc::clone(&ours);
        move || ours.serve_streams(&listener)
    });

    let members = ours.join(serf.gossip);
    assert_eq!(members["real"]["role"], "web");
    wait_for("serf's word that we are alive", TIMEOUT, || {
        serf.sees().filter(|line| line.contains("alive"))
    })
    .unwrap();
    assert!(serf.run(&["event", "deploy", "v42"]).contains("dispatched"));
    let answers = serf.run(&["query", "-timeout=2s", "hello"]);
    assert!(answers.contains("Ack from 'ours'"), "{answers}");
    assert!(answers.contains("Response from 'ours': hello from ours"), "{answers}");
    // serf pings each second and suspects for 3 s at least: without our answers it would say `failed` by then.
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        let line = serf.sees().expect("a line about us");
        assert!(line.contains(" alive ") && line.contains("role=node"), "{line}");
        thread::sleep(Duration::from_millis(500));
    }
    let (pings, refutations) =
        (ours.pings.load(Ordering::Relaxed), ours.refutations.load(Ordering::Relaxed));
    assert!(pings >= 4, "pinged");
    // A busy machine may miss an answer now and then. Were none taken, each ping would make a suspicion.
    assert!(2 * refutations < pings, "suspected {refutations} times by {pings} pings");
    assert!(ours.events.load(Ordering::Relaxed) >= 1, "heard of the event");
    assert_eq!(
        ours.refused.load(Ordering::Relaxed),
        0,
        "nothing that a real agent sent was refused"
    );

    // The same member that doesn't answer fails: what was seen above wasn't there for another reason.
    ours.stop.store(true, Ordering::Relaxed);
    packets.join().unwrap();
    streams.join().unwrap();
    wait_for("serf's word that we failed", Duration::from_mins(1), || {
        serf.sees().filter(|line| line.contains("failed"))
    })
    .unwrap();
}

#[test]
fn a_member_made_of_the_codec_joins_a_real_serf_and_stays_alive() {
    stays_alive(&[], Envelope::default());
}

#[test]
fn a_member_made_of_the_codec_joins_an_encrypted_real_serf_and_stays_alive() {
    let keyring = Keyring::new([&[7; 32][..]]).unwrap();
    let key = format_key(keyring.primary().unwrap());
    let envelope = Envelope { keyring, ..Envelope::default() };
    stays_alive(&[format!("-encrypt={key}")], envelope);
}
