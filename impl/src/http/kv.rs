//! `/v1/kv/`: reading, writing and deleting keys.
//!
//! A request is first read into an [`Action`] that owns what it needs, so that a parked long poll keeps nothing of its
//! request; then the action is carried out.

use agent_sync::Topic;
use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode, Version, body::Incoming, header::CONTENT_LENGTH,
    http::request::Parts,
};
use spec::state::{Command, Key, KvCommand, KvEntry, Outcome, State, TableId, Value};

use super::{
    Inner, Settings,
    blocking::{self, Question},
    body::{self, BodyError},
    go, json,
    query::Values,
    request::{Options, known_datacenter},
    respond::{Failure, Refusal, Reply},
};
use crate::server::watch_table;

/// What a request asks of the KV store.
#[derive(Debug)]
pub(crate) enum Action {
    /// Look something up.
    Read(Read, Options),
    /// Put the body under a key.
    Put(Put),
    /// Delete.
    Delete(KvCommand),
}

/// What to look up.
#[derive(Debug)]
pub(crate) enum Read {
    /// One key, as JSON or as it is.
    Get { key: Vec<u8>, raw: bool },
    /// Every entry whose key starts so.
    List { prefix: Vec<u8> },
    /// The keys alone.
    Keys { prefix: Vec<u8>, separator: Vec<u8> },
}

/// A write whose value is the request's body.
#[derive(Debug)]
pub(crate) struct Put {
    key: Key,
    flags: u64,
    mode: Mode,
    /// By which its value comes.
    version: Version,
}

#[derive(Debug)]
enum Mode {
    Set,
    Cas(u64),
    Acquire(Vec<u8>),
    Release(Vec<u8>),
}

/// Reads what a request asks for, or answers what is wrong with it.
pub(crate) fn read(
    inner: &Inner,
    key: &[u8],
    values: &Values<'_>,
    parts: &Parts,
) -> Result<Action, Refusal> {
    let headers = &parts.headers;
    let options = Options::read(&inner.settings, values, headers)?;
    let action = match parts.method {
        Method::GET => Action::Read(read_get(key, values)?, options),
        Method::PUT => Action::Put(read_put(inner, key, values, parts)?),
        _ => Action::Delete(read_delete(key, values)?),
    };
    known_datacenter(&inner.settings, values)?;
    Ok(action)
}

fn read_get(key: &[u8], values: &Values<'_>) -> Result<Read, Refusal> {
    let owned = || key.to_vec();
    if values.has("keys") {
        // Consul once misspelt it and honours both; the right one wins.
        let separator = values.get("separator").or(values.get("seperator")).unwrap_or_default();
        return Ok(Read::Keys { prefix: owned(), separator: separator.to_vec() });
    }
    if values.has("recurse") {
        return Ok(Read::List { prefix: owned() });
    }
    present(key)?;
    Ok(Read::Get { key: owned(), raw: values.has("raw") })
}

fn read_put(inner: &Inner, key: &[u8], values: &Values<'_>, parts: &Parts) -> Result<Put, Refusal> {
    present(key)?;
    let mut put = Put { key: key.into(), flags: 0, mode: Mode::Set, version: parts.version };
    if !values.is_empty() {
        compatible(values, &["cas", "acquire", "release"])?;
        if let Some(flags) = values.get("flags") {
            put.flags = number(flags)?;
        }
        if let Some(index) = values.get("cas") {
            put.mode = Mode::Cas(number(index)?);
        } else if let Some(session) = values.get("acquire") {
            put.mode = Mode::Acquire(session.to_vec());
        } else if let Some(session) = values.get("release") {
            put.mode = Mode::Release(session.to_vec());
        }
    }
    declared_size(&inner.settings, &parts.headers)?;
    Ok(put)
}

/// The declared length of a body.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH).and_then(|length| go::parse_uint(length.as_bytes()).ok())
}

/// Refuses a value whose declared length is beyond the limit.
pub(crate) fn declared_size(settings: &Settings, headers: &HeaderMap) -> Result<(), Refusal> {
    match content_length(headers) {
        Some(length) if length > settings.kv_max_value_size => Err(too_large(settings, length)),
        _ => Ok(()),
    }
}

