//! The bytes of a snapshot's file (DISK-20, DISK-21).
//!
//! ```text
//!  | chunk 0 | chunk 1 | ... | table: {length: u32, checksum: u32} per chunk | footer |
//!  footer: index u64 | term u64 | chunks u64 | bytes u64 | checksum u32 | magic 4
//! ```
//!
//! All numbers are little-endian. The footer's checksum covers the table and the footer before it, the table's entries
//! cover the chunks: so it covers the whole file, and each chunk can be checked by itself.

use alloc::vec::Vec;

use crate::raft::{Index, SnapshotId, Term};

/// The last bytes of every snapshot's file; the digit is the version of this format.
pub const MAGIC: [u8; 4] = *b"PCS1";
/// The length of the footer in bytes.
pub const FOOTER: usize = 40;
/// The length of a chunk's line in the table, in bytes.
pub const LINE: usize = 8;

/// One chunk in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// Its length in bytes.
    pub length: u32,
    /// The CRC-32C of it.
    pub checksum: u32,
}

/// What the footer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Footer {
    /// Which snapshot it is.
    pub id: SnapshotId,
    /// How many chunks it has.
    pub chunks: u64,
    /// How many bytes the chunks have together.
    pub bytes: u64,
    /// Of the table and of what stands before it in the footer.
    pub checksum: u32,
}

/// The line of a chunk.
pub fn line(chunk: &[u8]) -> Line {
    Line { length: u32::try_from(chunk.len()).unwrap_or(u32::MAX), checksum: crc32c::crc32c(chunk) }
}

/// The table and the footer: what stands behind the chunks.
pub fn ending(id: SnapshotId, lines: &[Line]) -> Vec<u8> {
    let mut out = Vec::with_capacity(lines.len() * LINE + FOOTER);
    let (mut chunks, mut bytes) = (0_u64, 0_u64);
    for line in lines {
        out.extend_from_slice(&line.length.to_le_bytes());
        out.extend_from_slice(&line.checksum.to_le_bytes());
        chunks += 1;
        bytes += u64::from(line.length);
    }
    for number in [id.index.0, id.term.0, chunks, bytes] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&MAGIC);
    out
}

/// Reads a footer; none where it isn't one. Its checksum is checked with the table.
pub fn footer(bytes: &[u8]) -> Option<Footer> {
    let (index, rest) = bytes.split_first_chunk::<8>()?;
    let (term, rest) = rest.split_first_chunk::<8>()?;
    let (chunks, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    (rest == MAGIC).then(|| Footer {
        id: SnapshotId {
            index: Index(u64::from_le_bytes(*index)),
            term: Term(u64::from_le_bytes(*term)),
        },
        chunks: u64::from_le_bytes(*chunks),
        bytes: u64::from_le_bytes(*length),
        checksum: u32::from_le_bytes(*checksum),
    })
}

impl Footer {
    /// How many bytes table and footer take; none where that is more than `file` bytes can hold.
    pub fn ending_length(&self, file: u64) -> Option<usize> {
        let line = u64::try_from(LINE).ok()?;
        let footer = u64::try_from(FOOTER).ok()?;
        let ending = self.chunks.checked_mul(line)?.checked_add(footer)?;
        (ending.checked_add(self.bytes)? == file).then_some(usize::try_from(ending).ok()?)
    }
}

/// Reads the table and the footer from `ending`, all of it; none where they are damaged.
pub fn table(ending: &[u8]) -> Option<(Footer, Vec<Line>)> {
    let at = ending.len().checked_sub(FOOTER)?;
    let (table, tail) = ending.split_at_checked(at)?;
    let footer = footer(tail)?;
    let covered = ending.get(..ending.len().checked_sub(8)?)?;
    if crc32c::crc32c(covered) != footer.checksum {
        return None;
    }
    let lines: Vec<Line> = table
        .as_chunks::<LINE>()
        .0
        .iter()
        .filter_map(|line| {
            let (length, checksum) = line.split_first_chunk::<4>()?;
            let checksum = checksum.first_chunk::<4>()?;
            Some(Line {
                length: u32::from_le_bytes(*length),
                checksum: u32::from_le_bytes(*checksum),
            })
        })
        .collect();
    let bytes: u64 = lines.iter().map(|line| u64::from(line.length)).sum();
    let whole = u64::try_from(lines.len()) == Ok(footer.chunks) && bytes == footer.bytes;
    whole.then_some((footer, lines))
}

/// Whether `chunk` is the one that the table means.
pub fn is_chunk(line: &Line, chunk: &[u8]) -> bool {
    *line == self::line(chunk)
}
