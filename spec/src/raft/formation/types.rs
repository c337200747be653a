//! The vocabulary of formation: what servers say, keep and are told.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use core::time::Duration;

use bincode::{Decode, Encode};

use crate::{
    codec,
    raft::types::{ClusterId, Configuration, Member, ServerId, Suffrage},
};

/// Where a server answers, as `host:port`.
pub type Address = Arc<str>;

/// What never changes while a server looks for a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// This server.
    pub server: ServerId,
    /// Where it answers.
    pub address: Address,
    /// How many servers form a cluster (`bootstrap_expect`); 0 where it only joins one.
    pub expect: usize,
    /// The addresses that it was given.
    pub addresses: BTreeSet<Address>,
    /// The cluster that its log belongs to, where it has one: then it only answers.
    pub member_of: Option<ClusterId>,
    /// Between rounds of asking.
    pub retry: Duration,
    /// At most this is added to `retry`, by chance.
    pub retry_jitter: Duration,
    /// How long a coordinator waits for the promises of one attempt.
    pub patience: Duration,
}

/// Names an attempt to form a cluster. Never repeats: each attempt of a coordinator has the next number, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct SetId {
    /// Who coordinates.
    pub coordinator: ServerId,
    /// Counts the coordinator's attempts, from 1.
    pub attempt: u64,
}

/// Servers that may become a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ServerSet {
    /// Its name.
    pub id: SetId,
    /// The servers and where they answer; the coordinator is the lowest.
    pub members: BTreeMap<ServerId, Address>,
}

impl ServerSet {
    /// The first configuration of the cluster that it becomes. All members derive the same one.
    pub fn configuration(&self) -> Configuration {
        let member =
            |address: &Address| Member { suffrage: Suffrage::Voter, address: Arc::clone(address) };
        Configuration {
            cluster: self.cluster(),
            servers: self.members.iter().map(|(id, address)| (*id, member(address))).collect(),
        }
    }

    /// The cluster that it becomes. Ids of servers are drawn by chance and attempts never repeat: nor does this.
    pub fn cluster(&self) -> ClusterId {
        ClusterId(xxhash_rust::xxh3::xxh3_128(&codec::encode(self)))
    }

    /// Whether it is one that `server`, expecting `expect`, may promise itself to.
    pub(super) fn is_for(&self, server: ServerId, expect: usize) -> bool {
        self.members.len() == expect
            && self.members.contains_key(&server)
            && self.members.first_key_value().is_some_and(|(id, _)| *id == self.id.coordinator)
    }
}

/// What a server is to clusters. Durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Standing {
    /// Nothing yet.
    #[default]
    Blank,
    /// Promised to this set, and to no other until the coordinator releases it.
    Promised(ServerSet),
    /// Member of the cluster that this set became.
    Formed(ServerSet),
    /// Asked to be added to this cluster, and so may belong to it.
    Joined(ClusterId),
}

/// What survives a crash; each write replaces it whole.
///
/// A promise to its own set and the number of the attempt are one record: after a crash the number is not used again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Durable {
    /// What the server is to clusters.
    pub standing: Standing,
    /// The number of its last attempt.
    pub attempt: u64,
}

/// What servers that look for a cluster send each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Message {
    /// Who is there?
    Ask {
        /// Who asks.
        server: ServerId,
        /// How many it expects; 0 where it looks for no partners.
        expect: usize,
        /// The address that was asked.
        name: Address,
    },
    /// Answers [`Message::Ask`].
    Answer {
        /// Who answers.
        server: ServerId,
        /// The address that was asked.
        name: Address,
        /// What it is.
        presence: Presence,
        /// The addresses of others that it heard from.
        others: BTreeSet<Address>,
    },
    /// The coordinator asks a member to promise itself.
    Prepare(ServerSet),
    /// A member has promised itself, durably.
    Promised {
        /// To which set.
        set: SetId,
        /// Who.
        server: ServerId,
    },
    /// A server won't promise itself.
    Refused {
        /// To which set.
        set: SetId,
    },
    /// The coordinator gave the attempt up.
    Release(SetId),
    /// The coordinator has decided, durably: the set is a cluster.
    Decided(SetId),
    /// A promised member asks what was decided.
    Inquire {
        /// Its set.
        set: SetId,
    },
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Presence {
    /// Blank, or promised to a set of which nothing is known.
    Blank {
        /// How many it expects.
        expect: usize,
    },
    /// Belongs to a cluster.
    Member {
        /// The cluster.
        cluster: ClusterId,
        /// Where its leader answers, if known.
        leader: Option<Address>,
    },
}

/// A server's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Ask again.
    Retry,
    /// The attempt has taken too long.
    Attempt,
}

/// What the host says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// This server's Raft belongs to a cluster: ask no more.
    Belongs {
        /// The cluster.
        cluster: ClusterId,
        /// Where its leader answers, if known.
        leader: Option<Address>,
    },
    /// There may be a server at this address.
    Heard(Address),
}

/// For what a server waits that has no cluster yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wait {
    /// Nobody answers there.
    Unanswered(Address),
    /// A server there expects another number of servers.
    Expects {
        /// Where.
        address: Address,
        /// What it expects.
        expect: usize,
    },
    /// Too few blank servers are there.
    More {
        /// How many, this one included.
        found: usize,
        /// How many are needed.
        expect: usize,
    },
    /// The server with the lowest id coordinates.
    Coordinator(Address),
    /// This server promised itself, and its coordinator has not said what became of it.
    Decision(Address),
    /// This member has not promised itself.
    Promise(Address),
    /// The cluster is to add this server.
    Cluster(ClusterId),
}

/// What a server tells its host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// This server is a member of a formed cluster: the configuration is the first entry of its log. Told again at
    /// each start.
    Formed(Configuration),
    /// Ask this cluster to add this server as a learner, then as a voter. Told again in each round.
    Join {
        /// The cluster.
        cluster: ClusterId,
        /// Where its leader answers, or a server that should know.
        leader: Address,
    },
    /// What keeps this server from belonging to a cluster. Told in each round.
    Waiting(Vec<Wait>),
    /// A server of another cluster is among those that were asked.
    OtherCluster {
        /// Where.
        address: Address,
        /// Its cluster.
        cluster: ClusterId,
    },
}

/// What is known of a server that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Who it is.
    pub server: ServerId,
    /// Where it says that it answers.
    pub address: Address,
    /// How many it expects.
    pub expect: usize,
    /// It was heard from in this round.
    pub fresh: bool,
}
