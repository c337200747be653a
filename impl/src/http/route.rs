//! From a request's head to what is to be done: paths, methods and access, in the order in which Consul decides.
//!
//! Only what is built is routed. Everything else that isn't blocked is a 404 with an empty body, as any unknown path of
//! Consul's is.

use std::time::Duration;

use hyper::{Method, StatusCode, body::Incoming, http::request::Parts};

use super::{
    Inner, Origin, Settings, agent, autopilot, blocking, catalog, coordinate, health, keyring, kv,
    local::{self, Local},
    operator, path,
    query::Values,
    request::{self, Options},
    respond::{Failure, Refusal, Reply, Shape},
    snapshot, status,
};
use crate::server::{Consistency, PeerSelector};

/// A path of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Kv,
    StatusLeader,
    StatusPeers,
    Datacenters,
    CatalogNodes,
    CatalogNode,
    CatalogNodeServices,
    CatalogRegister,
    CatalogDeregister,
    HealthNode,
    HealthState,
    CoordinateDatacenters,
    CoordinateNodes,
    CoordinateNode,
    CoordinateUpdate,
    AgentSelf,
    RaftConfiguration,
    RaftPeer,
    TransferLeader,
    Keyring,
    AutopilotConfiguration,
    AutopilotHealth,
    Snapshot,
    Members,
    Join,
    Leave,
    Reload,
    ForceLeave,
    EventFire,
    EventList,
}

/// The paths that take a rest.
const PREFIXES: [(&[u8], Route); 6] = [
    (b"/v1/kv/", Route::Kv),
    (b"/v1/catalog/node/", Route::CatalogNode),
    (b"/v1/catalog/node-services/", Route::CatalogNodeServices),
    (b"/v1/health/node/", Route::HealthNode),
    (b"/v1/health/state/", Route::HealthState),
    (b"/v1/coordinate/node/", Route::CoordinateNode),
];

impl Route {
    /// Finds the path's route, and what follows it where it takes a rest.
    fn find(path: &[u8]) -> Option<(Self, &[u8])> {
        for (prefix, route) in PREFIXES {
            if let Some(rest) = path.strip_prefix(prefix) {
                return Some((route, rest));
            }
        }
        for (prefix, route) in [
            (&b"/v1/agent/join/"[..], Self::Join),
            (b"/v1/agent/force-leave/", Self::ForceLeave),
            (b"/v1/event/fire/", Self::EventFire),
        ] {
            if let Some(rest) = path.strip_prefix(prefix) {
                return Some((route, rest));
            }
        }
        let route = match path {
            b"/v1/status/leader" => Self::StatusLeader,
            b"/v1/status/peers" => Self::StatusPeers,
            b"/v1/catalog/datacenters" => Self::Datacenters,
            b"/v1/catalog/nodes" => Self::CatalogNodes,
            b"/v1/catalog/register" => Self::CatalogRegister,
            b"/v1/catalog/deregister" => Self::CatalogDeregister,
            b"/v1/coordinate/datacenters" => Self::CoordinateDatacenters,
            b"/v1/coordinate/nodes" => Self::CoordinateNodes,
            b"/v1/coordinate/update" => Self::CoordinateUpdate,
            b"/v1/agent/self" => Self::AgentSelf,
            b"/v1/agent/members" => Self::Members,
            b"/v1/agent/leave" => Self::Leave,
            b"/v1/agent/reload" => Self::Reload,
            b"/v1/event/list" => Self::EventList,
            b"/v1/operator/keyring" => Self::Keyring,
            b"/v1/operator/raft/configuration" => Self::RaftConfiguration,
            b"/v1/operator/raft/peer" => Self::RaftPeer,
            b"/v1/operator/raft/transfer-leader" => Self::TransferLeader,
            b"/v1/operator/autopilot/configuration" => Self::AutopilotConfiguration,
            b"/v1/operator/autopilot/health" => Self::AutopilotHealth,
            b"/v1/snapshot" => Self::Snapshot,
            _ => return None,
        };
        Some((route, b""))
    }

