//! What servers ask each other besides Raft's messages.

use bincode::{Decode, Encode};
use spec::{
    raft::{ClusterId, Payload, ServerId},
    state::{Outcome, agreement::Report, catalog::CoordinateUpdate},
};

use super::types::ClusterHealth;

/// A request to another server, mostly the leader. Append-only: servers of two versions may talk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Request {
    /// Put this command through the log.
    Propose(Payload),
    /// Add this server, or note its new address. Whoever is asked passes it on to the leader.
    Join {
        /// The server.
        server: ServerId,
        /// Where it answers.
        address: String,
    },
    /// Remove this server.
    Remove(ServerId),
    /// Hand leadership over.
    Transfer(Option<ServerId>),
    /// Say how your node is called.
    Name,
    /// A message of the formation of a cluster.
    Formation(Payload),
    /// The sender's reports of its state; the answer has the receiver's.
    Digests(Vec<Report>),
    /// Say how the servers are.
    Health,
    /// Remove this server, which leaves or has left, where the others can do without it.
    Leave(ServerId),
    /// Let this learner vote.
    Promote(ServerId),
    /// Note where this node is in the network.
    Coordinate(CoordinateUpdate),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Response {
    /// The command's index and outcome, applied.
    Proposed(u64, Outcome),
    /// Done.
    Done,
    /// This server doesn't lead. Nothing happened.
    NotLeader,
    /// Not now: overload, a full disk. Nothing happened.
    Unavailable(String),
    /// Never so: the request makes no sense.
    Refused(String),
    /// It may or may not have happened.
    Unknown(String),
    /// The node's name.
    Name(String),
    /// The server is in this cluster.
    Joined(ClusterId),
    /// The server's reports of its state.
    Digests(Vec<Report>),
    /// How the servers are.
    Health(ClusterHealth),
}
