//! Progress: from every reachable state, a fair schedule without faults elects, commits, converges and answers the reads
//! that a leader has in a few rounds.
//!
//! Stateright's `eventually` misses cycles and joins. This is a function of a state instead, and `progress` is that it
//! holds always. A vote that isn't forgotten in a new term breaks no safety property; it breaks this one.

use std::collections::VecDeque;

use spec::{
    machine::Event,
    raft::{Command, Durable, Index, Message, Node, Payload, Proposal, Role, ServerId, Timer},
};

use super::{
    model::{RaftModel, id_at, place_of},
    run::{Listener, Run},
    world::{Packet, Server, World, timer_bit},
};

/// The steps that one round may take before it counts as a livelock.
const STEPS: usize = 4_000;

struct Outbox {
    from: ServerId,
    packets: VecDeque<Packet>,
}

impl Listener for Outbox {
    fn send(&mut self, _: &Durable, to: ServerId, message: Message) {
        self.packets.push_back(Packet { from: self.from, to, message });
    }
}

/// Servers on a network that loses nothing and keeps the order.
struct Fair {
    servers: Vec<Server>,
    queue: VecDeque<Packet>,
    steps: usize,
    /// A read waits for an index at a leader that has done all else.
    forgot_a_read: bool,
}

impl Fair {
    fn step(&mut self, place: usize, event: Event<Node>) {
        self.steps += 1;
        let mut outbox = Outbox { from: id_at(place), packets: std::mem::take(&mut self.queue) };
        let server = &mut self.servers[place];
        Run { split_disk: false, server, listener: &mut outbox }.run(event);
        self.queue = outbox.packets;
        // Hosts store a received snapshot at once.
        while let Some(meta) = self.servers[place].storing.pop() {
            self.step(place, Event::Command(Command::SnapshotStored(meta.id)));
        }
    }

    fn deliver(&mut self) {
        while let Some(packet) = self.queue.pop_front() {
            let to = place_of(packet.to);
            if to < self.servers.len() && self.steps < STEPS {
                self.step(to, Event::Receive { from: packet.from, message: packet.message });
            }
        }
    }

    fn fire(&mut self, place: usize, timer: Timer) {
        if self.servers[place].timers & timer_bit(timer) != 0 {
            self.step(place, Event::Fire(timer));
        }
    }

    fn newest_leader(&self) -> Option<usize> {
        let leads = |place: &usize| matches!(self.servers[*place].node.role, Role::Leader(_));
        let places = (0..self.servers.len()).filter(leads);
        places.max_by_key(|place| self.servers[*place].node.hard_state.term)
    }

    /// Whether it leads, and an entry of its term is committed.
    fn knows_what_is_committed(&self, leader: usize) -> bool {
        let node = &self.servers[leader].node;
        matches!(&node.role, Role::Leader(leader) if leader.term_start <= node.commit_index)
    }

    /// Whether every server of the leader's configuration is in its term and has applied what it committed.
    fn converged(&self, leader: usize, target: Index) -> bool {
        let node = &self.servers[leader].node;
        let reached = |id: &ServerId| {
            let server = self.servers.get(place_of(*id));
            server.is_some_and(|server| {
                server.node.hard_state.term == node.hard_state.term && server.applied >= target
            })
        };
        node.commit_index >= target && node.membership.configuration.servers.keys().all(reached)
    }

    /// Whether no read waits for an index at the leader.
    fn has_answered_reads(&self, leader: usize) -> bool {
        match &self.servers[leader].node.role {
            Role::Leader(leader) => leader.reads.round.is_none() && leader.reads.waiting.is_empty(),
            _ => false,
        }
    }

    /// A round: the leader, if there is one, commits something; else one server's election timer runs out.
    fn round(&mut self, candidate: usize) -> bool {
        self.deliver();
        if let Some(leader) = self.newest_leader() {
            self.fire(leader, Timer::Transfer);
            self.fire(leader, Timer::Heartbeat);
            self.deliver();
            // Its own first entry commits without anybody's asking.
            for _ in 0..4 {
                if !self.knows_what_is_committed(leader) {
                    self.fire(leader, Timer::Heartbeat);
                    self.deliver();
                }
            }
            if self.knows_what_is_committed(leader) {
                let payload = Payload::from(vec![b'p']);
                let proposals = vec![Proposal { request: 0, payload }];
                self.step(leader, Event::Command(Command::Propose(proposals)));
            }
            let target = self.servers[leader].node.log.last_index();
            self.deliver();
            // One heartbeat takes up what was lost, one shows what was committed, and a snapshot takes one more.
            for _ in 0..4 {
                self.fire(leader, Timer::Heartbeat);
                self.deliver();
            }
            let leads = matches!(self.servers[leader].node.role, Role::Leader(_));
            if leads && self.knows_what_is_committed(leader) && self.converged(leader, target) {
                // Another election would end a read that a leader forgot.
                self.forgot_a_read = !self.has_answered_reads(leader);
                return true;
            }
        }
        for place in 0..self.servers.len() {
            self.fire(place, Timer::QuorumCheck);
            self.fire(place, Timer::Lease);
        }
        self.deliver();
        self.fire(candidate, Timer::Election);
        self.deliver();
        false
    }
}

/// Whether the cluster can commit again. What is under way is lost first: that is the worse case, and allowed.
pub fn progresses(world: &World) -> bool {
    let servers: Vec<Server> = world.servers.iter().map(|part| part.value.clone()).collect();
    let count = servers.len();
    let mut fair = Fair { servers, queue: VecDeque::new(), steps: 0, forgot_a_read: false };
    for place in 0..count {
        if let Some((ticket, _)) = fair.servers[place].pending.last() {
            let ticket = *ticket;
            fair.step(place, Event::Durable(ticket));
        }
        while let Some(meta) = fair.servers[place].storing.pop() {
            fair.step(place, Event::Command(Command::SnapshotStored(meta.id)));
        }
    }
    (0..3 * count).any(|round| fair.round(round % count)) && !fair.forgot_a_read
}

/// Delivers everything but what is to or from those absent, in a fixed order, until nothing is under way.
pub fn deliver_all(model: &RaftModel, mut world: World, absent: &[usize]) -> World {
    loop {
        // By their texts: an order that doesn't depend on the hash.
        let first =
            world.packets.iter().min_by_key(|packet| format!("{:?}", packet.value)).cloned();
        let Some(packet) = first else { return world };
        world.packets.retain(|other| *other != packet);
        let Packet { from, to, message } = packet.value.clone();
        if absent.contains(&place_of(from)) || absent.contains(&place_of(to)) {
            continue;
        }
        world = model.step(&world, place_of(to), Event::Receive { from, message });
    }
}
