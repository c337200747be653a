//! The replicated state: every short history of KV commands, reaping and restores.
//!
//! The model applies commands to `spec`'s state, one after the other, in every order. Beside the state it keeps what a
//! client read before it compares and sets, an archive that was saved, and what the last step broke: most properties
//! speak of a state and the one before, so they are decided when the step is taken.

use std::{collections::BTreeMap, sync::Arc};

use spec::{
    raft::Index,
    state::{
        Chunk, Command, Key, KvCommand, KvEntry, Outcome, SessionId, State, Touched, Value,
        invariant,
        kv::Grave,
        restore,
        snapshot::{Loader, Saver},
        table::Row,
    },
    time::ClusterTime,
};
use stateright::{Model, Property};

use crate::{Checked, Scope, Tier, properties::steps};

/// Which commands there are, and how many entries the log has.
#[derive(Clone, Debug)]
pub struct KvModel {
    /// The keys that are written.
    pub keys: &'static [&'static str],
    /// Whether somebody tries to write under the empty key.
    pub empty: bool,
    /// The values that are written.
    pub values: &'static [&'static str],
    /// The flags that are written with them under the first key; 0 under the others.
    pub flags: &'static [u64],
    /// The prefixes that are deleted.
    pub trees: &'static [&'static str],
    /// Whether a client reads, and then compares and sets.
    pub reader: bool,
    /// Whether tombstones are reaped.
    pub reap: bool,
    /// Whether archives are saved and restored, and whether the first one comes from another cluster.
    pub restore: Option<Archive>,
    /// The last entry of the log.
    pub last: u64,
}

/// Where an archive comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    /// The same cluster, at some time.
    Own,
    /// A cluster whose indexes are higher.
    Foreign,
}

/// What a client saw when it read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    key: Key,
    entry: Option<KvEntry>,
}

/// An archive, and what was in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Saved {
    stream: Vec<u8>,
    of: State,
}

/// A state and what surrounds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KvState {
    /// The machine's state.
    pub state: State,
    seen: Option<Seen>,
    saved: Option<Arc<Saved>>,
    /// What the last step did that not every history does.
    did: Option<Did>,
    /// The properties that the last step broke.
    broke: Vec<&'static str>,
}

/// What is worth seeing at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Did {
    CasSucceed,
    CasFail,
    DeleteMany,
    ChangeNothing,
    RefuseCommit,
    RestoreOverOther,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A command of the KV store.
    Kv(KvCommand),
    /// The reader reads a key.
    Read(Key),
    /// The reader sets what it read, if that still stands.
    Cas(Value),
    /// The reader deletes what it read, if that still stands.
    DeleteCas,
    /// Tombstones up to this index are reaped.
    Reap(u64),
    /// Someone saves an archive.
    Save,
    /// Half of the archive's stream is put into the log: 0 or 1.
    Piece(u64),
    /// The restore is committed.
    Commit,
    /// A commit whose checksum is wrong.
    CommitOtherChecksum,
    /// A commit whose length is wrong.
    CommitOtherLength,
}

const RESTORE: u128 = 1;

/// The cluster's time of an entry. A leader that is at fault may send it back.
const fn time_of(index: Index) -> ClusterTime {
    ClusterTime(index.0 % 2)
}

impl Saved {
    fn of(state: &State) -> Arc<Self> {
        let stream = Saver::archive(state.clone()).flatten().collect();
        Arc::new(Self { stream, of: state.clone() })
    }

    fn piece(&self, number: u64) -> Command {
        let (first, second) = self.stream.split_at(self.stream.len() / 2);
        let bytes = Chunk::from(if number == 0 { first } else { second });
        Command::RestoreChunk { restore: RESTORE, number, bytes }
    }

    /// The commit, or one that is wrong by so much.
    fn commit(&self, more: u64, other: u32) -> Option<Command> {
        match restore::commands(RESTORE, &self.stream).last()? {
            Command::RestoreCommit { restore, length, crc } => {
                Some(Command::RestoreCommit { restore, length: length + more, crc: crc ^ other })
            }
            _ => None,
        }
    }
}

