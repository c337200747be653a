//! The command line: Consul's commands, texts and exit codes.

mod agent;
mod autopilot;
pub mod client;
mod columns;
mod event;
pub mod flags;
mod help;
mod info;
mod keyring;
mod kv;
mod members;
mod operator;
mod reload;
mod rtt;
mod snapshot;
mod validate;
mod version;

use std::ffi::OsString;
use std::io::{self, Write as _};

use flags::Given;
pub use version::CONSUL_VERSION;

/// The name that usage texts give the program.
const PROGRAM: &str = "proconsul";

/// A command that does something.
struct Leaf {
    path: &'static [&'static str],
    synopsis: &'static str,
    usage: &'static str,
    about: &'static str,
    definition: fn() -> clap::Command,
    /// What it does; an error is said on standard error, and the exit code is 1.
    run: fn(&Given) -> Result<Ending, String>,
}

/// A command that only holds others.
struct Group {
    path: &'static [&'static str],
    synopsis: &'static str,
    usage: &'static str,
    about: &'static str,
}

/// How a command ends: what it says last, and its exit code.
enum Ending {
    /// With this on standard output, and 0.
    Done(Vec<u8>),
    /// With this exit code; what there was to say is said.
    Code(u8),
}

impl Ending {
    fn line(text: impl std::fmt::Display) -> Self {
        Self::Done(format!("{text}\n").into_bytes())
    }
}

const LEAVES: &[&Leaf] = &[
    &agent::AGENT,
    &autopilot::GET_CONFIG,
    &autopilot::SET_CONFIG,
    &event::EVENT,
    &info::INFO,
    &keyring::KEYGEN,
    &keyring::KEYRING,
    &kv::DELETE,
    &kv::EXPORT,
    &kv::GET,
    &kv::IMPORT,
    &kv::PUT,
    &members::FORCE_LEAVE,
    &members::JOIN,
    &members::LEAVE,
    &members::MEMBERS,
    &operator::LIST_PEERS,
    &operator::REMOVE_PEER,
    &operator::TRANSFER_LEADER,
    &reload::RELOAD,
    &rtt::RTT,
    &snapshot::INSPECT,
    &snapshot::RESTORE,
    &snapshot::SAVE,
    &validate::VALIDATE,
    &version::VERSION,
];

const GROUPS: &[&Group] =
    &[&autopilot::AUTOPILOT, &kv::KV, &operator::OPERATOR, &operator::RAFT, &snapshot::SNAPSHOT];

/// Runs the command that `arguments` (without the program's name) name, and gives the exit code.
pub fn run(arguments: &[OsString]) -> u8 {
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    let before_dashes = words.iter().take_while(|word| *word != "--");
    let is_help = |word: &str| matches!(word, "-h" | "-help" | "--help");
    let wants_help = before_dashes.clone().any(|word| is_help(word));
    let first = before_dashes.map(AsRef::as_ref).find(|word| !is_help(word));
    match first {
        Some("-v" | "-version" | "--version") => {
            print(version::text().as_bytes());
            return 0;
        }
        None => return top_level(wants_help),
        Some(_) => {}
    }
    // Where the command's name begins; `-h` may stand before it.
    let start = words.iter().position(|word| !is_help(word)).unwrap_or(0);
    let names: Vec<&str> = words[start..].iter().map(AsRef::as_ref).collect();
    if names[0].starts_with('-') {
        complain(
            "Invalid flags before the subcommand. If these flags are for\nthe subcommand, please put them after the subcommand.\n",
        );
        return 1;
    }
    let depth = |path: &[&str]| names.starts_with(path).then_some(path.len());
    if let Some(leaf) = LEAVES.iter().find(|leaf| depth(leaf.path).is_some()) {
        return run_leaf(leaf, wants_help, &arguments[start + leaf.path.len()..]);
    }
    let group = GROUPS.iter().filter(|group| depth(group.path).is_some());
    match group.max_by_key(|group| group.path.len()) {
        Some(group) if wants_help => {
            print(group_help(group).as_bytes());
            0
        }
        Some(group) => {
            complain(group_help(group).trim_end());
            1
        }
        None => top_level(false),
    }
}

fn run_leaf(leaf: &Leaf, wants_help: bool, arguments: &[OsString]) -> u8 {
    let definition = (leaf.definition)();
    if wants_help {
        let usage = format!("{PROGRAM} {}", leaf.usage);
        print(help::command_help(&usage, leaf.about, &definition).as_bytes());
        return 0;
    }
    let given = match Given::parse(definition.clone(), arguments) {
        Ok(given) => given,
        Err(error) => {
            complain(&format!("{error}\n{}", help::flag_usage(&definition).trim_end()));
            return 1;
        }
    };
    match (leaf.run)(&given) {
        Ok(Ending::Done(output)) => {
            print(&output);
            0
        }
        Ok(Ending::Code(code)) => code,
        Err(text) => {
            complain(&text);
            1
        }
    }
}

fn top_level(wants_help: bool) -> u8 {
    let mut text = format!(
        "Usage: {PROGRAM} [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n"
    );
    text.push_str(&subcommands(&[]));
    if wants_help {
        print(text.as_bytes());
        0
    } else {
        complain(text.trim_end());
        127
    }
}

fn group_help(group: &Group) -> String {
    format!(
        "Usage: {PROGRAM} {}\n\n{}\n\nSubcommands:\n{}",
        group.usage,
        group.about,
        subcommands(group.path)
    )
}

/// The commands directly below `path`.
fn subcommands(path: &[&str]) -> String {
    let leaves = LEAVES.iter().map(|leaf| (leaf.path, leaf.synopsis));
    let groups = GROUPS.iter().map(|group| (group.path, group.synopsis));
    let below = |place: &[&str]| place.len() == path.len() + 1 && place.starts_with(path);
    let mut entries: Vec<_> = leaves
        .chain(groups)
        .filter(|(place, _)| below(place))
        .map(|(place, synopsis)| (place[path.len()], synopsis))
        .collect();
    entries.sort_unstable();
    help::synopses(&entries)
}

/// Writes to standard output; that nobody reads it is no error of ours.
fn print(output: &[u8]) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(output).and_then(|()| out.flush());
}

/// Writes a line to standard error.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// An operating system's error in Go's words, which scripts match on: `no such file or directory`.
pub fn go_error(error: &io::Error) -> String {
    let text = error.to_string();
    let Some(code) = error.raw_os_error() else { return text };
    let text = text.trim_end_matches(&format!(" (os error {code})"));
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
