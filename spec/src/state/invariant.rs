//! What must hold of every state, and between a state and the next. Each function has one name, used alike in prose,
//! model properties and tests.

use alloc::vec::Vec;

use super::{
    State,
    kv::Kv,
    restore,
    snapshot::{Loader, Saver},
    table::{Row, Table},
};
use crate::raft::Index;

/// No index is above that of the last entry. Cheap: a server checks it as it goes.
pub fn floors_below_index(state: &State) -> bool {
    let highest = state.restore_floor.max(state.kv.index).max(state.kv.reap_floor);
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
    refilled(&state.kv.entries) && refilled(&state.kv.tombstones) && refilled(&state.kv.graves)
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
    state.kv.entries == saved.kv.entries
        && state.epoch() > saved.index()
        && state.epoch() > into.index()
        && state.kv_list(b"").0 == state.epoch()
}
