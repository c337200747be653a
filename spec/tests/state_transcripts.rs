//! Transcripts of the replicated state: each file in `tests/state` is a list of commands, reads and blocking queries, and
//! what came of them.
//!
//! `BLESS=1 cargo test -p spec --test state_transcripts` writes the answers afresh; read the difference before it is
//! committed.

#![allow(clippy::unwrap_used, reason = "a transcript that makes no sense stops the test")]

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use spec::{
    raft::Index,
    state::{
        Command, Key, KvCommand, KvEntry, Outcome, State, Touched, Value,
        blocking::{BlockingQuery, Effect, Event},
        restore,
        snapshot::Saver,
    },
    time::ClusterTime,
};

const MINUTE: u64 = 60_000;

/// A query that waits for a key or a list.
struct Query {
    machine: BlockingQuery,
    effect: Effect,
    list: bool,
    name: String,
    touched: bool,
}

struct World {
    state: State,
    minutes: u64,
    archives: BTreeMap<String, Vec<u8>>,
    queries: BTreeMap<String, Query>,
    out: String,
}

fn bytes(word: &str) -> &[u8] {
    if word == "-" { b"" } else { word.as_bytes() }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn describe(entry: &KvEntry) -> String {
    let KvEntry { key, value, flags, create_index, modify_index, .. } = entry;
    format!("{key:?}={value:?} flags {flags} created {create_index} modified {modify_index}")
}

impl World {
    fn new() -> Self {
        let mut state = State::default();
        state.advance(Index(1), ClusterTime(0));
        Self {
            state,
            minutes: 0,
            archives: BTreeMap::new(),
            queries: BTreeMap::new(),
            out: String::new(),
        }
    }

    fn say(&mut self, text: &str) {
        writeln!(self.out, "  {text}").unwrap();
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let kv = |command| Some(Command::Kv(command));
        let command = match words[..] {
            ["put", key, value] => {
                kv(KvCommand::Set { key: key.into(), value: value.into(), flags: 0 })
            }
            ["put", key, value, flags] => {
                let flags = number(flags);
                kv(KvCommand::Set { key: key.into(), value: value.into(), flags })
            }
            ["cas", key, value, index] => {
                let (key, value, index) = (Key::from(key), Value::from(value), number(index));
                kv(KvCommand::Cas { key, value, flags: 0, index })
            }
            ["delete", key] => kv(KvCommand::Delete { key: bytes(key).into() }),
            ["delete-cas", key, index] => {
                kv(KvCommand::DeleteCas { key: key.into(), index: number(index) })
            }
            ["delete-tree", prefix] => kv(KvCommand::DeleteTree { prefix: bytes(prefix).into() }),
            _ => None,
        };
        match (command, &words[..]) {
            (Some(command), _) => self.apply(&command),
            (None, ["pass", minutes]) => self.minutes += number(minutes),
            (None, ["reap"]) => match self.state.reapable(ClusterTime(self.minutes * MINUTE)) {
                Some(up_to) => self.apply(&Command::ReapTombstones { up_to }),
                None => self.say("nothing is old enough"),
            },
            (None, ["get", key]) => {
                let (index, entry) = self.state.kv_get(bytes(key));
                let text = entry.map_or("missing".to_owned(), describe);
                self.say(&format!("index {index}: {text}"));
            }
            (None, ["list", prefix]) => {
                let state = self.state.clone();
                let (index, entries) = state.kv_list(bytes(prefix));
                self.say(&format!("index {index}"));
                entries.for_each(|entry| self.say(&describe(entry)));
            }
            (None, ["keys", prefix]) => self.keys(prefix, None),
            (None, ["keys", prefix, separator]) => self.keys(prefix, Some(separator)),
            (None, ["save", name]) => {
                let stream = Saver::archive(self.state.clone()).flatten().collect();
                self.archives.insert((*name).to_owned(), stream);
            }
            (None, ["damage", name, at]) => {
                let at = usize::try_from(number(at)).unwrap();
                self.archives.get_mut(*name).unwrap()[at] ^= 1;
            }
            (None, ["restore", name]) => {
                for command in restore::commands(1, &self.archives[*name].clone()) {
                    self.apply(&command);
                }
            }
            (None, ["watch", query, "get", key, index]) => self.watch(query, false, key, index),
            (None, ["watch", query, "list", prefix, index]) => {
                self.watch(query, true, prefix, index);
            }
            (None, ["timeout", query]) => {
                let mut asked = self.queries.remove(*query).unwrap();
                asked.effect = asked.machine.step(Event::TimedOut);
                self.drive(query, asked);
            }
            _ => panic!("what is {line}?"),
        }
    }

    fn keys(&mut self, prefix: &str, separator: Option<&str>) {
        let (index, keys) = self.state.kv_keys(bytes(prefix), separator.map(str::as_bytes));
        self.say(&format!("index {index}: {keys:?}"));
    }

    fn apply(&mut self, command: &Command) {
        let index = Index(self.state.applied().0.0 + 1);
        let mut touched = Vec::new();
        let time = ClusterTime(self.minutes * MINUTE);
        let outcome = self.state.apply(index, time, command, &mut touched);
        let outcome = match outcome {
            Outcome::Applied(outcome) => format!("{outcome}"),
            Outcome::Refused(reason) => format!("refused: {reason}"),
        };
        self.say(&format!("{} {outcome}, touched {touched:?}", self.state.index()));
        for (name, mut query) in std::mem::take(&mut self.queries) {
            query.touched |= touched.iter().any(|touched| query.is_woken_by(touched));
            self.drive(&name, query);
        }
    }

    fn watch(&mut self, query: &str, list: bool, name: &str, index: &str) {
        let machine = BlockingQuery::new(number(index));
        let effect = machine.start();
        let name = name.to_owned();
        self.drive(query, Query { machine, effect, list, name, touched: false });
    }

    fn drive(&mut self, name: &str, mut query: Query) {
        loop {
            let event = match query.effect {
                Effect::Register => {
                    query.touched = false;
                    Event::Registered
                }
                Effect::Read | Effect::Reread => {
                    let key = bytes(&query.name);
                    let (index, found) = if query.list {
                        let (index, mut entries) = self.state.kv_list(key);
                        (index, entries.next().is_some())
                    } else {
                        let (index, entry) = self.state.kv_get(key);
                        (index, entry.is_some())
                    };
                    Event::Read { index, found, epoch: self.state.epoch() }
                }
                Effect::Sleep if query.touched => {
                    self.say(&format!("{name} wakes"));
                    Event::Woken
                }
                Effect::Sleep => {
                    self.say(&format!("{name} sleeps"));
                    self.queries.insert(name.to_owned(), query);
                    return;
                }
                Effect::Answer { index } => {
                    self.say(&format!("{name} is answered, index {index}"));
                    return;
                }
            };
            query.effect = query.machine.step(event);
        }
    }
}

impl Query {
    fn is_woken_by(&self, touched: &Touched) -> bool {
        let own = bytes(&self.name);
        match touched {
            Touched::All => true,
            Touched::Key(_, key) if self.list => key.starts_with(own),
            Touched::Key(_, key) => **key == *own,
            Touched::Prefix(_, tree) => {
                own.starts_with(tree) || (self.list && tree.starts_with(own))
            }
        }
    }
}

#[test]
fn transcripts_say_what_the_state_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state");
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let mut differ = Vec::new();
    for file in files {
        let expected = fs::read_to_string(&file).unwrap();
        let mut world = World::new();
        for line in expected.lines().filter(|line| !line.starts_with("  ")) {
            writeln!(world.out, "{line}").unwrap();
            if let Some(command) = line.strip_prefix("> ") {
                world.run(command);
            }
        }
        if std::env::var_os("BLESS").is_some() {
            fs::write(&file, &world.out).unwrap();
        } else if world.out != expected {
            differ.push(format!("{}\n{}", file.display(), world.out));
        }
    }
    assert!(differ.is_empty(), "these say otherwise:\n{}", differ.join("\n"));
}
