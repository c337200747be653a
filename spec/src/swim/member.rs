//! What is believed of members, and what changes it: announcements, accusations, deaths (SWIM §4.2, memberlist's
//! `aliveNode`, `suspectNode` and `deadNode`).
//!
//! At one incarnation, alive gives way to suspect, and that to dead or left; a higher incarnation beats them all.

use alloc::{sync::Arc, vec::Vec};

use super::{
    interface::{Dropped, Output, Timer},
    message::{Alive, Dead, Part, Suspect},
    node::{Node, Turn},
    refusal::Refusal,
    suspicion::Suspicion,
    types::{Incarnation, Layer, MAX_META, MAX_NAME, Member, MemberState, Name, Peer, Status},
};
use crate::machine::Effect;

/// Whose word an accusation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// This node's own: its probe failed, or its suspicion ran out.
    Own,
    /// Another's.
    Hearsay,
}

impl<L: Layer> Node<L> {
    /// Whether nothing can be said at this incarnation.
    fn is_beyond(&self, incarnation: Incarnation, turn: &mut Turn<'_, '_, L>) -> bool {
        let beyond = incarnation > self.config.max_incarnation;
        if beyond {
            self.dropped(Dropped::Incarnation, turn);
        }
        beyond
    }

    /// Whether an accusation is one by hearsay at the highest incarnation. The accused could not refute it by a higher
    /// one: there each member believes its own probes only, and what the other says itself.
    fn is_idle_talk(&self, incarnation: Incarnation, word: Word) -> bool {
        word == Word::Hearsay && incarnation >= self.config.max_incarnation
    }

    /// Why an announcement is none, if it is none.
    fn fault_of(&self, alive: &Alive) -> Option<Dropped> {
        if alive.node.is_empty() || alive.node.len() > MAX_NAME || alive.meta.len() > MAX_META {
            return Some(Dropped::Malformed);
        }
        if alive.incarnation.0 == 0 || alive.incarnation > self.config.max_incarnation {
            return Some(Dropped::Incarnation);
        }
        if !alive.versions.is_valid() {
            return Some(Dropped::Versions);
        }
        if alive.node == self.config.name {
            return None;
        }
        L::admit(&MemberState::from(alive.clone()), &self.config.rules).err().map(Dropped::Refused)
    }

    /// A member is announced: by itself, or by another that passes it on.
    pub(super) fn hear_alive(&mut self, alive: Alive, from: Peer, turn: &mut Turn<'_, '_, L>) {
        if let Some(fault) = self.fault_of(&alive) {
            self.dropped(fault, turn);
            return;
        }
        if alive.node == self.config.name {
            self.hear_own_alive(&alive, turn);
            return;
        }
        let Some(known) = self.members.get(&alive.node) else {
            self.insert(alive, turn);
            return;
        };
        let moved = known.endpoint != alive.endpoint;
        if moved && !self.may_reclaim(known, turn) {
            // Two members under one name, or one that restarted elsewhere before its death was known here.
            let known = known.clone();
            let (endpoint, meta) = (alive.endpoint, alive.meta);
            self.emit(Output::Conflict { known, endpoint, meta }, turn);
            return;
        }
        // A name that is taken over may start again from a lower incarnation.
        let newer = alive.incarnation > known.incarnation || moved;
        // There is no higher one to refute by. Passed on by others it would raise the dead, from one to the next.
        let first_hand = from == Peer::Endpoint(alive.endpoint);
        let unrefuted = alive.incarnation == self.config.max_incarnation
            && alive.incarnation == known.incarnation
            && known.status != Status::Alive;
        if newer || unrefuted && first_hand {
            self.accept_alive(alive, turn);
        }
    }

    /// Whether another address may take this member's name.
    fn may_reclaim(&self, known: &Member, turn: &Turn<'_, '_, L>) -> bool {
        match known.status {
            Status::Left => true,
            Status::Dead => self
                .config
                .dead_node_reclaim
                .is_some_and(|after| turn.cx.now.since(known.since) >= after),
            Status::Alive | Status::Suspect => false,
        }
    }

