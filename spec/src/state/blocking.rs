//! A blocking query: how a client waits for a result to change (prose/blocking.md).
//!
//! The machine does no I/O. Whoever drives it starts it with [`BlockingQuery::start`], does what each [`Effect`] says,
//! and tells how that went by the [`Event`] that the effect names, until it is told to answer:
//!
//! ```text
//! start -> Register -> Registered -> Read -> Read{..} -> Sleep -> Woken -> Register -> Registered -> Reread -> ...
//!                                         \-> Answer                                \-> Answer
//! ```
//!
//! The order is the point: a change between reading and registering would be seen by neither.

use core::time::Duration;

use crate::entropy::Entropy;

/// How long a query may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Where the client doesn't say (`default_query_time`).
    pub default_query_time: Duration,
    /// At most, whatever the client says (`max_query_time`).
    pub max_query_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { default_query_time: Duration::from_mins(5), max_query_time: Duration::from_mins(10) }
    }
}

impl Limits {
    /// How long a query waits that asks for `wait`; zero is for not saying. Up to a sixteenth is added, so that queries
    /// that started together don't all come back together.
    pub fn timeout(&self, wait: Duration, entropy: &mut dyn Entropy) -> Duration {
        let wait = if wait.is_zero() { self.default_query_time } else { wait };
        let wait = wait.min(self.max_query_time);
        wait + entropy.jitter(wait / 16)
    }
}

/// What happens to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// From here on, a change wakes it.
    Registered,
    /// What a read gave.
    Read {
        /// The result's own index.
        index: u64,
        /// Whether there is anything in the result.
        found: bool,
        /// The state's [`super::State::epoch`].
        epoch: u64,
    },
    /// Something that it is registered for was touched.
    Woken,
    /// Its time is over. May come instead of any other event.
    TimedOut,
}

/// What a query needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Register for whatever may change the result, then say [`Event::Registered`]. A registration is good for one
    /// wake-up; one that outlasts it may stay, and then this is done already.
    Register,
    /// Read a state as fresh as the client asks, and say [`Event::Read`].
    Read,
    /// Read the published state, and say [`Event::Read`]. It is not older than the one that was read first.
    Reread,
    /// Wait, then say [`Event::Woken`] or [`Event::TimedOut`]. A wake-up since the registration counts.
    Sleep,
    /// Answer with what was read last, under this index.
    Answer {
        /// At least 1.
        index: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    Registering,
    Reading,
    Sleeping,
    /// Its time is over: whatever the read gives is the answer.
    LastRead,
    Done,
}

/// The order of a round. A read before the registration misses a change that comes between them.
const ROUND: [Phase; 3] = [Phase::Registering, Phase::Reading, Phase::Sleeping];

impl Phase {
    fn next(self) -> Self {
        let at = ROUND.iter().position(|phase| *phase == self);
        at.map_or(self, |at| ROUND[(at + 1) % ROUND.len()])
    }
}

/// One query that waits for its result's index to exceed the one that the client gave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockingQuery {
    phase: Phase,
    /// The index that the result has to exceed; 0 for one that doesn't wait.
    known: u64,
    /// Whether at `known` there was nothing in the result.
    absent: bool,
    /// The epoch of the first state that was read.
    epoch: Option<u64>,
    /// The index that was read last.
    read: u64,
}

impl BlockingQuery {
    /// A query for a result that the client knows at `index`; 0 for one that is answered at once.
    pub const fn new(index: u64) -> Self {
        let phase = if index == 0 { Phase::LastRead } else { ROUND[0] };
        Self { phase, known: index, absent: false, epoch: None, read: 1 }
    }

    /// Whether it may wait, so that it needs a timer.
    pub const fn blocks(&self) -> bool {
        self.known != 0
    }

    /// Whether it waits to be woken.
    pub fn is_asleep(&self) -> bool {
        self.phase == Phase::Sleeping
    }

    /// The first thing it needs; later on, what it needs still.
    pub const fn start(&self) -> Effect {
        match self.phase {
            Phase::Registering => Effect::Register,
            Phase::Reading | Phase::LastRead if self.epoch.is_none() => Effect::Read,
            Phase::Reading | Phase::LastRead => Effect::Reread,
            Phase::Sleeping => Effect::Sleep,
            Phase::Done => Effect::Answer { index: self.read },
        }
    }

    /// Takes what happened and says what is needed next. What doesn't fit changes nothing.
    pub fn step(&mut self, event: Event) -> Effect {
        match (self.phase, event) {
            (Phase::Registering, Event::Registered) | (Phase::Sleeping, Event::Woken) => {
                self.phase = self.phase.next();
            }
            (Phase::Reading | Phase::LastRead, Event::Read { index, found, epoch }) => {
                let is_last = self.phase == Phase::LastRead || self.is_news(index, found, epoch);
                self.phase = if is_last { Phase::Done } else { self.phase.next() };
                self.read = index.max(1);
                self.epoch.get_or_insert(epoch);
            }
            (Phase::Registering | Phase::Reading | Phase::Sleeping, Event::TimedOut) => {
                self.phase = Phase::LastRead;
            }
            (_, Event::Registered | Event::Read { .. } | Event::Woken | Event::TimedOut) => {}
        }
        self.start()
    }

