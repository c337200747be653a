//! The catalog: what Consul's rules say, one by one, and properties over random histories.

use std::fmt::Write as _;

use proptest::{collection::vec, prelude::*};
use spec::{
    codec::{self, RECORD_LIMIT},
    raft::{Index, NodeId},
    state::{
        AutopilotCommand, AutopilotSettings, Command, Outcome, State, TableId, Touched,
        catalog::{
            CatalogCommand, CheckBody, CheckStatus, Coordinate, CoordinateUpdate, Deregistration,
            Node, NodeBody, Part, Registration, SERF_HEALTH, check_topic, node_topic,
        },
        invariant, restore,
        snapshot::{Loader, Saver},
        text::{Pairs, canonical},
    },
    time::ClusterTime,
};

/// A state that commands are applied to, one entry each.
struct Log {
    state: State,
    touched: Vec<Touched>,
}

impl Log {
    fn new() -> Self {
        // The first entry of a log is a configuration.
        let mut state = State::default();
        state.advance(Index(1), ClusterTime(0));
        Self { state, touched: Vec::new() }
    }

    fn apply(&mut self, command: CatalogCommand) -> Outcome {
        self.put(&Command::Catalog(command))
    }

    fn put(&mut self, command: &Command) -> Outcome {
        let (Index(index), time) = self.state.applied();
        self.touched.clear();
        self.state.apply(Index(index + 1), time, command, &mut self.touched)
    }

    fn register(&mut self, node: NodeBody, checks: Vec<CheckBody>) -> Outcome {
        let parts = checks.into_iter().map(Part::Check).collect();
        self.apply(CatalogCommand::Register(Registration { node, skip_node_update: false, parts }))
    }

    fn deregister(&mut self, name: &str) -> Outcome {
        let what = Deregistration::Node { name: name.into(), only: None };
        self.apply(CatalogCommand::Deregister(what))
    }

    fn index(&self) -> u64 {
        self.state.index()
    }
}

fn node(name: &str, address: &str) -> NodeBody {
    NodeBody {
        name: name.into(),
        address: address.into(),
        datacenter: "dc1".into(),
        ..NodeBody::default()
    }
}

fn with_id(id: u128, node: NodeBody) -> NodeBody {
    NodeBody { id: Some(NodeId(id)), ..node }
}

fn check(id: &str, status: CheckStatus) -> CheckBody {
    CheckBody { id: id.into(), name: id.into(), status, ..CheckBody::default() }
}

fn alive() -> CheckBody {
    check(SERF_HEALTH, CheckStatus::Passing)
}

fn failed() -> CheckBody {
    check(SERF_HEALTH, CheckStatus::Critical)
}

const DONE: Outcome = Outcome::Applied(true);

fn refused(reason: &str) -> Outcome {
    Outcome::Refused(reason.into())
}

#[test]
fn a_registration_makes_a_node_and_its_checks_at_one_index() {
    let mut log = Log::new();
    assert_eq!(log.register(node("a", "1.1.1.1"), vec![alive()]), DONE);
    let index = log.index();
    let (nodes, found) = log.state.node("a");
    let found = found.unwrap();
    assert_eq!((nodes, found.create_index, found.modify_index), (index, index, index));
    let key = canonical("a");
    let (checks, mut of_node) = log.state.node_checks(&key);
    let check = of_node.next().unwrap();
    assert_eq!((checks, check.create_index, check.modify_index), (index, index, index));
    assert!(of_node.next().is_none());
    let topics = [
        Touched::Key(TableId::Nodes, key.clone()),
        Touched::Key(TableId::Checks, check_topic(&key, &canonical(SERF_HEALTH))),
    ];
    assert_eq!(log.touched, topics);
}

