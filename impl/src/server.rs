//! One in-process server: it applies commands to a state in memory, at once, with neither log nor peers.
//!
//! It gives the rest of the agent what it calls: proposing, reading, watching, and the server's status.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use agent_sync::Watches;
use arc_swap::ArcSwap;
use bytes::Bytes;
use spec::{
    raft::Index,
    state::{Command, Outcome, State, TableId, Touched},
    time::ClusterTime,
};

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consistency {
    /// Linearizable, as `Consistent` is.
    Default,
    /// Linearizable.
    Consistent,
    /// Whatever this server has.
    Stale,
}

/// A published state and what its server knew of the leader when it was taken.
#[derive(Clone, Debug)]
pub struct View {
    /// The state.
    pub state: Arc<State>,
    /// Whether the server knew a leader.
    pub known_leader: bool,
    /// How long ago it heard from the leader.
    pub last_contact: Duration,
}

/// Why the server didn't do what it was asked to.
#[derive(thiserror::Error, Debug, Clone)]
pub enum ServerError {
    /// There is no leader, and the hold time is over.
    #[error("No cluster leader")]
    NoLeader,
    /// It may or may not have happened.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// It can't be done at present: disk full, overloaded. Nothing happened.
    #[error("{0}")]
    Unavailable(String),
    /// The request itself is refused, in Consul's own words.
    #[error("{0}")]
    Refused(String),
    /// Another server refused it.
    #[error("rpc error making call: {0}")]
    Remote(String),
}

/// Names a server in Raft.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerSelector {
    /// By where other servers reach it.
    Address(String),
    /// By its node id.
    Id(String),
}

/// What a server knows of itself and of Raft.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The node's id.
    pub node_id: String,
    /// The node's name.
    pub node_name: String,
    /// Where the leader is reached, if one is known.
    pub leader_address: Option<String>,
    /// Whether this server leads.
    pub is_leader: bool,
    /// Raft's current term.
    pub term: u64,
    /// The last index that is known to be committed.
    pub commit_index: u64,
    /// The last index that is applied.
    pub applied_index: u64,
    /// The last index of the log.
    pub last_log_index: u64,
    /// Its term.
    pub last_log_term: u64,
    /// The last index that the newest snapshot covers.
    pub last_snapshot_index: u64,
    /// Its term.
    pub last_snapshot_term: u64,
    /// How many committed entries wait to be applied.
    pub fsm_pending: u64,
    /// How long ago the leader was heard; never, where there is none.
    pub last_contact: Option<Duration>,
    /// The servers in Raft.
    pub peers: Vec<PeerStatus>,
}

/// A server in Raft.
#[derive(Clone, Debug, Default)]
pub struct PeerStatus {
    /// The node's id.
    pub id: String,
    /// The node's name.
    pub node: String,
    /// Where other servers reach it.
    pub address: String,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it votes.
    pub voter: bool,
}

/// The servers in Raft, and the index of the entry that made them so.
#[derive(Clone, Debug, Default)]
pub struct RaftConfiguration {
    /// The servers.
    pub servers: Vec<PeerStatus>,
    /// The index.
    pub index: u64,
}

/// An archive of the state.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    /// A gzipped tar of `meta.json`, `state.bin` and `SHA256SUMS`.
    pub bytes: Bytes,
    /// The last index that it covers.
    pub index: u64,
    /// Whether the server knew a leader.
    pub known_leader: bool,
    /// How long ago it heard from the leader.
    pub last_contact: Duration,
}

/// The number by which a table is watched.
pub const fn watch_table(table: TableId) -> u8 {
    match table {
        TableId::Kv => 0,
    }
}

/// A server. Cloning it is cheap and gives the same one.
#[derive(Clone, Debug)]
pub struct Server(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    own: PeerStatus,
    started: Instant,
    state: Mutex<State>,
    published: ArcSwap<State>,
    watches: Watches,
}

impl Server {
    /// A server that keeps its state in memory and has no peers.
    pub fn in_memory(node_id: &str, node_name: &str, address: &str) -> Self {
        let own = PeerStatus {
            id: node_id.to_owned(),
            node: node_name.to_owned(),
            address: address.to_owned(),
            leader: true,
            voter: true,
        };
        let mut state = State::default();
        state.advance(Index(1), ClusterTime(0));
        Self(Arc::new(Shared {
            own,
            started: Instant::now(),
            published: ArcSwap::from_pointee(state.clone()),
            state: Mutex::new(state),
            watches: Watches::new(),
        }))
    }

