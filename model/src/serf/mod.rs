//! Serf's layer (`spec/prose/serf.md`): members and intents, reconnecting, events, keyrings, writes, the snapshot on a disk that crashes.

pub mod events;
pub mod keys;
pub mod members;
pub mod pool;
pub mod reconnect;
pub mod snapshot;
#[cfg(test)]
mod tests;
pub mod writes;

use crate::Scope;

/// The scopes of Serf's layer.
pub fn scopes() -> Vec<Scope> {
    [
        members::scopes(),
        reconnect::scopes(),
        events::scopes(),
        keys::scopes(),
        writes::scopes(),
        snapshot::scopes(),
    ]
    .concat()
}
