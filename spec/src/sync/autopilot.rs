//! Autopilot: which servers are healthy, which learners are to vote, which dead servers are to go (prose/autopilot.md;
//! Consul's `autopilot` package).
//!
//! The leader runs [`Autopilot::step`] every [`INTERVAL`] with what gossip and Raft say of each server. One change of
//! Raft's configuration comes out of a step at most: the next one is decided by what the first has led to.

use alloc::{collections::BTreeMap, format, string::String, sync::Arc, vec::Vec};
use core::time::Duration;

use super::reconcile::MemberStatus;
use crate::{
    raft::{Index, ServerId, Term},
    state::{AutopilotSettings, text::Text},
    time::Instant,
};

/// How often a leader looks.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// A server of Raft's configuration, as far as the leader knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Which it is.
    pub id: ServerId,
    /// Its name; empty where nobody told it.
    pub name: Text,
    /// Where other servers reach it.
    pub address: Arc<str>,
    /// The version that it runs; empty where nobody told it.
    pub version: Text,
    /// How gossip sees it; none where gossip never knew it.
    pub status: Option<MemberStatus>,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it is the leader.
    pub leader: bool,
    /// How long ago Raft heard of it; none where it never did.
    pub last_contact: Option<Duration>,
    /// The term of its last entry, as far as the leader knows.
    pub last_term: Term,
    /// Its last entry.
    pub last_index: Index,
}

/// What a leader goes by.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What the operator has set.
    pub settings: &'a AutopilotSettings,
    /// Between two heartbeats of the leader: nobody is heard more often.
    pub heartbeat: Duration,
    /// How long a server may be silent that gossip never knew: as long as gossip remembers one that failed.
    pub reconnect_timeout: Duration,
}

impl Rules<'_> {
    /// How long a server that is there may not have been heard of.
    fn last_contact_threshold(&self) -> Duration {
        self.settings.last_contact_threshold().max(self.heartbeat * 2)
    }
}

/// How a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Health {
    /// Whether it does what a server should.
    pub healthy: bool,
    /// Since when that is so.
    pub stable_since: Instant,
}

/// A change of Raft's configuration that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Let this learner vote.
    Promote(ServerId),
    /// Remove this dead server from Raft. Where gossip knows it, it is to be told that it has left (`force-leave`).
    Remove {
        /// The server.
        server: ServerId,
        /// Its name in gossip.
        member: Option<Text>,
    },
}

/// What a look gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Report {
    /// Whether every server is healthy.
    pub healthy: bool,
    /// How many voters may fail before the cluster can't go on.
    pub failure_tolerance: usize,
    /// Each server's health.
    pub servers: BTreeMap<ServerId, Health>,
    /// What is to be done.
    pub change: Option<Change>,
    /// Why dead servers stay, where they do.
    pub denied: Option<String>,
}

/// What a leader remembers from one look to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Autopilot {
    health: BTreeMap<ServerId, Health>,
    /// Since when servers are silent that are.
    silent: BTreeMap<ServerId, Instant>,
}

impl Autopilot {
    /// Looks at the servers of Raft's configuration. A leader starts with a new one: what another leader saw is not known.
    pub fn step(&mut self, now: Instant, rules: &Rules<'_>, servers: &[Server]) -> Report {
        let settings = rules.settings;
        let leader = servers.iter().find(|server| server.leader);
        let (term, index) =
            leader.map_or_else(Default::default, |leader| (leader.last_term, leader.last_index));
        let before = core::mem::take(&mut self.health);
        for server in servers {
            let healthy = is_healthy(server, rules, term, index);
            let since = before.get(&server.id).filter(|health| health.healthy == healthy);
            let stable_since = since.map_or(now, |health| health.stable_since);
            self.health.insert(server.id, Health { healthy, stable_since });
        }
        let silent = servers.iter().filter(|server| !is_heard(server, rules));
        let before = core::mem::take(&mut self.silent);
        self.silent = silent
            .map(|server| (server.id, before.get(&server.id).copied().unwrap_or(now)))
            .collect();
        let healthy = |server: &&Server| self.health.get(&server.id).is_some_and(|h| h.healthy);
        let voters = servers.iter().filter(|server| server.voter);
        let healthy_voters = voters.clone().filter(healthy).count();
        let mut report = Report {
            healthy: servers.iter().all(|server| healthy(&server)),
            failure_tolerance: healthy_voters.saturating_sub(quorum(voters.clone().count())),
            servers: self.health.clone(),
            change: None,
            denied: None,
        };
        if settings.cleanup_dead_servers {
            let dead = servers.iter().filter(|server| self.is_dead(now, rules, server));
            let dead: Vec<_> = dead.collect();
            let silent = voters.filter(|server| self.silent.contains_key(&server.id)).count();
            clean_up(settings, servers, &dead, silent, &mut report);
        }
        if report.change.is_none() {
            report.change = self.promotion(now, settings, servers);
        }
        report
    }

