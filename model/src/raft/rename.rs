//! Renamings of servers: what symmetry is taken over.
//!
//! Every renaming destructures what it renames without `..`, so that a field which the machine gains doesn't compile
//! until somebody said here whether it names a server.

use std::{collections::BTreeMap, sync::Arc};

use spec::{
    gate::Gate,
    raft::{
        Change, Config, Configuration, Durable, Entry, HardState, Message, Node, Output, Request,
        Role, ServerId, SnapshotMeta, Write,
        log::Log,
        membership::Membership,
        message::{AppendEntries, InstallSnapshot},
        node::{Install, Leader},
        read::{Read, ReadRounds, Round},
        transfer::Transfer,
    },
};

/// A renaming of the servers 1..=n: the server `i+1` becomes `self.0[i]+1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renaming(Vec<usize>);

impl Renaming {
    /// All renamings of `n` servers; the first is the identity.
    pub fn all(n: usize) -> Vec<Self> {
        let mut all = vec![Vec::new()];
        for next in 0..n {
            let longer = all.iter().flat_map(|shorter: &Vec<usize>| {
                // Inserted at the end first, so that the identity stays first.
                (0..=shorter.len()).rev().map(move |at| {
                    let mut longer = shorter.clone();
                    longer.insert(at, next);
                    longer
                })
            });
            all = longer.collect();
        }
        all.into_iter().map(Self).collect()
    }

    /// The new place of the server at place `i`.
    pub fn place(&self, i: usize) -> usize {
        self.0[i]
    }

    fn id(&self, id: ServerId) -> ServerId {
        let place = usize::try_from(id.node.0).ok().and_then(|node| node.checked_sub(1));
        match place.and_then(|place| self.0.get(place)) {
            Some(place) => ServerId::new(u128::try_from(place + 1).unwrap_or(0), id.disk.0),
            None => id,
        }
    }
}

/// What can be renamed.
pub trait Rename {
    /// The same under other names.
    #[must_use]
    fn rename(&self, names: &Renaming) -> Self;
}

/// What names no server.
macro_rules! nameless {
    ($($type:ty),* $(,)?) => {
        $(impl Rename for $type {
            fn rename(&self, _: &Renaming) -> Self {
                self.clone()
            }
        })*
    };
}

nameless!(
    (),
    bool,
    u8,
    u16,
    u32,
    u64,
    spec::raft::Term,
    spec::raft::Index,
    spec::raft::SnapshotId,
    spec::raft::Member,
    spec::raft::progress::Progress,
    spec::raft::message::ReadId,
    spec::machine::Ticket,
);

impl Rename for ServerId {
    fn rename(&self, names: &Renaming) -> Self {
        names.id(*self)
    }
}

impl<T: Rename> Rename for Option<T> {
    fn rename(&self, names: &Renaming) -> Self {
        self.as_ref().map(|value| value.rename(names))
    }
}

impl<T: Rename> Rename for Box<T> {
    fn rename(&self, names: &Renaming) -> Self {
        Self::new((**self).rename(names))
    }
}

impl<T: Rename> Rename for Vec<T> {
    fn rename(&self, names: &Renaming) -> Self {
        self.iter().map(|value| value.rename(names)).collect()
    }
}

impl<T: Rename> Rename for std::collections::VecDeque<T> {
    fn rename(&self, names: &Renaming) -> Self {
        self.iter().map(|value| value.rename(names)).collect()
    }
}

impl<T: Rename + Ord> Rename for std::collections::BTreeSet<T> {
    fn rename(&self, names: &Renaming) -> Self {
        self.iter().map(|value| value.rename(names)).collect()
    }
}

impl<K: Rename + Ord, V: Rename> Rename for BTreeMap<K, V> {
    fn rename(&self, names: &Renaming) -> Self {
        self.iter().map(|(key, value)| (key.rename(names), value.rename(names))).collect()
    }
}

impl<A: Rename, B: Rename> Rename for (A, B) {
    fn rename(&self, names: &Renaming) -> Self {
        (self.0.rename(names), self.1.rename(names))
    }
}

