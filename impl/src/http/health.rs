//! `/v1/health/`: the checks of a node, and the checks that stand in some way.

use agent_sync::Topic;
use spec::state::{
    Key, State, TableId,
    catalog::{Check, Node, node_topic},
    text::canonical,
};

use super::{
    Inner,
    blocking::Question,
    catalog::{Wanted, node_name, push_indexes},
    json, near,
    query::Values,
    request,
    respond::{Refusal, Reply},
};
use crate::server::watch_table;

/// What is asked about health.
#[derive(Debug)]
pub(crate) enum Read {
    /// The checks of a node, by its canonical name, and what wakes who waits for them.
    Node { key: Key, topic: Key },
    /// The checks that stand so; all of them for `any`.
    State { status: String, wanted: Wanted },
}

impl Read {
    /// Reads which node is meant.
    pub(crate) fn node(rest: &[u8], values: &Values<'_>) -> Result<Self, Refusal> {
        request::no_filter(values)?;
        let key = canonical(&node_name(rest)?);
        let topic = node_topic(&key);
        Ok(Self::Node { key, topic })
    }

    /// Reads how the checks are to stand.
    pub(crate) fn state(inner: &Inner, rest: &[u8], values: &Values<'_>) -> Result<Self, Refusal> {
        let wanted = Wanted::read(inner, values)?;
        if rest.is_empty() {
            return Err(Reply::bad_request("Missing check state"));
        }
        Ok(Self::State { status: String::from_utf8_lossy(rest).into_owned(), wanted })
    }

    fn found<'a>(&'a self, state: &'a State) -> (u64, Vec<(&'a Node, &'a Check)>) {
        match self {
            Self::Node { key, .. } => {
                let node = state.catalog().nodes.get(key);
                let (index, checks) = state.node_checks(key);
                (index, checks.filter_map(|check| Some((node?, check))).collect())
            }
            Self::State { status, wanted } => {
                let (index, checks) = state.checks();
                let stands =
                    |check: &Check| status == "any" || check.body.status.as_str() == status;
                let takes = |(node, check): &(&Node, &Check)| stands(check) && wanted.takes(node);
                let index =
                    if wanted.asks_nodes() { state.nodes_and_checks_index() } else { index };
                let mut found: Vec<_> = checks.filter(takes).collect();
                near::sort(state, wanted, &mut found, |(node, _)| *node);
                (index, found)
            }
        }
    }
}

impl Question for Read {
    const CATALOG: bool = true;

    fn topics(&self) -> [Option<Topic<'_>>; 2] {
        let checks = watch_table(TableId::Checks);
        match self {
            Self::Node { topic, .. } => [Some(Topic::Prefix(checks, topic)), None],
            Self::State { wanted, .. } => {
                let nodes = Topic::Prefix(watch_table(TableId::Nodes), b"");
                [Some(Topic::Prefix(checks, b"")), wanted.asks_nodes().then_some(nodes)]
            }
        }
    }

    fn probe(&self, state: &State) -> (u64, bool) {
        let (index, found) = self.found(state);
        (index, !found.is_empty())
    }

    fn answer(&self, state: &State) -> (u64, Reply) {
        let (index, found) = self.found(state);
        let mut out = Vec::new();
        json::push_list(&mut out, found, |out, (node, check)| push_check(out, node, check));
        (index, Reply::json(out))
    }
}

/// Writes a check as Consul's answers have it. A node's own checks have no service.
fn push_check(out: &mut Vec<u8>, node: &Node, check: &Check) {
    let body = &check.body;
    out.extend_from_slice(b"{\"Node\":");
    json::push_string(out, node.name.as_bytes());
    for (name, value) in [
        ("CheckID", &*body.id),
        ("Name", &*body.name),
        ("Status", body.status.as_str()),
        ("Notes", &*body.notes),
        ("Output", &*body.output),
        ("ServiceID", &*body.service_id),
        ("ServiceName", ""),
    ] {
        json::push_field(out, name, value);
    }
    out.extend_from_slice(b",\"ServiceTags\":[]");
    json::push_field(out, "Type", &body.kind);
    out.extend_from_slice(b",\"Definition\":");
    let definition = if body.definition.is_empty() { "{}" } else { &*body.definition };
    out.extend_from_slice(definition.as_bytes());
    push_indexes(out, check.create_index, check.modify_index);
    out.push(b'}');
}
