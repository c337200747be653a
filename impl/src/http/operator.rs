//! `/v1/operator/raft/`: the servers in Raft, removing one, handing over leadership.

use hyper::StatusCode;
use serde::Serialize;

use super::{
    Inner, json,
    query::Values,
    respond::{Refusal, Reply},
};
use crate::server::{PeerSelector, RaftConfiguration};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration<'a> {
    servers: Vec<Server<'a>>,
    index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Server<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    leader: bool,
    protocol_version: &'static str,
    voter: bool,
}

/// The configuration that Raft is in.
pub(crate) async fn configuration(inner: &Inner, stale: bool) -> Result<Reply, Refusal> {
    let RaftConfiguration { servers, index } = inner.server.raft_configuration(stale).await?;
    let servers = servers
        .iter()
        .map(|peer| Server {
            id: &peer.id,
            node: &peer.node,
            address: &peer.address,
            leader: peer.leader,
            // Servers are named by id, which Consul calls protocol 3.
            protocol_version: "3",
            voter: peer.voter,
        })
        .collect();
    Ok(Reply::json(json::encode(&Configuration { servers, index })))
}

/// Reads which server is to go.
pub(crate) fn read_peer(values: &Values<'_>) -> Result<PeerSelector, Refusal> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    match (values.get("id"), values.get("address")) {
        (Some(id), None) => Ok(PeerSelector::Id(text(id))),
        (None, Some(address)) => Ok(PeerSelector::Address(text(address))),
        (None, None) => Err(Reply::bad_request(
            "Bad request: Must specify either ?id with the server's ID or ?address with IP:port of \
             peer to remove",
        )),
        (Some(_), Some(_)) => {
            Err(Reply::bad_request("Bad request: Must specify only one of ?id or ?address"))
        }
    }
}

/// Removes a server.
pub(crate) async fn remove_peer(inner: &Inner, peer: PeerSelector) -> Result<Reply, Refusal> {
    inner.server.remove_peer(peer).await?;
    Ok(Reply::empty(StatusCode::OK))
}

/// Hands leadership to `to`, or to whoever is best prepared.
pub(crate) async fn transfer_leader(inner: &Inner, to: Option<String>) -> Result<Reply, Refusal> {
    inner.server.transfer_leadership(to).await?;
    Ok(Reply::json(&b"{\"Success\":true}"[..]))
}
