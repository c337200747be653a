//! The catalog: nodes, their checks, and where they are in the network (prose/catalog.md).
//!
//! Four tables. *Nodes* by canonical name, and *ids*, which say which node has an id. *Checks* by node and id.
//! *Coordinates* by node and segment. Everything that is of a node lies under the node's canonical name and goes with it,
//! so no row is without its node, in whatever case of letters it was registered.
//!
//! Nothing here leaves tombstones: an index of a table moves when a row of it goes, and the results of single nodes fall
//! back to the index of the table when the node is gone.
//!
//! | file | what it specifies |
//! |---|---|
//! | [`command`] | what is asked |
//! | [`row`] | what is kept |
//! | `register` | registering and deregistering |
//! | `record` | the catalog in a snapshot |

pub mod command;
pub(in crate::state) mod record;
mod register;
pub mod row;

use alloc::format;
use core::ops::Bound;

use bincode::{Decode, Encode};

pub(in crate::state) use self::register::Change;
pub use self::{
    command::{CatalogCommand, CoordinateUpdate, Deregistration, NodeBody, Part, Registration},
    row::{Bearer, Check, CheckBody, CheckKey, CheckStatus, Coordinate, CoordinateKey, Node},
};
use super::{
    Key, State, TableId, Touched,
    table::{Digest, Table},
    text::{Text, canonical},
};
use crate::{codec, raft::NodeId};

/// The id of the check by which gossip says whether a node lives.
pub const SERF_HEALTH: &str = "serfHealth";
/// The most bytes of a registration, encoded. What none exceeds, every snapshot can carry.
pub const MAX_REGISTRATION_BYTES: usize = 1 << 20;
/// The most bytes of a row: those of a registration, and what the catalog adds.
const MAX_ROW_BYTES: usize = MAX_REGISTRATION_BYTES + 1024;
/// How many letters of an id find a node, at least.
const MIN_ID_LETTERS: usize = 2;

/// The index of the last change of each table, rows that are gone included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Indexes {
    /// Of the nodes.
    pub nodes: u64,
    /// Of the checks.
    pub checks: u64,
    /// Of the coordinates.
    pub coordinates: u64,
}

impl Indexes {
    /// The same for all tables.
    pub const fn all(index: u64) -> Self {
        Self { nodes: index, checks: index, coordinates: index }
    }

    /// The highest of them.
    pub fn highest(&self) -> u64 {
        self.nodes.max(self.checks).max(self.coordinates)
    }
}

/// The catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Catalog {
    /// Every node, by its canonical name.
    pub nodes: Table<Key, Node>,
    /// Who has an id; follows from the nodes.
    pub ids: Table<NodeId, Bearer>,
    /// Every check, by its node and id.
    pub checks: Table<CheckKey, Check>,
    /// Every coordinate, by its node and segment.
    pub coordinates: Table<CoordinateKey, Coordinate>,
    /// The index of each table.
    pub indexes: Indexes,
}

impl Catalog {
    /// The digest of all that the catalog holds; that of an empty one is 0, so that a state without one has the digest
    /// that it had before there were catalogs.
    pub fn digest(&self) -> Digest {
        let indexes = if self.indexes == Indexes::default() {
            Digest::default()
        } else {
            Digest::of(&codec::encode(&(12_u8, self.indexes)))
        };
        indexes
            .plus(self.nodes.digest())
            .plus(self.ids.digest())
            .plus(self.checks.digest())
            .plus(self.coordinates.digest())
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(&canonical(name))
    }

