//! What must hold for every durable state, however it was reached. Named functions: the model takes them as properties,
//! recovery refuses what breaks them.

use crate::raft::{Durable, Index};

/// The entries are consecutive behind the base.
pub fn consecutive(durable: &Durable) -> bool {
    let mut expected = durable.base.index;
    durable.entries.iter().all(|entry| {
        expected = expected.next();
        entry.index == expected
    })
}

/// Terms never go down along the log, and none is above the current one.
pub fn terms_in_order(durable: &Durable) -> bool {
    let mut least = durable.base.term;
    durable.entries.iter().all(|entry| {
        let in_order = least <= entry.term;
        least = entry.term;
        in_order
    }) && least <= durable.hard_state.term
}

/// What the log dropped is in the snapshot.
pub fn base_in_snapshot(durable: &Durable) -> bool {
    match &durable.snapshot {
        None => durable.base.index == Index(0),
        Some(meta) => durable.base.index <= meta.id.index && meta.id.index <= durable.last_index(),
    }
}

/// An invariant of durable states.
pub type Invariant = fn(&Durable) -> bool;

/// The invariants, by name.
pub const ALL: [(&str, Invariant); 3] = [
    ("consecutive", consecutive),
    ("terms_in_order", terms_in_order),
    ("base_in_snapshot", base_in_snapshot),
];

/// The name of the first invariant that `durable` breaks.
pub fn broken(durable: &Durable) -> Option<&'static str> {
    ALL.into_iter().find(|(_, holds)| !holds(durable)).map(|(name, _)| name)
}
