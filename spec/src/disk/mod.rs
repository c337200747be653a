//! The log on disk as pure functions over bytes, as `prose/disk.md` states it. No I/O happens here.
//!
//! | file | what it specifies |
//! |---|---|
//! | [`format`] | sectors, the header of a batch, what a batch holds |
//! | [`ledger`] | what a writer keeps: where the next batch goes, what it says, which segment may be recycled |
//! | [`recovery`] | what the bytes of the segments mean after a crash, or where they are damaged |
//! | [`snapshot`] | the file of a snapshot: its chunks, table and footer |
//! | [`invariant`] | what must hold for every durable state |
#![warn(clippy::indexing_slicing)]

pub mod format;
pub mod invariant;
pub mod ledger;
pub mod recovery;
pub mod snapshot;

pub use format::{Batch, HEADER, Header, Opening, SECTOR, read_batch};
pub use ledger::{Ledger, Place};
pub use recovery::{Corruption, Damage, Recovered, Recovery, recover};
