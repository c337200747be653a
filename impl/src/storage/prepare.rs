//! Segments ahead of need: a background thread fills the next segment's file with zeros, so that an append changes
//! neither the file's size nor its extents and a sync writes data alone. A full disk shows here, before any append fails.
//!
//! Segments that the log no longer needs come here too. The oldest is renamed out of the log's names at once, and the
//! directory synced, before the next one follows: a crash leaves the log's segments without a gap. One of the right size is
//! kept, and becomes the next segment with its old content in it.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{
    error::{StorageError, means_full},
    files::{Blocks, DataFile, Directory, write_whole_past_cache},
};

/// How long the thread waits before it tries again to make a segment.
const RETRY: Duration = Duration::from_secs(1);
/// After how many bytes of zeros the file is synced, so that a log's sync never waits for all of them.
const BURST: u64 = 8 << 20;
/// What a file is called while it is made.
const UNFINISHED: &str = ".new";
/// How the names of segments that wait for their next use begin.
const SPARE: &str = "spare-";

/// The name of a segment's file.
pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}.log")
}

/// The sequence in the name of a segment's file.
pub(super) fn segment_sequence(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// A segment that is ready to be written.
pub(super) struct Prepared {
    pub(super) sequence: u64,
    pub(super) size: u64,
    pub(super) file: Box<dyn DataFile>,
}

/// What to prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) sequence: u64,
    pub(super) size: u64,
}

#[derive(Default)]
struct Slot {
    wanted: Option<Wanted>,
    ready: Option<Prepared>,
    failed: Option<io::Error>,
    obsolete: VecDeque<(u64, u64)>,
    stop: bool,
}

struct Shared {
    directory: Arc<dyn Directory>,
    slot: Mutex<Slot>,
    changed: Condvar,
    room: AtomicBool,
}

