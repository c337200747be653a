//! What is asked of the catalog. The encoding of all this is in every log: kinds are only ever added behind the last.

use alloc::vec::Vec;

use bincode::{Decode, Encode};

use super::row::{CheckBody, Coordinate};
use crate::{
    raft::NodeId,
    state::text::{Pairs, Text},
};

/// What is asked of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum CatalogCommand {
    /// Makes a node and its parts what they are said to be, all or nothing.
    Register(Registration),
    /// Takes something away. What isn't there is as good as taken away.
    Deregister(Deregistration),
    /// Notes where nodes are in the network; those of nodes that aren't there are dropped.
    UpdateCoordinates(Vec<CoordinateUpdate>),
}

/// A node, and what is registered with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Registration {
    /// The node.
    pub node: NodeBody,
    /// Whether a node that is there stays as it is.
    pub skip_node_update: bool,
    /// What is of the node, in order.
    pub parts: Vec<Part>,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct NodeBody {
    /// Its name.
    pub name: Text,
    /// Its id, where it has one.
    pub id: Option<NodeId>,
    /// Where it is.
    pub address: Text,
    /// Its datacenter.
    pub datacenter: Text,
    /// Where it is for whom.
    pub tagged_addresses: Option<Pairs>,
    /// What its owner says of it.
    pub meta: Option<Pairs>,
}

/// Something that is of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Part {
    /// A check.
    Check(CheckBody),
}

/// What is to be taken away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Deregistration {
    /// A node with all that is of it.
    Node {
        /// Its name.
        name: Text,
        /// Where it is given, only the node that has this id: by the time that the command is applied, another may have
        /// the name.
        only: Option<NodeId>,
    },
    /// A check.
    Check {
        /// The name of its node.
        node: Text,
        /// Its id.
        id: Text,
    },
}

/// Where a node is in the network.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct CoordinateUpdate {
    /// The node's name.
    pub node: Text,
    /// The segment of the network.
    pub segment: Text,
    /// The place.
    pub coordinate: Coordinate,
}
