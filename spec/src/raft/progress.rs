//! What a leader knows of another server (Raft §5.3; etcd's progress tracker for the three modes).

use alloc::collections::VecDeque;

use super::types::{Index, SnapshotMeta};

/// How a follower is fed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Where the logs agree isn't known: one message at a time.
    Probe {
        /// One is under way; the next goes out with its answer or with the next heartbeat.
        paused: bool,
    },
    /// The logs agree: messages are sent ahead of their answers, within the window.
    Replicate,
    /// The entries that it needs are gone: it gets the snapshot.
    Snapshot {
        /// The snapshot.
        meta: SnapshotMeta,
        /// Chunks that the follower has.
        acked: u64,
        /// Chunks that were sent.
        sent: u64,
    },
}

/// How far a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Its log durably agrees with the leader's up to here.
    pub match_index: Index,
    /// The next entry to send.
    pub next_index: Index,
    /// How it is fed.
    pub mode: Mode,
    /// Messages with entries under way: the last index and the bytes of each.
    pub inflight: VecDeque<(Index, usize)>,
    /// The sum of those bytes.
    pub inflight_bytes: usize,
    /// The commit index that it was told, where that is told eagerly.
    pub commit_sent: Index,
    /// Whether it answered since the last look at the quorum.
    pub active: bool,
    /// The newest ReadIndex round that it answered.
    pub round: u64,
    /// `match_index`, or the chunks it had, at the last heartbeat: no change with messages under way means that they
    /// were lost.
    pub at_heartbeat: u64,
}

impl Progress {
    /// A server of which nothing is known; the leader's next entry is `next_index`.
    pub fn new(next_index: Index) -> Self {
        Self {
            match_index: Index(0),
            next_index,
            mode: Mode::Probe { paused: false },
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            commit_sent: Index(0),
            active: false,
            round: 0,
            at_heartbeat: 0,
        }
    }

    /// Feeds it one message at a time from behind what it is known to have.
    pub fn probe(&mut self, next_index: Index) {
        self.mode = Mode::Probe { paused: false };
        self.next_index = next_index.max(self.match_index.next());
        self.inflight.clear();
        self.inflight_bytes = 0;
    }

    /// Notes a message with entries up to `last`.
    pub fn sent(&mut self, last: Index, bytes: usize) {
        self.next_index = last.next();
        self.inflight.push_back((last, bytes));
        self.inflight_bytes += bytes;
    }

    /// Notes that it has everything up to `index`; tells whether that was news.
    pub fn matched(&mut self, index: Index) -> bool {
        while self.inflight.front().is_some_and(|(last, _)| *last <= index) {
            if let Some((_, bytes)) = self.inflight.pop_front() {
                self.inflight_bytes -= bytes;
            }
        }
        let news = index > self.match_index;
        self.match_index = self.match_index.max(index);
        // An answer to an older message says nothing about the point that is probed.
        let probed = self.next_index.previous();
        self.next_index = self.next_index.max(self.match_index.next());
        let agreed = match &self.mode {
            Mode::Probe { .. } => index >= probed,
            Mode::Replicate => false,
            Mode::Snapshot { meta, .. } => index >= meta.id.index,
        };
        if agreed {
            self.mode = Mode::Replicate;
            // What was sent to find the agreement beyond it isn't under way in order.
            self.next_index = self.match_index.next();
            self.inflight.clear();
            self.inflight_bytes = 0;
        }
        news
    }
}
