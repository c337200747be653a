//! What a server does for the others, mostly as their leader.

use std::{sync::Arc, time::Duration};

use agent_sync::Refused;
use spec::{
    raft::{Index, MembershipChange, Rejection, ServerId},
    sync::leave::{self, PATIENCE},
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{FORWARD_TIMEOUT, Request, Response, Server};
use crate::driver::consensus::{ChangeError, Input, ProposeError};

/// Between one look at whom this leader hears and the next.
const LISTEN: Duration = Duration::from_millis(50);

impl Server {
    /// Carries out a request as the leader, or says that this server isn't.
    pub(super) async fn lead(&self, request: Request) -> Response {
        match request {
            Request::Propose(payload) => match self.propose_here(payload).await {
                Ok((index, outcome)) => Response::Proposed(index, outcome),
                Err(ProposeError::NotLeader) => Response::NotLeader,
                Err(error @ (ProposeError::Overloaded | ProposeError::DiskFull)) => {
                    Response::Unavailable(error.to_string())
                }
                Err(error @ ProposeError::Unknown) => Response::Unknown(error.to_string()),
            },
            Request::Join { server, address } => match self.join(server, address.into()).await {
                Response::Done => {
                    Response::Joined(self.0.leadership.borrow().configuration.cluster)
                }
                response => response,
            },
            Request::Remove(server) => self.change(MembershipChange::Remove(server)).await,
            Request::Leave(server) => self.let_go(server).await,
            Request::Promote(server) => self.change(MembershipChange::Promote(server)).await,
            Request::Transfer(to) => {
                let (reply, answer) = oneshot::channel();
                if self.0.inbox.push(Input::Transfer { to, reply }).is_err() {
                    return Response::NotLeader;
                }
                match answer.await {
                    Ok(Ok(())) => Response::Done,
                    Ok(Err(Rejection::NotLeader)) | Err(_) => Response::NotLeader,
                    Ok(Err(reason)) => Response::Refused(explain(reason).to_owned()),
                }
            }
            Request::Name => Response::Name(self.0.settings.node_name.clone()),
            Request::Health => self.health_here().map_or(Response::NotLeader, Response::Health),
            Request::Coordinate(update) => self.note_coordinate(update),
            Request::Formation(_) | Request::Digests(_) => {
                Response::Refused("not a request to a leader".to_owned())
            }
        }
    }

    /// Adds a server, as a learner first; autopilot promotes it.
    ///
    /// A server with a new disk takes the place of the one that had its node's id: that disk is gone, and counted on it
    /// would only weaken the quorum.
    async fn join(&self, server: ServerId, address: Arc<str>) -> Response {
        let configuration = Arc::clone(&self.0.leadership.borrow().configuration);
        match configuration.servers.get(&server) {
            Some(member) if member.address == address => return Response::Done,
            Some(_) => {
                return self.change(MembershipChange::SetAddress { id: server, address }).await;
            }
            None => {}
        }
        let old = configuration.servers.keys().find(|id| id.node == server.node);
        if let Some(old) = old {
            let removed = self.change(MembershipChange::Remove(*old)).await;
            if removed != Response::Done {
                return removed;
            }
        }
        // Whoever answers at this address now isn't who answered there before.
        let stale = configuration
            .servers
            .iter()
            .find(|(id, member)| member.address == address && id.node != server.node);
        if let Some((id, _)) = stale {
            return Response::Refused(format!(
                "{address} is the address of server {}, which must be removed first",
                id.node
            ));
        }
        self.change(MembershipChange::AddLearner { id: server, address }).await
    }

    /// Removes a server that leaves, where the others can do without it.
    async fn let_go(&self, server: ServerId) -> Response {
        // Who has only just begun to lead has not heard the others yet.
        let deadline = Instant::now() + self.hears_within().min(PATIENCE / 2);
        loop {
            let (leads, configuration, index) = {
                let now = self.0.leadership.borrow();
                (now.leads, Arc::clone(&now.configuration), now.configuration_index)
            };
            if !leads {
                // It hears nobody, and would take everybody for needed.
                return Response::NotLeader;
            }
            if !configuration.servers.contains_key(&server) {
                // It may be under way only: a later leader might not know of it.
                return self.committed(index).await;
            }
            match leave::may_go(&configuration, server, |id| self.is_heard(id)) {
                Ok(()) => {
                    // Two that leave at once might both go by what is left of the first configuration.
                    return self.change_of(Some(index), MembershipChange::Remove(server)).await;
                }
                Err(_) if Instant::now() < deadline => tokio::time::sleep(LISTEN).await,
                Err(reason) => return Response::Refused(reason),
            }
        }
    }

    /// Waits until the configuration in force is committed; it is this leader's as long as it leads by it.
    async fn committed(&self, index: Index) -> Response {
        let deadline = Instant::now() + FORWARD_TIMEOUT / 2;
        if timeout_at(deadline, self.0.published.wait_for(index.0)).await.is_err() {
            return Response::Unknown("the change was not committed in time".to_owned());
        }
        let leadership = self.0.leadership.borrow();
        if leadership.leads && leadership.configuration_index == index {
            Response::Done
        } else {
            Response::Unknown("leadership was lost before the change was committed".to_owned())
        }
    }

    /// Changes the configuration, and waits until that is committed.
    async fn change(&self, change: MembershipChange) -> Response {
        self.change_of(None, change).await
    }

    /// As [`Self::change`], but only while the configuration is the one whose entry has this index.
    async fn change_of(&self, configuration: Option<Index>, change: MembershipChange) -> Response {
        let (reply, answer) = oneshot::channel();
        let input = Input::Reconfigure { configuration, change, reply };
        if let Err(Refused::Closed(_) | Refused::Full(_)) = self.0.inbox.send(input) {
            return Response::NotLeader;
        }
        let deadline = Instant::now() + FORWARD_TIMEOUT / 2;
        match timeout_at(deadline, answer).await {
            Ok(Ok(Ok(()))) => Response::Done,
            Ok(Ok(Err(ChangeError::Rejected(reason)))) => match reason {
                Rejection::NotLeader => Response::NotLeader,
                // They pass.
                Rejection::ChangePending
                | Rejection::NotCaughtUp
                | Rejection::Transferring
                | Rejection::Overloaded => Response::Unavailable(explain(reason).to_owned()),
                _ => Response::Refused(explain(reason).to_owned()),
            },
            Ok(Ok(Err(ChangeError::Unknown)) | Err(_)) => {
                Response::Unknown("leadership was lost before the change was committed".to_owned())
            }
            Err(_) => Response::Unknown("the change was not committed in time".to_owned()),
        }
    }
}

fn explain(reason: Rejection) -> &'static str {
    match reason {
        Rejection::NotLeader => "node is not the leader",
        Rejection::Transferring => "leadership is being transferred",
        Rejection::Overloaded => "too many writes are waiting to be replicated",
        Rejection::ChangePending => "another change of the Raft configuration is under way",
        Rejection::BadChange => "the change leaves no voter, or changes nothing",
        Rejection::NotCaughtUp => "the server has not caught up with the log",
        Rejection::NotVoter => "cannot find peer: it is no other voter of this cluster",
        Rejection::TimedOut => "leadership transfer timeout",
    }
}