    /// Puts a command through the log and gives its index and what became of it, once it is applied.
    #[expect(clippy::unused_async, reason = "callers wait for the log, which this server lacks")]
    pub async fn propose(&self, command: Command) -> Result<(u64, Outcome), ServerError> {
        let shared = &*self.0;
        let mut touched = Vec::new();
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (Index(last), _) = state.applied();
        let elapsed = u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let outcome = state.apply(Index(last + 1), ClusterTime(elapsed), &command, &mut touched);
        let index = state.index();
        // Published under the lock, in order of the entries; woken after, or a watcher would read the state before.
        shared.published.store(Arc::new(state.clone()));
        drop(state);
        for touched in touched {
            match touched {
                Touched::Key(table, key) => shared.watches.wake_key(watch_table(table), &key),
                Touched::Prefix(table, prefix) => {
                    shared.watches.wake_prefix(watch_table(table), &prefix);
                }
                Touched::All => shared.watches.wake_all(),
            }
        }
        Ok((index, outcome))
    }

    /// A state that is as fresh as asked.
    #[expect(clippy::unused_async, reason = "callers wait for a quorum, which this server is")]
    pub async fn read(&self, _consistency: Consistency) -> Result<View, ServerError> {
        Ok(self.published())
    }

    /// The state that this server has, at once.
    pub fn published(&self) -> View {
        View {
            state: self.0.published.load_full(),
            known_leader: true,
            last_contact: Duration::ZERO,
        }
    }

    /// The registry of blocking queries.
    pub fn watches(&self) -> &Watches {
        &self.0.watches
    }

    /// What this server knows of itself and of Raft.
    pub fn status(&self) -> Status {
        let own = &self.0.own;
        let (Index(applied), _) = self.0.published.load().applied();
        Status {
            node_id: own.id.clone(),
            node_name: own.node.clone(),
            leader_address: Some(own.address.clone()),
            is_leader: true,
            term: 1,
            commit_index: applied,
            applied_index: applied,
            last_log_index: applied,
            last_log_term: 1,
            last_contact: Some(Duration::ZERO),
            peers: vec![own.clone()],
            ..Status::default()
        }
    }

    /// Hands leadership to the named node, or to whoever is best prepared.
    #[expect(clippy::unused_async, reason = "callers wait for another server to win")]
    pub async fn transfer_leadership(&self, _to: Option<String>) -> Result<(), ServerError> {
        Err(ServerError::Refused("cannot find peer".to_owned()))
    }

    /// Removes a server from Raft.
    #[expect(clippy::unused_async, reason = "callers wait for the change to commit")]
    pub async fn remove_peer(&self, peer: PeerSelector) -> Result<(), ServerError> {
        let own = &self.0.own;
        Err(ServerError::Refused(match peer {
            PeerSelector::Address(address) if address != own.address => {
                format!("address {address:?} was not found in the Raft configuration")
            }
            PeerSelector::Id(id) if id != own.id => {
                format!("id {id:?} was not found in the Raft configuration")
            }
            _ => "the last server can't be removed".to_owned(),
        }))
    }

    /// The servers in Raft.
    #[expect(clippy::unused_async, reason = "callers wait for the leader's answer")]
    pub async fn raft_configuration(&self, _stale: bool) -> Result<RaftConfiguration, ServerError> {
        Ok(RaftConfiguration { servers: vec![self.0.own.clone()], index: 1 })
    }

    /// An archive of the state.
    #[expect(clippy::unused_async, reason = "callers wait for the archive to be written")]
    pub async fn save_snapshot(&self, _stale: bool) -> Result<SnapshotFile, ServerError> {
        Err(ServerError::Unavailable("a server in memory saves no snapshots".to_owned()))
    }

    /// Puts the state of an archive in place of what stands.
    #[expect(clippy::unused_async, reason = "callers wait for the log")]
    pub async fn restore_snapshot(&self, _archive: Bytes) -> Result<(), ServerError> {
        Err(ServerError::Unavailable("a server in memory restores no snapshots".to_owned()))
    }
}
