//! `kv get`, `put`, `delete`, `export`, `import`.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clap::Command;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::client::{Answer, Client, connect};
use super::flags::{Given, number, switch, value, with_api_options};
use super::{Ending, Group, Leaf, columns, go_error, print};

pub(super) const KV: Group = Group {
    path: &["kv"],
    synopsis: "Interact with the key-value store",
    usage: "kv <subcommand> [options] [args]",
    about: "  Reads and writes the key-value store. For example:

      $ proconsul kv put redis/config/connections 5
      $ proconsul kv get redis/config/connections
      $ proconsul kv get -detailed redis/config/connections
      $ proconsul kv delete redis/config/connections",
};

pub(super) const GET: Leaf = Leaf {
    path: &["kv", "get"],
    synopsis: "Retrieves or lists data from the KV store",
    usage: "kv get [options] [KEY_OR_PREFIX]",
    about: "\
Retrieves the value at the given key. If no key exists with that name, an
error is returned. If a key exists with that name but has no data, nothing is
returned. With -recurse or -keys the name is a prefix, and \"\" is every key:

    $ proconsul kv get foo
    $ proconsul kv get -detailed foo
    $ proconsul kv get -recurse foo
    $ proconsul kv get -keys foo",
    definition: || {
        with_api_options(Command::new("get")).args([
            switch("base64", "Base64 encode the value. The default value is false."),
            switch("detailed", "Provide additional metadata about the key in addition to the value such as the ModifyIndex and any flags that may have been set on the key. The default value is false."),
            switch("keys", "List keys which start with the given prefix, but not their values. This is especially useful if you only need the key names themselves. This option is commonly combined with the -separator option. The default value is false."),
            switch("recurse", "Recursively look at all keys prefixed with the given path. The default value is false."),
            value("separator", "string", "String to use as a separator between keys. The default value is \"/\", but this option is only taken into account when paired with the -keys flag."),
        ])
    },
    run: get,
};

pub(super) const PUT: Leaf = Leaf {
    path: &["kv", "put"],
    synopsis: "Sets or updates data in the KV store",
    usage: "kv put [options] KEY [DATA]",
    about: "\
Writes the data to the given path in the key-value store. The data can be of
any type; it may come from a file (@), from standard input (-), or be empty:

    $ proconsul kv put config/redis/maxconns 5
    $ proconsul kv put config/program/license @license.lic
    $ echo \"abcd1234\" | proconsul kv put config/program/license -
    $ proconsul kv put webapp/beta/active

To perform a Check-And-Set operation, give -cas and the key's -modify-index:

    $ proconsul kv put -cas -modify-index=844 config/redis/maxconns 5",
    definition: || {
        with_api_options(Command::new("put")).args([
            switch("acquire", "Obtain a lock on the key. If the key does not exist, this operation will create the key and obtain the lock. The session must already exist and be specified via the -session flag. The default value is false."),
            switch("base64", "Treat the data as base 64 encoded. The default value is false."),
            switch("cas", "Perform a Check-And-Set operation. Specifying this value also requires the -modify-index flag to be set. The default value is false."),
            number("flags", "Unsigned integer value to assign to this key-value pair. This value is not read by the agent, so clients can use this value however makes sense for their use case. The default value is 0 (no flags)."),
            number("modify-index", "Unsigned integer representing the ModifyIndex of the key. This is used in combination with the -cas flag."),
            switch("release", "Forfeit the lock on the key at the given path. This requires the -session flag to be set. The key must be held by the session in order to be unlocked. The default value is false."),
            value("session", "string", "User-defined identifer for this session as a string. This is commonly used with the -acquire and -release operations to build robust locking, but it can be set on any key. The default value is empty (no session)."),
        ])
    },
    run: put,
};

pub(super) const DELETE: Leaf = Leaf {
    path: &["kv", "delete"],
    synopsis: "Removes data from the KV store",
    usage: "kv delete [options] KEY_OR_PREFIX",
    about: "\
Removes the value at the given path. If no key exists there, no action is
taken. With -recurse, all keys that start with the path are removed:

    $ proconsul kv delete foo
    $ proconsul kv delete -recurse foo",
    definition: || {
        with_api_options(Command::new("delete")).args([
            switch("cas", "Perform a Check-And-Set operation. Specifying this value also requires the -modify-index flag to be set. The default value is false."),
            number("modify-index", "Unsigned integer representing the ModifyIndex of the key. This is used in combination with the -cas flag."),
            switch("recurse", "Recursively delete all keys with the path. The default value is false."),
        ])
    },
    run: delete,
};

