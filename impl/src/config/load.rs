//! Reading configuration files: which files, in which order, and how what they say is merged.
//!
//! Scalars: the last one wins. Lists append. Maps merge.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::ConfigError;
use super::schema::{self, Kind};

/// Reads the files that `sources` name, in order; a directory stands for its `*.json` in lexical order, or with
/// `all_json` for all its files.
pub fn read(sources: &[PathBuf], all_json: bool) -> Result<Vec<Value>, ConfigError> {
    let mut fragments = Vec::new();
    for source in sources {
        let opened = |error: &io::Error| {
            let path = source.display();
            ConfigError::new(format!(
                "config: Open failed on {path}. open {path}: {}",
                crate::cli::go_error(error)
            ))
        };
        if !fs::metadata(source).map_err(|error| opened(&error))?.is_dir() {
            fragments.push(read_file(source, all_json)?);
            continue;
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(source).map_err(|error| opened(&error))? {
            files.push(entry.map_err(|error| opened(&error))?.path());
        }
        files.sort();
        for file in files {
            let extension = file.extension().and_then(|extension| extension.to_str());
            // Files of other kinds (editors' backups, README) are passed over, as Consul passes over them.
            let wanted = all_json || matches!(extension, Some("json" | "hcl"));
            if wanted && file.is_file() {
                fragments.push(read_file(&file, all_json)?);
            }
        }
    }
    Ok(fragments)
}

fn read_file(path: &Path, all_json: bool) -> Result<Value, ConfigError> {
    let shown = path.display();
    if !all_json && path.extension().is_some_and(|extension| extension == "hcl") {
        // To pass over it would start an agent that ignores its operator.
        return Err(ConfigError::new(format!(
            "failed to parse {shown}: HCL is not supported yet: use JSON"
        )));
    }
    let text = fs::read_to_string(path).map_err(|error| {
        ConfigError::new(format!(
            "config: ReadFile failed on {shown}: {}",
            crate::cli::go_error(&error)
        ))
    })?;
    parse(&text).map_err(|error| ConfigError::new(format!("failed to parse {shown}: {error}")))
}

/// Parses the fragment that an argument `-hcl` is, of which this is the one with `number`.
pub fn parse_argument(number: usize, text: &str) -> Result<Value, ConfigError> {
    let failed =
        |error: &str| ConfigError::new(format!("failed to parse flags-{number}.hcl: {error}"));
    // What HCL has at its outermost are attributes and blocks, never a brace.
    if !text.trim_start().starts_with('{') {
        return Err(failed("HCL is not supported yet: use JSON"));
    }
    parse(text).map_err(|error| failed(&error))
}

/// Parses one JSON fragment and checks its keys and types.
pub fn parse(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        if error.is_eof() { "unexpected end of JSON input".to_owned() } else { error.to_string() }
    })?;
    let Value::Object(block) = value else {
        return Err(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            match value {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            }
        ));
    };
    let block = flatten_blocks(block, "");
    let mut unknown = Vec::new();
    let mut mistyped = Vec::new();
    check(&block, "", &mut unknown, &mut mistyped);
    if !unknown.is_empty() {
        let lines: Vec<_> =
            unknown.iter().map(|path| format!("invalid config key {path}")).collect();
        return Err(multi_error(&lines));
    }
    if !mistyped.is_empty() {
        let lines: Vec<_> = mistyped.iter().map(|line| format!("* {line}")).collect();
        return Err(format!("{} error(s) decoding:\n\n{}", lines.len(), lines.join("\n")));
    }
    Ok(Value::Object(block))
}

