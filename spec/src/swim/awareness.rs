//! Local health (Lifeguard §IV.A, "LHA-Probe"): a member that misses answers which it should have got doubts itself
//! first, and gives the others more time.

use core::time::Duration;

/// The local health multiplier's score: 0 is best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Awareness(pub u32);

impl Awareness {
    /// Moves the score by `delta` within `0..max`; true where it changed.
    pub fn apply(&mut self, delta: i64, max: u32) -> bool {
        let before = *self;
        let highest = i64::from(max.max(1)) - 1;
        let moved = i64::from(self.0).saturating_add(delta).clamp(0, highest);
        self.0 = u32::try_from(moved).unwrap_or(self.0);
        *self != before
    }

    /// The interval that a probe gets: once as long for each point of the score, and once more.
    pub fn scale(self, interval: Duration) -> Duration {
        interval.saturating_mul(self.0.saturating_add(1))
    }
}
