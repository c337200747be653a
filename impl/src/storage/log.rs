//! The log on disk: `spec::disk` says what is written and what it means, this does the writing.
//!
//! One append is one `pwrite` and one `fdatasync` into a segment that is already full of zeros (or of an older segment's
//! batches), whatever number of writes it takes.

use std::{io, path::PathBuf, sync::Arc};

use spec::{
    disk::{Corruption, Ledger, Place, Recovered, Recovery, format, read_batch},
    machine::Ticket,
    raft::{DiskId, Durable, SnapshotMeta, Write},
};

use super::{
    Storage,
    error::StorageError,
    files::{BLOCK, DataFile, Directory, write_whole},
    prepare::{self, Prepared, Preparer, Wanted, segment_name, segment_sequence},
};

/// How large segments are, and who makes them.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// The size of a new log's first segment in bytes.
    pub first_segment_bytes: u64,
    /// The size that segments grow to, twofold each time, in bytes.
    pub segment_bytes: u64,
    /// Whether the next segment is made by a thread, before it is needed; else when it is needed.
    pub background: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { first_segment_bytes: 4 << 20, segment_bytes: 64 << 20, background: true }
    }
}

/// The durable log of a server.
pub struct LogStore {
    directory: Arc<dyn Directory>,
    options: LogOptions,
    ledger: Ledger,
    active: Box<dyn DataFile>,
    active_size: u64,
    /// The sizes of the log's segments, oldest first.
    sizes: Vec<(u64, u64)>,
    preparer: Preparer,
    requested: bool,
    batch: Vec<u8>,
    opening: Vec<u8>,
    poison: Option<String>,
}

/// What opening a log found, besides the durable state.
#[derive(Clone, Debug)]
pub struct Found {
    /// The durable state.
    pub durable: Durable,
    /// The snapshot before the newest one.
    pub older_snapshot: Option<SnapshotMeta>,
    /// Whether a torn write, which nobody was told of, was dropped behind the last batch.
    pub torn: bool,
}

fn to_offset(offset: usize) -> u64 {
    offset as u64
}

fn io_error(
    directory: &dyn Directory,
    what: &'static str,
    name: &str,
) -> impl FnOnce(io::Error) -> StorageError {
    let path = directory.path().join(name);
    move |source| StorageError::Io { what, path, source }
}

impl LogStore {
    /// Creates the log of a blank disk: its first segment with an opening, all durable.
    pub fn create(
        directory: &Arc<dyn Directory>,
        disk: DiskId,
        options: LogOptions,
    ) -> Result<(), StorageError> {
        let ledger = Ledger::new(disk);
        let mut opening = Vec::new();
        let name = segment_name(ledger.seal_opening(&mut opening));
        let unfinished = format!("{name}.new");
        let make = || {
            let file = directory.create(&unfinished)?;
            prepare::fill(file.as_ref(), 0, options.first_segment_bytes)?;
            write_whole(file.as_ref(), &opening, 0)?;
            file.sync()?;
            directory.rename(&unfinished, &name)?;
            directory.sync()
        };
        make().map_err(|error| {
            if super::error::means_full(&error) {
                let needed = options.first_segment_bytes;
                StorageError::Full { what: "the log", path: directory.path().to_owned(), needed }
            } else {
                io_error(directory.as_ref(), "creating", &name)(error)
            }
        })
    }

    /// Opens the log of `disk` and recovers what it holds. All of it is durable when this returns.
    pub fn open(
        directory: Arc<dyn Directory>,
        disk: DiskId,
        options: LogOptions,
    ) -> Result<(Self, Found), StorageError> {
        let sequences = segments_in(directory.as_ref())?;
        let (recovered, sizes) = read(directory.as_ref(), disk, &sequences)?;
        let Recovered { durable, ledger, last, torn, blank } = recovered;
        let older_snapshot = ledger.opening().older.clone();
        let active_name = segment_name(ledger.sequence());
        let active = directory.open(&active_name).map_err(io_error(
            directory.as_ref(),
            "opening",
            &active_name,
        ))?;
        make_durable(directory.as_ref(), active.as_ref(), last)?;
        let preparer = Preparer::start(directory.clone(), options.background).map_err(io_error(
            directory.as_ref(),
            "starting the preparing thread for",
            "",
        ))?;
        let mut requested = false;
        for (position, sequence) in blank.iter().copied().enumerate() {
            let name = segment_name(sequence);
            let size = sizes.iter().find(|(of, _)| *of == sequence).map_or(0, |(_, size)| *size);
            if position == 0 {
                let file = directory.open(&name).map_err(io_error(
                    directory.as_ref(),
                    "opening",
                    &name,
                ))?;
                preparer.offer(Prepared { sequence, size, file });
                requested = true;
            } else {
                directory.remove(&name).map_err(io_error(directory.as_ref(), "removing", &name))?;
            }
        }
        let active_size =
            sizes.iter().find(|(of, _)| *of == ledger.sequence()).map_or(0, |(_, size)| *size);
        let sizes = sizes.into_iter().filter(|(of, _)| *of <= ledger.sequence()).collect();
        let mut store = Self {
            directory,
            options,
            ledger,
            active,
            active_size,
            sizes,
            preparer,
            requested,
            batch: Vec::with_capacity(1 << 20),
            opening: Vec::new(),
            poison: None,
        };
        store.look_ahead();
        Ok((store, Found { durable, older_snapshot, torn }))
    }

