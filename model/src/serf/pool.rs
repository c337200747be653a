//! Members that a model steps: Serf's machine with SWIM's inside, its gate and its disk.
//!
//! Gossip is played by the model. What a machine queues is taken out of its queue: a fact that any other may hear, at
//! any time, many times or never. SWIM's own word (somebody is there, somebody is gone) is put in as a packet; how SWIM
//! comes to it is SWIM's model's business. A push/pull carries no table of SWIM's, but for one that joins.

use std::{collections::VecDeque, net::Ipv4Addr, sync::Arc, time::Duration};

use spec::{
    entropy::Entropy,
    gate::Gate,
    machine::{Context, Effect, Event, Machine, Ticket},
    serf::{
        Command, Config, Durable, Keyring, LamportTime, Message, Output, Packet, Record, Serf,
        Tags, Timer, message::SerfLayer, tags::Rules,
    },
    swim::{self, Alive, Dead, Endpoint, Name, Part, Peer, PushPull},
    time::Instant,
};

const NAMES: [&str; MOST] = ["a", "b", "c", "d"];

/// The most members that a pool has.
pub(super) const MOST: usize = 4;

pub(super) fn name(n: usize) -> Name {
    NAMES[n].into()
}

pub(super) fn endpoint(n: usize) -> Endpoint {
    (Ipv4Addr::new(10, 0, 0, u8::try_from(n).unwrap_or(0)), 7946).into()
}

/// The settings of a member, with whatever the scope changes about them.
pub(super) fn config(n: usize, change: &dyn Fn(&mut Config)) -> Config {
    let swim = swim::Config::lan(name(n), endpoint(n), Rules::default());
    let mut config = Config::new(swim, Tags::new());
    config.rejoin = false;
    change(&mut config);
    config
}

/// How a pool begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// One after another has joined.
    Joined,
    /// All have announced themselves at one time, so that they are alike: what happens first is taken to befall the last
    /// one, by the first one's doing.
    Alike,
    /// The same, but what happens first may befall anybody. Only a test begins so: that the other loses nothing by it.
    AlikeForAnybody,
}

/// One choice for each member, so that no two ask under one id.
struct Own(usize);

impl Entropy for Own {
    fn jitter(&mut self, _bound: Duration) -> Duration {
        Duration::ZERO
    }

    fn choose(&mut self, n: usize) -> usize {
        self.0 % n
    }
}

/// The least at first, if so, then this choice.
struct Chosen {
    first: bool,
    choice: usize,
}

impl Entropy for Chosen {
    fn jitter(&mut self, _bound: Duration) -> Duration {
        Duration::ZERO
    }

    fn choose(&mut self, n: usize) -> usize {
        if std::mem::take(&mut self.first) { 0 } else { self.choice.min(n - 1) }
    }
}

/// A member, its gate and its disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// The machine.
    pub machine: Serf,
    /// Its place.
    pub n: usize,
    /// It runs.
    pub up: bool,
    /// Writes may linger, and be lost by a crash.
    lingering: bool,
    gate: Gate<Serf>,
    /// What is on its disk.
    pub durable: Durable,
    /// Writes that are not.
    pub pending: VecDeque<(Ticket, Record)>,
    /// The keyring that its host was told of last: with it packets are encrypted.
    pub keyring: Keyring,
}

/// What came out of a step.
#[derive(Default)]
pub(super) struct Told {
    /// What it gossips of Serf's.
    pub(super) gossip: Vec<Message>,
    /// All that it gossips, SWIM's words included.
    pub(super) words: Vec<Part<SerfLayer>>,
    pub(super) sends: Vec<(Peer, Packet)>,
    pub(super) outputs: Vec<Output>,
}

impl Told {
    pub(super) fn add(&mut self, other: Self) {
        self.gossip.extend(other.gossip);
        self.words.extend(other.words);
        self.sends.extend(other.sends);
        self.outputs.extend(other.outputs);
    }
}

impl Server {
    pub(super) fn start(n: usize, config: &Config, durable: Durable, lingering: bool) -> Self {
        let (mut gate, mut effects) = (Gate::default(), Vec::new());
        let mut entropy = Own(n);
        let mut cx =
            Context { now: Instant(0), entropy: &mut entropy, last_ticket: &mut gate.last };
        let machine = Serf::recover(config, durable.clone(), &mut cx, &mut effects);
        let (pending, keyring) = (VecDeque::new(), Keyring::default());
        let mut server =
            Self { machine, n, up: true, lingering: false, gate, durable, pending, keyring };
        server.route(effects);
        server.step(Event::Command(Command::Start));
        server.lingering = lingering;
        server
    }

