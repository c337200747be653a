//! `/v1/event/fire` and `/v1/event/list`.

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use bytes::Bytes;
use regex_lite::Regex;
use serde::Serialize;
use spec::raft::NodeId;
use tokio::time::{Instant, timeout_at};

use super::{
    Settings, json,
    respond::{Failure, Refusal, Reply},
};
use crate::{
    config::load::multi_error,
    gossip::{Pool, PoolError, UserEvent, index_of},
    server::random,
};

/// The version of the events that are fired.
const VERSION: u8 = 1;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Event<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    payload: Option<String>,
    node_filter: &'a str,
    service_filter: &'a str,
    tag_filter: &'a str,
    version: u8,
    #[serde(rename = "LTime")]
    ltime: u64,
}

impl<'a> From<&'a UserEvent> for Event<'a> {
    fn from(event: &'a UserEvent) -> Self {
        let engine = base64::engine::general_purpose::STANDARD;
        Self {
            id: &event.id,
            name: &event.name,
            payload: (!event.payload.is_empty()).then(|| engine.encode(&event.payload)),
            node_filter: &event.node_filter,
            service_filter: &event.service_filter,
            tag_filter: &event.tag_filter,
            version: VERSION,
            ltime: event.ltime,
        }
    }
}

/// Fires an event; whoever it is for gets it by gossip, this agent too.
pub(super) async fn fire(
    pool: &Pool,
    mut event: UserEvent,
    payload: Bytes,
) -> Result<Reply, Refusal> {
    for (kind, pattern) in [
        ("node", &event.node_filter),
        ("service", &event.service_filter),
        ("tag", &event.tag_filter),
    ] {
        if let Err(error) = Regex::new(pattern) {
            let text =
                format!("Invalid {kind} filter: error parsing regexp: {}", in_go(&error, pattern));
            return Err(Failure::internal(text).into());
        }
    }
    if !event.tag_filter.is_empty() && event.service_filter.is_empty() {
        return Err(Failure::internal("Cannot provide tag filter without service filter").into());
    }
    event.id = uuid();
    event.payload = payload.to_vec();
    pool.fire(&event).await.map_err(|error| match error {
        PoolError::Refused(refused) => {
            let line = format!("error broadcasting event to segment \"\": {refused}");
            Refusal::from(Failure::internal(multi_error(&[line])))
        }
        error => Failure::internal(error.to_string()).into(),
    })?;
    Ok(Reply::json(json::encode(&Event::from(&event))))
}

/// Go's words for what is commonly wrong with a regular expression.
fn in_go(error: &regex_lite::Error, pattern: &str) -> String {
    let text = error.to_string();
    let known = [
        ("class", "missing closing ]"),
        ("group", "missing closing )"),
        ("repetition", "missing argument to repetition operator"),
    ];
    match known.iter().find(|(part, _)| text.contains(part)) {
        Some((_, words)) => format!("{words}: `{pattern}`"),
        None => text,
    }
}

fn uuid() -> String {
    NodeId(u128::from(random()) << 64 | u128::from(random())).to_string()
}

/// The events that came, once their index is another than the client's.
pub(super) async fn list(
    pool: &Pool,
    settings: &Settings,
    name: Option<&str>,
    known: u64,
    wait: Duration,
) -> Result<Reply, Refusal> {
    let wait = if wait.is_zero() { settings.default_query_time } else { wait };
    let deadline = Instant::now() + wait.min(settings.max_query_time);
    // Before the list is read: an event that comes between wakes the wait.
    let mut changes = pool.events().watch();
    loop {
        changes.mark_unchanged();
        let events = pool.events().list(name);
        // Never 0, by which a client says that it doesn't wait.
        let index = events.last().map_or(1, |event| index_of(&event.id).max(1));
        if known == 0 || index != known || timeout_at(deadline, changes.changed()).await.is_err() {
            return Ok(answer(&events, index));
        }
    }
}

fn answer(events: &[Arc<UserEvent>], index: u64) -> Reply {
    let listed: Vec<Event<'_>> = events.iter().map(|event| (&**event).into()).collect();
    Reply::json(json::encode(&listed)).indexed(index)
}
