//! `/v1/operator/keyring`: the keys that encrypt gossip, on all members at once.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use hyper::{Method, StatusCode, body::Incoming};
use serde::{Deserialize, Serialize};
use spec::serf::{Key, KeyRequest, KeyResult};

use super::{
    Inner, Settings, go, json,
    local::read_body,
    query::Values,
    respond::{Failure, Refusal, Reply},
};
use crate::{
    config::{gossip::Area, load::multi_error},
    gossip::{LocalAgent, Pool},
};

/// The most members that an answer may be relayed through.
const MAX_RELAY_FACTOR: u8 = 5;

/// What to do with the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    List,
    Install,
    Use,
    Remove,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    operation: Operation,
    /// Through how many other members each answer comes as well, lest one be lost.
    relay_factor: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ring<'a> {
    #[serde(rename = "WAN")]
    wan: bool,
    datacenter: &'a str,
    segment: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    messages: BTreeMap<&'a str, &'a str>,
    keys: BTreeMap<String, usize>,
    primary_keys: BTreeMap<String, usize>,
    num_nodes: usize,
}

#[derive(Deserialize)]
struct Request {
    #[serde(rename = "Key", alias = "key", default)]
    key: String,
}

/// Reads what is to be done, and how.
pub(super) fn read(method: &Method, values: &Values<'_>) -> Result<Asked, Refusal> {
    let operation = match *method {
        Method::POST => Operation::Install,
        Method::PUT => Operation::Use,
        Method::DELETE => Operation::Remove,
        _ => Operation::List,
    };
    let bad = |text: &str| Reply::bad_request(format!("Bad request: {text}"));
    let mut relay_factor = 0;
    if let Some(text) = values.get_filled("relay-factor") {
        let factor = go::parse_uint(text).map_err(|_| bad("Error parsing relay-factor"))?;
        let allowed = u8::try_from(factor).ok().filter(|factor| *factor <= MAX_RELAY_FACTOR);
        relay_factor = allowed
            .ok_or_else(|| bad("Invalid relay-factor: Relay factor must be in range: [0, 5]"))?;
    }
    if values.has("local-only") && operation != Operation::List {
        return Err(bad("local-only can only be used with LIST requests"));
    }
    Ok(Asked { operation, relay_factor })
}

/// Reads the key, and carries the operation out.
pub(super) async fn answer(
    inner: &Inner,
    asked: Asked,
    incoming: Incoming,
) -> Result<Reply, Refusal> {
    let Some(agent) = &inner.agent else {
        return Err(Failure::internal("this agent doesn't gossip").into());
    };
    let body =
        if asked.operation == Operation::List { Bytes::new() } else { read_body(incoming).await? };
    perform(agent, &inner.settings, asked, &body).await
}

/// Carries it out in the WAN's pool and then in the LAN's, and reports what the members said.
pub(super) async fn perform(
    agent: &LocalAgent,
    settings: &Settings,
    asked: Asked,
    body: &Bytes,
) -> Result<Reply, Refusal> {
    let datacenter = &settings.datacenter;
    let request = match asked.operation {
        Operation::List => KeyRequest::List,
        Operation::Install => KeyRequest::Install(key(agent, datacenter, body)?),
        Operation::Use => KeyRequest::Use(key(agent, datacenter, body)?),
        Operation::Remove => KeyRequest::Remove(key(agent, datacenter, body)?),
    };
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for pool in pools(agent) {
        match ask(pool, datacenter, request.clone(), asked.relay_factor).await {
            Ok(result) => results.push((pool.area(), result)),
            Err(lines) => errors.extend(lines),
        }
    }
    if !errors.is_empty() {
        return Err(Failure::internal(multi_error(&errors)).into());
    }
    Ok(match asked.operation {
        Operation::List => {
            let rings: Vec<Ring<'_>> =
                results.iter().map(|(area, result)| ring(*area, datacenter, result)).collect();
            Reply::json(json::encode(&rings))
        }
        _ => Reply::empty(StatusCode::OK),
    })
}

/// The pools that this agent is in, in the order in which Consul goes through them.
fn pools(agent: &LocalAgent) -> impl Iterator<Item = &Pool> {
    agent.wan().into_iter().chain([agent.pool()])
}

/// An error of a pool, as a line.
fn failed(pool: &Pool, datacenter: &str, error: &str) -> String {
    match pool.area() {
        Area::Lan => format!("{datacenter} (LAN) error: {error}"),
        Area::Wan => format!("WAN error: {error}"),
    }
}

/// Carries it out in one pool; an error is told in lines.
async fn ask(
    pool: &Pool,
    datacenter: &str,
    request: KeyRequest,
    relay_factor: u8,
) -> Result<KeyResult, Vec<String>> {
    let failed = |error: &str| vec![failed(pool, datacenter, error)];
    let result =
        pool.keyring(request, relay_factor).await.map_err(|error| failed(&error.to_string()))?;
    match &result.error {
        None => Ok(result),
        Some(error) => {
            let mut lines = failed(error);
            lines.extend(result.messages.iter().map(|(node, said)| format!("{node}: {said}")));
            Err(lines)
        }
    }
}

/// Reads a key; of what is none each pool says so, as in Consul, where each server reads it for itself.
fn key(agent: &LocalAgent, datacenter: &str, body: &[u8]) -> Result<Key, Refusal> {
    let none = |error: &str| -> Refusal {
        let lines: Vec<String> = pools(agent).map(|pool| failed(pool, datacenter, error)).collect();
        Failure::internal(multi_error(&lines)).into()
    };
    let request: Request = serde_json::from_slice(body).map_err(|error| {
        let text = if body.is_empty() { "EOF".to_owned() } else { error.to_string() };
        Reply::bad_request(format!("Request decode failed: {text}"))
    })?;
    let engine = base64::engine::general_purpose::STANDARD;
    let bytes = engine.decode(&request.key).map_err(|_| {
        let odd =
            request.key.bytes().position(|b| !(b.is_ascii_alphanumeric() || b"+/=".contains(&b)));
        let at = odd.unwrap_or(request.key.len() / 4 * 4);
        none(&format!("illegal base64 data at input byte {at}"))
    })?;
    Key::new(&bytes).ok_or_else(|| none("key size must be 16, 24 or 32 bytes"))
}

fn ring<'a>(area: Area, datacenter: &'a str, result: &'a KeyResult) -> Ring<'a> {
    let engine = base64::engine::general_purpose::STANDARD;
    let counted = |keys: &BTreeMap<Key, usize>| {
        keys.iter().map(|(key, count)| (engine.encode(key.bytes()), *count)).collect()
    };
    Ring {
        wan: area == Area::Wan,
        datacenter,
        segment: "",
        messages: result.messages.iter().map(|(node, said)| (&**node, &**said)).collect(),
        keys: counted(&result.keys),
        primary_keys: counted(&result.primaries),
        num_nodes: result.nodes,
    }
}
