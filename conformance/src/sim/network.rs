//! The simulated network: each message is delivered never, once or twice, after a delay of its own.

use std::{collections::BTreeSet, time::Duration};

use spec::entropy::{Entropy as _, Seeded};

use super::Plan;

/// Links between the servers, by their places.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Directions that carry nothing.
    cut: BTreeSet<(usize, usize)>,
    /// Whether loss, repetition and long delays happen.
    calm: bool,
}

impl Network {
    /// The delays after which copies of a message arrive; empty where it is lost.
    pub fn deliveries(
        &self,
        from: usize,
        to: usize,
        plan: &Plan,
        chance: &mut Seeded,
    ) -> Vec<Duration> {
        if self.cut.contains(&(from, to)) {
            return Vec::new();
        }
        if self.calm {
            return vec![Duration::from_micros(100) + chance.jitter(Duration::from_millis(1))];
        }
        if chance.choose(1000) < plan.loss {
            return Vec::new();
        }
        let copies = if chance.choose(1000) < plan.repeat { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                // One message in fifty dawdles, so that others overtake it and elections come in between.
                let bound = if chance.choose(50) == 0 { plan.delay * 20 } else { plan.delay };
                Duration::from_micros(50) + chance.jitter(bound)
            })
            .collect()
    }

    /// Cuts this direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Whether this direction is cut.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }

    /// All directions carry again.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Nothing goes wrong from here on.
    pub fn calm(&mut self) {
        self.heal();
        self.calm = true;
    }
}
