//! How a member heeds operations on its keyring (SERF-34, SERF-35, SERF-37): one after the other, each used and answered
//! behind its write.
//!
//! Where a write fails nobody knows what the disk holds: the keyring before it or the one after it. The member goes on
//! with the one before, says that it couldn't do what was asked, and is in doubt until it has written its keyring anew.

use alloc::{collections::VecDeque, sync::Arc};

use super::{
    interface::{Counter, Output},
    keyring::{KeyRequest, KeyResponse, Keyring},
    message::{Answer, Query, QueryBody},
    node::{Serf, Turn},
    snapshot::Record,
};
use crate::machine::Ticket;

/// The most operations that wait for the write of one before them.
pub const MAX_WAITING: usize = 16;
/// The most bytes of a reason that an answer carries: all keys have to fit beside it.
const MAX_REASON: usize = 160;

/// What a member has to do with its keyring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Keys {
    /// The operation whose write is under way.
    pub writing: Option<Writing>,
    /// Operations that came meanwhile.
    pub waiting: VecDeque<Arc<Query>>,
    /// A write failed, and none has succeeded since: the disk may hold another keyring than this member uses.
    pub in_doubt: bool,
}

/// An operation whose write is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writing {
    /// The query that asks for it.
    pub query: Arc<Query>,
    /// The keyring as it will be.
    pub keyring: Keyring,
    /// Why the operation changes no key, if it doesn't.
    pub heeded: Result<(), &'static str>,
    /// The first of its writes.
    pub first: Ticket,
    /// The last.
    pub last: Ticket,
}

impl Serf {
    /// An operation on this member's keyring came.
    pub(super) fn heed_keys(&mut self, query: &Arc<Query>, turn: &mut Turn<'_, '_>) {
        if self.keys.waiting.len() >= MAX_WAITING {
            turn.count(Counter::KeyQueriesFull);
            return;
        }
        self.keys.waiting.push_back(Arc::clone(query));
        self.heed_next(turn);
    }

    fn heed_next(&mut self, turn: &mut Turn<'_, '_>) {
        while self.keys.writing.is_none() {
            let Some(query) = self.keys.waiting.pop_front() else { return };
            self.heed(query, turn);
        }
    }

    fn heed(&mut self, query: Arc<Query>, turn: &mut Turn<'_, '_>) {
        let QueryBody::Key(request) = &query.body else { return };
        let mut keyring = self.keyring.clone();
        let heeded = keyring.heed(query.ltime, request);
        if keyring == self.keyring {
            let answer = keyring.answer(request, heeded);
            return self.answer_keys(&query, answer, turn);
        }
        // Its time first: an operation that is forgotten with the keys may be asked for anew, one that would be heeded
        // twice may come when another was heeded since.
        let first = turn.persist(Record::KeyringClock(keyring.last));
        let mut last = first;
        if self.keys.in_doubt || !keyring.same_keys(&self.keyring) {
            last = turn.persist(Record::Keyring(keyring.timeless()));
        }
        self.keys.writing = Some(Writing { query, keyring, heeded, first, last });
    }

    /// What is written up to this ticket is durable. An operation is answered then, and not before: who asked for it
    /// counts on it.
    pub(super) fn keyring_durable(&mut self, ticket: Ticket, turn: &mut Turn<'_, '_>) {
        let Some(written) = self.keys.writing.take_if(|writing| writing.last <= ticket) else {
            return;
        };
        let Writing { query, keyring, heeded, .. } = written;
        let changed = !keyring.same_keys(&self.keyring);
        self.keys.in_doubt = false;
        self.keyring = keyring;
        let before = turn.after;
        if changed {
            turn.emit(Output::Keyring(self.keyring.clone()));
            // The host is told in order, and may be told something before that waits for a write: the answer must not be
            // there before the host decrypts.
            turn.after = turn.after.max(*turn.cx.last_ticket);
        }
        if let QueryBody::Key(request) = &query.body {
            let answer = self.keyring.answer(request, heeded);
            self.answer_keys(&query, answer, turn);
        }
        turn.after = before;
        self.heed_next(turn);
    }

    /// A write of the keyring, or of its time, failed.
    pub(super) fn keyring_not_written(
        &mut self,
        ticket: Ticket,
        reason: &str,
        turn: &mut Turn<'_, '_>,
    ) {
        let Some(failed) = self.keys.writing.take_if(|writing| writing.first <= ticket) else {
            return;
        };
        let Writing { query, keyring, heeded, .. } = failed;
        self.keys.in_doubt = true;
        // What is older than the operation comes too late all the same.
        self.keyring.last = keyring.last;
        if let QueryBody::Key(request) = &query.body {
            let mut answer = self.keyring.answer(request, heeded);
            if answer.ok {
                // The keys that it uses it can tell; that it can't keep them is a warning then.
                answer.ok = matches!(request, KeyRequest::List);
                answer.message = cut(reason).into();
            }
            self.answer_keys(&query, answer, turn);
        }
        self.heed_next(turn);
    }

    fn answer_keys(&mut self, query: &Query, answer: KeyResponse, turn: &mut Turn<'_, '_>) {
        let answer = Answer { key: Some(Arc::new(answer)), ..Answer::default() };
        self.answer(query, false, answer, turn);
    }
}

/// The beginning of a reason.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.get(..end).unwrap_or_default()
}
