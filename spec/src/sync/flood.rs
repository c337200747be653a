//! Flood-join: the servers of a datacenter bring each other into the WAN's pool (prose/wan.md; Consul's `FloodJoins`).
//!
//! A pure step that each server takes every [`INTERVAL`], and whenever a server comes into its LAN's pool: an operator joins
//! one server of each datacenter, and the others follow.

use alloc::{collections::BTreeSet, format, string::String, sync::Arc, vec::Vec};
use core::time::Duration;

/// How often a server looks.
pub const INTERVAL: Duration = Duration::from_mins(1);

/// A server of this datacenter, in the LAN's pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LanServer {
    /// Its name.
    pub name: Arc<str>,
    /// Whether gossip sees it alive.
    pub alive: bool,
    /// Its port in the WAN (tag `wan_join_port`); none where it isn't in the WAN's pool.
    pub wan_port: Option<u16>,
}

/// A member of the WAN's pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WanMember {
    /// Its name there, `node.datacenter`.
    pub name: Arc<str>,
    /// Whether gossip sees it alive.
    pub alive: bool,
}

/// A server's name in the WAN's pool.
pub fn wan_name(node: &str, datacenter: &str) -> String {
    format!("{node}.{datacenter}")
}

/// Which servers of the LAN a server of this name and datacenter is to join in the WAN.
///
/// Those that are alive there need it not. One that the WAN holds for failed does: its record may be of an address that it
/// doesn't have any more, and nobody else would ever try the new one.
pub fn joins<'a>(
    own: &str,
    datacenter: &str,
    lan: &'a [LanServer],
    wan: &[WanMember],
) -> Vec<&'a LanServer> {
    let there: BTreeSet<&str> =
        wan.iter().filter(|member| member.alive).map(|member| &*member.name).collect();
    let wanted = |server: &&LanServer| {
        server.alive
            && server.wan_port.is_some()
            && *server.name != *own
            && !there.contains(&*wan_name(&server.name, datacenter))
    };
    lan.iter().filter(wanted).collect()
}
