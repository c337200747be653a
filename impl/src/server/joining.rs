//! Joining a cluster that stands: any of its servers passes the wish on to the leader, which adds the server as a learner
//! and promotes it once it has caught up.

use spec::{
    codec::{self, RPC_LIMIT},
    raft::ClusterId,
};
use tokio::time::Instant;

use super::{FORWARD_TIMEOUT, Request, Response, Server};

impl Server {
    /// Asks the server at `address` to let this one into its cluster.
    pub(super) async fn join_through(&self, address: &str) -> Result<ClusterId, String> {
        let request = Request::Join {
            server: self.0.id,
            address: self.0.settings.advertise_address.to_string(),
        };
        let deadline = Instant::now() + FORWARD_TIMEOUT;
        let request = codec::encode(&request).into();
        let answer = self.0.transport.call(address, request, deadline).await;
        let bytes = answer.map_err(|error| error.to_string())?;
        match codec::decode::<Response, RPC_LIMIT>(&bytes) {
            Ok(Response::Joined(cluster)) => {
                self.0.transport.set_cluster(Some(cluster));
                Ok(cluster)
            }
            Ok(response) => Err(super::unexpected(response).to_string()),
            Err(error) => Err(format!("undecodable response: {error}")),
        }
    }

    /// Lets a server join, through the leader where this server isn't it.
    pub(super) async fn admit(&self, request: Request) -> Response {
        if self.0.leadership.borrow().configuration.servers.is_empty() {
            // A blank server knows no leader to wait for.
            return Response::NotLeader;
        }
        match self.ask_leader(request).await {
            Ok(response) => response,
            Err(error) => Response::Unavailable(error.to_string()),
        }
    }

    /// Joins the cluster of whichever of the configured servers answers first; tries until one does.
    pub(super) async fn join_until_admitted(&self) {
        let own = self.0.settings.advertise_address.to_string();
        loop {
            for address in &self.0.settings.server_addresses {
                if *address == own {
                    continue;
                }
                match self.join_through(address).await {
                    Ok(_) => {
                        tracing::info!(through = address.as_str(), "raft: joined a cluster");
                        return;
                    }
                    Err(error) => tracing::debug!(address = address.as_str(), "no way in: {error}"),
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
}
