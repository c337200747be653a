//! Consul's command line behind clap: single dashes, `-flag=value` and `-flag value`, and Go's rule that flags end at
//! the first argument that isn't one.

use std::error::Error as _;
use std::ffi::{OsStr, OsString};

use clap::builder::ValueRange;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, ArgMatches, Command};

/// The heading of the flags that every command with a request has.
pub const API_OPTIONS: &str = "HTTP API Options";

const ARGUMENTS: &str = "arguments";

/// A flag that is on or off: `-name`, `-name=false`.
pub fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(parse_bool)
        .action(ArgAction::Set)
        .overrides_with(name)
        .help(help)
}

/// A flag with a value; the last one counts.
pub fn value(name: &'static str, shown: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .num_args(1)
        .value_name(shown)
        .allow_hyphen_values(true)
        .action(ArgAction::Set)
        .overrides_with(name)
        .help(help)
}

/// A flag with an unsigned number.
pub fn number(name: &'static str, help: &'static str) -> Arg {
    value(name, "uint", help).value_parser(parse_uint)
}

/// A flag with a signed number.
pub fn integer(name: &'static str, help: &'static str) -> Arg {
    value(name, "value", help).value_parser(parse_int)
}

/// A flag that may be given many times.
pub fn list(name: &'static str, shown: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .num_args(1)
        .value_name(shown)
        .allow_hyphen_values(true)
        .action(ArgAction::Append)
        .help(help)
}

/// The flags of a command that sends a request.
pub fn with_api_options(command: Command) -> Command {
    let api = |arg: Arg| arg.help_heading(API_OPTIONS);
    command.args([
        api(value("ca-file", "value", "Path to a CA file for TLS. Refused: TLS is not supported yet.")),
        api(value("ca-path", "value", "Path to a directory of CA certificates for TLS. Refused: TLS is not supported yet.")),
        api(value("client-cert", "value", "Path to a client certificate for TLS. Refused: TLS is not supported yet.")),
        api(value("client-key", "value", "Path to a client certificate's key for TLS. Refused: TLS is not supported yet.")),
        api(value("datacenter", "value", "Name of the datacenter to query. If unspecified, this will default to the datacenter of the queried agent.")),
        api(value("http-addr", "address", "The address and port of the HTTP agent. The value can be an IP address or DNS address, but it must also include the port. This can also be specified via the CONSUL_HTTP_ADDR environment variable. The default value is http://127.0.0.1:8500.")),
        api(switch("stale", "Permit any server (non-leader) to respond to this request. This allows for lower latency and higher throughput, but can result in stale data. This option has no effect on non-read operations. The default value is false.")),
        api(value("tls-server-name", "value", "The server's name for TLS. Refused: TLS is not supported yet.")),
        api(value("token", "value", "ACL token to use in the request. This can also be specified via the CONSUL_HTTP_TOKEN environment variable. If unspecified, the query will default to the token of the agent at the HTTP address.")),
        api(value("token-file", "value", "File containing the ACL token to use in the request instead of one specified via the -token argument or CONSUL_HTTP_TOKEN environment variable. This can also be specified via the CONSUL_HTTP_TOKEN_FILE environment variable.")),
    ])
}

/// What a command was given.
pub struct Given {
    matches: ArgMatches,
}

impl Given {
    /// Parses a command's arguments; an error is Go's own line about the flag.
    pub fn parse(command: Command, arguments: &[OsString]) -> Result<Self, String> {
        let rewritten = rewrite(&command, arguments)?;
        let command =
            command.no_binary_name(true).disable_help_flag(true).disable_version_flag(true).arg(
                Arg::new(ARGUMENTS)
                    .num_args(0..)
                    .value_parser(clap::value_parser!(OsString))
                    .last(true),
            );
        let matches =
            command.try_get_matches_from(&rewritten).map_err(|error| bad_value(&error))?;
        Ok(Self { matches })
    }

    /// Whether a switch is on.
    pub fn on(&self, name: &str) -> bool {
        self.matches.get_one::<bool>(name).copied().unwrap_or(false)
    }

    /// A flag's value, where it was given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.matches.get_one::<String>(name).map(String::as_str)
    }

    /// A numeric flag's value; 0 where it wasn't given.
    pub fn number(&self, name: &str) -> u64 {
        self.matches.get_one::<u64>(name).copied().unwrap_or(0)
    }

    /// A signed flag's value, where it was given.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.matches.get_one::<i64>(name).copied()
    }

    /// Whether a flag was given at all.
    pub fn given(&self, name: &str) -> bool {
        self.matches.contains_id(name)
    }

    /// Every value that a flag was given, as text.
    pub fn raw(&self, name: &str) -> Vec<String> {
        let values = self.matches.get_raw(name).into_iter().flatten();
        values.map(|value| value.to_string_lossy().into_owned()).collect()
    }

    /// The values of several flags in the order of the command line.
    pub fn in_order(&self, names: &[&str]) -> Vec<String> {
        let mut found: Vec<(usize, String)> = Vec::new();
        for name in names {
            let places = self.matches.indices_of(name).into_iter().flatten();
            found.extend(places.zip(self.raw(name)));
        }
        found.sort();
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// The arguments behind the flags.
    pub fn arguments(&self) -> Vec<&OsStr> {
        let given = self.matches.get_many::<OsString>(ARGUMENTS).into_iter().flatten();
        given.map(OsString::as_os_str).collect()
    }
}

