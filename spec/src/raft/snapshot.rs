//! Compaction, and the flow of a snapshot's chunks (Raft §7). The driver moves the bytes.

use alloc::{sync::Arc, vec::Vec};

use super::{
    membership::Membership,
    message::{InstallSnapshot, Message, SnapshotReply},
    node::{Install, Node, Output, Role, Turn},
    progress::Mode,
    types::{Change, Index, ServerId, SnapshotId, SnapshotMeta},
};
use crate::machine::Ticket;

impl Node {
    /// The host's snapshot up to `index` is in a durable file: the log lets go of what it holds, but for the entries that
    /// trail it for slow followers, and those that lead from the older snapshot to it.
    pub(super) fn snapshot_saved(&mut self, index: Index, chunks: u64, turn: &mut Turn<'_, '_>) {
        let newer = self.snapshot.as_ref().is_none_or(|meta| index > meta.id.index);
        // Only what is durable here: a crash could leave a snapshot of entries whose write was lost, with a hole behind.
        if !newer || index > self.commit_index || index > self.durable_index {
            return;
        }
        let Some(entry) = self.log.get(index) else { return };
        let id = SnapshotId { index, term: entry.term };
        let time = entry.time;
        let Membership { configuration, index: configuration_index } =
            Membership::at(&self.log, self.snapshot.as_ref(), index);
        let meta =
            SnapshotMeta { id, time, configuration, configuration_index, chunks: chunks.max(1) };
        let trailing = Index(index.0.saturating_sub(self.config.trailing_entries));
        let older = self.snapshot.as_ref().map_or(Index(0), |meta| meta.id.index);
        // A file that was written well can rot. With the entries behind the older one, the server starts all the same.
        let base = if self.config.reach_back { trailing.min(older) } else { trailing };
        let base = match self.log.term_at(base) {
            Some(term) if base > self.log.base.index => SnapshotId { index: base, term },
            Some(_) | None => self.log.base,
        };
        self.snapshot = Some(meta.clone());
        self.log.compact(base);
        let after = self.persist(Change::Snapshot { meta, base }, turn);
        turn.emit(Output::Compacted { snapshot: id, base }, after);
    }

