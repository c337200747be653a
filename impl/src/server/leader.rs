//! What a server does for the others, mostly as their leader.

use std::sync::Arc;

use agent_sync::Refused;
use spec::raft::{Index, MembershipChange, Rejection, ServerId};
use tokio::{sync::oneshot, time::Instant};

use super::{FORWARD_TIMEOUT, Request, Response, Server, applied};
use crate::driver::consensus::{Input, ProposeError};

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
            Request::Transfer(to) => {
                let (reply, answer) = oneshot::channel();
                if self.0.inbox.push(Input::Transfer { to, reply }).is_err() {
                    return Response::NotLeader;
                }
                match answer.await {
                    Ok(Ok(_)) => Response::Done,
                    Ok(Err(Rejection::NotLeader)) | Err(_) => Response::NotLeader,
                    Ok(Err(reason)) => Response::Refused(explain(reason).to_owned()),
                }
            }
            Request::Name => Response::Name(self.0.settings.node_name.clone()),
            Request::Formation(_) => Response::Refused("not forming a cluster".to_owned()),
        }
    }

    /// Adds a server, as a learner first; it is promoted once it has caught up.
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

    /// Changes the configuration, and waits until that is committed.
    async fn change(&self, change: MembershipChange) -> Response {
        let (reply, answer) = oneshot::channel();
        let input = Input::Reconfigure { change, reply };
        if let Err(Refused::Closed(_) | Refused::Full(_)) = self.0.inbox.send(input) {
            return Response::NotLeader;
        }
        match answer.await {
            Ok(Ok(index)) => self.committed(index).await,
            Ok(Err(Rejection::NotLeader)) | Err(_) => Response::NotLeader,
            Ok(Err(reason @ (Rejection::ChangePending | Rejection::NotCaughtUp))) => {
                Response::Unavailable(explain(reason).to_owned())
            }
            Ok(Err(reason)) => Response::Refused(explain(reason).to_owned()),
        }
    }

    async fn committed(&self, index: Index) -> Response {
        let deadline = Instant::now() + FORWARD_TIMEOUT / 2;
        if applied(&self.0.published, index, deadline).await {
            Response::Done
        } else {
            Response::Unknown("the change was not committed in time".to_owned())
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
