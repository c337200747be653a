//! What servers ask each other besides Raft's messages.

use bincode::{Decode, Encode};
use spec::{
    raft::{ClusterId, Payload, ServerId},
    state::Outcome,
};

/// A request to another server, mostly the leader.
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
}
