//! How blank servers form a cluster: two-phase commit among servers that each expect the same number of them
//! (`prose/formation.md`).
//!
//! A blank server asks all the addresses that it was given, and those that it hears of. If one of them belongs to a
//! cluster, it joins that one. Else, among N blank servers that expect N, the one with the lowest id coordinates: each
//! member durably promises itself to the set, then the coordinator durably decides, and the set is the cluster's first
//! configuration. A member is promised to one set at a time, so two clusters never share a server.
//!
//! A coordinator that has not decided may give its attempt up, and does so after a crash: what is not decided is
//! released (presumed abort). A member that promised itself asks its coordinator until it knows.

mod types;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};

pub use types::{
    Address, Command, Config, Durable, Message, Output, Presence, Seen, ServerSet, SetId, Standing,
    Timer, Wait,
};

use super::types::{ClusterId, ServerId};
use crate::machine::{Context, Effect, Event, Machine, Ticket};

/// The most addresses that a server asks; more are not heard of.
const MAX_KNOWN: usize = 128;

/// A server that looks for a cluster, or answers those that do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Formation {
    /// What never changes.
    pub config: Arc<Config>,
    /// What it is to clusters.
    pub standing: Standing,
    /// The write that `standing` rests on, until it is durable. All that a server says stands on it.
    pub standing_ticket: Ticket,
    /// The number of its last attempt.
    pub attempt: u64,
    /// Whom its attempt has promises of, itself included; empty where it makes none.
    pub promised: BTreeSet<ServerId>,
    /// The addresses that it asks, and the blank servers that answered.
    pub known: BTreeMap<Address, Option<Seen>>,
    /// The first round of asking is over.
    pub asked: bool,
    /// What its Raft belongs to, and the leader's address.
    pub belongs: Option<(ClusterId, Option<Address>)>,
}

/// What one step works with.
struct Turn<'a, 'b> {
    cx: &'a mut Context<'b>,
    effects: &'a mut Vec<Effect<Formation>>,
}

impl Machine for Formation {
    type Config = Config;
    type Peer = Address;
    type Message = Message;
    type Timer = Timer;
    type Write = Durable;
    type Command = Command;
    type Output = Output;
    type Durable = Durable;

    fn recover(
        config: &Config,
        durable: Durable,
        cx: &mut Context<'_>,
        effects: &mut Vec<Effect<Self>>,
    ) -> Self {
        let known = config.addresses.iter().filter(|address| **address != config.address);
        let mut server = Self {
            standing: durable.standing,
            standing_ticket: Ticket::NONE,
            attempt: durable.attempt,
            promised: BTreeSet::new(),
            known: known.map(|address| (Arc::clone(address), None)).collect(),
            asked: false,
            belongs: config.member_of.map(|cluster| (cluster, None)),
            config: Arc::new(config.clone()),
        };
        let turn = &mut Turn { cx, effects };
        match server.standing.clone() {
            // Nothing was decided, or it would be durable; and nothing of this attempt will be decided any more.
            Standing::Promised(set) if set.id.coordinator == config.server => server.release(turn),
            Standing::Formed(set) => server.announce(&set, turn),
            Standing::Blank | Standing::Promised(_) | Standing::Joined(_) => {}
        }
        if server.belongs.is_none() {
            server.ask(turn);
            server.consider(turn);
        }
        server
    }

    fn fold(durable: &mut Durable, write: &Durable) {
        durable.clone_from(write);
    }

    fn step(&mut self, event: Event<Self>, cx: &mut Context<'_>, effects: &mut Vec<Effect<Self>>) {
        let turn = &mut Turn { cx, effects };
        match event {
            Event::Receive { from, message } => self.receive(&from, message, turn),
            Event::Fire(Timer::Retry) => self.next_round(turn),
            Event::Fire(Timer::Attempt) => self.give_up(turn),
            Event::Durable(ticket) => {
                if self.standing_ticket <= ticket {
                    self.standing_ticket = Ticket::NONE;
                }
            }
            Event::Command(Command::Belongs { cluster, leader }) => {
                self.belongs = Some((cluster, leader));
                turn.effects.push(Effect::Disarm { timer: Timer::Retry });
            }
            Event::Command(Command::Heard(address)) => {
                if self.hear_of(&address) && self.seeks() {
                    self.ask_one(&address, turn);
                }
            }
        }
    }
}

