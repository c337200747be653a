//! A path as a Mermaid sequence diagram: a lane for each server, what arrived where, crashes, and what was durable.

use spec::raft::{Entry, Message, Request, Role, message::AppendResult};

use super::{
    model::{Action, id_at},
    world::{Server, State},
};

fn entry_text(entry: &Entry) -> String {
    let request = match &entry.request {
        Request::Noop => "-".to_owned(),
        Request::Command(payload) => String::from_utf8_lossy(&payload.0).into_owned(),
        Request::Configuration(configuration) => {
            let voters: Vec<_> = configuration.voters().map(|id| format!("{id:?}")).collect();
            format!("[{}]", voters.join(" "))
        }
    };
    format!("{}@{}:{request}", entry.index.0, entry.term.0)
}

fn entries_text<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    entries.map(entry_text).collect::<Vec<_>>().join(" ")
}

fn message_text(message: &Message) -> String {
    match message {
        Message::RequestVote(m) => format!(
            "{}RequestVote t{} last {}@{}{}",
            if m.pre_vote { "Pre" } else { "" },
            m.term.0,
            m.last.index.0,
            m.last.term.0,
            if m.transfer { " transfer" } else { "" }
        ),
        Message::Vote(m) => format!(
            "{}Vote t{} {}",
            if m.pre_vote { "Pre" } else { "" },
            m.term.0,
            if m.granted { "yes" } else { "no" }
        ),
        Message::AppendEntries(m) => format!(
            "AppendEntries t{} after {}@{} ({}) commit {} round {}",
            m.term.0,
            m.previous.index.0,
            m.previous.term.0,
            entries_text(m.entries.iter()),
            m.commit.0,
            m.round
        ),
        Message::Appended(m) => match m.result {
            AppendResult::Matched(index) => {
                format!("Appended t{} up to {} round {}", m.term.0, index.0, m.round)
            }
            AppendResult::Conflict { rejected, hint } => format!(
                "Conflict t{} at {} hint {}@{}",
                m.term.0, rejected.0, hint.index.0, hint.term.0
            ),
        },
        Message::InstallSnapshot(m) => {
            format!("InstallSnapshot t{} {} chunk {}", m.term.0, m.meta.id.index.0, m.number)
        }
        Message::SnapshotReply(m) => {
            format!("SnapshotReply t{} {} next {}", m.term.0, m.id.index.0, m.next)
        }
        Message::TimeoutNow(m) => format!("TimeoutNow t{}", m.term.0),
        Message::ReadIndex(m) => format!("ReadIndex {}.{}", m.id.boot, m.id.n),
        Message::ReadIndexReply(m) => match m.index {
            Some(index) => format!("ReadIndexReply {}.{} at {}", m.id.boot, m.id.n, index.0),
            None => format!("ReadIndexReply {}.{} no leader", m.id.boot, m.id.n),
        },
    }
}

/// An action in a line.
pub fn action_text(action: &Action) -> String {
    match action {
        Action::Deliver(packet) => {
            let packet = &packet.value;
            format!("{:?} → {:?}: {}", packet.from, packet.to, message_text(&packet.message))
        }
        Action::Fire(place, timer) => format!("{:?}: {timer:?} runs out", id_at(*place)),
        Action::Sync(place, count) => format!("{:?}: {count} writes durable", id_at(*place)),
        Action::Crash(place, keep) => {
            format!("{:?}: CRASH, keeps {keep} of its pending writes", id_at(*place))
        }
        Action::Propose(place) => format!("{:?}: client proposes", id_at(*place)),
        Action::Read(place) => format!("{:?}: client reads", id_at(*place)),
        Action::Reconfigure(place, change) => format!("{:?}: {change:?}", id_at(*place)),
        Action::Transfer(place, to) => {
            format!("{:?}: hand over to {:?}", id_at(*place), id_at(*to))
        }
        Action::SnapshotSaved(place) => format!("{:?}: snapshot saved", id_at(*place)),
        Action::SnapshotStored(place, id) => {
            format!("{:?}: snapshot {} stored", id_at(*place), id.index.0)
        }
        Action::SnapshotFailed(place, id) => {
            format!("{:?}: snapshot {} can't be stored", id_at(*place), id.index.0)
        }
        Action::SnapshotUnreadable(place, id) => {
            format!("{:?}: snapshot {} can't be read", id_at(*place), id.index.0)
        }
        Action::StepDown(place) => format!("{:?}: disk full", id_at(*place)),
        Action::Unreachable(place, other) => {
            format!("{:?}: connection to {:?} broke", id_at(*place), id_at(*other))
        }
    }
}

