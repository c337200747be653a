//! The servers, as whoever finds them tells: the configuration, or gossip.

use std::collections::BTreeMap;

/// A server that requests may go to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KnownServer {
    /// The node's name, for messages; its address where the name isn't known.
    pub name: String,
    /// `host:port` of its RPC listener.
    pub address: String,
    /// What it runs, for messages; empty where that isn't known.
    pub version: String,
}

/// All of them at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownServers {
    /// By an id that stays the server's own when its name or address changes: the node's, where that is known.
    pub servers: BTreeMap<String, KnownServer>,
    /// How many agents the cluster has, servers too.
    pub agents: usize,
}

impl KnownServers {
    /// The servers at these addresses, of which nothing else is known.
    pub fn at(addresses: &[String]) -> Self {
        let server = |address: &String| KnownServer {
            name: address.clone(),
            address: address.clone(),
            version: String::new(),
        };
        let servers: BTreeMap<_, _> =
            addresses.iter().map(|address| (address.clone(), server(address))).collect();
        let agents = servers.len() + 1;
        Self { servers, agents }
    }
}
