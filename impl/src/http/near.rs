//! `?near`: lists in order of the round trips that network coordinates tell (Vivaldi, as Serf computes them).

use spec::{
    serf,
    state::{
        State,
        catalog::{CoordinateKey, Node},
        text::{Text, canonical},
    },
};

use super::catalog::Wanted;

/// Puts what stands on nodes in order of the nodes' distance from the one that is asked for. Those without a coordinate
/// come last; where the one that is asked for has none, the order stays.
///
/// What stands on that node itself comes first. (In Consul a node is as far from itself as two others that share its place,
/// twice its own link away, so a near one may come before it.)
pub(crate) fn sort<T>(state: &State, wanted: &Wanted, items: &mut [T], node: impl Fn(&T) -> &Node) {
    let place = |name: &str| {
        let key = CoordinateKey { node: canonical(name), segment: Text::default() };
        state.catalog().coordinates.get(&key).map(serf::coordinate::Coordinate::from)
    };
    let Some(near) = wanted.near.as_deref() else { return };
    let Some(from) = place(near) else { return };
    let distance = |name: &str| {
        if canonical(name) == canonical(near) {
            return -1.0;
        }
        place(name).map_or(f64::INFINITY, |at| from.distance(&at))
    };
    items.sort_by(|one, other| distance(&node(one).name).total_cmp(&distance(&node(other).name)));
}
