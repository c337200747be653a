//! The replicated state: applying KV commands to 100,000 keys, with a snapshot published after each, and listing.

use std::hint::black_box;

use criterion::{BatchSize, Criterion};
use spec::{
    raft::Index,
    state::{Command, Key, KvCommand, State},
    time::ClusterTime,
};

const KEYS: u64 = 100_000;

/// 250 folders of 400 keys each.
fn key(number: u64) -> Key {
    format!("service/{:03}/{:05}", number % 250, number).into_bytes().into()
}

fn set(number: u64, round: u64) -> Command {
    let value = format!("{round:064}").into_bytes().into();
    Command::Kv(KvCommand::Set { key: key(number), value, flags: 0 })
}

fn filled() -> State {
    let mut state = State::default();
    let mut touched = vec![];
    for number in 0..KEYS {
        state.apply(Index(number + 1), ClusterTime(number), &set(number, 0), &mut touched);
        touched.clear();
    }
    state
}

/// Applies one command after the other, each new, and keeps a clone of the state as readers do.
fn apply(
    criterion: &mut Criterion,
    name: &str,
    filled: &State,
    command: impl Fn(u64, &State) -> Command,
) {
    criterion.bench_function(name, |bench| {
        let (mut state, mut published) = (filled.clone(), filled.clone());
        let (mut touched, mut index) = (vec![], KEYS);
        bench.iter_batched(
            || {
                index += 1;
                (index, command(index, filled))
            },
            |(index, command)| {
                let outcome = state.apply(Index(index), ClusterTime(index), &command, &mut touched);
                published = state.clone();
                touched.clear();
                (outcome, command)
            },
            BatchSize::SmallInput,
        );
        black_box(&published);
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let filled = filled();
    let step = |index: u64| index.wrapping_mul(7919) % KEYS;
    apply(&mut criterion, "state/set-present", &filled, |index, _| set(step(index), index));
    apply(&mut criterion, "state/set-fresh", &filled, |index, _| set(index, index));
    apply(&mut criterion, "state/cas", &filled, |index, filled| {
        let key = key(step(index));
        let (expected, _) = filled.kv_get(&key);
        let value = vec![7; 64].into();
        Command::Kv(KvCommand::Cas { key, value, flags: 0, index: expected })
    });
    let prefix: Key = b"service/007/".into();
    criterion.bench_function("state/delete-tree-of-400", |bench| {
        let command = Command::Kv(KvCommand::DeleteTree { prefix: prefix.clone() });
        let mut touched = vec![];
        bench.iter_batched_ref(
            || filled.clone(),
            |state| {
                touched.clear();
                state.apply(Index(KEYS + 1), ClusterTime(KEYS), &command, &mut touched)
            },
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("state/get", |bench| {
        let mut index = 0;
        bench.iter_batched(
            || {
                index += 1;
                key(step(index))
            },
            |key| {
                let (index, entry) = filled.kv_get(&key);
                assert!(entry.is_some());
                (index, key)
            },
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("state/list-400", |bench| {
        bench.iter(|| {
            let (index, entries) = filled.kv_list(black_box(&prefix));
            (index, entries.map(|entry| entry.value.len()).sum::<usize>())
        });
    });
    criterion.bench_function("state/keys-of-250-folders", |bench| {
        bench.iter(|| filled.kv_keys(black_box(b"service/"), Some(b"/")));
    });
    criterion.final_summary();
}
