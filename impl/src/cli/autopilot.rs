//! `operator autopilot get-config` and `set-config`.

use std::fmt::Write as _;

use bytes::Bytes;
use clap::Command;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::client::{Answer, Client, connect};
use super::flags::{Given, integer, switch, value, with_api_options};
use super::{Ending, Group, Leaf};

pub(super) const AUTOPILOT: Group = Group {
    path: &["operator", "autopilot"],
    synopsis: "Provides tools for modifying Autopilot configuration",
    usage: "operator autopilot <subcommand> [options]",
    about: "  Shows and changes what Autopilot does by itself: it removes servers that are dead
  and lets new ones vote once they are stable.",
};

pub(super) const GET_CONFIG: Leaf = Leaf {
    path: &["operator", "autopilot", "get-config"],
    synopsis: "Display the current Autopilot configuration",
    usage: "operator autopilot get-config [options]",
    about: "Displays the current Autopilot configuration.",
    definition: || with_api_options(Command::new("get-config")),
    run: get_config,
};

pub(super) const SET_CONFIG: Leaf = Leaf {
    path: &["operator", "autopilot", "set-config"],
    synopsis: "Modify the current Autopilot configuration",
    usage: "operator autopilot set-config [options]",
    about: "Modifies the current Autopilot configuration.",
    definition: || {
        with_api_options(Command::new("set-config")).args([
            switch(
                "cleanup-dead-servers",
                "Controls whether Consul will automatically remove dead servers when new ones are successfully added. Must be one of `true|false`.",
            ),
            switch("disable-upgrade-migration", "(Enterprise-only) Controls whether Consul will avoid promoting new servers until it can perform a migration. Must be one of `true|false`."),
            value("last-contact-threshold", "duration", "Controls the maximum amount of time a server can go without contact from the leader before being considered unhealthy. Must be a duration value such as `200ms`."),
            integer("max-trailing-logs", "Controls the maximum number of log entries that a server can trail the leader by before being considered unhealthy."),
            integer("min-quorum", "Sets the minimum number of servers required in a cluster before autopilot is allowed to prune dead servers."),
            value("redundancy-zone-tag", "string", "(Enterprise-only) Controls the node_meta tag name used for separating servers into different redundancy zones."),
            value("server-stabilization-time", "duration", "Controls the minimum amount of time a server must be stable in the 'healthy' state before being added to the cluster. Must be a duration value such as `10s`."),
            value("upgrade-version-tag", "string", "(Enterprise-only) The node_meta tag to use for version info when performing upgrade migrations. If left blank, the Consul version will be used."),
        ])
    },
    run: set_config,
};

const PATH: &str = "operator/autopilot/configuration";

fn read(client: &Client) -> Result<Map<String, Value>, String> {
    let failed = |error| format!("Error querying Autopilot configuration: {error}");
    let answer =
        client.send(&Method::GET, PATH, &[], Bytes::new()).and_then(Answer::ok).map_err(failed)?;
    serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string()))
}

fn get_config(given: &Given) -> Result<Ending, String> {
    Ok(Ending::Done(render(&read(&connect(given)?)?).into_bytes()))
}

fn render(config: &Map<String, Value>) -> String {
    let mut out = String::new();
    for (key, quoted) in [
        ("CleanupDeadServers", false),
        ("LastContactThreshold", false),
        ("MaxTrailingLogs", false),
        ("MinQuorum", false),
        ("ServerStabilizationTime", false),
        ("RedundancyZoneTag", true),
        ("DisableUpgradeMigration", false),
        ("UpgradeVersionTag", true),
    ] {
        let value = config.get(key).unwrap_or(&Value::Null);
        let text = match value {
            Value::String(text) if !quoted => text.clone(),
            value => value.to_string(),
        };
        let _ = writeln!(out, "{key} = {text}");
    }
    out
}

/// Changes what the flags name and nothing else: the answer is compared and set under the index that was read.
fn set_config(given: &Given) -> Result<Ending, String> {
    let client = connect(given)?;
    let mut config = read(&client)?;
    for (flag, key) in [
        ("cleanup-dead-servers", "CleanupDeadServers"),
        ("disable-upgrade-migration", "DisableUpgradeMigration"),
    ] {
        if given.given(flag) {
            config.insert(key.to_owned(), json!(given.on(flag)));
        }
    }
    for (flag, key) in [("max-trailing-logs", "MaxTrailingLogs"), ("min-quorum", "MinQuorum")] {
        if let Some(number) = given.integer(flag) {
            config.insert(key.to_owned(), json!(number));
        }
    }
    for (flag, key) in [
        ("last-contact-threshold", "LastContactThreshold"),
        ("redundancy-zone-tag", "RedundancyZoneTag"),
        ("server-stabilization-time", "ServerStabilizationTime"),
        ("upgrade-version-tag", "UpgradeVersionTag"),
    ] {
        if let Some(text) = given.text(flag) {
            config.insert(key.to_owned(), json!(text));
        }
    }
    let index = config.get("ModifyIndex").and_then(Value::as_u64).unwrap_or(0).to_string();
    let failed = |error| format!("Error setting Autopilot configuration: {error}");
    let body = Value::Object(config).to_string().into();
    let answer = client
        .send(&Method::PUT, PATH, &[("cas", index.as_str())], body)
        .and_then(Answer::ok)
        .map_err(failed)?;
    if answer.body.trim_ascii() == b"true" {
        Ok(Ending::line("Configuration updated!"))
    } else {
        Ok(Ending::line("Configuration could not be atomically updated, please try again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_shown_as_consul_shows_it() {
        let body = r#"{"CleanupDeadServers":true,"LastContactThreshold":"200ms","MaxTrailingLogs":250,"MinQuorum":0,
            "ServerStabilizationTime":"10s","RedundancyZoneTag":"","DisableUpgradeMigration":false,"UpgradeVersionTag":"",
            "CreateIndex":4,"ModifyIndex":4}"#;
        assert_eq!(
            render(&serde_json::from_str(body).unwrap()),
            "CleanupDeadServers = true\nLastContactThreshold = 200ms\nMaxTrailingLogs = 250\nMinQuorum = 0\n\
             ServerStabilizationTime = 10s\nRedundancyZoneTag = \"\"\nDisableUpgradeMigration = false\nUpgradeVersionTag = \"\"\n"
        );
    }
}
