//! The keyring's file, as Serf keeps it (Consul's `serf/local.keyring`, `serf/remote.keyring`): what is in it is
//! `gossip_wire::keyring`'s.
//!
//! It is replaced whole. Serf writes it in place: a crash in the midst of that leaves a node that can't open a packet of
//! its pool, and that no key query can reach.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use gossip_wire::keyring::Keyring;

use super::{StorageError, files::sync_directory};

/// Reads a keyring's file; none where there is none.
pub fn read_keyring(path: &Path) -> Result<Option<Keyring>, StorageError> {
    let failed = |source| StorageError::Io { what: "reading", path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let ring = Keyring::from_json(&text);
    ring.map(Some).map_err(|why| failed(io::Error::new(io::ErrorKind::InvalidData, why)))
}

/// Replaces a keyring's file, readable to its owner alone; durable when this returns. A crash on the way leaves the old
/// one.
pub fn write_keyring(path: &Path, keyring: &Keyring) -> Result<(), StorageError> {
    let write = || {
        let unfinished = path.with_added_extension("new");
        // One that a crash left behind may have been readable to others: it isn't written into.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(keyring.to_json().as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        path.parent().map_or(Ok(()), sync_directory)
    };
    write().map_err(|source| StorageError::Io { what: "writing", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_keyring_comes_back_readable_to_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local.keyring");
        assert_eq!(read_keyring(&path).unwrap(), None);
        let mut ring = Keyring::new([&[1; 32][..], &[2; 16]]).unwrap();
        write_keyring(&path, &ring).unwrap();
        assert_eq!(read_keyring(&path).unwrap(), Some(ring.clone()));
        ring.use_key(&[2; 16]).unwrap();
        write_keyring(&path, &ring).unwrap();
        assert_eq!(read_keyring(&path).unwrap(), Some(ring));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn what_a_crash_left_behind_is_not_written_into() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local.keyring");
        fs::write(folder.path().join("local.keyring.new"), "[\"half of").unwrap();
        let ring = Keyring::new([&[1; 32][..]]).unwrap();
        write_keyring(&path, &ring).unwrap();
        assert_eq!(read_keyring(&path).unwrap(), Some(ring));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_refused_and_not_taken_for_no_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local.keyring");
        for text in ["", "[]", "[\"AAAA\"]"] {
            fs::write(&path, text).unwrap();
            assert!(read_keyring(&path).is_err(), "{text:?}");
        }
    }
}
