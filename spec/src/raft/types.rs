//! Names, entries, configurations, and what survives a crash (Raft §5.1-5.3, figure 2).

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::fmt;

use bincode::{
    Decode, Encode,
    de::Decoder,
    enc::Encoder,
    error::{DecodeError, EncodeError},
};

use crate::{codec::shared, time::ClusterTime};

/// Raft's logical clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Term(pub u64);

impl Term {
    /// The term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A position in the log; the first entry has index 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Index(pub u64);

impl Index {
    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// Names a server for as long as it lives under one name: a UUID that its data directory keeps.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct NodeId(pub u128);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            v >> 96,
            (v >> 80) & 0xffff,
            (v >> 64) & 0xffff,
            (v >> 48) & 0xffff,
            v & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1 << 32 { write!(f, "n{}", self.0) } else { fmt::Display::fmt(self, f) }
    }
}

/// Names a disk: minted when a blank data directory is first used, so that a wiped disk is a new server and can't
/// vote as the old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct DiskId(pub u64);

/// A server in Raft.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ServerId {
    /// The node.
    pub node: NodeId,
    /// The disk that it votes from.
    pub disk: DiskId,
}

impl ServerId {
    /// A server by small numbers, as models and tests use them.
    pub const fn new(node: u128, disk: u64) -> Self {
        Self { node: NodeId(node), disk: DiskId(disk) }
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.node)?;
        if self.disk.0 != 0 {
            write!(f, "/{:x}", self.disk.0)?;
        }
        Ok(())
    }
}

/// Names a cluster from its formation on; servers of two clusters refuse each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ClusterId(pub u128);

/// What an entry carries for the state machine: opaque to Raft.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Payload(pub Arc<[u8]>);

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match core::str::from_utf8(&self.0) {
            Ok(text) if text.len() < 24 => write!(f, "{text:?}"),
            _ => write!(f, "[{} bytes]", self.0.len()),
        }
    }
}

impl Encode for Payload {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        shared::encode(&self.0, encoder)
    }
}

impl<C> Decode<C> for Payload {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        shared::decode(decoder).map(Self)
    }
}

bincode::impl_borrow_decode!(Payload);

/// What an entry asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Request {
    /// Nothing: a leader's first entry, by which it learns what is committed (Raft §8).
    Noop,
    /// A command for the replicated state.
    Command(Payload),
    /// The servers from here on, in force as soon as it is in the log (thesis §4.1).
    Configuration(Arc<Configuration>),
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Entry {
    /// The term of the leader that made it.
    pub term: Term,
    /// Its position.
    pub index: Index,
    /// The cluster's time when its leader made it.
    pub time: ClusterTime,
    /// What it asks for.
    pub request: Request,
}

impl Entry {
    /// About how many bytes it takes in a message and in memory.
    pub fn size(&self) -> usize {
        32 + match &self.request {
            Request::Noop => 0,
            Request::Command(payload) => payload.0.len(),
            Request::Configuration(configuration) => 64 * configuration.servers.len(),
        }
    }
}

/// Whether a server's word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Suffrage {
    /// Votes, and counts for commitment.
    Voter,
    /// Receives the log and counts for nothing.
    Learner,
}

/// What a configuration says of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Member {
    /// Whether it votes.
    pub suffrage: Suffrage,
    /// Where it answers, as `host:port`. Data, not identity.
    pub address: Arc<str>,
}

/// The servers of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Configuration {
    /// The cluster that they are.
    pub cluster: ClusterId,
    /// Each server, by its id.
    pub servers: BTreeMap<ServerId, Member>,
}

impl Configuration {
    /// Whether `server` votes in it.
    pub fn is_voter(&self, server: &ServerId) -> bool {
        self.servers.get(server).is_some_and(|member| member.suffrage == Suffrage::Voter)
    }

    /// The voters, in order of their ids.
    pub fn voters(&self) -> impl Iterator<Item = &ServerId> {
        self.servers.iter().filter(|(_, m)| m.suffrage == Suffrage::Voter).map(|(id, _)| id)
    }
}

/// Names a snapshot by the last entry that it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct SnapshotId {
    /// The last entry's index.
    pub index: Index,
    /// The last entry's term.
    pub term: Term,
}

/// What Raft knows of a snapshot; the driver has the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SnapshotMeta {
    /// Its name.
    pub id: SnapshotId,
    /// The cluster's time of its last entry.
    pub time: ClusterTime,
    /// The configuration as of its last entry.
    pub configuration: Arc<Configuration>,
    /// The index of the entry that made that configuration.
    pub configuration_index: Index,
    /// How many chunks its file has; at least 1.
    pub chunks: u64,
}

/// The term and the vote in it: one record, never two (a crash between them could vote twice in a term).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct HardState {
    /// The highest term seen.
    pub term: Term,
    /// Whom this server voted for in `term`.
    pub voted_for: Option<ServerId>,
}

/// One atomic change of what is durable. Term and vote stand in each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Write {
    /// The term and vote from here on.
    pub hard_state: HardState,
    /// What else changes.
    pub change: Change,
}

/// What a write changes besides term and vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Change {
    /// Nothing.
    None,
    /// The log continues with `entries` behind index `after`; what stood there before is gone.
    Append {
        /// The index before the first of `entries`.
        after: Index,
        /// Consecutive entries.
        entries: Vec<Entry>,
    },
    /// The snapshot's file is durable; entries up to and including `base` may go.
    Snapshot {
        /// The snapshot.
        meta: SnapshotMeta,
        /// The last entry that is dropped from the log: at most the snapshot's last.
        base: SnapshotId,
    },
    /// A leader's snapshot replaces the log whole: nothing that follows it is kept.
    Install {
        /// The snapshot.
        meta: SnapshotMeta,
    },
}

/// What survives a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Durable {
    /// Term and vote.
    pub hard_state: HardState,
    /// The newest snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// The entry before the first one that the log still has.
    pub base: SnapshotId,
    /// The entries behind `base`, consecutive.
    pub entries: Vec<Entry>,
}

impl Durable {
    /// The index of the last entry.
    pub fn last_index(&self) -> Index {
        self.entries.last().map_or(self.base.index, |entry| entry.index)
    }

    /// Folds one write: what the log on disk means.
    pub fn fold(&mut self, write: &Write) {
        self.hard_state = write.hard_state;
        match &write.change {
            Change::None => {}
            Change::Append { after, entries } => {
                // By bisection: a restart folds as many writes as there are entries.
                let kept = self.entries.partition_point(|entry| entry.index <= *after);
                self.entries.truncate(kept);
                self.entries.extend(entries.iter().cloned());
            }
            Change::Snapshot { meta, base } => {
                self.snapshot = Some(meta.clone());
                let dropped = self.entries.partition_point(|entry| entry.index <= base.index);
                self.entries.drain(..dropped);
                self.base = *base;
            }
            Change::Install { meta } => {
                self.snapshot = Some(meta.clone());
                self.base = meta.id;
                self.entries.clear();
            }
        }
    }
}
