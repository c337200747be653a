//! User events: gossip, push/pulls, crashes that lose what was not written, and hostile Lamport times (SERF-1, SERF-2,
//! SERF-20 to SERF-24).

use std::{collections::BTreeSet, sync::Arc};

use spec::serf::{
    Command, Config, LamportTime, Message, Output, UserEvent, lamport::Limits,
    message::UserEventMessage,
};
use stateright::{Model, Property};

use super::pool::{self, Server, Told};
use crate::{Checked, Scope, Tier};

const LIMITS: Limits = Limits { max: 64, jump: 6 };
/// A member with so many pending writes waits for its disk.
const MAX_PENDING: usize = 2;
/// The latest time of the members' clocks.
const MAX_MEMBERS_LTIME: u64 = 7;
const TEXTS: [&str; 2] = ["x", "y"];

/// The bounds.
#[derive(Clone, Debug)]
pub struct EventsModel {
    /// How many members there are.
    pub servers: usize,
    /// Events that are fired.
    pub fired: u8,
    /// How many texts they may have.
    pub texts: usize,
    /// How many times the rings remember.
    pub window: u64,
    /// Members that crash and start again; never the first.
    pub crashes: u8,
    /// Events with a time that an adversary chose.
    pub hostile: u8,
    /// Writes of all but the first may linger, and be lost by a crash.
    pub lingering: bool,
}

/// What steps showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Seen {
    delivered_twice: bool,
    clock_went_back: bool,
    crash_lost_a_write: bool,
    dropped_a_time: bool,
    dropped_an_old_one: bool,
}

type Fact = (LamportTime, UserEvent);

/// The members, and what was gossiped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    servers: Vec<Arc<Server>>,
    facts: BTreeSet<Fact>,
    /// Which events each host was told, over all its lives.
    delivered: BTreeSet<(usize, Fact)>,
    seen: Seen,
    fired: u8,
    crashes: u8,
    hostile: u8,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A member's host fires an event with this text.
    Fire(usize, usize),
    /// A member hears an event.
    Hear(usize, Fact),
    /// The first asks the second for a push/pull.
    PushPull(usize, usize),
    /// A member's pending writes become durable.
    Sync(usize),
    /// A member crashes, with so many of the pending writes, starts again, and joins through the other.
    Crash(usize, usize, usize),
    /// A member hears an event that an adversary made.
    Hostile(usize, u64),
}

fn event(text: &str) -> UserEvent {
    UserEvent { name: "deploy".into(), payload: text.as_bytes().into() }
}

fn message((ltime, event): Fact) -> Message {
    Message::UserEvent(UserEventMessage { ltime, event, coalesce: false })
}

fn note(state: &mut State, n: usize, told: Told) {
    for output in told.outputs {
        match output {
            Output::Event { ltime, event, .. } => {
                state.seen.delivered_twice |= !state.delivered.insert((n, (ltime, event)));
            }
            Output::Counted(spec::serf::Counter::OldEvent) => state.seen.dropped_an_old_one = true,
            Output::Counted(spec::serf::Counter::ImplausibleTime) => {
                state.seen.dropped_a_time = true;
            }
            _ => {}
        }
    }
    for message in told.gossip {
        if let Message::UserEvent(message) = message {
            state.facts.insert((message.ltime, message.event));
        }
    }
}

fn act(state: &mut State, n: usize, step: impl FnOnce(&mut Server) -> Told) {
    let server = Arc::make_mut(&mut state.servers[n]);
    let before = server.machine.events.clock.time();
    let told = step(server);
    state.seen.clock_went_back |= server.machine.events.clock.time() < before;
    note(state, n, told);
}

fn push_pull(state: &mut State, from: usize, to: usize) {
    let (asked, answer) = (state.servers[from].push_pull(), state.servers[to].push_pull());
    act(state, to, |server| pool::receive(server, from, asked));
    act(state, from, |server| pool::receive(server, to, answer));
}

