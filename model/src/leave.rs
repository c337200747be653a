//! Servers that leave, one after another and at once, while others crash: what becomes of Raft's configuration, and
//! whether those that stay can go on. Raft is its configuration, its leader and who is up; answers may be lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use spec::{
    raft::{ClusterId, Configuration, Member, ServerId, Suffrage},
    sync::leave::{Leave, PATIENCE, Step, View, Went, may_go},
};
use stateright::{Model, Property};

use crate::{
    Checked, Scope, Tier,
    properties::{seen, steps},
};

/// How many servers, and how much may happen.
#[derive(Clone, Debug)]
pub struct LeaveModel {
    /// Voters at the start.
    pub servers: u64,
    /// How often an operator asks a server to leave.
    pub asks: u8,
    /// How often a server crashes.
    pub crashes: u8,
}

/// How far a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Serving,
    Leaving { leave: Leave, went: Went, waited: bool },
    Left,
}

/// The servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// Raft's configuration, as it is committed.
    voters: BTreeSet<u64>,
    /// What each server's own log says of it.
    known: BTreeMap<u64, BTreeSet<u64>>,
    stages: BTreeMap<u64, Stage>,
    up: BTreeSet<u64>,
    leader: Option<u64>,
    asks: u8,
    crashes: u8,
    did: Option<Did>,
    broke: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Did {
    HandOver,
    Stay,
    LeaveLate,
    LeaveLast,
    RemoveItself,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// An operator asks a server to leave.
    Ask(u64),
    /// A leaving server does what comes next, and hears how it went, or doesn't.
    Next(u64, bool),
    /// A leaving server has waited for long.
    Wait(u64),
    /// A server's log gets the configuration.
    Learn(u64),
    /// The leader sees in gossip that a server has left.
    See(u64),
    /// A server stops.
    Crash(u64),
    /// It comes back.
    Return(u64),
    /// A server is elected.
    Elect(u64),
}

fn id(server: u64) -> ServerId {
    ServerId::new(u128::from(server), 1)
}

fn configuration(voters: &BTreeSet<u64>) -> Configuration {
    let member = || Member { suffrage: Suffrage::Voter, address: Arc::from("") };
    Configuration {
        cluster: ClusterId(1),
        servers: voters.iter().map(|server| (id(*server), member())).collect(),
    }
}

impl World {
    /// Whether the voters that are up can go on.
    fn has_majority(&self) -> bool {
        self.voters.intersection(&self.up).count() > self.voters.len() / 2
    }

    /// A leader that doesn't hear a majority steps down.
    fn settle(&mut self) {
        let leads = |leader: &u64| self.up.contains(leader) && self.has_majority();
        self.leader = self.leader.filter(leads);
    }

    /// The leader is asked to remove a server.
    fn remove(&mut self, server: u64) -> Went {
        let Some(leader) = self.leader else { return Went::Open };
        if !self.voters.contains(&server) {
            return Went::Removed;
        }
        let heard = |other: &ServerId| self.up.iter().any(|up| id(*up) == *other);
        if let Err(reason) = may_go(&configuration(&self.voters), id(server), heard) {
            return Went::Needed(reason);
        }
        self.voters.remove(&server);
        self.known.insert(leader, self.voters.clone());
        let stay: BTreeSet<u64> = self.up.iter().copied().filter(|up| *up != server).collect();
        if self.voters.intersection(&stay).count() <= self.voters.len() / 2 {
            self.broke.push("leaving_keeps_a_majority");
        }
        if leader == server {
            self.leader = None;
            self.did = Some(Did::RemoveItself);
        }
        Went::Removed
    }

    fn next(&mut self, server: u64, heard: bool) -> Option<()> {
        let Stage::Leaving { leave, went, waited } = self.stages.get_mut(&server)? else {
            return None;
        };
        let configuration = configuration(&self.known[&server]);
        let view = View {
            own: id(server),
            leads: self.leader == Some(server),
            configuration: &configuration,
            waited: if *waited { PATIENCE } else { Duration::ZERO },
        };
        let step = leave.next(&view, went);
        *went = Went::Open;
        if *waited && matches!(step, Step::HandOver | Step::AskRemoval) {
            self.broke.push("who_leaves_ends");
        }
        match step {
            Step::HandOver => {
                let others = || self.voters.intersection(&self.up).filter(|up| **up != server);
                match others().next() {
                    Some(heir) if heard => {
                        self.leader = Some(*heir);
                        self.known.insert(*heir, self.voters.clone());
                        self.did = Some(Did::HandOver);
                    }
                    _ => {}
                }
            }
            Step::AskRemoval => {
                let answer = self.remove(server);
                if let (true, Some(Stage::Leaving { went, .. })) =
                    (heard, self.stages.get_mut(&server))
                {
                    *went = answer;
                }
            }
            Step::LeavePools { late } => {
                let last = self.voters.len() <= 1;
                if !late && !last && self.voters.contains(&server) {
                    self.broke.push("pools_are_left_after_raft");
                }
                self.did = match (late, last) {
                    (true, _) => Some(Did::LeaveLate),
                    (false, true) if self.voters.contains(&server) => Some(Did::LeaveLast),
                    (false, _) => None,
                };
                self.stages.insert(server, Stage::Left);
                self.up.remove(&server);
                self.settle();
            }
            Step::Stay(_) => {
                self.stages.insert(server, Stage::Serving);
                self.did = Some(Did::Stay);
            }
        }
        Some(())
    }
}

