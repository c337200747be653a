//! What the catalog holds: nodes, checks and coordinates, and how each is hashed.

use core::fmt;

use bincode::{
    Decode, Encode,
    de::Decoder,
    enc::Encoder,
    error::{DecodeError, EncodeError},
};

use crate::{
    codec,
    raft::NodeId,
    serf,
    state::{
        Key,
        table::{Digest, Row},
        text::{Pairs, Text},
    },
};

/// The digest of anything that can be encoded, with what tells its table from the others.
fn digest(table: u8, key: &impl Encode, row: &impl Encode) -> Digest {
    Digest::of(&codec::encode(&(table, key, row)))
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Node {
    /// Its name, as it was registered last.
    pub name: Text,
    /// Its id, where it has one.
    pub id: Option<NodeId>,
    /// Where it is.
    pub address: Text,
    /// Its datacenter.
    pub datacenter: Text,
    /// Where it is for whom (`lan`, `wan` and the like); none is Consul's `null`.
    pub tagged_addresses: Option<Pairs>,
    /// What its owner says of it; none is Consul's `null`.
    pub meta: Option<Pairs>,
    /// The index at which it came to be.
    pub create_index: u64,
    /// The index of its last change.
    pub modify_index: u64,
    /// The index of the last change of any of its checks, of one that is gone too; before there was any, what the index
    /// of all checks was when the node came.
    pub checks_index: u64,
}

impl Row<Key> for Node {
    fn digest(&self, key: &Key) -> Digest {
        digest(8, key, self)
    }
}

/// Which node has an id: found by the id, or by its start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bearer(pub Key);

impl Row<NodeId> for Bearer {
    fn digest(&self, id: &NodeId) -> Digest {
        digest(9, id, &self.0)
    }
}

/// Where a check stands in its table: behind its node, so that a node's checks lie together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct CheckKey {
    /// The canonical name of its node.
    pub node: Key,
    /// Its canonical id.
    pub id: Key,
}

/// How a check stands. Any word may be registered; three of them mean something.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckStatus {
    /// All is well.
    Passing,
    /// Something is up.
    Warning,
    /// Broken, and what a check is that doesn't say.
    #[default]
    Critical,
    /// Some other word, as Consul keeps it.
    Other(Text),
}

impl CheckStatus {
    /// The word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Other(word) => word,
        }
    }
}

impl From<&str> for CheckStatus {
    fn from(word: &str) -> Self {
        match word {
            "passing" => Self::Passing,
            "warning" => Self::Warning,
            "critical" | "" => Self::Critical,
            other => Self::Other(other.into()),
        }
    }
}

impl fmt::Debug for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Encode for CheckStatus {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_str().encode(encoder)
    }
}

impl<C> Decode<C> for CheckStatus {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Self::from(&*Text::decode(decoder)?))
    }
}

bincode::impl_borrow_decode!(CheckStatus);

/// What a check says, but for what the catalog adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct CheckBody {
    /// Its id, as it was registered last.
    pub id: Text,
    /// What people call it.
    pub name: Text,
    /// How it stands.
    pub status: CheckStatus,
    /// What people wrote about it.
    pub notes: Text,
    /// What it said last.
    pub output: Text,
    /// The service that it is of; empty for a check of the node.
    pub service_id: Text,
    /// What kind of check it is (`ttl`, `http` ...).
    pub kind: Text,
    /// How it is made, as compact JSON with fields in Consul's order; empty where nothing is said.
    pub definition: Text,
}

/// A check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Check {
    /// What it says.
    pub body: CheckBody,
    /// The index at which it came to be.
    pub create_index: u64,
    /// The index of its last change.
    pub modify_index: u64,
}

impl Row<CheckKey> for Check {
    fn digest(&self, key: &CheckKey) -> Digest {
        digest(10, key, self)
    }
}

/// Where a coordinate stands in its table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct CoordinateKey {
    /// The canonical name of its node.
    pub node: Key,
    /// The segment of the network; empty for the one that all share.
    pub segment: Text,
}

/// A network coordinate (Vivaldi, as Serf has it). Each number is the bits of a double, since the state has no floats:
/// they must compare and hash as what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Coordinate {
    /// The place, in seconds along each dimension.
    pub vector: [u64; 8],
    /// How sure it is of its place.
    pub error: u64,
    /// What is added to estimates, in seconds.
    pub adjustment: u64,
    /// The distance to the network's core, in seconds.
    pub height: u64,
}

impl Coordinate {
    /// Whether every number is one: neither infinite nor NaN.
    pub fn is_valid(&self) -> bool {
        const EXPONENT: u64 = 0x7ff << 52;
        let finite = |bits: &u64| bits & EXPONENT != EXPONENT;
        self.vector.iter().all(finite)
            && [self.error, self.adjustment, self.height].iter().all(finite)
    }
}

impl From<&serf::coordinate::Coordinate> for Coordinate {
    fn from(of: &serf::coordinate::Coordinate) -> Self {
        Self {
            vector: of.vec.map(f64::to_bits),
            error: of.error.to_bits(),
            adjustment: of.adjustment.to_bits(),
            height: of.height.to_bits(),
        }
    }
}

impl From<&Coordinate> for serf::coordinate::Coordinate {
    fn from(of: &Coordinate) -> Self {
        Self {
            vec: of.vector.map(f64::from_bits),
            error: f64::from_bits(of.error),
            adjustment: f64::from_bits(of.adjustment),
            height: f64::from_bits(of.height),
        }
    }
}

impl Row<CoordinateKey> for Coordinate {
    fn digest(&self, key: &CoordinateKey) -> Digest {
        digest(11, key, self)
    }
}
