//! Connections to servers: dialled when they are needed, shared by all requests, and let go when another server is in use.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{sync::OnceCell, time::timeout};

use super::{Shared, lock, routing::Place, upload::Upload};
use crate::net::{self, RpcError, streams};

/// How long a connection may take: less than half of the hold time, so that another server can be tried.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// An open connection.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) requests: SendRequest<Upload>,
    number: u64,
}

type Slot = Arc<OnceCell<Connection>>;

/// The connections: one to each server that is in use, or was asked whether it can be.
#[derive(Default)]
pub(super) struct Pool {
    slots: Mutex<HashMap<Place, Slot>>,
    last: AtomicU64,
}

impl Pool {
    /// Lets go of all connections but these. What is under way over them goes on; then they end.
    pub(super) fn retire(&self, keep: impl Fn(&Place) -> bool) {
        // Dropped behind the lock.
        let _retired: Vec<_> = lock(&self.slots).extract_if(|place, _| !keep(place)).collect();
    }

    /// Forgets a connection that broke; false where it had been let go before.
    fn forget(&self, place: &Place, number: u64) -> bool {
        let mut slots = lock(&self.slots);
        let own = slots.get(place).and_then(|slot| slot.get());
        let listed = own.is_some_and(|connection| connection.number == number);
        if listed {
            slots.remove(place);
        }
        listed
    }

    fn forget_slot(&self, place: &Place, slot: &Slot) {
        let mut slots = lock(&self.slots);
        if slots.get(place).is_some_and(|other| Arc::ptr_eq(other, slot)) {
            slots.remove(place);
        }
    }
}

impl Shared {
    /// The connection to this server. Those who come while it is dialled wait for the same one.
    pub(super) async fn connection(
        self: &Arc<Self>,
        place: &Place,
    ) -> Result<Connection, RpcError> {
        loop {
            let slot = lock(&self.pool.slots).entry(place.clone()).or_default().clone();
            let fresh = !slot.initialized();
            let connection = slot.get_or_try_init(|| self.dial(place)).await.cloned();
            let broken = connection.as_ref().map_or(true, |c| c.requests.is_closed());
            if broken {
                self.pool.forget_slot(place, &slot);
            }
            if fresh || !broken {
                return connection;
            }
        }
    }

    /// A request found the connection closed.
    pub(super) fn broke(&self, place: &Place, connection: &Connection) {
        self.pool.forget(place, connection.number);
        self.failed(&place.id);
    }

    async fn dial(self: &Arc<Self>, place: &Place) -> Result<Connection, RpcError> {
        let address = &*place.address;
        let failed = |what: String| RpcError::NotConnected(format!("dial tcp {address}: {what}"));
        let stream = net::dial_http(address, self.node, DIAL_TIMEOUT).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(streams::PING_INTERVAL)
            .keep_alive_timeout(streams::PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(streams::STREAM_WINDOW)
            .initial_connection_window_size(streams::CONNECTION_WINDOW)
            .max_concurrent_reset_streams(streams::MAX_STREAMS)
            .max_header_list_size(streams::MAX_HEAD);
        let opened = timeout(DIAL_TIMEOUT, builder.handshake(TokioIo::new(stream))).await;
        let (requests, driver) = opened
            .map_err(|_| failed("i/o timeout".to_owned()))?
            .map_err(|error| failed(error.to_string()))?;
        let number = self.pool.last.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(keep(
            Arc::downgrade(self),
            place.clone(),
            number,
            self.latch.tripped(),
            driver,
        ));
        Ok(Connection { requests, number })
    }
}

/// Runs a connection to its end, and passes on that it broke, where requests would still be sent over it.
async fn keep(
    shared: Weak<Shared>,
    place: Place,
    number: u64,
    stopped: impl Future<Output = ()>,
    driver: impl Future<Output = hyper::Result<()>>,
) {
    let ended = tokio::select! {
        ended = driver => ended,
        () = stopped => return,
    };
    let error = ended.err().map(|error| error.to_string());
    tracing::debug!(server = %place.address, error, "connection to a server ended");
    if let Some(shared) = shared.upgrade()
        && shared.pool.forget(&place, number)
    {
        shared.failed(&place.id);
    }
}
