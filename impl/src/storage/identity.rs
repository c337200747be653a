//! Who a data directory is, and that one agent at a time uses it.
//!
//! A blank directory mints a disk id, so that a server whose disk was wiped is a new server and can't vote as the old one.
//! The identity and the log appear together, by one rename: a directory has both or neither.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use spec::raft::{DiskId, NodeId, ServerId};

use super::{error::StorageError, files::sync_directory};

/// The file that names the node, as Consul's `node-id`.
pub const NODE_ID_FILE: &str = "node-id";
const LOCK_FILE: &str = "agent.lock";
const HEADING: &str = "proconsul identity 1";

/// Who a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// The disk that it votes from.
    pub disk: DiskId,
}

impl Identity {
    /// The server in Raft.
    pub fn server(&self) -> ServerId {
        ServerId { node: self.node, disk: self.disk }
    }

    /// A new identity: of this node, where given, and a new disk.
    pub fn mint(node: Option<NodeId>) -> io::Result<Self> {
        let mut bytes = [0; 24];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let (random, disk) = bytes.split_at(16);
        let random = random.iter().fold(0, |number, byte| number << 8 | u128::from(*byte));
        let disk = disk.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        // The bits that mark a random UUID (RFC 9562, version 4).
        let version = random & !(0xf << 76) | 4 << 76;
        let uuid = version & !(0b11 << 62) | 0b10 << 62;
        Ok(Self { node: node.unwrap_or(NodeId(uuid)), disk: DiskId(disk.max(1)) })
    }

    pub(super) fn to_text(self) -> String {
        let body = format!("{HEADING}\nnode {}\ndisk {:016x}\n", self.node, self.disk.0);
        format!("{body}checksum {:08x}\n", crc32c::crc32c(body.as_bytes()))
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != HEADING {
            return None;
        }
        let node = parse_node_id(lines.next()?.strip_prefix("node ")?)?;
        let disk = u64::from_str_radix(lines.next()?.strip_prefix("disk ")?, 16).ok()?;
        let identity = Self { node, disk: DiskId(disk) };
        (identity.to_text() == text).then_some(identity)
    }
}

/// Reads a node id as Consul writes it: a UUID.
pub fn parse_node_id(text: &str) -> Option<NodeId> {
    let text = text.trim();
    let groups: Vec<&str> = text.split('-').collect();
    if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) {
        return None;
    }
    let digits = groups.concat();
    let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    all_hex.then(|| u128::from_str_radix(&digits, 16).ok().map(NodeId))?
}

/// Reads the `node-id` file of a data directory, where there is one.
pub(super) fn read_node_id(data_dir: &Path) -> Result<Option<NodeId>, StorageError> {
    let path = data_dir.join(NODE_ID_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => match parse_node_id(&text) {
            Some(node) => Ok(Some(node)),
            None => Err(StorageError::Identity {
                path: data_dir.to_owned(),
                reason: format!("{} doesn't hold a UUID: {:?}", path.display(), text.trim()),
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StorageError::Io { what: "reading", path, source }),
    }
}

/// Replaces a small text file; durable when this returns.
pub(super) fn write_text(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_added_extension("new");
    let mut file = File::create(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Holds a data directory for this process until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the directory, or says who has it.
    pub fn take(data_dir: &Path) -> Result<Self, StorageError> {
        let path: PathBuf = data_dir.join(LOCK_FILE);
        let failed = |source| StorageError::Io { what: "locking", path: path.clone(), source };
        // Not truncated: the holder's pid stands in it.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let pid = text.trim().parse().ok();
                return Err(StorageError::Locked { path: data_dir.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let text = format!("{}\n", std::process::id());
        let written = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
        // Only for the message: the lock holds without it, as on a full disk.
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "the pid can't be written to the lock file");
        }
        Ok(Self { _file: file })
    }
}
