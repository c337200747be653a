//! `keygen` and `keyring`: the keys that encrypt gossip.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use clap::Command;
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::client::{Answer, connect};
use super::flags::{Given, integer, switch, value, with_api_options};
use super::{Ending, Leaf};

pub(super) const KEYGEN: Leaf = Leaf {
    path: &["keygen"],
    synopsis: "Generates a new encryption key",
    usage: "keygen",
    about: "\
Generates a new encryption key of 32 bytes, in the form that the agent's
configuration takes.",
    definition: || Command::new("keygen"),
    run: |_| keygen(),
};

pub(super) const KEYRING: Leaf = Leaf {
    path: &["keyring"],
    synopsis: "Manages gossip layer encryption keys",
    usage: "keyring [options]",
    about: "\
Manages the keys that encrypt gossip: lists those that are in use, and changes
them without a pause, by installing a key, using it, and removing the old one.

Exits with 0 if all members answer without an error, and with 1 otherwise.",
    definition: || {
        with_api_options(Command::new("keyring")).args([
            value(
                "install",
                "string",
                "Install a new encryption key. This will broadcast the new key to all members in the cluster.",
            ),
            switch("list", "List all keys currently in use within the cluster."),
            switch("list-primary", "List all primary keys currently in use within the cluster."),
            switch(
                "local-only",
                "Setting this to true will force the keyring query to only hit local servers (no WAN traffic). This flag can only be set for list queries.",
            ),
            integer(
                "relay-factor",
                "Setting this to a non-zero value will cause nodes to relay their response to the operation through this many randomly-chosen other nodes in the cluster. The maximum allowed value is 5.",
            ),
            value(
                "remove",
                "string",
                "Remove the given key from the cluster. This operation may only be performed on keys which are not currently the primary key.",
            ),
            value(
                "use",
                "string",
                "Change the primary encryption key, which is used to encrypt messages. The key must already be installed before this operation can succeed.",
            ),
        ])
    },
    run: keyring,
};

fn keygen() -> Result<Ending, String> {
    let mut key = [0; 32];
    match rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty()) {
        Ok(32) => Ok(Ending::line(base64::engine::general_purpose::STANDARD.encode(key))),
        Ok(_) => Err("Couldn't read enough entropy. Generate more entropy!".to_owned()),
        Err(error) => Err(format!("Error reading random data: {error}")),
    }
}

/// The keys of one pool, each with how many members have it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ring {
    #[serde(rename = "WAN")]
    wan: bool,
    datacenter: String,
    #[serde(default)]
    segment: String,
    #[serde(default)]
    messages: Option<BTreeMap<String, String>>,
    keys: BTreeMap<String, u64>,
    #[serde(default)]
    primary_keys: BTreeMap<String, u64>,
    num_nodes: u64,
}

fn keyring(given: &Given) -> Result<Ending, String> {
    let named = |flag| given.text(flag).filter(|text| !text.is_empty());
    let changes: Vec<_> = ["install", "use", "remove"]
        .into_iter()
        .filter_map(|flag| named(flag).map(|key| (flag, key)))
        .collect();
    let lists = [given.on("list"), given.on("list-primary")];
    let actions = changes.len() + lists.iter().filter(|on| **on).count();
    if actions == 0 {
        return Err("One of -install, -list, -list-primary, -remove and -use must be given".into());
    }
    if actions > 1 {
        return Err("Only a single action is allowed".to_owned());
    }
    let relay_factor = given.integer("relay-factor").unwrap_or(0);
    if !(0..=5).contains(&relay_factor) {
        return Err("Error parsing relay factor: Relay factor must be in range: [0, 5]".to_owned());
    }
    let local_only = given.on("local-only");
    if local_only && !changes.is_empty() {
        return Err(
            "Error validating local-only: local-only can only be set for list requests".into()
        );
    }
    let relay_factor = relay_factor.to_string();
    let mut query = vec![("relay-factor", relay_factor.as_str())];
    if local_only {
        query.push(("local-only", "true"));
    }
    let client = connect(given)?;
    let failed = |error| format!("error: {error}");
    if let Some((flag, key)) = changes.first() {
        let (method, doing) = match *flag {
            "install" => (Method::POST, "Installing new gossip encryption key..."),
            "use" => (Method::PUT, "Changing primary gossip encryption key..."),
            _ => (Method::DELETE, "Removing gossip encryption key..."),
        };
        super::print(format!("==> {doing}\n").as_bytes());
        let body = json!({ "Key": key }).to_string().into();
        client
            .send(&method, "operator/keyring", &query, body)
            .and_then(Answer::ok)
            .map_err(failed)?;
        return Ok(Ending::Done(Vec::new()));
    }
    let primary = lists[1];
    let which = if primary { "primary " } else { "" };
    super::print(format!("==> Gathering installed {which}encryption keys...\n").as_bytes());
    let answer = client
        .send(&Method::GET, "operator/keyring", &query, bytes::Bytes::new())
        .and_then(Answer::ok)
        .map_err(failed)?;
    let rings: Vec<Ring> =
        serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string()))?;
    Ok(Ending::Done(render(&rings, primary).into_bytes()))
}

fn render(rings: &[Ring], primary: bool) -> String {
    let mut out = String::new();
    for ring in rings {
        let pool = if ring.wan { "WAN".to_owned() } else { format!("{} (LAN)", ring.datacenter) };
        let segment = match ring.segment.as_str() {
            "" => String::new(),
            segment => format!(" [{segment}]"),
        };
        let _ = writeln!(out, "\n{pool}{segment}:");
        for (node, message) in ring.messages.iter().flatten() {
            let _ = writeln!(out, "  ===> {node}: {message}");
        }
        let keys = if primary { &ring.primary_keys } else { &ring.keys };
        for (key, count) in keys {
            let _ = writeln!(out, "  {key} [{count}/{}]", ring.num_nodes);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_for_each_pool() {
        let body = r#"[{"WAN":true,"Datacenter":"dc1","Segment":"","Keys":{"b=":1,"a=":1},"PrimaryKeys":{"a=":1},"NumNodes":1},
            {"WAN":false,"Datacenter":"dc1","Segment":"","Messages":{"n":"no"},"Keys":{"a=":2},"PrimaryKeys":{"a=":2},"NumNodes":3}]"#;
        let rings: Vec<Ring> = serde_json::from_str(body).unwrap();
        assert_eq!(
            render(&rings, false),
            "\nWAN:\n  a= [1/1]\n  b= [1/1]\n\ndc1 (LAN):\n  ===> n: no\n  a= [2/3]\n"
        );
        assert_eq!(render(&rings[..1], true), "\nWAN:\n  a= [1/1]\n");
    }

    #[test]
    fn a_key_has_32_bytes_and_differs_from_the_last() {
        let key = || match keygen() {
            Ok(Ending::Done(line)) => String::from_utf8(line).unwrap(),
            Ok(Ending::Code(code)) => panic!("{code}"),
            Err(error) => panic!("{error}"),
        };
        let one = key();
        assert!(
            one.trim()
                .parse::<crate::config::gossip::GossipKey>()
                .is_ok_and(|key| key.0.len() == 32)
        );
        assert_ne!(one, key());
    }
}
