//! Asking and answering queries (SERF-25 to SERF-29), and operations on all keyrings, which are queries (SERF-30 to
//! SERF-36).

use alloc::{collections::BTreeSet, sync::Arc, vec::Vec};
use core::time::Duration;

use super::{
    interface::{Counter, MAX_RELAY_FACTOR, Output, Question, Refused, Timer},
    keyring::{KeyOperation, KeyRequest, Next},
    members::Status,
    message::{Answer, Filter, Known, Message, Query, QueryBody, QueryResponse},
    node::{Serf, Turn},
    query::{self, Open, Purpose, QueryKey, Running},
    ring::Admission,
};
use crate::{
    machine::Event,
    swim::{self, Endpoint, Name},
};

/// The delegate's version from which on a member relays.
const RELAYS_FROM: u8 = 5;

/// What a query is made of, besides what is drawn when it is asked.
struct Draft {
    body: QueryBody,
    filters: Vec<Filter>,
    ack: bool,
    no_broadcast: bool,
    relay_factor: u8,
    timeout: Option<Duration>,
}

impl Serf {
    // Asking.

    /// The host asks.
    pub(super) fn ask(
        &mut self,
        request: u64,
        question: Question,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Refused> {
        let Question { name, payload, filters, ack, no_broadcast, relay_factor, timeout } =
            question;
        let body = QueryBody::User { name, payload };
        let draft = Draft { body, filters, ack, no_broadcast, relay_factor, timeout };
        self.send_query(Purpose::Host(request), draft, turn)
    }

    fn send_query(
        &mut self,
        purpose: Purpose,
        draft: Draft,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Refused> {
        if self.running.len() >= self.config.max_running {
            return Err(Refused::TooManyQueries);
        }
        let present = self.members.entries.values().filter(|entry| entry.status.is_present());
        let usual = query::default_timeout(self.config.swim.gossip_interval, present.count());
        let timeout = draft.timeout.unwrap_or(usual);
        let query = Query {
            ltime: self.queries.clock.time(),
            // Two members that never heard of each other ask at one time: chance tells their queries apart.
            id: u32::try_from(turn.cx.entropy.choose(1 << 31)).unwrap_or_default(),
            source: self.config.swim.endpoint,
            source_node: self.own_name(),
            filters: draft.filters,
            ack: draft.ack,
            no_broadcast: draft.no_broadcast,
            relay_factor: draft.relay_factor.min(MAX_RELAY_FACTOR),
            timeout,
            body: draft.body,
        };
        let key = (query.ltime, query.id);
        let query = Arc::new(query);
        let message = Message::Query(Arc::clone(&query));
        if message.size() > self.config.query_limit {
            return Err(Refused::QueryLimit(self.config.query_limit));
        }
        if self.queries.admit(key.0, key.1) != Admission::New {
            return Err(Refused::TooManyQueries);
        }
        self.running.insert(key, Running::new(purpose));
        turn.arm(Timer::Query(key.0, key.1), timeout);
        // The one hop of a query that is not passed on is the asker's own gossip.
        self.broadcast(message, turn);
        self.take_query(&query, turn);
        Ok(())
    }

    /// A query's time is over.
    pub(super) fn query_over(&mut self, key: QueryKey, turn: &mut Turn<'_, '_>) {
        let Some(running) = self.running.remove(&key) else { return };
        match running.purpose {
            Purpose::Keys => self.operation_on(turn),
            Purpose::Host(request) => {
                let (acks, responses) = (running.acks.len(), running.responses.len());
                turn.emit(Output::QueryDone { request, acks, responses });
            }
        }
    }

    /// Somebody answers.
    pub(super) fn hear_response(&mut self, response: QueryResponse, turn: &mut Turn<'_, '_>) {
        let QueryResponse { ltime, id, from, ack, answer } = response;
        let key = (ltime, id);
        // Only members answer, so what is kept of a query is bounded by their number.
        let known = self.members.entries.contains_key(&from);
        let Some(running) = self.running.get_mut(&key).filter(|_| known) else {
            turn.count(Counter::UnaskedResponse);
            return;
        };
        if !running.hear(&from, ack) {
            turn.count(Counter::DuplicateResponse);
            return;
        }
        match running.purpose {
            Purpose::Host(request) if ack => turn.emit(Output::Acked { request, from }),
            Purpose::Host(request) => {
                turn.emit(Output::Answered { request, from, payload: answer.bytes });
            }
            Purpose::Keys => {
                let last = match (&mut self.operation, answer.key) {
                    (Some(operation), Some(answer)) => operation.hear(&from, answer),
                    _ => false,
                };
                if last {
                    turn.effects
                        .push(crate::machine::Effect::Disarm { timer: Timer::Query(ltime, id) });
                    self.query_over(key, turn);
                }
            }
        }
    }

    // Answering.

    /// A query came.
    pub(super) fn hear_query(&mut self, query: &Arc<Query>, turn: &mut Turn<'_, '_>) {
        // Everybody who hears it sends something to its source: else an outsider aims the whole pool at a third party. What
        // is dropped for that is not remembered: gossip may bring the query again when its asker is known.
        if !self.is_member_at(&query.source_node, query.source) {
            turn.count(Counter::StrangersQuery);
            return;
        }
        match self.queries.admit(query.ltime, query.id) {
            Admission::New => {}
            Admission::Known => return,
            Admission::Old => return turn.count(Counter::OldQuery),
            Admission::Implausible => return turn.count(Counter::ImplausibleTime),
        }
        if !query.no_broadcast {
            self.broadcast(Message::Query(Arc::clone(query)), turn);
        }
        self.take_query(query, turn);
    }

    /// Whether a member receives there; of that name, where one is given.
    fn is_member_at(&self, name: &Name, endpoint: Endpoint) -> bool {
        let entries = &self.members.entries;
        match entries.get(name) {
            Some(entry) => entry.member.endpoint == endpoint,
            None if name.is_empty() => entries.values().any(|e| e.member.endpoint == endpoint),
            None => false,
        }
    }

    fn take_query(&mut self, query: &Arc<Query>, turn: &mut Turn<'_, '_>) {
        if !query::matches(&query.filters, &self.members.own, &self.tags) {
            return;
        }
        if query.ack {
            self.answer(query, true, Answer::default(), turn);
        }
        match &query.body {
            QueryBody::User { .. } => self.open_query(query, turn),
            QueryBody::Ping => {}
            QueryBody::Conflict(name) => self.answer_conflict(query, name, turn),
            QueryBody::Key(_) => self.heed_keys(query, turn),
        }
    }

    fn open_query(&mut self, query: &Arc<Query>, turn: &mut Turn<'_, '_>) {
        if self.open.len() >= self.config.max_open {
            self.open.pop_first();
            turn.count(Counter::OpenQueriesFull);
        }
        let open = Open {
            source: query.source,
            source_node: Arc::clone(&query.source_node),
            relay_factor: query.relay_factor,
            deadline: turn.cx.now.after(query.timeout),
            answered: false,
        };
        self.open.insert((query.ltime, query.id), open);
        turn.emit(Output::Query(Arc::clone(query)));
    }

    /// Says who has a name. About itself a member says nothing: the asker is it, or says that it is.
    fn answer_conflict(&mut self, query: &Query, name: &Name, turn: &mut Turn<'_, '_>) {
        if *name == self.members.own {
            return;
        }
        let Some(entry) = self.members.entries.get(name) else { return };
        let known = Arc::new(Known::new(&entry.member, entry.status));
        self.answer(query, false, Answer { member: Some(known), ..Answer::default() }, turn);
    }

    /// The host answers a query.
    pub(super) fn respond(
        &mut self,
        request: u64,
        key: QueryKey,
        payload: Arc<[u8]>,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Refused> {
        let limit = self.config.response_limit;
        let from = self.own_name();
        let open = self.open.get_mut(&key).ok_or(Refused::PastDeadline)?;
        if open.answered {
            return Err(Refused::AlreadyResponded);
        }
        if turn.cx.now > open.deadline {
            self.open.remove(&key);
            return Err(Refused::PastDeadline);
        }
        let answer = Answer { bytes: payload, ..Answer::default() };
        let response = QueryResponse { ltime: key.0, id: key.1, from, ack: false, answer };
        if response.size() > limit {
            return Err(Refused::ResponseLimit(limit));
        }
        open.answered = true;
        let Open { source, source_node, relay_factor, .. } = open.clone();
        self.send_response(source, &source_node, relay_factor, response, turn);
        turn.emit(Output::Done { request });
        Ok(())
    }

    pub(super) fn answer(
        &mut self,
        query: &Query,
        ack: bool,
        answer: Answer,
        turn: &mut Turn<'_, '_>,
    ) {
        let from = self.own_name();
        let response = QueryResponse { ltime: query.ltime, id: query.id, from, ack, answer };
        let Query { source, source_node, relay_factor, .. } = query;
        self.send_response(*source, source_node, *relay_factor, response, turn);
    }

    fn send_response(
        &mut self,
        to: Endpoint,
        to_node: &Name,
        relay_factor: u8,
        response: QueryResponse,
        turn: &mut Turn<'_, '_>,
    ) {
        if to == self.config.swim.endpoint {
            self.hear_response(response, turn);
            return;
        }
        self.send(to, Message::QueryResponse(response.clone()), turn);
        let relays = usize::from(relay_factor.min(MAX_RELAY_FACTOR));
        if relays == 0 || self.members.entries.len() < relays + 1 {
            return;
        }
        let mut candidates: Vec<Endpoint> = self
            .members
            .with(Status::Alive)
            .map(|entry| &entry.member)
            .filter(|member| member.versions.delegate_max >= RELAYS_FROM)
            .filter(|member| member.name != self.members.own && member.endpoint != to)
            .map(|member| member.endpoint)
            .collect();
        for _ in 0..relays.min(candidates.len()) {
            let via = candidates.swap_remove(turn.cx.entropy.choose(candidates.len()));
            let (to_node, response) = (Arc::clone(to_node), response.clone());
            self.send(via, Message::Relay { to, to_node, response }, turn);
        }
    }

    fn send(&mut self, to: Endpoint, message: Message, turn: &mut Turn<'_, '_>) {
        self.swim(Event::Command(swim::Command::Send { to, message }), turn);
    }

    /// Passes an answer on, to a member only: else an outsider aims this member's packets.
    pub(super) fn relay(
        &mut self,
        to: Endpoint,
        to_node: &Name,
        response: QueryResponse,
        turn: &mut Turn<'_, '_>,
    ) {
        if !self.is_member_at(to_node, to) {
            turn.count(Counter::StrangersRelay);
        } else if to == self.config.swim.endpoint {
            self.hear_response(response, turn);
        } else {
            self.send(to, Message::QueryResponse(response), turn);
        }
    }

    // Keyrings.

    /// The host asks for an operation on every member's keyring.
    pub(super) fn operate(
        &mut self,
        request: u64,
        operation: KeyRequest,
        relay_factor: u8,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Refused> {
        if self.operation.is_some() {
            return Err(Refused::KeyringBusy);
        }
        let members = &self.members;
        let (expected, failed) = match operation {
            KeyRequest::List => {
                (members.named(Status::is_present), members.named(|s| s == Status::Failed))
            }
            KeyRequest::Install(_) | KeyRequest::Use(_) | KeyRequest::Remove(_) => {
                (members.remaining(), BTreeSet::new())
            }
        };
        let operation = KeyOperation::new(request, operation, relay_factor, expected, failed);
        self.operation = Some(operation);
        let asked = self.ask_keys(turn);
        if asked.is_err() {
            self.operation = None;
        }
        asked
    }

    fn ask_keys(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), Refused> {
        let Some(operation) = &self.operation else { return Ok(()) };
        let draft = Draft {
            body: QueryBody::Key(operation.query()),
            filters: Vec::new(),
            ack: false,
            no_broadcast: false,
            relay_factor: operation.relay_factor,
            timeout: None,
        };
        self.send_query(Purpose::Keys, draft, turn)
    }

    /// A query of the operation is over.
    fn operation_on(&mut self, turn: &mut Turn<'_, '_>) {
        let remaining = self.members.remaining();
        let Some(operation) = &mut self.operation else { return };
        let request = operation.request;
        match operation.next(remaining) {
            Next::Act => {
                if let Err(reason) = self.ask_keys(turn) {
                    self.operation = None;
                    turn.emit(Output::Refused { request, reason });
                }
            }
            Next::Done(result) => {
                self.operation = None;
                turn.emit(Output::KeyringDone { request, result });
            }
        }
    }
}
