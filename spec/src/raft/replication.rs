//! Replication and commitment (Raft §5.3, §5.4.2), pipelined within a window.

use alloc::vec::Vec;

use super::{
    message::{AppendEntries, AppendResult, Appended, Message},
    node::{Leader, Node, Output, Proposal, Rejection, Role, Turn},
    progress::Mode,
    quorum,
    types::{Change, Entry, Index, Request, ServerId, SnapshotId},
};
use crate::{machine::Ticket, time::ClusterTime};

impl Leader {
    /// The cluster's time, by this leader's monotonic clock from its election on.
    fn time(&self, turn: &Turn<'_, '_>) -> ClusterTime {
        let (since, base) = self.clock;
        let elapsed = u64::try_from(turn.cx.now.since(since).as_millis()).unwrap_or(u64::MAX);
        ClusterTime(base.0.saturating_add(elapsed))
    }
}

impl Node {
    /// Appends the host's commands to the log, all in one write and one round of messages.
    pub(super) fn propose(&mut self, proposals: Vec<Proposal>, turn: &mut Turn<'_, '_>) {
        let limit = self.config.max_uncommitted_bytes;
        let refused = match &self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Some(Rejection::Transferring),
            Role::Leader(leader) if leader.uncommitted_bytes > limit => Some(Rejection::Overloaded),
            Role::Leader(_) => None,
            Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                Some(Rejection::NotLeader)
            }
        };
        if let Some(reason) = refused {
            for Proposal { request, .. } in proposals {
                turn.emit(Output::Rejected { request, reason }, Ticket::NONE);
            }
            return;
        }
        let term = self.hard_state.term;
        let mut index = self.log.last_index();
        let mut requests = Vec::with_capacity(proposals.len());
        for Proposal { request, payload } in proposals {
            index = index.next();
            turn.emit(Output::Appended { request, term, index }, Ticket::NONE);
            requests.push(Request::Command(payload));
        }
        self.append_as_leader(requests, turn);
        self.replicate_to_all(turn);
    }

    /// Appends to a leader's own log; gives the last index.
    pub(super) fn append_as_leader(
        &mut self,
        requests: Vec<Request>,
        turn: &mut Turn<'_, '_>,
    ) -> Index {
        let term = self.hard_state.term;
        let after = self.log.last_index();
        let Role::Leader(leader) = &mut self.role else { return after };
        let time = leader.time(turn);
        let mut index = after;
        let mut entries = Vec::with_capacity(requests.len());
        for request in requests {
            index = index.next();
            let entry = Entry { term, index, time, request };
            leader.uncommitted_bytes += entry.size();
            self.log.push(entry.clone());
            entries.push(entry);
        }
        self.persist(Change::Append { after, entries }, turn);
        index
    }

    /// Sends what each follower lacks and its window allows.
    pub(super) fn replicate_to_all(&mut self, turn: &mut Turn<'_, '_>) {
        let Role::Leader(leader) = &self.role else { return };
        let peers: Vec<ServerId> = leader.progress.keys().copied().collect();
        for peer in peers {
            self.replicate(peer, turn);
        }
    }

    /// Sends what one follower lacks and its window allows.
    pub(super) fn replicate(&mut self, to: ServerId, turn: &mut Turn<'_, '_>) {
        let last = self.log.last_index();
        let config = alloc::sync::Arc::clone(&self.config);
        loop {
            let Role::Leader(leader) = &mut self.role else { return };
            let Some(progress) = leader.progress.get_mut(&to) else { return };
            let probe = match &progress.mode {
                Mode::Snapshot { .. } | Mode::Probe { paused: true } => return,
                Mode::Probe { paused: false } => true,
                Mode::Replicate => {
                    let full = progress.inflight.len() >= config.max_inflight
                        || progress.inflight_bytes >= config.max_inflight_bytes;
                    if full || progress.next_index > last {
                        return;
                    }
                    false
                }
            };
            let previous = progress.next_index.previous();
            let Some(term) = self.log.term_at(previous).filter(|_| previous >= self.log.base.index)
            else {
                return self.start_snapshot(to, turn);
            };
            let entries = self.log.slice(
                progress.next_index,
                config.max_append_entries,
                config.max_append_bytes,
            );
            if probe {
                progress.mode = Mode::Probe { paused: true };
            } else if let Some(entry) = entries.last() {
                progress.sent(entry.index, entries.iter().map(Entry::size).sum());
                if config.eager_commit {
                    progress.commit_sent = self.commit_index.min(entry.index);
                }
            }
            let message = AppendEntries {
                term: self.hard_state.term,
                previous: SnapshotId { index: previous, term },
                entries,
                commit: self.commit_index,
                round: leader.reads.n,
            };
            turn.send(to, Message::AppendEntries(message), Ticket::NONE);
        }
    }

    /// Sends a heartbeat to every follower, with the newest ReadIndex round.
    pub(super) fn send_heartbeats(&mut self, turn: &mut Turn<'_, '_>) {
        let Role::Leader(leader) = &self.role else { return };
        let peers: Vec<ServerId> = leader.progress.keys().copied().collect();
        for peer in peers {
            self.send_heartbeat(peer, turn);
        }
    }

    /// Sends one heartbeat.
    ///
    /// It stands on what the follower is known to have durably, so its answer waits for no disk; a follower that is
    /// probed gets the probe again instead.
    pub(super) fn send_heartbeat(&mut self, to: ServerId, turn: &mut Turn<'_, '_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&to) else { return };
        if let Mode::Probe { paused } = &mut progress.mode {
            *paused = false;
            return self.replicate(to, turn);
        }
        let matched = progress.match_index;
        if self.config.eager_commit {
            progress.commit_sent = self.commit_index.min(matched);
        }
        let known = self.log.term_at(matched).filter(|_| matched >= self.log.base.index);
        let previous = known.map(|term| SnapshotId { index: matched, term }).unwrap_or_default();
        let message = AppendEntries {
            term: self.hard_state.term,
            previous,
            entries: Vec::new(),
            commit: self.commit_index.min(matched),
            round: leader.reads.n,
        };
        turn.send(to, Message::AppendEntries(message), Ticket::NONE);
    }

    /// At each heartbeat, takes up what was lost: messages that brought a follower no further since the last one.
    pub(super) fn resend_lost(&mut self, turn: &mut Turn<'_, '_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        for progress in leader.progress.values_mut() {
            let position = match &mut progress.mode {
                Mode::Probe { .. } => continue,
                Mode::Replicate => progress.match_index.0,
                Mode::Snapshot { acked, .. } => *acked,
            };
            let stalled = core::mem::replace(&mut progress.at_heartbeat, position) == position;
            match &mut progress.mode {
                Mode::Replicate if stalled && !progress.inflight.is_empty() => {
                    progress.probe(progress.match_index.next());
                }
                Mode::Snapshot { acked, sent, .. } if stalled => *sent = *acked,
                Mode::Probe { .. } | Mode::Replicate | Mode::Snapshot { .. } => {}
            }
        }
        self.continue_snapshots(turn);
    }

    /// A leader's entries or heartbeat.
    pub(super) fn receive_append(
        &mut self,
        from: ServerId,
        message: AppendEntries,
        turn: &mut Turn<'_, '_>,
    ) {
        let AppendEntries { term, previous, entries, commit, round } = message;
        if term < self.hard_state.term {
            let result =
                AppendResult::Conflict { rejected: previous.index, hint: SnapshotId::default() };
            // No round: it is of the old term, and the sender may lead this one, too, and count it for a read of now.
            return self.answer_append(from, 0, result, self.hard_state_ticket(), turn);
        }
        self.hear_leader(from, term, turn);
        let consecutive =
            entries.iter().zip(previous.index.0 + 1..).all(|(entry, index)| entry.index.0 == index);
        if !consecutive {
            return turn.emit(Output::Dropped("entries not consecutive"), Ticket::NONE);
        }
        // What is at or before the base is committed, so this leader has it too.
        let agrees = previous.index < self.log.base.index
            || self.log.term_at(previous.index) == Some(previous.term);
        if !agrees {
            let hint = self.log.agree_at_most(SnapshotId {
                index: previous.index.previous(),
                term: previous.term,
            });
            let result = AppendResult::Conflict { rejected: previous.index, hint };
            let after = self.reply_ticket(Index(0), turn);
            return self.answer_append(from, round, result, after, turn);
        }
        // Only what this message showed to agree: entries behind it may be another leader's.
        let matched = entries.last().map_or(previous.index, |entry| entry.index);
        self.append_as_follower(entries, turn);
        self.advance_commit(commit.min(matched), turn);
        let after = self.reply_ticket(matched, turn);
        self.answer_append(from, round, AppendResult::Matched(matched), after, turn);
    }

    fn answer_append(
        &mut self,
        to: ServerId,
        round: u64,
        result: AppendResult,
        after: Ticket,
        turn: &mut Turn<'_, '_>,
    ) {
        let term = self.hard_state.term;
        turn.send(to, Message::Appended(Appended { term, round, result }), after);
    }

    /// Takes over the entries that are new, dropping its own from the first that differs.
    fn append_as_follower(&mut self, entries: Vec<Entry>, turn: &mut Turn<'_, '_>) {
        // A late message must not truncate: entries that are there already stay, and so do those behind them.
        let known = entries
            .iter()
            .take_while(|entry| {
                entry.index <= self.log.base.index
                    || self.log.term_at(entry.index) == Some(entry.term)
            })
            .count();
        let fresh: Vec<Entry> = entries.into_iter().skip(known).collect();
        let Some(first) = fresh.first() else { return };
        let after = first.index.previous();
        // Looked for in the whole log only where the entry of the one in force goes or another comes.
        let reconfigures = self.membership.index > after
            || fresh.iter().any(|entry| matches!(entry.request, Request::Configuration(_)));
        self.truncate(after);
        for entry in &fresh {
            self.log.push(entry.clone());
        }
        self.persist(Change::Append { after, entries: fresh }, turn);
        if reconfigures {
            self.reload_membership(turn);
        }
    }

    /// Drops the entries behind `after`; what is on its way to the disk counts only up to there.
    fn truncate(&mut self, after: Index) {
        self.log.truncate(after);
        self.durable_index = self.durable_index.min(after);
        for pending in &mut self.pending {
            pending.last = pending.last.min(after);
        }
    }

    /// Everything up to `commit` is committed: hands it to the host.
    pub(super) fn advance_commit(&mut self, commit: Index, turn: &mut Turn<'_, '_>) {
        if commit <= self.commit_index {
            return;
        }
        let entries = self.log.between(self.commit_index, commit);
        self.commit_index = commit;
        if let Role::Leader(leader) = &mut self.role {
            let bytes: usize = entries.iter().map(Entry::size).sum();
            leader.uncommitted_bytes = leader.uncommitted_bytes.saturating_sub(bytes);
        }
        turn.emit(Output::Committed(entries), Ticket::NONE);
    }

    /// A follower's answer.
    pub(super) fn receive_appended(
        &mut self,
        from: ServerId,
        message: &Appended,
        turn: &mut Turn<'_, '_>,
    ) {
        let last = self.log.last_index();
        if message.term != self.hard_state.term {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        progress.active = true;
        match message.result {
            AppendResult::Matched(index) if index > last => {
                return turn.emit(Output::Dropped("acknowledges unknown entries"), Ticket::NONE);
            }
            AppendResult::Matched(index) => {
                progress.round = progress.round.max(message.round);
                let news = progress.matched(index);
                self.after_match(from, news, turn);
            }
            AppendResult::Conflict { rejected, hint } => {
                progress.round = progress.round.max(message.round);
                let stale = match progress.mode {
                    Mode::Probe { .. } => rejected != progress.next_index.previous(),
                    Mode::Replicate => rejected <= progress.match_index,
                    Mode::Snapshot { .. } => true,
                };
                if !stale {
                    let agree = self.log.agree_at_most(hint);
                    progress.probe(agree.index.next());
                    self.replicate(from, turn);
                }
            }
        }
        if self.confirm_round(turn) {
            self.start_round(turn);
        }
    }

    /// A follower durably has more, or answered again.
    pub(super) fn after_match(&mut self, from: ServerId, news: bool, turn: &mut Turn<'_, '_>) {
        if news {
            self.commit_by_quorum(turn);
        }
        let Role::Leader(leader) = &self.role else { return };
        let learner = !self.membership.configuration.is_voter(&from);
        if learner && self.has_caught_up(leader, &from) {
            turn.emit(Output::CaughtUp(from), Ticket::NONE);
        }
        if news && leader.transfer.as_ref().is_some_and(|transfer| transfer.to == from) {
            self.advance_transfer(turn);
        }
        self.replicate(from, turn);
        self.send_commit(from, turn);
    }

    /// Commits what a majority of the voters durably has, if it is of this term.
    pub(super) fn commit_by_quorum(&mut self, turn: &mut Turn<'_, '_>) {
        let Role::Leader(leader) = &self.role else { return };
        let own = self.config.id;
        let index = quorum::quorum_index(&self.membership.configuration, |id| {
            if *id == own {
                self.durable_index
            } else {
                leader.progress.get(id).map_or(Index(0), |progress| progress.match_index)
            }
        });
        // An entry of an earlier term is committed only by one of this term behind it: a majority that has it may still
        // be overruled (Raft figure 8).
        if index <= self.commit_index || self.log.term_at(index) != Some(self.hard_state.term) {
            return;
        }
        self.advance_commit(index, turn);
        if self.membership.index <= index && !self.is_voter() {
            // Removed, and that is committed: the others elect (thesis §4.2.2).
            return self.become_follower(None, turn);
        }
        let Role::Leader(leader) = &self.role else { return };
        let peers: Vec<ServerId> = leader.progress.keys().copied().collect();
        for peer in peers {
            self.send_commit(peer, turn);
        }
        self.start_round(turn);
    }

    /// Tells a follower that has nothing else coming of a commit index that is new to it: whoever waits there for what is
    /// committed would otherwise wait for the next heartbeat.
    fn send_commit(&mut self, to: ServerId, turn: &mut Turn<'_, '_>) {
        let last = self.log.last_index();
        let Role::Leader(leader) = &self.role else { return };
        let Some(progress) = leader.progress.get(&to) else { return };
        let idle = matches!(progress.mode, Mode::Replicate) && progress.next_index > last;
        let news = self.commit_index.min(progress.match_index) > progress.commit_sent;
        if self.config.eager_commit && idle && news {
            self.send_heartbeat(to, turn);
        }
    }
}
