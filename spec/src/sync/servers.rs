//! Which server an agent that is none sends its requests to (prose/servers.md, SERVER-1 to SERVER-6).
//!
//! The rules are those of Consul's router manager: an order drawn by lot, the first of it in use, one that fails goes to
//! the end, and now and then the lot is drawn again, so that servers that were away get their share of agents back.

use alloc::{collections::BTreeSet, vec::Vec};
use core::{fmt::Debug, time::Duration};

use crate::entropy::Entropy;

/// How long a server stays in use at least, chance apart.
const MIN_REUSE: Duration = Duration::from_mins(2);
/// Agents that may turn to one server within a second, because it is their turn, in the whole cluster.
const MOVES_PER_SECOND_PER_SERVER: u64 = 64;

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event<K> {
    /// These are the servers, and so many agents share them.
    Known {
        /// Every server that is known.
        servers: BTreeSet<K>,
        /// Agents in the cluster, servers too.
        agents: usize,
    },
    /// A request couldn't be sent to this server, or was lost on the way.
    Failed(K),
    /// The time of [`Effect::RebalanceAfter`] is over.
    RebalanceDue,
    /// How [`Effect::Ping`] went.
    Pinged {
        /// Whom.
        server: K,
        /// Whether it answered.
        alive: bool,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect<K> {
    /// Ask this server whether it is there, and tell by [`Event::Pinged`].
    Ping(K),
    /// Tell [`Event::RebalanceDue`] after this time; one such timer, set anew.
    RebalanceAfter(Duration),
}

/// The servers in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Servers<K> {
    /// The first is in use.
    order: Vec<K>,
    agents: usize,
    /// Who may be the next in use, the last of them pinged at present; empty outside of a rebalance.
    candidates: Vec<K>,
}

impl<K> Default for Servers<K> {
    fn default() -> Self {
        Self { order: Vec::new(), agents: 0, candidates: Vec::new() }
    }
}

impl<K: Ord + Clone + Debug> Servers<K> {
    /// The server to send requests to; none where none is known.
    pub fn in_use(&self) -> Option<&K> {
        self.order.first()
    }

    /// All of them, in the order in which they would be tried.
    pub fn order(&self) -> &[K] {
        &self.order
    }

    /// Takes what happened, and adds what is to be done.
    pub fn step(
        &mut self,
        event: Event<K>,
        entropy: &mut dyn Entropy,
        effects: &mut Vec<Effect<K>>,
    ) {
        match event {
            Event::Known { servers, agents } => self.know(servers, agents, entropy, effects),
            Event::Failed(server) => {
                // Only the one in use: two requests that failed together would otherwise pass over a server that
                // nobody has tried.
                if self.order.len() > 1 && self.in_use() == Some(&server) {
                    self.order.rotate_left(1);
                }
            }
            Event::RebalanceDue => {
                if self.candidates.is_empty() {
                    self.candidates.clone_from(&self.order);
                    shuffle(&mut self.candidates, entropy);
                    self.ping(effects);
                }
                self.arm(entropy, effects);
            }
            Event::Pinged { server, alive } => {
                if self.candidates.last() == Some(&server) {
                    self.pinged(&server, alive, entropy, effects);
                }
            }
        }
    }

    fn know(
        &mut self,
        servers: BTreeSet<K>,
        agents: usize,
        entropy: &mut dyn Entropy,
        effects: &mut Vec<Effect<K>>,
    ) {
        self.agents = agents;
        self.order.retain(|server| servers.contains(server));
        let first = self.order.is_empty();
        for server in servers {
            if !self.order.contains(&server) {
                // Behind the one in use, which serves well; at a place by lot, or all agents that heard of the servers
                // in the same order would fall upon the same one.
                let behind = usize::from(!first);
                let place = behind + entropy.choose(self.order.len() + 1 - behind);
                self.order.insert(place, server);
            }
        }
        let pinged = self.candidates.last().cloned();
        self.candidates.retain(|server| self.order.contains(server));
        if first && !self.order.is_empty() {
            self.candidates = self.order.iter().rev().cloned().collect();
            self.arm(entropy, effects);
            self.ping(effects);
        } else if self.candidates.last() != pinged.as_ref() {
            // Whoever was asked is gone: its answer would be waited for in vain.
            self.ping(effects);
        }
    }

    fn pinged(
        &mut self,
        server: &K,
        alive: bool,
        entropy: &mut dyn Entropy,
        effects: &mut Vec<Effect<K>>,
    ) {
        if !alive {
            self.candidates.pop();
            // With none left the order stays as it is: there is nobody better.
            self.ping(effects);
            return;
        }
        self.candidates.clear();
        shuffle(&mut self.order, entropy);
        if let Some(place) = self.order.iter().position(|known| known == server) {
            self.order.swap(0, place);
        }
    }

    fn ping(&self, effects: &mut Vec<Effect<K>>) {
        effects.extend(self.candidates.last().cloned().map(Effect::Ping));
    }

    fn arm(&self, entropy: &mut dyn Entropy, effects: &mut Vec<Effect<K>>) {
        if !self.order.is_empty() {
            effects.push(Effect::RebalanceAfter(self.interval(entropy)));
        }
    }

    /// How long the server in use stays it, unless it fails.
    fn interval(&self, entropy: &mut dyn Entropy) -> Duration {
        let least = MIN_REUSE + entropy.jitter(MIN_REUSE / 2);
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let moves = count(self.order.len()).saturating_mul(MOVES_PER_SECOND_PER_SERVER).max(1);
        least.max(Duration::from_millis(count(self.agents).saturating_mul(1000) / moves))
    }
}

/// Draws an order by lot (Fisher and Yates).
fn shuffle<K>(items: &mut [K], entropy: &mut dyn Entropy) {
    for last in (1..items.len()).rev() {
        items.swap(last, entropy.choose(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use super::*;
    use crate::entropy::Seeded;

    struct Run {
        servers: Servers<u8>,
        entropy: Seeded,
    }

    impl Run {
        fn of(known: impl IntoIterator<Item = u8>) -> (Self, Vec<Effect<u8>>) {
            let mut run = Self { servers: Servers::default(), entropy: Seeded::new(7) };
            let effects = run.know(known, 10);
            (run, effects)
        }

        fn step(&mut self, event: Event<u8>) -> Vec<Effect<u8>> {
            let mut effects = Vec::new();
            self.servers.step(event, &mut self.entropy, &mut effects);
            effects
        }

        fn know(&mut self, known: impl IntoIterator<Item = u8>, agents: usize) -> Vec<Effect<u8>> {
            self.step(Event::Known { servers: known.into_iter().collect(), agents })
        }

        fn ping(&mut self, server: u8, alive: bool) -> Vec<Effect<u8>> {
            self.step(Event::Pinged { server, alive })
        }
    }

    fn pings(effects: &[Effect<u8>]) -> Vec<u8> {
        let ping = |effect: &Effect<u8>| match effect {
            Effect::Ping(server) => Some(*server),
            Effect::RebalanceAfter(_) => None,
        };
        effects.iter().filter_map(ping).collect()
    }

    #[test]
    fn agents_that_learn_of_the_same_servers_use_different_ones() {
        let mut used = BTreeSet::new();
        for seed in 0..50 {
            let mut servers = Servers::default();
            let known = Event::Known { servers: (0..5_u8).collect(), agents: 9 };
            servers.step(known, &mut Seeded::new(seed), &mut Vec::new());
            used.insert(*servers.in_use().unwrap());
        }
        assert_eq!(used.len(), 5);
    }

    #[test]
    fn without_servers_there_is_nothing_to_do() {
        let (mut run, effects) = Run::of([]);
        assert_eq!(effects, []);
        assert_eq!(run.servers.in_use(), None);
        assert_eq!(run.step(Event::RebalanceDue), []);
        assert_eq!(run.step(Event::Failed(1)), []);
    }

    #[test]
    fn the_one_in_use_stays_when_others_come_and_go() {
        let (mut run, _) = Run::of([3]);
        for known in [vec![1, 2, 3, 4, 5], vec![2, 3], vec![0, 2, 3, 9]] {
            run.know(known.clone(), 10);
            assert_eq!(run.servers.in_use(), Some(&3));
            let mut order = run.servers.order().to_vec();
            order.sort_unstable();
            assert_eq!(order, known);
        }
        run.know([9, 2], 10);
        assert_ne!(run.servers.in_use(), Some(&3));
    }

    #[test]
    fn two_requests_that_fail_together_do_not_pass_over_a_server() {
        let (mut run, _) = Run::of(0..3);
        let order = run.servers.order().to_vec();
        run.step(Event::Failed(order[0]));
        run.step(Event::Failed(order[0]));
        assert_eq!(run.servers.order(), [order[1], order[2], order[0]]);
        run.step(Event::Failed(order[0]));
        assert_eq!(run.servers.in_use(), Some(&order[1]));
    }

    #[test]
    fn a_lone_server_that_fails_is_still_in_use() {
        let (mut run, _) = Run::of([1]);
        run.step(Event::Failed(1));
        assert_eq!(run.servers.in_use(), Some(&1));
    }

    #[test]
    fn the_first_server_known_is_asked_at_once_and_the_next_where_it_is_silent() {
        let (mut run, effects) = Run::of(0..3);
        let order = run.servers.order().to_vec();
        assert_eq!(pings(&effects), [order[0]]);
        assert_eq!(pings(&run.ping(order[0], false)), [order[1]]);
        assert_eq!(run.ping(order[1], true), []);
        assert_eq!(run.servers.in_use(), Some(&order[1]));
        // An answer that nobody waits for changes nothing.
        run.ping(order[2], true);
        assert_eq!(run.servers.in_use(), Some(&order[1]));
    }

    #[test]
    fn a_rebalance_uses_the_first_that_answers_and_all_servers_get_their_turn() {
        let (mut run, _) = Run::of(0..4);
        let first = *run.servers.in_use().unwrap();
        run.ping(first, true);
        let mut used = BTreeSet::new();
        for _ in 0..60 {
            let effects = run.step(Event::RebalanceDue);
            let asked = pings(&effects);
            assert_eq!((asked.len(), effects.len()), (1, 2));
            // Until it has answered, requests go where they went.
            let before = *run.servers.in_use().unwrap();
            let next = pings(&run.ping(asked[0], false));
            assert_eq!(run.servers.in_use(), Some(&before));
            run.ping(next[0], true);
            assert_eq!(run.servers.in_use(), Some(&next[0]));
            used.insert(next[0]);
        }
        assert_eq!(used.len(), 4);
    }

    #[test]
    fn where_nobody_answers_the_order_stays() {
        let (mut run, effects) = Run::of(0..3);
        let order = run.servers.order().to_vec();
        let mut asked = pings(&effects);
        let mut count = 0;
        while let Some(server) = asked.pop() {
            asked = pings(&run.ping(server, false));
            count += 1;
        }
        assert_eq!(count, 3);
        assert_eq!(run.servers.order(), order);
        assert_eq!(pings(&run.step(Event::RebalanceDue)).len(), 1);
    }

    #[test]
    fn a_server_that_goes_away_while_it_is_asked_does_not_hold_up_the_rebalance() {
        let (mut run, effects) = Run::of(0..3);
        let gone = pings(&effects)[0];
        let asked = pings(&run.know((0..3).filter(|server| *server != gone), 10));
        assert_eq!(asked.len(), 1);
        run.ping(asked[0], true);
        assert_eq!(run.servers.in_use(), Some(&asked[0]));
    }

    #[test]
    fn a_server_stays_in_use_for_two_to_three_minutes_and_longer_in_large_clusters() {
        let (mut run, _) = Run::of(0..3);
        let mut interval = |agents| {
            run.know(0..3, agents);
            match run.step(Event::RebalanceDue).last() {
                Some(Effect::RebalanceAfter(interval)) => *interval,
                other => panic!("{other:?}"),
            }
        };
        for _ in 0..20 {
            let interval = interval(100);
            assert!(interval >= Duration::from_mins(2) && interval <= Duration::from_mins(3));
        }
        assert_eq!(interval(192_000), Duration::from_secs(1000));
    }
}
