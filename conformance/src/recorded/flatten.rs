//! Trees as lists of names and values, in their own order: an agent's description of itself, as JSON or as text.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// What the recorded command prints of `/v1/agent/self`: the top-level keys, how many keys `DebugConfig` has, then all
/// else as JSON.
pub(super) fn agent_self_as_printed(raw: &str) -> Result<Vec<(String, String)>> {
    let mut lines = raw.splitn(3, '\n');
    let keys = lines.next().unwrap_or_default().to_owned();
    let count = lines.next().and_then(|line| line.strip_prefix("DebugConfig keys: "));
    let count = count.context("no count of DebugConfig's keys")?.to_owned();
    let mut tree = vec![("keys".to_owned(), keys), ("DebugConfig keys".to_owned(), count)];
    tree.extend(json(lines.next().unwrap_or_default())?);
    Ok(tree)
}

/// The same of the answer itself.
pub(super) fn agent_self(text: &str) -> Result<Vec<(String, String)>> {
    let all = json(text)?;
    let mut keys: Vec<&str> = Vec::new();
    for (path, _) in &all {
        let key = path.split('.').next().unwrap_or_default();
        if keys.last() != Some(&key) {
            keys.push(key);
        }
    }
    let quoted: Vec<String> = keys.iter().map(|key| format!("'{key}'")).collect();
    let debug: serde_json::Value = serde_json::from_str(text)?;
    let count =
        debug.get("DebugConfig").and_then(|v| v.as_object()).map_or(0, serde_json::Map::len);
    let mut tree = vec![
        ("keys".to_owned(), format!("[{}]", quoted.join(", "))),
        ("DebugConfig keys".to_owned(), count.to_string()),
    ];
    tree.extend(all.into_iter().filter(|(path, _)| !path.starts_with("DebugConfig")));
    Ok(tree)
}

/// What the recorded command prints of a client agent's `/v1/agent/self`: `Config` and `Stats.consul`, as Python has them.
pub(super) fn config_and_stats_as_printed(raw: &str) -> Result<Vec<(String, String)>> {
    let text = raw.replace('\'', "\"").replace("False", "false").replace("True", "true");
    let (config, stats) = text.split_once("} {").context("not two dictionaries")?;
    json(&format!("{{\"Config\":{config}}},\"Stats\":{{\"consul\":{{{stats}}}}}"))
}

/// The same of the answer itself.
pub(super) fn config_and_stats(text: &str) -> Result<Vec<(String, String)>> {
    let mut tree = json(text)?;
    tree.retain(|(path, _)| path.starts_with("Config.") || path.starts_with("Stats.consul."));
    Ok(tree)
}

/// A list of members by their names: a real Consul tells them in an order of Go's own each time. None where it isn't such a
/// list.
pub(super) fn members(text: &str) -> Option<Vec<(String, String)>> {
    let leaves = json(text).ok()?;
    let split = |path: &str| path.split_once('.').map(|(n, rest)| (n.to_owned(), rest.to_owned()));
    let names: BTreeMap<String, String> = leaves
        .iter()
        .filter_map(|(path, value)| {
            let (n, field) = split(path)?;
            (field == "Name").then(|| (n, value.trim_matches('"').to_owned()))
        })
        .collect();
    let mut tree = Vec::new();
    for (path, value) in leaves {
        let (n, field) = split(&path)?;
        let name = names.get(&n)?;
        tree.push((name, format!("{field}/{name}"), value));
    }
    tree.sort_by_key(|(name, ..)| *name);
    Some(tree.into_iter().map(|(_, path, value)| (path, value)).collect())
}

/// `section:` lines, and below each `\tname = value` lines.
pub(super) fn sections(text: &str) -> Vec<(String, String)> {
    let mut tree = Vec::new();
    let mut section = "";
    for line in text.lines() {
        if let Some((name, value)) = line.trim_start().split_once(" =") {
            tree.push((format!("{section}.{name}"), value.trim_start().to_owned()));
        } else if let Some(name) = line.strip_suffix(':') {
            section = name;
        } else if !line.is_empty() {
            tree.push((line.to_owned(), String::new()));
        }
    }
    tree
}

