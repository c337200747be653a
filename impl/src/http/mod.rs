//! Consul's HTTP API on hyper, with a route table of its own: Consul's rules of routing fit no framework's.
//!
//! | file | what it is about |
//! |---|---|
//! | [`settings`] | what configuration says |
//! | [`serve`](serve()) | connections: accepting, limiting, ending them |
//! | `stream` | a connection and what it is doing |
//! | `lane` | plain reads without hyper |
//! | `park` | long polls that sleep away from their connections |
//! | `route` | from a request's head to what is to be done |
//! | [`path`], [`query`], [`go`] | paths, query strings, numbers and durations as Go reads them |
//! | `request`, `body` | the options that reads share; bodies |
//! | `respond`, [`json`] | answers, errors, gzip; JSON as Go writes it |
//! | `decode` | JSON as Go reads it |
//! | `blocking` | long polls |
//! | `near` | lists in order of distance |
//! | `kv`, `catalog`, `health`, `coordinate`, `status`, `operator`, `autopilot`, `snapshot` | the endpoints |
//! | `agent`, `local`, `members`, `event`, `keyring` | what is about the agent and its pool |
//! | `gateway` | what a client agent does in their place |
//! | [`tunnel`] | requests that client agents pass on to this server |

mod agent;
mod autopilot;
mod blocking;
mod body;
mod catalog;
pub(crate) mod coordinate;
mod decode;
mod event;
mod gateway;
pub mod go;
mod health;
pub mod json;
mod keyring;
mod kv;
mod lane;
mod local;
mod members;
mod near;
mod operator;
mod park;
pub mod path;
pub mod query;
mod request;
mod respond;
mod route;
mod serve;
pub mod settings;
mod snapshot;
mod status;
mod stream;
#[cfg(test)]
mod tests;
pub mod tunnel;
mod wan;

use std::{net::IpAddr, sync::Arc};

use hyper::{
    Request,
    body::{Body as _, Incoming},
    header::{EXPECT, HeaderMap, HeaderName, HeaderValue},
};
use spec::state::blocking::Limits;

use self::{
    gateway::{Gateway, Outgoing},
    park::{Answer, Desk, Parked},
    respond::{Format, Refusal, Reply, Shape},
    route::{Action, Plan},
    serve::Clients,
};
pub use self::{
    serve::serve,
    settings::{Network, Settings, SettingsError},
    stream::Listener,
};
use crate::{client::Client, gossip::LocalAgent, server::Server};

/// The API of one agent. Cloning it is cheap and gives the same one.
#[derive(Clone)]
pub struct Api(Kind);

/// Who answers.
#[derive(Clone)]
enum Kind {
    Server(Arc<Inner>),
    Client(Arc<Gateway>),
}

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client of this agent; it has no address on a unix socket.
    Client(Option<IpAddr>),
    /// A client of another agent, which has let it pass: what configuration says about clients is that agent's.
    Agent,
}

/// What every request to a server needs.
pub(crate) struct Inner {
    server: Server,
    settings: Settings,
    response_headers: Vec<(HeaderName, HeaderValue)>,
    clients: Clients,
    /// The agent as a member of its pool; none where it doesn't gossip, as in tests of the API alone.
    agent: Option<LocalAgent>,
}

impl Inner {
    fn limits(&self) -> Limits {
        Limits {
            default_query_time: self.settings.default_query_time,
            max_query_time: self.settings.max_query_time,
        }
    }
}

impl Api {
    /// The API of `server`, as `settings` want it.
    pub fn new(
        server: Server,
        settings: Settings,
        agent: Option<LocalAgent>,
    ) -> Result<Self, SettingsError> {
        let response_headers = settings.headers()?;
        let clients = Clients::new(settings.http_max_conns_per_client);
        let inner = Inner { server, settings, response_headers, clients, agent };
        Ok(Self(Kind::Server(Arc::new(inner))))
    }

    /// The API of an agent that is no server and asks one by `client`.
    pub fn of_client(
        client: Client,
        settings: Settings,
        agent: Option<LocalAgent>,
    ) -> Result<Self, SettingsError> {
        Ok(Self(Kind::Client(Arc::new(Gateway::new(client, settings, agent)?))))
    }

    /// Whether a server's state is known to be wrong, so that its clients are better off elsewhere.
    fn is_diverged(&self) -> bool {
        matches!(&self.0, Kind::Server(inner) if inner.server.is_diverged())
    }

