//! The bounds within which Raft is explored.

use super::{
    model::{
        Bounds,
        Change::{Add, Promote, Remove, SetAddress},
        Disk, Heartbeat, RaftModel,
        Start::{Append, Commit, Elect},
    },
    property::Watch,
    world::Spent,
};
use crate::{
    Scope,
    Tier::{self, Ci, Deep},
};

type Clauses = &'static [&'static str];

/// What every scope checks: identity, durability, votes, the log.
const CORE: Clauses = &[
    "RAFT-1", "RAFT-3", "RAFT-5", "RAFT-6", "RAFT-7", "RAFT-12", "RAFT-13", "RAFT-14", "RAFT-15",
    "RAFT-16", "RAFT-17", "RAFT-18", "RAFT-19", "RAFT-20", "RAFT-21", "RAFT-22",
];
const DISK: Clauses = &["RAFT-1", "RAFT-2", "RAFT-3", "RAFT-4", "RAFT-5", "RAFT-7"];
const PRE_VOTE: Clauses = &["RAFT-5", "RAFT-6", "RAFT-7", "RAFT-8", "RAFT-9"];
const MEMBERSHIP: Clauses =
    &["RAFT-11", "RAFT-23", "RAFT-24", "RAFT-25", "RAFT-26", "RAFT-27", "RAFT-28"];
const LONE: Clauses = &["RAFT-4", "RAFT-7", "RAFT-10", "RAFT-26"];
const SNAPSHOT: Clauses = &["RAFT-28", "RAFT-29", "RAFT-30", "RAFT-31"];
const TRANSFER: Clauses = &["RAFT-8", "RAFT-9", "RAFT-32", "RAFT-33"];
const READS: Clauses = &["READ-1", "READ-2", "READ-3", "READ-4", "READ-5", "READ-6", "READ-7"];

/// A scope that checks safety.
fn safe(
    name: &'static str,
    tier: Tier,
    clauses: Clauses,
    about: &'static str,
    bounds: Bounds,
) -> Scope {
    Scope::new(name, tier, about, clauses, RaftModel::new(bounds, Watch { progress: false }))
}

/// A scope that checks safety, and `progress` from each of its states.
fn live(
    name: &'static str,
    tier: Tier,
    clauses: Clauses,
    about: &'static str,
    bounds: Bounds,
) -> Scope {
    Scope::new(name, tier, about, clauses, RaftModel::new(bounds, Watch { progress: true }))
}

const NONE: Spent = Spent {
    timeouts: 0,
    requests: 0,
    crashes: 0,
    heartbeats: 0,
    quorum_checks: 0,
    changes: 0,
    snapshots: 0,
    transfers: 0,
    reads: 0,
    step_downs: 0,
    unreachables: 0,
    snapshot_failures: 0,
};

/// The scopes of Raft.
pub fn scopes() -> Vec<Scope> {
    let mut all = elections();
    all.extend(logs());
    all.extend(clusters());
    all.extend(reads());
    all.extend(hosts());
    all.extend(crashes());
    all
}

/// Terms, votes, disks.
fn elections() -> Vec<Scope> {
    vec![
        live(
            "raft-election",
            Ci,
            CORE,
            "3 servers, 2 terms, 3 timeouts, a crash.",
            Bounds {
                terms: 2,
                most: Spent { timeouts: 3, crashes: 1, ..NONE },
                ..Bounds::default()
            },
        ),
        live(
            "raft-pre-vote",
            Ci,
            PRE_VOTE,
            "3 servers with pre-vote and CheckQuorum, 2 terms, 3 timeouts.",
            Bounds {
                terms: 2,
                most: Spent { timeouts: 3, quorum_checks: 1, ..NONE },
                pre_vote: true,
                check_quorum: true,
                ..Bounds::default()
            },
        ),
        safe(
            "raft-split-disk",
            Ci,
            DISK,
            "3 servers whose writes take time, 1 term, 2 timeouts, a crash that keeps any prefix.",
            split_disk(1),
        ),
        safe("raft-split-disk-2-terms", Deep, DISK, "The same with 2 terms.", split_disk(2)),
    ]
}

