//! `rtt`: estimates the round trip between two nodes from their network coordinates.

use bytes::Bytes;
use clap::Command;
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;
use spec::serf::coordinate;

use super::client::{Answer, Client, connect};
use super::flags::{Given, switch, with_api_options};
use super::{Ending, Leaf};

pub(super) const RTT: Leaf = Leaf {
    path: &["rtt"],
    synopsis: "Estimates network round trip time between nodes",
    usage: "rtt [options] node1 [node2]",
    about: "\
Estimates the round trip time between two nodes from their coordinates in the
network. Without a second node it is the one of the agent.

Coordinates of the LAN are those of nodes in one datacenter; with -wan, nodes
are servers, named with their datacenter: \"myserver.dc1\".",
    definition: || {
        with_api_options(Command::new("rtt"))
            .arg(switch("wan", "Use WAN coordinates instead of LAN coordinates."))
    },
    run: rtt,
};

/// A Vivaldi coordinate, in seconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Coordinate {
    vec: Vec<f64>,
    adjustment: f64,
    height: f64,
}

impl Coordinate {
    /// The estimated round trip to another one, in seconds: Serf's distance.
    fn distance(&self, other: &Self) -> f64 {
        self.placed().distance(&other.placed())
    }

    fn placed(&self) -> coordinate::Coordinate {
        let mut placed = coordinate::Coordinate {
            adjustment: self.adjustment,
            height: self.height,
            ..coordinate::Coordinate::default()
        };
        for (to, from) in placed.vec.iter_mut().zip(&self.vec) {
            *to = *from;
        }
        placed
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: String,
    #[serde(default)]
    segment: String,
    coord: Coordinate,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Area {
    datacenter: String,
    #[serde(rename = "AreaID")]
    id: String,
    coordinates: Vec<Entry>,
}

fn rtt(given: &Given) -> Result<Ending, String> {
    let arguments = given.arguments();
    let names: Vec<_> = arguments.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names.is_empty() || names.len() > 2 {
        return Err("One or two node names must be specified".to_owned());
    }
    let client = connect(given)?;
    let estimate = if given.on("wan") { wan(&client, &names)? } else { lan(&client, &names)? };
    Ok(Ending::line(estimate))
}

fn get<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T, String> {
    let answer = client.send(&Method::GET, path, &[], Bytes::new()).and_then(Answer::ok)?;
    serde_json::from_slice(&answer.body).map_err(|error| error.to_string())
}

/// The agent's own name and datacenter.
fn own(client: &Client) -> Result<(String, String), String> {
    let found: Value = get(client, "agent/self")
        .map_err(|error| format!("Unable to look up agent info: {error}"))?;
    let text = |key: &str| found["Config"][key].as_str().unwrap_or_default().to_owned();
    Ok((text("NodeName"), text("Datacenter")))
}

fn wan(client: &Client, names: &[String]) -> Result<String, String> {
    let split = |name: &str| {
        name.rsplit_once('.')
            .map(|(node, datacenter)| (node.to_owned(), datacenter.to_owned()))
            .ok_or("Node names must be specified as <node name>.<datacenter> with -wan")
    };
    let first = split(&names[0])?;
    let second = match names.get(1) {
        Some(name) => split(name)?,
        None => own(client)?,
    };
    let areas: Vec<Area> = get(client, "coordinate/datacenters")
        .map_err(|error| format!("Error getting coordinates: {error}"))?;
    let find = |(node, datacenter): &(String, String)| {
        areas
            .iter()
            .filter(|area| area.id == "wan" && area.datacenter == *datacenter)
            .flat_map(|area| &area.coordinates)
            .find(|entry| entry.node == *node)
            .map(|entry| entry.coord.clone())
            .ok_or(format!(
                "Could not find a coordinate for node {node:?} in datacenter {datacenter:?}"
            ))
    };
    let (a, b) = (find(&first)?, find(&second)?);
    let name = |(node, datacenter): &(String, String)| format!("{node}.{datacenter}");
    Ok(estimated(&name(&first), &name(&second), a.distance(&b), "WAN"))
}

fn lan(client: &Client, names: &[String]) -> Result<String, String> {
    let second = match names.get(1) {
        Some(name) => name.clone(),
        None => own(client)?.0,
    };
    let entries: Vec<Entry> = get(client, "coordinate/nodes")
        .map_err(|error| format!("Error getting coordinates: {error}"))?;
    let find = |name: &str| {
        entries
            .iter()
            .find(|entry| entry.node == name && entry.segment.is_empty())
            .map(|entry| entry.coord.clone())
            .ok_or(format!("Could not find a coordinate for node {name:?}"))
    };
    let (a, b) = (find(&names[0])?, find(&second)?);
    Ok(estimated(&names[0], &second, a.distance(&b), "LAN"))
}

fn estimated(a: &str, b: &str, seconds: f64, pool: &str) -> String {
    format!("Estimated {a} <-> {b} rtt: {:.3} ms (using {pool} coordinates)", seconds * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_serf_s_distance() {
        let at = |x: f64, height, adjustment| Coordinate {
            vec: vec![x, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            height,
            adjustment,
        };
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(at(0.0, 0.001, 0.0).distance(&at(0.003, 0.002, 0.0)), 0.006));
        assert!(near(at(0.0, 0.001, -0.001).distance(&at(0.003, 0.002, 0.0)), 0.005));
        // An adjustment never makes a distance negative.
        assert!(near(at(0.0, 0.001, -1.0).distance(&at(0.003, 0.002, 0.0)), 0.006));
        assert_eq!(
            estimated("s1", "c1", 0.000_530_6, "LAN"),
            "Estimated s1 <-> c1 rtt: 0.531 ms (using LAN coordinates)"
        );
    }
}
