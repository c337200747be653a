//! Network coordinates, beside the machine: Vivaldi (Dabek et al. 2004) with height, adjustment window, latency filter
//! and gravity (Ledlie et al. 2007), by the rules of Serf's `coordinate` package (SERF-60 to SERF-63).
//!
//! A coordinate predicts the round trip between two members that never talked. It comes from others, who may say what
//! they like: Serf takes any finite number, and one huge coordinate moves whoever hears it out of the world. Here what
//! is heard is clamped to where members can be, and no sample moves this one by more than a part of the longest round trip.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use crate::{entropy::Entropy, swim::Name};

/// The number of dimensions.
pub const DIMENSIONS: usize = 8;
/// The least height, in seconds: what a member's own link takes.
pub const HEIGHT_MIN: f64 = 10.0e-6;
/// The error of a coordinate that knows nothing, and the highest.
pub const ERROR_MAX: f64 = 1.5;
/// The longest round trip that is taken for one, in seconds.
pub const RTT_MAX: f64 = 10.0;
/// How far a component may lie from the origin, in seconds; also the greatest height.
pub const EXTENT: f64 = 60.0;

/// How much a sample changes the error.
const CE: f64 = 0.25;
/// How much a sample moves the coordinate.
const CC: f64 = 0.25;
/// The samples of the adjustment.
const WINDOW: usize = 20;
/// The samples of a member's latency, of which the median counts.
const FILTER: usize = 3;
/// At this distance the pull to the origin is one second.
const GRAVITY_RHO: f64 = 150.0;
/// Less than this is nothing.
const ZERO: f64 = 1.0e-6;
/// The most members whose latency is filtered.
const MAX_FILTERED: usize = 65_536;

/// Where a member is, in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Coordinate {
    /// The position.
    pub vec: [f64; DIMENSIONS],
    /// How wrong it is held to be: 0 is certain.
    pub error: f64,
    /// What the position doesn't explain of this member's round trips.
    pub adjustment: f64,
    /// What the member's own link takes.
    pub height: f64,
}

impl Default for Coordinate {
    fn default() -> Self {
        Self { vec: [0.0; DIMENSIONS], error: ERROR_MAX, adjustment: 0.0, height: HEIGHT_MIN }
    }
}

/// Why a sample was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSample {
    /// The coordinate has something in it that is no number.
    NotFinite,
    /// The round trip is negative or longer than [`RTT_MAX`].
    RoundTrip,
}

fn magnitude(vec: &[f64; DIMENSIONS]) -> f64 {
    libm::sqrt(vec.iter().map(|component| component * component).sum())
}

impl Coordinate {
    /// Whether all its components are numbers.
    pub fn is_finite(&self) -> bool {
        let rest = [self.error, self.adjustment, self.height];
        self.vec.iter().chain(&rest).all(|component| component.is_finite())
    }

    /// The nearest coordinate that a member can have.
    #[must_use]
    fn clamped(&self) -> Self {
        Self {
            vec: self.vec.map(|component| component.clamp(-EXTENT, EXTENT)),
            error: self.error.clamp(0.0, ERROR_MAX),
            adjustment: self.adjustment.clamp(-RTT_MAX, RTT_MAX),
            height: self.height.clamp(HEIGHT_MIN, EXTENT),
        }
    }

    fn difference(&self, other: &Self) -> [f64; DIMENSIONS] {
        let mut difference = self.vec;
        for (component, theirs) in difference.iter_mut().zip(&other.vec) {
            *component -= theirs;
        }
        difference
    }

    fn raw_distance(&self, other: &Self) -> f64 {
        magnitude(&self.difference(other)) + self.height + other.height
    }

    /// The round trip that the two coordinates predict, in seconds.
    pub fn distance(&self, other: &Self) -> f64 {
        let raw = self.raw_distance(other);
        let adjusted = raw + self.adjustment + other.adjustment;
        if adjusted > 0.0 { adjusted } else { raw }
    }

    /// Moves by `force` away from `other`, by chance where both are in one place.
    fn push(&mut self, force: f64, other: &Self, entropy: &mut dyn Entropy) {
        let (unit, distance) = unit_vector(self.difference(other), entropy);
        for (component, direction) in self.vec.iter_mut().zip(&unit) {
            *component += direction * force;
        }
        if distance > ZERO {
            self.height += (self.height + other.height) * force / distance;
        }
    }
}

