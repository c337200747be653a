//! What the segments' bytes mean after a crash (DISK-10 to DISK-16): a durable state and where to go on writing, or where
//! they are damaged.
//!
//! Batch n+1 is written only after batch n was synced. So at most one batch, the last, can be torn or missing; it was
//! never acknowledged, and the log ends before it. A bad batch that anything valid follows was durable once: it is damaged,
//! and cutting the log there would lose what was acknowledged.

use alloc::vec::Vec;
use core::fmt;

use super::{
    format::{self, Batch, Opening, SECTOR},
    invariant,
    ledger::{Ledger, Place},
};
use crate::raft::{Change, DiskId, Durable, Index};

/// Where a log is damaged, and how. It is never cut there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Corruption {
    /// The segment.
    pub sequence: u64,
    /// The offset in its file.
    pub offset: usize,
    /// What is wrong there.
    pub damage: Damage,
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Damage {
    /// There is no segment with an opening, so term and vote are lost.
    Lost,
    /// A segment between others is missing.
    Missing,
    /// The batch is bad, but a valid one follows.
    BadBatch {
        /// Where the valid one is.
        follower: Place,
    },
    /// The batch is whole, but isn't the one that follows the batch before it.
    BrokenChain {
        /// The number that it should have.
        expected: u64,
        /// The number that it has.
        found: u64,
    },
    /// The segment's name or content was moved: it holds a batch of this sequence.
    Misplaced(u64),
    /// The segment belongs to the log of this disk.
    OtherDisk(DiskId),
    /// The checksum is right, but the batch can't be decoded.
    Undecodable,
    /// The opening says something else than the batches before it.
    OpeningDiffers,
    /// The recovered state breaks this invariant.
    Illegal(&'static str),
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.damage {
            Damage::Lost => {
                f.write_str("no segment has a readable opening: term and vote are lost")
            }
            Damage::Missing => f.write_str("the segment is missing, but a later one is there"),
            Damage::BadBatch { follower } => write!(
                f,
                "the batch is damaged, and valid data follows it (segment {:016x}, offset {})",
                follower.sequence, follower.offset
            ),
            Damage::BrokenChain { expected, found } => write!(
                f,
                "batch {expected} should stand here, but batch {found} does: a write was lost or misplaced"
            ),
            Damage::Misplaced(sequence) => {
                write!(
                    f,
                    "the file holds data of segment {sequence:016x}: it was renamed or overwritten"
                )
            }
            Damage::OtherDisk(disk) => {
                write!(f, "the segment belongs to another disk ({:016x})", disk.0)
            }
            Damage::Undecodable => {
                f.write_str("the checksum is right, but this version can't decode the batch")
            }
            Damage::OpeningDiffers => {
                f.write_str("the segment's opening contradicts the segments before it")
            }
            Damage::Illegal(name) => write!(f, "the log as a whole breaks {name}"),
        }
    }
}

impl core::error::Error for Corruption {}

/// What a crash left.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovered {
    /// The durable state.
    pub durable: Durable,
    /// Where and how to go on writing.
    pub ledger: Ledger,
    /// Where the last batch stands. It may not be durable yet: what is recovered is written again and synced before
    /// anything stands on it (DISK-15).
    pub last: Place,
    /// Whether a torn batch was found behind the last one.
    pub torn: bool,
    /// Prepared segments behind the last one that nothing was written to.
    pub blank: Vec<u64>,
}

/// Reads the segments of a log, one by one in the order of their sequences.
#[derive(Clone, Debug)]
pub struct Recovery {
    disk: DiskId,
    durable: Durable,
    ledger: Option<Ledger>,
    /// Entries behind the base up to this one are in segments that were recycled.
    recycled: Index,
    last: Place,
    /// The sequence of the segment that was read last.
    read: Option<u64>,
    torn: bool,
    blank: Vec<u64>,
}

/// Recovers a log from all its segments, given with their sequences in ascending order.
pub fn recover<'a>(
    disk: DiskId,
    segments: impl IntoIterator<Item = (u64, &'a [u8])>,
) -> Result<Recovered, Corruption> {
    let mut recovery = Recovery::new(disk);
    for (sequence, bytes) in segments {
        recovery.segment(sequence, bytes)?;
    }
    recovery.finish()
}

impl Recovery {
    /// Begins to read the log of `disk`.
    pub fn new(disk: DiskId) -> Self {
        Self {
            disk,
            durable: Durable::default(),
            ledger: None,
            recycled: Index(0),
            last: Place { sequence: 0, offset: 0 },
            read: None,
            torn: false,
            blank: Vec::new(),
        }
    }

    /// Reads the next segment.
    pub fn segment(&mut self, sequence: u64, bytes: &[u8]) -> Result<(), Corruption> {
        if let Some(read) = self.read
            && sequence != read + 1
        {
            return Err(Corruption { sequence: read + 1, offset: 0, damage: Damage::Missing });
        }
        self.read = Some(sequence);
        let Some(batch) = self.own_batch(sequence, 0, bytes)? else {
            // No opening: a prepared segment, or the opening was the torn last write.
            self.nothing_follows(Place { sequence, offset: 0 }, sequence, bytes, SECTOR)?;
            self.torn |= self.is_torn(sequence, bytes);
            self.blank.push(sequence);
            return Ok(());
        };
        if let Some(blank) = self.blank.first() {
            let follower = Place { sequence, offset: 0 };
            return Err(Corruption {
                sequence: *blank,
                offset: 0,
                damage: Damage::BadBatch { follower },
            });
        }
        self.open(sequence, batch, bytes)?;
        self.batches(sequence, bytes)
    }

