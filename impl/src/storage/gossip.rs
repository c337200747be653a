//! The file of a pool: `spec::serf::snapshot` says what is in it, when it is compacted, and in which steps.
//!
//! ```text
//! DATA_DIR/serf/local.snapshot    own incarnation, clocks, members of the LAN's pool
//! DATA_DIR/serf/remote.snapshot   those of the WAN's
//! ```

use std::{io, sync::Arc};

use spec::serf::{
    Durable, Record,
    snapshot::{self, File, Step},
};

use super::{
    error::{StorageError, means_full},
    files::{DataFile, Directory, write_whole},
};

/// Keeps what a member of a pool must remember.
pub struct GossipStore {
    directory: Arc<dyn Directory>,
    /// The file's name, and that of the next one while it is written.
    current: String,
    temporary: String,
    file: Option<Box<dyn DataFile>>,
    /// The length of the file's whole records.
    length: u64,
    /// How long it was when it was last written afresh.
    compacted: u64,
    /// The fold of all that is in the file.
    durable: Durable,
}

impl GossipStore {
    /// Opens the file of the pool `local` or `remote`, or makes one; gives what it says.
    pub fn open(
        directory: Arc<dyn Directory>,
        pool: &str,
    ) -> Result<(Self, Durable), StorageError> {
        let mut store = Self {
            directory,
            current: format!("{pool}.snapshot"),
            temporary: format!("{pool}.snapshot.new"),
            file: None,
            length: 0,
            compacted: 0,
            durable: Durable::default(),
        };
        let bytes = store.read(&store.current)?.unwrap_or_default();
        let recovered = snapshot::recover(&bytes);
        if recovered.length < bytes.len() {
            tracing::warn!(
                bytes = bytes.len() - recovered.length,
                "gossip: the end of the snapshot was not whole and is dropped"
            );
        }
        store.durable = recovered.durable;
        // Written afresh: what a crash left behind the last whole record must not follow the next one.
        store.compact()?;
        let durable = store.durable.clone();
        Ok((store, durable))
    }

    fn error(&self, what: &'static str, name: &str, source: io::Error) -> StorageError {
        let path = self.directory.path().to_owned();
        if means_full(&source) {
            return StorageError::Full { what: "gossip", path, needed: 0 };
        }
        StorageError::Io { what, path: path.join(name), source }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let read = || {
            let file = match self.directory.open(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            let mut bytes = vec![0; usize::try_from(file.length()?).unwrap_or(0)];
            file.read_at(&mut bytes, 0)?;
            Ok(Some(bytes))
        };
        read().map_err(|source| self.error("reading", name, source))
    }

    /// Notes records that are written with the next ones. To be used while the disk fails.
    pub fn fold(&mut self, records: &[Record]) {
        for record in records {
            self.durable.fold(record);
        }
        self.file = None;
    }

    /// Makes records durable, in order.
    pub fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        let mut bytes = Vec::new();
        for record in records {
            self.durable.fold(record);
            snapshot::append(record, &mut bytes);
        }
        let Some(file) = &self.file else { return self.compact() };
        let written = write_whole(file.as_ref(), &bytes, self.length).and_then(|()| file.sync());
        if let Err(source) = written {
            // What the file ends with is not known: the next write is to a fresh one.
            self.file = None;
            return Err(self.error("writing", &self.current, source));
        }
        self.length += bytes.len() as u64;
        if snapshot::is_due(self.length, self.compacted) {
            return self.compact();
        }
        Ok(())
    }

    /// Writes the file afresh, step by step.
    pub fn compact(&mut self) -> Result<(), StorageError> {
        let bytes = snapshot::compacted(&self.durable);
        self.file = None;
        let mut fresh = None;
        for step in snapshot::COMPACTION {
            let done = match step {
                Step::Remove(file) => match self.directory.remove(self.name_of(*file)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    other => other,
                },
                Step::Write(file) => self.directory.create(self.name_of(*file)).and_then(|file| {
                    write_whole(file.as_ref(), &bytes, 0)?;
                    fresh = Some(file);
                    Ok(())
                }),
                Step::Sync(_) => fresh.as_ref().map_or(Ok(()), |file| file.sync()),
                Step::Rename => self.directory.rename(&self.temporary, &self.current),
                Step::SyncFolder => self.directory.sync(),
            };
            done.map_err(|source| self.error("writing", &self.current, source))?;
        }
        self.file = fresh;
        self.length = bytes.len() as u64;
        self.compacted = self.length;
        Ok(())
    }

    fn name_of(&self, file: File) -> &str {
        match file {
            File::Current => &self.current,
            File::Temporary => &self.temporary,
        }
    }
}

#[cfg(test)]
mod tests {
    use spec::swim;

    use super::*;
    use crate::storage::memory::Memory;

    fn alive(n: u8) -> Record {
        Record::Alive { name: format!("n{n}").into(), endpoint: ([10, 0, 0, n], 7946).into() }
    }

    #[test]
    fn what_was_appended_is_there_after_a_crash_and_a_torn_end_is_not() {
        let memory = Memory::default();
        let directory: Arc<dyn Directory> = Arc::new(memory.clone());
        let (mut store, durable) = GossipStore::open(Arc::clone(&directory), "local").unwrap();
        assert_eq!(durable, Durable::default());
        let incarnation = swim::Durable { incarnation: swim::Incarnation(7) };
        store.append(&[Record::Swim(incarnation), alive(1), alive(2)]).unwrap();
        store.append(&[Record::NotAlive("n1".into())]).unwrap();
        let whole = store.length;
        let file = directory.open("local.snapshot").unwrap();
        file.write_at(b"half a rec", whole).unwrap();
        drop((store, file));
        let (mut store, durable) = GossipStore::open(Arc::clone(&directory), "local").unwrap();
        assert_eq!(durable.swim, incarnation);
        assert_eq!(durable.known.keys().map(|name| &**name).collect::<Vec<_>>(), ["n2"]);
        store.append(&[alive(3)]).unwrap();
        drop(store);
        let (_, durable) = GossipStore::open(directory, "local").unwrap();
        assert_eq!(durable.known.len(), 2);
    }

    #[test]
    fn a_file_that_grew_is_written_afresh() {
        let directory: Arc<dyn Directory> = Arc::new(Memory::default());
        let (mut store, _) = GossipStore::open(Arc::clone(&directory), "local").unwrap();
        let mut longest = 0;
        for round in 0..12_000_u16 {
            let name: Arc<str> = format!("n{}", round % 8).into();
            let endpoint = ([10, 0, 0, 1], round).into();
            store
                .append(&[Record::NotAlive(name.clone()), Record::Alive { name, endpoint }])
                .unwrap();
            longest = longest.max(store.length);
        }
        assert!(store.length < longest, "it was never compacted");
        drop(store);
        assert_eq!(GossipStore::open(directory, "local").unwrap().1.known.len(), 8);
    }
}
