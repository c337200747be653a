//! Membership: members that accuse each other wrongly, crash and restart, leave, move and forget, and what they say,
//! which may reach anybody at any time, any number of times, or never.
//!
//! What was said stays said: a statement that is never delivered is lost, one that is delivered twice is repeated. It
//! may reach every member that is up, whoever it was sent to, and each part of a datagram may arrive alone: so the
//! model covers every choice of whom to gossip to, every order, and every delay. What is queued counts as said at once,
//! to nobody in particular, so no number of transmissions has to be counted.

mod heal;
mod observe;
pub mod probe;
pub mod refusal;
pub mod suspicion;
#[cfg(test)]
mod tests;
pub mod world;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex},
};

use spec::{
    gate::Gate,
    machine::Event,
    swim::{Command, Config, Durable, Incarnation, Message, Name, NoLayer, Peer, Status, Timer},
    time::Instant,
};
use stateright::{Model, Property};
use world::{
    Begun, Fact, Hashed, LATER, Run, Says, Seat, Spent, State, address, config, name, place,
};

use crate::{Checked, Scope, Tier};

/// What a step came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A statement was heard.
    Hear(Fact),
    /// A suspicion ran out.
    Expire(Name),
    /// Tables were exchanged.
    Exchange,
    /// Anything else.
    Other,
}

/// How often each fault may happen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budgets {
    /// Accusations of members that are there.
    pub accusations: u8,
    /// Crashes; each may be followed by a restart.
    pub crashes: u8,
    /// Restarts at another address.
    pub moves: u8,
    /// Leavings.
    pub leaves: u8,
    /// Times that a member forgets those that are gone.
    pub reaps: u8,
    /// Changes of metadata.
    pub updates: u8,
}

/// The bounds.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent settings")]
pub struct SwimModel {
    /// How many members there are.
    pub members: usize,
    /// The faults.
    pub budgets: Budgets,
    /// The highest incarnation.
    pub highest: u32,
    /// Statements that nobody made: deaths of the last member, at these incarnations.
    pub forged: Vec<u32>,
    /// Whether a write may linger, and be lost by a crash; else it is durable at once.
    pub lingering: bool,
    /// Whether healing is asked of every state.
    pub healing: bool,
    /// Whether statements that can't do anything any more are forgotten. Only a test keeps them.
    pub forgets: bool,
    /// Whether statements that are no news to a member reach it all the same: they must change nothing.
    pub old_news: bool,
    /// Whether the first thing that goes wrong befalls the last member, by the first one's doing. Only a test lets it
    /// befall anybody.
    pub symmetric: bool,
    /// The states of the members that are known to heal.
    healed: Arc<Mutex<HashSet<u64>>>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A statement reaches a member.
    Hear(usize, Fact),
    /// A member probes another, and hears nothing.
    Accuse(usize, usize),
    /// A suspicion runs out.
    Expire(usize, Name),
    /// A member exchanges its table with another.
    Exchange(usize, usize),
    /// The pending writes become durable.
    Sync(usize),
    /// A member crashes; so many of its pending writes survive.
    Crash(usize, usize),
    /// It starts again, somewhere else or not.
    Restart(usize, bool),
    /// It leaves.
    Leave(usize),
    /// It forgets those that are gone.
    Reap(usize),
    /// Its metadata changes.
    Update(usize),
}

impl SwimModel {
    fn new(members: usize, budgets: Budgets) -> Self {
        Self {
            members,
            budgets,
            highest: 9,
            forged: Vec::new(),
            lingering: false,
            healing: true,
            forgets: true,
            old_news: false,
            symmetric: true,
            healed: Arc::default(),
        }
    }

    fn config(&self, n: usize, address: u16) -> Config<NoLayer> {
        config(n, self.members, address, self.highest)
    }

    /// All know each other.
    fn start(&self) -> State {
        let seats = (0..self.members).map(|n| {
            let mut run = Run::start(&self.config(n, address(n, 0)), Durable::default(), false);
            run.settle();
            Hashed::new(run.seat)
        });
        let mut state = State {
            seats: seats.collect(),
            begun: vec![Begun::default(); self.members],
            said: BTreeSet::new(),
            spent: Spent::default(),
            broken: BTreeSet::new(),
        };
        for a in 0..self.members {
            for b in 0..a {
                heal::exchange(self, &mut state, a, b);
            }
        }
        let last = self.members - 1;
        let forged = self.forged.iter().map(|incarnation| Fact {
            subject: last,
            incarnation: *incarnation,
            says: Says::Dead,
        });
        state.said.extend(forged);
        state
    }

