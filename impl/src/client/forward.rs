//! One request: sent to the server in use, and elsewhere where it may be sent again.

use std::{
    error::Error as _,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    header::{EXPECT, HOST},
    http::request::Parts,
};
use spec::sync::retry::{Attempts, Failure, Kind, Next};
use tokio::time::{sleep, timeout};

use super::{
    Client, Shared, UnderWay, lock,
    pool::Connection,
    routing::Place,
    upload::{self, Upload},
};
use crate::net::{Refusal, RpcError, streams};

/// The largest answer to [`Client::call`].
const ANSWER_LIMIT: usize = 64 << 20;

/// Why a request has no answer of a server's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// There is nobody to ask.
    #[error("No known Consul servers")]
    NoServers,
    /// `limits.rpc_rate` is exceeded.
    #[error("RPC rate limit exceeded")]
    RateExceeded,
    /// No server that was asked belongs to a cluster yet.
    #[error("No cluster leader")]
    NoCluster,
    /// It didn't reach a server, or got lost.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

/// The body of an answer as it comes from a server.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    _under_way: UnderWay,
}

impl Body for Download {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request that is forwarded, for as long as it may be sent again.
struct Forwarded {
    head: Parts,
    /// None once it is on its way.
    body: Option<Upload>,
    is_read: bool,
    /// How long it waits for a change, where it does.
    wait: Duration,
}

impl Client {
    /// Sends a request of this agent's own to a server; the answer is read whole.
    pub async fn call(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ForwardError> {
        let (head, body) = request.into_parts();
        let answer = self.forward(head, upload::whole(body), None).await?;
        let (head, body) = answer.into_parts();
        let broken = |error: Box<dyn std::error::Error + Send + Sync>| {
            ForwardError::Rpc(RpcError::OutcomeUnknown(error.to_string()))
        };
        let body = http_body_util::Limited::new(body, ANSWER_LIMIT).collect().await;
        Ok(Response::from_parts(head, body.map_err(broken)?.to_bytes()))
    }

    /// Sends a client's request to a server; `wait` is how long it waits for a change there, if it does.
    pub(crate) async fn forward(
        &self,
        mut head: Parts,
        body: Upload,
        wait: Option<Duration>,
    ) -> Result<Response<Download>, ForwardError> {
        let shared = &self.0;
        let under_way = UnderWay::count(&shared.under_way).ok_or(RpcError::Overloaded)?;
        // They are about the connection that the client holds.
        head.headers.remove(HOST);
        head.headers.remove(EXPECT);
        let upload = if body.is_end_stream() { None } else { Some(shared.upload().await?) };
        let request = Forwarded {
            is_read: head.method == Method::GET,
            head,
            body: Some(body),
            wait: wait.unwrap_or_default(),
        };
        let answer = shared.send(request).await?;
        drop(upload);
        Ok(answer.map(|body| Download { body, _under_way: under_way }))
    }
}

impl Shared {
    /// Waits until a body may be sent: a server holds it while it comes in.
    async fn upload(&self) -> Result<tokio::sync::SemaphorePermit<'_>, RpcError> {
        match timeout(self.hold, self.uploads.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(RpcError::Overloaded),
        }
    }

    async fn send(
        self: &Arc<Self>,
        mut request: Forwarded,
    ) -> Result<Response<Incoming>, ForwardError> {
        let start = self.clock.now();
        let kind = match request.is_read {
            true if !request.wait.is_zero() => Kind::Poll,
            true => Kind::Read,
            false => Kind::Write,
        };
        let mut attempts = Attempts::new(kind, self.hold);
        loop {
            let place = self.in_use().ok_or(ForwardError::NoServers)?;
            self.admit()?;
            let began = self.clock.now();
            let error = match self.attempt(&place, &mut request, began.since(start)).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            tracing::debug!(server = %place.address, %error, "a request failed");
            let failure = if error.is_never_sent() { Failure::NotSent } else { Failure::Lost };
            let next = {
                let mut routing = lock(&self.routing);
                let servers = routing.servers.order().len();
                attempts.failed(failure, servers, began, self.clock.now(), &mut routing.entropy)
            };
            // Where its body went with it, it can't be sent again, though nothing came of it.
            let next = if request.body.is_none() { Next::GiveUp } else { next };
            match next {
                Next::AtOnce => {}
                Next::After(pause) => sleep(pause).await,
                Next::GiveUp => {
                    let (method, path) = (&request.head.method, request.head.uri.path());
                    let server = &*place.address;
                    tracing::error!(target: "agent.client", %method, path, server, %error, "RPC failed to server");
                    return Err(match error {
                        RpcError::Refused {
                            refusal: Refusal::Cluster { belongs_to: None },
                            ..
                        } => ForwardError::NoCluster,
                        error => error.into(),
                    });
                }
            }
        }
    }

