//! How a member gets in touch: joins, joining again through known members, reconnecting to failed ones (SERF-13 to
//! SERF-16).

use alloc::{sync::Arc, vec::Vec};

use super::{
    interface::{MAX_JOIN, Output, Refused, Timer},
    leave::Lifecycle,
    members::Status,
    node::{Serf, Turn},
    snapshot::{Durable, Record},
};
use crate::{
    machine::Event,
    swim::{self, Endpoint, ExchangeError, Name},
};

/// What a push/pull that Serf's layer asked for is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// A join that the host asked for.
    Join {
        /// The host's request.
        request: u64,
        /// Whom it asks.
        to: Endpoint,
    },
    /// Joining again through this member.
    Rejoin(Name),
    /// Reaching a failed member.
    Reconnect,
}

/// A join that the host asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Join {
    /// How many have not answered yet.
    pub waiting: usize,
    /// How many have.
    pub joined: usize,
    /// Who won't, and why.
    pub failures: Vec<(Endpoint, ExchangeError)>,
    /// Events that were fired before are not delivered.
    pub ignore_old: bool,
}

impl Serf {
    fn exchange(&mut self, exchange: Exchange, to: Endpoint, turn: &mut Turn<'_, '_>) {
        // Numbers start afresh where none is in use.
        let request = if self.exchanges.is_empty() { 0 } else { self.next_exchange };
        self.next_exchange = request + 1;
        self.exchanges.insert(request, exchange);
        let command = swim::Command::PushPull { request, to, join: true };
        self.swim(Event::Command(command), turn);
    }

    /// A push/pull is over.
    pub(super) fn exchanged(
        &mut self,
        request: u64,
        result: Result<(), ExchangeError>,
        turn: &mut Turn<'_, '_>,
    ) {
        match self.exchanges.remove(&request) {
            Some(Exchange::Join { request, to }) => self.join_answered(request, to, result, turn),
            Some(Exchange::Rejoin(through)) => match result {
                Ok(()) => {
                    self.rejoin.clear();
                    self.announce(turn);
                    turn.emit(Output::Rejoined { through: Some(through) });
                }
                Err(_) if self.rejoin.is_empty() => {
                    turn.emit(Output::Rejoined { through: None });
                }
                Err(_) => self.rejoin_next(turn),
            },
            Some(Exchange::Reconnect) | None => {}
        }
    }

    // Joining.

    /// The host asks to join.
    pub(super) fn join(
        &mut self,
        request: u64,
        to: Vec<Endpoint>,
        ignore_old: bool,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Refused> {
        if !self.members.serving {
            return Err(Refused::Leaving);
        }
        if to.is_empty() || to.len() > MAX_JOIN || self.joins.contains_key(&request) {
            return Err(Refused::Addresses);
        }
        let join = Join { waiting: to.len(), ignore_old, ..Join::default() };
        self.joins.insert(request, join);
        for to in to {
            self.exchange(Exchange::Join { request, to }, to, turn);
        }
        Ok(())
    }

    fn join_answered(
        &mut self,
        request: u64,
        to: Endpoint,
        result: Result<(), ExchangeError>,
        turn: &mut Turn<'_, '_>,
    ) {
        let Some(join) = self.joins.get_mut(&request) else { return };
        join.waiting = join.waiting.saturating_sub(1);
        match result {
            Ok(()) => join.joined += 1,
            Err(error) => join.failures.push((to, error)),
        }
        if join.waiting > 0 {
            return;
        }
        let Some(join) = self.joins.remove(&request) else { return };
        if join.joined > 0 {
            self.announce(turn);
        }
        let Join { joined, failures, .. } = join;
        turn.emit(Output::JoinDone { request, joined, failures });
    }

    // Joining again.

    /// Notes whom the last run knew.
    pub(super) fn remember_members(&mut self, durable: &Durable, turn: &mut Turn<'_, '_>) {
        let rejoin = self.config.rejoin && (!durable.left || self.config.rejoin_after_leave);
        if durable.left {
            turn.persist(Record::Start { rejoin });
        }
        if rejoin {
            let known = durable.known.iter().filter(|(name, _)| **name != self.members.own);
            self.rejoin = known.map(|(name, to)| (Arc::clone(name), *to)).collect();
        }
    }

    /// Tries the next of those that the last run knew, by chance: members that start together must not all ask one.
    pub(super) fn rejoin_next(&mut self, turn: &mut Turn<'_, '_>) {
        if self.rejoin.is_empty() {
            return;
        }
        let chosen = turn.cx.entropy.choose(self.rejoin.len());
        if let Some((name, to)) = self.rejoin.swap_remove_back(chosen) {
            self.exchange(Exchange::Rejoin(name), to, turn);
        }
    }

    // Reconnecting.

    /// Tries to reach a failed member. Members on two sides of a cut have each other for failed, and SWIM doesn't talk
    /// to the dead: without this they never meet again (metallb#589). The more members there are, the more rarely each
    /// tries, so that a failed one is tried about as often as there are failed ones.
    pub(super) fn reconnect(&mut self, turn: &mut Turn<'_, '_>) {
        turn.arm(Timer::Reconnect, self.config.reconnect_interval);
        let failed: Vec<Endpoint> =
            self.members.with(Status::Failed).map(|entry| entry.member.endpoint).collect();
        if failed.is_empty() || self.lifecycle != Lifecycle::Serving {
            return;
        }
        let present = self.members.entries.values().filter(|entry| entry.status.is_present());
        let present = present.count().max(1);
        if turn.cx.entropy.choose(present) >= failed.len() {
            return;
        }
        let chosen = turn.cx.entropy.choose(failed.len());
        if let Some(to) = failed.get(chosen) {
            self.exchange(Exchange::Reconnect, *to, turn);
        }
    }
}
