//! `/v1/catalog/`: nodes, what stands on them, registering and deregistering. Services come later: there are none yet.

use agent_sync::Topic;
use hyper::body::Incoming;
use spec::state::{
    Command, Key, Outcome, State, TableId,
    catalog::{
        CatalogCommand, CheckBody, CheckStatus, Deregistration, Node, NodeBody, Part, Registration,
        parse_node_id,
    },
    text::{Pairs, Text, canonical},
};

use super::{
    Inner,
    blocking::Question,
    decode::{self, Fault, Object},
    json, near,
    query::Values,
    request,
    respond::{Failure, Refusal, Reply},
};
use crate::server::watch_table;

/// Which nodes of a list are wanted, and in which order.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// The pairs that a node's metadata must have.
    meta: Vec<(String, String)>,
    /// The node to which the others are put in order of their distance.
    pub near: Option<String>,
}

impl Wanted {
    /// Reads `node-meta` and `near`; `_agent` is this agent.
    pub(crate) fn read(inner: &Inner, values: &Values<'_>) -> Result<Self, Refusal> {
        request::no_filter(values)?;
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let pair = |value: &[u8]| {
            let value = text(value);
            let (name, value) = value.split_once(':').unwrap_or((&value, ""));
            (name.to_owned(), value.to_owned())
        };
        let near = values.get_filled("near").map(text);
        Ok(Self {
            meta: values.all("node-meta").map(pair).collect(),
            near: near.map(|near| match &*near {
                "_agent" => inner.settings.node_name.clone(),
                _ => near,
            }),
        })
    }

    /// Whether a node is wanted.
    pub(crate) fn takes(&self, node: &Node) -> bool {
        let has = |(name, value): &(String, String)| {
            node.meta.as_ref().and_then(|meta| meta.get(name)) == Some(value)
        };
        self.meta.iter().all(has)
    }

    /// Whether what is wanted depends on the nodes themselves.
    pub(crate) fn asks_nodes(&self) -> bool {
        !self.meta.is_empty()
    }
}

/// What is asked of the catalog.
#[derive(Debug)]
pub(crate) enum Read {
    /// All nodes.
    Nodes(Wanted),
    /// One node and its services.
    Node { name: String, key: Key },
    /// The same, with the services as a list.
    NodeServices { name: String, key: Key },
}

impl Read {
    /// Reads which node is meant.
    pub(crate) fn node(
        rest: &[u8],
        values: &Values<'_>,
        read: fn(String, Key) -> Self,
    ) -> Result<Self, Refusal> {
        request::no_filter(values)?;
        let name = node_name(rest)?;
        let key = canonical(&name);
        Ok(read(name, key))
    }
}

/// The node that a path names.
pub(crate) fn node_name(rest: &[u8]) -> Result<String, Refusal> {
    if rest.is_empty() {
        return Err(Reply::bad_request("Missing node name"));
    }
    Ok(String::from_utf8_lossy(rest).into_owned())
}

impl Question for Read {
    const CATALOG: bool = true;

    fn topics(&self) -> [Option<Topic<'_>>; 2] {
        let table = watch_table(TableId::Nodes);
        let topic = match self {
            Self::Nodes(_) => Topic::Prefix(table, b""),
            // What isn't a name may be the start of an id, which any node may come to have.
            Self::Node { name, .. } | Self::NodeServices { name, .. } if may_be_an_id(name) => {
                Topic::Prefix(table, b"")
            }
            Self::Node { key, .. } | Self::NodeServices { key, .. } => Topic::Key(table, key),
        };
        [Some(topic), None]
    }

    fn probe(&self, state: &State) -> (u64, bool) {
        match self {
            Self::Nodes(wanted) => {
                let (index, mut nodes) = state.nodes();
                (index, nodes.any(|node| wanted.takes(node)))
            }
            Self::Node { name, .. } | Self::NodeServices { name, .. } => {
                let (index, node) = state.node(name);
                (index, node.is_some())
            }
        }
    }

    fn answer(&self, state: &State) -> (u64, Reply) {
        let mut out = Vec::new();
        let index = match self {
            Self::Nodes(wanted) => {
                let (index, nodes) = state.nodes();
                let mut nodes: Vec<&Node> = nodes.filter(|node| wanted.takes(node)).collect();
                near::sort(state, wanted, &mut nodes, |node| node);
                json::push_list(&mut out, nodes, push_node);
                index
            }
            Self::Node { name, .. } => {
                let (index, node) = state.node(name);
                match node {
                    None => out.extend_from_slice(b"null"),
                    Some(node) => {
                        out.extend_from_slice(b"{\"Node\":");
                        push_node(&mut out, node);
                        out.extend_from_slice(b",\"Services\":{}}");
                    }
                }
                index
            }
            Self::NodeServices { name, .. } => {
                let (index, node) = state.node(name);
                match node {
                    None => out.extend_from_slice(b"{\"Node\":null,\"Services\":null}"),
                    Some(node) => {
                        out.extend_from_slice(b"{\"Node\":");
                        push_node(&mut out, node);
                        out.extend_from_slice(b",\"Services\":[]}");
                    }
                }
                index
            }
        };
        (index, Reply::json(out))
    }
}