    /// Feeds a follower that needs entries which are gone.
    pub(super) fn start_snapshot(&mut self, to: ServerId, turn: &mut Turn<'_, '_>) {
        let Some(meta) = self.snapshot.clone() else { return };
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&to) else { return };
        progress.inflight.clear();
        progress.inflight_bytes = 0;
        progress.mode = Mode::Snapshot { meta, acked: 0, sent: 0 };
        self.continue_snapshot(to, turn);
    }

    /// Sends the chunks that the credit allows, to every follower that is fed a snapshot.
    pub(super) fn continue_snapshots(&mut self, turn: &mut Turn<'_, '_>) {
        let Role::Leader(leader) = &self.role else { return };
        let peers: Vec<ServerId> = leader.progress.keys().copied().collect();
        for peer in peers {
            self.continue_snapshot(peer, turn);
        }
    }

    fn continue_snapshot(&mut self, to: ServerId, turn: &mut Turn<'_, '_>) {
        let term = self.hard_state.term;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&to) else { return };
        if let Mode::Snapshot { meta, acked, sent } = &mut progress.mode {
            let end = acked.saturating_add(self.config.snapshot_credit).min(meta.chunks);
            while *sent < end {
                let message = InstallSnapshot { term, meta: meta.clone(), number: *sent };
                turn.send(to, Message::InstallSnapshot(message), Ticket::NONE);
                *sent += 1;
            }
        }
    }

    /// The follower has so many chunks, or all of it installed.
    pub(super) fn receive_snapshot_reply(
        &mut self,
        from: ServerId,
        reply: &SnapshotReply,
        turn: &mut Turn<'_, '_>,
    ) {
        if reply.term != self.hard_state.term {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        progress.active = true;
        let Mode::Snapshot { meta, acked, sent } = &mut progress.mode else { return };
        if meta.id != reply.id {
            return;
        }
        if reply.next >= meta.chunks {
            let index = meta.id.index;
            progress.next_index = index.next();
            let news = progress.matched(index);
            return self.after_match(from, news, turn);
        }
        // Less than it had: it lost the file or restarted, and starts over.
        *acked = reply.next;
        *sent = if reply.next == 0 { 0 } else { (*sent).max(reply.next) };
        self.continue_snapshot(from, turn);
    }

    /// The host can't read the snapshot that a follower is fed: it gets the newest instead, from the start.
    pub(super) fn snapshot_unreadable(&mut self, id: SnapshotId, turn: &mut Turn<'_, '_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(newest) = self.snapshot.as_ref() else { return };
        for progress in leader.progress.values_mut() {
            if let Mode::Snapshot { meta, acked, sent } = &mut progress.mode
                && meta.id == id
            {
                *meta = newest.clone();
                *acked = 0;
                // A snapshot that is the newest itself waits for the next heartbeat, or the two would spin.
                *sent = if newest.id == id { newest.chunks } else { 0 };
            }
        }
        self.continue_snapshots(turn);
    }

    /// A chunk of the leader's snapshot.
    pub(super) fn receive_install(
        &mut self,
        from: ServerId,
        message: InstallSnapshot,
        turn: &mut Turn<'_, '_>,
    ) {
        let InstallSnapshot { term, meta, number } = message;
        if term < self.hard_state.term {
            let after = self.hard_state_ticket();
            return self.answer_install(from, meta.id, 0, after, turn);
        }
        self.hear_leader(from, term, turn);
        if meta.id.index <= self.commit_index {
            // It has all of that: an install would take back what it knows to be committed.
            let after = self.reply_ticket(meta.id.index, turn);
            return self.answer_install(from, meta.id, meta.chunks, after, turn);
        }
        if number >= meta.chunks {
            return turn.emit(Output::Dropped("chunk beyond the snapshot's end"), Ticket::NONE);
        }
        let same = self.install.as_ref().is_some_and(|i| i.leader == from && i.meta == meta);
        if !same && number == 0 {
            self.install = Some(Install { leader: from, meta: meta.clone(), next: 0 });
        }
        let next = match &mut self.install {
            Some(install) if same || number == 0 => {
                if number == install.next {
                    install.next += 1;
                    turn.emit(Output::StoreChunk { meta: meta.clone(), number }, Ticket::NONE);
                    if install.next == meta.chunks {
                        // Its answer waits until the file and its record are durable.
                        turn.emit(Output::FinishSnapshot(meta), Ticket::NONE);
                        return;
                    }
                }
                install.next
            }
            Some(_) | None => 0,
        };
        if next < meta.chunks {
            let after = self.reply_ticket(Index(0), turn);
            self.answer_install(from, meta.id, next, after, turn);
        }
    }

    fn answer_install(
        &mut self,
        to: ServerId,
        id: SnapshotId,
        next: u64,
        after: Ticket,
        turn: &mut Turn<'_, '_>,
    ) {
        let reply = SnapshotReply { term: self.hard_state.term, id, next };
        turn.send(to, Message::SnapshotReply(reply), after);
    }

    /// The received snapshot's file is durable: it takes the log's place, once that is durable too.
    pub(super) fn snapshot_stored(&mut self, id: SnapshotId, turn: &mut Turn<'_, '_>) {
        let complete =
            self.install.as_ref().is_some_and(|i| i.meta.id == id && i.next == i.meta.chunks);
        if !complete {
            return;
        }
        let Some(Install { leader, meta, .. }) = self.install.take() else { return };
        let chunks = meta.chunks;
        if id.index <= self.commit_index {
            let after = self.reply_ticket(id.index, turn);
            return self.answer_install(leader, id, chunks, after, turn);
        }
        self.snapshot = Some(meta.clone());
        let change = if self.log.term_at(id.index) == Some(id.term) {
            // What follows the snapshot's last entry in this log may have been acknowledged: it stays.
            self.log.compact(id);
            Change::Snapshot { meta: meta.clone(), base: id }
        } else {
            self.log.reset(id);
            self.durable_index = Index(0);
            for pending in &mut self.pending {
                pending.last = Index(0);
            }
            Change::Install { meta: meta.clone() }
        };
        self.commit_index = id.index;
        let after = self.persist(change, turn);
        turn.emit(Output::Restore(meta), after);
        turn.emit(Output::Compacted { snapshot: id, base: id }, after);
        self.reload_membership(turn);
        self.answer_install(leader, id, chunks, after, turn);
    }

    /// The received file is damaged or could not be written: the leader starts over.
    pub(super) fn snapshot_failed(&mut self, id: SnapshotId, turn: &mut Turn<'_, '_>) {
        if let Some(install) = self.install.take_if(|install| install.meta.id == id) {
            let after = self.reply_ticket(Index(0), turn);
            self.answer_install(install.leader, id, 0, after, turn);
        }
    }

    /// A formed cluster's first entry, on a server that was blank.
    pub(super) fn form(
        &mut self,
        configuration: Arc<super::types::Configuration>,
        turn: &mut Turn<'_, '_>,
    ) {
        let blank = self.log.last_index() == Index(0) && self.snapshot.is_none();
        if !blank || !configuration.servers.contains_key(&self.config.id) {
            return;
        }
        let entry = super::types::Entry {
            term: super::types::Term(1),
            index: Index(1),
            time: crate::time::ClusterTime(0),
            request: super::types::Request::Configuration(configuration),
        };
        self.hard_state.term = self.hard_state.term.max(entry.term);
        self.log.push(entry.clone());
        self.persist(Change::Append { after: Index(0), entries: Vec::from([entry]) }, turn);
        self.reload_membership(turn);
        if self.is_lone_voter() {
            self.campaign(false, turn);
        } else {
            let delay = turn.cx.entropy.jitter(self.config.election_jitter);
            turn.arm(super::node::Timer::Election, delay);
        }
    }
}
