//! `event`: fires a user event.

use bytes::Bytes;
use clap::Command;
use hyper::Method;
use regex_lite::Regex;
use serde::Deserialize;

use super::client::{Answer, connect};
use super::flags::{Given, value, with_api_options};
use super::{Ending, Leaf};

pub(super) const EVENT: Leaf = Leaf {
    path: &["event"],
    synopsis: "Fire a new event",
    usage: "event [options] [payload]",
    about: "\
Dispatches a custom user event across a datacenter. An event has a name; a
payload is optional. Regular expressions on the names of nodes, services and
tags say for whom it is.",
    definition: || {
        with_api_options(Command::new("event")).args([
            value("name", "string", "Name of the event."),
            value("node", "string", "Regular expression to filter on node names."),
            value("service", "string", "Regular expression to filter on service instances."),
            value(
                "tag",
                "string",
                "Regular expression to filter on service tags. Must be used with -service.",
            ),
        ])
    },
    run: event,
};

#[derive(Deserialize)]
struct Fired {
    #[serde(rename = "ID")]
    id: String,
}

fn event(given: &Given) -> Result<Ending, String> {
    let text = |flag| given.text(flag).filter(|text| !text.is_empty());
    let Some(name) = text("name") else { return Err("Event name must be specified".to_owned()) };
    if text("tag").is_some() && text("service").is_none() {
        return Err("Cannot provide tag filter without service filter.".to_owned());
    }
    let mut query = Vec::new();
    for filter in ["node", "service", "tag"] {
        if let Some(pattern) = text(filter) {
            Regex::new(pattern).map_err(|error| {
                format!("Failed to compile {filter} filter regexp: error parsing regexp: {error}")
            })?;
            query.push((filter, pattern));
        }
    }
    let arguments = given.arguments();
    let payload = match arguments.as_slice() {
        [] => Bytes::new(),
        [payload] => payload.as_encoded_bytes().to_vec().into(),
        _ => return Err("Too many command line arguments.".to_owned()),
    };
    let failed = |error| format!("Error firing event: {error}");
    let answer = connect(given)?
        .send(&Method::PUT, &format!("event/fire/{name}"), &query, payload)
        .and_then(Answer::ok)
        .map_err(failed)?;
    let fired: Fired =
        serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string()))?;
    Ok(Ending::line(format!("Event ID: {}", fired.id)))
}
