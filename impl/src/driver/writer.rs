//! The log writer's turn: everything that is queued becomes one write and one sync.

use spec::{machine::Ticket, raft::Write};

use crate::storage::{Storage, StorageError};

/// Sole owner of the log's file.
pub struct Writer {
    storage: Box<dyn Storage>,
    /// Writes that found no room; they go first, in order, once there is.
    backlog: Vec<(Ticket, Write)>,
}

impl Writer {
    /// Writes to `storage`.
    pub fn new(storage: Box<dyn Storage>) -> Self {
        Self { storage, backlog: Vec::new() }
    }

    /// Whether proposals should be refused: writes wait for room, or the next ones soon would.
    pub fn is_full(&self) -> bool {
        !self.backlog.is_empty() || !self.storage.has_room()
    }

    /// Writes and syncs all of `writes`, and gives the last ticket that is durable now. Where the disk is full they wait
    /// here for the next turn.
    ///
    /// Any error but a full disk is the last word of this log: what the disk holds is unknown, and a sync that is tried
    /// again may say yes without having written.
    pub fn turn(
        &mut self,
        writes: &mut Vec<(Ticket, Write)>,
    ) -> Result<Option<Ticket>, StorageError> {
        self.backlog.append(writes);
        if self.backlog.is_empty() {
            return Ok(None);
        }
        match self.storage.append(&self.backlog) {
            Ok(ticket) => {
                self.backlog.clear();
                Ok(Some(ticket))
            }
            Err(error) if error.is_full() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Marks the log's end at a clean stop. Where that fails, the next start takes it for a crash, which loses nothing.
    pub fn seal(&mut self) {
        if self.backlog.is_empty()
            && let Err(error) = self.storage.seal()
        {
            tracing::warn!("the log's end couldn't be marked: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use spec::raft::{Change, HardState};

    use super::*;

    struct Limited {
        room: Arc<AtomicBool>,
        tickets: Vec<Ticket>,
    }

    impl Storage for Limited {
        fn append(&mut self, writes: &[(Ticket, Write)]) -> Result<Ticket, StorageError> {
            if !self.has_room() {
                return Err(StorageError::Full { what: "log", path: "log".into(), needed: 1 });
            }
            self.tickets.extend(writes.iter().map(|(ticket, _)| *ticket));
            assert!(self.tickets.is_sorted(), "out of order");
            Ok(self.tickets[self.tickets.len() - 1])
        }

        fn has_room(&self) -> bool {
            self.room.load(Ordering::Relaxed)
        }

        fn seal(&mut self) -> Result<(), StorageError> {
            Ok(())
        }
    }

    #[test]
    fn writes_that_found_no_room_are_written_first_once_there_is() {
        let room = Arc::new(AtomicBool::new(true));
        let storage = Limited { room: Arc::clone(&room), tickets: Vec::new() };
        let mut writer = Writer::new(Box::new(storage));
        let write = |n| {
            let write = Write { hard_state: HardState::default(), change: Change::None };
            vec![(Ticket(n), write)]
        };
        assert_eq!(writer.turn(&mut Vec::new()).unwrap(), None);
        assert_eq!(writer.turn(&mut write(1)).unwrap(), Some(Ticket(1)));
        room.store(false, Ordering::Relaxed);
        assert!(writer.is_full());
        assert_eq!(writer.turn(&mut write(2)).unwrap(), None);
        room.store(true, Ordering::Relaxed);
        assert!(writer.is_full(), "a write waits");
        assert_eq!(writer.turn(&mut write(3)).unwrap(), Some(Ticket(3)));
        assert!(!writer.is_full());
    }
}