/// Server 1 led term 2 and reached nobody; server 3 led term 3, by the vote of server 2, and reached nobody. Raft's
/// figure 8 goes on from here: server 1 brings its entry to server 2 in term 4, server 3 overrules it in term 5.
const FIGURE_8: &[Disk] = &[
    Disk { term: 3, vote: None, terms: &[2] },
    Disk { term: 3, vote: Some(2), terms: &[] },
    Disk { term: 3, vote: Some(2), terms: &[3] },
];

/// The same with a second entry of term 2: the longer log is not the newer one.
const CONFLICT: &[Disk] = &[
    Disk { term: 3, vote: None, terms: &[2, 2] },
    Disk { term: 3, vote: Some(2), terms: &[] },
    Disk { term: 3, vote: Some(2), terms: &[3] },
];

/// The same, further on: server 2 acknowledged both in term 4; server 3 led term 5 and
/// overruled them on both others, but its first entry of that term reached nobody.
const OLD_ACKS: &[Disk] = &[
    Disk { term: 5, vote: None, terms: &[3] },
    Disk { term: 5, vote: Some(2), terms: &[3] },
    Disk { term: 5, vote: Some(2), terms: &[3, 5] },
];

/// Replication and commitment.
fn logs() -> Vec<Scope> {
    vec![
        safe(
            "raft-replication",
            Ci,
            CORE,
            "3 servers, 2 terms, a request, a crash.",
            Bounds {
                terms: 2,
                most: Spent { timeouts: 2, requests: 1, crashes: 1, ..NONE },
                ..Bounds::default()
            },
        ),
        safe(
            "raft-conflict",
            Ci,
            CORE,
            "3 servers: a leader that has overruled two entries of an older term on one of the others; an election.",
            Bounds {
                terms: 4,
                most: Spent { timeouts: 2, heartbeats: 1, ..NONE },
                disks: CONFLICT,
                start: &[Elect(2, &[0])],
                ..Bounds::default()
            },
        ),
        safe(
            "raft-replication-3-terms",
            Deep,
            CORE,
            "3 servers, one of which leads: 2 more terms, a request.",
            Bounds {
                terms: 3,
                most: Spent { timeouts: 2, requests: 1, ..NONE },
                start: &[Elect(0, &[])],
                ..Bounds::default()
            },
        ),
        safe(
            "raft-crash-3-terms",
            Ci,
            CORE,
            "3 servers, one of which leads: 2 more terms, a crash.",
            Bounds {
                terms: 3,
                most: Spent { timeouts: 2, crashes: 1, ..NONE },
                start: &[Elect(0, &[])],
                ..Bounds::default()
            },
        ),
        safe(
            "raft-conflict-3-terms",
            Deep,
            CORE,
            "3 servers, 3 terms.",
            Bounds { terms: 3, most: Spent { timeouts: 3, ..NONE }, ..Bounds::default() },
        ),
        safe(
            "raft-figure-8",
            Ci,
            CORE,
            "3 servers, of which one holds an entry of term 2 and another one of term 3 at the same place: 2 more terms.",
            Bounds {
                terms: 4,
                most: Spent { timeouts: 2, ..NONE },
                disks: FIGURE_8,
                ..Bounds::default()
            },
        ),
        live(
            "raft-pipeline",
            Ci,
            CORE,
            "2 servers and a window of two messages, 2 requests, two elections.",
            Bounds {
                voters: 2,
                terms: 3,
                most: Spent { timeouts: 2, requests: 2, heartbeats: 1, ..NONE },
                ..pipeline()
            },
        ),
        safe(
            "raft-pipeline-three",
            Deep,
            CORE,
            "3 servers and a window of two messages, 2 requests, an election.",
            Bounds { terms: 2, most: Spent { timeouts: 1, requests: 2, ..NONE }, ..pipeline() },
        ),
        live(
            "raft-window-bytes",
            Ci,
            CORE,
            "2 servers, 4 requests, and bounds of bytes: for one entry in a message, one under way, two not committed.",
            Bounds {
                voters: 2,
                terms: 2,
                most: Spent { requests: 4, heartbeats: 1, ..NONE },
                inflight: 4,
                append_bytes: 40,
                inflight_bytes: 33,
                uncommitted_bytes: 60,
                ..pipeline()
            },
        ),
        safe(
            "raft-old-acks",
            Ci,
            CORE,
            "3 servers in term 5, and an acknowledgement of term 4 for an entry that was overruled: another term.",
            Bounds {
                terms: 5,
                most: Spent { timeouts: 1, requests: 1, ..NONE },
                // An acknowledgement of an old term is dead. That it is, is what this scope looks at.
                drop_dead: false,
                disks: OLD_ACKS,
                acks: &[(1, 0, 4, 3)],
                ..Bounds::default()
            },
        ),
    ]
}

