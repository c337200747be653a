//! Probes, message by message: one member probes another, with two relays and a stream to help, on a network that
//! loses, repeats and reorders; and an outsider asks for pings and answers that nobody should send.
//!
//! Two periods' pings are told apart; what is older than that is forgotten, as it would find its number nowhere.

use std::{collections::BTreeSet, time::Duration};

use spec::{
    entropy::Least,
    machine::{Context, Effect, Event, Machine, Ticket},
    swim::{
        Ack, Config, Durable, Endpoint, IndirectPing, Message, NoLayer, Part, Peer, Ping, Status,
        Timer, awareness::Awareness,
    },
    time::Instant,
};
use stateright::{Model, Property};

use super::world::{Fact, Node, Says, address, endpoint, name};
use crate::{Checked, Scope, Tier};

/// Who probes; the others are the probed one and the relays.
const PROBER: usize = 0;
/// Who is probed.
const PROBED: usize = 1;
/// The address of somebody who is no member.
const OUTSIDER: usize = 8;
/// An address that nobody should send to.
const VICTIM: usize = 9;
/// The numbers of the outsider's pings.
const OUTSIDERS: [u32; 4] = [70, 71, 72, 73];

/// The bounds.
#[derive(Clone, Debug)]
pub struct ProbeModel {
    /// How many members there are, the prober and the probed one included.
    pub members: usize,
    /// How many periods begin.
    pub periods: u8,
    /// Streams are tried too, and an outsider sends pings.
    pub streams: bool,
    /// Below how much health stays. The prober begins with each health below it: nothing else lasts from one probe to the
    /// next, so what came before needs no periods of its own.
    pub health: u32,
}

/// What is under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wire {
    /// A part of a datagram.
    Part(Part<NoLayer>),
    /// A ping on a stream.
    StreamPing(Ping),
    /// Its answer.
    StreamAck(Ack),
}

/// The members, the network, and what is known of the probe that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    nodes: Vec<Node>,
    timeout: bool,
    wires: BTreeSet<(usize, usize, Wire)>,
    periods: u8,
    streamed: bool,
    asked: u32,
    nacks: u32,
    broken: BTreeSet<&'static str>,
    accused: bool,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Something arrives.
    Deliver(usize, usize, Wire),
    /// The prober's period is over.
    Period,
    /// The direct ping isn't answered in time.
    Timeout,
    /// A relay's ping isn't answered in time.
    Relay(usize, u32),
}

/// What an answer does at the prober.
const ANSWERED: &str = "who_answers_is_not_accused";
/// Nothing but the end of a period accuses: however many nacks are missing, the prober waits as long as its health says.
const EARLY: &str = "nobody_is_accused_within_the_period";
const SILENT: &str = "who_does_not_answer_is_accused";
const NACKS: &str = "missing_nacks_hurt_health";
const SCALES: &str = "the_period_scales_with_health";
const MEMBERS_ONLY: &str = "only_members_are_pinged_and_answered";
const TARGET_ONLY: &str = "only_the_target_answers";
const BUDDY: &str = "a_ping_to_a_suspect_accuses_it";

fn index(at: Endpoint) -> usize {
    usize::from(at.port()) - 1
}

fn seq_of(wire: &Wire) -> Option<u32> {
    match wire {
        Wire::StreamPing(ping) | Wire::Part(Part::Ping(ping)) => Some(ping.seq),
        Wire::StreamAck(ack) | Wire::Part(Part::Ack(ack)) => Some(ack.seq),
        Wire::Part(Part::IndirectPing(ping)) => Some(ping.seq),
        Wire::Part(Part::Nack(nack)) => Some(nack.seq),
        Wire::Part(Part::Suspect(_) | Part::Alive(_) | Part::Dead(_) | Part::User(_)) => None,
    }
}

