//! The specification's own time: monotonic instants, cluster time, and the named timers of a machine.

use alloc::collections::{BTreeMap, BTreeSet};
use core::time::Duration;

use bincode::{Decode, Encode};

/// Microseconds of the driver's monotonic clock since some fixed moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// The instant `delay` later; saturates.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The time since `earlier`, or zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds that the cluster counted while it had a leader. Every log entry carries it; it never goes back, and
/// no wall clock can move it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ClusterTime(pub u64);

/// Named timers: at most one of each, fired in order of their deadlines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timers<T: Ord + Clone> {
    deadlines: BTreeMap<T, Instant>,
    queue: BTreeSet<(Instant, T)>,
}

impl<T: Ord + Clone> Default for Timers<T> {
    fn default() -> Self {
        Self { deadlines: BTreeMap::new(), queue: BTreeSet::new() }
    }
}

impl<T: Ord + Clone> Timers<T> {
    /// Starts `timer`, or starts it afresh.
    pub fn arm(&mut self, timer: T, deadline: Instant) {
        self.disarm(&timer);
        self.queue.insert((deadline, timer.clone()));
        self.deadlines.insert(timer, deadline);
    }

    /// Stops `timer`; nothing happens where it isn't armed.
    pub fn disarm(&mut self, timer: &T) {
        if let Some(deadline) = self.deadlines.remove(timer) {
            self.queue.remove(&(deadline, timer.clone()));
        }
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    /// Takes one timer whose deadline has come; it is disarmed.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        if self.next_deadline()? > now {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.deadlines.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_armed_again_fires_once_at_its_new_deadline() {
        let mut timers = Timers::default();
        timers.arm("election", Instant(10));
        timers.arm("heartbeat", Instant(20));
        timers.arm("election", Instant(30));
        assert_eq!(timers.pop(Instant(9)), None);
        assert_eq!(timers.pop(Instant(25)), Some("heartbeat"));
        assert_eq!(timers.pop(Instant(25)), None);
        assert_eq!(timers.next_deadline(), Some(Instant(30)));
        assert_eq!(timers.pop(Instant(30)), Some("election"));
        assert_eq!(timers.pop(Instant(99)), None);
    }
}
