//! A suspicion in a pool of six, as the observer's clock goes on: others confirm it, in any order, at any time, over
//! and over; it runs out exactly at its deadline, or is refuted.
//!
//! The deadline is computed here from the formula that Lifeguard gives, in floating point, and from the set of those
//! who accused: the machine's own sums have no part in it.

use std::{collections::BTreeSet, time::Duration};

use spec::{
    entropy::Least,
    machine::{Context, Effect, Event, Machine, Ticket},
    swim::{
        Config, Durable, Incarnation, Message, Name, NoLayer, Part, Peer, Status, Suspect, Timer,
    },
    time::Instant,
};
use stateright::{Model, Property};

use super::world::{Fact, Node, Says, address, endpoint, name};
use crate::{Checked, Scope, Tier};

/// The suspect.
const SUSPECT: usize = 1;
/// How many members there are.
const MEMBERS: usize = 6;
/// How far the clock goes at a time.
const TICK: Duration = Duration::from_secs(2);

/// The bounds.
#[derive(Clone, Debug)]
pub struct SuspicionModel {
    /// The least suspicion, in probe intervals.
    pub mult: u32,
    /// How often the suspect may refute.
    pub refutations: u32,
}

/// The observer, its clock and its one timer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    node: Node,
    now: Instant,
    deadline: Option<Instant>,
    accusers: BTreeSet<Name>,
    started: Instant,
    later: bool,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A member accuses the suspect.
    Accuse(usize),
    /// The suspect refutes.
    Refute,
    /// Time passes, to the deadline at most.
    Tick,
    /// The deadline is there.
    Expire,
}

impl SuspicionModel {
    fn config(&self) -> Config<NoLayer> {
        Config { suspicion_mult: self.mult, ..Config::lan(name(0), endpoint(address(0, 0)), ()) }
    }

    fn step(state: &mut State, event: Event<Node>) {
        let (mut effects, mut ticket) = (Vec::new(), Ticket::NONE);
        let mut cx = Context { now: state.now, entropy: &mut Least, last_ticket: &mut ticket };
        state.node.step(event, &mut cx, &mut effects);
        for effect in effects {
            match effect {
                Effect::Arm { timer: Timer::Suspicion(_), delay } => {
                    state.deadline = Some(state.now.after(delay));
                }
                Effect::Disarm { timer: Timer::Suspicion(_) } => state.deadline = None,
                Effect::Persist { .. }
                | Effect::Send { .. }
                | Effect::Emit { .. }
                | Effect::Arm { .. }
                | Effect::Disarm { .. } => {}
            }
        }
        // What is gossiped is of no interest here.
        state.node.queue = spec::swim::broadcast::Queue::default();
    }

    fn hear(state: &mut State, part: Part<NoLayer>) {
        let from = Peer::Endpoint(endpoint(address(2, 0)));
        let message = Message::Packet(vec![part]);
        Self::step(state, Event::Receive { from, message });
    }

    /// The formula, from the names of those who accused.
    fn expected(&self, state: &State) -> (Instant, Instant, Instant) {
        let wanted = f64::from(self.mult - 2);
        let confirmed = f64::from(u32::try_from(state.accusers.len()).unwrap_or(1) - 1).min(wanted);
        // With six members the logarithm is below 1, and counts as 1.
        let (min, max) = (f64::from(self.mult), 6.0 * f64::from(self.mult));
        let share = if wanted > 0.0 { (confirmed + 1.0).ln() / (wanted + 1.0).ln() } else { 1.0 };
        let lasts = (max - share * (max - min)).max(min);
        let at = |seconds: f64| state.started.after(Duration::from_secs_f64(seconds));
        let most = if wanted > 0.0 { max } else { min };
        (at(lasts), at(min), at(most))
    }

    /// The deadline is the formula's to the millisecond, or it has just passed.
    fn deadline_is_right(&self, state: &State) -> bool {
        let Some(deadline) = state.deadline else { return true };
        let (right, least, most) = self.expected(state);
        let near = deadline.0.abs_diff(right.0) <= 1000;
        let due = deadline == state.now && right <= state.now;
        (near || due) && deadline.0 + 1000 >= least.0 && deadline.0 <= most.0 + 1000
    }
}

/// From this state on a suspicion that nobody refutes ends in death at its deadline, and one that is refuted ends in life.
fn suspicion_ends(state: &State) -> bool {
    let Some(known) = state.node.members.get(&name(SUSPECT)) else { return false };
    if known.status != Status::Suspect {
        return true;
    }
    let status = |state: &State| state.node.members.get(&name(SUSPECT)).map(|m| m.status);
    let mut unrefuted = state.clone();
    let Some(deadline) = unrefuted.deadline.take() else { return false };
    unrefuted.now = deadline;
    SuspicionModel::step(&mut unrefuted, Event::Fire(Timer::Suspicion(name(SUSPECT))));
    let mut refuted = state.clone();
    let says = Says::Alive { address: address(SUSPECT, 0), meta: 0 };
    let incarnation = known.incarnation.0 + 1;
    SuspicionModel::hear(&mut refuted, Fact { subject: SUSPECT, incarnation, says }.part());
    status(&unrefuted) == Some(Status::Dead)
        && status(&refuted) == Some(Status::Alive)
        && refuted.deadline.is_none()
}