#[test]
fn what_is_registered_already_moves_no_index_and_wakes_nobody() {
    let mut log = Log::new();
    log.register(node("a", "1.1.1.1"), vec![alive()]);
    let before = log.state.catalog().clone();
    assert_eq!(log.register(node("a", "1.1.1.1"), vec![alive()]), DONE);
    assert_eq!(*log.state.catalog(), before);
    assert!(log.touched.is_empty());
    // A change of a check leaves the node's index where it is, and the other way round.
    log.register(node("a", "1.1.1.1"), vec![failed()]);
    assert_eq!(log.state.nodes().0, 2);
    assert_eq!(log.state.checks().0, 4);
    log.register(node("a", "2.2.2.2"), vec![]);
    assert_eq!(log.state.nodes().0, 5);
    assert_eq!(log.state.checks().0, 4);
    assert_eq!(log.state.node("a").1.unwrap().create_index, 2);
}

#[test]
fn what_makes_no_sense_is_refused_in_consuls_words_and_changes_nothing() {
    let mut log = Log::new();
    log.register(with_id(1, node("a", "1.1.1.1")), vec![alive()]);
    let before = log.state.catalog().clone();
    let of_service = CheckBody { service_id: "nosvc".into(), ..alive() };
    let id = "00000000-0000-0000-0000-000000000002";
    let reserved = "Node name A is reserved by node 00000000-0000-0000-0000-000000000001 with name a (1.1.1.1)";
    for (node, checks, reason) in [
        (node("", ""), vec![], "Must provide node".to_owned()),
        (node("x", ""), vec![], "Must provide address if SkipNodeUpdate is not set".to_owned()),
        (
            node("x", "1.1.1.1"),
            vec![alive(), of_service],
            "failed inserting check: Missing service registration on node \"x\"".to_owned(),
        ),
        (
            with_id(2, node("A", "2.2.2.2")),
            vec![],
            format!("failed inserting node: Error while renaming Node ID: \"{id}\": {reserved}"),
        ),
    ] {
        assert_eq!(log.register(node, checks), refused(&reason));
        assert_eq!(*log.state.catalog(), before, "{reason}");
        assert!(log.touched.is_empty(), "{reason}");
    }
    let nameless = Deregistration::Node { name: "".into(), only: None };
    assert_eq!(log.apply(CatalogCommand::Deregister(nameless)), refused("Must provide node"));
}

#[test]
fn an_update_may_leave_a_node_as_it_is_but_makes_one_that_is_not_there() {
    let mut log = Log::new();
    let skipping = |name: &str| {
        let parts = vec![Part::Check(failed())];
        CatalogCommand::Register(Registration {
            node: node(name, "9.9.9.9"),
            skip_node_update: true,
            parts,
        })
    };
    log.register(node("a", "1.1.1.1"), vec![alive()]);
    assert_eq!(log.apply(skipping("a")), DONE);
    assert_eq!(&*log.state.node("a").1.unwrap().address, "1.1.1.1");
    let serf = log.state.catalog().check("a", SERF_HEALTH).unwrap();
    assert_eq!(serf.body.status, CheckStatus::Critical);
    assert_eq!(log.apply(skipping("b")), DONE);
    assert_eq!(&*log.state.node("b").1.unwrap().address, "9.9.9.9");
}

#[test]
fn a_name_in_other_letters_is_the_same_name_and_checks_go_with_their_node() {
    let mut log = Log::new();
    log.register(node("CaseN", "10.4.0.1"), vec![check("C", CheckStatus::Passing)]);
    log.register(node("casen", "10.4.0.2"), vec![]);
    let index = log.index();
    assert_eq!(log.state.nodes().1.count(), 1);
    let (_, found) = log.state.node("CASEN");
    assert_eq!(&*found.unwrap().name, "casen");
    // Its checks are told under its name, so what is told of them has changed.
    let key = canonical("CaseN");
    assert_eq!(log.state.node_checks(&key).0, index);
    assert!(log.touched.contains(&Touched::Prefix(TableId::Checks, node_topic(&key))));
    assert!(log.state.catalog().check("CASEN", "c").is_some());
    assert_eq!(log.deregister("cAsEn"), DONE);
    assert_eq!(log.state.checks().1.count(), 0);
    assert!(invariant::catalog_is_whole(&log.state));
}

