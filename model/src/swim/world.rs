//! The state of the membership model: members with their disks and gates, what was said, and ghosts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Debug},
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use spec::{
    entropy::Least,
    gate::Gate,
    machine::{Context, Effect, Event, Machine, Ticket},
    swim::{
        Alive, Config, Dead, Durable, Endpoint, Incarnation, Message, Name, NoLayer, Output, Part,
        Peer, Status, Suspect, Timer, Versions,
    },
    time::Instant,
};

use crate::hash_of;

/// The machine, with nothing on top.
pub type Node = spec::swim::Node<NoLayer>;

/// When all that may be forgotten may be forgotten.
pub const LATER: Instant = Instant(1 << 50);

/// A statement about a member: it reaches anybody, at any time, any number of times, or never. Who accuses is left out:
/// in the pools of this model nobody is waited for to confirm a suspicion, so it makes no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    /// Whom it is about.
    pub subject: usize,
    /// The incarnation that it is about.
    pub incarnation: u32,
    /// What it says.
    pub says: Says,
}

/// What a statement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Says {
    /// The member announces itself, at this address, with this metadata.
    Alive {
        /// Where it is.
        address: u16,
        /// What it says of itself; 0 for nothing.
        meta: u8,
    },
    /// Somebody accuses it.
    Suspect,
    /// Somebody says that it is dead.
    Dead,
    /// It leaves.
    Left,
}

/// A value with its hash, computed once when it changes.
#[derive(Clone)]
pub struct Hashed<T> {
    /// The value.
    pub value: T,
    hash: u64,
}

impl<T: Hash> Hashed<T> {
    /// Hashes a value.
    pub fn new(value: T) -> Arc<Self> {
        let hash = hash_of(&value);
        Arc::new(Self { value, hash })
    }
}

impl<T> Hash for Hashed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl<T: PartialEq> PartialEq for Hashed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.value == other.value
    }
}

impl<T: Debug> Debug for Hashed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// A member, its disk, and what its host knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seat {
    /// The machine; none while it is down.
    pub node: Option<Node>,
    /// Its gate.
    pub gate: Gate<Node>,
    /// Its disk.
    pub durable: Durable,
    /// Writes that a crash may lose.
    pub pending: Vec<(Ticket, Durable)>,
    /// The timers of suspicions that are armed.
    pub armed: BTreeSet<Name>,
    /// Whether the timer of gossip is armed.
    pub gossips: bool,
    /// Where it is, or was last.
    pub address: u16,
    /// Whom its host was told to be there.
    pub present: BTreeSet<Name>,
    /// The highest incarnation of each other member whose death it learnt, until it learns of a higher one.
    pub graves: BTreeMap<Name, Incarnation>,
}

/// What was spent of each budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spent {
    /// Accusations of members that are there.
    pub accusations: u8,
    /// Crashes.
    pub crashes: u8,
    /// Restarts at another address.
    pub moves: u8,
    /// Leavings.
    pub leaves: u8,
    /// Times that somebody forgot the dead.
    pub reaps: u8,
    /// Changes of metadata.
    pub updates: u8,
}

/// Where the run of a member that is its last began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Begun {
    /// The incarnation that it announced first.
    pub first: u32,
    /// The highest incarnation of its earlier runs; 0 where there were none.
    pub earlier: u32,
}

/// The members and what was said.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct State {
    /// The members.
    pub seats: Vec<Arc<Hashed<Seat>>>,
    /// The last run of each.
    pub begun: Vec<Begun>,
    /// What was said.
    pub said: BTreeSet<Fact>,
    /// The budgets.
    pub spent: Spent,
    /// The properties of steps that a step broke.
    pub broken: BTreeSet<&'static str>,
}

/// The name of a member.
pub fn name(n: usize) -> Name {
    ["a", "b", "c", "d", "e", "f"].get(n).copied().unwrap_or("z").into()
}

/// Whose name it is.
pub fn place(name: &str) -> Option<usize> {
    (0..6).find(|n| *self::name(*n) == *name)
}

/// An address's endpoint.
pub fn endpoint(address: u16) -> Endpoint {
    Endpoint::from(([10, 0, 0, 1], address))
}

/// Where a member is after some moves.
pub fn address(n: usize, moves: u8) -> u16 {
    u16::try_from(n + 1).unwrap_or(0) + 100 * u16::from(moves)
}

