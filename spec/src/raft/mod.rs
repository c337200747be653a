//! Raft as one machine (Ongaro and Ousterhout 2014; Ongaro's thesis), as `prose/raft.md` states it.
//!
//! | file | what it specifies |
//! |---|---|
//! | [`types`] | names, entries, configurations, what is durable |
//! | [`message`] | what servers send each other |
//! | [`node`] | the machine: dispatch, terms, roles |
//! | [`election`] | pre-vote, votes, CheckQuorum, transfer's receiving end |
//! | [`replication`] | AppendEntries, progress, commit |
//! | [`membership`] | configurations, learners, one change at a time |
//! | [`snapshot`] | compaction, and the flow of chunks |
//! | [`read`] | ReadIndex rounds |
//! | [`transfer`] | leadership transfer |
//! | [`formation`] | how blank servers form a cluster: a machine of its own |
//! | [`invariant`] | what must hold within one node |

pub mod election;
pub mod formation;
pub mod invariant;
pub mod log;
pub mod membership;
pub mod message;
pub mod node;
pub mod progress;
pub mod quorum;
pub mod read;
pub mod replication;
pub mod snapshot;
pub mod transfer;
pub mod types;

pub use membership::MembershipChange;
pub use message::Message;
pub use node::{Command, Config, Node, Output, Proposal, Rejection, Role, Standing, Timer};
pub use types::{
    Change, ClusterId, Configuration, DiskId, Durable, Entry, HardState, Index, Member, NodeId,
    Payload, Request, ServerId, SnapshotId, SnapshotMeta, Suffrage, Term, Write,
};
