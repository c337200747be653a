//! How a member leaves (SERF-17, SERF-18; Serf's `Leave`): it says so to Serf's layer, then to SWIM, and each time waits
//! until that has spread. Who hears only the second has it as failed in Serf, and as left here.

use alloc::{sync::Arc, vec::Vec};
use core::time::Duration;

use super::{
    interface::{Output, Refused, Timer},
    message::Message,
    node::{Serf, Turn},
    snapshot::Record,
};
use crate::{
    machine::Event,
    swim::{self, Name, suspicion::retransmit_limit},
};

/// How a member comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// It has not begun.
    Idle,
    /// It is there.
    Serving,
    /// Its intent to leave spreads; the host's request.
    Intent(u64),
    /// SWIM announces that it leaves.
    Departing(u64),
    /// That spreads.
    Propagating(u64),
    /// It has left.
    Gone,
}

impl Serf {
    /// The host wants to leave.
    pub(super) fn leave(&mut self, request: u64, turn: &mut Turn<'_, '_>) -> Result<(), Refused> {
        if !matches!(self.lifecycle, Lifecycle::Idle | Lifecycle::Serving) {
            return Err(Refused::Leaving);
        }
        self.saved.leave = turn.persist(Record::Leave);
        self.rejoin.clear();
        let mut changes = Vec::new();
        let intent = self.members.begin_leave(&mut changes);
        self.changed(changes, turn);
        self.lifecycle = Lifecycle::Intent(request);
        self.broadcast(Message::Leave(intent), turn);
        let wait = if self.members.has_others() { self.spreading() } else { Duration::ZERO };
        turn.arm(Timer::Leave, wait);
        Ok(())
    }

    /// How long a message takes until it was sent as often as it will be, a round of gossip going to several members; at
    /// most what is configured.
    fn spreading(&self) -> Duration {
        let config = &self.config.swim;
        let limit = retransmit_limit(config.retransmit_mult, self.swim.members.len());
        let present = self.members.entries.values().filter(|entry| entry.status.is_present());
        let others = present.count().saturating_sub(1).min(config.gossip_nodes).max(1);
        let rounds = limit.div_ceil(u32::try_from(others).unwrap_or(u32::MAX));
        config.gossip_interval.saturating_mul(rounds).min(self.config.broadcast_timeout)
    }

    /// The next step of leaving.
    pub(super) fn leave_on(&mut self, turn: &mut Turn<'_, '_>) {
        match self.lifecycle {
            Lifecycle::Intent(request) => {
                self.lifecycle = Lifecycle::Departing(request);
                self.swim(Event::Command(swim::Command::Leave { request }), turn);
            }
            Lifecycle::Propagating(request) => {
                self.lifecycle = Lifecycle::Gone;
                // Only once the disk says so: else the next start would join again.
                turn.after = turn.after.max(self.saved.leave);
                turn.emit(Output::LeaveDone { request });
            }
            Lifecycle::Idle | Lifecycle::Serving | Lifecycle::Departing(_) | Lifecycle::Gone => {}
        }
    }

    /// SWIM has announced that this member leaves.
    pub(super) fn departed(&mut self, turn: &mut Turn<'_, '_>) {
        let Lifecycle::Departing(request) = self.lifecycle else { return };
        self.lifecycle = Lifecycle::Propagating(request);
        let delay = self.config.leave_propagate_delay;
        let wait = if self.members.has_others() { delay } else { Duration::ZERO };
        turn.arm(Timer::Leave, wait);
    }

    /// This member's name.
    pub(super) fn own_name(&self) -> Name {
        Arc::clone(&self.members.own)
    }
}
