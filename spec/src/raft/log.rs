//! The log in memory: the entries behind a base (Raft §5.3, §7).

use alloc::{collections::VecDeque, vec::Vec};

use super::types::{Entry, Index, SnapshotId, Term};

/// Consecutive entries behind `base`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    /// The entry before the first; everything up to it is in a snapshot.
    pub base: SnapshotId,
    /// The entries.
    pub entries: VecDeque<Entry>,
    /// About how many bytes the entries take.
    pub bytes: usize,
}

impl Log {
    /// A log from what was durable.
    pub fn new(base: SnapshotId, entries: Vec<Entry>) -> Self {
        let bytes = entries.iter().map(Entry::size).sum();
        Self { base, entries: entries.into(), bytes }
    }

    /// The last entry's index.
    pub fn last_index(&self) -> Index {
        self.entries.back().map_or(self.base.index, |entry| entry.index)
    }

    /// The last entry's index and term.
    pub fn last(&self) -> SnapshotId {
        self.entries
            .back()
            .map_or(self.base, |entry| SnapshotId { index: entry.index, term: entry.term })
    }

    fn offset(&self, index: Index) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.base.index.0)?.checked_sub(1)?).ok()
    }

    /// The entry at `index`, where the log still has it.
    pub fn get(&self, index: Index) -> Option<&Entry> {
        self.entries.get(self.offset(index)?)
    }

    /// The term of the entry at `index`: known from the base to the last entry, and 0 before the first entry.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            Some(self.base.term)
        } else if index == Index(0) {
            Some(Term(0))
        } else {
            self.get(index).map(|entry| entry.term)
        }
    }

    /// Entries from `from` on: at most `count`, and at most `bytes` unless the first alone is larger.
    pub fn slice(&self, from: Index, count: usize, bytes: usize) -> Vec<Entry> {
        let Some(offset) = self.offset(from) else { return Vec::new() };
        let mut left = bytes;
        let mut slice = Vec::new();
        for entry in self.entries.range(offset.min(self.entries.len())..).take(count) {
            let size = entry.size();
            if size > left && !slice.is_empty() {
                break;
            }
            left = left.saturating_sub(size);
            slice.push(entry.clone());
        }
        slice
    }

    /// Entries behind `after` up to and including `last`.
    pub fn between(&self, after: Index, last: Index) -> Vec<Entry> {
        let count = usize::try_from(last.0.saturating_sub(after.0)).unwrap_or(usize::MAX);
        self.slice(after.next(), count, usize::MAX)
    }

    /// Appends an entry; it continues the log.
    pub fn push(&mut self, entry: Entry) {
        self.bytes += entry.size();
        self.entries.push_back(entry);
    }

    /// Drops every entry behind `after`.
    pub fn truncate(&mut self, after: Index) {
        while self.entries.back().is_some_and(|entry| entry.index > after) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= entry.size();
            }
        }
    }

    /// Drops every entry up to and including `base`, which the log has.
    pub fn compact(&mut self, base: SnapshotId) {
        while self.entries.front().is_some_and(|entry| entry.index <= base.index) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.size();
            }
        }
        self.base = base;
    }

    /// Drops everything; the log continues behind `base`.
    pub fn reset(&mut self, base: SnapshotId) {
        *self = Self::new(base, Vec::new());
    }

    /// The last index at or before `id.index` whose term is at most `id.term`: where two logs may still agree.
    ///
    /// A whole term that the other log can't have is skipped at once (Raft §5.3, the conflict's term).
    pub fn agree_at_most(&self, id: SnapshotId) -> SnapshotId {
        let mut index = id.index.min(self.last_index());
        while index > self.base.index {
            match self.get(index) {
                Some(entry) if entry.term > id.term => index = index.previous(),
                Some(entry) => return SnapshotId { index, term: entry.term },
                None => break,
            }
        }
        if index == self.base.index { self.base } else { SnapshotId::default() }
    }
}
