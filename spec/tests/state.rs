//! Properties of the replicated state over random histories, against a state written the slow and obvious way.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use proptest::{collection::vec, prelude::*};
use spec::{
    codec,
    raft::Index,
    state::{
        Command, Key, KvCommand, KvEntry, Outcome, State, Touched, Value, invariant, restore,
        snapshot::{CHUNK_BYTES, Loader, Saver},
        table::{Digest, Row, Table},
    },
    time::ClusterTime,
};

const MINUTE: u64 = 60_000;

/// Few keys, so that they meet; some are prefixes of others.
fn key() -> impl Strategy<Value = Key> {
    prop::sample::select(vec!["a", "a/", "a/b", "a/b/c", "a/d", "ab", "b/a", "\u{7f}"])
        .prop_map(Key::from)
}

fn value() -> impl Strategy<Value = Value> {
    prop::sample::select(vec!["", "1", "2"]).prop_map(Value::from)
}

/// The state that a snapshot to restore is taken of, as the number of the step after which it stood.
#[derive(Clone, Debug)]
enum Step {
    Kv(KvCommand),
    /// Of what may be reaped, if anything.
    Reap,
    /// The state as it stood so many steps before, if it did.
    Restore(usize),
    /// Only the pieces of one, never its commit.
    Abandon(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let index = prop_oneof![Just(0), 1_u64..40];
    prop_oneof![
        4 => (key(), value(), 0_u64..2)
            .prop_map(|(key, value, flags)| Step::Kv(KvCommand::Set { key, value, flags })),
        2 => (key(), value(), index.clone()).prop_map(|(key, value, index)| {
            Step::Kv(KvCommand::Cas { key, value, flags: 0, index })
        }),
        2 => key().prop_map(|key| Step::Kv(KvCommand::Delete { key })),
        1 => key().prop_map(|prefix| Step::Kv(KvCommand::DeleteTree { prefix })),
        2 => (key(), index).prop_map(|(key, index)| Step::Kv(KvCommand::DeleteCas { key, index })),
        1 => Just(Step::Reap),
        1 => (0_usize..10).prop_map(Step::Restore),
        1 => (0_usize..10).prop_map(Step::Abandon),
    ]
}

/// Applies steps to a state and remembers what stood.
struct History {
    states: Vec<State>,
    restores: u128,
}

impl History {
    fn new() -> Self {
        // The first entry of a log is a configuration.
        let mut state = State::default();
        state.advance(Index(1), ClusterTime(0));
        Self { states: vec![state], restores: 0 }
    }