impl Formation {
    fn send(&self, to: &Address, message: Message, turn: &mut Turn<'_, '_>) {
        let (to, after) = (Arc::clone(to), self.standing_ticket);
        turn.effects.push(Effect::Send { to, message, after });
    }

    fn emit(&self, output: Output, turn: &mut Turn<'_, '_>) {
        turn.effects.push(Effect::Emit { output, after: self.standing_ticket });
    }

    /// Takes another standing. What is said from here on waits until it is durable.
    fn stand(&mut self, standing: Standing, turn: &mut Turn<'_, '_>) {
        let ticket = turn.cx.next_ticket();
        self.standing_ticket = ticket;
        self.standing = standing.clone();
        let write = Durable { standing, attempt: self.attempt };
        turn.effects.push(Effect::Persist { ticket, write });
    }

    /// Whether it still looks for a cluster.
    fn seeks(&self) -> bool {
        self.belongs.is_none() && !matches!(self.standing, Standing::Formed(_))
    }

    /// The cluster that it belongs to, or asked to belong to.
    fn cluster(&self) -> Option<ClusterId> {
        let own = self.belongs.as_ref().map(|(cluster, _)| *cluster);
        own.or(match &self.standing {
            Standing::Formed(set) => Some(set.cluster()),
            Standing::Joined(cluster) => Some(*cluster),
            Standing::Blank | Standing::Promised(_) => None,
        })
    }

    /// Whether this server coordinates an attempt of this name.
    fn coordinates(&self, id: SetId) -> bool {
        matches!(&self.standing, Standing::Promised(set) if set.id == id)
            && id.coordinator == self.config.server
    }

    // Asking.

    fn ask_one(&self, name: &Address, turn: &mut Turn<'_, '_>) {
        let joins = matches!(self.standing, Standing::Joined(_));
        let expect = if joins { 0 } else { self.config.expect };
        let ask = Message::Ask { server: self.config.server, expect, name: Arc::clone(name) };
        self.send(name, ask, turn);
    }

    /// Begins a round: asks everybody, and the coordinator of the set that it promised itself to.
    fn ask(&mut self, turn: &mut Turn<'_, '_>) {
        if !self.seeks() {
            return;
        }
        for name in self.known.keys() {
            self.ask_one(name, turn);
        }
        if let Standing::Promised(set) = &self.standing {
            if set.id.coordinator == self.config.server {
                self.prepare(set, turn);
            } else if let Some(coordinator) = set.members.get(&set.id.coordinator) {
                self.send(coordinator, Message::Inquire { set: set.id }, turn);
            }
        }
        let delay = self.config.retry + turn.cx.entropy.jitter(self.config.retry_jitter);
        turn.effects.push(Effect::Arm { timer: Timer::Retry, delay });
    }

    fn next_round(&mut self, turn: &mut Turn<'_, '_>) {
        if !self.seeks() {
            return;
        }
        self.asked = true;
        self.consider(turn);
        self.emit(Output::Waiting(self.waits()), turn);
        let given = &self.config.addresses;
        self.known.retain(|name, seen| {
            // Who said nothing for a whole round is not there: a lower id than all others must not hold them up for ever.
            seen.take_if(|seen| !seen.fresh);
            if let Some(seen) = seen {
                seen.fresh = false;
            }
            // What was heard of and is there is heard of again.
            seen.is_some() || given.contains(name)
        });
        self.ask(turn);
    }

