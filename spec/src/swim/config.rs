//! The settings, with memberlist's three profiles (GOSSIP §1.3). The tuning keys of Consul's `gossip_lan` and
//! `gossip_wan` are fields of the same names.

use alloc::sync::Arc;
use core::time::Duration;

use super::types::{Endpoint, Incarnation, Layer, Name, Versions};

/// What never changes while a node runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config<L: Layer> {
    /// This member's name: its own alone in the pool.
    pub name: Name,
    /// Where others reach it.
    pub endpoint: Endpoint,
    /// What it says of itself at first; [`super::Command::Update`] changes it.
    pub meta: Arc<[u8]>,
    /// The versions that it says it understands and speaks.
    pub versions: Versions,
    /// What the layer judges other members by.
    pub rules: L::Rules,
    /// Between two probes, at health 0 (`probe_interval`).
    pub probe_interval: Duration,
    /// How long a direct ping may take, and a relay's (`probe_timeout`). Health doesn't scale it.
    pub probe_timeout: Duration,
    /// Pings over a stream are never sent.
    pub disable_stream_pings: bool,
    /// How many relays are asked when a direct ping isn't answered.
    pub indirect_checks: usize,
    /// The least suspicion lasts this many probe intervals, times the pool's scale (`suspicion_mult`).
    pub suspicion_mult: u32,
    /// The longest suspicion lasts so many times the least.
    pub suspicion_max_timeout_mult: u32,
    /// A suspect whose system refuses streams has so many probe intervals to come back; 0: as long as any other.
    pub refusal_mult: u32,
    /// An announcement is sent at most this many times, times the pool's scale (`retransmit_mult`).
    pub retransmit_mult: u32,
    /// Between two rounds of gossip (`gossip_interval`).
    pub gossip_interval: Duration,
    /// How many members a round of gossip goes to (`gossip_nodes`).
    pub gossip_nodes: usize,
    /// For how long the dead are gossiped to, and kept before they are reaped.
    pub gossip_to_the_dead: Duration,
    /// Between two push/pulls, in a pool of at most 32; zero: none.
    pub push_pull_interval: Duration,
    /// How long a push/pull that this member began may take.
    pub stream_timeout: Duration,
    /// Health stays below it.
    pub awareness_max: u32,
    /// After how long another address may take a dead member's name; none: never. Consul: 30 s.
    pub dead_node_reclaim: Option<Duration>,
    /// The most bytes of a datagram, parts and their framing. What encryption, checksum and label add, the driver
    /// takes off.
    pub max_packet: usize,
    /// What is left free in an acknowledgement's datagram for its payload, in bytes.
    pub ack_payload_reserve: usize,
    /// The most members that are known; more are dropped.
    pub max_members: usize,
    /// The most of the layer's messages that wait to be gossiped, or twice the members where that is more.
    pub max_broadcasts: usize,
    /// The most pings that are relayed at one time.
    pub max_relays: usize,
    /// The most push/pulls that this member has under way.
    pub max_exchanges: usize,
    /// How long leaving waits for its announcement to be sent.
    pub leave_timeout: Duration,
    /// The highest incarnation. Models lower it.
    pub max_incarnation: Incarnation,
}

impl<L: Layer> Config<L> {
    /// The profile for a local network: memberlist's `DefaultLANConfig`.
    pub fn lan(name: Name, endpoint: Endpoint, rules: L::Rules) -> Self {
        Self {
            name,
            endpoint,
            meta: Arc::from([]),
            versions: Versions::CURRENT,
            rules,
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            disable_stream_pings: false,
            indirect_checks: 3,
            suspicion_mult: 4,
            suspicion_max_timeout_mult: 6,
            refusal_mult: 1,
            retransmit_mult: 4,
            gossip_interval: Duration::from_millis(200),
            gossip_nodes: 3,
            gossip_to_the_dead: Duration::from_secs(30),
            push_pull_interval: Duration::from_secs(30),
            stream_timeout: Duration::from_secs(10),
            awareness_max: 8,
            dead_node_reclaim: None,
            max_packet: 1400,
            ack_payload_reserve: 192,
            max_members: 65_536,
            max_broadcasts: 4096,
            max_relays: 256,
            max_exchanges: 128,
            leave_timeout: Duration::from_secs(5),
            max_incarnation: Incarnation::MAX,
        }
    }

    /// The profile between datacenters: memberlist's `DefaultWANConfig`. (Consul sets `gossip_nodes` to 3.)
    pub fn wan(name: Name, endpoint: Endpoint, rules: L::Rules) -> Self {
        Self {
            probe_interval: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(3),
            suspicion_mult: 6,
            gossip_interval: Duration::from_millis(500),
            gossip_nodes: 4,
            gossip_to_the_dead: Duration::from_mins(1),
            push_pull_interval: Duration::from_mins(1),
            stream_timeout: Duration::from_secs(30),
            ..Self::lan(name, endpoint, rules)
        }
    }

    /// The profile within one machine: memberlist's `DefaultLocalConfig`.
    pub fn local(name: Name, endpoint: Endpoint, rules: L::Rules) -> Self {
        Self {
            probe_timeout: Duration::from_millis(200),
            indirect_checks: 1,
            suspicion_mult: 3,
            retransmit_mult: 2,
            gossip_interval: Duration::from_millis(100),
            gossip_to_the_dead: Duration::from_secs(15),
            push_pull_interval: Duration::from_secs(15),
            stream_timeout: Duration::from_secs(1),
            ..Self::lan(name, endpoint, rules)
        }
    }
}
