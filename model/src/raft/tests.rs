//! That the reductions lose nothing: symmetry, and the dropping of dead messages.

use std::{collections::BTreeSet, sync::Arc};

use stateright::Model as _;

use super::{
    model::{
        Action, Bounds,
        Change::{Promote, Remove, SetAddress},
        RaftModel,
        Start::Elect,
        id_at, place_of,
    },
    property::Watch,
    rename::{Rename, Renaming},
    world::{Hashed, Spent, State, World},
};
use crate::{Hunt, Hunted, Scope, Tier};

fn model(bounds: Bounds) -> RaftModel {
    RaftModel::new(bounds, Watch::default())
}

/// Bounds with a bit of everything.
fn mixed() -> Bounds {
    Bounds {
        terms: 3,
        most: Spent {
            timeouts: 4,
            requests: 2,
            crashes: 1,
            heartbeats: 2,
            quorum_checks: 1,
            changes: 0,
            snapshots: 1,
            transfers: 1,
            reads: 2,
            step_downs: 1,
            unreachables: 1,
            snapshot_failures: 1,
        },
        split_disk: true,
        pre_vote: true,
        check_quorum: true,
        ..Bounds::default()
    }
}

fn rename_world(model: &RaftModel, world: &World, names: &Renaming) -> World {
    let mut servers = world.servers.clone();
    for (place, server) in world.servers.iter().enumerate() {
        servers[names.place(place)] = Hashed::new(server.value.rename(names), 1, &model.names);
    }
    let mut renamed = World {
        servers,
        packets: Vec::new(),
        ghosts: Hashed::new(world.ghosts().rename(names), 3, &model.names),
        spent: world.spent,
    };
    for packet in &world.packets {
        renamed.send(packet.value.rename(names), &model.names);
    }
    renamed
}

fn rename_action(model: &RaftModel, action: &Action, names: &Renaming) -> Option<Action> {
    let at = |place: usize| names.place(place);
    Some(match action {
        Action::Deliver(packet) => {
            Action::Deliver(Hashed::new(packet.value.rename(names), 2, &model.names))
        }
        Action::Fire(place, timer) => Action::Fire(at(*place), *timer),
        Action::Sync(place, count) => Action::Sync(at(*place), *count),
        Action::Crash(place, keep) => Action::Crash(at(*place), *keep),
        Action::Propose(place) => Action::Propose(at(*place)),
        Action::Read(place) => Action::Read(at(*place)),
        Action::Transfer(place, to) => Action::Transfer(at(*place), at(*to)),
        Action::SnapshotSaved(place) => Action::SnapshotSaved(at(*place)),
        Action::SnapshotStored(place, id) => Action::SnapshotStored(at(*place), *id),
        Action::SnapshotFailed(place, id) => Action::SnapshotFailed(at(*place), *id),
        Action::SnapshotUnreadable(place, id) => Action::SnapshotUnreadable(at(*place), *id),
        Action::StepDown(place) => Action::StepDown(at(*place)),
        Action::Unreachable(place, other) => Action::Unreachable(at(*place), at(*other)),
        Action::Reconfigure(..) => return None,
    })
}

/// States along walks that a fixed seed chooses.
fn walks(model: &RaftModel, walks: u64, steps: usize) -> Vec<(State, Action)> {
    let mut seeded = spec::entropy::Seeded::new(7);
    let mut visited = Vec::new();
    for _ in 0..walks {
        let mut state = model.init_states().remove(0);
        for _ in 0..steps {
            let mut actions = Vec::new();
            model.actions(&state, &mut actions);
            if actions.is_empty() {
                break;
            }
            let at = spec::entropy::Entropy::choose(&mut seeded, actions.len());
            let action = actions.swap_remove(at);
            let next = model.next_state(&state, action.clone()).unwrap();
            visited.push((state, action));
            state = next;
        }
    }
    visited
}

#[test]
fn places_and_ids_name_the_same_servers() {
    for place in 0..5 {
        assert_eq!(place_of(id_at(place)), place);
    }
}

#[test]
fn the_canonical_form_is_the_same_under_every_renaming() {
    let model = model(mixed());
    for (state, _) in walks(&model, 20, 60) {
        for names in model.names.iter() {
            let renamed = rename_world(&model, &state.world, names);
            let renamed = State::new(renamed, &model.names);
            assert_eq!(renamed.canonical().print(), state.canonical().print());
        }
    }
}

#[test]
fn a_step_of_a_renamed_world_is_the_renamed_step() {
    let model = model(mixed());
    for (state, action) in walks(&model, 20, 60) {
        let after = model.act(&state.world, &action);
        for names in model.names.iter() {
            let Some(action) = rename_action(&model, &action, names) else { continue };
            let stepped = model.act(&rename_world(&model, &state.world, names), &action);
            let renamed = rename_world(&model, &after, names);
            let (stepped, renamed) =
                (State::new(stepped, &model.names), State::new(renamed, &model.names));
            assert!(stepped == renamed, "{action:?} depends on the servers' names");
        }
    }
}

#[test]
fn the_number_of_states_depends_neither_on_threads_nor_on_the_order_of_the_search() {
    let bounds = || Bounds {
        terms: 2,
        most: Spent { timeouts: 2, ..Spent::default() },
        ..Bounds::default()
    };
    let scope = Scope::new("small", Tier::Ci, "A few elections.", &[], model(bounds()));
    let one = scope.check(1, &mut |_, _| ()).states;
    assert!(one > 500, "{one} states say nothing");
    for threads in [2, 3] {
        assert_eq!(scope.check(threads, &mut |_, _| ()).states, one);
    }
    assert_eq!(scope.hunt("election_safety", Hunt::Breadth, &mut |_, _| ()), Hunted::Survived(one));
}