/// The leaves of a JSON text, in their own order: a parser into maps would sort them.
pub(super) fn json(text: &str) -> Result<Vec<(String, String)>> {
    serde_json::from_str::<serde_json::Value>(text).context("not JSON")?;
    let mut leaves = Vec::new();
    let mut rest = text.trim_start();
    value(&mut rest, "", &mut leaves)?;
    Ok(leaves)
}

/// Takes one value; the text is known to be JSON.
fn value(rest: &mut &str, path: &str, leaves: &mut Vec<(String, String)>) -> Result<()> {
    *rest = rest.trim_start();
    let (open, close) = match rest.chars().next() {
        Some('{') => ('{', '}'),
        Some('[') => ('[', ']'),
        _ => {
            leaves.push((path.to_owned(), scalar(rest)?));
            return Ok(());
        }
    };
    *rest = rest[1..].trim_start();
    if rest.starts_with(close) {
        leaves.push((path.to_owned(), format!("{open}{close}")));
        *rest = &rest[1..];
        return Ok(());
    }
    for n in 0.. {
        *rest = rest.trim_start();
        let name = if open == '{' {
            let name = scalar(rest)?;
            *rest = rest.trim_start();
            ensure!(rest.starts_with(':'), "no colon");
            *rest = &rest[1..];
            name.trim_matches('"').to_owned()
        } else {
            n.to_string()
        };
        let below = if path.is_empty() { name } else { format!("{path}.{name}") };
        value(rest, &below, leaves)?;
        *rest = rest.trim_start();
        let end = rest.starts_with(close);
        ensure!(end || rest.starts_with(','), "neither a comma nor an end");
        *rest = &rest[1..];
        if end {
            break;
        }
    }
    Ok(())
}

/// Takes a string, with its quotes, or a word.
fn scalar(rest: &mut &str) -> Result<String> {
    let end = if rest.starts_with('"') {
        let mut escaped = false;
        let found = rest.char_indices().skip(1).find(|(_, c)| {
            let end = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            end
        });
        found.map(|(at, _)| at + 1)
    } else {
        Some(rest.find([',', '}', ']', '\n', ' ']).unwrap_or(rest.len()))
    };
    let Some(end) = end else { bail!("a string without an end") };
    let taken = rest[..end].to_owned();
    *rest = &rest[end..];
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(tree: &[(String, String)]) -> Vec<(&str, &str)> {
        tree.iter().map(|(path, value)| (path.as_str(), value.as_str())).collect()
    }

    #[test]
    fn leaves_keep_the_order_of_the_text() {
        let tree = json(r#"{"b": {"y":1, "x":"a\"}b"}, "a":[true,{}]}"#).unwrap();
        let expected = [("b.y", "1"), ("b.x", r#""a\"}b""#), ("a.0", "true"), ("a.1", "{}")];
        assert_eq!(pairs(&tree), expected);
    }

    #[test]
    fn members_are_told_by_their_names() {
        let text = r#"[{"Name":"b","Tags":{"x":"1"}}, {"Name":"a","Port":2}]"#;
        let expected =
            [("Name/a", "\"a\""), ("Port/a", "2"), ("Name/b", "\"b\""), ("Tags.x/b", "\"1\"")];
        assert_eq!(pairs(&members(text).unwrap()), expected);
        assert_eq!(members(r#"{"Name":"a"}"#), None);
    }

    #[test]
    fn sections_give_their_name_to_what_is_below_them() {
        let tree = sections("agent:\n\tchecks = 2\nbuild:\n\trevision = \n");
        assert_eq!(pairs(&tree), [("agent.checks", "2"), ("build.revision", "")]);
    }
}
