//! How a server leaves its cluster (prose/leave.md): Raft first, then the pools, so that no majority counts on a server
//! that is going.
//!
//! [`Leave::next`] is the server's side; the leader's is [`may_go`].

use alloc::{format, string::String};
use core::time::Duration;

use crate::raft::{Configuration, ServerId, Suffrage};

/// How long a server that leaves waits to be out of Raft's configuration (Consul's `raftRemoveGracePeriod`).
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long a voter counts as there that the leader doesn't hear, times Raft's multiplier: some heartbeats.
pub const HEARD: Duration = Duration::from_secs(1);

/// What a server that leaves does next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Have another server lead, and look again.
    HandOver,
    /// Ask the leader, this server too where it leads, to be removed from Raft.
    AskRemoval,
    /// Leave the pools: Raft no longer counts on this server.
    LeavePools {
        /// Whether it may still be in Raft's configuration, among others: nobody removed it in time.
        late: bool,
    },
    /// Don't leave: the others need this server.
    Stay(String),
}

/// How the last step went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Went {
    /// Nothing was tried, or it may be tried again.
    #[default]
    Open,
    /// The leader says that this server is out of Raft's configuration.
    Removed,
    /// The leader says why this server is needed.
    Needed(String),
}

/// What a leaving server knows of Raft.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View<'a> {
    /// Which it is.
    pub own: ServerId,
    /// Whether it leads.
    pub leads: bool,
    /// The configuration in force, as far as it knows.
    pub configuration: &'a Configuration,
    /// How long it has been leaving.
    pub waited: Duration,
}

/// A server that leaves, and what it tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leave {
    /// Whether it has tried to hand over what it leads.
    handed_over: bool,
}

impl Leave {
    /// What comes next, after how the last step went.
    pub fn next(&mut self, view: &View<'_>, went: &Went) -> Step {
        let servers = &view.configuration.servers;
        match went {
            Went::Needed(reason) => return Step::Stay(reason.clone()),
            Went::Removed => return Step::LeavePools { late: false },
            Went::Open => {}
        }
        // The last one stays in its own configuration: who starts it again finds its data.
        if servers.len() <= 1 || !servers.contains_key(&view.own) {
            return Step::LeavePools { late: false };
        }
        if view.waited >= PATIENCE {
            return Step::LeavePools { late: true };
        }
        let voters = view.configuration.voters().count();
        if view.leads && voters > 1 && !self.handed_over {
            self.handed_over = true;
            return Step::HandOver;
        }
        Step::AskRemoval
    }
}

/// Whether the leader may remove a server that leaves, as far as the voters go that it hears; why not, if it may not.
///
/// With voters 1 to 3 of which 3 is dead, 2 must not go: of 1 and 3 alone nobody is a majority. A server that is dead
/// itself may always go, since fewer make a majority then.
pub fn may_go(
    configuration: &Configuration,
    server: ServerId,
    heard: impl Fn(&ServerId) -> bool,
) -> Result<(), String> {
    let votes = |id: &ServerId| {
        configuration.servers.get(id).is_some_and(|member| member.suffrage == Suffrage::Voter)
    };
    if !votes(&server) {
        return Ok(());
    }
    let others = || configuration.voters().filter(|id| **id != server);
    let (left, there) = (others().count(), others().filter(|id| heard(id)).count());
    if there > left / 2 {
        return Ok(());
    }
    Err(format!(
        "of the {left} servers that would be left, {there} can be reached: they are no majority"
    ))
}
