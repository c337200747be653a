//! A cut that heals, and a member that starts again without joining anybody: they come back by Serf's reconnect alone
//! (SERF-15).
//!
//! Nobody is given an address here, as a join or a host's seeds would: who has another for failed tries it, and what that
//! starts is a push/pull with both tables, and gossip among those that know each other. Each failed member may be the one
//! that is tried, whatever chance says; the suspicion of whoever doesn't refute runs out.

use std::{collections::BTreeSet, sync::Arc};

use spec::{
    machine::Event,
    serf::{Command, Config, Packet, Status, Timer, message::SerfLayer},
    swim::{self, Part, Peer},
};
use stateright::{Model, Property};

use super::pool::{self, Beginning, Server, Told, endpoint, name};
use crate::{Checked, Scope, Tier};

/// How many rounds coming back may take: one to learn that one is held for dead, one to be believed, and one for each
/// suspicion that has to run out before.
const ROUNDS: usize = 5;

/// A part of a datagram, and who gossips it.
type Word = (usize, Part<SerfLayer>);

/// The bounds.
#[derive(Clone, Debug)]
pub struct ReconnectModel {
    /// How many members there are. A cut divides the last one from the others.
    pub servers: usize,
    /// Times that the network is cut.
    pub cuts: u8,
    /// Members that crash; each may start again.
    pub crashes: u8,
    /// Members that are alive to each other exchange tables, as SWIM does. Without it all is left to reconnecting; but one
    /// that started again before it was missed has not failed, and is told by a push/pull who there is.
    pub push_pulls: bool,
}

/// The members, and what was gossiped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    servers: Vec<Arc<Server>>,
    words: BTreeSet<Word>,
    cut: bool,
    cuts: u8,
    crashes: u8,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The network is cut.
    Cut,
    /// It is whole again.
    Mend,
    /// The first has the second for dead, whom it doesn't reach.
    Gone(usize, usize),
    /// The first's suspicion of the second runs out.
    Expire(usize, usize),
    /// A member hears what another gossips.
    Hear(usize, Word),
    /// The first tries to reach the second, which failed.
    Reconnect(usize, usize),
    /// The first exchanges tables with the second, which is alive to it.
    Exchange(usize, usize),
    /// A member stops without a word.
    Crash(usize),
    /// It starts again, and knows nobody.
    Restart(usize),
}

impl ReconnectModel {
    fn is_cut(&self, state: &State, a: usize, b: usize) -> bool {
        let last = self.servers - 1;
        state.cut && (a == last) != (b == last)
    }

    fn reaches(&self, state: &State, a: usize, b: usize) -> bool {
        state.servers[b].up && !self.is_cut(state, a, b)
    }
}

fn change(_: &mut Config) {}

fn act(state: &mut State, n: usize, step: impl FnOnce(&mut Server) -> Told) -> Told {
    let mut told = step(Arc::make_mut(&mut state.servers[n]));
    state.words.extend(std::mem::take(&mut told.words).into_iter().map(|word| (n, word)));
    told
}

/// The first tries the second, and both tell each other what they know; or the stream fails.
fn reconnect(state: &mut State, n: usize, other: usize, reaches: bool) {
    let to = endpoint(other);
    let failed = state.servers[n].machine.members.with(Status::Failed);
    let Some(chosen) = failed.map(|entry| entry.member.endpoint).position(|at| at == to) else {
        return;
    };
    let told = act(state, n, |server| server.reconnect(chosen));
    if !reaches {
        let failed = Command::StreamFailed { to, refused: false };
        act(state, n, |server| server.command(failed));
        return;
    }
    converse(state, n, other, told);
}

/// SWIM's push/pull of the first with the second, whom it reaches.
fn exchange(state: &mut State, n: usize, other: usize) {
    let order = &state.servers[n].machine.swim.order;
    let Some(chosen) = order.iter().position(|at| *at == name(other)) else { return };
    let told = act(state, n, |server| server.exchange(chosen));
    converse(state, n, other, told);
}

/// A table goes from the first to the second, and its answer back.
fn converse(state: &mut State, n: usize, other: usize, mut told: Told) {
    let (mut from, mut at) = (n, other);
    loop {
        let is_table = |(_, packet): &(Peer, Packet)| matches!(packet, Packet::PushPull(_));
        let Some((_, table)) = told.sends.into_iter().find(is_table) else { return };
        told = act(state, at, |server| pool::receive(server, from, table));
        (from, at) = (at, from);
    }
}

