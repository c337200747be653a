//! Properties of steps: what a step may change, given what happened. A step that breaks one is remembered.

use spec::swim::{Incarnation, Member, Name, Status};

use super::{
    Cause,
    world::{Fact, Run, Says, Seat, State, place},
};

/// Beliefs about a member never go back, but where it is forgotten, or its name was taken over.
pub(super) const MONOTONE: &str = "beliefs_never_go_back";
/// A member whose death was learnt isn't alive again at that incarnation, or at a lower one.
pub(super) const NO_RESURRECTION: &str = "no_resurrection";
/// No word about an earlier run of a member counts against the run that follows (memberlist#311).
pub(super) const EARLIER: &str = "an_earlier_runs_death_stays_with_it";
/// A member is taken for dead only when its suspicion ran out here, or on word that it is.
pub(super) const DEAD_AFTER_SUSPICION: &str = "dead_only_after_suspicion";
/// Whoever is accused, at its incarnation or above, takes a higher one.
pub(super) const REFUTATION: &str = "refutation_beats_accusation";
/// Whoever is accused at an incarnation that it has left behind says so.
pub(super) const STALE: &str = "stale_accusation_is_answered";
/// Nobody takes the name of a member that isn't gone.
pub(super) const ADDRESS: &str = "a_live_members_address_holds";
/// Whoever leaves says nothing else of itself.
pub(super) const LEAVES: &str = "who_leaves_does_not_announce_itself";
/// An incarnation that was taken is not fallen behind.
pub(super) const NO_WRAP: &str = "incarnation_never_wraps";

/// Compares a member before a step with what came of it, and notes what it learnt of deaths.
pub(super) fn observe(
    state: &mut State,
    before: &Seat,
    run: &mut Run,
    cause: &Cause,
    highest: u32,
) {
    let after = &run.seat;
    if after.durable.incarnation < before.durable.incarnation {
        state.broken.insert(NO_WRAP);
    }
    let (Some(old), Some(new)) = (&before.node, &after.node) else { return };
    for (name, now) in &new.members {
        let Some(was) = old.members.get(name) else { continue };
        let moved = was.endpoint != now.endpoint;
        // At the highest incarnation an announcement beats an accusation.
        let back = if now.incarnation.0 >= highest {
            now.incarnation < was.incarnation
        } else {
            (now.incarnation, now.status) < (was.incarnation, was.status)
        };
        if moved && !was.status.is_gone() {
            state.broken.insert(ADDRESS);
        }
        if back && !moved {
            state.broken.insert(MONOTONE);
        }
        if was.status == Status::Alive && falls_with_an_earlier_run(state, was, now, cause) {
            state.broken.insert(EARLIER);
        }
        let fell = !was.status.is_gone();
        if *name != new.config.name && fell && !may_fall(name, now.status, cause) {
            state.broken.insert(DEAD_AFTER_SUSPICION);
        }
    }
    let own = place(&new.config.name);
    let announces =
        |fact: &Fact| Some(fact.subject) == own && matches!(fact.says, Says::Alive { .. });
    if old.leaving.is_some() && run.facts.iter().any(announces) {
        state.broken.insert(LEAVES);
    }
    accused(state, before, run, cause, highest);
    graves(state, before, run, cause, highest);
}

/// Whether a member that was believed alive in its last run is accused on word about one of its earlier runs: others
/// still spread it when it is back, and where it never reaches the member, nobody refutes it.
fn falls_with_an_earlier_run(state: &State, was: &Member, now: &Member, cause: &Cause) -> bool {
    let Some(begun) = place(&was.name).and_then(|n| state.begun.get(n)) else { return false };
    let hearsay = matches!(cause, Cause::Hear(_) | Cause::Exchange);
    let accused = matches!(now.status, Status::Suspect | Status::Dead);
    hearsay
        && accused
        && begun.earlier > 0
        && was.incarnation.0 >= begun.first
        && now.incarnation.0 <= begun.earlier
}

/// Whether a member may be gone after what happened.
fn may_fall(name: &Name, status: Status, cause: &Cause) -> bool {
    match (status, cause) {
        // A table tells of leavings.
        (Status::Alive | Status::Suspect, _) | (Status::Left, Cause::Exchange) => true,
        (Status::Dead, Cause::Expire(suspect)) => suspect == name,
        (_, Cause::Hear(fact)) => {
            place(name) == Some(fact.subject)
                && match status {
                    Status::Left => fact.says == Says::Left,
                    _ => matches!(fact.says, Says::Dead | Says::Left),
                }
        }
        _ => false,
    }
}

/// What a member does when it is accused.
fn accused(state: &mut State, before: &Seat, run: &Run, cause: &Cause, highest: u32) {
    let (Cause::Hear(fact), Some(old), Some(new)) = (cause, &before.node, &run.seat.node) else {
        return;
    };
    let accusation = matches!(fact.says, Says::Suspect | Says::Dead | Says::Left);
    let own = place(&new.config.name);
    if !accusation || own != Some(fact.subject) || new.leaving.is_some() {
        return;
    }
    let taken = |node: &super::world::Node| {
        node.claim.map_or(node.incarnation(), |claim| claim.incarnation)
    };
    let beyond = fact.incarnation > highest;
    let answer = new.claim.is_some_and(|claim| claim.incarnation.0 > fact.incarnation)
        || new.queue.subjects.contains_key(&new.config.name)
        || run.facts.iter().any(|said| is_answer(*said, *fact, highest));
    if beyond {
        return;
    }
    if fact.incarnation >= taken(old).0 {
        let higher = taken(new).0 > fact.incarnation || taken(new).0 == highest;
        if !higher || taken(new) <= old.incarnation() && taken(new).0 != highest {
            state.broken.insert(REFUTATION);
        }
    }
    if !answer {
        state.broken.insert(STALE);
    }
}

fn is_answer(said: Fact, accusation: Fact, highest: u32) -> bool {
    said.subject == accusation.subject
        && matches!(said.says, Says::Alive { .. })
        && (said.incarnation > accusation.incarnation || said.incarnation == highest)
}

/// Notes deaths, and whether anybody rises from one.
fn graves(state: &mut State, before: &Seat, run: &mut Run, cause: &Cause, highest: u32) {
    let (Some(old), Some(new)) = (&before.node, &run.seat.node) else { return };
    let mut graves = before.graves.clone();
    if let Cause::Hear(Fact { subject, incarnation, says: Says::Dead | Says::Left }) = cause {
        let name = super::world::name(*subject);
        let known = old.members.get(&name).map(|member| member.incarnation.0);
        let idle = *incarnation >= highest;
        if name != new.config.name && !idle && known.is_some_and(|known| known <= *incarnation) {
            graves.insert(name, Incarnation(*incarnation));
        }
    }
    for (name, member) in &new.members {
        let moved = old.members.get(name).is_some_and(|was| was.endpoint != member.endpoint);
        if member.status.is_gone() && *name != new.config.name {
            let grave = graves.entry(Name::clone(name)).or_default();
            *grave = member.incarnation.max(*grave);
        } else if let Some(grave) = graves.get(name).copied() {
            if member.incarnation <= grave && !moved && member.incarnation.0 < highest {
                state.broken.insert(NO_RESURRECTION);
            }
            graves.remove(name);
        }
    }
    graves.retain(|name, _| new.members.contains_key(name));
    run.seat.graves = graves;
}
