//! Leader election (Raft §5.2, §5.4.1), pre-vote (thesis §9.6), CheckQuorum (thesis §6.2, §4.2.3).

use alloc::{boxed::Box, collections::BTreeSet, vec::Vec};

use super::{
    message::{Message, RequestVote, Vote},
    node::{Leader, Node, Output, Role, Timer, Turn},
    quorum,
    read::ReadRounds,
    types::{Change, Entry, Index, Request, ServerId, Term},
};
use crate::machine::Ticket;

impl Node {
    /// Enters a higher term, in which it has voted for nobody.
    pub(super) fn enter_term(&mut self, term: Term, turn: &mut Turn<'_, '_>) {
        self.become_follower(None, turn);
        self.hard_state.term = term;
        self.hard_state.voted_for = None;
    }

    /// Follows `leader`, or nobody yet.
    pub(super) fn become_follower(&mut self, leader: Option<ServerId>, turn: &mut Turn<'_, '_>) {
        let led = matches!(self.role, Role::Leader(_));
        if led {
            self.fail_reads(turn);
            if let Role::Leader(leader) = &mut self.role
                && let Some(transfer) = leader.transfer.take()
            {
                turn.emit(Output::Transferred { request: transfer.request }, Ticket::NONE);
            }
            for timer in [Timer::Heartbeat, Timer::QuorumCheck, Timer::Transfer] {
                turn.disarm(timer);
            }
        }
        if self.leader != leader {
            self.fail_forwarded_reads(turn);
        }
        if leader.is_none() || self.leader != leader {
            self.install = None;
        }
        self.role = Role::Follower;
        self.leader = leader;
        if leader.is_none() {
            self.lease = false;
            turn.disarm(Timer::Lease);
        }
        if led {
            // Others keep the timer that runs: a term that rises again and again must not put an election off.
            self.arm_election(turn);
        }
    }

    /// The leader of `term` was heard.
    pub(super) fn hear_leader(&mut self, from: ServerId, term: Term, turn: &mut Turn<'_, '_>) {
        if term > self.hard_state.term {
            self.enter_term(term, turn);
        }
        if self.leader != Some(from) || !matches!(self.role, Role::Follower) {
            self.become_follower(Some(from), turn);
        }
        self.arm_election(turn);
        if self.config.check_quorum {
            self.lease = true;
            turn.arm(Timer::Lease, self.config.election);
        }
        turn.emit(Output::LeaderHeard, Ticket::NONE);
    }

    /// Waits for a leader.
    pub(super) fn arm_election(&mut self, turn: &mut Turn<'_, '_>) {
        let delay = self.config.election + turn.cx.entropy.jitter(self.config.election_jitter);
        turn.arm(Timer::Election, delay);
    }

    /// No leader was heard for long enough.
    pub(super) fn election_timeout(&mut self, turn: &mut Turn<'_, '_>) {
        if matches!(self.role, Role::Leader(_)) {
            return;
        }
        self.arm_election(turn);
        if !self.may_stand() {
            // A learner, a removed or a blank server doesn't stand, but it knows that it has no leader.
            return self.become_follower(None, turn);
        }
        if self.config.pre_vote && !self.is_lone_voter() {
            self.pre_campaign(turn);
        } else {
            self.campaign(false, turn);
        }
    }

    /// Asks whether it would be elected, changing neither term nor vote: a server that was cut off and returns would
    /// otherwise depose a good leader with its high term.
    fn pre_campaign(&mut self, turn: &mut Turn<'_, '_>) {
        self.become_follower(None, turn);
        self.role = Role::PreCandidate { votes: BTreeSet::from([self.config.id]) };
        let request = RequestVote {
            term: self.hard_state.term.next(),
            last: self.log.last(),
            pre_vote: true,
            transfer: false,
        };
        self.send_to_voters(&Message::RequestVote(request), Ticket::NONE, turn);
    }

    /// Stands for election in the next term.
    pub(super) fn campaign(&mut self, transfer: bool, turn: &mut Turn<'_, '_>) {
        self.become_follower(None, turn);
        self.arm_election(turn);
        self.hard_state.term = self.hard_state.term.next();
        self.hard_state.voted_for = Some(self.config.id);
        // Its own vote counts once it is durable, as any other's: a lone voter that led at once and crashed could lead
        // the same term again with another log, which a learner has seen.
        self.role = Role::Candidate { votes: BTreeSet::new() };
        let after = self.persist(Change::None, turn);
        let request = RequestVote {
            term: self.hard_state.term,
            last: self.log.last(),
            pre_vote: false,
            transfer,
        };
        self.send_to_voters(&Message::RequestVote(request), after, turn);
    }

    fn send_to_voters(&mut self, message: &Message, after: Ticket, turn: &mut Turn<'_, '_>) {
        let own = self.config.id;
        for to in self.membership.configuration.voters().filter(|to| **to != own) {
            turn.send(*to, message.clone(), after);
        }
    }