fn read_delete(key: &[u8], values: &Values<'_>) -> Result<KvCommand, Refusal> {
    compatible(values, &["recurse", "cas"])?;
    if values.has("recurse") {
        return Ok(KvCommand::DeleteTree { prefix: key.into() });
    }
    present(key)?;
    Ok(match values.get("cas") {
        Some(index) => KvCommand::DeleteCas { key: key.into(), index: number(index)? },
        None => KvCommand::Delete { key: key.into() },
    })
}

fn present(key: &[u8]) -> Result<(), Refusal> {
    if key.is_empty() { Err(Reply::bad_request("Missing key name")) } else { Ok(()) }
}

fn compatible(values: &Values<'_>, exclusive: &[&str]) -> Result<(), Refusal> {
    if exclusive.iter().filter(|name| values.has(name)).count() > 1 {
        return Err(Reply::bad_request(format!("Conflicting flags: {}", values.encode())));
    }
    Ok(())
}

fn number(text: &[u8]) -> Result<u64, Refusal> {
    go::parse_uint(text).map_err(|error| Failure::internal(error.to_string()).into())
}

/// Refuses a value beyond the limit. The rest of it is left unread, so the connection ends.
fn too_large(settings: &Settings, length: u64) -> Refusal {
    let limit = settings.kv_max_value_size;
    let text = format!(
        "Request body({length} bytes) too large, max size: {limit} bytes. See \
         https://www.consul.io/docs/agent/options.html#kv_max_value_size."
    );
    Reply::text_with(StatusCode::PAYLOAD_TOO_LARGE, text).closing().into()
}

impl Action {
    /// Carries it out.
    pub(crate) async fn perform(self, inner: &Inner, incoming: Incoming) -> Result<Reply, Refusal> {
        match self {
            Self::Read(read, options) => {
                drop(incoming);
                blocking::ask(inner, read, options).await
            }
            // Boxed: a write goes through the log, an allocation more is nothing to it.
            Self::Put(put) => Box::pin(put.perform(inner, incoming)).await,
            Self::Delete(command) => {
                let conditional = matches!(command, KvCommand::DeleteCas { .. });
                let carried_out = Box::pin(propose(inner, command)).await?;
                Ok(Reply::bool(carried_out || !conditional))
            }
        }
    }
}

impl Question for Read {
    const CATALOG: bool = false;

    fn topics(&self) -> [Option<Topic<'_>>; 2] {
        let table = watch_table(TableId::Kv);
        let topic = match self {
            Self::Get { key, .. } => Topic::Key(table, key),
            Self::List { prefix } | Self::Keys { prefix, .. } => Topic::Prefix(table, prefix),
        };
        [Some(topic), None]
    }

    fn probe(&self, state: &State) -> (u64, bool) {
        match self {
            Self::Get { key, .. } => {
                let (index, entry) = state.kv_get(key);
                (index, entry.is_some())
            }
            Self::List { prefix } | Self::Keys { prefix, .. } => {
                let (index, mut entries) = state.kv_list(prefix);
                (index, entries.next().is_some())
            }
        }
    }

    fn answer(&self, state: &State) -> (u64, Reply) {
        match self {
            Self::Get { key, raw } => match state.kv_get(key) {
                (index, None) => (index, Reply::empty(StatusCode::NOT_FOUND)),
                (index, Some(entry)) if *raw => (index, Reply::raw(raw_body(&entry.value))),
                (index, Some(entry)) => {
                    let mut out = Vec::with_capacity(entry_size(entry) + 2);
                    out.push(b'[');
                    push_entry(&mut out, entry);
                    out.push(b']');
                    (index, Reply::json(out))
                }
            },
            Self::List { prefix } => {
                let (index, entries) = state.kv_list(prefix);
                (index, list(entries, false, push_entry))
            }
            Self::Keys { prefix, separator } => {
                let separator = (!separator.is_empty()).then_some(&**separator);
                let (index, keys) = state.kv_keys(prefix, separator);
                // Without a prefix no keys are a list as well, not a miss.
                let push = |out: &mut Vec<u8>, key: &Key| json::push_string(out, key);
                (index, list(keys.iter(), prefix.is_empty(), push))
            }
        }
    }
}

