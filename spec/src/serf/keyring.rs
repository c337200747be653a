//! The keyring, and its rotation by queries (SERF-30 to SERF-36; memberlist's `keyring.go`, Serf's `keymanager.go`).
//!
//! The primary key encrypts, every key decrypts. To rotate: install the new key everywhere, use it everywhere, remove the
//! old one everywhere. A member that doesn't hold another's primary doesn't understand it, so a key is used only once
//! every member lists it, and removed only where it is nobody's primary. Serf leaves that order to the operator.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::fmt;

use super::lamport::LamportTime;
use crate::swim::Name;

/// The most keys that a keyring holds: what `list-keys` answers must fit in one response.
pub const MAX_KEYS: usize = 16;

/// Why a key isn't used.
const NO_SUCH_KEY: &str = "Requested key is not in the keyring";
/// Why a key isn't removed.
const PRIMARY_KEY: &str = "Removing the primary key is not allowed";

/// A key of AES-128, AES-192 or AES-256.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// A key of 16, 24 or 32 bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        matches!(bytes.len(), 16 | 24 | 32).then(|| Self(bytes.into()))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes its text takes, in base 64.
    pub fn len(&self) -> usize {
        self.0.len().div_ceil(3) * 4
    }

    /// Never: a key has bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Key {
    /// A key is not for logs: what identifies it there is a checksum.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key#{:08x}", crc32c::crc32c(&self.0))
    }
}

/// The keys of a member. The default has none: nothing is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keyring {
    /// The key that encrypts; it is one of `keys`.
    pub primary: Option<Key>,
    /// The keys that decrypt.
    pub keys: BTreeSet<Key>,
    /// The time of the last operation that was heeded. An older one comes too late: whoever asked for a newer one since
    /// took this keyring for what it is without it.
    pub last: LamportTime,
}

/// A keyring operation, as its query carries it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyRequest {
    /// Decrypt with this key from here on.
    Install(Key),
    /// Encrypt with it.
    Use(Key),
    /// Forget it.
    Remove(Key),
    /// Say which there are.
    List,
}

impl KeyRequest {
    /// The key that it is about.
    pub const fn key(&self) -> Option<&Key> {
        match self {
            Self::Install(key) | Self::Use(key) | Self::Remove(key) => Some(key),
            Self::List => None,
        }
    }
}

/// A member's answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyResponse {
    /// It was done.
    pub ok: bool,
    /// Why not, or a warning.
    pub message: Arc<str>,
    /// The keys, where they were asked for.
    pub keys: Vec<Key>,
    /// The primary key, where it was asked for.
    pub primary: Option<Key>,
}

impl KeyResponse {
    pub(super) fn size(&self) -> usize {
        let keys: usize = self.keys.iter().chain(&self.primary).map(|key| key.len() + 3).sum();
        64 + self.message.len() + keys
    }
}

impl Keyring {
    /// Whether anything is encrypted.
    pub const fn is_enabled(&self) -> bool {
        self.primary.is_some()
    }

    /// A keyring whose first key encrypts.
    pub fn of(keys: &[Key]) -> Self {
        let primary = keys.first().cloned();
        Self { primary, keys: keys.iter().cloned().collect(), last: LamportTime::default() }
    }

    /// Whether it holds and uses the same keys.
    pub fn same_keys(&self, other: &Self) -> bool {
        (&self.primary, &self.keys) == (&other.primary, &other.keys)
    }

    /// The keys without the time of the last operation.
    #[must_use]
    pub fn timeless(&self) -> Self {
        Self { last: LamportTime::default(), ..self.clone() }
    }

    /// Heeds an operation asked for at `ltime`: does it, or changes no key and says why. The texts are Serf's and
    /// memberlist's, where they have one.
    pub fn heed(&mut self, ltime: LamportTime, request: &KeyRequest) -> Result<(), &'static str> {
        // A `use` that was thought lost, and comes when the key was looked for in vain and is being removed.
        if ltime <= self.last {
            return Err("A later keyring operation was seen");
        }
        self.last = ltime;
        self.apply(request)
    }

    fn apply(&mut self, request: &KeyRequest) -> Result<(), &'static str> {
        if !self.is_enabled() {
            return Err(match request {
                KeyRequest::List => "Keyring is empty (encryption not enabled)",
                KeyRequest::Install(_) | KeyRequest::Use(_) | KeyRequest::Remove(_) => {
                    "No keyring to modify (encryption not enabled)"
                }
            });
        }
        match request {
            KeyRequest::Install(key) => {
                if self.keys.len() >= MAX_KEYS && !self.keys.contains(key) {
                    return Err("The keyring is full: remove a key that is not used");
                }
                self.keys.insert(key.clone());
            }
            KeyRequest::Use(key) => {
                if !self.keys.contains(key) {
                    return Err(NO_SUCH_KEY);
                }
                self.primary = Some(key.clone());
            }
            KeyRequest::Remove(key) => {
                // What encrypts its packets would be lost.
                if self.primary.as_ref() == Some(key) {
                    return Err(PRIMARY_KEY);
                }
                self.keys.remove(key);
            }
            KeyRequest::List => {}
        }
        Ok(())
    }

    /// The answer to a request that was applied.
    pub fn answer(&self, request: &KeyRequest, applied: Result<(), &'static str>) -> KeyResponse {
        let listed = matches!(request, KeyRequest::List) && applied.is_ok();
        KeyResponse {
            ok: applied.is_ok(),
            message: applied.err().unwrap_or_default().into(),
            keys: if listed { self.keys.iter().cloned().collect() } else { Vec::new() },
            primary: if listed { self.primary.clone() } else { None },
        }
    }
}

