//! The rotation of keys by an operator at one member, with queries and answers that are lost or late, and members that
//! crash (SERF-30 to SERF-36).

use std::{collections::BTreeSet, sync::Arc};

use spec::{
    machine::Event,
    serf::{Command, Config, Key, KeyRequest, Keyring, Message, Packet, Timer},
    swim::Part,
};
use stateright::{Model, Property};

use super::pool::{self, Beginning, Server, Told};
use crate::{Checked, Scope, Tier};

/// The operator's member.
const OPERATOR: usize = 0;

fn key(n: u8) -> Key {
    // A key of 16 bytes is one.
    Key::new(&[n; 16]).unwrap_or_else(|| unreachable!())
}

/// The bounds.
#[derive(Clone, Debug)]
pub struct KeysModel {
    /// How many members there are.
    pub servers: usize,
    /// The keys that they begin with; the first is used.
    pub keys: u8,
    /// Operations that are asked for.
    pub operations: u8,
    /// Members that crash; each may start again.
    pub crashes: u8,
    /// Writes of the keyring that fail.
    pub failures: u8,
    /// Writes of the others may linger, and be lost by a crash.
    pub lingering: bool,
    /// How the members begin; here it is what one of the others does that comes first.
    pub beginning: Beginning,
}

/// The members, and what is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) servers: Vec<Arc<Server>>,
    /// The queries that were asked.
    pub(super) queries: BTreeSet<Message>,
    /// Answers on their way to the operator's member.
    pub(super) answers: BTreeSet<Message>,
    pub(super) operations: u8,
    pub(super) crashes: u8,
    pub(super) failures: u8,
    /// Nobody but the operator's member did anything yet.
    pub(super) alike: bool,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The operator asks for an operation.
    Operate(KeyRequest),
    /// A member hears a query.
    Hear(usize, Message),
    /// The operator's member hears an answer.
    Answer(Message),
    /// The time of the query that runs is over.
    TimeOut,
    /// A member's pending writes become durable.
    Sync(usize),
    /// The pending write of the keyring at this place fails, and is on the disk all the same, or not.
    Fail(usize, usize, bool),
    /// A member stops without a word, with so many of the pending writes.
    Crash(usize, usize),
    /// SWIM tells the operator's member so.
    Gone(usize),
    /// It starts again and joins.
    Restart(usize),
}

fn act(state: &mut State, n: usize, step: impl FnOnce(&mut Server) -> Told) {
    let told = step(Arc::make_mut(&mut state.servers[n]));
    let queries = told.gossip.into_iter().filter(|fact| matches!(fact, Message::Query(_)));
    state.queries.extend(queries);
    for (_, packet) in told.sends {
        let Packet::Packet(parts) = packet else { continue };
        for part in parts {
            if let Part::User(answer @ Message::QueryResponse(_)) = part {
                state.answers.insert(answer);
            }
        }
    }
    // What answers no query that runs does nothing, and none runs twice.
    let running = &state.servers[OPERATOR].machine.running;
    state.answers.retain(|answer| match answer {
        Message::QueryResponse(answer) => running
            .get(&(answer.ltime, answer.id))
            .is_some_and(|running| !running.responses.contains(&answer.from)),
        _ => false,
    });
    // What everybody saw does nothing.
    let heard = |fact: &Message| state.servers.iter().all(|server| has_heard(server, fact));
    state.queries =
        std::mem::take(&mut state.queries).into_iter().filter(|fact| !heard(fact)).collect();
}

fn has_heard(server: &Server, query: &Message) -> bool {
    let Message::Query(query) = query else { return true };
    let mut slots = server.machine.queries.slots();
    query.ltime < server.machine.queries.floor()
        || slots.any(|(ltime, ids)| ltime == query.ltime && ids.contains(&query.id))
}

/// The keyring that a member uses: the one that its host was told of, or, where it is down, the one that it comes back
/// with.
fn used(server: &Server) -> &Keyring {
    if server.up {
        return &server.keyring;
    }
    server.durable.keyring.as_ref().unwrap_or(&server.machine.config.keyring)
}

/// What one encrypts every other decrypts, also one that is down and comes back with the keyring that it has.
fn primary_shared(state: &State) -> bool {
    state.servers.iter().all(|from| {
        let primary = used(from).primary.as_ref();
        primary
            .is_some_and(|primary| state.servers.iter().all(|to| used(to).keys.contains(primary)))
    })
}

