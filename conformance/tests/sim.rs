//! The simulator's seeds that every test run takes, and what shows that the simulator itself can be trusted: the same
//! seed gives the same log, and what is broken on purpose is found.

use std::time::Duration;

use conformance::sim::{self, Broken, Plan, Report, Tally, Violation, pool, turns};

/// Whether two runs of each seed give one log.
fn gives_the_same_log<T>(run: impl Fn(u64) -> Report<T>) {
    for seed in [1, 7, 23] {
        let (first, second) = (run(seed), run(seed));
        assert!(first.log.len() > 10_000, "seed {seed}: {} bytes", first.log.len());
        assert!(first.log == second.log, "seed {seed} gave two logs");
        assert_eq!(first.fingerprint, second.fingerprint);
    }
}

#[test]
fn the_same_seed_of_raft_gives_the_same_log_byte_for_byte() {
    gives_the_same_log(|seed| sim::run(&Plan::draw(seed), true));
}

#[test]
fn the_same_seed_of_whole_servers_gives_the_same_log_byte_for_byte() {
    gives_the_same_log(|seed| turns::run(&Plan::draw(seed), true));
}

#[test]
fn the_same_seed_of_a_pool_gives_the_same_log_byte_for_byte() {
    gives_the_same_log(|seed| pool::run(&pool::Plan::draw(seed), true));
}

/// What some seeds did together; none violates anything.
fn total<T: Default>(
    kind: &str,
    seeds: u64,
    run: impl Fn(u64) -> Report<T>,
    add: impl Fn(&mut T, &T),
) -> T {
    let mut total = T::default();
    for seed in 0..seeds {
        let report = run(seed);
        if let Some(violation) = report.violation {
            panic!(
                "seed {seed}: {violation}\ncargo xtask sim --kind {kind} --seed {seed} --count 1 --log"
            );
        }
        add(&mut total, &report.tally);
    }
    total
}

fn all_happened(counts: &[(&str, u64)]) {
    for (what, n) in counts {
        assert!(*n > 0, "no {what}: {counts:?}");
    }
}

#[test]
fn no_seed_of_a_few_of_raft_violates_a_property_and_all_kinds_of_things_happen() {
    let total = total("raft", 40, |seed| sim::run(&Plan::draw(seed), false), Tally::add);
    all_happened(&[
        ("elections", total.elections),
        ("committed entries", total.committed),
        ("reads", total.reads),
        ("lost writes", total.lost_writes),
        ("installed snapshots", total.installs),
        ("changes of membership", total.changes),
        ("wiped disks", total.wipes),
    ]);
}

#[test]
fn no_seed_of_a_few_of_whole_servers_violates_a_property_and_all_kinds_of_things_happen() {
    let total = total("turns", 40, |seed| turns::run(&Plan::draw(seed), false), Tally::add);
    all_happened(&[
        ("elections", total.elections),
        ("acknowledged writes", total.acknowledged),
        ("reads", total.reads),
        ("lost writes", total.lost_writes),
        ("installed snapshots", total.installs),
        ("cuts", total.cuts),
    ]);
}

#[test]
fn no_seed_of_a_few_of_pools_violates_a_property_and_all_kinds_of_things_happen() {
    let run = |seed| pool::run(&pool::Plan::draw(seed), false);
    let total = total("pool", 40, run, pool::Tally::add);
    all_happened(&[
        ("lost writes", total.lost_writes),
        ("wiped disks", total.wipes),
        ("moves", total.moves),
        ("pauses", total.pauses),
        ("cuts", total.cuts),
        ("lost messages", total.lost_messages),
        ("leaves", total.leaves),
        ("events", total.events),
        ("refutations", total.refutations),
        ("false failures", total.false_failures),
    ]);
}

/// Whether one of these properties falls in the first hundred seeds where something is broken.
fn falls(properties: &[&str], run: impl Fn(u64) -> Option<Violation>) -> bool {
    (0..100).any(|seed| run(seed).is_some_and(|violation| properties.contains(&violation.property)))
}

fn of_raft(broken: Broken) -> impl Fn(u64) -> Option<Violation> {
    move |seed| sim::run(&Plan { broken: Some(broken), ..Plan::draw(seed) }, false).violation
}

fn of_turns(broken: Broken) -> impl Fn(u64) -> Option<Violation> {
    move |seed| turns::run(&Plan { broken: Some(broken), ..Plan::draw(seed) }, false).violation
}

fn of_pools(broken: pool::Broken) -> impl Fn(u64) -> Option<Violation> {
    move |seed| {
        let plan = pool::Plan { broken: Some(broken), ..pool::Plan::draw(seed) };
        pool::run(&plan, false).violation
    }
}

#[test]
fn a_gate_that_lets_everything_through_is_found() {
    assert!(falls(&["said_is_durable"], of_raft(Broken::Gate)));
    assert!(falls(&["said_is_durable"], of_turns(Broken::Gate)));
}

#[test]
fn a_disk_that_lies_is_found() {
    let properties = ["leader_completeness", "state_machine_safety"];
    assert!(falls(&properties, of_raft(Broken::Disk)));
    assert!(falls(&properties, of_turns(Broken::Disk)));
    let properties = ["one_content_each", "delivered_at_most_once"];
    assert!(falls(&properties, of_pools(pool::Broken::Disk)));
}

#[test]
fn a_host_that_forgets_to_restore_a_snapshot_is_found() {
    assert!(falls(&["applied_in_order"], of_raft(Broken::Restore)));
    assert!(falls(&["applied_in_order"], of_turns(Broken::Restore)));
}

#[test]
fn a_member_that_refutes_nothing_is_found() {
    assert!(falls(&["heals"], of_pools(pool::Broken::Refutation)));
}

#[test]
fn a_member_that_raises_others_incarnations_is_found() {
    assert!(falls(&["only_the_owner_raises"], of_pools(pool::Broken::Incarnation)));
}

#[test]
fn a_pool_of_a_hundred_converges_and_detects_a_crash_and_is_never_wrong_on_a_good_network() {
    let plan = pool::figures::Plan {
        quiet: Duration::from_mins(1),
        crashes: 1,
        ..pool::figures::Plan::new(100, 0)
    };
    let report = pool::figures::run(&plan);
    assert_eq!(report.violation, None);
    let figures = report.tally;
    assert_eq!((figures.falsely_failed, figures.suspicions), (0, 0), "{figures}");
    // A round of probes, then a suspicion at its longest: 48 s among a hundred members.
    assert!(figures.detection.percentile(100) < Duration::from_mins(2), "{figures}");
    assert!(figures.convergence < Duration::from_mins(2), "{figures}");
    assert_eq!(report.fingerprint, pool::figures::run(&plan).fingerprint);
}
