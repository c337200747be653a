//! What the server is asked and what it answers.

use std::{sync::Arc, time::Duration};

use bincode::{Decode, Encode};
use bytes::Bytes;
use spec::state::State;

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
    /// How old that may make the state: how long ago it heard from the leader.
    pub last_contact: Duration,
}

impl View {
    /// The view as an answer to a read with this consistency tells of it. A linearizable one, and one that has waited
    /// since, are no older than the request at any server, as if Consul's leader had answered: it says 0.
    pub(crate) fn read_with(self, consistency: Consistency) -> Self {
        match consistency {
            Consistency::Default | Consistency::Consistent if self.known_leader => {
                Self { last_contact: Duration::ZERO, ..self }
            }
            _ => self,
        }
    }
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
    /// This server's state is known to be wrong: it serves nothing until it is started again.
    #[error("{0}")]
    Diverged(String),
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
    /// Why this server serves nothing: its state is known to be wrong.
    pub diverged: Option<String>,
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

/// How the servers of the cluster are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ClusterHealth {
    /// Whether all of them are well.
    pub healthy: bool,
    /// How many voters may fail before the cluster can't go on.
    pub failure_tolerance: u64,
    /// Each of them.
    pub servers: Vec<ServerHealth>,
}

/// How a server is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ServerHealth {
    /// The node's id.
    pub id: String,
    /// The node's name.
    pub name: String,
    /// Where other servers reach it.
    pub address: String,
    /// How gossip sees it.
    pub serf_status: String,
    /// Whether it leads.
    pub leader: bool,
    /// How long ago the leader heard of it, in nanoseconds; none where it never did.
    pub last_contact_ns: Option<u64>,
    /// The term of its last entry.
    pub last_term: u64,
    /// Its last entry.
    pub last_index: u64,
    /// Whether it is well.
    pub healthy: bool,
    /// Whether it votes.
    pub voter: bool,
    /// Since when it is as well as it is, in seconds since 1970.
    pub stable_since_s: u64,
    /// The version of Consul that it says it is; empty where gossip doesn't know it.
    pub version: String,
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
