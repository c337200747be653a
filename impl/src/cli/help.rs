//! Help texts in Consul's form, from the same definitions that parse.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::flags::{API_OPTIONS, is_switch};

const HELP_WIDTH: usize = 72;
const HELP_INDENT: usize = 5;

/// The help of one command: usage, what it does, its flags.
pub(super) fn command_help(usage: &str, about: &str, command: &Command) -> String {
    let mut text = format!("Usage: {usage}\n\n{}\n", indent(about, 2));
    let api = |arg: &&Arg| arg.get_help_heading() == Some(API_OPTIONS);
    let (requests, own): (Vec<_>, Vec<_>) = command.get_arguments().partition(api);
    for (heading, args) in [(API_OPTIONS, requests), ("Command Options", own)] {
        if args.is_empty() {
            continue;
        }
        let _ = write!(text, "\n{heading}\n");
        for arg in sorted(args) {
            let _ = write!(text, "\n  -{}", arg.get_id());
            if !is_switch(arg) {
                let _ = write!(text, "=<{}>", shown(arg));
            }
            text.push('\n');
            for line in wrap(&help_of(arg), HELP_WIDTH - HELP_INDENT) {
                let _ = writeln!(text, "{:HELP_INDENT$}{line}", "");
            }
        }
    }
    text
}

/// What Go's flag package prints below a line about a bad flag.
pub(super) fn flag_usage(command: &Command) -> String {
    let mut text = "Usage:\n".to_owned();
    for arg in sorted(command.get_arguments().collect()) {
        let value = if is_switch(arg) { String::new() } else { format!(" {}", shown(arg)) };
        let _ = writeln!(text, "  -{}{value}\n    \t{}", arg.get_id(), help_of(arg));
    }
    text
}

fn sorted(mut args: Vec<&Arg>) -> Vec<&Arg> {
    args.sort_by_key(|arg| arg.get_id().as_str());
    args
}

fn shown(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.first().map_or_else(|| "value".to_owned(), ToString::to_string)
}

fn help_of(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

fn indent(text: &str, spaces: usize) -> String {
    let lines = text
        .lines()
        .map(|line| if line.is_empty() { String::new() } else { format!("{:spaces$}{line}", "") });
    lines.collect::<Vec<_>>().join("\n")
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let fits = lines.last().is_some_and(|line| line.len() + 1 + word.len() <= width);
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if fits => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A list of names and what they are, their columns aligned.
pub(super) fn synopses(entries: &[(&str, &str)]) -> String {
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    entries.iter().fold(String::new(), |mut text, (name, synopsis)| {
        let _ = writeln!(text, "    {name:width$}    {synopsis}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::{number, switch};

    #[test]
    fn flags_are_sorted_and_their_help_is_wrapped() {
        let long = "Unsigned integer representing the ModifyIndex of the key. This is used in combination with the -cas flag.";
        let command = Command::new("x").args([number("modify-index", long), switch("cas", "On.")]);
        assert_eq!(
            command_help("proconsul x [options]", "Does x.\n\n    $ x", &command),
            "Usage: proconsul x [options]\n\n  Does x.\n\n      $ x\n\nCommand Options\n\n  -cas\n     On.\n\n  -modify-index=<uint>\n     Unsigned integer representing the ModifyIndex of the key. This is\n     used in combination with the -cas flag.\n"
        );
        assert_eq!(
            flag_usage(&command),
            format!("Usage:\n  -cas\n    \tOn.\n  -modify-index uint\n    \t{long}\n")
        );
    }
}
