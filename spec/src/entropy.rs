//! Injected choices: machines have no randomness of their own.

use core::time::Duration;

/// A source of choices. Seeded in production and in the simulator, enumerated or constant in models.
pub trait Entropy {
    /// A delay in `0..=bound`. Models always answer with the same one.
    fn jitter(&mut self, bound: Duration) -> Duration;
    /// An index in `0..n`; `n` is at least 1. Models try all of them.
    fn choose(&mut self, n: usize) -> usize;
}

/// Always the least choice: what models use for jitter, and tests where chance doesn't matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Least;

impl Entropy for Least {
    fn jitter(&mut self, _bound: Duration) -> Duration {
        Duration::ZERO
    }

    fn choose(&mut self, _n: usize) -> usize {
        0
    }
}

/// SplitMix64: a small seeded generator, the same on every machine.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// Starts the sequence that belongs to `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Entropy for Seeded {
    fn jitter(&mut self, bound: Duration) -> Duration {
        let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.next_u64() % (micros + 1))
    }

    fn choose(&mut self, n: usize) -> usize {
        let n = u64::try_from(n.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next_u64() % n).unwrap_or(0)
    }
}
