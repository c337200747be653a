//! Linearizable reads by ReadIndex (thesis §6.4), at the leader and through it at followers.
//!
//! A round is (term, n). It confirms only the reads that arrived before it was sent: one that joined later could be
//! answered from before a write that another leader acknowledged in between.

use alloc::{collections::BTreeSet, vec::Vec};

use super::{
    message::{Message, ReadId, ReadIndex, ReadIndexReply},
    node::{Node, Output, Role, Turn},
    quorum,
    types::{Index, ServerId},
};
use crate::machine::Ticket;

/// A read that waits for its index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    /// Who asked; none for this server's own.
    pub from: Option<ServerId>,
    /// Which request.
    pub id: ReadId,
}

/// A round under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Round {
    /// The commit index when it was sent.
    pub index: Index,
    /// The reads that it confirms.
    pub reads: Vec<Read>,
}

/// A leader's rounds; one is under way at a time, and the next takes all reads that came meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadRounds {
    /// The newest round.
    pub n: u64,
    /// That round, until a quorum has answered it.
    pub round: Option<Round>,
    /// Reads for the next round.
    pub waiting: Vec<Read>,
    /// The followers whose answers made up the quorum when last all were asked: until the next heartbeat they are asked
    /// alone. Empty where all are to be asked.
    pub nearest: BTreeSet<ServerId>,
}

impl Node {
    /// A read of this server's host.
    pub(super) fn read(&mut self, n: u64, turn: &mut Turn<'_, '_>) {
        let id = ReadId { boot: self.config.boot, n };
        if matches!(self.role, Role::Leader(_)) {
            return self.lead_read(Read { from: None, id }, turn);
        }
        match self.leader {
            Some(leader) if self.forwarded_reads.len() < self.config.max_reads => {
                self.forwarded_reads.insert(id);
                turn.send(leader, Message::ReadIndex(ReadIndex { id }), Ticket::NONE);
            }
            Some(_) | None => turn.emit(Output::ReadFailed { n }, Ticket::NONE),
        }
    }

    /// A follower asks for a read index.
    pub(super) fn receive_read_index(
        &mut self,
        from: ServerId,
        message: &ReadIndex,
        turn: &mut Turn<'_, '_>,
    ) {
        let read = Read { from: Some(from), id: message.id };
        if matches!(self.role, Role::Leader(_)) {
            self.lead_read(read, turn);
        } else {
            Self::answer_read(&read, None, turn);
        }
    }

    /// The leader answered.
    pub(super) fn receive_read_reply(&mut self, message: &ReadIndexReply, turn: &mut Turn<'_, '_>) {
        if !self.forwarded_reads.remove(&message.id) {
            return;
        }
        let n = message.id.n;
        let output = match message.index {
            Some(index) => Output::ReadReady { n, index },
            None => Output::ReadFailed { n },
        };
        turn.emit(output, Ticket::NONE);
    }

    fn lead_read(&mut self, read: Read, turn: &mut Turn<'_, '_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.reads.waiting.len() >= self.config.max_reads {
            return Self::answer_read(&read, None, turn);
        }
        leader.reads.waiting.push(read);
        self.start_round(turn);
    }

    /// Starts the next round, where none is under way and reads wait for one.
    pub(super) fn start_round(&mut self, turn: &mut Turn<'_, '_>) {
        let commit_index = self.commit_index;
        let Role::Leader(leader) = &mut self.role else { return };
        // Until an entry of its term is committed, a leader doesn't know which of its entries are (Raft §8).
        if commit_index < leader.term_start {
            return;
        }
        if leader.reads.round.is_some() || leader.reads.waiting.is_empty() {
            return;
        }
        leader.reads.n += 1;
        let reads = core::mem::take(&mut leader.reads.waiting);
        leader.reads.round = Some(Round { index: commit_index, reads });
        if !self.confirm_round(turn) {
            self.ask_round(turn);
        }
    }

    /// Sends the newest round to as many as have to answer it: those that were the first to do so since the last heartbeat.
    ///
    /// Where one of them is gone, the next heartbeat brings the round to all, and finds out whom to ask from then on.
    pub(super) fn ask_round(&mut self, turn: &mut Turn<'_, '_>) {
        let own = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return };
        let nearest = leader.reads.nearest.clone();
        let asked = |id: &ServerId| *id == own || nearest.contains(id);
        if !quorum::is_quorum(&self.membership.configuration, asked) {
            leader.reads.nearest.clear();
            return self.send_heartbeats(turn);
        }
        for follower in nearest {
            self.send_heartbeat(follower, turn);
        }
    }

    /// Answers the reads of the round under way once a quorum has answered it; tells whether it did.
    pub(super) fn confirm_round(&mut self, turn: &mut Turn<'_, '_>) -> bool {
        let own = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return false };
        let (n, progress) = (leader.reads.n, &leader.progress);
        let confirmed = quorum::is_quorum(&self.membership.configuration, |id| {
            *id == own || progress.get(id).is_some_and(|progress| progress.round >= n)
        });
        if !confirmed {
            return false;
        }
        let Some(round) = leader.reads.round.take() else { return false };
        if leader.reads.nearest.is_empty() {
            let voters = self.membership.configuration.voters();
            let answered = |id: &&ServerId| progress.get(id).is_some_and(|p| p.round >= n);
            leader.reads.nearest = voters.filter(answered).copied().collect();
        }
        for read in &round.reads {
            Self::answer_read(read, Some(round.index), turn);
        }
        true
    }

    /// Answers all reads that this leader can't confirm any more.
    pub(super) fn fail_reads(&mut self, turn: &mut Turn<'_, '_>) {
        if let Role::Leader(leader) = &mut self.role {
            let reads = core::mem::take(&mut leader.reads);
            let under_way = reads.round.map(|round| round.reads).unwrap_or_default();
            for read in under_way.iter().chain(&reads.waiting) {
                Self::answer_read(read, None, turn);
            }
        }
    }

    /// Tells the host that the reads which it asked a leader for found none.
    pub(super) fn fail_forwarded_reads(&mut self, turn: &mut Turn<'_, '_>) {
        for id in core::mem::take(&mut self.forwarded_reads) {
            turn.emit(Output::ReadFailed { n: id.n }, Ticket::NONE);
        }
    }

    fn answer_read(read: &Read, index: Option<Index>, turn: &mut Turn<'_, '_>) {
        match (read.from, index) {
            (Some(from), index) => {
                let reply = ReadIndexReply { id: read.id, index };
                turn.send(from, Message::ReadIndexReply(reply), Ticket::NONE);
            }
            (None, Some(index)) => {
                turn.emit(Output::ReadReady { n: read.id.n, index }, Ticket::NONE);
            }
            (None, None) => turn.emit(Output::ReadFailed { n: read.id.n }, Ticket::NONE),
        }
    }
}
