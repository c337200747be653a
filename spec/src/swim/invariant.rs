//! What must hold within one node after each step. Models use these as properties; the driver checks them and stops.

use super::{
    node::Node,
    types::{Layer, Status},
};

/// A named invariant.
pub type Invariant<L> = (&'static str, fn(&Node<L>) -> bool);

/// The local invariants that cost no more in a large pool: a driver checks them each turn.
pub fn each_turn<L: Layer>() -> [Invariant<L>; 5] {
    [
        ("alive_unless_leaving", alive_unless_leaving),
        ("every_suspicion_runs", every_suspicion_runs),
        ("accusers_count_once", accusers_count_once),
        ("health_in_range", health_in_range),
        ("bounds_kept", bounds_kept),
    ]
}

/// Every local invariant. The last looks at all words that wait, one for each member while a large pool forms: then it took two
/// thirds of all time.
pub fn all<L: Layer>() -> impl Iterator<Item = Invariant<L>> {
    let last: Invariant<L> = ("one_word_about_each", one_word_about_each);
    each_turn().into_iter().chain([last])
}

/// A node is alive to itself unless it leaves (P4), and never a suspect.
pub fn alive_unless_leaving<L: Layer>(node: &Node<L>) -> bool {
    node.members.get(&node.config.name).is_some_and(|own| {
        own.endpoint == node.config.endpoint
            && own.status == if node.leaving.is_some() { Status::Left } else { Status::Alive }
    })
}

/// A suspicion runs for members that are suspects.
pub fn every_suspicion_runs<L: Layer>(node: &Node<L>) -> bool {
    node.suspicions
        .keys()
        .all(|name| node.members.get(name).is_some_and(|member| member.status == Status::Suspect))
}

/// Each accuser of a suspect counts once, and no more than are waited for (P7).
pub fn accusers_count_once<L: Layer>(node: &Node<L>) -> bool {
    node.suspicions.values().all(|suspicion| {
        let confirmers = suspicion.accusers.len().saturating_sub(1);
        u32::try_from(confirmers) == Ok(suspicion.confirmations)
            && suspicion.confirmations <= suspicion.expected
            && suspicion.min <= suspicion.timeout()
            && suspicion.timeout() <= suspicion.max
    })
}

/// Health stays within its range (P8).
pub fn health_in_range<L: Layer>(node: &Node<L>) -> bool {
    node.awareness.0 < node.config.awareness_max.max(1)
}

/// Nothing grows beyond its bound.
pub fn bounds_kept<L: Layer>(node: &Node<L>) -> bool {
    let config = &node.config;
    node.members.len() <= config.max_members.max(1)
        && node.order.len() + 1 == node.members.len()
        && node.next <= node.order.len()
        && node.relays.len() <= config.max_relays
        && node.exchanges.len() <= config.max_exchanges
        && node.queue.entries.len() - node.queue.subjects.len()
            <= config.max_broadcasts.max(2 * config.max_members)
}

/// At most one word about each member waits to be gossiped, and each such word is found by its subject.
pub fn one_word_about_each<L: Layer>(node: &Node<L>) -> bool {
    let queue = &node.queue;
    let words = queue.entries.keys().take_while(|place| place.class == 0);
    words.count() == queue.subjects.len()
        && queue.subjects.iter().all(|(name, place)| {
            queue.entries.get(place).and_then(|part| part.subject()) == Some(name)
        })
}
