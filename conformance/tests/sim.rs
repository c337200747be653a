//! The simulator's seeds that every test run takes, and what shows that the simulator itself can be trusted: the same
//! seed gives the same log, and what is broken on purpose is found.

use conformance::sim::{self, Broken, Plan, Tally};

#[test]
fn the_same_seed_gives_the_same_log_byte_for_byte() {
    for seed in [1, 7, 23] {
        let first = sim::run(&Plan::draw(seed), true);
        let second = sim::run(&Plan::draw(seed), true);
        assert!(first.log.len() > 100_000, "seed {seed}: {} bytes", first.log.len());
        assert!(first.log == second.log, "seed {seed} gave two logs");
        assert_eq!(first.fingerprint, second.fingerprint);
    }
}

#[test]
fn no_seed_of_a_few_violates_a_property_and_all_kinds_of_things_happen() {
    let mut total = Tally::default();
    for seed in 0..40 {
        let report = sim::run(&Plan::draw(seed), false);
        if let Some(violation) = report.violation {
            panic!("seed {seed}: {violation}\ncargo xtask sim --seed {seed} --count 1 --log");
        }
        total.add(&report.tally);
    }
    let Tally { elections, committed, reads, lost_writes, installs, changes, wipes, .. } = total;
    for (what, n) in [
        ("elections", elections),
        ("committed entries", committed),
        ("reads", reads),
        ("lost writes", lost_writes),
        ("installed snapshots", installs),
        ("changes of membership", changes),
        ("wiped disks", wipes),
    ] {
        assert!(n > 0, "no {what} in 40 seeds: {total}");
    }
}

/// Whether one of these properties falls in the first hundred seeds where something is broken.
fn falls(broken: Broken, properties: &[&str]) -> bool {
    (0..100).any(|seed| {
        let plan = Plan { broken: Some(broken), ..Plan::draw(seed) };
        let violation = sim::run(&plan, false).violation;
        violation.is_some_and(|violation| properties.contains(&violation.property))
    })
}

#[test]
fn a_gate_that_lets_everything_through_is_found() {
    assert!(falls(Broken::Gate, &["said_is_durable"]));
}

#[test]
fn a_disk_that_lies_is_found() {
    assert!(falls(Broken::Disk, &["leader_completeness", "state_machine_safety"]));
}

#[test]
fn a_host_that_forgets_to_restore_a_snapshot_is_found() {
    assert!(falls(Broken::Restore, &["applied_in_order"]));
}
