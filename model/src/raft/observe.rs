//! Watches a step, and notes what it broke: the properties that speak of steps rather than of states.

use spec::{
    machine::Event,
    raft::{
        Command, Durable, Entry, HardState, Index, MembershipChange, Message, Node, Role, ServerId,
        SnapshotId, SnapshotMeta, Term, Timer, Write, message::AppendResult, progress::Mode,
    },
};

use super::{
    model::{RaftModel, id_at},
    property::is_majority,
    run::Listener,
    world::{Ghosts, Packet, Server, World},
};

/// Properties of steps; a ghost remembers that one was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// `election_safety`
    ElectionSafety,
    /// `leader_append_only`
    LeaderAppendOnly,
    /// `state_machine_safety`
    StateMachineSafety,
    /// `committed_on_durable_quorum`
    CommittedOnDurableQuorum,
    /// `monotone`
    Monotone,
    /// `vote_fixed_in_term`
    VoteFixedInTerm,
    /// `acks_durable`
    AcksDurable,
    /// `pre_vote_pure`
    PreVotePure,
    /// `steps_down_without_quorum`
    StepsDownWithoutQuorum,
    /// `snapshot_is_prefix`
    SnapshotIsPrefix,
    /// `linearizable_reads`
    LinearizableReads,
    /// `log_reaches_back`
    LogReachesBack,
    /// `snapshot_named_first`
    SnapshotNamedFirst,
    /// `stale_rejection_ignored`
    StaleRejectionIgnored,
    /// `proposals_bounded`
    ProposalsBounded,
    /// `snapshot_credit_kept`
    SnapshotCreditKept,
    /// `unreadable_snapshot_waits`
    UnreadableSnapshotWaits,
    /// `steps_down_when_told`
    StepsDownWhenTold,
    /// `unreachable_others_matter_not`
    UnreachableOthersMatterNot,
    /// `address_is_data`
    AddressIsData,
}

impl Broken {
    /// Its bit in [`Ghosts::broken`].
    pub const fn bit(self) -> u32 {
        1 << match self {
            Self::ElectionSafety => 0,
            Self::LeaderAppendOnly => 1,
            Self::StateMachineSafety => 2,
            Self::CommittedOnDurableQuorum => 3,
            Self::Monotone => 4,
            Self::VoteFixedInTerm => 5,
            Self::AcksDurable => 6,
            Self::PreVotePure => 7,
            Self::StepsDownWithoutQuorum => 8,
            Self::SnapshotIsPrefix => 9,
            Self::LinearizableReads => 10,
            Self::LogReachesBack => 11,
            Self::SnapshotNamedFirst => 12,
            Self::StaleRejectionIgnored => 13,
            Self::ProposalsBounded => 14,
            Self::SnapshotCreditKept => 15,
            Self::UnreadableSnapshotWaits => 16,
            Self::StepsDownWhenTold => 17,
            Self::UnreachableOthersMatterNot => 18,
            Self::AddressIsData => 19,
        }
    }
}

/// Watches one server's step.
pub struct Observer<'a> {
    model: &'a RaftModel,
    world: &'a World,
    place: usize,
    /// The ghosts, once they differ from the world's.
    ghosts: Option<Ghosts>,
    packets: Vec<Packet>,
    /// A pre-vote was asked of it, in this term and with this vote; whether it may grant it.
    pre_vote: Option<(HardState, bool)>,
    /// A leader looks at its quorum, and hears none.
    deaf: bool,
    /// The command of this step.
    command: Option<Command>,
    /// A follower rejected entries behind this index.
    rejection: Option<(ServerId, Index)>,
}

impl<'a> Observer<'a> {
    /// Watches the server at a place from this world on.
    pub fn new(model: &'a RaftModel, world: &'a World, place: usize) -> Self {
        Self {
            model,
            world,
            place,
            ghosts: None,
            packets: Vec::new(),
            pre_vote: None,
            deaf: false,
            command: None,
            rejection: None,
        }
    }

    fn ghosts(&self) -> &Ghosts {
        self.ghosts.as_ref().unwrap_or_else(|| self.world.ghosts())
    }

    fn change(&mut self) -> &mut Ghosts {
        self.ghosts.get_or_insert_with(|| self.world.ghosts().clone())
    }

    fn hold(&mut self, property: Broken, holds: bool) {
        if !holds {
            self.change().broken |= property.bit();
        }
    }

