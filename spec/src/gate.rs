//! The gate: "durable, then said".
//!
//! Driver, simulator and model put every effect of a machine through a gate. It hands out the tickets, passes writes
//! and timers on at once, and holds each send and each emit until the write that it stands on is durable. Emits leave
//! in the order of emission: one that waits holds back those behind it. Sends need no order.

use alloc::{collections::VecDeque, vec::Vec};

use crate::machine::{Effect, Machine, Ticket};

/// Holds a machine's effects until they may happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gate<M: Machine> {
    /// The last ticket that was handed out.
    pub last: Ticket,
    /// Every write up to here is durable.
    pub durable: Ticket,
    /// Sends that wait for their write, in order of sending.
    pub sends: VecDeque<(Ticket, M::Peer, M::Message)>,
    /// Emits that wait for their write or for one before them.
    pub emits: VecDeque<(Ticket, M::Output)>,
}

impl<M: Machine> Default for Gate<M> {
    fn default() -> Self {
        Self {
            last: Ticket::NONE,
            durable: Ticket::NONE,
            sends: VecDeque::new(),
            emits: VecDeque::new(),
        }
    }
}

impl<M: Machine> Gate<M> {
    /// Takes the effects of one step; what may happen at once is appended to `ready`.
    pub fn admit(&mut self, effects: &mut Vec<Effect<M>>, ready: &mut Vec<Effect<M>>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Persist { .. } | Effect::Arm { .. } | Effect::Disarm { .. } => {
                    ready.push(effect);
                }
                Effect::Send { to, message, after } if after > self.durable => {
                    self.sends.push_back((after, to, message));
                }
                Effect::Emit { output, after }
                    if after > self.durable || !self.emits.is_empty() =>
                {
                    self.emits.push_back((after, output));
                }
                Effect::Send { .. } | Effect::Emit { .. } => ready.push(effect),
            }
        }
    }

    /// Notes that every write up to `ticket` is durable and releases what stood on it. The driver runs `ready` and
    /// then steps the machine with [`crate::machine::Event::Durable`].
    pub fn durable(&mut self, ticket: Ticket, ready: &mut Vec<Effect<M>>) {
        self.durable = self.durable.max(ticket);
        let mut waiting = VecDeque::new();
        for (after, to, message) in self.sends.drain(..) {
            if after <= self.durable {
                ready.push(Effect::Send { to, message, after });
            } else {
                waiting.push_back((after, to, message));
            }
        }
        self.sends = waiting;
        while self.emits.front().is_some_and(|(after, _)| *after <= self.durable) {
            let Some((after, output)) = self.emits.pop_front() else { break };
            ready.push(Effect::Emit { output, after });
        }
    }

    /// Whether any write is still on its way to the disk.
    pub fn is_pending(&self) -> bool {
        self.durable < self.last
    }

    /// Starts the tickets afresh where nothing is pending, so that equal states of a model meet.
    ///
    /// The machine holds no ticket then: it drops each one when it learns that it is durable.
    pub fn rebase(&mut self) {
        if !self.is_pending() {
            self.last = Ticket::NONE;
            self.durable = Ticket::NONE;
        }
    }
}