    fn methods(self) -> &'static [Method] {
        if let Some(methods) = self.local_methods() {
            return methods;
        }
        match self {
            Self::Keyring => &[Method::GET, Method::POST, Method::PUT, Method::DELETE],
            Self::Kv => &[Method::GET, Method::PUT, Method::DELETE],
            Self::RaftPeer => &[Method::DELETE],
            Self::TransferLeader => &[Method::POST],
            Self::Snapshot | Self::AutopilotConfiguration => &[Method::GET, Method::PUT],
            Self::CatalogRegister | Self::CatalogDeregister | Self::CoordinateUpdate => {
                &[Method::PUT]
            }
            _ => &[Method::GET],
        }
    }

    /// Whether the answer is about the agent that is asked, whoever else could give one.
    fn is_about_the_agent(self) -> bool {
        self == Self::AgentSelf || self.local_methods().is_some()
    }

    fn allow(self) -> &'static str {
        match self {
            Self::Kv => "OPTIONS,GET,PUT,DELETE",
            Self::RaftPeer => "OPTIONS,DELETE",
            Self::TransferLeader => "OPTIONS,POST",
            Self::Snapshot | Self::AutopilotConfiguration => "OPTIONS,GET,PUT",
            Self::Keyring => "OPTIONS,GET,POST,PUT,DELETE",
            Self::Join
            | Self::Leave
            | Self::Reload
            | Self::ForceLeave
            | Self::EventFire
            | Self::CatalogRegister
            | Self::CatalogDeregister
            | Self::CoordinateUpdate => "OPTIONS,PUT",
            _ => "OPTIONS,GET",
        }
    }
}

/// What to do for a request, and how the answer is to look.
#[derive(Debug)]
pub(crate) struct Plan<A = Action> {
    /// What to do, or the answer where that is settled.
    pub action: Result<A, Refusal>,
    /// How the answer is to look.
    pub shape: Shape,
}

/// What to do; owns all that it needs.
#[derive(Debug)]
pub(crate) enum Action {
    Kv(kv::Action),
    StatusLeader,
    StatusPeers,
    Datacenters,
    Catalog(catalog::Read, Options),
    Register,
    Deregister,
    Health(health::Read, Options),
    Coordinates(coordinate::Read, Options),
    CoordinateDatacenters,
    UpdateCoordinate,
    AgentSelf,
    Local(Local),
    Keyring(keyring::Asked),
    AutopilotConfiguration(Consistency),
    ConfigureAutopilot { cas: Option<u64> },
    AutopilotHealth,
    RaftConfiguration { stale: bool },
    RemovePeer(PeerSelector),
    TransferLeader(Option<String>),
    SaveSnapshot { stale: bool },
    RestoreSnapshot,
}

/// What an agent that is no server does.
#[derive(Debug)]
pub(crate) enum Relay {
    /// It speaks of itself.
    AgentSelf,
    /// It does it by itself.
    Local(Local),
    /// A server answers.
    Forward {
        /// How long the request waits for a change, if it does.
        wait: Option<Duration>,
    },
}

/// Decides what a server does for a request.
pub(crate) fn plan(inner: &Inner, parts: &Parts, origin: Origin) -> Plan {
    lay_out(&inner.settings, parts, origin, |route, rest, values| {
        if origin == Origin::Agent && route.is_about_the_agent() {
            // The answer would be about another agent than the one that was asked.
            return Err(Reply::empty(StatusCode::NOT_FOUND).into());
        }
        action(inner, parts, route, rest, values)
    })
}

/// Decides what an agent that is no server does for a request of its client.
pub(crate) fn plan_relay(settings: &Settings, parts: &Parts, origin: Origin) -> Plan<Relay> {
    lay_out(settings, parts, origin, |route, rest, values| {
        if route == Route::AgentSelf {
            return Ok(Relay::AgentSelf);
        }
        if let Some(local) = local::read(settings, route, rest, values, &parts.headers)? {
            return Ok(Relay::Local(local));
        }
        if route == Route::Keyring {
            let text = "keyring operations must run against a server node";
            return Err(Failure::internal(text).into());
        }
        if route == Route::Kv && parts.method == Method::PUT {
            kv::declared_size(settings, &parts.headers)?;
        }
        Ok(Relay::Forward { wait: request::polls_for(settings, values) })
    })
}

