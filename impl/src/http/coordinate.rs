//! `/v1/coordinate/`: where nodes are in the network.

use agent_sync::Topic;
use hyper::{StatusCode, body::Incoming};
use serde_json::Value;
use spec::{
    serf::coordinate as measured,
    state::{
        Key, State, TableId,
        catalog::{Coordinate, CoordinateUpdate, node_topic},
        text::canonical,
    },
};

use super::{
    Inner,
    blocking::Question,
    catalog::{internal, node_name},
    decode::{self, Fault, Object},
    json,
    query::Values,
    respond::{Refusal, Reply},
    wan,
};
use crate::server::watch_table;

/// What is asked about coordinates.
#[derive(Debug)]
pub(crate) enum Read {
    /// Those of all nodes, in one segment or in all.
    Nodes { segment: Option<String> },
    /// Those of one node, by its canonical name, and what wakes who waits for them.
    Node { key: Key, topic: Key, segment: Option<String> },
}

impl Read {
    /// Reads which segment is meant.
    pub(crate) fn nodes(values: &Values<'_>) -> Self {
        Self::Nodes { segment: segment(values) }
    }

    /// Reads which node and segment are meant.
    pub(crate) fn node(rest: &[u8], values: &Values<'_>) -> Result<Self, Refusal> {
        let key = canonical(&node_name(rest)?);
        let topic = node_topic(&key);
        Ok(Self::Node { key, topic, segment: segment(values) })
    }

    fn found<'a>(&'a self, state: &'a State) -> (u64, Vec<(&'a str, &'a str, &'a Coordinate)>) {
        let (index, rows) = state.coordinates();
        let (only, segment) = match self {
            Self::Nodes { segment } => (None, segment),
            Self::Node { key, segment, .. } => (Some(key), segment),
        };
        let takes = |other: &str| segment.as_deref().is_none_or(|segment| segment == other);
        let found = match only {
            None => rows
                .filter(|(_, segment, _)| takes(segment))
                .map(|(node, segment, place)| (&*node.name, segment, place))
                .collect(),
            Some(key) => {
                let name = state.catalog().nodes.get(key).map_or("", |node| &*node.name);
                let rows = state.catalog().coordinates_of(key);
                rows.filter(|(row, _)| takes(&row.segment))
                    .map(|(row, place)| (name, &*row.segment, place))
                    .collect()
            }
        };
        (index, found)
    }
}

fn segment(values: &Values<'_>) -> Option<String> {
    values.get("segment").map(|segment| String::from_utf8_lossy(segment).into_owned())
}

impl Question for Read {
    const CATALOG: bool = false;

    fn topics(&self) -> [Option<Topic<'_>>; 2] {
        let table = watch_table(TableId::Coordinates);
        let topic = match self {
            Self::Nodes { .. } => Topic::Prefix(table, b""),
            Self::Node { topic, .. } => Topic::Prefix(table, topic),
        };
        [Some(topic), None]
    }

    fn probe(&self, state: &State) -> (u64, bool) {
        let (index, found) = self.found(state);
        (index, !found.is_empty())
    }

    fn answer(&self, state: &State) -> (u64, Reply) {
        let (index, found) = self.found(state);
        if found.is_empty() && matches!(self, Self::Node { .. }) {
            return (index, Reply::empty(StatusCode::NOT_FOUND).without_meta());
        }
        let mut out = Vec::new();
        json::push_list(&mut out, found, |out, (node, segment, place)| {
            push_entry(out, node, segment, place);
        });
        (index, Reply::json(out))
    }
}

fn push_entry(out: &mut Vec<u8>, node: &str, segment: &str, place: &Coordinate) {
    out.extend_from_slice(b"{\"Node\":");
    json::push_string(out, node.as_bytes());
    json::push_field(out, "Segment", segment);
    out.extend_from_slice(b",\"Coord\":{\"Vec\":");
    json::push_list(out, place.vector, |out, bits| json::push_float(out, f64::from_bits(bits)));
    for (name, bits) in
        [("Error", place.error), ("Adjustment", place.adjustment), ("Height", place.height)]
    {
        out.push(b',');
        json::push_string(out, name.as_bytes());
        out.push(b':');
        json::push_float(out, f64::from_bits(bits));
    }
    out.extend_from_slice(b"}}");
}

