//! Lamport clocks that never wrap (SERF-1, SERF-2; Lamport 1978, Serf's `LamportClock`).
//!
//! Serf takes any 64-bit time: one 27-byte intent with time 2^64-1 sets the clock of every node that hears it to 0, and
//! from then on all that they say is older than what they said. Here a time at or above [`Limits::max`] is dropped, and
//! one that lies too far ahead moves the clock only so far: what one message can burn is a small part of what there is.

use bincode::{Decode, Encode};

/// A moment of one of Serf's logical clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct LamportTime(pub u64);

/// What times a clock takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Times from here on are dropped.
    pub max: u64,
    /// The most that one message may be ahead of the clock, and the most that one moves it.
    pub jump: u64,
}

impl Default for Limits {
    /// A pool that ticks a thousand times a second uses 2^62 up in 146 million years, and it takes 2^30 hostile
    /// messages, each of the largest jump.
    fn default() -> Self {
        Self { max: 1 << 62, jump: 1 << 32 }
    }
}

/// A Lamport clock. It starts at 1, as Serf's do: 0 stands for no time at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Clock {
    time: LamportTime,
    limits: Limits,
}

impl Clock {
    /// A clock that has seen nothing.
    pub const fn new(limits: Limits) -> Self {
        Self { time: LamportTime(1), limits }
    }

    /// A clock that has seen what a crash left. What the disk says is not bounded by [`Limits::jump`].
    pub fn resume(seen: LamportTime, limits: Limits) -> Self {
        let mut clock = Self::new(limits);
        clock.advance(seen);
        clock
    }

    /// The time that the next own message bears: later than every time that the clock has seen.
    pub const fn time(&self) -> LamportTime {
        self.time
    }

    /// The latest time that it has seen: what to resume from.
    pub const fn seen(&self) -> LamportTime {
        LamportTime(self.time.0 - 1)
    }

    /// Stamps an own message: gives the time and moves on by one.
    pub fn tick(&mut self) -> LamportTime {
        let time = self.time;
        self.advance(time);
        time
    }

    /// Whether a heard time can be one: below the maximum, and not too far ahead.
    pub const fn admits(&self, heard: LamportTime) -> bool {
        heard.0 < self.limits.max && heard.0.saturating_sub(self.time.0) <= self.limits.jump
    }

    /// Takes note of a heard time: the clock is later from here on. False for what it doesn't admit.
    #[must_use]
    pub fn witness(&mut self, heard: LamportTime) -> bool {
        let admitted = self.admits(heard);
        if admitted {
            self.advance(heard);
        } else if heard.0 < self.limits.max {
            // Two hostile messages to one member put it out of the others' reach. They refuse what it says, but follow:
            // else they would refuse it for ever.
            self.advance(LamportTime(self.time.0.saturating_add(self.limits.jump)));
        }
        admitted
    }

    fn advance(&mut self, seen: LamportTime) {
        // At the very end the clock stands still: a repeated time loses an update, a wrapped one loses them all.
        let next = seen.0.saturating_add(1).min(self.limits.max - 1);
        self.time = self.time.max(LamportTime(next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_later_than_what_it_saw_and_never_goes_back() {
        let mut clock = Clock::new(Limits::default());
        assert_eq!(clock.tick(), LamportTime(1));
        assert!(clock.witness(LamportTime(40)));
        assert!(clock.witness(LamportTime(7)));
        assert_eq!(clock.time(), LamportTime(41));
    }

    #[test]
    fn a_time_at_the_end_of_the_range_is_dropped_and_none_wraps() {
        let mut clock = Clock::new(Limits::default());
        for heard in [u64::MAX, 1 << 63, 1 << 62] {
            assert!(!clock.witness(LamportTime(heard)), "{heard}");
        }
        assert_eq!(clock.time(), LamportTime(1));
        assert!(!clock.witness(LamportTime((1 << 32) + 2)));
        assert_eq!(clock.time(), LamportTime((1 << 32) + 2));
        let mut last = Clock::resume(LamportTime(u64::MAX), Limits::default());
        assert_eq!(last.time(), LamportTime((1 << 62) - 1));
        assert_eq!(last.tick(), last.time());
    }
}
