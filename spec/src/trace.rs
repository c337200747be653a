//! Flight records: what one machine was told and what it did, so that a run of the agent can be replayed and checked.
//!
//! A record is the run's opening (configuration and what was durable) and one line for each step: the time, the choices
//! that were drawn, the event, and a fingerprint of the effects. Replaying it steps the same machine with the same
//! events, and demands of each step the same effects, of each released effect that its write was durable, and of the
//! durable state that it is the fold of the writes up to the last ticket that was said to be durable.

use alloc::{vec, vec::Vec};
use core::{
    hash::{Hash, Hasher},
    time::Duration,
};

use bincode::{Decode, Encode};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    entropy::Entropy,
    gate::Gate,
    machine::{Context, Effect, Event, Machine, Ticket},
    time::Instant,
};

/// The version of the format; a record of another one is refused.
pub const VERSION: u16 = 1;

/// How a run began.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Opening<C, D> {
    /// [`VERSION`].
    pub version: u16,
    /// The machine's configuration.
    pub config: C,
    /// What was durable.
    pub durable: D,
    /// The machine's time, in microseconds.
    pub now_us: u64,
    /// What it drew, in order.
    pub draws: Vec<Draw>,
    /// The fingerprint of its first effects.
    pub effects: u64,
}

/// The opening of a machine's run.
pub type OpeningOf<M> = Opening<<M as Machine>::Config, <M as Machine>::Durable>;

/// One choice that a step drew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Draw {
    /// A delay, in microseconds.
    Jitter(u64),
    /// An index.
    Choice(u64),
}

/// An event, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Happened<P, M, T, C> {
    /// A message arrived.
    Receive {
        /// The sender.
        from: P,
        /// The message.
        message: M,
    },
    /// A timer fired.
    Fire(T),
    /// Writes up to this ticket became durable.
    Durable(u64),
    /// The host asked for something.
    Command(C),
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Step<P, M, T, C> {
    /// The machine's time, in microseconds.
    pub now_us: u64,
    /// What it drew, in order.
    pub draws: Vec<Draw>,
    /// What happened.
    pub event: Happened<P, M, T, C>,
    /// The fingerprint of its effects.
    pub effects: u64,
}

/// A step of a machine.
pub type StepOf<M> = Step<
    <M as Machine>::Peer,
    <M as Machine>::Message,
    <M as Machine>::Timer,
    <M as Machine>::Command,
>;

/// Records what a source of choices gives.
pub struct Recording<'a> {
    source: &'a mut dyn Entropy,
    draws: Vec<Draw>,
}

impl<'a> Recording<'a> {
    /// Listens to `source`.
    pub fn new(source: &'a mut dyn Entropy) -> Self {
        Self { source, draws: Vec::new() }
    }

    /// What was drawn.
    pub fn into_draws(self) -> Vec<Draw> {
        self.draws
    }
}

impl Entropy for Recording<'_> {
    fn jitter(&mut self, bound: Duration) -> Duration {
        let delay = self.source.jitter(bound);
        self.draws.push(Draw::Jitter(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX)));
        delay
    }

    fn choose(&mut self, n: usize) -> usize {
        let choice = self.source.choose(n);
        self.draws.push(Draw::Choice(u64::try_from(choice).unwrap_or(u64::MAX)));
        choice
    }
}

/// Gives again what was drawn; notes where the machine asks for something else.
struct Replaying<'a> {
    draws: core::slice::Iter<'a, Draw>,
    differs: bool,
}

impl Entropy for Replaying<'_> {
    fn jitter(&mut self, bound: Duration) -> Duration {
        if let Some(Draw::Jitter(micros)) = self.draws.next() {
            let delay = Duration::from_micros(*micros);
            self.differs |= delay > bound;
            return delay;
        }
        self.differs = true;
        Duration::ZERO
    }

    fn choose(&mut self, n: usize) -> usize {
        if let Some(Draw::Choice(choice)) = self.draws.next()
            && let Ok(choice) = usize::try_from(*choice)
            && choice < n
        {
            return choice;
        }
        self.differs = true;
        0
    }
}

/// The fingerprint of a step's effects.
pub fn fingerprint<M: Machine>(effects: &[Effect<M>]) -> u64 {
    let mut hasher = Xxh3::new();
    effects.hash(&mut hasher);
    hasher.finish()
}

/// Makes the record of a step that was taken with these draws.
pub fn step_of<M: Machine>(
    now: Instant,
    draws: Vec<Draw>,
    event: &Event<M>,
    effects: &[Effect<M>],
) -> StepOf<M> {
    let event = match event {
        Event::Receive { from, message } => {
            Happened::Receive { from: from.clone(), message: message.clone() }
        }
        Event::Fire(timer) => Happened::Fire(timer.clone()),
        Event::Durable(ticket) => Happened::Durable(ticket.0),
        Event::Command(command) => Happened::Command(command.clone()),
    };
    Step { now_us: now.0, draws, event, effects: fingerprint(effects) }
}

