//! The machine: SWIM's node with Serf's layer around it, and the one place that dispatches events.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    vec::Vec,
};
use core::time::Duration;

use super::{
    interface::{Command, Config, Counter, Output, Refused, Timer},
    join::{Exchange, Join},
    keyring::{KeyOperation, Keyring},
    keys::Keys,
    lamport::LamportTime,
    leave::Lifecycle,
    members::{Change, Members},
    message::{SerfLayer, UserEvent},
    query::{Open, QueryKey, Running},
    ring::Ring,
    snapshot::{Durable, Record},
    tags::{self, Tags},
};
use crate::{
    machine::{Context, Effect, Event, Machine, Ticket},
    swim::{self, Endpoint, Member, Name, Peer, Status as SwimStatus},
};

/// SWIM's node, and what it sends.
type Swim = swim::Node<SerfLayer>;
/// A message between two members.
pub type Packet = swim::Message<SerfLayer>;

/// A member of a pool, with Serf's layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Serf {
    /// What never changes.
    pub config: Arc<Config>,
    /// Membership.
    pub swim: Swim,
    /// The tags of this member.
    pub tags: Tags,
    /// How it comes and goes.
    pub lifecycle: Lifecycle,
    /// The members as the intents tell of them.
    pub members: Members,
    /// The events that were seen.
    pub events: Ring<UserEvent>,
    /// The ids of the queries that were seen.
    pub queries: Ring<u32>,
    /// This member's queries.
    pub running: BTreeMap<QueryKey, Running>,
    /// The queries that the host may answer.
    pub open: BTreeMap<QueryKey, Open>,
    /// The keys.
    pub keyring: Keyring,
    /// What is to be done with them.
    pub keys: Keys,
    /// The operation on all keyrings that this member runs.
    pub operation: Option<KeyOperation>,
    /// The push/pulls that Serf's layer asked for, by the number that SWIM answers with.
    pub exchanges: BTreeMap<u64, Exchange>,
    /// The number of the next one.
    pub next_exchange: u64,
    /// The joins that the host asked for, by its request.
    pub joins: BTreeMap<u64, Join>,
    /// Members of the last run, to join again through.
    pub rejoin: VecDeque<(Name, Endpoint)>,
    /// What the disk says, or is about to say.
    pub saved: Saved,
}

/// The clocks as they were last written, and the writes that are not durable yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Saved {
    /// The members' clock.
    pub ltime: LamportTime,
    /// The latest time of a delivered event.
    pub event_ltime: LamportTime,
    /// The queries' clock.
    pub query_ltime: LamportTime,
    /// The write of `event_ltime`: events are told behind it.
    pub events: Ticket,
    /// The write that this member leaves.
    pub leave: Ticket,
    /// The clocks moved: the timer to write them is armed.
    pub moved: bool,
}

/// What one step works with.
pub(super) struct Turn<'a, 'b> {
    pub(super) cx: &'a mut Context<'b>,
    pub(super) effects: &'a mut Vec<Effect<Serf>>,
    /// The write that all that is said stands on, besides its own.
    pub(super) after: Ticket,
}

impl Machine for Serf {
    type Config = Config;
    type Peer = Peer;
    type Message = Packet;
    type Timer = Timer;
    type Write = Record;
    type Command = Command;
    type Output = Output;
    type Durable = Durable;

