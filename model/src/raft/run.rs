//! One server's step: the machine behind its gate, on its disk, with its host.

use std::collections::VecDeque;

use spec::{
    entropy::Least,
    gate::Gate,
    machine::{Context, Effect, Event, Machine, Ticket},
    raft::{
        Durable, Entry, Index, Message, Node, Output, ServerId, SnapshotId, SnapshotMeta, Write,
    },
    time::Instant,
};

use super::world::{Server, timer_bit};

/// Hears what a server does.
pub trait Listener {
    /// The machine is about to be stepped.
    fn event(&mut self, _node: &Node, _event: &Event<Node>) {}
    /// A write is about to be folded into the disk.
    fn write(&mut self, _disk: &Durable, _write: &Write) {}
    /// The gate let a message go, on this disk.
    fn send(&mut self, disk: &Durable, to: ServerId, message: Message);
    /// The host is told that an entry is committed, and applies it.
    fn commit(&mut self, _server: &Server, _entry: &Entry) {}
    /// The host is told to restore a snapshot, on this disk.
    fn restore(&mut self, _disk: &Durable, _meta: &SnapshotMeta) {}
    /// The host is told, on this disk, that what a snapshot stands for may go.
    fn compacted(&mut self, _disk: &Durable, _snapshot: SnapshotId, _base: SnapshotId) {}
    /// The host is told that a read may be served from this index on.
    fn read_ready(&mut self, _n: u64, _index: Index) {}
    /// The host is told that a read failed.
    fn read_failed(&mut self, _n: u64) {}
}

/// Drops what waits in a gate for nothing but those before it, and on which the host here does nothing: a follower that
/// hears its leader again and again while its disk is slow would have states without end.
pub fn drop_unheard(gate: &mut Gate<Node>) {
    let heard = |output: &Output| {
        matches!(
            output,
            Output::Committed(_)
                | Output::Restore(_)
                | Output::FinishSnapshot(_)
                | Output::Compacted { .. }
                | Output::ReadReady { .. }
                | Output::ReadFailed { .. }
        )
    };
    gate.emits.retain(|(after, output)| *after != Ticket::NONE || heard(output));
}

/// A server's step under way.
pub struct Run<'a, L: Listener> {
    /// Whether writes take time; else each is durable at once, and what follows from that is part of the step.
    pub split_disk: bool,
    /// The server.
    pub server: &'a mut Server,
    /// Who hears of it.
    pub listener: &'a mut L,
}

impl<L: Listener> Run<'_, L> {
    /// Steps the machine.
    pub fn run(&mut self, event: Event<Node>) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut effects = Vec::new();
            if let Event::Fire(timer) = &event {
                self.server.timers &= !timer_bit(*timer);
            }
            if let Event::Durable(ticket) = &event {
                self.make_durable(*ticket);
            }
            self.listener.event(&self.server.node, &event);
            let mut least = Least;
            let mut cx = Context {
                now: Instant(0),
                entropy: &mut least,
                last_ticket: &mut self.server.gate.last,
            };
            self.server.node.step(event, &mut cx, &mut effects);
            self.perform(&mut effects);
            if !self.split_disk && self.server.gate.is_pending() {
                events.push_back(Event::Durable(self.server.gate.last));
            }
        }
        self.server.gate.rebase();
    }

    /// Performs the effects of a start.
    pub fn settle(&mut self, effects: &mut Vec<Effect<Node>>) {
        self.perform(effects);
        if !self.split_disk && self.server.gate.is_pending() {
            self.run(Event::Durable(self.server.gate.last));
        }
    }

    /// The disk takes the writes up to a ticket, and the gate lets go of what stood on them.
    fn make_durable(&mut self, ticket: Ticket) {
        let server = &mut *self.server;
        let count = server.pending.iter().take_while(|(t, _)| *t <= ticket).count();
        for (_, write) in server.pending.drain(..count) {
            self.listener.write(&server.disk, &write);
            Node::fold(&mut server.disk, &write);
        }
        let mut ready = Vec::new();
        server.gate.durable(ticket, &mut ready);
        self.route(ready);
    }

    fn perform(&mut self, effects: &mut Vec<Effect<Node>>) {
        let mut ready = Vec::new();
        self.server.gate.admit(effects, &mut ready);
        self.route(ready);
    }

    fn route(&mut self, ready: Vec<Effect<Node>>) {
        for effect in ready {
            match effect {
                Effect::Persist { ticket, write } => self.server.pending.push((ticket, write)),
                Effect::Send { to, message, .. } => {
                    self.listener.send(&self.server.disk, to, message);
                }
                Effect::Arm { timer, .. } => self.server.timers |= timer_bit(timer),
                Effect::Disarm { timer } => self.server.timers &= !timer_bit(timer),
                Effect::Emit { output, .. } => self.emit(output),
            }
        }
    }

    fn emit(&mut self, output: Output) {
        match output {
            Output::Committed(entries) => {
                for entry in entries {
                    self.listener.commit(self.server, &entry);
                    self.server.applied = entry.index;
                }
            }
            Output::Restore(meta) => {
                self.listener.restore(&self.server.disk, &meta);
                self.server.applied = meta.id.index;
            }
            Output::FinishSnapshot(meta) => {
                self.server.storing.retain(|other| other.id != meta.id);
                self.server.storing.push(meta);
            }
            Output::Compacted { snapshot, base } => {
                self.listener.compacted(&self.server.disk, snapshot, base);
            }
            Output::ReadReady { n, index } => self.listener.read_ready(n, index),
            Output::ReadFailed { n } => self.listener.read_failed(n),
            Output::Appended { .. }
            | Output::Rejected { .. }
            | Output::Transferred { .. }
            | Output::Changed { .. }
            | Output::Configured { .. }
            | Output::CaughtUp(_)
            | Output::LeaderHeard
            | Output::StoreChunk { .. }
            | Output::Dropped(_) => {}
        }
    }
}
