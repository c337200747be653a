//! A token bucket: how many requests an agent may send to its servers (prose/servers.md, SERVER-10).

use crate::time::Instant;

/// Parts of a token in which the bucket counts: as many microseconds as a second has.
const PARTS: u64 = 1_000_000;

/// Fills at a steady rate up to its capacity; full at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    /// Millionths of a token a second, which is millionths of a part a microsecond.
    rate: u64,
    /// In parts.
    capacity: u64,
    /// In millionths of a part, so that slow rates lose nothing between looks.
    held: u128,
    at: Instant,
}

impl Bucket {
    /// A bucket of `burst` tokens that gets `rate` millionths of a token a second.
    pub fn new(rate: u64, burst: u64, now: Instant) -> Self {
        let capacity = burst.saturating_mul(PARTS);
        let held = u128::from(capacity) * u128::from(PARTS);
        Self { rate, capacity, held, at: now }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.0.saturating_sub(self.at.0);
        self.at = self.at.max(now);
        let full = u128::from(self.capacity) * u128::from(PARTS);
        let gained = u128::from(elapsed) * u128::from(self.rate);
        self.held = self.held.saturating_add(gained).min(full);
        let token = u128::from(PARTS) * u128::from(PARTS);
        match self.held.checked_sub(token) {
            Some(left) => {
                self.held = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, now: u64, tries: usize) -> usize {
        (0..tries).filter(|_| bucket.take(Instant(now))).count()
    }

    #[test]
    fn a_burst_passes_and_then_as_many_as_the_rate_allows() {
        let mut bucket = Bucket::new(10 * PARTS, 5, Instant(0));
        assert_eq!(taken(&mut bucket, 0, 20), 5);
        assert_eq!(taken(&mut bucket, 99_999, 20), 0);
        assert_eq!(taken(&mut bucket, 100_000, 20), 1);
        assert_eq!(taken(&mut bucket, 400_000, 20), 3);
        // An hour of rest is worth no more than the bucket holds.
        assert_eq!(taken(&mut bucket, 3_600_000_000, 20), 5);
    }

    #[test]
    fn rates_below_one_a_second_lose_nothing_between_looks() {
        let mut bucket = Bucket::new(PARTS / 10, 1, Instant(0));
        assert!(bucket.take(Instant(0)));
        let passed = (1..=100).filter(|n| bucket.take(Instant(n * 1_000_003))).count();
        assert_eq!(passed, 10);
    }

    #[test]
    fn an_empty_bucket_or_one_that_never_fills_gives_nothing() {
        assert_eq!(taken(&mut Bucket::new(PARTS, 0, Instant(0)), 9_000_000, 3), 0);
        let mut bucket = Bucket::new(0, 2, Instant(0));
        assert_eq!(taken(&mut bucket, 0, 3), 2);
        assert_eq!(taken(&mut bucket, u64::MAX, 3), 0);
        // A clock that stands still or goes back gives nothing either.
        let mut bucket = Bucket::new(PARTS, 1, Instant(5_000_000));
        assert_eq!(taken(&mut bucket, 4_000_000, 3), 1);
    }
}
