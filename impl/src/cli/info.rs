//! `info`: the agent's own figures, for debugging.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use clap::Command;
use hyper::Method;
use serde_json::Value;

use super::client::{Answer, connect};
use super::flags::{Given, with_api_options};
use super::{Ending, Leaf};

pub(super) const INFO: Leaf = Leaf {
    path: &["info"],
    synopsis: "Provides debugging information for operators.",
    usage: "info [options]",
    about: "Provides debugging information for operators.",
    definition: || with_api_options(Command::new("info")),
    run: info,
};

fn info(given: &Given) -> Result<Ending, String> {
    let client = connect(given)?;
    let asked = |error| format!("Error querying agent: {error}");
    let answer = client
        .send(&Method::GET, "agent/self", &[], Bytes::new())
        .and_then(Answer::ok)
        .map_err(asked)?;
    let body: Value =
        serde_json::from_slice(&answer.body).map_err(|error| asked(error.to_string()))?;
    let stats = body
        .get("Stats")
        .and_then(Value::as_object)
        .ok_or_else(|| "Agent response did not contain 'Stats' key".to_owned())?;
    Ok(Ending::Done(render(stats).into_bytes()))
}

/// The blocks and their keys, both sorted.
fn render(stats: &serde_json::Map<String, Value>) -> String {
    let mut out = String::new();
    let blocks: BTreeMap<_, _> = stats.iter().collect();
    for (name, block) in blocks {
        let _ = writeln!(out, "{name}:");
        let rows: BTreeMap<_, _> = block.as_object().into_iter().flatten().collect();
        for (key, value) in rows {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = writeln!(out, "\t{key} = {text}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blocks_and_keys_are_sorted() {
        let stats = json!({"raft": {"term": "2", "state": "Leader"}, "build": {"revision": ""}});
        assert_eq!(
            render(stats.as_object().unwrap()),
            "build:\n\trevision = \nraft:\n\tstate = Leader\n\tterm = 2\n"
        );
    }
}