    /// Whether a result is other than what the client knows, as far as can be told.
    fn is_news(&mut self, index: u64, found: bool, epoch: u64) -> bool {
        if self.epoch.is_some_and(|first| first != epoch) {
            // A restore may have changed anything, the meaning of the client's index too.
            return true;
        }
        if index > self.known && (found || !self.absent) {
            return true;
        }
        // Here the result is what the client knows or older: a server that lags behind the one that gave the client its
        // index must not answer with a state that the client has seen go by, so an index from the future waits.
        self.known = self.known.max(index);
        // Nothing, and still nothing, isn't news, though the index of "nothing" moves with every write. But a laggard's
        // "nothing" says nothing about what the client knows: the key may have come and gone since.
        self.absent = !found && index == self.known;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::{Least, Seeded};

    const fn read(index: u64, found: bool) -> Event {
        Event::Read { index, found, epoch: 0 }
    }

    /// A query that knows `index`, has read what the event says, and sleeps.
    fn asleep(index: u64, event: Event) -> BlockingQuery {
        let mut query = BlockingQuery::new(index);
        assert_eq!(query.start(), Effect::Register);
        assert_eq!(query.step(Event::Registered), Effect::Read);
        assert_eq!(query.step(event), Effect::Sleep);
        query
    }

    fn wake(query: &mut BlockingQuery, event: Event) -> Effect {
        assert_eq!(query.step(Event::Woken), Effect::Register);
        assert_eq!(query.step(Event::Registered), Effect::Reread);
        query.step(event)
    }

    #[test]
    fn a_query_without_an_index_reads_once_and_answers() {
        let mut query = BlockingQuery::new(0);
        assert!(!query.blocks());
        assert_eq!(query.start(), Effect::Read);
        assert_eq!(query.step(read(0, false)), Effect::Answer { index: 1 });
    }

    #[test]
    fn an_index_of_the_past_is_answered_at_once() {
        let mut query = BlockingQuery::new(3);
        query.step(Event::Registered);
        assert_eq!(query.step(read(4, true)), Effect::Answer { index: 4 });
    }

    #[test]
    fn a_change_wakes_and_no_change_lets_it_sleep_on() {
        let mut query = asleep(4, read(4, true));
        assert_eq!(wake(&mut query, read(4, true)), Effect::Sleep);
        assert_eq!(wake(&mut query, read(5, true)), Effect::Answer { index: 5 });
    }

    #[test]
    fn what_is_missing_and_stays_missing_keeps_waiting() {
        let mut query = asleep(4, read(4, false));
        assert_eq!(wake(&mut query, read(9, false)), Effect::Sleep);
        assert_eq!(wake(&mut query, read(12, false)), Effect::Sleep);
        assert_eq!(wake(&mut query, read(13, true)), Effect::Answer { index: 13 });
    }

    #[test]
    fn what_is_missing_on_a_laggard_is_news_once_it_has_caught_up() {
        // The client knows the key as of 100; this server is at 95, where the key isn't there yet.
        let mut query = asleep(100, read(95, false));
        assert_eq!(wake(&mut query, read(100, true)), Effect::Sleep);
        assert_eq!(wake(&mut query, read(105, false)), Effect::Answer { index: 105 });
        // It came at 100 and went at 105, between two published states.
        let mut query = asleep(100, read(95, false));
        assert_eq!(wake(&mut query, read(105, false)), Effect::Answer { index: 105 });
    }

    #[test]
    fn an_index_of_the_future_waits_for_its_time_and_gives_the_smaller_one() {
        let mut query = asleep(999, read(7, true));
        assert_eq!(wake(&mut query, read(8, true)), Effect::Sleep);
        assert_eq!(query.step(Event::TimedOut), Effect::Reread);
        assert_eq!(query.step(read(8, true)), Effect::Answer { index: 8 });
    }

    #[test]
    fn a_restore_ends_every_wait() {
        let mut query = asleep(999, read(7, false));
        let restored = Event::Read { index: 20, found: false, epoch: 20 };
        assert_eq!(wake(&mut query, restored), Effect::Answer { index: 20 });
    }

    #[test]
    fn time_runs_out_in_any_phase() {
        let mut query = BlockingQuery::new(4);
        assert_eq!(query.step(Event::TimedOut), Effect::Read);
        assert_eq!(query.step(read(4, true)), Effect::Answer { index: 4 });
        assert_eq!(query.step(Event::TimedOut), Effect::Answer { index: 4 });
    }

    #[test]
    fn the_wait_is_capped_and_lengthened_by_at_most_a_sixteenth() {
        let limits = Limits::default();
        assert_eq!(limits.timeout(Duration::ZERO, &mut Least), Duration::from_mins(5));
        assert_eq!(limits.timeout(Duration::from_hours(1), &mut Least), Duration::from_mins(10));
        let mut entropy = Seeded::new(1);
        let wait = Duration::from_millis(1600);
        for _ in 0..1000 {
            let timeout = limits.timeout(wait, &mut entropy);
            assert!(timeout >= wait && timeout <= wait + Duration::from_millis(100));
        }
    }
}
