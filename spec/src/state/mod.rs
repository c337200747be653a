//! The replicated state: what a committed command does, and what a reader is told (`prose/state.md`).
//!
//! [`State::apply`] is total, pure and deterministic: every server that applies the same log has the same state, and a
//! command that can't be done is an [`Outcome`] like any other. A clone is O(1).
//!
//! | file | what it specifies |
//! |---|---|
//! | [`autopilot`] | how the cluster looks after its servers |
//! | [`bytes`] | keys and values |
//! | [`agreement`] | whether the servers' states agree |
//! | [`catalog`] | nodes, their checks, where they are |
//! | [`blocking`] | how a query waits for its result to change |
//! | [`restore`] | a snapshot put back through the log |
//! | [`snapshot`] | a state as a stream of records |
//! | [`invariant`] | what must hold of every state |
//! | [`table`] | a persistent ordered map with a digest |
//! | [`kv`] | the KV store and its indexes |
//! | [`text`] | texts in rows, and the canonical form of names |

pub mod agreement;
pub mod autopilot;
pub mod blocking;
pub mod bytes;
pub mod catalog;
pub mod invariant;
pub mod kv;
pub mod restore;
pub mod snapshot;
pub mod table;
pub mod text;

use alloc::{borrow::ToOwned, string::String, sync::Arc, vec::Vec};

use bincode::{Decode, Encode};

pub use self::{
    autopilot::{AutopilotCommand, AutopilotConfig, AutopilotSettings},
    bytes::{Chunk, Key, Value},
    catalog::CatalogCommand,
    kv::{KvCommand, KvEntry, MAX_ENTRY_BYTES, SessionId, TOMBSTONE_TTL},
    table::Digest,
};
use self::{catalog::Catalog, kv::Kv, restore::Restore};
use crate::{
    codec::{self, CodecError, RECORD_LIMIT},
    raft::{Index, Payload},
    time::ClusterTime,
};

/// What a log entry asks of the state. Append-only: its encoding is in every log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Command {
    /// Something of the KV store.
    Kv(KvCommand),
    /// Forgets tombstones. A leader proposes it when [`State::reapable`] says so.
    ReapTombstones {
        /// The highest index that goes.
        up_to: u64,
    },
    /// The next piece of a snapshot that is to be restored.
    RestoreChunk {
        /// Names the restore, freshly drawn by who proposes it.
        restore: u128,
        /// Counts up from 0; 0 drops any other restore that was under way.
        number: u64,
        /// At most 1 MiB of the snapshot.
        bytes: Chunk,
    },
    /// Puts the restored snapshot in place of what stands, if it arrived whole.
    RestoreCommit {
        /// Names the restore.
        restore: u128,
        /// How many bytes all its pieces have together.
        length: u64,
        /// The CRC-32C of all of them.
        crc: u32,
    },
    /// Something of the catalog.
    Catalog(CatalogCommand),
    /// Something of autopilot's configuration.
    Autopilot(AutopilotCommand),
}

impl Command {
    /// The command as a log entry carries it.
    pub fn to_payload(&self) -> Payload {
        codec::encode(self).into()
    }

    /// The command that a log entry carries.
    pub fn from_payload(payload: &Payload) -> Result<Self, CodecError> {
        codec::decode::<_, RECORD_LIMIT>(&payload.0)
    }
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Outcome {
    /// It was carried out: what Consul answers, `true` or `false`.
    Applied(bool),
    /// It makes no sense, for the reason given; nothing changed.
    Refused(String),
}

/// A table that can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableId {
    /// The KV store.
    Kv,
    /// The catalog's nodes, by their canonical names.
    Nodes,
    /// The catalog's checks, by [`catalog::check_topic`].
    Checks,
    /// The catalog's coordinates, by node and segment in the same way.
    Coordinates,
}

/// What a command changed: whoever waits for any of it is woken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Touched {
    /// One key.
    Key(TableId, Key),
    /// Any of the keys that start so.
    Prefix(TableId, Key),
    /// Everything: a snapshot was restored.
    All,
}

/// The replicated state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The last entry that was applied.
    applied: Index,
    /// The cluster's time of that entry.
    time: ClusterTime,
    /// What is added to the index of an entry to get the index that clients see.
    offset: u64,
    /// The index of the last restore: no answer has a lower one.
    restore_floor: u64,
    /// The KV store.
    kv: Kv,
    /// The catalog.
    catalog: Catalog,
    /// Autopilot's configuration, once there is one.
    autopilot: Option<AutopilotConfig>,
    /// The snapshot that is being restored.
    restore: Option<Arc<Restore>>,
}

impl State {
    /// Applies the command of one entry; what it changed is appended to `touched`.
    ///
    /// Entries come in the order of the log, each once; those that carry no command go through [`State::advance`].
    pub fn apply(
        &mut self,
        index: Index,
        time: ClusterTime,
        command: &Command,
        touched: &mut Vec<Touched>,
    ) -> Outcome {
        self.advance(index, time);
        match command {
            Command::Kv(command) => self.apply_kv(command, touched),
            Command::ReapTombstones { up_to } => Outcome::Applied(self.kv.reap(*up_to)),
            Command::RestoreChunk { restore, number, bytes } => {
                self.restore_chunk(*restore, *number, bytes)
            }
            Command::RestoreCommit { restore, length, crc } => {
                self.restore_commit(*restore, *length, *crc, touched)
            }
            Command::Catalog(command) => {
                let index = self.index();
                catalog::Change { catalog: &mut self.catalog, index, touched }.apply(command)
            }
            Command::Autopilot(command) => {
                let index = self.index();
                autopilot::apply(&mut self.autopilot, index, command)
            }
        }
    }

