//! How long a suspicion lasts (Lifeguard §IV.B, "LHA-Suspicion"): long while one member accuses, shorter with each
//! other member that does; and the other quantities that grow with the logarithm of the pool.

use alloc::collections::BTreeSet;
use core::time::Duration;

use super::{refusal::Refusal, types::Name};
use crate::time::Instant;

/// A suspicion that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Suspicion {
    /// Who accuses, the first accuser included.
    pub accusers: BTreeSet<Name>,
    /// How many accused after the first.
    pub confirmations: u32,
    /// How many are waited for.
    pub expected: u32,
    /// How long it lasts once all of them accused.
    pub min: Duration,
    /// How long it lasts while nobody confirms it.
    pub max: Duration,
    /// When it began.
    pub started: Instant,
    /// Whether the suspect's system refuses streams, as far as this member knows.
    pub refusal: Refusal,
}

impl Suspicion {
    /// Begins a suspicion in a pool of `members`, by memberlist's rule: in a pool too small for the confirmations that
    /// would be waited for, none are, and it lasts the least time.
    pub fn new(
        from: Name,
        members: usize,
        mult: u32,
        max_mult: u32,
        probe_interval: Duration,
        now: Instant,
    ) -> Self {
        let min = least(mult, members, probe_interval);
        let expected = match mult.saturating_sub(2) {
            wanted if members < 2 + size_of_u32(wanted) => 0,
            wanted => wanted,
        };
        Self {
            accusers: BTreeSet::from([from]),
            confirmations: 0,
            expected,
            min,
            max: min.saturating_mul(max_mult.max(1)),
            started: now,
            refusal: Refusal::None,
        }
    }

    /// Counts an accuser. False where it was counted before, or nobody is waited for any more.
    pub fn confirm(&mut self, from: &Name) -> bool {
        if self.confirmations >= self.expected || self.accusers.contains(from) {
            return false;
        }
        self.accusers.insert(Name::clone(from));
        self.confirmations += 1;
        true
    }

    /// How long it lasts in all.
    pub fn timeout(&self) -> Duration {
        timeout(self.confirmations, self.expected, self.min, self.max)
    }

    /// How long it still lasts.
    pub fn remaining(&self, now: Instant) -> Duration {
        self.timeout().saturating_sub(now.since(self.started))
    }
}

fn size_of_u32(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// `max - (max - min) * ln(confirmations + 1) / ln(expected + 1)`, in whole milliseconds, at least `min`; `min` where
/// nobody is waited for.
pub fn timeout(confirmations: u32, expected: u32, min: Duration, max: Duration) -> Duration {
    if expected == 0 {
        return min;
    }
    let confirmed = log2(u64::from(confirmations.min(expected)) + 1);
    let all = log2(u64::from(expected) + 1);
    let span = max.saturating_sub(min).as_micros();
    let shorter = span * u128::from(confirmed) / u128::from(all);
    let millis = max.as_micros().saturating_sub(shorter) / 1000;
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).max(min)
}

/// `mult * max(1, log10 members) * interval`, the logarithm in thousandths.
pub fn least(mult: u32, members: usize, interval: Duration) -> Duration {
    let members = u64::try_from(members).unwrap_or(u64::MAX).max(1);
    let (log, ten) = (u128::from(log2(members)), u128::from(log2(10)));
    // What the last bits of the logarithms lack must not make 2.999 of the logarithm of 1000.
    let thousandths = ((log * 1000 + (ten >> 16)) / ten).max(1000);
    let micros = interval.as_micros() * thousandths / 1000;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).saturating_mul(mult)
}

/// How often an announcement is sent in a pool of `members`: `mult * ceil(log10(members + 1))`.
pub fn retransmit_limit(mult: u32, members: usize) -> u32 {
    let (mut digits, mut power) = (0_u32, 1_usize);
    while power < members.saturating_add(1) {
        digits += 1;
        power = power.saturating_mul(10);
        if power == usize::MAX {
            break;
        }
    }
    mult.saturating_mul(digits)
}