impl Fact {
    /// As a part of a datagram.
    pub fn part(self) -> Part<NoLayer> {
        let (incarnation, node) = (Incarnation(self.incarnation), name(self.subject));
        let from = Name::from("another");
        match self.says {
            Says::Alive { address, meta } => Part::Alive(Alive {
                incarnation,
                node,
                endpoint: endpoint(address),
                meta: if meta == 0 { Arc::from([]) } else { Arc::from([meta]) },
                versions: Versions::CURRENT,
            }),
            Says::Suspect => Part::Suspect(Suspect { incarnation, node, from }),
            Says::Dead => Part::Dead(Dead { incarnation, node, from }),
            Says::Left => Part::Dead(Dead { incarnation, from: Name::clone(&node), node }),
        }
    }

    /// What a part of a datagram says about a member.
    pub fn of(part: &Part<NoLayer>) -> Option<Self> {
        let (incarnation, node, says) = match part {
            Part::Alive(alive) => {
                let (address, meta) = (alive.endpoint.port(), alive.meta.first().copied());
                (alive.incarnation, &alive.node, Says::Alive { address, meta: meta.unwrap_or(0) })
            }
            Part::Suspect(suspect) => (suspect.incarnation, &suspect.node, Says::Suspect),
            Part::Dead(dead) if dead.from == dead.node => {
                (dead.incarnation, &dead.node, Says::Left)
            }
            Part::Dead(dead) => (dead.incarnation, &dead.node, Says::Dead),
            Part::Ping(_)
            | Part::IndirectPing(_)
            | Part::Ack(_)
            | Part::Nack(_)
            | Part::User(_) => return None,
        };
        Some(Self { subject: place(node)?, incarnation: incarnation.0, says })
    }
}

/// A member at work: its seat, and what it sends meanwhile.
pub struct Run {
    /// The member.
    pub seat: Seat,
    /// What it said.
    pub facts: Vec<Fact>,
    /// What else it sent.
    pub sent: Vec<(Peer, Message<NoLayer>)>,
    /// Writes linger.
    pub lingering: bool,
}

impl Run {
    /// Goes on from a seat.
    pub fn new(seat: &Seat, lingering: bool) -> Self {
        Self { seat: seat.clone(), facts: Vec::new(), sent: Vec::new(), lingering }
    }

