//! Healing: from a state on, with no more faults, everybody who is there comes to be alive to everybody, and whoever
//! isn't comes to be gone.
//!
//! The schedule is fair and deterministic. All that was said is lost. In each round every member exchanges tables with
//! those that it believes alive, with those that it believes dead (as Serf's reconnect does), and, where it knows
//! nobody, with those that its host knows of; then it probes everybody; then suspicions run out.

use std::{collections::VecDeque, sync::Arc};

use spec::{
    machine::Event,
    swim::{Command, Message, NoLayer, Peer, Status, Timer},
    time::Instant,
};

use super::{
    SwimModel,
    world::{Fact, Run, Seat, State, address, endpoint, name},
};

/// How many rounds healing may take.
const ROUNDS: usize = 4;

struct Healing<'a> {
    model: &'a SwimModel,
    seats: Vec<Seat>,
    wire: VecDeque<(usize, Fact)>,
}

/// Whether the members of this state heal.
pub(super) fn heals(model: &SwimModel, state: &State) -> bool {
    let print = crate::hash_of(&state.seats);
    if model.healed.lock().is_ok_and(|healed| healed.contains(&print)) {
        return true;
    }
    let seats = state.seats.iter().map(|seat| Arc::clone(seat).value.clone()).collect();
    let mut healing = Healing { model, seats, wire: VecDeque::new() };
    let healed = healing.run();
    if healed && let Ok(mut known) = model.healed.lock() {
        known.insert(print);
    }
    healed
}

impl Healing<'_> {
    fn run(&mut self) -> bool {
        for n in 0..self.seats.len() {
            let leaving = self.seats[n].node.is_some() && !self.seats[n].stays();
            if leaving {
                self.seats[n].node = None;
            }
            self.act(n, Run::write_back);
        }
        self.deliver();
        for _ in 0..ROUNDS {
            if self.is_whole() {
                return true;
            }
            self.round();
        }
        self.is_whole()
    }

    fn is_up(&self, n: usize) -> bool {
        self.seats[n].node.is_some()
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.seats.len();
        let all = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        all.filter(|(a, b)| a != b && self.is_up(*a)).collect()
    }

    fn is_whole(&self) -> bool {
        self.pairs().into_iter().all(|(a, b)| {
            let belief = self.seats[a].believes(b);
            match &self.seats[b].node {
                Some(other) => {
                    let wanted = (other.incarnation(), Status::Alive, self.seats[b].address);
                    belief == Some(wanted)
                }
                None => belief.is_none_or(|(_, status, _)| status.is_gone()),
            }
        })
    }

    fn round(&mut self) {
        for (a, b) in self.pairs() {
            let knows = self.seats[a].believes(b);
            let alone = self.seats[a].node.as_ref().is_some_and(|node| node.order.is_empty());
            // Serf remembers whom membership has forgotten, for three days.
            let forgotten = knows.is_none() && self.model.budgets.reaps > 0;
            let reached = knows.is_some_and(|(_, _, address)| address == self.seats[b].address);
            if self.is_up(b) && (alone || forgotten || reached) {
                self.exchange(a, b);
            }
            self.deliver();
        }
        for (a, b) in self.pairs() {
            self.probe(a, b);
        }
        self.deliver();
        for n in 0..self.seats.len() {
            for suspect in std::mem::take(&mut self.seats[n].armed) {
                self.act(n, |run| run.event(Event::Fire(Timer::Suspicion(suspect)), Instant(0)));
            }
        }
        self.deliver();
    }

    /// A member does something; what it says goes to everybody.
    fn act(&mut self, n: usize, what: impl FnOnce(&mut Run)) -> Vec<(Peer, Message<NoLayer>)> {
        if self.seats[n].node.is_none() {
            return Vec::new();
        }
        let mut run = Run::new(&self.seats[n], false);
        what(&mut run);
        run.settle();
        self.seats[n] = run.seat;
        self.wire.extend(run.facts.into_iter().map(|fact| (n, fact)));
        run.sent
    }

    fn deliver(&mut self) {
        // Each statement is passed on by whom it is news to; the bound is beyond what that can come to.
        for _ in 0..1000 {
            let Some((from, fact)) = self.wire.pop_front() else { return };
            for n in (0..self.seats.len()).filter(|n| *n != from) {
                self.act(n, |run| run.event(hear(fact), Instant(0)));
            }
        }
    }

    fn exchange(&mut self, a: usize, b: usize) {
        let to = endpoint(self.seats[b].address);
        let push = Command::PushPull { request: 0, to, join: false };
        let sent = self.act(a, |run| run.event(Event::Command(push), Instant(0)));
        for (_, message) in sent {
            let event = Event::Receive { from: Peer::Stream(0), message };
            let answers = self.act(b, |run| run.event(event, Instant(0)));
            for (_, message) in answers {
                let event = Event::Receive { from: Peer::Endpoint(to), message };
                self.act(a, |run| run.event(event, Instant(0)));
            }
        }
    }

    fn probe(&mut self, a: usize, b: usize) {
        let Some((_, status, at)) = self.seats[a].believes(b) else { return };
        let there = self.is_up(b) && self.seats[b].address == at;
        if status.is_gone() || (there && status == Status::Alive) {
            return;
        }
        if !there {
            self.act(a, |run| run.fail_probe(&name(b)));
            return;
        }
        let sent = self.act(a, |run| {
            run.aim(&name(b));
            run.event(Event::Fire(Timer::Probe), Instant(0));
        });
        for (_, message) in sent {
            let from = Peer::Endpoint(endpoint(self.seats[a].address));
            self.act(b, |run| run.event(Event::Receive { from, message }, Instant(0)));
        }
    }
}

/// A statement arrives.
pub(super) fn hear(fact: Fact) -> Event<super::world::Node> {
    let from = Peer::Endpoint(endpoint(address(5, 9)));
    Event::Receive { from, message: Message::Packet(vec![fact.part()]) }
}

/// Two members exchange their tables over a stream.
pub(super) fn exchange(model: &SwimModel, state: &mut State, a: usize, b: usize) {
    let to = endpoint(state.seats[b].value.address);
    let join = state.seats[a].value.node.as_ref().is_some_and(|node| node.order.is_empty());
    let push = Command::PushPull { request: 0, to, join };
    for (_, message) in model.act(state, a, |run| run.event(Event::Command(push), Instant(0))) {
        let event = Event::Receive { from: Peer::Stream(0), message };
        for (_, message) in model.act(state, b, |run| run.event(event, Instant(0))) {
            let event = Event::Receive { from: Peer::Endpoint(to), message };
            model.act(state, a, |run| run.event(event, Instant(0)));
        }
    }
}
