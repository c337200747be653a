//! That nothing is lost where members are alike at first, and what happens first is taken to befall the last one.

use std::{collections::BTreeSet, hash::Hash};

use spec::serf::Message;
use stateright::{Expectation, Model};

use super::{
    keys::{self, KeysModel},
    members::{self, MembersModel},
    pool::{Beginning, Server, name},
};
use crate::{Checked, hash_of, raft::rename::Renaming};

/// What is compared of a message: its text, names left to the caller.
fn renamed(message: &Message, names: &Renaming) -> Message {
    let mut message = message.clone();
    let new = |old: &spec::swim::Name| {
        let at = (0..3).find(|n| name(*n) == *old).unwrap();
        name(names.place(at))
    };
    match &mut message {
        Message::Join(intent) => intent.node = new(&intent.node),
        Message::Leave(intent) => intent.node = new(&intent.node),
        Message::QueryResponse(answer) => answer.from = new(&answer.from),
        // The operator's, who is not renamed.
        Message::Query(_) => {}
        message => panic!("{message:?} is not gossiped here"),
    }
    message
}

/// What a member believes of all, in the order of the new names.
fn beliefs(server: &Server, names: &Renaming, count: usize) -> impl Hash + use<> {
    let mut rows = vec![None; count];
    for other in 0..count {
        let known = server.machine.members.entries.get(&name(other));
        let known = known.map(|entry| (entry.status, entry.status_ltime, entry.prune));
        let intent = server.machine.members.intents.get(&name(other)).copied();
        let sees = server.sees(other).map(|member| (member.status, member.incarnation));
        rows[names.place(other)] = Some((known, intent, sees));
    }
    rows
}

/// The least hash over all renamings that leave the first `fixed` members alone.
fn orbit(count: usize, fixed: usize, print: impl Fn(&Renaming) -> u64) -> u64 {
    let all = Renaming::all(count);
    let fit = all.iter().filter(|names| (0..fixed).all(|n| names.place(n) == n));
    fit.map(print).min().unwrap()
}

fn members_orbit(state: &members::State) -> u64 {
    let count = state.servers.len();
    orbit(count, 0, |names| {
        let mut rows = vec![0; count];
        for (n, server) in state.servers.iter().enumerate() {
            let said = state.said.iter().filter(|(who, _)| *who == n);
            let said: BTreeSet<_> = said.map(|(_, message)| renamed(message, names)).collect();
            let machine = &server.machine;
            let own =
                (server.up, machine.lifecycle, machine.members.clock, state.departed.contains(&n));
            let believed = beliefs(server, names, count);
            rows[names.place(n)] = hash_of(&(own, believed, said, &server.durable.swim));
        }
        let facts: BTreeSet<_> = state.facts.iter().map(|fact| renamed(fact, names)).collect();
        let spent = (state.leaves, state.rejoins, state.crashes, state.forced, state.false_deaths);
        hash_of(&(rows, facts, spent))
    })
}

fn keys_orbit(state: &keys::State) -> u64 {
    let count = state.servers.len();
    orbit(count, 1, |names| {
        let mut rows = vec![0; count];
        for (n, server) in state.servers.iter().enumerate() {
            let machine = &server.machine;
            let answered = |answers: BTreeSet<_>| -> BTreeSet<_> {
                answers.into_iter().map(|(from, what)| (names.place(from), what)).collect()
            };
            let place = |from: &spec::swim::Name| (0..count).find(|n| name(*n) == *from).unwrap();
            let operation = machine.operation.as_ref().map(|operation| {
                let answers = operation.answers.iter();
                let answers = answers.map(|(from, answer)| (place(from), answer.clone())).collect();
                (operation.operation.clone(), operation.phase, answered(answers))
            });
            let heard: Vec<_> =
                machine.queries.slots().map(|(at, ids)| (at, ids.to_vec())).collect();
            let rings = (&machine.keyring, &server.keyring, &server.durable.keyring, heard);
            let own = (server.up, server.pending.len(), machine.queries.floor());
            rows[names.place(n)] = hash_of(&(own, rings, operation, beliefs(server, names, count)));
        }
        let answers = state.answers.iter().map(|answer| renamed(answer, names));
        let answers: BTreeSet<_> = answers.collect();
        hash_of(&(rows, &state.queries, answers, state.operations, state.crashes))
    })
}

/// The orbits that are reached, how many states, and which properties some state meets, if it is one to be met sometimes,
/// or breaks.
fn reached<M: Checked>(
    model: &M,
    orbit: fn(&M::State) -> u64,
) -> (BTreeSet<u64>, usize, BTreeSet<&'static str>) {
    let (mut seen, mut orbits, mut noted) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (properties, mut stack) = (model.properties(), model.init_states());
    while let Some(state) = stack.pop() {
        if !model.within_boundary(&state) || !seen.insert(hash_of(&state)) {
            continue;
        }
        orbits.insert(orbit(&state));
        for property in &properties {
            let wanted = property.expectation == Expectation::Sometimes;
            if (property.condition)(model, &state) == wanted {
                noted.insert(property.name);
            }
        }
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        stack.extend(actions.into_iter().filter_map(|action| model.next_state(&state, action)));
    }
    (orbits, seen.len(), noted)
}

fn loses_nothing<M: Checked>(some: &M, all: &M, orbit: fn(&M::State) -> u64) {
    let ((some, fewer, met), (all, states, also_met)) = (reached(some, orbit), reached(all, orbit));
    assert!(all.len() > 50, "{} orbits say nothing", all.len());
    assert!(some == all, "{} of {} orbits are lost", all.len() - some.len(), all.len());
    assert!(fewer < states, "nothing is saved");
    assert_eq!(met, also_met);
}

#[test]
fn what_befalls_the_last_of_three_members_first_befalls_any() {
    let none = MembersModel { max_ltime: 7, ..members::none() };
    let left = MembersModel { leaves: 1, rejoins: 1, late: true, ..none.clone() };
    let forced = MembersModel { forced: 1, false_deaths: 1, ..none };
    for model in [left, forced] {
        let some = MembersModel { beginning: Beginning::Alike, ..model.clone() };
        let all = MembersModel { beginning: Beginning::AlikeForAnybody, ..model };
        loses_nothing(&some, &all, members_orbit);
    }
}

#[test]
fn what_befalls_the_last_of_those_that_an_operator_asks_befalls_any() {
    let model = KeysModel {
        servers: 3,
        keys: 1,
        operations: 1,
        crashes: 1,
        failures: 0,
        lingering: true,
        beginning: Beginning::Alike,
    };
    let all = KeysModel { beginning: Beginning::AlikeForAnybody, ..model.clone() };
    loses_nothing(&model, &all, keys_orbit);
}

#[test]
fn an_orbit_is_the_same_under_every_name() {
    // Who left, and who heard of it, is told apart; what they are called is not.
    let model =
        MembersModel { leaves: 1, beginning: Beginning::AlikeForAnybody, ..members::none() };
    let start = model.init_states().remove(0);
    let leave = |n| members_orbit(&model.next_state(&start, members::Action::Leave(n)).unwrap());
    assert!(leave(0) == leave(1) && leave(1) == leave(2));
    assert!(leave(0) != members_orbit(&start));
}