/// The text that Consul gives to several errors at once.
pub fn multi_error(lines: &[String]) -> String {
    let noun = if lines.len() == 1 { "error" } else { "errors" };
    format!("{} {noun} occurred:\n\t* {}\n\n", lines.len(), lines.join("\n\t* "))
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// Turns `"limits": [{..}, {..}]` into one block: what tools write that convert HCL into JSON.
fn flatten_blocks(block: Map<String, Value>, prefix: &str) -> Map<String, Value> {
    let flatten = |(key, value): (String, Value)| {
        let path = join(prefix, &key);
        let is_map = schema::find(&path).is_some_and(|key| key.kind == Kind::Map);
        if !schema::is_block(&path) && !is_map {
            return (key, value);
        }
        let value = match value {
            Value::Array(items) if items.iter().all(Value::is_object) => {
                let mut merged = Value::Object(Map::new());
                for item in items {
                    merge(&mut merged, item);
                }
                merged
            }
            other => other,
        };
        match value {
            Value::Object(inner) => (key, Value::Object(flatten_blocks(inner, &path))),
            other => (key, other),
        }
    };
    block.into_iter().map(flatten).collect()
}

fn check(
    block: &Map<String, Value>,
    prefix: &str,
    unknown: &mut Vec<String>,
    mistyped: &mut Vec<String>,
) {
    for (key, value) in block {
        let path = join(prefix, key);
        if let Some(key) = schema::find(&path) {
            mistyped.extend(type_error(&path, key.kind, value));
        } else if !schema::is_block(&path) {
            unknown.push(path);
        } else if let Value::Object(inner) = value {
            check(inner, &path, unknown, mistyped);
        } else if !value.is_null() {
            mistyped.push(format!("'{path}' expected a map, got '{}'", go_type(value)));
        }
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn type_error(path: &str, kind: Kind, value: &Value) -> Option<String> {
    let expected = match (kind, value) {
        (_, Value::Null)
        | (Kind::Any, _)
        | (Kind::Bool, Value::Bool(_))
        | (Kind::Float, Value::Number(_))
        | (Kind::Str | Kind::Duration, Value::String(_)) => return None,
        (Kind::Int, Value::Number(number)) if number.is_i64() => return None,
        (Kind::Strs, Value::Array(items)) => {
            let (place, item) = items.iter().enumerate().find(|(_, item)| !item.is_string())?;
            return type_error(&format!("{path}[{place}]"), Kind::Str, item);
        }
        (Kind::Map, Value::Object(inner)) => {
            let (key, item) = inner.iter().find(|(_, item)| !item.is_string())?;
            return type_error(&format!("{path}[{key}]"), Kind::Str, item);
        }
        (Kind::Strs, _) => {
            return Some(format!(
                "'{path}': source data must be an array or slice, got {}",
                go_type(value)
            ));
        }
        (Kind::Map, _) => {
            return Some(format!("'{path}' expected a map, got '{}'", go_type(value)));
        }
        (Kind::Bool, _) => "bool",
        (Kind::Int, _) => "int",
        (Kind::Float, _) => "float64",
        (Kind::Str | Kind::Duration, _) => "string",
    };
    Some(format!(
        "'{path}' expected type '{expected}', got unconvertible type '{}'",
        go_type(value)
    ))
}

/// Merges `from` into `into`.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (_, Value::Null) => {}
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from),
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        assert_eq!(
            parse(r#"{"nosuch_key":1,"data_dir":"/tmp"}"#),
            Err("1 error occurred:\n\t* invalid config key nosuch_key\n\n".to_owned())
        );
        assert_eq!(
            parse(r#"{"ports":{"x":1,"nosuch":2}}"#),
            Err("2 errors occurred:\n\t* invalid config key ports.nosuch\n\t* invalid config key ports.x\n\n"
                .to_owned())
        );
        assert!(parse(r#"{"Data_Dir":"/tmp"}"#).is_err(), "keys are matched letter by letter");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_consul_s_text() {
        for (text, error) in [
            (
                r#"{"data_dir":1}"#,
                "1 error(s) decoding:\n\n* 'data_dir' expected type 'string', got unconvertible type 'float64'",
            ),
            (
                r#"{"server":"yes"}"#,
                "1 error(s) decoding:\n\n* 'server' expected type 'bool', got unconvertible type 'string'",
            ),
            (
                r#"{"ports":{"http":"x"}}"#,
                "1 error(s) decoding:\n\n* 'ports.http' expected type 'int', got unconvertible type 'string'",
            ),
            (
                r#"{"start_join":"a"}"#,
                "1 error(s) decoding:\n\n* 'start_join': source data must be an array or slice, got string",
            ),
            ("{", "unexpected end of JSON input"),
            ("[1]", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn scalars_replace_lists_append_and_maps_merge() {
        let mut merged = json!({"a": 1, "l": ["x"], "m": {"k": 1, "j": 2}});
        merge(&mut merged, json!({"a": 2, "l": ["y"], "m": {"k": 3}, "n": null}));
        assert_eq!(merged, json!({"a": 2, "l": ["x", "y"], "m": {"k": 3, "j": 2}, "n": null}));
    }

    #[test]
    fn a_list_of_blocks_counts_as_one_block() {
        assert_eq!(
            parse(r#"{"limits":[{"rpc_rate":5},{"rpc_max_burst":7}]}"#),
            Ok(json!({"limits": {"rpc_rate": 5, "rpc_max_burst": 7}}))
        );
    }

    #[test]
    fn files_are_read_in_order_and_a_directory_in_lexical_order() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("b.json", r#"{"node_name":"b"}"#);
        write("a.json", r#"{"node_name":"a"}"#);
        write("note.txt", "not a configuration");
        let fragments = read(&[dir.path().to_owned()], false).unwrap();
        assert_eq!(fragments, [json!({"node_name": "a"}), json!({"node_name": "b"})]);
    }

    #[test]
    fn an_hcl_file_is_refused_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.hcl"), "server = true").unwrap();
        let error = read(&[dir.path().to_owned()], false).unwrap_err();
        assert!(error.to_string().ends_with("HCL is not supported yet: use JSON"), "{error}");
    }
}