fn expire(state: &mut State, n: usize, other: usize) {
    let timer = Timer::Swim(swim::Timer::Suspicion(name(other)));
    act(state, n, |server| server.step(Event::Fire(timer)));
}

fn suspects(server: &Server) -> impl Iterator<Item = usize> + '_ {
    (0..)
        .map_while(|n| (n < pool::MOST).then_some(n))
        .filter(|n| server.machine.swim.suspicions.contains_key(&name(*n)))
}

fn hear(state: &mut State, n: usize, (from, part): Word) {
    act(state, n, |server| pool::receive(server, from, Packet::Packet(vec![part])));
}

fn has_failed(state: &State, n: usize, other: usize) -> bool {
    state.servers[n].machine.members.status(&name(other)) == Some(Status::Failed)
}

fn is_alive(state: &State, n: usize, other: usize) -> bool {
    let status = state.servers[n].sees(other).map(|member| member.status);
    n != other && status == Some(swim::Status::Alive)
}

fn up(state: &State) -> Vec<usize> {
    (0..state.servers.len()).filter(|n| state.servers[*n].up).collect()
}

/// What is gossiped reaches those that the speaker holds for there, until nothing is new.
fn gossip(state: &mut State) {
    let mut heard = BTreeSet::new();
    loop {
        let fresh: Vec<Word> =
            state.words.iter().filter(|w| !heard.contains(*w)).cloned().collect();
        if fresh.is_empty() {
            return;
        }
        for word in fresh {
            for n in up(state) {
                if n != word.0 && state.servers[word.0].sees_present(n) {
                    hear(state, n, word.clone());
                }
            }
            heard.insert(word);
        }
    }
}

/// From this state on, with the network whole, what was gossiped lost and everybody up, each member tries whom it has for
/// failed, and all come to be alive to each other.
fn reconnect_heals(model: &ReconnectModel, state: &State) -> bool {
    let mut state = state.clone();
    (state.cut, state.words) = (false, BTreeSet::new());
    for n in 0..state.servers.len() {
        if !state.servers[n].up {
            restart(&mut state, n);
        }
    }
    for _ in 0..ROUNDS {
        let count = state.servers.len();
        for (n, other) in (0..count).flat_map(|n| (0..count).map(move |other| (n, other))) {
            if has_failed(&state, n, other) {
                reconnect(&mut state, n, other, true);
            } else if model.push_pulls && is_alive(&state, n, other) {
                exchange(&mut state, n, other);
            }
            gossip(&mut state);
        }
        state.words.clear();
        if is_whole(&state) {
            return true;
        }
        for n in 0..count {
            for other in suspects(&state.servers[n]).collect::<Vec<_>>() {
                expire(&mut state, n, other);
            }
        }
        // Whom nobody suspected any more is dead to those that it told so, too.
        gossip(&mut state);
        state.words.clear();
    }
    false
}

fn is_whole(state: &State) -> bool {
    state.servers.iter().all(|server| {
        (0..state.servers.len()).all(|other| {
            let serf = server.machine.members.status(&name(other));
            let swim = server.sees(other).map(|member| member.status);
            serf == Some(Status::Alive) && swim == Some(swim::Status::Alive)
        })
    })
}

fn restart(state: &mut State, n: usize) {
    let durable = state.servers[n].durable.clone();
    state.servers[n] = Arc::new(Server::start(n, &pool::config(n, &change), durable, false));
    state.words.retain(|(from, _)| *from != n);
}