/// Whether a name has only what an id has.
fn may_be_an_id(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// Writes a node as Consul's answers have it.
pub(crate) fn push_node(out: &mut Vec<u8>, node: &Node) {
    out.extend_from_slice(b"{\"ID\":");
    let id = node.id.map(|id| id.to_string()).unwrap_or_default();
    json::push_string(out, id.as_bytes());
    json::push_field(out, "Node", &node.name);
    json::push_field(out, "Address", &node.address);
    json::push_field(out, "Datacenter", &node.datacenter);
    out.extend_from_slice(b",\"TaggedAddresses\":");
    push_pairs(out, node.tagged_addresses.as_ref());
    out.extend_from_slice(b",\"Meta\":");
    push_pairs(out, node.meta.as_ref());
    push_indexes(out, node.create_index, node.modify_index);
    out.push(b'}');
}

/// Writes the two indexes that end an object.
pub(crate) fn push_indexes(out: &mut Vec<u8>, create_index: u64, modify_index: u64) {
    out.extend_from_slice(b",\"CreateIndex\":");
    json::push_number(out, create_index);
    out.extend_from_slice(b",\"ModifyIndex\":");
    json::push_number(out, modify_index);
}

fn push_pairs(out: &mut Vec<u8>, pairs: Option<&Pairs>) {
    let Some(pairs) = pairs else { return out.extend_from_slice(b"null") };
    out.push(b'{');
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        json::push_string(out, name.as_bytes());
        out.push(b':');
        json::push_string(out, value.as_bytes());
    }
    out.push(b'}');
}

/// Registers what the body says.
pub(crate) async fn register(inner: &Inner, incoming: Incoming) -> Result<Reply, Refusal> {
    let body = decode::body(incoming).await?;
    let request = Request::read(&body).map_err(Fault::refusal)?;
    let registration = request.registration(&inner.settings.datacenter).map_err(internal)?;
    propose(inner, CatalogCommand::Register(registration)).await
}

/// Deregisters what the body says.
pub(crate) async fn deregister(inner: &Inner, incoming: Incoming) -> Result<Reply, Refusal> {
    let body = decode::body(incoming).await?;
    let read = || {
        let mut object = Object::read("structs.DeregisterRequest", &body)?;
        let fields = (
            object.text("Datacenter")?,
            object.text("Node")?,
            object.text("ServiceID")?,
            object.text("CheckID")?,
        );
        object.ignore(&["Address", "Token", "Namespace", "AllowStale"]);
        object.done().map(|()| fields)
    };
    let (datacenter, node, service, check) = read().map_err(Fault::refusal)?;
    known(&datacenter, &inner.settings.datacenter).map_err(internal)?;
    let node = Text::from(node);
    let what = if !service.is_empty() {
        if node.is_empty() {
            return Err(internal("Must provide node".to_owned()));
        }
        // There are no services, and what isn't there is as good as gone.
        return Ok(Reply::bool(true));
    } else if check.is_empty() {
        Deregistration::Node { name: node, only: None }
    } else {
        Deregistration::Check { node, id: check.into() }
    };
    propose(inner, CatalogCommand::Deregister(what)).await
}

pub(crate) fn internal(text: String) -> Refusal {
    Failure::internal(text).into()
}

/// Puts a command of the catalog through the log; `true` once that is done.
pub(crate) async fn propose(inner: &Inner, command: CatalogCommand) -> Result<Reply, Refusal> {
    match inner.server.propose(Command::Catalog(command)).await? {
        (_, Outcome::Applied(done)) => Ok(Reply::bool(done)),
        (_, Outcome::Refused(text)) => Err(internal(text)),
    }
}

/// Refuses a datacenter that isn't this one.
fn known(datacenter: &str, own: &str) -> Result<(), String> {
    if datacenter.is_empty() || datacenter == own {
        Ok(())
    } else {
        Err("No path to datacenter".to_owned())
    }
}

/// A registration as a client sends it.
struct Request {
    datacenter: String,
    id: String,
    node: NodeBody,
    skip_node_update: bool,
    service: Option<Service>,
    checks: Vec<(String, CheckBody)>,
}

/// What is looked at of a service, which can't be registered yet.
struct Service {
    id: String,
    name: String,
    address: String,
}