    /// A member does something; gives what it sent besides statements.
    fn act(
        &self,
        state: &mut State,
        n: usize,
        what: impl FnOnce(&mut Run),
    ) -> Vec<(Peer, Message<NoLayer>)> {
        self.act_on(state, n, &Cause::Exchange, what)
    }

    fn act_on(
        &self,
        state: &mut State,
        n: usize,
        cause: &Cause,
        what: impl FnOnce(&mut Run),
    ) -> Vec<(Peer, Message<NoLayer>)> {
        let before = Arc::clone(&state.seats[n]);
        let mut run = Run::new(&before.value, self.lingering);
        what(&mut run);
        run.settle();
        observe::observe(state, &before.value, &mut run, cause, self.highest);
        state.said.extend(run.facts);
        state.seats[n] = Hashed::new(run.seat);
        run.sent
    }

    fn crash(state: &mut State, n: usize, kept: usize) {
        let mut seat = state.seats[n].value.clone();
        if let Some((_, write)) = kept.checked_sub(1).and_then(|last| seat.pending.get(last)) {
            seat.durable = *write;
        }
        seat.node = None;
        seat.gate = Gate::default();
        seat.pending.clear();
        seat.armed.clear();
        seat.gossips = false;
        seat.present.clear();
        seat.graves.clear();
        state.seats[n] = Hashed::new(seat);
    }

    fn restart(&self, state: &mut State, n: usize, elsewhere: bool) {
        let seat = &state.seats[n].value;
        let (durable, mut at) = (seat.durable, seat.address);
        if elsewhere {
            state.spent.moves += 1;
            at = address(n, state.spent.moves);
        }
        let mut run = Run::start(&self.config(n, at), durable, self.lingering);
        run.settle();
        // Nobody speaks of more than was durable.
        let earlier = state.begun[n].earlier.max(durable.incarnation.0);
        let first = run.seat.node.as_ref().map_or(0, |node| node.incarnation().0);
        state.begun[n] = Begun { first, earlier };
        state.said.extend(run.facts);
        state.seats[n] = Hashed::new(run.seat);
    }

    /// Whether nothing has gone wrong yet: then all members are alike, and what goes wrong first may be taken to befall
    /// the last one, by the first one's doing. Forged deaths tell the last one from the others.
    fn is_fresh(&self, state: &State) -> bool {
        self.symmetric && self.forged.is_empty() && state.spent == Spent::default()
    }

    fn faults(&self, state: &State, n: usize, actions: &mut Vec<Action>) {
        let (spent, budgets, seat) = (state.spent, self.budgets, &state.seats[n].value);
        let befalls = !self.is_fresh(state) || n + 1 == self.members;
        let Some(node) = &seat.node else {
            actions.push(Action::Restart(n, false));
            if spent.moves < budgets.moves {
                actions.push(Action::Restart(n, true));
            }
            return;
        };
        // Whoever has left stops, as a rule.
        if befalls && (spent.crashes < budgets.crashes || node.leaving.is_some()) {
            actions.extend((0..=seat.pending.len()).map(|kept| Action::Crash(n, kept)));
        }
        if befalls && spent.leaves < budgets.leaves && node.leaving.is_none() && seat.speaks() {
            actions.push(Action::Leave(n));
        }
        if befalls && spent.updates < budgets.updates && node.leaving.is_none() && seat.speaks() {
            actions.push(Action::Update(n));
        }
        let gone = |member: &spec::swim::Member| {
            member.status.is_gone() && member.name != node.config.name
        };
        if spent.reaps < budgets.reaps && node.members.values().any(gone) {
            actions.push(Action::Reap(n));
        }
    }

