//! What the gossip of an agent is started with.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use base64::Engine as _;

use super::ConfigError;
use crate::http::Network;

/// Which pool it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// That of all agents of a datacenter.
    Lan,
    /// That of the servers of all datacenters.
    Wan,
}

impl Area {
    /// As log lines have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lan => "LAN",
            Self::Wan => "WAN",
        }
    }
}

/// How the members of one pool find each other, in the terms of the configuration. Keys are those of the LAN; the WAN's have
/// `_wan` at their end.
#[expect(clippy::struct_excessive_bools, reason = "each of them is a key of its own")]
#[derive(Clone, Debug, PartialEq)]
pub struct GossipConfig {
    /// Which pool.
    pub area: Area,
    /// Where datagrams and streams arrive (`serf_lan` or `bind_addr`, `ports.serf_lan`).
    pub bind: SocketAddr,
    /// What other members are told to send to.
    pub advertise: SocketAddr,
    /// `gossip_lan` or `gossip_wan`.
    pub tuning: GossipTuning,
    /// `encrypt`: 16, 24 or 32 bytes.
    pub key: Option<GossipKey>,
    /// `encrypt_verify_incoming`: whether what arrives in clear is dropped, where there is a key.
    pub verify_incoming: bool,
    /// `encrypt_verify_outgoing`: whether what leaves is encrypted, where there is a key.
    pub verify_outgoing: bool,
    /// `disable_keyring_file`: keys that are installed later are forgotten at a restart.
    pub disable_keyring_file: bool,
    /// `start_join`: addresses that must be joined at the start.
    pub start_join: Vec<String>,
    /// `retry_join`: addresses that are tried until one is joined.
    pub retry_join: Vec<String>,
    /// `retry_interval`: between tries.
    pub retry_interval: Duration,
    /// `retry_max`: how many tries; 0 is without end.
    pub retry_max: u32,
    /// `rejoin_after_leave`: whether a restart joins whom it knew although it had left.
    pub rejoin_after_leave: bool,
    /// `leave_on_terminate`: whether SIGTERM leaves.
    pub leave_on_terminate: bool,
    /// `skip_leave_on_interrupt`: whether SIGINT doesn't.
    pub skip_leave_on_interrupt: bool,
    /// `reconnect_timeout`: how long a failed member is remembered and tried again.
    pub reconnect_timeout: Duration,
    /// `serf_lan_allowed_cidrs`: where members may be; anywhere, if empty.
    pub allowed: Vec<Network>,
    /// `disable_coordinates`: this agent has no place in the network, and tells none.
    pub disable_coordinates: bool,
    /// `sync_coordinate_rate_target`: how many coordinates all agents together tell the catalog, a second.
    pub coordinate_rate: f64,
    /// `sync_coordinate_interval_min`: the shortest time between two that one agent tells.
    pub coordinate_interval: Duration,
}

/// `gossip_lan` or `gossip_wan`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GossipTuning {
    /// To how many members news go each time.
    pub gossip_nodes: usize,
    /// Between times.
    pub gossip_interval: Duration,
    /// Between probes of one member after the other.
    pub probe_interval: Duration,
    /// How long a probe waits for its answer before others are asked to probe.
    pub probe_timeout: Duration,
    /// How long a suspected member may refute: so many probe intervals, times the pool's order of magnitude.
    pub suspicion_mult: u32,
    /// How often news are sent: so many times the pool's order of magnitude.
    pub retransmit_mult: u32,
}

impl GossipTuning {
    /// Fails where a value makes no sense.
    pub(super) fn check(&self, block: &str) -> Result<(), ConfigError> {
        for (key, interval) in [
            ("gossip_interval", self.gossip_interval),
            ("probe_interval", self.probe_interval),
            ("probe_timeout", self.probe_timeout),
        ] {
            if interval < Duration::from_millis(1) {
                return Err(ConfigError::new(format!(
                    "{block}.{key} cannot be {interval:?}. Must be at least 1ms"
                )));
            }
        }
        if self.suspicion_mult == 0 || self.retransmit_mult == 0 || self.gossip_nodes == 0 {
            return Err(ConfigError::new(format!(
                "{block}: gossip_nodes, suspicion_mult and retransmit_mult must be greater than zero"
            )));
        }
        Ok(())
    }
}

/// A key that the members of a pool share. It isn't shown.
#[derive(Clone, PartialEq, Eq)]
pub struct GossipKey(pub Vec<u8>);

impl fmt::Debug for GossipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GossipKey")
    }
}

impl FromStr for GossipKey {
    type Err = String;

    /// Decodes a key as `encrypt` holds it.
    fn from_str(text: &str) -> Result<Self, String> {
        let key = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|_| "illegal base64 data".to_owned())?;
        if matches!(key.len(), 16 | 24 | 32) {
            Ok(Self(key))
        } else {
            Err("key size must be 16, 24 or 32 bytes".to_owned())
        }
    }
}