/// Entries sent ahead of their answers, as the agent sends them: two messages of two entries, and word of each commit.
fn pipeline() -> Bounds {
    Bounds {
        append_entries: 2,
        inflight: 2,
        eager_commit: true,
        start: &[Elect(0, &[])],
        ..Bounds::default()
    }
}

/// Server 1 led term 2, committed its first entry everywhere, and crashed.
const LED: &[Disk] = &[
    Disk { term: 2, vote: Some(0), terms: &[2] },
    Disk { term: 2, vote: Some(0), terms: &[2] },
    Disk { term: 2, vote: Some(0), terms: &[2] },
];

/// Linearizable reads.
fn reads() -> Vec<Scope> {
    vec![
        live(
            "raft-read",
            Ci,
            READS,
            "3 servers, a read at any of them, an election that the old leader may not know of.",
            Bounds {
                terms: 2,
                most: Spent { reads: 1, timeouts: 1, ..NONE },
                start: &[Elect(0, &[]), Commit(0, &[])],
                ..Bounds::default()
            },
        ),
        live(
            "raft-read-removal",
            Ci,
            READS,
            "2 voters, two reads, and the removal of one of them.",
            Bounds {
                voters: 2,
                terms: 1,
                most: Spent { reads: 2, changes: 1, ..NONE },
                eager_commit: true,
                start: &[Elect(0, &[])],
                changes: &[Remove(1)],
                ..Bounds::default()
            },
        ),
        safe(
            "raft-read-restart",
            Ci,
            READS,
            "2 servers, two reads, a request, and a crash of who asked.",
            Bounds {
                voters: 2,
                terms: 1,
                most: Spent { reads: 2, requests: 1, crashes: 1, ..NONE },
                eager_commit: true,
                start: &[Elect(0, &[])],
                ..Bounds::default()
            },
        ),
        safe(
            "raft-read-old-round",
            Ci,
            READS,
            "3 servers whose leader led the term before, too, and has a ReadIndex round of it under way: an election, a read.",
            Bounds {
                terms: 3,
                most: Spent { timeouts: 1, reads: 1, ..NONE },
                disks: LED,
                start: &[Elect(0, &[])],
                heartbeats: &[Heartbeat { from: 0, to: 2, term: 2, index: 2, round: 1 }],
                ..Bounds::default()
            },
        ),
        safe(
            "raft-read-write",
            Deep,
            READS,
            "3 servers, a read at any of them beside a request to any leader, and an election that the old leader may not know of.",
            Bounds {
                terms: 2,
                most: Spent { reads: 1, requests: 1, timeouts: 1, ..NONE },
                eager_commit: true,
                start: &[Elect(0, &[])],
                ..Bounds::default()
            },
        ),
    ]
}

