//! Consul's HTTP API on hyper, with a route table of its own: Consul's rules of routing fit no framework's.
//!
//! | file | what it is about |
//! |---|---|
//! | [`settings`] | what configuration says |
//! | [`serve`](serve()) | connections: accepting, limiting, ending them |
//! | `stream` | a connection and what it is doing |
//! | `route` | from a request's head to what is to be done |
//! | [`path`], [`query`], [`go`] | paths, query strings, numbers and durations as Go reads them |
//! | `request`, `body` | the options that reads share; bodies |
//! | `respond`, [`json`] | answers, errors, gzip; JSON as Go writes it |
//! | `blocking` | long polls |
//! | `kv`, `status`, `operator`, `snapshot`, `agent` | the endpoints |

mod agent;
mod blocking;
mod body;
pub mod go;
pub mod json;
mod kv;
mod operator;
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

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    header::{EXPECT, HeaderName, HeaderValue},
};
use spec::state::blocking::Limits;

use self::{respond::Format, serve::Clients};
pub use self::{
    serve::serve,
    settings::{Network, Settings, SettingsError},
    stream::Listener,
};
use crate::server::Server;

/// The API of one agent. Cloning it is cheap and gives the same one.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

/// What every request needs.
pub(crate) struct Inner {
    server: Server,
    settings: Settings,
    response_headers: Vec<(HeaderName, HeaderValue)>,
    clients: Clients,
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
    pub fn new(server: Server, settings: Settings) -> Result<Self, SettingsError> {
        let response_headers = settings.headers()?;
        let clients = Clients::new(settings.http_max_conns_per_client);
        Ok(Self(Arc::new(Inner { server, settings, response_headers, clients })))
    }

    /// Answers one request.
    async fn answer(
        &self,
        request: Request<Incoming>,
        remote: Option<IpAddr>,
    ) -> Response<Full<Bytes>> {
        let inner = &*self.0;
        let (plan, expects, incoming) = {
            let (parts, incoming) = request.into_parts();
            // The head goes here: a parked query keeps nothing of it.
            (route::plan(inner, &parts, remote), parts.headers.contains_key(EXPECT), incoming)
        };
        let reply = match plan.action {
            Ok(action) => action.perform(inner, incoming).await.unwrap_or_else(|refusal| *refusal),
            // A client that waits for leave to send its body isn't given it.
            Err(refusal) if expects => *refusal,
            Err(refusal) => {
                body::drain(incoming);
                *refusal
            }
        };
        reply.finish(&Format {
            routed: plan.routed,
            pretty: plan.pretty,
            gzip: plan.gzip,
            always: &self.0.response_headers,
        })
    }
}
