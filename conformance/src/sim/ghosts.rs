//! What no server knows: every leader, every vote, every entry that was ever in a log or committed. Properties of the
//! whole cluster are stated over these, by the names that `spec/prose/raft.md` gives them.

use std::{collections::BTreeMap, fmt};

use spec::raft::{
    Change, Configuration, Durable, Entry, Index, Message, Node, Role, ServerId, SnapshotId,
    Suffrage, Term, Write, invariant, message::AppendResult,
};

/// A property that didn't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name.
    pub property: &'static str,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not hold: {}", self.property, self.detail)
    }
}

/// Gives a violation where `holds` is false.
pub fn require(
    holds: bool,
    property: &'static str,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { property, detail: detail() }) }
}

/// What of a node its next step is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    leads: bool,
    term: Term,
    commit: Index,
    last: SnapshotId,
}

impl Before {
    /// Looks at a node before its step.
    pub fn of(node: &Node) -> Self {
        Self {
            leads: matches!(node.role, Role::Leader(_)),
            term: node.hard_state.term,
            commit: node.commit_index,
            last: node.log.last(),
        }
    }
}

/// The ghosts.
#[derive(Debug, Default)]
pub struct Ghosts {
    /// Who led each term.
    leaders: BTreeMap<Term, ServerId>,
    /// Whom each server's word was given to, by server and term.
    votes: BTreeMap<(ServerId, Term), ServerId>,
    /// Every entry that was ever written, with the term of the one before it.
    written: BTreeMap<(Index, Term), (Entry, Term)>,
    /// Every committed entry, with the term in which it was committed.
    committed: BTreeMap<Index, (Entry, Term)>,
    /// The applied state after each entry.
    digests: BTreeMap<Index, u128>,
    /// The last entry that any host was given as committed: no later read may show less.
    pub visible: Index,
}

impl Ghosts {
    /// How many leaders there were.
    pub fn elections(&self) -> u64 {
        u64::try_from(self.leaders.len()).unwrap_or(u64::MAX)
    }

    /// How many entries were committed.
    pub fn committed(&self) -> u64 {
        u64::try_from(self.committed.len()).unwrap_or(u64::MAX)
    }

    /// Checks a node after a step, or after a turn of several; `holds` tells whether a server has an entry on its disk.
    /// What it committed is on the disks of more than half of the voters of one of these `configurations`.
    pub fn after_step(
        &mut self,
        before: Before,
        node: &Node,
        configurations: &[&Configuration],
        holds: impl Fn(ServerId, SnapshotId) -> bool,
    ) -> Result<(), Violation> {
        let id = node.config.id;
        for (name, holds) in invariant::ALL {
            require(holds(node), name, || format!("{node:#?}"))?;
        }
        let term = node.hard_state.term;
        require(term >= before.term, "term_grows", || {
            format!("{id:?}: {:?} to {term:?}", before.term)
        })?;
        require(node.commit_index >= before.commit, "commit_grows", || {
            format!("{id:?}: {:?} to {:?}", before.commit, node.commit_index)
        })?;
        let leads = matches!(node.role, Role::Leader(_));
        if leads && (!before.leads || term != before.term) {
            self.note_leader(node)?;
        }
        if leads && before.leads && term == before.term {
            let kept = node.log.term_at(before.last.index) == Some(before.last.term)
                || node.log.base.index > before.last.index;
            require(kept, "leader_append_only", || format!("{id:?} lost {:?}", before.last))?;
        }
        // A leader that commits its own removal leads no longer when the step is over.
        self.note_committed(before.commit, leads || before.leads, node, configurations, holds)
    }

    /// Two logs that have an entry of the same index and term have the same entry, and the same term before it: by
    /// induction, the same log up to it. `term_at` is the writer's log, below what it writes.
    pub fn wrote(
        &mut self,
        id: ServerId,
        write: &Write,
        term_at: impl Fn(Index) -> Option<Term>,
    ) -> Result<(), Violation> {
        let Change::Append { after, entries } = &write.change else { return Ok(()) };
        let Some(mut previous) = term_at(*after) else { return Ok(()) };
        for entry in entries {
            let name = (entry.index, entry.term);
            let known = self.written.entry(name).or_insert_with(|| (entry.clone(), previous));
            require(*known == (entry.clone(), previous), "log_matching", || {
                format!("{id:?} wrote {entry:?} after {previous:?}, before it was {known:?}")
            })?;
            previous = entry.term;
        }
        Ok(())
    }

