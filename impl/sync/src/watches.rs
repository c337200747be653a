//! Who waits for a change of a key or below a prefix: the registry behind blocking queries.
//!
//! A query registers, then reads, then sleeps; a writer publishes, then wakes. So a change that the read didn't see
//! wakes the query.
//!
//! Exact keys lie in shards by hash, prefixes in shards by table, each an ordered map. A written key finds its own
//! watchers by one lookup, and the prefixes above it by a descent that passes only over them (see [`ancestors`]): the
//! number of other watchers matters by its logarithm only.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    ops::Bound,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    prim::{AtomicUsize, Mutex, Ordering, lock},
    slab::Slab,
};

#[cfg(not(loom))]
const EXACT_SHARDS: usize = 16;
#[cfg(not(loom))]
const PREFIX_SHARDS: usize = 4;
// Loom explores each lock: as few as show what sharding does.
#[cfg(loom)]
const EXACT_SHARDS: usize = 1;
#[cfg(loom)]
const PREFIX_SHARDS: usize = 1;

/// What a query depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic<'a> {
    /// One key of a table.
    Key(u8, &'a [u8]),
    /// Every key of a table that starts so.
    Prefix(u8, &'a [u8]),
}

/// The registry. Cloning it is cheap and gives the same one.
#[derive(Clone, Debug, Default)]
pub struct Watches(Arc<Shards>);

#[derive(Debug)]
struct Shards {
    hasher: RandomState,
    exact: [Shard; EXACT_SHARDS],
    prefix: [Shard; PREFIX_SHARDS],
}

impl Default for Shards {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            exact: std::array::from_fn(|_| Shard::default()),
            prefix: std::array::from_fn(|_| Shard::default()),
        }
    }
}

type Place = (u8, Arc<[u8]>);
type Group = Slab<Arc<Cell>>;
type Map = BTreeMap<u8, BTreeMap<Arc<[u8]>, Group>>;

#[derive(Debug, Default)]
struct Shard {
    /// How many watches the map holds; a writer passes by where there are none.
    watching: AtomicUsize,
    map: Mutex<Map>,
}

/// One watcher's state, shared by its [`Watch`] and the registry.
#[derive(Debug)]
struct Cell(Mutex<State>);

#[derive(Debug)]
enum State {
    /// Registered, not polled.
    Idle,
    /// Sleeps.
    Waiting(Waker),
    /// Touched.
    Woken,
}

impl Cell {
    fn wake(&self) {
        let before = std::mem::replace(&mut *lock(&self.0), State::Woken);
        if let State::Waiting(waker) = before {
            waker.wake();
        }
    }
}

impl Shard {
    /// Whether anybody may watch here.
    ///
    /// A query raises `watching` before it reads, a writer comes here after it has published. Both go through this
    /// atomic by a read-modify-write: either the writer finds the watch, or the query's read finds what was written.
    fn is_watched(&self) -> bool {
        self.watching.fetch_add(0, Ordering::AcqRel) != 0
    }

    /// Takes the groups that `choose` takes out of the map, then wakes them with no lock held.
    fn wake(&self, choose: impl FnOnce(&mut Map, &mut Vec<Group>)) {
        if !self.is_watched() {
            return;
        }
        let mut groups = Vec::new();
        {
            let mut map = lock(&self.map);
            choose(&mut map, &mut groups);
            let woken: usize = groups.iter().map(Slab::len).sum();
            self.watching.fetch_sub(woken, Ordering::AcqRel);
        }
        for cell in groups.into_iter().flat_map(Slab::into_values) {
            cell.wake();
        }
    }
}

/// Takes the groups of all places that are prefixes of `key`, `key` itself included.
///
/// The greatest place at or before `bound` either is such a prefix, or differs from `key` at some byte; then every
/// prefix that the map holds is no longer than what they have in common.
fn ancestors(map: &mut BTreeMap<Arc<[u8]>, Group>, key: &[u8], groups: &mut Vec<Group>) {
    let mut bound = Bound::Included(key);
    while let Some((place, _)) = map.range::<[u8], _>((Bound::Unbounded, bound)).next_back() {
        let common = place.iter().zip(key).take_while(|(a, b)| a == b).count();
        if common == place.len() {
            let place = place.clone();
            groups.extend(map.remove(&place));
            bound = Bound::Excluded(&key[..common]);
        } else {
            bound = Bound::Included(&key[..common]);
        }
    }
}

/// Takes the groups of all places that start with `prefix`.
fn descendants(map: &mut BTreeMap<Arc<[u8]>, Group>, prefix: &[u8], groups: &mut Vec<Group>) {
    let places: Vec<Arc<[u8]>> = map
        .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
        .map(|(place, _)| place)
        .take_while(|place| place.starts_with(prefix))
        .cloned()
        .collect();
    for place in places {
        groups.extend(map.remove(&place));
    }
}

impl Watches {
    /// A registry that nobody watches.
    pub fn new() -> Self {
        Self::default()
    }

