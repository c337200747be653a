//! Requests and responses: many at a time over one connection, each with a deadline, answered in any order.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bincode::{Decode, Encode};
use bytes::Bytes;
use spec::raft::{ClusterId, ServerId};
use tokio::{
    net::TcpStream,
    sync::{OnceCell, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    Handler, RpcError, Shared,
    hello::Hello,
    link,
    pipe::{Dropped, End, Frames, Pipe, split},
};

/// How long a connection and its hello may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a frame of this class begins with; the payload follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
enum Head {
    Request {
        id: u64,
        /// How much longer the caller waits.
        timeout_ms: u64,
    },
    Response {
        id: u64,
    },
    /// Too much is under way: the request was not looked at.
    Busy {
        id: u64,
    },
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The server.
    pub server: ServerId,
    /// The cluster that it belongs to.
    pub cluster: Option<ClusterId>,
    /// When it stops waiting.
    pub deadline: Instant,
}

/// The calling side of a connection.
struct Client {
    pipe: Pipe,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    calls: BTreeMap<u64, Call>,
    last_id: u64,
}

struct Call {
    /// Where its frame starts.
    start: u64,
    done: oneshot::Sender<Result<Bytes, RpcError>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call under way; dropping it forgets the response.
struct Waiting {
    client: Arc<Client>,
    id: u64,
    done: oneshot::Receiver<Result<Bytes, RpcError>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.client.pending).calls.remove(&self.id);
    }
}

impl Client {
    fn start(
        self: &Arc<Self>,
        encode: impl FnOnce(&mut Vec<u8>),
        timeout: Duration,
    ) -> Result<Waiting, RpcError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let (done, receiver) = oneshot::channel();
        // Held until the call is listed, or its response or the connection's end could come before that.
        let mut pending = lock(&self.pending);
        let id = pending.last_id + 1;
        let sent = self.pipe.send_with(|buffer| {
            spec::codec::encode_into(&Head::Request { id, timeout_ms }, buffer);
            encode(buffer);
        });
        let start = sent.map_err(|dropped| match dropped {
            Dropped::Full => RpcError::Overloaded,
            Dropped::TooLong => RpcError::TooLong,
            Dropped::Closed => RpcError::NotConnected("EOF".into()),
        })?;
        pending.last_id = id;
        pending.calls.insert(id, Call { start, done });
        drop(pending);
        Ok(Waiting { client: self.clone(), id, done: receiver })
    }

    fn receive(&self, frames: &mut Frames) -> io::Result<()> {
        while let Some(body) = frames.take()? {
            let (head, payload) = split::<Head>(body)?;
            let (id, result) = match head {
                Head::Response { id } => (id, Ok(payload)),
                Head::Busy { id } => (id, Err(RpcError::Overloaded)),
                Head::Request { .. } => return Err(io::ErrorKind::InvalidData.into()),
            };
            // Whoever stopped waiting has taken its call away.
            let call = lock(&self.pending).calls.remove(&id);
            if let Some(call) = call {
                let _ = call.done.send(result);
            }
        }
        Ok(())
    }

    /// Answers all calls at the end of the connection.
    fn fail(&self, end: &End) {
        self.pipe.close();
        let calls = std::mem::take(&mut lock(&self.pending).calls);
        let why = match &end.error {
            Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
            Some(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                "connection reset by peer".to_owned()
            }
            Some(error) => error.to_string(),
            None => "stream closed".to_owned(),
        };
        for call in calls.into_values() {
            let error = if call.start >= end.written {
                RpcError::NotConnected(why.clone())
            } else {
                RpcError::OutcomeUnknown(why.clone())
            };
            let _ = call.done.send(Err(error));
        }
    }
}

type Slot = Arc<OnceCell<Arc<Client>>>;
type Place = (String, Option<ServerId>);

/// The connections that carry this server's calls: one to each address.
#[derive(Default)]
pub(super) struct Clients {
    slots: Mutex<HashMap<Place, Slot>>,
    in_flight: AtomicUsize,
}

