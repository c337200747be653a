//! Tests of the data directory: power cuts, failing disks, damage, recycling, identity.

mod directory;
mod log;
mod snapshots;

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

fn id(index: u64) -> SnapshotId {
    SnapshotId { index: Index(index), term: Term(1) }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        id: id(index),
        time: ClusterTime(index),
        configuration: Arc::new(Configuration::default()),
        configuration_index: Index(1),
        chunks: 2,
    }
}

fn compact(index: u64, base: u64) -> Write {
    let change = Change::Snapshot { meta: meta(index), base: id(base) };
    Write { hard_state: hard_state(1), change }
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

fn names(memory: &Memory) -> Vec<String> {
    let mut names = memory.list().unwrap();
    names.sort();
    names
}

fn fault(operation: Operation, after: u64, times: u64, kind: ErrorKind) -> Fault {
    Fault { operation, after, times, kind }
}
