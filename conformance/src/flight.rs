//! Flight records of real servers, replayed: each server did, step by step, what the machine does that the model checker
//! explores, and all of them together kept Raft's properties.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use spec::{
    codec::{self, CodecError},
    raft::{Durable, Entry, Index, Node, Role, ServerId, Term},
    trace::{Happened, OpeningOf, Replay, StepOf},
};

/// The longest frame of a record: an opening holds the log.
const LIMIT: usize = 1 << 30;

/// One run of a server.
#[derive(Debug)]
pub struct Record {
    opening: OpeningOf<Node>,
    steps: Vec<StepOf<Node>>,
}

/// What replayed records were about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs: one for each start of each server.
    pub runs: usize,
    /// Steps.
    pub steps: usize,
    /// Messages that were received.
    pub messages: usize,
    /// Timers that fired.
    pub timers: usize,
    /// Terms that had a leader.
    pub leaders: usize,
    /// Entries that were committed.
    pub committed: usize,
}

/// Reads a record. A server that was killed may have left its last frame in part.
pub fn read(path: &Path) -> Result<Record> {
    let bytes = fs::read(path)?;
    let failed = |error: CodecError| anyhow::anyhow!("{error}");
    let mut rest = bytes.as_slice();
    let opening = next(&mut rest)?.context("the record has no opening")?;
    let opening = codec::unframe::<OpeningOf<Node>, LIMIT>(opening).map_err(failed)?;
    let mut steps = Vec::new();
    while let Some(step) = next(&mut rest)? {
        steps.push(codec::unframe::<StepOf<Node>, LIMIT>(step).map_err(failed)?);
    }
    Ok(Record { opening, steps })
}

/// The next whole frame, without its length.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>> {
    let Some((header, behind)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let length = codec::frame_length::<LIMIT>(*header);
    let length = length.map_err(|error| anyhow::anyhow!("{error}"))?;
    let Some((frame, behind)) = behind.split_at_checked(length) else { return Ok(None) };
    *rest = behind;
    Ok(Some(frame))
}

/// What a run left: what it knew to be durable, and of that to be committed.
#[derive(Clone, Debug)]
struct Left {
    durable: Durable,
    commit: Index,
}

/// What no server knows: checked over all servers' runs.
#[derive(Debug, Default)]
struct Together {
    leaders: BTreeMap<Term, ServerId>,
    committed: BTreeMap<Index, Entry>,
    tally: Tally,
}

/// Replays all records of a folder, the runs of each server in their order.
pub fn replay_all(folder: &Path) -> Result<Tally> {
    let mut servers: BTreeMap<String, BTreeMap<u64, PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let (server, run) = name.rsplit_once('-').with_context(|| format!("{}", path.display()))?;
        let run = run.parse()?;
        servers.entry(server.to_owned()).or_default().insert(run, path);
    }
    let mut together = Together::default();
    for runs in servers.values() {
        let mut before = None;
        for path in runs.values() {
            let record = read(path).with_context(|| path.display().to_string())?;
            let replayed = together.replay(&record, before.as_ref());
            before = Some(replayed.with_context(|| path.display().to_string())?);
        }
    }
    together.tally.leaders = together.leaders.len();
    together.tally.committed = together.committed.len();
    Ok(together.tally)
}

impl Together {
    /// Replays one run, which began with what the run before it left; gives what this one leaves.
    fn replay(&mut self, record: &Record, before: Option<&Left>) -> Result<Left> {
        let Record { opening, steps } = record;
        if let Some(before) = before {
            follows(&opening.durable, before)?;
        }
        let refuted = |refuted| anyhow::anyhow!("the machine does something else: {refuted:?}");
        let mut replay: Replay<Node> = Replay::open(opening).map_err(refuted)?;
        self.tally.runs += 1;
        let mut seen = replay.machine().commit_index;
        for (number, step) in steps.iter().enumerate() {
            replay.step(step).map_err(refuted).with_context(|| format!("{:?}", step.event))?;
            self.look(replay.machine(), &mut seen).with_context(|| format!("step {number}"))?;
            match step.event {
                Happened::Receive { .. } => self.tally.messages += 1,
                Happened::Fire(_) => self.tally.timers += 1,
                Happened::Durable(_) | Happened::Command(_) => {}
            }
        }
        self.tally.steps += steps.len();
        Ok(Left { durable: replay.durable().clone(), commit: seen })
    }

