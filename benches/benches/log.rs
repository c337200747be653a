//! The log on disk: one append with its sync, of 1 and of 64 entries, beside the bare `pwrite` and `fdatasync` of as many
//! bytes into a file that is full of zeros. Data goes below `target`: a disk whose sync is real.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use proconsul::storage::{LogOptions, open};
use spec::{
    codec,
    machine::Ticket,
    raft::{Change, Entry, HardState, Index, Payload, Term, Write, types::Request},
    time::ClusterTime,
};

const FILE_BYTES: u64 = 64 << 20;

fn write(after: u64, count: u64) -> Write {
    let entries = (after + 1..=after + count).map(|index| Entry {
        term: Term(1),
        index: Index(index),
        time: ClusterTime(index),
        request: Request::Command(Payload::from(vec![7; 256])),
    });
    Write {
        hard_state: HardState { term: Term(1), voted_for: None },
        change: Change::Append { after: Index(after), entries: entries.collect() },
    }
}

fn log_store(group: &mut BenchmarkGroup<'_, WallTime>, scratch: &Path, count: u64) {
    let options = LogOptions { first_segment_bytes: FILE_BYTES, ..LogOptions::default() };
    let data = tempfile::tempdir_in(scratch).expect("a data directory");
    let mut log = open(data.path(), None, options).expect("a blank log").log;
    let (mut last, mut ticket) = (0, 0);
    group.bench_function(format!("log/{count}"), |bench| {
        bench.iter(|| {
            ticket += 1;
            let durable = log.append(&[(Ticket(ticket), write(last, count))]);
            assert_eq!(durable.ok(), Some(Ticket(ticket)));
            last += count;
        });
    });
}

fn bare(group: &mut BenchmarkGroup<'_, WallTime>, scratch: &Path, count: u64) {
    let file = tempfile::tempfile_in(scratch).expect("a file");
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at).expect("room for the file");
    }
    file.sync_all().expect("a sync");
    let mut at = 0;
    let mut append = |file: &File| {
        let bytes = codec::encode(&write(at, count));
        if at + bytes.len() as u64 > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(&bytes, at).expect("a write");
        file.sync_data().expect("a sync");
        at += bytes.len() as u64;
    };
    group.bench_function(format!("bare/{count}"), |bench| bench.iter(|| append(&file)));
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let scratch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-log");
    std::fs::create_dir_all(&scratch).expect("a scratch directory");
    let mut group = criterion.benchmark_group("append-and-sync");
    for count in [1, 64] {
        group.throughput(Throughput::Elements(count));
        log_store(&mut group, &scratch, count);
        bare(&mut group, &scratch, count);
    }
    group.finish();
    criterion.final_summary();
}
