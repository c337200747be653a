//! What keeps agents and the replicated state in step: the duties of the leader (prose/sync.md, prose/autopilot.md),
//! how a server leaves (prose/leave.md), and what agents do between themselves and their servers (prose/servers.md).
//!
//! | file | what it specifies |
//! |---|---|
//! | [`reconcile`] | gossip's members in the catalog, and in Raft |
//! | [`autopilot`] | which servers are healthy, which are to vote, which are to go |
//! | [`coordinates`] | how often agents tell theirs, and how a leader writes them |
//! | [`own`] | what an agent says of its own node |
//! | [`flood`] | which servers of its datacenter a server joins in the WAN |
//! | [`leave`] | how a server leaves Raft and its pools |
//! | [`servers`], [`retry`], [`bucket`] | which server a client agent asks, what it repeats, and how often it may ask |
//!
//! They are rules without I/O: they are given what is known and say what is to be done.

pub mod autopilot;
pub mod bucket;
pub mod coordinates;
pub mod flood;
pub mod leave;
pub mod own;
pub mod reconcile;
pub mod retry;
pub mod servers;