    fn accusations(&self, state: &State, n: usize, actions: &mut Vec<Action>) {
        let seat = &state.seats[n].value;
        for target in (0..self.members).filter(|target| *target != n) {
            let Some((_, Status::Alive, at)) = seat.believes(target) else { continue };
            let there =
                state.seats[target].value.node.is_some() && state.seats[target].value.address == at;
            let fresh = self.is_fresh(state) && (n, target) != (0, self.members - 1);
            if !there || state.spent.accusations < self.budgets.accusations && !fresh {
                actions.push(Action::Accuse(n, target));
            }
        }
    }
}

impl Model for SwimModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (n, seat) in state.seats.iter().enumerate() {
            self.faults(state, n, actions);
            if seat.value.node.is_none() {
                continue;
            }
            if !seat.value.pending.is_empty() {
                actions.push(Action::Sync(n));
            }
            let is_heard = |fact: &&Fact| self.old_news || !is_no_news(&seat.value, n, **fact);
            let news = state.said.iter().filter(is_heard);
            actions.extend(news.map(|fact| Action::Hear(n, *fact)));
            actions
                .extend(seat.value.armed.iter().map(|name| Action::Expire(n, Name::clone(name))));
            if seat.value.speaks() {
                self.accusations(state, n, actions);
                let others = (0..self.members)
                    .filter(|other| *other != n && state.seats[*other].value.speaks());
                actions.extend(others.map(|other| Action::Exchange(n, other)));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Hear(n, fact) => {
                let event = heal::hear(fact);
                self.act_on(&mut next, n, &Cause::Hear(fact), |run| run.event(event, Instant(0)));
            }
            Action::Accuse(n, target) => {
                let (seat, at) =
                    (&state.seats[target].value, state.seats[n].value.believes(target));
                let there = at.is_some_and(|(_, _, at)| at == seat.address);
                next.spent.accusations += u8::from(there && seat.node.is_some());
                let target = name(target);
                self.act_on(&mut next, n, &Cause::Other, |run| run.fail_probe(&target));
            }
            Action::Expire(n, suspect) => {
                let cause = Cause::Expire(Name::clone(&suspect));
                self.act_on(&mut next, n, &cause, |run| {
                    run.seat.armed.remove(&suspect);
                    run.event(Event::Fire(Timer::Suspicion(suspect)), Instant(0));
                });
            }
            Action::Exchange(a, b) => heal::exchange(self, &mut next, a, b),
            Action::Sync(n) => drop(self.act_on(&mut next, n, &Cause::Other, Run::write_back)),
            Action::Crash(n, kept) => {
                next.spent.crashes += u8::from(state.seats[n].value.stays());
                Self::crash(&mut next, n, kept);
            }
            Action::Restart(n, elsewhere) => self.restart(&mut next, n, elsewhere),
            Action::Leave(n) => {
                next.spent.leaves += 1;
                let leave = Event::Command(Command::Leave { request: 0 });
                self.act_on(&mut next, n, &Cause::Other, |run| run.event(leave, Instant(0)));
            }
            Action::Reap(n) => {
                next.spent.reaps += 1;
                self.act_on(&mut next, n, &Cause::Other, |run| {
                    if let Some(node) = &mut run.seat.node {
                        node.next = node.order.len();
                    }
                    run.event(Event::Fire(Timer::Probe), LATER);
                });
            }
            Action::Update(n) => {
                next.spent.updates += 1;
                let meta = Arc::from([next.spent.updates]);
                let update = Event::Command(Command::Update { meta });
                self.act_on(&mut next, n, &Cause::Other, |run| run.event(update, Instant(0)));
            }
        }
        if self.forgets {
            forget_dead_statements(self, &mut next);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties(self)
    }
}

/// Whether a statement changes nothing at a member, as it stands: it knows better.
fn is_no_news(seat: &Seat, n: usize, fact: Fact) -> bool {
    let Some((known, status, at)) = seat.believes(fact.subject) else {
        return fact.subject == n || !matches!(fact.says, Says::Alive { .. });
    };
    if fact.subject == n {
        // Accusations it answers, new or not.
        return matches!(fact.says, Says::Alive { .. }) && fact.incarnation <= known.0;
    }
    match fact.says {
        Says::Alive { address, .. } => fact.incarnation <= known.0 && address == at,
        Says::Suspect => fact.incarnation < known.0 || status.is_gone(),
        Says::Dead | Says::Left => {
            fact.incarnation < known.0 || fact.incarnation == known.0 && status.is_gone()
        }
    }
}

