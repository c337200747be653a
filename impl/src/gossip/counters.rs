//! What a pool counts of what it refused, dropped or lost. `/v1/agent/self` and `info` show it, in a block of its own
//! beside Serf's figures.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use spec::{serf::Counter, swim::Dropped};

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Datagrams and streams that were refused, and messages in them.
    pub refused: AtomicU64,
    /// Inputs that were dropped because the machine had too many before it.
    pub overrun: AtomicU64,
    /// Messages that could not be sent.
    pub unsent: AtomicU64,
    /// What the machine counted, by why.
    machine: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    /// The machine counted something.
    pub(super) fn counted(&self, counter: Counter) {
        self.add(match counter {
            Counter::ImplausibleTime => "implausible_time",
            Counter::IntentsFull => "intents_full",
            Counter::OldEvent => "old_event",
            Counter::OldQuery => "old_query",
            Counter::StrangersQuery => "strangers_query",
            Counter::StrangersRelay => "strangers_relay",
            Counter::UnaskedResponse => "unasked_response",
            Counter::DuplicateResponse => "duplicate_response",
            Counter::OpenQueriesFull => "open_queries_full",
            Counter::KeyQueriesFull => "key_queries_full",
            Counter::RefutedLeave => "refuted_leave",
        });
    }

    /// Membership dropped something.
    pub(super) fn dropped(&self, why: Dropped) {
        self.add(match why {
            Dropped::Incarnation => "dropped_incarnation",
            Dropped::Versions => "dropped_versions",
            Dropped::Malformed => "dropped_malformed",
            Dropped::Members => "dropped_members",
            Dropped::Broadcasts => "dropped_broadcasts",
            Dropped::Oversized => "dropped_oversized",
            Dropped::Misdirected => "dropped_misdirected",
            Dropped::Relay => "dropped_relay",
            Dropped::Unsolicited => "dropped_unsolicited",
            Dropped::Refused(_) => "dropped_not_admitted",
        });
    }

    fn add(&self, name: &'static str) {
        *self.machine.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    }

    /// The block `gossip_lan` or `gossip_wan`: what the wire counted, and what the machine did so far.
    pub(super) fn figures(&self) -> BTreeMap<&'static str, String> {
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wire =
            [("overrun", &self.overrun), ("refused", &self.refused), ("unsent", &self.unsent)];
        wire.map(|(name, figure)| (name, figure.load(Ordering::Relaxed)))
            .into_iter()
            .chain(machine)
            .map(|(name, figure)| (name, figure.to_string()))
            .collect()
    }
}
