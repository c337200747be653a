//! What an agent is: a server, or one that asks servers; and a member of the pool in which they find each other.

use std::{path::PathBuf, sync::Arc, time::Duration};

use spec::{raft::NodeId, sync::flood::wan_name};
use tokio::sync::watch;

use crate::client::{Client, KnownServers};
use crate::config::{Config, gossip::GossipConfig};
use crate::gossip::{
    Identity, LocalAgent, Pool, PoolSettings, Reload, feed_client, feed_server, flood,
    starts_encrypted, tell_cluster,
};
use crate::http::{Api, Settings, tunnel::Tunnels};
use crate::server::Server;
use crate::storage::{self, DirectoryLock};
use crate::telling::{self, Catalog, Pace};

/// Where a pool's file is, in the data directory.
const FOLDER: &str = "serf";
/// How long requests may take to end when the agent stops; long polls don't.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// A running agent.
pub(super) struct Role {
    kind: Kind,
    local: LocalAgent,
}

enum Kind {
    Server {
        server: Server,
        /// Requests that client agents pass on.
        tunnels: Arc<Tunnels>,
    },
    Client {
        client: Client,
        /// Keeps the data directory locked.
        _lock: DirectoryLock,
    },
}

impl Role {
    /// Starts what the configuration says, and the API to it.
    pub(super) async fn start(config: &Config) -> Result<(Self, Api), String> {
        if config.server { Self::server(config).await } else { Self::client(config).await }
    }

    async fn server(config: &Config) -> Result<(Self, Api), String> {
        let server =
            Server::start(config.server_settings()).await.map_err(|error| error.to_string())?;
        let settings = config.http_settings(server.status().node_id);
        tracing::info!(target: "agent", node_id = %settings.node_id, "Started server: rpc={}", config.bind_address);
        let identity = settings.identity(Some(server.id().disk));
        let pool = lan(config, &settings, &identity).await?;
        let wan = wan(config, &settings, &identity).await?;
        server.attach(pool.clone(), wan.clone());
        let local = LocalAgent::new(pool.clone(), wan.clone(), Some(server.clone()));
        tokio::spawn(feed_server(pool.clone(), server.clone()));
        tokio::spawn(tell_cluster(pool.clone(), server.clone(), identity));
        let api = Api::new(server.clone(), settings, Some(local.clone()))
            .map_err(|error| error.to_string())?;
        let tunnels = Tunnels::new(api.clone());
        server.serve_agents(tunnels.clone());
        pool.join_configured(&config.gossip).await?;
        tell(config, &pool, Catalog::Server(server.clone()), server.id().node);
        if let (Some(wan), Some(gossip)) = (wan, &config.wan) {
            tokio::spawn(flood(pool, wan.clone(), config.datacenter.clone()));
            wan.join_configured(gossip).await?;
        }
        Ok((Self { kind: Kind::Server { server, tunnels }, local }, api))
    }

    async fn client(config: &Config) -> Result<(Self, Api), String> {
        let data_dir = config.data_dir.clone().ok_or("data_dir cannot be empty")?;
        let node = match &config.node_id {
            None => None,
            Some(text) => Some(
                storage::parse_node_id(text)
                    .ok_or_else(|| format!("node_id {text:?} is not a UUID"))?,
            ),
        };
        let opened =
            tokio::task::spawn_blocking(move || storage::open_client(&data_dir, node)).await;
        let (node, lock) =
            opened.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let settings = config.http_settings(node.to_string());
        let identity = settings.identity(None);
        let pool = lan(config, &settings, &identity).await?;
        let local = LocalAgent::new(pool.clone(), None, None);
        tracing::info!(target: "agent", node_id = %settings.node_id, "Started client agent");
        let (known, news) = watch::channel(KnownServers::at(&config.server_addresses));
        tokio::spawn(feed_client(pool.clone(), config.server_addresses.clone(), known));
        let client = Client::start(&config.client_settings(node), news);
        let api = Api::of_client(client.clone(), settings, Some(local.clone()))
            .map_err(|error| error.to_string())?;
        pool.join_configured(&config.gossip).await?;
        tell(config, &pool, Catalog::Client(client.clone()), node);
        Ok((Self { kind: Kind::Client { client, _lock: lock }, local }, api))
    }

