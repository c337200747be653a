//! A state as a stream of records, in chunks: Raft's own snapshots, and the `state.bin` of the archive that a user saves.
//!
//! ```text
//! Header | Grave* | Entry* | Catalog* | (Restore | RestoreEntry* | RestoreCatalog*)? | End
//! ```
//!
//! Each record is in a frame of the codec. Records say what they are; graves come in order of their indexes and entries in order of their keys, so equal states
//! give equal bytes. The end carries the digest, which the loaded state must have. Chunks are cut without regard to
//! records. Tombstones aren't written, since they follow from graves. An archive is the same stream of a state without
//! graves and without a restore under way: a restore raises every index, which makes them pointless.

use alloc::{sync::Arc, vec::Vec};
use core::{fmt, ops::Bound};

use bincode::{Decode, Encode};

use super::{
    Chunk, Digest, Key, KvEntry, MAX_ENTRY_BYTES, State,
    catalog::record::{self as catalog, CatalogRecord},
    restore::Restore,
    table::Table,
};
use crate::{
    codec::{self, CodecError, RECORD_LIMIT},
    raft::Index,
    time::ClusterTime,
};

/// The most bytes of a chunk.
pub const CHUNK_BYTES: usize = 1 << 20;
/// The version of the stream as a whole.
const FORMAT: u32 = 1;
/// The most bytes of keys in one record of a grave.
const GRAVE_BYTES: usize = 1 << 16;
/// The most bytes of a record in an archive: those of an entry and what is around it.
const ARCHIVE_RECORD_BYTES: usize = MAX_ENTRY_BYTES + 1024;
/// No index comes near it, so that arithmetic on restored ones can't overflow.
const INDEX_LIMIT: u64 = 1 << 62;

/// Everything of a state that isn't a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
struct Header {
    format: u32,
    applied: Index,
    time: ClusterTime,
    offset: u64,
    restore_floor: u64,
    kv_index: u64,
    kv_reap_floor: u64,
}

/// One record of the stream. Append-only: its encoding is in every snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
enum Record {
    Header(Header),
    /// Some keys that were deleted at `index`; more of them may follow.
    Grave {
        index: u64,
        time: ClusterTime,
        keys: Vec<Key>,
    },
    Entry(KvEntry),
    /// A restore that is under way, but for its entries.
    Restore {
        restore: u128,
        next: u64,
        length: u64,
        crc: u32,
        header: Option<Header>,
        rest: Chunk,
    },
    RestoreEntry(KvEntry),
    /// The restore has had the end of its stream.
    RestoreEnd,
    End {
        digest: Digest,
    },
    /// Something of the catalog.
    Catalog(CatalogRecord),
    /// Something of the catalog of the restore that is under way.
    RestoreCatalog(CatalogRecord),
}

/// Why a stream isn't that of a state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LoadError {
    /// A record can't be decoded.
    Codec(CodecError),
    /// A record stands where it can't: the stream isn't Proconsul's, or parts are missing.
    Order,
    /// The stream is of a later format.
    Format(u32),
    /// An entry that no command could have made.
    Entry,
    /// An index above the snapshot's own, or beyond any.
    Index,
    /// The stream ends too early.
    Unfinished,
    /// Everything is well formed, and isn't what was saved.
    Digest,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Codec(error) => write!(f, "a record is {error}"),
            Self::Order => f.write_str("a record is out of place"),
            Self::Format(format) => write!(f, "format {format} is not known"),
            Self::Entry => f.write_str("an entry is impossible"),
            Self::Index => f.write_str("an index is impossible"),
            Self::Unfinished => f.write_str("the end is missing"),
            Self::Digest => f.write_str("the digest differs"),
        }
    }
}

impl core::error::Error for LoadError {}

impl From<CodecError> for LoadError {
    fn from(error: CodecError) -> Self {
        Self::Codec(error)
    }
}

impl Header {
    fn of(state: &State) -> Self {
        Self {
            format: FORMAT,
            applied: state.applied,
            time: state.time,
            offset: state.offset,
            restore_floor: state.restore_floor,
            kv_index: state.kv.index,
            kv_reap_floor: state.kv.reap_floor,
        }
    }

