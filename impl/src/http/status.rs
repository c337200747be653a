//! `/v1/status/` and `/v1/catalog/datacenters`: who leads, who votes, which datacenters there are. Always answered.

use super::{Inner, json, respond::Reply, wan};

/// The leader's address as a JSON string, empty where none is known.
pub(crate) fn leader(inner: &Inner) -> Reply {
    Reply::json(json::encode(&inner.server.status().leader_address.unwrap_or_default()))
}

/// The addresses of the servers in Raft.
pub(crate) fn peers(inner: &Inner) -> Reply {
    let status = inner.server.status();
    let addresses: Vec<&str> = status.peers.iter().map(|peer| &*peer.address).collect();
    Reply::json(json::encode(&addresses))
}

/// The datacenters that this agent knows, its own first, the others by how far they are.
pub(crate) fn datacenters(inner: &Inner) -> Reply {
    Reply::json(json::encode(&wan::datacenters(&inner.settings, inner.agent.as_ref())))
}
