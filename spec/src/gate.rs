//! The gate: "durable, then said".
//!
//! Driver, simulator and model put every effect of a machine through a gate. It hands out the tickets, passes writes
//! and timers on at once, and holds each send and each emit until the write that it stands on is durable. Emits leave
//! in the order of emission: one that waits holds back those behind it. Sends need no order, and may be lost: a gate
//! holds a bounded number, and drops the oldest beyond it.

use alloc::{collections::VecDeque, vec::Vec};

use crate::machine::{Effect, Machine, Ticket};

/// How many sends a gate holds. A server whose disk stalls is asked over and over, by heartbeats and by ReadIndex
/// rounds, and its answers would pile up for as long as that takes; the newest say all that the oldest do.
pub const MAX_WAITING_SENDS: usize = 4096;

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
                    if self.sends.len() >= MAX_WAITING_SENDS {
                        self.sends.pop_front();
                    }
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

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{Gate, MAX_WAITING_SENDS};
    use crate::{
        machine::{Effect, Ticket},
        raft::{
            Message, Node, ServerId,
            message::{ReadId, ReadIndexReply},
        },
    };

    fn answer(n: u64) -> Effect<Node> {
        let reply = ReadIndexReply { id: ReadId { boot: 0, n }, index: None };
        let message = Message::ReadIndexReply(reply);
        Effect::Send { to: ServerId::new(2, 2), message, after: Ticket(1) }
    }

    #[test]
    fn of_too_many_sends_that_wait_the_newest_are_kept() {
        let (mut gate, mut ready) = (Gate::<Node>::default(), Vec::new());
        let sent = u64::try_from(MAX_WAITING_SENDS).unwrap_or(0) + 10;
        for n in 0..sent {
            gate.admit(&mut Vec::from([answer(n)]), &mut ready);
        }
        assert!(ready.is_empty());
        gate.durable(Ticket(1), &mut ready);
        assert_eq!(ready, (10..sent).map(answer).collect::<Vec<_>>());
    }
}
