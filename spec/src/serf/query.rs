//! Queries: whom they are for, and what the one who asks and the one who answers keep of them (SERF-25 to SERF-29).

use alloc::{collections::BTreeSet, sync::Arc};
use core::time::Duration;

use regex_automata::{
    nfa::thompson::{self, pikevm::PikeVM},
    util::syntax,
};

use super::{lamport::LamportTime, message::Filter, tags::Tags};
use crate::{
    swim::{Endpoint, Name},
    time::Instant,
};

/// A query among all: its time, and its id.
pub type QueryKey = (LamportTime, u32);

/// The longest expression of a filter, in bytes.
const MAX_EXPR: usize = 512;
/// The largest automaton of a filter, in bytes.
const MAX_AUTOMATON: usize = 64 << 10;

/// Whether every filter matches the member of this name and these tags.
pub fn matches(filters: &[Filter], name: &Name, tags: &Tags) -> bool {
    filters.iter().all(|filter| match filter {
        Filter::Nodes(names) => names.contains(name),
        // A member without the tag has an empty value, as in Serf.
        Filter::Tag { tag, expr } => {
            is_match(expr, tags.get(tag).map(|value| &**value).unwrap_or_default())
        }
    })
}

/// Whether the expression matches somewhere in the value, in time linear in the value. One that can't be compiled within
/// bounds matches nothing. Classes such as `\d` are ASCII, as in Go.
pub fn is_match(expr: &str, value: &str) -> bool {
    if expr.len() > MAX_EXPR {
        return false;
    }
    let nfa = thompson::Config::new().utf8(false).nfa_size_limit(Some(MAX_AUTOMATON));
    let built = PikeVM::builder()
        .syntax(syntax::Config::new().unicode(false).utf8(false).nest_limit(50))
        .thompson(nfa)
        .build(expr);
    built.is_ok_and(|vm| vm.is_match(&mut vm.create_cache(), value))
}

/// How long a query waits where nothing else is said: until gossip has reached everybody, and the answers are back
/// (Serf's `DefaultQueryTimeout`).
pub fn default_timeout(gossip_interval: Duration, members: usize) -> Duration {
    let (mut reach, mut scale) = (1, 0);
    while reach < members.saturating_add(1) {
        reach = reach.saturating_mul(10);
        scale += 1;
    }
    gossip_interval * 16 * scale.max(1)
}

/// What a query of this member is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The host asked, by this request.
    Host(u64),
    /// An operation on the keyrings.
    Keys,
}

/// A query of this member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Running {
    /// What it is for.
    pub purpose: Purpose,
    /// Who said that it came.
    pub acks: BTreeSet<Name>,
    /// Who answered.
    pub responses: BTreeSet<Name>,
}

impl Running {
    /// A query that nobody answered yet.
    pub const fn new(purpose: Purpose) -> Self {
        Self { purpose, acks: BTreeSet::new(), responses: BTreeSet::new() }
    }

    /// Notes who answers; false where they did before.
    pub fn hear(&mut self, from: &Name, ack: bool) -> bool {
        let heard = if ack { &mut self.acks } else { &mut self.responses };
        heard.insert(Arc::clone(from))
    }
}

/// A query of another member's that the host may answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Open {
    /// Where the asker receives.
    pub source: Endpoint,
    /// The asker.
    pub source_node: Name,
    /// Through how many others the answer also goes.
    pub relay_factor: u8,
    /// Until when.
    pub deadline: Instant,
    /// It was answered.
    pub answered: bool,
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn filters_match_names_and_tags() {
        let tags: Tags = [("role", "web-12"), ("dc", "east")]
            .map(|(tag, value)| (tag.into(), value.into()))
            .into_iter()
            .collect();
        let tag = |tag: &str, expr: &str| Filter::Tag { tag: tag.into(), expr: expr.into() };
        let name: Name = "a".into();
        assert!(matches(&[], &name, &tags));
        assert!(matches(&[Filter::Nodes(vec!["b".into(), "a".into()])], &name, &tags));
        assert!(!matches(&[Filter::Nodes(vec!["b".into()])], &name, &tags));
        assert!(matches(&[tag("role", r"^web-\d+$"), tag("dc", "as")], &name, &tags));
        assert!(!matches(&[tag("role", "web"), tag("dc", "^west$")], &name, &tags));
        assert!(matches(&[tag("absent", "^$")], &name, &tags));
    }

    #[test]
    fn hostile_expressions_match_nothing() {
        assert!(!is_match("(", "("));
        assert!(!is_match("(?:a{1000}){1000}", "a"));
        assert!(!is_match(&"(".repeat(300), "a"));
        assert!(!is_match(&"a".repeat(600), &"a".repeat(600)));
        assert!(is_match("(a*)*b", &("a".repeat(400) + "b")));
    }

    #[test]
    fn a_query_waits_for_gossips_reach() {
        let interval = Duration::from_millis(200);
        assert_eq!(default_timeout(interval, 1), Duration::from_millis(3_200));
        assert_eq!(default_timeout(interval, 9), Duration::from_millis(3_200));
        assert_eq!(default_timeout(interval, 10), Duration::from_millis(6_400));
        assert_eq!(default_timeout(interval, 5_000), Duration::from_millis(12_800));
    }
}
