//! Refused streams: a member is probed while its datagrams are lost. Its process dies, is started again or not, and its
//! system refuses streams exactly while nobody listens; a stream may be lost as well, at any time.
//!
//! The observer's clock is here: timers fire in the order of their deadlines, those that are due together in any order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use spec::{
    entropy::Least,
    machine::{Context, Effect, Event, Machine, Ticket},
    swim::{
        Ack, Command, Config, Durable, Message, NoLayer, Peer, Status, Timer, refusal::Refusal,
    },
    time::Instant,
};
use stateright::{Model, Property};

use super::world::{Fact, Node, Says, address, endpoint, name};
use crate::{Checked, Scope, Tier};

/// Who is probed; the other one relays, and says nothing.
const SUSPECT: usize = 1;
const MEMBERS: usize = 3;
/// How long a suspect that is refused has to come back.
const RESPITE: Duration = Duration::from_secs(1);

const WHOLE_TIME: &str = "who_listens_has_the_whole_time";
const TWICE: &str = "the_hastened_were_refused_twice";
const TIME: &str = "a_suspect_has_time_to_come_back";
const ON_TIME: &str = "the_refused_die_in_time";
const HASTENED: &str = "a_process_that_is_gone_is_dead_early";
const EXCUSED: &str = "who_is_back_answers";

/// The bounds.
#[derive(Clone, Debug)]
pub struct RefusalModel {
    /// How often the suspect's process dies.
    pub deaths: u8,
    /// How often it is started again.
    pub starts: u8,
    /// How many timers fire.
    pub fires: u8,
}

/// The observer, its timers, and the suspect's process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    node: Node,
    now: Instant,
    timers: BTreeMap<Timer, Instant>,
    fires: u8,
    /// The pings on streams that are under way.
    streams: BTreeSet<u32>,
    up: bool,
    deaths: u8,
    starts: u8,
    /// The suspect's last incarnation, and whether it has announced it.
    incarnation: u32,
    announced: bool,
    /// When the suspicion began.
    suspected: Option<Instant>,
    /// When the suspect was refused first.
    refused: Option<Instant>,
    /// What was met so far.
    met: BTreeSet<&'static str>,
    broken: BTreeSet<&'static str>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A timer fires.
    Fire(Timer),
    /// The suspect's system refuses a stream.
    Refuse(u32),
    /// A stream is lost: it breaks, or takes too long.
    Lose(u32),
    /// The suspect answers on a stream.
    Answer(u32),
    /// Its process dies.
    Die,
    /// It is started again.
    Restart,
    /// Its announcement arrives.
    Announce,
}

impl RefusalModel {
    fn step(state: &mut State, event: Event<Node>) {
        let (mut effects, mut ticket) = (Vec::new(), Ticket::NONE);
        let mut cx = Context { now: state.now, entropy: &mut Least, last_ticket: &mut ticket };
        state.node.step(event, &mut cx, &mut effects);
        for effect in effects {
            match effect {
                Effect::Arm { timer, delay } => {
                    state.timers.insert(timer, state.now.after(delay));
                }
                Effect::Disarm { timer } => drop(state.timers.remove(&timer)),
                Effect::Send { message: Message::StreamPing(ping), .. } => {
                    state.streams.insert(ping.seq);
                }
                Effect::Persist { .. } | Effect::Send { .. } | Effect::Emit { .. } => {}
            }
        }
        // What is gossiped is of no interest here, and the suspect is always the next.
        let node = &mut state.node;
        node.queue = spec::swim::broadcast::Queue::default();
        node.next = node.order.iter().position(|other| **other == *name(SUSPECT)).unwrap_or(0);
    }

    fn status(state: &State) -> Option<Status> {
        state.node.members.get(&name(SUSPECT)).map(|member| member.status)
    }

    fn peer() -> Peer {
        Peer::Endpoint(endpoint(address(SUSPECT, 0)))
    }

    fn announcement(incarnation: u32) -> Event<Node> {
        let says = Says::Alive { address: address(SUSPECT, 0), meta: 0 };
        let part = Fact { subject: SUSPECT, incarnation, says }.part();
        Event::Receive { from: Self::peer(), message: Message::Packet(vec![part]) }
    }

    /// What was believed before the step is held against what is believed after it.
    fn observe(before: &State, state: &mut State, action: &Action) {
        let (was, is) = (Self::status(before), Self::status(state));
        if is != Some(Status::Suspect) {
            state.suspected = None;
        } else if was != Some(Status::Suspect) {
            state.suspected = Some(state.now);
        }
        if is != Some(Status::Dead) || was == Some(Status::Dead) {
            return;
        }
        if matches!(action, Action::Fire(Timer::Suspicion(_))) {
            return;
        }
        state.met.insert(HASTENED);
        if state.up {
            state.broken.insert(WHOLE_TIME);
        }
        let long_ago = |at: Instant| at.after(RESPITE) <= state.now;
        if !state.refused.is_some_and(long_ago) {
            state.broken.insert(TWICE);
        }
        if !before.suspected.is_some_and(long_ago) {
            state.broken.insert(TIME);
        }
    }
}