    /// Waits for a failure that the agent can't survive; the log says what it is.
    pub(super) async fn failed(&self) {
        let server = async {
            match &self.kind {
                Kind::Server { server, .. } => server.failed().await,
                // It keeps nothing that could fail; servers that can't be reached come back.
                Kind::Client { .. } => std::future::pending().await,
            }
        };
        let wan = async {
            match self.local.wan() {
                Some(wan) => wan.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = server => {}
            _ = self.local.pool().failed() => {}
            _ = wan => {}
        }
    }

    /// Waits until the agent is asked to stop, by its API.
    pub(super) async fn stopped(&self) {
        self.local.stopped().await;
    }

    /// Waits until the agent is asked to read its configuration again, by its API.
    pub(super) async fn reload_asked(&self) -> Reload {
        self.local.reload_asked().await
    }

    /// Leaves, so that the others don't take this agent for failed.
    pub(super) async fn leave(&self) {
        tracing::info!(target: "agent", "Gracefully shutting down agent...");
        match self.local.leave().await {
            Ok(()) => tracing::info!(target: "agent", "Graceful exit completed"),
            Err(error) => tracing::error!(target: "agent", %error, "Error on leave"),
        }
    }

    /// Takes no more requests from other agents, and lets those that run end: for `patience` where this agent has left, and
    /// they find another server by themselves.
    pub(super) async fn drain(&self, patience: Duration) {
        if let Kind::Server { tunnels, .. } = &self.kind {
            let patience = if self.local.has_left() { patience } else { STOP_PATIENCE };
            tunnels.stop(patience).await;
        }
    }

    /// Stops, once all requests are answered.
    pub(super) async fn stop(self) {
        match self.kind {
            Kind::Server { server, .. } => server.shutdown().await,
            Kind::Client { client, .. } => client.shutdown(),
        }
    }
}

/// Where pools keep their files.
fn gossip_folder(config: &Config) -> Option<PathBuf> {
    config.data_dir.as_ref().map(|folder| folder.join(FOLDER))
}

/// Whether gossip starts encrypted.
pub(super) fn encrypts_gossip(config: &Config) -> bool {
    starts_encrypted(&config.gossip, gossip_folder(config).as_deref())
}

/// Has the agent tell the catalog of itself.
fn tell(config: &Config, pool: &Pool, catalog: Catalog, id: NodeId) {
    let (lan, wan) = (config.gossip.advertise.ip(), config.advertise_wan);
    let meta = config.all_node_meta();
    let own = telling::node(&config.node_name, id, lan, wan, &config.datacenter, &meta);
    tokio::spawn(telling::tell_node(pool.clone(), catalog.clone(), own));
    if !config.gossip.disable_coordinates {
        let pace = Pace::new(config.gossip.coordinate_rate, config.gossip.coordinate_interval);
        tokio::spawn(telling::tell_coordinate(pool.clone(), catalog, pace));
    }
}

/// Starts the pool of the datacenter's agents.
async fn lan(config: &Config, settings: &Settings, identity: &Identity) -> Result<Pool, String> {
    pool(config, &config.gossip, config.node_name.clone(), settings, identity).await
}

/// Starts the pool of all datacenters' servers, where this one is to be in it.
async fn wan(
    config: &Config,
    settings: &Settings,
    identity: &Identity,
) -> Result<Option<Pool>, String> {
    let Some(gossip) = &config.wan else { return Ok(None) };
    let name = wan_name(&config.node_name, &config.datacenter);
    pool(config, gossip, name, settings, &identity.in_wan()).await.map(Some)
}

async fn pool(
    config: &Config,
    gossip: &GossipConfig,
    name: String,
    settings: &Settings,
    identity: &Identity,
) -> Result<Pool, String> {
    let pool = PoolSettings {
        gossip: gossip.clone(),
        name,
        tags: identity.tags(),
        datacenter: config.datacenter.clone(),
        node_id: settings.node_id.clone(),
        folder: gossip_folder(config),
    };
    let pool = Pool::start(pool).await.map_err(|error| error.to_string())?;
    let encrypted = pool.is_encrypted();
    tracing::info!(target: "agent", "Started gossip: {}={} encrypted={encrypted}", gossip.area.name(), pool.endpoint());
    Ok(pool)
}
