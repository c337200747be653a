//! Blocking queries: one client that waits at a server which follows the cluster's log at its own pace.
//!
//! Entries are committed, applied in batches and published, and only then are watches woken, each a step of its own, so
//! that every interleaving with the query's own steps is there. The client got its index from the head of the log, so
//! the server that it asks may lag behind what it knows; when it was answered, it asks again with what it was given.

use spec::{
    raft::Index,
    state::{
        Command, Key, KvCommand, KvEntry, State, Touched, Value,
        blocking::{BlockingQuery, Effect, Event},
        restore,
        snapshot::Saver,
    },
    time::ClusterTime,
};
use stateright::{Model, Property};

use crate::{Checked, Scope, Tier};

/// What is asked, what is written, and how much of both.
#[derive(Clone, Debug)]
pub struct BlockingModel {
    /// What the client asks for.
    pub target: Target,
    /// The commands that may be committed.
    pub commands: Vec<Command>,
    /// Whether a snapshot may be restored.
    pub restore: bool,
    /// How many commands are committed at most.
    pub commits: usize,
    /// How often the client asks.
    pub queries: u8,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One key.
    Key(&'static str),
    /// A list of the keys that start so.
    List(&'static str),
}

/// What a client was told: an index and a result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Known {
    index: u64,
    result: Vec<KvEntry>,
    /// The last entry of the state that it is from.
    at: Index,
}

/// The query under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asking {
    machine: BlockingQuery,
    effect: Effect,
    known: Known,
    /// What it has read last, and from which epoch it read first.
    read: Option<(Known, u64)>,
    registration: Registration,
    slept: bool,
    timed_out: bool,
    /// Whether its server has read a state older than the one that the client knows.
    lagged: bool,
}

/// How its registration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Registration {
    /// There is none, or it is spent.
    None,
    Waits,
    Touched,
}

/// Why an index may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cause {
    /// The result changed.
    Change,
    /// Tombstones were reaped.
    Reap,
    /// A snapshot was restored.
    Restore,
}

/// The cluster, one server of it, and its client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// What all that is committed makes.
    head: State,
    /// The entries that may move the index that is asked for.
    causes: Vec<(Index, Cause)>,
    commits: usize,
    /// What the server has yet to apply.
    pending: Vec<Command>,
    /// What the server has published.
    published: State,
    /// What was published and woke nobody yet.
    unwoken: Vec<Touched>,
    client: Option<Asking>,
    queries: u8,
    /// Whether a query was answered, having slept, because of a change.
    woken_by_change: bool,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// An entry is committed.
    Commit(Command),
    /// A snapshot of what there is, is restored.
    CommitRestore,
    /// The server applies so many entries and publishes the state.
    Publish(usize),
    /// The server wakes the watches of what it has published.
    Wake,
    /// The client asks with what is at the head of the log.
    AskFromHead,
    /// The client asks with what the server answers at once.
    AskFromServer,
    /// The client asks again, with what it was answered.
    AskAgain,
    /// The query does what it needs next.
    Proceed,
    /// The query's time is over.
    TimeOut,
}

impl Target {
    fn result(self, state: &State) -> (u64, Vec<KvEntry>) {
        match self {
            Self::Key(key) => {
                let (index, entry) = state.kv_get(key.as_bytes());
                (index, entry.cloned().into_iter().collect())
            }
            Self::List(prefix) => {
                let (index, entries) = state.kv_list(prefix.as_bytes());
                (index, entries.cloned().collect())
            }
        }
    }

    fn known(self, state: &State) -> Known {
        let (index, result) = self.result(state);
        Known { index, result, at: state.applied().0 }
    }

    /// Whether the registry wakes who waits for this.
    fn is_woken_by(self, touched: &Touched) -> bool {
        match (self, touched) {
            (_, Touched::All) => true,
            (Self::Key(own), Touched::Key(_, key)) => own.as_bytes() == &**key,
            (Self::Key(own), Touched::Prefix(_, tree)) => own.as_bytes().starts_with(tree),
            (Self::List(own), Touched::Key(_, key)) => key.starts_with(own.as_bytes()),
            (Self::List(own), Touched::Prefix(_, tree)) => {
                tree.starts_with(own.as_bytes()) || own.as_bytes().starts_with(tree)
            }
        }
    }
}

