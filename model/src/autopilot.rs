//! Autopilot: servers that die, that gossip wrongly takes for dead, that come back and that are new, and what becomes of
//! Raft's configuration. Each change that is asked for is made at once; time goes on in steps.

use std::{collections::BTreeMap, time::Duration};

use spec::{
    raft::{Index, ServerId, Term},
    state::AutopilotSettings,
    sync::{
        autopilot::{Autopilot, Change, Report, Rules, Server},
        reconcile::MemberStatus,
    },
    time::Instant,
};
use stateright::{Model, Property};

use crate::{
    Checked, Scope, Tier,
    properties::{seen, steps},
};

/// How many servers, and how much may happen.
#[derive(Clone, Debug)]
pub struct AutopilotModel {
    /// Voters at the start.
    pub voters: u64,
    /// Learners that may be added.
    pub learners: u64,
    /// The least number of voters that an operator wants.
    pub min_quorum: u64,
    /// How often the world changes.
    pub changes: u8,
}

/// A server as it is, and as gossip sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    voter: bool,
    up: bool,
    status: Option<MemberStatus>,
    /// The first of the looks that all saw it well, in steps of time; none where the last one didn't.
    since: Option<u8>,
    /// The first of the looks that all saw it down.
    silent: Option<u8>,
}

/// The servers and the leader's memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    peers: BTreeMap<u64, Peer>,
    autopilot: Autopilot,
    now: u8,
    changes: u8,
    added: u64,
    did: Option<Did>,
    broke: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Did {
    Remove,
    RemoveStranger,
    Promote,
    Deny,
    SpareTheAccused,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A server stops; gossip sees that, where it knows the server.
    Die(u64),
    /// Gossip takes a server for dead that isn't.
    Accuse(u64),
    /// Gossip forgets a server that failed.
    Reap(u64),
    /// A server turns out to be one that gossip never knew.
    Part(u64),
    /// A server is up, and gossip sees it.
    Return(u64),
    /// A learner is added.
    Join,
    /// Time goes on by a step, and the leader looks.
    Look,
}

/// The leader, who is always up: without it nobody looks.
const LEADER: u64 = 1;
/// How long a step of time is.
const STEP: Duration = Duration::from_secs(5);
/// How often the leader looks.
const LOOKS: u8 = 6;
/// How long a server may be silent that gossip never knew.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(15);

impl Peer {
    /// Whether it is up, and gossip has nothing to say against it.
    fn is_well(self) -> bool {
        self.up && matches!(self.status, None | Some(MemberStatus::Alive))
    }
}

impl World {
    fn servers(&self) -> Vec<Server> {
        let server = |(id, peer): (&u64, &Peer)| Server {
            id: ServerId::new(u128::from(*id), 1),
            name: "".into(),
            address: "".into(),
            version: "".into(),
            status: peer.status,
            voter: peer.voter,
            leader: *id == LEADER,
            last_contact: Some(if peer.up { Duration::ZERO } else { STEP }),
            last_term: Term(1),
            last_index: Index(1),
        };
        self.peers.iter().map(server).collect()
    }

    fn voters(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().filter(|peer| peer.voter)
    }

    /// Whether the voters that are up can go on.
    fn has_quorum(&self) -> bool {
        self.voters().filter(|peer| peer.up).count() > self.voters().count() / 2
    }
}

impl AutopilotModel {
    fn settings(&self) -> AutopilotSettings {
        AutopilotSettings { min_quorum: self.min_quorum, ..AutopilotSettings::default() }
    }

    fn look(&self, at: &World) -> World {
        let mut next = at.clone();
        let now = Instant(u64::try_from(STEP.as_micros()).unwrap_or(0) * u64::from(at.now));
        let settings = self.settings();
        let rules = Rules {
            settings: &settings,
            heartbeat: Duration::ZERO,
            reconnect_timeout: RECONNECT_TIMEOUT,
        };
        let report = next.autopilot.step(now, &rules, &at.servers());
        for peer in next.peers.values_mut() {
            peer.since = peer.is_well().then(|| peer.since.unwrap_or(at.now));
            peer.silent = (!peer.up).then(|| peer.silent.unwrap_or(at.now));
        }
        next.did = match &report {
            Report { denied: Some(_), .. } => Some(Did::Deny),
            Report { change: Some(Change::Remove { .. }), .. } => Some(Did::Remove),
            Report { change: Some(Change::Promote(_)), .. } => Some(Did::Promote),
            Report { change: None, .. } if at.voters().any(|peer| peer.up && !peer.is_well()) => {
                Some(Did::SpareTheAccused)
            }
            Report { change: None, .. } => None,
        };
        let mut broke = Vec::new();
        let mut check = |name, holds: bool| {
            if !holds {
                broke.push(name);
            }
        };
        match &report.change {
            Some(Change::Remove { server, .. }) => {
                let gone = next.peers.remove(&u64::try_from(server.node.0).unwrap_or(0));
                let left = next.voters().count();
                check("only_the_dead_are_removed", gone.is_some_and(|peer| !peer.up));
                let silence = gone.and_then(|peer| peer.silent).map(|first| at.now - first);
                let long =
                    silence.is_some_and(|looks| STEP * u32::from(looks) >= RECONNECT_TIMEOUT);
                let stranger = gone.is_some_and(|peer| peer.status.is_none());
                check("strangers_get_time", long || !stranger);
                if stranger {
                    next.did = Some(Did::RemoveStranger);
                }
                check(
                    "removal_keeps_a_majority",
                    gone.is_some_and(|peer| !peer.voter)
                        || next.has_quorum() && at.has_quorum() && left >= 1,
                );
                check(
                    "min_quorum_is_kept",
                    gone.is_some_and(|peer| !peer.voter)
                        || u64::try_from(left).unwrap_or(0) >= self.min_quorum,
                );
            }
            Some(Change::Promote(server)) => {
                let peer = next.peers.get_mut(&u64::try_from(server.node.0).unwrap_or(0));
                let stable = peer.as_ref().is_some_and(|peer| {
                    let since = peer.since.map(|since| STEP * u32::from(at.now - since));
                    since.is_some_and(|since| since >= self.settings().server_stabilization_time())
                });
                check("only_the_stable_are_promoted", stable);
                if let Some(peer) = peer {
                    peer.voter = true;
                }
            }
            None => {}
        }
        let alive = at.voters().filter(|peer| peer.is_well()).count();
        let tolerance = alive.saturating_sub(at.voters().count() / 2 + 1);
        check("tolerance_is_what_may_fail", report.failure_tolerance == tolerance);
        next.broke = broke;
        next.now = at.now + 1;
        next
    }
}

