//! Compares an observed answer with the recorded one.
//!
//! Most of an answer has to be the same byte for byte. Ids and indexes can't be: they are compared by their relations.
//! Indexes that were equal have to be equal, and the greater one greater, over all steps of a story; ids likewise. The
//! order of headers of different names means nothing (RFC 9110 §5.3) and isn't compared; that of keys in JSON is.

use std::{collections::BTreeMap, ops::Range};

use super::{Answer, flatten, lists::matches, parse::Step, send::Observed};

/// Among a step's variables: how long it took.
const VARIABLE_TIME: &str = "[elapsed ";
/// Every number in it.
const VARIABLE_NUMBERS: &str = "<number>";

/// Something that isn't as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What of the answer.
    pub field: String,
    /// What was recorded; empty where there was nothing.
    pub recorded: String,
    /// What was observed; empty where there is nothing.
    pub observed: String,
}

fn finding(field: impl Into<String>, recorded: &str, observed: &str) -> Finding {
    Finding { field: field.into(), recorded: recorded.to_string(), observed: observed.to_string() }
}

/// Which observed index and id stands for which recorded one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relations {
    indexes: BTreeMap<u64, u64>,
    ids: BTreeMap<String, String>,
}

impl Relations {
    /// The observed index that stands for a recorded one.
    pub fn index(&self, recorded: u64) -> Option<u64> {
        self.indexes.get(&recorded).copied()
    }

    /// A text with the observed ids in place of the recorded ones.
    pub fn with_ids(&self, text: &str) -> String {
        self.ids.iter().fold(text.to_owned(), |text, (recorded, observed)| {
            text.replace(recorded.as_str(), observed)
        })
    }

    /// Notes that one index stands for another; false where that contradicts what was seen before.
    pub fn relate_index(&mut self, recorded: u64, observed: u64) -> bool {
        if let Some(known) = self.indexes.get(&recorded) {
            return *known == observed;
        }
        // 0 isn't an index: it says that there is none.
        let below = self.indexes.range(..recorded).next_back().map(|(_, observed)| *observed);
        let above = self.indexes.range(recorded + 1..).next().map(|(_, observed)| *observed);
        let fits = (recorded == 0) == (observed == 0)
            && below.is_none_or(|below| below < observed)
            && above.is_none_or(|above| observed < above);
        if fits {
            self.indexes.insert(recorded, observed);
        }
        fits
    }

    /// Forgets the indexes: steps that lie between were left out, and with them what they wrote.
    pub fn forget_indexes(&mut self) {
        self.indexes.clear();
    }

    fn relate_id(&mut self, recorded: &str, observed: &str) -> bool {
        if let Some(known) = self.ids.get(recorded) {
            return known == observed;
        }
        let fresh = !self.ids.values().any(|known| known == observed);
        if fresh {
            self.ids.insert(recorded.to_owned(), observed.to_owned());
        }
        fresh
    }
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Compared byte for byte.
    Text(String),
    /// An index.
    Index(u64),
    /// An id.
    Id(String),
    /// A value that says nothing.
    Any,
}

/// Cuts a text into what is compared in different ways. `variables` are the texts before values that say nothing.
fn tokens(text: &str, variables: &[&str]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    let flush = |literal: &mut String, tokens: &mut Vec<Token>| {
        if !literal.is_empty() {
            tokens.push(Token::Text(std::mem::take(literal)));
        }
    };
    while let Some(c) = rest.chars().next() {
        if let Some(after) = variables.iter().find(|after| rest.starts_with(**after)) {
            literal += after;
            flush(&mut literal, &mut tokens);
            rest = &rest[after.len()..];
            let end = rest.find(['"', ',', '}', '\n', ' ', ')']).unwrap_or(rest.len());
            rest = &rest[end..];
            tokens.push(Token::Any);
            continue;
        }
        let within = literal.chars().next_back().is_some_and(|c| c.is_ascii_alphanumeric());
        let number =
            (c == '-' || c.is_ascii_digit()) && !within && variables.contains(&VARIABLE_NUMBERS);
        if number && let Some(end) = end_of_number(rest) {
            flush(&mut literal, &mut tokens);
            rest = &rest[end..];
            tokens.push(Token::Any);
            continue;
        }
        let length = if within {
            0
        } else if is_uuid(rest) {
            36
        } else if c.is_ascii_digit() && names_an_index(&literal) {
            rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())
        } else {
            0
        };
        if length > 0 {
            flush(&mut literal, &mut tokens);
            let word = &rest[..length];
            tokens.push(match word.parse() {
                Ok(index) if length < 36 => Token::Index(index),
                _ => Token::Id(word.to_owned()),
            });
            rest = &rest[length..];
            continue;
        }
        literal.push(c);
        rest = &rest[c.len_utf8()..];
    }
    flush(&mut literal, &mut tokens);
    tokens
}