    fn exact(&self, table: u8, key: &[u8]) -> &Shard {
        let hash = if EXACT_SHARDS == 1 { 0 } else { self.0.hasher.hash_one((table, key)) };
        let shards = EXACT_SHARDS as u64;
        &self.0.exact[usize::try_from(hash % shards).unwrap_or(0)]
    }

    fn prefix(&self, table: u8) -> &Shard {
        &self.0.prefix[usize::from(table) % PREFIX_SHARDS]
    }

    fn shard(&self, prefix: bool, place: &Place) -> &Shard {
        if prefix { self.prefix(place.0) } else { self.exact(place.0, &place.1) }
    }

    /// Watches a topic from here on. Read what it is about only afterwards, or a change in between is missed.
    pub fn register(&self, topic: Topic<'_>) -> Watch {
        let (prefix, table, bytes) = match topic {
            Topic::Key(table, key) => (false, table, key),
            Topic::Prefix(table, prefix) => (true, table, prefix),
        };
        let shard = if prefix { self.prefix(table) } else { self.exact(table, bytes) };
        let cell = Arc::new(Cell(Mutex::new(State::Idle)));
        let mut map = lock(&shard.map);
        let places = map.entry(table).or_default();
        // Watchers of one topic share its bytes.
        let place: Arc<[u8]> = match places.get_key_value(bytes) {
            Some((place, _)) => place.clone(),
            None => Arc::from(bytes),
        };
        let slot = places.entry(place.clone()).or_default().insert(cell.clone());
        shard.watching.fetch_add(1, Ordering::AcqRel);
        drop(map);
        Watch { watches: self.clone(), place: (table, place), prefix, slot, cell }
    }

    /// A key was written or deleted: touches its watchers and those of every prefix of it.
    pub fn wake_key(&self, table: u8, key: &[u8]) {
        self.exact(table, key).wake(|map, groups| {
            groups.extend(map.get_mut(&table).and_then(|places| places.remove(key)));
        });
        self.prefix(table).wake(|map, groups| {
            if let Some(places) = map.get_mut(&table) {
                ancestors(places, key, groups);
            }
        });
    }

    /// Every key that starts so may have changed: touches the watchers of each, and those of every prefix that is
    /// a part of this one or that this one is a part of.
    pub fn wake_prefix(&self, table: u8, prefix: &[u8]) {
        for shard in &self.0.exact {
            shard.wake(|map, groups| {
                if let Some(places) = map.get_mut(&table) {
                    descendants(places, prefix, groups);
                }
            });
        }
        self.prefix(table).wake(|map, groups| {
            if let Some(places) = map.get_mut(&table) {
                ancestors(places, prefix, groups);
                descendants(places, prefix, groups);
            }
        });
    }

    /// Anything may have changed: touches every watcher.
    pub fn wake_all(&self) {
        for shard in self.0.exact.iter().chain(&self.0.prefix) {
            shard.wake(|map, groups| {
                groups.extend(std::mem::take(map).into_values().flat_map(BTreeMap::into_values));
            });
        }
    }

    /// How many watch.
    pub fn len(&self) -> usize {
        let shards = self.0.exact.iter().chain(&self.0.prefix);
        shards.map(|shard| shard.watching.load(Ordering::Relaxed)).sum()
    }

    /// Whether nobody watches.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One watcher: a future that is ready once its topic was touched. Dropping it frees all that it took.
#[derive(Debug)]
#[must_use = "a watch that is dropped watches nothing"]
pub struct Watch {
    watches: Watches,
    place: Place,
    prefix: bool,
    slot: usize,
    cell: Arc<Cell>,
}

impl Watch {
    /// Whether its topic was touched since it was registered.
    pub fn is_touched(&self) -> bool {
        matches!(*lock(&self.cell.0), State::Woken)
    }
}

impl Future for Watch {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let sleeping = State::Waiting(cx.waker().clone());
        let mut state = lock(&self.cell.0);
        if matches!(*state, State::Woken) {
            return Poll::Ready(());
        }
        let before = std::mem::replace(&mut *state, sleeping);
        // A waker runs foreign code when it is dropped: not under a lock.
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.is_touched() {
            return;
        }
        let (table, bytes) = &self.place;
        let shard = self.watches.shard(self.prefix, &self.place);
        let mut map = lock(&shard.map);
        let Some(places) = map.get_mut(table) else { return };
        let Some(group) = places.get_mut(bytes) else { return };
        // A writer may have taken this group and others registered since: the slot may be another's.
        if group.get_mut(self.slot).is_none_or(|cell| !Arc::ptr_eq(cell, &self.cell)) {
            return;
        }
        let own = group.remove(self.slot);
        if group.len() == 0 {
            places.remove(bytes);
        }
        shard.watching.fetch_sub(1, Ordering::AcqRel);
        drop(map);
        drop(own);
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    /// Counts how often it was woken.
    pub(crate) struct Flag(AtomicUsize);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Flag {
        pub(crate) fn new() -> Arc<Self> {
            Arc::new(Self(AtomicUsize::new(0)))
        }

        pub(crate) fn waker(self: &Arc<Self>) -> Waker {
            self.clone().into()
        }

