//! `/v1/agent/members`, `join`, `leave`, `force-leave`, of the LAN and of the WAN.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde::Serialize;
use spec::{serf::Status, sync::flood::wan_name};

use super::{
    Settings, json,
    local::Local,
    query::Values,
    respond::{Failure, Refusal, Reply},
};
use crate::gossip::{LocalAgent, Pool, PoolError, PoolMember};

/// What stands for all segments of the network.
const ALL_SEGMENTS: &str = "_all";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Member<'a> {
    name: &'a str,
    addr: String,
    port: u16,
    tags: BTreeMap<&'a str, &'a str>,
    status: u8,
    protocol_min: u8,
    protocol_max: u8,
    protocol_cur: u8,
    delegate_min: u8,
    delegate_max: u8,
    delegate_cur: u8,
}

impl<'a> From<&'a PoolMember> for Member<'a> {
    fn from(member: &'a PoolMember) -> Self {
        let versions = member.versions;
        Self {
            name: &member.name,
            addr: member.endpoint.ip().to_string(),
            port: member.endpoint.port(),
            tags: member.tags.iter().map(|(tag, value)| (&**tag, &**value)).collect(),
            status: match member.status {
                Status::Alive => 1,
                Status::Leaving => 2,
                Status::Left => 3,
                Status::Failed => 4,
            },
            protocol_min: versions.protocol_min,
            protocol_max: versions.protocol_max,
            protocol_cur: versions.protocol,
            delegate_min: versions.delegate_min,
            delegate_max: versions.delegate_max,
            delegate_cur: versions.delegate,
        }
    }
}

/// Reads which members are asked for.
pub(super) fn read(values: &Values<'_>) -> Result<Local, Refusal> {
    let segment = values.get_filled("segment").map(|segment| String::from_utf8_lossy(segment));
    let segment = segment.unwrap_or_default().into_owned();
    if values.get_filled("wan").is_some() {
        if !matches!(&*segment, "" | ALL_SEGMENTS) {
            return Err(Reply::bad_request("Cannot provide a segment with wan=true"));
        }
        return Ok(Local::WanMembers);
    }
    Ok(Local::Members { segment })
}

/// The members of the WAN's pool; none where this agent isn't there.
pub(super) fn list_wan(agent: &LocalAgent) -> Reply {
    match agent.wan() {
        Some(wan) => reply(wan),
        None => Reply::json(b"null".to_vec()),
    }
}

/// The members of the LAN's pool.
pub(super) fn list(pool: &Pool, segment: &str) -> Result<Reply, Refusal> {
    if !matches!(segment, "" | ALL_SEGMENTS) {
        let text = "Network segments are not supported in this version of Consul";
        return Err(Failure::internal(text).into());
    }
    Ok(reply(pool))
}

fn reply(pool: &Pool) -> Reply {
    let members = pool.members();
    let members: Vec<Member<'_>> = members.iter().map(|member| (&**member).into()).collect();
    Reply::json(json::encode(&members))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what an error is mapped by")]
fn failed(error: PoolError) -> Refusal {
    Failure::internal(error.to_string()).into()
}

/// Joins the pool of whoever is at this address.
pub(super) async fn join(pool: &Pool, address: &str) -> Result<Reply, Refusal> {
    pool.join(&[address.to_owned()]).await.map_err(failed)?;
    Ok(Reply::empty(StatusCode::OK))
}

/// Joins the WAN's pool of whoever is at this address.
pub(super) async fn join_wan(
    agent: &LocalAgent,
    settings: &Settings,
    address: &str,
) -> Result<Reply, Refusal> {
    match agent.wan() {
        Some(wan) => join(wan, address).await,
        None if settings.server => Err(Failure::internal("WAN federation is disabled").into()),
        None => Err(Failure::internal("Must be a server to join WAN cluster").into()),
    }
}

/// Leaves the pool, and has the agent stop.
pub(super) async fn leave(agent: &LocalAgent) -> Result<Reply, Refusal> {
    agent.leave().await.map_err(|error| Failure::internal(error.to_string()))?;
    agent.stop();
    Ok(Reply::empty(StatusCode::OK))
}

/// Takes a failed member for one that left: of the LAN and, if it is a server, of the WAN; with `only_wan` of the WAN alone,
/// where names are those of the WAN.
pub(super) async fn force_leave(
    agent: &LocalAgent,
    settings: &Settings,
    name: &str,
    prune: bool,
    only_wan: bool,
) -> Result<Reply, Refusal> {
    let Some(wan) = agent.wan() else {
        agent.pool().force_leave(name, prune).await.map_err(failed)?;
        return Ok(Reply::empty(StatusCode::OK));
    };
    if only_wan || agent.pool().member(name).is_none() && wan.member(name).is_some() {
        wan.force_leave(name, prune).await.map_err(failed)?;
        return Ok(Reply::empty(StatusCode::OK));
    }
    let known = agent.pool().member(name).is_some();
    let name_there = wan_name(name, &settings.datacenter);
    // One that the LAN has forgotten may still be known to the WAN, which was slower to notice.
    if known || wan.member(&name_there).is_none() {
        agent.pool().force_leave(name, prune).await.map_err(failed)?;
    }
    let name = name_there;
    if let Some(member) = wan.member(&name) {
        // The WAN is slower, and may not have noticed yet: only who is gone can be forgotten.
        let gone = matches!(member.status, Status::Failed | Status::Left);
        if let Err(error) = wan.force_leave(&name, prune && gone).await {
            tracing::warn!(member = name, "agent: the WAN doesn't let it go yet: {error}");
        }
    }
    Ok(Reply::empty(StatusCode::OK))
}
