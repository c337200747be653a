//! What servers send each other. Each message is its own struct; none has fields that another kind needs.

use alloc::vec::Vec;

use bincode::{Decode, Encode};

use super::types::{Entry, Index, SnapshotId, SnapshotMeta, Term};

/// A message between two servers of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Message {
    /// Asks for a vote (Raft §5.2), or whether a vote would be given (thesis §9.6).
    RequestVote(RequestVote),
    /// Answers [`RequestVote`].
    Vote(Vote),
    /// Replicates entries, and is the heartbeat (Raft §5.3).
    AppendEntries(AppendEntries),
    /// Answers [`AppendEntries`].
    Appended(Appended),
    /// Carries one chunk of a snapshot (Raft §7); the driver attaches the bytes.
    InstallSnapshot(InstallSnapshot),
    /// Answers [`InstallSnapshot`].
    SnapshotReply(SnapshotReply),
    /// Tells the receiver to start an election at once (thesis §3.10).
    TimeoutNow(TimeoutNow),
    /// A follower asks the leader for a read index (thesis §6.4).
    ReadIndex(ReadIndex),
    /// Answers [`ReadIndex`].
    ReadIndexReply(ReadIndexReply),
}

/// Asks for a vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct RequestVote {
    /// The term that the candidate is in, or would enter.
    pub term: Term,
    /// The candidate's last entry.
    pub last: SnapshotId,
    /// Only asks whether the vote would be given: changes neither term nor vote.
    pub pre_vote: bool,
    /// The old leader asked for this election, so its lease doesn't refuse it.
    pub transfer: bool,
}

/// Answers a vote's request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Vote {
    /// Granted: the term that was asked for. Refused: the voter's own.
    pub term: Term,
    /// Whether the vote is given.
    pub granted: bool,
    /// Whether it answers a pre-vote.
    pub pre_vote: bool,
}

/// Replicates entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct AppendEntries {
    /// The leader's term.
    pub term: Term,
    /// The entry before the first of `entries`.
    pub previous: SnapshotId,
    /// Consecutive entries; empty in a heartbeat.
    pub entries: Vec<Entry>,
    /// The leader's commit index, clamped to what the receiver is known to match where there is doubt.
    pub commit: Index,
    /// The newest ReadIndex round of this term; 0 where there was none.
    pub round: u64,
}

/// Answers AppendEntries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Appended {
    /// The follower's term.
    pub term: Term,
    /// The round that the message carried.
    pub round: u64,
    /// How it went.
    pub result: AppendResult,
}

/// How an AppendEntries went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum AppendResult {
    /// The follower's log holds the leader's entries up to here, durably.
    Matched(Index),
    /// The follower doesn't have `previous`.
    Conflict {
        /// The index that didn't match.
        rejected: Index,
        /// The last index at or before it whose term, in the follower's log, is at most the leader's there: where to
        /// try next.
        hint: SnapshotId,
    },
}

/// One chunk of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct InstallSnapshot {
    /// The leader's term.
    pub term: Term,
    /// The snapshot.
    pub meta: SnapshotMeta,
    /// Which chunk this is, from 0.
    pub number: u64,
}

/// How far a snapshot has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SnapshotReply {
    /// The follower's term.
    pub term: Term,
    /// Which snapshot.
    pub id: SnapshotId,
    /// The chunk that the follower wants next; the number of chunks once all of it is installed and durable.
    pub next: u64,
}

/// Starts an election at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
}

/// Names a follower's request: its boot's nonce and a count. Never repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ReadId {
    /// Drawn at each start of the server.
    pub boot: u64,
    /// Counts the server's requests since then.
    pub n: u64,
}

/// Asks for a read index.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct ReadIndex {
    /// The request.
    pub id: ReadId,
}

/// Answers with a read index.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct ReadIndexReply {
    /// The request.
    pub id: ReadId,
    /// A read that waits until this index is applied sees every write acknowledged before it was asked for; none
    /// where the asked server doesn't lead.
    pub index: Option<Index>,
}