/// A statement is dead where nobody is down or may go down, forget or move any more, and it is no news to anybody: what
/// each believes only goes up from there. The test below shows that no state of the members is lost by it.
fn forget_dead_statements(model: &SwimModel, state: &mut State) {
    let (spent, budgets) = (state.spent, model.budgets);
    let stable = spent.crashes == budgets.crashes
        && spent.reaps == budgets.reaps
        && budgets.moves == 0
        && budgets.leaves == 0
        && state.seats.iter().all(|seat| seat.value.node.is_some());
    if !stable {
        return;
    }
    let dead = |fact: &Fact| {
        let below = fact.incarnation < model.highest;
        below
            && state.seats.iter().enumerate().all(|(n, seat)| {
                let belief = seat.value.believes(fact.subject);
                let higher = belief.is_some_and(|(known, ..)| known.0 > fact.incarnation);
                // An accusation that is left behind makes its owner speak again; what it says then must be said.
                higher
                    || n != fact.subject && belief.is_some() && is_no_news(&seat.value, n, *fact)
                    || n == fact.subject
                        && matches!(fact.says, Says::Alive { .. })
                        && belief.is_some_and(|(known, ..)| known.0 >= fact.incarnation)
            })
    };
    let dead: Vec<Fact> = state.said.iter().copied().filter(dead).collect();
    for fact in dead {
        state.said.remove(&fact);
    }
}

/// Whether the members satisfy what must hold of each of them.
fn each(state: &State, holds: fn(&world::Node) -> bool) -> bool {
    state.seats.iter().filter_map(|seat| seat.value.node.as_ref()).all(holds)
}

/// The highest incarnation of a member that its disk has, or may get.
fn owned(seat: &Seat) -> u32 {
    seat.durable.incarnation.0
}

/// Nobody speaks of an incarnation that its owner has not taken, durably (P1).
fn only_the_owner_raises(model: &SwimModel, state: &State) -> bool {
    let forged =
        |fact: &Fact| fact.subject + 1 == model.members && model.forged.contains(&fact.incarnation);
    let said = state.said.iter().filter(|fact| !forged(fact));
    let taken = |n: usize, incarnation: u32| incarnation <= owned(&state.seats[n].value);
    let believed = (0..model.members).all(|n| {
        (0..model.members).filter(|other| *other != n).all(|other| {
            let belief = state.seats[n].value.believes(other);
            belief.is_none_or(|(incarnation, ..)| {
                taken(other, incarnation.0) || model.forged.contains(&incarnation.0)
            })
        })
    });
    believed && said.into_iter().all(|fact| taken(fact.subject, fact.incarnation))
}

/// An incarnation has one content: no two runs announce the same one differently.
fn one_content_each(model: &SwimModel, state: &State) -> bool {
    let mut contents: BTreeMap<(usize, u32), (u16, Vec<u8>)> = BTreeMap::new();
    let mut is_new = |at: (usize, u32), content: (u16, Vec<u8>)| {
        at.1 >= model.highest || *contents.entry(at).or_insert_with(|| content.clone()) == content
    };
    for fact in &state.said {
        if let Says::Alive { address, meta } = fact.says {
            let meta = if meta == 0 { Vec::new() } else { vec![meta] };
            if !is_new((fact.subject, fact.incarnation), (address, meta)) {
                return false;
            }
        }
    }
    state.seats.iter().filter_map(|seat| seat.value.node.as_ref()).all(|node| {
        node.members.values().all(|member| {
            let Some(subject) = place(&member.name) else { return true };
            // What it was when it was last announced may be older than what is accused.
            let announced = member.status == Status::Alive;
            let content = (member.endpoint.port(), member.meta.to_vec());
            !announced || is_new((subject, member.incarnation.0), content)
        })
    })
}

/// The host was told of everybody who is there, and of nobody else.
fn host_knows(state: &State) -> bool {
    state.seats.iter().filter(|seat| seat.value.speaks()).all(|seat| {
        let Some(node) = &seat.value.node else { return true };
        let here = node.members.values().filter(|member| !member.status.is_gone());
        here.map(|member| &member.name).eq(seat.value.present.iter())
    })
}