impl<A: Rename, B: Rename, C: Rename> Rename for (A, B, C) {
    fn rename(&self, names: &Renaming) -> Self {
        (self.0.rename(names), self.1.rename(names), self.2.rename(names))
    }
}

impl Rename for Arc<Configuration> {
    fn rename(&self, names: &Renaming) -> Self {
        let Configuration { cluster, servers } = &**self;
        Self::new(Configuration { cluster: *cluster, servers: servers.rename(names) })
    }
}

impl Rename for Request {
    fn rename(&self, names: &Renaming) -> Self {
        match self {
            Self::Noop => Self::Noop,
            Self::Command(payload) => Self::Command(payload.clone()),
            Self::Configuration(configuration) => Self::Configuration(configuration.rename(names)),
        }
    }
}

impl Rename for Entry {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { term, index, time, request } = self;
        Self { term: *term, index: *index, time: *time, request: request.rename(names) }
    }
}

impl Rename for HardState {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { term, voted_for } = self;
        Self { term: *term, voted_for: voted_for.rename(names) }
    }
}

impl Rename for SnapshotMeta {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { id, time, configuration, configuration_index, chunks } = self;
        Self {
            id: *id,
            time: *time,
            configuration: configuration.rename(names),
            configuration_index: *configuration_index,
            chunks: *chunks,
        }
    }
}

impl Rename for Durable {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { hard_state, snapshot, base, entries } = self;
        Self {
            hard_state: hard_state.rename(names),
            snapshot: snapshot.rename(names),
            base: *base,
            entries: entries.rename(names),
        }
    }
}

impl Rename for Write {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { hard_state, change } = self;
        let change = match change {
            Change::None => Change::None,
            Change::Append { after, entries } => {
                Change::Append { after: *after, entries: entries.rename(names) }
            }
            Change::Snapshot { meta, base } => {
                Change::Snapshot { meta: meta.rename(names), base: *base }
            }
            Change::Install { meta } => Change::Install { meta: meta.rename(names) },
        };
        Self { hard_state: hard_state.rename(names), change }
    }
}

impl Rename for Message {
    fn rename(&self, names: &Renaming) -> Self {
        match self {
            Self::AppendEntries(message) => {
                let AppendEntries { term, previous, entries, commit, round } = message;
                Self::AppendEntries(AppendEntries {
                    term: *term,
                    previous: *previous,
                    entries: entries.rename(names),
                    commit: *commit,
                    round: *round,
                })
            }
            Self::InstallSnapshot(message) => {
                let InstallSnapshot { term, meta, number } = message;
                Self::InstallSnapshot(InstallSnapshot {
                    term: *term,
                    meta: meta.rename(names),
                    number: *number,
                })
            }
            Self::RequestVote(_)
            | Self::Vote(_)
            | Self::Appended(_)
            | Self::SnapshotReply(_)
            | Self::TimeoutNow(_)
            | Self::ReadIndex(_)
            | Self::ReadIndexReply(_) => self.clone(),
        }
    }
}

impl Rename for Arc<Config> {
    fn rename(&self, names: &Renaming) -> Self {
        Self::new(Config { id: self.id.rename(names), ..(**self).clone() })
    }
}

impl Rename for Log {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { base, entries, bytes } = self;
        Self { base: *base, entries: entries.rename(names), bytes: *bytes }
    }
}

impl Rename for Membership {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { configuration, index } = self;
        Self { configuration: configuration.rename(names), index: *index }
    }
}

impl Rename for Read {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { from, id } = self;
        Self { from: from.rename(names), id: *id }
    }
}

impl Rename for Round {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { index, reads } = self;
        Self { index: *index, reads: reads.rename(names) }
    }
}