    /// Notes an address; true where it is new.
    fn hear_of(&mut self, address: &Address) -> bool {
        let new = *address != self.config.address
            && self.known.len() < MAX_KNOWN
            && !self.known.contains_key(address);
        if new {
            self.known.insert(Arc::clone(address), None);
        }
        new
    }

    fn see(&mut self, name: &Address, server: ServerId, address: &Address, expect: usize) {
        if let Some(place) = self.known.get_mut(name) {
            *place = Some(Seen { server, address: Arc::clone(address), expect, fresh: true });
        }
    }

    /// The blank servers that expect as many as this one, itself included.
    fn candidates(&self) -> BTreeMap<ServerId, Address> {
        let alike = self.known.values().flatten().filter(|seen| seen.expect == self.config.expect);
        let mut candidates: BTreeMap<_, _> =
            alike.map(|seen| (seen.server, Arc::clone(&seen.address))).collect();
        candidates.insert(self.config.server, Arc::clone(&self.config.address));
        candidates
    }

    /// Says for whom it waits.
    fn waits(&self) -> Vec<Wait> {
        match &self.standing {
            Standing::Promised(set) if set.id.coordinator == self.config.server => {
                let missing = set.members.iter().filter(|(id, _)| !self.promised.contains(id));
                return missing.map(|(_, address)| Wait::Promise(Arc::clone(address))).collect();
            }
            Standing::Promised(set) => {
                let coordinator = set.members.get(&set.id.coordinator);
                return coordinator
                    .map(|address| Wait::Decision(Arc::clone(address)))
                    .into_iter()
                    .collect();
            }
            Standing::Joined(cluster) => return alloc::vec![Wait::Cluster(*cluster)],
            Standing::Blank | Standing::Formed(_) => {}
        }
        let mut waits: Vec<_> = self
            .known
            .iter()
            .filter_map(|(name, seen)| match seen {
                None => Some(Wait::Unanswered(Arc::clone(name))),
                Some(seen) if seen.expect != self.config.expect => {
                    Some(Wait::Expects { address: Arc::clone(name), expect: seen.expect })
                }
                Some(_) => None,
            })
            .collect();
        let candidates = self.candidates();
        let (found, expect) = (candidates.len(), self.config.expect);
        match candidates.first_key_value() {
            _ if found < expect => waits.push(Wait::More { found, expect }),
            Some((lowest, address)) if expect > 0 && *lowest != self.config.server => {
                waits.push(Wait::Coordinator(Arc::clone(address)));
            }
            _ => {}
        }
        waits
    }

    // Coordinating.

    /// Starts an attempt, where this server is the lowest of N that expect N.
    fn consider(&mut self, turn: &mut Turn<'_, '_>) {
        // Once all were heard there is no more to wait for.
        self.asked |= self.known.values().all(Option::is_some);
        let expect = self.config.expect;
        if self.standing != Standing::Blank || self.belongs.is_some() || expect == 0 || !self.asked
        {
            return;
        }
        let candidates = self.candidates();
        let lowest = candidates.keys().next() == Some(&self.config.server);
        if candidates.len() < expect || !lowest {
            return;
        }
        self.attempt += 1;
        let id = SetId { coordinator: self.config.server, attempt: self.attempt };
        let set = ServerSet { id, members: candidates.into_iter().take(expect).collect() };
        self.promised = BTreeSet::from([self.config.server]);
        self.stand(Standing::Promised(set.clone()), turn);
        self.prepare(&set, turn);
        turn.effects.push(Effect::Arm { timer: Timer::Attempt, delay: self.config.patience });
        self.count_promise(self.config.server, turn);
    }

    /// Asks the members that have not promised themselves.
    fn prepare(&self, set: &ServerSet, turn: &mut Turn<'_, '_>) {
        for (_, address) in set.members.iter().filter(|(id, _)| !self.promised.contains(id)) {
            self.send(address, Message::Prepare(set.clone()), turn);
        }
    }

