//! The nodes' coordinates: whoever is told of one tells the leader, who writes what it gathered now and then (SYNC-8).

use std::{sync::Weak, time::Duration};

use spec::{
    state::{Command, Outcome, catalog::CoordinateUpdate},
    sync::coordinates::{PERIOD, Refusal},
};
use tokio::time::{MissedTickBehavior, interval};

use super::{Request, Response, Server, ServerError, Shared, done, lock};

/// How long a server in `-dev` gathers, as in Consul: who tries things out shouldn't have to wait.
const DEV_PERIOD: Duration = Duration::from_millis(100);

/// Writes what was gathered; runs until the server is gone.
pub(super) async fn run(shared: Weak<Shared>) {
    let Some(dev) = shared.upgrade().map(|shared| shared.settings.dev) else { return };
    let mut ticks = interval(if dev { DEV_PERIOD } else { PERIOD });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        Server(shared).write_coordinates().await;
    }
}

impl Server {
    /// Notes where a node is. It is in the catalog some seconds later, if the node is.
    pub async fn tell_coordinate(&self, update: CoordinateUpdate) -> Result<(), ServerError> {
        done(self.ask_leader(Request::Coordinate(update)).await?)
    }

    /// The same as the leader.
    pub(super) fn note_coordinate(&self, update: CoordinateUpdate) -> Response {
        if !self.0.leadership.borrow().leads {
            return Response::NotLeader;
        }
        match lock(&self.0.gathering).note(update) {
            Ok(()) => Response::Done,
            Err(Refusal::Invalid) => Response::Refused("invalid coordinate".to_owned()),
            Err(Refusal::Full) => {
                Response::Unavailable("too many coordinates are waiting to be written".to_owned())
            }
        }
    }

    async fn write_coordinates(&self) {
        let commands = lock(&self.0.gathering).take();
        for command in commands {
            // Another leader is told by itself.
            if !self.0.leadership.borrow().leads {
                return;
            }
            match self.propose(Command::Catalog(command)).await {
                Ok((_, Outcome::Refused(reason))) => {
                    tracing::warn!("leader: coordinates were refused: {reason}");
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!("leader: coordinates are not written: {error}");
                    return;
                }
            }
        }
    }
}