impl Rename for Leader {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { progress, term_start, reads, transfer, clock, uncommitted_bytes } = self;
        let ReadRounds { n, round, waiting, nearest } = reads;
        let transfer = transfer
            .as_ref()
            .map(|Transfer { request, to }| Transfer { request: *request, to: to.rename(names) });
        Self {
            progress: progress.rename(names),
            term_start: *term_start,
            reads: ReadRounds {
                n: *n,
                round: round.rename(names),
                waiting: waiting.rename(names),
                nearest: nearest.rename(names),
            },
            transfer,
            clock: *clock,
            uncommitted_bytes: *uncommitted_bytes,
        }
    }
}

impl Rename for Role {
    fn rename(&self, names: &Renaming) -> Self {
        match self {
            Self::Follower => Self::Follower,
            Self::PreCandidate { votes } => Self::PreCandidate { votes: votes.rename(names) },
            Self::Candidate { votes } => Self::Candidate { votes: votes.rename(names) },
            Self::Leader(leader) => Self::Leader(leader.rename(names)),
        }
    }
}

impl Rename for Install {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { leader, meta, next } = self;
        Self { leader: leader.rename(names), meta: meta.rename(names), next: *next }
    }
}

impl Rename for Node {
    fn rename(&self, names: &Renaming) -> Self {
        let Self {
            config,
            hard_state,
            log,
            snapshot,
            membership,
            commit_index,
            durable_index,
            pending,
            role,
            leader,
            lease,
            forwarded_reads,
            install,
        } = self;
        Self {
            config: config.rename(names),
            hard_state: hard_state.rename(names),
            log: log.rename(names),
            snapshot: snapshot.rename(names),
            membership: membership.rename(names),
            commit_index: *commit_index,
            durable_index: *durable_index,
            pending: pending.clone(),
            role: role.rename(names),
            leader: leader.rename(names),
            lease: *lease,
            forwarded_reads: forwarded_reads.clone(),
            install: install.rename(names),
        }
    }
}

impl Rename for Output {
    fn rename(&self, names: &Renaming) -> Self {
        match self {
            Self::Committed(entries) => Self::Committed(entries.rename(names)),
            Self::Changed { term, standing, leader } => {
                Self::Changed { term: *term, standing: *standing, leader: leader.rename(names) }
            }
            Self::Configured { index, configuration } => {
                Self::Configured { index: *index, configuration: configuration.rename(names) }
            }
            Self::CaughtUp(id) => Self::CaughtUp(id.rename(names)),
            Self::StoreChunk { meta, number } => {
                Self::StoreChunk { meta: meta.rename(names), number: *number }
            }
            Self::FinishSnapshot(meta) => Self::FinishSnapshot(meta.rename(names)),
            Self::Restore(meta) => Self::Restore(meta.rename(names)),
            Self::Appended { .. }
            | Self::Rejected { .. }
            | Self::Transferred { .. }
            | Self::ReadReady { .. }
            | Self::ReadFailed { .. }
            | Self::LeaderHeard
            | Self::Compacted { .. }
            | Self::Dropped(_) => self.clone(),
        }
    }
}

impl Rename for Gate<Node> {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { last, durable, sends, emits } = self;
        let mut gate = Self {
            last: *last,
            durable: *durable,
            sends: sends.rename(names),
            emits: emits.rename(names),
        };
        sort_sends(&mut gate);
        gate
    }
}

/// Puts what a gate holds back in an order that doesn't depend on the servers' names, and each message once: sends need
/// no order, and the network repeats as it likes.
pub fn sort_sends(gate: &mut Gate<Node>) {
    let mut sends = Vec::from(std::mem::take(&mut gate.sends));
    sends.sort_by_cached_key(crate::hash_of);
    sends.dedup();
    gate.sends = sends.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_n_factorial_renamings_and_the_first_changes_nothing() {
        let all = Renaming::all(4);
        assert_eq!(all.len(), 24);
        assert_eq!(all[0].0, [0, 1, 2, 3]);
        let distinct: std::collections::BTreeSet<_> = all.iter().map(|r| r.0.clone()).collect();
        assert_eq!(distinct.len(), 24);
    }
}
