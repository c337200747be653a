//! What an agent tells the catalog of itself: what its node is, and where that is in the network (SYNC-7, SYNC-9).
//!
//! A server asks its own state and the leader; an agent that is none asks a server, by requests like any client's.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use spec::{
    entropy::Seeded,
    raft::NodeId,
    serf::Status,
    state::{
        Command, Outcome,
        catalog::{CatalogCommand, CoordinateUpdate, Node, NodeBody, Registration, parse_node_id},
        text::{Pairs, Text},
    },
    sync::{coordinates, own},
};

use crate::{
    client::Client,
    gossip::Pool,
    http::{coordinate, path},
    server::{Consistency, Server, random},
};

/// However an agent is configured, it does something else besides telling where it is.
const LEAST_PACE: Duration = Duration::from_millis(100);

/// The catalog, as the agent itself reads and writes it.
#[derive(Clone)]
pub(crate) enum Catalog {
    /// This agent is a server.
    Server(Server),
    /// It asks one.
    Client(Client),
}

/// A node, as the API tells it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Found {
    #[serde(rename = "ID")]
    id: String,
    node: String,
    address: String,
    tagged_addresses: Option<BTreeMap<String, String>>,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    node: Found,
}

/// What a node says of itself, without what the catalog adds.
fn body(node: &Node) -> NodeBody {
    NodeBody {
        name: node.name.clone(),
        id: node.id,
        address: node.address.clone(),
        datacenter: node.datacenter.clone(),
        tagged_addresses: node.tagged_addresses.clone(),
        meta: node.meta.clone(),
    }
}

impl Found {
    fn body(self) -> NodeBody {
        let pairs = |pairs: Option<BTreeMap<String, String>>| pairs.map(|p| p.iter().collect());
        NodeBody {
            name: self.node.into(),
            id: parse_node_id(&self.id).ok().flatten(),
            address: self.address.into(),
            datacenter: Text::default(),
            tagged_addresses: pairs(self.tagged_addresses),
            meta: pairs(self.meta),
        }
    }
}

impl Catalog {
    /// The node of this name, as any server has it.
    async fn node(&self, name: &str) -> Result<Option<NodeBody>, String> {
        match self {
            Self::Server(server) => {
                let view = server.read(Consistency::Stale).await.map_err(|e| e.to_string())?;
                Ok(view.state.catalog().node(name).map(body))
            }
            Self::Client(client) => {
                let target =
                    path::location(format!("/v1/catalog/node/{name}").as_bytes(), Some("stale"));
                let answer = ask(client, Request::get(target), Bytes::new()).await?;
                let found: Option<Answer> =
                    serde_json::from_slice(answer.body()).map_err(|error| error.to_string())?;
                Ok(found.map(|answer| answer.node.body()))
            }
        }
    }

    async fn register(&self, registration: Registration) -> Result<(), String> {
        match self {
            Self::Server(server) => {
                let command = Command::Catalog(CatalogCommand::Register(registration));
                match server.propose(command).await.map_err(|error| error.to_string())? {
                    (_, Outcome::Applied(_)) => Ok(()),
                    (_, Outcome::Refused(reason)) => Err(reason),
                }
            }
            Self::Client(client) => {
                let NodeBody { name, id, address, tagged_addresses, meta, .. } = registration.node;
                let pairs = |pairs: Option<Pairs>| {
                    pairs.map(|pairs| {
                        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.into());
                        serde_json::Value::Object(pairs.iter().map(owned).collect())
                    })
                };
                let body = json!({
                    "ID": id.map(|id| id.to_string()),
                    "Node": *name,
                    "Address": *address,
                    "TaggedAddresses": pairs(tagged_addresses),
                    "NodeMeta": pairs(meta),
                });
                let request = Request::put("/v1/catalog/register");
                ask(client, request, body.to_string().into()).await.map(drop)
            }
        }
    }

    async fn tell_coordinate(&self, update: CoordinateUpdate) -> Result<(), String> {
        match self {
            Self::Server(server) => {
                server.tell_coordinate(update).await.map_err(|error| error.to_string())
            }
            Self::Client(client) => {
                let request = Request::put("/v1/coordinate/update");
                ask(client, request, coordinate::told(&update).into()).await.map(drop)
            }
        }
    }
}