/// A suspicion runs, and its timer is armed, exactly for the suspects.
fn suspects_have_a_deadline(state: &State) -> bool {
    state.seats.iter().all(|seat| {
        let Some(node) = &seat.value.node else { return true };
        let suspects = node.members.values().filter(|member| member.status == Status::Suspect);
        let suspects: BTreeSet<_> = suspects.map(|member| &member.name).collect();
        suspects.iter().copied().eq(seat.value.armed.iter())
            && suspects.into_iter().eq(node.suspicions.keys())
    })
}

fn broke(state: &State, property: &str) -> bool {
    state.broken.contains(property)
}

fn properties(model: &SwimModel) -> Vec<Property<SwimModel>> {
    use spec::swim::invariant as local;
    type P = Property<SwimModel>;
    let mut properties = vec![
        P::always("only_the_owner_raises", only_the_owner_raises),
        P::always("one_content_each", one_content_each),
        P::always("host_knows", |_, state| host_knows(state)),
        P::always("suspects_have_a_deadline", |_, state| suspects_have_a_deadline(state)),
        P::always(observe::MONOTONE, |_, state| !broke(state, observe::MONOTONE)),
        P::always(observe::NO_RESURRECTION, |_, state| !broke(state, observe::NO_RESURRECTION)),
        P::always(observe::EARLIER, |_, state| !broke(state, observe::EARLIER)),
        P::always(observe::DEAD_AFTER_SUSPICION, |_, state| {
            !broke(state, observe::DEAD_AFTER_SUSPICION)
        }),
        P::always(observe::REFUTATION, |_, state| !broke(state, observe::REFUTATION)),
        P::always(observe::STALE, |_, state| !broke(state, observe::STALE)),
        P::always(observe::ADDRESS, |_, state| !broke(state, observe::ADDRESS)),
        P::always(observe::LEAVES, |_, state| !broke(state, observe::LEAVES)),
        P::always(observe::NO_WRAP, |_, state| !broke(state, observe::NO_WRAP)),
        P::always("alive_unless_leaving", |_, state| each(state, local::alive_unless_leaving)),
        P::always("every_suspicion_runs", |_, state| each(state, local::every_suspicion_runs)),
        P::always("accusers_count_once", |_, state| each(state, local::accusers_count_once)),
        P::always("health_in_range", |_, state| each(state, local::health_in_range)),
        P::always("bounds_kept", |_, state| each(state, local::bounds_kept)),
        P::always("one_word_about_each", |_, state| each(state, local::one_word_about_each)),
        P::always("what_waits_is_gossiped", |_, state| {
            state.seats.iter().all(|seat| seat.value.gossips_what_waits())
        }),
    ];
    if model.healing {
        properties.push(P::always("heals", heal::heals));
    }
    properties.extend(occurrences(model));
    properties
}