pub(super) const EXPORT: Leaf = Leaf {
    path: &["kv", "export"],
    synopsis: "Exports a tree from the KV store as JSON",
    usage: "kv export [KEY_OR_PREFIX]",
    about: "\
Retrieves the key-value pairs below the given prefix and writes them as JSON
that \"kv import\" reads:

    $ proconsul kv export vault",
    definition: || with_api_options(Command::new("export")),
    run: export,
};

pub(super) const IMPORT: Leaf = Leaf {
    path: &["kv", "import"],
    synopsis: "Imports a tree stored as JSON to the KV store",
    usage: "kv import [DATA]",
    about: "\
Imports key-value pairs from the JSON that \"kv export\" writes, from a file
(@), from standard input (-), or from the argument itself:

    $ proconsul kv import @filename.json
    $ cat filename.json | proconsul kv import -",
    definition: || with_api_options(Command::new("import")),
    run: import,
};

/// An entry as the API gives it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    create_index: u64,
    modify_index: u64,
    lock_index: u64,
    flags: u64,
    value: Option<String>,
    session: Option<String>,
}

impl Entry {
    fn bytes(&self) -> Result<Vec<u8>, String> {
        let value = self.value.as_deref().unwrap_or_default();
        BASE64.decode(value).map_err(|error| error.to_string())
    }

    fn shown(&self, base64: bool) -> Result<Vec<u8>, String> {
        if base64 { Ok(self.value.clone().unwrap_or_default().into_bytes()) } else { self.bytes() }
    }

    fn detailed(&self, base64: bool) -> Result<Vec<u8>, String> {
        let session = self.session.as_deref().filter(|id| !id.is_empty()).unwrap_or("-");
        Ok(columns::pairs(&[
            ("CreateIndex", self.create_index.to_string().as_bytes()),
            ("Flags", self.flags.to_string().as_bytes()),
            ("Key", self.key.as_bytes()),
            ("LockIndex", self.lock_index.to_string().as_bytes()),
            ("ModifyIndex", self.modify_index.to_string().as_bytes()),
            ("Session", session.as_bytes()),
            ("Value", &self.shown(base64)?),
        ]))
    }
}

/// A pair as `kv export` writes it.
#[derive(Serialize, Deserialize)]
struct Exported {
    key: String,
    #[serde(default)]
    flags: u64,
    #[serde(default)]
    value: String,
}

/// A read; 404 is an answer too.
fn read(client: &Client, key: &str, query: &[(&str, &str)]) -> Result<Option<Answer>, String> {
    let asked = |error| format!("Error querying Consul agent: {error}");
    let answer =
        client.send(&Method::GET, &format!("kv/{key}"), query, Bytes::new()).map_err(asked)?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    answer.ok().map(Some).map_err(asked)
}

fn entries(answer: Option<Answer>) -> Result<Vec<Entry>, String> {
    let Some(answer) = answer else { return Ok(Vec::new()) };
    serde_json::from_slice(&answer.body)
        .map_err(|error| format!("Error querying Consul agent: {error}"))
}

/// The key argument; a leading slash is a habit from paths, not part of a key.
fn key_of(argument: &OsStr) -> String {
    let key = argument.to_string_lossy();
    key.strip_prefix('/').unwrap_or(&key).to_owned()
}

/// The only argument, a key or a prefix; the empty one where there is none.
fn key_given(given: &Given) -> Result<String, String> {
    match given.arguments().as_slice() {
        [] => Ok(String::new()),
        [key] => Ok(key_of(key)),
        more => Err(format!("Too many arguments (expected 1, got {})", more.len())),
    }
}

fn get(given: &Given) -> Result<Ending, String> {
    let (keys, recurse) = (given.on("keys"), given.on("recurse"));
    let key = key_given(given)?;
    if key.is_empty() && !keys && !recurse {
        return Err("Error! Missing KEY argument".to_owned());
    }
    let client = connect(given)?;
    if keys {
        return list_keys(&client, given, &key);
    }
    let base64 = given.on("base64");
    if !recurse {
        let found = entries(read(&client, &key, &[])?)?;
        let entry = found.first().ok_or_else(|| format!("Error! No key exists at: {key}"))?;
        if given.on("detailed") {
            return entry.detailed(base64).map(Ending::Done);
        }
        let mut out = entry.shown(base64)?;
        out.push(b'\n');
        return Ok(Ending::Done(out));
    }
    let mut out = Vec::new();
    for (place, entry) in entries(read(&client, &key, &[("recurse", "")])?)?.iter().enumerate() {
        if given.on("detailed") {
            if place > 0 {
                out.push(b'\n');
            }
            out.extend(entry.detailed(base64)?);
        } else {
            out.extend_from_slice(entry.key.as_bytes());
            out.push(b':');
            out.extend(entry.shown(base64)?);
            out.push(b'\n');
        }
    }
    Ok(Ending::Done(out))
}