    /// The ghosts, where they changed, and what was sent.
    pub fn finish(mut self, server: &Server, restarted: bool) -> (Option<Ghosts>, Vec<Packet>) {
        let before = self.world.server(self.place);
        if restarted {
            let own = id_at(self.place);
            if self.ghosts().reads.iter().any(|(who, _, _)| *who == own) {
                self.change().reads.retain(|(who, _, _)| *who != own);
            }
        } else {
            self.compare(&before.node, &server.node);
        }
        let term = server.node.hard_state.term;
        let leads = |node: &Node| matches!(node.role, Role::Leader(_));
        let elected = leads(&server.node)
            && (restarted || !leads(&before.node) || before.node.hard_state.term != term);
        if elected {
            // Once for each term, by one server: one that leads a term again after a crash forgot what it promised.
            let own = id_at(self.place);
            let first = self.change().leaders.insert(term, own).is_none();
            self.hold(Broken::ElectionSafety, first);
        }
        if let Some((hard_state, free)) = self.pre_vote {
            let granted = self.packets.iter().any(|packet| {
                matches!(&packet.message, Message::Vote(vote) if vote.pre_vote && vote.granted)
            });
            let pure = server.node.hard_state == hard_state && (free || !granted);
            self.hold(Broken::PreVotePure, pure);
        }
        if matches!(server.node.role, Role::PreCandidate { .. })
            && !matches!(before.node.role, Role::PreCandidate { .. })
        {
            self.hold(Broken::PreVotePure, server.node.hard_state == before.node.hard_state);
        }
        if self.deaf {
            self.hold(Broken::StepsDownWithoutQuorum, !leads(&server.node));
        }
        if let Role::Leader(leader) = &server.node.role {
            let within = self.packets.iter().all(|packet| match &packet.message {
                Message::InstallSnapshot(install) => {
                    leader.progress.get(&packet.to).is_none_or(|progress| match progress.mode {
                        Mode::Snapshot { acked, .. } => {
                            install.number < acked + self.model.bounds.credit
                        }
                        Mode::Probe { .. } | Mode::Replicate => false,
                    })
                }
                _ => true,
            });
            self.hold(Broken::SnapshotCreditKept, within);
        }
        self.look_at_command(&before.node, &server.node);
        (self.ghosts, self.packets)
    }

    /// A machine before and after a step.
    fn compare(&mut self, before: &Node, after: &Node) {
        let (term_before, term_after) = (before.hard_state.term, after.hard_state.term);
        let monotone = term_before <= term_after && before.commit_index <= after.commit_index;
        self.hold(Broken::Monotone, monotone);
        let fixed = term_before != term_after
            || before.hard_state.voted_for.is_none()
            || before.hard_state.voted_for == after.hard_state.voted_for;
        self.hold(Broken::VoteFixedInTerm, fixed);
        // A snapshot of its own, not an installed one: that raises the commit index, and stands alone.
        let saved = before.snapshot != after.snapshot && before.commit_index == after.commit_index;
        if after.config.reach_back && saved {
            let older = before.snapshot.as_ref().map_or(Index(0), |meta| meta.id.index);
            let reaches = after.log.base.index <= older.max(before.log.base.index);
            self.hold(Broken::LogReachesBack, reaches);
        }
        if let (Role::Leader(leader), Role::Leader(later)) = (&before.role, &after.role)
            && term_before == term_after
        {
            let monotone = leader.progress.iter().all(|(id, progress)| {
                later.progress.get(id).is_none_or(|p| progress.match_index <= p.match_index)
            });
            self.hold(Broken::Monotone, monotone);
            let kept = before
                .log
                .entries
                .iter()
                .filter(|entry| entry.index > after.log.base.index)
                .all(|entry| after.log.get(entry.index) == Some(entry));
            self.hold(Broken::LeaderAppendOnly, kept);
        }
    }

