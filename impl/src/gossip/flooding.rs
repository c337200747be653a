//! Flood-join, driven: a server brings the others of its LAN into the WAN (prose/wan.md).

use std::{net::SocketAddr, sync::Arc};

use spec::{
    serf::Status,
    sync::flood::{INTERVAL, LanServer, WanMember, joins},
};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{Pool, PoolMember, identity::WAN_PORT_TAG};

/// A server of the LAN in the terms of the rule; none where it is no server of ours.
fn server(member: &PoolMember) -> Option<LanServer> {
    member.is_own_server().then(|| LanServer {
        name: Arc::clone(&member.name),
        alive: member.status == Status::Alive,
        wan_port: member.tag(WAN_PORT_TAG).parse().ok(),
    })
}

/// Where the servers are that are to be joined.
fn addresses(lan: &Pool, wan: &Pool, datacenter: &str) -> Vec<(Arc<str>, SocketAddr)> {
    let members = lan.members();
    let servers: Vec<LanServer> = members.iter().filter_map(|one| server(one)).collect();
    let known: Vec<WanMember> = (wan.members().iter())
        .map(|member| WanMember {
            name: Arc::clone(&member.name),
            alive: member.status == Status::Alive,
        })
        .collect();
    let due = joins(lan.name(), datacenter, &servers, &known);
    let address = |server: &LanServer| {
        let member = lan.member(&server.name)?;
        Some((Arc::clone(&server.name), SocketAddr::new(member.endpoint.ip(), server.wan_port?)))
    };
    due.into_iter().filter_map(address).collect()
}

/// Joins servers of the LAN in the WAN, for as long as the pools are there.
pub(crate) async fn flood(lan: Pool, wan: Pool, datacenter: String) {
    let mut changes = lan.watch();
    let mut again = interval_at(Instant::now() + INTERVAL, INTERVAL);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        changes.mark_unchanged();
        for (name, address) in addresses(&lan, &wan, &datacenter) {
            match wan.join(&[address.to_string()]).await {
                Ok(_) => tracing::info!(
                    "agent.server: Successfully performed flood-join for server at address: server={name} address={address}"
                ),
                Err(super::PoolError::Gone) => return,
                Err(error) => tracing::debug!(
                    "agent.server: Failed to flood-join server at address: server={name} address={address} error={error}"
                ),
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = again.tick() => {}
        }
    }
}
