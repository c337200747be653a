//! What Serf's layer keeps on disk: records, the file that they are appended to, and its compaction (SERF-50 to SERF-55;
//! Serf's `snapshot.go`).
//!
//! A record is `length u32 LE | CRC-32C u32 LE | body`; the checksum covers length and body. A crash leaves a prefix of
//! what was written, so the file is read up to the first record that is not whole. Compaction writes the state afresh
//! beside the file and puts it in the file's place with one rename: at every moment one whole file has the name. Serf
//! removes the old file first, and a crash between the two leaves none.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::net::{IpAddr, SocketAddr};

use bincode::{Decode, Encode};

use super::{
    keyring::{Key, Keyring},
    lamport::LamportTime,
};
use crate::{
    codec,
    swim::{self, Endpoint, Name},
};

/// The longest body of a record, in bytes: a keyring of the most keys.
const RECORD_LIMIT: usize = 4096;
/// The bytes before a record's body.
pub const HEADER: usize = 8;
/// A file is not compacted below this many bytes.
pub const MIN_COMPACT_BYTES: u64 = 128 << 10;

/// What survives a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Durable {
    /// What SWIM keeps: the own incarnation.
    pub swim: swim::Durable,
    /// The members that were there, to join again through.
    pub known: BTreeMap<Name, Endpoint>,
    /// The latest time of the members' clock.
    pub ltime: LamportTime,
    /// The latest time of a delivered event.
    pub event_ltime: LamportTime,
    /// The latest time of a query.
    pub query_ltime: LamportTime,
    /// This member left, and has not started since.
    pub left: bool,
    /// The keyring, once it was changed.
    pub keyring: Option<Keyring>,
    /// The time of the last operation on it.
    pub keyring_ltime: LamportTime,
}

/// One change of it. `Persist` writes one, the file holds them in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    /// What SWIM keeps.
    Swim(swim::Durable),
    /// A member is there.
    Alive {
        /// Who.
        name: Name,
        /// Where.
        endpoint: Endpoint,
    },
    /// A member is gone.
    NotAlive(Name),
    /// The members' clock saw this time.
    Clock(LamportTime),
    /// An event of this time is about to be delivered.
    EventClock(LamportTime),
    /// A query of this time was seen.
    QueryClock(LamportTime),
    /// This member leaves.
    Leave,
    /// It starts again after it left.
    Start {
        /// It joins again through those that it knew (`rejoin_after_leave`).
        rejoin: bool,
    },
    /// The keys of the keyring, and which of them is used.
    Keyring(Keyring),
    /// An operation of this time on the keyring was seen.
    KeyringClock(LamportTime),
}

impl Durable {
    /// Folds one record in.
    pub fn fold(&mut self, record: &Record) {
        match record {
            Record::Swim(durable) => self.swim = *durable,
            Record::Alive { name, endpoint } => {
                self.known.insert(Arc::clone(name), *endpoint);
            }
            Record::NotAlive(name) => {
                self.known.remove(name);
            }
            Record::Clock(ltime) => self.ltime = self.ltime.max(*ltime),
            Record::EventClock(ltime) => self.event_ltime = self.event_ltime.max(*ltime),
            Record::QueryClock(ltime) => self.query_ltime = self.query_ltime.max(*ltime),
            Record::Leave => self.left = true,
            Record::Start { rejoin } => {
                self.left = false;
                if !rejoin {
                    self.known.clear();
                }
            }
            Record::Keyring(keyring) => self.keyring = Some(keyring.clone()),
            Record::KeyringClock(ltime) => {
                self.keyring_ltime = self.keyring_ltime.max(*ltime);
            }
        }
    }

