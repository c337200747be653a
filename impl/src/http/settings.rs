//! What the HTTP server is told by the agent's configuration.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use hyper::header::{HeaderName, HeaderValue};
use spec::raft::DiskId;

use crate::gossip::{Identity, ServerIdentity};

/// What configuration gives; [`Settings::default`] has Consul's defaults.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of Consul's configuration")]
pub struct Settings {
    /// The datacenter that this agent belongs to.
    pub datacenter: String,
    /// The agent's name.
    pub node_name: String,
    /// The agent's id, a UUID.
    pub node_id: String,
    /// The level of Consul that is stated.
    pub version: String,
    /// What marks a version as not final.
    pub prerelease: String,
    /// The commit that was built.
    pub revision: String,
    /// When it was built, as RFC 3339.
    pub build_date: String,
    /// Whether the agent is a server.
    pub server: bool,
    /// `-bootstrap`.
    pub bootstrap: bool,
    /// `-bootstrap-expect`.
    pub bootstrap_expect: Option<u32>,
    /// `-dev`: JSON is always pretty.
    pub dev: bool,
    /// Where other servers reach this one.
    pub rpc_address: SocketAddr,
    /// The port of the LAN's gossip.
    pub serf_lan_port: u16,
    /// `ports.serf_wan`, where this agent is in the WAN's pool.
    pub serf_wan_port: Option<u16>,
    /// `node_meta`.
    pub node_meta: BTreeMap<String, String>,
    /// `http_config.response_headers`.
    pub response_headers: Vec<(String, String)>,
    /// `http_config.block_endpoints`: prefixes of paths.
    pub block_endpoints: Vec<String>,
    /// `http_config.allow_write_http_from`; empty for anywhere.
    pub allow_write_http_from: Vec<Network>,
    /// `limits.kv_max_value_size`, in bytes.
    pub kv_max_value_size: u64,
    /// `limits.http_max_conns_per_client`; 0 for any number.
    pub http_max_conns_per_client: u32,
    /// `default_query_time`.
    pub default_query_time: Duration,
    /// `max_query_time`.
    pub max_query_time: Duration,
    /// `disable_http_unprintable_char_filter`.
    pub disable_http_unprintable_char_filter: bool,
    /// How long a client may take for a request's head.
    pub head_timeout: Duration,
    /// How long requests may take to end when the agent stops; long polls don't.
    pub stop_timeout: Duration,
}

impl Settings {
    /// What the agent says of itself in its pool: as a server, where it is one, that votes from this disk.
    pub fn identity(&self, disk: Option<DiskId>) -> Identity {
        let server = || ServerIdentity {
            rpc: self.rpc_address,
            disk,
            bootstrap: self.bootstrap,
            expect: self.bootstrap_expect,
            cluster: None,
            wan_port: self.serf_wan_port,
        };
        Identity {
            datacenter: self.datacenter.clone(),
            node_id: self.node_id.clone(),
            build: format!("{}:{}", self.version, self.revision),
            server: self.server.then(server),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            datacenter: "dc1".to_owned(),
            node_name: String::new(),
            node_id: String::new(),
            version: "1.8.7".to_owned(),
            prerelease: String::new(),
            revision: String::new(),
            build_date: String::new(),
            server: true,
            bootstrap: false,
            bootstrap_expect: None,
            dev: false,
            rpc_address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8300),
            serf_lan_port: 8301,
            serf_wan_port: None,
            node_meta: BTreeMap::from([("consul-network-segment".to_owned(), String::new())]),
            response_headers: Vec::new(),
            block_endpoints: Vec::new(),
            allow_write_http_from: Vec::new(),
            kv_max_value_size: 512 * 1024,
            http_max_conns_per_client: 200,
            default_query_time: Duration::from_mins(5),
            max_query_time: Duration::from_mins(10),
            disable_http_unprintable_char_filter: false,
            head_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(1),
        }
    }
}

/// Why settings can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A header that HTTP doesn't allow.
    #[error("http_config.response_headers: {0:?}: {1:?} is no header that HTTP allows")]
    ResponseHeader(String, String),
    /// No network in CIDR notation.
    #[error("invalid CIDR address: {0}")]
    Network(String),
}

impl Settings {
    /// The configured headers as HTTP takes them.
    pub(super) fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, SettingsError> {
        let header = |(name, value): &(String, String)| match (
            HeaderName::from_str(name),
            HeaderValue::from_str(value),
        ) {
            (Ok(name), Ok(value)) => Ok((name, value)),
            _ => Err(SettingsError::ResponseHeader(name.clone(), value.clone())),
        };
        self.response_headers.iter().map(header).collect()
    }
}

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: u128,
    mask: u128,
}

impl Network {
    /// Whether the address lies in it. IPv4 and its form within IPv6 are the same.
    pub fn contains(&self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.address
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl FromStr for Network {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let invalid = || SettingsError::Network(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let length: u32 = length.parse().map_err(|_| invalid())?;
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let host = width.checked_sub(length).ok_or_else(invalid)?;
        let mask = u128::MAX.checked_shl(host).unwrap_or(0);
        Ok(Self { address: bits(address) & mask, mask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_addresses() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.1.2.3"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("127.0.0.1/32", "127.0.0.1"));
        assert!(!contains("127.0.0.1/32", "127.0.0.2"));
        assert!(contains("0.0.0.0/0", "1.2.3.4"));
        assert!(!contains("0.0.0.0/0", "fd00::1"));
        assert!(contains("::/0", "fd00::1"));
        assert!(contains("fd00::/8", "fd12::1"));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_header_that_http_does_not_allow_is_named() {
        let settings = Settings {
            response_headers: vec![("X-Good".into(), "a".into()), ("X Bad".into(), "b".into())],
            ..Settings::default()
        };
        let refusal = settings.headers().unwrap_err();
        assert_eq!(refusal, SettingsError::ResponseHeader("X Bad".into(), "b".into()));
    }
}
