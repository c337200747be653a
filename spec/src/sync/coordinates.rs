//! Coordinates on their way to the catalog (prose/sync.md, SYNC-7 and SYNC-8; Consul's `Coordinate` endpoint).

use alloc::{collections::BTreeMap, vec::Vec};
use core::time::Duration;

use crate::{
    entropy::Entropy,
    state::{
        catalog::{CatalogCommand, Coordinate, CoordinateKey, CoordinateUpdate},
        text::{Text, canonical},
    },
};

/// How long a leader gathers coordinates before it writes them (Consul's `CoordinateUpdatePeriod`).
pub const PERIOD: Duration = Duration::from_secs(5);

/// Millionths, in which the rate of updates is counted.
const MILLIONTHS: u128 = 1_000_000;

/// How long an agent waits before it tells the catalog its coordinate again.
///
/// All agents together tell `rate` millionths of a coordinate a second; 0 is no bound. `least` is the shortest wait in
/// small clusters. Up to as much again is added by lot, so that agents which start together don't tell together.
pub fn interval(rate: u64, least: Duration, agents: usize, entropy: &mut dyn Entropy) -> Duration {
    let agents = u64::try_from(agents).unwrap_or(u64::MAX);
    let micros = u128::from(agents) * MILLIONTHS * MILLIONTHS;
    let scaled = micros.checked_div(u128::from(rate)).unwrap_or_default();
    let scaled = Duration::from_micros(u64::try_from(scaled).unwrap_or(u64::MAX));
    let wait = least.max(scaled);
    wait.saturating_add(entropy.jitter(wait))
}

/// How much one period may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Limits {
    /// Coordinates in one command.
    pub batch: usize,
    /// Commands in one period.
    pub batches: usize,
}

impl Default for Limits {
    /// Consul's.
    fn default() -> Self {
        Self { batch: 128, batches: 5 }
    }
}

/// Why a coordinate isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// It has something in it that is no number.
    Invalid,
    /// As many as a period may write wait already.
    Full,
}

/// What a leader was told since it wrote last: of each place the last word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gathering {
    limits: Limits,
    latest: BTreeMap<CoordinateKey, (Text, Coordinate)>,
}

impl Gathering {
    /// Nothing yet, within these limits.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, latest: BTreeMap::new() }
    }

    /// Notes where a node is.
    pub fn note(&mut self, update: CoordinateUpdate) -> Result<(), Refusal> {
        let CoordinateUpdate { node, segment, coordinate } = update;
        // The command that it goes into is refused whole.
        if !coordinate.is_valid() {
            return Err(Refusal::Invalid);
        }
        let key = CoordinateKey { node: canonical(&node), segment };
        let capacity = self.limits.batch.saturating_mul(self.limits.batches);
        // Who waits already has its place: a flood of others doesn't push it out.
        if self.latest.len() >= capacity && !self.latest.contains_key(&key) {
            return Err(Refusal::Full);
        }
        let word = (node, coordinate);
        self.latest.insert(key, word);
        Ok(())
    }

    /// What goes through the log at the end of a period; the next one starts with nothing.
    pub fn take(&mut self) -> Vec<CatalogCommand> {
        let latest = core::mem::take(&mut self.latest);
        let updates: Vec<CoordinateUpdate> = latest
            .into_iter()
            .map(|(key, (node, coordinate))| CoordinateUpdate {
                node,
                segment: key.segment,
                coordinate,
            })
            .collect();
        let batches = updates.chunks(self.limits.batch.max(1));
        batches.map(|batch| CatalogCommand::UpdateCoordinates(batch.to_vec())).collect()
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;
    use crate::entropy::{Least, Seeded};

    /// 64 a second.
    const RATE: u64 = 64_000_000;
    const LEAST: Duration = Duration::from_secs(15);

    fn update(node: &str, height: f64) -> CoordinateUpdate {
        let height = height.to_bits();
        let coordinate = Coordinate { vector: [0; 8], error: 0, adjustment: 0, height };
        CoordinateUpdate { node: node.into(), segment: Text::default(), coordinate }
    }

    #[test]
    fn agents_tell_their_coordinates_no_oftener_than_the_cluster_bears() {
        assert_eq!(interval(RATE, LEAST, 0, &mut Least), LEAST);
        assert_eq!(interval(RATE, LEAST, 960, &mut Least), LEAST);
        assert_eq!(interval(RATE, LEAST, 64_000, &mut Least), Duration::from_secs(1000));
        assert_eq!(interval(0, LEAST, 64_000, &mut Least), LEAST);
        assert!(interval(1, LEAST, usize::MAX, &mut Least) > Duration::from_hours(24));
        let mut entropy = Seeded::new(1);
        for _ in 0..20 {
            let interval = interval(RATE, LEAST, 3, &mut entropy);
            assert!(interval >= LEAST && interval <= 2 * LEAST);
        }
    }

    #[test]
    fn a_period_writes_each_node_once_and_no_more_than_its_batches() {
        let mut gathering = Gathering::default();
        for n in 0..700 {
            let noted = gathering.note(update(&format!("n{n}"), 1.0));
            assert_eq!(noted, if n < 640 { Ok(()) } else { Err(Refusal::Full) });
        }
        assert_eq!(gathering.note(update("N0", 2.0)), Ok(()));
        assert_eq!(gathering.note(update("n1", f64::NAN)), Err(Refusal::Invalid));
        let mut told = 0;
        for command in gathering.take() {
            let CatalogCommand::UpdateCoordinates(updates) = command else { panic!("{command:?}") };
            assert_eq!(updates.len(), 128);
            told += updates.len();
            for update in updates {
                let height: f64 = if &*update.node == "N0" { 2.0 } else { 1.0 };
                assert_eq!(update.coordinate.height, height.to_bits(), "{update:?}");
            }
        }
        assert_eq!(told, 640);
        assert!(gathering.take().is_empty());
    }
}
