//! A snapshot put back through the log: pieces of an archive's stream, then a commit (prose/state.md, "Restore").
//!
//! Pieces are folded into fresh tables as they come, by the same insert as always. What stands is served meanwhile and
//! stays as it is until the commit finds everything there. From the commit on, every index is above all that the
//! cluster ever served and above all that the snapshot holds: the restored entries keep theirs.

use alloc::{format, string::String, sync::Arc, vec::Vec};

use super::{
    Chunk, Command, Digest, Outcome, State, Touched,
    catalog::{Catalog, Indexes},
    kv::Kv,
    snapshot::{CHUNK_BYTES, LoadError, Loader},
};

/// A restore that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Restore {
    /// Its name.
    pub(super) id: u128,
    /// The piece that comes next.
    pub(super) next: u64,
    /// How many bytes came.
    pub(super) length: u64,
    /// The CRC-32C of what came.
    pub(super) crc: u32,
    /// What came, as a state.
    pub(super) loader: Loader,
}

impl Restore {
    /// The digest of all that it holds.
    pub(super) fn digest(&self) -> Digest {
        let mut fields = [6; 37];
        fields[1..17].copy_from_slice(&self.id.to_le_bytes());
        fields[17..25].copy_from_slice(&self.next.to_le_bytes());
        fields[25..33].copy_from_slice(&self.length.to_le_bytes());
        fields[33..].copy_from_slice(&self.crc.to_le_bytes());
        Digest::of(&fields).plus(self.loader.digest())
    }
}

/// The commands that restore an archive's stream, under a freshly drawn name. They are proposed in order, each once the
/// one before it has been applied; the first that is refused ends it.
pub fn commands(restore: u128, stream: &[u8]) -> impl Iterator<Item = Command> {
    let chunks = (0..).zip(stream.chunks(CHUNK_BYTES)).map(move |(number, bytes)| {
        Command::RestoreChunk { restore, number, bytes: Chunk::from(bytes) }
    });
    let length = u64::try_from(stream.len()).unwrap_or(u64::MAX);
    let crc = crc32c::crc32c(stream);
    chunks.chain([Command::RestoreCommit { restore, length, crc }])
}

impl State {
    /// Takes a piece. A piece that came already is taken again without effect, since who proposed it may not have
    /// learnt what became of it; the commit's checksum finds what differs.
    pub(super) fn restore_chunk(&mut self, restore: u128, number: u64, bytes: &Chunk) -> Outcome {
        if bytes.len() > CHUNK_BYTES {
            return refused("a piece is larger than 1 MiB");
        }
        match self.restore.as_ref() {
            Some(standing) if standing.id == restore => {
                if number < standing.next {
                    return Outcome::Applied(true);
                }
                if number > standing.next {
                    return refused(&format!(
                        "piece {number} came where piece {} was expected",
                        standing.next
                    ));
                }
            }
            Some(_) | None if number == 0 => {
                self.restore = Some(Arc::new(Restore {
                    id: restore,
                    next: 0,
                    length: 0,
                    crc: 0,
                    loader: Loader::archive(),
                }));
            }
            Some(_) | None => return refused("another restore has taken its place"),
        }
        let Some(standing) = self.restore.as_mut().map(Arc::make_mut) else {
            return refused("no restore is under way");
        };
        standing.next += 1;
        standing.length += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        standing.crc = crc32c::crc32c_append(standing.crc, bytes);
        match standing.loader.push(bytes) {
            Ok(()) => Outcome::Applied(true),
            Err(error) => {
                self.restore = None;
                refused(&unreadable(&error))
            }
        }
    }

    /// Puts the restored entries in place of those that stand, if they are all there. Either way the restore is over.
    pub(super) fn restore_commit(
        &mut self,
        restore: u128,
        length: u64,
        crc: u32,
        touched: &mut Vec<Touched>,
    ) -> Outcome {
        if self.restore.as_ref().is_none_or(|standing| standing.id != restore) {
            return refused("no such restore is under way");
        }
        let Some(standing) = self.restore.take().map(Arc::unwrap_or_clone) else {
            return refused("no such restore is under way");
        };
        if standing.length != length {
            return refused(&format!(
                "{} bytes came where {length} were expected",
                standing.length
            ));
        }
        if standing.crc != crc {
            return refused("the checksum differs");
        }
        let restored = match standing.loader.finish() {
            Ok(restored) => restored,
            Err(error) => return refused(&unreadable(&error)),
        };
        // No index of a restored state is above its own: the loader has seen to it.
        self.offset = self.offset.max((restored.index() + 1).saturating_sub(self.applied.0));
        let index = self.index();
        self.restore_floor = index;
        self.kv = Kv { entries: restored.kv.entries, index, reap_floor: index, ..Kv::default() };
        self.catalog = Catalog { indexes: Indexes::all(index), ..restored.catalog };
        self.autopilot = restored.autopilot;
        touched.push(Touched::All);
        Outcome::Applied(true)
    }
}

fn unreadable(error: &LoadError) -> String {
    format!("the snapshot can't be read: {error}")
}

fn refused(reason: &str) -> Outcome {
    Outcome::Refused(format!("failed to restore: {reason}"))
}
