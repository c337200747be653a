//! The turn of gossip: one machine, its gate, its timers and its coordinate. It knows neither sockets nor files nor
//! tasks, so the simulator runs it as the agent does.

use std::{collections::BTreeMap, sync::Arc};

use gossip_wire::coordinate as wire_coordinate;
use spec::{
    entropy::Seeded,
    gate::Gate,
    machine::{Context, Effect, Event, Machine as _, Ticket},
    serf::{
        Command, Config, Durable, Output, Packet, Record, Serf, Timer, coordinate::Coordinate,
        coordinate::Vivaldi,
    },
    swim::{self, Message, Name, Part, Peer},
    time::{Instant, Timers},
};

/// What a turn works on.
#[derive(Debug)]
pub enum Input {
    /// A message arrived.
    Message {
        /// From whom.
        from: Peer,
        /// What.
        message: Packet,
    },
    /// Every write up to this ticket survives a crash.
    Durable(Ticket),
    /// The host asks for something.
    Command(Command),
}

/// What a turn leaves to do.
#[derive(Debug, Default)]
pub struct Outbox {
    /// To be sent; each may be lost.
    pub send: Vec<(Peer, Packet)>,
    /// To be made durable, in order.
    pub persist: Vec<(Ticket, Record)>,
    /// To be told.
    pub outputs: Vec<Output>,
}

/// An invariant that doesn't hold: the agent must stop.
#[derive(Debug, thiserror::Error)]
#[error(
    "gossip broke its invariant {invariant}: this is a bug; the agent stops before it misleads others"
)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
}

/// Turns coordinates into the payload of an ack, and back.
#[derive(Clone, Copy, Debug)]
pub struct CoordinateCodec {
    /// To bytes.
    pub encode: fn(&Coordinate) -> Vec<u8>,
    /// From bytes, where they are a coordinate.
    pub decode: fn(&[u8]) -> Option<Coordinate>,
}

impl CoordinateCodec {
    /// Serf's.
    pub const SERF: Self = Self { encode: wire_coordinate::encode, decode };
}

fn decode(payload: &[u8]) -> Option<Coordinate> {
    wire_coordinate::decode(payload).ok()
}

/// A member of a pool.
#[derive(Debug)]
pub struct Turn {
    serf: Serf,
    gate: Gate<Serf>,
    timers: Timers<Timer>,
    entropy: Seeded,
    effects: Vec<Effect<Serf>>,
    ready: Vec<Effect<Serf>>,
    /// None where coordinates are switched off.
    codec: Option<CoordinateCodec>,
    vivaldi: Vivaldi,
    payload: Arc<[u8]>,
    /// Where others said that they are, where that is asked for.
    places: Option<BTreeMap<Name, Coordinate>>,
    /// Whether that is other than when it was looked at.
    moved: bool,
}

impl Turn {
    /// Starts from what was durable. The first input is to be [`Command::Start`].
    pub fn recover(
        config: &Config,
        durable: Durable,
        codec: Option<CoordinateCodec>,
        seed: u64,
        now: Instant,
        out: &mut Outbox,
    ) -> Self {
        let mut entropy = Seeded::new(seed);
        let mut gate = Gate::default();
        let mut effects = Vec::new();
        let mut cx = Context { now, entropy: &mut entropy, last_ticket: &mut gate.last };
        let serf = Serf::recover(config, durable, &mut cx, &mut effects);
        let vivaldi = Vivaldi::default();
        let payload = codec.map_or_else(Vec::new, |codec| (codec.encode)(vivaldi.coordinate()));
        let mut turn = Self {
            serf,
            gate,
            timers: Timers::default(),
            entropy,
            effects,
            ready: Vec::new(),
            codec,
            vivaldi,
            payload: payload.into(),
            places: None,
            moved: false,
        };
        turn.route(now, out);
        turn
    }

    /// The machine, to look at.
    pub fn serf(&self) -> &Serf {
        &self.serf
    }

    /// Where this member is in the network.
    pub fn coordinate(&self) -> &Coordinate {
        self.vivaldi.coordinate()
    }

    /// Remembers from here on where others say that they are.
    pub fn keep_places(&mut self) {
        self.places = Some(BTreeMap::new());
    }

