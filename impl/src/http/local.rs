//! What every agent answers by itself, server or not: the pool that it gossips in, and user events.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode, body::Incoming};

use super::{
    Settings, body, event, members,
    query::Values,
    request,
    respond::{Failure, Refusal, Reply},
    route::Route,
};
use crate::gossip::{LocalAgent, UserEvent};

/// The longest body that one of these takes.
const BODY_LIMIT: u64 = 64 << 10;

/// What to do; owns all that it needs.
#[derive(Debug)]
pub(crate) enum Local {
    Members { segment: String },
    WanMembers,
    Join { address: String, wan: bool },
    Leave,
    Reload,
    ForceLeave { name: String, prune: bool, wan: bool },
    Fire(UserEvent),
    Events { name: Option<String>, index: u64, wait: Duration },
}

/// Decides what to do, where the route is one of these.
pub(super) fn read(
    settings: &Settings,
    route: Route,
    rest: &[u8],
    values: &Values<'_>,
    headers: &hyper::HeaderMap,
) -> Result<Option<Local>, Refusal> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let value = |name| values.get_filled(name).map(text).unwrap_or_default();
    Ok(Some(match route {
        Route::Members => members::read(values)?,
        Route::Join => Local::Join { address: text(rest), wan: values.has("wan") },
        Route::Leave => Local::Leave,
        Route::Reload => Local::Reload,
        Route::ForceLeave => Local::ForceLeave {
            name: text(rest),
            prune: values.has("prune"),
            wan: values.has("wan"),
        },
        Route::EventFire => {
            request::known_datacenter(settings, values)?;
            if rest.is_empty() {
                return Err(Reply::bad_request("Missing name"));
            }
            Local::Fire(UserEvent {
                name: text(rest),
                node_filter: value("node"),
                service_filter: value("service"),
                tag_filter: value("tag"),
                ..UserEvent::default()
            })
        }
        Route::EventList => {
            let options = request::Options::read(settings, values, headers)?;
            let name = Some(value("name")).filter(|name| !name.is_empty());
            Local::Events { name, index: options.min_index, wait: options.wait }
        }
        _ => return Ok(None),
    }))
}

impl Local {
    /// Carries it out.
    pub(super) async fn perform(
        self,
        agent: Option<&LocalAgent>,
        settings: &Settings,
        incoming: Incoming,
    ) -> Result<Reply, Refusal> {
        let Some(agent) = agent else {
            return Err(Failure::internal("this agent doesn't gossip").into());
        };
        let pool = agent.pool();
        match self {
            Self::Members { segment } => members::list(pool, &segment),
            Self::WanMembers => Ok(members::list_wan(agent)),
            Self::Join { address, wan: false } => members::join(pool, &address).await,
            Self::Join { address, wan: true } => members::join_wan(agent, settings, &address).await,
            Self::Leave => members::leave(agent).await,
            Self::Reload => {
                agent.reload().await.map_err(Failure::internal)?;
                Ok(Reply::empty(StatusCode::OK))
            }
            Self::ForceLeave { name, prune, wan } => {
                members::force_leave(agent, settings, &name, prune, wan).await
            }
            Self::Fire(event) => event::fire(pool, event, read_body(incoming).await?).await,
            Self::Events { name, index, wait } => {
                event::list(pool, settings, name.as_deref(), index, wait).await
            }
        }
    }
}

/// Reads a short body.
pub(super) async fn read_body(incoming: Incoming) -> Result<Bytes, Refusal> {
    body::read(incoming, BODY_LIMIT).await.map_err(|error| match error {
        body::BodyError::TooLarge(_) => Failure::internal("http: request body too large").into(),
        body::BodyError::Broken(text) => Failure::internal(text).into(),
    })
}

impl Route {
    /// The methods of these routes.
    pub(super) fn local_methods(self) -> Option<&'static [Method]> {
        match self {
            Self::Members | Self::EventList => Some(&[Method::GET]),
            Self::Join | Self::Leave | Self::Reload | Self::ForceLeave | Self::EventFire => {
                Some(&[Method::PUT])
            }
            _ => None,
        }
    }
}
