//! From a request's head to what is to be done: paths, methods and access, in the order in which Consul decides.
//!
//! Only what is built is routed. Everything else is a 404 with an empty body, as any unknown path of Consul's is.

use std::net::IpAddr;

use hyper::{Method, StatusCode, body::Incoming, http::request::Parts};

use super::{
    Inner, agent, kv, operator, path,
    query::Values,
    request::{self, Options},
    respond::{Failure, Refusal, Reply},
    snapshot, status,
};
use crate::server::{Consistency, PeerSelector};

/// A path of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Kv,
    StatusLeader,
    StatusPeers,
    Datacenters,
    AgentSelf,
    RaftConfiguration,
    RaftPeer,
    TransferLeader,
    Snapshot,
}

impl Route {
    /// Finds the path's route, and what follows it where it takes a rest.
    fn find(path: &[u8]) -> Option<(Self, &[u8])> {
        if let Some(key) = path.strip_prefix(b"/v1/kv/") {
            return Some((Self::Kv, key));
        }
        let route = match path {
            b"/v1/status/leader" => Self::StatusLeader,
            b"/v1/status/peers" => Self::StatusPeers,
            b"/v1/catalog/datacenters" => Self::Datacenters,
            b"/v1/agent/self" => Self::AgentSelf,
            b"/v1/operator/raft/configuration" => Self::RaftConfiguration,
            b"/v1/operator/raft/peer" => Self::RaftPeer,
            b"/v1/operator/raft/transfer-leader" => Self::TransferLeader,
            b"/v1/snapshot" => Self::Snapshot,
            _ => return None,
        };
        Some((route, b""))
    }

    fn methods(self) -> &'static [Method] {
        match self {
            Self::Kv => &[Method::GET, Method::PUT, Method::DELETE],
            Self::RaftPeer => &[Method::DELETE],
            Self::TransferLeader => &[Method::POST],
            Self::Snapshot => &[Method::GET, Method::PUT],
            _ => &[Method::GET],
        }
    }

    fn allow(self) -> &'static str {
        match self {
            Self::Kv => "OPTIONS,GET,PUT,DELETE",
            Self::RaftPeer => "OPTIONS,DELETE",
            Self::TransferLeader => "OPTIONS,POST",
            Self::Snapshot => "OPTIONS,GET,PUT",
            _ => "OPTIONS,GET",
        }
    }
}

/// What to do for a request, and how the answer is to look.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What to do, or the answer where that is settled.
    pub action: Result<Action, Refusal>,
    /// Whether the path belongs to the API.
    pub routed: bool,
    /// Whether JSON is to be indented.
    pub pretty: bool,
    /// Whether the client takes gzip.
    pub gzip: bool,
}

/// What to do; owns all that it needs.
#[derive(Debug)]
pub(crate) enum Action {
    Kv(kv::Action),
    StatusLeader,
    StatusPeers,
    Datacenters,
    AgentSelf,
    RaftConfiguration { stale: bool },
    RemovePeer(PeerSelector),
    TransferLeader(Option<String>),
    SaveSnapshot { stale: bool },
    RestoreSnapshot,
}

/// Decides what to do for a request from `remote`; a client on a unix socket has no address.
pub(crate) fn plan(inner: &Inner, parts: &Parts, remote: Option<IpAddr>) -> Plan {
    let mut plan = Plan {
        action: Err(Reply::empty(StatusCode::NOT_FOUND).into()),
        routed: false,
        pretty: inner.settings.dev,
        gzip: false,
    };
    let path = match clean_path(inner, parts) {
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
    let Some((route, rest)) = Route::find(&path) else { return plan };
    plan.routed = true;
    plan.gzip = request::accepts_gzip(&parts.headers);
    plan.action = match Values::read(parts.uri.query()) {
        None => Err(Reply::empty(StatusCode::INTERNAL_SERVER_ERROR).into()),
        Some(values) => {
            plan.pretty |= values.has("pretty");
            access(inner, &path, route, &parts.method, remote)
                .and_then(|()| action(inner, parts, route, rest, &values))
        }
    };
    plan
}

/// The decoded path, or the answer that its form calls for.
fn clean_path<'a>(inner: &Inner, parts: &'a Parts) -> Result<std::borrow::Cow<'a, [u8]>, Refusal> {
    let Some(path) = path::read(parts.uri.path()) else {
        return Err(Reply::bad_request("400 Bad Request").closing().into());
    };
    if !path.printable && !inner.settings.disable_http_unprintable_char_filter {
        return Err(Reply::empty(StatusCode::BAD_REQUEST).into());
    }
    let target = path.cleaned.as_deref().unwrap_or(&path.decoded);
    let query = parts.uri.query();
    let location = if target == b"/v1/kv" {
        // What takes a rest is a directory to Go, and is only found with its slash.
        path::location(b"/v1/kv/", query.filter(|query| !query.is_empty()))
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

/// Whether the configuration lets this request through, and the route has its method.
fn access(
    inner: &Inner,
    path: &[u8],
    route: Route,
    method: &Method,
    remote: Option<IpAddr>,
) -> Result<(), Refusal> {
    let settings = &inner.settings;
    let forbidden = |text| Err(Reply::text_with(StatusCode::FORBIDDEN, text).into());
    if settings.block_endpoints.iter().any(|prefix| path.starts_with(prefix.as_bytes())) {
        return forbidden("Endpoint is blocked by agent configuration");
    }
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
    Ok(match route {
        Route::Kv => Action::Kv(kv::read(inner, &parts.method, rest, values, &parts.headers)?),
        Route::StatusLeader => options().map(|_| Action::StatusLeader)?,
        Route::StatusPeers => options().map(|_| Action::StatusPeers)?,
        Route::Datacenters => {
            request::consistency(values)?;
            request::cache_control(&parts.headers)?;
            Action::Datacenters
        }
        Route::AgentSelf => Action::AgentSelf,
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
    /// Carries it out.
    pub(crate) async fn perform(self, inner: &Inner, incoming: Incoming) -> Result<Reply, Refusal> {
        match self {
            Self::Kv(action) => action.perform(inner, incoming).await,
            Self::StatusLeader => Ok(status::leader(inner)),
            Self::StatusPeers => Ok(status::peers(inner)),
            Self::Datacenters => Ok(status::datacenters(inner)),
            Self::AgentSelf => Ok(agent::describe(inner)),
            // Boxed, as all that is rare and large: the future of a request is as large as its largest arm.
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
