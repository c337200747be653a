//! What an agent says of itself in its tags, and what it reads in others': Consul's tags, and two of our own.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use spec::{
    raft::{ClusterId, DiskId},
    serf::{Status, Tags},
};

use super::PoolMember;
use crate::{client::KnownServer, net::PROTOCOL};

/// Our own tag: the version of the protocol between servers. Consul's servers don't have it, and speak another one.
pub(super) const PROTOCOL_TAG: &str = "proconsul";
/// Our own tag of a server: the disk that it votes from. A server whose disk was replaced is another one.
pub(crate) const DISK_TAG: &str = "disk";
/// Our own tag of a server that belongs to a cluster: which.
pub(crate) const CLUSTER_TAG: &str = "cluster";

/// A server's port in the WAN, which it says in the LAN.
pub(super) const WAN_PORT_TAG: &str = "wan_join_port";

/// What goes into an agent's tags.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `datacenter`.
    pub datacenter: String,
    /// The node's id.
    pub node_id: String,
    /// The level of Consul that is stated, and the commit.
    pub build: String,
    /// Of a server: where it answers other servers.
    pub server: Option<ServerIdentity>,
}

/// What goes into a server's tags.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    /// Where it answers other servers.
    pub rpc: SocketAddr,
    /// The disk that it votes from, where that is known.
    pub disk: Option<DiskId>,
    /// `-bootstrap`.
    pub bootstrap: bool,
    /// `-bootstrap-expect`.
    pub expect: Option<u32>,
    /// Its cluster, once it belongs to one.
    pub cluster: Option<ClusterId>,
    /// Its port in the WAN, where it is there; said in the LAN alone.
    pub wan_port: Option<u16>,
}

impl Identity {
    /// The same in the WAN.
    #[must_use]
    pub fn in_wan(&self) -> Self {
        let mut identity = self.clone();
        if let Some(server) = &mut identity.server {
            server.wan_port = None;
        }
        identity
    }

    /// The tags.
    pub fn tags(&self) -> Tags {
        let mut tags = BTreeMap::from([
            ("acls", "0".to_owned()),
            ("build", self.build.clone()),
            ("dc", self.datacenter.clone()),
            ("id", self.node_id.clone()),
            ("role", "node".to_owned()),
            ("segment", String::new()),
            ("vsn", "2".to_owned()),
            ("vsn_max", "3".to_owned()),
            ("vsn_min", "2".to_owned()),
            (PROTOCOL_TAG, PROTOCOL.to_string()),
        ]);
        if let Some(server) = &self.server {
            tags.insert("role", "consul".to_owned());
            tags.insert("port", server.rpc.port().to_string());
            tags.insert("raft_vsn", "3".to_owned());
            if let Some(DiskId(disk)) = server.disk {
                tags.insert(DISK_TAG, format!("{disk:016x}"));
            }
            if let Some(port) = server.wan_port {
                tags.insert(WAN_PORT_TAG, port.to_string());
            }
            if server.bootstrap {
                tags.insert("bootstrap", "1".to_owned());
            }
            if let Some(expect) = server.expect {
                tags.insert("expect", expect.to_string());
            }
            if let Some(ClusterId(cluster)) = server.cluster {
                tags.insert(CLUSTER_TAG, format!("{cluster:032x}"));
            }
        }
        tags.into_iter().map(|(tag, value)| (Arc::from(tag), Arc::from(value))).collect()
    }
}

impl PoolMember {
    /// Whether it is a server of ours: one that speaks our servers' protocol.
    pub fn is_own_server(&self) -> bool {
        self.tag("role") == "consul" && !self.tag(PROTOCOL_TAG).is_empty()
    }

    /// The server that requests may be passed on to, where it is one and there.
    pub fn known_server(&self) -> Option<(String, KnownServer)> {
        let there = matches!(self.status, Status::Alive | Status::Leaving);
        let address = self.rpc_address().filter(|_| there && self.is_own_server())?;
        let server = KnownServer {
            name: self.name.to_string(),
            address: address.to_string(),
            version: self.tag("build").to_owned(),
        };
        Some((self.tag("id").to_owned(), server))
    }
}