/// A state of a cluster that has come further than any that the model explores.
fn foreign() -> State {
    let mut state = State::default();
    let set = |key: &str| {
        Command::Kv(KvCommand::Set { key: Key::from(key), value: Value::from("f"), flags: 7 })
    };
    state.apply(Index(50), ClusterTime(9), &set("b"), &mut Vec::new());
    state.apply(Index(60), ClusterTime(9), &set("a"), &mut Vec::new());
    state
}

/// The prefixes whose lists are looked at; each is looked at as a key as well.
const QUERIES: [&str; 5] = ["", "a", "a/", "a/b", "b"];

impl KvState {
    fn command(&self, action: &Action) -> Option<Command> {
        let saved = self.saved.as_ref();
        Some(match action {
            Action::Kv(command) => Command::Kv(command.clone()),
            Action::Cas(value) => {
                let Seen { key, entry } = self.seen.clone()?;
                let index = entry.map_or(0, |entry| entry.modify_index);
                Command::Kv(KvCommand::Cas { key, value: value.clone(), flags: 1, index })
            }
            Action::DeleteCas => {
                let Seen { key, entry } = self.seen.clone()?;
                let index = entry.map_or(0, |entry| entry.modify_index);
                Command::Kv(KvCommand::DeleteCas { key, index })
            }
            Action::Reap(up_to) => Command::ReapTombstones { up_to: *up_to },
            Action::Piece(number) => saved?.piece(*number),
            Action::Commit => saved?.commit(0, 0)?,
            Action::CommitOtherChecksum => saved?.commit(0, 1)?,
            Action::CommitOtherLength => saved?.commit(1, 0)?,
            Action::Read(_) | Action::Save => return None,
        })
    }

    fn apply(&mut self, action: &Action, command: &Command) {
        let before = self.state.clone();
        let index = Index(before.applied().0.0 + 1);
        let mut touched = Vec::new();
        let outcome = self.state.apply(index, time_of(index), command, &mut touched);
        let step = Step { before: &before, after: &self.state, command, outcome, touched };
        let mut broke = Vec::new();
        let mut check = |name: &'static str, holds: bool| {
            if !holds {
                broke.push(name);
            }
        };
        check("writes_do_what_they_say", step.does_what_it_says());
        check("modify_index_up", step.modify_index_goes_up());
        check("idempotent_write_moves_no_index", step.moves_no_index_for_nothing());
        check("digest_tells_changes", step.digest_tells_changes());
        check("replicas_agree", step.a_replica_from_a_snapshot_agrees());
        check("index_never_goes_back", QUERIES.iter().all(|q| step.index_never_goes_back(q)));
        check("index_moves_for_own_changes", QUERIES.iter().all(|q| step.index_moves_for_own(q)));
        check("touched_covers_changes", QUERIES.iter().all(|q| step.touched_covers(q)));
        check("cas_linearizable", step.cas_is_linearizable(self.seen.as_ref(), action));
        check("keys_cut_at_separator", QUERIES.iter().all(|q| step.keys_are_cut(q)));
        check("cluster_time_monotone", step.time_goes_on());
        check("restore_is_all_or_nothing", step.restore_is_whole(self.saved.as_deref(), action));
        self.did = step.did(self.saved.as_deref(), action);
        self.broke = broke;
    }
}

/// A command between two states.
struct Step<'a> {
    before: &'a State,
    after: &'a State,
    command: &'a Command,
    outcome: Outcome,
    touched: Vec<Touched>,
}

/// Entries that differ from one in a single field each.
fn others(entry: &KvEntry) -> [KvEntry; 6] {
    let KvEntry { flags, lock_index, create_index, modify_index, .. } = *entry;
    [
        KvEntry { value: Value::from("other"), ..entry.clone() },
        KvEntry { flags: flags + 1, ..entry.clone() },
        KvEntry { lock_index: lock_index + 1, ..entry.clone() },
        KvEntry { session: Some(SessionId([0; 16])), ..entry.clone() },
        KvEntry { create_index: create_index + 1, ..entry.clone() },
        KvEntry { modify_index: modify_index + 1, ..entry.clone() },
    ]
}

type Contents = BTreeMap<Key, (Value, u64)>;

fn contents(state: &State) -> Contents {
    let entries = state.kv_list(b"").1;
    entries.map(|entry| (entry.key.clone(), (entry.value.clone(), entry.flags))).collect()
}

