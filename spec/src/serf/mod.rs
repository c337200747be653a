//! Serf's layer on SWIM: who leaves and who fails, user events, queries, the keyring, what survives a crash, and network
//! coordinates, as `prose/serf.md` states it.
//!
//! | file | what it specifies |
//! |---|---|
//! | [`lamport`] | clocks that never wrap |
//! | [`members`] | what SWIM and the intents say of each member |
//! | [`ring`] | which events and queries were seen |
//! | [`query`] | whom a query is for, and what is kept of it |
//! | [`keyring`] | keys, and operations on all members' keys |
//! | [`keys`] | how a member heeds such an operation |
//! | [`tags`] | tags as metadata, and whom a pool admits by them |
//! | [`message`] | what members send each other |
//! | [`interface`] | settings, commands, outputs, timers |
//! | [`node`] | the machine, with SWIM's inside |
//! | `gossip`, [`join`], [`leave`], `ask` | its concerns |
//! | [`snapshot`] | records, the file, its compaction |
//! | [`invariant`] | what must hold within one member |
//! | [`coordinate`] | Vivaldi, beside the machine |

mod ask;
pub mod coordinate;
mod gossip;
pub mod interface;
pub mod invariant;
pub mod join;
pub mod keyring;
pub mod keys;
pub mod lamport;
pub mod leave;
pub mod members;
pub mod message;
pub mod node;
pub mod query;
pub mod ring;
pub mod snapshot;
pub mod tags;

pub use interface::{Command, Config, Counter, Output, Question, Refused, Timer};
pub use keyring::{Key, KeyRequest, KeyResponse, KeyResult, Keyring};
pub use lamport::LamportTime;
pub use members::Status;
pub use message::{Message, SerfLayer, State, UserEvent};
pub use node::{Packet, Serf};
pub use query::QueryKey;
pub use snapshot::{Durable, Record};
pub use tags::Tags;