#[cfg(test)]
impl Clients {
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// One of this server's calls; counted off when dropped.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) async fn call(
        self: &Arc<Self>,
        address: &str,
        to: Option<ServerId>,
        encode: impl FnOnce(&mut Vec<u8>),
        deadline: Instant,
    ) -> Result<Bytes, RpcError> {
        if !admit(&self.clients.in_flight, 1, self.config.max_calls) {
            return Err(RpcError::Overloaded);
        }
        let _counted = InFlight(&self.clients.in_flight);
        let client = timeout_at(deadline, self.client(address, to))
            .await
            .map_err(|_| RpcError::NotConnected(format!("dial tcp {address}: i/o timeout")))??;
        let mut waiting =
            client.start(encode, deadline.saturating_duration_since(Instant::now()))?;
        match timeout_at(deadline, &mut waiting.done).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(RpcError::OutcomeUnknown("stream closed".into())),
            Err(_) => Err(RpcError::OutcomeUnknown("i/o deadline reached".into())),
        }
    }

    /// The connection to this address. Those who come while it is dialled wait for the same one.
    async fn client(
        self: &Arc<Self>,
        address: &str,
        to: Option<ServerId>,
    ) -> Result<Arc<Client>, RpcError> {
        let place: Place = (address.to_owned(), to);
        loop {
            let slot = lock(&self.clients.slots).entry(place.clone()).or_default().clone();
            let fresh = !slot.initialized();
            let client = slot.get_or_try_init(|| self.dial(&place)).await.cloned();
            // A connection that broke before it stood here is still listed.
            let broken = client.as_ref().map_or(true, |client| client.pipe.is_closed());
            if broken {
                self.forget(&place, &slot);
            }
            if fresh || !broken {
                return client;
            }
        }
    }

    fn forget(&self, place: &Place, slot: &Slot) {
        let mut slots = lock(&self.clients.slots);
        if slots.get(place).is_some_and(|other| Arc::ptr_eq(other, slot)) {
            slots.remove(place);
        }
    }

    async fn dial(self: &Arc<Self>, place: &Place) -> Result<Arc<Client>, RpcError> {
        let own = *self.identity.borrow();
        let stream = link::open_rpc(&place.0, place.1, own, DIAL_TIMEOUT).await?;
        let client = Arc::new(Client {
            pipe: Pipe::new(self.config.max_calls_per_connection, self.config.rpc_queue_bytes),
            pending: Mutex::default(),
        });
        let (shared, place, served) = (self.clone(), place.clone(), client.clone());
        self.runtime.spawn(async move {
            let tripped = shared.latch.tripped();
            let run = served.pipe.run(stream, |frames| served.receive(frames));
            let end = tokio::select! {
                end = run => end,
                () = tripped => End { error: None, written: u64::MAX },
            };
            // Before the calls fail, so that none that is tried again finds this connection.
            let mut slots = lock(&shared.clients.slots);
            let own = slots.get(&place).and_then(|slot| slot.get());
            if own.is_some_and(|own| Arc::ptr_eq(own, &served)) {
                slots.remove(&place);
            }
            drop(slots);
            served.fail(&end);
        });
        Ok(client)
    }

    /// Serves the calls of one connection until it ends.
    pub(super) async fn serve_calls(
        self: &Arc<Self>,
        stream: TcpStream,
        hello: Hello,
        handler: Arc<dyn Handler>,
    ) -> End {
        let config = &self.config;
        let pipe = Arc::new(Pipe::new(config.max_calls_per_connection * 2, config.rpc_queue_bytes));
        let under_way = Arc::new(AtomicUsize::new(0));
        let receive = |frames: &mut Frames| {
            while let Some(body) = frames.take()? {
                let (head, payload) = split::<Head>(body)?;
                let Head::Request { id, timeout_ms } = head else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                let deadline = Instant::now() + Duration::from_millis(timeout_ms.min(3_600_000));
                let caller = Caller { server: hello.from, cluster: hello.cluster, deadline };
                self.serve_call(id, caller, payload, &pipe, &under_way, &handler);
            }
            Ok(())
        };
        let end = pipe.run(stream, receive).await;
        pipe.close();
        end
    }

    fn serve_call(
        self: &Arc<Self>,
        id: u64,
        caller: Caller,
        payload: Bytes,
        pipe: &Arc<Pipe>,
        under_way: &Arc<AtomicUsize>,
        handler: &Arc<dyn Handler>,
    ) {
        let (pipe, handler) = (pipe.clone(), handler.clone());
        let Some(admitted) = Admitted::new(self, under_way, payload.len()) else {
            let _ = pipe.send(&Head::Busy { id }, &[]);
            return;
        };
        self.runtime.spawn(async move {
            let response = timeout_at(caller.deadline, handler.call(caller, payload)).await;
            drop(admitted);
            if let Ok(response) = response
                && let Err(dropped) = pipe.send(&Head::Response { id }, &response)
            {
                // The caller learns it by its deadline: what it asked for has happened.
                tracing::warn!(?dropped, bytes = response.len(), "a response was dropped");
            }
        });
    }
}

/// A request that is worked on.
struct Admitted {
    shared: Arc<Shared>,
    under_way: Arc<AtomicUsize>,
    bytes: usize,
}

impl Admitted {
    fn new(shared: &Arc<Shared>, under_way: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        if !admit(under_way, 1, shared.config.max_calls_per_connection) {
            return None;
        }
        if !admit(&shared.served_bytes, bytes, shared.config.max_served_bytes) {
            under_way.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self { shared: shared.clone(), under_way: under_way.clone(), bytes })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.served_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts `amount` in, unless that is beyond the limit. One alone passes, however large.
fn admit(count: &AtomicUsize, amount: usize, limit: usize) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            (before == 0 || before + amount <= limit).then_some(before + amount)
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::Head;
    use crate::golden::stand_still;

    #[test]
    fn the_bytes_of_heads_stand_still() {
        stand_still(
            3,
            vec![
                (Head::Request { id: 300, timeout_ms: 5000 }, "00fb2c01fb8813"),
                (Head::Response { id: 300 }, "01fb2c01"),
                (Head::Busy { id: 300 }, "02fb2c01"),
            ],
        );
    }
}