/// A JSON array, or 404 where it would be empty and mustn't.
fn list<'a, T: 'a>(
    items: impl Iterator<Item = &'a T>,
    empty: bool,
    push: impl Fn(&mut Vec<u8>, &T),
) -> Reply {
    let mut out = vec![b'['];
    for item in items {
        if out.len() > 1 {
            out.push(b',');
        }
        push(&mut out, item);
    }
    if out.len() == 1 && !empty {
        return Reply::empty(StatusCode::NOT_FOUND);
    }
    out.push(b']');
    Reply::json(out)
}

/// A value as a body: a large one is shared with the state, a small one is cheaper copied.
fn raw_body(value: &Value) -> Bytes {
    if value.len() < 4096 {
        Bytes::copy_from_slice(value)
    } else {
        Bytes::from_owner(value.clone())
    }
}

impl Put {
    async fn perform(self, inner: &Inner, incoming: Incoming) -> Result<Reply, Refusal> {
        let limit = inner.settings.kv_max_value_size;
        let value = match body::read_by(incoming, limit, self.version).await {
            Ok(value) => Value::from(&*value),
            Err(BodyError::TooLarge(read)) => return Err(too_large(&inner.settings, read)),
            Err(BodyError::Broken(text)) => return Err(Failure::internal(text).into()),
        };
        let Self { key, flags, mode, .. } = self;
        match mode {
            Mode::Set => {
                propose(inner, KvCommand::Set { key, value, flags }).await?;
                Ok(Reply::bool(true))
            }
            Mode::Cas(index) => {
                let command = KvCommand::Cas { key, value, flags, index };
                propose(inner, command).await.map(Reply::bool)
            }
            Mode::Acquire(session) => Err(Failure::internal(acquire_refusal(&session)).into()),
            Mode::Release(session) if session.is_empty() => {
                Err(Failure::internal("missing session").into())
            }
            // No session exists, so none holds the key.
            Mode::Release(_) => Ok(Reply::bool(false)),
        }
    }
}

/// Why nobody can lock: there are no sessions, so whichever is named is unknown.
fn acquire_refusal(session: &[u8]) -> String {
    let fault = if session.is_empty() {
        return "missing session".to_owned();
    } else if session.len() != 36 {
        "UUID must be 36 characters".to_owned()
    } else {
        let mut letters = session.iter().copied().filter(|byte| *byte != b'-');
        let hyphens = session.len() - letters.clone().count();
        if hyphens > 4 {
            format!("UUID should have maximum of 4 \"-\"; got {hyphens}")
        } else if hyphens % 2 == 1 {
            "Input (without hyphens) must be even length".to_owned()
        } else if let Some(letter) = letters.find(|byte| !byte.is_ascii_hexdigit()) {
            let shown = char::from(letter);
            let shown = if go::is_print(shown) { format!(" '{shown}'") } else { String::new() };
            format!("Invalid UUID: encoding/hex: invalid byte: U+{letter:04X}{shown}")
        } else {
            return format!("invalid session {}", go::quote(session));
        }
    };
    format!("failed session lookup: index error: {fault}")
}

async fn propose(inner: &Inner, command: KvCommand) -> Result<bool, Refusal> {
    match inner.server.propose(Command::Kv(command)).await? {
        (_, Outcome::Applied(carried_out)) => Ok(carried_out),
        (_, Outcome::Refused(text)) => Err(Failure::internal(text).into()),
    }
}

/// Room enough for an entry whose key needs no escapes.
fn entry_size(entry: &KvEntry) -> usize {
    entry.key.len() + entry.value.len().div_ceil(3) * 4 + 160
}

fn push_entry(out: &mut Vec<u8>, entry: &KvEntry) {
    out.extend_from_slice(b"{\"LockIndex\":");
    json::push_number(out, entry.lock_index);
    out.extend_from_slice(b",\"Key\":");
    json::push_string(out, &entry.key);
    out.extend_from_slice(b",\"Flags\":");
    json::push_number(out, entry.flags);
    out.extend_from_slice(b",\"Value\":");
    if entry.value.is_empty() {
        out.extend_from_slice(b"null");
    } else {
        json::push_base64(out, &entry.value);
    }
    out.extend_from_slice(b",\"CreateIndex\":");
    json::push_number(out, entry.create_index);
    out.extend_from_slice(b",\"ModifyIndex\":");
    json::push_number(out, entry.modify_index);
    out.push(b'}');
}
