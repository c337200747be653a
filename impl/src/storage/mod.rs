//! The data directory: identity, lock, log and snapshots. The only place of the agent that opens data files.
//!
//! ```text
//! DATA_DIR/node-id            the node's UUID, as Consul's
//!          agent.lock         held while an agent runs; its pid
//!          raft/identity      node id and disk id
//!          raft/log/          0000000000000001.log ...
//!          raft/snapshots/    INDEX-TERM.snap, the two newest
//! ```
//!
//! [`open`] takes a directory, [`in_memory`] goes without one. What the bytes mean is `spec::disk`'s.

mod error;
mod files;
mod gossip;
mod identity;
mod keyring;
mod log;
pub mod memory;
mod prepare;
mod record;
mod snapshots;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use error::StorageError;
pub use files::{DataFile, Directory, Disk};
pub use gossip::GossipStore;
pub use identity::{DirectoryLock, Identity, NODE_ID_FILE, parse_node_id};
pub use keyring::{read_keyring, write_keyring};
pub use log::{Found, LogOptions, LogStore, MemoryLog};
pub use record::RecordFile;
pub use snapshots::{SnapshotReader, SnapshotStore, SnapshotWriter};
use spec::{
    machine::Ticket,
    raft::{DiskId, Durable, Index, NodeId, SnapshotMeta, Write},
};

use self::memory::Memory;

const RAFT: &str = "raft";
const UNFINISHED: &str = "raft.new";
const IDENTITY: &str = "identity";
const LOG: &str = "log";
const SNAPSHOTS: &str = "snapshots";

/// Where the consensus thread's writes become durable.
pub trait Storage: Send {
    /// Makes `writes` durable, all or none, and gives the last ticket.
    ///
    /// After [`StorageError::Full`] nothing was written, and the same append may be tried again. After any other error the
    /// server stops: nothing more is taken.
    fn append(&mut self, writes: &[(Ticket, Write)]) -> Result<Ticket, StorageError>;

    /// Whether proposals should be taken. Where not, the disk is full: what room is left is for terms and votes.
    fn has_room(&self) -> bool;

    /// Marks the end of the log, so that damage to its last batch is told from a torn write. Done at a clean stop, and
    /// worth doing once when the log falls idle.
    fn seal(&mut self) -> Result<(), StorageError>;
}

/// A data directory in use.
pub struct Opened {
    /// Who this server is.
    pub identity: Identity,
    /// Whether the directory was blank.
    pub blank: bool,
    /// What survived.
    pub durable: Durable,
    /// The log.
    pub log: Box<dyn Storage>,
    /// The snapshots.
    pub snapshots: SnapshotStore,
    /// Where small durable records go ([`RecordFile`]).
    pub records: Arc<dyn Directory>,
    /// Held until it is dropped; none in memory.
    pub lock: Option<DirectoryLock>,
}

/// The folder of a data directory without which its server is a new one, of the same node.
pub fn raft_directory(data_dir: &Path) -> PathBuf {
    data_dir.join(RAFT)
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> StorageError {
    move |source| StorageError::Io { what, path: path.to_owned(), source }
}

/// A server that keeps nothing: for `-dev`.
pub fn in_memory(node: Option<NodeId>) -> Result<Opened, StorageError> {
    let identity = Identity::mint(node).map_err(failed("reading", Path::new("/dev/urandom")))?;
    Ok(Opened {
        identity,
        blank: true,
        durable: Durable::default(),
        log: Box::new(MemoryLog),
        snapshots: SnapshotStore::in_memory(),
        records: Arc::new(Memory::default()),
        lock: None,
    })
}

/// Opens a data directory; a blank one becomes a new server's, named `node` where that is given.
pub fn open(
    data_dir: &Path,
    node: Option<NodeId>,
    options: LogOptions,
) -> Result<Opened, StorageError> {
    fs::create_dir_all(data_dir).map_err(failed("creating", data_dir))?;
    let lock = DirectoryLock::take(data_dir)?;
    let raft = data_dir.join(RAFT);
    let blank = !raft.exists();
    if blank {
        create(data_dir, node, options)?;
    }
    let identity = read_identity(data_dir, node)?;
    let directory = |name| Disk::create(&raft.join(name)).map_err(failed("creating", &raft));
    let log: Arc<dyn Directory> = Arc::new(directory(LOG)?);
    let snapshots: Arc<dyn Directory> = Arc::new(directory(SNAPSHOTS)?);
    let (durable, log, snapshots) = recover(data_dir, log, &snapshots, identity.disk, options)?;
    Ok(Opened {
        identity,
        blank,
        durable,
        log,
        snapshots,
        records: Arc::new(Disk::existing(&raft)),
        lock: Some(lock),
    })
}

/// Recovers a server's log and its snapshots from the directories that hold them; `data_dir` is for messages.
pub fn recover(
    data_dir: &Path,
    log: Arc<dyn Directory>,
    snapshots: &Arc<dyn Directory>,
    disk: DiskId,
    options: LogOptions,
) -> Result<(Durable, Box<dyn Storage>, SnapshotStore), StorageError> {
    let (log, found) =
        LogStore::open(log, disk, options).map_err(|error| name_data_dir(error, data_dir))?;
    if found.torn {
        tracing::info!(
            "the log's last write was torn by a crash and nobody was told of it: dropped"
        );
    }
    let (durable, snapshots) = check_snapshots(data_dir, snapshots, found)?;
    Ok((durable, Box::new(log), snapshots))
}

/// The file of the next flight record of a server in a folder: `NAME-1.flight`, `NAME-2.flight`, one for each start.
pub fn flight_record(folder: &Path, name: &str) -> Result<fs::File, StorageError> {
    fs::create_dir_all(folder).map_err(failed("creating", folder))?;
    let mut n = 0_u64;
    loop {
        n += 1;
        let path = folder.join(format!("{name}-{n}.flight"));
        match fs::File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map_err(failed("creating", &path)),
        }
    }
}