/// The body by which an agent tells a server where its node is.
pub(crate) fn told(update: &CoordinateUpdate) -> Vec<u8> {
    let mut out = Vec::new();
    push_entry(&mut out, &update.node, &update.segment, &update.coordinate);
    out
}

/// The servers of each datacenter in the WAN. Without gossip there is this one, which hasn't measured anything yet.
pub(crate) fn datacenters(inner: &Inner) -> Reply {
    let fresh = Coordinate::from(&measured::Coordinate::default());
    let areas: Vec<(String, Vec<(String, Coordinate)>)> = match wan::places(inner.agent.as_ref()) {
        None => {
            let settings = &inner.settings;
            vec![(settings.datacenter.clone(), vec![(settings.node_name.clone(), fresh)])]
        }
        Some(areas) => areas
            .into_iter()
            .map(|(datacenter, places)| {
                let places = places.iter().map(|(node, place)| (node.clone(), place.into()));
                (datacenter, places.collect())
            })
            .collect(),
    };
    let mut out = Vec::new();
    json::push_list(&mut out, areas, |out, (datacenter, places)| {
        out.extend_from_slice(b"{\"Datacenter\":");
        json::push_string(out, datacenter.as_bytes());
        out.extend_from_slice(b",\"AreaID\":\"wan\",\"Coordinates\":");
        json::push_list(out, places, |out, (node, place)| push_entry(out, &node, "", &place));
        out.push(b'}');
    });
    Reply::json(out)
}

/// Notes where a node is.
pub(crate) async fn update(inner: &Inner, incoming: Incoming) -> Result<Reply, Refusal> {
    let body = decode::body(incoming).await?;
    let (datacenter, node, segment, numbers) = read_update(&body).map_err(Fault::refusal)?;
    if !datacenter.is_empty() && datacenter != inner.settings.datacenter {
        return Err(internal("No path to datacenter".to_owned()));
    }
    let coordinate = numbers.coordinate().map_err(|text| internal(text.to_owned()))?;
    let update = CoordinateUpdate { node: node.into(), segment: segment.into(), coordinate };
    inner.server.tell_coordinate(update).await?;
    Ok(Reply::empty(StatusCode::OK))
}

/// A coordinate as a client sends it.
#[derive(Default)]
struct Numbers {
    vector: Vec<f64>,
    error: f64,
    adjustment: f64,
    height: f64,
}

impl Numbers {
    /// The coordinate, or why it is none, in Consul's words.
    fn coordinate(&self) -> Result<Coordinate, &'static str> {
        let bits: Vec<u64> = self.vector.iter().map(|number| number.to_bits()).collect();
        let vector = bits.try_into().map_err(|_| "incompatible coordinate")?;
        let coordinate = Coordinate {
            vector,
            error: self.error.to_bits(),
            adjustment: self.adjustment.to_bits(),
            height: self.height.to_bits(),
        };
        if coordinate.is_valid() { Ok(coordinate) } else { Err("invalid coordinate") }
    }
}

fn read_update(body: &[u8]) -> Result<(String, String, String, Numbers), Fault> {
    let mut object = Object::read("structs.CoordinateUpdateRequest", body)?;
    let (datacenter, node) = (object.text("Datacenter")?, object.text("Node")?);
    let segment = object.text("Segment")?;
    let mut numbers = Numbers::default();
    if let Some(mut place) = object.object("Coord", "Coordinate")? {
        numbers.vector = match place.take("Vec") {
            None => Vec::new(),
            Some(Value::Array(values)) => {
                values.iter().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect()
            }
            Some(_) => {
                return Err(Fault::new(
                    "json: cannot unmarshal into Go struct field \
                Coordinate.Coord.Vec of type []float64",
                ));
            }
        };
        numbers.error = place.float("Error")?;
        numbers.adjustment = place.float("Adjustment")?;
        numbers.height = place.float("Height")?;
        place.done()?;
    }
    object.ignore(&["Token"]);
    object.done()?;
    Ok((datacenter, node, segment, numbers))
}
