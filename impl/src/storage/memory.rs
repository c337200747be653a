//! A directory in memory: for `-dev`, and for tests, where it fails on demand and crashes as a disk does.
//!
//! What was written but not synced is kept apart by sectors. A crash keeps any subset of those sectors, chosen by the
//! caller: that is what a power cut leaves of a write. Names that were changed since the directory was synced may be lost too.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use spec::disk::SECTOR;

use super::files::{DataFile, Directory};

/// An operation that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write at an offset.
    Write,
    /// Write at an offset, of which only the first half arrives.
    ShortWrite,
    /// Sync a file.
    Sync,
    /// Reserve room.
    Reserve,
    /// Read at an offset.
    Read,
    /// Sync the directory.
    SyncDirectory,
    /// Anything that changes something.
    Any,
}

/// One fault: the operation fails `times` times after it went well `after` times.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What fails.
    pub operation: Operation,
    /// How often it goes well before.
    pub after: u64,
    /// How often it fails then.
    pub times: u64,
    /// How.
    pub kind: io::ErrorKind,
}

#[derive(Debug, Default)]
struct Contents {
    durable: Vec<u8>,
    cached: Vec<u8>,
    dirty: BTreeSet<usize>,
}

type Shared = Arc<Mutex<Contents>>;

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Shared>,
    /// The names as of the last sync of the directory.
    synced: BTreeMap<String, Shared>,
    faults: Vec<Fault>,
}

/// A directory in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct Memory {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Memory {
    fn default() -> Self {
        Self { path: PathBuf::from("(memory)"), state: Arc::default() }
    }
}

impl Memory {
    /// Makes operations fail.
    pub fn inject(&self, fault: Fault) {
        lock(&self.state).faults.push(fault);
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        lock(&self.state).faults.clear();
    }

    /// What a power cut leaves: of what wasn't synced, the sectors for which `keep` says so, in order of file names and
    /// offsets. Names are as they stand.
    #[must_use]
    pub fn crash(&self, keep: impl FnMut(&str, usize) -> bool) -> Self {
        self.crashed(&lock(&self.state).files, keep)
    }

    /// What a power cut leaves that also takes back every name since the directory was last synced.
    #[must_use]
    pub fn crash_with_names(&self, keep: impl FnMut(&str, usize) -> bool) -> Self {
        self.crashed(&lock(&self.state).synced, keep)
    }

    fn crashed(
        &self,
        from: &BTreeMap<String, Shared>,
        mut keep: impl FnMut(&str, usize) -> bool,
    ) -> Self {
        let mut files = BTreeMap::new();
        for (name, contents) in from {
            let contents = lock(contents);
            let mut bytes = contents.durable.clone();
            bytes.resize(contents.cached.len(), 0);
            for start in contents.dirty.iter().copied() {
                let end = (start + SECTOR).min(bytes.len());
                if start < end && keep(name, start) {
                    bytes[start..end].copy_from_slice(&contents.cached[start..end]);
                }
            }
            let contents =
                Contents { cached: bytes.clone(), durable: bytes, dirty: BTreeSet::new() };
            files.insert(name.clone(), Arc::new(Mutex::new(contents)));
        }
        let state = State { synced: files.clone(), files, ..State::default() };
        Self { path: self.path.clone(), state: Arc::new(Mutex::new(state)) }
    }

    /// The bytes of a file as they stand, synced or not.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let file = lock(&self.state).files.get(name)?.clone();
        let bytes = lock(&file).cached.clone();
        Some(bytes)
    }

    /// Replaces the bytes of a file, as damage does.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let file = lock(&self.state).files.get(name).cloned();
        if let Some(file) = file {
            let contents = &mut *lock(&file);
            change(&mut contents.durable);
            contents.cached.clone_from(&contents.durable);
        }
    }

    fn check(&self, operation: Operation) -> io::Result<()> {
        match lock(&self.state).faults.iter_mut().find(|fault| {
            let any = fault.operation == Operation::Any
                && !matches!(operation, Operation::Read | Operation::ShortWrite);
            (fault.operation == operation || any) && (fault.after > 0 || fault.times > 0)
        }) {
            Some(fault) if fault.after > 0 => {
                fault.after -= 1;
                Ok(())
            }
            Some(fault) => {
                fault.times -= 1;
                Err(fault.kind.into())
            }
            None => Ok(()),
        }
    }

    fn file(&self, contents: Shared) -> Box<dyn DataFile> {
        Box::new(InMemory { directory: self.clone(), contents })
    }
}

impl Directory for Memory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.state).files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DataFile>> {
        let contents = lock(&self.state).files.get(name).cloned();
        Ok(self.file(contents.ok_or(io::ErrorKind::NotFound)?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DataFile>> {
        self.check(Operation::Any)?;
        let contents = Shared::default();
        let mut state = lock(&self.state);
        state.files.insert(name.to_owned(), contents.clone());
        drop(state);
        Ok(self.file(contents))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check(Operation::Any)?;
        let mut state = lock(&self.state);
        let contents = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), contents);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check(Operation::Any)?;
        let mut state = lock(&self.state);
        state.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.check(Operation::SyncDirectory)?;
        let mut state = lock(&self.state);
        state.synced = state.files.clone();
        Ok(())
    }
}

struct InMemory {
    directory: Memory,
    contents: Shared,
}

impl DataFile for InMemory {
    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.contents).cached.len() as u64)
    }

    fn reserve(&self, _length: u64) -> io::Result<()> {
        self.directory.check(Operation::Reserve)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.directory.check(Operation::Write)?;
        let short = self.directory.check(Operation::ShortWrite).is_err();
        let bytes = if short { &bytes[..bytes.len() / 2] } else { bytes };
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut contents = lock(&self.contents);
        let end = start + bytes.len();
        if contents.cached.len() < end {
            contents.cached.resize(end, 0);
        }
        contents.cached[start..end].copy_from_slice(bytes);
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            contents.dirty.insert(sector * SECTOR);
        }
        Ok(bytes.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.directory.check(Operation::Read)?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let contents = lock(&self.contents);
        let from = contents.cached.get(start..start + bytes.len());
        bytes.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.directory.check(Operation::Sync)?;
        let contents = &mut *lock(&self.contents);
        contents.durable.resize(contents.cached.len(), 0);
        for start in std::mem::take(&mut contents.dirty) {
            let end = (start + SECTOR).min(contents.cached.len());
            contents.durable[start..end].copy_from_slice(&contents.cached[start..end]);
        }
        Ok(())
    }
}
