//! What an agent says of its own node (prose/sync.md, SYNC-9; Consul's `local.State`).

use alloc::vec::Vec;
use core::time::Duration;

use crate::{
    entropy::Entropy,
    state::{
        catalog::{NodeBody, Registration},
        text::canonical,
    },
};

/// How often an agent of a small cluster looks at what the catalog says of its node.
pub const INTERVAL: Duration = Duration::from_mins(1);
/// How soon it looks again while the catalog doesn't have its node, or nobody could be asked.
pub const RETRY: Duration = Duration::from_secs(1);
/// The longest that it waits then.
pub const LONGEST_RETRY: Duration = Duration::from_secs(15);
/// Up to so many agents look once an interval.
const SMALL: usize = 128;

/// How long an agent waits before it looks again. In large clusters it looks less often: with each doubling of the agents
/// it waits an interval longer. Up to as much again is added by lot.
pub fn interval(agents: usize, entropy: &mut dyn Entropy) -> Duration {
    let beyond = agents.div_ceil(SMALL).max(1);
    let wait = INTERVAL.saturating_mul(beyond.next_power_of_two().ilog2().saturating_add(1));
    wait.saturating_add(entropy.jitter(wait))
}

/// How long it waits after so many tries in a row that came to nothing.
pub fn retry(tries: u32, entropy: &mut dyn Entropy) -> Duration {
    let wait = RETRY.saturating_mul(tries.clamp(1, 15)).min(LONGEST_RETRY);
    wait / 2 + entropy.jitter(wait / 2)
}

/// What to register so that the catalog says of an agent's node what the agent says; none where it does so already.
///
/// A node is gossip's to make: an agent that has just left must not bring its own back. And a node of this name with
/// another id is another machine's, of which the leader's reconcile judges.
pub fn correction(standing: &NodeBody, own: &NodeBody) -> Option<Registration> {
    let ours = canonical(&standing.name) == canonical(&own.name)
        && standing.id.is_none_or(|id| Some(id) == own.id);
    let said = standing.name == own.name
        && standing.id == own.id
        && standing.address == own.address
        && standing.tagged_addresses == own.tagged_addresses
        && standing.meta == own.meta;
    (ours && !said).then(|| Registration {
        node: own.clone(),
        skip_node_update: false,
        parts: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{entropy::Least, raft::NodeId};

    fn node(name: &str, id: u128, address: &str) -> NodeBody {
        let id = Some(NodeId(id)).filter(|id| id.0 > 0);
        NodeBody { name: name.into(), id, address: address.into(), ..NodeBody::default() }
    }

    #[test]
    fn an_agent_corrects_what_the_catalog_says_of_its_own_node_only() {
        let mut own = node("a", 1, "10.0.0.1");
        own.meta = Some([("rack", "r1")].into_iter().collect());
        assert_eq!(correction(&own, &own), None);
        for standing in [node("a", 1, "10.0.0.1"), node("A", 1, "10.0.0.2"), node("a", 0, "")] {
            let correction = correction(&standing, &own).unwrap();
            assert_eq!((correction.node, correction.parts.len()), (own.clone(), 0));
        }
        for standing in [node("a", 2, "10.0.0.1"), node("b", 1, "10.0.0.1")] {
            assert_eq!(correction(&standing, &own), None, "{standing:?}");
        }
    }

    #[test]
    fn an_agent_looks_every_minute_and_less_often_in_large_clusters() {
        let minutes = |agents| interval(agents, &mut Least).as_secs() / 60;
        let counted = [0, 1, 128, 129, 256, 257, 512, 8192].map(minutes);
        assert_eq!(counted, [1, 1, 1, 2, 2, 3, 3, 7]);
        assert_eq!(retry(1, &mut Least), RETRY / 2);
        assert_eq!(retry(u32::MAX, &mut Least), LONGEST_RETRY / 2);
    }
}
