//! One simulated server.

use std::{collections::BTreeMap, sync::Arc};

use spec::{
    gate::Gate,
    raft::{Configuration, Entry, Index, Node, Request, Role, ServerId, SnapshotId, Term, Timer},
    time::Timers,
};

use super::disk::{Disk, File};

/// What a host made of the entries so far: enough to tell two states apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied.
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// A fingerprint of all entries up to it.
    pub digest: u64,
}

impl Applied {
    /// Applies the next entry.
    pub fn apply(&mut self, entry: &Entry) {
        self.index = entry.index;
        self.term = entry.term;
        let mut fold = |value: u64| {
            self.digest = (self.digest ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        };
        fold(entry.term.0);
        fold(entry.index.0);
        fold(entry.time.0);
        match &entry.request {
            Request::Noop => fold(1),
            Request::Command(payload) => payload.0.iter().for_each(|byte| fold(u64::from(*byte))),
            Request::Configuration(configuration) => {
                for (id, member) in &configuration.servers {
                    fold(u64::try_from(id.node.0).unwrap_or(u64::MAX));
                    fold(id.disk.0);
                    fold(member.suffrage as u64);
                }
            }
        }
    }
}

/// A snapshot on its way in.
#[derive(Clone, Debug, Default)]
pub struct Incoming {
    /// Chunks that came and wait for the machine's word, by snapshot and number.
    pub chunks: BTreeMap<(SnapshotId, u64), File>,
    /// The file under way: its snapshot, its content, and which chunk comes next.
    pub file: Option<(SnapshotId, File, u64)>,
}

/// A request that its server put into the log, and that waits for what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The client's request.
    pub request: u64,
    /// The term in which it was appended.
    pub term: Term,
}

/// One server.
#[derive(Debug)]
pub struct Server {
    /// Its name in Raft; a wiped disk changes it.
    pub id: ServerId,
    /// Its machine while it runs.
    pub node: Option<Node>,
    /// The machine's gate.
    pub gate: Gate<Node>,
    /// The machine's timers.
    pub timers: Timers<Timer>,
    /// Its disk.
    pub disk: Disk,
    /// What its host applied.
    pub applied: Applied,
    /// Counts its starts; what was meant for an earlier run is dropped.
    pub run: u64,
    /// Snapshots on their way in.
    pub incoming: Incoming,
    /// The index of the snapshot that its host is taking.
    pub taking: Option<Index>,
    /// Requests that wait, by index.
    pub waiting: BTreeMap<Index, Waiting>,
    /// Reads that wait for their answer: the least index that they may be told.
    pub reads: BTreeMap<u64, Index>,
    /// The configuration that it forms the cluster with, where it is one of the first servers.
    pub founding: Option<Arc<Configuration>>,
}

impl Server {
    /// A blank server that doesn't run.
    pub fn new(id: ServerId) -> Self {
        Self {
            id,
            node: None,
            gate: Gate::default(),
            timers: Timers::default(),
            disk: Disk::default(),
            applied: Applied::default(),
            run: 0,
            incoming: Incoming::default(),
            taking: None,
            waiting: BTreeMap::new(),
            reads: BTreeMap::new(),
            founding: None,
        }
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.node.as_ref().is_some_and(|node| matches!(node.role, Role::Leader(_)))
    }
}