    /// Election safety, and that all commit the same.
    fn look(&mut self, node: &Node, seen: &mut Index) -> Result<()> {
        let term = node.hard_state.term;
        if matches!(node.role, Role::Leader(_)) {
            let leader = *self.leaders.entry(term).or_insert(node.config.id);
            ensure!(leader == node.config.id, "{term:?} has two leaders");
        }
        for index in seen.0 + 1..=node.commit_index.0 {
            let index = Index(index);
            // Behind an installed snapshot there is no entry to look at.
            let Some(entry) = node.log.get(index) else { continue };
            let first = self.committed.entry(index).or_insert_with(|| entry.clone());
            ensure!(first == entry, "{index:?} was committed as two different entries");
        }
        *seen = (*seen).max(node.commit_index);
        Ok(())
    }
}

/// A run begins with what the one before it knew to be durable, and perhaps with more of what that one wrote: with no
/// older term, with the vote in it, and with all that was committed.
fn follows(opened: &Durable, before: &Left) -> Result<()> {
    let (now, then) = (&opened.hard_state, &before.durable.hard_state);
    let voted = then.voted_for.is_none() || now.voted_for == then.voted_for;
    if now.term < then.term || (now.term == then.term && !voted) {
        bail!("term or vote were lost: {then:?}, then {now:?}");
    }
    let committed = before.durable.entries.iter().filter(|entry| entry.index <= before.commit);
    for entry in committed.filter(|entry| entry.index > opened.base.index) {
        let found = opened.entries.binary_search_by_key(&entry.index, |entry| entry.index);
        let found = found.ok().and_then(|at| opened.entries.get(at));
        ensure!(found == Some(entry), "a committed entry was lost: {:?}", entry.index);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use spec::{
        raft::{HardState, Request, SnapshotId},
        time::ClusterTime,
    };

    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        let (index, term) = (Index(index), Term(term));
        Entry { index, term, time: ClusterTime::default(), request: Request::Noop }
    }

    fn durable(term: u64, vote: Option<u128>, entries: &[(u64, u64)]) -> Durable {
        let voted_for = vote.map(|node| ServerId::new(node, 1));
        Durable {
            hard_state: HardState { term: Term(term), voted_for },
            entries: entries.iter().map(|(index, term)| entry(*index, *term)).collect(),
            ..Durable::default()
        }
    }

    #[test]
    fn a_run_that_forgot_its_term_its_vote_or_what_was_committed_is_found() {
        let entries = [(1, 1), (2, 3), (3, 3)];
        let before = Left { durable: durable(3, Some(2), &entries), commit: Index(2) };
        let check = |opened: Durable| follows(&opened, &before).map_err(|error| error.to_string());
        assert_eq!(check(durable(3, Some(2), &entries)), Ok(()));
        assert_eq!(
            check(durable(4, None, &entries)),
            Ok(()),
            "it voted for nobody in a later term"
        );
        assert_eq!(check(durable(3, Some(2), &entries[..2])), Ok(()), "the last was not committed");
        let mut compacted = durable(3, Some(2), &entries[2..]);
        compacted.base = SnapshotId { index: Index(2), term: Term(3) };
        assert_eq!(check(compacted), Ok(()));
        assert!(check(durable(2, Some(2), &entries)).unwrap_err().contains("term or vote"));
        assert!(check(durable(3, None, &entries)).unwrap_err().contains("term or vote"));
        assert!(check(durable(3, Some(1), &entries)).unwrap_err().contains("term or vote"));
        assert!(check(durable(3, Some(2), &entries[..1])).unwrap_err().contains("was lost"));
        assert!(check(durable(4, None, &[(1, 1), (2, 4)])).unwrap_err().contains("was lost"));
    }

    #[test]
    fn a_frame_that_a_kill_cut_short_ends_the_record() {
        let mut bytes = Vec::new();
        codec::frame(&7_u64, &mut bytes);
        let whole = bytes.len();
        codec::frame(&8_u64, &mut bytes);
        for length in whole..bytes.len() {
            let mut rest = &bytes[..length];
            assert!(next(&mut rest).unwrap().is_some());
            assert!(next(&mut rest).unwrap().is_none(), "{length} bytes");
        }
    }
}