/// By how much push/pulls are rarer in a pool of `members`: once, and once more for each doubling beyond 32.
pub fn push_pull_scale(members: usize) -> u32 {
    let (mut scale, mut bound) = (1_u32, 32_usize);
    while bound < members && bound < usize::MAX / 2 {
        scale += 1;
        bound *= 2;
    }
    scale
}

/// The logarithm to the base 2, in units of 2^-32. Without floating point: every build computes the same.
fn log2(x: u64) -> u64 {
    let whole = x.max(1).ilog2();
    // x / 2^whole, between 1 and 2, in units of 2^-31.
    let mut mantissa = (x.max(1) << (63 - whole)) >> 32;
    let mut fraction = 0;
    for _ in 0..32 {
        mantissa = (mantissa * mantissa) >> 31;
        fraction <<= 1;
        if mantissa >> 32 != 0 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    (u64::from(whole) << 32) | fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lan(members: usize, confirmations: u32) -> u128 {
        let suspicion = Suspicion::new("a".into(), members, 4, 6, SECOND, Instant(0));
        let (expected, min, max) = (suspicion.expected, suspicion.min, suspicion.max);
        timeout(confirmations, expected, min, max).as_millis()
    }

    #[test]
    fn a_suspicion_lasts_as_long_as_lifeguards_formula_says() {
        // GOSSIP §1.1: n = 10 and n = 1000.
        assert_eq!([0, 1, 2].map(|c| lan(10, c)), [24_000, 11_381, 4_000]);
        assert_eq!([0, 1, 2].map(|c| lan(1000, c)), [72_000, 34_144, 12_000]);
        // Too few to confirm: the least time, with no extension.
        assert_eq!([0, 1, 2].map(|c| lan(3, c)), [4_000; 3]);
        assert_eq!([0, 1, 2].map(|c| lan(4, c)), [24_000, 11_381, 4_000]);
    }

    #[test]
    fn the_deadline_lies_between_least_and_most_and_never_moves_back_with_confirmations() {
        for mult in 1..=9_u32 {
            for members in [1, 2, 3, 4, 5, 9, 10, 11, 99, 100, 5_000, 65_536] {
                let s = Suspicion::new("a".into(), members, mult, 6, SECOND, Instant(0));
                assert!(s.expected == 0 || members >= 2 + size_of_u32(s.expected));
                let mut before = s.max;
                for c in 0..=s.expected + 2 {
                    let t = timeout(c, s.expected, s.min, s.max);
                    assert!(s.min <= t && t <= s.max && t <= before, "{mult} {members} {c}");
                    before = t;
                }
                assert_eq!(before, s.min);
            }
        }
    }

    #[test]
    fn each_name_counts_once() {
        let mut s = Suspicion::new("a".into(), 10, 4, 6, SECOND, Instant(0));
        assert!(!s.confirm(&"a".into()));
        assert!(s.confirm(&"b".into()));
        assert!(!s.confirm(&"b".into()));
        assert!(s.confirm(&"c".into()));
        // Two confirmations are all that is waited for.
        assert!(!s.confirm(&"d".into()));
        assert_eq!(s.confirmations, 2);
        assert_eq!(s.remaining(Instant(1_000_000)), Duration::from_secs(3));
        assert_eq!(s.remaining(Instant(9_000_000)), Duration::ZERO);
    }

    #[test]
    fn scales_follow_the_logarithm_of_the_pool() {
        let limits = [0, 1, 9, 10, 99, 100, 999, 1000, 5000].map(|n| retransmit_limit(4, n));
        assert_eq!(limits, [0, 4, 4, 8, 8, 12, 12, 16, 16]);
        let scales = [1, 32, 33, 64, 65, 128, 129, 5000].map(push_pull_scale);
        assert_eq!(scales, [1, 1, 2, 2, 3, 3, 4, 9]);
        for (n, thousandths) in [(1, 1000), (10, 1000), (100, 2000), (1000, 3000), (5000, 3698)] {
            assert_eq!(least(1, n, SECOND), Duration::from_millis(thousandths), "{n}");
        }
    }
}
