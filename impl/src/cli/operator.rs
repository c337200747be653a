//! `operator raft list-peers`, `remove-peer`, `transfer-leader`.

use bytes::Bytes;
use clap::Command;
use hyper::Method;
use serde::Deserialize;

use super::client::Client;
use super::flags::{Given, value, with_api_options};
use super::{Ending, Group, Leaf, columns};

pub(super) const OPERATOR: Group = Group {
    path: &["operator"],
    synopsis: "Provides cluster-level tools for operators",
    usage: "operator <subcommand> [options]",
    about: "  Provides cluster-level tools for operators. Use them with extreme caution:
  improper use could lead to an outage and even loss of data. Requests are
  forwarded to the leader, so this can be run against any server.",
};

pub(super) const RAFT: Group = Group {
    path: &["operator", "raft"],
    synopsis: "Provides cluster-level tools for operators of the Raft subsystem",
    usage: "operator raft <subcommand> [options]",
    about: "  Shows and changes the servers that replicate the state.",
};

pub(super) const LIST_PEERS: Leaf = Leaf {
    path: &["operator", "raft", "list-peers"],
    synopsis: "Display the current Raft peer configuration",
    usage: "operator raft list-peers [options]",
    about: "Displays the current Raft peer configuration.",
    definition: || with_api_options(Command::new("list-peers")),
    run: |given| {
        list_peers(given).map_err(|error| {
            format!("Error getting peers: Failed to retrieve raft configuration: {error}")
        })
    },
};

pub(super) const REMOVE_PEER: Leaf = Leaf {
    path: &["operator", "raft", "remove-peer"],
    synopsis: "Remove a server from the Raft configuration",
    usage: "operator raft remove-peer [options]",
    about: "\
Removes the server with the given -address or -id from the Raft configuration.

It is for the rare case that a server is gone for good and still counts towards
the quorum.",
    definition: || {
        with_api_options(Command::new("remove-peer")).args([
            value("address", "string", "The address to remove from the Raft configuration."),
            value("id", "string", "The ID to remove from the Raft configuration."),
        ])
    },
    run: |given| remove_peer(given).map_err(|error| format!("Error removing peer: {error}")),
};

pub(super) const TRANSFER_LEADER: Leaf = Leaf {
    path: &["operator", "raft", "transfer-leader"],
    synopsis: "Transfer raft leadership to another node",
    usage: "operator raft transfer-leader [options]",
    about: "\
Transfers the Raft leadership to another server: to the one with the given
-id, or to the one that the leader thinks fit.",
    definition: || {
        with_api_options(Command::new("transfer-leader")).arg(value(
            "id",
            "string",
            "The ID of the node to transfer Raft leadership to. If omitted, the leader picks one.",
        ))
    },
    run: |given| {
        transfer_leader(given).map_err(|error| format!("Error transferring leadership: {error}"))
    },
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    servers: Vec<Peer>,
}

#[derive(Deserialize)]
struct Peer {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Node")]
    node: String,
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "Leader")]
    leader: bool,
    #[serde(rename = "ProtocolVersion", default)]
    protocol_version: String,
    #[serde(rename = "Voter")]
    voter: bool,
}

fn list_peers(given: &Given) -> Result<Ending, String> {
    let client = Client::new(given)?;
    let answer =
        client.send(&Method::GET, "operator/raft/configuration", &[], Bytes::new())?.ok()?;
    let found: Configuration =
        serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    Ok(Ending::Done(render(&found).into_bytes()))
}

fn render(configuration: &Configuration) -> String {
    let heading = ["Node", "ID", "Address", "State", "Voter", "RaftProtocol"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for peer in &configuration.servers {
        let state = if peer.leader { "leader" } else { "follower" };
        let protocol = match peer.protocol_version.as_str() {
            "" => "<=1",
            version => version,
        };
        rows.push(vec![
            peer.node.clone(),
            peer.id.clone(),
            peer.address.clone(),
            state.to_owned(),
            peer.voter.to_string(),
            protocol.to_owned(),
        ]);
    }
    columns::table(&rows)
}

fn remove_peer(given: &Given) -> Result<Ending, String> {
    let named = |flag| given.text(flag).filter(|text| !text.is_empty());
    let (query, done) = match (named("address"), named("id")) {
        (None, None) => {
            return Err("an address or id is required for the peer to remove".to_owned());
        }
        (Some(_), Some(_)) => return Err("cannot give both an address and id".to_owned()),
        (Some(address), None) => {
            (("address", address), format!("Removed peer with address \"{address}\""))
        }
        (None, Some(id)) => (("id", id), format!("Removed peer with id \"{id}\"")),
    };
    let client = Client::new(given)?;
    client.send(&Method::DELETE, "operator/raft/peer", &[query], Bytes::new())?.ok()?;
    Ok(Ending::line(done))
}

fn transfer_leader(given: &Given) -> Result<Ending, String> {
    #[derive(Deserialize)]
    struct Reply {
        #[serde(rename = "Success")]
        success: bool,
    }
    let id = given.text("id").filter(|id| !id.is_empty());
    let query: Vec<_> = id.iter().map(|id| ("id", *id)).collect();
    let client = Client::new(given)?;
    let answer =
        client.send(&Method::POST, "operator/raft/transfer-leader", &query, Bytes::new())?.ok()?;
    let reply: Reply = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    if reply.success {
        Ok(Ending::line("Success"))
    } else {
        Err("the leader kept its leadership".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_listed_in_consul_s_columns() {
        let body = r#"{"Servers":[{"ID":"0a4e64c1-872e-a0ec-b2dc-fdf268e35d46","Node":"s1",
            "Address":"127.0.0.1:18300","Leader":true,"ProtocolVersion":"3","Voter":true}],"Index":0}"#;
        assert_eq!(
            render(&serde_json::from_str(body).unwrap()),
            "Node  ID                                    Address          State   Voter  RaftProtocol\n\
             s1    0a4e64c1-872e-a0ec-b2dc-fdf268e35d46  127.0.0.1:18300  leader  true   3\n"
        );
    }
}
