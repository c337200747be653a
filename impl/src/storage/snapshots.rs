//! The files of snapshots: `spec::disk::snapshot` says what is in them.
//!
//! A file is written under another name, synced, renamed, and the directory synced; only then may the log name it. Two are
//! kept: the one that the log names and the one before. A damaged one is found by its checksums before anything of it is
//! used.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use spec::{
    disk::snapshot::{self, FOOTER, Line},
    raft::{Index, SnapshotId, SnapshotMeta, Term},
};

use super::{
    error::{StorageError, means_full},
    files::{DataFile, Directory, Run},
    memory::Memory,
};

/// What a file is called while it is written.
const UNFINISHED: &str = ".new";

/// The snapshots of a server. Clones share them.
#[derive(Clone)]
pub struct SnapshotStore {
    shared: Arc<Shared>,
}

struct Shared {
    directory: Arc<dyn Directory>,
    count: AtomicU64,
    /// The snapshots that the log names, the newest last; at most two.
    named: Mutex<Vec<SnapshotId>>,
    incoming: Mutex<Option<SnapshotWriter>>,
}

fn name_of(id: SnapshotId) -> String {
    format!("{:016x}-{:016x}.snap", id.index.0, id.term.0)
}

fn id_of(name: &str) -> Option<SnapshotId> {
    let (index, term) = name.strip_suffix(".snap")?.split_once('-')?;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    Some(SnapshotId { index: Index(number(index)?), term: Term(number(term)?) })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SnapshotStore {
    /// Opens the snapshots of a directory. `named` are those that the log names, the newest last; every other file is what
    /// a crash left of a snapshot that nothing came to depend on, and is removed.
    pub fn open(directory: Arc<dyn Directory>, named: &[SnapshotId]) -> Result<Self, StorageError> {
        let failed = |source| StorageError::Io {
            what: "reading",
            path: directory.path().to_owned(),
            source,
        };
        for name in directory.list().map_err(failed)? {
            let kept = id_of(&name).is_some_and(|id| named.contains(&id));
            if !kept && (name.ends_with(UNFINISHED) || id_of(&name).is_some()) {
                directory.remove(&name).map_err(failed)?;
            }
        }
        let named = Mutex::new(named.to_vec());
        let shared =
            Shared { directory, count: AtomicU64::new(0), named, incoming: Mutex::new(None) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Snapshots that are kept in memory: for `-dev`.
    pub fn in_memory() -> Self {
        let shared = Shared {
            directory: Arc::new(Memory::default()),
            count: AtomicU64::new(0),
            named: Mutex::default(),
            incoming: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    fn error(&self, name: &str, error: &io::Error, needed: u64) -> StorageError {
        let path = self.shared.directory.path().to_owned();
        if means_full(error) {
            return StorageError::Full { what: "a snapshot", path, needed };
        }
        StorageError::Snapshot { path: path.join(name), reason: error.to_string() }
    }

    fn path(&self, id: SnapshotId) -> PathBuf {
        self.shared.directory.path().join(name_of(id))
    }

    fn damaged(&self, id: SnapshotId, reason: &str) -> StorageError {
        StorageError::Snapshot { path: self.path(id), reason: reason.into() }
    }

    /// Begins the file of a snapshot of everything up to and including `id`.
    pub fn writer(&self, id: SnapshotId) -> Result<SnapshotWriter, StorageError> {
        let n = self.shared.count.fetch_add(1, Ordering::Relaxed);
        let unfinished = format!("{}.{n}{UNFINISHED}", name_of(id));
        let file = self.shared.directory.create(&unfinished);
        let file = file.map_err(|error| self.error(&unfinished, &error, 0))?;
        Ok(SnapshotWriter {
            store: self.clone(),
            id,
            unfinished,
            file,
            lines: Vec::new(),
            run: Run::new(),
            done: false,
        })
    }

    /// Opens the file of a snapshot; its table is checked here, each chunk when it is read.
    pub fn reader(&self, id: SnapshotId) -> Result<SnapshotReader, StorageError> {
        let name = name_of(id);
        let file = self.shared.directory.open(&name);
        let file = file.map_err(|error| self.error(&name, &error, 0))?;
        let lines = self.table(id, file.as_ref())?;
        let mut offset = 0;
        let mut chunks = Vec::with_capacity(lines.len());
        for line in lines {
            chunks.push((offset, line));
            offset += u64::from(line.length);
        }
        Ok(SnapshotReader { store: self.clone(), id, file, chunks })
    }

    fn table(&self, id: SnapshotId, file: &dyn DataFile) -> Result<Vec<Line>, StorageError> {
        let failed = |error: io::Error| self.error(&name_of(id), &error, 0);
        let length = file.length().map_err(failed)?;
        let mut footer = [0; FOOTER];
        let at = length.checked_sub(FOOTER as u64);
        let at = at.ok_or_else(|| self.damaged(id, "it is too short"))?;
        file.read_at(&mut footer, at).map_err(failed)?;
        let bad = || self.damaged(id, "its table of chunks is damaged");
        let footer = snapshot::footer(&footer).ok_or_else(bad)?;
        let ending_length = footer.ending_length(length).ok_or_else(bad)?;
        let mut ending = vec![0; ending_length];
        file.read_at(&mut ending, length - ending_length as u64).map_err(failed)?;
        let (footer, lines) = snapshot::table(&ending).ok_or_else(bad)?;
        if footer.id != id {
            return Err(self.damaged(id, "it is the file of another snapshot"));
        }
        Ok(lines)
    }

    /// Reads a whole file and checks all of it.
    pub fn verify(&self, id: SnapshotId) -> Result<(), StorageError> {
        let reader = self.reader(id)?;
        let mut chunk = Vec::new();
        for number in 0..reader.chunks() {
            reader.read_chunk_into(number, &mut chunk)?;
        }
        Ok(())
    }

    /// Stores a chunk of a snapshot that a leader sends. Chunk 0 starts the file afresh; the others follow in order.
    pub fn store_chunk(
        &self,
        meta: &SnapshotMeta,
        number: u64,
        bytes: &[u8],
    ) -> Result<(), StorageError> {
        let mut incoming = lock(&self.shared.incoming);
        if number == 0 {
            *incoming = None;
            *incoming = Some(self.writer(meta.id)?);
        }
        match incoming.as_mut().filter(|writer| writer.id == meta.id && writer.chunks() == number) {
            Some(writer) => {
                let result = writer.write_chunk(bytes);
                if result.is_err() {
                    *incoming = None;
                }
                result
            }
            None => Err(self.damaged(meta.id, "a chunk of it came out of order")),
        }
    }

    /// Makes the received snapshot durable, once all its chunks are there.
    pub fn finish(&self, meta: &SnapshotMeta) -> Result<(), StorageError> {
        let incoming = lock(&self.shared.incoming).take();
        match incoming.filter(|writer| writer.id == meta.id && writer.chunks() == meta.chunks) {
            Some(writer) => writer.finish().map(|_| ()),
            None => Err(self.damaged(meta.id, "chunks of it are missing")),
        }
    }

    /// Notes that the log durably names `id` as its newest snapshot: it and the one before are kept, older ones removed.
    pub fn named(&self, id: SnapshotId) -> Result<(), StorageError> {
        let mut named = lock(&self.shared.named);
        if named.last() != Some(&id) {
            named.push(id);
            let surplus = named.len().saturating_sub(2);
            named.drain(..surplus);
        }
        let names = self.shared.directory.list();
        for name in names.map_err(|error| self.error("", &error, 0))? {
            // A newer one is finished, and on its way into the log.
            if id_of(&name).is_some_and(|of| of.index < id.index && !named.contains(&of)) {
                let removed = self.shared.directory.remove(&name);
                removed.map_err(|error| self.error(&name, &error, 0))?;
            }
        }
        Ok(())
    }
}

/// Writes the file of a snapshot. Dropped before [`Self::finish`], it leaves nothing.
pub struct SnapshotWriter {
    store: SnapshotStore,
    id: SnapshotId,
    unfinished: String,
    file: Box<dyn DataFile>,
    lines: Vec<Line>,
    run: Run,
    done: bool,
}

impl SnapshotWriter {
    /// How many chunks it has so far.
    pub fn chunks(&self) -> u64 {
        self.lines.len() as u64
    }

    /// Appends the next chunk.
    pub fn write_chunk(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let result = self.run.push(self.file.as_ref(), bytes);
        result.map_err(|e| self.store.error(&self.unfinished, &e, bytes.len() as u64))?;
        self.lines.push(snapshot::line(bytes));
        Ok(())
    }

    /// Makes the file durable under its name; gives how many chunks it has. A snapshot has at least one.
    pub fn finish(mut self) -> Result<u64, StorageError> {
        if self.lines.is_empty() {
            self.write_chunk(&[])?;
        }
        let directory = &self.store.shared.directory;
        let file = self.file.as_ref();
        let mut publish = || {
            self.run.push(file, &snapshot::ending(self.id, &self.lines))?;
            self.run.finish(file)?;
            // The content before the name: a name that a crash leaves stands for a whole file.
            file.sync()?;
            directory.rename(&self.unfinished, &name_of(self.id))?;
            directory.sync()
        };
        let published = publish();
        let needed = self.run.end();
        published.map_err(|error| self.store.error(&self.unfinished, &error, needed))?;
        self.done = true;
        Ok(self.chunks())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.done {
            // A crash leaves it as well; it is removed at the next start.
            let _ = self.store.shared.directory.remove(&self.unfinished);
        }
    }
}

/// Reads the file of a snapshot. It stays readable where the store removes the file meanwhile.
pub struct SnapshotReader {
    store: SnapshotStore,
    id: SnapshotId,
    file: Box<dyn DataFile>,
    chunks: Vec<(u64, Line)>,
}

impl SnapshotReader {
    /// Which snapshot it is.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// How many chunks it has.
    pub fn chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// Reads a chunk and checks it.
    pub fn read_chunk(&self, number: u64) -> Result<Vec<u8>, StorageError> {
        let mut chunk = Vec::new();
        self.read_chunk_into(number, &mut chunk)?;
        Ok(chunk)
    }

    fn read_chunk_into(&self, number: u64, chunk: &mut Vec<u8>) -> Result<(), StorageError> {
        let position = usize::try_from(number).unwrap_or(usize::MAX);
        let (offset, line) = self
            .chunks
            .get(position)
            .ok_or_else(|| self.store.damaged(self.id, "it has no such chunk"))?;
        chunk.resize(usize::try_from(line.length).unwrap_or(0), 0);
        let read = self.file.read_at(chunk, *offset);
        read.map_err(|error| self.store.error(&name_of(self.id), &error, 0))?;
        if snapshot::is_chunk(line, chunk) {
            Ok(())
        } else {
            Err(self.store.damaged(self.id, &format!("chunk {number} is damaged")))
        }
    }
}
