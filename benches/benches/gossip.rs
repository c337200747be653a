//! A typical datagram of gossip: a ping with an ack and an announcement, in clear, encrypted, and compressed; and the bytes
//! of a push/pull of 1,000 members.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use gossip_wire::{
    convert,
    envelope::Envelope,
    keyring::Keyring,
    memberlist::{Ack, Alive, Message, NodeState, Ping, Status},
    packet::Scratch,
    stream::{PushPull, StreamMessage, StreamReader},
};
use spec::{serf::SerfLayer, swim::Part};

const META: &[u8; 280] = &[b'm'; 280];

fn messages(payload: &[u8]) -> [Message<'_>; 3] {
    let endpoint = ([10, 0, 0, 7], 8301).into();
    [
        Message::Ping(Ping {
            seq: 7001,
            node: "server-3.dc1",
            source: Some(endpoint),
            source_node: "client-77.dc1",
        }),
        Message::Ack(Ack { seq: 6999, payload: Some(payload) }),
        Message::Alive(Alive {
            incarnation: 12,
            node: "client-12.dc1",
            endpoint,
            meta: META,
            versions: Some([1, 5, 2, 2, 5, 4]),
        }),
    ]
}

fn packets(criterion: &mut Criterion) {
    let payload = gossip_wire::coordinate::encode(&spec::serf::coordinate::Coordinate::default());
    let messages = messages(&payload);
    let clear = Envelope { compression: false, ..Envelope::default() };
    let compressed = Envelope::default();
    let mut encrypted = clear.clone();
    encrypted.keyring = Keyring::new([&[7; 32][..]]).expect("32 bytes are a key");
    for (name, envelope) in [("clear", clear), ("encrypted", encrypted), ("compressed", compressed)]
    {
        let (mut scratch, mut out) = (Scratch::default(), Vec::new());
        let sealed = envelope.seal_packet(&messages, true, &mut scratch, &mut out);
        sealed.expect("it fits a datagram");
        let bytes = out.clone();
        let mut group = criterion.benchmark_group(format!("gossip/ping+ack+alive/{name}"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("seal", |bench| {
            bench.iter(|| {
                envelope.seal_packet(black_box(&messages), true, &mut scratch, &mut out).is_ok()
            });
        });
        group.bench_function("open", |bench| {
            let fresh = || bytes.clone();
            let open = |bytes: &mut Vec<u8>| {
                let parts = envelope.open_packet(black_box(bytes), &mut scratch);
                parts.map_or(0, |parts| parts.flatten().count())
            };
            bench.iter_batched_ref(fresh, open, BatchSize::SmallInput);
        });
        group.bench_function("open-for-machine", |bench| {
            let mut scratch = Scratch::default();
            let fresh = || bytes.clone();
            let open = |bytes: &mut Vec<u8>| -> Vec<Part<SerfLayer>> {
                let parts = envelope.open_packet(black_box(bytes), &mut scratch);
                parts.map_or(Vec::new(), |parts| convert::packet(parts, |_| ()))
            };
            bench.iter_batched_ref(fresh, open, BatchSize::SmallInput);
        });
        group.finish();
    }
}

fn push_pull(criterion: &mut Criterion) {
    let names: Vec<String> = (0..1000).map(|n| format!("client-{n}.dc1")).collect();
    let node = |name| NodeState {
        name,
        endpoint: ([10, 0, 0, 7], 8301).into(),
        meta: META,
        incarnation: 12,
        status: Status::Alive,
        versions: Some([1, 5, 2, 2, 5, 4]),
    };
    let nodes = names.iter().map(|name| node(name)).collect();
    let message = StreamMessage::PushPull(PushPull { join: false, nodes, user: &[] });
    let mut envelope = Envelope { compression: false, ..Envelope::default() };
    envelope.keyring = Keyring::new([&[7; 32][..]]).expect("32 bytes are a key");
    let (mut scratch, mut out) = (Scratch::default(), Vec::new());
    envelope.seal_stream(&message, &mut scratch, &mut out).expect("it is below 20 MiB");
    let bytes = out.clone();
    let mut group = criterion.benchmark_group("gossip/push-pull-1000/encrypted");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("seal", |bench| {
        bench.iter(|| envelope.seal_stream(black_box(&message), &mut scratch, &mut out).is_ok());
    });
    group.bench_function("open", |bench| {
        bench.iter(|| {
            let mut reader = StreamReader::new();
            let whole = reader.receive(&envelope, black_box(&bytes));
            (whole, reader.message().is_ok())
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    packets(&mut criterion);
    push_pull(&mut criterion);
    criterion.final_summary();
}