    pub(super) fn command(&mut self, command: Command) -> Told {
        self.step(Event::Command(command))
    }

    pub(super) fn hear(&mut self, message: Message) -> Told {
        let from = Peer::Endpoint(endpoint(self.n));
        self.step(Event::Receive { from, message: Packet::Packet(vec![Part::User(message)]) })
    }

    pub(super) fn step(&mut self, event: Event<Serf>) -> Told {
        self.step_at(event, Instant(0))
    }

    pub(super) fn step_at(&mut self, event: Event<Serf>, now: Instant) -> Told {
        let mut entropy = Own(self.n);
        self.step_by(event, now, &mut entropy)
    }

    /// Tries to reach this one of those that failed.
    pub(super) fn reconnect(&mut self, choice: usize) -> Told {
        let mut chance = Chosen { first: true, choice };
        self.step_by(Event::Fire(Timer::Reconnect), Instant(0), &mut chance)
    }

    /// SWIM's own push/pull, with this one in the order of probing.
    pub(super) fn exchange(&mut self, choice: usize) -> Told {
        let mut chance = Chosen { first: false, choice };
        self.step_by(Event::Fire(Timer::Swim(swim::Timer::PushPull)), Instant(0), &mut chance)
    }

    fn step_by(&mut self, event: Event<Serf>, now: Instant, entropy: &mut dyn Entropy) -> Told {
        let mut effects = Vec::new();
        let mut cx = Context { now, entropy, last_ticket: &mut self.gate.last };
        self.machine.step(event, &mut cx, &mut effects);
        self.route(effects)
    }

    fn route(&mut self, mut effects: Vec<Effect<Serf>>) -> Told {
        let mut told = Told::default();
        loop {
            let mut ready = Vec::new();
            self.gate.admit(&mut effects, &mut ready);
            self.perform(ready, &mut told);
            if self.lingering || self.pending.is_empty() {
                break;
            }
            told.add(self.sync());
        }
        self.gate.rebase();
        let queue = std::mem::take(&mut self.machine.swim.queue);
        for part in queue.entries.into_values() {
            if let Part::User(message) = &part {
                told.gossip.push(message.clone());
            }
            told.words.push(part);
        }
        told
    }

    fn perform(&mut self, ready: Vec<Effect<Serf>>, told: &mut Told) {
        for effect in ready {
            match effect {
                Effect::Persist { ticket, write } => self.pending.push_back((ticket, write)),
                Effect::Send { to, message, .. } => told.sends.push((to, message)),
                Effect::Emit { output, .. } => {
                    if let Output::Keyring(keyring) = &output {
                        // When it was heeded makes no difference to a host.
                        self.keyring = Keyring { last: LamportTime::default(), ..keyring.clone() };
                    }
                    told.outputs.push(output);
                }
                Effect::Arm { .. } | Effect::Disarm { .. } => {}
            }
        }
    }

    /// Says whether writes may linger from here on.
    pub(super) fn set_lingering(&mut self, lingering: bool) {
        self.lingering = lingering;
    }

    /// Makes all pending writes durable.
    pub(super) fn sync(&mut self) -> Told {
        self.sync_first(self.pending.len())
    }

    /// Makes so many of the pending writes durable, the first, and says the ticket of the last, as the agent does.
    pub(super) fn sync_first(&mut self, count: usize) -> Told {
        let mut ticket = self.gate.durable;
        for (last, record) in self.pending.drain(..count) {
            self.durable.fold(&record);
            ticket = last;
        }
        self.durable_to(ticket)
    }

    fn durable_to(&mut self, ticket: Ticket) -> Told {
        let (mut ready, mut told) = (Vec::new(), Told::default());
        self.gate.durable(ticket, &mut ready);
        self.perform(ready, &mut told);
        told.add(self.step(Event::Durable(ticket)));
        told
    }

    /// The pending writes of the keyring and of its time, by their place.
    pub(super) fn pending_keys(&self) -> impl Iterator<Item = usize> {
        let of_keys =
            |record: &Record| matches!(record, Record::Keyring(_) | Record::KeyringClock(_));
        let pending = self.pending.iter().enumerate();
        pending.filter(move |(_, (_, record))| of_keys(record)).map(|(at, _)| at)
    }

    /// The write at this place fails, after those before it became durable; the disk holds it all the same, if `landed`.
    pub(super) fn fail_write(&mut self, at: usize, landed: bool) -> Told {
        let mut told = self.sync_first(at);
        let Some((ticket, record)) = self.pending.pop_front() else { return told };
        if landed {
            self.durable.fold(&record);
        }
        let reason = "no space left on device".into();
        told.add(self.command(Command::KeyringNotWritten { ticket, reason }));
        told.add(self.durable_to(ticket));
        told
    }