    fn count_promise(&mut self, server: ServerId, turn: &mut Turn<'_, '_>) {
        let Standing::Promised(set) = &self.standing else { return };
        if !set.members.contains_key(&server) {
            return;
        }
        self.promised.insert(server);
        if set.members.keys().all(|id| self.promised.contains(id)) {
            let set = set.clone();
            self.promised.clear();
            turn.effects.push(Effect::Disarm { timer: Timer::Attempt });
            self.decide(&set, turn);
        }
    }

    /// The set is a cluster.
    fn decide(&mut self, set: &ServerSet, turn: &mut Turn<'_, '_>) {
        self.stand(Standing::Formed(set.clone()), turn);
        turn.effects.push(Effect::Disarm { timer: Timer::Retry });
        self.announce(set, turn);
        self.known.clear();
    }

    fn announce(&self, set: &ServerSet, turn: &mut Turn<'_, '_>) {
        self.emit(Output::Formed(set.configuration()), turn);
        if set.id.coordinator == self.config.server {
            for (_, address) in set.members.iter().filter(|(id, _)| **id != self.config.server) {
                self.send(address, Message::Decided(set.id), turn);
            }
        }
    }

    /// Gives its own attempt up, which is not decided: the members are free again.
    fn release(&mut self, turn: &mut Turn<'_, '_>) {
        let Standing::Promised(set) = &self.standing else { return };
        let set = set.clone();
        self.promised.clear();
        turn.effects.push(Effect::Disarm { timer: Timer::Attempt });
        self.stand(Standing::Blank, turn);
        for (_, address) in set.members.iter().filter(|(id, _)| **id != self.config.server) {
            self.send(address, Message::Release(set.id), turn);
        }
    }

    /// The attempt has taken too long: whoever has not promised itself may be gone.
    fn give_up(&mut self, turn: &mut Turn<'_, '_>) {
        if !matches!(&self.standing, Standing::Promised(set) if self.coordinates(set.id)) {
            return;
        }
        for seen in self.known.values_mut() {
            seen.take_if(|seen| !self.promised.contains(&seen.server));
        }
        self.release(turn);
    }

    // Messages.

    fn receive(&mut self, from: &Address, message: Message, turn: &mut Turn<'_, '_>) {
        match message {
            Message::Ask { server, expect, name } => {
                self.answer(from, server, expect, name, turn);
            }
            Message::Answer { server, name, presence, others } => {
                self.answered(from, server, &name, presence, others, turn);
            }
            Message::Prepare(set) => self.prepared(from, set, turn),
            Message::Promised { set, server } => {
                if self.coordinates(set) {
                    self.count_promise(server, turn);
                }
            }
            Message::Refused { set } => {
                if self.coordinates(set) {
                    for seen in self.known.values_mut() {
                        // Not a candidate until it answers again, or attempts would follow each other without pause.
                        seen.take_if(|seen| seen.address == *from);
                    }
                    self.release(turn);
                }
            }
            Message::Release(id) => {
                if matches!(&self.standing, Standing::Promised(set) if set.id == id)
                    && id.coordinator != self.config.server
                {
                    self.stand(Standing::Blank, turn);
                }
            }
            Message::Decided(id) => {
                if let Standing::Promised(set) = &self.standing
                    && set.id == id
                    && id.coordinator != self.config.server
                {
                    let set = set.clone();
                    self.decide(&set, turn);
                }
            }
            Message::Inquire { set } => self.inquired(from, set, turn),
        }
    }

    fn answer(
        &mut self,
        from: &Address,
        server: ServerId,
        expect: usize,
        name: Address,
        turn: &mut Turn<'_, '_>,
    ) {
        if server == self.config.server {
            // Its own address under another name.
            self.known.remove(&name);
            return;
        }
        let presence = match self.cluster() {
            Some(cluster) => {
                let leader = self.belongs.as_ref().and_then(|(_, leader)| leader.clone());
                Presence::Member { cluster, leader }
            }
            None => Presence::Blank { expect: self.config.expect },
        };
        let seen = self.known.values().flatten();
        let others = seen.filter(|seen| seen.address != *from);
        let others = others.map(|seen| Arc::clone(&seen.address)).take(MAX_KNOWN).collect();
        let answer = Message::Answer { server: self.config.server, name, presence, others };
        self.send(from, answer, turn);
        if self.seeks() {
            self.hear_of(from);
            self.see(from, server, from, expect);
            self.consider(turn);
        }
    }

