//! How this server leaves Raft: it does what the rules of [`spec::sync::leave`] say, until it is out or has to stay.

use std::time::Duration;

use spec::{
    raft::ServerId,
    sync::leave::{HEARD, Leave, PATIENCE, Step, View, Went},
};
use tokio::time::{self, Instant};

use super::{Request, Response, Server};

/// How long another server may take to lead, at least.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);
/// And times Raft's multiplier: a little longer than a transfer lasts that comes to nothing.
const TRANSFER_PATIENCE: Duration = Duration::from_millis(400);
/// Between one try and the next.
const PAUSE: Duration = Duration::from_millis(50);

impl Server {
    /// Has another server lead, where there is one and this one does; soon, or not at all.
    pub async fn hand_over(&self) {
        let leadership = self.0.leadership.borrow().clone();
        if leadership.leads && leadership.configuration.voters().count() > 1 {
            let transfer = self.lead(Request::Transfer(None));
            let lasts = TRANSFER_PATIENCE * self.0.settings.raft_multiplier.max(1);
            let _ = time::timeout(HAND_OVER_PATIENCE.max(lasts), transfer).await;
        }
    }

    /// Whether this server has left Raft, or goes without that: it hears of no writes any more, and others can do what is
    /// asked of it (LEAVE-6). Then it is about to stop, and nothing brings it back.
    pub fn has_left(&self) -> bool {
        self.0.left.is_tripped()
    }

    /// Waits until then.
    pub async fn left(&self) {
        self.0.left.tripped().await;
    }

    /// Has this server removed from Raft, unless it is the last. An error says why the others need it.
    pub async fn leave_raft(&self) -> Result<(), String> {
        let started = Instant::now();
        let (mut leave, mut went) = (Leave::default(), Went::default());
        loop {
            let now = self.0.leadership.borrow().clone();
            let view = View {
                own: self.0.id,
                leads: now.leads,
                configuration: &now.configuration,
                waited: started.elapsed(),
            };
            went = match leave.next(&view, &went) {
                Step::HandOver => {
                    tracing::info!("raft: this server leaves and hands over what it leads");
                    self.hand_over().await;
                    Went::Open
                }
                Step::AskRemoval => self.ask_to_go(started + PATIENCE).await,
                Step::LeavePools { late } => {
                    if late {
                        tracing::warn!(
                            "raft: failed to leave raft configuration gracefully, timeout"
                        );
                    }
                    // The last one is all that its cluster has, to the end.
                    let others = now.configuration.servers.keys().any(|id| *id != self.0.id);
                    if others {
                        self.0.left.trip();
                    }
                    return Ok(());
                }
                Step::Stay(reason) => return Err(reason),
            };
        }
    }

    /// Asks the leader to remove this server.
    async fn ask_to_go(&self, deadline: Instant) -> Went {
        let asked = time::timeout_at(deadline, self.ask_leader(Request::Leave(self.0.id))).await;
        let Ok(answer) = asked else { return Went::Open };
        match answer {
            Ok(Response::Done) => Went::Removed,
            Ok(Response::Refused(reason)) => Went::Needed(reason),
            Ok(_) | Err(_) => {
                // Another change is under way, or another leader is about to be.
                time::sleep_until(deadline.min(Instant::now() + PAUSE)).await;
                Went::Open
            }
        }
    }

    /// Whether the leader, which this server is, hears that one.
    pub(super) fn is_heard(&self, id: &ServerId) -> bool {
        let heard = self.0.peers.heard(id);
        let since = heard.map(|at| self.0.clock.now().since(at));
        *id == self.0.id || since.is_some_and(|since| since <= self.hears_within())
    }

    /// How long it takes at most to hear a server that is there.
    pub(super) fn hears_within(&self) -> Duration {
        HEARD * self.0.settings.raft_multiplier.max(1)
    }
}
