//! How a server comes by its cluster: blank servers form one, or one that stands takes them in.
//!
//! The formation machine decides; this carries its messages, and asks the cluster that it found. Any server of that
//! cluster passes the wish on to the leader, which adds the server as a learner; autopilot promotes it.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use spec::{
    codec::{self, RPC_LIMIT},
    raft::{ClusterId, Configuration, Payload},
};
use tokio::{runtime::Handle, time::Instant};

use super::{FORWARD_TIMEOUT, Request, Response, Server, Shared, node::StartError};
use crate::{
    driver::{
        consensus::{Input, Leadership},
        formation::{Forming, Host, RECORD, Settings},
    },
    storage::{Directory, RecordFile, StorageError},
};

/// How long a message of the formation may take; it is sent again anyway.
const CARRY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server of a cluster waits after its start for a leader, and between one try to be let in again and the next,
/// times Raft's multiplier: some elections.
const RETURN_AFTER: Duration = Duration::from_secs(3);

/// What the formation machine's host is here.
struct Former {
    server: Weak<Shared>,
    runtime: Handle,
}

impl Host for Former {
    fn carry(&self, to: &str, message: Vec<u8>) {
        let Some(shared) = self.server.upgrade() else { return };
        let to = to.to_owned();
        self.runtime.spawn(async move {
            let request = codec::encode(&Request::Formation(Payload::from(message)));
            let deadline = Instant::now() + CARRY_TIMEOUT;
            if let Err(error) = shared.transport.call(&to, request.into(), deadline).await {
                tracing::debug!(to, "a message of formation was lost: {error}");
            }
        });
    }

    fn formed(&self, configuration: Configuration) {
        if let Some(shared) = self.server.upgrade() {
            // A server that has formed already refuses it: it isn't blank.
            let _ = shared.inbox.push(Input::Form(Arc::new(configuration)));
        }
    }

    fn join(&self, _cluster: ClusterId, leader: &str) {
        if let Some(shared) = self.server.upgrade() {
            ask_in(shared, vec![leader.to_owned()]);
        }
    }

    fn failed(&self, error: StorageError) {
        tracing::error!("what this server promised can't be kept: {error}");
    }
}

/// Asks the servers at these addresses, one after another until one does, to let this one into their cluster; not where
/// that is under way already.
fn ask_in(shared: Arc<Shared>, addresses: Vec<String>) {
    if shared.joining.swap(true, Ordering::AcqRel) {
        return;
    }
    let server = Server(shared);
    server.0.runtime.clone().spawn(async move {
        for through in addresses {
            match server.join_through(&through).await {
                Ok(cluster) => {
                    tracing::info!(through, "raft: joined a cluster");
                    if let Some(forming) = server.0.forming.get() {
                        forming.belongs(cluster, Some(&through)).await;
                    }
                    break;
                }
                Err(error) => tracing::info!(through, "raft: not let in yet: {error}"),
            }
        }
        server.0.joining.store(false, Ordering::Release);
    });
}

/// Tells the formation machine to which cluster this server's log belongs.
pub(super) fn tell(shared: &Arc<Shared>, leadership: &Leadership) {
    if leadership.configuration.servers.is_empty() {
        return;
    }
    let Some(forming) = shared.forming.get().cloned() else { return };
    let cluster = leadership.configuration.cluster;
    let leader = leadership.leader_address().map(str::to_owned);
    shared.runtime.spawn(async move { forming.belongs(cluster, leader.as_deref()).await });
}

impl Server {
    /// Starts to look for a cluster, where this server has none, and to answer those that look for one.
    pub(super) fn form(&self, records: Arc<dyn Directory>) -> Result<(), StartError> {
        let shared = &self.0;
        let settings = &shared.settings;
        let configuration = Arc::clone(&shared.leadership.borrow().configuration);
        let alone = settings.dev || settings.bootstrap;
        let formation = Settings {
            server: shared.id,
            address: settings.advertise_address.to_string(),
            expect: if alone { 1 } else { settings.bootstrap_expect },
            addresses: settings.server_addresses.clone(),
            member_of: (!configuration.servers.is_empty()).then_some(configuration.cluster),
            seed: super::node::random(),
        };
        let host = Former { server: Arc::downgrade(shared), runtime: shared.runtime.clone() };
        let record = RecordFile::new(records, RECORD);
        let forming = Forming::start(&formation, record, Arc::new(host))?;
        let _ = shared.forming.set(forming);
        tell(shared, &shared.leadership.borrow().clone());
        Ok(())
    }

    /// Asks the servers that this one was told of to let it in again, where it has a cluster and has heard no leader since its
    /// start (FORM-21). `last` is when it last did, or when it started.
    pub(super) fn return_to_cluster(&self, last: &mut Instant) {
        let shared = &self.0;
        let pause = RETURN_AFTER * shared.settings.raft_multiplier.max(1);
        let blank = shared.leadership.borrow().configuration.servers.is_empty();
        if blank || shared.gauges.ever_led.load(Ordering::Relaxed) || last.elapsed() < pause {
            return;
        }
        *last = Instant::now();
        let own = shared.settings.advertise_address.to_string();
        let told = shared.settings.server_addresses.iter().filter(|address| **address != own);
        ask_in(Arc::clone(shared), told.cloned().collect());
    }

    /// There may be a server at this address: one to form a cluster with, or to ask for its.
    pub async fn hear_of(&self, address: &str) {
        if let Some(forming) = self.0.forming.get() {
            forming.heard(address).await;
        }
    }

    /// The cluster that this server belongs to, once it does; waits for a change of `known`.
    pub async fn cluster_other_than(&self, known: Option<ClusterId>) -> Option<ClusterId> {
        let mut leadership = self.0.leadership.clone();
        let cluster = |leadership: &Leadership| {
            let configuration = &leadership.configuration;
            (!configuration.servers.is_empty()).then_some(configuration.cluster)
        };
        loop {
            let found = cluster(&leadership.borrow_and_update());
            if found != known {
                return found;
            }
            if leadership.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Asks the server at `address` to let this one into its cluster.
    async fn join_through(&self, address: &str) -> Result<ClusterId, String> {
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
}