    /// Takes a token for a request.
    fn admit(&self) -> Result<(), ForwardError> {
        match &self.bucket {
            Some(bucket) if !lock(bucket).take(self.clock.now()) => Err(ForwardError::RateExceeded),
            _ => Ok(()),
        }
    }

    /// Sends the request to this server, once.
    async fn attempt(
        self: &Arc<Self>,
        place: &Place,
        request: &mut Forwarded,
        waited: Duration,
    ) -> Result<Response<Incoming>, RpcError> {
        let mut connection = match self.connection(place).await {
            Ok(connection) => connection,
            Err(error) => {
                self.failed(&place.id);
                return Err(error);
            }
        };
        let Some(body) = request.body.take() else {
            return Err(RpcError::OutcomeUnknown("EOF".to_owned()));
        };
        let head = request.addressed(waited);
        let again = upload::again(&body);
        let mut error =
            match connection.requests.try_send_request(Request::from_parts(head, body)).await {
                Ok(answer) if answer.status() == streams::ELSEWHERE => {
                    self.failed(&place.id);
                    request.body = again;
                    return Err(RpcError::Elsewhere);
                }
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
        // The connection's own end moves on to another server; but only after this, perhaps.
        if connection.requests.is_closed() {
            self.broke(place, &connection);
        }
        if let Some(unsent) = error.take_message() {
            request.body = Some(unsent.into_body());
            return Err(RpcError::NotConnected("EOF".to_owned()));
        }
        if request.is_read {
            request.body = Some(upload::empty());
        }
        Err(RpcError::OutcomeUnknown(describe(error.error())))
    }

    /// Asks a server who leads: the least that shows that it serves.
    pub(super) async fn ask_leader(
        self: &Arc<Self>,
        place: &Place,
    ) -> Result<StatusCode, RpcError> {
        let Connection { mut requests, .. } = self.connection(place).await?;
        let request = Request::get("http://server/v1/status/leader").body(upload::empty());
        let request = request.map_err(|error| RpcError::NotConnected(error.to_string()))?;
        let answer = requests.try_send_request(request).await;
        let answer = answer.map_err(|e| RpcError::OutcomeUnknown(describe(e.error())))?;
        Ok(answer.status())
    }
}

impl Forwarded {
    /// The head as it goes to a server. A long poll that has waited already waits so much less.
    fn addressed(&self, waited: Duration) -> Parts {
        let mut head = self.head.clone();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let shortened = (!self.wait.is_zero() && waited >= Duration::from_secs(1))
            .then(|| with_wait(target, self.wait.saturating_sub(waited)));
        let target = shortened.as_deref().unwrap_or(target);
        let uri = Uri::builder().scheme("http").authority("server").path_and_query(target).build();
        // It was a request's target before.
        head.uri = uri.unwrap_or_default();
        head.version = hyper::Version::HTTP_2;
        head
    }
}

/// The target with another `wait` in its query.
fn with_wait(target: &str, wait: Duration) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let others = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("wait="));
    let wait = format!("wait={}ms", wait.as_millis().max(1));
    let query: Vec<&str> = others.chain([wait.as_str()]).collect();
    format!("{path}?{}", query.join("&"))
}

/// What became of a request, in the words that Go has for it.
fn describe(error: &hyper::Error) -> String {
    if error.is_timeout() {
        return "keepalive timeout".to_owned();
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        let broken = error.downcast_ref::<io::Error>().map(io::Error::kind);
        match broken {
            Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {
                return "EOF".to_owned();
            }
            Some(io::ErrorKind::ConnectionReset) => return "connection reset by peer".to_owned(),
            _ => {}
        }
        cause = error.source();
    }
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_that_is_sent_again_waits_for_the_rest_of_its_time() {
        let wait = Duration::from_millis(1500);
        for (target, shortened) in [
            ("/v1/kv/a?index=7&wait=10s&raw", "/v1/kv/a?index=7&raw&wait=1500ms"),
            ("/v1/kv/a?index=7", "/v1/kv/a?index=7&wait=1500ms"),
            ("/v1/kv/wait=3?await=1&", "/v1/kv/wait=3?await=1&wait=1500ms"),
        ] {
            assert_eq!(with_wait(target, wait), shortened);
        }
        assert!(with_wait("/a", Duration::ZERO).ends_with("wait=1ms"));
    }
}
