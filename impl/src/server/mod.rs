//! A server: Raft's threads, the connections to the other servers, and what the rest of the agent asks of them.

mod agreement;
mod archive;
mod coordinates;
mod duties;
mod forming;
mod health;
mod leader;
mod leaving;
mod node;
mod reads;
mod reconcile;
mod request;
mod types;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use agent_sync::{GroupCommit, Latch, Published, Watches};
use bytes::Bytes;
use spec::{
    codec::{self, RPC_LIMIT},
    raft::{NodeId, Payload, ServerId, Suffrage},
    state::{Command, Outcome, State},
    sync::coordinates::Gathering,
};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

pub(crate) use self::node::random;
use self::{
    agreement::Agreeing,
    request::{Request, Response},
};
pub use self::{
    node::StartError,
    types::{
        ClusterHealth, Consistency, PeerSelector, PeerStatus, RaftConfiguration, ServerError,
        ServerHealth, SnapshotFile, Status, View,
    },
};
pub use crate::driver::apply::watch_table;
use crate::{
    config::ServerSettings,
    driver::{
        Clock,
        consensus::{Input, Leadership, ProposeError},
        formation::Forming,
    },
    gossip::Pool,
    net::{RpcError, Transport, Tunnels},
};

/// How long another server may take to answer a forwarded request.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);
/// Entries that may be committed and not applied while the leader takes more; etcd refuses at 5,000.
const MAX_UNAPPLIED: u64 = 65_536;
/// How long a leader may still take when another one leads: one that runs answers as soon as it steps down, and from one
/// that froze or whose answers are lost none comes before its connection breaks, seconds later.
const DEPOSED_TIMEOUT: Duration = Duration::from_secs(1);

/// A server. Cloning it is cheap and gives the same one.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    settings: ServerSettings,
    id: ServerId,
    clock: Clock,
    inbox: Arc<GroupCommit<Input>>,
    reads: reads::Reads,
    published: Arc<Published<State>>,
    watches: Watches,
    leadership: watch::Receiver<Leadership>,
    transport: Transport,
    /// Where the log stands, as of the last turn.
    gauges: Arc<Gauges>,
    /// What the leader knows of the others, where this server leads.
    peers: Arc<health::Peers>,
    /// What autopilot saw last, where this server leads.
    seen: Mutex<Option<health::Seen>>,
    /// The pool that this server is a member of, once it is.
    pool: OnceLock<Pool>,
    /// The pool of all datacenters' servers, where this one is a member.
    wan: OnceLock<Option<Pool>>,
    /// The other servers' names, as they tell them.
    names: Mutex<BTreeMap<NodeId, String>>,
    /// Servers that connected and said where they answer: the log of this one may not have them yet.
    known: Mutex<BTreeMap<ServerId, String>>,
    /// Looks for a cluster, and answers those that do.
    forming: OnceLock<Forming>,
    /// Whether a wish to join is under way.
    joining: AtomicBool,
    /// Coordinates that this server was told as the leader, and hasn't written yet.
    gathering: Mutex<Gathering>,
    /// Compares the state with the other servers'.
    agreeing: Arc<Agreeing>,
    /// Whether it is out of Raft, or goes all the same, because it leaves.
    left: Latch,
    /// Who serves the connections of agents that are no servers.
    tunnels: Mutex<Option<Arc<dyn Tunnels>>>,
    /// Why the agent must stop, once it must.
    fatal: watch::Receiver<Option<String>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// For what starts outside of a task.
    runtime: tokio::runtime::Handle,
    /// Keeps the data directory locked.
    _lock: Option<crate::storage::DirectoryLock>,
}

/// Numbers that the consensus thread leaves for whoever looks.
#[derive(Debug, Default)]
struct Gauges {
    term: AtomicU64,
    commit_index: AtomicU64,
    last_index: AtomicU64,
    last_term: AtomicU64,
    snapshot_index: AtomicU64,
    snapshot_term: AtomicU64,
    /// When the leader was last heard, in microseconds of the agent's clock.
    heard_at_us: AtomicU64,
    /// Whether there ever was a leader since this start.
    ever_led: AtomicBool,
}

