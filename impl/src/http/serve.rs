//! Connections: accepted, counted by client, ended when they dawdle or when the agent stops.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::poll_fn,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::{AbortHandle, Id, JoinSet},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    Api, Kind, Origin,
    gateway::Outgoing,
    lane::{Lane, Left},
    park::{Leaving, Parked},
    stream::{Listener, Phase, Socket, Watched},
};

/// The unit of the clock by which dawdling is told.
const TICK: Duration = Duration::from_millis(500);
/// How long a connection may do nothing between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_mins(15);
/// How long the refusal of a connection may take.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(100);
/// How many refusals may be under way at once; beyond that connections are just closed.
const REFUSALS: usize = 64;

const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\n\
    Content-Length: 81\r\nConnection: close\r\n\r\n\
    Your IP is issuing too many concurrent connections, please rate limit your calls\n";

/// Serves clients that come in by `listener` until `shutdown`; then lets running requests end, shortly.
pub async fn serve(listener: impl Into<Listener>, api: Api, shutdown: impl Future<Output = ()>) {
    let listener = listener.into();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut connections = Connections::new(api);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, address)) => {
                    if connections.watched.is_empty() {
                        tick.reset();
                    }
                    connections.admit(socket, address);
                }
                Err(error) => {
                    // Most likely there are no file descriptors left: trying at once would burn a core.
                    tracing::warn!(%error, "accepting HTTP connections failed");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            Some(ended) = connections.tasks.join_next_with_id() => {
                let id = match &ended {
                    Ok((id, ())) => *id,
                    Err(error) => error.id(),
                };
                connections.watched.remove(&id);
            }
            // An agent that nobody talks to isn't woken for nothing.
            _ = tick.tick(), if !connections.watched.is_empty() => connections.end_dawdlers(),
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    connections.stop().await;
}

struct Connections {
    api: Api,
    clock: Arc<AtomicU32>,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
    watched: HashMap<Id, (Arc<Phase>, AbortHandle)>,
    refusals: Arc<()>,
}

impl Connections {
    fn new(api: Api) -> Self {
        Self {
            api,
            clock: Arc::default(),
            stopping: watch::Sender::new(false),
            tasks: JoinSet::new(),
            watched: HashMap::new(),
            refusals: Arc::default(),
        }
    }

    fn admit(&mut self, socket: Socket, address: Option<IpAddr>) {
        let Some(place) = self.api.clients().enter(&self.api, address) else {
            if Arc::strong_count(&self.refusals) <= REFUSALS {
                let refusing = self.refusals.clone();
                self.tasks.spawn(async move {
                    refuse(socket).await;
                    drop(refusing);
                });
            }
            return;
        };
        let phase = Arc::new(Phase::new(self.clock.clone()));
        let connection = connection(
            self.api.clone(),
            Watched { socket, phase: phase.clone(), ahead: Bytes::new() },
            place,
            self.stopping.subscribe(),
        );
        let abort = self.tasks.spawn(connection);
        self.watched.insert(abort.id(), (phase, abort));
    }

    fn end_dawdlers(&self) {
        self.clock.fetch_add(1, Ordering::Relaxed);
        let ticks =
            |time: Duration| u32::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX);
        let head = ticks(self.api.settings().head_timeout);
        for (phase, abort) in self.watched.values() {
            if phase.overdue(head, ticks(IDLE_TIMEOUT)) {
                abort.abort();
            }
        }
    }

    async fn stop(mut self) {
        self.stopping.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(self.api.settings().stop_timeout, ended).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

/// Serves a connection to its end: in hyper's hands while there is something to do, and without while a poll sleeps.
async fn connection(
    api: Api,
    mut stream: Watched,
    place: Place,
    mut stopping: watch::Receiver<bool>,
) {
    let phase = stream.phase.clone();
    let remote = place.address;
    let mut service = service_fn(|request| {
        phase.begin();
        let phase = phase.clone();
        let planned = match phase.desk.take_answer() {
            Some(answer) => Err(answer),
            None => Ok(api.plan(request, Origin::Client(remote))),
        };
        async move {
            let answer = match planned {
                Err(answer) => answer,
                Ok(planned) => planned.answer(Some(&phase.desk)).await,
            };
            phase.end();
            Ok::<_, Infallible>(answer)
        }
    });
    let mut answers = false;
    loop {
        // hyper's buffers are for who uses them: not for a connection that was just opened, or whose poll was answered.
        if !answers {
            tokio::select! {
                _ = stream.socket.readable() => {}
                _ = stopping.changed() => return,
            }
            match in_lane(&api, &mut stream, remote, &mut stopping).await {
                Left::ToHyper => {}
                Left::Ended => return,
            }
        }
        let mut connection = put_together(stream, service);
        let turn = tokio::select! {
            turn = serve_turn(&mut connection, &phase, answers) => turn,
            _ = stopping.changed() => {
                Pin::new(&mut *connection).graceful_shutdown();
                Turn::Ended(connection.as_mut().await)
            }
        };
        match turn {
            Turn::Rests => {
                (stream, service) = take_apart(*connection);
                answers = false;
            }
            Turn::Leaves(mut parked) => {
                (stream, service) = take_apart(*connection);
                answers = true;
                let mut ahead = parked.head.to_vec();
                tokio::select! {
                    answer = &mut parked.sleeper => phase.desk.put_answer(answer),
                    () = stream.socket.gone(&mut ahead) => break,
                    _ = stopping.changed() => break,
                }
                stream.ahead = ahead.into();
            }
            Turn::Ended(ended) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "an HTTP connection broke");
                }
                break;
            }
        }
    }
    drop(place);
}