    fn recover(
        config: &Config,
        durable: Durable,
        cx: &mut Context<'_>,
        effects: &mut Vec<Effect<Self>>,
    ) -> Self {
        let mut config = config.clone();
        if let Some(meta) = tags::encode(&config.tags) {
            config.swim.meta = meta;
        }
        config.swim.rules.name = Arc::clone(&config.swim.name);
        let mut sent = Vec::new();
        let swim = Swim::recover(&config.swim, durable.swim, cx, &mut sent);
        let own = swim.members.get(&config.swim.name).cloned();
        let own = own.unwrap_or_else(|| own_member(&config, cx));
        let limits = config.limits;
        let saved = Saved {
            ltime: durable.ltime,
            event_ltime: durable.event_ltime,
            query_ltime: durable.query_ltime,
            ..Saved::default()
        };
        let mut keyring = durable.keyring.clone().unwrap_or_else(|| config.keyring.clone());
        keyring.last = durable.keyring_ltime;
        let max_queries = config.max_query_ids * size_of::<u32>();
        let mut serf = Self {
            tags: config.tags.clone(),
            lifecycle: Lifecycle::Idle,
            members: Members::new(own, durable.ltime, limits, cx.now),
            events: Ring::new(durable.event_ltime, config.window, config.max_event_bytes, limits),
            queries: Ring::new(durable.query_ltime, config.window, max_queries, limits),
            running: BTreeMap::new(),
            open: BTreeMap::new(),
            keyring,
            keys: Keys::default(),
            operation: None,
            exchanges: BTreeMap::new(),
            next_exchange: 0,
            joins: BTreeMap::new(),
            rejoin: VecDeque::new(),
            saved,
            swim,
            config: Arc::new(config),
        };
        let turn = &mut Turn { cx, effects, after: Ticket::NONE };
        serf.route(sent, turn);
        serf.remember_members(&durable, turn);
        turn.emit(Output::Keyring(serf.keyring.clone()));
        serf
    }

    fn fold(durable: &mut Durable, record: &Record) {
        durable.fold(record);
    }

    fn step(&mut self, event: Event<Self>, cx: &mut Context<'_>, effects: &mut Vec<Effect<Self>>) {
        let turn = &mut Turn { cx, effects, after: Ticket::NONE };
        match event {
            Event::Receive { from, message } => self.swim(Event::Receive { from, message }, turn),
            Event::Fire(timer) => self.fire(timer, turn),
            Event::Durable(ticket) => {
                let saved = &mut self.saved;
                for own in [&mut saved.events, &mut saved.leave] {
                    if *own <= ticket {
                        *own = Ticket::NONE;
                    }
                }
                self.swim(Event::Durable(ticket), turn);
                self.keyring_durable(ticket, turn);
            }
            Event::Command(command) => self.command(command, turn),
        }
        self.see_to_clocks(turn);
    }
}

impl Turn<'_, '_> {
    pub(super) fn emit(&mut self, output: Output) {
        self.effects.push(Effect::Emit { output, after: self.after });
    }

    pub(super) fn count(&mut self, counter: Counter) {
        self.emit(Output::Counted(counter));
    }

    pub(super) fn arm(&mut self, timer: Timer, delay: Duration) {
        self.effects.push(Effect::Arm { timer, delay });
    }

    /// Writes a record; gives the ticket for what stands on it.
    pub(super) fn persist(&mut self, record: Record) -> Ticket {
        let ticket = self.cx.next_ticket();
        self.effects.push(Effect::Persist { ticket, write: record });
        ticket
    }
}

fn own_member(config: &Config, cx: &Context<'_>) -> Member {
    Member {
        name: Arc::clone(&config.swim.name),
        endpoint: config.swim.endpoint,
        meta: Arc::clone(&config.swim.meta),
        versions: config.swim.versions,
        incarnation: swim::Incarnation::default(),
        status: SwimStatus::Alive,
        since: cx.now,
    }
}

impl Serf {
    fn fire(&mut self, timer: Timer, turn: &mut Turn<'_, '_>) {
        match timer {
            Timer::Swim(timer) => self.swim(Event::Fire(timer), turn),
            Timer::Reap => self.reap(turn),
            Timer::Reconnect => self.reconnect(turn),
            Timer::Snapshot => self.save_clocks(turn),
            Timer::Leave => self.leave_on(turn),
            Timer::Query(ltime, id) => self.query_over((ltime, id), turn),
        }
    }

