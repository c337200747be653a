//! A table of the replicated state: a persistent ordered map with a digest.
//!
//! A clone is O(1), so a published state, a snapshot and a model's successor cost no copy. Equality and hash go by the
//! rows, in order, never by the identity of shared nodes. Each row is hashed once, when it is inserted; the table's
//! digest is the wrapping sum of these hashes, so it depends on the rows alone and not on how they came.

use alloc::sync::Arc;
use core::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
    ops::Bound,
};

use bincode::{Decode, Encode};
use imbl::OrdMap;
use xxhash_rust::xxh3::xxh3_128;

/// A hash of contents: equal contents have equal digests, on every server.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_128(bytes))
    }

    /// The sum with another digest; the order of summands doesn't matter.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// What remains when a summand is taken away.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a table holds under a key of type `K`.
pub trait Row<K>: Eq {
    /// A hash of key and row: every field counts, and the table that it stands in.
    fn digest(&self, key: &K) -> Digest;
}

struct Slot<V> {
    row: V,
    digest: Digest,
}

/// A persistent ordered map with a digest.
pub struct Table<K, V> {
    // A row is behind an `Arc`, because a node that is shared with a snapshot is copied whole before it changes.
    rows: OrdMap<K, Arc<Slot<V>>>,
    digest: Digest,
}

impl<K: Ord + Clone, V: Row<K>> Table<K, V> {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The sum of the digests of all rows.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The row under `key`.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.rows.get(key).map(|slot| &slot.row)
    }

    /// Puts a row in place of the one that stands under `key`, if any.
    pub fn insert(&mut self, key: K, row: V) {
        let digest = row.digest(&key);
        self.digest = self.digest.plus(digest);
        if let Some(old) = self.rows.insert(key, Arc::new(Slot { row, digest })) {
            self.digest = self.digest.minus(old.digest);
        }
    }

    /// Takes the row under `key` away; gives whether there was one.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let Some(old) = self.rows.remove(key) else { return false };
        self.digest = self.digest.minus(old.digest);
        true
    }

    /// All rows, in order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter().map(|(key, slot)| (key, &slot.row))
    }

    /// The rows from `start` on, in order of their keys.
    pub fn from<Q: Ord + ?Sized>(
        &self,
        start: Bound<&Q>,
    ) -> impl DoubleEndedIterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.rows.range::<_, Q>((start, Bound::Unbounded)).map(|(key, slot)| (key, &slot.row))
    }

    /// The rows from `start` on, which the iterator keeps, in order of their keys.
    pub fn from_key(&self, start: K) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.range(start..).map(|(key, slot)| (key, &slot.row))
    }

    /// The first row.
    pub fn first(&self) -> Option<(&K, &V)> {
        self.rows.get_min().map(|(key, slot)| (key, &slot.row))
    }

    /// The last row.
    pub fn last(&self) -> Option<(&K, &V)> {
        self.rows.get_max().map(|(key, slot)| (key, &slot.row))
    }

    /// The first row from `start` on.
    pub fn next<Q: Ord + ?Sized>(&self, start: Bound<&Q>) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let (key, slot) = self.rows.range::<_, Q>((start, Bound::Unbounded)).next()?;
        Some((key, &slot.row))
    }

    /// The rows whose keys start with `prefix`, in order.
    pub fn prefix<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: Borrow<[u8]>,
    {
        self.from(Bound::Included(prefix)).take_while(move |(key, _)| {
            let key: &[u8] = (*key).borrow();
            key.starts_with(prefix)
        })
    }
}

impl<K: Ord + Clone, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: OrdMap::new(), digest: Digest::default() }
    }
}

impl<K: Ord + Clone, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), digest: self.digest }
    }
}

impl<K: Ord + Clone, V: Eq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        // Unequal digests settle it; equal ones don't.
        self.digest == other.digest
            && self.rows.len() == other.rows.len()
            && self
                .rows
                .iter()
                .zip(other.rows.iter())
                .all(|((key, slot), (k, s))| key == k && slot.row == s.row)
    }
}

impl<K: Ord + Clone, V: Eq> Eq for Table<K, V> {}

impl<K: Ord + Clone, V> Hash for Table<K, V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rows.len().hash(state);
        for (_, slot) in &self.rows {
            slot.digest.hash(state);
        }
    }
}

impl<K: Ord + Clone + fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.rows.iter().map(|(key, slot)| (key, &slot.row))).finish()
    }
}
