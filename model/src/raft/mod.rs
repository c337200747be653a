//! Raft: scopes over `spec::raft`'s node.

pub mod dead;
pub mod diagram;
pub mod model;
pub mod observe;
pub mod progress;
pub mod property;
pub mod rename;
pub mod run;
mod scopes;
pub mod world;

#[cfg(test)]
mod tests;

pub use scopes::scopes;

use crate::Checked;
use model::{Action, RaftModel};
use world::State;

impl Checked for RaftModel {
    const KINDS: &'static [&'static str] = &[
        "deliver",
        "election timeout",
        "heartbeat",
        "lease timeout",
        "quorum check",
        "transfer timeout",
        "sync",
        "crash",
        "crash that keeps writes",
        "propose",
        "read",
        "reconfigure",
        "transfer",
        "snapshot saved",
        "snapshot stored",
        "snapshot failed",
        "snapshot unreadable",
        "step down",
        "unreachable",
    ];

    const CANONICAL: Option<crate::Canonical<Self>> = Some(State::canonical);

    fn kind(action: &Action) -> usize {
        use spec::raft::Timer;
        match action {
            Action::Deliver(_) => 0,
            Action::Fire(_, Timer::Election) => 1,
            Action::Fire(_, Timer::Heartbeat) => 2,
            Action::Fire(_, Timer::Lease) => 3,
            Action::Fire(_, Timer::QuorumCheck) => 4,
            Action::Fire(_, Timer::Transfer) => 5,
            Action::Sync(..) => 6,
            Action::Crash(_, 0) => 7,
            Action::Crash(..) => 8,
            Action::Propose(_) => 9,
            Action::Read(_) => 10,
            Action::Reconfigure(..) => 11,
            Action::Transfer(..) => 12,
            Action::SnapshotSaved(_) => 13,
            Action::SnapshotStored(..) => 14,
            Action::SnapshotFailed(..) => 15,
            Action::SnapshotUnreadable(..) => 16,
            Action::StepDown(_) => 17,
            Action::Unreachable(..) => 18,
        }
    }

    fn diagram(&self, path: &[(State, Option<Action>)]) -> String {
        diagram::diagram(path)
    }
}