#[test]
fn an_id_under_another_name_is_that_node_renamed() {
    let mut log = Log::new();
    log.register(with_id(1, node("old", "1.1.1.1")), vec![alive()]);
    assert_eq!(log.register(with_id(1, node("new", "1.1.1.1")), vec![]), DONE);
    assert!(log.state.node("old").1.is_none());
    let renamed = log.state.node("new").1.unwrap();
    assert_eq!((renamed.create_index, renamed.modify_index), (2, 3));
    assert_eq!(log.state.checks().1.count(), 0);
    // Not onto the name of a node that lives.
    log.register(with_id(2, node("two", "2.2.2.2")), vec![alive()]);
    let outcome = log.register(with_id(1, node("two", "1.1.1.1")), vec![]);
    assert_eq!(
        outcome,
        refused(
            "failed inserting node: Error while renaming Node ID: \
             \"00000000-0000-0000-0000-000000000001\" (1.1.1.1): Node name two is reserved by node \
             00000000-0000-0000-0000-000000000002 with name two (2.2.2.2)"
        )
    );
}

#[test]
fn another_node_takes_the_name_of_one_that_is_dead_or_that_gossip_does_not_know() {
    for standing in [vec![failed()], vec![]] {
        let mut log = Log::new();
        log.register(with_id(1, node("a", "1.1.1.1")), standing);
        assert_eq!(log.register(with_id(2, node("a", "2.2.2.2")), vec![alive()]), DONE);
        assert_eq!(log.state.node("a").1.unwrap().id, Some(NodeId(2)));
        assert!(log.state.catalog().node_by_id(NodeId(1)).is_none());
        assert!(invariant::catalog_is_whole(&log.state));
    }
    // One that lives and has no id gets it.
    let mut log = Log::new();
    log.register(node("a", "1.1.1.1"), vec![alive()]);
    assert_eq!(log.register(with_id(2, node("a", "1.1.1.1")), vec![]), DONE);
}

#[test]
fn a_deregistration_that_names_an_id_spares_another_node_of_that_name() {
    let mut log = Log::new();
    log.register(with_id(2, node("a", "1.1.1.1")), vec![alive()]);
    let only = |id| {
        CatalogCommand::Deregister(Deregistration::Node {
            name: "a".into(),
            only: Some(NodeId(id)),
        })
    };
    assert_eq!(log.apply(only(1)), DONE);
    assert!(log.state.node("a").1.is_some());
    assert!(log.touched.is_empty());
    assert_eq!(log.apply(only(2)), DONE);
    assert!(log.state.node("a").1.is_none());
}

#[test]
fn what_is_not_there_is_as_good_as_deregistered() {
    let mut log = Log::new();
    log.register(node("a", "1.1.1.1"), vec![]);
    let before = log.state.catalog().clone();
    assert_eq!(log.deregister("ghost"), DONE);
    for (node, id) in [("a", "none"), ("ghost", "none")] {
        let what = Deregistration::Check { node: node.into(), id: id.into() };
        assert_eq!(log.apply(CatalogCommand::Deregister(what)), DONE);
    }
    assert_eq!(*log.state.catalog(), before);
}

#[test]
fn a_node_is_found_by_the_start_of_its_id() {
    let mut log = Log::new();
    log.register(with_id(0xd5a6_76a8_u128 << 96, node("c1", "1.1.1.1")), vec![]);
    log.register(with_id(0xd5b6_76a8_u128 << 96, node("c2", "1.1.1.2")), vec![]);
    let find = |log: &Log, start: &str| log.state.node(start).1.map(|node| node.name.to_string());
    assert_eq!(find(&log, "d5a").as_deref(), None, "an odd letter isn't counted");
    assert_eq!(find(&log, "d5a6").as_deref(), Some("c1"));
    assert_eq!(find(&log, "D5B676A8-00").as_deref(), Some("c2"));
    assert_eq!(find(&log, "d").as_deref(), None);
    log.register(node("d5a6", "3.3.3.3"), vec![]);
    assert_eq!(find(&log, "d5a6").as_deref(), Some("d5a6"), "a name goes first");
}

fn coordinate(of: f64) -> Coordinate {
    let bits = of.to_bits();
    Coordinate { vector: [bits; 8], error: bits, adjustment: bits, height: bits }
}