impl ProbeModel {
    fn config(&self, n: usize) -> Config<NoLayer> {
        Config {
            disable_stream_pings: !self.streams,
            awareness_max: self.health,
            indirect_checks: 2,
            ..Config::lan(name(n), endpoint(address(n, 0)), ())
        }
    }

    /// What the outsider sends: pings for others under wrong addresses, and pings whose answers would go elsewhere.
    fn outsiders() -> Vec<(usize, usize, Wire)> {
        let [unknown, elsewhere, misdirected, reflected] = OUTSIDERS;
        let indirect = |seq, target, at| IndirectPing {
            seq,
            target: name(target),
            target_endpoint: endpoint(address(at, 0)),
            wants_nack: false,
            source: Some(name(OUTSIDER)),
            source_endpoint: Some(endpoint(address(VICTIM, 0))),
        };
        let ping = |seq, target| Ping {
            seq,
            target: name(target),
            source: Some(name(2)),
            source_endpoint: Some(endpoint(address(VICTIM, 0))),
        };
        vec![
            (OUTSIDER, 2, Wire::Part(Part::IndirectPing(indirect(unknown, OUTSIDER, VICTIM)))),
            (OUTSIDER, 2, Wire::Part(Part::IndirectPing(indirect(elsewhere, PROBED, VICTIM)))),
            (OUTSIDER, PROBED, Wire::Part(Part::Ping(ping(misdirected, 2)))),
            (OUTSIDER, PROBED, Wire::Part(Part::Ping(ping(reflected, PROBED)))),
        ]
    }

