//! What must hold of every state, and between a state and the next. Each function has one name, used alike in prose,
//! model properties and tests.

use alloc::vec::Vec;

use super::{
    State,
    catalog::Bearer,
    kv::Kv,
    restore,
    snapshot::{Loader, Saver},
    table::{Row, Table},
    text::canonical,
};
use crate::raft::Index;

/// No index is above that of the last entry. Cheap: a server checks it as it goes.
pub fn floors_below_index(state: &State) -> bool {
    let highest = state.restore_floor.max(state.kv.index).max(state.kv.reap_floor);
    let highest = highest.max(state.catalog.indexes.highest());
    state.kv.reap_floor <= state.kv.index.max(state.restore_floor) && highest <= state.index()
}

/// Each entry's `CreateIndex` is at most its `ModifyIndex`, and that at most the store's.
pub fn create_index_below_modify_index(state: &State) -> bool {
    state.kv.entries.iter().all(|(key, entry)| {
        *key == entry.key
            && !key.is_empty()
            && entry.create_index <= entry.modify_index
            && entry.modify_index <= state.kv.index
    })
}

/// Tombstones are what follows from the graves: for each key the newest grave that holds it.
pub fn tombstones_follow_from_graves(state: &State) -> bool {
    let mut expected = Kv::default();
    for (index, grave) in state.kv.graves.iter() {
        if *index <= state.kv.reap_floor || *index > state.kv.index {
            return false;
        }
        expected.bury(*index, grave.time, grave.keys.clone());
    }
    expected.tombstones == state.kv.tombstones
}

/// The digest that is kept is that of the rows as they are.
pub fn digest_is_of_contents(state: &State) -> bool {
    fn refilled<K: Ord + Clone, V: Row<K> + Clone>(table: &Table<K, V>) -> bool {
        let mut fresh = Table::default();
        for (key, row) in table.iter() {
            fresh.insert(key.clone(), row.clone());
        }
        fresh.digest() == table.digest()
    }
    let catalog = &state.catalog;
    refilled(&state.kv.entries)
        && refilled(&state.kv.tombstones)
        && refilled(&state.kv.graves)
        && refilled(&catalog.nodes)
        && refilled(&catalog.ids)
        && refilled(&catalog.checks)
        && refilled(&catalog.coordinates)
}

/// Every row of the catalog lies under the canonical form of its own name, and its node is there; no two nodes have one
/// id, and who has an id is what follows from the nodes.
pub fn catalog_is_whole(state: &State) -> bool {
    let catalog = &state.catalog;
    let mut expected = Table::default();
    for (key, node) in catalog.nodes.iter() {
        if *key != canonical(&node.name) || key.is_empty() {
            return false;
        }
        if let Some(id) = node.id {
            expected.insert(id, Bearer(key.clone()));
        }
    }
    let identified = catalog.nodes.iter().filter(|(_, node)| node.id.is_some()).count();
    let checks = catalog.checks.iter().all(|(key, check)| {
        key.id == canonical(&check.body.id)
            && !key.id.is_empty()
            && catalog.nodes.get(&key.node).is_some()
    });
    let coordinates =
        catalog.coordinates.iter().all(|(key, _)| catalog.nodes.get(&key.node).is_some());
    expected == catalog.ids && identified == catalog.ids.len() && checks && coordinates
}

/// No row of the catalog is newer than its table, and no check newer than what its node says of its checks.
pub fn catalog_rows_below_indexes(state: &State) -> bool {
    let catalog = &state.catalog;
    let nodes = catalog.nodes.iter().all(|(_, node)| {
        node.create_index <= node.modify_index
            && node.modify_index <= catalog.indexes.nodes
            && node.checks_index <= catalog.indexes.checks
    });
    let checks = catalog.checks.iter().all(|(key, check)| {
        let of_node = catalog.nodes.get(&key.node).map_or(0, |node| node.checks_index);
        check.create_index <= check.modify_index && check.modify_index <= of_node
    });
    nodes && checks
}

/// A state that is saved and loaded is the same state.
pub fn load_of_save_is_same(state: &State) -> bool {
    let mut loader = Loader::new();
    let loaded = Saver::new(state.clone()).try_for_each(|chunk| loader.push(&chunk));
    loaded.is_ok() && loader.finish().as_ref() == Ok(state)
}

/// `restore(save(S)) = S`: an archive of a state, restored into any other, gives its entries, under indexes that
/// neither has served.
pub fn restore_of_save_is_same(saved: &State, into: &State) -> bool {
    let stream: Vec<u8> = Saver::archive(saved.clone()).flatten().collect();
    let mut state = into.clone();
    for command in restore::commands(u128::MAX, &stream) {
        let (Index(applied), time) = state.applied();
        state.apply(Index(applied + 1), time, &command, &mut Vec::new());
    }
    let (catalog, kept) = (&state.catalog, &saved.catalog);
    state.kv.entries == saved.kv.entries
        && catalog.nodes == kept.nodes
        && catalog.ids == kept.ids
        && catalog.checks == kept.checks
        && catalog.coordinates == kept.coordinates
        && state.autopilot == saved.autopilot
        && state.nodes().0 == state.epoch()
        && state.epoch() > saved.index()
        && state.epoch() > into.index()
        && state.kv_list(b"").0 == state.epoch()
}
