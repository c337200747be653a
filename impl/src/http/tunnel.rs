//! Requests that agents which are no servers pass on to this one: HTTP/2 over connections of their own class.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{Method, Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::watch, time::timeout};

use super::{Api, Origin, gateway::Outgoing, park::Answer, respond::Untouched};
use crate::net::{self, Tunnel, streams};

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// No request is taken any more.
    Draining,
    Ended,
}

/// Serves the connections of agents.
pub struct Tunnels {
    api: Api,
    stage: Arc<watch::Sender<Stage>>,
}

impl Tunnels {
    /// Answers by the same rules as a server's own clients are answered by.
    pub fn new(api: Api) -> Arc<Self> {
        Arc::new(Self { api, stage: Arc::new(watch::Sender::new(Stage::Serving)) })
    }

    /// Takes no more requests, lets those that run end within `patience`, and then ends all connections.
    pub async fn stop(&self, patience: Duration) {
        self.stage.send_replace(Stage::Draining);
        // Each connection holds a receiver.
        if timeout(patience, self.stage.closed()).await.is_err() {
            self.stage.send_replace(Stage::Ended);
            self.stage.closed().await;
        }
    }
}

impl net::Tunnels for Tunnels {
    fn is_open(&self) -> bool {
        *self.stage.borrow() == Stage::Serving && !self.api.is_diverged() && !self.api.has_left()
    }

    fn serve(&self, stream: TcpStream) -> Tunnel {
        let ends = self.stage.subscribe();
        Box::pin(connection(self.api.clone(), stream, Arc::clone(&self.stage), ends))
    }
}

async fn connection(
    api: Api,
    stream: TcpStream,
    all: Arc<watch::Sender<Stage>>,
    mut stage: watch::Receiver<Stage>,
) {
    let left = {
        let api = api.clone();
        async move { api.left().await }
    };
    let service = service_fn(move |request| {
        let api = api.clone();
        if api.is_diverged() {
            // Agents find another server for what they ask next.
            all.send_if_modified(|stage| {
                let serving = *stage == Stage::Serving;
                *stage = (*stage).max(Stage::Draining);
                serving
            });
        }
        async move { Ok::<_, Infallible>(answer(api, request).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(streams::PING_INTERVAL)
        .keep_alive_timeout(streams::PING_TIMEOUT)
        .initial_stream_window_size(streams::STREAM_WINDOW)
        .initial_connection_window_size(streams::CONNECTION_WINDOW)
        .max_concurrent_streams(u32::try_from(streams::MAX_STREAMS).unwrap_or(u32::MAX))
        // The other end is an agent of ours: a thousand clients of it that go away at once are no attack.
        .max_pending_accept_reset_streams(streams::MAX_STREAMS)
        .max_local_error_reset_streams(streams::MAX_STREAMS)
        .max_header_list_size(streams::MAX_HEAD);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let draining = async {
        tokio::select! {
            () = reached(&mut stage, Stage::Draining) => {}
            () = left => {}
        }
    };
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = draining => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = &mut connection => ended,
                () = reached(&mut stage, Stage::Ended) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an agent's connection broke");
    }
}

/// Answers a request. One that has left answers no reads, not even those that began before, and passes on what nothing has
/// come of (LEAVE-6).
async fn answer(api: Api, request: Request<Incoming>) -> Answer {
    let is_read = request.method() == Method::GET;
    let answer = if is_read {
        tokio::select! {
            biased;
            answer = api.answer(request, Origin::Agent) => Some(answer),
            () = api.left() => None,
        }
    } else {
        Some(api.answer(request, Origin::Agent).await)
    };
    match answer {
        Some(answer)
            if !api.has_left() || !is_read && answer.extensions().get::<Untouched>().is_none() =>
        {
            answer
        }
        _ => {
            let mut answer = Answer::new(Outgoing::Left(Full::default()));
            *answer.status_mut() = streams::ELSEWHERE;
            answer
        }
    }
}

/// Waits until the end has come so far. An error says that nobody is left to tell: that is the end as well.
async fn reached(stage: &mut watch::Receiver<Stage>, wanted: Stage) {
    let _ = stage.wait_for(|stage| *stage >= wanted).await;
}
