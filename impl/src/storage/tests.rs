//! Tests of the data directory.

use std::{io::ErrorKind, sync::Arc};

use spec::{
    raft::{
        Change, Configuration, DiskId, Entry, HardState, Index, SnapshotId, Term, Write,
        types::Request,
    },
    time::ClusterTime,
};

use super::{
    memory::{Fault, Memory, Operation},
    *,
};

const DISK: DiskId = DiskId(0xd15c);
const SMALL: LogOptions =
    LogOptions { first_segment_bytes: 2048, segment_bytes: 8192, background: false };

fn hard_state(term: u64) -> HardState {
    HardState { term: Term(term), voted_for: None }
}

fn entry(index: u64, bytes: usize) -> Entry {
    let request = Request::Command(vec![b'x'; bytes].into());
    Entry { term: Term(1), index: Index(index), time: ClusterTime(index), request }
}

fn append(index: u64, bytes: usize) -> Write {
    let change = Change::Append { after: Index(index - 1), entries: vec![entry(index, bytes)] };
    Write { hard_state: hard_state(1), change }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        id: SnapshotId { index: Index(index), term: Term(1) },
        time: ClusterTime(index),
        configuration: Arc::new(Configuration::default()),
        configuration_index: Index(1),
        chunks: 1,
    }
}

fn compact(index: u64, base: u64) -> Write {
    let base = SnapshotId { index: Index(base), term: Term(1) };
    Write { hard_state: hard_state(1), change: Change::Snapshot { meta: meta(index), base } }
}

fn fresh(memory: &Memory, options: LogOptions) -> LogStore {
    let directory: Arc<dyn Directory> = Arc::new(memory.clone());
    LogStore::create(&directory, DISK, options).unwrap();
    LogStore::open(directory, DISK, options).unwrap().0
}

fn reopen(memory: &Memory) -> Result<Found, StorageError> {
    LogStore::open(Arc::new(memory.clone()), DISK, SMALL).map(|(_, found)| found)
}

fn put(store: &mut LogStore, ticket: u64, write: Write) -> Result<Ticket, StorageError> {
    store.append(&[(Ticket(ticket), write)])
}

fn segments(memory: &Memory) -> Vec<String> {
    let mut names = memory.list().unwrap();
    names.sort();
    names
}

#[test]
fn what_was_appended_is_there_after_a_power_cut() {
    let memory = Memory::default();
    let mut store = fresh(&memory, SMALL);
    let mut expected = Durable::default();
    for index in 1..=40 {
        let write = append(index, 100 + usize::try_from(index).unwrap());
        expected.fold(&write);
        assert_eq!(put(&mut store, index, write).unwrap(), Ticket(index));
    }
    let found = reopen(&memory.crash(|_, _| false)).unwrap();
    assert_eq!(found.durable, expected);
    assert!(!found.torn);
    assert!(segments(&memory).len() > 2, "rolled over: {:?}", segments(&memory));
}

#[test]
fn a_torn_write_is_dropped_whichever_of_its_sectors_arrived() {
    // A batch of four sectors that was written, but whose sync failed.
    for kept in 0..16_u32 {
        let memory = Memory::default();
        let mut store = fresh(&memory, LogOptions { first_segment_bytes: 8192, ..SMALL });
        put(&mut store, 1, append(1, 10)).unwrap();
        memory.inject(Fault {
            operation: Operation::Sync,
            after: 0,
            times: 1,
            kind: ErrorKind::Other,
        });
        assert!(put(&mut store, 2, append(2, 1900)).is_err());
        let mut sector = 0;
        let crashed = memory.crash(|_, _| {
            sector += 1;
            kept >> (sector - 1) & 1 == 1
        });
        let found = reopen(&crashed).unwrap();
        let whole = kept == 15;
        assert_eq!(found.durable.last_index(), Index(if whole { 2 } else { 1 }), "{kept:04b}");
        // The header's sector alone shows that a batch was begun.
        assert_eq!(found.torn, !whole && kept & 1 == 1, "{kept:04b}");
    }
}
