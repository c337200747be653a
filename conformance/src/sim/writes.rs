//! What a machine writes: it waits for its sync, and a crash keeps a prefix of what waited.

use std::collections::VecDeque;

use spec::{
    entropy::{Entropy as _, Seeded},
    machine::{Machine, Ticket},
};

/// The writes of one machine.
#[derive(Clone, Debug)]
pub struct Writes<M: Machine> {
    /// What is durable: the fold of all synced writes.
    pub durable: M::Durable,
    /// The disk says that writes are durable, and a crash loses the last sync of them all the same.
    pub lies: bool,
    /// What was durable before the last sync, of a disk that lies.
    before_sync: M::Durable,
    /// Written, not synced.
    pub pending: VecDeque<(Ticket, M::Write)>,
    /// The last ticket of the sync under way.
    syncing: Option<Ticket>,
}

impl<M: Machine> Default for Writes<M> {
    fn default() -> Self {
        Self {
            durable: M::Durable::default(),
            lies: false,
            before_sync: M::Durable::default(),
            pending: VecDeque::new(),
            syncing: None,
        }
    }
}

impl<M: Machine> Writes<M> {
    /// Another disk of the same kind, with nothing on it.
    #[must_use]
    pub fn blank(&self) -> Self {
        Self { lies: self.lies, ..Self::default() }
    }

    /// Starts a sync of all that waits, where none is under way; gives its ticket.
    pub fn sync(&mut self) -> Option<Ticket> {
        let (ticket, _) = self.pending.back()?;
        if self.syncing.is_some() {
            return None;
        }
        self.syncing = Some(*ticket);
        self.syncing
    }

    /// The sync under way is done.
    pub fn synced(&mut self, up_to: Ticket) {
        self.syncing = None;
        if self.lies {
            self.before_sync = self.durable.clone();
        }
        while self.pending.front().is_some_and(|(ticket, _)| *ticket <= up_to) {
            if let Some((_, write)) = self.pending.pop_front() {
                M::fold(&mut self.durable, &write);
            }
        }
    }

    /// A crash: of the writes that waited, a prefix is kept. Tells how many were lost.
    pub fn crash(&mut self, chance: &mut Seeded) -> usize {
        let kept = chance.choose(self.pending.len() + 1);
        let lost = self.pending.len() - kept;
        for (_, write) in self.pending.drain(..).take(kept) {
            M::fold(&mut self.durable, &write);
        }
        self.syncing = None;
        if self.lies {
            self.durable = self.before_sync.clone();
        }
        lost
    }
}
