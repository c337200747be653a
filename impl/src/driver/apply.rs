//! The apply turn: sole owner of the replicated state.
//!
//! A turn applies what was committed, publishes one immutable state, wakes the watches, then answers those who wait: an
//! answered write is visible to whoever reads here next.

use std::sync::Arc;

use agent_sync::{GroupCommit, Published, Watches};
use spec::{
    raft::{Entry, Index, Request, SnapshotMeta},
    state::{
        Command, Outcome, State, TableId, Touched,
        agreement::{Event, Report},
    },
};
use tokio::sync::oneshot;

use super::consensus::{Apply, ProposeError, Proposed, Snapshot};

/// Loads the state that an installed snapshot holds.
pub type LoadSnapshot = Box<dyn FnMut(&SnapshotMeta) -> Result<State, String> + Send>;

/// Who compares the state with the other servers'.
pub struct Witness {
    /// It is told of every index that is a multiple of it.
    pub interval: u64,
    /// Takes what happened. It must not block.
    pub tell: Box<dyn FnMut(Event) + Send>,
}

/// Sole owner of the state.
pub struct Applier {
    state: State,
    published: Arc<Published<State>>,
    watches: Watches,
    load: LoadSnapshot,
    keeper: Arc<GroupCommit<Snapshot>>,
    witness: Witness,
    touched: Vec<Touched>,
    answers: Vec<(oneshot::Sender<Proposed>, Proposed)>,
}

impl Applier {
    /// Starts from an empty state; a snapshot comes as the first [`Apply::Restore`].
    pub fn new(
        published: Arc<Published<State>>,
        watches: Watches,
        load: LoadSnapshot,
        keeper: Arc<GroupCommit<Snapshot>>,
        witness: Witness,
    ) -> Self {
        Self {
            state: State::default(),
            published,
            watches,
            load,
            keeper,
            witness,
            touched: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Applies all of `items`. Fails where an installed snapshot can't be read back.
    pub fn turn(&mut self, items: &mut Vec<Apply>) -> Result<(), String> {
        if items.is_empty() {
            return Ok(());
        }
        for item in items.drain(..) {
            match item {
                Apply::Entries { entries, waiters } => self.apply(&entries, waiters),
                Apply::Restore(meta) => {
                    self.state = (self.load)(&meta)?;
                    self.touched.push(Touched::All);
                    (self.witness.tell)(Event::Restored);
                }
                Apply::Save(id) => {
                    debug_assert_eq!(self.state.applied().0, id.index, "saves another state");
                    let state = Box::new(self.state.clone());
                    let _ = self.keeper.push(Snapshot::Save { id, state });
                }
            }
        }
        let (index, _) = self.state.applied();
        self.published.publish(index.0, Arc::new(self.state.clone()));
        for touched in self.touched.drain(..) {
            match touched {
                Touched::Key(table, key) => self.watches.wake_key(watch_table(table), &key),
                Touched::Prefix(table, prefix) => {
                    self.watches.wake_prefix(watch_table(table), &prefix);
                }
                Touched::All => self.watches.wake_all(),
            }
        }
        for (reply, answer) in self.answers.drain(..) {
            let _ = reply.send(answer);
        }
        Ok(())
    }

    fn apply(&mut self, entries: &[Entry], waiters: Vec<(Index, oneshot::Sender<Proposed>)>) {
        let mut waiters = waiters.into_iter().peekable();
        for entry in entries {
            let outcome = self.apply_entry(entry);
            // Before anybody is answered: what a state says that is known to be wrong is held back.
            if let Some(report) = Report::due(&self.state, self.witness.interval) {
                (self.witness.tell)(Event::Applied(report));
            }
            if let Some((_, reply)) = waiters.next_if(|(index, _)| *index == entry.index) {
                let answer = match outcome {
                    Some(outcome) => Ok((self.state.index(), outcome)),
                    None => Err(ProposeError::Unknown),
                };
                self.answers.push((reply, answer));
            }
        }
    }

    fn apply_entry(&mut self, entry: &Entry) -> Option<Outcome> {
        match &entry.request {
            Request::Command(payload) => match Command::from_payload(payload) {
                Ok(command) => {
                    Some(self.state.apply(entry.index, entry.time, &command, &mut self.touched))
                }
                Err(error) => {
                    // Every server decodes the same bytes, so all of them refuse it alike.
                    self.state.advance(entry.index, entry.time);
                    Some(Outcome::Refused(format!("undecodable command: {error}")))
                }
            },
            Request::Noop | Request::Configuration(_) => {
                self.state.advance(entry.index, entry.time);
                None
            }
        }
    }
}

/// The number by which a table is watched.
pub const fn watch_table(table: TableId) -> u8 {
    match table {
        TableId::Kv => 0,
        TableId::Nodes => 1,
        TableId::Checks => 2,
        TableId::Coordinates => 3,
    }
}
