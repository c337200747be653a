//! The KV store: entries, tombstones, and the index of each kind of result (prose/state.md).
//!
//! Three tables. *Entries* by key. *Tombstones* by key: the index at which a key was last deleted, so that the index of
//! a list never goes back when its newest entry goes. *Graves* by index: what one command deleted, and when, so that
//! tombstones can be reaped in order of their age. Tombstones follow from graves; both are kept because a list asks by
//! prefix, and reaping by age.

use alloc::{sync::Arc, vec::Vec};
use core::{borrow::Borrow, ops::Bound, time::Duration};

use bincode::{Decode, Encode};

use super::{
    bytes::{Key, Value},
    table::{Digest, Row, Table},
};
use crate::{codec::RPC_LIMIT, time::ClusterTime};

/// How long a tombstone is kept, in cluster time.
pub const TOMBSTONE_TTL: Duration = Duration::from_mins(15);
/// The most bytes of a key and its value together. What no entry may exceed, every snapshot can carry.
pub const MAX_ENTRY_BYTES: usize = RPC_LIMIT;

/// Names a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct SessionId(pub [u8; 16]);

/// What a client asks of the KV store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum KvCommand {
    /// Puts a value under a key.
    Set {
        /// Where.
        key: Key,
        /// What.
        value: Value,
        /// The client's own number, opaque.
        flags: u64,
    },
    /// Puts a value under a key if its `ModifyIndex` is `index`; with index 0, if there is no such key.
    Cas {
        /// Where.
        key: Key,
        /// What.
        value: Value,
        /// The client's own number, opaque.
        flags: u64,
        /// The `ModifyIndex` that must stand.
        index: u64,
    },
    /// Deletes a key. One that isn't there is as good as deleted.
    Delete {
        /// Which.
        key: Key,
    },
    /// Deletes every key that starts with `prefix`.
    DeleteTree {
        /// The bytes that they start with; empty for all.
        prefix: Key,
    },
    /// Deletes a key if its `ModifyIndex` is `index`. One that isn't there is as good as deleted.
    DeleteCas {
        /// Which.
        key: Key,
        /// The `ModifyIndex` that must stand.
        index: u64,
    },
}

/// A key and what stands under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct KvEntry {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Value,
    /// The client's own number.
    pub flags: u64,
    /// How often the key was locked; only ever grows while the key lives.
    pub lock_index: u64,
    /// The session that holds the lock.
    pub session: Option<SessionId>,
    /// The index at which the key came to be.
    pub create_index: u64,
    /// The index of its last change.
    pub modify_index: u64,
}

impl Row<Key> for KvEntry {
    fn digest(&self, key: &Key) -> Digest {
        let (held, session) = self.session.map_or((0, [0; 16]), |session| (1, session.0));
        let mut fields = [0; 82];
        let mut rest = fields.as_mut_slice();
        for field in [
            [1, held].as_slice(),
            &Digest::of(key).0.to_le_bytes(),
            &Digest::of(&self.value).0.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.lock_index.to_le_bytes(),
            &self.create_index.to_le_bytes(),
            &self.modify_index.to_le_bytes(),
            &session,
        ] {
            let (head, tail) = rest.split_at_mut(field.len());
            head.copy_from_slice(field);
            rest = tail;
        }
        Digest::of(&fields)
    }
}

/// That a key was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tombstone {
    /// The index of its last deletion.
    pub index: u64,
}

impl Row<Key> for Tombstone {
    fn digest(&self, key: &Key) -> Digest {
        let mut fields = [2; 25];
        fields[1..9].copy_from_slice(&self.index.to_le_bytes());
        fields[9..].copy_from_slice(&Digest::of(key).0.to_le_bytes());
        Digest::of(&fields)
    }
}

/// What one command deleted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grave {
    /// The cluster's time of the command.
    pub time: ClusterTime,
    /// The deleted keys, in order.
    pub keys: Arc<[Key]>,
}

impl Row<u64> for Grave {
    fn digest(&self, index: &u64) -> Digest {
        let keys = self.keys.iter().fold(Digest::default(), |sum, key| sum.plus(Digest::of(key)));
        let mut fields = [3; 33];
        fields[1..9].copy_from_slice(&index.to_le_bytes());
        fields[9..17].copy_from_slice(&self.time.0.to_le_bytes());
        fields[17..].copy_from_slice(&keys.0.to_le_bytes());
        Digest::of(&fields)
    }
}