    /// The least records whose fold it is.
    pub fn records(&self) -> Vec<Record> {
        let mut records = Vec::from([
            Record::Swim(self.swim),
            Record::Clock(self.ltime),
            Record::EventClock(self.event_ltime),
            Record::QueryClock(self.query_ltime),
        ]);
        records.extend(self.keyring.clone().map(Record::Keyring));
        if self.keyring_ltime > LamportTime::default() {
            records.push(Record::KeyringClock(self.keyring_ltime));
        }
        let alive = |(name, endpoint): (&Name, &Endpoint)| Record::Alive {
            name: Arc::clone(name),
            endpoint: *endpoint,
        };
        records.extend(self.known.iter().map(alive));
        if self.left {
            records.push(Record::Leave);
        }
        records
    }
}

/// A record as its bytes hold it. Append-only: what is added comes last.
#[derive(Encode, Decode)]
enum Stored {
    Swim(swim::Durable),
    Alive { name: Arc<str>, address: Address, port: u16 },
    NotAlive(Arc<str>),
    Clock(LamportTime),
    EventClock(LamportTime),
    QueryClock(LamportTime),
    Leave,
    Start { rejoin: bool },
    Keyring { keys: Vec<Vec<u8>>, primary: Option<Vec<u8>>, last: LamportTime },
    KeyringClock(LamportTime),
}

#[derive(Encode, Decode)]
enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl From<&Record> for Stored {
    fn from(record: &Record) -> Self {
        match record {
            Record::Swim(durable) => Self::Swim(*durable),
            Record::Alive { name, endpoint } => Self::Alive {
                name: Arc::clone(name),
                address: match endpoint.ip() {
                    IpAddr::V4(ip) => Address::V4(ip.octets()),
                    IpAddr::V6(ip) => Address::V6(ip.octets()),
                },
                port: endpoint.port(),
            },
            Record::NotAlive(name) => Self::NotAlive(Arc::clone(name)),
            Record::Clock(ltime) => Self::Clock(*ltime),
            Record::EventClock(ltime) => Self::EventClock(*ltime),
            Record::QueryClock(ltime) => Self::QueryClock(*ltime),
            Record::Leave => Self::Leave,
            Record::Start { rejoin } => Self::Start { rejoin: *rejoin },
            Record::Keyring(keyring) => Self::Keyring {
                keys: keyring.keys.iter().map(|key| key.bytes().to_vec()).collect(),
                primary: keyring.primary.as_ref().map(|key| key.bytes().to_vec()),
                last: keyring.last,
            },
            Record::KeyringClock(ltime) => Self::KeyringClock(*ltime),
        }
    }
}

impl Stored {
    /// None where a key is none.
    fn record(self) -> Option<Record> {
        Some(match self {
            Self::Swim(durable) => Record::Swim(durable),
            Self::Alive { name, address, port } => {
                let ip = match address {
                    Address::V4(octets) => IpAddr::from(octets),
                    Address::V6(octets) => IpAddr::from(octets),
                };
                Record::Alive { name, endpoint: SocketAddr::new(ip, port) }
            }
            Self::NotAlive(name) => Record::NotAlive(name),
            Self::Clock(ltime) => Record::Clock(ltime),
            Self::EventClock(ltime) => Record::EventClock(ltime),
            Self::QueryClock(ltime) => Record::QueryClock(ltime),
            Self::Leave => Record::Leave,
            Self::Start { rejoin } => Record::Start { rejoin },
            Self::Keyring { keys, primary, last } => Record::Keyring(Keyring {
                primary: match primary {
                    Some(bytes) => Some(Key::new(&bytes)?),
                    None => None,
                },
                keys: keys.iter().map(|bytes| Key::new(bytes)).collect::<Option<_>>()?,
                last,
            }),
            Self::KeyringClock(ltime) => Record::KeyringClock(ltime),
        })
    }
}

/// Appends a record's bytes.
pub fn append(record: &Record, file: &mut Vec<u8>) {
    let body = codec::encode(&Stored::from(record));
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    file.extend(length);
    file.extend(checksum(length, &body).to_le_bytes());
    file.extend(body);
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), body)
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovered {
    /// The fold of its records.
    pub durable: Durable,
    /// Up to where the file is whole: cut it there before anything is appended.
    pub length: usize,
}