fn list(state: &State, prefix: &str) -> Vec<KvEntry> {
    state.kv_list(prefix.as_bytes()).1.cloned().collect()
}

impl Step<'_> {
    /// The same command on a plain map has the same effect and outcome.
    fn does_what_it_says(&self) -> bool {
        let Command::Kv(command) = self.command else { return true };
        let mut expected = contents(self.before);
        if let KvCommand::Set { key, .. } = command
            && key.is_empty()
        {
            return matches!(self.outcome, Outcome::Refused(_))
                && self.before.kv() == self.after.kv();
        }
        let standing = |key: &Key| {
            self.before.kv().entries.get::<[u8]>(key).map_or(0, |entry| entry.modify_index)
        };
        let outcome = match command {
            KvCommand::Set { key, value, flags } => {
                expected.insert(key.clone(), (value.clone(), *flags));
                true
            }
            KvCommand::Cas { key, value, flags, index } => {
                let matches = standing(key) == *index;
                if matches {
                    expected.insert(key.clone(), (value.clone(), *flags));
                }
                matches
            }
            KvCommand::Delete { key } => {
                expected.remove::<[u8]>(key);
                true
            }
            KvCommand::DeleteTree { prefix } => {
                expected.retain(|key, _| !key.starts_with(prefix));
                true
            }
            KvCommand::DeleteCas { key, index } => {
                let matches = standing(key) == 0 || standing(key) == *index;
                if matches {
                    expected.remove::<[u8]>(key);
                }
                matches
            }
        };
        self.outcome == Outcome::Applied(outcome) && contents(self.after) == expected
    }

    /// What a command changes gets an index above all that there were, and keeps the index at which it came to be.
    fn modify_index_goes_up(&self) -> bool {
        let old = &self.before.kv().entries;
        let Command::Kv(_) = self.command else { return true };
        let served = self.before.kv().index.max(self.before.epoch());
        let highest = old.iter().map(|(_, entry)| entry.modify_index).fold(served, u64::max);
        self.after.kv().entries.iter().all(|(key, entry)| match old.get::<[u8]>(key) {
            Some(old) if old == entry => true,
            old => {
                entry.modify_index > highest
                    && old.map_or(entry.modify_index, |old| old.create_index) == entry.create_index
            }
        })
    }

    fn moves_no_index_for_nothing(&self) -> bool {
        let Command::Kv(_) = self.command else { return true };
        contents(self.before) != contents(self.after)
            || (self.before.kv() == self.after.kv() && self.touched.is_empty())
    }

    fn digest_tells_changes(&self) -> bool {
        let (before, after) = (self.before.kv(), self.after.kv());
        (before == after) == (before.digest() == after.digest())
            && (before.entries == after.entries)
                == (before.entries.digest() == after.entries.digest())
            && after.entries.iter().all(|(key, entry)| {
                others(entry).iter().all(|other| other.digest(key) != entry.digest(key))
            })
    }

    /// A server that starts from a snapshot of the state before comes to the same state.
    fn a_replica_from_a_snapshot_agrees(&self) -> bool {
        let mut loader = Loader::new();
        let loaded = Saver::new(self.before.clone()).try_for_each(|chunk| loader.push(&chunk));
        let (Ok(()), Ok(mut replica)) = (loaded, loader.finish()) else { return false };
        let (index, time) = self.after.applied();
        let outcome = replica.apply(index, time, self.command, &mut Vec::new());
        outcome == self.outcome && replica == *self.after && replica.digest() == self.after.digest()
    }

    fn index_never_goes_back(&self, query: &str) -> bool {
        let query = query.as_bytes();
        let (old, was) = self.before.kv_get(query);
        let (new, is) = self.after.kv_get(query);
        let get = new >= old && (was == is || new > old);
        let (old, was) = self.before.kv_list(query);
        let (new, is) = self.after.kv_list(query);
        get && new >= old && (was.eq(is) || new > old)
    }

    /// Neither a list nor a key that is there moves for what happens elsewhere.
    fn index_moves_for_own(&self, query: &str) -> bool {
        let Command::Kv(_) = self.command else { return true };
        let (old, was) = self.before.kv_get(query.as_bytes());
        let (new, is) = self.after.kv_get(query.as_bytes());
        let get = was.is_none() || was != is || old == new;
        let was = list(self.before, query);
        let (old, new) =
            (self.before.kv_list(query.as_bytes()).0, self.after.kv_list(query.as_bytes()).0);
        get && (was.is_empty() || was != list(self.after, query) || old == new)
    }

    /// Keys are those of the list, cut behind the first separator that follows the prefix, each once.
    fn keys_are_cut(&self, query: &str) -> bool {
        let cut = |entry: KvEntry| {
            let key = String::from_utf8_lossy(&entry.key).into_owned();
            let slash = key.get(query.len()..).and_then(|behind| behind.find('/'));
            slash.map_or(key.clone(), |at| key[..=query.len() + at].to_owned())
        };
        let mut expected: Vec<_> = list(self.after, query).into_iter().map(cut).collect();
        expected.dedup();
        let (_, keys) = self.after.kv_keys(query.as_bytes(), Some(b"/"));
        keys.iter().map(|key| String::from_utf8_lossy(key)).eq(expected)
    }

    fn time_goes_on(&self) -> bool {
        self.before.applied().1 <= self.after.applied().1
    }

    fn touched_covers(&self, query: &str) -> bool {
        let query = query.as_bytes();
        let wakes_get = |touched: &Touched| match touched {
            Touched::All => true,
            Touched::Key(_, key) => **key == *query,
            Touched::Prefix(_, tree) => query.starts_with(tree),
        };
        let wakes_list = |touched: &Touched| match touched {
            Touched::All => true,
            Touched::Key(_, key) => key.starts_with(query),
            Touched::Prefix(_, tree) => tree.starts_with(query) || query.starts_with(tree),
        };
        let same_get = self.before.kv_get(query).1 == self.after.kv_get(query).1;
        let same_list = self.before.kv_list(query).1.eq(self.after.kv_list(query).1);
        (same_get || self.touched.iter().any(wakes_get))
            && (same_list || self.touched.iter().any(wakes_list))
    }

    /// A compare-and-set succeeds if and only if what stands is what was read.
    fn cas_is_linearizable(&self, seen: Option<&Seen>, action: &Action) -> bool {
        let (Some(Seen { key, entry }), Action::Cas(_) | Action::DeleteCas) = (seen, action) else {
            return true;
        };
        let standing = self.before.kv().entries.get::<[u8]>(key);
        let unchanged = standing == entry.as_ref();
        let gone = standing.is_none() && *action == Action::DeleteCas;
        self.outcome == Outcome::Applied(unchanged || gone)
    }

    /// Until the commit, and unless it succeeds, nothing that is served changes. When it does, all entries are those of
    /// the archive.
    fn restore_is_whole(&self, saved: Option<&Saved>, action: &Action) -> bool {
        let (old, new) = (self.before.kv(), self.after.kv());
        match (action, &self.outcome) {
            (Action::Commit, Outcome::Applied(true)) => {
                saved.is_some_and(|saved| {
                    new.entries == saved.of.kv().entries
                        && self.after.epoch() > saved.of.index()
                        && self.after.epoch() > self.before.index()
                }) && self.touched == [Touched::All]
            }
            (Action::CommitOtherChecksum | Action::CommitOtherLength, Outcome::Applied(_)) => false,
            (
                Action::Piece(_)
                | Action::Commit
                | Action::CommitOtherChecksum
                | Action::CommitOtherLength,
                _,
            ) => old == new && self.before.epoch() == self.after.epoch() && self.touched.is_empty(),
            _ => true,
        }
    }

    fn did(&self, saved: Option<&Saved>, action: &Action) -> Option<Did> {
        let (old, new) = (contents(self.before), contents(self.after));
        match (action, &self.outcome) {
            (Action::Cas(_), Outcome::Applied(true)) if old != new => Some(Did::CasSucceed),
            (Action::Cas(_), Outcome::Applied(false)) => Some(Did::CasFail),
            (Action::Kv(KvCommand::DeleteTree { .. }), _) if new.len() + 2 <= old.len() => {
                Some(Did::DeleteMany)
            }
            (Action::Kv(KvCommand::Set { .. }), Outcome::Applied(_)) if old == new => {
                Some(Did::ChangeNothing)
            }
            (Action::Commit, Outcome::Applied(true))
                if saved.is_some_and(|saved| contents(&saved.of) != old) =>
            {
                Some(Did::RestoreOverOther)
            }
            (Action::CommitOtherChecksum | Action::CommitOtherLength, Outcome::Refused(_)) => {
                Some(Did::RefuseCommit)
            }
            _ => None,
        }
    }
}