/// Rewrites Go's form into clap's: `-flag value` into `--flag=value`, and `--` before the first argument.
///
/// `kv put k -5` writes "-5": in Go nothing behind the first argument is a flag.
fn rewrite(command: &Command, arguments: &[OsString]) -> Result<Vec<OsString>, String> {
    let mut rewritten = Vec::with_capacity(arguments.len() + 1);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            break;
        }
        if !text.starts_with('-') || text == "-" {
            rewritten.push("--".into());
            rewritten.push(argument.clone());
            rewritten.extend(rest.cloned());
            return Ok(rewritten);
        }
        let flag = text.strip_prefix("--").unwrap_or(&text[1..]);
        if flag.is_empty() || flag.starts_with(['-', '=']) {
            return Err(format!("bad flag syntax: {text}"));
        }
        let (name, given) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v)));
        let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == Some(name)) else {
            return Err(format!("flag provided but not defined: -{name}"));
        };
        match given {
            Some(value) => rewritten.push(format!("--{name}={value}").into()),
            None if is_switch(arg) => rewritten.push(format!("--{name}").into()),
            None => {
                let next = rest.next().ok_or(format!("flag needs an argument: -{name}"))?;
                let mut joined = OsString::from(format!("--{name}="));
                joined.push(next);
                rewritten.push(joined);
            }
        }
    }
    rewritten.push("--".into());
    rewritten.extend(rest.cloned());
    Ok(rewritten)
}

/// Whether a flag stands without a value.
pub fn is_switch(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|count: ValueRange| count.min_values() == 0)
}

fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn parse_bool(text: &str) -> Result<bool, &'static str> {
    go_bool(text).ok_or("parse error")
}

fn parse_uint(text: &str) -> Result<u64, &'static str> {
    parse_go_number(text).ok_or("parse error")
}

fn parse_int(text: &str) -> Result<i64, &'static str> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let size = parse_go_number(digits).and_then(|size| i64::try_from(size).ok());
    size.map(|size| if negative { -size } else { size }).ok_or("parse error")
}

/// Go reads a flag's number with its prefix: 0x10, 0b1, 0o7, 017.
fn parse_go_number(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, radix).ok() }
}

/// Go's line about a value that doesn't parse, from what clap knows of it.
fn bad_value(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (Some(arg), Some(value), Some(source)) =
        (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue), error.source())
    else {
        return error.to_string();
    };
    let name = arg.trim_start_matches(['-', '[']).split(['=', '[', ' ']).next().unwrap_or_default();
    let is_switch = arg.contains('[');
    if is_switch {
        format!("invalid boolean value {value:?} for -{name}: {source}")
    } else {
        format!("invalid value {value:?} for flag -{name}: {source}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command::new("test").args([
            switch("cas", ""),
            number("modify-index", ""),
            value("session", "string", ""),
            list("config-file", "value", ""),
            list("config-dir", "value", ""),
        ])
    }

    fn parse(arguments: &[&str]) -> Result<Given, String> {
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        Given::parse(command(), &arguments)
    }

    #[test]
    fn one_dash_and_two_and_an_equals_sign_and_none_mean_the_same() {
        for arguments in [
            &["-cas", "-modify-index=7", "-session", "s", "k", "v"][..],
            &["--cas=true", "--modify-index", "7", "--session=s", "k", "v"],
        ] {
            let given = parse(arguments).unwrap();
            assert!(given.on("cas"));
            assert_eq!(given.number("modify-index"), 7);
            assert_eq!(given.text("session"), Some("s"));
            assert_eq!(given.arguments(), ["k", "v"]);
        }
    }

    #[test]
    fn flags_end_at_the_first_argument() {
        let given = parse(&["-cas", "k", "-5", "-session=x"]).unwrap();
        assert_eq!(given.arguments(), ["k", "-5", "-session=x"]);
        assert_eq!(given.text("session"), None);
        assert_eq!(parse(&["-", "-cas"]).unwrap().arguments(), ["-", "-cas"]);
        assert_eq!(parse(&["-cas", "--", "-cas"]).unwrap().arguments(), ["-cas"]);
    }

    #[test]
    fn a_value_may_look_like_a_flag_and_the_last_one_counts() {
        let given = parse(&["-session", "-cas", "-session=--x=1"]).unwrap();
        assert_eq!(given.text("session"), Some("--x=1"));
        assert!(!given.on("cas"));
        assert!(!parse(&["-cas", "-cas=false"]).unwrap().on("cas"));
    }

    #[test]
    fn a_bad_flag_is_told_in_go_s_words() {
        for (arguments, error) in [
            (&["-nosuch", "a"][..], "flag provided but not defined: -nosuch"),
            (&["--nosuch=1"], "flag provided but not defined: -nosuch"),
            (&["-session"], "flag needs an argument: -session"),
            (&["---cas"], "bad flag syntax: ---cas"),
            (&["-=x"], "bad flag syntax: -=x"),
            (&["-modify-index=x"], "invalid value \"x\" for flag -modify-index: parse error"),
            (&["-cas=x"], "invalid boolean value \"x\" for -cas: parse error"),
        ] {
            let found = parse(arguments).err();
            assert_eq!(found.as_deref(), Some(error), "{arguments:?}");
        }
    }

    #[test]
    fn files_and_directories_keep_the_order_of_the_command_line() {
        let given = parse(&["-config-file=a", "-config-dir", "b", "-config-file", "c"]).unwrap();
        assert_eq!(given.in_order(&["config-file", "config-dir"]), ["a", "b", "c"]);
    }

    #[test]
    fn numbers_are_read_with_go_s_prefixes() {
        for (text, value) in [("10", Some(10)), ("0x10", Some(16)), ("010", Some(8)), ("+1", None)]
        {
            assert_eq!(parse_go_number(text), value, "{text}");
        }
        assert_eq!(parse_int("-1").unwrap(), -1);
    }
}
