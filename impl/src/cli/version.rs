//! `version`: which Proconsul this is, and which Consul's ways it follows.

use clap::Command;
use serde_json::{Value, json};

use super::flags::{Given, value};
use super::{Ending, Leaf};

/// The one level of Consul that this agent states: in `version`, `/v1/agent/self` and its `build` tag.
pub const CONSUL_VERSION: &str = "1.8.7";

const VERSION_NUMBER: &str = env!("CARGO_PKG_VERSION");

pub(super) const VERSION: Leaf = Leaf {
    path: &["version"],
    synopsis: "Prints the version",
    usage: "version [options]",
    about: "Prints the version, and the level of Consul that it stands for.",
    definition: || {
        Command::new("version").arg(value("format", "string", "Output format {pretty|json}"))
    },
    run,
};

/// What `version` and `--version` print.
pub(super) fn text() -> String {
    format!(
        "Proconsul v{VERSION_NUMBER}\nConsul v{CONSUL_VERSION} (the level whose API, commands and configuration it follows)\n"
    )
}

fn run(given: &Given) -> Result<Ending, String> {
    match given.text("format").unwrap_or("pretty") {
        "pretty" => Ok(Ending::Done(text().into_bytes())),
        "json" => Ok(Ending::line(indented(&json!({
            "Version": CONSUL_VERSION,
            "Revision": "",
            "Prerelease": "",
            "Proconsul": VERSION_NUMBER,
        })))),
        other => Err(format!("Unknown format: {other}")),
    }
}

fn indented(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // A value of strings always serialises, and always to UTF-8.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    String::from_utf8(out).unwrap_or_default()
}
