//! An agent that is no server: it holds no state, and what its clients ask for goes to a server (prose/servers.md).
//!
//! A request travels as it is, by HTTP/2 over a connection to the servers' RPC port, and is answered there by the router
//! that answers the server's own clients. So statuses, headers and texts are the server's, bodies of any size stream, and
//! thousands of long polls share one connection.
//!
//! | file | what it is about |
//! |---|---|
//! | [`known`] | the servers, as whoever finds them tells |
//! | `routing` | which of them is in use: drives the machine of [`spec::sync::servers`] |
//! | `pool` | connections: dialled, shared, ended when they are of no more use |
//! | `forward` | one request: attempts, limits, what becomes of it |

mod forward;
pub mod known;
mod pool;
mod routing;
pub(crate) mod upload;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use agent_sync::Latch;
use spec::{raft::NodeId, sync::bucket::Bucket, time::Instant};
use tokio::sync::{Semaphore, watch};

pub use self::{
    forward::{Download, ForwardError},
    known::{KnownServer, KnownServers},
};
use self::{pool::Pool, routing::Routing};
use crate::{driver::Clock, net::streams::MAX_STREAMS};

/// Requests with a body under way: what a server holds for one agent while they come in.
const MAX_UPLOADS: usize = 512;

/// What a client agent is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientSettings {
    /// This node.
    pub node: NodeId,
    /// How long a request is held while no server can be reached.
    pub rpc_hold_timeout: Duration,
    /// Requests a second that go to servers (`limits.rpc_rate`); below 0 is no limit.
    pub rpc_rate: f64,
    /// How far a burst may exceed that (`limits.rpc_max_burst`).
    pub rpc_max_burst: usize,
}

/// The forwarding half of a client agent. Cloning it is cheap and gives the same one.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    node: NodeId,
    hold: Duration,
    clock: Clock,
    routing: Mutex<Routing>,
    pool: Pool,
    bucket: Option<Mutex<Bucket>>,
    under_way: Arc<AtomicUsize>,
    uploads: Semaphore,
    latch: Latch,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Starts to keep a connection to one of the servers that `known` holds, whichever they are at a time. Called within
    /// tokio's runtime.
    pub fn start(settings: &ClientSettings, mut known: watch::Receiver<KnownServers>) -> Self {
        let clock = Clock::default();
        let shared = Arc::new(Shared {
            node: settings.node,
            hold: settings.rpc_hold_timeout,
            bucket: bucket(settings, clock.now()).map(Mutex::new),
            clock,
            routing: Mutex::new(Routing::new()),
            pool: Pool::default(),
            under_way: Arc::default(),
            uploads: Semaphore::new(MAX_UPLOADS),
            latch: Latch::new(),
        });
        // At once: the first request must not find that there are none.
        let effects = shared.know(&known.borrow_and_update());
        let stopped = shared.latch.tripped();
        tokio::spawn(routing::run(Arc::downgrade(&shared), known, effects, stopped));
        Self(shared)
    }

    /// How many servers are known.
    pub fn known_servers(&self) -> usize {
        lock(&self.0.routing).servers.order().len()
    }

    /// The server that requests go to, if one is known.
    pub fn server_in_use(&self) -> Option<KnownServer> {
        lock(&self.0.routing).in_use()
    }

    /// Ends all connections.
    pub fn shutdown(&self) {
        self.0.latch.trip();
        self.0.pool.retire(|_| false);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.latch.trip();
    }
}

/// The bucket of `limits.rpc_rate`, if there is a limit.
fn bucket(settings: &ClientSettings, now: Instant) -> Option<Bucket> {
    /// The bucket's own unit: millionths of a token a second.
    const UNIT: f64 = 1e6;
    if settings.rpc_rate < 0.0 {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and a rate beyond its range is as good as none"
    )]
    let rate = (settings.rpc_rate * UNIT) as u64;
    Some(Bucket::new(rate, settings.rpc_max_burst as u64, now))
}

/// A request under way; counted off when dropped.
#[derive(Debug)]
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    /// Counts a request in, unless there are too many.
    fn count(requests: &Arc<AtomicUsize>) -> Option<Self> {
        let counted = Self(requests.clone());
        (requests.fetch_add(1, Ordering::Relaxed) < MAX_STREAMS).then_some(counted)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
