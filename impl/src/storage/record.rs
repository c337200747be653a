//! A small file that is replaced whole: either the old content or the new survives a crash.

use std::{io, sync::Arc};

use super::{
    error::StorageError,
    files::{Directory, write_whole},
};

/// A small durable value, for what doesn't belong in the log.
pub struct RecordFile {
    directory: Arc<dyn Directory>,
    name: String,
}

impl RecordFile {
    /// Names a file of the directory; it need not exist.
    pub fn new(directory: Arc<dyn Directory>, name: &str) -> Self {
        Self { directory, name: name.into() }
    }

    fn error(&self, what: &'static str, source: io::Error) -> StorageError {
        StorageError::Io { what, path: self.directory.path().join(&self.name), source }
    }

    /// What to say where the value makes no sense.
    pub(crate) fn unreadable(&self, why: &dyn std::fmt::Display) -> StorageError {
        self.error("reading", io::Error::new(io::ErrorKind::InvalidData, why.to_string()))
    }

    /// Reads the value; none where it was never stored.
    pub fn load(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let read = || {
            let file = match self.directory.open(&self.name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            let mut bytes = vec![0; usize::try_from(file.length()?).unwrap_or(0)];
            file.read_at(&mut bytes, 0)?;
            match bytes.split_last_chunk::<4>() {
                Some((value, checksum))
                    if crc32c::crc32c(value) == u32::from_le_bytes(*checksum) =>
                {
                    Ok(Some(value.to_vec()))
                }
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged")),
            }
        };
        read().map_err(|source| self.error("reading", source))
    }

    /// Replaces the value; durable when this returns.
    pub fn store(&self, value: &[u8]) -> Result<(), StorageError> {
        let unfinished = format!("{}.new", self.name);
        let mut bytes = value.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(value).to_le_bytes());
        let write = || {
            let file = self.directory.create(&unfinished)?;
            write_whole(file.as_ref(), &bytes, 0)?;
            file.sync()?;
            self.directory.rename(&unfinished, &self.name)?;
            self.directory.sync()
        };
        write().map_err(|source| self.error("writing", source))
    }
}
