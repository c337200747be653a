//! Latencies in log-linear buckets: 64 to each power of two, so that a reading is at most 1.6 % off.

use std::time::Duration;

const BITS: u32 = 6;
const SUB: u64 = 1 << BITS;

/// Counts of durations by size.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; (64 - BITS as usize + 1) << BITS], total: 0 }
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < SUB {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - BITS;
    ((u64::from(shift) << BITS) + (nanos >> shift)) as usize
}

/// The middle of a bucket.
fn value(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB {
        return bucket;
    }
    let shift = (bucket >> BITS) - 1;
    (((bucket - (shift << BITS)) << 1) + 1) << (shift - 1)
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The duration that the share `quantile` of all counted ones doesn't exceed; zero where none was counted.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let wanted = ((self.total as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(value(bucket));
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_within_two_percent() {
        let mut histogram = Histogram::default();
        for micros in 1..=10_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (quantile, micros) in [(0.5, 5_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let read = histogram.quantile(quantile).as_secs_f64() * 1e6;
            assert!((read / micros - 1.0).abs() < 0.02, "{quantile}: {read}");
        }
        assert_eq!(histogram.total(), 10_000);
    }

    #[test]
    fn every_duration_has_a_bucket() {
        for nanos in [0, 1, 63, 64, 65, 127, 128, 129, 1 << 20, (1 << 40) + 12_345, u64::MAX] {
            let read = value(bucket(nanos));
            assert!(read.abs_diff(nanos) as f64 <= nanos as f64 / 64.0, "{nanos}: {read}");
        }
    }
}
