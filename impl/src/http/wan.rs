//! The datacenters, as the WAN's pool shows them.

use std::{collections::BTreeMap, sync::Arc};

use spec::serf::{Status, coordinate::Coordinate};

use super::Settings;
use crate::gossip::{LocalAgent, Pool, PoolMember};

/// A server of some datacenter, in the WAN.
struct Server {
    member: Arc<PoolMember>,
    place: Option<Coordinate>,
}

/// The servers in the WAN that haven't left, by datacenter.
fn servers(wan: &Pool) -> BTreeMap<String, Vec<Server>> {
    let mut all: BTreeMap<String, Vec<Server>> = BTreeMap::new();
    for member in wan.members().iter() {
        if member.status != Status::Left && member.tag("role") == "consul" {
            let server = Server { member: Arc::clone(member), place: wan.place(&member.name) };
            all.entry(member.tag("dc").to_owned()).or_default().push(server);
        }
    }
    all
}

/// The names of the datacenters: the nearest first, of those equally far (or nobody knows how far) the first by name.
///
/// A datacenter is as far as the median of its servers; this one is no way off.
pub(super) fn datacenters(settings: &Settings, agent: Option<&LocalAgent>) -> Vec<String> {
    let own = &settings.datacenter;
    let Some(wan) = agent.and_then(LocalAgent::wan) else { return vec![own.clone()] };
    let here = wan.coordinate();
    let mut found: Vec<(f64, String)> = servers(wan)
        .into_iter()
        .map(|(datacenter, servers)| {
            let away = |server: &Server| {
                let places = here.as_ref().zip(server.place.as_ref());
                places.map_or(f64::INFINITY, |(here, place)| here.distance(place))
            };
            let near = datacenter == *own;
            let distances = servers.iter().map(|one| if near { 0.0 } else { away(one) });
            (median(distances.collect()), datacenter)
        })
        .collect();
    found.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut names: Vec<String> = found.into_iter().map(|(_, name)| name).collect();
    if !names.contains(own) {
        // Before the pool has begun.
        names.insert(0, own.clone());
    }
    names
}

/// The middle one, the upper of two.
fn median(mut distances: Vec<f64>) -> f64 {
    distances.sort_by(f64::total_cmp);
    distances.get(distances.len() / 2).copied().unwrap_or(f64::INFINITY)
}

/// A datacenter, and where each of its servers is, by node.
pub(super) type Places = (String, Vec<(String, Coordinate)>);

/// Where the servers of all datacenters are, as far as that was measured; none where this agent isn't in the WAN.
pub(super) fn places(agent: Option<&LocalAgent>) -> Option<Vec<Places>> {
    let wan = agent.and_then(LocalAgent::wan)?;
    let places = |(datacenter, servers): (String, Vec<Server>)| {
        let suffix = format!(".{datacenter}");
        let placed = servers.into_iter().filter_map(|Server { member, place }| {
            let name = member.name.strip_suffix(&suffix).unwrap_or(&member.name);
            Some((name.to_owned(), place?))
        });
        (datacenter, placed.collect())
    };
    Some(servers(wan).into_iter().map(places).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_two_is_the_farther_one() {
        assert!((median(vec![3.0, 1.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_infinite());
    }
}