/// The fingerprints of all reachable worlds without their messages.
fn reachable(model: &RaftModel) -> (BTreeSet<u64>, usize) {
    let mut seen = BTreeSet::new();
    let mut without_messages = BTreeSet::new();
    let mut pending = model.init_states();
    let mut actions = Vec::new();
    while let Some(state) = pending.pop() {
        if !model.within_boundary(&state) || !seen.insert(state.canonical().print()) {
            continue;
        }
        let bare = World { packets: Vec::new(), ..World::clone(&state.world) };
        without_messages.insert(State::new(bare, &model.names).canonical().print());
        model.actions(&state, &mut actions);
        pending.extend(actions.drain(..).filter_map(|action| model.next_state(&state, action)));
    }
    (without_messages, seen.len())
}

/// Two servers and as many terms, with nothing that happens yet.
fn two() -> Bounds {
    Bounds { voters: 2, terms: 2, ..Bounds::default() }
}

#[test]
fn dropping_dead_messages_loses_no_state_of_the_servers() {
    let small = [
        // Votes, and answers to a leader, among three.
        Bounds { terms: 1, most: Spent { timeouts: 2, ..Spent::default() }, ..Bounds::default() },
        // Several terms among two, with crashes and entries of earlier terms.
        Bounds {
            voters: 2,
            terms: 2,
            most: Spent { timeouts: 2, requests: 1, crashes: 1, ..Spent::default() },
            ..Bounds::default()
        },
        // Pre-votes, leases and looks at the quorum.
        Bounds {
            voters: 2,
            terms: 2,
            most: Spent { timeouts: 2, quorum_checks: 1, ..Spent::default() },
            pre_vote: true,
            check_quorum: true,
            ..Bounds::default()
        },
        // Writes that a crash loses.
        Bounds {
            voters: 2,
            terms: 2,
            most: Spent { timeouts: 2, crashes: 1, ..Spent::default() },
            split_disk: true,
            ..Bounds::default()
        },
        // Reads of both, and a crash of who asked.
        Bounds {
            most: Spent { timeouts: 1, reads: 1, crashes: 1, ..Spent::default() },
            start: &[Elect(0, &[])],
            ..two()
        },
        // A window of several messages, and connections that break.
        Bounds {
            most: Spent { timeouts: 1, requests: 2, unreachables: 1, ..Spent::default() },
            append_entries: 2,
            inflight: 2,
            eager_commit: true,
            start: &[Elect(0, &[])],
            ..two()
        },
        // A leader that hands over, and one that steps down.
        Bounds {
            most: Spent {
                timeouts: 1,
                requests: 1,
                transfers: 1,
                step_downs: 1,
                ..Spent::default()
            },
            pre_vote: true,
            check_quorum: true,
            start: &[Elect(0, &[])],
            ..two()
        },
        // A snapshot for a voter that is behind, while another is elected.
        Bounds {
            voters: 3,
            most: Spent { timeouts: 1, snapshots: 1, heartbeats: 1, ..Spent::default() },
            start: &[Elect(0, &[2])],
            ..two()
        },
        // A snapshot of several chunks, whose file may fail.
        Bounds {
            voters: 1,
            learners: 1,
            most: Spent {
                snapshots: 1,
                heartbeats: 1,
                snapshot_failures: 1,
                crashes: 1,
                ..Spent::default()
            },
            chunks: 2,
            start: &[Elect(0, &[1])],
            ..two()
        },
        // A learner that catches up by a snapshot and is promoted, and removed.
        Bounds {
            voters: 1,
            learners: 1,
            most: Spent {
                timeouts: 1,
                changes: 2,
                snapshots: 1,
                heartbeats: 1,
                ..Spent::default()
            },
            changes: &[Promote(1), Remove(1)],
            ..two()
        },
        // Voters of which either may be removed, or move.
        Bounds {
            most: Spent { timeouts: 1, changes: 2, ..Spent::default() },
            start: &[Elect(0, &[])],
            changes: &[Remove(0), Remove(1), SetAddress(1)],
            ..two()
        },
    ];
    for bounds in small {
        let (with, states) = reachable(&model(bounds.clone()));
        let all = Bounds { drop_dead: false, ..bounds.clone() };
        let (without, all_states) = reachable(&model(all));
        assert!(states < all_states, "the rule dropped nothing");
        assert_eq!(with.len(), without.len(), "the rule loses states: {bounds:?}");
        assert_eq!(with, without);
    }
}

#[test]
fn a_message_is_in_the_set_once() {
    let model = model(Bounds::default());
    let state = model.init_states().remove(0);
    let mut world = World::clone(&state.world);
    let packet = super::world::Packet {
        from: id_at(0),
        to: id_at(1),
        message: spec::raft::Message::TimeoutNow(spec::raft::message::TimeoutNow {
            term: spec::raft::Term(1),
        }),
    };
    world.send(packet.clone(), &model.names);
    world.send(packet, &model.names);
    assert_eq!(world.packets.len(), 1);
    assert_eq!(Arc::strong_count(&world.packets[0]), 1);
}