    /// Whether a server has left Raft.
    fn has_left(&self) -> bool {
        matches!(&self.0, Kind::Server(inner) if inner.server.has_left())
    }

    /// Waits until then.
    async fn left(&self) {
        match &self.0 {
            Kind::Server(inner) => inner.server.left().await,
            Kind::Client(_) => std::future::pending().await,
        }
    }

    fn settings(&self) -> &Settings {
        match &self.0 {
            Kind::Server(inner) => &inner.settings,
            Kind::Client(gateway) => &gateway.settings,
        }
    }

    fn clients(&self) -> &Clients {
        match &self.0 {
            Kind::Server(inner) => &inner.clients,
            Kind::Client(gateway) => &gateway.clients,
        }
    }

    /// Reads a request's head.
    ///
    /// A server keeps nothing of it. Where that is done before hyper goes on, its buffer is its own again by then; else it
    /// takes another one of 8 KiB for each request, only to see whether the client is still there.
    fn plan(&self, request: Request<Incoming>, origin: Origin) -> Planned {
        let inner = match &self.0 {
            Kind::Server(inner) => inner,
            Kind::Client(gateway) => {
                return Planned::Client(Box::new((gateway.clone(), request, origin)));
            }
        };
        let (mut parts, incoming) = request.into_parts();
        let expects = parts.headers.contains_key(EXPECT);
        let (plan, head) = (route::plan(inner, &parts, origin), park::head(&parts));
        // The answer's go into the same map: hyper passes the room on from each to the next.
        let mut headers = std::mem::take(&mut parts.headers);
        headers.clear();
        let inner = inner.clone();
        Planned::Server(Task { inner, plan, origin, head, expects, headers, incoming })
    }

    /// Answers one request.
    async fn answer(&self, request: Request<Incoming>, origin: Origin) -> Answer {
        self.plan(request, origin).answer(None).await
    }
}

/// A request whose head has been read.
#[expect(clippy::large_enum_variant, reason = "the large one is every request's on a server")]
enum Planned {
    Server(Task),
    /// Boxed: what is rare on a server would size the future of every request.
    Client(Box<(Arc<Gateway>, Request<Incoming>, Origin)>),
}

/// What a server does about a request.
struct Task {
    inner: Arc<Inner>,
    plan: Plan<Action>,
    origin: Origin,
    head: &'static [u8],
    /// The client waits for leave to send its body.
    expects: bool,
    /// Empty, with room for the answer's.
    headers: HeaderMap,
    incoming: Incoming,
}

impl Planned {
    /// Answers it; a long poll leaves by the desk.
    async fn answer(self, desk: Option<&Desk>) -> Answer {
        let Task { inner, plan, origin, head, expects, headers, incoming } = match self {
            Self::Server(task) => task,
            Self::Client(asked) => {
                let (gateway, request, origin) = *asked;
                return Box::pin(gateway.answer(request, origin, desk)).await;
            }
        };
        let reply = match (plan.action, desk) {
            // What is left of a body would be taken for the next request.
            (Ok(action), Some(desk)) if action.polls() && incoming.is_end_stream() => {
                let sleeper = Box::pin(wait(inner, action, plan.shape));
                return Box::pin(desk.stay_or_leave(Parked { sleeper, head })).await;
            }
            (Ok(action), _) => action.perform(&inner, incoming).await,
            // A client that waits for leave to send its body isn't given it.
            (Err(refusal), _) if expects => Err(refusal),
            (Err(refusal), _) => {
                body::drain(incoming);
                Err(refusal)
            }
        };
        // A client agent has headers of its own.
        let always = if origin == Origin::Agent { &[][..] } else { &inner.response_headers };
        finish(reply, headers, plan.shape, always)
    }
}

/// Answers a long poll of a client of this agent.
async fn wait(inner: Arc<Inner>, action: Action, shape: Shape) -> Answer {
    let reply = action.poll(&inner).await;
    finish(reply, HeaderMap::new(), shape, &inner.response_headers)
}

fn finish(
    reply: Result<Reply, Refusal>,
    headers: HeaderMap,
    shape: Shape,
    always: &[(HeaderName, HeaderValue)],
) -> Answer {
    let reply = reply.unwrap_or_else(|refusal| *refusal);
    reply.finish(headers, &Format { shape, always }).map(Outgoing::Left)
}
