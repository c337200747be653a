//! The contract of a machine: one way in, one way out.
//!
//! A machine is stepped with an [`Event`] and answers with [`Effect`]s. Everything that it may do is in the type of
//! what it returns; whoever drives it (the agent, the simulator, the model) does no more and no less.

use alloc::vec::Vec;
use core::{fmt::Debug, hash::Hash, time::Duration};

use crate::{entropy::Entropy, time::Instant};

/// What a model can keep, compare and fingerprint. Implemented for every type that can be.
pub trait Data: Clone + Debug + Eq + Hash {}
impl<T: Clone + Debug + Eq + Hash> Data for T {}

/// Names a durable write. Effects that stand on a write carry its ticket and wait for it in the [`crate::gate::Gate`].
///
/// Tickets count up from 1 within one run of a machine. [`Ticket::NONE`] is always durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

impl Ticket {
    /// Stands on no write.
    pub const NONE: Self = Self(0);
}

/// What a step may use besides its event: the time, injected choices, and fresh tickets.
pub struct Context<'a> {
    /// The driver's monotonic time. Shapes delays and stamps; never decides a matter of safety.
    pub now: Instant,
    /// Injected choices.
    pub entropy: &'a mut dyn Entropy,
    /// The last ticket handed out; owned by the gate between steps.
    pub last_ticket: &'a mut Ticket,
}

impl Context<'_> {
    /// Hands out the ticket for the next write.
    pub fn next_ticket(&mut self) -> Ticket {
        self.last_ticket.0 += 1;
        *self.last_ticket
    }
}

/// A deterministic state machine with durable state.
pub trait Machine: Data {
    /// What never changes while the machine runs.
    type Config;
    /// Names another machine of the same kind.
    type Peer: Data + Ord;
    /// What machines send each other.
    type Message: Data;
    /// The machine's timers; at most one of each name is armed.
    type Timer: Data + Ord;
    /// One atomic change of the durable state.
    type Write: Data;
    /// What the host asks of the machine.
    type Command: Data;
    /// What the machine tells its host.
    type Output: Data;
    /// What survives a crash.
    type Durable: Data + Default;

    /// Starts from what a crash left. A new machine starts from `Durable::default()`.
    fn recover(
        config: &Self::Config,
        durable: Self::Durable,
        cx: &mut Context<'_>,
        effects: &mut Vec<Effect<Self>>,
    ) -> Self;

    /// Folds one write into what survives a crash. The log writer refines this function.
    fn fold(durable: &mut Self::Durable, write: &Self::Write);

    /// Takes one step. Total: it neither fails nor blocks, whatever a peer sent.
    fn step(&mut self, event: Event<Self>, cx: &mut Context<'_>, effects: &mut Vec<Effect<Self>>);
}

/// What happens to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event<M: Machine> {
    /// A message arrived. It may be lost, late, repeated or out of order, but it was sent by `from`.
    Receive {
        /// The sender.
        from: M::Peer,
        /// What it sent.
        message: M::Message,
    },
    /// An armed timer ran out; it is disarmed before the machine steps.
    Fire(M::Timer),
    /// Every write up to this ticket survives a crash from here on.
    Durable(Ticket),
    /// The host asks for something.
    Command(M::Command),
}

/// What a machine does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect<M: Machine> {
    /// Make `write` durable, atomically and in the order of the tickets.
    Persist {
        /// The write's name.
        ticket: Ticket,
        /// The write.
        write: M::Write,
    },
    /// Send a message, not before the write `after` is durable.
    Send {
        /// The receiver.
        to: M::Peer,
        /// The message.
        message: M::Message,
        /// The write that the message stands on.
        after: Ticket,
    },
    /// Start the timer, or start it afresh.
    Arm {
        /// Which timer.
        timer: M::Timer,
        /// How long until it fires.
        delay: Duration,
    },
    /// Stop the timer.
    Disarm {
        /// Which timer.
        timer: M::Timer,
    },
    /// Tell the host something, not before the write `after` is durable, and in the order of emission.
    Emit {
        /// What to tell.
        output: M::Output,
        /// The write that it stands on.
        after: Ticket,
    },
}