/// Where the number ends that a text begins with; none where no number begins it.
fn end_of_number(text: &str) -> Option<usize> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e'));
    let end = end.unwrap_or(text.len());
    text[..end].parse::<f64>().is_ok().then_some(end)
}

/// Whether what stands before a number says that it is an index.
fn names_an_index(before: &str) -> bool {
    let name = before.trim_end_matches([' ', ':', '"']);
    let named = name.ends_with("CreateIndex")
        || name.ends_with("ModifyIndex")
        || name.ends_with("\"Index")
        || name.ends_with("to index")
        || name.ends_with("\nIndex");
    named && before.len() > name.len()
}

fn is_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 36
        && bytes[..36].iter().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(byte),
        })
        && !bytes.get(36).is_some_and(u8::is_ascii_alphanumeric)
}

/// Compares two texts; tells which of their relations doesn't hold, or that they differ.
fn compare_text(
    field: &str,
    recorded: &str,
    observed: &str,
    variables: &[&str],
    relations: &mut Relations,
) -> Vec<Finding> {
    let (left, right) = (tokens(recorded, variables), tokens(observed, variables));
    if left.len() != right.len() {
        return vec![finding(field, recorded, observed)];
    }
    let mut findings = Vec::new();
    // Of texts that differ nothing is taken over: what stands at one place isn't what stood there.
    let mut trial = relations.clone();
    for pair in left.iter().zip(&right) {
        match pair {
            (Token::Index(a), Token::Index(b)) => {
                if !trial.relate_index(*a, *b) {
                    findings.push(finding(
                        format!("{field} index"),
                        &a.to_string(),
                        &b.to_string(),
                    ));
                }
            }
            (Token::Id(a), Token::Id(b)) => {
                if !trial.relate_id(a, b) {
                    findings.push(finding(format!("{field} id"), a, b));
                }
            }
            (a, b) if a == b => {}
            _ => return vec![finding(field, recorded, observed)],
        }
    }
    *relations = trial;
    findings
}

/// Compares an observed answer with a step's; `variables` name values that say nothing.
pub fn compare(
    step: &Step,
    observed: &Observed,
    variables: &[&str],
    relations: &mut Relations,
) -> Vec<Finding> {
    match (&step.answer, &observed.answer) {
        (
            Answer::Http { status_line, headers, body, has_body },
            Answer::Http { status_line: o_status, headers: o_headers, body: o_body, .. },
        ) => {
            let mut findings = Vec::new();
            if status_line != o_status {
                findings.push(finding("status", status_line, o_status));
            }
            let headers = Headers {
                has_body: *has_body,
                index_is_an_id: step.command.contains("/v1/event/list"),
                variables,
            }
            .compare(headers, o_headers, relations);
            findings.extend(headers);
            if *has_body {
                findings.extend(compare_bodies(step, body, o_body, variables, relations));
            }
            findings
        }
        (Answer::Text { output, exit }, Answer::Text { output: o_output, exit: o_exit }) => {
            let mut findings = compare_text("output", output, o_output, variables, relations);
            if exit != o_exit {
                findings.push(finding("exit", &exit.to_string(), &o_exit.to_string()));
            }
            findings
        }
        (Answer::Tree(tree), Answer::Tree(o_tree)) => {
            compare_trees(tree, o_tree, variables, relations)
        }
        (recorded, observed) => {
            vec![finding("kind", &format!("{recorded:?}"), &format!("{observed:?}"))]
        }
    }
}

/// Compares how long an answer took with how long it took when it was recorded, or with the bounds that are told instead.
pub fn compare_elapsed(
    step: &Step,
    observed: &Observed,
    variables: &[&str],
    instead: Option<&Range<f64>>,
) -> Option<Finding> {
    let bounds = instead.cloned().unwrap_or_else(|| elapsed_bounds(step));
    let holds = bounds.contains(&observed.elapsed) || variables.contains(&VARIABLE_TIME);
    let expected = match instead {
        Some(bounds) => format!("{}..{}", bounds.start, bounds.end),
        None => format!("{:.2}", step.elapsed),
    };
    (!holds).then(|| finding("elapsed", &expected, &format!("{:.2}", observed.elapsed)))
}

/// How long an answer may take: what waited when it was recorded has to wait, and what answered at once has to answer at
/// once. A machine that is busy, or stands still for a moment, takes seconds longer, and many more to load a command of a
/// real Consul's; one that hangs takes longer than that.
fn elapsed_bounds(step: &Step) -> Range<f64> {
    match (&step.answer, step.elapsed) {
        (_, recorded) if recorded >= 0.9 => recorded.floor() * 0.95..recorded + 4.0,
        (Answer::Text { .. }, _) => 0.0..30.0,
        (Answer::Http { .. } | Answer::Tree(_), _) => 0.0..4.5,
    }
}

