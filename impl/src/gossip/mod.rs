//! Gossip: the pool of all agents of a datacenter, on memberlist's and Serf's wire.
//!
//! `spec::serf` decides; [`turn`] runs it as a turn; [`Pool`] is what the rest of the agent sees. One task owns the
//! machine, one thread writes what must survive, and tasks for datagrams and streams bring what arrives.

mod agent;
mod counters;
mod disk;
mod events;
mod finding;
mod flooding;
mod identity;
mod network;
mod pool;
mod start;
mod task;
pub mod turn;

pub use self::{
    agent::{LeaveError, LocalAgent, Reload},
    events::{Events, UserEvent, index_of},
    identity::{Identity, ServerIdentity},
    pool::{Members, Pool, PoolError, PoolMember},
    start::{PoolSettings, StartError, starts_encrypted},
};
pub(crate) use self::{
    finding::{feed_client, feed_server, tell_cluster},
    flooding::flood,
    identity::{CLUSTER_TAG, DISK_TAG},
};