/// The KV store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kv {
    /// Every entry, by its key.
    pub entries: Table<Key, KvEntry>,
    /// Every key that was deleted and not reaped since, whether or not it came back.
    pub tombstones: Table<Key, Tombstone>,
    /// What each command deleted, by its index, until it is reaped.
    pub graves: Table<u64, Grave>,
    /// The index of the last change to any entry or tombstone but by reaping.
    pub index: u64,
    /// The highest index of a tombstone that was reaped, or the index of the last restore.
    pub reap_floor: u64,
}

impl Kv {
    /// The digest of all that the store holds.
    pub fn digest(&self) -> Digest {
        let mut fields = [4; 17];
        fields[1..9].copy_from_slice(&self.index.to_le_bytes());
        fields[9..].copy_from_slice(&self.reap_floor.to_le_bytes());
        Digest::of(&fields)
            .plus(self.entries.digest())
            .plus(self.tombstones.digest())
            .plus(self.graves.digest())
    }

    /// The entry under `key`, and the index of that answer: the entry's own, or the whole store's where there is none.
    pub fn get(&self, key: &[u8]) -> (u64, Option<&KvEntry>) {
        match self.entries.get(key) {
            Some(entry) => (entry.modify_index, Some(entry)),
            // A key that comes to be gets an index above this one, so whoever waits for it can't miss it.
            None => (self.index, None),
        }
    }

    /// The index of what lists the keys under `prefix`.
    ///
    /// It is the highest index of an entry under the prefix, of a tombstone under it, and of what was reaped anywhere;
    /// the whole store's for the empty prefix and where nothing under the prefix is known.
    pub fn list_index(&self, prefix: &[u8]) -> u64 {
        if prefix.is_empty() {
            return self.index;
        }
        let entries = self.entries.prefix(prefix).map(|(_, entry)| entry.modify_index).max();
        match entries.max(self.last_deletion(prefix, entries.unwrap_or(0).max(self.reap_floor))) {
            // Without the reap floor the index would go back when the newest tombstone under the prefix is reaped.
            Some(index) => index.max(self.reap_floor),
            None => self.index,
        }
    }

    /// The index of the newest tombstone under `prefix`. What isn't above `floor` may be left out where `floor` isn't 0.
    ///
    /// It looks at the tombstones under the prefix and at the graves from the newest on, in turn, and stops when either
    /// knows: a busy prefix is found soon among the graves, a quiet one has few tombstones.
    fn last_deletion(&self, prefix: &[u8], floor: u64) -> Option<u64> {
        let mut graves = self.graves.iter().rev();
        let mut tombstones = self.tombstones.prefix(prefix);
        let mut newest = None;
        loop {
            match tombstones.next() {
                Some((_, tombstone)) => newest = newest.max(Some(tombstone.index)),
                None => return newest,
            }
            match graves.next() {
                Some((index, _)) if *index <= floor => return newest,
                Some((index, grave)) if grave.holds(prefix) => return Some(*index),
                Some(_) | None => {}
            }
        }
    }

    /// The keys under `prefix`; with a separator, what follows its first occurrence behind the prefix is cut off, and
    /// what is alike then is given once.
    pub fn keys(&self, prefix: &[u8], separator: &[u8]) -> Vec<Key> {
        if separator.is_empty() {
            return self.entries.prefix(prefix).map(|(key, _)| key.clone()).collect();
        }
        let mut keys = Vec::new();
        let mut next = Bound::Included(Key::from(prefix));
        while let Some((key, _)) = self.entries.next(borrowed(&next)) {
            let Some(behind) = key.strip_prefix(prefix) else { break };
            if let Some(at) = find(behind, separator) {
                let folder = Key::from(&key[..prefix.len() + at + separator.len()]);
                // Straight to what follows the folder: it may hold a million keys.
                let Some(end) = after_prefix(&folder) else {
                    keys.push(folder);
                    break;
                };
                keys.push(folder);
                next = Bound::Included(end);
            } else {
                keys.push(key.clone());
                next = Bound::Excluded(key.clone());
            }
        }
        keys
    }