    fn note_leader(&mut self, node: &Node) -> Result<(), Violation> {
        let (id, term) = (node.config.id, node.hard_state.term);
        let leader = *self.leaders.entry(term).or_insert(id);
        require(leader == id, "election_safety", || {
            format!("{leader:?} and {id:?} lead in {term:?}")
        })?;
        self.note_vote(id, term, id)?;
        for (index, (entry, committed_in)) in &self.committed {
            if *committed_in >= term || *index < node.log.base.index {
                continue;
            }
            require(node.log.term_at(*index) == Some(entry.term), "leader_completeness", || {
                format!(
                    "{id:?} leads in {term:?} and has {:?} at {index:?}, where {entry:?} was committed in \
                     {committed_in:?}",
                    node.log.get(*index)
                )
            })?;
        }
        Ok(())
    }

    fn note_vote(
        &mut self,
        voter: ServerId,
        term: Term,
        candidate: ServerId,
    ) -> Result<(), Violation> {
        let given = *self.votes.entry((voter, term)).or_insert(candidate);
        require(given == candidate, "one_vote_per_term", || {
            format!("{voter:?} voted for {given:?} and {candidate:?} in {term:?}")
        })
    }

    fn note_committed(
        &mut self,
        before: Index,
        led: bool,
        node: &Node,
        configurations: &[&Configuration],
        holds: impl Fn(ServerId, SnapshotId) -> bool,
    ) -> Result<(), Violation> {
        let term = node.hard_state.term;
        for index in before.0 + 1..=node.commit_index.0 {
            let Some(entry) = node.log.get(Index(index)) else { continue };
            if let Some((known, _)) = self.committed.get(&Index(index)) {
                require(known == entry, "state_machine_safety", || {
                    format!("{:?} commits {entry:?}, but {known:?} is committed", node.config.id)
                })?;
                continue;
            }
            require(led, "a_leader_commits_first", || {
                format!("{:?} follows and takes {entry:?} for committed", node.config.id)
            })?;
            let name = SnapshotId { index: Index(index), term: entry.term };
            let quorum =
                |configuration: &&Configuration| is_quorum(configuration, |id| holds(id, name));
            let durable = configurations.iter().any(quorum);
            require(durable, "committed_on_durable_quorum", || {
                format!("{:?} commits {entry:?}", node.config.id)
            })?;
            self.committed.insert(Index(index), (entry.clone(), term));
        }
        Ok(())
    }

    /// Checks what leaves a server: it must be true of its disk by then.
    pub fn sent(
        &mut self,
        from: ServerId,
        to: ServerId,
        message: &Message,
        disk: &Durable,
    ) -> Result<(), Violation> {
        let durable = disk.hard_state;
        match message {
            Message::Vote(vote) if vote.granted && !vote.pre_vote => {
                let kept = durable.term > vote.term
                    || (durable.term == vote.term && durable.voted_for == Some(to));
                require(kept, "said_is_durable", || {
                    format!("{from:?} says {vote:?} on {durable:?}")
                })?;
                self.note_vote(from, vote.term, to)
            }
            Message::Appended(appended) => {
                let AppendResult::Matched(index) = appended.result else { return Ok(()) };
                // In a later term the entries may be gone: then their leader's term is over.
                let kept = appended.term < durable.term
                    || (appended.term == durable.term && disk.last_index() >= index);
                require(kept, "said_is_durable", || {
                    format!(
                        "{from:?} says {appended:?}, its disk ends with {:?} in {:?}",
                        disk.last_index(),
                        durable.term
                    )
                })
            }
            _ => Ok(()),
        }
    }

    /// Checks an entry that a host applies.
    pub fn applied(&mut self, id: ServerId, entry: &Entry) -> Result<(), Violation> {
        let known = self.committed.get(&entry.index).map(|(known, _)| known);
        require(known == Some(entry), "state_machine_safety", || {
            format!("{id:?} applies {entry:?}, committed is {known:?}")
        })?;
        self.visible = self.visible.max(entry.index);
        Ok(())
    }

    /// Checks a host's state after this entry against that of all others.
    pub fn state_at(&mut self, id: ServerId, index: Index, digest: u128) -> Result<(), Violation> {
        let known = *self.digests.entry(index).or_insert(digest);
        require(known == digest, "equal_states", || {
            format!("{id:?} has {digest:x} after {index:?}, others had {known:x}")
        })
    }
}

/// Whether more than half of the voters satisfy `has`.
pub fn is_quorum(configuration: &Configuration, has: impl Fn(ServerId) -> bool) -> bool {
    let voters: Vec<ServerId> = configuration
        .servers
        .iter()
        .filter(|(_, member)| member.suffrage == Suffrage::Voter)
        .map(|(id, _)| *id)
        .collect();
    voters.iter().filter(|id| has(**id)).count() * 2 > voters.len()
}