    /// The node of this id.
    pub fn node_by_id(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&self.ids.get(&id)?.0)
    }

    /// A check of the node of this name.
    pub fn check(&self, node: &str, id: &str) -> Option<&Check> {
        self.checks.get(&CheckKey { node: canonical(node), id: canonical(id) })
    }

    /// The checks of a node, by its canonical name.
    pub fn checks_of<'a>(
        &'a self,
        node: &'a Key,
    ) -> impl Iterator<Item = (&'a CheckKey, &'a Check)> {
        let first = CheckKey { node: node.clone(), id: Key::default() };
        self.checks.from_key(first).take_while(move |(key, _)| key.node == *node)
    }

    /// The coordinates of a node, by its canonical name.
    pub fn coordinates_of<'a>(
        &'a self,
        node: &'a Key,
    ) -> impl Iterator<Item = (&'a CoordinateKey, &'a Coordinate)> {
        let first = CoordinateKey { node: node.clone(), segment: Text::default() };
        self.coordinates.from_key(first).take_while(move |(key, _)| key.node == *node)
    }

    /// The node whose id starts with these letters, as Consul looks it up: at least two of them, an even number of them
    /// counted, and no other node with the same start.
    fn node_by_id_prefix(&self, letters: &str) -> Option<&Node> {
        if letters.len() < MIN_ID_LETTERS {
            return None;
        }
        let (low, high) = id_range(letters)?;
        let mut found = self.ids.from(Bound::Included(&low)).take_while(|(id, _)| **id <= high);
        let (_, bearer) = found.next()?;
        if found.next().is_some() {
            return None;
        }
        self.nodes.get(&bearer.0)
    }
}

/// The least and the greatest id that start with these letters of a UUID.
fn id_range(letters: &str) -> Option<(NodeId, NodeId)> {
    let letters = letters.get(..letters.len() & !1)?;
    let mut value = 0_u128;
    let mut digits = 0_u32;
    for (at, letter) in letters.chars().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            if letter != '-' {
                return None;
            }
            continue;
        }
        value = value << 4 | u128::from(letter.to_digit(16)?);
        digits += 1;
    }
    let rest = 128_u32.checked_sub(digits * 4)?;
    let low = value.checked_shl(rest).unwrap_or(0);
    let high = low | (u128::MAX.checked_shr(128 - rest).unwrap_or(0));
    Some((NodeId(low), NodeId(high)))
}

/// Reads a node's id, a UUID; an empty one is none. What is wrong with another is said in Consul's words.
pub fn parse_node_id(text: &str) -> Result<Option<NodeId>, alloc::string::String> {
    if text.is_empty() {
        return Ok(None);
    }
    let fault = |fault: &str| Err(format!("Bad node ID: {fault}"));
    if text.len() != 36 {
        return fault("uuid string is wrong length");
    }
    if ![8, 13, 18, 23].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-')) {
        return fault("uuid is improperly formatted");
    }
    let mut value = 0_u128;
    for letter in text.chars().enumerate().filter(|(at, _)| !matches!(at, 8 | 13 | 18 | 23)) {
        let Some(digit) = letter.1.to_digit(16) else {
            let code = u32::from(letter.1);
            return fault(&format!("encoding/hex: invalid byte: U+{code:04X} '{}'", letter.1));
        };
        value = value << 4 | u128::from(digit);
    }
    Ok(Some(NodeId(value)))
}

/// What wakes whoever waits for a check: its node's canonical name, a zero byte, its own canonical id.
pub fn check_topic(node: &[u8], id: &[u8]) -> Key {
    [node, b"\0", id].concat().into()
}

/// What wakes whoever waits for any check, or any coordinate, of a node.
pub fn node_topic(node: &[u8]) -> Key {
    check_topic(node, b"")
}

/// What wakes whoever waits for a coordinate.
fn coordinate_touched(key: &CoordinateKey) -> Touched {
    Touched::Key(TableId::Coordinates, check_topic(&key.node, key.segment.as_bytes()))
}

/// What a reader is told of the catalog; each with the index of that answer, at least 1.
impl State {
    /// The catalog.
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Every node, in order of their canonical names.
    pub fn nodes(&self) -> (u64, impl Iterator<Item = &Node>) {
        let nodes = self.catalog.nodes.iter().map(|(_, node)| node);
        (self.served(self.catalog.indexes.nodes), nodes)
    }

