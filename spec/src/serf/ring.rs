//! Which user events and queries were seen (SERF-20 to SERF-24; Serf's `eventBuffer` and `queryBuffer`).
//!
//! Gossip brings each message many times, and a push/pull brings the last events again. A ring keeps what was seen in a
//! window of Lamport times behind the clock; what is older than the window is dropped unseen, since nothing tells
//! whether it was seen. So each item is taken at most once.

use alloc::{collections::BTreeMap, vec::Vec};

use super::lamport::{Clock, LamportTime, Limits};

/// What a ring keeps.
pub trait Item: Clone + PartialEq {
    /// How many bytes it takes, for the ring's bound.
    fn weight(&self) -> usize;
}

impl Item for u32 {
    fn weight(&self) -> usize {
        size_of::<Self>()
    }
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// It was not seen before: deliver it, and pass it on.
    New,
    /// It was seen.
    Known,
    /// It is older than what the ring remembers.
    Old,
    /// Its time can't be one.
    Implausible,
}

/// What was seen at the times from a floor on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ring<T> {
    /// The clock of what it keeps.
    pub clock: Clock,
    /// Items below this time are dropped.
    floor: LamportTime,
    slots: BTreeMap<LamportTime, Vec<T>>,
    bytes: usize,
    window: u64,
    max_bytes: usize,
}

impl<T: Item> Ring<T> {
    /// A ring over `window` times and at most `max_bytes` of items. `seen` is the latest time that was taken before a
    /// crash: nothing up to it is taken again.
    pub fn new(seen: LamportTime, window: u64, max_bytes: usize, limits: Limits) -> Self {
        Self {
            clock: Clock::resume(seen, limits),
            floor: LamportTime(seen.0.saturating_add(1)),
            slots: BTreeMap::new(),
            bytes: 0,
            window,
            max_bytes,
        }
    }

    /// Items below this time are dropped.
    pub const fn floor(&self) -> LamportTime {
        self.floor
    }

    /// Takes nothing below `floor` from here on.
    pub fn raise_floor(&mut self, floor: LamportTime) {
        self.floor = self.floor.max(floor);
        self.forget();
    }

    /// Takes note of another's clock. False for what can't be one.
    #[must_use]
    pub fn witness(&mut self, heard: LamportTime) -> bool {
        self.clock.witness(heard)
    }

    /// Takes an item, once.
    pub fn admit(&mut self, ltime: LamportTime, item: T) -> Admission {
        if !self.clock.witness(ltime) {
            return Admission::Implausible;
        }
        // The clock is past the newest time by one, so the window holds the newest `window` times.
        self.raise_floor(LamportTime(self.clock.time().0.saturating_sub(self.window)));
        if ltime < self.floor {
            return Admission::Old;
        }
        // Two nodes that never heard of each other stamp with one time: only the content tells their events apart.
        let known = |seen: &T| *seen == item;
        if self.slots.get(&ltime).is_some_and(|slot| slot.iter().any(known)) {
            return Admission::Known;
        }
        self.make_room(item.weight());
        if ltime < self.floor {
            return Admission::Old;
        }
        self.bytes += item.weight();
        self.slots.entry(ltime).or_default().push(item);
        Admission::New
    }

    /// What it remembers, oldest first.
    pub fn slots(&self) -> impl Iterator<Item = (LamportTime, &[T])> {
        self.slots.iter().map(|(ltime, slot)| (*ltime, slot.as_slice()))
    }

    /// Forgets the oldest times until `weight` bytes more fit. A forgotten time is below the floor: what it held may
    /// come again, and must not be taken again.
    fn make_room(&mut self, weight: usize) {
        while self.bytes + weight > self.max_bytes {
            let Some(oldest) = self.slots.keys().next() else { return };
            self.floor = LamportTime(oldest.0 + 1);
            self.forget();
        }
    }

    fn forget(&mut self) {
        while let Some(first) = self.slots.first_entry()
            && *first.key() < self.floor
        {
            self.bytes -= first.remove().iter().map(Item::weight).sum::<usize>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(window: u64, max_bytes: usize) -> Ring<u32> {
        Ring::new(LamportTime(0), window, max_bytes, Limits::default())
    }

    #[test]
    fn an_item_is_taken_once_and_two_of_one_time_are_two() {
        let mut ring = ring(4, 100);
        assert_eq!(ring.admit(LamportTime(3), 7), Admission::New);
        assert_eq!(ring.admit(LamportTime(3), 8), Admission::New);
        assert_eq!(ring.admit(LamportTime(3), 7), Admission::Known);
        assert_eq!(ring.admit(LamportTime(u64::MAX), 7), Admission::Implausible);
    }

    #[test]
    fn what_left_the_window_is_not_taken_again() {
        let mut ring = ring(4, 100);
        for ltime in 1..=5 {
            assert_eq!(ring.admit(LamportTime(ltime), 1), Admission::New);
        }
        assert_eq!(ring.admit(LamportTime(1), 1), Admission::Old);
        assert_eq!(ring.admit(LamportTime(2), 1), Admission::Known);
        assert_eq!(ring.slots().count(), 4);
    }

    #[test]
    fn a_full_ring_forgets_its_oldest_time_and_takes_nothing_of_it_again() {
        let mut ring = ring(100, 8);
        for ltime in [1, 2, 5] {
            assert_eq!(ring.admit(LamportTime(ltime), 1), Admission::New);
        }
        assert_eq!(ring.admit(LamportTime(1), 1), Admission::Old);
        assert_eq!(ring.admit(LamportTime(2), 1), Admission::Known);
        assert_eq!(ring.admit(LamportTime(2), 9), Admission::Old);
    }

    #[test]
    fn after_a_crash_nothing_up_to_the_last_time_is_taken() {
        let mut ring = Ring::new(LamportTime(9), 100, 100, Limits::default());
        assert_eq!(ring.admit(LamportTime(9), 1), Admission::Old);
        assert_eq!(ring.clock.time(), LamportTime(10));
        assert_eq!(ring.admit(LamportTime(10), 1), Admission::New);
    }
}