fn list_keys(client: &Client, given: &Given, prefix: &str) -> Result<Ending, String> {
    let separator = given.text("separator").unwrap_or("/");
    let mut query = vec![("keys", "")];
    if !separator.is_empty() {
        query.push(("separator", separator));
    }
    let Some(answer) = read(client, prefix, &query)? else { return Ok(Ending::Done(Vec::new())) };
    let keys: Vec<String> = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("Error querying Consul agent: {error}"))?;
    let lines = keys.iter().fold(String::new(), |lines, key| lines + key + "\n");
    Ok(Ending::Done(lines.into_bytes()))
}

fn write(
    client: &Client,
    method: &Method,
    key: &str,
    query: &[(&str, &str)],
    body: Bytes,
) -> Result<bool, String> {
    let answer = client.send(method, &format!("kv/{key}"), query, body)?.ok()?;
    Ok(answer.body.starts_with(b"true"))
}

fn put(given: &Given) -> Result<Ending, String> {
    let arguments = given.arguments();
    let (key, data) = match arguments.as_slice() {
        [] => return Err("Error! Missing KEY argument".to_owned()),
        [key] => (key, None),
        [key, data] => (key, Some(*data)),
        more => {
            return Err(format!("Error! Too many arguments (expected 1 or 2, got {})", more.len()));
        }
    };
    let key = key_of(key);
    let mut data = data.map(read_data).transpose()?.unwrap_or_default();
    if given.on("base64") {
        data = BASE64
            .decode(&data)
            .map_err(|error| format!("Error! Cannot base 64 decode data: {}", go_base64(&error)))?;
    }
    let (cas, index) = (given.on("cas"), given.number("modify-index"));
    let session = given.text("session").unwrap_or_default();
    let (acquire, release) = (given.on("acquire"), given.on("release"));
    if (acquire || release) && session.is_empty() {
        return Err("Error! Missing -session (required with -acquire and -release)".to_owned());
    }
    if cas && index == 0 {
        return Err("Must specify -modify-index with -cas!".to_owned());
    }
    let client = connect(given)?;
    let (index, flags) = (index.to_string(), given.number("flags").to_string());
    let mut query = Vec::new();
    if flags != "0" {
        query.push(("flags", flags.as_str()));
    }
    let refused = if cas {
        query.push(("cas", &index));
        format!("Error! Did not write to {key}: CAS failed")
    } else if acquire {
        query.push(("acquire", session));
        "Error! Did not acquire lock".to_owned()
    } else if release {
        query.push(("release", session));
        "Error! Did not release lock".to_owned()
    } else {
        format!("Error! Did not write to {key}")
    };
    let failed = if cas {
        format!("Error! Did not write to {key}")
    } else {
        "Error! Failed writing data".to_owned()
    };
    match write(&client, &Method::PUT, &key, &query, data.into()) {
        Err(error) => Err(format!("{failed}: {error}")),
        Ok(false) => Err(refused),
        Ok(true) if acquire => Ok(Ending::line(format!("Success! Lock acquired on: {key}"))),
        Ok(true) if release => Ok(Ending::line(format!("Success! Lock released on: {key}"))),
        Ok(true) => Ok(Ending::line(format!("Success! Data written to: {key}"))),
    }
}

/// DATA: a file behind "@", standard input for "-", or itself.
fn read_data(argument: &OsStr) -> Result<Vec<u8>, String> {
    let bytes = argument.as_bytes();
    if let Some(path) = bytes.strip_prefix(b"@") {
        let path = OsStr::from_bytes(path);
        return fs::read(path).map_err(|error| {
            let path = path.to_string_lossy();
            format!("Error! Failed to read file: open {path}: {}", go_error(&error))
        });
    }
    if bytes != b"-" {
        return Ok(argument.to_owned().into_vec());
    }
    let mut data = Vec::new();
    io::stdin()
        .read_to_end(&mut data)
        .map_err(|error| format!("Error! Failed to read stdin: {}", go_error(&error)))?;
    Ok(data)
}

/// Go's words for data that isn't base 64.
fn go_base64(error: &base64::DecodeError) -> String {
    match error {
        base64::DecodeError::InvalidByte(place, _)
        | base64::DecodeError::InvalidLastSymbol(place, _) => {
            format!("illegal base64 data at input byte {place}")
        }
        base64::DecodeError::InvalidLength(length) => {
            format!("illegal base64 data at input byte {}", length - length % 4)
        }
        base64::DecodeError::InvalidPadding => error.to_string(),
    }
}