fn server_text(server: &Server) -> String {
    let node = &server.node;
    let role = match &node.role {
        Role::Follower => "follower",
        Role::PreCandidate { .. } => "pre-candidate",
        Role::Candidate { .. } => "candidate",
        Role::Leader(_) => "LEADER",
    };
    let vote = node.hard_state.voted_for.map_or("-".to_owned(), |id| format!("{id:?}"));
    let durable = if server.pending.is_empty() {
        "all durable".to_owned()
    } else {
        format!("durable t{} up to {}", server.disk.hard_state.term.0, server.disk.last_index().0)
    };
    format!(
        "{role} t{} vote {vote} log {} commit {}<br/>{durable}",
        node.hard_state.term.0,
        entries_text(node.log.entries.iter()),
        node.commit_index.0
    )
}

fn place(action: &Action) -> usize {
    match action {
        Action::Deliver(packet) => super::model::place_of(packet.value.to),
        Action::Fire(place, _)
        | Action::Sync(place, _)
        | Action::Crash(place, _)
        | Action::Propose(place)
        | Action::Read(place)
        | Action::Reconfigure(place, _)
        | Action::Transfer(place, _)
        | Action::SnapshotSaved(place)
        | Action::SnapshotStored(place, _)
        | Action::SnapshotFailed(place, _)
        | Action::SnapshotUnreadable(place, _)
        | Action::StepDown(place)
        | Action::Unreachable(place, _) => *place,
    }
}

fn lane(place: usize) -> String {
    format!("{:?}", id_at(place))
}

/// The whole path.
pub fn diagram(path: &[(State, Option<Action>)]) -> String {
    let mut lines = vec!["sequenceDiagram".to_owned()];
    let Some((first, _)) = path.first() else { return lines.remove(0) };
    for (place, server) in first.world.servers.iter().enumerate() {
        lines.push(format!("    participant {}", lane(place)));
        lines.push(format!("    Note over {}: {}", lane(place), server_text(&server.value)));
    }
    for pair in path.windows(2) {
        let [(before, Some(action)), (after, _)] = pair else { continue };
        let at = place(action);
        match action {
            Action::Deliver(packet) => lines.push(format!(
                "    {:?}->>{:?}: {}",
                packet.value.from,
                packet.value.to,
                message_text(&packet.value.message)
            )),
            Action::Crash(_, keep) => {
                let lost = before.world.server(at).pending.len() - keep;
                lines.push(format!(
                    "    Note over {}: 💥 CRASH, {lost} unsynced writes lost",
                    lane(at)
                ));
            }
            Action::Fire(..)
            | Action::Sync(..)
            | Action::Propose(_)
            | Action::Read(_)
            | Action::Reconfigure(..)
            | Action::Transfer(..)
            | Action::SnapshotSaved(_)
            | Action::SnapshotStored(..)
            | Action::SnapshotFailed(..)
            | Action::SnapshotUnreadable(..)
            | Action::StepDown(_)
            | Action::Unreachable(..) => {
                lines.push(format!("    Note over {}: {}", lane(at), action_text(action)));
            }
        }
        if before.world.server(at) != after.world.server(at) {
            let text = server_text(after.world.server(at));
            lines.push(format!("    Note over {}: {text}", lane(at)));
        }
    }
    lines.join("\n").replace(';', ",").replace('#', "")
}
