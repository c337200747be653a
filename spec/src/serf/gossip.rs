//! Messages and push/pulls: intents, user events, and what is passed on (SERF-3 to SERF-24).

use alloc::vec::Vec;

use super::{
    interface::{Counter, EVENT_LIMIT, Output, Refused},
    lamport::LamportTime,
    members::Heard,
    message::{Message, State, UserEvent, UserEventMessage},
    node::{Serf, Turn},
    ring::Admission,
    snapshot::Record,
};
use crate::swim::Name;

impl Serf {
    /// A message of Serf's came.
    pub(super) fn receive(&mut self, message: Message, turn: &mut Turn<'_, '_>) {
        match message {
            Message::Leave(_) | Message::Join(_) => self.hear_intent(message, turn),
            Message::UserEvent(event) => self.hear_event(event, turn),
            Message::Query(query) => self.hear_query(&query, turn),
            Message::QueryResponse(response) => self.hear_response(response, turn),
            Message::Relay { to, to_node, response } => {
                self.relay(to, &to_node, response, turn);
            }
        }
    }

    // Intents.

    fn hear_intent(&mut self, message: Message, turn: &mut Turn<'_, '_>) {
        let (now, memory) = (turn.cx.now, &self.config.memory);
        let mut changes = Vec::new();
        let heard = match &message {
            Message::Leave(leave) => self.members.leave_intent(leave, memory, now, &mut changes),
            Message::Join(join) => self.members.join_intent(join, memory, now, &mut changes),
            Message::UserEvent(_)
            | Message::Query(_)
            | Message::QueryResponse(_)
            | Message::Relay { .. } => return,
        };
        self.changed(changes, turn);
        match heard {
            Heard::News => self.broadcast(message, turn),
            Heard::Old => {}
            Heard::Refute => {
                turn.count(Counter::RefutedLeave);
                self.announce(turn);
            }
            Heard::Implausible => turn.count(Counter::ImplausibleTime),
            Heard::Full => turn.count(Counter::IntentsFull),
        }
    }

    /// Says that this member is there: later than all that was said of it.
    pub(super) fn announce(&mut self, turn: &mut Turn<'_, '_>) {
        if self.members.serving {
            let intent = self.members.announce();
            self.broadcast(Message::Join(intent), turn);
        }
    }

    /// An operator says that a member has left.
    pub(super) fn force_leave(
        &mut self,
        request: u64,
        name: &Name,
        prune: bool,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Refused> {
        let mut changes = Vec::new();
        let intent = self
            .members
            .force_leave(name, prune, turn.cx.now, &mut changes)
            .map_err(Refused::Member)?;
        self.changed(changes, turn);
        self.broadcast(Message::Leave(intent), turn);
        turn.emit(Output::Done { request });
        Ok(())
    }

    // Events.

    /// The host fires an event.
    pub(super) fn fire_event(
        &mut self,
        request: u64,
        event: UserEvent,
        coalesce: bool,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Refused> {
        let (plain, limit) = (event.name.len() + event.payload.len(), self.config.event_limit);
        if plain > limit {
            return Err(Refused::EventLimit(limit));
        }
        if plain > EVENT_LIMIT {
            return Err(Refused::EventSaneLimit);
        }
        let ltime = self.events.clock.time();
        let message = UserEventMessage { ltime, event, coalesce };
        let encoded = message.size();
        if encoded > limit {
            return Err(Refused::EncodedEventLimit(limit));
        }
        if encoded > EVENT_LIMIT {
            return Err(Refused::EncodedEventSaneLimit);
        }
        if self.events.admit(ltime, message.event.clone()) != Admission::New {
            return Err(Refused::EventClock);
        }
        self.deliver(message.clone(), turn);
        self.broadcast(Message::UserEvent(message), turn);
        turn.emit(Output::Done { request });
        Ok(())
    }

    fn hear_event(&mut self, message: UserEventMessage, turn: &mut Turn<'_, '_>) {
        if self.take_event(message.clone(), turn) {
            self.broadcast(Message::UserEvent(message), turn);
        }
    }

    /// Takes an event where it is new; says whether it was.
    fn take_event(&mut self, message: UserEventMessage, turn: &mut Turn<'_, '_>) -> bool {
        let admission = self.events.admit(message.ltime, message.event.clone());
        match admission {
            Admission::New => self.deliver(message, turn),
            Admission::Known => {}
            Admission::Old => turn.count(Counter::OldEvent),
            Admission::Implausible => turn.count(Counter::ImplausibleTime),
        }
        admission == Admission::New
    }

    /// Tells the host of an event, behind the write of its time: else a crash forgets that it was told, and a push/pull
    /// brings it again.
    fn deliver(&mut self, message: UserEventMessage, turn: &mut Turn<'_, '_>) {
        let UserEventMessage { ltime, event, coalesce } = message;
        if ltime > self.saved.event_ltime {
            self.saved.event_ltime = ltime;
            self.saved.events = turn.persist(Record::EventClock(ltime));
        }
        let before = turn.after;
        turn.after = before.max(self.saved.events);
        turn.emit(Output::Event { ltime, event, coalesce });
        turn.after = before;
    }

    // Push/pull.

    /// What a push/pull tells.
    pub fn tell(&self) -> State {
        let (status_ltimes, left_members) = self.members.tell();
        State {
            ltime: self.members.clock.time(),
            status_ltimes,
            left_members,
            event_ltime: self.events.clock.time(),
            events: self.events.slots().map(|(ltime, events)| (ltime, events.to_vec())).collect(),
            query_ltime: self.queries.clock.time(),
        }
    }

    /// A push/pull tells this.
    pub(super) fn merge(&mut self, join: bool, state: &State, turn: &mut Turn<'_, '_>) {
        let (now, memory) = (turn.cx.now, &self.config.memory);
        let mut changes = Vec::new();
        let (ltimes, left) = (&state.status_ltimes, &state.left_members);
        let heard = self.members.merge(state.ltime, ltimes, left, memory, now, &mut changes);
        self.changed(changes, turn);
        match heard {
            Heard::Refute => self.announce(turn),
            Heard::Implausible => turn.count(Counter::ImplausibleTime),
            Heard::News | Heard::Old | Heard::Full => {}
        }
        // The sender's clock is past what it saw.
        let before = |ltime: LamportTime| LamportTime(ltime.0.saturating_sub(1));
        if !self.queries.witness(before(state.query_ltime)) {
            turn.count(Counter::ImplausibleTime);
        }
        if !self.events.witness(before(state.event_ltime)) {
            turn.count(Counter::ImplausibleTime);
            return;
        }
        if join && self.joins.values().any(|join| join.ignore_old) {
            self.events.raise_floor(state.event_ltime);
        }
        for (ltime, events) in &state.events {
            for event in events {
                let event = event.clone();
                self.take_event(UserEventMessage { ltime: *ltime, event, coalesce: false }, turn);
            }
        }
    }
}
