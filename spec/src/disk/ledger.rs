//! What a writer of the log keeps in memory, and what it decides by it (DISK-5 to DISK-9).
//!
//! A writer encodes writes into a buffer, asks for the [`Place`] of the batch, seals the batch, writes it, syncs it and
//! notes that with [`Ledger::synced`]. Where the batch doesn't fit behind the last one, it first opens the next segment in
//! the same way: [`Ledger::seal_opening`], write, sync, [`Ledger::opened`].

use alloc::{collections::VecDeque, vec::Vec};

use super::format::{self, HEADER, Opening, whole_sectors};
use crate::{
    codec,
    raft::{Change, DiskId, Index, Write},
};

/// A segment whose opening is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Its sequence.
    pub sequence: u64,
    /// The highest index that was ever written into it, truncated entries included.
    pub highest: Index,
}

/// Where the next batch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The segment.
    pub sequence: u64,
    /// The offset in its file.
    pub offset: usize,
}

/// What a writer knows of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    disk: DiskId,
    opening: Opening,
    segments: VecDeque<Segment>,
    offset: usize,
    number: u64,
    previous: u32,
}

impl Ledger {
    /// The ledger of a log that has no segment yet.
    pub fn new(disk: DiskId) -> Self {
        Self {
            disk,
            opening: Opening::default(),
            segments: VecDeque::new(),
            offset: 0,
            number: 0,
            previous: 0,
        }
    }

    /// Goes on from the first segment that a crash left: `opening` is what it says, `number` its batch's.
    pub(super) fn resume(disk: DiskId, opening: Opening, number: u64) -> Self {
        Self { opening, number, ..Self::new(disk) }
    }

    /// The disk that the log belongs to.
    pub fn disk(&self) -> DiskId {
        self.disk
    }

    /// What the next segment's opening would say.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// The segments that the log consists of, oldest first.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.iter()
    }

    /// The sequence of the segment that is written to; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.sequence)
    }

    /// The number of the next batch.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The checksum of the last batch.
    pub fn previous(&self) -> u32 {
        self.previous
    }

    /// Where the next batch goes.
    pub fn place(&self) -> Place {
        Place { sequence: self.sequence(), offset: self.offset }
    }

    /// Whether a batch whose payload ends at `end` fits into the rest of a segment of `segment_size` bytes.
    pub fn fits(&self, end: usize, segment_size: usize) -> bool {
        !self.segments.is_empty() && self.offset.saturating_add(whole_sectors(end)) <= segment_size
    }

    /// How large a segment must be that a batch whose payload ends at `end` fits behind its opening.
    pub fn needed(&self, end: usize) -> usize {
        let mut opening = Vec::new();
        self.encode_opening(&mut opening);
        whole_sectors(opening.len()).saturating_add(whole_sectors(end))
    }

    fn encode_opening(&self, out: &mut Vec<u8>) {
        format::begin(out);
        codec::encode_into(&self.opening, out);
    }

    /// Makes the opening of the next segment in `out`, to be written at offset 0 of the segment of the sequence that it
    /// gives.
    pub fn seal_opening(&self, out: &mut Vec<u8>) -> u64 {
        self.encode_opening(out);
        let sequence = self.sequence() + 1;
        format::seal(out, out.len(), self.disk, sequence, self.number, self.previous);
        sequence
    }

    /// Notes that the opening in `batch` is durable: the segment belongs to the log from here on.
    pub fn opened(&mut self, batch: &[u8]) {
        self.segments.push_back(Segment { sequence: self.sequence() + 1, highest: Index(0) });
        self.offset = 0;
        self.advance(batch);
    }

    /// Seals the batch in `out` whose payload ends at `end` for [`Self::place`].
    pub fn seal(&self, out: &mut Vec<u8>, end: usize) {
        format::seal(out, end, self.disk, self.sequence(), self.number, self.previous);
    }

    /// Notes that the sealed `batch`, which holds `writes`, is durable. No later batch is written before.
    pub fn synced<'a>(&mut self, batch: &[u8], writes: impl IntoIterator<Item = &'a Write>) {
        for write in writes {
            self.fold(write);
        }
        self.advance(batch);
    }

    /// Folds a write of the batch that is being read or became durable.
    pub(super) fn fold(&mut self, write: &Write) {
        self.opening.fold(write);
        if let Change::Append { entries, .. } = &write.change
            && let Some(segment) = self.segments.back_mut()
        {
            segment.highest =
                entries.iter().map(|entry| entry.index).fold(segment.highest, Ord::max);
        }
    }

    /// Moves behind a batch.
    pub(super) fn advance(&mut self, batch: &[u8]) {
        self.offset = self.offset.saturating_add(batch.len());
        self.number += 1;
        self.previous = format::read_header(batch).map_or(0, |header| header.checksum);
    }

    /// Adds the segment `sequence` while reading; the batch of its opening is [`Self::advance`]d over.
    pub(super) fn enter(&mut self, sequence: u64) {
        self.segments.push_back(Segment { sequence, highest: Index(0) });
        self.offset = 0;
    }

    /// The oldest segment, where it may be recycled: the opening of a newer one is durable, and all entries that were
    /// ever written into it are at or below the base.
    pub fn recyclable(&self) -> Option<u64> {
        let oldest = self.segments.front()?;
        // The opening of the only segment holds the term and the vote: without it the server could vote twice.
        if self.segments.len() < 2 {
            return None;
        }
        // An entry above the base is needed, and the base's own segment need not be the last that holds lower ones.
        if oldest.highest > self.opening.base.index {
            return None;
        }
        Some(oldest.sequence)
    }

    /// Takes the oldest segment out of the log, where [`Self::recyclable`] allows it.
    pub fn recycle(&mut self) -> Option<u64> {
        let sequence = self.recyclable()?;
        self.segments.pop_front();
        Some(sequence)
    }

    /// The least size in bytes of a segment that anything fits into.
    pub const fn least_segment() -> usize {
        2 * whole_sectors(HEADER)
    }
}