    /// Starts a member on its disk.
    pub fn start(config: &Config<NoLayer>, durable: Durable, lingering: bool) -> Self {
        let (mut gate, mut effects) = (Gate::default(), Vec::new());
        let mut cx = Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut gate.last };
        let node = Node::recover(config, durable, &mut cx, &mut effects);
        let seat = Seat {
            node: Some(node),
            gate,
            durable,
            pending: Vec::new(),
            armed: BTreeSet::new(),
            gossips: false,
            address: config.endpoint.port(),
            present: BTreeSet::new(),
            graves: BTreeMap::new(),
        };
        let mut run = Self { seat, facts: Vec::new(), sent: Vec::new(), lingering };
        run.route(effects);
        run.event(Event::Command(spec::swim::Command::Start), Instant(0));
        run
    }

    /// The machine takes a step.
    pub fn event(&mut self, event: Event<Node>, now: Instant) {
        let effects = self.step(event, now);
        self.route(effects);
    }

    fn step(&mut self, event: Event<Node>, now: Instant) -> Vec<Effect<Node>> {
        let mut effects = Vec::new();
        let last_ticket = &mut self.seat.gate.last;
        let mut cx = Context { now, entropy: &mut Least, last_ticket };
        if let Some(node) = &mut self.seat.node {
            node.step(event, &mut cx, &mut effects);
        }
        effects
    }

    fn route(&mut self, mut effects: Vec<Effect<Node>>) {
        loop {
            let mut ready = Vec::new();
            self.seat.gate.admit(&mut effects, &mut ready);
            for effect in ready {
                self.perform(effect);
            }
            if self.lingering || self.seat.pending.is_empty() {
                break;
            }
            effects = self.sync();
        }
        self.seat.gate.rebase();
        // Of what the host is told later, only who comes and who goes is looked at.
        self.seat
            .gate
            .emits
            .retain(|(_, output)| matches!(output, Output::Joined(_) | Output::Gone { .. }));
    }

    /// The pending writes become durable.
    pub fn write_back(&mut self) {
        let effects = self.sync();
        self.route(effects);
    }

    fn sync(&mut self) -> Vec<Effect<Node>> {
        for (_, write) in self.seat.pending.drain(..) {
            Node::fold(&mut self.seat.durable, &write);
        }
        let (ticket, mut ready) = (self.seat.gate.last, Vec::new());
        self.seat.gate.durable(ticket, &mut ready);
        for effect in ready {
            self.perform(effect);
        }
        self.step(Event::Durable(ticket), Instant(0))
    }

    fn perform(&mut self, effect: Effect<Node>) {
        match effect {
            Effect::Persist { ticket, write } => self.seat.pending.push((ticket, write)),
            Effect::Send { message: Message::Packet(parts), to, .. } => {
                self.facts.extend(parts.iter().filter_map(Fact::of));
                let rest: Vec<_> =
                    parts.into_iter().filter(|part| Fact::of(part).is_none()).collect();
                if !rest.is_empty() {
                    self.sent.push((to, Message::Packet(rest)));
                }
            }
            Effect::Send { to, message, .. } => self.sent.push((to, message)),
            Effect::Arm { timer: Timer::Suspicion(name), .. } => {
                self.seat.armed.insert(name);
            }
            Effect::Disarm { timer: Timer::Suspicion(name) } => {
                self.seat.armed.remove(&name);
            }
            Effect::Arm { timer: Timer::Gossip, .. } => self.seat.gossips = true,
            Effect::Emit { output: Output::Joined(member), .. } => {
                self.seat.present.insert(member.name);
            }
            Effect::Emit { output: Output::Gone { member, .. }, .. } => {
                self.seat.present.remove(&member.name);
            }
            Effect::Arm { .. } | Effect::Disarm { .. } | Effect::Emit { .. } => {}
        }
    }

    /// Probes a member with nobody answering.
    pub fn fail_probe(&mut self, target: &Name) {
        self.aim(target);
        self.event(Event::Fire(Timer::Probe), Instant(0));
        self.event(Event::Fire(Timer::ProbeTimeout), Instant(0));
        self.event(Event::Fire(Timer::Probe), Instant(0));
    }

    /// Makes a member the next to be probed. In a round any order may have been drawn.
    pub fn aim(&mut self, target: &Name) {
        if let Some(node) = &mut self.seat.node {
            node.next = node.order.iter().position(|name| name == target).unwrap_or(0);
        }
    }

    /// Gossips, as long as there is a round to come, until there is nobody to tell or nothing to say: what is queued
    /// counts as said.
    pub fn gossip(&mut self) {
        while let Some(node) = self.seat.node.as_ref().filter(|_| self.seat.gossips) {
            let said = self.facts.len();
            // What stands on the first write of a run waits for it; it is all said then.
            if node.started != Ticket::NONE {
                break;
            }
            self.seat.gossips = false;
            self.event(Event::Fire(Timer::Gossip), Instant(0));
            if said == self.facts.len() {
                break;
            }
        }
    }

    /// Leaves out what this model doesn't look at: the time, the order of probing, health, pings under way. None of
    /// it has a bearing on what is believed; the models of probes and of suspicions look at it.
    pub fn settle(&mut self) {
        self.gossip();
        let Some(node) = &mut self.seat.node else { return };
        node.order.sort();
        node.next = 0;
        node.sequence = 0;
        node.probe = None;
        node.relays.clear();
        node.awareness = spec::swim::awareness::Awareness::default();
        for member in node.members.values_mut() {
            member.since = Instant(0);
        }
        for suspicion in node.suspicions.values_mut() {
            suspicion.accusers = BTreeSet::from(["another".into()]);
            suspicion.started = Instant(0);
        }
    }
}

impl Seat {
    /// What this member believes of another.
    pub fn believes(&self, of: usize) -> Option<(Incarnation, Status, u16)> {
        let member = self.node.as_ref()?.members.get(&name(of))?;
        Some((member.incarnation, member.status, member.endpoint.port()))
    }

    /// Whether it is there and not leaving.
    pub fn stays(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.leaving.is_none())
    }

    /// Whether nothing is left in the queue for good: what waits has a round of gossip to come.
    pub fn gossips_what_waits(&self) -> bool {
        let waits = |node: &Node| node.running && !node.queue.entries.is_empty();
        self.gossips || !self.node.as_ref().is_some_and(waits)
    }

    /// Whether what it says may leave it.
    pub fn speaks(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.started == Ticket::NONE)
    }
}

/// Settings under which a model is small: whoever is known is told of everything at once, nobody is waited for to
/// confirm a suspicion, and the name of a dead member may be taken over.
pub fn config(n: usize, members: usize, address: u16, highest: u32) -> Config<NoLayer> {
    Config {
        gossip_nodes: members,
        retransmit_mult: u32::try_from(members).unwrap_or(1),
        suspicion_mult: 2,
        push_pull_interval: Duration::ZERO,
        dead_node_reclaim: Some(Duration::ZERO),
        max_incarnation: Incarnation(highest),
        ..Config::lan(name(n), endpoint(address), ())
    }
}