/// Which query of an operation is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// What do the members hold?
    Look,
    /// Do it.
    Act,
}

/// An operation on every member's keyring, as the member that was asked for it runs it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyOperation {
    /// The host's request.
    pub request: u64,
    /// What is to be done.
    pub operation: KeyRequest,
    /// Through how many others each answer comes, too.
    pub relay_factor: u8,
    /// Which query is under way.
    pub phase: Phase,
    /// Who has to answer: every member that hasn't left. A failed one comes back with the keyring that it has.
    pub expected: BTreeSet<Name>,
    /// Failed members whose answer is not waited for: a list changes nothing, and names them.
    pub failed: BTreeSet<Name>,
    /// Who answered, and what.
    pub answers: BTreeMap<Name, Arc<KeyResponse>>,
}

/// How an operation ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyResult {
    /// How many members had to answer.
    pub nodes: usize,
    /// How many did.
    pub responses: usize,
    /// How many of these refused.
    pub errors: usize,
    /// What members said.
    pub messages: BTreeMap<Name, Arc<str>>,
    /// How many members hold each key.
    pub keys: BTreeMap<Key, usize>,
    /// How many members encrypt with each key.
    pub primaries: BTreeMap<Key, usize>,
    /// Why it counts as failed.
    pub error: Option<String>,
}

/// What comes after a query of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    /// Act: every member is ready for it.
    Act,
    /// It ended.
    Done(KeyResult),
}

impl KeyOperation {
    /// Begins an operation. To use or to remove a key takes a look first.
    pub fn new(
        request: u64,
        operation: KeyRequest,
        relay_factor: u8,
        expected: BTreeSet<Name>,
        failed: BTreeSet<Name>,
    ) -> Self {
        let phase = match operation {
            KeyRequest::Use(_) | KeyRequest::Remove(_) => Phase::Look,
            KeyRequest::Install(_) | KeyRequest::List => Phase::Act,
        };
        let answers = BTreeMap::new();
        Self { request, operation, relay_factor, phase, expected, failed, answers }
    }

    /// The query of this phase.
    pub fn query(&self) -> KeyRequest {
        match self.phase {
            Phase::Look => KeyRequest::List,
            Phase::Act => self.operation.clone(),
        }
    }

    /// Takes an answer; true when it was the last one.
    pub fn hear(&mut self, from: &Name, response: Arc<KeyResponse>) -> bool {
        if self.expected.contains(from) {
            self.answers.entry(Arc::clone(from)).or_insert(response);
        }
        self.answers.len() == self.expected.len()
    }

    /// Ends the query of this phase, with all answers or at its timeout. `members` are those that there are by then: one
    /// that came meanwhile was not asked.
    pub fn next(&mut self, members: BTreeSet<Name>) -> Next {
        let mut result = self.tally();
        let looked = self.phase == Phase::Look;
        if looked && result.error.is_none() {
            self.note_unready(&members, &mut result);
        }
        if looked && result.error.is_none() {
            self.phase = Phase::Act;
            self.expected = members;
            self.answers.clear();
            return Next::Act;
        }
        Next::Done(result)
    }

    fn tally(&self) -> KeyResult {
        let mut result = KeyResult { nodes: self.expected.len(), ..KeyResult::default() };
        for (from, response) in &self.answers {
            result.responses += 1;
            result.errors += usize::from(!response.ok);
            if !response.message.is_empty() {
                result.messages.insert(Arc::clone(from), Arc::clone(&response.message));
            }
            for key in &response.keys {
                *result.keys.entry(key.clone()).or_default() += 1;
            }
            if let Some(primary) = &response.primary {
                *result.primaries.entry(primary.clone()).or_default() += 1;
            }
        }
        for silent in self.expected.iter().filter(|name| !self.answers.contains_key(*name)) {
            result.messages.insert(Arc::clone(silent), "did not answer".into());
        }
        for failed in &self.failed {
            result
                .messages
                .insert(Arc::clone(failed), "has failed: its keys are not counted".into());
        }
        let (nodes, responses, errors) = (result.nodes, result.responses, result.errors);
        if errors > 0 {
            result.error = Some(alloc::format!("{errors}/{nodes} nodes reported failure"));
        } else if responses != nodes {
            result.error = Some(alloc::format!("{responses}/{nodes} nodes reported success"));
        }
        result
    }

    /// Notes why a look forbids the operation, in the words that each member would have for it.
    fn note_unready(&self, members: &BTreeSet<Name>, result: &mut KeyResult) {
        if let Some(name) = members.iter().find(|name| !self.expected.contains(*name)) {
            result.error = Some(alloc::format!("{name} joined meanwhile: try again"));
            return;
        }
        for (name, response) in &self.answers {
            // One that couldn't write its keyring may come back with another than it lists.
            let in_doubt = !response.message.is_empty();
            if in_doubt {
                result.errors += 1;
                continue;
            }
            let why = match &self.operation {
                // What this member sent with the key, that one would not understand.
                KeyRequest::Use(key) if !response.keys.contains(key) => NO_SUCH_KEY,
                KeyRequest::Remove(key) if response.primary.as_ref() == Some(key) => PRIMARY_KEY,
                KeyRequest::Use(_)
                | KeyRequest::Remove(_)
                | KeyRequest::Install(_)
                | KeyRequest::List => continue,
            };
            result.errors += 1;
            result.messages.insert(Arc::clone(name), why.into());
        }
        if result.errors > 0 {
            let (errors, nodes) = (result.errors, result.nodes);
            result.error = Some(alloc::format!("{errors}/{nodes} nodes reported failure"));
        }
    }
}
