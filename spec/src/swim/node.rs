//! The machine: its state, and the one place that dispatches events.

use alloc::{collections::BTreeMap, sync::Arc, vec, vec::Vec};

use super::{
    awareness::Awareness,
    broadcast::Queue,
    config::Config,
    interface::{Command, Dropped, ExchangeError, Output, Timer},
    member::Word,
    message::{Message, Part},
    own::{Claim, Leaving},
    probe::{Probe, Relay},
    push_pull::Exchange,
    suspicion::Suspicion,
    types::{Durable, Endpoint, Layer, Member, Name, Peer, Status},
};
use crate::machine::{Context, Effect, Event, Machine, Ticket};

/// A member of a pool, as it sees itself and the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node<L: Layer> {
    /// What never changes.
    pub config: Arc<Config<L>>,
    /// The write of the first incarnation, until it is durable. All that is said stands on it.
    pub started: Ticket,
    /// It probes and gossips.
    pub running: bool,
    /// A higher incarnation on its way to the disk.
    pub claim: Option<Claim>,
    /// What it is to say of itself from the next incarnation on.
    pub meta: Arc<[u8]>,
    /// It is leaving.
    pub leaving: Option<Leaving>,
    /// Every member that it knows, itself included: as it announced itself last.
    pub members: BTreeMap<Name, Member>,
    /// The other members, in the order of probing.
    pub order: Vec<Name>,
    /// The place in `order` of the next to be probed.
    pub next: usize,
    /// The suspicions that run, by the suspect.
    pub suspicions: BTreeMap<Name, Suspicion>,
    /// How well it hears.
    pub awareness: Awareness,
    /// What it gossips.
    pub queue: Queue<L>,
    /// A round of gossip is to come: its timer is armed.
    pub gossiping: bool,
    /// The probe that runs.
    pub probe: Option<Probe>,
    /// The pings that it relays, by their own numbers.
    pub relays: BTreeMap<u32, Relay>,
    /// The push/pulls that it began.
    pub exchanges: BTreeMap<Endpoint, Exchange>,
    /// The number of its last ping.
    pub sequence: u32,
}

/// What one step works with.
pub(super) struct Turn<'a, 'b, L: Layer> {
    pub(super) cx: &'a mut Context<'b>,
    pub(super) effects: &'a mut Vec<Effect<Node<L>>>,
}

impl<L: Layer> Machine for Node<L> {
    type Config = Config<L>;
    type Peer = Peer;
    type Message = Message<L>;
    type Timer = Timer;
    type Write = Durable;
    type Command = Command<L>;
    type Output = Output<L>;
    type Durable = Durable;

    fn recover(
        config: &Config<L>,
        durable: Durable,
        cx: &mut Context<'_>,
        effects: &mut Vec<Effect<Self>>,
    ) -> Self {
        // The last run may have announced the one that is durable.
        let incarnation = durable.incarnation.next(config.max_incarnation);
        let own = Member {
            name: Arc::clone(&config.name),
            endpoint: config.endpoint,
            meta: Arc::clone(&config.meta),
            versions: config.versions,
            incarnation,
            status: Status::Alive,
            since: cx.now,
        };
        let started = cx.next_ticket();
        effects.push(Effect::Persist { ticket: started, write: Durable { incarnation } });
        Self {
            started,
            running: false,
            claim: None,
            meta: Arc::clone(&config.meta),
            leaving: None,
            members: BTreeMap::from([(Arc::clone(&config.name), own)]),
            order: Vec::new(),
            next: 0,
            suspicions: BTreeMap::new(),
            awareness: Awareness::default(),
            queue: Queue::default(),
            gossiping: false,
            probe: None,
            relays: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            // An ack that was meant for the last run must not answer a ping of this one.
            sequence: u32::try_from(cx.entropy.choose(1 << 31)).unwrap_or(0),
            config: Arc::new(config.clone()),
        }
    }

    fn fold(durable: &mut Durable, write: &Durable) {
        *durable = *write;
    }

    fn step(&mut self, event: Event<Self>, cx: &mut Context<'_>, effects: &mut Vec<Effect<Self>>) {
        let turn = &mut Turn { cx, effects };
        match event {
            Event::Receive { from, message } => self.receive(from, message, turn),
            Event::Fire(timer) => self.fire(timer, turn),
            Event::Durable(ticket) => self.durable(ticket, turn),
            Event::Command(command) => self.command(command, turn),
        }
        self.see_to_gossip(turn);
    }
}