/// From this state on, with everybody up, what is under way lost and what follows heard, the operation that runs ends, and
/// another three rotate the key.
fn rotation_goes_on(state: &State) -> bool {
    let mut state = state.clone();
    state.queries.clear();
    state.answers.clear();
    for n in (0..state.servers.len()).filter(|n| *n != OPERATOR) {
        act(&mut state, n, Server::sync);
        if !state.servers[n].up {
            restart(&mut state, n, false);
        }
        Arc::make_mut(&mut state.servers[n]).set_lingering(false);
    }
    deliver(&mut state);
    let rotation =
        [KeyRequest::Install(key(2)), KeyRequest::Use(key(2)), KeyRequest::Remove(key(1))];
    for operation in rotation {
        operate(&mut state, operation);
        deliver(&mut state);
    }
    state.servers.iter().all(|server| is_rotated(used(server)))
}

/// Everybody hears what is asked, and the operator's member what is answered, until an operation is over; what was lost is
/// not waited for longer than its time.
fn deliver(state: &mut State) {
    // An operation is two queries at most; each is over with its last answer, or at its time.
    for _ in 0..8 {
        while !state.queries.is_empty() || !state.answers.is_empty() {
            for query in std::mem::take(&mut state.queries) {
                for n in (0..state.servers.len()).filter(|n| *n != OPERATOR) {
                    act(state, n, |server| server.hear(query.clone()));
                }
            }
            for answer in std::mem::take(&mut state.answers) {
                act(state, OPERATOR, |server| server.hear(answer));
            }
        }
        if !time_out(state) {
            return;
        }
    }
}

fn is_rotated(keyring: &Keyring) -> bool {
    keyring.primary == Some(key(2)) && keyring.keys.len() == 1
}

fn operate(state: &mut State, operation: KeyRequest) {
    let command = Command::Keyring { request: 1, operation, relay_factor: 0 };
    act(state, OPERATOR, |server| server.command(command));
}

/// The time of the query that runs is over, if one runs.
fn time_out(state: &mut State) -> bool {
    let running = state.servers[OPERATOR].machine.running.keys().next().copied();
    let Some((ltime, id)) = running else { return false };
    act(state, OPERATOR, |server| server.step(Event::Fire(Timer::Query(ltime, id))));
    true
}

fn restart(state: &mut State, n: usize, lingering: bool) {
    let durable = state.servers[n].durable.clone();
    let config = Config::clone(&state.servers[n].machine.config);
    state.servers[n] = Arc::new(Server::start(n, &config, durable, lingering));
    pool::join(&mut state.servers, n, OPERATOR);
}