    fn command(&mut self, command: Command, turn: &mut Turn<'_, '_>) {
        let (request, done) = match command {
            Command::Start => return self.start(turn),
            Command::StreamFailed { to, refused } => {
                let failed = swim::Command::StreamFailed { to, refused };
                return self.swim(Event::Command(failed), turn);
            }
            Command::KeyringNotWritten { ticket, reason } => {
                return self.keyring_not_written(ticket, &reason, turn);
            }
            Command::Join { request, to, ignore_old } => {
                (request, self.join(request, to, ignore_old, turn))
            }
            Command::Query { request, question } => (request, self.ask(request, question, turn)),
            Command::Keyring { request, operation, relay_factor } => {
                (request, self.operate(request, operation, relay_factor, turn))
            }
            Command::Leave { request } => (request, self.leave(request, turn)),
            Command::SetTags { request, tags } => (request, self.set_tags(request, tags, turn)),
            Command::Event { request, event, coalesce } => {
                (request, self.fire_event(request, event, coalesce, turn))
            }
            Command::Respond { request, query, payload } => {
                (request, self.respond(request, query, payload, turn))
            }
            Command::ForceLeave { request, name, prune } => {
                (request, self.force_leave(request, &name, prune, turn))
            }
        };
        if let Err(reason) = done {
            turn.emit(Output::Refused { request, reason });
        }
    }

    fn start(&mut self, turn: &mut Turn<'_, '_>) {
        if self.lifecycle != Lifecycle::Idle {
            return;
        }
        self.lifecycle = Lifecycle::Serving;
        self.swim(Event::Command(swim::Command::Start), turn);
        let config = Arc::clone(&self.config);
        turn.arm(Timer::Reap, config.reap_interval);
        turn.arm(Timer::Reconnect, config.reconnect_interval);
        self.rejoin_next(turn);
    }