/// Waits until there is a leader, or a change of it, until the deadline.
async fn leader_known(leadership: &mut watch::Receiver<Leadership>, deadline: Instant) -> bool {
    let known = leadership.wait_for(|leadership| leadership.leader.is_some());
    matches!(tokio::time::timeout_at(deadline, known).await, Ok(Ok(_)))
}

impl Server {
    /// When a request that finds no leader is given up: Consul holds it so long, and a little more by chance.
    fn hold(&self) -> Instant {
        let hold = self.0.settings.rpc_hold_timeout;
        let jitter = random() % 16;
        Instant::now() + hold + hold / 256 * u32::try_from(jitter).unwrap_or(0)
    }

    /// As [`leader_known`]; who has left needn't wait for one (LEAVE-6).
    async fn leader_known(
        &self,
        leadership: &mut watch::Receiver<Leadership>,
        deadline: Instant,
    ) -> bool {
        tokio::select! {
            known = leader_known(leadership, deadline) => known,
            () = self.left() => leadership.borrow().leader.is_some(),
        }
    }

    /// Puts a command through the log (through the leader where this server doesn't lead), and gives its index and what
    /// became of it, once it is applied.
    pub async fn propose(&self, command: Command) -> Result<(u64, Outcome), ServerError> {
        let payload = command.to_payload();
        let mut leadership = self.0.leadership.clone();
        // Most writes find the leader at once and need no deadline.
        let mut deadline = None;
        loop {
            self.0.agreeing.check()?;
            let (leads, leader) = {
                let leadership = leadership.borrow_and_update();
                (leadership.leads, leadership.leader)
            };
            let wait = if leads {
                match self.propose_here(payload.clone()).await {
                    Err(ProposeError::NotLeader) => Duration::from_millis(5),
                    result => return result.map_err(propose_error),
                }
            } else if let Some(leader) = leader {
                match self.forward(leader, &Request::Propose(payload.clone())).await? {
                    Some(Response::Proposed(index, outcome)) => return Ok((index, outcome)),
                    Some(response) => return Err(unexpected(response)),
                    None => Duration::from_millis(25),
                }
            } else {
                Duration::ZERO
            };
            let deadline = *deadline.get_or_insert_with(|| self.hold());
            if !wait.is_zero() {
                // Whoever was asked no longer leads: news of who does are on their way.
                let _ = tokio::time::timeout(wait, leadership.changed()).await;
            }
            if Instant::now() >= deadline || !self.leader_known(&mut leadership, deadline).await {
                return Err(ServerError::NoLeader);
            }
        }
    }

    async fn propose_here(&self, payload: Payload) -> Result<(u64, Outcome), ProposeError> {
        if self.0.agreeing.reason().is_some() {
            return Err(ProposeError::NotLeader);
        }
        // What is committed waits in memory until it is applied, and clients could write faster than that.
        let committed = self.0.gauges.commit_index.load(Ordering::Relaxed);
        if committed.saturating_sub(self.0.published.index()) > MAX_UNAPPLIED {
            return Err(ProposeError::Overloaded);
        }
        let (reply, answer) = oneshot::channel();
        let bytes = payload.0.len();
        match self.0.inbox.send_sized(Input::Propose { payload, reply }, bytes) {
            Ok(()) => {
                let answer = answer.await.unwrap_or(Err(ProposeError::Unknown));
                match self.0.agreeing.reason() {
                    None => answer,
                    // It is in the log, but what a wrong state made of it is not what the others' did.
                    Some(_) => answer.and(Err(ProposeError::Unknown)),
                }
            }
            Err(agent_sync::Refused::Full(_)) => Err(ProposeError::Overloaded),
            Err(agent_sync::Refused::Closed(_)) => Err(ProposeError::NotLeader),
        }
    }