    fn step(&self, state: &mut State, n: usize, event: Event<Node>) {
        let (mut effects, mut ticket) = (Vec::new(), Ticket::NONE);
        let mut cx = Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut ticket };
        let (judged, accused) =
            (event == Event::Fire(Timer::Probe), state.nodes[n].suspicions.len());
        state.nodes[n].step(event, &mut cx, &mut effects);
        if !judged && state.nodes[n].suspicions.len() > accused {
            state.broken.insert(EARLY);
        }
        let health = state.nodes[n].awareness;
        for effect in effects {
            match effect {
                Effect::Send { to, message, .. } => self.send(state, n, to, message),
                Effect::Arm { timer: Timer::Probe, delay } => {
                    // The rest of a period is waited out as if health were 0.
                    let running = state.nodes[n].probe.is_some();
                    let scale = if running { health.0 + 1 } else { 1 };
                    if delay != Duration::from_secs(1) * scale {
                        state.broken.insert(SCALES);
                    }
                }
                Effect::Arm { timer: Timer::ProbeTimeout, .. } => state.timeout = true,
                Effect::Disarm { timer: Timer::ProbeTimeout } => state.timeout = false,
                Effect::Persist { .. }
                | Effect::Emit { .. }
                | Effect::Arm { .. }
                | Effect::Disarm { .. } => {}
            }
        }
        let node = &mut state.nodes[n];
        node.queue = spec::swim::broadcast::Queue::default();
        if n != PROBER && node.relays.is_empty() {
            node.sequence = 0;
        }
    }

    fn send(&self, state: &mut State, from: usize, to: Peer, message: Message<NoLayer>) {
        let to = match to {
            Peer::Endpoint(at) => index(at),
            Peer::Stream(n) => usize::try_from(n).unwrap_or(OUTSIDER),
        };
        let wires: Vec<Wire> = match message {
            Message::Packet(parts) => parts.into_iter().map(Wire::Part).collect(),
            Message::StreamPing(ping) => vec![Wire::StreamPing(ping)],
            Message::StreamAck(ack) => vec![Wire::StreamAck(ack)],
            Message::PushPull(_) => Vec::new(),
        };
        for wire in wires {
            let Some(seq) = seq_of(&wire) else { continue };
            if to == VICTIM || matches!(wire, Wire::Part(Part::Ping(_))) && to >= self.members {
                state.broken.insert(MEMBERS_ONLY);
            }
            if seq == OUTSIDERS[2] {
                state.broken.insert(TARGET_ONLY);
            }
            if let Wire::Part(Part::IndirectPing(ping)) = &wire {
                state.asked += u32::from(ping.wants_nack);
            }
            if to < self.members {
                state.wires.insert((from, to, wire));
            }
        }
    }

    /// What can't find its number any more is forgotten.
    fn forget(state: &mut State) {
        let relaying = |n: usize, seq: u32| state.nodes[n].relays.contains_key(&seq);
        let wires = state.wires.iter().filter(|(from, to, wire)| match wire {
            Wire::Part(Part::Ack(ack)) if *to != PROBER => relaying(*to, ack.seq),
            Wire::Part(Part::Ping(ping)) if *from != PROBER && *from != OUTSIDER => {
                relaying(*from, ping.seq)
            }
            _ => true,
        });
        state.wires = wires.cloned().collect();
    }

    /// The prober's period ends: what became of the probe is held against what arrived.
    fn period(&self, state: &mut State) {
        state.periods += 1;
        let before = state.nodes[PROBER].clone();
        // Numbers alternate; what bears the one that is taken again is two periods old.
        let node = &mut state.nodes[PROBER];
        node.sequence %= 2;
        let next = node.sequence + 1;
        state.wires.retain(|(from, _, wire)| *from == OUTSIDER || seq_of(wire) != Some(next));
        // The relays are never probed here: the probed one is always the next.
        node.next = node.order.iter().position(|other| **other == *name(PROBED)).unwrap_or(0);
        // Nor do they remember what they were asked for so long ago.
        let (asked, nacks, streamed) = (state.asked, state.nacks, state.streamed);
        (state.asked, state.nacks, state.streamed) = (0, 0, false);
        self.step(state, PROBER, Event::Fire(Timer::Probe));
        let node = &mut state.nodes[PROBER];
        let accused = node.suspicions.contains_key(&name(PROBED));
        if let Some(probe) = &before.probe {
            let delta = match (streamed, asked) {
                (true, _) => -1,
                (false, 0) => 1,
                (false, asked) => i64::from(asked) - i64::from(nacks.min(asked)),
            };
            let health =
                (i64::from(before.awareness.0) + delta).clamp(0, i64::from(self.health) - 1);
            if i64::from(node.awareness.0) != health {
                state.broken.insert(NACKS);
            }
            if accused && streamed {
                state.broken.insert(ANSWERED);
            }
            if !accused && !streamed && !probe.direct {
                state.broken.insert(SILENT);
            }
        } else if accused {
            state.broken.insert(ANSWERED);
        }
        if accused && !Self::tells_the_suspect(node) {
            state.broken.insert(BUDDY);
        }
        state.accused |= accused;
        // It refutes, and is probed again.
        node.suspicions.clear();
        for member in node.members.values_mut() {
            member.status = Status::Alive;
        }
    }

    /// Whether the next ping to the suspect carries the accusation, though nothing is left to be gossiped.
    fn tells_the_suspect(prober: &Node) -> bool {
        let mut node = prober.clone();
        node.next = node.order.iter().position(|other| **other == *name(PROBED)).unwrap_or(0);
        let known = node.members.get(&name(PROBED)).map(|member| member.incarnation);
        let (mut effects, mut ticket) = (Vec::new(), Ticket::NONE);
        let mut cx = Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut ticket };
        node.step(Event::Fire(Timer::Probe), &mut cx, &mut effects);
        effects.iter().any(|effect| {
            let Effect::Send { to: Peer::Endpoint(at), message: Message::Packet(parts), .. } =
                effect
            else {
                return false;
            };
            let accuses = |part: &Part<NoLayer>| match part {
                Part::Suspect(word) => {
                    *word.node == *name(PROBED)
                        && *word.from == *name(PROBER)
                        && Some(word.incarnation) == known
                }
                _ => false,
            };
            let pings = |part: &Part<NoLayer>| matches!(part, Part::Ping(_));
            index(*at) == PROBED && parts.iter().any(pings) && parts.iter().any(accuses)
        })
    }

    fn deliver(&self, state: &mut State, from: usize, to: usize, wire: &Wire) {
        let before = state.nodes[to].clone();
        let current = before.probe.as_ref().map(|probe| probe.seq);
        let hits = to == PROBER && current.is_some() && current == seq_of(wire);
        let (peer, message) = match wire.clone() {
            Wire::Part(part) => {
                (Peer::Endpoint(endpoint(address(from, 0))), { Message::Packet(vec![part]) })
            }
            Wire::StreamPing(ping) => {
                (Peer::Stream(u64::try_from(from).unwrap_or(0)), Message::StreamPing(ping))
            }
            Wire::StreamAck(ack) => {
                (Peer::Endpoint(endpoint(address(from, 0))), Message::StreamAck(ack))
            }
        };
        self.step(state, to, Event::Receive { from: peer, message });
        let after = &state.nodes[to];
        match wire {
            Wire::Part(Part::Ack(_)) if to == PROBER => {
                // An answer ends the probe, and does health good; one to another ping does nothing.
                let lower = Awareness(before.awareness.0.saturating_sub(1));
                let right = if hits {
                    after.probe.is_none() && after.awareness == lower
                } else {
                    after.probe == before.probe && after.awareness == before.awareness
                };
                if !right {
                    state.broken.insert(ANSWERED);
                }
            }
            Wire::Part(Part::Nack(_)) if hits => {
                state.nacks += u32::from(state.nacks < state.asked);
            }
            Wire::StreamAck(_) if hits => state.streamed = true,
            _ => {}
        }
        if state.nodes[PROBER].probe.is_none() {
            (state.asked, state.nacks, state.streamed) = (0, 0, false);
        }
    }

    /// From this state on, with what is under way lost and what follows heard, nobody is accused once the probe that runs is
    /// judged, and health is at its best after as many periods as it has steps.
    fn health_recovers(&self, state: &State) -> bool {
        let mut state = state.clone();
        state.wires.clear();
        state.timeout = false;
        for period in 0..=self.health {
            state.accused = false;
            self.period(&mut state);
            if period > 0 && state.accused {
                return false;
            }
            while let Some((from, to, wire)) = state.wires.pop_first() {
                self.deliver(&mut state, from, to, &wire);
            }
        }
        state.nodes[PROBER].awareness == Awareness(0)
    }
}