/// Opens the data directory of an agent that is no server: it holds who the node is, `node` where that is given, and is
/// locked as a server's is. What a server left there stays as it is.
pub fn open_client(
    data_dir: &Path,
    node: Option<NodeId>,
) -> Result<(NodeId, DirectoryLock), StorageError> {
    fs::create_dir_all(data_dir).map_err(failed("creating", data_dir))?;
    let lock = DirectoryLock::take(data_dir)?;
    let kept = identity::read_node_id(data_dir)?;
    if let Some(node) = node.or(kept) {
        return Ok((node, lock));
    }
    let minted = Identity::mint(None).map_err(failed("reading", Path::new("/dev/urandom")))?;
    let path = data_dir.join(NODE_ID_FILE);
    identity::write_text(&path, &minted.node.to_string()).map_err(failed("writing", &path))?;
    Ok((minted.node, lock))
}

/// Makes identity and log of a new server under another name, and shows both with one rename.
fn create(data_dir: &Path, node: Option<NodeId>, options: LogOptions) -> Result<(), StorageError> {
    let node = match node {
        Some(node) => Some(node),
        None => identity::read_node_id(data_dir)?,
    };
    let identity = Identity::mint(node).map_err(failed("reading", Path::new("/dev/urandom")))?;
    let unfinished = data_dir.join(UNFINISHED);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(failed("removing", &unfinished))?;
    }
    let creating = failed("creating", &unfinished);
    let log = Disk::create(&unfinished.join(LOG)).map_err(&creating)?;
    Disk::create(&unfinished.join(SNAPSHOTS)).map_err(&creating)?;
    LogStore::create(&(Arc::new(log) as Arc<dyn Directory>), identity.disk, options)?;
    let finish = || {
        identity::write_text(&unfinished.join(IDENTITY), &identity.to_text())?;
        let node_id = data_dir.join(NODE_ID_FILE);
        identity::write_text(&node_id, &identity.node.to_string())?;
        fs::rename(&unfinished, data_dir.join(RAFT))?;
        files::sync_directory(data_dir)
    };
    finish().map_err(&creating)
}

/// Reads who the directory is, and checks that it is whom the operator means.
fn read_identity(data_dir: &Path, node: Option<NodeId>) -> Result<Identity, StorageError> {
    let path = data_dir.join(RAFT).join(IDENTITY);
    let refuse = |reason| StorageError::Identity { path: data_dir.to_owned(), reason };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refuse(format!(
                "{} is missing, so whose log this is can't be told. Put the file back, or move the data directory away: \
                 this server then joins as a new one",
                path.display()
            )));
        }
        Err(source) => return Err(StorageError::Io { what: "reading", path, source }),
    };
    let Some(identity) = Identity::from_text(&text) else {
        return Err(refuse(format!(
            "{} is damaged. Move the data directory away: this server then joins as a new one",
            path.display()
        )));
    };
    for (given, from) in [(node, "-node-id"), (identity::read_node_id(data_dir)?, NODE_ID_FILE)] {
        if let Some(given) = given
            && given != identity.node
        {
            return Err(refuse(format!(
                "the log belongs to node {}, but {from} says {given}. A node can't take over another's vote: give it an \
                 empty data directory, or its own id",
                identity.node
            )));
        }
    }
    Ok(identity)
}

fn name_data_dir(error: StorageError, data_dir: &Path) -> StorageError {
    match error {
        StorageError::Corrupt { path, corruption, .. } => {
            StorageError::Corrupt { path, corruption, data_dir: data_dir.to_owned() }
        }
        other => other,
    }
}

/// Opens the snapshots and checks the one that the log starts from. Where it is damaged, the one before serves, if the log
/// reaches back to it, or the log alone, if it reaches back to its first entry.
fn check_snapshots(
    data_dir: &Path,
    directory: &Arc<dyn Directory>,
    found: Found,
) -> Result<(Durable, SnapshotStore), StorageError> {
    let Found { mut durable, older_snapshot, .. } = found;
    let named: Vec<_> =
        [&older_snapshot, &durable.snapshot].into_iter().flatten().map(|meta| meta.id).collect();
    let snapshots = SnapshotStore::open(directory.clone(), &named)?;
    let Some(newest) = &durable.snapshot else { return Ok((durable, snapshots)) };
    let Err(damage) = snapshots.verify(newest.id) else { return Ok((durable, snapshots)) };
    let reaches = |older: &SnapshotMeta| {
        older.id.index >= durable.base.index && snapshots.verify(older.id).is_ok()
    };
    match older_snapshot.filter(reaches) {
        Some(older) => {
            tracing::error!(
                %damage, "starting from the snapshot before it, at index {}, and the log", older.id.index.0
            );
            durable.snapshot = Some(older);
            Ok((durable, snapshots))
        }
        None if durable.base.index == Index(0) => {
            tracing::error!(%damage, "starting from the log, which has everything");
            durable.snapshot = None;
            Ok((durable, snapshots))
        }
        None => Err(StorageError::SnapshotLost {
            path: directory.path().to_owned(),
            data_dir: data_dir.to_owned(),
            reason: damage.to_string(),
        }),
    }
}