/// An event within what a member remembers, that it has not taken, is taken when it is heard: two that bear one time are
/// two.
fn none_lost(state: &State) -> bool {
    state.servers.iter().all(|server| {
        let ring = &server.machine.events;
        state.facts.iter().all(|(ltime, event)| {
            let taken = ring.slots().any(|(at, slot)| at == *ltime && slot.contains(event));
            let next = ring.clock.time().0.max(ltime.0.saturating_add(1)).saturating_sub(ring_window(server));
            if taken || *ltime < ring.floor() || ltime.0 < next || !ring.clock.admits(*ltime) {
                return true;
            }
            let mut server = Server::clone(server);
            let mut told = server.hear(message((*ltime, event.clone())));
            told.outputs.extend(server.sync().outputs);
            told.outputs.iter().any(|output| {
                matches!(output, Output::Event { ltime: at, event: e, .. } if at == ltime && e == event)
            })
        })
    })
}

fn ring_window(server: &Server) -> u64 {
    server.machine.config.window
}

/// From this state on, once everybody has exchanged with everybody, an event that somebody fires is news to all the
/// others: no message, hostile or not, ends that.
fn own_events_are_news(state: &State) -> bool {
    let mut state = state.clone();
    for n in 0..state.servers.len() {
        act(&mut state, n, Server::sync);
    }
    for _ in 0..2 {
        for a in 0..state.servers.len() {
            for b in (0..state.servers.len()).filter(|b| *b != a) {
                push_pull(&mut state, a, b);
            }
        }
    }
    (0..state.servers.len()).all(|n| {
        let mut origin = Server::clone(&state.servers[n]);
        let command = Command::Event { request: 1, event: event("new"), coalesce: false };
        let Some(fired) = origin.command(command).gossip.pop() else { return false };
        state.servers.iter().filter(|other| other.n != n).all(|other| {
            let mut other = Server::clone(other);
            let mut outputs = other.hear(fired.clone()).outputs;
            outputs.extend(other.sync().outputs);
            outputs.iter().any(|output| {
                matches!(output, Output::Event { event, .. } if *event == self::event("new"))
            })
        })
    })
}

impl EventsModel {
    fn change(&self) -> impl Fn(&mut Config) + use<> {
        let window = self.window;
        move |config| {
            config.window = window;
            config.limits = LIMITS;
        }
    }
}