impl Model for KvModel {
    type State = KvState;
    type Action = Action;

    fn init_states(&self) -> Vec<KvState> {
        let mut state = State::default();
        // The first entry of a log is a configuration.
        state.advance(Index(1), ClusterTime(0));
        let saved = (self.restore == Some(Archive::Foreign)).then(|| Saved::of(&foreign()));
        vec![KvState { state, seen: None, saved, did: None, broke: Vec::new() }]
    }

    fn actions(&self, at: &KvState, actions: &mut Vec<Action>) {
        if at.state.applied().0.0 >= self.last {
            return;
        }
        for (n, key) in self.keys.iter().map(|key| Key::from(*key)).enumerate() {
            for value in self.values.iter().map(|value| Value::from(*value)) {
                let flags = if n == 0 { self.flags } else { &[0] };
                let set = |flags| KvCommand::Set { key: key.clone(), value: value.clone(), flags };
                actions.extend(flags.iter().map(|flags| Action::Kv(set(*flags))));
            }
            if self.reader && at.seen.is_none() {
                actions.push(Action::Read(key.clone()));
            }
            actions.push(Action::Kv(KvCommand::Delete { key }));
        }
        if self.empty {
            let (key, value) = (Key::from(""), Value::from("1"));
            actions.push(Action::Kv(KvCommand::Set { key, value, flags: 0 }));
        }
        for prefix in self.trees.iter().map(|prefix| Key::from(*prefix)) {
            actions.push(Action::Kv(KvCommand::DeleteTree { prefix }));
        }
        if at.seen.is_some() {
            actions.push(Action::Cas(Value::from("c")));
            actions.push(Action::DeleteCas);
        }
        if self.reap {
            actions.extend(at.state.kv().graves.iter().map(|(index, _)| Action::Reap(*index)));
        }
        if self.restore.is_some() {
            if at.saved.is_none() {
                actions.push(Action::Save);
            } else {
                actions.extend([
                    Action::Piece(0),
                    Action::Piece(1),
                    Action::Commit,
                    Action::CommitOtherChecksum,
                    Action::CommitOtherLength,
                ]);
            }
        }
    }