fn apply(state: &mut State, command: &Command, touched: &mut Vec<Touched>) {
    let index = Index(state.applied().0.0 + 1);
    state.apply(index, ClusterTime(0), command, touched);
}

impl BlockingModel {
    fn commit(&self, world: &mut World, command: Command) {
        let (_, before) = self.target.result(&world.head);
        let epoch = world.head.epoch();
        apply(&mut world.head, &command, &mut Vec::new());
        let index = world.head.applied().0;
        if self.target.result(&world.head).1 != before {
            world.causes.push((index, Cause::Change));
        }
        if matches!(command, Command::ReapTombstones { .. }) {
            world.causes.push((index, Cause::Reap));
        }
        if world.head.epoch() != epoch {
            world.causes.push((index, Cause::Restore));
        }
        world.pending.push(command);
    }

    /// Does what the query needs; says whether anything could be done.
    fn proceed(&self, world: &mut World) -> bool {
        let Some(client) = &mut world.client else { return false };
        let event = match client.effect {
            Effect::Register => {
                client.registration = Registration::Waits;
                Event::Registered
            }
            Effect::Read | Effect::Reread => {
                let known = self.target.known(&world.published);
                let epoch = world.published.epoch();
                let event =
                    Event::Read { index: known.index, found: !known.result.is_empty(), epoch };
                client.lagged |= known.at < client.known.at;
                let first = client.read.as_ref().map_or(epoch, |(_, first)| *first);
                client.read = Some((known, first));
                event
            }
            Effect::Sleep if client.is_touched() => {
                // A registration is good for one wake-up.
                client.registration = Registration::None;
                Event::Woken
            }
            Effect::Sleep | Effect::Answer { .. } => return false,
        };
        client.effect = client.machine.step(event);
        client.slept |= client.effect == Effect::Sleep;
        let answered = matches!(client.effect, Effect::Answer { .. });
        world.woken_by_change |= answered
            && client.slept
            && !client.timed_out
            && client.is_caused(&world.causes, Cause::Change);
        true
    }
}

impl World {
    fn ask(&mut self, known: Known) {
        let machine = BlockingQuery::new(known.index);
        let effect = machine.start();
        self.queries += 1;
        self.client = Some(Asking {
            machine,
            effect,
            known,
            read: None,
            registration: Registration::None,
            slept: false,
            timed_out: false,
            lagged: false,
        });
    }
}

impl Asking {
    fn is_touched(&self) -> bool {
        self.registration == Registration::Touched
    }

    /// Sleeps, and nothing that was published so far will wake it.
    fn sleeps_on(&self, world: &World) -> bool {
        self.effect == Effect::Sleep && !self.is_touched() && world.unwoken.is_empty()
    }

    /// Whether something happened, by the state that it has read last, that the client doesn't know of.
    fn is_caused(&self, causes: &[(Index, Cause)], cause: Cause) -> bool {
        let read = self.read.as_ref().map(|(read, _)| read.at);
        causes.iter().any(|(at, c)| *c == cause && *at > self.known.at && Some(*at) <= read)
    }

    fn answered(&self) -> Option<u64> {
        match self.effect {
            Effect::Answer { index } => Some(index),
            _ => None,
        }
    }
}

