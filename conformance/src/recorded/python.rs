//! What recorded commands did with Python, without it: it isn't everywhere.

use std::{fmt::Write as _, thread, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    Answer, parse,
    send::{Target, get},
};

/// Whether a command prints what an agent says of itself.
pub(super) fn is_of_the_agent(command: &str) -> bool {
    command.contains("| python3 -c") && command.contains("/v1/agent/self")
}

/// Whether a command asks every second how a member stands.
pub(super) fn polls(command: &str) -> bool {
    command.starts_with("for i in ") && command.contains("member.Status=")
}

/// Does what a command would; none where another module does.
pub(super) fn answer(command: &str, target: &Target) -> Result<Option<Answer>> {
    let output = if polls(command) {
        poll(command, target)?
    } else if command.contains("print([(x['Name'],x['Status'])") {
        thread::sleep(Duration::from_secs(1));
        let members = get(addresses(command).next().context("no address")?, target)?.json()?;
        let each = members.as_array().into_iter().flatten().map(|member| {
            format!("('{}', {})", member["Name"].as_str().unwrap_or_default(), member["Status"])
        });
        format!("[{}]", each.collect::<Vec<_>>().join(", "))
    } else {
        return Ok(None);
    };
    parse::parse_answer(command, &output, 0).map(Some)
}

fn addresses(command: &str) -> impl Iterator<Item = &str> {
    let words = command.split([' ', ')']);
    words.filter(|word| word.starts_with("http://"))
}

/// Asks for a member, its node's check and a session, until the check is critical.
fn poll(command: &str, target: &Target) -> Result<String> {
    let mut addresses = addresses(command);
    let mut next = || addresses.next().context("too few addresses");
    let (members, health, session) = (next()?, next()?, next()?);
    let name = health.rsplit('/').next().unwrap_or_default();
    let mut output = String::new();
    for second in 1..=25 {
        let members = get(members, target)?.json()?;
        let found = members.as_array().into_iter().flatten().find(|member| member["Name"] == *name);
        let status = found.map_or(Value::Null, |member| member["Status"].clone());
        let mut check = first_check(health, target)?;
        // One after the other, while the check changes once and takes the session with it: a line is of one moment only
        // where the check is the same before and behind.
        let session: String = loop {
            let session = get(session, target)?.text().chars().take(30).collect();
            let now = first_check(health, target)?;
            if now == check {
                break session;
            }
            check = now;
        };
        writeln!(output, "{second}s member.Status={status} serfHealth={check} session={session}")?;
        if check == "critical" {
            break;
        }
        thread::sleep(Duration::from_secs(1));
    }
    Ok(output)
}

/// How a node's first check stands.
fn first_check(health: &str, target: &Target) -> Result<String> {
    let checks = get(health, target)?.json()?;
    Ok(checks[0]["Status"].as_str().unwrap_or("None").to_owned())
}

/// What changed from one poll to the next: how often it was looked at says nothing, nor which of two that don't know of each
/// other knew it first.
pub(super) fn changes(output: &str) -> String {
    let lines = output.lines().map(|line| {
        let state = line.split_once(" serfHealth=").map_or(line, |(_, state)| state);
        // The id is cut off in the midst of it.
        state.split_inclusive("\"ID\":\"").next().unwrap_or_default()
    });
    let mut lines: Vec<&str> = lines.collect();
    lines.dedup();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_told_by_what_changed() {
        let output = "1s member.Status=1 serfHealth=passing session=[{\"ID\":\"5062\n\
                      2s member.Status=4 serfHealth=passing session=[{\"ID\":\"5062\n\
                      3s member.Status=4 serfHealth=critical session=[]";
        assert_eq!(changes(output), "passing session=[{\"ID\":\"\ncritical session=[]");
    }

    #[test]
    fn addresses_are_found_in_a_shell_s_words() {
        let command = "for i in 1; do m=$(curl -s http://a/b | x); s=$(curl http://c/d); done";
        assert_eq!(addresses(command).collect::<Vec<_>>(), ["http://a/b", "http://c/d"]);
    }
}