    fn last(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    fn apply(&mut self, command: &Command, touched: &mut Vec<Touched>) -> Outcome {
        let mut state = self.last().clone();
        let (Index(index), ClusterTime(time)) = state.applied();
        let (index, time) = (Index(index + 1), ClusterTime(time + 2 * MINUTE));
        let outcome = state.apply(index, time, command, touched);
        self.states.push(state);
        outcome
    }

    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: &Step) -> Vec<Touched> {
        let mut touched = Vec::new();
        match step {
            Step::Kv(command) => {
                self.apply(&Command::Kv(command.clone()), &mut touched);
            }
            Step::Reap => {
                let now = self.last().applied().1;
                if let Some(up_to) = self.last().reapable(now) {
                    let outcome = self.apply(&Command::ReapTombstones { up_to }, &mut touched);
                    assert_eq!(outcome, Outcome::Applied(true));
                }
            }
            Step::Restore(back) | Step::Abandon(back) => {
                let whole = matches!(step, Step::Restore(_));
                let from = self.states[self.states.len().saturating_sub(1 + back)].clone();
                let stream: Vec<u8> = Saver::archive(from.clone()).flatten().collect();
                self.restores += 1;
                let mut commands: Vec<_> = restore::commands(self.restores, &stream).collect();
                if !whole {
                    commands.pop();
                }
                for command in commands {
                    let outcome = self.apply(&command, &mut touched);
                    assert_eq!(outcome, Outcome::Applied(true));
                }
                if whole {
                    assert_eq!(self.last().kv().entries, from.kv().entries);
                }
            }
        }
        touched
    }
}

const PREFIXES: [&[u8]; 10] =
    [b"", b"a", b"a/", b"a/b", b"a/b/", b"a/b/c", b"a/d", b"ab", b"b", b"\x7f"];

/// What a query for a prefix or a key gives.
fn entries(state: &State, prefix: &[u8]) -> Vec<KvEntry> {
    state.kv_list(prefix).1.cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_of_every_state(steps in vec(step(), 0..40)) {
        let mut history = History::new();
        for step in &steps {
            history.step(step);
            let state = history.last();
            prop_assert!(invariant::floors_below_index(state));
            prop_assert!(invariant::create_index_below_modify_index(state));
            prop_assert!(invariant::tombstones_follow_from_graves(state));
            prop_assert!(invariant::digest_is_of_contents(state));
            prop_assert!(invariant::load_of_save_is_same(state));
            prop_assert!(invariant::restore_of_save_is_same(state, &State::default()));
        }
    }

    #[test]
    fn no_index_goes_back_and_each_change_moves_it_and_is_touched(steps in vec(step(), 0..40)) {
        let mut history = History::new();
        for step in &steps {
            let before = history.last().clone();
            let touched = history.step(step);
            let after = history.last();
            for prefix in PREFIXES {
                let (old, new) = (before.kv_list(prefix).0, after.kv_list(prefix).0);
                prop_assert!(old >= 1 && new >= old, "list {prefix:?}: {old} to {new}");
                let changed = entries(&before, prefix) != entries(after, prefix);
                prop_assert!(!changed || new > old, "list {prefix:?} stays at {old}");
                let wakes = |touched: &Touched| match touched {
                    Touched::All => true,
                    Touched::Key(_, key) => key.starts_with(prefix),
                    Touched::Prefix(_, tree) => tree.starts_with(prefix) || prefix.starts_with(tree),
                };
                prop_assert!(!changed || touched.iter().any(wakes), "nobody wakes {prefix:?}");

                let ((old, was), (new, is)) = (before.kv_get(prefix), after.kv_get(prefix));
                prop_assert!(old >= 1 && new >= old, "get {prefix:?}: {old} to {new}");
                prop_assert!(was == is || new > old, "get {prefix:?} stays at {old}");
            }
            if matches!(step, Step::Kv(_)) && entries(&before, b"") == entries(after, b"") {
                prop_assert_eq!(before.kv(), after.kv(), "what changes nothing moves no index");
                prop_assert!(touched.is_empty());
            }
        }
    }

    #[test]
    fn a_list_has_the_index_that_a_scan_of_everything_gives(steps in vec(step(), 0..60)) {
        let mut history = History::new();
        for step in &steps {
            history.step(step);
            let state = history.last();
            let kv = state.kv();
            for prefix in PREFIXES {
                let rows = kv.entries.iter().filter(|(key, _)| key.starts_with(prefix));
                let stones = kv.tombstones.iter().filter(|(key, _)| key.starts_with(prefix));
                let newest = rows
                    .map(|(_, entry)| entry.modify_index)
                    .chain(stones.map(|(_, stone)| stone.index))
                    .max();
                let expected = match newest {
                    Some(index) if !prefix.is_empty() => index.max(kv.reap_floor),
                    _ => kv.index,
                };
                prop_assert_eq!(kv.list_index(prefix), expected, "{:?}", prefix);
            }
        }
    }

    #[test]
    fn keys_are_cut_behind_the_first_separator(keys in vec("[a/.]{1,6}", 0..30), prefix in "[a/.]{0,3}", separator in "[/.]{0,2}") {
        let mut state = State::default();
        for (index, key) in (1..).zip(&keys) {
            let set = KvCommand::Set { key: Key::from(key.as_str()), value: Value::default(), flags: 0 };
            state.apply(Index(index), ClusterTime(0), &Command::Kv(set), &mut vec![]);
        }
        let mut sorted = keys.clone();
        sorted.sort();
        let mut expected: Vec<&str> = sorted
            .iter()
            .filter_map(|key| {
                let behind = key.strip_prefix(&prefix)?;
                let at = if separator.is_empty() { None } else { behind.find(&separator) };
                Some(at.map_or(key.as_str(), |at| &key[..prefix.len() + at + separator.len()]))
            })
            .collect();
        expected.dedup();
        let (_, given) = state.kv_keys(prefix.as_bytes(), Some(separator.as_bytes()));
        prop_assert_eq!(given, expected.into_iter().map(Key::from).collect::<Vec<_>>());
    }

    #[test]
    fn a_snapshot_loads_from_pieces_of_any_size(steps in vec(step(), 0..20), size in 1_usize..300) {
        let mut history = History::new();
        history.steps(&steps);
        let stream: Vec<u8> = Saver::new(history.last().clone()).flatten().collect();
        let mut loader = Loader::new();
        for piece in stream.chunks(size) {
            prop_assert_eq!(loader.push(piece), Ok(()));
        }
        let loaded = loader.finish().unwrap();
        prop_assert_eq!(&loaded, history.last());
        prop_assert_eq!(hash(&loaded), hash(history.last()));
        prop_assert_eq!(loaded.digest(), history.last().digest());
    }

    #[test]
    fn a_damaged_snapshot_is_refused(steps in vec(step(), 1..20), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut history = History::new();
        history.steps(&steps);
        let mut stream: Vec<u8> = Saver::new(history.last().clone()).flatten().collect();
        let at = at.index(stream.len());
        stream[at] ^= 1_u8 << bit;
        let mut loader = Loader::new();
        let loaded = loader.push(&stream).and_then(|()| loader.finish());
        prop_assert!(loaded.is_err(), "{:?}", loaded);
    }

    #[test]
    fn a_damaged_archive_is_refused_and_leaves_all_as_it_was(steps in vec(step(), 1..20), at in any::<prop::sample::Index>(), bit in 0..8_u32, resum in any::<bool>()) {
        let mut history = History::new();
        history.steps(&steps);
        let mut stream: Vec<u8> = Saver::archive(history.last().clone()).flatten().collect();
        let sound: Vec<_> = restore::commands(9, &stream).collect();
        let at = at.index(stream.len());
        stream[at] ^= 1_u8 << bit;
        let mut damaged: Vec<_> = restore::commands(9, &stream).collect();
        if !resum {
            // What a client uploads carries a right checksum; what the log damages would not.
            damaged.pop();
            damaged.extend(sound.last().cloned());
        }
        let before = history.last().clone();
        let mut touched = vec![];
        let outcomes: Vec<_> = damaged.iter().map(|command| history.apply(command, &mut touched)).collect();
        prop_assert!(matches!(outcomes.last(), Some(Outcome::Refused(_))), "{:?}", outcomes);
        prop_assert_eq!(before.kv(), history.last().kv());
        prop_assert_eq!(before.epoch(), history.last().epoch());
        prop_assert!(touched.is_empty());
    }

    #[test]
    fn replicas_that_apply_the_same_log_are_equal(steps in vec(step(), 0..30)) {
        let mut one = History::new();
        let mut other = History::new();
        for step in &steps {
            one.step(step);
            other.step(step);
            prop_assert_eq!(one.last(), other.last());
            prop_assert_eq!(one.last().digest(), other.last().digest());
            prop_assert_eq!(hash(one.last()), hash(other.last()));
        }
        // A server that starts from a snapshot isn't told apart from one that applied it all.
        let stream: Vec<u8> = Saver::new(one.last().clone()).flatten().collect();
        let mut loader = Loader::new();
        loader.push(&stream).unwrap();
        *other.states.last_mut().unwrap() = loader.finish().unwrap();
        for step in &steps {
            one.step(&step.clone());
            other.step(&step.clone());
            prop_assert_eq!(one.last().digest(), other.last().digest());
        }
    }

    #[test]
    fn no_bytes_break_the_decoder(bytes in vec(any::<u8>(), 0..200)) {
        let _ = codec::decode::<Command, { codec::RPC_LIMIT }>(&bytes);
        let _ = Loader::new().push(&bytes);
        let _ = Loader::archive().push(&bytes);
    }

    #[test]
    fn a_command_comes_back_as_it_went(step in step(), cut in any::<prop::sample::Index>()) {
        let Step::Kv(command) = step else { return Ok(()) };
        let command = Command::Kv(command);
        let payload = command.to_payload();
        prop_assert_eq!(Command::from_payload(&payload), Ok(command));
        let cut = &payload.0[..cut.index(payload.0.len())];
        prop_assert!(Command::from_payload(&cut.to_vec().into()).is_err());
    }

    #[test]
    fn a_table_is_an_ordered_map(operations in vec((0_u8..40, prop::option::of(0_u8..3)), 0..400)) {
        let mut table: Table<u8, Plain> = Table::default();
        let mut map: BTreeMap<u8, Plain> = BTreeMap::new();
        let mut kept = vec![];
        for (key, row) in operations {
            if let Some(row) = row {
                table.insert(key, Plain(row));
                map.insert(key, Plain(row));
            } else {
                prop_assert_eq!(table.remove(&key), map.remove(&key).is_some());
            }
            kept.push((table.clone(), map.clone()));
        }
        for (table, map) in &kept {
            prop_assert!(table.iter().eq(map.iter()));
            prop_assert_eq!(table.len(), map.len());
            let mut fresh = Table::default();
            for (key, row) in map.iter().rev() {
                fresh.insert(*key, row.clone());
            }
            prop_assert_eq!(table, &fresh);
            prop_assert_eq!(table.digest(), fresh.digest());
            prop_assert_eq!(hash(table), hash(&fresh));
        }
        for pair in kept.windows(2) {
            prop_assert_eq!(pair[0].0 == pair[1].0, pair[0].1 == pair[1].1);
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Plain(u8);

impl Row<u8> for Plain {
    fn digest(&self, key: &u8) -> Digest {
        Digest::of(&[*key, self.0])
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn set(key: &str, value: &[u8]) -> Command {
    Command::Kv(KvCommand::Set { key: Key::from(key), value: Value::from(value), flags: 0 })
}

#[test]
fn the_encoding_of_commands_is_frozen() {
    let key = || Key::from("k");
    let value = || Value::from("vv");
    let golden: [(Command, &[u8]); 8] = [
        (
            Command::Kv(KvCommand::Set { key: key(), value: value(), flags: 7 }),
            &[0, 0, 1, b'k', 2, b'v', b'v', 7],
        ),
        (
            Command::Kv(KvCommand::Cas { key: key(), value: value(), flags: 0, index: 300 }),
            &[0, 1, 1, b'k', 2, b'v', b'v', 0, 251, 44, 1],
        ),
        (Command::Kv(KvCommand::Delete { key: key() }), &[0, 2, 1, b'k']),
        (Command::Kv(KvCommand::DeleteTree { prefix: key() }), &[0, 3, 1, b'k']),
        (Command::Kv(KvCommand::DeleteCas { key: key(), index: 5 }), &[0, 4, 1, b'k', 5]),
        (Command::ReapTombstones { up_to: 250 }, &[1, 250]),
        (
            Command::RestoreChunk { restore: 3, number: 1, bytes: b"xy".into() },
            &[2, 3, 1, 2, b'x', b'y'],
        ),
        (Command::RestoreCommit { restore: 3, length: 2, crc: 9 }, &[3, 3, 2, 9]),
    ];
    for (command, bytes) in golden {
        assert_eq!(&*command.to_payload().0, bytes, "{command:?}");
        assert_eq!(Command::from_payload(&bytes.to_vec().into()), Ok(command));
    }
    assert_eq!(codec::encode(&Outcome::Applied(true)), [0, 1]);
    assert_eq!(codec::encode(&Outcome::Refused("no".into())), [1, 2, b'n', b'o']);
}

#[test]
fn the_encoding_of_a_snapshot_is_frozen() {
    let mut state = State::default();
    state.apply(Index(1), ClusterTime(5), &set("a", b"1"), &mut vec![]);
    state.apply(Index(2), ClusterTime(5), &set("b", b"2"), &mut vec![]);
    let delete = Command::Kv(KvCommand::Delete { key: Key::from("a") });
    state.apply(Index(3), ClusterTime(6), &delete, &mut vec![]);
    let stream: Vec<u8> = Saver::new(state).flatten().collect();
    let head: [&[u8]; 3] = [
        &[9, 0, 0, 0, 1, /* header */ 0, 1, 3, 6, 0, 0, 3, 0],
        &[7, 0, 0, 0, 1, /* grave */ 1, 3, 6, 1, 1, b'a'],
        &[11, 0, 0, 0, 1, /* entry */ 2, 1, b'b', 1, b'2', 0, 0, 0, 2, 2],
    ];
    let head = head.concat();
    assert_eq!(&stream[..head.len()], &head[..]);
    // The digest's bytes are frozen too: servers of two builds compare them.
    let end = [
        19, 0, 0, 0, 1, /* end */ 6, 254, 166, 144, 200, 243, 124, 204, 253, 171, 138, 18, 25,
        29, 202, 184, 127, 75,
    ];
    assert_eq!(stream[head.len()..], end);
}

#[test]
fn what_cannot_be_a_key_is_refused_in_the_log() {
    let mut state = State::default();
    let mut touched = vec![];
    let outcome = state.apply(Index(1), ClusterTime(0), &set("", b"1"), &mut touched);
    assert_eq!(outcome, Outcome::Refused("Missing key name".into()));
    let outcome = state.apply(Index(2), ClusterTime(0), &set("k", &vec![0; 4 << 20]), &mut touched);
    assert!(matches!(outcome, Outcome::Refused(_)));
    assert_eq!(state.kv().index, 0);
    assert!(touched.is_empty());
}

#[test]
fn large_values_and_many_keys_pass_through_chunks_of_bounded_size() {
    let mut state = State::default();
    for index in 1..=5000_u64 {
        let size = if index % 1000 == 0 { 3 << 20 } else { 100 };
        let command = set(&format!("key/{index:05}"), &vec![7; size]);
        state.apply(Index(index), ClusterTime(index), &command, &mut vec![]);
    }
    let tree = Command::Kv(KvCommand::DeleteTree { prefix: Key::from("key/01") });
    state.apply(Index(5001), ClusterTime(5001), &tree, &mut vec![]);
    let chunks: Vec<Vec<u8>> = Saver::new(state.clone()).collect();
    assert!(chunks.len() > 12);
    let (last, full) = chunks.split_last().unwrap();
    assert!(full.iter().all(|chunk| chunk.len() == CHUNK_BYTES) && last.len() <= CHUNK_BYTES);
    assert!(invariant::load_of_save_is_same(&state));
    assert!(invariant::restore_of_save_is_same(&state, &State::default()));
}

#[test]
fn an_archive_that_announces_a_huge_record_is_refused_at_once() {
    let announced = u32::try_from(codec::RECORD_LIMIT).unwrap().to_le_bytes();
    assert!(Loader::archive().push(&announced).is_err());
    assert_eq!(Loader::new().push(&announced), Ok(()));
}

#[test]
fn a_restore_half_way_survives_a_snapshot_at_every_piece() {
    let mut state = State::default();
    for index in 1..=40_u64 {
        let command = set(&format!("{index:02}"), &vec![1; 90_000]);
        state.apply(Index(index), ClusterTime(index), &command, &mut vec![]);
    }
    let stream: Vec<u8> = Saver::archive(state.clone()).flatten().collect();
    let mut restored = State::default();
    let commands: Vec<_> = restore::commands(1, &stream).collect();
    assert_eq!(commands.len(), 5);
    for (index, command) in (1..).zip(&commands) {
        let outcome = restored.apply(Index(index), ClusterTime(0), command, &mut vec![]);
        assert_eq!(outcome, Outcome::Applied(true));
        assert!(invariant::load_of_save_is_same(&restored), "after {index}");
        // A piece that is proposed twice is taken once.
        if index < 5 {
            let mut again = restored.clone();
            let outcome = again.apply(Index(index), ClusterTime(0), command, &mut vec![]);
            assert_eq!(outcome, Outcome::Applied(true));
            assert_eq!(again, restored);
        }
    }
    assert_eq!(restored.kv().entries, state.kv().entries);
    assert_eq!(restored.epoch(), 41);
    assert_eq!(restored.kv_get(b"07"), (41, state.kv_get(b"07").1));
}