    /// A state with all this and without rows.
    fn into_state(self) -> Result<State, LoadError> {
        if self.format != FORMAT {
            return Err(LoadError::Format(self.format));
        }
        let index = self.applied.0.saturating_add(self.offset);
        let highest = self.restore_floor.max(self.kv_index).max(self.kv_reap_floor);
        if index > INDEX_LIMIT || highest > index {
            return Err(LoadError::Index);
        }
        let mut state = State {
            applied: self.applied,
            time: self.time,
            offset: self.offset,
            restore_floor: self.restore_floor,
            ..State::default()
        };
        state.kv.index = self.kv_index;
        state.kv.reap_floor = self.kv_reap_floor;
        Ok(state)
    }
}

/// Where a [`Saver`] stands.
enum At {
    Header,
    Graves(Bound<u64>),
    Entries(Bound<Key>),
    Catalog(catalog::At),
    Restore,
    RestoreEntries(Bound<Key>),
    RestoreCatalog(catalog::At),
    RestoreEnd,
    End,
    Done,
}

/// Gives the chunks of a state's stream, each made when it is asked for.
pub struct Saver {
    state: State,
    at: At,
    pending: Vec<u8>,
}

impl Saver {
    /// The whole state, for Raft's own snapshots.
    pub const fn new(state: State) -> Self {
        Self { state, at: At::Header, pending: Vec::new() }
    }

    /// What a user's archive holds of the state: what can be restored.
    pub fn archive(mut state: State) -> Self {
        state.restore = None;
        state.kv.tombstones = Table::default();
        state.kv.graves = Table::default();
        Self::new(state)
    }

    /// Appends records until a chunk is full or their kind is exhausted.
    fn fill(&mut self) {
        let out = &mut self.pending;
        self.at = match &self.at {
            At::Header => {
                codec::frame(&Record::Header(Header::of(&self.state)), out);
                At::Graves(Bound::Unbounded)
            }
            At::Graves(start) => match self.state.kv.graves.next(start.as_ref()) {
                None => At::Entries(Bound::Unbounded),
                Some((&index, grave)) => {
                    for keys in parts(&grave.keys) {
                        codec::frame(
                            &Record::Grave { index, time: grave.time, keys: keys.to_vec() },
                            out,
                        );
                    }
                    At::Graves(Bound::Excluded(index))
                }
            },
            At::Entries(start) => match entries(&self.state, start, Record::Entry, out) {
                Some(last) => At::Entries(Bound::Excluded(last)),
                None => At::Catalog(catalog::At::Indexes),
            },
            At::Catalog(catalog::At::Done) => At::Restore,
            At::Catalog(at) => {
                let frame = |record, out: &mut Vec<u8>| codec::frame(&Record::Catalog(record), out);
                At::Catalog(catalog::fill(&self.state, at, CHUNK_BYTES, out, frame))
            }
            At::Restore => match &self.state.restore {
                None => At::End,
                Some(restore) => {
                    codec::frame(&restore_record(restore), out);
                    At::RestoreEntries(Bound::Unbounded)
                }
            },
            At::RestoreEntries(start) => {
                let restored = restored(&self.state);
                match restored.and_then(|state| entries(state, start, Record::RestoreEntry, out)) {
                    Some(last) => At::RestoreEntries(Bound::Excluded(last)),
                    None => At::RestoreCatalog(catalog::At::Indexes),
                }
            }
            At::RestoreCatalog(catalog::At::Done) => At::RestoreEnd,
            At::RestoreCatalog(at) => {
                let frame =
                    |record, out: &mut Vec<u8>| codec::frame(&Record::RestoreCatalog(record), out);
                At::RestoreCatalog(match restored(&self.state) {
                    Some(state) => catalog::fill(state, at, CHUNK_BYTES, out, frame),
                    None => catalog::At::Done,
                })
            }
            At::RestoreEnd => {
                let loader = self.state.restore.as_ref().map(|restore| &restore.loader);
                if loader.is_some_and(|loader| loader.stage == Stage::Ended) {
                    codec::frame(&Record::RestoreEnd, out);
                }
                At::End
            }
            At::End => {
                codec::frame(&Record::End { digest: self.state.digest() }, out);
                At::Done
            }
            At::Done => At::Done,
        };
    }
}

impl Iterator for Saver {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        while self.pending.len() < CHUNK_BYTES && !matches!(self.at, At::Done) {
            self.fill();
        }
        if self.pending.is_empty() {
            return None;
        }
        let rest = self.pending.split_off(self.pending.len().min(CHUNK_BYTES));
        Some(core::mem::replace(&mut self.pending, rest))
    }
}

