//! `validate`: would the agent take these configuration files?

use std::path::PathBuf;

use clap::Command;

use super::flags::{Given, switch, value};
use super::{Ending, Leaf, complain};
use crate::config::{Sources, resolve};

pub(super) const VALIDATE: Leaf = Leaf {
    path: &["validate"],
    synopsis: "Validate config files/directories",
    usage: "validate [options] FILE_OR_DIRECTORY...",
    about: "\
Performs a thorough sanity test on configuration files. For each file
or directory given, the validate command will attempt to parse the contents
just as the agent would, and catch any errors.

Give it the complete set of files that the agent is started with: a fragment
alone seldom passes.

Returns 0 if the configuration is valid, or 1 if there are problems.",
    definition: || {
        Command::new("validate").args([
            value(
                "config-format",
                "string",
                "Config files are in this format irrespective of their extension. Must be 'json'",
            ),
            switch("quiet", "When given, a successful run will produce no output."),
        ])
    },
    run,
};

fn run(given: &Given) -> Result<Ending, String> {
    let files: Vec<PathBuf> = given.arguments().into_iter().map(PathBuf::from).collect();
    if files.is_empty() {
        return Err("Must specify at least one config file or directory".to_owned());
    }
    let all_json = all_json(given)?;
    let config = resolve(&Sources { files, all_json, ..Sources::default() })
        .map_err(|error| format!("Config validation failed: {error}"))?;
    config.warnings.iter().for_each(|warning| complain(warning));
    Ok(if given.on("quiet") {
        Ending::Done(Vec::new())
    } else {
        Ending::line("Configuration is valid!")
    })
}

/// What `-config-format` says.
pub(super) fn all_json(given: &Given) -> Result<bool, String> {
    match given.text("config-format").unwrap_or_default() {
        "" => Ok(false),
        "json" => Ok(true),
        "hcl" => Err("HCL is not supported yet: use JSON".to_owned()),
        _ => Err("-config-format must be either 'hcl' or 'json'".to_owned()),
    }
}