impl Model for LeaveModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let servers = || 1..=self.servers;
        vec![World {
            voters: servers().collect(),
            known: servers().map(|server| (server, servers().collect())).collect(),
            stages: servers().map(|server| (server, Stage::Serving)).collect(),
            up: servers().collect(),
            leader: Some(1),
            asks: self.asks,
            crashes: self.crashes,
            did: None,
            broke: Vec::new(),
        }]
    }

    fn actions(&self, at: &World, actions: &mut Vec<Action>) {
        for (server, stage) in &at.stages {
            let server = *server;
            let up = at.up.contains(&server);
            match stage {
                Stage::Serving if up && at.asks > 0 => actions.push(Action::Ask(server)),
                Stage::Leaving { waited, .. } if up => {
                    actions.extend([Action::Next(server, true), Action::Next(server, false)]);
                    if !waited {
                        actions.push(Action::Wait(server));
                    }
                }
                Stage::Left if at.leader.is_some() && at.voters.contains(&server) => {
                    actions.push(Action::See(server));
                }
                Stage::Serving | Stage::Leaving { .. } | Stage::Left => {}
            }
            if up && at.voters.contains(&server) && at.known[&server] != at.voters {
                actions.push(Action::Learn(server));
            }
            if up && at.crashes > 0 {
                actions.push(Action::Crash(server));
            }
            if !up && *stage != Stage::Left {
                actions.push(Action::Return(server));
            }
            if up && at.leader.is_none() && at.voters.contains(&server) && at.has_majority() {
                actions.push(Action::Elect(server));
            }
        }
    }

    fn next_state(&self, at: &World, action: Action) -> Option<World> {
        let mut next = World { did: None, broke: Vec::new(), ..at.clone() };
        match action {
            Action::Ask(server) => {
                next.asks -= 1;
                let stage = Stage::Leaving {
                    leave: Leave::default(),
                    went: Went::default(),
                    waited: false,
                };
                next.stages.insert(server, stage);
            }
            Action::Next(server, heard) => next.next(server, heard)?,
            Action::Wait(server) => {
                if let Stage::Leaving { waited, .. } = next.stages.get_mut(&server)? {
                    *waited = true;
                }
            }
            Action::Learn(server) => {
                next.known.insert(server, at.voters.clone());
            }
            Action::See(server) => {
                next.remove(server);
                next.settle();
            }
            Action::Crash(server) => {
                next.crashes -= 1;
                next.up.remove(&server);
                next.stages.insert(server, Stage::Serving);
                next.settle();
            }
            Action::Return(server) => {
                next.up.insert(server);
            }
            Action::Elect(server) => {
                next.leader = Some(server);
                next.known.insert(server, at.voters.clone());
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = steps!(World:
            "pools_are_left_after_raft" "leaving_keeps_a_majority" "who_leaves_ends"
        );
        properties.extend(seen!(World:
            "a_leader_hands_over" Did::HandOver,
            "a_leader_removes_itself" Did::RemoveItself,
            "a_server_that_is_needed_stays" Did::Stay,
            "a_server_without_a_leader_leaves" Did::LeaveLate,
            "the_last_one_leaves" Did::LeaveLast,
        ));
        properties
    }
}

impl Checked for LeaveModel {
    const KINDS: &'static [&'static str] =
        &["ask", "next", "wait", "learn", "see", "crash", "return", "elect"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Ask(_) => 0,
            Action::Next(..) => 1,
            Action::Wait(_) => 2,
            Action::Learn(_) => 3,
            Action::See(_) => 4,
            Action::Crash(_) => 5,
            Action::Return(_) => 6,
            Action::Elect(_) => 7,
        }
    }
}

/// The scopes of leaving.
pub fn scopes() -> Vec<Scope> {
    vec![Scope::new(
        "leave",
        Tier::Ci,
        "three voters that leave, in any order and at once, while one crashes and answers are lost",
        &["LEAVE-1", "LEAVE-2", "LEAVE-3", "LEAVE-4", "LEAVE-5"],
        LeaveModel { servers: 3, asks: 3, crashes: 1 },
    )]
}
