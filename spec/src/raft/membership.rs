//! Membership: one server at a time, learners first (thesis §4.1-4.2; the bug of 2015 on single-server changes).

use alloc::{collections::BTreeMap, sync::Arc};

use bincode::{Decode, Encode};

use super::{
    log::Log,
    node::{Leader, Node, Output, Rejection, Role, Turn},
    progress::Progress,
    types::{Configuration, Index, Member, Request, ServerId, SnapshotMeta, Suffrage},
};
use crate::machine::Ticket;

/// The configuration in force: the newest in the log, committed or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The configuration.
    pub configuration: Arc<Configuration>,
    /// The index of its entry; 0 where there is none.
    pub index: Index,
}

impl Membership {
    /// The configuration in force at `last`: of the newest entry up to it, or the snapshot's.
    ///
    /// The snapshot's is enough to fall back on, since no entry at or before a snapshot is ever truncated.
    pub fn at(log: &Log, snapshot: Option<&SnapshotMeta>, last: Index) -> Self {
        let after = snapshot.map_or(Index(0), |meta| meta.id.index);
        for entry in log.entries.iter().rev() {
            if entry.index > last {
                continue;
            }
            if entry.index <= after {
                break;
            }
            if let Request::Configuration(configuration) = &entry.request {
                return Self { configuration: Arc::clone(configuration), index: entry.index };
            }
        }
        snapshot.map_or_else(Self::default, |meta| Self {
            configuration: Arc::clone(&meta.configuration),
            index: meta.configuration_index,
        })
    }
}

/// One change of the configuration. Each keeps the quorums before and after it overlapping.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum MembershipChange {
    /// Adds a server that receives the log and doesn't vote.
    AddLearner {
        /// The server.
        id: ServerId,
        /// Where it answers.
        address: Arc<str>,
    },
    /// Lets a learner that has caught up vote.
    Promote(ServerId),
    /// Removes a server.
    Remove(ServerId),
    /// Notes a server's new address.
    SetAddress {
        /// The server.
        id: ServerId,
        /// Where it answers.
        address: Arc<str>,
    },
}

impl Node {
    /// Whether this server votes in the configuration in force.
    pub fn is_voter(&self) -> bool {
        self.membership.configuration.is_voter(&self.config.id)
    }

    /// Whether this server may stand for election: it votes, or the entry that took its vote isn't known to be
    /// committed.
    ///
    /// With voters 1-3, leader 1 removes 2 and then itself, which nobody receives, and is deposed by 3: of the two that
    /// are left, only 1 has the longer log, so it alone can win, and bring 3 the entry that removes it (thesis §4.2.2).
    pub(super) fn may_stand(&self) -> bool {
        let uncommitted = self.membership.index > self.commit_index;
        let voted = || {
            let before = self.membership.index.previous();
            let earlier = Membership::at(&self.log, self.snapshot.as_ref(), before);
            earlier.configuration.is_voter(&self.config.id)
        };
        self.is_voter() || uncommitted && voted()
    }

    /// Whether this server is the only voter.
    pub fn is_lone_voter(&self) -> bool {
        self.is_voter() && self.membership.configuration.voters().count() == 1
    }

    /// Takes the configuration in force from the log, after entries came or went.
    pub(super) fn reload_membership(&mut self, turn: &mut Turn<'_, '_>) {
        let membership = Membership::at(&self.log, self.snapshot.as_ref(), self.log.last_index());
        if membership == self.membership {
            return;
        }
        self.membership = membership;
        turn.emit(
            Output::Configured {
                index: self.membership.index,
                configuration: Arc::clone(&self.membership.configuration),
            },
            Ticket::NONE,
        );
        let next = self.log.last_index().next();
        let (own, configuration) = (self.config.id, Arc::clone(&self.membership.configuration));
        if let Role::Leader(leader) = &mut self.role {
            leader.follow(&own, &configuration, next);
        }
    }

    /// Starts a change of the configuration.
    pub(super) fn reconfigure(
        &mut self,
        request: u64,
        change: &MembershipChange,
        turn: &mut Turn<'_, '_>,
    ) {
        match self.reconfigured(change) {
            Ok(configuration) => {
                let index = self.append_as_leader(
                    alloc::vec![Request::Configuration(Arc::new(configuration))],
                    turn,
                );
                turn.emit(
                    Output::Appended { request, term: self.hard_state.term, index },
                    Ticket::NONE,
                );
                self.reload_membership(turn);
                self.replicate_to_all(turn);
                // Of fewer voters those that answered so far may be enough; and a leader that is left alone, amid a round
                // that asks the one it removed, would never be answered, nor would any later read be.
                if self.confirm_round(turn) {
                    self.start_round(turn);
                }
            }
            Err(reason) => turn.emit(Output::Rejected { request, reason }, Ticket::NONE),
        }
    }

    /// The configuration after `change`, or why it can't be made.
    fn reconfigured(&self, change: &MembershipChange) -> Result<Configuration, Rejection> {
        let Role::Leader(leader) = &self.role else { return Err(Rejection::NotLeader) };
        if leader.transfer.is_some() {
            return Err(Rejection::Transferring);
        }
        // Two changes under way may have quorums that don't overlap.
        if self.membership.index > self.commit_index {
            return Err(Rejection::ChangePending);
        }
        // Until an entry of this term is committed, an earlier leader's change may still win: with servers 1-4, leader 1
        // adds 5 alone, leader 2 of a later term removes 1 and commits on {2,3}, then 1 commits on {1,4,5}.
        if self.commit_index < leader.term_start {
            return Err(Rejection::ChangePending);
        }
        let mut next = (*self.membership.configuration).clone();
        match change {
            MembershipChange::AddLearner { id, address } => {
                if next.servers.contains_key(id) {
                    return Err(Rejection::BadChange);
                }
                let member = Member { suffrage: Suffrage::Learner, address: Arc::clone(address) };
                next.servers.insert(*id, member);
            }
            MembershipChange::Promote(id) => {
                let member = next.servers.get_mut(id).ok_or(Rejection::BadChange)?;
                if member.suffrage == Suffrage::Voter {
                    return Err(Rejection::BadChange);
                }
                if !self.has_caught_up(leader, id) {
                    return Err(Rejection::NotCaughtUp);
                }
                member.suffrage = Suffrage::Voter;
            }
            MembershipChange::Remove(id) => {
                next.servers.remove(id).ok_or(Rejection::BadChange)?;
                if next.voters().next().is_none() {
                    return Err(Rejection::BadChange);
                }
            }
            MembershipChange::SetAddress { id, address } => {
                let member = next.servers.get_mut(id).ok_or(Rejection::BadChange)?;
                if member.address == *address {
                    return Err(Rejection::BadChange);
                }
                member.address = Arc::clone(address);
            }
        }
        Ok(next)
    }

    /// Whether a learner has, but for what came just now, everything that is committed.
    pub(super) fn has_caught_up(&self, leader: &Leader, id: &ServerId) -> bool {
        leader.progress.get(id).is_some_and(|progress| {
            progress.match_index.0.saturating_add(self.config.catch_up_slack) >= self.commit_index.0
                && progress.match_index > Index(0)
        })
    }
}

impl Leader {
    /// Keeps one progress for each other server of the configuration.
    pub(super) fn follow(&mut self, own: &ServerId, configuration: &Configuration, next: Index) {
        let mut progress = BTreeMap::new();
        for id in configuration.servers.keys().filter(|id| *id != own) {
            let known = self.progress.remove(id).unwrap_or_else(|| Progress::new(next));
            progress.insert(*id, known);
        }
        self.progress = progress;
    }
}