/// Decides what every agent decides alike, and asks `decide` for the rest.
fn lay_out<A>(
    settings: &Settings,
    parts: &Parts,
    origin: Origin,
    decide: impl FnOnce(Route, &[u8], &Values<'_>) -> Result<A, Refusal>,
) -> Plan<A> {
    let mut plan = Plan {
        action: Err(Reply::empty(StatusCode::NOT_FOUND).into()),
        shape: Shape { pretty: settings.dev && origin != Origin::Agent, ..Shape::default() },
    };
    let path = match clean_path(settings, parts, origin) {
        Ok(path) => path,
        Err(reply) => {
            plan.action = Err(reply);
            return plan;
        }
    };
    if *path == *b"/" {
        plan.action = Err(Reply::text_with(StatusCode::OK, "Consul Agent").into());
        return plan;
    }
    let found = Route::find(&path);
    // What is blocked is looked at first: Consul has more paths than are routed here, and those can be blocked as well.
    let blocked = origin != Origin::Agent && is_blocked(settings, &path);
    if found.is_none() && !blocked {
        return plan;
    }
    plan.shape.routed = true;
    plan.shape.gzip = request::accepts_gzip(&parts.headers);
    plan.action = match Values::read(parts.uri.query()) {
        None => Err(Reply::empty(StatusCode::INTERNAL_SERVER_ERROR).into()),
        Some(values) => {
            plan.shape.pretty |= values.has("pretty");
            match found {
                Some((route, rest)) if !blocked => access(settings, route, &parts.method, origin)
                    .and_then(|()| decide(route, rest, &values)),
                _ => forbidden("Endpoint is blocked by agent configuration"),
            }
        }
    };
    plan
}

/// The decoded path, or the answer that its form calls for.
fn clean_path<'a>(
    settings: &Settings,
    parts: &'a Parts,
    origin: Origin,
) -> Result<std::borrow::Cow<'a, [u8]>, Refusal> {
    let Some(path) = path::read(parts.uri.path()) else {
        return Err(Reply::bad_request("400 Bad Request").closing().into());
    };
    let unfiltered = settings.disable_http_unprintable_char_filter || origin == Origin::Agent;
    if !path.printable && !unfiltered {
        return Err(Reply::empty(StatusCode::BAD_REQUEST).into());
    }
    let target = path.cleaned.as_deref().unwrap_or(&path.decoded);
    let query = parts.uri.query();
    // What takes a rest is a directory to Go, and is only found with its slash.
    let directory = PREFIXES.iter().find(|(prefix, _)| prefix.strip_suffix(b"/") == Some(target));
    let location = if let Some((prefix, _)) = directory {
        path::location(prefix, query.filter(|query| !query.is_empty()))
    } else if path.cleaned.is_some() {
        path::location(target, query)
    } else {
        return Ok(path.decoded);
    };
    let page = match parts.method {
        Method::GET => Some(path::redirect_body(&location)),
        // As long as its page would be nobody knows: it is announced, not sent.
        Method::HEAD => Some(String::new()),
        _ => None,
    };
    Err(Reply::redirect(&location, page).into())
}

/// Whether `http_config.block_endpoints` has a prefix of this path of the API.
fn is_blocked(settings: &Settings, path: &[u8]) -> bool {
    let has_prefix = |prefix: &String| path.starts_with(prefix.as_bytes());
    path.starts_with(b"/v1/") && settings.block_endpoints.iter().any(has_prefix)
}

fn forbidden<T>(text: &'static str) -> Result<T, Refusal> {
    Err(Reply::text_with(StatusCode::FORBIDDEN, text).into())
}

