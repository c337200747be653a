//! Long polls that sleep away from their connections.
//!
//! hyper keeps some 20 KiB of buffers for a connection that has a request under way. A long poll needs none of them until
//! it is answered: it leaves hyper's connection, which is taken apart, and the socket and the poll sleep alone. For the
//! answer the connection is made anew and reads a head like that of the request, so that hyper writes the answer as it
//! would have, and then serves what comes next.
//!
//! Whether that can be is known only behind hyper: nothing may be left in its buffers, neither of an earlier answer nor
//! of a later request. So a poll offers to leave, and goes on where it is when it can't.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use hyper::{
    HeaderMap, Response, Version,
    header::{CONNECTION, HeaderValue},
    http::request::Parts,
};

use super::gateway::Outgoing;

/// An answer.
pub(super) type Answer = Response<Outgoing>;
/// A long poll that holds all that it needs.
pub(super) type Sleeper = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A long poll that may leave its connection.
pub(super) struct Parked {
    /// Comes to the answer.
    pub(super) sleeper: Sleeper,
    /// What makes hyper expect that answer.
    pub(super) head: &'static [u8],
}

/// What lies between a request and whoever drives its connection.
#[derive(Default)]
enum Letter {
    #[default]
    Nothing,
    /// A poll would leave.
    Offered(Parked),
    /// It has to stay.
    Refused(Parked),
    /// A poll that left has its answer.
    Answered(Box<Answer>),
}

/// Where the two leave it.
#[derive(Default)]
pub(super) struct Desk {
    letter: Mutex<Letter>,
    /// Whether hyper's buffers were empty at some moment since a request or an answer was last given to it.
    drained: AtomicBool,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("drained", &self.drained).finish_non_exhaustive()
    }
}

impl Desk {
    fn letter(&self) -> MutexGuard<'_, Letter> {
        self.letter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is in hyper's hands, or its answer.
    pub(super) fn fill(&self) {
        self.drained.store(false, Ordering::Relaxed);
    }

    /// Whether hyper's buffers were empty since.
    pub(super) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// hyper flushes: it does so when all that it had to write is written, and nothing is read that it didn't take.
    pub(super) fn drained(&self) {
        self.drained.store(true, Ordering::Relaxed);
    }

    /// The answer, unless the poll leaves: then this never ends, and is dropped with its connection.
    pub(super) async fn stay_or_leave(&self, mut parked: Parked) -> Answer {
        let ready = poll_fn(|cx| Poll::Ready(parked.sleeper.as_mut().poll(cx))).await;
        if let Poll::Ready(answer) = ready {
            return answer;
        }
        *self.letter() = Letter::Offered(parked);
        let refused = poll_fn(|_| {
            let mut letter = self.letter();
            match std::mem::take(&mut *letter) {
                Letter::Refused(parked) => Poll::Ready(parked),
                other => {
                    *letter = other;
                    Poll::Pending
                }
            }
        });
        let parked = refused.await;
        parked.sleeper.await
    }

    /// The poll that leaves, if any.
    pub(super) fn leaving(&self) -> Option<Leaving> {
        let mut letter = self.letter();
        match std::mem::take(&mut *letter) {
            Letter::Offered(parked) if self.is_drained() => Some(Leaving::Leaves(parked)),
            Letter::Offered(parked) => {
                *letter = Letter::Refused(parked);
                Some(Leaving::Stays)
            }
            other => {
                *letter = other;
                None
            }
        }
    }

    /// Leaves the answer for the request that asks for it again.
    pub(super) fn put_answer(&self, answer: Answer) {
        *self.letter() = Letter::Answered(Box::new(answer));
    }

    /// The answer that was left.
    pub(super) fn take_answer(&self) -> Option<Answer> {
        let mut letter = self.letter();
        match std::mem::take(&mut *letter) {
            Letter::Answered(answer) => Some(*answer),
            other => {
                *letter = other;
                None
            }
        }
    }
}

/// What becomes of a poll that offered to leave.
pub(super) enum Leaving {
    /// It is the caller's now.
    Leaves(Parked),
    /// It has to be polled again where it is.
    Stays,
}

/// The shortest head to which hyper answers in the form in which it would have answered this one.
pub(super) fn head(request: &Parts) -> &'static [u8] {
    let named = |name| names(&request.headers, name);
    match (request.version, named("close")) {
        (Version::HTTP_10, false) if named("keep-alive") => {
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        }
        (Version::HTTP_10, _) => b"GET / HTTP/1.0\r\n\r\n",
        (_, true) => b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        (_, false) => b"GET / HTTP/1.1\r\n\r\n",
    }
}

/// Whether a `Connection` header names an option.
fn names(headers: &HeaderMap, name: &str) -> bool {
    let values = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    let mut options = values.flat_map(|value| value.split(|byte| *byte == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}