/// What has to occur, or nothing was checked.
fn occurrences(model: &SwimModel) -> Vec<Property<SwimModel>> {
    type P = Property<SwimModel>;
    fn any(
        state: &State,
        holds: impl Fn(usize, &Seat, usize, Incarnation, Status, u16) -> bool,
    ) -> bool {
        let count = state.seats.len();
        (0..count).any(|n| {
            let seat = &state.seats[n].value;
            (0..count).filter(|other| *other != n).any(|other| {
                seat.believes(other)
                    .is_some_and(|(i, status, at)| holds(n, seat, other, i, status, at))
            })
        })
    }
    let budgets = model.budgets;
    let mut properties = vec![P::sometimes("a_dead_member_is_alive_again", |_, state| {
        any(state, |_, seat, other, i, status, _| {
            let was_dead = state.said.iter().any(|fact| {
                fact.subject == other && fact.says == Says::Dead && fact.incarnation < i.0
            });
            was_dead && status == Status::Alive && seat.stays()
        })
    })];
    if budgets.accusations > 0 {
        properties.push(P::sometimes("a_live_member_is_taken_for_dead", |_, state| {
            any(state, |_, _, other, _, status, _| {
                status == Status::Dead && state.seats[other].value.stays()
            })
        }));
        properties.push(P::sometimes("a_suspicion_is_refuted", |_, state| {
            any(state, |_, _, other, i, status, _| {
                status == Status::Alive
                    && i.0 > 1
                    && state.spent.crashes == 0
                    && state.seats[other].value.stays()
            })
        }));
    }
    if budgets.crashes > 0 {
        properties.push(P::sometimes("a_member_restarts", |_, state| {
            state.spent.crashes > 0
                && state.seats.iter().all(|seat| seat.value.node.is_some())
                && any(state, |_, _, _, i, status, _| status == Status::Alive && i.0 > 1)
        }));
    }
    if budgets.leaves > 0 {
        properties.push(P::sometimes("a_member_is_known_to_have_left", |_, state| {
            any(state, |_, _, _, _, status, _| status == Status::Left)
        }));
    }
    if budgets.moves > 0 {
        properties.push(P::sometimes("a_name_is_reclaimed", |_, state| {
            any(state, |_, _, _, _, status, at| status == Status::Alive && at > 100)
        }));
    }
    if model.lingering && budgets.crashes > 0 {
        properties.push(P::sometimes("a_claim_is_lost_with_its_disk", |_, state| {
            state.spent.crashes > 0
                && state.seats.iter().any(|seat| seat.value.node.is_none())
                && state.said.iter().any(|fact| {
                    fact.says == Says::Suspect
                        && fact.incarnation == owned(&state.seats[fact.subject].value)
                })
        }));
    }
    if model.highest < 9 {
        properties.push(P::sometimes("the_highest_incarnation_is_reached", |model, state| {
            state.seats.iter().any(|seat| owned(&seat.value) == model.highest)
        }));
    }
    properties
}

impl Checked for SwimModel {
    const KINDS: &'static [&'static str] = &[
        "hear", "accuse", "expire", "exchange", "sync", "crash", "restart", "leave", "reap",
        "update",
    ];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Hear(..) => 0,
            Action::Accuse(..) => 1,
            Action::Expire(..) => 2,
            Action::Exchange(..) => 3,
            Action::Sync(_) => 4,
            Action::Crash(..) => 5,
            Action::Restart(..) => 6,
            Action::Leave(_) => 7,
            Action::Reap(_) => 8,
            Action::Update(_) => 9,
        }
    }

    fn diagram(&self, path: &[(State, Option<Action>)]) -> String {
        let mut lines = vec!["sequenceDiagram".to_owned()];
        lines.extend((0..self.members).map(|n| format!("    participant {}", name(n))));
        for action in path.iter().filter_map(|(_, action)| action.as_ref()) {
            lines.push(match action {
                Action::Hear(n, fact) => {
                    let Fact { subject, incarnation, says } = fact;
                    format!(
                        "    Note over {}: hears {says:?} of {} at {incarnation}",
                        name(*n),
                        name(*subject)
                    )
                }
                Action::Accuse(n, target) => {
                    format!("    {}-x{}: ping, unanswered", name(*n), name(*target))
                }
                Action::Expire(n, who) => {
                    format!("    Note over {}: suspicion of {who} runs out", name(*n))
                }
                Action::Exchange(a, b) => format!("    {}->>{}: push/pull", name(*a), name(*b)),
                Action::Sync(n) => format!("    Note over {}: writes become durable", name(*n)),
                Action::Crash(n, kept) => {
                    format!("    Note over {}: crash, {kept} pending writes survive", name(*n))
                }
                Action::Restart(n, elsewhere) => {
                    let at = if *elsewhere { " at another address" } else { "" };
                    format!("    Note over {}: restarts{at}", name(*n))
                }
                Action::Leave(n) => format!("    Note over {}: leaves", name(*n)),
                Action::Reap(n) => format!("    Note over {}: forgets the dead", name(*n)),
                Action::Update(n) => format!("    Note over {}: changes its metadata", name(*n)),
            });
        }
        lines.join("\n")
    }
}