    /// Notes an entry that carries no command.
    pub fn advance(&mut self, index: Index, time: ClusterTime) {
        self.applied = index;
        self.time = self.time.max(time);
    }

    /// Applies a command of the KV store to a state that stands at its entry.
    fn apply_kv(&mut self, command: &KvCommand, touched: &mut Vec<Touched>) -> Outcome {
        let (index, time) = (self.index(), self.time);
        if let Some(reason) = refusal(command) {
            return Outcome::Refused(reason.to_owned());
        }
        match command {
            KvCommand::Set { key, value, flags } => {
                if self.kv.set(index, key, value, *flags) {
                    touched.push(Touched::Key(TableId::Kv, key.clone()));
                }
                Outcome::Applied(true)
            }
            KvCommand::Cas { key, value, flags, index: expected } => {
                if !self.kv.matches(key, *expected) {
                    return Outcome::Applied(false);
                }
                if self.kv.set(index, key, value, *flags) {
                    touched.push(Touched::Key(TableId::Kv, key.clone()));
                }
                Outcome::Applied(true)
            }
            KvCommand::Delete { key } => {
                if self.kv.delete(index, time, key) {
                    touched.push(Touched::Key(TableId::Kv, key.clone()));
                }
                Outcome::Applied(true)
            }
            KvCommand::DeleteTree { prefix } => {
                if self.kv.delete_tree(index, time, prefix) {
                    touched.push(Touched::Prefix(TableId::Kv, prefix.clone()));
                }
                Outcome::Applied(true)
            }
            KvCommand::DeleteCas { key, index: expected } => {
                if self.kv.entries.get::<[u8]>(key).is_none() {
                    return Outcome::Applied(true);
                }
                if !self.kv.matches(key, *expected) {
                    return Outcome::Applied(false);
                }
                if self.kv.delete(index, time, key) {
                    touched.push(Touched::Key(TableId::Kv, key.clone()));
                }
                Outcome::Applied(true)
            }
        }
    }

    /// The last entry that was applied, and the cluster's time then.
    pub const fn applied(&self) -> (Index, ClusterTime) {
        (self.applied, self.time)
    }

    /// The index, as clients see it, of a change by the last entry that was applied.
    pub const fn index(&self) -> u64 {
        self.applied.0.saturating_add(self.offset)
    }

    /// Changes with each restore: a query that sees it change returns at once.
    pub const fn epoch(&self) -> u64 {
        self.restore_floor
    }

    /// The entry under `key`, and the index of that answer, at least 1.
    pub fn kv_get(&self, key: &[u8]) -> (u64, Option<&KvEntry>) {
        let (index, entry) = self.kv.get(key);
        (self.served(index), entry)
    }

    /// The entries under `prefix`, in order, and the index of that answer, at least 1.
    pub fn kv_list<'a>(&'a self, prefix: &'a [u8]) -> (u64, impl Iterator<Item = &'a KvEntry>) {
        let entries = self.kv.entries.prefix(prefix).map(|(_, entry)| entry);
        (self.served(self.kv.list_index(prefix)), entries)
    }

    /// The keys under `prefix`, cut behind the first separator that follows it, and the index of that answer.
    pub fn kv_keys(&self, prefix: &[u8], separator: Option<&[u8]>) -> (u64, Vec<Key>) {
        let keys = self.kv.keys(prefix, separator.unwrap_or_default());
        (self.served(self.kv.list_index(prefix)), keys)
    }

    /// Up to which index tombstones may be reaped at `now`, if any.
    pub fn reapable(&self, now: ClusterTime) -> Option<u64> {
        self.kv.reapable(now, TOMBSTONE_TTL)
    }

    /// Autopilot's configuration; none until a leader has set it first.
    pub const fn autopilot(&self) -> Option<&AutopilotConfig> {
        self.autopilot.as_ref()
    }

    /// The KV store.
    pub const fn kv(&self) -> &Kv {
        &self.kv
    }

    /// The digest of everything that is replicated: equal on all servers that applied the same entries.
    pub fn digest(&self) -> Digest {
        let mut fields = [5; 33];
        fields[1..9].copy_from_slice(&self.applied.0.to_le_bytes());
        fields[9..17].copy_from_slice(&self.time.0.to_le_bytes());
        fields[17..25].copy_from_slice(&self.offset.to_le_bytes());
        fields[25..].copy_from_slice(&self.restore_floor.to_le_bytes());
        let restore = self.restore.as_ref().map_or(Digest::default(), |restore| restore.digest());
        Digest::of(&fields)
            .plus(self.kv.digest())
            .plus(self.catalog.digest())
            .plus(autopilot::digest(self.autopilot.as_ref()))
            .plus(restore)
    }

    /// An index as it is answered: never 0, which a client couldn't wait on, and never below the last restore, since
    /// restored entries keep the indexes that they had.
    fn served(&self, index: u64) -> u64 {
        index.max(self.restore_floor).max(1)
    }
}

/// Why a command can't be carried out, whatever the state.
fn refusal(command: &KvCommand) -> Option<&'static str> {
    let (key, length) = match command {
        KvCommand::Set { key, value, .. } | KvCommand::Cas { key, value, .. } => {
            (key, key.len() + value.len())
        }
        KvCommand::Delete { key } | KvCommand::DeleteCas { key, .. } => (key, key.len()),
        // The empty prefix is that of all keys.
        KvCommand::DeleteTree { .. } => return None,
    };
    if key.is_empty() {
        Some("Missing key name")
    } else if length > MAX_ENTRY_BYTES {
        Some("Key and value are too large")
    } else {
        None
    }
}
