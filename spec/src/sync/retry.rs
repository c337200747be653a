//! What becomes of a request that a server didn't answer (prose/servers.md, SERVER-7 to SERVER-9).

use core::time::Duration;

use crate::{entropy::Entropy, time::Instant};

/// Part of the hold time over which requests that wait for a server come back.
const STAGGER: u32 = 16;

/// How a request got lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// It certainly wasn't carried out: it never left, or the server says that nothing came of it.
    NotSent,
    /// It left, and no answer came.
    Lost,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Next {
    /// Send it to the server that is in use by now.
    AtOnce,
    /// The same after this time.
    After(Duration),
    /// Tell the client.
    GiveUp,
}

/// One request's attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempts {
    kind: Kind,
    /// How long it is held while servers fail; `rpc_hold_timeout`.
    hold: Duration,
    /// When it is given up; none before the first failure.
    until: Option<Instant>,
    /// Servers that failed since the last pause.
    failed: usize,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It changes nothing, so that doing it twice is the same.
    Read,
    /// A read that waits for a change.
    Poll,
    /// Anything else.
    Write,
}

impl Attempts {
    /// A request that is about to be sent.
    pub const fn new(kind: Kind, hold: Duration) -> Self {
        Self { kind, hold, until: None, failed: 0 }
    }

    /// How long it is held while servers fail.
    pub const fn hold(&self) -> Duration {
        self.hold
    }

    /// The attempt that began at `began` failed at `now`; there are so many servers.
    pub fn failed(
        &mut self,
        failure: Failure,
        servers: usize,
        began: Instant,
        now: Instant,
        entropy: &mut dyn Entropy,
    ) -> Next {
        // A write that was lost may have happened: the client decides whether it is asked for again.
        if failure == Failure::Lost && self.kind == Kind::Write {
            return Next::GiveUp;
        }
        // The time runs from the first failure: a server that stands still is found out after seconds, and the others
        // must get their chance. A poll that stood for long was well until then.
        if self.kind == Kind::Poll && now.since(began) >= self.hold {
            *self = Self::new(self.kind, self.hold);
        }
        let until = self.until.unwrap_or_else(|| now.after(self.hold));
        self.until = Some(until);
        if now >= until {
            return Next::GiveUp;
        }
        self.failed += 1;
        if self.failed < servers {
            return Next::AtOnce;
        }
        // All of them failed. Those that wait must not come back at one moment, nor spin.
        self.failed = 0;
        let pause = Duration::from_millis(10) + entropy.jitter(self.hold / STAGGER);
        Next::After(pause.min(until.since(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::{Least, Seeded};

    const HOLD: Duration = Duration::from_secs(7);

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000)
    }

    /// An attempt between these seconds, at one of three servers.
    fn failed(attempts: &mut Attempts, failure: Failure, began: u64, now: u64) -> Next {
        attempts.failed(failure, 3, at(began), at(now), &mut Least)
    }

    #[test]
    fn a_write_that_was_lost_is_not_repeated_and_one_that_never_left_is() {
        let mut write = Attempts::new(Kind::Write, HOLD);
        assert_eq!(failed(&mut write, Failure::NotSent, 0, 0), Next::AtOnce);
        assert_eq!(failed(&mut write, Failure::Lost, 0, 0), Next::GiveUp);
    }

    #[test]
    fn a_read_that_was_lost_goes_to_every_server_before_it_pauses() {
        let mut read = Attempts::new(Kind::Read, HOLD);
        for _ in 0..3 {
            assert_eq!(failed(&mut read, Failure::Lost, 0, 1), Next::AtOnce);
            assert_eq!(failed(&mut read, Failure::NotSent, 1, 1), Next::AtOnce);
            let pause = Next::After(Duration::from_millis(10));
            assert_eq!(failed(&mut read, Failure::Lost, 1, 1), pause);
        }
    }

    #[test]
    fn requests_that_wait_come_back_at_different_times_within_the_hold_time() {
        let mut entropy = Seeded::new(1);
        let mut pause = |now| {
            let mut read = Attempts::new(Kind::Read, HOLD);
            let mut fails = |now| read.failed(Failure::NotSent, 1, now, now, &mut entropy);
            fails(at(0));
            match fails(now) {
                Next::After(pause) => pause,
                other @ (Next::AtOnce | Next::GiveUp) => panic!("{other:?}"),
            }
        };
        let (one, other) = (pause(at(0)), pause(at(0)));
        assert_ne!(one, other);
        assert!(one.max(other) <= Duration::from_millis(448));
        for _ in 0..20 {
            assert!(pause(Instant(6_999_000)) <= Duration::from_millis(1));
        }
    }

    #[test]
    fn it_is_given_up_when_servers_have_failed_for_the_hold_time() {
        for kind in [Kind::Read, Kind::Write, Kind::Poll] {
            let mut attempts = Attempts::new(kind, HOLD);
            assert_eq!(failed(&mut attempts, Failure::NotSent, 20, 20), Next::AtOnce);
            assert_eq!(failed(&mut attempts, Failure::NotSent, 25, 26), Next::AtOnce);
            assert_eq!(failed(&mut attempts, Failure::NotSent, 26, 27), Next::GiveUp);
        }
        // However long the first server stood still, another is asked.
        let mut read = Attempts::new(Kind::Read, HOLD);
        assert_eq!(failed(&mut read, Failure::Lost, 0, 60), Next::AtOnce);
        assert_eq!(failed(&mut read, Failure::Lost, 60, 120), Next::GiveUp);
    }

    #[test]
    fn a_long_poll_is_held_anew_after_it_stood_for_long() {
        let mut poll = Attempts::new(Kind::Poll, HOLD);
        for minute in 0..5 {
            let began = 60 * minute;
            assert_eq!(failed(&mut poll, Failure::Lost, began, began + 59), Next::AtOnce);
            assert_ne!(failed(&mut poll, Failure::NotSent, began + 59, began + 60), Next::GiveUp);
        }
        assert_eq!(failed(&mut poll, Failure::NotSent, 306, 306), Next::GiveUp);
    }
}
