//! `reload`: has an agent read its configuration again.

use bytes::Bytes;
use clap::Command;
use hyper::Method;

use super::client::{Answer, connect};
use super::flags::{Given, with_api_options};
use super::{Ending, Leaf};

pub(super) const RELOAD: Leaf = Leaf {
    path: &["reload"],
    synopsis: "Triggers the agent to reload configuration files",
    usage: "reload",
    about: "\
Causes the agent to reload its configuration. It does the same upon a SIGHUP.
Not every value can change while an agent runs: what cannot is in effect from
its next start on.",
    definition: || with_api_options(Command::new("reload")),
    run: reload,
};

fn reload(given: &Given) -> Result<Ending, String> {
    connect(given)?
        .send(&Method::PUT, "agent/reload", &[], Bytes::new())
        .and_then(Answer::ok)
        .map_err(|error| format!("Error reloading: {error}"))?;
    Ok(Ending::line("Configuration reload triggered"))
}
