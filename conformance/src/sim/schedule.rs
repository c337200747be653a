//! Virtual time: what happens when, in the order of moments and, at one moment, of scheduling.

use std::{collections::BTreeMap, time::Duration};

use spec::time::Instant;

/// What is to happen.
#[derive(Debug)]
pub struct Schedule<H> {
    now: Instant,
    heap: BTreeMap<(Instant, u64), H>,
    order: u64,
}

impl<H> Default for Schedule<H> {
    fn default() -> Self {
        Self { now: Instant(0), heap: BTreeMap::new(), order: 0 }
    }
}

impl<H> Schedule<H> {
    /// The moment.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Has something happen at a moment; at once, where that is over.
    pub fn at(&mut self, at: Instant, happening: H) {
        self.order += 1;
        self.heap.insert((at.max(self.now), self.order), happening);
    }

    /// Has something happen after a while.
    pub fn after(&mut self, delay: Duration, happening: H) {
        self.at(self.now.after(delay), happening);
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Instant> {
        self.heap.keys().next().map(|(at, _)| *at)
    }

    /// Lets time pass until a moment before which nothing happens.
    pub fn pass(&mut self, to: Instant) {
        debug_assert!(self.next_at().is_none_or(|at| at >= to), "something happens before");
        self.now = self.now.max(to);
    }

    /// Goes on to the next thing that happens; or to `end`, where nothing does before it or at it.
    pub fn pop(&mut self, end: Instant) -> Option<H> {
        let at = self.next_at().filter(|at| *at <= end);
        self.now = self.now.max(at.unwrap_or(end));
        at.and_then(|_| self.heap.pop_first()).map(|(_, happening)| happening)
    }
}