    /// The node of this name, or else whose id starts so.
    ///
    /// Found by its name, it has an index of its own. Whom the start of an id finds may change with any node, so there the
    /// index is that of all nodes, as it is where there is none.
    pub fn node(&self, name_or_id: &str) -> (u64, Option<&Node>) {
        match self.catalog.node(name_or_id) {
            Some(node) => (self.served(node.modify_index), Some(node)),
            None => (
                self.served(self.catalog.indexes.nodes),
                self.catalog.node_by_id_prefix(name_or_id),
            ),
        }
    }

    /// The checks of the node of this canonical name, in order of their canonical ids.
    pub fn node_checks<'a>(&'a self, node: &'a Key) -> (u64, impl Iterator<Item = &'a Check>) {
        let index = match self.catalog.nodes.get(node) {
            Some(node) => node.checks_index,
            None => self.catalog.indexes.checks,
        };
        (self.served(index), self.catalog.checks_of(node).map(|(_, check)| check))
    }

    /// Every check with its node, in order of nodes and ids.
    pub fn checks(&self) -> (u64, impl Iterator<Item = (&Node, &Check)>) {
        let nodes = &self.catalog.nodes;
        let checks = self.catalog.checks.iter();
        let checks = checks.filter_map(|(key, check)| Some((nodes.get(&key.node)?, check)));
        (self.served(self.catalog.indexes.checks), checks)
    }

    /// Every coordinate with its node and segment, in order of both.
    pub fn coordinates(&self) -> (u64, impl Iterator<Item = (&Node, &str, &Coordinate)>) {
        let nodes = &self.catalog.nodes;
        let rows = self.catalog.coordinates.iter();
        let rows = rows.filter_map(|(key, row)| Some((nodes.get(&key.node)?, &*key.segment, row)));
        (self.served(self.catalog.indexes.coordinates), rows)
    }

    /// The index of what is told of any node together with its checks.
    pub fn nodes_and_checks_index(&self) -> u64 {
        self.served(self.catalog.indexes.nodes.max(self.catalog.indexes.checks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_consul_reads_them() {
        let id = "0a4e64c1-872e-a0ec-b2dc-fdf268e35d46";
        let read = parse_node_id(id).unwrap().unwrap();
        assert_eq!(format!("{read}"), id);
        assert_eq!(parse_node_id(&id.to_uppercase()), Ok(Some(read)));
        assert_eq!(parse_node_id(""), Ok(None));
        for (text, fault) in [
            ("short", "Bad node ID: uuid string is wrong length"),
            ("0a4e64c1x872e-a0ec-b2dc-fdf268e35d46", "Bad node ID: uuid is improperly formatted"),
            (
                "0a4e64x1-872e-a0ec-b2dc-fdf268e35d46",
                "Bad node ID: encoding/hex: invalid byte: U+0078 'x'",
            ),
        ] {
            assert_eq!(parse_node_id(text), Err(fault.into()));
        }
    }

    #[test]
    fn the_start_of_an_id_spans_the_ids_that_start_so() {
        let range = |letters| id_range(letters).map(|(low, high)| (low.0, high.0));
        let all = u128::MAX;
        assert_eq!(range("0a"), Some((0x0a << 120, 0x0a << 120 | all >> 8)));
        assert_eq!(range("0a4"), range("0a"));
        let whole = "0a4e64c1-872e-a0ec-b2dc-fdf268e35d46";
        let id = 0x0a4e_64c1_872e_a0ec_b2dc_fdf2_68e3_5d46;
        assert_eq!(range(whole), Some((id, id)));
        // Eleven of its digits are counted.
        assert_eq!(range("0a4e64c1-872"), Some((id >> 84 << 84, id | all >> 44)));
        assert_eq!(range("nosuch"), None);
        assert_eq!(range("0a4e64c1x8"), None);
        assert_eq!(range(&alloc::string::String::from(whole).repeat(2)), None);
    }
}