    /// Whether a server is to be given up: gossip says that it failed or has forgotten it, and Raft doesn't hear it either.
    ///
    /// Gossip alone may be wrong: a server whose gossip is cut off still votes, and may be needed. Of one that gossip never
    /// knew it says nothing at all: whoever is down for a moment must not be removed for that, as long as servers may find
    /// each other by addresses alone.
    fn is_dead(&self, now: Instant, rules: &Rules<'_>, server: &Server) -> bool {
        let Some(silent_since) = self.silent.get(&server.id) else { return false };
        match server.status {
            Some(MemberStatus::Failed | MemberStatus::Reaped) => true,
            None => now.since(*silent_since) >= rules.reconnect_timeout,
            Some(MemberStatus::Alive | MemberStatus::Leaving | MemberStatus::Left) => false,
        }
    }

    /// The learner that has been healthy for long enough, if there is one.
    fn promotion(
        &self,
        now: Instant,
        settings: &AutopilotSettings,
        servers: &[Server],
    ) -> Option<Change> {
        let stable = |server: &&Server| {
            self.health.get(&server.id).is_some_and(|health| {
                health.healthy
                    && now.since(health.stable_since) >= settings.server_stabilization_time()
            })
        };
        let mut learners = servers.iter().filter(|server| !server.voter);
        learners.find(stable).map(|server| Change::Promote(server.id))
    }
}

const fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether Raft hears a server.
fn is_heard(server: &Server, rules: &Rules<'_>) -> bool {
    let heard = server.last_contact.is_some_and(|since| since <= rules.last_contact_threshold());
    server.leader || heard
}

/// Whether a server does what it should: gossip says nothing against it, Raft hears it, and its log is near the leader's.
fn is_healthy(server: &Server, rules: &Rules<'_>, term: Term, index: Index) -> bool {
    matches!(server.status, None | Some(MemberStatus::Alive))
        && is_heard(server, rules)
        && server.last_term == term
        && server.last_index.0.saturating_add(rules.settings.max_trailing_logs) >= index.0
}

/// Has a dead server removed, where that is safe. A learner's removal costs no quorum.
fn clean_up(
    settings: &AutopilotSettings,
    servers: &[Server],
    dead: &[&Server],
    silent: usize,
    report: &mut Report,
) {
    let remove = |server: &Server| Change::Remove {
        server: server.id,
        member: server.status.map(|_| server.name.clone()),
    };
    if let Some(learner) = dead.iter().find(|server| !server.voter) {
        report.change = Some(remove(learner));
        return;
    }
    let Some(first) = dead.first() else { return };
    let voters = servers.iter().filter(|server| server.voter).count();
    match may_remove(voters, dead.len(), silent, settings.min_quorum) {
        Ok(()) => report.change = Some(remove(first)),
        Err(reason) => report.denied = Some(reason),
    }
}

/// Whether so many dead of so many voters may be removed.
///
/// With 2F+1 voters F may fail. If more have, what is left is no majority, and the dead may be on the other side of a
/// partition, with one: whoever removes them makes a second cluster. Those that are only silent count too: with 1 to 3, of
/// which 2 is silent and 3 is dead, 1 and 2 would be left, and 1 alone is no majority of them.
fn may_remove(voters: usize, dead: usize, silent: usize, min_quorum: u64) -> Result<(), String> {
    let left = voters.saturating_sub(dead);
    if u64::try_from(left).unwrap_or(u64::MAX) < min_quorum {
        return Err(format!(
            "removing {dead} of {voters} servers would leave fewer than min_quorum, {min_quorum}"
        ));
    }
    if silent > voters.saturating_sub(1) / 2 {
        return Err(format!("{silent} of {voters} servers are silent: they are no minority"));
    }
    Ok(())
}

/// The servers of a report in order of their ids, for those who show it.
impl Report {
    /// Each server with its health.
    pub fn with<'a>(&'a self, servers: &'a [Server]) -> Vec<(&'a Server, Health)> {
        servers.iter().filter_map(|server| Some((server, *self.servers.get(&server.id)?))).collect()
    }
}