/// Reads a file up to the first record that is not whole: what a crash tore, and all that was written behind it, was
/// never acknowledged.
pub fn recover(file: &[u8]) -> Recovered {
    let mut recovered = Recovered { durable: Durable::default(), length: 0 };
    while let Some((record, used)) = file.get(recovered.length..).and_then(read) {
        recovered.durable.fold(&record);
        recovered.length += used;
    }
    recovered
}

/// Reads the record at the start of `bytes`.
fn read(bytes: &[u8]) -> Option<(Record, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    if checksum(*length, body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let stored = codec::decode::<Stored, RECORD_LIMIT>(body).ok()?;
    Some((stored.record()?, HEADER + body.len()))
}

/// The bytes of a file that holds `durable` and nothing else.
pub fn compacted(durable: &Durable) -> Vec<u8> {
    let mut file = Vec::new();
    for record in durable.records() {
        append(&record, &mut file);
    }
    file
}

/// Whether a file of `length` bytes, that had `compacted` when it was last written afresh, is to be compacted.
pub fn is_due(length: u64, compacted: u64) -> bool {
    length > MIN_COMPACT_BYTES.max(2 * compacted)
}

/// A file of the snapshot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum File {
    /// The one that is read at start.
    Current,
    /// The one beside it.
    Temporary,
}

/// A step of compaction. A step begins when the one before it has succeeded; where one fails the file that is there
/// stays the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Remove the file where there is one.
    Remove(File),
    /// Write [`compacted`] to it; it didn't exist.
    Write(File),
    /// Wait until its bytes are on the disk.
    Sync(File),
    /// Give the temporary file the current one's name.
    Rename,
    /// Wait until the folder's names are on the disk. What is appended from here on may be acknowledged.
    SyncFolder,
}

/// Compaction, step by step. While it runs nothing else is written.
pub const COMPACTION: &[Step] = &[
    Step::Remove(File::Temporary),
    Step::Write(File::Temporary),
    Step::Sync(File::Temporary),
    Step::Rename,
    Step::SyncFolder,
];

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn all() -> Vec<Record> {
        let keys = [Key::new(&[1; 16]).unwrap(), Key::new(&[2; 32]).unwrap()];
        vec![
            Record::Swim(swim::Durable { incarnation: swim::Incarnation(7) }),
            Record::Alive { name: "a".into(), endpoint: ([10, 0, 0, 1], 7946).into() },
            Record::Alive { name: "b".into(), endpoint: ([0; 16], 8301).into() },
            Record::NotAlive("a".into()),
            Record::Clock(LamportTime(9)),
            Record::EventClock(LamportTime(8)),
            Record::QueryClock(LamportTime(7)),
            Record::Leave,
            Record::Start { rejoin: true },
            Record::Keyring(Keyring::of(&keys)),
            Record::KeyringClock(LamportTime(6)),
        ]
    }

    #[test]
    fn every_prefix_of_a_file_gives_a_prefix_of_its_records() {
        let (mut file, mut ends, mut folds) = (vec![], vec![0], vec![Durable::default()]);
        for record in all() {
            append(&record, &mut file);
            ends.push(file.len());
            let mut next = folds.last().unwrap().clone();
            next.fold(&record);
            folds.push(next);
        }
        for cut in 0..=file.len() {
            let whole = ends.iter().rposition(|end| *end <= cut).unwrap();
            let recovered = recover(&file[..cut]);
            assert_eq!(recovered.length, ends[whole]);
            assert_eq!(recovered.durable, folds[whole]);
        }
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            let whole = ends.iter().rposition(|end| *end <= at).unwrap();
            assert_eq!(recover(&damaged).length, ends[whole]);
        }
    }

    #[test]
    fn a_compacted_file_says_the_same() {
        let mut durable = Durable::default();
        for record in all() {
            durable.fold(&record);
            assert_eq!(recover(&compacted(&durable)).durable, durable);
        }
    }
}
