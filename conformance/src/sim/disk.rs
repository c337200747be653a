//! The simulated disk of a server: its log and its snapshot files.

use std::collections::BTreeMap;

use spec::{
    entropy::Seeded,
    raft::{Durable, Node, SnapshotId, SnapshotMeta},
};

use super::{server::Applied, writes::Writes};

/// A snapshot's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The state that it holds.
    pub content: Applied,
    /// How many chunks it has.
    pub chunks: u64,
}

/// One server's disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The log.
    pub writes: Writes<Node>,
    /// Durable snapshot files.
    pub files: BTreeMap<SnapshotId, File>,
}

impl Disk {
    /// A crash: of the writes that waited, a prefix is kept. Tells how many were lost.
    pub fn crash(&mut self, chance: &mut Seeded) -> usize {
        let lost = self.writes.crash(chance);
        // A file that no durable record names is rubbish of a snapshot that wasn't finished.
        let snapshot = self.writes.durable.snapshot.as_ref();
        let named = snapshot.map_or_else(SnapshotId::default, |meta| meta.id);
        self.files.retain(|id, _| id.index <= named.index);
        lost
    }

    /// Older snapshots go, but for the one before the newest.
    pub fn compacted(&mut self, newest: SnapshotId) {
        let older: Vec<SnapshotId> =
            self.files.keys().filter(|id| id.index < newest.index).copied().collect();
        for id in older.iter().rev().skip(1) {
            self.files.remove(id);
        }
    }

    /// The file that a snapshot's record stands for.
    pub fn file(&self, meta: &SnapshotMeta) -> Option<&File> {
        self.files.get(&meta.id)
    }

    /// Whether the entry at this index, with this term, is durable or in a durable snapshot.
    pub fn holds(&self, id: SnapshotId) -> bool {
        holds(&self.writes.durable, id)
    }
}

/// Whether the entry at this index, with this term, is in a log or in its snapshot.
pub fn holds(durable: &Durable, id: SnapshotId) -> bool {
    if id.index <= durable.base.index {
        return true;
    }
    let offset = usize::try_from(id.index.0 - durable.base.index.0 - 1).unwrap_or(usize::MAX);
    durable.entries.get(offset).is_some_and(|entry| entry.term == id.term)
}
