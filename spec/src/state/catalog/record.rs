//! The catalog and autopilot's configuration as records of a snapshot (prose/catalog.md).
//!
//! Indexes, then nodes, checks and coordinates in order of their keys, then the configuration. Who has an id isn't
//! written: it follows from the nodes. A state that never had any of it writes nothing.

use alloc::vec::Vec;
use core::ops::Bound;

use bincode::{Decode, Encode};

use super::{Catalog, Check, CheckKey, Coordinate, CoordinateKey, Indexes, Node};
use crate::{
    codec,
    state::{AutopilotConfig, Key, State, snapshot::LoadError, text::canonical},
};

/// One record. Append-only: its encoding is in every snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(in crate::state) enum CatalogRecord {
    /// The index of each table.
    Indexes(Indexes),
    /// A node.
    Node(Node),
    /// A check, and the canonical name of its node.
    Check { node: Key, check: Check },
    /// A coordinate, and where it stands.
    Coordinate { key: CoordinateKey, coordinate: Coordinate },
    /// Autopilot's configuration.
    Autopilot(AutopilotConfig),
}

/// What a writer comes to next.
#[derive(Clone, Debug)]
pub(in crate::state) enum At {
    Indexes,
    Nodes(Bound<Key>),
    Checks(Option<CheckKey>),
    Coordinates(Option<CoordinateKey>),
    Autopilot,
    Done,
}

/// Appends records from `at` on until `out` has `limit` bytes or all are written; gives where to go on.
pub(in crate::state) fn fill(
    state: &State,
    at: &At,
    limit: usize,
    out: &mut Vec<u8>,
    frame: fn(CatalogRecord, &mut Vec<u8>),
) -> At {
    let catalog = &state.catalog;
    match at {
        At::Indexes => {
            if catalog.indexes != Indexes::default() {
                frame(CatalogRecord::Indexes(catalog.indexes), out);
            }
            At::Nodes(Bound::Unbounded)
        }
        At::Nodes(start) => {
            for (key, node) in catalog.nodes.from(start.as_ref()) {
                frame(CatalogRecord::Node(node.clone()), out);
                if out.len() >= limit {
                    return At::Nodes(Bound::Excluded(key.clone()));
                }
            }
            At::Checks(None)
        }
        At::Checks(last) => {
            let start = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            for (key, check) in catalog.checks.from(start) {
                frame(CatalogRecord::Check { node: key.node.clone(), check: check.clone() }, out);
                if out.len() >= limit {
                    return At::Checks(Some(key.clone()));
                }
            }
            At::Coordinates(None)
        }
        At::Coordinates(last) => {
            let start = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            for (key, coordinate) in catalog.coordinates.from(start) {
                let record =
                    CatalogRecord::Coordinate { key: key.clone(), coordinate: *coordinate };
                frame(record, out);
                if out.len() >= limit {
                    return At::Coordinates(Some(key.clone()));
                }
            }
            At::Autopilot
        }
        At::Autopilot => {
            if let Some(config) = &state.autopilot {
                frame(CatalogRecord::Autopilot(config.clone()), out);
            }
            At::Done
        }
        At::Done => At::Done,
    }
}

/// How far a reader has come: records of an earlier stage are out of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::state) enum Stage {
    Nodes,
    Checks,
    Coordinates,
    Autopilot,
}

/// Puts a record into the state that is being read, by the insert that is always used; gives the stage that it is of.
pub(in crate::state) fn load(
    state: &mut State,
    stage: Option<Stage>,
    record: CatalogRecord,
) -> Result<Stage, LoadError> {
    let next = match &record {
        CatalogRecord::Indexes(_) | CatalogRecord::Node(_) => Stage::Nodes,
        CatalogRecord::Check { .. } => Stage::Checks,
        CatalogRecord::Coordinate { .. } => Stage::Coordinates,
        CatalogRecord::Autopilot(_) => Stage::Autopilot,
    };
    if stage > Some(next) {
        return Err(LoadError::Order);
    }
    let index = state.index();
    let catalog = &mut state.catalog;
    match record {
        CatalogRecord::Indexes(indexes) => {
            if stage.is_some() {
                return Err(LoadError::Order);
            }
            if indexes == Indexes::default() || indexes.highest() > index {
                return Err(LoadError::Index);
            }
            catalog.indexes = indexes;
        }
        CatalogRecord::Node(node) => load_node(catalog, node)?,
        CatalogRecord::Check { node, check } => load_check(catalog, node, check)?,
        CatalogRecord::Coordinate { key, coordinate } => {
            if catalog.nodes.get(&key.node).is_none() || !coordinate.is_valid() {
                return Err(LoadError::Entry);
            }
            if catalog.indexes.coordinates == 0 {
                return Err(LoadError::Index);
            }
            in_order(catalog.coordinates.last(), &key)?;
            catalog.coordinates.insert(key, coordinate);
        }
        CatalogRecord::Autopilot(config) => {
            if stage == Some(Stage::Autopilot) {
                return Err(LoadError::Order);
            }
            if config.create_index > config.modify_index || config.modify_index > index {
                return Err(LoadError::Index);
            }
            state.autopilot = Some(config);
        }
    }
    Ok(next)
}

fn load_node(catalog: &mut Catalog, node: Node) -> Result<(), LoadError> {
    let key = canonical(&node.name);
    if node.name.is_empty()
        || node.create_index > node.modify_index
        || node.id.is_some_and(|id| catalog.ids.get(&id).is_some())
        || codec::encode(&node).len() > super::MAX_ROW_BYTES
    {
        return Err(LoadError::Entry);
    }
    if node.modify_index > catalog.indexes.nodes || node.checks_index > catalog.indexes.checks {
        return Err(LoadError::Index);
    }
    in_order(catalog.nodes.last(), &key)?;
    catalog.insert_node(key, node);
    Ok(())
}

fn load_check(catalog: &mut Catalog, node: Key, check: Check) -> Result<(), LoadError> {
    let Some(owner) = catalog.nodes.get(&node) else { return Err(LoadError::Entry) };
    if check.body.id.is_empty()
        || check.create_index > check.modify_index
        || codec::encode(&check).len() > super::MAX_ROW_BYTES
    {
        return Err(LoadError::Entry);
    }
    if check.modify_index > owner.checks_index {
        return Err(LoadError::Index);
    }
    let key = CheckKey { node, id: canonical(&check.body.id) };
    in_order(catalog.checks.last(), &key)?;
    catalog.checks.insert(key, check);
    Ok(())
}

fn in_order<K: Ord, V>(last: Option<(&K, &V)>, next: &K) -> Result<(), LoadError> {
    match last {
        Some((last, _)) if last >= next => Err(LoadError::Order),
        Some(_) | None => Ok(()),
    }
}