fn delete(given: &Given) -> Result<Ending, String> {
    let recurse = given.on("recurse");
    let key = key_given(given)?;
    if key.is_empty() && !recurse {
        return Err("Error! Missing KEY argument".to_owned());
    }
    let (cas, index) = (given.on("cas"), given.number("modify-index"));
    if cas && recurse && index != 0 {
        return Err("Cannot specify both -cas and -recurse!".to_owned());
    }
    if cas && index == 0 {
        return Err("Must specify -modify-index with -cas!".to_owned());
    }
    if !cas && index != 0 {
        return Err("Cannot specify -modify-index without -cas!".to_owned());
    }
    let client = connect(given)?;
    let index = index.to_string();
    let (query, done, failed) = if recurse {
        (
            vec![("recurse", "")],
            format!("Success! Deleted keys with prefix: {key}"),
            format!("Error! Did not delete prefix {key}"),
        )
    } else if cas {
        (
            vec![("cas", index.as_str())],
            format!("Success! Deleted key: {key}"),
            format!("Error! Did not delete key {key}"),
        )
    } else {
        (vec![], format!("Success! Deleted key: {key}"), format!("Error deleting key {key}"))
    };
    match write(&client, &Method::DELETE, &key, &query, Bytes::new()) {
        Err(error) => Err(format!("{failed}: {error}")),
        Ok(false) if cas => Err(format!("{failed}: CAS failed")),
        Ok(_) => Ok(Ending::line(done)),
    }
}

fn export(given: &Given) -> Result<Ending, String> {
    let prefix = key_given(given)?;
    let client = connect(given)?;
    let found = entries(read(&client, &prefix, &[("recurse", "")])?)?;
    let pairs: Vec<Exported> = found
        .into_iter()
        .map(|entry| Exported {
            key: entry.key,
            flags: entry.flags,
            value: entry.value.unwrap_or_default(),
        })
        .collect();
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    pairs.serialize(&mut serializer).map_err(|error| error.to_string())?;
    // Go escapes what would mean something to a browser; so scripts that compare exports find them equal.
    let mut text = String::from_utf8_lossy(&out)
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    text.push('\n');
    Ok(Ending::Done(text.into_bytes()))
}

fn import(given: &Given) -> Result<Ending, String> {
    let arguments = given.arguments();
    let data = match arguments.as_slice() {
        [] => return Err("Error! Missing DATA argument".to_owned()),
        [data] if data.is_empty() => return Err("Error! Empty DATA argument".to_owned()),
        [data] => read_data(data)?,
        more => {
            return Err(format!("Error! Too many arguments (expected 1, got {})", more.len()));
        }
    };
    let client = connect(given)?;
    let pairs: Vec<Exported> =
        serde_json::from_slice(&data).map_err(|error| format!("Cannot unmarshal data: {error}"))?;
    for pair in pairs {
        let key = pair.key;
        let value = BASE64.decode(&pair.value).map_err(|error| {
            format!("Error base 64 decoding value for key {key}: {}", go_base64(&error))
        })?;
        let flags = pair.flags.to_string();
        let query = if pair.flags == 0 { vec![] } else { vec![("flags", flags.as_str())] };
        write(&client, &Method::PUT, &key, &query, value.into())
            .map_err(|error| format!("Error! Failed writing data for key {key}: {error}"))?;
        // Said at once: what a later failure leaves behind is then known.
        print(format!("Imported: {key}\n").as_bytes());
    }
    Ok(Ending::Done(Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: Option<&str>) -> Entry {
        Entry {
            key: "cli/a".to_owned(),
            create_index: 326,
            modify_index: 327,
            lock_index: 0,
            flags: 42,
            value: value.map(str::to_owned),
            session: None,
        }
    }

    #[test]
    fn a_detailed_entry_reads_as_consul_s() {
        let text = "CreateIndex      326\nFlags            42\nKey              cli/a\n\
                    LockIndex        0\nModifyIndex      327\nSession          -\n";
        let shown =
            |entry: &Entry, base64| String::from_utf8(entry.detailed(base64).unwrap()).unwrap();
        assert_eq!(shown(&entry(Some("MQ==")), false), format!("{text}Value            1\n"));
        assert_eq!(shown(&entry(Some("MQ==")), true), format!("{text}Value            MQ==\n"));
        assert_eq!(shown(&entry(None), false), format!("{text}Value\n"));
    }

    #[test]
    fn what_is_not_base_64_is_told_in_go_s_words() {
        let refused = |text: &str| go_base64(&BASE64.decode(text).unwrap_err());
        assert_eq!(refused("!"), "illegal base64 data at input byte 0");
        assert_eq!(refused("aG!"), "illegal base64 data at input byte 2");
    }
}