    fn next_state(&self, at: &KvState, action: Action) -> Option<KvState> {
        let mut next = KvState { did: None, broke: Vec::new(), ..at.clone() };
        match &action {
            Action::Read(key) => {
                let entry = at.state.kv_get(key).1.cloned();
                next.seen = Some(Seen { key: key.clone(), entry });
            }
            Action::Save => next.saved = Some(Saved::of(&at.state)),
            _ => {
                let command = at.command(&action)?;
                next.apply(&action, &command);
                if matches!(action, Action::Cas(_) | Action::DeleteCas) {
                    next.seen = None;
                }
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = steps!(KvState:
            "writes_do_what_they_say" "modify_index_up" "idempotent_write_moves_no_index"
            "digest_tells_changes" "replicas_agree" "index_never_goes_back"
            "index_moves_for_own_changes" "touched_covers_changes" "cas_linearizable"
            "restore_is_all_or_nothing" "keys_cut_at_separator" "cluster_time_monotone"
        );
        properties.extend([
            Property::always("index_at_least_one", |_, at: &KvState| {
                QUERIES
                    .iter()
                    .map(|query| query.as_bytes())
                    .all(|query| at.state.kv_get(query).0 > 0 && at.state.kv_list(query).0 > 0)
            }),
            Property::always("create_index_below_modify_index", |_, at: &KvState| {
                invariant::create_index_below_modify_index(&at.state)
            }),
            Property::always("floors_below_index", |_, at: &KvState| {
                invariant::floors_below_index(&at.state)
            }),
            Property::always("tombstones_follow_from_graves", |_, at: &KvState| {
                invariant::tombstones_follow_from_graves(&at.state)
            }),
            Property::always("digest_is_of_contents", |_, at: &KvState| {
                invariant::digest_is_of_contents(&at.state)
            }),
            Property::always("load_of_save_is_same", |_, at: &KvState| {
                invariant::load_of_save_is_same(&at.state)
            }),
            Property::always("restore_of_save_is_same", |_, at: &KvState| {
                invariant::restore_of_save_is_same(&at.state, &foreign())
                    && invariant::restore_of_save_is_same(&at.state, &State::default())
            }),
            Property::sometimes("several_keys_go_at_once", |_, at: &KvState| {
                at.did == Some(Did::DeleteMany)
            }),
            Property::sometimes("a_write_changes_nothing", |_, at: &KvState| {
                at.did == Some(Did::ChangeNothing)
            }),
        ]);
        if self.reader {
            properties.extend([
                Property::sometimes("a_cas_succeeds", |_, at: &KvState| {
                    at.did == Some(Did::CasSucceed)
                }),
                Property::sometimes("a_cas_fails", |_, at: &KvState| at.did == Some(Did::CasFail)),
            ]);
        }
        if self.reap {
            properties.push(Property::sometimes(
                "a_tombstone_is_reaped_and_one_is_left",
                |_, at: &KvState| {
                    let kv = at.state.kv();
                    kv.reap_floor > at.state.epoch() && kv.graves.iter().any(buried)
                },
            ));
        }
        if self.restore.is_some() {
            properties.extend([
                Property::sometimes("a_restore_replaces_other_entries", |_, at: &KvState| {
                    at.did == Some(Did::RestoreOverOther)
                }),
                Property::sometimes("a_commit_is_refused", |_, at: &KvState| {
                    at.did == Some(Did::RefuseCommit)
                }),
            ]);
        }
        properties
    }
}

fn buried((_, grave): (&u64, &Grave)) -> bool {
    !grave.keys.is_empty()
}

impl Checked for KvModel {
    const KINDS: &'static [&'static str] = &[
        "set",
        "delete",
        "delete tree",
        "read",
        "cas",
        "delete cas",
        "reap",
        "save",
        "piece",
        "commit",
        "bad commit",
    ];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Kv(KvCommand::Set { .. } | KvCommand::Cas { .. }) => 0,
            Action::Kv(KvCommand::Delete { .. } | KvCommand::DeleteCas { .. }) => 1,
            Action::Kv(KvCommand::DeleteTree { .. }) => 2,
            Action::Read(_) => 3,
            Action::Cas(_) => 4,
            Action::DeleteCas => 5,
            Action::Reap(_) => 6,
            Action::Save => 7,
            Action::Piece(_) => 8,
            Action::Commit => 9,
            Action::CommitOtherChecksum | Action::CommitOtherLength => 10,
        }
    }
}

