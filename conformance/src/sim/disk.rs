//! The simulated disk: writes wait for their sync, and a crash keeps a prefix of those that waited.

use std::collections::{BTreeMap, VecDeque};

use spec::{
    entropy::{Entropy as _, Seeded},
    machine::Ticket,
    raft::{Durable, SnapshotId, SnapshotMeta, Write},
};

use super::server::Applied;

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
    /// What is durable, in memory of the simulator: the fold of all synced writes.
    pub durable: Durable,
    /// What was durable before the last sync: what is left where a disk lies about it.
    pub before_sync: Durable,
    /// Written, not synced.
    pub pending: VecDeque<(Ticket, Write)>,
    /// The last ticket of the sync under way.
    pub syncing: Option<Ticket>,
    /// Durable snapshot files.
    pub files: BTreeMap<SnapshotId, File>,
}

impl Disk {
    /// The sync under way is done.
    pub fn synced(&mut self, up_to: Ticket) {
        self.syncing = None;
        self.before_sync = self.durable.clone();
        while self.pending.front().is_some_and(|(ticket, _)| *ticket <= up_to) {
            if let Some((_, write)) = self.pending.pop_front() {
                self.durable.fold(&write);
            }
        }
    }

    /// A crash of a disk that lies: the last sync never happened.
    pub fn crash_lying(&mut self) {
        self.pending.clear();
        self.syncing = None;
        self.durable = std::mem::take(&mut self.before_sync);
        self.before_sync = self.durable.clone();
    }

    /// A crash: of the writes that waited, a prefix is kept. Tells how many were lost.
    pub fn crash(&mut self, chance: &mut Seeded) -> usize {
        let kept = chance.choose(self.pending.len() + 1);
        let lost = self.pending.len() - kept;
        for (_, write) in self.pending.drain(..).take(kept) {
            self.durable.fold(&write);
        }
        self.syncing = None;
        // A file that no durable record names is rubbish of a snapshot that wasn't finished.
        let named = self.durable.snapshot.as_ref().map_or_else(SnapshotId::default, |meta| meta.id);
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
        let durable = &self.durable;
        if id.index <= durable.base.index {
            return true;
        }
        let offset = usize::try_from(id.index.0 - durable.base.index.0 - 1).unwrap_or(usize::MAX);
        durable.entries.get(offset).is_some_and(|entry| entry.term == id.term)
    }
}
