//! The simulated network: each message is delivered never, once or twice, after a delay of its own.

use std::{collections::BTreeSet, time::Duration};

use spec::entropy::{Entropy as _, Seeded};

/// How well a network carries.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Messages lost, per thousand.
    pub loss: usize,
    /// Messages sent twice, per thousand.
    pub repeat: usize,
    /// The most that a message takes, usually.
    pub delay: Duration,
}

/// How long a stream waits for the acknowledgement of its first packet, and of each later one, before it sends it again
/// (RFC 6298, and Linux's least).
const FIRST_RETRANSMISSION: Duration = Duration::from_secs(1);
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// How often a packet of a stream is sent at most.
const MOST_TRANSMISSIONS: u32 = 8;

/// Links between members, by their places.
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
        weather: &Weather,
        chance: &mut Seeded,
    ) -> Vec<Duration> {
        if self.cut.contains(&(from, to)) {
            return Vec::new();
        }
        if self.calm {
            return vec![Duration::from_micros(100) + chance.jitter(Duration::from_millis(1))];
        }
        if chance.choose(1000) < weather.loss {
            return Vec::new();
        }
        let copies = if chance.choose(1000) < weather.repeat { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                // One message in fifty dawdles, so that others overtake it and elections come in between.
                let bound = if chance.choose(50) == 0 { weather.delay * 20 } else { weather.delay };
                Duration::from_micros(50) + chance.jitter(bound)
            })
            .collect()
    }

    /// How long it takes until a stream is open and what was written to it has arrived; none where it never does.
    pub fn opening(
        &self,
        from: usize,
        to: usize,
        weather: &Weather,
        chance: &mut Seeded,
    ) -> Option<Duration> {
        // A stream needs both directions. Its connection is asked for, granted, and then used.
        if self.cut.contains(&(to, from)) {
            return None;
        }
        let asked = self.leg(from, to, FIRST_RETRANSMISSION, weather, chance)?;
        let granted = self.leg(to, from, FIRST_RETRANSMISSION, weather, chance)?;
        Some(asked + granted + self.answer(from, to, weather, chance)?)
    }

    /// How long it takes until what was written to an open stream has arrived; none where it never does.
    pub fn answer(
        &self,
        from: usize,
        to: usize,
        weather: &Weather,
        chance: &mut Seeded,
    ) -> Option<Duration> {
        self.leg(from, to, RETRANSMISSION, weather, chance)
    }

    fn leg(
        &self,
        from: usize,
        to: usize,
        mut again: Duration,
        weather: &Weather,
        chance: &mut Seeded,
    ) -> Option<Duration> {
        let mut waited = Duration::ZERO;
        for _ in 0..MOST_TRANSMISSIONS {
            if let Some(delay) = self.deliveries(from, to, weather, chance).first() {
                return Some(waited + *delay);
            }
            waited += again;
            again *= 2;
        }
        None
    }

    /// Cuts this direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Cuts between two sides, of `members` in all; gives who is on which.
    pub fn split(&mut self, members: usize, chance: &mut Seeded) -> Vec<bool> {
        let sides: Vec<bool> = (0..members).map(|_| chance.choose(2) == 0).collect();
        for a in 0..members {
            for b in 0..members {
                if sides[a] != sides[b] {
                    self.cut(a, b);
                }
            }
        }
        sides
    }

    /// Cuts one off from all others, of `members` in all.
    pub fn isolate(&mut self, one: usize, members: usize) {
        for other in 0..members {
            self.cut(one, other);
            self.cut(other, one);
        }
    }

    /// Cuts up to `most` directions, so that some hear others that don't hear them; gives which.
    pub fn cut_some(
        &mut self,
        most: usize,
        members: usize,
        chance: &mut Seeded,
    ) -> Vec<(usize, usize)> {
        let mut directions = Vec::new();
        for _ in 0..=chance.choose(most) {
            let direction = (chance.choose(members), chance.choose(members));
            self.cut(direction.0, direction.1);
            directions.push(direction);
        }
        directions
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
