//! What an agent that is no server does with a request: it speaks of itself, and passes on all else.
//!
//! Configuration that is about clients is this agent's: what is blocked, who may write, which headers are added, how large
//! a value is. The rest of a request is for the server to judge, and its answer goes back as it came.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::{Body as _, Incoming},
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue},
    http::request::Parts,
};

use super::{
    Origin, Settings, SettingsError, agent,
    body::{self, BodyError},
    finish, kv,
    park::{self, Answer, Desk, Parked},
    path,
    respond::{Failure, Refusal, Shape, name_status},
    route::{self, Relay},
    serve::Clients,
};
use crate::{
    client::{
        Client, Download,
        upload::{self, Upload},
    },
    gossip::LocalAgent,
};

/// Up to this length a body is read before it is sent on: then a slow client holds nothing at the server, and a request
/// that didn't leave can be sent elsewhere.
const WHOLE_LIMIT: u64 = 1 << 20;

/// The API of an agent that is no server.
pub(super) struct Gateway {
    client: Client,
    pub(super) settings: Settings,
    pub(super) response_headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) clients: Clients,
    agent: Option<LocalAgent>,
}

impl Gateway {
    pub(super) fn new(
        client: Client,
        settings: Settings,
        agent: Option<LocalAgent>,
    ) -> Result<Self, SettingsError> {
        let response_headers = settings.headers()?;
        let clients = Clients::new(settings.http_max_conns_per_client);
        Ok(Self { client, settings, response_headers, clients, agent })
    }

    /// Answers one request, or has it answered.
    pub(super) async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        origin: Origin,
        desk: Option<&Desk>,
    ) -> Answer {
        let (parts, incoming) = request.into_parts();
        let plan = route::plan_relay(&self.settings, &parts, origin);
        let shape = plan.shape;
        let reply = match (plan.action, desk) {
            (Ok(Relay::AgentSelf), _) => Ok(agent::describe_client(
                &self.settings,
                self.client.known_servers(),
                self.agent.as_ref(),
            )),
            (Ok(Relay::Local(local)), _) => {
                local.perform(self.agent.as_ref(), &self.settings, incoming).await
            }
            // What is left of a body would be taken for the next request.
            (Ok(Relay::Forward { wait: Some(wait) }), Some(desk))
                if parts.method == Method::GET && incoming.is_end_stream() =>
            {
                let head = park::head(&parts);
                let sleeper = Box::pin(self.clone().poll(parts, wait, shape));
                return Box::pin(desk.stay_or_leave(Parked { sleeper, head })).await;
            }
            (Ok(Relay::Forward { wait }), _) => match take(&parts, incoming).await {
                Ok(upload) => return self.forward(parts, upload, wait, shape).await,
                Err(refusal) => Err(refusal),
            },
            (Err(refusal), _) => {
                // A client that waits for leave to send its body isn't given it.
                if !parts.headers.contains_key(EXPECT) {
                    body::drain(incoming);
                }
                Err(refusal)
            }
        };
        finish(reply, HeaderMap::new(), shape, &self.response_headers)
    }

    /// Has a long poll answered.
    ///
    /// Its body is read to the end first: who slept away from hyper's connection gives it the answer and takes it apart
    /// again as soon as all that it has is written, and what of a body came later would be lost.
    async fn poll(self: Arc<Self>, parts: Parts, wait: Duration, shape: Shape) -> Answer {
        let answer = self.forward(parts, upload::empty(), Some(wait), shape).await;
        let (head, body) = answer.into_parts();
        match body.collect().await {
            Ok(body) => Answer::from_parts(head, Outgoing::Left(Full::new(body.to_bytes()))),
            Err(error) => {
                let failure = Failure::internal(format!("rpc error making call: {error}"));
                finish(Err(failure.into()), HeaderMap::new(), shape, &self.response_headers)
            }
        }
    }

    async fn forward(
        &self,
        mut parts: Parts,
        upload: Upload,
        wait: Option<Duration>,
        shape: Shape,
    ) -> Answer {
        if parts.method == Method::GET {
            parts.headers.remove(CONTENT_LENGTH);
        }
        if let Some(uri) = with_own_name(&parts.uri, &self.settings.node_name) {
            parts.uri = uri;
        }
        let mut answer = match self.client.forward(parts, upload, wait).await {
            Ok(answer) => answer,
            Err(error) => {
                return finish(
                    Err(Failure::from(error).into()),
                    HeaderMap::new(),
                    shape,
                    &self.response_headers,
                );
            }
        };
        name_status(&mut answer);
        let refused = answer.status() == StatusCode::PAYLOAD_TOO_LARGE;
        let headers = answer.headers_mut();
        if refused {
            // The rest of what the client sends is read by nobody.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        for (name, value) in &self.response_headers {
            headers.append(name, value.clone());
        }
        answer.map(|body| Outgoing::Right(Box::new(body)))
    }
}

/// A request's target that says whom it means by `near=_agent`: a server would take that for itself. None where it
/// doesn't.
fn with_own_name(uri: &Uri, name: &str) -> Option<Uri> {
    let query = uri.query()?;
    let is_own = |pair: &&str| *pair == "near=_agent";
    query.split('&').find(is_own)?;
    let near = path::location(name.as_bytes(), None).replace('&', "%26").replace('+', "%2B");
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| if is_own(&pair) { format!("near={near}") } else { pair.to_owned() })
        .collect();
    format!("{}?{}", uri.path(), pairs.join("&")).parse().ok()
}

/// Reads a short body; a long one, or one of which nobody knows how long it is, passes through.
async fn take(parts: &Parts, incoming: Incoming) -> Result<Upload, Refusal> {
    if parts.method == Method::GET {
        // No read takes a body, and one without can be repeated.
        body::drain(incoming);
        return Ok(upload::empty());
    }
    if incoming.is_end_stream() {
        return Ok(upload::empty());
    }
    match kv::content_length(&parts.headers) {
        Some(length) if length <= WHOLE_LIMIT => match body::read(incoming, WHOLE_LIMIT).await {
            Ok(bytes) => Ok(upload::whole(bytes)),
            Err(BodyError::Broken(text)) => Err(Failure::internal(text).into()),
            // hyper takes no more than was declared.
            Err(BodyError::TooLarge(_)) => Err(Failure::internal("too large").into()),
        },
        _ => Ok(Upload::Right(incoming)),
    }
}

/// The body of an answer: this agent's, or a server's as it comes; that one boxed, as on a server every answer has room
/// for it.
pub(super) type Outgoing = Either<Full<Bytes>, Box<Download>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_told_whom_a_client_means_by_this_agent() {
        let told =
            |uri: &str| with_own_name(&uri.parse().unwrap(), "c 1&").map(|uri| uri.to_string());
        assert_eq!(
            told("/v1/catalog/nodes?stale&near=_agent&x=1").as_deref(),
            Some("/v1/catalog/nodes?stale&near=c%201%26&x=1")
        );
        for other in ["/v1/catalog/nodes", "/v1/catalog/nodes?near=_agents", "/v1/kv/near=_agent"] {
            assert_eq!(told(other), None, "{other}");
        }
    }
}
