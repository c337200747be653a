//! Autopilot at a server: what a leader knows of the other servers, what autopilot's rules make of it, and the removal of
//! dead ones and the promotion of learners.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use spec::{
    raft::{Index, NodeId, Role, ServerId, Suffrage, Term},
    state::{AutopilotCommand, Command, text::Text},
    sync::{
        autopilot::{self, Autopilot, Change, Report, Rules},
        flood::wan_name,
        reconcile::MemberStatus,
    },
    time::Instant,
};

use super::{
    ClusterHealth, Request, Response, Server, ServerError, ServerHealth, View, lock, unexpected,
};
use crate::{driver::consensus::Consensus, gossip::Pool};

/// How often the leader's progress is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What a leader knows of another server.
#[derive(Clone, Copy, Debug)]
struct Peer {
    match_index: Index,
    term: Term,
    /// When Raft heard it last; none before it ever did.
    heard: Option<Instant>,
    /// When this was taken down. A contact is as old as it was then: what happened since isn't known here.
    at: Instant,
}

/// What the leader knows of itself and the others at one moment, as the consensus thread leaves it for whoever looks.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// The microsecond before which there is no need to look again.
    next_us: AtomicU64,
    known: Mutex<BTreeMap<ServerId, Peer>>,
}

impl Peers {
    /// Takes down what the machine knows.
    pub(super) fn look(&self, consensus: &Consensus, now: Instant) {
        if now.0 < self.next_us.load(Ordering::Relaxed) {
            return;
        }
        self.next_us.store(now.after(LOOK).0, Ordering::Relaxed);
        let node = consensus.node();
        let mut known = lock(&self.known);
        known.clear();
        let Role::Leader(leader) = &node.role else { return };
        let last = node.log.last();
        let (index, term, heard) = (last.index, last.term, Some(now));
        let own = Peer { match_index: index, term, heard, at: now };
        known.insert(node.config.id, own);
        for (id, progress) in &leader.progress {
            let term = node.log.term_at(progress.match_index).unwrap_or_default();
            let heard = consensus.heard(id);
            known.insert(*id, Peer { match_index: progress.match_index, term, heard, at: now });
        }
    }

    /// When a leader heard this server last.
    pub(super) fn heard(&self, id: &ServerId) -> Option<Instant> {
        self.get(id)?.heard
    }

    fn get(&self, id: &ServerId) -> Option<Peer> {
        lock(&self.known).get(id).copied()
    }
}

/// What autopilot saw last, at a leader.
#[derive(Debug, Default)]
pub(super) struct Seen {
    autopilot: Autopilot,
    report: Report,
    servers: Vec<autopilot::Server>,
    /// When that was.
    looked: Instant,
}

impl Server {
    /// Has a new cluster start with this server's configuration of autopilot: a leader's first word, where there was none.
    pub(super) async fn initialize_autopilot(&self) {
        // Not before this leader's own term: an earlier leader's word may be on its way through the log.
        let Ok(view) = self.read(super::Consistency::Default).await else { return };
        if view.state.autopilot().is_some() || !self.0.leadership.borrow().leads {
            return;
        }
        let first = AutopilotCommand::Initialize(self.0.settings.autopilot.clone());
        if let Err(error) = self.propose(Command::Autopilot(first)).await {
            tracing::debug!("autopilot has no configuration yet: {error}");
        }
    }

    /// Looks at the servers as autopilot does, at a leader, and makes the change that is due.
    pub(super) async fn look_after_servers(&self) {
        match self.look_at_servers() {
            None => {}
            Some(Change::Promote(server)) => {
                let id = server.node.to_string();
                tracing::info!(id, "autopilot: promoting a server to voter");
                self.change_of_raft(Request::Promote(server), "made a voter of", &id).await;
            }
            Some(Change::Remove { server, member }) => self.clean_up(server, member).await,
        }
    }

    async fn clean_up(&self, server: ServerId, member: Option<Text>) {
        let name = member.as_deref().unwrap_or_default();
        tracing::info!(member = name, "autopilot: removing a dead server");
        let id = server.node.to_string();
        if !self.change_of_raft(Request::Remove(server), "removed from", &id).await {
            return;
        }
        if member.is_some()
            && let Some(pool) = self.0.pool.get()
            && let Err(error) = pool.force_leave(name, false).await
        {
            tracing::debug!(member = name, "autopilot: gossip doesn't let it go: {error}");
        }
        if let (Some(name), Some(Some(wan))) = (member, self.0.wan.get()) {
            let name = wan_name(&name, &self.0.settings.datacenter);
            if let Err(error) = wan.force_leave(&name, false).await {
                tracing::debug!(member = name, "autopilot: the WAN doesn't let it go: {error}");
            }
        }
    }