impl Model for EventsModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut servers =
            pool::pool(self.servers, pool::Beginning::Joined, self.lingering, &self.change());
        Arc::make_mut(&mut servers[0]).set_lingering(false);
        vec![State {
            servers,
            facts: BTreeSet::new(),
            delivered: BTreeSet::new(),
            seen: Seen::default(),
            fired: 0,
            crashes: 0,
            hostile: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (n, server) in state.servers.iter().enumerate() {
            let others = (0..self.servers).filter(move |other| *other != n);
            if !server.pending.is_empty() {
                actions.push(Action::Sync(n));
            }
            if state.crashes < self.crashes && n > 0 {
                for kept in 0..=server.pending.len() {
                    actions.extend(others.clone().map(|via| Action::Crash(n, kept, via)));
                }
            }
            if server.pending.len() >= MAX_PENDING {
                continue;
            }
            if state.fired < self.fired {
                actions.extend((0..self.texts).map(|text| Action::Fire(n, text)));
            }
            // What is in the ring is known, whatever else it holds.
            let known = |(ltime, event): &Fact| {
                let mut slots = server.machine.events.slots();
                slots.any(|(at, slot)| at == *ltime && slot.contains(event))
            };
            let heard = state
                .facts
                .iter()
                .filter(|fact| !known(fact) || self.crashes == 0 && self.fired < 3);
            actions.extend(heard.map(|fact| Action::Hear(n, fact.clone())));
            let ready = |other: &usize| state.servers[*other].pending.len() < MAX_PENDING;
            actions.extend(others.filter(ready).map(|other| Action::PushPull(n, other)));
            if state.hostile < self.hostile {
                let clock = server.machine.events.clock.time().0;
                let ahead = clock.saturating_add(LIMITS.jump);
                let times = [
                    ahead,
                    ahead.saturating_add(1),
                    LIMITS.max - 1,
                    LIMITS.max,
                    u64::MAX - 1,
                    u64::MAX,
                ];
                actions.extend(times.map(|ltime| Action::Hostile(n, ltime)));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        match action {
            Action::Fire(n, text) => {
                state.fired += 1;
                let event = event(TEXTS[text]);
                let command = Command::Event { request: 1, event, coalesce: false };
                act(&mut state, n, |server| server.command(command));
            }
            Action::Hear(n, fact) => act(&mut state, n, |server| server.hear(message(fact))),
            Action::PushPull(from, to) => push_pull(&mut state, from, to),
            Action::Sync(n) => act(&mut state, n, Server::sync),
            Action::Crash(n, kept, via) => {
                state.crashes += 1;
                let server = Arc::make_mut(&mut state.servers[n]);
                state.seen.crash_lost_a_write |= kept < server.pending.len();
                server.crash(kept);
                let durable = server.durable.clone();
                let config = pool::config(n, &self.change());
                let lingering = self.lingering;
                state.servers[n] = Arc::new(Server::start(n, &config, durable, lingering));
                let told = pool::join(&mut state.servers, n, via);
                for (who, told) in told {
                    note(&mut state, who, told);
                }
            }
            Action::Hostile(n, ltime) => {
                state.hostile += 1;
                let fact = (LamportTime(ltime), event("hostile"));
                act(&mut state, n, |server| server.hear(message(fact)));
            }
        }
        Some(state)
    }

    /// What a push/pull makes members say of themselves is the members' scopes' business.
    fn within_boundary(&self, state: &State) -> bool {
        let mut clocks = state.servers.iter().map(|server| server.machine.members.clock.time().0);
        clocks.all(|time| time <= MAX_MEMBERS_LTIME)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always("delivered_at_most_once", |_, s| !s.seen.delivered_twice),
            Property::<Self>::always("clocks_never_go_back", |_, s| !s.seen.clock_went_back),
            Property::<Self>::always("none_lost", |_, state| none_lost(state)),
            Property::<Self>::always("own_events_are_news", |_, state| own_events_are_news(state)),
        ];
        if self.texts > 1 {
            properties.push(Property::<Self>::sometimes("two_events_bear_one_time", |_, state| {
                let times: Vec<_> = state.facts.iter().map(|(ltime, _)| *ltime).collect();
                times.windows(2).any(|pair| pair[0] == pair[1])
            }));
        }
        if self.hostile > 0 {
            properties.push(Property::<Self>::sometimes("a_time_is_refused", |_, state| {
                state.seen.dropped_a_time
            }));
        }
        if self.lingering && self.crashes > 0 {
            properties.push(Property::<Self>::sometimes("a_crash_loses_a_write", |_, state| {
                state.seen.crash_lost_a_write
            }));
            properties.push(Property::<Self>::sometimes("an_old_event_is_refused", |_, state| {
                state.seen.dropped_an_old_one
            }));
        }
        properties
    }
}

impl Checked for EventsModel {
    const KINDS: &'static [&'static str] =
        &["fire", "hear", "push-pull", "sync", "crash", "hostile"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Fire(..) => 0,
            Action::Hear(..) => 1,
            Action::PushPull(..) => 2,
            Action::Sync(_) => 3,
            Action::Crash(..) => 4,
            Action::Hostile(..) => 5,
        }
    }
}

/// The scopes of events.
pub(super) fn scopes() -> Vec<Scope> {
    let window = EventsModel {
        servers: 3,
        fired: 3,
        texts: 2,
        window: 2,
        crashes: 0,
        hostile: 0,
        lingering: false,
    };
    let hostile = EventsModel { servers: 2, fired: 2, hostile: 2, ..window.clone() };
    let crash = EventsModel {
        servers: 2,
        fired: 1,
        texts: 1,
        crashes: 1,
        lingering: true,
        ..window.clone()
    };
    vec![
        Scope::new(
            "serf-events",
            Tier::Ci,
            "Three members fire three events, and remember two times.",
            &["SERF-20", "SERF-21", "SERF-22"],
            window,
        ),
        Scope::new(
            "serf-events-hostile",
            Tier::Ci,
            "Two members hear two events whose times an adversary chose.",
            &["SERF-1", "SERF-2"],
            hostile,
        ),
        Scope::new(
            "serf-events-crash",
            Tier::Ci,
            "Two members, of which one fires an event; one loses what was not written, and starts again.",
            &["SERF-23", "SERF-24"],
            crash,
        ),
    ]
}
