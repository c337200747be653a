//! What an agent does with the members that it sees: a server hears of servers to form a cluster with, an agent that is
//! none learns whom to ask.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{Pool, identity::Identity};
use crate::{client::KnownServers, server::Server};

/// How often servers are told again of each other: what a full queue lost comes again.
const AGAIN: Duration = Duration::from_secs(5);

/// Tells a server of the servers in its pool, for as long as the pool is there.
pub(crate) async fn feed_server(pool: Pool, server: Server) {
    let mut changes = pool.watch();
    let mut again = interval(AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        for member in pool.members().iter() {
            if *member.name != *pool.name()
                && let Some((_, known)) = member.known_server()
            {
                server.hear_of(&known.address).await;
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = again.tick() => {}
        }
    }
}

/// Says in this server's tags to which cluster it belongs, as soon as that is known.
pub(crate) async fn tell_cluster(pool: Pool, server: Server, mut identity: Identity) {
    let mut known = None;
    loop {
        known = server.cluster_other_than(known).await;
        if let Some(own) = &mut identity.server {
            own.cluster = known;
        }
        if let Err(error) = pool.set_tags(identity.tags()).await {
            tracing::warn!("gossip: this server's cluster isn't told: {error}");
            return;
        }
    }
}

/// The servers of a pool, and those of the configuration.
pub(crate) fn servers(pool: &Pool, configured: &[String]) -> KnownServers {
    let members = pool.members();
    let mut known = KnownServers::at(configured);
    let found: Vec<_> = members.iter().filter_map(|member| member.known_server()).collect();
    if !found.is_empty() {
        // What gossip tells of a server is more than its bare address.
        known
            .servers
            .retain(|address, _| !found.iter().any(|(_, server)| server.address == *address));
        known.servers.extend(found);
    }
    known.agents = known.agents.max(members.len());
    known
}

/// Tells an agent that is no server of the servers in its pool.
pub(crate) async fn feed_client(
    pool: Pool,
    configured: Vec<String>,
    known: watch::Sender<KnownServers>,
) {
    let mut changes = pool.watch();
    loop {
        let servers = servers(&pool, &configured);
        known.send_if_modified(|before| {
            let changed = *before != servers;
            *before = servers;
            changed
        });
        if changes.changed().await.is_err() {
            return;
        }
    }
}
