//! The properties of Raft, by the names that prose, code and tests use.

use std::collections::BTreeSet;

use spec::raft::{
    Configuration, Entry, Index, Message, Node, Request, Role, ServerId, SnapshotId, Suffrage,
    invariant, progress::Mode,
};
use stateright::Property;

use super::{
    model::{Change, RaftModel, place_of},
    observe::{Broken, has_entry, is_prefix, uncommitted_bytes},
    progress,
    world::{Server, State, World},
};

/// What a scope asks for besides what its budgets do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// Whether `progress` is checked: a schedule run from each state.
    pub progress: bool,
}

type Condition = fn(&RaftModel, &State) -> bool;

/// The properties of a scope: those that always hold, and what must happen in it lest it be vacuous.
pub fn of(model: &RaftModel) -> Vec<Property<RaftModel>> {
    let most = &model.bounds.most;
    let mut always: Vec<(&'static str, Condition)> = vec![
        ("election_safety", |_, s| unbroken(s, Broken::ElectionSafety)),
        ("leader_append_only", |_, s| unbroken(s, Broken::LeaderAppendOnly)),
        ("log_matching", |_, s| log_matching(&s.world)),
        ("leader_completeness", |_, s| leader_completeness(&s.world)),
        ("state_machine_safety", |_, s| unbroken(s, Broken::StateMachineSafety)),
        ("committed_on_durable_quorum", |_, s| unbroken(s, Broken::CommittedOnDurableQuorum)),
        ("committed_immutable", |_, s| committed_immutable(&s.world)),
        ("monotone", |_, s| unbroken(s, Broken::Monotone)),
        ("vote_fixed_in_term", |_, s| unbroken(s, Broken::VoteFixedInTerm)),
        ("acks_durable", |_, s| unbroken(s, Broken::AcksDurable)),
        ("match_index_durable", |_, s| match_index_durable(&s.world)),
        ("cluster_time_monotone", |_, s| nodes(s, cluster_time_monotone)),
        ("log_consecutive", |_, s| nodes(s, invariant::log_consecutive)),
        ("indexes_ordered", |_, s| nodes(s, invariant::indexes_ordered)),
        ("applied_ordered", |_, s| s.world.servers.iter().all(|part| applied_ordered(&part.value))),
        ("window_bounded", |model, s| nodes(s, |node| window_bounded(model, node))),
        ("window_consistent", |_, s| nodes(s, window_consistent)),
        ("appends_bounded", |model, s| appends_bounded(model, &s.world)),
        ("stale_rejection_ignored", |_, s| unbroken(s, Broken::StaleRejectionIgnored)),
        ("uncommitted_counted", |_, s| nodes(s, uncommitted_counted)),
        ("terms_ordered", |_, s| nodes(s, invariant::terms_ordered)),
        ("role_consistent", |_, s| nodes(s, invariant::role_consistent)),
    ];
    let mut sometimes: Vec<(&'static str, Condition)> =
        vec![("elects", |_, s| !s.world.ghosts().leaders.is_empty())];
    if model.bounds.pre_vote {
        always.push(("pre_vote_pure", |_, s| unbroken(s, Broken::PreVotePure)));
        sometimes.push(("asks_for_pre_votes", |_, s| {
            any(s, |node| matches!(node.role, Role::PreCandidate { .. }))
        }));
    }
    if model.bounds.check_quorum {
        always.push(("steps_down_without_quorum", |_, s| {
            unbroken(s, Broken::StepsDownWithoutQuorum)
        }));
        sometimes.push(("leader_leased", |_, s| any(s, |node| node.lease)));
    }
    let elections = usize::from(most.timeouts) + usize::from(!model.bounds.start.is_empty());
    if model.bounds.terms > 1 && elections > 1 {
        sometimes.push(("elects_again", |_, s| s.world.ghosts().leaders.len() > 1));
    }
    if most.requests > 0 {
        always.push(("proposals_bounded", |_, s| unbroken(s, Broken::ProposalsBounded)));
        sometimes
            .push(("commits_request", |_, s| commits(s, |r| matches!(r, Request::Command(_)))));
    }
    if most.crashes > 0 && model.bounds.split_disk {
        sometimes.push(("crash_may_lose_write", |model, s| {
            s.world.spent.crashes < model.bounds.most.crashes
                && s.world.servers.iter().any(|server| !server.value.pending.is_empty())
        }));
    }
    if most.crashes > 0 {
        sometimes.push(("crashes", |_, s| s.world.spent.crashes > 0));
    }
    if most.changes > 0 || model.bounds.learners > 0 {
        always.push(("one_change_at_a_time", |_, s| one_change_at_a_time(&s.world)));
        always.push(("quorum_overlap", |_, s| quorum_overlap(&s.world)));
        always.push(("configuration_of_log", |_, s| nodes(s, configuration_of_log)));
        always.push(("removed_leader_follows", |_, s| nodes(s, removed_leader_follows)));
    }
    if most.changes > 0 {
        sometimes.push(("commits_configuration", |_, s| {
            s.world
                .ghosts()
                .committed
                .iter()
                .skip(1)
                .any(|(entry, _)| matches!(entry.request, Request::Configuration(_)))
        }));
    }
    if model.bounds.blank > 0 {
        sometimes.push(("blank_server_votes", |model, s| {
            let first = model.bounds.voters + model.bounds.learners;
            s.world.servers.iter().skip(first).any(|server| server.value.node.is_voter())
        }));
    }
    if most.snapshots > 0 {
        always.push(("snapshot_is_prefix", |_, s| snapshot_is_prefix(s)));
        always.push(("snapshot_named_first", |_, s| unbroken(s, Broken::SnapshotNamedFirst)));
        always.push(("snapshot_credit_kept", |_, s| unbroken(s, Broken::SnapshotCreditKept)));
        if model.bounds.reach_back {
            always.push(("log_reaches_back", |_, s| unbroken(s, Broken::LogReachesBack)));
        }
        sometimes.push(("compacts", |_, s| any(s, |node| node.log.base.index > Index(0))));
        sometimes.push(("installs_snapshot", |model, s| {
            let mut disks = s.world.servers.iter().map(|server| &server.value.disk);
            if model.bounds.reach_back {
                // A log that reaches back starts at its snapshot only where that was installed.
                return disks
                    .any(|disk| disk.snapshot.as_ref().is_some_and(|meta| meta.id == disk.base));
            }
            let snapshots = disks.filter(|disk| disk.snapshot.is_some());
            snapshots.count() > usize::from(s.world.spent.snapshots)
        }));
    }
    if model.bounds.inflight > 1 {
        sometimes.push(("fills_window", |model, s| {
            any(s, |node| match &node.role {
                Role::Leader(leader) => leader.progress.values().any(|progress| {
                    progress.inflight.len() >= model.bounds.inflight
                        || progress.inflight_bytes >= model.bounds.inflight_bytes
                }),
                Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => false,
            })
        }));
    }
    if most.snapshot_failures > 0 {
        always.push(("unreadable_snapshot_waits", |_, s| {
            unbroken(s, Broken::UnreadableSnapshotWaits)
        }));
    }
    if most.step_downs > 0 {
        always.push(("steps_down_when_told", |_, s| unbroken(s, Broken::StepsDownWhenTold)));
        sometimes.push(("steps_down", |_, s| s.world.spent.step_downs > 0));
    }
    if most.unreachables > 0 {
        always.push(("unreachable_others_matter_not", |_, s| {
            unbroken(s, Broken::UnreachableOthersMatterNot)
        }));
    }
    if model.bounds.changes.iter().any(|change| matches!(change, Change::SetAddress(_))) {
        always.push(("address_is_data", |_, s| unbroken(s, Broken::AddressIsData)));
    }
    if most.transfers > 0 {
        sometimes.push(("asked_to_lead", |_, s| {
            s.world
                .packets
                .iter()
                .any(|packet| matches!(packet.value.message, Message::TimeoutNow(_)))
        }));
    }
    if most.reads > 0 {
        always.push(("linearizable_reads", |_, s| unbroken(s, Broken::LinearizableReads)));
        sometimes.push(("answers_read", |_, s| {
            s.world.spent.reads > 0 && s.world.ghosts().reads.is_empty()
        }));
    }
    if model.watch.progress {
        always.push(("progress", |_, s| progress::progresses(&s.world)));
    }
    let always = always.into_iter().map(|(name, condition)| Property::always(name, condition));
    let sometimes =
        sometimes.into_iter().map(|(name, condition)| Property::sometimes(name, condition));
    always.chain(sometimes).collect()
}

fn unbroken(state: &State, property: Broken) -> bool {
    state.world.ghosts().broken & property.bit() == 0
}

fn nodes(state: &State, holds: impl Fn(&Node) -> bool) -> bool {
    state.world.servers.iter().all(|server| holds(&server.value.node))
}

fn any(state: &State, holds: impl Fn(&Node) -> bool) -> bool {
    state.world.servers.iter().any(|server| holds(&server.value.node))
}

fn commits(state: &State, wanted: impl Fn(&Request) -> bool) -> bool {
    state.world.ghosts().committed.iter().any(|(entry, _)| wanted(&entry.request))
}

/// Two logs that have an entry of the same index and term have the same entries up to it.
pub fn log_matching(world: &World) -> bool {
    let servers: Vec<&Server> = world.servers.iter().map(|part| &part.value).collect();
    servers
        .iter()
        .enumerate()
        .all(|(at, a)| servers.iter().skip(at + 1).all(|b| logs_match(&a.node, &b.node)))
}

fn logs_match(a: &Node, b: &Node) -> bool {
    let base = a.log.base.index.max(b.log.base.index);
    let last = a.log.last_index().min(b.log.last_index());
    let mut equal = true;
    for index in (base.0 + 1..=last.0).map(Index) {
        let (Some(x), Some(y)) = (a.log.get(index), b.log.get(index)) else { return false };
        // Where the terms agree, this entry is the same and so was everything before it.
        if x.term == y.term && (x != y || !equal) {
            return false;
        }
        equal = x == y;
    }
    true
}

/// A leader has every entry that was committed in an earlier term.
///
/// Without the term of the commit the property would accuse a leader that was deposed and doesn't know it yet.
pub fn leader_completeness(world: &World) -> bool {
    world.servers.iter().all(|server| {
        let node = &server.value.node;
        let Role::Leader(_) = node.role else { return true };
        world.ghosts().committed.iter().all(|(entry, committed_in)| {
            *committed_in >= node.hard_state.term
                || entry.index <= node.log.base.index
                || node.log.get(entry.index) == Some(entry)
        })
    })
}

/// What a server knows to be committed is what was committed, and stays so.
pub fn committed_immutable(world: &World) -> bool {
    let committed = &world.ghosts().committed;
    world.servers.iter().all(|server| {
        let node = &server.value.node;
        let entries = node.log.entries.iter().filter(|entry| entry.index <= node.commit_index);
        entries.into_iter().all(|entry| {
            let at = usize::try_from(entry.index.0.saturating_sub(1)).unwrap_or(usize::MAX);
            committed.get(at).is_none_or(|(known, _)| known == entry)
        })
    })
}

/// A follower durably has what its leader counts it for, and the same.
pub fn match_index_durable(world: &World) -> bool {
    world.servers.iter().all(|server| {
        let node = &server.value.node;
        let Role::Leader(leader) = &node.role else { return true };
        leader.progress.iter().all(|(id, progress)| {
            let Some(follower) = world.servers.get(place_of(*id)) else { return true };
            let disk = &follower.value.disk;
            // A follower that has moved on to a later term may have dropped what this leader still counts.
            if disk.hard_state.term != node.hard_state.term {
                return true;
            }
            let matched = progress.match_index;
            match node.log.term_at(matched) {
                Some(term) => {
                    let id = SnapshotId { index: matched, term };
                    matched == Index(0) || has_entry(disk, id.index, id.term)
                }
                None => matched <= disk.last_index(),
            }
        })
    })
}

/// Along a log, and from a snapshot on to what follows it, the cluster's time never goes back.
pub fn cluster_time_monotone(node: &Node) -> bool {
    let (last, mut least) =
        node.snapshot.as_ref().map_or_else(Default::default, |meta| (meta.id.index, meta.time));
    node.log.entries.iter().filter(|entry| entry.index > last).all(|entry| {
        let monotone = least <= entry.time;
        least = entry.time;
        monotone
    })
}

/// `snapshot <= applied <= commit`: what the host has applied is what the disk's snapshot holds, or more, and committed.
///
/// By the disk's snapshot: an installed one is applied once its record is durable.
pub fn applied_ordered(server: &Server) -> bool {
    let snapshot = server.disk.snapshot.as_ref().map_or(Index(0), |meta| meta.id.index);
    snapshot <= server.applied && server.applied <= server.node.commit_index
}

/// Under way to a follower are no more messages than the window holds, and but for the last one fewer bytes.
pub fn window_bounded(model: &RaftModel, node: &Node) -> bool {
    let Role::Leader(leader) = &node.role else { return true };
    leader.progress.values().all(|progress| {
        let all_but_last = progress.inflight.len().saturating_sub(1);
        let bytes: usize =
            progress.inflight.iter().take(all_but_last).map(|(_, bytes)| bytes).sum();
        progress.inflight.len() <= model.bounds.inflight && bytes < model.bounds.inflight_bytes
    })
}

/// No AppendEntries has more entries than one may have, or more bytes unless a single entry has them.
pub fn appends_bounded(model: &RaftModel, world: &World) -> bool {
    world.packets.iter().all(|packet| {
        let Message::AppendEntries(append) = &packet.value.message else { return true };
        let bytes: usize = append.entries.iter().map(Entry::size).sum();
        let count = append.entries.len();
        count <= model.bounds.append_entries && (count < 2 || bytes <= model.bounds.append_bytes)
    })
}

/// Under way to a follower, where its log is known to agree, is what it was sent beyond what it has, whole and in order;
/// else nothing counts as under way. The bytes are theirs.
pub fn window_consistent(node: &Node) -> bool {
    let Role::Leader(leader) = &node.role else { return true };
    leader.progress.values().all(|progress| {
        let mut last = progress.match_index;
        let mut ordered = true;
        for (index, _) in &progress.inflight {
            ordered &= last < *index;
            last = *index;
        }
        let bytes: usize = progress.inflight.iter().map(|(_, bytes)| bytes).sum();
        let whole = match progress.mode {
            Mode::Replicate => progress.next_index == last.next(),
            Mode::Probe { .. } | Mode::Snapshot { .. } => progress.inflight.is_empty(),
        };
        ordered && whole && bytes == progress.inflight_bytes
    })
}

/// A leader counts the bytes of its entries that aren't committed, and no others.
pub fn uncommitted_counted(node: &Node) -> bool {
    match &node.role {
        Role::Leader(leader) => leader.uncommitted_bytes == uncommitted_bytes(node),
        Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => true,
    }
}

/// The configuration in force is the newest one of the log, or the snapshot's where there is none behind it.
pub fn configuration_of_log(node: &Node) -> bool {
    let logged = node.log.entries.iter().rev().find_map(|entry| match &entry.request {
        Request::Configuration(configuration) => Some((entry.index, configuration)),
        Request::Noop | Request::Command(_) => None,
    });
    let snapshot =
        node.snapshot.as_ref().map(|meta| (meta.configuration_index, &meta.configuration));
    let newest = logged.into_iter().chain(snapshot).max_by_key(|(index, _)| *index);
    newest.is_none_or(|newest| newest == (node.membership.index, &node.membership.configuration))
}

/// Nobody leads who knows that its removal is committed.
pub fn removed_leader_follows(node: &Node) -> bool {
    let removed = !voters(&node.membership.configuration).contains(&node.config.id);
    let committed = node.membership.index <= node.commit_index;
    !(matches!(node.role, Role::Leader(_)) && removed && committed)
}

/// No leader has two configurations in its log that aren't committed.
pub fn one_change_at_a_time(world: &World) -> bool {
    let committed = u64::try_from(world.ghosts().committed.len()).unwrap_or(u64::MAX);
    world.servers.iter().all(|server| {
        let node = &server.value.node;
        let Role::Leader(_) = node.role else { return true };
        let pending = node.log.entries.iter().filter(|entry| {
            entry.index > Index(committed) && matches!(entry.request, Request::Configuration(_))
        });
        pending.count() <= 1
    })
}

/// Of any two servers that a quorum of their own configuration would elect, the configurations' quorums overlap.
///
/// A server with an old configuration may well exist: what counts is that nobody would elect it.
pub fn quorum_overlap(world: &World) -> bool {
    let electable: Vec<&Configuration> = world
        .servers
        .iter()
        .map(|server| &server.value.node)
        .filter(|node| is_electable(node, world))
        .map(|node| &*node.membership.configuration)
        .collect();
    electable
        .iter()
        .enumerate()
        .all(|(at, a)| electable.iter().skip(at + 1).all(|b| quorums_overlap(a, b)))
}

fn is_electable(node: &Node, world: &World) -> bool {
    let configuration = &node.membership.configuration;
    let own = node.log.last();
    voters(configuration).contains(&node.config.id)
        && is_majority(configuration, |id| {
            world.servers.get(place_of(*id)).is_some_and(|voter| {
                let last = voter.value.node.log.last();
                (own.term, own.index) >= (last.term, last.index)
            })
        })
}

fn quorums_overlap(a: &Configuration, b: &Configuration) -> bool {
    let (a, b) = (voters(a), voters(b));
    let shared = a.intersection(&b).count();
    // Two quorums that avoid each other take what only one side has first, and share out the rest.
    let needed = |of: &BTreeSet<ServerId>| (of.len() / 2 + 1).saturating_sub(of.len() - shared);
    needed(&a) + needed(&b) > shared
}

// What a voter and a majority are is said here again: properties that asked the machine would believe its mutants.

fn voters(configuration: &Configuration) -> BTreeSet<ServerId> {
    let servers = configuration.servers.iter();
    servers.filter(|(_, member)| member.suffrage == Suffrage::Voter).map(|(id, _)| *id).collect()
}

/// Whether more than half of the voters do.
pub fn is_majority(configuration: &Configuration, does: impl Fn(&ServerId) -> bool) -> bool {
    let voters = voters(configuration);
    2 * voters.iter().filter(|id| does(id)).count() > voters.len()
}

/// Every snapshot holds a prefix of what is committed, and the configuration of that prefix.
pub fn snapshot_is_prefix(state: &State) -> bool {
    let ghosts = state.world.ghosts();
    unbroken(state, Broken::SnapshotIsPrefix)
        && state.world.servers.iter().all(|server| {
            let Server { node, disk, .. } = &server.value;
            [&node.snapshot, &disk.snapshot].into_iter().flatten().all(|m| is_prefix(ghosts, m))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::model::id_at;
    use spec::raft::{Member, Suffrage};

    fn configuration(voters: &[usize]) -> Configuration {
        let member = Member { suffrage: Suffrage::Voter, address: "".into() };
        let servers = voters.iter().map(|place| (id_at(*place), member.clone())).collect();
        Configuration { servers, ..Configuration::default() }
    }

    #[test]
    fn quorums_overlap_where_one_server_changed_and_not_where_two_did() {
        let four = configuration(&[0, 1, 2, 3]);
        assert!(quorums_overlap(&four, &configuration(&[0, 1, 2])));
        assert!(quorums_overlap(&four, &configuration(&[0, 1, 2, 3, 4])));
        assert!(!quorums_overlap(&configuration(&[0, 1, 2]), &configuration(&[1, 2, 3])));
        assert!(!quorums_overlap(&configuration(&[0, 1, 2, 3, 4]), &configuration(&[1, 2, 3])));
        assert!(quorums_overlap(&configuration(&[0, 1, 2]), &configuration(&[0, 1, 2])));
    }
}
