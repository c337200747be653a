//! Push/pull: two members exchange their whole tables over a stream (memberlist's anti-entropy, and how one joins).

use alloc::{sync::Arc, vec::Vec};

use super::{
    interface::{Dropped, ExchangeError, Output, Timer},
    member::Word,
    message::{Alive, Dead, Message, PushPull, Suspect},
    node::{Node, Turn},
    suspicion::push_pull_scale,
    types::{Endpoint, Layer, MemberState, Peer, Status, Versions},
};
use crate::machine::Effect;

/// A push/pull that this member began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exchange {
    /// The host's request, where it asked for it.
    pub request: Option<u64>,
    /// It joins.
    pub join: bool,
}

/// The range of versions that all members understand.
struct Range {
    protocol: (u8, u8),
    delegate: (u8, u8),
}

impl Range {
    fn of(all: impl Iterator<Item = Versions>) -> Self {
        let mut range = Self { protocol: (0, u8::MAX), delegate: (0, u8::MAX) };
        for versions in all {
            let Self { protocol, delegate } = &mut range;
            protocol.0 = protocol.0.max(versions.protocol_min);
            protocol.1 = protocol.1.min(versions.protocol_max);
            delegate.0 = delegate.0.max(versions.delegate_min);
            delegate.1 = delegate.1.min(versions.delegate_max);
        }
        range
    }

    fn holds(&self, versions: Versions) -> bool {
        (self.protocol.0..=self.protocol.1).contains(&versions.protocol)
            && (self.delegate.0..=self.delegate.1).contains(&versions.delegate)
    }
}

impl<L: Layer> Node<L> {
    pub(super) fn arm_push_pull(&self, turn: &mut Turn<'_, '_, L>) {
        let interval = self.config.push_pull_interval;
        if !interval.is_zero() {
            let delay = interval.saturating_mul(push_pull_scale(self.members.len()));
            turn.effects.push(Effect::Arm { timer: Timer::PushPull, delay });
        }
    }

    /// Time for a push/pull with somebody.
    pub(super) fn push_pull_round(&mut self, turn: &mut Turn<'_, '_, L>) {
        self.arm_push_pull(turn);
        let alive = self.random_members(1, turn, |member| member.status == Status::Alive);
        for member in alive {
            self.begin_exchange(member.endpoint, false, None, turn);
        }
    }

    /// Sends the table to whoever is there, and waits for theirs.
    pub(super) fn begin_exchange(
        &mut self,
        to: Endpoint,
        join: bool,
        request: Option<u64>,
        turn: &mut Turn<'_, '_, L>,
    ) {
        let busy = self.exchanges.len() >= self.config.max_exchanges;
        match (self.exchanges.get_mut(&to), request) {
            (Some(exchange), Some(_)) if exchange.request.is_none() => {
                // The one that is under way will do.
                exchange.request = request;
                exchange.join |= join;
            }
            (None, _) if !busy => {
                self.exchanges.insert(to, Exchange { request, join });
                let delay = self.config.stream_timeout;
                turn.effects.push(Effect::Arm { timer: Timer::Exchange(to), delay });
                let message = self.table(join, false);
                self.send(Peer::Endpoint(to), message, turn);
            }
            (_, Some(request)) => {
                let result = Err(ExchangeError::Busy);
                self.emit(Output::Pushed { request, result }, turn);
            }
            (_, None) => {}
        }
    }

    fn table(&self, join: bool, reply: bool) -> Message<L> {
        let members = self.members.values().map(MemberState::from).collect();
        Message::PushPull(PushPull { join, members, user: None, reply })
    }

    /// A push/pull that this member began is over.
    pub(super) fn end_exchange(
        &mut self,
        with: Endpoint,
        result: Result<(), ExchangeError>,
        turn: &mut Turn<'_, '_, L>,
    ) {
        let Some(exchange) = self.exchanges.remove(&with) else { return };
        turn.effects.push(Effect::Disarm { timer: Timer::Exchange(with) });
        if let Some(request) = exchange.request {
            self.emit(Output::Pushed { request, result }, turn);
        }
    }

    pub(super) fn hear_push_pull(
        &mut self,
        from: Peer,
        push_pull: PushPull<L>,
        turn: &mut Turn<'_, '_, L>,
    ) {
        if push_pull.reply {
            let Peer::Endpoint(endpoint) = from else {
                self.dropped(Dropped::Unsolicited, turn);
                return;
            };
            let Some(join) = self.exchanges.get(&endpoint).map(|exchange| exchange.join) else {
                self.dropped(Dropped::Unsolicited, turn);
                return;
            };
            let result = self.merge(from, push_pull, join, turn);
            self.end_exchange(endpoint, result, turn);
        } else {
            // As it was before the merge: else the sender would get its own table back.
            let answer = self.table(false, true);
            self.send(from, answer, turn);
            let join = push_pull.join;
            if let Err(ExchangeError::Refused(reason)) = self.merge(from, push_pull, join, turn) {
                self.dropped(Dropped::Refused(reason), turn);
            }
        }
    }

    /// Takes another's table for as many announcements and accusations.
    fn merge(
        &mut self,
        from: Peer,
        push_pull: PushPull<L>,
        join: bool,
        turn: &mut Turn<'_, '_, L>,
    ) -> Result<(), ExchangeError> {
        self.check_table(&push_pull.members, join)?;
        for member in push_pull.members {
            self.merge_member(member, from, turn);
        }
        self.emit(Output::Merged { from, join, user: push_pull.user }, turn);
        Ok(())
    }

    fn merge_member(&mut self, member: MemberState, peer: Peer, turn: &mut Turn<'_, '_, L>) {
        let MemberState { name: node, endpoint, meta, versions, incarnation, status } = member;
        match status {
            Status::Alive => {
                let alive = Alive { incarnation, node, endpoint, meta, versions };
                self.hear_alive(alive, peer, turn);
            }
            // Only suspected, though the other says that it is dead: that may be long past, and it may refute it.
            Status::Suspect | Status::Dead => {
                let from = Arc::clone(&self.config.name);
                self.hear_suspect(Suspect { incarnation, node, from }, Word::Hearsay, turn);
            }
            Status::Left => {
                let from = Arc::clone(&node);
                self.hear_dead(Dead { incarnation, node, from }, Word::Hearsay, turn);
            }
        }
    }

    /// Whether a table may be merged.
    fn check_table(&self, members: &[MemberState], join: bool) -> Result<(), ExchangeError> {
        let alive = members.iter().filter(|m| m.status == Status::Alive && m.versions.is_valid());
        let own = self.members.values().filter(|member| member.status == Status::Alive);
        let all: Vec<Versions> =
            alive.map(|m| m.versions).chain(own.map(|member| member.versions)).collect();
        let range = Range::of(all.iter().copied());
        if !all.iter().all(|versions| range.holds(*versions)) {
            return Err(ExchangeError::Versions);
        }
        let others = members.iter().filter(|member| join && member.name != self.config.name);
        for member in others {
            L::admit(member, &self.config.rules).map_err(ExchangeError::Refused)?;
        }
        Ok(())
    }
}