/// Learners, changes of membership, snapshots, transfers.
fn clusters() -> Vec<Scope> {
    vec![
        live(
            "raft-learner",
            Ci,
            MEMBERSHIP,
            "2 voters and a learner, 2 terms, a request.",
            Bounds {
                voters: 2,
                learners: 1,
                terms: 2,
                most: Spent { timeouts: 2, requests: 1, ..NONE },
                ..Bounds::default()
            },
        ),
        live(
            "raft-lone-voter",
            Ci,
            LONE,
            "A lone voter and a learner, writes that take time, 1 term, 2 requests, a crash.",
            lone_voter(1),
        ),
        safe("raft-lone-voter-2-terms", Deep, LONE, "The same with 2 terms.", lone_voter(2)),
        safe(
            "raft-membership",
            Ci,
            MEMBERSHIP,
            "4 voters of which a leader removes one, and another leader another.",
            Bounds {
                voters: 4,
                terms: 2,
                most: Spent { timeouts: 1, changes: 2, ..NONE },
                start: &[Elect(0, &[])],
                changes: &[Remove(0), Remove(3)],
                ..Bounds::default()
            },
        ),
        live(
            "raft-removal",
            Ci,
            MEMBERSHIP,
            "3 voters of which a leader removes two, one by one, itself perhaps among them; an election.",
            Bounds {
                terms: 2,
                most: Spent { timeouts: 1, changes: 2, ..NONE },
                start: &[Elect(0, &[])],
                changes: &[Remove(0), Remove(1), Remove(2)],
                ..Bounds::default()
            },
        ),
        live(
            "raft-promotion",
            Ci,
            MEMBERSHIP,
            "A voter and a learner that is promoted, and removed, with a snapshot between.",
            Bounds {
                voters: 1,
                learners: 1,
                terms: 2,
                most: Spent { timeouts: 1, changes: 2, snapshots: 1, heartbeats: 1, ..NONE },
                changes: &[Promote(1), Remove(1)],
                ..Bounds::default()
            },
        ),
        live(
            "raft-snapshot",
            Ci,
            SNAPSHOT,
            "3 servers, one behind, and a snapshot that overtakes it; an election.",
            Bounds {
                terms: 2,
                most: Spent { timeouts: 1, snapshots: 1, heartbeats: 1, ..NONE },
                start: &[Elect(0, &[2])],
                chunks: 2,
                ..Bounds::default()
            },
        ),
        live(
            "raft-two-snapshots",
            Ci,
            SNAPSHOT,
            "3 servers, one behind, and two snapshots of which the older one is kept with the log that leads from it.",
            Bounds {
                terms: 1,
                most: Spent { requests: 2, snapshots: 2, heartbeats: 1, ..NONE },
                start: &[Elect(0, &[2])],
                reach_back: true,
                ..Bounds::default()
            },
        ),
        live(
            "raft-install",
            Ci,
            SNAPSHOT,
            "3 servers, a deposed leader with entries that nobody else has, and a snapshot that replaces them.",
            Bounds {
                terms: 3,
                most: Spent { requests: 1, snapshots: 1, heartbeats: 2, ..NONE },
                start: &[Elect(0, &[]), Append(0), Append(0), Elect(1, &[0])],
                ..Bounds::default()
            },
        ),
        live(
            "raft-transfer",
            Ci,
            TRANSFER,
            "3 servers, a leader that hands over, and a request meanwhile.",
            Bounds {
                terms: 2,
                most: Spent { transfers: 1, requests: 1, timeouts: 1, ..NONE },
                pre_vote: true,
                check_quorum: true,
                start: &[Elect(0, &[])],
                ..Bounds::default()
            },
        ),
        live(
            "raft-joining",
            Deep,
            MEMBERSHIP,
            "2 voters and a blank server, which is added, catches up and is promoted; an election.",
            Bounds {
                voters: 2,
                blank: 1,
                terms: 2,
                most: Spent { timeouts: 1, changes: 2, heartbeats: 1, ..NONE },
                start: &[Elect(0, &[])],
                changes: &[Add(2), Promote(2)],
                ..Bounds::default()
            },
        ),
    ]
}

