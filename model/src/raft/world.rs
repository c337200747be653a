//! The state of the Raft model: servers with their disks and gates, the messages under way, and ghosts.
//!
//! Each part keeps its hash under every renaming of the servers, computed once when it changes. The hash of a world
//! under a renaming is the sum of its parts', and its canonical form is the renaming with the least.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt::{self, Debug},
    hash::{Hash, Hasher},
    sync::Arc,
};

use spec::{
    gate::Gate,
    machine::Ticket,
    raft::{Durable, Entry, Index, Message, Node, ServerId, SnapshotMeta, Term, Timer, Write},
};

use super::rename::{Rename, Renaming};
use crate::hash_of;

/// A part of a world with its hash under each renaming.
pub struct Hashed<T> {
    /// The part.
    pub value: T,
    hashes: Box<[u64]>,
}

impl<T: Rename + Hash> Hashed<T> {
    /// Hashes a part under every renaming. The kind keeps equal values of two kinds apart.
    pub fn new(value: T, kind: u64, names: &[Renaming]) -> Arc<Self> {
        let hashes = names.iter().map(|names| hash_of(&(kind, value.rename(names)))).collect();
        Arc::new(Self { value, hashes })
    }
}

impl<T: PartialEq> PartialEq for Hashed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hashes[0] == other.hashes[0] && self.value == other.value
    }
}

impl<T: Debug> Debug for Hashed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// One server: its machine, what surrounds it, and its disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// The machine.
    pub node: Node,
    /// Its gate.
    pub gate: Gate<Node>,
    /// The armed timers, as bits of [`timer_bit`].
    pub timers: u8,
    /// Writes that a crash may lose, in order.
    pub pending: Vec<(Ticket, Write)>,
    /// Received snapshots that the host is storing.
    pub storing: Vec<SnapshotMeta>,
    /// What the host has applied.
    pub applied: Index,
    /// How many reads the host asked for since the start.
    pub asked: u64,
    /// What survives a crash.
    pub disk: Durable,
}

/// A timer's bit in [`Server::timers`].
pub const fn timer_bit(timer: Timer) -> u8 {
    match timer {
        Timer::Election => 1,
        Timer::Lease => 2,
        Timer::Heartbeat => 4,
        Timer::QuorumCheck => 8,
        Timer::Transfer => 16,
    }
}

/// Every timer.
pub const TIMERS: [Timer; 5] =
    [Timer::Election, Timer::Lease, Timer::Heartbeat, Timer::QuorumCheck, Timer::Transfer];

impl Rename for Server {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { node, gate, timers, pending, storing, applied, asked, disk } = self;
        Self {
            node: node.rename(names),
            gate: gate.rename(names),
            timers: *timers,
            pending: pending.rename(names),
            storing: storing.rename(names),
            applied: *applied,
            asked: *asked,
            disk: disk.rename(names),
        }
    }
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// The sender.
    pub from: ServerId,
    /// The receiver.
    pub to: ServerId,
    /// The message.
    pub message: Message,
}

impl Rename for Packet {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { from, to, message } = self;
        Self { from: from.rename(names), to: to.rename(names), message: message.rename(names) }
    }
}

/// What properties remember of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ghosts {
    /// Who was elected, by term.
    pub leaders: BTreeMap<Term, ServerId>,
    /// The committed entries from index 1 on, each with the term in which it was first committed.
    pub committed: Vec<(Entry, Term)>,
    /// Reads that were asked for and not answered: who, its number, and the least index that may answer it.
    pub reads: Vec<(ServerId, u64, Index)>,
    /// Properties of steps that a step broke, as bits of [`super::observe::Broken`].
    pub broken: u32,
}

impl Rename for Ghosts {
    fn rename(&self, names: &Renaming) -> Self {
        let Self { leaders, committed, reads, broken } = self;
        let mut reads = reads.rename(names);
        reads.sort_unstable();
        Self {
            leaders: leaders.rename(names),
            committed: committed.rename(names),
            reads,
            broken: *broken,
        }
    }
}

/// What was spent of each budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spent {
    /// Election timeouts.
    pub timeouts: u8,
    /// Client requests.
    pub requests: u8,
    /// Crashes.
    pub crashes: u8,
    /// Heartbeats.
    pub heartbeats: u8,
    /// Looks at the quorum.
    pub quorum_checks: u8,
    /// Membership changes.
    pub changes: u8,
    /// Snapshots.
    pub snapshots: u8,
    /// Transfers.
    pub transfers: u8,
    /// Reads.
    pub reads: u8,
    /// Times that a host's disk is full.
    pub step_downs: u8,
    /// Connections that break.
    pub unreachables: u8,
    /// Files of snapshots that can't be written or read.
    pub snapshot_failures: u8,
}

/// All that there is at one moment.
#[derive(Clone, Debug)]
pub struct World {
    /// Each server, in the order of their ids.
    pub servers: Vec<Arc<Hashed<Server>>>,
    /// The set of messages under way, in the order of their hashes.
    pub packets: Vec<Arc<Hashed<Packet>>>,
    /// The ghosts.
    pub ghosts: Arc<Hashed<Ghosts>>,
    /// The budgets.
    pub spent: Spent,
}

impl World {
    /// The server at a place, 0 first.
    pub fn server(&self, place: usize) -> &Server {
        &self.servers[place].value
    }

    /// The ghosts.
    pub fn ghosts(&self) -> &Ghosts {
        &self.ghosts.value
    }

    /// Adds a message to the set.
    pub fn send(&mut self, packet: Packet, names: &[Renaming]) {
        let packet = Hashed::new(packet, 2, names);
        let at = self.packets.binary_search_by(|other| by_hash(other, &packet));
        if let Err(at) = at {
            self.packets.insert(at, packet);
        }
    }
}

fn by_hash(a: &Hashed<Packet>, b: &Hashed<Packet>) -> Ordering {
    a.hashes[0].cmp(&b.hashes[0])
}

/// A world with its fingerprints.
#[derive(Clone)]
pub struct State {
    /// The world.
    pub world: Arc<World>,
    sums: Arc<[u64]>,
    view: usize,
}

impl State {
    /// Sums up the hashes of the parts.
    pub fn new(world: World, names: &[Renaming]) -> Self {
        let spent = hash_of(&world.spent);
        let sum = |at: usize| {
            // A sum doesn't depend on the order of the parts: a renaming only shuffles servers and messages.
            let servers = world.servers.iter().map(|part| part.hashes[at]);
            let packets = world.packets.iter().map(|part| part.hashes[at]);
            servers
                .chain(packets)
                .fold(spent.wrapping_add(world.ghosts.hashes[at]), u64::wrapping_add)
        };
        let sums = (0..names.len()).map(sum).collect();
        Self { world: Arc::new(world), sums, view: 0 }
    }

    /// The canonical form: seen under the renaming whose hash is the least.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let view = (0..self.sums.len()).min_by_key(|at| self.sums[*at]).unwrap_or_default();
        Self { world: Arc::clone(&self.world), sums: Arc::clone(&self.sums), view }
    }

    /// The fingerprint under the renaming that it is seen under.
    pub fn print(&self) -> u64 {
        self.sums[self.view]
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.print());
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&*self.world, &*other.world);
        self.view == other.view
            && a.spent == b.spent
            && a.ghosts == b.ghosts
            && a.servers == b.servers
            && a.packets == b.packets
    }
}

impl Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.world.fmt(f)
    }
}