    /// Looks at the servers as autopilot does, at a leader; says what is to be changed.
    fn look_at_servers(&self) -> Option<Change> {
        let mut seen = lock(&self.0.seen);
        if !self.0.leadership.borrow().leads {
            // What another leader sees meanwhile isn't known here.
            *seen = None;
            return None;
        }
        let now = self.0.clock.now();
        if seen.as_ref().is_some_and(|seen| now.since(seen.looked) < autopilot::INTERVAL) {
            return None;
        }
        // What a wrong state says of the settings is not to be heeded.
        let Ok(View { state, .. }) = self.published() else { return None };
        let settings = state.autopilot().map(|config| config.settings.clone()).unwrap_or_default();
        let rules = Rules {
            settings: &settings,
            heartbeat: super::node::heartbeat(&self.0.settings),
            reconnect_timeout: self.0.settings.reconnect_timeout,
        };
        let servers = self.autopilot_servers();
        let seen = seen.get_or_insert_default();
        let before = seen.report.denied.take();
        seen.report = seen.autopilot.step(now, &rules, &servers);
        if let Some(reason) = &seen.report.denied
            && before.as_ref() != Some(reason)
        {
            tracing::warn!("autopilot: dead servers stay: {reason}");
        }
        (seen.servers, seen.looked) = (servers, now);
        seen.report.change.clone()
    }

    /// The servers in Raft as this leader sees them.
    fn autopilot_servers(&self) -> Vec<autopilot::Server> {
        let leadership = self.0.leadership.borrow().clone();
        let name = |node: &NodeId| {
            let names = lock(&self.0.names);
            names.get(node).cloned().unwrap_or_default()
        };
        let members = self.0.pool.get().map(Pool::members);
        let server = |(id, configured): (&ServerId, &spec::raft::Member)| {
            let peer = self.0.peers.get(id);
            let id_text = id.node.to_string();
            let known = members
                .as_ref()
                .and_then(|members| members.iter().find(|member| member.tag("id") == id_text));
            autopilot::Server {
                id: *id,
                name: match known {
                    Some(member) => (*member.name).into(),
                    None => name(&id.node).into(),
                },
                address: configured.address.clone(),
                version: known
                    .map_or("", |member| member.tag("build").split(':').next().unwrap_or_default())
                    .into(),
                // Servers may find each other by their addresses alone: then gossip never met them. One that it has
                // forgotten is the reconcile's, which knows from the catalog that gossip knew it.
                status: match known {
                    Some(member) => Some(super::reconcile::status(member.status)),
                    None => (*id == self.0.id).then_some(MemberStatus::Alive),
                },
                voter: configured.suffrage == Suffrage::Voter,
                leader: *id == self.0.id,
                last_contact: if *id == self.0.id {
                    Some(Duration::ZERO)
                } else {
                    peer.and_then(|peer| Some(peer.at.since(peer.heard?)))
                },
                last_term: peer.map(|peer| peer.term).unwrap_or_default(),
                last_index: peer.map(|peer| peer.match_index).unwrap_or_default(),
            }
        };
        leadership.configuration.servers.iter().map(server).collect()
    }

    /// How the servers are, as the leader sees them.
    pub async fn autopilot_health(&self) -> Result<ClusterHealth, ServerError> {
        match self.ask_leader(Request::Health).await? {
            Response::Health(health) => Ok(health),
            response => Err(unexpected(response)),
        }
    }

    /// How the servers are; none where this server doesn't lead.
    pub(super) fn health_here(&self) -> Option<ClusterHealth> {
        let looked = |server: &Self| {
            let seen = lock(&server.0.seen);
            let seen = seen.as_ref()?;
            Some(cluster_health(seen, server.0.clock.now()))
        };
        looked(self).or_else(|| {
            let _ = self.look_at_servers();
            looked(self)
        })
    }
}

fn cluster_health(seen: &Seen, now: Instant) -> ClusterHealth {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let shown = |status: Option<MemberStatus>| match status {
        None => "none",
        Some(MemberStatus::Alive) => "alive",
        Some(MemberStatus::Leaving) => "leaving",
        Some(MemberStatus::Left) => "left",
        Some(MemberStatus::Failed) => "failed",
        Some(MemberStatus::Reaped) => "reaped",
    };
    let nanoseconds = |since: Duration| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    let servers =
        seen.report.with(&seen.servers).into_iter().map(|(server, health)| ServerHealth {
            id: server.id.node.to_string(),
            name: server.name.to_string(),
            address: server.address.to_string(),
            serf_status: shown(server.status).to_owned(),
            leader: server.leader,
            last_contact_ns: server.last_contact.map(nanoseconds),
            last_term: server.last_term.0,
            last_index: server.last_index.0,
            healthy: health.healthy,
            voter: server.voter,
            version: server.version.to_string(),
            stable_since_s: since_1970.saturating_sub(now.since(health.stable_since)).as_secs(),
        });
    ClusterHealth {
        healthy: seen.report.healthy,
        failure_tolerance: u64::try_from(seen.report.failure_tolerance).unwrap_or(0),
        servers: servers.collect(),
    }
}
