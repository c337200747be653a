//! What clients were told of keys. Each write puts another value; so what a read shows tells which write it saw.

use std::collections::BTreeMap;

use spec::{
    raft::{Entry, Index, Request},
    state::{Command, KvCommand, State},
};

use crate::sim::{Violation, ghosts::require};

/// What was written and seen.
#[derive(Debug, Default)]
pub struct History {
    /// The key and the value that each entry put.
    written: BTreeMap<u64, (Vec<u8>, Vec<u8>)>,
    /// The newest entry of each key that a client was told of, by an acknowledgement or by a read.
    seen: BTreeMap<Vec<u8>, u64>,
}

/// A read that has begun.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Of which key.
    pub key: Vec<u8>,
    /// The newest entry of the key that a client was told of before.
    seen: u64,
    /// The last entry that was visible anywhere before.
    visible: Index,
}

impl History {
    /// Notes what a committed entry puts.
    pub fn committed(&mut self, entry: &Entry) {
        let Request::Command(payload) = &entry.request else { return };
        if let Ok(Command::Kv(KvCommand::Set { key, value, .. })) = Command::from_payload(payload) {
            self.written.insert(entry.index.0, (key.to_vec(), value.to_vec()));
        }
    }

    /// A write was acknowledged, at this index.
    pub fn acknowledged(&mut self, index: u64, key: &[u8], value: &[u8]) -> Result<(), Violation> {
        let written = self.written.get(&index);
        let right = written.is_some_and(|(of, what)| of == key && what == value);
        require(right, "acknowledged_is_committed", || {
            format!("{key:?} = {value:?} is acknowledged at {index}, where {written:?} stands")
        })?;
        self.see(key, index);
        Ok(())
    }

    fn see(&mut self, key: &[u8], index: u64) {
        let seen = self.seen.entry(key.to_vec()).or_default();
        *seen = (*seen).max(index);
    }

    /// A read begins.
    pub fn begin(&self, key: Vec<u8>, visible: Index) -> Reading {
        let seen = self.seen.get(&key).copied().unwrap_or_default();
        Reading { key, seen, visible }
    }

    /// A read of `state`, which may be shown from `index` on, ends.
    pub fn end(&mut self, read: &Reading, index: Index, state: &State) -> Result<(), Violation> {
        require(index >= read.visible, "linearizable_reads", || {
            format!("may be read from {index:?}, but {:?} was visible before", read.visible)
        })?;
        let (_, entry) = state.kv_get(&read.key);
        let at = entry.map_or(0, |entry| entry.modify_index);
        require(at >= read.seen, "acknowledged_is_read", || {
            format!("{:?} is read as of {at}, clients knew of {}", read.key, read.seen)
        })?;
        if let Some(entry) = entry {
            let written = self.written.get(&at);
            let right =
                written.is_some_and(|(of, what)| of[..] == *read.key && what[..] == *entry.value);
            require(right, "reads_what_was_written", || {
                format!("{entry:?} is read, {written:?} was written")
            })?;
        }
        self.see(&read.key, at);
        Ok(())
    }
}