impl Model for SuspicionModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (mut effects, mut ticket) = (Vec::new(), Ticket::NONE);
        let mut cx = Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut ticket };
        let node = Node::recover(&self.config(), Durable::default(), &mut cx, &mut effects);
        let mut state = State {
            node,
            now: Instant(0),
            deadline: None,
            accusers: BTreeSet::new(),
            started: Instant(0),
            later: false,
        };
        Self::step(&mut state, Event::Durable(ticket));
        for n in 1..MEMBERS {
            let says = Says::Alive { address: address(n, 0), meta: 0 };
            Self::hear(&mut state, Fact { subject: n, incarnation: 1, says }.part());
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let Some(known) = state.node.members.get(&name(SUSPECT)) else { return };
        if known.status.is_gone() {
            return;
        }
        // Others by their word, the observer by its own.
        actions.extend((0..MEMBERS).filter(|n| *n != SUSPECT).map(Action::Accuse));
        if known.status == Status::Suspect {
            actions.push(if state.deadline <= Some(state.now) {
                Action::Expire
            } else {
                Action::Tick
            });
            if known.incarnation.0 <= self.refutations {
                actions.push(Action::Refute);
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let known = state.node.members.get(&name(SUSPECT))?;
        match action {
            Action::Accuse(n) => {
                if next.accusers.is_empty() {
                    next.started = next.now;
                }
                next.accusers.insert(name(n));
                let incarnation = known.incarnation;
                let accusation = Suspect { incarnation, node: name(SUSPECT), from: name(n) };
                Self::hear(&mut next, Part::Suspect(accusation));
                next.later = state.deadline.is_some() && next.deadline > state.deadline;
            }
            Action::Refute => {
                let incarnation = Incarnation(known.incarnation.0 + 1).0;
                let says = Says::Alive { address: address(SUSPECT, 0), meta: 0 };
                Self::hear(&mut next, Fact { subject: SUSPECT, incarnation, says }.part());
                next.accusers.clear();
                // Every suspicion begins alike, whenever it does.
                next.now = Instant(0);
                next.started = Instant(0);
            }
            Action::Tick => {
                let deadline = state.deadline.unwrap_or(state.now);
                next.now = state.now.after(TICK).min(deadline);
            }
            Action::Expire => {
                next.deadline = None;
                Self::step(&mut next, Event::Fire(Timer::Suspicion(name(SUSPECT))));
            }
        }
        for member in next.node.members.values_mut() {
            member.since = Instant(0);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        type P = Property<SuspicionModel>;
        vec![
            P::always("suspicion_deadline", Self::deadline_is_right),
            P::always("deadline_never_moves_back", |_, state| !state.later),
            P::always("suspicion_ends", |_, state| suspicion_ends(state)),
            P::always("accusers_count_once", |_, state| {
                spec::swim::invariant::accusers_count_once(&state.node)
            }),
            P::always("a_suspect_has_a_deadline", |_, state| {
                let suspect = state.node.members.get(&name(SUSPECT)).map(|m| m.status);
                (suspect == Some(Status::Suspect)) == state.deadline.is_some()
            }),
            P::sometimes("a_suspicion_runs_out", |_, state| {
                let suspect = state.node.members.get(&name(SUSPECT)).map(|m| m.status);
                suspect == Some(Status::Dead)
            }),
            P::sometimes("all_confirm", |model, state| {
                state.node.suspicions.values().any(|s| s.confirmations == model.mult - 2)
            }),
        ]
    }
}

impl Checked for SuspicionModel {
    const KINDS: &'static [&'static str] = &["accuse", "refute", "tick", "expire"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Accuse(_) => 0,
            Action::Refute => 1,
            Action::Tick => 2,
            Action::Expire => 3,
        }
    }
}

/// The scopes of suspicions.
pub fn scopes() -> Vec<Scope> {
    let of = |name, about, mult| {
        let model = SuspicionModel { mult, refutations: 1 };
        Scope::new(name, Tier::Ci, about, &["SWIM-19", "SWIM-20", "SWIM-21"], model)
    };
    vec![
        of("swim-suspicion", "A suspicion that two others may confirm, in a pool of six.", 4),
        of("swim-suspicion-four", "A suspicion that four others may confirm, in a pool of six.", 6),
    ]
}
