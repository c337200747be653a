//! Members on a network and a clock of the test's own: writes are durable at once, datagrams take a millisecond, some
//! are lost where the test says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use spec::{
    entropy::Seeded,
    gate::Gate,
    machine::{Context, Effect, Event, Machine},
    swim::{
        Command, Config, Durable, Endpoint, Message, Name, NoLayer, Node, Output, Peer, Status,
        Timer, invariant,
    },
    time::{Instant, Timers},
};

/// A member and what surrounds it.
pub(crate) struct Seat {
    pub(crate) node: Node<NoLayer>,
    pub(crate) gate: Gate<Node<NoLayer>>,
    pub(crate) timers: Timers<Timer>,
    pub(crate) durable: Durable,
    pub(crate) told: Vec<(Instant, Output<NoLayer>)>,
}

/// The members, the network and the clock.
pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) seats: BTreeMap<Name, Seat>,
    pub(crate) entropy: Seeded,
    /// Pairs between which datagrams are lost.
    pub(crate) deaf: BTreeSet<(Endpoint, Endpoint)>,
    /// Between those, streams fail too.
    pub(crate) streams_fail: bool,
    /// Datagrams that were sent.
    pub(crate) datagrams: usize,
    wires: BTreeMap<(Instant, u64), (Peer, Endpoint, Message<NoLayer>)>,
    streams: BTreeMap<u64, Endpoint>,
    count: u64,
}

pub(crate) fn at(n: u16) -> Endpoint {
    Endpoint::from(([10, 0, (n >> 8) as u8, n as u8], 8301))
}

pub(crate) fn named(n: u16) -> Name {
    format!("m{n}").into()
}

pub(crate) fn config(n: u16) -> Config<NoLayer> {
    Config::lan(named(n), at(n), ())
}

impl Net {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Instant(0),
            seats: BTreeMap::new(),
            entropy: Seeded::new(seed),
            deaf: BTreeSet::new(),
            streams_fail: false,
            datagrams: 0,
            wires: BTreeMap::new(),
            streams: BTreeMap::new(),
            count: 0,
        }
    }

    /// Starts a member on its disk.
    pub(crate) fn start(&mut self, config: &Config<NoLayer>, durable: Durable) {
        let (mut gate, mut effects) = (Gate::default(), vec![]);
        let entropy = &mut self.entropy;
        let mut cx = Context { now: self.now, entropy, last_ticket: &mut gate.last };
        let node = Node::recover(config, durable, &mut cx, &mut effects);
        let seat = Seat { node, gate, timers: Timers::default(), durable, told: vec![] };
        self.seats.insert(config.name.clone(), seat);
        self.run(&config.name.clone(), effects);
        self.command(&config.name, Command::Start);
    }

    /// A pool of so many, in which everybody joined the first.
    pub(crate) fn pool(seed: u64, members: u16) -> Self {
        let mut net = Self::new(seed);
        for n in 0..members {
            net.start(&config(n), Durable::default());
            if n > 0 {
                let push = Command::PushPull { request: 1, to: at(0), join: true };
                net.command(&named(n), push);
            }
            net.pass(Duration::from_millis(300));
        }
        net.pass(Duration::from_secs(5));
        net
    }

    pub(crate) fn command(&mut self, name: &Name, command: Command<NoLayer>) {
        self.step(name, Event::Command(command));
    }

    fn step(&mut self, name: &Name, event: Event<Node<NoLayer>>) {
        let Some(seat) = self.seats.get_mut(name) else { return };
        let mut effects = vec![];
        let (now, entropy) = (self.now, &mut self.entropy);
        let mut cx = Context { now, entropy, last_ticket: &mut seat.gate.last };
        seat.node.step(event, &mut cx, &mut effects);
        for (invariant, holds) in invariant::all() {
            assert!(holds(&seat.node), "{invariant}: {:#?}", seat.node);
        }
        self.run(name, effects);
    }

    fn run(&mut self, name: &Name, mut effects: Vec<Effect<Node<NoLayer>>>) {
        let seat = self.seats.get_mut(name).unwrap();
        let (own, now) = (seat.node.config.endpoint, self.now);
        let mut ready = vec![];
        seat.gate.admit(&mut effects, &mut ready);
        let last = seat.gate.last;
        let writes = seat.gate.is_pending();
        seat.gate.durable(last, &mut ready);
        for effect in ready {
            match effect {
                Effect::Persist { write, .. } => Node::<NoLayer>::fold(&mut seat.durable, &write),
                Effect::Arm { timer, delay } => seat.timers.arm(timer, now.after(delay)),
                Effect::Disarm { timer } => seat.timers.disarm(&timer),
                Effect::Emit { output, .. } => seat.told.push((now, output)),
                Effect::Send { to, message, .. } => {
                    self.count += 1;
                    let streamed = !matches!(message, Message::Packet(_));
                    self.datagrams += usize::from(!streamed);
                    let (from, to) = match to {
                        Peer::Stream(n) => (Peer::Endpoint(own), self.streams[&n]),
                        Peer::Endpoint(to) if is_question(&message) => {
                            self.streams.insert(self.count, own);
                            (Peer::Stream(self.count), to)
                        }
                        Peer::Endpoint(to) => (Peer::Endpoint(own), to),
                    };
                    if let Message::Packet(parts) = &message {
                        let size: usize = parts.iter().map(|part| part.size() + 2).sum();
                        assert!(size + 2 <= 1400, "{size} bytes: {parts:?}");
                    }
                    let reaches = streamed && !self.streams_fail;
                    if reaches || !self.deaf.contains(&(own, to)) {
                        let due = now.after(Duration::from_millis(1));
                        self.wires.insert((due, self.count), (from, to, message));
                    }
                }
            }
        }
        if writes {
            self.step(name, Event::Durable(last));
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            let wire = self.wires.keys().next().map(|(due, _)| *due);
            let timer = self.seats.values().filter_map(|seat| seat.timers.next_deadline()).min();
            let Some(next) = wire.into_iter().chain(timer).min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if wire == Some(next) {
                let Some((_, (from, to, message))) = self.wires.pop_first() else { break };
                let receiver = self.seats.values().find(|seat| seat.node.config.endpoint == to);
                if let Some(name) = receiver.map(|seat| seat.node.config.name.clone()) {
                    self.step(&name, Event::Receive { from, message });
                }
                continue;
            }
            let due = self
                .seats
                .iter_mut()
                .find_map(|(name, seat)| seat.timers.pop(next).map(|timer| (name.clone(), timer)));
            let Some((name, timer)) = due else { break };
            self.step(&name, Event::Fire(timer));
        }
        self.now = end;
    }

    /// What a member believes of another.
    pub(crate) fn belief(&self, of: u16, by: u16) -> Option<(u32, Status)> {
        let member = self.seats[&named(by)].node.members.get(&named(of))?;
        Some((member.incarnation.0, member.status))
    }

    /// What a member's host was told.
    pub(crate) fn told(&self, n: u16) -> impl Iterator<Item = &Output<NoLayer>> {
        self.seats[&named(n)].told.iter().map(|(_, output)| output)
    }
}

fn is_question(message: &Message<NoLayer>) -> bool {
    match message {
        Message::Packet(_) | Message::StreamAck(_) => false,
        Message::StreamPing(_) => true,
        Message::PushPull(push_pull) => !push_pull.reply,
    }
}
