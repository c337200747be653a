//! Dissemination (SWIM §4.1): what is gossiped, how often, and what goes into one datagram.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::cmp::Reverse;

use super::{
    interface::Dropped,
    message::{COMPOUND_OVERHEAD, Message, PART_OVERHEAD, Part},
    node::{Node, Turn},
    suspicion::retransmit_limit,
    types::{Layer, Name, Peer, Status},
};
use crate::machine::Effect;

/// The most parts in a datagram: their count is one byte.
const MAX_PARTS: usize = 255;
/// No part is shorter, its framing included: what is left below it isn't searched for.
const LEAST_PART: usize = 16;
/// How many parts that don't fit are passed over before a datagram is called full.
const MAX_MISFITS: usize = 32;

/// Where an entry stands in the queue: membership before the layer's messages, then what was sent least often, then
/// the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// 0 for membership; from 1 on the layer's priorities.
    pub class: u16,
    /// How often it was sent.
    pub transmits: u32,
    /// Its number: later is higher.
    pub number: Reverse<u64>,
}

/// What waits to be gossiped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Queue<L: Layer> {
    /// In the order of sending.
    pub entries: BTreeMap<Place, Part<L>>,
    /// Where the word about each member stands: one word about each, the last.
    pub subjects: BTreeMap<Name, Place>,
    /// The number of the next entry.
    pub next_number: u64,
}

impl<L: Layer> Default for Queue<L> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), subjects: BTreeMap::new(), next_number: 0 }
    }
}

impl<L: Layer> Queue<L> {
    fn insert(&mut self, class: u16, part: Part<L>) -> Place {
        let place = Place { class, transmits: 0, number: Reverse(self.next_number) };
        self.next_number += 1;
        self.entries.insert(place, part);
        place
    }

    /// Queues the word about a member; what was queued about it before is not sent any more.
    pub fn announce(&mut self, subject: &Name, part: Part<L>) {
        if let Some(place) = self.subjects.remove(subject) {
            self.entries.remove(&place);
        }
        let place = self.insert(0, part);
        self.subjects.insert(Name::clone(subject), place);
    }

    /// Queues a message of the layer's; false where another one, the last in the order of sending, fell out for it.
    pub fn push(&mut self, message: L::Message, most: usize) -> bool {
        let class = u16::from(L::priority(&message)) + 1;
        self.insert(class, Part::User(message));
        let fits = self.entries.len() - self.subjects.len() <= most;
        if !fits {
            self.entries.pop_last();
        }
        fits
    }

    /// Adds what fits beside `parts` into `room` bytes; an entry that was sent `limit` times leaves the queue.
    pub fn fill(&mut self, parts: &mut Vec<Part<L>>, mut room: usize, limit: u32) {
        let (mut taken, mut misfits) = (BTreeSet::new(), 0);
        for (place, part) in &self.entries {
            if room < LEAST_PART || misfits > MAX_MISFITS || parts.len() >= MAX_PARTS {
                break;
            }
            let size = part.size() + PART_OVERHEAD;
            if size > room {
                misfits += 1;
                continue;
            }
            room -= size;
            parts.push(part.clone());
            taken.insert(*place);
        }
        for place in taken {
            self.sent(place, limit);
        }
        if self.entries.is_empty() {
            self.next_number = 0;
        }
    }

    fn sent(&mut self, place: Place, limit: u32) {
        let Some(part) = self.entries.remove(&place) else { return };
        let subject = part.subject().cloned();
        let later = Place { transmits: place.transmits + 1, ..place };
        let again = later.transmits < limit;
        if again {
            self.entries.insert(later, part);
        }
        if let Some(subject) = subject {
            if again {
                self.subjects.insert(subject, later);
            } else {
                self.subjects.remove(&subject);
            }
        }
    }
}

impl<L: Layer> Part<L> {
    /// Whom it is about, where it is about a member.
    pub fn subject(&self) -> Option<&Name> {
        match self {
            Self::Alive(alive) => Some(&alive.node),
            Self::Suspect(suspect) => Some(&suspect.node),
            Self::Dead(dead) => Some(&dead.node),
            Self::Ping(_)
            | Self::IndirectPing(_)
            | Self::Ack(_)
            | Self::Nack(_)
            | Self::User(_) => None,
        }
    }
}

impl<L: Layer> Node<L> {
    fn retransmit_limit(&self) -> u32 {
        retransmit_limit(self.config.retransmit_mult, self.members.len())
    }

    /// Sends a datagram with these parts and whatever of the queue fits beside them.
    pub(super) fn send_packet(
        &mut self,
        to: Peer,
        mut parts: Vec<Part<L>>,
        turn: &mut Turn<'_, '_, L>,
    ) {
        let reserve = |part: &Part<L>| {
            if matches!(part, Part::Ack(_)) { self.config.ack_payload_reserve } else { 0 }
        };
        let own: usize = parts.iter().map(|part| part.size() + PART_OVERHEAD + reserve(part)).sum();
        let room = self.config.max_packet.saturating_sub(own + COMPOUND_OVERHEAD);
        let limit = self.retransmit_limit();
        self.queue.fill(&mut parts, room, limit);
        if !parts.is_empty() {
            self.send(to, Message::Packet(parts), turn);
        }
        self.finish_leaving_once_sent(turn);
    }

    /// What is queued gets a round of gossip: at once, where none is to come. Then the last one found nothing to say, and
    /// was an interval or more after the one before: so rounds are never closer than that.
    pub(super) fn see_to_gossip(&mut self, turn: &mut Turn<'_, '_, L>) {
        let idle = !self.gossiping && self.running && !self.config.gossip_interval.is_zero();
        if idle && !self.queue.entries.is_empty() {
            self.gossiping = true;
            let delay = core::time::Duration::ZERO;
            turn.effects.push(Effect::Arm { timer: super::Timer::Gossip, delay });
        }
    }

    /// A round of gossip: what is queued goes to a few members by chance. The dead are told for a while too: one that
    /// isn't hears of it, and refutes. After a round that has nothing to say there is none until something is queued.
    pub(super) fn gossip(&mut self, turn: &mut Turn<'_, '_, L>) {
        self.gossiping = !self.queue.entries.is_empty();
        if !self.gossiping {
            return;
        }
        let delay = self.config.gossip_interval;
        turn.effects.push(Effect::Arm { timer: super::Timer::Gossip, delay });
        let (now, window) = (turn.cx.now, self.config.gossip_to_the_dead);
        let targets =
            self.random_members(self.config.gossip_nodes, turn, |member| match member.status {
                Status::Alive | Status::Suspect => true,
                Status::Dead => now.since(member.since) <= window,
                Status::Left => false,
            });
        for target in targets {
            if self.queue.entries.is_empty() {
                break;
            }
            self.send_packet(Peer::Endpoint(target.endpoint), Vec::new(), turn);
        }
    }

    /// Queues the word about a member.
    pub(super) fn announce(&mut self, part: Part<L>) {
        if let Some(subject) = part.subject().cloned() {
            self.queue.announce(&subject, part);
        }
    }

    /// Queues a message of the layer's.
    pub(super) fn broadcast(&mut self, message: L::Message, turn: &mut Turn<'_, '_, L>) {
        if L::size(&message) + PART_OVERHEAD + COMPOUND_OVERHEAD > self.config.max_packet {
            self.dropped(Dropped::Oversized, turn);
            return;
        }
        let most = self.config.max_broadcasts.max(2 * self.members.len());
        if !self.queue.push(message, most) {
            self.dropped(Dropped::Broadcasts, turn);
        }
    }
}
