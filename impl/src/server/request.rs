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

#[cfg(test)]
mod tests {
    use spec::{
        raft::Index,
        state::{Digest, catalog::Coordinate},
    };

    use super::{super::types::ServerHealth, *};
    use crate::golden::stand_still;

    fn reports() -> Vec<Report> {
        vec![Report { index: Index(1024), digest: Digest(300) }]
    }

    #[test]
    fn the_bytes_of_requests_stand_still() {
        let server = ServerId::new(1, 7);
        let vector = [1, 2, 3, 4, 5, 6, 7, 8];
        let coordinate = Coordinate { vector, error: 9, adjustment: 10, height: 11 };
        let update = CoordinateUpdate { node: "n1".into(), segment: "".into(), coordinate };
        stand_still(
            11,
            vec![
                (Request::Propose(Payload::from(b"put".to_vec())), "0003707574"),
                (Request::Join { server, address: "a:1".into() }, "01010703613a31"),
                (Request::Remove(server), "020107"),
                (Request::Transfer(None), "0300"),
                (Request::Transfer(Some(server)), "03010107"),
                (Request::Name, "04"),
                (Request::Formation(Payload::from(b"ask".to_vec())), "050361736b"),
                (Request::Digests(reports()), "0601fb0004fb2c01"),
                (Request::Health, "07"),
                (Request::Leave(server), "080107"),
                (Request::Promote(server), "090107"),
                (Request::Coordinate(update), "0a026e31000102030405060708090a0b"),
            ],
        );
    }

    #[test]
    fn the_bytes_of_responses_stand_still() {
        let health = ServerHealth {
            id: "i".into(),
            name: "n".into(),
            address: "a".into(),
            serf_status: "alive".into(),
            leader: true,
            last_contact_ns: Some(300),
            last_term: 2,
            last_index: 5,
            healthy: true,
            voter: false,
            stable_since_s: 6,
            version: "v".into(),
        };
        let servers = vec![ServerHealth { last_contact_ns: None, ..health.clone() }, health];
        let health = ClusterHealth { healthy: true, failure_tolerance: 1, servers };
        stand_still(
            10,
            vec![
                (Response::Proposed(300, Outcome::Applied(true)), "00fb2c010001"),
                (Response::Proposed(300, Outcome::Refused("no".into())), "00fb2c0101026e6f"),
                (Response::Done, "01"),
                (Response::NotLeader, "02"),
                (Response::Unavailable("no".into()), "03026e6f"),
                (Response::Refused("no".into()), "04026e6f"),
                (Response::Unknown("no".into()), "05026e6f"),
                (Response::Name("n".into()), "06016e"),
                (Response::Joined(ClusterId(300)), "07fb2c01"),
                (Response::Digests(reports()), "0801fb0004fb2c01"),
                (
                    Response::Health(health),
                    "09 01 01 02 0169 016e 0161 05616c697665 01 00 02 05 01 00 06 0176 \
                     0169 016e 0161 05616c697665 01 01fb2c01 02 05 01 00 06 0176",
                ),
            ],
        );
    }
}