impl<L: Layer> Node<L> {
    fn receive(&mut self, from: Peer, message: Message<L>, turn: &mut Turn<'_, '_, L>) {
        match message {
            Message::Packet(parts) => {
                for part in parts {
                    self.receive_part(from, part, turn);
                }
            }
            Message::PushPull(push_pull) => self.hear_push_pull(from, push_pull, turn),
            Message::StreamPing(ping) => self.hear_stream_ping(from, &ping, turn),
            Message::StreamAck(ack) => self.hear_stream_ack(from, &ack, turn),
        }
    }

    fn receive_part(&mut self, from: Peer, part: Part<L>, turn: &mut Turn<'_, '_, L>) {
        match part {
            Part::Ping(ping) => self.hear_ping(from, &ping, turn),
            Part::IndirectPing(ping) => self.hear_indirect_ping(from, &ping, turn),
            Part::Ack(ack) => self.hear_ack(ack, turn),
            Part::Nack(nack) => self.hear_nack(nack, turn),
            Part::Suspect(suspect) => self.hear_suspect(suspect, Word::Hearsay, turn),
            Part::Alive(alive) => self.hear_alive(alive, from, turn),
            Part::Dead(dead) => self.hear_dead(dead, Word::Hearsay, turn),
            Part::User(message) => self.emit(Output::User { from, message }, turn),
        }
    }

    fn fire(&mut self, timer: Timer, turn: &mut Turn<'_, '_, L>) {
        match timer {
            Timer::Probe => self.next_period(turn),
            Timer::ProbeTimeout => self.probe_timed_out(turn),
            Timer::Gossip => self.gossip(turn),
            Timer::PushPull => self.push_pull_round(turn),
            Timer::Leave => self.finish_leaving(turn),
            Timer::Relay(seq) => self.relay_timed_out(seq, turn),
            Timer::Suspicion(name) => self.suspicion_ran_out(&name, turn),
            Timer::Refusal(name) => self.try_again(&name, turn),
            Timer::Exchange(with) => {
                self.end_exchange(with, Err(ExchangeError::TimedOut), turn);
            }
        }
    }

    fn command(&mut self, command: Command<L>, turn: &mut Turn<'_, '_, L>) {
        match command {
            Command::Start => self.start(turn),
            Command::PushPull { request, to, join } => {
                self.begin_exchange(to, join, Some(request), turn);
            }
            Command::Broadcast(message) => self.broadcast(message, turn),
            Command::Send { to, message } => {
                self.send_packet(Peer::Endpoint(to), vec![Part::User(message)], turn);
            }
            Command::Update { meta } => self.update(meta, turn),
            Command::Leave { request } => self.leave(request, turn),
            Command::StreamFailed { to, refused } => self.stream_failed(to, refused, turn),
        }
    }

    /// Begins to probe and to push and pull, each at a time of its own: members that start together must not stay in
    /// step. Gossip begins with this member's own announcement.
    fn start(&mut self, turn: &mut Turn<'_, '_, L>) {
        if self.running {
            return;
        }
        self.running = true;
        if let Some(own) = self.members.get(&self.config.name).cloned() {
            self.emit(Output::Joined(own), turn);
        }
        self.announce_self();
        let config = Arc::clone(&self.config);
        for (timer, interval) in
            [(Timer::Probe, config.probe_interval), (Timer::PushPull, config.push_pull_interval)]
        {
            if !interval.is_zero() {
                let delay = interval + turn.cx.entropy.jitter(interval);
                turn.effects.push(Effect::Arm { timer, delay });
            }
        }
    }

    pub(super) fn send(&self, to: Peer, message: Message<L>, turn: &mut Turn<'_, '_, L>) {
        turn.effects.push(Effect::Send { to, message, after: self.started });
    }

    pub(super) fn emit(&self, output: Output<L>, turn: &mut Turn<'_, '_, L>) {
        turn.effects.push(Effect::Emit { output, after: self.started });
    }

    pub(super) fn dropped(&self, reason: Dropped, turn: &mut Turn<'_, '_, L>) {
        self.emit(Output::Dropped(reason), turn);
    }
}