        pub(crate) fn take(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    /// Registers all topics, wakes, and gives which were touched.
    fn touched(topics: &[Topic<'_>], wake: impl FnOnce(&Watches)) -> Vec<usize> {
        let watches = Watches::new();
        let held: Vec<_> = topics.iter().map(|topic| watches.register(*topic)).collect();
        assert_eq!(watches.len(), topics.len());
        wake(&watches);
        let touched: Vec<_> = (0..held.len()).filter(|n| held[*n].is_touched()).collect();
        assert_eq!(watches.len(), topics.len() - touched.len());
        drop(held);
        assert!(watches.is_empty());
        assert!(watches.0.exact.iter().all(|s| lock(&s.map).values().all(BTreeMap::is_empty)));
        assert!(watches.0.prefix.iter().all(|s| lock(&s.map).values().all(BTreeMap::is_empty)));
        touched
    }

    #[test]
    fn a_written_key_touches_its_watchers_and_its_prefixes_and_no_others() {
        let topics = [
            Topic::Key(0, b"a/b"),
            Topic::Key(0, b"a/b"),
            Topic::Key(0, b"a/"),
            Topic::Key(1, b"a/b"),
            Topic::Prefix(0, b""),
            Topic::Prefix(0, b"a/"),
            Topic::Prefix(0, b"a/b"),
            Topic::Prefix(0, b"a/b/"),
            Topic::Prefix(0, b"a/a"),
            Topic::Prefix(0, b"a/0"),
            Topic::Prefix(0, b"0"),
            Topic::Prefix(4, b"a/"),
        ];
        assert_eq!(touched(&topics, |w| w.wake_key(0, b"a/b")), [0, 1, 4, 5, 6]);
        assert_eq!(touched(&topics, |w| w.wake_key(4, b"a/zz")), [11]);
        assert_eq!(touched(&topics, |w| w.wake_key(7, b"a/b")), [0; 0]);
    }

    #[test]
    fn a_deleted_tree_touches_all_below_it_and_the_prefixes_above_it() {
        let topics = [
            Topic::Key(0, b"a/b"),
            Topic::Key(0, b"a/c/d"),
            Topic::Key(0, b"b"),
            Topic::Key(0, b"a"),
            Topic::Prefix(0, b""),
            Topic::Prefix(0, b"a"),
            Topic::Prefix(0, b"a/c/"),
            Topic::Prefix(0, b"a\xff"),
            Topic::Prefix(1, b"a/"),
        ];
        assert_eq!(touched(&topics, |w| w.wake_prefix(0, b"a/")), [0, 1, 4, 5, 6]);
        assert_eq!(touched(&topics, |w| w.wake_prefix(0, b"")), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(touched(&topics, Watches::wake_all).len(), topics.len());
    }

    #[test]
    fn prefixes_are_found_as_a_plain_search_finds_them() {
        // All strings over two letters up to length 4, in every role.
        let mut words: Vec<Vec<u8>> = vec![vec![]];
        for n in 0..15 {
            words.extend([b'a', b'b'].map(|letter| [&words[n][..], &[letter]].concat()));
        }
        for key in &words {
            for seed in 0..8_usize {
                let chosen = |n: usize| (n * 7 + seed * 3) % 8 < 3;
                let topics: Vec<_> = words.iter().enumerate().filter(|(n, _)| chosen(*n)).collect();
                let prefixes: Vec<_> = topics.iter().map(|(_, w)| Topic::Prefix(3, w)).collect();
                let above: Vec<_> =
                    (0..topics.len()).filter(|n| key.starts_with(topics[*n].1)).collect();
                assert_eq!(touched(&prefixes, |w| w.wake_key(3, key)), above);
                let related: Vec<_> = (0..topics.len())
                    .filter(|n| key.starts_with(topics[*n].1) || topics[*n].1.starts_with(key))
                    .collect();
                assert_eq!(touched(&prefixes, |w| w.wake_prefix(3, key)), related);
            }
        }
    }

    #[test]
    fn a_watcher_is_woken_once_and_a_dropped_one_never() {
        let watches = Watches::new();
        let flag = Flag::new();
        let waker = flag.waker();
        let mut cx = Context::from_waker(&waker);
        let mut watch = pin!(watches.register(Topic::Key(0, b"k")));
        assert!(watch.as_mut().poll(&mut cx).is_pending());
        {
            let mut dropped = pin!(watches.register(Topic::Key(0, b"k")));
            assert!(dropped.as_mut().poll(&mut cx).is_pending());
        }
        watches.wake_key(0, b"k");
        watches.wake_key(0, b"k");
        assert_eq!(flag.take(), 1);
        assert!(watch.as_mut().poll(&mut cx).is_ready());
        // Its slot now belongs to another: leaving must not take that one along.
        let other = watches.register(Topic::Key(0, b"k"));
        assert_eq!(watches.len(), 1);
        watches.wake_key(0, b"k");
        assert!(other.is_touched());
    }

    #[test]
    fn a_watcher_takes_a_few_hundred_bytes_at_most() {
        let own = size_of::<Watch>() + size_of::<Cell>() + 2 * size_of::<usize>();
        assert!(own + size_of::<Arc<Cell>>() <= 160, "{own}");
    }
}
