//! One simulated member: a turn of gossip, its disk, and its host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use proconsul::gossip::{
    Identity,
    turn::{CoordinateCodec, Input, Outbox, Turn},
};
use spec::{
    serf::{Config, Serf, Tags, tags::Rules},
    swim::{self, Endpoint, Name},
    time::Instant,
};

use crate::sim::writes::Writes;

/// Messages that wait for a member that stands still; more are lost, as in the agent.
const MOST_WAITING: usize = 1024;
/// Streams that others opened and that a member serves at one time, as in the agent.
const MOST_ACCEPTED: usize = 128;

/// Names the stream of a member that dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dial {
    /// Who dialled.
    pub by: usize,
    /// Which of all streams.
    pub number: u64,
}

/// A member and its host.
#[derive(Debug)]
pub struct Member {
    /// Its place among all.
    pub place: usize,
    /// Its name.
    pub name: Name,
    /// Where it receives.
    pub endpoint: Endpoint,
    /// How often it moved.
    moves: u16,
    /// What it says of itself when it starts.
    pub tags: Tags,
    /// It runs.
    pub turn: Option<Turn>,
    /// Counts its starts; what was meant for an earlier run is dropped.
    pub run: u64,
    /// What it wrote.
    pub disk: Writes<Serf>,
    /// Until when it stands still.
    pub paused: Instant,
    /// What waits for it meanwhile.
    waiting: Vec<Input>,
    /// When it is woken for its next timer.
    pub wake: Instant,
    /// The streams that it serves.
    pub accepted: BTreeMap<u64, Dial>,
    next_accepted: u64,
    /// The streams that it opened and that nobody has answered, by their number.
    pub dialled: BTreeMap<u64, Endpoint>,
    /// Whom its host joins when it starts (`retry_join`), by place.
    pub seeds: BTreeSet<usize>,
    /// Its host's tries to join since it started.
    pub tries: u32,
}

impl Member {
    /// A blank member that doesn't run.
    pub fn new(place: usize) -> Self {
        let node_id = format!("00000000-0000-4000-8000-{place:012x}");
        let identity = Identity {
            datacenter: "dc1".to_owned(),
            node_id,
            build: "1.8.7:".to_owned(),
            server: None,
        };
        Self {
            place,
            name: format!("n{place}").into(),
            endpoint: endpoint(place, 0),
            moves: 0,
            tags: identity.tags(),
            turn: None,
            run: 0,
            disk: Writes::default(),
            paused: Instant(0),
            waiting: Vec::new(),
            wake: Instant(u64::MAX),
            accepted: BTreeMap::new(),
            next_accepted: 0,
            dialled: BTreeMap::new(),
            seeds: BTreeSet::new(),
            tries: 0,
        }
    }

    /// Where it will receive from the next start on.
    pub fn move_on(&mut self) {
        self.moves += 1;
        self.endpoint = endpoint(self.place, self.moves);
    }

    /// Starts from its disk.
    pub fn start(&mut self, now: Instant, seed: u64, out: &mut Outbox) {
        self.run += 1;
        self.tries = 0;
        let codec = Some(CoordinateCodec::SERF);
        let durable = self.disk.durable.clone();
        self.turn = Some(Turn::recover(&self.config(), durable, codec, seed, now, out));
    }

    /// The process is gone, and what it had under way.
    pub fn end(&mut self) {
        self.turn = None;
        self.paused = Instant(0);
        self.wake = Instant(u64::MAX);
        self.waiting.clear();
        self.accepted.clear();
        self.dialled.clear();
    }

    /// Keeps an input for when it goes on.
    pub fn hold(&mut self, input: Input) {
        let lost = matches!(input, Input::Message { .. }) && self.waiting.len() >= MOST_WAITING;
        if !lost {
            self.waiting.push(input);
        }
    }

    /// What waited for it.
    pub fn take_waiting(&mut self) -> Vec<Input> {
        std::mem::take(&mut self.waiting)
    }

    /// Takes a stream that another opened; none where it serves as many as it can.
    pub fn accept(&mut self, dial: Dial) -> Option<u64> {
        if self.accepted.len() >= MOST_ACCEPTED {
            return None;
        }
        self.next_accepted += 1;
        self.accepted.insert(self.next_accepted, dial);
        Some(self.next_accepted)
    }

    /// The machine, while it runs.
    pub fn serf(&self) -> Option<&Serf> {
        self.turn.as_ref().map(Turn::serf)
    }

    /// Consul's settings on a local network, as the agent has them.
    fn config(&self) -> Config {
        let rules = Rules {
            datacenter: Some("dc1".into()),
            node_id: self.tags.get("id").map(Arc::clone),
            ..Rules::default()
        };
        let mut swim = swim::Config::lan(Arc::clone(&self.name), self.endpoint, rules);
        swim.max_packet -= gossip_wire::envelope::Envelope::default().packet_overhead();
        Config::consul(swim, self.tags.clone())
    }
}

/// Where a member receives after so many moves.
fn endpoint(place: usize, moves: u16) -> Endpoint {
    let [.., high, low] = place.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 8301 + moves)
}