impl Request {
    fn read(body: &[u8]) -> Result<Self, Fault> {
        let mut object = Object::read("structs.RegisterRequest", body)?;
        object.ignore(&["Token", "Namespace"]);
        let pairs = |pairs: Option<Vec<(String, String)>>| pairs.map(|p| p.into_iter().collect());
        let check = object.object("Check", "HealthCheck")?;
        let checks = object.objects("Checks", "HealthCheck")?;
        let request = Self {
            datacenter: object.text("Datacenter")?,
            id: object.text("ID")?,
            node: NodeBody {
                name: object.text("Node")?.into(),
                address: object.text("Address")?.into(),
                tagged_addresses: pairs(object.pairs("TaggedAddresses")?),
                meta: pairs(object.pairs("NodeMeta")?),
                ..NodeBody::default()
            },
            skip_node_update: object.flag("SkipNodeUpdate")?,
            service: object.object("Service", "NodeService")?.map(Service::read).transpose()?,
            // The single one goes behind the others, as Consul puts it.
            checks: checks.into_iter().chain(check).map(read_check).collect::<Result<_, _>>()?,
        };
        object.done()?;
        Ok(request)
    }

    /// The registration, or what Consul's servers would say against it before they put it through the log.
    fn registration(self, own_datacenter: &str) -> Result<Registration, String> {
        known(&self.datacenter, own_datacenter)?;
        if self.node.name.is_empty() {
            return Err("Must provide node".to_owned());
        }
        let id = parse_node_id(&self.id)?;
        if self.node.address.is_empty() && !self.skip_node_update {
            return Err("Must provide address if SkipNodeUpdate is not set".to_owned());
        }
        if let Some(service) = self.service {
            return Err(service.refusal());
        }
        let name = self.node.name.clone();
        let mut parts = Vec::new();
        for (node, check) in self.checks {
            if !node.is_empty() && canonical(&node) != canonical(&name) {
                return Err(format!(
                    "failed inserting check: check node {node:?} does not match node {:?}",
                    &*name
                ));
            }
            parts.push(Part::Check(check));
        }
        let node = NodeBody { id, datacenter: own_datacenter.into(), ..self.node };
        Ok(Registration { node, skip_node_update: self.skip_node_update, parts })
    }
}

impl Service {
    fn read(mut object: Object) -> Result<Self, Fault> {
        object.number("Port", "int")?;
        object.flag("EnableTagOverride")?;
        object.pairs("Meta")?;
        let service = Self {
            id: object.text("ID")?,
            name: object.text("Service")?,
            address: object.text("Address")?,
        };
        object.ignore(&["Kind", "Tags", "TaggedAddresses", "Weights", "Proxy", "Connect"]);
        object.ignore(&["CreateIndex", "ModifyIndex", "Namespace"]);
        object.done().map(|()| service)
    }

    /// Why it isn't registered.
    fn refusal(&self) -> String {
        let unspecified =
            self.address.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified());
        if !self.id.is_empty() && self.name.is_empty() {
            "Must provide service name with ID"
        } else if unspecified {
            "Invalid service address"
        } else {
            "services can't be registered yet"
        }
        .to_owned()
    }
}

/// A check, and the node that it says it is of.
fn read_check(mut object: Object) -> Result<(String, CheckBody), Fault> {
    let node = object.text("Node")?;
    let (id, name) = (object.text("CheckID")?, object.text("Name")?);
    let definition = object.object("Definition", "HealthCheckDefinition")?;
    let check = CheckBody {
        id: if id.is_empty() { name.as_str() } else { id.as_str() }.into(),
        status: CheckStatus::from(&*object.text("Status")?),
        notes: object.text("Notes")?.into(),
        output: object.text("Output")?.into(),
        service_id: object.text("ServiceID")?.into(),
        kind: object.text("Type")?.into(),
        definition: definition.map(read_definition).transpose()?.unwrap_or_default(),
        name: name.into(),
    };
    // What a check's service is called follows from the service.
    object.ignore(&["ServiceName", "ServiceTags", "CreateIndex", "ModifyIndex", "Namespace"]);
    object.done()?;
    Ok((node, check))
}

/// What a check is made of, in Consul's order and without what says nothing.
fn read_definition(mut object: Object) -> Result<Text, Fault> {
    const FIELDS: [&str; 18] = [
        "HTTP",
        "TLSSkipVerify",
        "Header",
        "Method",
        "Body",
        "TCP",
        "Interval",
        "OutputMaxSize",
        "Timeout",
        "DeregisterCriticalServiceAfter",
        "ScriptArgs",
        "DockerContainerID",
        "Shell",
        "GRPC",
        "GRPCUseTLS",
        "AliasNode",
        "AliasService",
        "TTL",
    ];
    let mut out = Vec::new();
    for name in FIELDS {
        let Some(value) = object.take(name).filter(says_something) else { continue };
        out.push(if out.is_empty() { b'{' } else { b',' });
        json::push_string(&mut out, name.as_bytes());
        out.push(b':');
        out.extend(json::encode(&value));
    }
    object.done()?;
    if !out.is_empty() {
        out.push(b'}');
    }
    Ok(String::from_utf8_lossy(&out).as_ref().into())
}

fn says_something(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}
