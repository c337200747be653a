//! `/v1/operator/autopilot/`: how servers are looked after, and how they are.

use std::time::Duration;

use hyper::{StatusCode, body::Incoming};
use serde::Serialize;
use serde_json::Value;
use spec::state::{AutopilotCommand, AutopilotConfig, AutopilotSettings, Command, Outcome};

use super::{
    Inner,
    catalog::internal,
    decode::{self, Fault, Object},
    go, json,
    query::Values,
    respond::{Failure, Refusal, Reply},
};
use crate::server::{ClusterHealth, Consistency, ServerHealth};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration<'a> {
    cleanup_dead_servers: bool,
    last_contact_threshold: String,
    max_trailing_logs: u64,
    min_quorum: u64,
    server_stabilization_time: String,
    redundancy_zone_tag: &'a str,
    disable_upgrade_migration: bool,
    upgrade_version_tag: &'a str,
    create_index: u64,
    modify_index: u64,
}

/// The configuration as it stands.
pub(crate) async fn configuration(
    inner: &Inner,
    consistency: Consistency,
) -> Result<Reply, Refusal> {
    let view = inner.server.read(consistency).await?;
    let Some(AutopilotConfig { settings, create_index, modify_index }) = view.state.autopilot()
    else {
        return Err(Failure::internal("autopilot config not initialized yet").into());
    };
    Ok(Reply::json(json::encode(&Configuration {
        cleanup_dead_servers: settings.cleanup_dead_servers,
        last_contact_threshold: go::duration(settings.last_contact_threshold()),
        max_trailing_logs: settings.max_trailing_logs,
        min_quorum: settings.min_quorum,
        server_stabilization_time: go::duration(settings.server_stabilization_time()),
        redundancy_zone_tag: &settings.redundancy_zone_tag,
        disable_upgrade_migration: settings.disable_upgrade_migration,
        upgrade_version_tag: &settings.upgrade_version_tag,
        create_index: *create_index,
        modify_index: *modify_index,
    })))
}

/// Sets the configuration; with `cas`, only where it stands at that index.
pub(crate) async fn configure(
    inner: &Inner,
    cas: Option<u64>,
    incoming: Incoming,
) -> Result<Reply, Refusal> {
    let body = decode::body(incoming).await?;
    let settings = read_settings(&body).map_err(|fault| {
        let text = fault.text();
        Reply::bad_request(format!("Bad request: Error parsing autopilot config: {text}"))
    })?;
    let command = match cas {
        None => AutopilotCommand::Set(settings),
        Some(index) => AutopilotCommand::Cas { settings, index },
    };
    match inner.server.propose(Command::Autopilot(command)).await? {
        (_, Outcome::Applied(done)) => Ok(Reply::bool(done)),
        (_, Outcome::Refused(text)) => Err(internal(text)),
    }
}

/// Reads `cas`.
pub(crate) fn read_cas(values: &Values<'_>) -> Result<Option<u64>, Refusal> {
    let Some(text) = values.get("cas") else { return Ok(None) };
    let index = go::parse_uint(text);
    index.map(Some).map_err(|error| {
        Reply::bad_request(format!("Bad request: Error parsing cas value: {error}"))
    })
}

fn read_settings(body: &[u8]) -> Result<AutopilotSettings, Fault> {
    let mut object = Object::read("api.AutopilotConfiguration", body)?;
    object.ignore(&["CreateIndex", "ModifyIndex"]);
    let settings = AutopilotSettings {
        cleanup_dead_servers: object.flag("CleanupDeadServers")?,
        last_contact_threshold_ns: read_duration(&mut object, "LastContactThreshold")?,
        max_trailing_logs: object.number("MaxTrailingLogs", "uint64")?,
        min_quorum: object.number("MinQuorum", "uint")?,
        server_stabilization_time_ns: read_duration(&mut object, "ServerStabilizationTime")?,
        redundancy_zone_tag: object.text("RedundancyZoneTag")?.into(),
        disable_upgrade_migration: object.flag("DisableUpgradeMigration")?,
        upgrade_version_tag: object.text("UpgradeVersionTag")?.into(),
    };
    object.done()?;
    Ok(settings)
}

/// A duration as text, or in nanoseconds.
fn read_duration(object: &mut Object, name: &str) -> Result<u64, Fault> {
    let nanoseconds = match object.take(name) {
        None => 0,
        Some(Value::String(text)) => go::parse_duration(text.as_bytes()).map_err(|_| {
            Fault::new(format!("time: invalid duration {}", go::quote(text.as_bytes())))
        })?,
        Some(Value::Number(number)) => number.as_i64().unwrap_or(-1),
        Some(_) => -1,
    };
    u64::try_from(nanoseconds)
        .map_err(|_| Fault::new(format!("{name} is no duration that can be waited for")))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Health<'a> {
    healthy: bool,
    failure_tolerance: u64,
    servers: Vec<Server<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Server<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    address: &'a str,
    serf_status: &'a str,
    version: &'a str,
    leader: bool,
    last_contact: String,
    last_term: u64,
    last_index: u64,
    healthy: bool,
    voter: bool,
    stable_since: String,
}

/// How the servers are, as the leader sees them; 429 where any isn't well.
pub(crate) async fn health(inner: &Inner) -> Result<Reply, Refusal> {
    let ClusterHealth { healthy, failure_tolerance, servers } =
        inner.server.autopilot_health().await?;
    let show = |server: &ServerHealth| {
        // Never heard of is Consul's -1.
        server.last_contact_ns.map_or_else(
            || "-1ns".to_owned(),
            |nanoseconds| go::duration(Duration::from_nanos(nanoseconds)),
        )
    };
    let servers = servers
        .iter()
        .map(|server| Server {
            id: &server.id,
            name: &server.name,
            address: &server.address,
            serf_status: &server.serf_status,
            // One that gossip doesn't know was never asked.
            version: if server.version.is_empty() {
                &inner.settings.version
            } else {
                &server.version
            },
            leader: server.leader,
            last_contact: show(server),
            last_term: server.last_term,
            last_index: server.last_index,
            healthy: server.healthy,
            voter: server.voter,
            stable_since: go::rfc3339(server.stable_since_s),
        })
        .collect();
    let status = if healthy { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
    let health = Health { healthy, failure_tolerance, servers };
    Ok(Reply::json(json::encode(&health)).with_status(status))
}