    fn next_size(&self) -> u64 {
        let grown = self.active_size.saturating_mul(2);
        grown.min(self.options.segment_bytes).max(self.options.first_segment_bytes)
    }

    fn wanted(&self) -> Wanted {
        Wanted { sequence: self.ledger.sequence() + 1, size: self.next_size() }
    }

    /// Asks for the next segment once a quarter of this one is used, and gives back what the log no longer needs.
    fn look_ahead(&mut self) {
        while let Some(sequence) = self.ledger.recycle() {
            let size = self.sizes.iter().find(|(of, _)| *of == sequence).map_or(0, |(_, s)| *s);
            self.sizes.retain(|(of, _)| *of != sequence);
            self.preparer.obsolete(sequence, size);
        }
        let used = to_offset(self.ledger.place().offset);
        if !self.requested && self.options.background && used >= self.active_size / 4 {
            self.preparer.want(self.wanted());
            self.requested = true;
        }
    }

    /// Makes `writes` durable with one write and one sync, and gives the last ticket.
    ///
    /// After [`StorageError::Full`] nothing was written, and the same append may be tried again. After any other error the
    /// log takes nothing more.
    pub fn append(&mut self, writes: &[(Ticket, Write)]) -> Result<Ticket, StorageError> {
        if let Some(cause) = &self.poison {
            return Err(StorageError::Poisoned(cause.clone()));
        }
        let Some((last, _)) = writes.last() else { return Ok(Ticket::NONE) };
        let result = self.append_batch(writes);
        if let Err(error) = &result
            && !error.is_full()
        {
            self.poison = Some(error.to_string());
        }
        result.map(|()| *last)
    }

    /// Writes an empty batch behind the last one. Damage to the last batch can't be told from a torn write; with a batch
    /// behind it, it can. Done at a clean stop, and worth doing when the log falls idle.
    pub fn seal(&mut self) -> Result<(), StorageError> {
        if let Some(cause) = &self.poison {
            return Err(StorageError::Poisoned(cause.clone()));
        }
        let result = self.append_batch(&[]);
        if let Err(error) = &result
            && !error.is_full()
        {
            self.poison = Some(error.to_string());
        }
        result
    }

    /// Whether the next segment is there or can be made. Where not, the server should take no proposals: what is left of
    /// this segment is for terms and votes.
    pub fn has_room(&self) -> bool {
        self.preparer.has_room()
    }

    fn append_batch(&mut self, writes: &[(Ticket, Write)]) -> Result<(), StorageError> {
        format::begin(&mut self.batch);
        for (_, write) in writes {
            format::push(write, &mut self.batch);
        }
        let end = self.batch.len();
        if end > format::PAYLOAD_LIMIT {
            return Err(StorageError::TooLarge(end));
        }
        if !self.ledger.fits(end, usize::try_from(self.active_size).unwrap_or(usize::MAX)) {
            self.roll_over(end)?;
        }
        self.ledger.seal(&mut self.batch, end);
        let offset = to_offset(self.ledger.place().offset);
        let mut batch = std::mem::take(&mut self.batch);
        let written = self.write(&mut batch, offset);
        self.batch = batch;
        written?;
        self.ledger.synced(&self.batch, writes.iter().map(|(_, write)| write));
        self.look_ahead();
        Ok(())
    }

    /// Opens the next segment, in which a batch whose payload ends at `end` has room.
    fn roll_over(&mut self, end: usize) -> Result<(), StorageError> {
        let mut next = self.preparer.take(self.wanted())?;
        let needed = to_offset(self.ledger.needed(end));
        if needed > next.size {
            // Whole blocks, which alone go past the page cache.
            let needed = needed.next_multiple_of(BLOCK as u64);
            if let Err(error) = prepare::fill(next.file.as_ref(), next.size, needed) {
                let error = self.preparer.explain(&error, needed);
                self.preparer.note_room(false);
                self.preparer.put_back(next);
                return Err(error);
            }
            self.preparer.note_room(true);
            next.size = needed;
        }
        self.requested = false;
        let sequence = self.ledger.seal_opening(&mut self.opening);
        debug_assert_eq!(sequence, next.sequence, "segments are prepared in order");
        self.active = next.file;
        self.active_size = next.size;
        let mut opening = std::mem::take(&mut self.opening);
        let written = self.write(&mut opening, 0);
        self.opening = opening;
        written?;
        self.ledger.opened(&self.opening);
        self.sizes.push((sequence, next.size));
        Ok(())
    }