    /// A member that wasn't known.
    fn insert(&mut self, alive: Alive, turn: &mut Turn<'_, '_, L>) {
        if self.members.len() >= self.config.max_members {
            self.dropped(Dropped::Members, turn);
            return;
        }
        let name = Arc::clone(&alive.node);
        let member = Member {
            name: Arc::clone(&name),
            endpoint: alive.endpoint,
            meta: Arc::clone(&alive.meta),
            versions: alive.versions,
            incarnation: alive.incarnation,
            status: Status::Alive,
            since: turn.cx.now,
        };
        // Anywhere in the round of probes: else all members would probe a new one last, and at the same time.
        let at = turn.cx.entropy.choose(self.order.len() + 1);
        self.order.push(Arc::clone(&name));
        let last = self.order.len() - 1;
        self.order.swap(at.min(last), last);
        self.members.insert(name, member.clone());
        self.announce(Part::Alive(alive));
        self.emit(Output::Joined(member), turn);
    }

    fn accept_alive(&mut self, alive: Alive, turn: &mut Turn<'_, '_, L>) {
        self.clear_suspicion(&alive.node, turn);
        let Some(member) = self.members.get_mut(&alive.node) else { return };
        let was_gone = member.status.is_gone();
        let changed = member.meta != alive.meta
            || member.versions != alive.versions
            || member.endpoint != alive.endpoint;
        member.incarnation = alive.incarnation;
        member.endpoint = alive.endpoint;
        member.meta = Arc::clone(&alive.meta);
        member.versions = alive.versions;
        if member.status != Status::Alive {
            member.status = Status::Alive;
            member.since = turn.cx.now;
        }
        let member = member.clone();
        self.announce(Part::Alive(alive));
        if was_gone {
            self.emit(Output::Joined(member), turn);
        } else if changed {
            self.emit(Output::Updated(member), turn);
        }
    }

    /// A member is accused.
    pub(super) fn hear_suspect(
        &mut self,
        suspect: Suspect,
        word: Word,
        turn: &mut Turn<'_, '_, L>,
    ) {
        if self.is_beyond(suspect.incarnation, turn) {
            return;
        }
        if suspect.node == self.config.name {
            self.hear_accusation(suspect.incarnation, turn);
            return;
        }
        let Some(known) = self.members.get(&suspect.node) else { return };
        if suspect.incarnation < known.incarnation || known.status.is_gone() {
            return;
        }
        if self.is_idle_talk(suspect.incarnation, word) {
            self.dropped(Dropped::Incarnation, turn);
            return;
        }
        // A higher incarnation has refuted what was suspected before, and is suspected afresh.
        let same = suspect.incarnation == known.incarnation;
        match self.suspicions.get_mut(&suspect.node) {
            Some(suspicion) if same => {
                if suspicion.confirm(&suspect.from) {
                    let delay = suspicion.remaining(turn.cx.now);
                    let timer = Timer::Suspicion(Arc::clone(&suspect.node));
                    turn.effects.push(Effect::Arm { timer, delay });
                    self.spread_suspicion(suspect);
                }
            }
            _ => self.begin_suspicion(suspect, turn),
        }
    }

    fn begin_suspicion(&mut self, suspect: Suspect, turn: &mut Turn<'_, '_, L>) {
        let pool = self.members.len();
        let Some(member) = self.members.get_mut(&suspect.node) else { return };
        member.incarnation = suspect.incarnation;
        if member.status != Status::Suspect {
            member.status = Status::Suspect;
            member.since = turn.cx.now;
        }
        let suspicion = Suspicion::new(
            Arc::clone(&suspect.from),
            pool,
            self.config.suspicion_mult,
            self.config.suspicion_max_timeout_mult,
            self.config.probe_interval,
            turn.cx.now,
        );
        let timer = Timer::Suspicion(Arc::clone(&suspect.node));
        turn.effects.push(Effect::Arm { timer, delay: suspicion.timeout() });
        self.suspicions.insert(Arc::clone(&suspect.node), suspicion);
        let (name, from) = (Arc::clone(&suspect.node), Arc::clone(&suspect.from));
        self.emit(Output::Suspected { name, from }, turn);
        self.spread_suspicion(suspect);
    }

    /// A suspect didn't refute in time.
    pub(super) fn suspicion_ran_out(&mut self, name: &Name, turn: &mut Turn<'_, '_, L>) {
        if self.suspicions.remove(name).is_none() {
            return;
        }
        let Some(incarnation) = self.members.get(name).map(|member| member.incarnation) else {
            return;
        };
        let from = Arc::clone(&self.config.name);
        self.hear_dead(Dead { incarnation, node: Arc::clone(name), from }, Word::Own, turn);
    }

