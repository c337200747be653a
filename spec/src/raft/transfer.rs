//! Leadership transfer (thesis §3.10): bring one voter up to date, then let it start an election at once.

use super::{
    message::{Message, TimeoutNow},
    node::{Node, Output, Rejection, Role, Timer, Turn},
    types::ServerId,
};
use crate::machine::Ticket;

/// A transfer under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transfer {
    /// The host's request.
    pub request: u64,
    /// The next leader.
    pub to: ServerId,
}

impl Node {
    /// Starts a transfer. Proposals are refused until it ends.
    pub(super) fn transfer(&mut self, request: u64, to: Option<ServerId>, turn: &mut Turn<'_, '_>) {
        let configuration = &self.membership.configuration;
        let Role::Leader(leader) = &mut self.role else {
            let reason = Rejection::NotLeader;
            return turn.emit(Output::Rejected { request, reason }, Ticket::NONE);
        };
        let reject = if leader.transfer.is_some() { Some(Rejection::Transferring) } else { None };
        let to = to.or_else(|| {
            let mut voters: alloc::vec::Vec<_> = leader
                .progress
                .iter()
                .filter(|(id, progress)| configuration.is_voter(id) && progress.active)
                .collect();
            voters.sort_by_key(|(_, progress)| progress.match_index);
            voters.last().map(|(id, _)| **id)
        });
        let to = to.filter(|to| configuration.is_voter(to) && *to != self.config.id);
        match (reject, to) {
            (Some(reason), _) => turn.emit(Output::Rejected { request, reason }, Ticket::NONE),
            (None, None) => {
                let reason = Rejection::NotVoter;
                turn.emit(Output::Rejected { request, reason }, Ticket::NONE);
            }
            (None, Some(to)) => {
                leader.transfer = Some(Transfer { request, to });
                turn.arm(Timer::Transfer, self.config.election);
                self.advance_transfer(turn);
            }
        }
    }

    /// Sends TimeoutNow once the target has every entry.
    pub(super) fn advance_transfer(&mut self, turn: &mut Turn<'_, '_>) {
        let last = self.log.last_index();
        let Role::Leader(leader) = &self.role else { return };
        let Some(transfer) = &leader.transfer else { return };
        let to = transfer.to;
        if leader.progress.get(&to).is_some_and(|progress| progress.match_index == last) {
            let message = Message::TimeoutNow(TimeoutNow { term: self.hard_state.term });
            turn.send(to, message, Ticket::NONE);
        }
    }

    /// Gives a transfer up: this leader goes on.
    pub(super) fn abort_transfer(&mut self, turn: &mut Turn<'_, '_>) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(transfer) = leader.transfer.take()
        {
            let reason = Rejection::TimedOut;
            turn.emit(Output::Rejected { request: transfer.request, reason }, Ticket::NONE);
        }
    }

    /// The leader asks this server to stand for election: it needs no pre-vote, and no lease refuses it; all else holds.
    pub(super) fn receive_timeout_now(
        &mut self,
        from: ServerId,
        message: &TimeoutNow,
        turn: &mut Turn<'_, '_>,
    ) {
        let follows = matches!(self.role, Role::Follower) && self.leader == Some(from);
        if message.term == self.hard_state.term && follows && self.is_voter() {
            self.campaign(true, turn);
        }
    }
}