/// What hosts tell: full disks, broken connections, files that fail, new addresses.
fn hosts() -> Vec<Scope> {
    vec![
        live(
            "raft-step-down",
            Ci,
            PRE_VOTE,
            "3 servers with pre-vote and CheckQuorum, a leader whose disk is full, a connection that breaks; an election.",
            Bounds {
                terms: 2,
                most: Spent {
                    timeouts: 1,
                    quorum_checks: 1,
                    step_downs: 1,
                    unreachables: 1,
                    ..NONE
                },
                pre_vote: true,
                check_quorum: true,
                start: &[Elect(0, &[])],
                ..Bounds::default()
            },
        ),
        live(
            "raft-snapshot-failures",
            Ci,
            SNAPSHOT,
            "A voter and a learner that is behind, two snapshots of which files can't be stored or read, a request.",
            Bounds {
                voters: 1,
                learners: 1,
                terms: 1,
                most: Spent {
                    requests: 1,
                    snapshots: 2,
                    heartbeats: 1,
                    snapshot_failures: 2,
                    ..NONE
                },
                chunks: 3,
                credit: 2,
                start: &[Elect(0, &[1])],
                ..Bounds::default()
            },
        ),
        live(
            "raft-address",
            Ci,
            MEMBERSHIP,
            "3 voters of which one moves to a new address, and is removed; an election.",
            Bounds {
                terms: 2,
                most: Spent { timeouts: 1, changes: 2, ..NONE },
                start: &[Elect(0, &[])],
                changes: &[SetAddress(1), Remove(1)],
                ..Bounds::default()
            },
        ),
    ]
}

/// Crashes in the midst of snapshots, changes of membership, transfers.
fn crashes() -> Vec<Scope> {
    vec![
        safe(
            "raft-install-crash",
            Ci,
            SNAPSHOT,
            "A voter and a learner that is behind, writes that take time, two snapshots, a request, a crash that keeps any prefix.",
            Bounds {
                voters: 1,
                learners: 1,
                terms: 1,
                most: Spent { requests: 1, snapshots: 2, heartbeats: 2, crashes: 1, ..NONE },
                split_disk: true,
                start: &[Elect(0, &[1])],
                ..Bounds::default()
            },
        ),
        safe(
            "raft-install-split-disk",
            Ci,
            SNAPSHOT,
            "3 servers whose writes take time, a deposed leader with entries that nobody else has, a snapshot that replaces them, a crash.",
            Bounds {
                terms: 3,
                most: Spent { snapshots: 1, heartbeats: 2, crashes: 1, ..NONE },
                split_disk: true,
                start: &[Elect(0, &[]), Append(0), Append(0), Elect(1, &[0])],
                ..Bounds::default()
            },
        ),
        safe(
            "raft-snapshot-crash",
            Ci,
            SNAPSHOT,
            "3 servers, one behind, and a snapshot that overtakes it; an election, a crash.",
            Bounds {
                terms: 2,
                most: Spent { timeouts: 1, snapshots: 1, heartbeats: 1, crashes: 1, ..NONE },
                start: &[Elect(0, &[2])],
                ..Bounds::default()
            },
        ),
        live(
            "raft-removal-crash",
            Ci,
            MEMBERSHIP,
            "3 voters of which a leader removes two, one by one, itself perhaps among them; an election, a crash.",
            Bounds {
                terms: 2,
                most: Spent { timeouts: 1, changes: 2, crashes: 1, ..NONE },
                start: &[Elect(0, &[])],
                changes: &[Remove(0), Remove(1), Remove(2)],
                ..Bounds::default()
            },
        ),
        live(
            "raft-transfer-crash",
            Ci,
            TRANSFER,
            "3 servers, one behind, and a leader that hands over, perhaps to that one; a crash.",
            Bounds {
                terms: 2,
                most: Spent { transfers: 1, timeouts: 1, crashes: 1, ..NONE },
                pre_vote: true,
                check_quorum: true,
                start: &[Elect(0, &[]), Commit(0, &[2])],
                ..Bounds::default()
            },
        ),
    ]
}

fn split_disk(terms: u64) -> Bounds {
    Bounds {
        terms,
        most: Spent { timeouts: 2, crashes: 1, ..NONE },
        split_disk: true,
        ..Bounds::default()
    }
}

fn lone_voter(terms: u64) -> Bounds {
    Bounds {
        voters: 1,
        learners: 1,
        terms,
        most: Spent { requests: 2, crashes: 1, ..NONE },
        split_disk: true,
        ..Bounds::default()
    }
}