impl Model for ProbeModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            nodes: Vec::new(),
            timeout: false,
            wires: BTreeSet::new(),
            periods: 0,
            streamed: false,
            asked: 0,
            nacks: 0,
            broken: BTreeSet::new(),
            accused: false,
        };
        for n in 0..self.members {
            let (mut effects, mut ticket) = (Vec::new(), Ticket::NONE);
            let mut cx = Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut ticket };
            let node = Node::recover(&self.config(n), Durable::default(), &mut cx, &mut effects);
            state.nodes.push(node);
            self.step(&mut state, n, Event::Durable(ticket));
            for other in (0..self.members).filter(|other| *other != n) {
                let says = Says::Alive { address: address(other, 0), meta: 0 };
                let part = Fact { subject: other, incarnation: 1, says }.part();
                let from = Peer::Endpoint(endpoint(address(other, 0)));
                let message = Message::Packet(vec![part]);
                self.step(&mut state, n, Event::Receive { from, message });
            }
        }
        if self.streams {
            state.wires.extend(Self::outsiders());
        }
        let begins = (0..self.health).map(|health| {
            let mut state = state.clone();
            state.nodes[PROBER].awareness = Awareness(health);
            state
        });
        begins.collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (from, to, wire) in &state.wires {
            actions.push(Action::Deliver(*from, *to, wire.clone()));
        }
        if state.periods < self.periods {
            actions.push(Action::Period);
        }
        if state.timeout {
            actions.push(Action::Timeout);
        }
        for (n, node) in state.nodes.iter().enumerate() {
            actions.extend(node.relays.keys().map(|seq| Action::Relay(n, *seq)));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Deliver(from, to, wire) => {
                // A relay is asked once: that it is asked again is like asking it late.
                let asks = matches!(wire, Wire::Part(Part::IndirectPing(_)));
                if asks && from != OUTSIDER {
                    next.wires.remove(&(from, to, wire.clone()));
                }
                self.deliver(&mut next, from, to, &wire);
            }
            Action::Period => self.period(&mut next),
            Action::Timeout => {
                next.timeout = false;
                self.step(&mut next, PROBER, Event::Fire(Timer::ProbeTimeout));
            }
            Action::Relay(n, seq) => self.step(&mut next, n, Event::Fire(Timer::Relay(seq))),
        }
        Self::forget(&mut next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        use spec::swim::invariant as local;
        type P = Property<ProbeModel>;
        let mut properties = vec![
            P::always(ANSWERED, |_, state| !state.broken.contains(ANSWERED)),
            P::always(SILENT, |_, state| !state.broken.contains(SILENT)),
            P::always(EARLY, |_, state| !state.broken.contains(EARLY)),
            P::always(NACKS, |_, state| !state.broken.contains(NACKS)),
            P::always(SCALES, |_, state| !state.broken.contains(SCALES)),
            P::always(MEMBERS_ONLY, |_, state| !state.broken.contains(MEMBERS_ONLY)),
            P::always(TARGET_ONLY, |_, state| !state.broken.contains(TARGET_ONLY)),
            P::always(BUDDY, |_, state| !state.broken.contains(BUDDY)),
            P::always("health_in_range", |_, state| state.nodes.iter().all(local::health_in_range)),
            P::always("health_recovers", Self::health_recovers),
            P::always("bounds_kept", |_, state| state.nodes.iter().all(local::bounds_kept)),
            P::sometimes("the_probed_is_accused", |_, state| state.accused),
            P::sometimes("a_relay_says_that_it_heard_nothing", |_, state| state.nacks > 0),
            P::sometimes("a_relay_passes_an_answer_on", |_, state| {
                state.wires.iter().any(|(from, to, wire)| {
                    *to == PROBER && *from != PROBED && matches!(wire, Wire::Part(Part::Ack(_)))
                })
            }),
            P::sometimes("health_is_as_bad_as_it_gets", |model, state| {
                state.periods > 1 && state.nodes[PROBER].awareness == Awareness(model.health - 1)
            }),
        ];
        if self.streams {
            properties.push(P::sometimes("the_probed_answers_on_a_stream_only", |_, state| {
                state.streamed
            }));
        }
        properties
    }
}

impl Checked for ProbeModel {
    const KINDS: &'static [&'static str] = &["deliver", "period", "timeout", "relay"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Deliver(..) => 0,
            Action::Period => 1,
            Action::Timeout => 2,
            Action::Relay(..) => 3,
        }
    }
}

/// The scopes of probes.
pub fn scopes() -> Vec<Scope> {
    let of = |name, tier, about, model| {
        Scope::new(name, tier, about, &["SWIM-16", "SWIM-17", "SWIM-18", "SWIM-22"], model)
    };
    let streams = ProbeModel { members: 3, periods: 3, streams: true, health: 2 };
    let relays = ProbeModel { members: 4, periods: 2, streams: false, health: 2 };
    let health = ProbeModel { health: 8, ..relays.clone() };
    vec![
        of("swim-probe", Tier::Ci, "One relay; three periods; an outsider.", streams),
        of("swim-probe-relays", Tier::Ci, "Two relays; two periods; no streams.", relays),
        of(
            "swim-probe-health",
            Tier::Deep,
            "Two relays; two periods from each health from 0 to 7 on; no streams.",
            health,
        ),
    ]
}