    fn answered(
        &mut self,
        from: &Address,
        server: ServerId,
        name: &Address,
        presence: Presence,
        others: BTreeSet<Address>,
        turn: &mut Turn<'_, '_>,
    ) {
        let expect = match presence {
            Presence::Member { cluster, leader } => {
                let leader = leader.unwrap_or_else(|| Arc::clone(from));
                return self.met(from, cluster, leader, turn);
            }
            Presence::Blank { expect } => expect,
        };
        if !self.seeks() || server == self.config.server {
            return;
        }
        self.see(name, server, from, expect);
        for address in others {
            if self.hear_of(&address) {
                self.ask_one(&address, turn);
            }
        }
        self.consider(turn);
    }

    /// A server of a cluster answered.
    fn met(
        &mut self,
        from: &Address,
        cluster: ClusterId,
        leader: Address,
        turn: &mut Turn<'_, '_>,
    ) {
        if let Some(own) = self.cluster() {
            if own != cluster {
                self.emit(Output::OtherCluster { address: Arc::clone(from), cluster }, turn);
            } else if self.seeks() {
                self.emit(Output::Join { cluster, leader }, turn);
            }
            return;
        }
        if let Standing::Promised(set) = &self.standing {
            let set = set.clone();
            if set.id.coordinator == self.config.server {
                // It has not decided, so it may choose otherwise.
                self.release(turn);
            } else {
                // Its coordinator says what becomes of it. That this very set became the cluster is as good an answer.
                if set.cluster() == cluster {
                    self.decide(&set, turn);
                }
                return;
            }
        }
        // Durable before it is asked for: the cluster may have this server in its configuration from then on, so it
        // must not promise itself to a set after a crash.
        self.stand(Standing::Joined(cluster), turn);
        self.emit(Output::Join { cluster, leader }, turn);
    }

    /// A coordinator asks for this server's promise.
    fn prepared(&mut self, from: &Address, set: ServerSet, turn: &mut Turn<'_, '_>) {
        let id = set.id;
        let free = match &self.standing {
            _ if self.belongs.is_some() => false,
            Standing::Blank => true,
            Standing::Promised(own) if own.id == id => {
                // Its answer was lost.
                self.promise(from, id, turn);
                return;
            }
            // A coordinator makes one attempt at a time: that it makes a later one has released the earlier.
            Standing::Promised(own) => {
                own.id.coordinator == id.coordinator && own.id.attempt < id.attempt
            }
            Standing::Formed(_) | Standing::Joined(_) => false,
        };
        if free && set.is_for(self.config.server, self.config.expect) {
            self.stand(Standing::Promised(set), turn);
            self.promise(from, id, turn);
        } else {
            self.send(from, Message::Refused { set: id }, turn);
        }
    }

    fn promise(&self, to: &Address, set: SetId, turn: &mut Turn<'_, '_>) {
        self.send(to, Message::Promised { set, server: self.config.server }, turn);
    }

    /// A promised member asks what was decided.
    fn inquired(&self, from: &Address, id: SetId, turn: &mut Turn<'_, '_>) {
        if id.coordinator != self.config.server || self.coordinates(id) {
            return;
        }
        match &self.standing {
            Standing::Formed(set) if set.id == id => self.send(from, Message::Decided(id), turn),
            Standing::Blank | Standing::Promised(_) | Standing::Formed(_) | Standing::Joined(_) => {
                self.send(from, Message::Release(id), turn);
            }
        }
    }
}