    /// Writes a batch, and zeros up to the end of its last block. Behind a batch nothing is valid, and a block of which a
    /// part is written and that isn't in the page cache (a segment's are not, where zeros went past it, or where it is
    /// used again after a while) would have to be read first.
    fn write(&self, batch: &mut Vec<u8>, offset: u64) -> Result<(), StorageError> {
        let failed = |what| {
            move |source| StorageError::Failed { what, path: self.directory.path().into(), source }
        };
        let length = batch.len();
        let end = offset + length as u64;
        let padding = end.next_multiple_of(BLOCK as u64).min(self.active_size).saturating_sub(end);
        batch.resize(length + usize::try_from(padding).unwrap_or(0), 0);
        let written = write_whole(self.active.as_ref(), batch, offset);
        batch.truncate(length);
        written.map_err(failed("writing the log"))?;
        self.active.sync().map_err(failed("syncing the log"))
    }
}

impl Storage for LogStore {
    fn append(&mut self, writes: &[(Ticket, Write)]) -> Result<Ticket, StorageError> {
        Self::append(self, writes)
    }

    fn has_room(&self) -> bool {
        Self::has_room(self)
    }

    fn seal(&mut self) -> Result<(), StorageError> {
        Self::seal(self)
    }
}

/// The sequences of the segments, in order. Files that were being made are removed.
fn segments_in(directory: &dyn Directory) -> Result<Vec<u64>, StorageError> {
    let names = directory.list().map_err(io_error(directory, "reading", ""))?;
    for name in names.iter().filter(|name| prepare::is_unfinished(name)) {
        directory.remove(name).map_err(io_error(directory, "removing", name))?;
    }
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| segment_sequence(name)).collect();
    sequences.sort_unstable();
    Ok(sequences)
}

/// Reads all segments; gives what they mean, and their sizes.
fn read(
    directory: &dyn Directory,
    disk: DiskId,
    sequences: &[u64],
) -> Result<(Recovered, Vec<(u64, u64)>), StorageError> {
    let corrupt = |corruption: Corruption| StorageError::Corrupt {
        path: directory.path().join(segment_name(corruption.sequence)),
        data_dir: PathBuf::from(directory.path()),
        corruption,
    };
    let mut recovery = Recovery::new(disk);
    let mut sizes = Vec::new();
    let mut bytes = Vec::new();
    for sequence in sequences.iter().copied() {
        let name = segment_name(sequence);
        let file = directory.open(&name).map_err(io_error(directory, "opening", &name))?;
        let size = file.length().map_err(io_error(directory, "reading", &name))?;
        bytes.resize(usize::try_from(size).unwrap_or(usize::MAX), 0);
        file.read_at(&mut bytes, 0).map_err(io_error(directory, "reading", &name))?;
        recovery.segment(sequence, &bytes).map_err(corrupt)?;
        sizes.push((sequence, size));
    }
    let recovered = recovery.finish().map_err(corrupt)?;
    Ok((recovered, sizes))
}

/// Writes the last batch again, as it stands, and syncs it.
///
/// Where the server was killed between write and sync, the batch was read from the system's cache and is not on the disk.
/// And where the sync failed, the cache calls the batch clean, so that a sync alone would do nothing (ATC'20).
fn make_durable(
    directory: &dyn Directory,
    active: &dyn DataFile,
    last: Place,
) -> Result<(), StorageError> {
    let failed = |what| {
        move |source| StorageError::Failed { what, path: directory.path().to_owned(), source }
    };
    let offset = to_offset(last.offset);
    let mut header = vec![0; format::HEADER];
    active.read_at(&mut header, offset).map_err(failed("reading the log"))?;
    let length = format::read_header(&header).map_or(0, |header| header.length);
    let end = format::HEADER + usize::try_from(length).unwrap_or(0);
    let mut batch = vec![0; format::whole_sectors(end)];
    active.read_at(&mut batch, offset).map_err(failed("reading the log"))?;
    if read_batch(&batch).is_none() {
        let source = io::Error::new(io::ErrorKind::InvalidData, "read twice, it differs");
        return Err(failed("reading the log")(source));
    }
    write_whole(active, &batch, offset).map_err(failed("writing the log"))?;
    active.sync().map_err(failed("syncing the log"))?;
    directory.sync().map_err(failed("syncing the log's directory"))
}

/// A log that keeps nothing: for `-dev`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryLog;

impl Storage for MemoryLog {
    fn append(&mut self, writes: &[(Ticket, Write)]) -> Result<Ticket, StorageError> {
        Ok(writes.last().map_or(Ticket::NONE, |(ticket, _)| *ticket))
    }

    fn has_room(&self) -> bool {
        true
    }

    fn seal(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}