impl Model for ReconnectModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let servers = pool::pool(self.servers, Beginning::Alike, false, &change);
        vec![State { servers, words: BTreeSet::new(), cut: false, cuts: 0, crashes: 0 }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.cut {
            actions.push(Action::Mend);
        } else if state.cuts < self.cuts {
            actions.push(Action::Cut);
        }
        for (n, server) in state.servers.iter().enumerate() {
            if !server.up {
                actions.push(Action::Restart(n));
                continue;
            }
            if state.crashes < self.crashes {
                actions.push(Action::Crash(n));
            }
            actions.extend(suspects(server).map(|other| Action::Expire(n, other)));
            for other in (0..self.servers).filter(|other| *other != n) {
                if server.sees_present(other) && !self.reaches(state, n, other) {
                    actions.push(Action::Gone(n, other));
                }
                if has_failed(state, n, other) {
                    actions.push(Action::Reconnect(n, other));
                }
                let exchanges = self.push_pulls && is_alive(state, n, other);
                if exchanges && self.reaches(state, n, other) {
                    actions.push(Action::Exchange(n, other));
                }
            }
            let hears = |(from, _): &&Word| {
                // Who knows nobody gossips to nobody.
                *from != n
                    && self.reaches(state, n, *from)
                    && state.servers[*from].sees(n).is_some()
            };
            actions
                .extend(state.words.iter().filter(hears).map(|word| Action::Hear(n, word.clone())));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Cut => (next.cut, next.cuts) = (true, state.cuts + 1),
            Action::Mend => next.cut = false,
            Action::Gone(n, other) => {
                let death = pool::death(&state.servers[n], other, false)?;
                act(&mut next, n, |server| pool::receive(server, n, death));
            }
            Action::Expire(n, other) => expire(&mut next, n, other),
            Action::Hear(n, word) => hear(&mut next, n, word),
            Action::Reconnect(n, other) => {
                reconnect(&mut next, n, other, self.reaches(state, n, other));
            }
            Action::Exchange(n, other) => exchange(&mut next, n, other),
            Action::Crash(n) => {
                next.crashes += 1;
                Arc::make_mut(&mut next.servers[n]).crash(0);
                next.words.retain(|(from, _)| *from != n);
            }
            Action::Restart(n) => restart(&mut next, n),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        type P = Property<ReconnectModel>;
        let mut properties = vec![
            P::always("reconnect_heals", reconnect_heals),
            P::always("no_attempt_lingers", |_, state| {
                state.servers.iter().filter(|server| server.up).all(|server| {
                    server.machine.exchanges.is_empty() && server.machine.swim.exchanges.is_empty()
                })
            }),
            P::sometimes("a_failed_member_is_alive_again", |_, state| {
                let raised = |server: &Arc<Server>| server.machine.swim.incarnation().0 > 1;
                !state.cut && is_whole(state) && state.servers.iter().any(raised)
            }),
        ];
        if self.cuts > 0 {
            properties.push(P::sometimes("each_side_has_the_other_for_failed", |model, state| {
                let last = model.servers - 1;
                !state.cut
                    && (0..last).all(|n| has_failed(state, n, last) && has_failed(state, last, n))
            }));
        }
        if self.crashes > 0 {
            properties.push(P::sometimes("who_started_again_is_found", |_, state| {
                let knows_all = |server: &Arc<Server>| {
                    server.machine.members.entries.len() == state.servers.len()
                };
                state.crashes > 0 && state.cuts == 0 && state.servers.iter().all(knows_all)
            }));
        }
        properties
    }
}

impl Checked for ReconnectModel {
    const KINDS: &'static [&'static str] =
        &["cut", "mend", "gone", "expire", "hear", "reconnect", "exchange", "crash", "restart"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Cut => 0,
            Action::Mend => 1,
            Action::Gone(..) => 2,
            Action::Expire(..) => 3,
            Action::Hear(..) => 4,
            Action::Reconnect(..) => 5,
            Action::Exchange(..) => 6,
            Action::Crash(_) => 7,
            Action::Restart(_) => 8,
        }
    }
}

/// The scopes of reconnecting.
pub(super) fn scopes() -> Vec<Scope> {
    let cut = ReconnectModel { servers: 3, cuts: 1, crashes: 0, push_pulls: false };
    let crash = ReconnectModel { servers: 2, cuts: 1, crashes: 1, push_pulls: true };
    vec![
        Scope::new(
            "serf-reconnect",
            Tier::Ci,
            "Three members: a cut divides one from the others, and heals; nobody joins.",
            &["SERF-15"],
            cut,
        ),
        Scope::new(
            "serf-reconnect-restart",
            Tier::Ci,
            "Two members: a cut heals, and one crashes and starts again without joining.",
            &["SERF-15"],
            crash,
        ),
    ]
}