impl Model for BlockingModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut state = State::default();
        // The first entry of a log is a configuration.
        state.advance(Index(1), ClusterTime(0));
        vec![World {
            head: state.clone(),
            causes: Vec::new(),
            commits: 0,
            pending: Vec::new(),
            published: state,
            unwoken: Vec::new(),
            client: None,
            queries: 0,
            woken_by_change: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.commits < self.commits {
            actions.extend(self.commands.iter().cloned().map(Action::Commit));
            if self.restore {
                actions.push(Action::CommitRestore);
            }
        }
        // A batch is published before the next one is applied, and wakes before.
        if world.unwoken.is_empty() {
            actions.extend((1..=world.pending.len()).map(Action::Publish));
        } else {
            actions.push(Action::Wake);
        }
        match &world.client {
            None => actions.extend([Action::AskFromHead, Action::AskFromServer]),
            Some(client) => match client.effect {
                Effect::Answer { .. } if world.queries < self.queries => {
                    actions.push(Action::AskAgain);
                }
                Effect::Answer { .. } => {}
                Effect::Sleep if !client.is_touched() => actions.push(Action::TimeOut),
                Effect::Register | Effect::Read | Effect::Reread | Effect::Sleep => {
                    actions.push(Action::Proceed);
                    if !client.timed_out {
                        actions.push(Action::TimeOut);
                    }
                }
            },
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::Commit(command) => {
                world.commits += 1;
                self.commit(&mut world, command);
            }
            Action::CommitRestore => {
                world.commits += 1;
                let stream: Vec<u8> = Saver::archive(world.head.clone()).flatten().collect();
                for command in restore::commands(1, &stream) {
                    self.commit(&mut world, command);
                }
            }
            Action::Publish(count) => {
                for command in world.pending.drain(..count) {
                    apply(&mut world.published, &command, &mut world.unwoken);
                }
            }
            Action::Wake => {
                let woken = world.unwoken.drain(..).any(|t| self.target.is_woken_by(&t));
                if let Some(client) = &mut world.client
                    && woken
                    && client.registration == Registration::Waits
                {
                    client.registration = Registration::Touched;
                }
            }
            Action::AskFromHead => {
                let known = self.target.known(&world.head);
                world.ask(known);
            }
            Action::AskFromServer => {
                let known = self.target.known(&world.published);
                world.ask(known);
            }
            Action::AskAgain => {
                let (known, _) = world.client.as_ref()?.read.clone()?;
                world.ask(known);
            }
            Action::Proceed => {
                self.proceed(&mut world).then_some(())?;
            }
            Action::TimeOut => {
                let client = world.client.as_mut()?;
                client.timed_out = true;
                client.effect = client.machine.step(Event::TimedOut);
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            // Asleep for good, at a server that has all that the client knows: then the result is what it knows.
            Property::always("no_lost_wakeup", |model: &Self, world: &World| {
                world.client.as_ref().is_none_or(|client| {
                    !client.sleeps_on(world)
                        || world.published.applied().0 < client.known.at
                        || model.target.result(&world.published).1 == client.known.result
                })
            }),
            // Who is answered after a sleep and before his time is told of a change. The exceptions are the price of
            // indexes that never go back, and of not knowing what a client knows that is ahead of its server.
            Property::always("woken_only_by_change", |_, world: &World| {
                world.client.as_ref().is_none_or(|client| {
                    client.answered().is_none()
                        || !client.slept
                        || client.timed_out
                        || client.is_caused(&world.causes, Cause::Change)
                        || client.is_caused(&world.causes, Cause::Restore)
                        || client.is_caused(&world.causes, Cause::Reap)
                        || client.lagged
                })
            }),
            // Before its time is over, a query gives no result that is older than what the client knows, unless all
            // indexes have a new meaning.
            Property::always("answer_is_not_older", |_, world: &World| {
                world.client.as_ref().is_none_or(|client| {
                    let Some((read, first)) = &client.read else { return true };
                    client.answered().is_none()
                        || client.timed_out
                        || client.known.index == 0
                        || *first != world.published.epoch()
                        || (read.index > client.known.index && read.at >= client.known.at)
                })
            }),
            Property::always("answers_with_what_was_read", |_, world: &World| {
                world.client.as_ref().is_none_or(|client| {
                    let read = client.read.as_ref().map(|(read, _)| read.index);
                    client.answered().is_none_or(|index| index >= 1 && Some(index) == read)
                })
            }),
            Property::always("restore_ends_waits", |_, world: &World| {
                world.client.as_ref().is_none_or(|client| {
                    let first = client.read.as_ref().map(|(_, first)| *first);
                    !client.sleeps_on(world) || first == Some(world.published.epoch())
                })
            }),
            Property::sometimes("a_change_wakes", |_, world: &World| world.woken_by_change),
            Property::sometimes("a_change_comes_between_register_and_read", |_, world: &World| {
                world.client.as_ref().is_some_and(|client| {
                    client.is_touched() && matches!(client.effect, Effect::Read | Effect::Reread)
                })
            }),
            Property::sometimes("a_wakeup_finds_nothing_new", |_, world: &World| {
                world.client.as_ref().is_some_and(|client| {
                    client.effect == Effect::Sleep
                        && client.slept
                        && client.read.as_ref().is_some_and(|(read, _)| {
                            read.at > client.known.at && read.result == client.known.result
                        })
                })
            }),
            Property::sometimes("a_query_times_out", |_, world: &World| {
                world.client.as_ref().is_some_and(|c| c.timed_out && c.answered().is_some())
            }),
            Property::sometimes("a_server_lags_behind_its_client", |_, world: &World| {
                world.client.as_ref().is_some_and(|c| c.lagged && c.effect == Effect::Sleep)
            }),
        ];
        if self.restore {
            properties.push(Property::sometimes("a_restore_wakes", |_, world: &World| {
                world.client.as_ref().is_some_and(|client| {
                    client.slept
                        && !client.timed_out
                        && client.answered().is_some()
                        && client.is_caused(&world.causes, Cause::Restore)
                        && !client.is_caused(&world.causes, Cause::Change)
                })
            }));
        }
        properties
    }
}

impl Checked for BlockingModel {
    const KINDS: &'static [&'static str] =
        &["commit", "restore", "publish", "wake", "ask", "ask again", "proceed", "time out"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Commit(_) => 0,
            Action::CommitRestore => 1,
            Action::Publish(_) => 2,
            Action::Wake => 3,
            Action::AskFromHead | Action::AskFromServer => 4,
            Action::AskAgain => 5,
            Action::Proceed => 6,
            Action::TimeOut => 7,
        }
    }
}