    /// Asks the leader; none where it doesn't lead or certainly wasn't asked, so that the request may be tried again.
    async fn forward(
        &self,
        leader: ServerId,
        request: &Request,
    ) -> Result<Option<Response>, ServerError> {
        let deadline = Instant::now() + FORWARD_TIMEOUT;
        let encode = |buffer: &mut Vec<u8>| codec::encode_into(request, buffer);
        let answer = tokio::select! {
            answer = self.0.transport.call_server(leader, encode, deadline) => answer,
            () = self.deposed(leader) => Err(RpcError::OutcomeUnknown(format!(
                "rpc error making call: {}", ProposeError::Unknown
            ))),
        };
        match answer {
            Ok(bytes) => match codec::decode::<Response, RPC_LIMIT>(&bytes) {
                Ok(Response::NotLeader) => Ok(None),
                Ok(response) => Ok(Some(response)),
                Err(error) => Err(ServerError::OutcomeUnknown(format!(
                    "rpc error making call: undecodable response: {error}"
                ))),
            },
            Err(RpcError::Overloaded) => {
                Err(ServerError::Unavailable(RpcError::Overloaded.to_string()))
            }
            Err(error) if error.is_never_sent() => Ok(None),
            Err(error) => Err(ServerError::OutcomeUnknown(error.to_string())),
        }
    }