    /// Puts a value under a key; gives whether that changed anything.
    ///
    /// A write equal to what stands moves no index and wakes nobody. Lock and session stay as they are: a plain write
    /// that reset `lock_index` would let the next holder's fencing token repeat an older one.
    pub fn set(&mut self, index: u64, key: &Key, value: &Value, flags: u64) -> bool {
        let old = self.entries.get::<[u8]>(key);
        if old.is_some_and(|old| old.value == *value && old.flags == flags) {
            return false;
        }
        let entry = KvEntry {
            key: old.map_or(key, |old| &old.key).clone(),
            value: value.clone(),
            flags,
            lock_index: old.map_or(0, |old| old.lock_index),
            session: old.and_then(|old| old.session),
            create_index: old.map_or(index, |old| old.create_index),
            modify_index: index,
        };
        self.entries.insert(entry.key.clone(), entry);
        self.index = index;
        true
    }

    /// Whether a compare-and-set on `key` at `expected` goes ahead.
    pub fn matches(&self, key: &[u8], expected: u64) -> bool {
        match self.entries.get(key) {
            Some(entry) => expected != 0 && entry.modify_index == expected,
            None => expected == 0,
        }
    }

    /// Deletes a key and leaves a tombstone; gives whether there was one.
    pub fn delete(&mut self, index: u64, time: ClusterTime, key: &Key) -> bool {
        if !self.entries.remove::<[u8]>(key) {
            return false;
        }
        self.bury(index, time, Arc::from([key.clone()]));
        true
    }

    /// Deletes every key under `prefix` and leaves their tombstones; gives whether there was any.
    pub fn delete_tree(&mut self, index: u64, time: ClusterTime, prefix: &[u8]) -> bool {
        let keys: Arc<[Key]> = self.entries.prefix(prefix).map(|(key, _)| key.clone()).collect();
        if keys.is_empty() {
            return false;
        }
        for key in keys.iter() {
            self.entries.remove::<[u8]>(key);
        }
        self.bury(index, time, keys);
        true
    }

    /// Notes that `keys`, in order, were deleted at `index`.
    pub(super) fn bury(&mut self, index: u64, time: ClusterTime, keys: Arc<[Key]>) {
        for key in keys.iter() {
            self.tombstones.insert(key.clone(), Tombstone { index });
        }
        self.graves.insert(index, Grave { time, keys });
        self.index = self.index.max(index);
    }

    /// Forgets every tombstone up to and including index `up_to`; gives whether there was any.
    pub fn reap(&mut self, up_to: u64) -> bool {
        let mut reaped = false;
        while let Some((index, grave)) = self.graves.first() {
            let (index, keys) = (*index, grave.keys.clone());
            if index > up_to {
                break;
            }
            self.graves.remove(&index);
            for key in keys.iter() {
                // A key that was deleted again since has its tombstone from then.
                if self.tombstones.get::<[u8]>(key).is_some_and(|stone| stone.index == index) {
                    self.tombstones.remove::<[u8]>(key);
                }
            }
            self.reap_floor = self.reap_floor.max(index);
            reaped = true;
        }
        reaped
    }

    /// The highest index that [`Kv::reap`] may take at `now`, if there is anything to reap.
    pub fn reapable(&self, now: ClusterTime, ttl: Duration) -> Option<u64> {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.graves
            .iter()
            .take_while(|(_, grave)| grave.time.0.saturating_add(ttl) <= now.0)
            .map(|(index, _)| *index)
            .last()
    }
}

impl Grave {
    /// Whether it holds a key that starts with `prefix`.
    fn holds(&self, prefix: &[u8]) -> bool {
        let at = self.keys.partition_point(|key| **key < *prefix);
        self.keys.get(at).is_some_and(|key| key.starts_with(prefix))
    }
}

fn borrowed(bound: &Bound<Key>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key.borrow()),
        Bound::Excluded(key) => Bound::Excluded(key.borrow()),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// The first key behind all that start with `prefix`; none where they reach to the end.
fn after_prefix(prefix: &[u8]) -> Option<Key> {
    let length = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=length].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Some(end.into())
}