impl Model for KeysModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let keys: Vec<Key> = (1..=self.keys).map(key).collect();
        let change = |config: &mut Config| config.keyring = Keyring::of(&keys);
        let mut servers = pool::pool(self.servers, self.beginning, self.lingering, &change);
        Arc::make_mut(&mut servers[OPERATOR]).set_lingering(false);
        let (queries, answers) = (BTreeSet::new(), BTreeSet::new());
        vec![State {
            servers,
            queries,
            answers,
            operations: 0,
            crashes: 0,
            failures: 0,
            alike: self.beginning == Beginning::Alike,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let operator = &state.servers[OPERATOR];
        if state.operations < self.operations && operator.machine.operation.is_none() {
            let of = |key: &Key| {
                let key = || key.clone();
                [KeyRequest::Install(key()), KeyRequest::Use(key()), KeyRequest::Remove(key())]
            };
            actions.extend(of(&key(2)).map(Action::Operate));
            actions
                .extend([KeyRequest::Use(key(1)), KeyRequest::Remove(key(1))].map(Action::Operate));
        }
        actions.extend(state.answers.iter().cloned().map(Action::Answer));
        if !operator.machine.running.is_empty() {
            actions.push(Action::TimeOut);
        }
        let last = self.servers - 1;
        let others = state.servers.iter().enumerate().filter(|(n, _)| *n != OPERATOR);
        for (n, server) in others.filter(|(n, _)| !state.alike || *n == last) {
            if !server.up {
                actions.push(Action::Restart(n));
                if operator.sees_present(n) {
                    actions.push(Action::Gone(n));
                }
                continue;
            }
            if !server.pending.is_empty() {
                actions.push(Action::Sync(n));
            }
            if state.failures < self.failures {
                let fails = |at| [false, true].map(|landed| Action::Fail(n, at, landed));
                actions.extend(server.pending_keys().flat_map(fails));
            }
            if state.crashes < self.crashes {
                actions.extend((0..=server.pending.len()).map(|kept| Action::Crash(n, kept)));
            }
            let news = state.queries.iter().filter(|query| !has_heard(server, query));
            actions.extend(news.map(|query| Action::Hear(n, query.clone())));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        state.alike &= matches!(action, Action::Operate(_) | Action::Answer(_) | Action::TimeOut);
        match action {
            Action::Operate(operation) => {
                state.operations += 1;
                operate(&mut state, operation);
            }
            Action::Hear(n, query) => act(&mut state, n, |server| server.hear(query)),
            Action::Answer(answer) => act(&mut state, OPERATOR, |server| server.hear(answer)),
            Action::TimeOut => {
                time_out(&mut state);
            }
            Action::Sync(n) => act(&mut state, n, Server::sync),
            Action::Fail(n, at, landed) => {
                state.failures += 1;
                act(&mut state, n, |server| server.fail_write(at, landed));
            }
            Action::Crash(n, kept) => {
                state.crashes += 1;
                Arc::make_mut(&mut state.servers[n]).crash(kept);
            }
            Action::Gone(n) => {
                let death = pool::death(&state.servers[OPERATOR], n, false)?;
                act(&mut state, OPERATOR, |server| pool::receive(server, n, death));
            }
            Action::Restart(n) => restart(&mut state, n, self.lingering),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always("primary_shared", |_, state| primary_shared(state)),
            Property::<Self>::always("primary_is_held", |_, state| {
                state.servers.iter().map(|server| used(server)).all(|keyring| {
                    keyring.primary.as_ref().is_some_and(|key| keyring.keys.contains(key))
                })
            }),
            Property::<Self>::always("rotation_goes_on", |_, state| rotation_goes_on(state)),
            Property::<Self>::sometimes("all_hold_the_new_key", |_, state| {
                state.servers.iter().all(|server| used(server).keys.contains(&key(2)))
            }),
        ];
        if self.operations >= 3 {
            properties.push(Property::<Self>::sometimes("the_key_is_rotated", |_, state| {
                state.servers.iter().all(|server| is_rotated(used(server)))
            }));
        }
        properties
    }
}

impl Checked for KeysModel {
    const KINDS: &'static [&'static str] =
        &["operate", "hear", "answer", "time-out", "sync", "fail", "crash", "gone", "restart"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Operate(_) => 0,
            Action::Hear(..) => 1,
            Action::Answer(_) => 2,
            Action::TimeOut => 3,
            Action::Sync(_) => 4,
            Action::Fail(..) => 5,
            Action::Crash(..) => 6,
            Action::Gone(_) => 7,
            Action::Restart(_) => 8,
        }
    }
}

/// The scopes of keyrings.
pub(super) fn scopes() -> Vec<Scope> {
    let rotation = KeysModel {
        servers: 3,
        keys: 1,
        operations: 3,
        crashes: 0,
        failures: 0,
        lingering: false,
        beginning: Beginning::Joined,
    };
    let late = KeysModel { servers: 2, operations: 4, ..rotation.clone() };
    let crash = KeysModel { servers: 2, crashes: 1, lingering: true, ..rotation.clone() };
    let unwritten = KeysModel { keys: 2, failures: 2, ..crash.clone() };
    let whole = KeysModel { crashes: 1, beginning: Beginning::Alike, ..rotation.clone() };
    vec![
        Scope::new(
            "serf-keys",
            Tier::Ci,
            "Three members, three keyring operations in any order, queries and answers lost or late.",
            &["SERF-30", "SERF-31", "SERF-32", "SERF-33", "SERF-34"],
            rotation,
        ),
        Scope::new(
            "serf-keys-late",
            Tier::Ci,
            "Two members, four keyring operations, of which some come very late.",
            &["SERF-34"],
            late,
        ),
        Scope::new(
            "serf-keys-crash",
            Tier::Ci,
            "Two members whose writes may be lost, three keyring operations, a crash.",
            &["SERF-35", "SERF-36"],
            crash,
        ),
        Scope::new(
            "serf-keys-unwritten",
            Tier::Ci,
            "Two members with two keys, three keyring operations, a crash, and two writes of the keyring that fail.",
            &["SERF-37"],
            unwritten,
        ),
        Scope::new(
            "serf-keys-restart",
            Tier::Deep,
            "Three members, three keyring operations in any order, queries and answers lost or late, a crash and a restart.",
            &["SERF-30", "SERF-31", "SERF-32", "SERF-33", "SERF-34", "SERF-35"],
            whole,
        ),
    ]
}