/// The scopes of the replicated state.
pub fn scopes() -> Vec<Scope> {
    vec![
        Scope::new(
            "kv",
            Tier::Ci,
            "three keys, one below the other: writes, CAS, deletes, trees, reaping",
            &[
                "STATE-1", "STATE-2", "STATE-3", "STATE-4", "STATE-5", "STATE-6", "STATE-7",
                "STATE-8", "STATE-9", "STATE-10", "STATE-11", "STATE-12", "STATE-17", "STATE-18",
            ],
            KvModel {
                keys: &["a", "a/b", "b"],
                empty: true,
                values: &["1"],
                flags: &[0],
                trees: &["a", "a/"],
                reader: true,
                reap: true,
                restore: None,
                last: 6,
            },
        ),
        Scope::new(
            "kv-restore",
            Tier::Ci,
            "own archives saved and restored in pieces, between writes and deletes",
            &["STATE-15", "STATE-17"],
            KvModel {
                keys: &["a", "a/b"],
                empty: false,
                values: &["1"],
                flags: &[0],
                trees: &["a"],
                reader: false,
                reap: false,
                restore: Some(Archive::Own),
                last: 7,
            },
        ),
        Scope::new(
            "kv-foreign",
            Tier::Ci,
            "the archive of a cluster with higher indexes restored, then written on, with other flags too",
            &["STATE-3", "STATE-4", "STATE-16"],
            KvModel {
                keys: &["a", "b"],
                empty: false,
                values: &["1"],
                flags: &[0, 1],
                trees: &[""],
                reader: false,
                reap: false,
                restore: Some(Archive::Foreign),
                last: 8,
            },
        ),
    ]
}