    /// A member is said to be dead, or says that it leaves.
    pub(super) fn hear_dead(&mut self, dead: Dead, word: Word, turn: &mut Turn<'_, '_, L>) {
        if self.is_beyond(dead.incarnation, turn) {
            return;
        }
        if dead.node == self.config.name {
            self.hear_accusation(dead.incarnation, turn);
            return;
        }
        let leaves = dead.from == dead.node;
        let Some(known) = self.members.get_mut(&dead.node) else { return };
        if dead.incarnation < known.incarnation {
            return;
        }
        if known.status.is_gone() {
            // Without it, an announcement of the incarnation that this death ended, heard late, would bring the member
            // back to life.
            if dead.incarnation > known.incarnation {
                known.incarnation = dead.incarnation;
                self.spread_death(dead);
            }
            return;
        }
        if !leaves && self.is_idle_talk(dead.incarnation, word) {
            self.dropped(Dropped::Incarnation, turn);
            return;
        }
        self.clear_suspicion(&dead.node, turn);
        let Some(member) = self.members.get_mut(&dead.node) else { return };
        member.incarnation = dead.incarnation;
        member.status = if leaves { Status::Left } else { Status::Dead };
        member.since = turn.cx.now;
        let (member, status) = (member.clone(), member.status);
        self.spread_death(dead);
        self.emit(Output::Gone { member, status }, turn);
    }

    /// Gossips an accusation.
    fn spread_suspicion(&mut self, suspect: Suspect) {
        // One that nobody would believe is not gossiped.
        if !self.is_idle_talk(suspect.incarnation, Word::Hearsay) {
            self.announce(Part::Suspect(suspect));
        }
    }

    /// Gossips a death, or a leaving.
    fn spread_death(&mut self, dead: Dead) {
        if dead.from == dead.node || !self.is_idle_talk(dead.incarnation, Word::Hearsay) {
            self.announce(Part::Dead(dead));
        }
    }

    /// A suspect answered a ping. Below the highest incarnation it has to refute the suspicion, which others have heard
    /// of; at the highest it can't, and nobody has.
    pub(super) fn suspect_answered(&mut self, name: &Name, turn: &mut Turn<'_, '_, L>) {
        let highest = self.config.max_incarnation;
        let now = turn.cx.now;
        let Some(member) = self.members.get_mut(name) else { return };
        if member.status == Status::Suspect && member.incarnation == highest {
            member.status = Status::Alive;
            member.since = now;
            self.clear_suspicion(name, turn);
        }
    }

    pub(super) fn clear_suspicion(&mut self, name: &Name, turn: &mut Turn<'_, '_, L>) {
        if let Some(suspicion) = self.suspicions.remove(name) {
            let timer = Timer::Suspicion(Arc::clone(name));
            turn.effects.push(Effect::Disarm { timer });
            if suspicion.refusal != Refusal::None {
                let timer = Timer::Refusal(Arc::clone(name));
                turn.effects.push(Effect::Disarm { timer });
            }
        }
    }

    /// Forgets members that have been gone for long.
    pub(super) fn reap(&mut self, turn: &mut Turn<'_, '_, L>) {
        let (now, keep) = (turn.cx.now, self.config.gossip_to_the_dead);
        let old: Vec<Name> = self
            .members
            .values()
            .filter(|member| member.status.is_gone() && member.name != self.config.name)
            .filter(|member| now.since(member.since) > keep)
            .map(|member| Arc::clone(&member.name))
            .collect();
        if old.is_empty() {
            return;
        }
        for name in &old {
            self.members.remove(name);
        }
        self.order.retain(|name| self.members.contains_key(name));
        for name in old {
            self.emit(Output::Reaped(name), turn);
        }
    }

    /// Up to `count` members that are `wanted`, by chance: each the first one from a random place in the round on.
    pub(super) fn random_members(
        &self,
        count: usize,
        turn: &mut Turn<'_, '_, L>,
        wanted: impl Fn(&Member) -> bool,
    ) -> Vec<Member> {
        let length = self.order.len();
        let mut places: Vec<usize> = Vec::new();
        let mut found = Vec::new();
        while found.len() < count.min(length) {
            let start = turn.cx.entropy.choose(length).min(length - 1);
            let next = (start..length).chain(0..start).find_map(|place| {
                let member = self.order.get(place).and_then(|name| self.members.get(name))?;
                (!places.contains(&place) && wanted(member)).then_some((place, member))
            });
            let Some((place, member)) = next else { break };
            places.push(place);
            found.push(member.clone());
        }
        found
    }
}

impl From<Alive> for MemberState {
    fn from(alive: Alive) -> Self {
        Self {
            name: alive.node,
            endpoint: alive.endpoint,
            meta: alive.meta,
            versions: alive.versions,
            incarnation: alive.incarnation,
            status: Status::Alive,
        }
    }
}
