//! The bytes of a batch (DISK-1 to DISK-4).
//!
//! ```text
//!  0        4          8      16         24       32         36       40
//!  | magic  | checksum | disk | sequence | number | previous | length | payload ... | zeros to the sector's end |
//! ```
//!
//! All numbers are little-endian. The checksum is the CRC-32C of what stands from byte 8 to the payload's end. A batch
//! starts at a sector and fills whole sectors, so writing one batch never touches a sector of another.

use alloc::vec::Vec;

use bincode::{Decode, Encode};

use crate::{
    codec::{self, CodecError},
    raft::{Change, DiskId, Durable, HardState, Index, SnapshotId, SnapshotMeta, Write},
};

/// The unit that a disk writes whole or not at all, and that batches are aligned to, in bytes.
pub const SECTOR: usize = 512;
/// The length of a batch's header in bytes.
pub const HEADER: usize = 40;
/// The first bytes of every batch; the digit is the version of this format.
pub const MAGIC: [u8; 4] = *b"PCL1";
/// The longest payload of a batch, in bytes.
pub const PAYLOAD_LIMIT: usize = 1 << 30;

/// The header of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Of everything behind it.
    pub checksum: u32,
    /// The disk that the log belongs to.
    ///
    /// It is secret and drawn at random, so a client that stores the image of a batch as a value can't have it taken
    /// for one.
    pub disk: DiskId,
    /// The segment that the batch was written into. Batches of an older sequence are what a recycled segment held.
    pub sequence: u64,
    /// Counts the batches of the log from 0, across its segments.
    pub number: u64,
    /// The checksum of the batch before; 0 for the first.
    pub previous: u32,
    /// The length of the payload in bytes.
    pub length: u32,
}

/// A batch that stands whole in some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Batch<'a> {
    /// Its header.
    pub header: Header,
    /// What it holds.
    pub payload: &'a [u8],
}

impl Batch<'_> {
    /// How many bytes it takes, in whole sectors.
    pub const fn size(&self) -> usize {
        whole_sectors(HEADER + self.payload.len())
    }
}

/// What stands first in every segment: the durable state but for the entries, so that term and vote, the snapshot with
/// its configuration, and the log's base survive the recycling of every older segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Opening {
    /// Term and vote.
    pub hard_state: HardState,
    /// The newest snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// The snapshot before it, to fall back to where the newest one's file is damaged.
    pub older: Option<SnapshotMeta>,
    /// The entry before the first one that the log still has.
    pub base: SnapshotId,
    /// The last entry of the log. Where the segments that hold the entries up to it were recycled, a later base must
    /// cover them.
    pub last: Index,
}

impl Opening {
    /// Folds one write: the same as [`Durable::fold`], but for the entries.
    pub fn fold(&mut self, write: &Write) {
        self.hard_state = write.hard_state;
        match &write.change {
            Change::None => {}
            Change::Append { after, entries } => {
                self.last = entries.last().map_or(*after, |entry| entry.index);
            }
            Change::Snapshot { meta, base } => {
                if self.snapshot.as_ref().is_none_or(|newest| newest.id != meta.id) {
                    self.older = self.snapshot.take();
                }
                self.snapshot = Some(meta.clone());
                self.base = *base;
            }
            Change::Install { meta } => {
                // The log starts behind the installed snapshot: nothing leads from the older one to it.
                self.older = None;
                self.snapshot = Some(meta.clone());
                self.base = meta.id;
                self.last = meta.id.index;
            }
        }
    }

    /// The durable state that a log starts from which has this opening and nothing before it.
    pub fn durable(&self) -> Durable {
        Durable {
            hard_state: self.hard_state,
            snapshot: self.snapshot.clone(),
            base: self.base,
            entries: Vec::new(),
        }
    }
}

/// Rounds up to whole sectors.
pub const fn whole_sectors(bytes: usize) -> usize {
    bytes.div_ceil(SECTOR) * SECTOR
}

/// Starts a batch in `out`, whatever it held; the payload is appended behind.
pub fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.resize(HEADER, 0);
}

/// Appends a write to the payload of the batch in `out`.
pub fn push(write: &Write, out: &mut Vec<u8>) {
    codec::encode_into(write, out);
}

/// Ends the batch in `out` whose payload ends at `end`: puts the header before it and zeros behind it, and gives the
/// checksum. May be done again with another header.
pub fn seal(
    out: &mut Vec<u8>,
    end: usize,
    disk: DiskId,
    sequence: u64,
    number: u64,
    previous: u32,
) -> u32 {
    out.resize(whole_sectors(end), 0);
    let length = u32::try_from(end.saturating_sub(HEADER)).unwrap_or(u32::MAX);
    let mut header = [0; HEADER];
    let fields: [&[u8]; 7] = [
        &MAGIC,
        &[0; 4],
        &disk.0.to_le_bytes(),
        &sequence.to_le_bytes(),
        &number.to_le_bytes(),
        &previous.to_le_bytes(),
        &length.to_le_bytes(),
    ];
    for (to, from) in header.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    put(out, 0, &header);
    let checksum = crc32c::crc32c(out.get(8..end).unwrap_or_default());
    put(out, 4, &checksum.to_le_bytes());
    checksum
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = out.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

/// Reads the header at the start of `bytes`, unchecked.
pub fn read_header(bytes: &[u8]) -> Option<Header> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let (disk, rest) = rest.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (previous, rest) = rest.split_first_chunk::<4>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    (*magic == MAGIC).then_some(Header {
        checksum: u32::from_le_bytes(*checksum),
        disk: DiskId(u64::from_le_bytes(*disk)),
        sequence: u64::from_le_bytes(*sequence),
        number: u64::from_le_bytes(*number),
        previous: u32::from_le_bytes(*previous),
        length: u32::from_le_bytes(*length),
    })
}

/// Reads the batch at the start of `bytes`; none where there is no whole one with the right checksum.
pub fn read_batch(bytes: &[u8]) -> Option<Batch<'_>> {
    let header = read_header(bytes)?;
    let end = HEADER.checked_add(usize::try_from(header.length).ok()?)?;
    let covered = bytes.get(8..end)?;
    if crc32c::crc32c(covered) != header.checksum {
        return None;
    }
    Some(Batch { header, payload: bytes.get(HEADER..end)? })
}

/// Decodes the writes that a batch holds, one at a time.
pub fn writes(payload: &[u8]) -> impl Iterator<Item = Result<Write, CodecError>> + '_ {
    let mut rest = payload;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match codec::decode_prefix::<Write, PAYLOAD_LIMIT>(rest) {
            Ok((write, used)) => {
                // A write takes at least one byte, so this ends.
                rest = rest.get(used.max(1)..).unwrap_or_default();
                Some(Ok(write))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}

/// Decodes the opening that a segment's first batch holds.
pub fn opening(payload: &[u8]) -> Result<Opening, CodecError> {
    codec::decode::<Opening, PAYLOAD_LIMIT>(payload)
}
