//! What a member says of itself: its incarnations, refutation (SWIM §4.2), metadata, leaving.
//!
//! An incarnation is durable before it is announced, so that no two runs of a member announce the same one with
//! different content, and none restarts below an accusation of its last run.

use alloc::sync::Arc;

use super::{
    interface::{Dropped, Output, Timer},
    message::{Alive, Dead, Part},
    node::{Node, Turn},
    types::{Durable, Incarnation, Layer, MAX_META, Status},
};
use crate::machine::{Effect, Ticket};

/// An incarnation on its way to the disk; announced once it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The write.
    pub ticket: Ticket,
    /// What it writes.
    pub incarnation: Incarnation,
}

/// How far leaving has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaving {
    /// It is being announced; the host's request is answered then.
    Announcing(u64),
    /// It was announced often enough.
    Done,
}

impl<L: Layer> Node<L> {
    /// The last incarnation that was announced.
    pub fn incarnation(&self) -> Incarnation {
        self.members.get(&self.config.name).map_or(Incarnation(0), |own| own.incarnation)
    }

    /// Takes a higher incarnation, above `above`; it is announced when it is durable.
    fn claim(&mut self, above: Incarnation, turn: &mut Turn<'_, '_, L>) {
        let highest = self.config.max_incarnation;
        let incarnation = self.incarnation().max(above).next(highest);
        if incarnation == self.incarnation() {
            // There is no higher one. At the highest, an announcement beats accusations of the same incarnation.
            if !self.queue.subjects.contains_key(&self.config.name) {
                self.announce_self();
            }
            return;
        }
        if self.claim.is_some_and(|claim| claim.incarnation >= incarnation) {
            return;
        }
        let ticket = turn.cx.next_ticket();
        self.claim = Some(Claim { ticket, incarnation });
        turn.effects.push(Effect::Persist { ticket, write: Durable { incarnation } });
    }

    /// The writes up to here are durable: what waits for one of them is announced.
    pub(super) fn durable(&mut self, ticket: Ticket, turn: &mut Turn<'_, '_, L>) {
        if self.started <= ticket {
            self.started = Ticket::NONE;
        }
        let Some(claim) = self.claim.take_if(|claim| claim.ticket <= ticket) else { return };
        if self.leaving.is_some() {
            return;
        }
        let meta = Arc::clone(&self.meta);
        let Some(own) = self.members.get_mut(&self.config.name) else { return };
        own.incarnation = claim.incarnation;
        let updated = own.meta != meta;
        own.meta = meta;
        let own = own.clone();
        self.announce_self();
        if updated {
            self.emit(Output::Updated(own), turn);
        }
    }

    /// Queues this member's own announcement.
    pub(super) fn announce_self(&mut self) {
        let Some(own) = self.members.get(&self.config.name) else { return };
        let alive = Alive {
            incarnation: own.incarnation,
            node: Arc::clone(&own.name),
            endpoint: own.endpoint,
            meta: Arc::clone(&own.meta),
            versions: own.versions,
        };
        self.announce(Part::Alive(alive));
    }

    /// Another says that this member is suspected or dead.
    pub(super) fn hear_accusation(&mut self, accused: Incarnation, turn: &mut Turn<'_, '_, L>) {
        if self.leaving.is_some() || self.claim.is_some_and(|claim| accused < claim.incarnation) {
            return;
        }
        if accused < self.incarnation() {
            self.answer_stale_accusation();
            return;
        }
        self.refute(accused, turn);
    }

    /// Whoever still spreads what was refuted has not heard so. An announcement that is still queued is answer enough:
    /// so accusations, however many, make this member send no more than gossip sends anyway.
    fn answer_stale_accusation(&mut self) {
        if !self.queue.subjects.contains_key(&self.config.name) {
            self.announce_self();
        }
    }

    fn refute(&mut self, accused: Incarnation, turn: &mut Turn<'_, '_, L>) {
        self.claim(accused, turn);
        let refuted = self.claim.map_or(self.incarnation(), |claim| claim.incarnation);
        self.emit(Output::Refuted(refuted), turn);
        // Whoever is accused while it lives may well be slow (Lifeguard §IV.A).
        self.feel(1, turn);
    }

    /// Somebody passes on an announcement of this member's own.
    pub(super) fn hear_own_alive(&mut self, alive: &Alive, turn: &mut Turn<'_, '_, L>) {
        let Some(own) = self.members.get(&self.config.name) else { return };
        let covered = self.claim.is_some_and(|claim| alive.incarnation < claim.incarnation);
        if self.leaving.is_some() || alive.incarnation < own.incarnation || covered {
            return;
        }
        if alive.endpoint != own.endpoint {
            let known = own.clone();
            let (endpoint, meta) = (alive.endpoint, Arc::clone(&alive.meta));
            self.emit(Output::Conflict { known, endpoint, meta }, turn);
            return;
        }
        let same = alive.meta == own.meta && alive.versions == own.versions;
        if alive.incarnation == own.incarnation && same {
            return;
        }
        // An incarnation of an earlier run whose disk is lost.
        self.refute(alive.incarnation, turn);
    }

    /// The host changes what this member says of itself.
    pub(super) fn update(&mut self, meta: Arc<[u8]>, turn: &mut Turn<'_, '_, L>) {
        if meta.len() > MAX_META {
            self.dropped(Dropped::Malformed, turn);
            return;
        }
        let announced = self.members.get(&self.config.name).is_some_and(|own| own.meta == meta);
        self.meta = meta;
        // A claim that is under way announces it too.
        if self.leaving.is_none() && self.claim.is_none() && !announced {
            self.claim(Incarnation(0), turn);
        }
    }

    /// The host wants to go.
    pub(super) fn leave(&mut self, request: u64, turn: &mut Turn<'_, '_, L>) {
        match self.leaving {
            Some(Leaving::Done) => {
                self.emit(Output::Left { request }, turn);
                return;
            }
            // The later request takes the place of the one before.
            Some(Leaving::Announcing(before)) => {
                self.leaving = Some(Leaving::Announcing(request));
                self.emit(Output::Left { request: before }, turn);
                return;
            }
            None => self.leaving = Some(Leaving::Announcing(request)),
        }
        let name = Arc::clone(&self.config.name);
        let Some(own) = self.members.get_mut(&name) else { return };
        own.status = Status::Left;
        own.since = turn.cx.now;
        let member = own.clone();
        let dead = Dead { incarnation: own.incarnation, node: Arc::clone(&name), from: name };
        self.announce(Part::Dead(dead));
        self.emit(Output::Gone { member, status: Status::Left }, turn);
        let others = self.order.iter().filter_map(|other| self.members.get(other));
        if others.filter(|other| !other.status.is_gone()).count() == 0 {
            self.finish_leaving(turn);
        } else {
            let delay = self.config.leave_timeout;
            turn.effects.push(Effect::Arm { timer: Timer::Leave, delay });
        }
    }

    /// Answers the host once the announcement has left the queue.
    pub(super) fn finish_leaving_once_sent(&mut self, turn: &mut Turn<'_, '_, L>) {
        let announcing = matches!(self.leaving, Some(Leaving::Announcing(_)));
        if announcing && !self.queue.subjects.contains_key(&self.config.name) {
            turn.effects.push(Effect::Disarm { timer: Timer::Leave });
            self.finish_leaving(turn);
        }
    }

    pub(super) fn finish_leaving(&mut self, turn: &mut Turn<'_, '_, L>) {
        if let Some(Leaving::Announcing(request)) = self.leaving {
            self.leaving = Some(Leaving::Done);
            self.emit(Output::Left { request }, turn);
        }
    }
}
