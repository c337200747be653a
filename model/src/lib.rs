//! Stateright models over the machines of `spec`: scopes, properties, mutants.
//!
//! Nothing here restates a machine. A model steps the machine that the agent runs, and adds what surrounds it: the
//! network, the disk, the faults, the budgets, and ghosts that remember what properties speak of.
//!
//! # To register a scope
//!
//! 1. Write a `stateright::Model` whose state derives `Hash` and whose `actions` lists enabled actions only, and
//!    implement [`Checked`] for it: the kinds of action (their runs are counted), the canonical state where the
//!    model is symmetric, and the Mermaid diagram of a path where a plain list of its actions won't do.
//! 2. `properties()` has an `always` for each invariant, under the name that prose, code and tests use, and a
//!    `sometimes` for each thing without which the scope would be vacuous. Don't use `eventually`: it misses cycles
//!    and joins. Bound a scope by budgets in the state, never by depth, count or time.
//! 3. In the module, `pub fn scopes() -> Vec<Scope>` makes one [`Scope::new`] for each set of bounds; add a line to
//!    [`scopes`] below.
//! 4. `cargo run --release -p model -- check NAME --bless` writes its exact number of states to `expected.toml`.
//!    Look at the counts of actions: one that never ran was not checked.
//!
//! # To register a mutant
//!
//! Add a `[[mutant]]` to `mutants.toml`: `number`, `name`, `clause`, `file`, `line` (whole, but for the white space
//! around it; it stands once in the file), `becomes`, `property`, `scope`, `tier`, `besides` for further properties that
//! catch it in that scope, and `search = "depth"` where the search by levels doesn't get there. `cargo run --release -p model -- mutants NAME` must say that it was caught.
//! A mutant that survives shows that the scope or the property is too weak.

pub mod agreement;
pub mod autopilot;
pub mod blocking;
pub mod client;
pub mod coordinates;
pub mod disk;
pub mod expected;
pub mod flood;
pub mod formation;
pub mod kv;
pub mod leave;
pub mod mutants;
mod properties;
pub mod raft;
pub mod reconcile;
mod scope;
mod search;
pub mod serf;
pub mod swim;
pub mod table;
mod watched;

pub use scope::{
    Canonical, Checked, Counterexample, Hunted, Progress, Replayed, Report, Scope, Standing, Steps,
    Tier,
};
pub use search::{Hunt, hash_of};

/// Every scope that there is.
pub fn scopes() -> Vec<Scope> {
    families().into_iter().flat_map(|(_, scopes)| scopes).collect()
}

/// The scopes by the module that makes them. Mutants are built with one of these modules only: one line each.
pub fn families() -> Vec<(&'static str, Vec<Scope>)> {
    vec![
        ("raft", raft::scopes()),
        ("formation", formation::scopes()),
        ("disk", disk::scopes()),
        ("kv", kv::scopes()),
        ("agreement", agreement::scopes()),
        ("blocking", blocking::scopes()),
        ("serf", serf::scopes()),
        ("swim", swim::scopes()),
        ("reconcile", reconcile::scopes()),
        ("autopilot", autopilot::scopes()),
        ("leave", leave::scopes()),
        ("flood", flood::scopes()),
        ("coordinates", coordinates::scopes()),
        ("client", client::scopes()),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn the_smallest_scopes_hold_with_the_expected_numbers_of_states() {
        let expected = super::expected::read().unwrap();
        let small: Vec<_> = super::scopes()
            .into_iter()
            .filter(|scope| expected.get(scope.name).is_some_and(|states| *states < 3_000))
            .collect();
        assert!(!small.is_empty());
        for scope in small {
            let report = scope.check(2, &mut |_, _| ());
            assert!(report.is_clean(), "{}: {:#?}", scope.name, report.properties);
            assert_eq!(Some(&report.states), expected.get(scope.name), "{}", scope.name);
        }
    }

    #[test]
    fn every_scope_bears_a_name_of_its_own_and_has_an_expected_count() {
        let scopes = super::scopes();
        let names: BTreeSet<_> = scopes.iter().map(|scope| scope.name).collect();
        assert_eq!(names.len(), scopes.len(), "two scopes bear one name");
        let expected = super::expected::read().unwrap();
        for name in &names {
            assert!(expected.contains_key(*name), "{name} has no expected count");
        }
        for name in expected.keys() {
            assert!(names.contains(name.as_str()), "{name} is expected but is no scope");
        }
    }
}