/// Where a record departs from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Departure {
    /// The record is of another version of the format.
    Version,
    /// The machine did something else than the record says.
    Effects,
    /// The machine drew other choices, or drew them more or less often.
    Draws,
    /// A timer fired that wasn't armed.
    Timer,
    /// A timer fired before its time.
    Early,
    /// A write was said to be durable that was never made.
    Ticket,
    /// Time went back.
    Time,
}

/// A record that doesn't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refuted {
    /// Which step, from 0; the opening is step 0.
    pub step: usize,
    /// How.
    pub departure: Departure,
}

/// Replays a record, step by step.
pub struct Replay<M: Machine> {
    machine: M,
    gate: Gate<M>,
    durable: M::Durable,
    writes: Vec<(Ticket, M::Write)>,
    timers: alloc::collections::BTreeMap<M::Timer, Instant>,
    now: Instant,
    steps: usize,
}

impl<M: Machine> Replay<M>
where
    M::Durable: Clone,
{
    /// Starts as the recorded machine did.
    pub fn open(opening: &OpeningOf<M>) -> Result<Self, Refuted> {
        let Opening { version, config, durable, now_us, draws, effects } = opening;
        if *version != VERSION {
            return Err(Refuted { step: 0, departure: Departure::Version });
        }
        let mut gate = Gate::default();
        let mut out = vec![];
        let mut entropy = Replaying { draws: draws.iter(), differs: false };
        let now = Instant(*now_us);
        let mut cx = Context { now, entropy: &mut entropy, last_ticket: &mut gate.last };
        let machine = M::recover(config, durable.clone(), &mut cx, &mut out);
        let left = entropy.differs || entropy.draws.next().is_some();
        let timers = alloc::collections::BTreeMap::new();
        let durable = durable.clone();
        let mut replay = Self { machine, gate, durable, writes: vec![], timers, now, steps: 0 };
        replay.check(left, *effects, out)?;
        Ok(replay)
    }

    /// Takes the next recorded step.
    pub fn step(&mut self, step: &StepOf<M>) -> Result<(), Refuted> {
        self.steps += 1;
        if Instant(step.now_us) < self.now {
            return Err(self.refuted(Departure::Time));
        }
        self.now = Instant(step.now_us);
        let event = match &step.event {
            Happened::Receive { from, message } => {
                Event::Receive { from: from.clone(), message: message.clone() }
            }
            Happened::Fire(timer) => {
                let deadline =
                    self.timers.remove(timer).ok_or_else(|| self.refuted(Departure::Timer))?;
                if self.now < deadline {
                    return Err(self.refuted(Departure::Early));
                }
                Event::Fire(timer.clone())
            }
            Happened::Durable(ticket) => {
                let ticket = Ticket(*ticket);
                if ticket > self.gate.last || ticket <= self.gate.durable {
                    return Err(self.refuted(Departure::Ticket));
                }
                let kept = self.writes.iter().take_while(|(made, _)| *made <= ticket).count();
                for (_, write) in self.writes.drain(..kept) {
                    M::fold(&mut self.durable, &write);
                }
                self.gate.durable(ticket, &mut vec![]);
                Event::Durable(ticket)
            }
            Happened::Command(command) => Event::Command(command.clone()),
        };
        let mut out = vec![];
        let mut entropy = Replaying { draws: step.draws.iter(), differs: false };
        let last_ticket = &mut self.gate.last;
        let mut cx = Context { now: self.now, entropy: &mut entropy, last_ticket };
        self.machine.step(event, &mut cx, &mut out);
        let left = entropy.differs || entropy.draws.next().is_some();
        self.check(left, step.effects, out)
    }

    fn refuted(&self, departure: Departure) -> Refuted {
        Refuted { step: self.steps, departure }
    }

    fn check(
        &mut self,
        draws_differ: bool,
        effects: u64,
        mut out: Vec<Effect<M>>,
    ) -> Result<(), Refuted> {
        if draws_differ {
            return Err(self.refuted(Departure::Draws));
        }
        if fingerprint(&out) != effects {
            return Err(self.refuted(Departure::Effects));
        }
        for effect in &out {
            match effect {
                Effect::Persist { ticket, write } => self.writes.push((*ticket, write.clone())),
                Effect::Arm { timer, delay } => {
                    self.timers.insert(timer.clone(), self.now.after(*delay));
                }
                Effect::Disarm { timer } => {
                    self.timers.remove(timer);
                }
                Effect::Send { .. } | Effect::Emit { .. } => {}
            }
        }
        self.gate.admit(&mut out, &mut vec![]);
        Ok(())
    }

    /// The machine as the record leaves it.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// What was durable at the end of the record: what the disk must hold at least.
    pub fn durable(&self) -> &M::Durable {
        &self.durable
    }
}
