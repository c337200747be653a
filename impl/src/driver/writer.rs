//! The log writer's turn: everything that is queued becomes one write and one sync.

use spec::{machine::Ticket, raft::Write};

use crate::storage::{Storage, StorageError};

/// Sole owner of the log's file.
pub struct Writer {
    storage: Box<dyn Storage>,
    /// Writes that found no room; they go first, in order, once there is.
    backlog: Vec<(Ticket, Write)>,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Nothing was queued.
    Nothing,
    /// Everything up to here is durable.
    Durable(Ticket),
    /// The disk is full; nothing is lost, the same writes are tried again.
    Full,
}

impl Writer {
    /// Writes to `storage`.
    pub fn new(storage: Box<dyn Storage>) -> Self {
        Self { storage, backlog: Vec::new() }
    }

    /// Whether writes wait for room.
    pub fn is_full(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Writes and syncs all of `writes`.
    ///
    /// Any error but a full disk is the last word of this log: what the disk holds is unknown, and a sync that is tried
    /// again may say yes without having written.
    pub fn turn(&mut self, writes: &mut Vec<(Ticket, Write)>) -> Result<Written, StorageError> {
        self.backlog.append(writes);
        if self.backlog.is_empty() {
            return Ok(Written::Nothing);
        }
        match self.storage.append(&self.backlog) {
            Ok(ticket) => {
                self.backlog.clear();
                Ok(Written::Durable(ticket))
            }
            Err(StorageError::Full { .. }) => Ok(Written::Full),
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