    /// Takes over the opening of a segment.
    fn open(&mut self, sequence: u64, batch: Batch<'_>, bytes: &[u8]) -> Result<(), Corruption> {
        let opening = format::opening(batch.payload).map_err(|_| Corruption {
            sequence,
            offset: 0,
            damage: Damage::Undecodable,
        })?;
        match &mut self.ledger {
            None => {
                self.durable = opening.durable();
                self.recycled = opening.last;
                self.ledger = Some(Ledger::resume(self.disk, opening, batch.header.number));
            }
            Some(ledger) => {
                // Where the chain is broken, the end of the segment before is what is damaged.
                follows(ledger, &batch, ledger.place())?;
                if *ledger.opening() != opening {
                    let damage = Damage::OpeningDiffers;
                    return Err(Corruption { sequence, offset: 0, damage });
                }
                // What looked torn there was the unused end of a segment.
                self.torn = false;
            }
        }
        let Some(ledger) = &mut self.ledger else { return Ok(()) };
        ledger.enter(sequence);
        self.last = ledger.place();
        ledger.advance(bytes.get(..batch.size()).unwrap_or(bytes));
        Ok(())
    }

    /// Reads the batches behind a segment's opening.
    fn batches(&mut self, sequence: u64, bytes: &[u8]) -> Result<(), Corruption> {
        loop {
            let Some(place) = self.ledger.as_ref().map(Ledger::place) else { return Ok(()) };
            let rest = bytes.get(place.offset..).unwrap_or_default();
            let Some(batch) = self.own_batch(sequence, place.offset, rest)? else {
                self.nothing_follows(place, sequence, bytes, place.offset + SECTOR)?;
                self.torn |= self.is_torn(sequence, rest);
                return Ok(());
            };
            let Some(ledger) = &mut self.ledger else { return Ok(()) };
            follows(ledger, &batch, place)?;
            for write in format::writes(batch.payload) {
                let Ok(write) = write else {
                    let damage = Damage::Undecodable;
                    return Err(Corruption { sequence, offset: place.offset, damage });
                };
                match &write.change {
                    Change::None | Change::Snapshot { .. } => {}
                    Change::Append { after, .. } => self.recycled = self.recycled.min(*after),
                    Change::Install { .. } => self.recycled = Index(0),
                }
                self.durable.fold(&write);
                ledger.fold(&write);
            }
            self.last = place;
            ledger.advance(rest.get(..batch.size()).unwrap_or(rest));
        }
    }

    /// The batch at the start of `bytes`, where it belongs to this segment. One of an older sequence doesn't exist.
    fn own_batch<'a>(
        &self,
        sequence: u64,
        offset: usize,
        bytes: &'a [u8],
    ) -> Result<Option<Batch<'a>>, Corruption> {
        let Some(batch) = format::read_batch(bytes) else { return Ok(None) };
        if batch.header.disk != self.disk {
            let damage = Damage::OtherDisk(batch.header.disk);
            return Err(Corruption { sequence, offset, damage });
        }
        if batch.header.sequence > sequence {
            let damage = Damage::Misplaced(batch.header.sequence);
            return Err(Corruption { sequence, offset, damage });
        }
        Ok((batch.header.sequence == sequence).then_some(batch))
    }

    /// Checks that no valid batch of this segment starts in a sector at or behind `from`: then what is bad at `bad` was
    /// the last that was ever written, and is not acknowledged.
    fn nothing_follows(
        &self,
        bad: Place,
        sequence: u64,
        bytes: &[u8],
        from: usize,
    ) -> Result<(), Corruption> {
        let mut offset = from;
        while let Some(rest) = bytes.get(offset..)
            && !rest.is_empty()
        {
            // The checksum is computed only for what claims to be ours, so that this is one quick pass.
            let claims = format::read_header(rest)
                .is_some_and(|header| header.disk == self.disk && header.sequence == sequence);
            if claims && format::read_batch(rest).is_some() {
                let damage = Damage::BadBatch { follower: Place { sequence, offset } };
                return Err(Corruption { sequence: bad.sequence, offset: bad.offset, damage });
            }
            offset += SECTOR;
        }
        Ok(())
    }

    /// Whether the bad bytes are the start of a batch that was being written to this segment.
    fn is_torn(&self, sequence: u64, bytes: &[u8]) -> bool {
        format::read_header(bytes)
            .is_some_and(|header| header.disk == self.disk && header.sequence == sequence)
    }

    /// Ends the reading.
    pub fn finish(self) -> Result<Recovered, Corruption> {
        let Some(ledger) = self.ledger else {
            let sequence = self.blank.first().copied().unwrap_or(1);
            return Err(Corruption { sequence, offset: 0, damage: Damage::Lost });
        };
        let gap = (self.recycled > self.durable.base.index).then_some("consecutive");
        if let Some(name) = gap.or_else(|| invariant::broken(&self.durable)) {
            let place = ledger.place();
            return Err(Corruption {
                sequence: place.sequence,
                offset: place.offset,
                damage: Damage::Illegal(name),
            });
        }
        Ok(Recovered {
            durable: self.durable,
            ledger,
            last: self.last,
            torn: self.torn,
            blank: self.blank,
        })
    }
}

/// Checks that `batch` is the next one of the log.
fn follows(ledger: &Ledger, batch: &Batch<'_>, place: Place) -> Result<(), Corruption> {
    let (number, previous) = (ledger.number(), ledger.previous());
    if batch.header.number == number && batch.header.previous == previous {
        return Ok(());
    }
    let damage = Damage::BrokenChain { expected: number, found: batch.header.number };
    Err(Corruption { sequence: place.sequence, offset: place.offset, damage })
}

impl Recovered {
    /// What the log knows besides its entries.
    pub fn opening(&self) -> &Opening {
        self.ledger.opening()
    }
}