/// Whether the route has this method, and the configuration lets the request through.
fn access(
    settings: &Settings,
    route: Route,
    method: &Method,
    origin: Origin,
) -> Result<(), Refusal> {
    if *method == Method::OPTIONS {
        return Err(Reply::empty(StatusCode::OK).allowing(route.allow()).into());
    }
    if !route.methods().contains(method) {
        let text = format!("method {method} not allowed");
        return Err(Reply::text_with(StatusCode::METHOD_NOT_ALLOWED, text)
            .allowing(route.allow())
            .into());
    }
    let writers = &settings.allow_write_http_from;
    if *method == Method::GET || writers.is_empty() {
        return Ok(());
    }
    let Origin::Client(remote) = origin else { return Ok(()) };
    match remote {
        // Go's own words for a unix socket's client, which has no address to compare.
        None => Err(Failure::internal(
            "unable to parse remote addr: address @: missing port in address",
        )
        .into()),
        Some(remote) if writers.iter().any(|network| network.contains(remote)) => Ok(()),
        Some(_) => forbidden("Access is restricted"),
    }
}

fn action(
    inner: &Inner,
    parts: &Parts,
    route: Route,
    rest: &[u8],
    values: &Values<'_>,
) -> Result<Action, Refusal> {
    let settings = &inner.settings;
    let options = || {
        let options = Options::read(settings, values, &parts.headers)?;
        request::known_datacenter(settings, values)?;
        Ok::<_, Refusal>(options)
    };
    let text = |name| values.get_filled(name).map(|v| String::from_utf8_lossy(v).into_owned());
    if let Some(local) = local::read(settings, route, rest, values, &parts.headers)? {
        return Ok(Action::Local(local));
    }
    Ok(match route {
        Route::Keyring => {
            request::known_datacenter(settings, values)?;
            Action::Keyring(keyring::read(&parts.method, values)?)
        }
        Route::Kv => Action::Kv(kv::read(inner, rest, values, parts)?),
        Route::StatusLeader => options().map(|_| Action::StatusLeader)?,
        Route::StatusPeers => options().map(|_| Action::StatusPeers)?,
        Route::Datacenters => {
            request::consistency(values)?;
            request::cache_control(&parts.headers)?;
            Action::Datacenters
        }
        Route::CatalogNodes => {
            let options = options()?;
            Action::Catalog(catalog::Read::Nodes(catalog::Wanted::read(inner, values)?), options)
        }
        Route::CatalogNode => {
            let options = options()?;
            let read = |name, key| catalog::Read::Node { name, key };
            Action::Catalog(catalog::Read::node(rest, values, read)?, options)
        }
        Route::CatalogNodeServices => {
            let options = options()?;
            let read = |name, key| catalog::Read::NodeServices { name, key };
            Action::Catalog(catalog::Read::node(rest, values, read)?, options)
        }
        Route::CatalogRegister | Route::CatalogDeregister | Route::CoordinateUpdate => {
            request::known_datacenter(settings, values)?;
            match route {
                Route::CatalogRegister => Action::Register,
                Route::CatalogDeregister => Action::Deregister,
                _ => Action::UpdateCoordinate,
            }
        }
        Route::HealthNode => {
            let options = options()?;
            Action::Health(health::Read::node(rest, values)?, options)
        }
        Route::HealthState => {
            let options = options()?;
            Action::Health(health::Read::state(inner, rest, values)?, options)
        }
        Route::CoordinateDatacenters => Action::CoordinateDatacenters,
        Route::CoordinateNodes => Action::Coordinates(coordinate::Read::nodes(values), options()?),
        Route::CoordinateNode => {
            let options = options()?;
            Action::Coordinates(coordinate::Read::node(rest, values)?, options)
        }
        Route::AutopilotConfiguration if parts.method == Method::PUT => {
            let cas = autopilot::read_cas(values)?;
            request::known_datacenter(settings, values)?;
            Action::ConfigureAutopilot { cas }
        }
        Route::AutopilotConfiguration => Action::AutopilotConfiguration(options()?.consistency),
        Route::AutopilotHealth => {
            options()?;
            Action::AutopilotHealth
        }
        Route::AgentSelf
        | Route::Members
        | Route::Join
        | Route::Leave
        | Route::Reload
        | Route::ForceLeave
        | Route::EventFire
        | Route::EventList => Action::AgentSelf,
        Route::RaftConfiguration => {
            Action::RaftConfiguration { stale: options()?.consistency == Consistency::Stale }
        }
        Route::RaftPeer => {
            let peer = operator::read_peer(values)?;
            request::known_datacenter(settings, values)?;
            Action::RemovePeer(peer)
        }
        Route::TransferLeader => {
            request::known_datacenter(settings, values)?;
            Action::TransferLeader(text("id"))
        }
        Route::Snapshot => {
            request::known_datacenter(settings, values)?;
            if parts.method == Method::PUT {
                Action::RestoreSnapshot
            } else {
                Action::SaveSnapshot { stale: values.has("stale") }
            }
        }
    })
}