async fn ask(
    client: &Client,
    request: hyper::http::request::Builder,
    body: Bytes,
) -> Result<Response<Bytes>, String> {
    let request = request.body(body).map_err(|error| error.to_string())?;
    let answer = client.call(request).await.map_err(|error| error.to_string())?;
    if answer.status() == StatusCode::OK {
        return Ok(answer);
    }
    Err(String::from_utf8_lossy(answer.body()).into_owned())
}

/// What an agent says its node is.
pub(crate) fn node(
    name: &str,
    id: NodeId,
    lan: IpAddr,
    wan: IpAddr,
    datacenter: &str,
    meta: &BTreeMap<String, String>,
) -> NodeBody {
    let tagged = [("lan", lan), ("wan", wan)].map(|(area, address)| {
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        [area.to_owned(), format!("{area}_{family}")].map(|tag| (tag, address.to_string()))
    });
    NodeBody {
        name: name.into(),
        id: Some(id),
        address: lan.to_string().into(),
        datacenter: datacenter.into(),
        tagged_addresses: Some(tagged.into_iter().flatten().collect()),
        meta: Some(meta.iter().collect()),
    }
}

/// Whether this agent is a member that stays: one that leaves says nothing more.
fn stays(pool: &Pool) -> bool {
    pool.member(pool.name()).is_some_and(|own| own.status == Status::Alive)
}

/// Keeps what the catalog says of this agent's node as the agent has it; runs until the pool is gone.
pub(crate) async fn tell_node(pool: Pool, catalog: Catalog, own: NodeBody) {
    let mut entropy = Seeded::new(random());
    let mut tries = 0;
    while !pool.is_gone() {
        let said = if stays(&pool) { say_node(&catalog, &own).await } else { Ok(false) };
        let wait = if said == Ok(true) {
            tries = 0;
            own::interval(pool.members().len(), &mut entropy)
        } else {
            tries += 1;
            own::retry(tries, &mut entropy)
        };
        if let Err(error) = said {
            tracing::debug!(target: "agent", "the catalog doesn't know what this node is yet: {error}");
        }
        tokio::time::sleep(wait).await;
    }
}

/// Says once what this node is; false where the catalog has no such node yet.
async fn say_node(catalog: &Catalog, own: &NodeBody) -> Result<bool, String> {
    let Some(standing) = catalog.node(&own.name).await? else { return Ok(false) };
    let Some(registration) = own::correction(&standing, own) else { return Ok(true) };
    catalog.register(registration).await?;
    tracing::info!(target: "agent", "Synced node info");
    Ok(true)
}

/// How often an agent tells its coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// How many all agents tell, in millionths a second.
    rate: u64,
    /// The shortest time between two.
    least: Duration,
}

impl Pace {
    /// So many coordinates a second of all agents, and at least so long between two of this one. A rate that isn't above 0
    /// is no bound.
    pub(crate) fn new(rate: f64, least: Duration) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, and a rate beyond its range is as good as none"
        )]
        let rate = (rate * 1e6) as u64;
        Self { rate, least: least.max(LEAST_PACE) }
    }
}

/// Tells the catalog where this agent is, again and again; runs until the pool is gone.
pub(crate) async fn tell_coordinate(pool: Pool, catalog: Catalog, pace: Pace) {
    let mut entropy = Seeded::new(random());
    while !pool.is_gone() {
        let agents = pool.members().len();
        let wait = coordinates::interval(pace.rate, pace.least, agents, &mut entropy);
        tokio::time::sleep(wait).await;
        let Some(coordinate) = pool.coordinate().filter(|_| stays(&pool)) else { continue };
        let coordinate = (&*coordinate).into();
        let node = pool.name().into();
        let update = CoordinateUpdate { node, segment: Text::default(), coordinate };
        if let Err(error) = catalog.tell_coordinate(update).await {
            tracing::warn!(target: "agent", "Coordinate update error: {error}");
        }
    }
}
