//! What can go wrong with the data directory, and what the operator does then.

use std::{io, path::PathBuf};

use spec::disk::Corruption;

/// Why the data directory can't be used. The texts are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk is full. Nothing was written; the same append may be tried again.
    #[error(
        "the disk that holds {} is full: no room for {what} ({needed} bytes). Writes are refused until there is room; \
         free some space", path.display()
    )]
    Full {
        /// What there is no room for.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// How many bytes it takes.
        needed: u64,
    },
    /// A write or sync failed. What the disk holds of it is unknown, so nothing is acknowledged from here on.
    #[error(
        "{what} failed on {}: {source}. The agent stops, because the disk may hold any part of that write; nothing of it \
         was acknowledged. Check the disk and the kernel's log, then start the agent again. Where the disk is broken, \
         start it with an empty data directory instead: it joins as a new server", path.display()
    )]
    Failed {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier write or sync failed; the log takes nothing any more.
    #[error("the log takes no more writes since an earlier failure: {0}")]
    Poisoned(String),
    /// A write is larger than any batch may be.
    #[error("a write of {0} bytes is larger than a batch of the log may be")]
    TooLarge(usize),
    /// The log is damaged.
    #[error(
        "the log is damaged at {}, offset {}: {corruption}. The agent doesn't start, because cutting the log there could \
         lose acknowledged writes. If the other servers have a quorum, move {} away (keep it) and start again: this server \
         then joins as a new one and takes its data from them. Otherwise restore a snapshot or a copy of the directory",
        path.display(), corruption.offset, data_dir.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What to move away.
        data_dir: PathBuf,
        /// What is wrong.
        corruption: Corruption,
    },
    /// A snapshot that the log needs is missing or damaged.
    #[error(
        "the snapshot {} is damaged or missing ({reason}), and the log doesn't reach back to an older one. The agent \
         doesn't start. Move {} away (keep it) and start again: this server then joins as a new one and takes its data from \
         the others. Without others, restore a saved snapshot", path.display(), data_dir.display()
    )]
    SnapshotLost {
        /// The file.
        path: PathBuf,
        /// What to move away.
        data_dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A snapshot's file can't be read, though nothing depends on it yet.
    #[error("the snapshot {} can't be used: {reason}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another agent uses the directory.
    #[error(
        "the data directory {} is in use by another agent{}. Stop that agent, or give this one its own -data-dir",
        path.display(), pid.map_or(String::new(), |pid| format!(" (pid {pid})"))
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The other agent's process, where known.
        pid: Option<u32>,
    },
    /// The directory belongs to another node, or its parts don't belong together.
    #[error("{reason}. The data directory is {}", path.display())]
    Identity {
        /// The data directory.
        path: PathBuf,
        /// What doesn't fit.
        reason: String,
    },
    /// Anything else that the system refused, before anything was promised.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StorageError {
    /// Whether the disk is full or doesn't take writes: a state that passes, and nothing was written.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// Whether the system says that there is no room, or that the file system takes no writes for now.
pub(super) fn means_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::ReadOnlyFilesystem
    )
}