/// The direction of a difference and its length; a direction by chance and 0 where there is none.
fn unit_vector(
    difference: [f64; DIMENSIONS],
    entropy: &mut dyn Entropy,
) -> ([f64; DIMENSIONS], f64) {
    let length = magnitude(&difference);
    if length > ZERO {
        return (difference.map(|component| component / length), length);
    }
    let random = difference.map(|_| {
        let chosen = u32::try_from(entropy.choose(1 << 20)).unwrap_or_default();
        f64::from(chosen) / f64::from(1_u32 << 20) - 0.5
    });
    let length = magnitude(&random);
    if length > ZERO {
        return (random.map(|component| component / length), 0.0);
    }
    let mut first = [0.0; DIMENSIONS];
    first[0] = 1.0;
    (first, 0.0)
}

/// This member's coordinate, and what it is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Vivaldi {
    coordinate: Coordinate,
    adjustments: [f64; WINDOW],
    next_adjustment: usize,
    latencies: BTreeMap<Name, Vec<f64>>,
    resets: u64,
}

impl Default for Vivaldi {
    fn default() -> Self {
        Self {
            coordinate: Coordinate::default(),
            adjustments: [0.0; WINDOW],
            next_adjustment: 0,
            latencies: BTreeMap::new(),
            resets: 0,
        }
    }
}

impl Vivaldi {
    /// Where this member is.
    pub const fn coordinate(&self) -> &Coordinate {
        &self.coordinate
    }

    /// How often the coordinate was started afresh because something in it was no number.
    pub const fn resets(&self) -> u64 {
        self.resets
    }

    /// Forgets the latencies of a member that is gone.
    pub fn forget(&mut self, name: &Name) {
        self.latencies.remove(name);
    }

    /// Takes a round trip of `micros` microseconds to a member at `other`, and gives where this member is by that.
    pub fn update(
        &mut self,
        name: &Name,
        other: &Coordinate,
        micros: u64,
        entropy: &mut dyn Entropy,
    ) -> Result<&Coordinate, BadSample> {
        if !other.is_finite() {
            return Err(BadSample::NotFinite);
        }
        let micros = u32::try_from(micros).map_err(|_| BadSample::RoundTrip)?;
        let rtt = f64::from(micros) / 1.0e6;
        if rtt > RTT_MAX {
            return Err(BadSample::RoundTrip);
        }
        // A finite number may be as far out as it likes: its square is not finite any more.
        let other = other.clamped();
        let rtt = self.filter(name, rtt);
        self.spring(&other, rtt, entropy);
        self.adjust(&other, rtt);
        self.gravity(entropy);
        if self.coordinate.is_finite() {
            self.coordinate = self.coordinate.clamped();
        } else {
            self.resets += 1;
            self.coordinate = Coordinate::default();
            self.adjustments = [0.0; WINDOW];
        }
        Ok(&self.coordinate)
    }

    /// The median of the member's last latencies.
    fn filter(&mut self, name: &Name, rtt: f64) -> f64 {
        if self.latencies.len() >= MAX_FILTERED && !self.latencies.contains_key(name) {
            return rtt;
        }
        let samples = self.latencies.entry(Arc::clone(name)).or_default();
        if samples.len() == FILTER {
            samples.remove(0);
        }
        samples.push(rtt);
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(rtt)
    }

    /// The spring between the two, as long as the round trip, at rest.
    fn spring(&mut self, other: &Coordinate, rtt: f64, entropy: &mut dyn Entropy) {
        let distance = self.coordinate.distance(other);
        let rtt = rtt.max(ZERO);
        let wrongness = (distance - rtt).abs() / rtt;
        let weight = self.coordinate.error / (self.coordinate.error + other.error).max(ZERO);
        let error = CE * weight * wrongness + self.coordinate.error * (1.0 - CE * weight);
        self.coordinate.error = error.min(ERROR_MAX);
        // Honest members are at most the longest round trip apart from where they should be.
        let stretch = (rtt - distance).clamp(-RTT_MAX, RTT_MAX);
        self.coordinate.push(CC * weight * stretch, other, entropy);
        self.coordinate.height = self.coordinate.height.clamp(HEIGHT_MIN, EXTENT);
    }

    fn adjust(&mut self, other: &Coordinate, rtt: f64) {
        let unexplained = rtt - self.coordinate.raw_distance(other);
        if let Some(slot) = self.adjustments.get_mut(self.next_adjustment) {
            *slot = unexplained.clamp(-RTT_MAX, RTT_MAX);
        }
        self.next_adjustment = (self.next_adjustment + 1) % WINDOW;
        let sum: f64 = self.adjustments.iter().sum();
        self.coordinate.adjustment = sum / (2.0 * 20.0);
    }

    /// Pulls towards the origin, so that all coordinates together don't drift.
    fn gravity(&mut self, entropy: &mut dyn Entropy) {
        let origin = Coordinate::default();
        let pull = origin.distance(&self.coordinate) / GRAVITY_RHO;
        self.coordinate.push(-pull * pull, &origin, entropy);
        self.coordinate.height = self.coordinate.height.clamp(HEIGHT_MIN, EXTENT);
    }
}