    /// What a command, or a rejection, may do.
    fn look_at_command(&mut self, before: &Node, after: &Node) {
        match self.command.take() {
            Some(Command::Propose(_)) => {
                let uncommitted = uncommitted_bytes(before);
                let refused = before.log.last_index() == after.log.last_index();
                let bounded = uncommitted <= self.model.bounds.uncommitted_bytes || refused;
                self.hold(Broken::ProposalsBounded, bounded);
            }
            Some(Command::Reconfigure { change: MembershipChange::SetAddress { .. }, .. }) => {
                let suffrages = |node: &Node| {
                    let servers = &node.membership.configuration.servers;
                    servers.iter().map(|(id, m)| (*id, m.suffrage)).collect::<Vec<_>>()
                };
                self.hold(Broken::AddressIsData, suffrages(before) == suffrages(after));
            }
            Some(Command::StepDown) => {
                let follows = !matches!(after.role, Role::Leader(_));
                self.hold(Broken::StepsDownWhenTold, follows);
            }
            Some(Command::Unreachable(server)) => {
                let leads = matches!(before.role, Role::Leader(_));
                let matters = leads || before.leader == Some(server);
                self.hold(Broken::UnreachableOthersMatterNot, matters || before == after);
            }
            Some(Command::SnapshotUnreadable(id)) => {
                let again = self.packets.iter().any(|packet| {
                    matches!(&packet.message, Message::InstallSnapshot(i) if i.meta.id == id)
                });
                self.hold(Broken::UnreadableSnapshotWaits, !again);
            }
            Some(
                Command::Read { .. }
                | Command::Reconfigure { .. }
                | Command::Transfer { .. }
                | Command::Form(_)
                | Command::SnapshotSaved { .. }
                | Command::SnapshotStored(_)
                | Command::SnapshotFailed(_),
            )
            | None => {}
        }
        if let Some((from, rejected)) = self.rejection
            && let (Role::Leader(leader), Role::Leader(later)) = (&before.role, &after.role)
            && let (Some(known), Some(later)) =
                (leader.progress.get(&from), later.progress.get(&from))
            && matches!(known.mode, Mode::Replicate)
            && rejected <= known.match_index
        {
            let kept = known.mode == later.mode
                && known.next_index == later.next_index
                && known.inflight == later.inflight;
            self.hold(Broken::StaleRejectionIgnored, kept);
        }
    }

    /// Whether a majority of the voters have an entry on their disks.
    fn is_durable_on_quorum(&self, server: &Server, entry: &Entry) -> bool {
        is_majority(&server.node.membership.configuration, |id| {
            let place = super::model::place_of(*id);
            let disk = if place == self.place {
                &server.disk
            } else {
                match self.world.servers.get(place) {
                    Some(server) => &server.value.disk,
                    None => return false,
                }
            };
            has_entry(disk, entry.index, entry.term)
        })
    }
}

/// Bytes of the entries that a server doesn't know to be committed.
pub fn uncommitted_bytes(node: &Node) -> usize {
    let entries = node.log.entries.iter().filter(|entry| entry.index > node.commit_index);
    entries.map(Entry::size).sum()
}

/// Whether a disk has an entry, or a snapshot that holds it.
pub fn has_entry(disk: &Durable, index: Index, term: Term) -> bool {
    index <= disk.base.index
        || disk.entries.iter().any(|entry| entry.index == index && entry.term == term)
}