/// Compares bodies: those that list members by the members' names, others as they are.
fn compare_bodies(
    step: &Step,
    recorded: &str,
    observed: &str,
    variables: &[&str],
    relations: &mut Relations,
) -> Vec<Finding> {
    if step.command.contains("/v1/agent/members")
        && let Some(recorded) = flatten::members(recorded)
        && let Some(observed) = flatten::members(observed)
    {
        return compare_trees(&recorded, &observed, variables, relations);
    }
    compare_text("body", recorded, observed, variables, relations)
}

/// How headers are compared.
struct Headers<'a> {
    has_body: bool,
    /// An index that has no order: it is made of an event's id.
    index_is_an_id: bool,
    /// Among others, the names of headers that say nothing, with a colon and a space.
    variables: &'a [&'a str],
}

impl Headers<'_> {
    fn compare(
        &self,
        recorded: &[(String, String)],
        observed: &[(String, String)],
        relations: &mut Relations,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        let (mut recorded, mut observed) = (by_name(recorded), by_name(observed));
        for headers in [&mut recorded, &mut observed] {
            headers.retain(|name, _| !self.variables.contains(&&*format!("{name}: ")));
        }
        let gzip = recorded.get("Content-Encoding").is_some_and(|value| value == "gzip");
        for (name, value) in &recorded {
            let field = format!("header {name}");
            let Some(seen) = observed.get(name) else {
                findings.push(finding(field, value, ""));
                continue;
            };
            match name.as_str() {
                "Date" if is_date(seen) => {}
                // The client has checked that the length is the body's, and the bodies are compared.
                "Content-Length" if self.has_body || gzip => {}
                "X-Consul-Index" if self.index_is_an_id => {
                    if !relations.relate_id(value, seen) {
                        findings.push(finding(field, value, seen));
                    }
                }
                "X-Consul-Index" => match (value.parse(), seen.parse()) {
                    (Ok(a), Ok(b)) if relations.relate_index(a, b) => {}
                    _ => findings.push(finding(field, value, seen)),
                },
                "X-Consul-Lastcontact" if is_as_long_ago(value, seen) => {}
                _ if value == seen => {}
                _ => findings.push(finding(field, value, seen)),
            }
        }
        for (name, value) in &observed {
            if !recorded.contains_key(name) {
                findings.push(finding(format!("header {name}"), "", value));
            }
        }
        findings
    }
}

/// Whether a server heard from its leader at about the time when it did: it is the leader, it heard of it within the last
/// second, or not for longer.
fn is_as_long_ago(recorded: &str, observed: &str) -> bool {
    let (Ok(recorded), Ok(observed)) = (recorded.parse::<u64>(), observed.parse::<u64>()) else {
        return false;
    };
    match recorded {
        0 => observed == 0,
        1..1000 => observed < 1000,
        1000.. => observed >= 1000,
    }
}

/// Values by name, in its own bytes; several of one name are joined.
fn by_name(headers: &[(String, String)]) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        all.entry(name.clone())
            .and_modify(|joined| {
                joined.push_str(", ");
                joined.push_str(value);
            })
            .or_insert_with(|| value.clone());
    }
    all
}

/// Whether this is a date as HTTP writes it: `Sun, 22 Nov 2026 07:51:45 GMT`.
fn is_date(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_digit() {
                '0'
            } else if c.is_ascii_alphabetic() {
                'a'
            } else {
                c
            }
        })
        .collect();
    shape == "aaa, 00 aaa 0000 00:00:00 aaa" && text.ends_with(" GMT")
}

fn compare_trees(
    recorded: &[(String, String)],
    observed: &[(String, String)],
    variables: &[&str],
    relations: &mut Relations,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let varies = |name: &str| variables.iter().any(|pattern| matches(pattern, name));
    for (name, value) in recorded {
        let Some((_, seen)) = observed.iter().find(|(other, _)| other == name) else {
            findings.push(finding(name, value, ""));
            continue;
        };
        if !varies(name) {
            findings.extend(compare_text(name, value, seen, &[], relations));
        }
    }
    for (name, value) in observed {
        if !recorded.iter().any(|(other, _)| other == name) {
            findings.push(finding(name, "", value));
        }
    }
    let common = |tree: &[(String, String)], other: &[(String, String)]| -> Vec<String> {
        let names = tree.iter().map(|(name, _)| name);
        names.filter(|name| other.iter().any(|(o, _)| o == *name)).cloned().collect()
    };
    let (left, right) = (common(recorded, observed), common(observed, recorded));
    if left != right {
        findings.push(finding("order", &left.join(" "), &right.join(" ")));
    }
    findings
}

#[cfg(test)]
mod tests;
