//! Messages that can't matter any more are dropped, which keeps the set of messages small.
//!
//! A message is dead where its receiver's handler does nothing but answer, every answer is dead too, and what that
//! rests on only grows: the terms on disks, up to the last term of the scope. A greedier rule, one that looks at the
//! terms of the moment only, loses states: a refusal that carries no news today carries some when the receiver's term
//! has risen. `model/tests` compares the reachable servers with and without the rule.

use spec::{
    entropy::Least,
    machine::{Context, Effect, Event, Machine, Ticket},
    raft::{Message, Node, Role, Term},
    time::Instant,
};

use super::{
    model::{RaftModel, place_of},
    world::{Packet, Server, World},
};

/// Removes every dead message.
pub fn remove(model: &RaftModel, world: &mut World) {
    let last = model.bounds.last_term();
    let World { servers, packets, .. } = world;
    packets.retain(|packet| {
        let packet = &packet.value;
        let (from, to) = (place_of(packet.from), place_of(packet.to));
        match (servers.get(from), servers.get(to)) {
            (Some(from), Some(to)) => !is_dead(packet, &from.value, &to.value, last),
            // Nobody is there to receive it.
            (_, _) => false,
        }
    });
}

fn is_dead(packet: &Packet, from: &Server, to: &Server, last: Term) -> bool {
    let term = to.disk.hard_state.term;
    let node = &to.node;
    // In a term that it has left, or can only be a follower in from here on, no server leads or is elected.
    let counts_answers = node.hard_state.term == term
        && matches!(node.role, Role::Candidate { .. } | Role::Leader(_));
    let dead = match &packet.message {
        Message::Vote(vote) if vote.granted && !vote.pre_vote => {
            let counted = match &node.role {
                Role::Candidate { votes } if node.hard_state.term == term => {
                    votes.contains(&packet.from)
                }
                Role::Follower
                | Role::PreCandidate { .. }
                | Role::Candidate { .. }
                | Role::Leader(_) => true,
            };
            vote.term < term || (vote.term == term && counted)
        }
        Message::Vote(vote) => vote.term <= term,
        Message::Appended(appended) => {
            appended.term < term || (appended.term == term && !counts_answers)
        }
        Message::SnapshotReply(reply) => {
            reply.term < term || (reply.term == term && !counts_answers)
        }
        Message::RequestVote(request) => {
            let refused = if request.pre_vote { request.term <= term } else { request.term < term };
            refused && from.disk.hard_state.term >= last
        }
        Message::AppendEntries(append) => append.term < term && is_past_answers(from, last),
        Message::InstallSnapshot(install) => install.term < term && is_past_answers(from, last),
        Message::TimeoutNow(timeout) => timeout.term < term,
        Message::ReadIndex(_) | Message::ReadIndexReply(_) => false,
    };
    dead && is_no_op(packet, node)
}

/// Whether an answer to entries, of whatever term, says nothing to their sender from here on.
fn is_past_answers(from: &Server, last: Term) -> bool {
    from.disk.hard_state.term >= last
        && !matches!(from.node.role, Role::Candidate { .. } | Role::Leader(_))
}

/// Whether the real handler does nothing but answer. A mutant's handler may do more: then the message stays.
fn is_no_op(packet: &Packet, node: &Node) -> bool {
    let mut after = node.clone();
    let mut effects = Vec::new();
    let mut least = Least;
    let mut last_ticket = Ticket(u64::MAX / 2);
    let mut cx = Context { now: Instant(0), entropy: &mut least, last_ticket: &mut last_ticket };
    let event = Event::Receive { from: packet.from, message: packet.message.clone() };
    after.step(event, &mut cx, &mut effects);
    after == *node && effects.iter().all(|effect| matches!(effect, Effect::Send { .. }))
}