impl Model for RefusalModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let config = Config {
            awareness_max: 1,
            ..Config::<NoLayer>::lan(name(0), endpoint(address(0, 0)), ())
        };
        let (mut effects, mut ticket) = (Vec::new(), Ticket::NONE);
        let mut cx = Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut ticket };
        let node = Node::recover(&config, Durable::default(), &mut cx, &mut effects);
        let mut state = State {
            node,
            now: Instant(0),
            timers: BTreeMap::new(),
            fires: 0,
            streams: BTreeSet::new(),
            up: true,
            deaths: 0,
            starts: 0,
            incarnation: 1,
            announced: true,
            suspected: None,
            refused: None,
            met: BTreeSet::new(),
            broken: BTreeSet::new(),
        };
        Self::step(&mut state, Event::Durable(ticket));
        Self::step(&mut state, Self::announcement(1));
        for n in 2..MEMBERS {
            let says = Says::Alive { address: address(n, 0), meta: 0 };
            let part = Fact { subject: n, incarnation: 1, says }.part();
            let from = Peer::Endpoint(endpoint(address(n, 0)));
            let message = Message::Packet(vec![part]);
            Self::step(&mut state, Event::Receive { from, message });
        }
        Self::step(&mut state, Event::Fire(Timer::Probe));
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if Self::status(state) == Some(Status::Dead) {
            return;
        }
        if state.fires < self.fires {
            let next = state.timers.values().min();
            let due = state.timers.iter().filter(|(_, at)| Some(*at) == next);
            actions.extend(due.map(|(timer, _)| Action::Fire(timer.clone())));
        }
        for seq in &state.streams {
            actions.push(if state.up { Action::Answer(*seq) } else { Action::Refuse(*seq) });
            actions.push(Action::Lose(*seq));
        }
        if state.up && state.deaths < self.deaths {
            actions.push(Action::Die);
        }
        if !state.up && state.starts < self.starts {
            actions.push(Action::Restart);
        }
        if state.up && !state.announced {
            actions.push(Action::Announce);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let to = endpoint(address(SUSPECT, 0));
        let failed = |refused| Event::Command(Command::StreamFailed { to, refused });
        match &action {
            Action::Fire(timer) => {
                next.fires += 1;
                next.now = state.timers.get(timer).copied()?;
                next.timers.remove(timer);
                Self::step(&mut next, Event::Fire(timer.clone()));
            }
            Action::Refuse(seq) => {
                next.streams.remove(seq);
                next.refused.get_or_insert(state.now);
                Self::step(&mut next, failed(true));
            }
            Action::Lose(seq) => {
                next.streams.remove(seq);
                Self::step(&mut next, failed(false));
            }
            Action::Answer(seq) => {
                next.streams.remove(seq);
                let message = Message::StreamAck(Ack { seq: *seq, payload: None });
                Self::step(&mut next, Event::Receive { from: Self::peer(), message });
                let refusal = |state: &State| {
                    state.node.suspicions.get(&name(SUSPECT)).map(|suspicion| suspicion.refusal)
                };
                if refusal(state) == Some(Refusal::Trying) && refusal(&next) == Some(Refusal::None)
                {
                    next.met.insert(EXCUSED);
                }
            }
            Action::Die => {
                next.deaths += 1;
                next.up = false;
            }
            Action::Restart => {
                next.starts += 1;
                next.up = true;
                next.incarnation += 1;
                next.announced = false;
            }
            Action::Announce => {
                next.announced = true;
                next.refused = None;
                Self::step(&mut next, Self::announcement(state.incarnation));
            }
        }
        Self::observe(state, &mut next, &action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        type P = Property<RefusalModel>;
        vec![
            P::always(WHOLE_TIME, |_, state| !state.broken.contains(WHOLE_TIME)),
            P::always(TWICE, |_, state| !state.broken.contains(TWICE)),
            P::always(TIME, |_, state| !state.broken.contains(TIME)),
            P::always(ON_TIME, |_, state| {
                let suspicion = Timer::Suspicion(name(SUSPECT));
                state.suspected.is_some() == state.timers.contains_key(&suspicion)
            }),
            P::sometimes(HASTENED, |_, state| state.met.contains(HASTENED)),
            P::sometimes(EXCUSED, |_, state| state.met.contains(EXCUSED)),
            P::sometimes("who_is_not_refused_dies_later", |_, state| {
                Self::status(state) == Some(Status::Dead) && !state.met.contains(HASTENED)
            }),
            P::sometimes("a_refused_suspect_refutes", |_, state| {
                state.starts > 0 && state.announced && Self::status(state) == Some(Status::Alive)
            }),
        ]
    }
}

impl Checked for RefusalModel {
    const KINDS: &'static [&'static str] =
        &["fire", "refuse", "lose", "answer", "die", "restart", "announce"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Fire(_) => 0,
            Action::Refuse(_) => 1,
            Action::Lose(_) => 2,
            Action::Answer(_) => 3,
            Action::Die => 4,
            Action::Restart => 5,
            Action::Announce => 6,
        }
    }
}

/// The scope of refused streams.
pub fn scopes() -> Vec<Scope> {
    let model = RefusalModel { deaths: 2, starts: 1, fires: 12 };
    let about = "A member whose process dies and comes back, on a network that loses datagrams.";
    vec![Scope::new("swim-refusal", Tier::Ci, about, &["SWIM-16", "SWIM-32"], model)]
}