impl Action {
    /// Whether it is a read that waits for a change.
    pub(crate) fn polls(&self) -> bool {
        match self {
            Self::Kv(kv::Action::Read(_, options))
            | Self::Catalog(_, options)
            | Self::Health(_, options)
            | Self::Coordinates(_, options) => options.min_index != 0,
            _ => false,
        }
    }

    /// Whether it is a read that waits for none.
    pub(crate) fn reads_at_once(&self) -> bool {
        let reads = matches!(
            self,
            Self::Kv(kv::Action::Read(..))
                | Self::Catalog(..)
                | Self::Health(..)
                | Self::Coordinates(..)
        );
        reads && !self.polls()
    }

    /// Carries out a read, one that waits for a change or another: the future holds no more than that takes.
    pub(crate) async fn poll(self, inner: &Inner) -> Result<Reply, Refusal> {
        match self {
            Self::Kv(kv::Action::Read(read, options)) => blocking::ask(inner, read, options).await,
            Self::Catalog(read, options) => blocking::ask(inner, read, options).await,
            Self::Health(read, options) => blocking::ask(inner, read, options).await,
            Self::Coordinates(read, options) => blocking::ask(inner, read, options).await,
            _ => Err(Failure::internal("not a read").into()),
        }
    }

    /// Carries it out.
    pub(crate) async fn perform(self, inner: &Inner, incoming: Incoming) -> Result<Reply, Refusal> {
        match self {
            Self::Kv(action) => action.perform(inner, incoming).await,
            Self::StatusLeader => Ok(status::leader(inner)),
            Self::StatusPeers => Ok(status::peers(inner)),
            Self::Datacenters => Ok(status::datacenters(inner)),
            Self::Catalog(read, options) => blocking::ask(inner, read, options).await,
            Self::Health(read, options) => blocking::ask(inner, read, options).await,
            Self::Coordinates(read, options) => blocking::ask(inner, read, options).await,
            Self::CoordinateDatacenters => Ok(coordinate::datacenters(inner)),
            Self::AgentSelf => Ok(agent::describe(inner)),
            Self::Local(local) => {
                Box::pin(local.perform(inner.agent.as_ref(), &inner.settings, incoming)).await
            }
            Self::Keyring(asked) => Box::pin(keyring::answer(inner, asked, incoming)).await,
            // Boxed, as all that is rare and large: the future of a request is as large as its largest arm.
            Self::Register => Box::pin(catalog::register(inner, incoming)).await,
            Self::Deregister => Box::pin(catalog::deregister(inner, incoming)).await,
            Self::UpdateCoordinate => Box::pin(coordinate::update(inner, incoming)).await,
            Self::AutopilotConfiguration(consistency) => {
                Box::pin(autopilot::configuration(inner, consistency)).await
            }
            Self::ConfigureAutopilot { cas } => {
                Box::pin(autopilot::configure(inner, cas, incoming)).await
            }
            Self::AutopilotHealth => Box::pin(autopilot::health(inner)).await,
            Self::RaftConfiguration { stale } => {
                Box::pin(operator::configuration(inner, stale)).await
            }
            Self::RemovePeer(peer) => Box::pin(operator::remove_peer(inner, peer)).await,
            Self::TransferLeader(to) => Box::pin(operator::transfer_leader(inner, to)).await,
            Self::SaveSnapshot { stale } => Box::pin(snapshot::save(inner, stale)).await,
            Self::RestoreSnapshot => Box::pin(snapshot::restore(inner, incoming)).await,
        }
    }
}