/// What came so far of the restore that is under way.
fn restored(state: &State) -> Option<&State> {
    state.restore.as_ref().map(|restore| &restore.loader.state)
}

/// Appends entries from `start` on until a chunk is full; gives the last one, none where there was none.
fn entries(
    state: &State,
    start: &Bound<Key>,
    record: fn(KvEntry) -> Record,
    out: &mut Vec<u8>,
) -> Option<Key> {
    let mut last = None;
    for (key, entry) in state.kv.entries.from(start.as_ref()) {
        codec::frame(&record(entry.clone()), out);
        last = Some(key);
        if out.len() >= CHUNK_BYTES {
            break;
        }
    }
    last.cloned()
}

/// Cuts a grave's keys into pieces of bounded size.
fn parts(mut keys: &[Key]) -> impl Iterator<Item = &[Key]> {
    core::iter::from_fn(move || {
        let mut bytes = 0;
        let over = keys.iter().position(|key| {
            bytes += key.len() + 8;
            bytes > GRAVE_BYTES
        });
        let (part, rest) = keys.split_at(over.map_or(keys.len(), |over| over.max(1)));
        keys = rest;
        (!part.is_empty()).then_some(part)
    })
}

fn restore_record(restore: &Restore) -> Record {
    let loader = &restore.loader;
    Record::Restore {
        restore: restore.id,
        next: restore.next,
        length: restore.length,
        crc: restore.crc,
        header: (loader.stage != Stage::Start).then(|| Header::of(&loader.state)),
        rest: Chunk::from(loader.rest.as_slice()),
    }
}

/// How far a [`Loader`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    Start,
    Graves,
    Entries,
    Catalog(catalog::Stage),
    Restore,
    Ended,
}

impl Stage {
    /// Whether only what comes in the stream of any state has come.
    const fn is_before_restore(self) -> bool {
        matches!(self, Self::Graves | Self::Entries | Self::Catalog(_))
    }
}

/// Takes the chunks of a stream and builds the state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Loader {
    /// Whether only what an archive holds is taken.
    archive: bool,
    stage: Stage,
    /// What is loaded so far.
    state: State,
    /// The grave that is being loaded.
    grave: Option<(u64, ClusterTime, Vec<Key>)>,
    /// The highest key that is loaded.
    last: Option<Key>,
    /// The start of a record whose end isn't here yet.
    rest: Vec<u8>,
}

impl Loader {
    /// Takes the stream of a whole state.
    pub fn new() -> Self {
        Self {
            archive: false,
            stage: Stage::Start,
            state: State::default(),
            grave: None,
            last: None,
            rest: Vec::new(),
        }
    }

    /// Takes the stream of an archive.
    pub fn archive() -> Self {
        Self { archive: true, ..Self::new() }
    }