    /// Waits until another than `leader` has led for [`DEPOSED_TIMEOUT`].
    async fn deposed(&self, leader: ServerId) {
        let mut leadership = self.0.leadership.clone();
        let another = |now: &Leadership| now.leader.is_some_and(|known| known != leader);
        if leadership.wait_for(another).await.is_err() {
            // The server stops, and the call ends with it.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(DEPOSED_TIMEOUT).await;
    }

    /// Asks whoever leads, this server too, and waits for a leader as long as requests are held.
    async fn ask_leader(&self, request: Request) -> Result<Response, ServerError> {
        let deadline = self.hold();
        let mut leadership = self.0.leadership.clone();
        loop {
            let (leads, leader) = {
                let leadership = leadership.borrow_and_update();
                (leadership.leads, leadership.leader)
            };
            let response = if leads {
                Some(self.lead(request.clone()).await)
            } else if let Some(leader) = leader {
                self.forward(leader, &request).await?
            } else {
                None
            };
            match response {
                Some(Response::NotLeader) | None => {}
                Some(response) => return Ok(response),
            }
            let _ = tokio::time::timeout(Duration::from_millis(25), leadership.changed()).await;
            if Instant::now() >= deadline || !self.leader_known(&mut leadership, deadline).await {
                return Err(ServerError::NoLeader);
            }
        }
    }

    /// A state that is as fresh as asked.
    ///
    /// The default and `Consistent` are both linearizable: a ReadIndex round that all reads of the moment share, at
    /// whichever server is asked (thesis §6.4).
    pub async fn read(&self, consistency: Consistency) -> Result<View, ServerError> {
        self.0.agreeing.check()?;
        if consistency == Consistency::Stale {
            return self.read_stale().await;
        }
        let mut leadership = self.0.leadership.clone();
        let mut deadline = None;
        loop {
            if self.has_left() {
                // The leader has forgotten this server, and confirms nothing to it any more (LEAVE-6).
                return Err(ServerError::NoLeader);
            }
            if let Some(index) = self.0.reads.index().await? {
                if self.0.published.index() < index.0 {
                    let hold = *deadline.get_or_insert_with(|| self.hold());
                    let applied = tokio::time::timeout_at(hold, self.0.published.wait_for(index.0));
                    let in_time = tokio::select! {
                        applied = applied => applied.is_ok(),
                        () = self.left() => false,
                    };
                    if !in_time {
                        return Err(ServerError::NoLeader);
                    }
                }
                return Ok(self.published()?.read_with(consistency));
            }
            let deadline = *deadline.get_or_insert_with(|| self.hold());
            leadership.mark_unchanged();
            if leadership.borrow().leader.is_some() {
                // It may be gone already; news of that are on their way.
                let _ = tokio::time::timeout(Duration::from_millis(10), leadership.changed()).await;
            }
            if Instant::now() >= deadline || !self.leader_known(&mut leadership, deadline).await {
                return Err(ServerError::NoLeader);
            }
        }
    }

    /// What this server has, but not before it has heard a leader once: until then that may be from long ago.
    async fn read_stale(&self) -> Result<View, ServerError> {
        if !self.0.gauges.ever_led.load(Ordering::Relaxed) {
            let mut leadership = self.0.leadership.clone();
            if !self.leader_known(&mut leadership, self.hold()).await {
                return Err(ServerError::NoLeader);
            }
        }
        self.published()
    }

    /// The state that this server has, at once; none where it is known to be wrong.
    pub fn published(&self) -> Result<View, ServerError> {
        self.0.agreeing.check()?;
        let (leads, known_leader) = {
            let leadership = self.0.leadership.borrow();
            (leadership.leads, leadership.leader.is_some())
        };
        let last_contact = if leads { Duration::ZERO } else { self.last_contact() };
        Ok(View { state: Arc::clone(&self.0.published.load().value), known_leader, last_contact })
    }

    fn last_contact(&self) -> Duration {
        let heard = self.0.gauges.heard_at_us.load(Ordering::Relaxed);
        if heard == 0 {
            return Duration::ZERO;
        }
        Duration::from_micros(self.0.clock.now().0.saturating_sub(heard))
    }

    /// The registry of blocking queries.
    pub fn watches(&self) -> &Watches {
        &self.0.watches
    }

    /// Whether this server's state differs from a majority's, so that it answers nobody.
    pub fn is_diverged(&self) -> bool {
        self.0.agreeing.reason().is_some()
    }

    /// Serves agents that are no servers by `tunnels`; until then their connections are closed as they come.
    pub fn serve_agents(&self, tunnels: Arc<dyn Tunnels>) {
        *lock(&self.0.tunnels) = Some(tunnels);
    }

    /// Waits until the agent must stop, and says why: a disk that failed, a broken invariant.
    pub async fn failed(&self) -> String {
        let mut fatal = self.0.fatal.clone();
        let reason = fatal.wait_for(Option::is_some).await.map(|reason| reason.clone());
        match reason {
            Ok(Some(reason)) => reason,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// What this server knows of itself and of Raft.
    pub fn status(&self) -> Status {
        let gauges = &self.0.gauges;
        let get = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
        let leadership = self.0.leadership.borrow().clone();
        let applied_index = self.0.published.index();
        Status {
            node_id: self.0.id.node.to_string(),
            node_name: self.0.settings.node_name.clone(),
            leader_address: leadership.leader_address().map(str::to_owned),
            is_leader: leadership.leads,
            term: get(&gauges.term),
            commit_index: get(&gauges.commit_index),
            applied_index,
            last_log_index: get(&gauges.last_index),
            last_log_term: get(&gauges.last_term),
            last_snapshot_index: get(&gauges.snapshot_index),
            last_snapshot_term: get(&gauges.snapshot_term),
            fsm_pending: get(&gauges.commit_index).saturating_sub(applied_index),
            last_contact: leadership
                .leader
                .map(|_| if leadership.leads { Duration::ZERO } else { self.last_contact() }),
            peers: self.peers(&leadership),
            diverged: self.0.agreeing.reason().map(str::to_owned),
        }
    }

    fn peers(&self, leadership: &Leadership) -> Vec<PeerStatus> {
        let names = lock(&self.0.names);
        let members = self.0.pool.get().map(Pool::members).unwrap_or_default();
        // One that was dead before it could say its name is known to gossip all the same.
        let name = |node: &NodeId| {
            let (known, id) = (names.get(node).cloned(), node.to_string());
            let gossiped = || members.iter().find(|member| member.tag("id") == id);
            known.or_else(|| gossiped().map(|member| member.name.to_string()))
        };
        let servers = leadership.configuration.servers.iter();
        servers
            .map(|(id, member)| PeerStatus {
                id: id.node.to_string(),
                node: name(&id.node).unwrap_or_else(|| "(unknown)".to_owned()),
                address: member.address.to_string(),
                leader: leadership.leader == Some(*id),
                voter: member.suffrage == Suffrage::Voter,
            })
            .collect()
    }

    /// The servers in Raft; with `stale` as this server knows them, else once it knows a leader.
    pub async fn raft_configuration(&self, stale: bool) -> Result<RaftConfiguration, ServerError> {
        let mut leadership = self.0.leadership.clone();
        let enough = stale && self.0.gauges.ever_led.load(Ordering::Relaxed);
        if !enough && !self.leader_known(&mut leadership, self.hold()).await {
            return Err(ServerError::NoLeader);
        }
        self.learn_names().await;
        let leadership = leadership.borrow().clone();
        Ok(RaftConfiguration {
            servers: self.peers(&leadership),
            index: leadership.configuration_index.0,
        })
    }

    /// Removes a server from Raft.
    pub async fn remove_peer(&self, peer: PeerSelector) -> Result<(), ServerError> {
        let configuration = Arc::clone(&self.0.leadership.borrow().configuration);
        let found = configuration.servers.iter().find(|(id, member)| match &peer {
            PeerSelector::Address(address) => *member.address == **address,
            PeerSelector::Id(node) => id.node.to_string() == node.to_lowercase(),
        });
        let Some((id, _)) = found else {
            return Err(ServerError::Refused(match peer {
                PeerSelector::Address(address) => {
                    format!("address {address:?} was not found in the Raft configuration")
                }
                PeerSelector::Id(id) => {
                    format!("id {id:?} was not found in the Raft configuration")
                }
            }));
        };
        done(self.ask_leader(Request::Remove(*id)).await?)
    }

    /// Hands leadership to the named node, or to whoever is best prepared.
    pub async fn transfer_leadership(&self, to: Option<String>) -> Result<(), ServerError> {
        let configuration = Arc::clone(&self.0.leadership.borrow().configuration);
        let to = match to {
            None => None,
            Some(node) => {
                let voter = configuration.voters().find(|id| id.node.to_string() == node);
                let missing = || ServerError::Refused(format!("cannot find peer with id {node:?}"));
                Some(*voter.ok_or_else(missing)?)
            }
        };
        done(self.ask_leader(Request::Transfer(to)).await?)
    }

    /// An archive of the state, of this server as it is with `stale`, else of a linearizable read.
    pub async fn save_snapshot(&self, stale: bool) -> Result<SnapshotFile, ServerError> {
        let consistency = if stale { Consistency::Stale } else { Consistency::Consistent };
        let view = self.read(consistency).await?;
        let term = self.0.gauges.term.load(Ordering::Relaxed);
        archive::save(view, term).await
    }

    /// Puts the state of an archive in place of what stands, on all servers.
    pub async fn restore_snapshot(&self, archive: Bytes) -> Result<(), ServerError> {
        let stream = archive::open(archive).await?;
        let name = u128::from(random()) << 64 | u128::from(random());
        for command in spec::state::restore::commands(name, &stream) {
            let (_, outcome) = self.propose(command).await?;
            if let Outcome::Refused(reason) = outcome {
                return Err(ServerError::Refused(format!("failed to restore: {reason}")));
            }
        }
        Ok(())
    }

    /// Which server it is.
    pub fn id(&self) -> ServerId {
        self.0.id
    }

    /// Has this server's duties as a leader go by this pool's members; who is removed there is removed in the WAN, too.
    pub fn attach(&self, pool: Pool, wan: Option<Pool>) {
        let _ = self.0.wan.set(wan);
        let _ = self.0.pool.set(pool);
    }

    /// Stops the threads and the connections, once what was accepted is durable. A leader hands over first, so that the
    /// others needn't notice that it is gone.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.0.inbox.close();
        // It holds this server, most likely.
        *lock(&self.0.tunnels) = None;
        let threads = std::mem::take(&mut *lock(&self.0.threads));
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
        });
        let _ = joined.await;
        self.0.transport.shutdown();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn propose_error(error: ProposeError) -> ServerError {
    match error {
        ProposeError::NotLeader => ServerError::NoLeader,
        ProposeError::Overloaded | ProposeError::DiskFull => {
            ServerError::Unavailable(error.to_string())
        }
        ProposeError::Unknown => ServerError::OutcomeUnknown(error.to_string()),
    }
}

/// What an answer means that isn't the one hoped for.
fn unexpected(response: Response) -> ServerError {
    match response {
        Response::NotLeader => ServerError::NoLeader,
        Response::Unavailable(text) => ServerError::Unavailable(text),
        Response::Refused(text) => ServerError::Refused(text),
        Response::Unknown(text) => {
            ServerError::OutcomeUnknown(format!("rpc error making call: {text}"))
        }
        Response::Proposed(..)
        | Response::Done
        | Response::Name(_)
        | Response::Joined(_)
        | Response::Digests(_)
        | Response::Health(_) => ServerError::Remote("an answer to another question".to_owned()),
    }
}

fn done(response: Response) -> Result<(), ServerError> {
    match response {
        Response::Done => Ok(()),
        response => Err(unexpected(response)),
    }
}