impl Model for AutopilotModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let status = Some(MemberStatus::Alive);
        let peer = Peer { voter: true, up: true, status, since: None, silent: None };
        vec![World {
            peers: (1..=self.voters).map(|id| (id, peer)).collect(),
            autopilot: Autopilot::default(),
            now: 0,
            changes: self.changes,
            added: 0,
            did: None,
            broke: Vec::new(),
        }]
    }

    fn actions(&self, at: &World, actions: &mut Vec<Action>) {
        if at.now < LOOKS {
            actions.push(Action::Look);
        }
        if at.changes == 0 {
            return;
        }
        for (id, peer) in &at.peers {
            let alive = peer.status == Some(MemberStatus::Alive);
            if *id != LEADER && peer.up {
                actions.push(Action::Die(*id));
            }
            if peer.up && alive {
                actions.push(Action::Accuse(*id));
            }
            if *id != LEADER && alive {
                actions.push(Action::Part(*id));
            }
            if peer.status == Some(MemberStatus::Failed) {
                actions.push(Action::Reap(*id));
            }
            if !peer.is_well() {
                actions.push(Action::Return(*id));
            }
        }
        if at.added < self.learners {
            actions.push(Action::Join);
        }
    }

    fn next_state(&self, at: &World, action: Action) -> Option<World> {
        if action == Action::Look {
            return Some(self.look(at));
        }
        let mut next =
            World { did: None, broke: Vec::new(), changes: at.changes - 1, ..at.clone() };
        let alive = Some(MemberStatus::Alive);
        match action {
            Action::Die(id) => {
                let peer = next.peers.get_mut(&id)?;
                (peer.up, peer.status) = (false, peer.status.and(Some(MemberStatus::Failed)));
            }
            Action::Accuse(id) => next.peers.get_mut(&id)?.status = Some(MemberStatus::Failed),
            Action::Reap(id) => next.peers.get_mut(&id)?.status = Some(MemberStatus::Reaped),
            Action::Part(id) => next.peers.get_mut(&id)?.status = None,
            Action::Return(id) => {
                let peer = next.peers.get_mut(&id)?;
                (peer.up, peer.status) = (true, peer.status.and(alive));
            }
            Action::Join => {
                next.added += 1;
                let peer =
                    Peer { voter: false, up: true, status: alive, since: None, silent: None };
                next.peers.insert(self.voters + next.added, peer);
            }
            Action::Look => {}
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = steps!(World:
            "only_the_dead_are_removed" "removal_keeps_a_majority" "min_quorum_is_kept"
            "only_the_stable_are_promoted" "tolerance_is_what_may_fail" "strangers_get_time"
        );
        properties.extend(seen!(World:
            "a_dead_server_is_removed" Did::Remove,
            "a_server_that_gossip_never_knew_is_removed" Did::RemoveStranger,
            "a_learner_is_promoted" Did::Promote,
            "too_many_are_dead_to_be_removed" Did::Deny,
            "a_server_that_gossip_wrongs_stays" Did::SpareTheAccused,
        ));
        properties
    }
}

impl Checked for AutopilotModel {
    const KINDS: &'static [&'static str] =
        &["die", "accuse", "reap", "part", "return", "join", "look"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Die(_) => 0,
            Action::Accuse(_) => 1,
            Action::Reap(_) => 2,
            Action::Part(_) => 3,
            Action::Return(_) => 4,
            Action::Join => 5,
            Action::Look => 6,
        }
    }
}

/// The scopes of autopilot.
pub fn scopes() -> Vec<Scope> {
    vec![
        Scope::new(
            "autopilot",
            Tier::Ci,
            "three voters and a learner: deaths, wrong accusations, returns",
            &["AUTO-1", "AUTO-2", "AUTO-3", "AUTO-4", "AUTO-5"],
            AutopilotModel { voters: 3, learners: 1, min_quorum: 0, changes: 4 },
        ),
        Scope::new(
            "autopilot-min-quorum",
            Tier::Ci,
            "five voters of which an operator wants four at least",
            &["AUTO-3"],
            AutopilotModel { voters: 5, learners: 1, min_quorum: 4, changes: 3 },
        ),
    ]
}