fn place(node: &str, at: f64) -> CoordinateUpdate {
    CoordinateUpdate { node: node.into(), segment: "".into(), coordinate: coordinate(at) }
}

#[test]
fn coordinates_of_nodes_that_are_not_there_are_dropped_and_go_with_their_node() {
    let mut log = Log::new();
    log.register(node("a", "1.1.1.1"), vec![]);
    let update = CatalogCommand::UpdateCoordinates(vec![place("A", 0.5), place("ghost", 0.5)]);
    assert_eq!(log.apply(update.clone()), DONE);
    let (index, rows) = log.state.coordinates();
    assert_eq!((index, rows.count()), (3, 1));
    assert_eq!(log.apply(update), DONE);
    assert_eq!(log.state.coordinates().0, 3);
    let bad = CatalogCommand::UpdateCoordinates(vec![place("a", f64::NAN)]);
    assert_eq!(log.apply(bad), refused("invalid coordinate"));
    log.deregister("a");
    let (index, rows) = log.state.coordinates();
    assert_eq!((index, rows.count()), (log.state.index(), 0));
}

#[test]
fn autopilots_configuration_is_set_first_by_a_leader_and_compared_by_its_index() {
    let mut log = Log::new();
    let other = AutopilotSettings { min_quorum: 3, ..AutopilotSettings::default() };
    let cas = |index| Command::Autopilot(AutopilotCommand::Cas { settings: other.clone(), index });
    assert_eq!(log.put(&cas(0)), Outcome::Applied(false));
    let first = Command::Autopilot(AutopilotCommand::Initialize(AutopilotSettings::default()));
    assert_eq!(log.put(&first), DONE);
    let set = log.index();
    assert_eq!(log.put(&first), Outcome::Applied(false));
    assert_eq!(log.put(&cas(set - 1)), Outcome::Applied(false));
    assert_eq!(log.put(&cas(set)), DONE);
    let config = log.state.autopilot().unwrap().clone();
    assert_eq!((config.create_index, config.modify_index), (set, log.index()));
    assert_eq!(config.settings, other);
    assert_eq!(log.put(&Command::Autopilot(AutopilotCommand::Set(other))), DONE);
    assert_eq!(log.state.autopilot(), Some(&config), "an equal one changes nothing");
    assert!(invariant::load_of_save_is_same(&log.state));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn the_encoding_of_commands_of_the_catalog_is_frozen() {
    let body = NodeBody {
        tagged_addresses: Some([("lan", "1")].into_iter().collect()),
        meta: Some(Pairs::default()),
        ..with_id(7, node("n", "1"))
    };
    let mut output = check("c", CheckStatus::Warning);
    output.output = "o".into();
    for (command, golden) in [
        (
            Command::Catalog(CatalogCommand::Register(Registration {
                node: body,
                skip_node_update: true,
                parts: vec![Part::Check(output)],
            })),
            "0400016e01070131036463310101036c616e0131010001010001630163077761726e696e6700016f000000",
        ),
        (
            Command::Catalog(CatalogCommand::Deregister(Deregistration::Node {
                name: "n".into(),
                only: Some(NodeId(7)),
            })),
            "040100016e0107",
        ),
        (
            Command::Catalog(CatalogCommand::Deregister(Deregistration::Check {
                node: "n".into(),
                id: "c".into(),
            })),
            "040101016e0163",
        ),
        (
            Command::Catalog(CatalogCommand::UpdateCoordinates(vec![CoordinateUpdate {
                node: "n".into(),
                segment: "".into(),
                coordinate: Coordinate { vector: [1; 8], error: 2, adjustment: 3, height: 4 },
            }])),
            "040201016e000101010101010101020304",
        ),
        (
            Command::Autopilot(AutopilotCommand::Cas {
                settings: AutopilotSettings::default(),
                index: 9,
            }),
            "050101fc00c2eb0bfa00fd00e40b540200000000000009",
        ),
    ] {
        let bytes = codec::encode(&command);
        assert_eq!(hex(&bytes), golden, "{command:?}");
        assert_eq!(codec::decode::<Command, RECORD_LIMIT>(&bytes), Ok(command));
    }
}

/// Few names, ids and statuses, so that they meet.
fn command() -> impl Strategy<Value = CatalogCommand> {
    let name = || prop::sample::select(vec!["a", "A", "b", "ab"]);
    let id = || prop::option::of((1_u128..4).prop_map(NodeId));
    let status = prop_oneof![Just(CheckStatus::Passing), Just(CheckStatus::Critical)];
    let checks = vec((prop::sample::select(vec![SERF_HEALTH, "SERFHEALTH", "c"]), status), 0..3);
    let register = (name(), id(), prop::sample::select(vec!["", "1", "2"]), any::<bool>(), checks);
    prop_oneof![
        6 => register.prop_map(|(name, id, address, skip_node_update, checks)| {
            let node = NodeBody { id, ..node(name, address) };
            let parts =
                checks.into_iter().map(|(id, status)| Part::Check(check(id, status))).collect();
            CatalogCommand::Register(Registration { node, skip_node_update, parts })
        }),
        2 => (name(), id()).prop_map(|(name, only)| {
            CatalogCommand::Deregister(Deregistration::Node { name: name.into(), only })
        }),
        2 => (name(), prop::sample::select(vec![SERF_HEALTH, "C"])).prop_map(|(node, id)| {
            CatalogCommand::Deregister(Deregistration::Check { node: node.into(), id: id.into() })
        }),
        1 => vec((name(), 0..3_u8), 0..3).prop_map(|places| {
            let places = places.into_iter().map(|(node, at)| place(node, f64::from(at)));
            CatalogCommand::UpdateCoordinates(places.collect())
        }),
    ]
}

/// Everything that can be asked of the catalog, with its index, and whether a change wakes who asks.
type Answer = (String, u64, String);

fn answers(state: &State) -> Vec<Answer> {
    let mut all = Vec::new();
    let (index, nodes) = state.nodes();
    // The index of a node's checks is told with the checks.
    let nodes: Vec<_> = nodes.map(|node| Node { checks_index: 0, ..node.clone() }).collect();
    all.push(("nodes".to_owned(), index, format!("{nodes:?}")));
    let (index, checks) = state.checks();
    let named: Vec<_> = checks.map(|(node, check)| (&node.name, check)).collect();
    all.push(("checks".to_owned(), index, format!("{named:?}")));
    let (index, places) = state.coordinates();
    let named: Vec<_> = places.map(|(node, segment, row)| (&node.name, segment, row)).collect();
    all.push(("coordinates".to_owned(), index, format!("{named:?}")));
    for name in ["a", "b", "ab", "0000", "00000000-0000-0000-0000-000000000001"] {
        let (index, found) = state.node(name);
        let found = found.map(|node| (node.modify_index, &node.name, &node.address, node.id));
        all.push((format!("node {name}"), index, format!("{found:?}")));
        let key = canonical(name);
        let (index, checks) = state.node_checks(&key);
        let spelt = state.catalog().nodes.get(&key).map(|node| &node.name);
        let checks: Vec<_> = checks.map(|check| (spelt, check)).collect();
        all.push((format!("checks {name}"), index, format!("{checks:?}")));
    }
    all
}

/// Whether who asks for an answer is woken.
fn wakes(question: &str, touched: &Touched) -> bool {
    let (kind, name) = question.split_once(' ').unwrap_or((question, ""));
    let key = canonical(name);
    match (touched, kind) {
        (Touched::All, _) => true,
        (Touched::Key(TableId::Nodes, _), "nodes")
        | (Touched::Key(TableId::Checks, _) | Touched::Prefix(TableId::Checks, _), "checks")
            if name.is_empty() =>
        {
            true
        }
        (Touched::Key(TableId::Coordinates, _) | Touched::Prefix(TableId::Coordinates, _), _) => {
            kind == "coordinates"
        }
        // Who isn't found by name is found by an id: any node may change that.
        (Touched::Key(TableId::Nodes, node), "node") => *node == key || name.starts_with('0'),
        (Touched::Key(TableId::Checks, check), "checks") => check.starts_with(&node_topic(&key)),
        (Touched::Prefix(TableId::Checks, node), "checks") => *node == node_topic(&key),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_catalog_is_whole_after_every_command(commands in vec(command(), 0..40)) {
        let mut log = Log::new();
        for command in commands {
            let before = log.state.clone();
            let outcome = log.apply(command.clone());
            let state = &log.state;
            prop_assert!(invariant::floors_below_index(state));
            prop_assert!(invariant::catalog_is_whole(state));
            prop_assert!(invariant::catalog_rows_below_indexes(state));
            prop_assert!(invariant::digest_is_of_contents(state));
            prop_assert!(invariant::load_of_save_is_same(state));
            prop_assert!(invariant::restore_of_save_is_same(state, &State::default()));
            if outcome != DONE {
                prop_assert_eq!(state.catalog(), before.catalog());
            }
            prop_assert_eq!(
                state.catalog() == before.catalog(),
                state.catalog().digest() == before.catalog().digest()
            );
            // The same once more changes nothing.
            let settled = state.catalog().clone();
            if outcome == DONE {
                prop_assert_eq!(log.apply(command), DONE);
                prop_assert_eq!(log.state.catalog(), &settled);
                prop_assert!(log.touched.is_empty());
            }
        }
    }

    #[test]
    fn no_index_of_the_catalog_goes_back_and_each_change_moves_it_and_is_touched(
        commands in vec(command(), 0..40), restored in 0..40_usize, from in 0..40_usize,
    ) {
        let mut log = Log::new();
        let mut states = vec![log.state.clone()];
        for (at, command) in commands.into_iter().enumerate() {
            let before = log.state.clone();
            if at == restored {
                let saved = states[from.min(states.len() - 1)].clone();
                let stream: Vec<u8> = Saver::archive(saved).flatten().collect();
                for command in restore::commands(1, &stream) {
                    prop_assert_eq!(log.put(&command), DONE);
                }
            } else {
                log.apply(command);
            }
            states.push(log.state.clone());
            for ((question, old, was), (_, new, is)) in answers(&before).into_iter().zip(answers(&log.state)) {
                prop_assert!(old >= 1 && new >= old, "{}: {} to {}", question, old, new);
                prop_assert!(was == is || new > old, "{} stays at {}", question, old);
                prop_assert!(was == is || log.touched.iter().any(|t| wakes(&question, t)), "nobody wakes {}", question);
            }
        }
    }

    #[test]
    fn a_restore_under_way_is_saved_with_its_catalog(
        commands in vec(command(), 0..30), more in vec(command(), 0..10), cut in 0..100_usize, size in 1..200_usize,
    ) {
        let mut log = Log::new();
        for command in commands {
            log.apply(command);
        }
        let stream: Vec<u8> = Saver::archive(log.state.clone()).flatten().collect();
        for command in more {
            log.apply(command);
        }
        let bytes = stream[..stream.len() * cut / 100].into();
        log.put(&Command::RestoreChunk { restore: 1, number: 0, bytes });
        let saved: Vec<u8> = Saver::new(log.state.clone()).flatten().collect();
        let mut loader = Loader::new();
        for piece in saved.chunks(size) {
            prop_assert_eq!(loader.push(piece), Ok(()));
        }
        prop_assert_eq!(loader.finish(), Ok(log.state));
    }

    #[test]
    fn a_damaged_snapshot_of_a_catalog_is_refused(
        commands in vec(command(), 1..20), at in any::<prop::sample::Index>(), bit in 0..8_u32,
    ) {
        let mut log = Log::new();
        for command in commands {
            log.apply(command);
        }
        let mut stream: Vec<u8> = Saver::new(log.state.clone()).flatten().collect();
        let at = at.index(stream.len());
        stream[at] ^= 1 << bit;
        let mut loader = Loader::new();
        let loaded = loader.push(&stream).and_then(|()| loader.finish());
        prop_assert!(loaded.is_err());
    }
}