    fn set_tags(
        &mut self,
        request: u64,
        tags: Tags,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Refused> {
        let meta = tags::encode(&tags).ok_or(Refused::TagsTooLong)?;
        self.tags = tags;
        self.swim(Event::Command(swim::Command::Update { meta }), turn);
        turn.emit(Output::Done { request });
        Ok(())
    }

    // SWIM, inside.

    /// Steps SWIM's node, and takes what comes of it.
    pub(super) fn swim(&mut self, event: Event<Swim>, turn: &mut Turn<'_, '_>) {
        let mut effects = Vec::new();
        self.swim.step(event, turn.cx, &mut effects);
        self.route(effects, turn);
    }

    /// Gossips a message.
    pub(super) fn broadcast(&mut self, message: super::Message, turn: &mut Turn<'_, '_>) {
        self.swim(Event::Command(swim::Command::Broadcast(message)), turn);
    }

    fn route(&mut self, effects: Vec<Effect<Swim>>, turn: &mut Turn<'_, '_>) {
        // SWIM's writes go first, since their tickets do: what SWIM tells may have Serf's layer write, too. Behind such a
        // write, with a later ticket, an incarnation would be taken for durable before it is.
        let is_write = |effect: &Effect<Swim>| matches!(effect, Effect::Persist { .. });
        let (writes, others): (Vec<_>, Vec<_>) = effects.into_iter().partition(is_write);
        for effect in writes.into_iter().chain(others) {
            match effect {
                Effect::Persist { ticket, write } => {
                    turn.effects.push(Effect::Persist { ticket, write: Record::Swim(write) });
                }
                Effect::Send { to, mut message, after } => {
                    if let swim::Message::PushPull(push_pull) = &mut message {
                        push_pull.user = Some(self.tell());
                    }
                    turn.effects.push(Effect::Send { to, message, after: after.max(turn.after) });
                }
                Effect::Arm { timer, delay } => {
                    turn.effects.push(Effect::Arm { timer: Timer::Swim(timer), delay });
                }
                Effect::Disarm { timer } => {
                    turn.effects.push(Effect::Disarm { timer: Timer::Swim(timer) });
                }
                Effect::Emit { output, after } => {
                    let before = turn.after;
                    turn.after = before.max(after);
                    self.hear(output, turn);
                    turn.after = before;
                }
            }
        }
    }

    /// SWIM tells something.
    fn hear(&mut self, output: swim::Output<SerfLayer>, turn: &mut Turn<'_, '_>) {
        let (now, memory) = (turn.cx.now, &self.config.memory);
        let mut changes = Vec::new();
        match output {
            swim::Output::Joined(member) => {
                changes.push(self.members.joined(&member, memory, now));
            }
            swim::Output::Updated(member) => changes.extend(self.members.updated(&member)),
            swim::Output::Gone { member, status } => {
                let said_so = status == SwimStatus::Left;
                self.members.gone(&member.name, said_so, now, &mut changes);
            }
            // Serf remembers for longer: its own time decides.
            swim::Output::Reaped(_) => {}
            swim::Output::Conflict { known, endpoint, meta: _ } => {
                turn.emit(Output::Conflict { known, endpoint });
            }
            swim::Output::Merged { from: _, join, user } => {
                if let Some(state) = user {
                    self.merge(join, &state, turn);
                }
            }
            swim::Output::User { from: _, message } => self.receive(message, turn),
            swim::Output::Rtt { name, micros, payload } => {
                turn.emit(Output::Rtt { name, micros, payload });
            }
            swim::Output::Pushed { request, result } => self.exchanged(request, result, turn),
            swim::Output::Left { .. } => self.departed(turn),
            swim::Output::Refuted(_)
            | swim::Output::Health(_)
            | swim::Output::Suspected { .. }
            | swim::Output::OnlyStreams(_)
            | swim::Output::Dropped(_) => turn.emit(Output::Swim(output)),
        }
        self.changed(changes, turn);
    }

    // What comes out.

    /// Tells the host what changed, and notes who can be joined through.
    pub(super) fn changed(&self, changes: Vec<Change>, turn: &mut Turn<'_, '_>) {
        let member = |name: &Name| self.members.entries.get(name).map(|e| e.member.clone());
        for change in changes {
            // One that is erased in the same step stands in the change that says so.
            let output = match change {
                Change::Joined { name, flapped } => {
                    let Some(member) = member(&name) else { continue };
                    if name != self.members.own {
                        let endpoint = member.endpoint;
                        turn.persist(Record::Alive { name, endpoint });
                    }
                    Output::Joined { member, flapped }
                }
                Change::Updated(name) => {
                    let Some(member) = member(&name) else { continue };
                    Output::Updated(member)
                }
                Change::Turned(name) => {
                    let Some(entry) = self.members.entries.get(&name) else { continue };
                    Output::Turned { member: entry.member.clone(), status: entry.status }
                }
                Change::Failed(member) => {
                    turn.persist(Record::NotAlive(Arc::clone(&member.name)));
                    Output::Failed(member)
                }
                Change::Left(member) => {
                    turn.persist(Record::NotAlive(Arc::clone(&member.name)));
                    Output::Left(member)
                }
                Change::Reaped(entry) => {
                    Output::Reaped { member: entry.member, status: entry.status }
                }
            };
            turn.emit(output);
        }
    }

    // Time.

    fn reap(&mut self, turn: &mut Turn<'_, '_>) {
        let now = turn.cx.now;
        let mut changes = Vec::new();
        self.members.reap(&self.config.memory, now, &mut changes);
        self.changed(changes, turn);
        self.open.retain(|_, open| now <= open.deadline);
        turn.arm(Timer::Reap, self.config.reap_interval);
    }

    /// Clocks that moved are written after a while.
    fn see_to_clocks(&mut self, turn: &mut Turn<'_, '_>) {
        let saved = &mut self.saved;
        let moved = self.members.clock.seen() > saved.ltime
            || self.queries.clock.seen() > saved.query_ltime;
        if moved && !saved.moved && self.lifecycle != Lifecycle::Idle {
            saved.moved = true;
            turn.arm(Timer::Snapshot, self.config.snapshot_interval);
        }
    }

    /// Writes the clocks where they moved. Nothing stands on these writes: a clock that is behind after a crash is
    /// brought up by the first push/pull.
    fn save_clocks(&mut self, turn: &mut Turn<'_, '_>) {
        let ltime = self.members.clock.seen();
        if ltime > self.saved.ltime {
            self.saved.ltime = ltime;
            turn.persist(Record::Clock(ltime));
        }
        let ltime = self.queries.clock.seen();
        if ltime > self.saved.query_ltime {
            self.saved.query_ltime = ltime;
            turn.persist(Record::QueryClock(ltime));
        }
        self.saved.moved = false;
    }
}