impl Listener for Observer<'_> {
    fn event(&mut self, node: &Node, event: &Event<Node>) {
        match event {
            Event::Receive { message: Message::RequestVote(request), .. } if request.pre_vote => {
                let leads = matches!(node.role, Role::Leader(_));
                let leased = node.config.check_quorum && (leads || node.lease);
                self.pre_vote = Some((node.hard_state, !leased));
            }
            Event::Fire(Timer::QuorumCheck) => {
                if let Role::Leader(leader) = &node.role {
                    let own = node.config.id;
                    self.deaf = !is_majority(&node.membership.configuration, |id| {
                        *id == own || leader.progress.get(id).is_some_and(|p| p.active)
                    });
                }
            }
            Event::Receive { from, message: Message::Appended(appended) } => {
                if let AppendResult::Conflict { rejected, .. } = appended.result
                    && appended.term == node.hard_state.term
                {
                    self.rejection = Some((*from, rejected));
                }
            }
            Event::Command(command) => self.command = Some(command.clone()),
            Event::Receive { .. } | Event::Fire(_) | Event::Durable(_) => {}
        }
    }

    fn write(&mut self, disk: &Durable, write: &Write) {
        let (before, after) = (disk.hard_state, write.hard_state);
        self.hold(Broken::Monotone, before.term <= after.term);
        let fixed = before.term != after.term
            || before.voted_for.is_none()
            || before.voted_for == after.voted_for;
        self.hold(Broken::VoteFixedInTerm, fixed);
    }

    fn send(&mut self, disk: &Durable, to: ServerId, message: Message) {
        let hard_state = disk.hard_state;
        // Where the disk is in a later term already, what it promised in this one is past.
        let durable = match &message {
            Message::Vote(vote) if vote.granted && !vote.pre_vote => {
                hard_state.term > vote.term
                    || hard_state == HardState { term: vote.term, voted_for: Some(to) }
            }
            Message::Vote(vote) => vote.pre_vote || hard_state.term >= vote.term,
            Message::RequestVote(request) => request.pre_vote || hard_state.term >= request.term,
            Message::Appended(appended) => match appended.result {
                AppendResult::Matched(index) => {
                    hard_state.term > appended.term
                        || hard_state.term == appended.term && disk.last_index() >= index
                }
                AppendResult::Conflict { .. } => hard_state.term >= appended.term,
            },
            Message::SnapshotReply(reply) => hard_state.term >= reply.term,
            Message::AppendEntries(_)
            | Message::InstallSnapshot(_)
            | Message::TimeoutNow(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_) => true,
        };
        self.hold(Broken::AcksDurable, durable);
        self.packets.push(Packet { from: id_at(self.place), to, message });
    }

    fn commit(&mut self, server: &Server, entry: &Entry) {
        // Applied in order, without a gap.
        let next = server.applied.next() == entry.index;
        let length = u64::try_from(self.ghosts().committed.len()).unwrap_or(u64::MAX);
        let known = usize::try_from(entry.index.0.saturating_sub(1))
            .ok()
            .and_then(|at| self.ghosts().committed.get(at));
        let same = match known {
            Some((known, _)) => known == entry,
            None => entry.index == Index(length + 1),
        };
        let new = known.is_none();
        self.hold(Broken::StateMachineSafety, next && same);
        if new {
            let durable = self.is_durable_on_quorum(server, entry);
            self.hold(Broken::CommittedOnDurableQuorum, durable);
            let term = server.node.hard_state.term;
            self.change().committed.push((entry.clone(), term));
        }
    }

    fn restore(&mut self, disk: &Durable, meta: &SnapshotMeta) {
        let holds = is_prefix(self.ghosts(), meta);
        self.hold(Broken::SnapshotIsPrefix, holds);
        self.hold(Broken::SnapshotNamedFirst, names_snapshot(disk, meta.id));
    }

    fn compacted(&mut self, disk: &Durable, snapshot: SnapshotId, base: SnapshotId) {
        let named = names_snapshot(disk, snapshot) && base.index <= disk.base.index;
        self.hold(Broken::SnapshotNamedFirst, named);
    }

    fn read_ready(&mut self, n: u64, index: Index) {
        let own = id_at(self.place);
        let asked = self.ghosts().reads.iter().position(|(who, m, _)| *who == own && *m == n);
        if let Some(at) = asked {
            let (_, _, least) = self.change().reads.remove(at);
            self.hold(Broken::LinearizableReads, index >= least);
        }
    }

    fn read_failed(&mut self, n: u64) {
        let own = id_at(self.place);
        self.change().reads.retain(|(who, m, _)| *who != own || *m != n);
    }
}

/// Whether a disk names a snapshot, or a newer one.
fn names_snapshot(disk: &Durable, id: SnapshotId) -> bool {
    disk.snapshot.as_ref().is_some_and(|meta| id.index <= meta.id.index)
}

/// Whether a snapshot holds a prefix of what is committed, with the configuration of that prefix.
pub fn is_prefix(ghosts: &Ghosts, meta: &SnapshotMeta) -> bool {
    let length = usize::try_from(meta.id.index.0).unwrap_or(usize::MAX);
    let Some(prefix) = ghosts.committed.get(..length) else { return false };
    let configuration = prefix.iter().rev().find_map(|(entry, _)| match &entry.request {
        spec::raft::Request::Configuration(configuration) => Some((entry.index, configuration)),
        spec::raft::Request::Noop | spec::raft::Request::Command(_) => None,
    });
    prefix.last().is_some_and(|(entry, _)| entry.term == meta.id.term)
        && configuration == Some((meta.configuration_index, &meta.configuration))
}