fn set(key: &str) -> Command {
    Command::Kv(KvCommand::Set { key: Key::from(key), value: Value::from("1"), flags: 0 })
}

fn delete(key: &str) -> Command {
    Command::Kv(KvCommand::Delete { key: Key::from(key) })
}

fn delete_tree(prefix: &str) -> Command {
    Command::Kv(KvCommand::DeleteTree { prefix: Key::from(prefix) })
}

/// The scopes of blocking queries.
pub fn scopes() -> Vec<Scope> {
    let clauses =
        &["BLOCK-1", "BLOCK-2", "BLOCK-3", "BLOCK-4", "BLOCK-5", "BLOCK-6", "BLOCK-7", "BLOCK-8"];
    let scope = |name, about, model| Scope::new(name, Tier::Ci, about, clauses, model);
    let reap = || Command::ReapTombstones { up_to: u64::MAX };
    vec![
        scope(
            "blocking-key",
            "a query for a key that comes and goes, beside another key",
            BlockingModel {
                target: Target::Key("a/b"),
                commands: vec![set("a/b"), delete("a/b"), set("b"), delete_tree("a")],
                restore: false,
                commits: 4,
                queries: 2,
            },
        ),
        scope(
            "blocking-list",
            "a query for a list, with trees that go above and below it, and reaping",
            BlockingModel {
                target: Target::List("a/"),
                commands: vec![set("a/b"), set("a"), delete_tree("a"), delete("a/b"), reap()],
                restore: false,
                commits: 4,
                queries: 1,
            },
        ),
        scope(
            "blocking-restore",
            "a query for a key while snapshots are restored",
            BlockingModel {
                target: Target::Key("a"),
                commands: vec![set("a"), delete("a")],
                restore: true,
                commits: 3,
                queries: 2,
            },
        ),
    ]
}
