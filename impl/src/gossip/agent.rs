//! The agent as a member: its pool, and how it goes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::{Pool, PoolError};
use crate::server::Server;

/// Why an agent doesn't leave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaveError {
    /// The other servers can't do without this one.
    #[error("this server cannot leave: {0}")]
    Needed(String),
    /// Gossip refuses it.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Who asked the agent to read its configuration again, and is told what came of it.
pub type Reload = oneshot::Sender<Result<(), String>>;

/// How many may wait for that at once.
const MAX_RELOADS: usize = 16;

/// An agent as a member of its pool. Cloning it is cheap and gives the same one.
#[derive(Clone)]
pub struct LocalAgent(Arc<Shared>);

struct Shared {
    pool: Pool,
    wan: Option<Pool>,
    server: Option<Server>,
    left: AtomicBool,
    stop: watch::Sender<bool>,
    reloads: (mpsc::Sender<Reload>, Mutex<mpsc::Receiver<Reload>>),
}

impl LocalAgent {
    /// The agent of a pool, and its server where it is one, which may be in the WAN's pool, too.
    pub fn new(pool: Pool, wan: Option<Pool>, server: Option<Server>) -> Self {
        let (left, stop) = (AtomicBool::new(false), watch::Sender::new(false));
        let (reloads, asked) = mpsc::channel(MAX_RELOADS);
        let reloads = (reloads, Mutex::new(asked));
        Self(Arc::new(Shared { pool, wan, server, left, stop, reloads }))
    }

    /// Its pool.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// The WAN's pool, where this agent is a member.
    pub fn wan(&self) -> Option<&Pool> {
        self.0.wan.as_ref()
    }

    /// Leaves for good: others take over what a server does, and nobody takes it for failed (prose/leave.md).
    ///
    /// A server leaves Raft first. One that is the last of its cluster stays in Raft's configuration: who starts it again
    /// finds its data. One that the others can't do without stays, and an error says why.
    pub async fn leave(&self) -> Result<(), LeaveError> {
        if let Some(server) = &self.0.server {
            server.leave_raft().await.map_err(LeaveError::Needed)?;
        }
        // Both at once: as long as the LAN has it alive, its leader may take it into Raft again.
        let (left, ()) = tokio::join!(self.0.pool.leave(), self.leave_wan());
        left?;
        self.0.left.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn leave_wan(&self) {
        if let Some(wan) = &self.0.wan
            && let Err(error) = wan.leave().await
        {
            // The LAN is what matters: there others count on this agent.
            tracing::error!("agent.server: failed to leave WAN Serf cluster: error={error}");
        }
    }

    /// Whether it has left.
    pub fn has_left(&self) -> bool {
        self.0.left.load(Ordering::Relaxed)
    }

    /// Has the agent read its configuration again; an error is why it goes by the old one.
    pub async fn reload(&self) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "Agent was shutdown before reload could be completed".to_owned();
        self.0.reloads.0.send(reply).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Waits until somebody asks for that.
    pub async fn reload_asked(&self) -> Reload {
        match self.0.reloads.1.lock().await.recv().await {
            Some(reload) => reload,
            None => std::future::pending().await,
        }
    }

    /// Has the agent stop.
    pub fn stop(&self) {
        self.0.stop.send_replace(true);
    }

    /// Waits until the agent is to stop.
    pub async fn stopped(&self) {
        let mut stop = self.0.stop.subscribe();
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