/// The scopes of membership.
pub fn scopes() -> Vec<Scope> {
    let none = Budgets::default();
    let three = |budgets| SwimModel::new(3, budgets);
    let disk = |budgets| SwimModel { lingering: true, ..SwimModel::new(2, budgets) };
    let saturated =
        |budgets| SwimModel { highest: 2, forged: vec![3, u32::MAX], ..SwimModel::new(3, budgets) };
    let mut scopes = vec![
        Scope::new(
            "swim",
            Tier::Ci,
            "Three members, three false suspicions.",
            &["SWIM-1", "SWIM-3", "SWIM-4", "SWIM-6", "SWIM-8", "SWIM-9", "SWIM-11", "SWIM-12"],
            three(Budgets { accusations: 3, ..none }),
        ),
        Scope::new(
            "swim-crash",
            Tier::Ci,
            "Three members: a false suspicion, a crash, a restart.",
            &["SWIM-2", "SWIM-3", "SWIM-6", "SWIM-7", "SWIM-13", "SWIM-14", "SWIM-21"],
            three(Budgets { accusations: 1, crashes: 1, ..none }),
        ),
        Scope::new(
            "swim-disk",
            Tier::Ci,
            "Two members whose writes linger and may be lost: a false suspicion, a crash, new metadata.",
            &["SWIM-1", "SWIM-2", "SWIM-7", "SWIM-31"],
            disk(Budgets { accusations: 1, crashes: 1, updates: 1, ..none }),
        ),
        Scope::new(
            "swim-disk-leave",
            Tier::Ci,
            "Two members whose writes linger and may be lost: a false suspicion, a leaving.",
            &["SWIM-1", "SWIM-5", "SWIM-7", "SWIM-28"],
            disk(Budgets { accusations: 1, leaves: 1, ..none }),
        ),
        Scope::new(
            "swim-leave",
            Tier::Ci,
            "Three members: a false suspicion, and one leaves and comes back.",
            &["SWIM-5", "SWIM-28", "SWIM-29", "SWIM-31"],
            three(Budgets { accusations: 1, leaves: 1, ..none }),
        ),
        Scope::new(
            "swim-move",
            Tier::Ci,
            "Three members: a false suspicion, and one crashes and comes back, there or elsewhere.",
            &["SWIM-2", "SWIM-6", "SWIM-29"],
            three(Budgets { accusations: 1, crashes: 1, moves: 1, ..none }),
        ),
        Scope::new(
            "swim-reap",
            Tier::Ci,
            "Three members: two false suspicions, and one forgets another; what is no news comes again.",
            &["SWIM-3", "SWIM-13", "SWIM-30", "SWIM-31"],
            SwimModel { old_news: true, ..three(Budgets { accusations: 2, reaps: 1, ..none }) },
        ),
        Scope::new(
            "swim-saturated",
            Tier::Ci,
            "Three members whose incarnations end at 2, and forged deaths beyond; two false suspicions.",
            &["SWIM-6", "SWIM-10"],
            saturated(Budgets { accusations: 2, ..none }),
        ),
        Scope::new(
            "swim-saturated-three",
            Tier::Deep,
            "Three members whose incarnations end at 2, and forged deaths beyond; three false suspicions.",
            &["SWIM-6", "SWIM-10"],
            saturated(Budgets { accusations: 3, ..none }),
        ),
        Scope::new(
            "swim-restarts",
            Tier::Ci,
            "Three members: two crashes and restarts.",
            &["SWIM-2", "SWIM-3", "SWIM-6", "SWIM-7"],
            three(Budgets { crashes: 2, ..none }),
        ),
        Scope::new(
            "swim-reap-move",
            Tier::Deep,
            "Three members: two false suspicions, one crashes and comes back, there or elsewhere, one forgets another.",
            &["SWIM-3", "SWIM-6", "SWIM-29", "SWIM-30"],
            three(Budgets { accusations: 2, crashes: 1, moves: 1, reaps: 1, ..none }),
        ),
        Scope::new(
            "swim-four",
            Tier::Deep,
            "Four members, two false suspicions.",
            &["SWIM-3", "SWIM-4", "SWIM-6"],
            SwimModel::new(4, Budgets { accusations: 2, ..none }),
        ),
    ];
    scopes.extend(suspicion::scopes());
    scopes.extend(probe::scopes());
    scopes.extend(refusal::scopes());
    scopes
}
