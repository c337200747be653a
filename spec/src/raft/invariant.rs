//! What must hold within one node after each step. Models use these as properties; the driver checks them and stops.

use super::{
    node::{Node, Role},
    types::Index,
};

/// A named invariant.
pub type Invariant = (&'static str, fn(&Node) -> bool);

/// Every local invariant.
pub const ALL: &[Invariant] = &[
    ("log_consecutive", log_consecutive),
    ("indexes_ordered", indexes_ordered),
    ("terms_ordered", terms_ordered),
    ("role_consistent", role_consistent),
];

/// Entries follow each other without a gap. Only the ends are looked at, so that a driver can afford it each turn.
pub fn log_consecutive(node: &Node) -> bool {
    let length = u64::try_from(node.log.entries.len()).unwrap_or(u64::MAX);
    node.log.last_index() == Index(node.log.base.index.0 + length)
        && node.log.entries.front().is_none_or(|e| e.index == node.log.base.index.next())
}

/// `base <= snapshot <= commit <= last`, and nothing beyond the last entry is durable.
pub fn indexes_ordered(node: &Node) -> bool {
    let snapshot = node.snapshot.as_ref().map_or(Index(0), |meta| meta.id.index);
    node.log.base.index <= snapshot
        && snapshot <= node.commit_index
        && node.commit_index <= node.log.last_index()
        && node.durable_index <= node.log.last_index()
}

/// No entry is of a term that the node hasn't seen.
pub fn terms_ordered(node: &Node) -> bool {
    node.log.last().term <= node.hard_state.term
}

/// A leader names itself and voted for itself; a candidate voted for itself and knows no leader.
pub fn role_consistent(node: &Node) -> bool {
    match &node.role {
        Role::Leader(leader) => {
            node.leader == Some(node.config.id)
                && node.hard_state.voted_for == Some(node.config.id)
                && leader.progress.values().all(|p| p.match_index <= node.log.last_index())
        }
        Role::Candidate { .. } => {
            node.leader.is_none() && node.hard_state.voted_for == Some(node.config.id)
        }
        Role::PreCandidate { .. } => node.leader.is_none(),
        Role::Follower => node.leader != Some(node.config.id),
    }
}
