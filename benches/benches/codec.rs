//! What goes over the wire and into the log: AppendEntries with 64 entries of 256 bytes, and one KV command.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use spec::{
    codec::{self, RPC_LIMIT},
    raft::{
        Entry, Index, Message, Payload, SnapshotId, Term, message::AppendEntries, types::Request,
    },
    state::{Command, KvCommand},
    time::ClusterTime,
};

fn entry(index: u64) -> Entry {
    let payload = Payload::from(vec![7; 256]);
    Entry {
        term: Term(3),
        index: Index(index),
        time: ClusterTime(1_000_000 + index),
        request: Request::Command(payload),
    }
}

fn append_entries(criterion: &mut Criterion) {
    let message = Message::AppendEntries(AppendEntries {
        term: Term(3),
        previous: SnapshotId { index: Index(100_000), term: Term(3) },
        entries: (100_001..=100_064).map(entry).collect(),
        commit: Index(99_990),
        round: 17,
    });
    let mut bytes = vec![];
    codec::frame(&message, &mut bytes);
    let mut group = criterion.benchmark_group("codec/append-entries-64x256B");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let mut out = Vec::with_capacity(bytes.len());
    group.bench_function("encode", |bench| {
        bench.iter(|| {
            out.clear();
            codec::frame(black_box(&message), &mut out);
        });
    });
    group.bench_function("decode", |bench| {
        bench.iter(|| codec::unframe::<Message, RPC_LIMIT>(black_box(&bytes[4..])).is_ok());
    });
    group.finish();
}

fn kv_command(criterion: &mut Criterion) {
    let command = Command::Kv(KvCommand::Set {
        key: b"service/web/config".into(),
        value: vec![7; 64].into(),
        flags: 0,
    });
    let payload = command.to_payload();
    let mut group = criterion.benchmark_group("codec/kv-set-64B");
    group.bench_function("encode", |bench| bench.iter(|| black_box(&command).to_payload()));
    group.bench_function("decode", |bench| {
        bench.iter(|| Command::from_payload(black_box(&payload)).is_ok());
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    append_entries(&mut criterion);
    kv_command(&mut criterion);
    criterion.final_summary();
}