    /// Stops without a word; of the pending writes, so many survive.
    pub(super) fn crash(&mut self, kept: usize) {
        for (_, record) in self.pending.drain(..).take(kept) {
            self.durable.fold(&record);
        }
        self.gate = Gate::default();
        self.up = false;
    }

    /// What SWIM believes of another.
    pub(super) fn sees(&self, other: usize) -> Option<&swim::Member> {
        self.machine.swim.members.get(&name(other))
    }

    /// Whether SWIM has another for one that is there.
    pub(super) fn sees_present(&self, other: usize) -> bool {
        self.sees(other).is_some_and(|member| !member.status.is_gone())
    }

    /// What it says of itself to SWIM.
    pub(super) fn alive(&self) -> Option<Packet> {
        self.announcement(self.n)
    }

    /// What another announced last, as far as this member knows.
    pub(super) fn announcement(&self, other: usize) -> Option<Packet> {
        let member = self.sees(other)?;
        Some(Packet::Packet(vec![Part::Alive(Alive {
            incarnation: member.incarnation,
            node: Arc::clone(&member.name),
            endpoint: member.endpoint,
            meta: Arc::clone(&member.meta),
            versions: member.versions,
        })]))
    }

    /// What a push/pull of it carries.
    pub(super) fn push_pull(&self) -> Packet {
        let user = Some(self.machine.tell());
        Packet::PushPull(PushPull { join: false, members: Vec::new(), user, reply: false })
    }
}

/// A packet comes from a member.
pub(super) fn receive(server: &mut Server, from: usize, message: Packet) -> Told {
    let from = Peer::Endpoint(endpoint(from));
    server.step(Event::Receive { from, message })
}

/// SWIM's word that `gone` is gone, at the incarnation that the hearer knows.
pub(super) fn death(hearer: &Server, gone: usize, said_so: bool) -> Option<Packet> {
    let incarnation = hearer.sees(gone)?.incarnation;
    let from = name(if said_so { gone } else { hearer.n });
    Some(Packet::Packet(vec![Part::Dead(Dead { incarnation, node: name(gone), from })]))
}

/// `joiner` joins through `via`, by a push/pull with SWIM's tables; gives what came out of each step, and at whom.
pub(super) fn join(servers: &mut [Arc<Server>], joiner: usize, via: usize) -> Vec<(usize, Told)> {
    let command = Command::Join { request: 1, to: vec![endpoint(via)], ignore_old: false };
    let first = Arc::make_mut(&mut servers[joiner]).command(command);
    let mut all = vec![(joiner, first)];
    let (mut at, mut to) = (joiner, via);
    while let Some((_, packet)) = all.last_mut().and_then(|(_, told)| told.sends.pop()) {
        all.push((to, receive(Arc::make_mut(&mut servers[to]), at, packet)));
        (at, to) = (to, at);
    }
    all
}

/// Members that all know each other, with nothing left to say.
pub(super) fn pool(
    servers: usize,
    beginning: Beginning,
    lingering: bool,
    change: &dyn Fn(&mut Config),
) -> Vec<Arc<Server>> {
    let start = |n| Arc::new(Server::start(n, &config(n, change), Durable::default(), false));
    let mut pool: Vec<Arc<Server>> = (0..servers).map(start).collect();
    let mut facts = Vec::new();
    for n in 1..servers {
        facts.extend(join(&mut pool, n, 0).into_iter().flat_map(|(_, told)| told.gossip));
    }
    for n in 0..servers {
        for other in (0..servers).filter(|other| *other != n) {
            let alive = pool[other].alive();
            if let Some(alive) = alive {
                receive(Arc::make_mut(&mut pool[n]), other, alive);
            }
            for fact in &facts {
                Arc::make_mut(&mut pool[n]).hear(fact.clone());
            }
        }
    }
    if beginning != Beginning::Joined {
        announce_at_once(&mut pool);
    }
    for server in &mut pool {
        Arc::make_mut(server).set_lingering(lingering);
    }
    pool
}

/// All members announce themselves at one time, and hear each other: no one's intent is later than another's.
fn announce_at_once(pool: &mut [Arc<Server>]) {
    let latest = pool.iter().map(|server| server.machine.members.clock.seen()).max();
    let latest = latest.unwrap_or_default();
    let mut joins = Vec::new();
    for server in pool.iter_mut() {
        let members = &mut Arc::make_mut(server).machine.members;
        let _ = members.clock.witness(latest);
        joins.push(Message::Join(members.announce()));
    }
    for server in pool.iter_mut() {
        for join in &joins {
            Arc::make_mut(server).hear(join.clone());
        }
    }
}