    /// Another server asks for a vote or pre-vote.
    pub(super) fn receive_request_vote(
        &mut self,
        from: ServerId,
        request: &RequestVote,
        turn: &mut Turn<'_, '_>,
    ) {
        // While this server leads or hears a leader, nobody else is wanted; the term stays, too, so that a removed
        // server can't disturb (thesis §4.2.3).
        let leads = matches!(self.role, Role::Leader(_));
        let leased = self.config.check_quorum && (leads || (self.lease && self.leader.is_some()));
        if leased && !request.transfer && request.term > self.hard_state.term {
            return;
        }
        let up_to_date = (request.last.term, request.last.index)
            >= (self.log.last().term, self.log.last_index());
        if request.pre_vote {
            let granted = request.term > self.hard_state.term && up_to_date;
            let term = if granted { request.term } else { self.hard_state.term };
            let vote = Vote { term, granted, pre_vote: true };
            let after = self.hard_state_ticket();
            return turn.send(from, Message::Vote(vote), after);
        }
        if request.term > self.hard_state.term {
            self.enter_term(request.term, turn);
        }
        let free = self.hard_state.voted_for.is_none_or(|voted_for| voted_for == from);
        // A learner votes when it is asked: the candidate may know that it was promoted before the learner does.
        let granted = request.term == self.hard_state.term && free && up_to_date;
        if granted {
            self.hard_state.voted_for = Some(from);
            self.arm_election(turn);
        }
        let after = self.reply_ticket(Index(0), turn);
        let vote = Vote { term: self.hard_state.term, granted, pre_vote: false };
        turn.send(from, Message::Vote(vote), after);
    }

    /// An answer to its request.
    pub(super) fn receive_vote(&mut self, from: ServerId, vote: &Vote, turn: &mut Turn<'_, '_>) {
        let asked = if vote.pre_vote { self.hard_state.term.next() } else { self.hard_state.term };
        if !vote.granted || vote.term != asked {
            return;
        }
        match &mut self.role {
            Role::PreCandidate { votes } if vote.pre_vote => {
                votes.insert(from);
                if quorum::is_quorum(&self.membership.configuration, |id| votes.contains(id)) {
                    self.campaign(false, turn);
                }
            }
            Role::Candidate { votes } if !vote.pre_vote => {
                votes.insert(from);
                self.count_votes(turn);
            }
            Role::Follower
            | Role::PreCandidate { .. }
            | Role::Candidate { .. }
            | Role::Leader(_) => {}
        }
    }

    /// Leads once a majority of the voters, itself durably among them where it votes, has voted for it.
    pub(super) fn count_votes(&mut self, turn: &mut Turn<'_, '_>) {
        let Role::Candidate { votes } = &self.role else { return };
        if quorum::is_quorum(&self.membership.configuration, |id| votes.contains(id)) {
            self.become_leader(turn);
        }
    }

    fn become_leader(&mut self, turn: &mut Turn<'_, '_>) {
        let own = self.config.id;
        let last = self.log.last_index();
        let time = self.log.entries.back().map_or_else(
            || self.snapshot.as_ref().map_or_else(Default::default, |meta| meta.time),
            |entry| entry.time,
        );
        let mut leader = Leader {
            progress: alloc::collections::BTreeMap::new(),
            term_start: last.next(),
            reads: ReadRounds::default(),
            transfer: None,
            clock: (turn.cx.now, time),
            uncommitted_bytes: self
                .log
                .between(self.commit_index, last)
                .iter()
                .map(Entry::size)
                .sum(),
        };
        leader.follow(&own, &self.membership.configuration, last.next());
        self.role = Role::Leader(Box::new(leader));
        self.leader = Some(own);
        self.lease = false;
        turn.disarm(Timer::Election);
        turn.disarm(Timer::Lease);
        turn.arm(Timer::Heartbeat, self.config.heartbeat);
        if self.config.check_quorum {
            turn.arm(Timer::QuorumCheck, self.config.quorum_check);
        }
        // An empty entry of its own term: only with it committed does a leader know what is (Raft §8).
        self.append_as_leader(Vec::from([Request::Noop]), turn);
        self.replicate_to_all(turn);
    }

    /// Steps down where no quorum answered since the last look.
    pub(super) fn check_quorum(&mut self, turn: &mut Turn<'_, '_>) {
        let own = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return };
        let progress = &mut leader.progress;
        let heard = quorum::is_quorum(&self.membership.configuration, |id| {
            *id == own || progress.get(id).is_some_and(|progress| progress.active)
        });
        for progress in progress.values_mut() {
            progress.active = false;
        }
        if heard {
            turn.arm(Timer::QuorumCheck, self.config.quorum_check);
        } else {
            self.become_follower(None, turn);
        }
    }

    /// The connection to `server` broke.
    pub(super) fn unreachable(&mut self, server: ServerId, turn: &mut Turn<'_, '_>) {
        if let Role::Leader(leader) = &mut self.role {
            if let Some(progress) = leader.progress.get_mut(&server)
                && matches!(progress.mode, super::progress::Mode::Replicate)
            {
                progress.probe(progress.match_index.next());
            }
            if leader.reads.nearest.remove(&server) && leader.reads.round.is_some() {
                self.ask_round(turn);
            }
        } else if self.leader == Some(server) {
            // Its lease is worth nothing now, and waiting for it neither; a pre-vote can do no harm if it lives.
            self.lease = false;
            turn.disarm(Timer::Lease);
            let delay = turn.cx.entropy.jitter(self.config.suspicion_jitter);
            turn.arm(Timer::Election, delay);
        }
    }
}