    /// Takes the next bytes of the stream. After an error it is of no use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        self.rest.extend_from_slice(bytes);
        let stream = core::mem::take(&mut self.rest);
        let mut left = stream.as_slice();
        while let Some((header, tail)) = left.split_first_chunk() {
            let length = codec::frame_length::<RECORD_LIMIT>(*header)?;
            // What waits for its end is part of the state, so a record of Raft's own snapshots has to hold it.
            if self.archive && length > ARCHIVE_RECORD_BYTES {
                return Err(CodecError::TooLong.into());
            }
            let Some((frame, tail)) = tail.split_at_checked(length) else { break };
            self.record(codec::unframe::<Record, RECORD_LIMIT>(frame)?)?;
            left = tail;
        }
        self.rest = left.to_vec();
        Ok(())
    }

    /// The state, once its stream has come to its end.
    pub fn finish(self) -> Result<State, LoadError> {
        match self.stage {
            Stage::Ended if self.rest.is_empty() => Ok(self.state),
            Stage::Ended => Err(LoadError::Order),
            Stage::Start | Stage::Graves | Stage::Entries | Stage::Catalog(_) | Stage::Restore => {
                Err(LoadError::Unfinished)
            }
        }
    }

    /// The digest of what is loaded so far. Its rows are those of a state that is served elsewhere, so they are hashed
    /// once more: the sum of both would be that of a state that holds them twice.
    pub(super) fn digest(&self) -> Digest {
        let mut fields = [7; 33];
        fields[0] = u8::from(self.stage == Stage::Ended);
        fields[1..17].copy_from_slice(&self.state.digest().0.to_le_bytes());
        fields[17..].copy_from_slice(&Digest::of(&self.rest).0.to_le_bytes());
        Digest::of(&fields)
    }

    fn record(&mut self, record: Record) -> Result<(), LoadError> {
        match record {
            Record::Header(header) if self.stage == Stage::Start => {
                self.state = header.into_state()?;
                self.stage = Stage::Graves;
            }
            Record::Grave { index, time, keys } if self.stage == Stage::Graves && !self.archive => {
                self.grave(index, time, keys)?;
            }
            Record::Entry(entry) if matches!(self.stage, Stage::Graves | Stage::Entries) => {
                self.fill_grave();
                self.stage = Stage::Entries;
                self.entry(entry)?;
            }
            Record::Catalog(record) if self.stage.is_before_restore() => {
                self.fill_grave();
                let stage = match self.stage {
                    Stage::Catalog(stage) => Some(stage),
                    Stage::Start
                    | Stage::Graves
                    | Stage::Entries
                    | Stage::Restore
                    | Stage::Ended => None,
                };
                self.stage = Stage::Catalog(catalog::load(&mut self.state, stage, record)?);
                self.last = None;
            }
            Record::Restore { restore, next, length, crc, header, rest }
                if self.stage.is_before_restore() && !self.archive =>
            {
                self.fill_grave();
                let mut loader = Self::archive();
                loader.rest = rest.to_vec();
                if let Some(header) = header {
                    loader.state = header.into_state()?;
                    loader.stage = Stage::Graves;
                }
                self.state.restore =
                    Some(Arc::new(Restore { id: restore, next, length, crc, loader }));
                self.stage = Stage::Restore;
            }
            Record::RestoreEntry(entry) if self.stage == Stage::Restore => {
                self.restore()?.loader.record(Record::Entry(entry))?;
            }
            Record::RestoreCatalog(record) if self.stage == Stage::Restore => {
                self.restore()?.loader.record(Record::Catalog(record))?;
            }
            Record::RestoreEnd if self.stage == Stage::Restore => {
                self.restore()?.loader.end();
            }
            Record::End { digest } if !matches!(self.stage, Stage::Start | Stage::Ended) => {
                self.fill_grave();
                if self.state.digest() != digest {
                    return Err(LoadError::Digest);
                }
                self.end();
            }
            Record::Header(_)
            | Record::Grave { .. }
            | Record::Entry(_)
            | Record::Restore { .. }
            | Record::RestoreEntry(_)
            | Record::RestoreEnd
            | Record::Catalog(_)
            | Record::RestoreCatalog(_)
            | Record::End { .. } => return Err(LoadError::Order),
        }
        Ok(())
    }

    fn restore(&mut self) -> Result<&mut Restore, LoadError> {
        self.state.restore.as_mut().map(Arc::make_mut).ok_or(LoadError::Order)
    }

    fn end(&mut self) {
        self.stage = Stage::Ended;
        self.last = None;
    }

    fn grave(&mut self, index: u64, time: ClusterTime, keys: Vec<Key>) -> Result<(), LoadError> {
        let highest = self.state.kv.index;
        if index == 0 || index > highest || time > self.state.time || keys.is_empty() {
            return Err(LoadError::Index);
        }
        match &mut self.grave {
            Some((open, _, _)) if *open > index => return Err(LoadError::Order),
            Some((open, at, all)) if *open == index && *at == time => all.extend(keys),
            Some(_) | None => {
                self.fill_grave();
                self.grave = Some((index, time, keys));
            }
        }
        Ok(())
    }

    fn fill_grave(&mut self) {
        if let Some((index, time, keys)) = self.grave.take() {
            self.state.kv.bury(index, time, keys.into());
        }
    }

    fn entry(&mut self, entry: KvEntry) -> Result<(), LoadError> {
        if entry.key.is_empty()
            || entry.key.len() + entry.value.len() > MAX_ENTRY_BYTES
            || entry.create_index > entry.modify_index
        {
            return Err(LoadError::Entry);
        }
        if entry.modify_index > self.state.index() {
            return Err(LoadError::Index);
        }
        if self.last.as_ref().is_some_and(|last| *last >= entry.key) {
            return Err(LoadError::Order);
        }
        self.last = Some(entry.key.clone());
        self.state.kv.entries.insert(entry.key.clone(), entry);
        Ok(())
    }
}

impl Default for Loader {
    fn default() -> Self {
        Self::new()
    }
}