/// Serves a connection without hyper, as far as that goes.
async fn in_lane(
    api: &Api,
    stream: &mut Watched,
    remote: Option<IpAddr>,
    stopping: &mut watch::Receiver<bool>,
) -> Left {
    let Kind::Server(inner) = &api.0 else { return Left::ToHyper };
    let lane = Lane::default();
    // Boxed: it is gone while hyper serves, or a poll sleeps.
    let mut serving = Box::pin(lane.serve(stream, inner, remote));
    tokio::select! {
        left = &mut serving => left,
        _ = stopping.changed() => {
            if lane.close() {
                serving.await;
            }
            Left::Ended
        }
    }
}

type Hyper<S> = http1::Connection<TokioIo<Watched>, S>;

/// Gives a connection to hyper; boxed, since it is gone while a poll sleeps.
fn put_together<S>(stream: Watched, service: S) -> Box<Hyper<S>>
where
    S: HttpService<Incoming, ResBody = Outgoing, Error = Infallible>,
{
    let mut builder = http1::Builder::new();
    // The phase watches over heads: hyper's own timeout would end idle connections as well.
    builder.title_case_headers(true).pipeline_flush(true).header_read_timeout(None);
    Box::new(builder.serve_connection(TokioIo::new(stream), service))
}

/// Takes a connection out of hyper's hands that has nothing in its buffers.
fn take_apart<S>(connection: Hyper<S>) -> (Watched, S)
where
    S: HttpService<Incoming, ResBody = Outgoing, Error = Infallible>,
{
    let parts = connection.into_parts();
    debug_assert!(parts.read_buf.is_empty());
    (parts.io.into_inner(), parts.service)
}

/// What a connection's turn in hyper's hands comes to.
enum Turn {
    Ended(hyper::Result<()>),
    /// A poll goes to sleep elsewhere.
    Leaves(Parked),
    /// What there was to do is done.
    Rests,
}

/// Serves until the connection ends or a poll leaves; with `rests`, until it has nothing more to do.
async fn serve_turn<S>(connection: &mut Hyper<S>, phase: &Phase, rests: bool) -> Turn
where
    S: HttpService<Incoming, ResBody = Outgoing, Error = Infallible>,
{
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(cx) {
                return Poll::Ready(Turn::Ended(ended));
            }
            match phase.desk.leaving() {
                None if rests && phase.is_idle() => return Poll::Ready(Turn::Rests),
                None => return Poll::Pending,
                Some(Leaving::Leaves(parked)) => return Poll::Ready(Turn::Leaves(parked)),
                Some(Leaving::Stays) => {}
            }
        }
    })
    .await
}

/// Says why the connection isn't taken, and reads what the client sent meanwhile: closing on unread bytes resets the
/// connection, and the client would see that instead.
async fn refuse(mut socket: Socket) {
    let refusal = async {
        if let Socket::Tcp(stream) = &mut socket {
            stream.write_all(TOO_MANY).await?;
            stream.shutdown().await?;
            let mut unread = [0; 1024];
            while stream.read(&mut unread).await? > 0 {}
        }
        Ok::<_, std::io::Error>(())
    };
    // A client that won't listen has to live without the reason.
    let _ = timeout(REFUSAL_TIMEOUT, refusal).await;
}

/// How many connections each client has, by address.
pub(super) struct Clients {
    limit: u32,
    counts: Mutex<HashMap<IpAddr, u32>>,
}

impl Clients {
    /// At most `limit` for each; 0 for any number.
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, counts: Mutex::default() }
    }

    /// Counts a connection, unless the client has too many. Unix sockets aren't counted: they have no address.
    fn enter(&self, api: &Api, address: Option<IpAddr>) -> Option<Place> {
        if let Some(address) = address {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(address).or_default();
            if self.limit != 0 && *count >= self.limit {
                return None;
            }
            *count += 1;
        }
        Some(Place { api: api.clone(), address })
    }
}

/// A connection's place among its client's; dropping it gives it back.
struct Place {
    api: Api,
    address: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let clients = self.api.clients();
        let mut counts = clients.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::ServerSettings, http::Settings, server::Server};

    #[tokio::test]
    async fn a_connection_takes_little_memory_of_its_own() {
        let settings = ServerSettings::dev("s1", "127.0.0.1:0".parse().unwrap());
        let server = Server::start(settings).await.unwrap();
        let api = Api::new(server.clone(), Settings::default(), None).unwrap();
        let (socket, _other_end) = tokio::net::UnixStream::pair().unwrap();
        let phase = Arc::new(Phase::new(Arc::default()));
        let place = api.clients().enter(&api, None).unwrap();
        let (_stop, stopping) = watch::channel(false);
        let read = size_of_val(&server.read(crate::server::Consistency::Default));
        let stream = Watched { socket: Socket::Unix(socket), phase, ahead: Bytes::new() };
        let connection = connection(api, stream, place, stopping);
        let size = size_of_val(&connection);
        // All that a sleeping poll has besides is its own: what hyper and other requests need is boxed.
        assert!(size <= 896, "{size} bytes, of them {read} for a read");
    }
}