    /// Where others said that they are, if that is kept, and other than at the last look.
    pub fn take_places(&mut self) -> Option<&BTreeMap<Name, Coordinate>> {
        self.places.as_ref().filter(|_| std::mem::take(&mut self.moved))
    }

    /// How often the coordinate was started afresh.
    pub fn coordinate_resets(&self) -> u64 {
        self.vivaldi.resets()
    }

    /// When the next timer fires.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next_deadline()
    }

    /// Takes one turn.
    pub fn turn(
        &mut self,
        now: Instant,
        inputs: &mut Vec<Input>,
        out: &mut Outbox,
    ) -> Result<(), Violation> {
        for input in inputs.drain(..) {
            match input {
                Input::Message { from, message } => {
                    self.step(now, Event::Receive { from, message }, out);
                }
                Input::Durable(ticket) => {
                    self.gate.durable(ticket, &mut self.ready);
                    self.flush(now, out);
                    self.step(now, Event::Durable(ticket), out);
                }
                Input::Command(command) => self.step(now, Event::Command(command), out),
            }
        }
        // After what arrived: an answer that came in time must not be overtaken by the timer that waits for it.
        while let Some(timer) = self.timers.pop(now) {
            self.step(now, Event::Fire(timer), out);
        }
        let mut invariants = swim::invariant::each_turn().into_iter();
        let broken = invariants.find(|(_, holds)| !holds(&self.serf.swim));
        match broken {
            Some((invariant, _)) => Err(Violation { invariant }),
            None => Ok(()),
        }
    }

    fn step(&mut self, now: Instant, event: Event<Serf>, out: &mut Outbox) {
        let last_ticket = &mut self.gate.last;
        let mut cx = Context { now, entropy: &mut self.entropy, last_ticket };
        self.serf.step(event, &mut cx, &mut self.effects);
        self.route(now, out);
    }

    /// Puts effects through the gate, and what it lets pass to where it belongs.
    fn route(&mut self, now: Instant, out: &mut Outbox) {
        self.gate.admit(&mut self.effects, &mut self.ready);
        self.flush(now, out);
    }

    fn flush(&mut self, now: Instant, out: &mut Outbox) {
        let mut ready = std::mem::take(&mut self.ready);
        for effect in ready.drain(..) {
            match effect {
                Effect::Persist { ticket, write } => out.persist.push((ticket, write)),
                Effect::Send { to, mut message, .. } => {
                    self.locate(&mut message);
                    out.send.push((to, message));
                }
                Effect::Arm { timer, delay } => self.timers.arm(timer, now.after(delay)),
                Effect::Disarm { timer } => self.timers.disarm(&timer),
                Effect::Emit { output, .. } => self.output(output, out),
            }
        }
        self.ready = ready;
    }

    /// Adds this member's coordinate to acks.
    fn locate(&self, message: &mut Packet) {
        if self.codec.is_none() {
            return;
        }
        if let Message::Packet(parts) = message {
            for part in parts {
                if let Part::Ack(ack) = part
                    && ack.payload.is_none()
                {
                    ack.payload = Some(Arc::clone(&self.payload));
                }
            }
        }
    }

    fn output(&mut self, output: Output, out: &mut Outbox) {
        match &output {
            Output::Rtt { name, micros, payload } => {
                if let Some(payload) = payload {
                    self.measured(name, *micros, payload);
                }
            }
            Output::Failed(member) | Output::Left(member) | Output::Reaped { member, .. } => {
                self.vivaldi.forget(&member.name);
                if let Some(places) = &mut self.places {
                    self.moved |= places.remove(&member.name).is_some();
                }
                out.outputs.push(output);
            }
            _ => out.outputs.push(output),
        }
    }

    fn measured(&mut self, name: &Name, micros: u64, payload: &[u8]) {
        let Some(codec) = self.codec else { return };
        let Some(other) = (codec.decode)(payload) else { return };
        match self.vivaldi.update(name, &other, micros, &mut self.entropy) {
            Ok(coordinate) => {
                self.payload = (codec.encode)(coordinate).into();
                if let Some(places) = &mut self.places {
                    places.insert(Arc::clone(name), other);
                    self.moved = true;
                }
            }
            Err(bad) => tracing::debug!(member = %name, ?bad, "a coordinate was not taken"),
        }
    }
}