/// The thread that prepares segments, or its work done in place.
pub(super) struct Preparer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes away segments that are no longer needed, oldest first.
    fn clear(&self) -> io::Result<()> {
        loop {
            let Some((sequence, size)) = self.slot().obsolete.front().copied() else {
                return Ok(());
            };
            let name = segment_name(sequence);
            let spare = format!("{SPARE}{size:x}");
            if self.directory.list()?.iter().any(|name| name.starts_with(SPARE)) {
                self.directory.remove(&name)?;
            } else {
                self.directory.rename(&name, &spare)?;
            }
            self.directory.sync()?;
            self.slot().obsolete.pop_front();
        }
    }

    /// Makes the file of a segment: from a spare one of its size, or filled with zeros.
    fn make(&self, wanted: Wanted) -> io::Result<Prepared> {
        self.clear()?;
        let Wanted { sequence, size } = wanted;
        let name = segment_name(sequence);
        for spare in self.directory.list()?.iter().filter(|name| name.starts_with(SPARE)) {
            if self.directory.open(spare)?.length()? == size {
                // What it holds is of an older sequence: to recovery it doesn't exist.
                self.directory.rename(spare, &name)?;
                self.directory.sync()?;
                return Ok(Prepared { sequence, size, file: self.directory.open(&name)? });
            }
            self.directory.remove(spare)?;
        }
        let unfinished = format!("{name}{UNFINISHED}");
        let file = self.directory.create(&unfinished)?;
        let filled = fill(file.as_ref(), 0, size);
        if let Err(error) = filled {
            drop(file);
            // Half a segment would hold on to the room whose lack is the trouble.
            let _ = self.directory.remove(&unfinished);
            return Err(error);
        }
        self.directory.rename(&unfinished, &name)?;
        self.directory.sync()?;
        Ok(Prepared { sequence, size, file })
    }

    fn run(&self) {
        let mut slot = self.slot();
        while !slot.stop {
            let wanted = slot.wanted.filter(|_| slot.ready.is_none());
            if wanted.is_none() && slot.obsolete.is_empty() {
                slot = self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(slot);
            let result = match wanted {
                Some(wanted) => self.make(wanted).map(Some),
                None => self.clear().map(|()| None),
            };
            slot = self.slot();
            let failed = result.is_err();
            self.settle(&mut slot, wanted, result);
            if failed && !slot.stop {
                let waited = self.changed.wait_timeout(slot, RETRY);
                slot = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn settle(
        &self,
        slot: &mut Slot,
        wanted: Option<Wanted>,
        result: io::Result<Option<Prepared>>,
    ) {
        match result {
            Ok(made) => {
                if wanted.is_some() {
                    slot.ready = made;
                    slot.wanted = None;
                }
                slot.failed = None;
                self.room.store(true, Ordering::Release);
            }
            Err(error) => {
                tracing::warn!(
                    directory = %self.directory.path().display(), %error,
                    "the next log segment can't be prepared"
                );
                slot.failed = Some(error);
                self.room.store(false, Ordering::Release);
            }
        }
        self.changed.notify_all();
    }
}

/// Fills a file with zeros from `from` to `size` and syncs it.
pub(super) fn fill(file: &dyn DataFile, from: u64, size: u64) -> io::Result<()> {
    // Reserves first: a full disk shows before anything is written.
    file.reserve(size)?;
    let zeros = Blocks::new();
    let mut offset = from;
    let mut unsynced = 0;
    while offset < size {
        let step = usize::try_from(size - offset).unwrap_or(Blocks::SIZE).min(Blocks::SIZE);
        write_whole_past_cache(file, zeros.first(step), offset)?;
        offset += step as u64;
        unsynced += step as u64;
        if unsynced >= BURST {
            file.sync()?;
            unsynced = 0;
        }
    }
    file.sync()
}

impl Preparer {
    /// Starts; with `background` in a thread of its own.
    pub(super) fn start(directory: Arc<dyn Directory>, background: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            directory,
            slot: Mutex::default(),
            changed: Condvar::new(),
            room: AtomicBool::new(true),
        });
        let thread = if background {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name("log-prepare".into());
            Some(builder.spawn(move || shared.run())?)
        } else {
            None
        };
        Ok(Self { shared, thread })
    }

    /// Asks for a segment, unless one is being made or ready.
    pub(super) fn want(&self, wanted: Wanted) {
        let mut slot = self.shared.slot();
        if slot.ready.is_none() && slot.wanted.is_none() {
            slot.wanted = Some(wanted);
            self.shared.changed.notify_all();
        }
    }

    /// Offers a segment that was prepared before the start.
    pub(super) fn offer(&self, prepared: Prepared) {
        self.shared.slot().ready = Some(prepared);
    }

    /// Hands over a segment that the log no longer needs.
    pub(super) fn obsolete(&self, sequence: u64, size: u64) {
        self.shared.slot().obsolete.push_back((sequence, size));
        self.shared.changed.notify_all();
        if self.thread.is_none()
            && let Err(error) = self.shared.clear()
        {
            tracing::warn!(%error, "an old log segment can't be removed");
        }
    }

    /// Whether the next segment is there or may yet be made.
    pub(super) fn has_room(&self) -> bool {
        if self.thread.is_none() && !self.shared.room.load(Ordering::Acquire) {
            self.make_in_place();
        }
        self.shared.room.load(Ordering::Acquire)
    }

    /// Makes the wanted segment, where no thread does it.
    fn make_in_place(&self) {
        let wanted = self.shared.slot().wanted;
        if let Some(wanted) = wanted {
            let made = self.shared.make(wanted).map(Some);
            self.shared.settle(&mut self.shared.slot(), Some(wanted), made);
        }
    }

    /// Takes the wanted segment; waits until it is made or has failed.
    pub(super) fn take(&self, wanted: Wanted) -> Result<Prepared, StorageError> {
        self.want(wanted);
        if self.thread.is_none() {
            self.make_in_place();
        }
        let mut slot = self.shared.slot();
        loop {
            if let Some(prepared) = slot.ready.take() {
                return Ok(prepared);
            }
            if let Some(error) = &slot.failed {
                return Err(self.explain(error, wanted.size));
            }
            slot = self.shared.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts back a segment that was taken and not used.
    pub(super) fn put_back(&self, prepared: Prepared) {
        self.shared.slot().ready = Some(prepared);
    }

    /// Says what a failed preparation means for the log.
    pub(super) fn explain(&self, error: &io::Error, needed: u64) -> StorageError {
        let path = self.shared.directory.path().to_owned();
        if means_full(error) {
            return StorageError::Full { what: "the next log segment", path, needed };
        }
        let source = io::Error::new(error.kind(), error.to_string());
        StorageError::Failed { what: "preparing the next log segment", path, source }
    }

    /// Notes whether there is room, where the log found out by itself.
    pub(super) fn note_room(&self, room: bool) {
        self.shared.room.store(room, Ordering::Release);
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.shared.slot().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether a file is left over from a segment that was being made.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.ends_with(UNFINISHED)
}
