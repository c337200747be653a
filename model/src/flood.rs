//! The WAN's pool of two datacenters, and flood-join: servers crash and come back without their memory, the WAN's links
//! break, and members are taken for failed and forgotten.
//!
//! The pool itself is what it does: who joins exchanges what both know, members that know each other alive go on exchanging
//! it, and whoever doesn't answer is failed. That a pool heals by itself, through Serf's reconnect, is left out: it tries old
//! addresses, by chance, and only for a while. So whatever heals here is flood-join's doing.

use std::{collections::BTreeMap, sync::Arc};

use spec::sync::flood::{LanServer, WanMember, joins, wan_name};
use stateright::{Model, Property};

use crate::{Checked, Scope, Tier};

/// Two datacenters of so many servers, and how much may happen.
#[derive(Clone, Debug)]
pub struct FloodModel {
    /// Servers of each datacenter.
    pub servers: usize,
    /// How often a server crashes or the links break.
    pub faults: u8,
    /// How often a server takes another for failed, or forgets it.
    pub losses: u8,
}

/// What a server holds of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Held {
    Alive,
    Failed,
}

/// The servers: the first half of one datacenter, the others of another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    up: Vec<bool>,
    /// Whom each server knows in the WAN.
    known: Vec<BTreeMap<usize, Held>>,
    /// Whether the WAN's links work.
    linked: bool,
    faults: u8,
    losses: u8,
    broke: Vec<&'static str>,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A server crashes.
    Crash(usize),
    /// It comes back, knowing nobody in the WAN.
    Return(usize),
    /// The WAN's links break.
    Cut,
    /// They work again.
    Mend,
    /// A server finds that another doesn't answer.
    Fail(usize, usize),
    /// It forgets one that failed.
    Forget(usize, usize),
    /// A server joins whom it should.
    Flood(usize),
    /// Two members exchange what they know.
    Exchange(usize, usize),
}

const HEALED: &str = "wan_has_the_lan_after_heal";
const NEEDED: &str = "nobody_is_joined_in_vain";

impl World {
    fn servers(&self) -> std::ops::Range<usize> {
        0..self.up.len()
    }

    fn is_near(&self, a: usize, b: usize) -> bool {
        let half = self.up.len() / 2;
        (a < half) == (b < half)
    }

    /// Whether one reaches the other in the WAN.
    fn reaches(&self, a: usize, b: usize) -> bool {
        a != b && self.linked && self.up[a] && self.up[b]
    }

    fn is_alive(&self, at: usize, other: usize) -> bool {
        self.known[at].get(&other) == Some(&Held::Alive)
    }

    /// Both know each other, and what the other knew of the living. Who is up refutes what is wrongly said of it.
    fn exchange(&mut self, a: usize, b: usize) {
        let both: Vec<usize> = self
            .servers()
            .filter(|other| self.is_alive(a, *other) || self.is_alive(b, *other))
            .chain([a, b])
            .collect();
        for at in [a, b] {
            for other in both.iter().filter(|other| **other != at) {
                if self.reaches(at, *other) {
                    self.known[at].insert(*other, Held::Alive);
                } else {
                    self.known[at].entry(*other).or_insert(Held::Alive);
                }
            }
        }
    }

    /// Whom a server joins, by the rule.
    fn flooded(&self, server: usize) -> Vec<usize> {
        let half = self.up.len() / 2;
        let datacenter = |server: usize| if server < half { "a" } else { "b" };
        let name = |server: usize| Arc::<str>::from(format!("s{server}"));
        let near = || self.servers().filter(|other| self.is_near(server, *other));
        let lan: Vec<LanServer> = near()
            .map(|other| LanServer { name: name(other), alive: self.up[other], wan_port: Some(1) })
            .collect();
        // Not itself: a pool that has only just begun may not have its own member yet.
        let wan: Vec<WanMember> = self.known[server]
            .iter()
            .map(|(other, held)| WanMember {
                name: wan_name(&name(*other), datacenter(*other)).into(),
                alive: *held == Held::Alive,
            })
            .collect();
        let joined = joins(&name(server), datacenter(server), &lan, &wan);
        near().filter(|other| joined.iter().any(|one| one.name == name(*other))).collect()
    }

    fn flood(&mut self, server: usize) {
        for other in self.flooded(server) {
            if other == server || !self.up[other] || self.is_alive(server, other) {
                self.broke.push(NEEDED);
            }
            if self.reaches(server, other) {
                self.exchange(server, other);
            }
        }
    }

    /// Whether all is well once faults stop and everybody goes on for a while.
    fn heals(&self) -> bool {
        let mut after = self.clone();
        after.linked = true;
        loop {
            let before = after.known.clone();
            for server in after.servers().filter(|server| self.up[*server]) {
                after.flood(server);
            }
            for a in after.servers() {
                for b in after.servers() {
                    if after.is_alive(a, b) && after.reaches(a, b) {
                        after.exchange(a, b);
                    }
                }
            }
            if after.known == before {
                break;
            }
        }
        let up = || after.servers().filter(|server| after.up[*server]);
        // One who knows somebody of the other datacenter that is there is enough.
        let met = up().any(|a| up().any(|b| !self.is_near(a, b) && self.is_alive(a, b)));
        up().all(|a| {
            up().filter(|b| a != *b && (met || self.is_near(a, *b))).all(|b| after.is_alive(a, b))
        })
    }
}

impl Model for FloodModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let all = 2 * self.servers;
        // One server of the first datacenter was joined to one of the other.
        let mut known = vec![BTreeMap::new(); all];
        known[0].insert(self.servers, Held::Alive);
        known[self.servers].insert(0, Held::Alive);
        vec![World {
            up: vec![true; all],
            known,
            linked: true,
            faults: self.faults,
            losses: self.losses,
            broke: Vec::new(),
        }]
    }

    fn actions(&self, at: &World, actions: &mut Vec<Action>) {
        for server in at.servers() {
            if !at.up[server] {
                actions.push(Action::Return(server));
                continue;
            }
            if at.faults > 0 {
                actions.push(Action::Crash(server));
            }
            actions.push(Action::Flood(server));
            for (other, held) in &at.known[server] {
                match held {
                    Held::Alive if at.reaches(server, *other) => {
                        actions.push(Action::Exchange(server, *other));
                    }
                    Held::Alive if at.losses > 0 => actions.push(Action::Fail(server, *other)),
                    Held::Failed if at.losses > 0 => actions.push(Action::Forget(server, *other)),
                    Held::Alive | Held::Failed => {}
                }
            }
        }
        if at.linked && at.faults > 0 {
            actions.push(Action::Cut);
        }
        if !at.linked {
            actions.push(Action::Mend);
        }
    }

    fn next_state(&self, at: &World, action: Action) -> Option<World> {
        let mut next = World { broke: Vec::new(), ..at.clone() };
        match action {
            Action::Crash(server) => {
                next.faults -= 1;
                next.up[server] = false;
                next.known[server].clear();
            }
            Action::Return(server) => next.up[server] = true,
            Action::Cut => {
                next.faults -= 1;
                next.linked = false;
            }
            Action::Mend => next.linked = true,
            Action::Fail(server, other) => {
                next.losses -= 1;
                next.known[server].insert(other, Held::Failed);
            }
            Action::Forget(server, other) => {
                next.losses -= 1;
                next.known[server].remove(&other);
            }
            Action::Flood(server) => next.flood(server),
            Action::Exchange(a, b) => next.exchange(a, b),
        }
        if !next.heals() {
            next.broke.push(HEALED);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(HEALED, |_, at: &World| !at.broke.contains(&HEALED)),
            Property::always(NEEDED, |_, at: &World| !at.broke.contains(&NEEDED)),
            Property::sometimes("all_know_all", |_, at: &World| {
                at.servers().all(|a| at.servers().all(|b| a == b || at.is_alive(a, b)))
            }),
            Property::sometimes("two_hold_each_other_for_failed", |_, at: &World| {
                at.known[0].get(&1) == Some(&Held::Failed)
                    && at.known[1].get(&0) == Some(&Held::Failed)
            }),
            Property::sometimes("two_have_forgotten_each_other", |_, at: &World| {
                at.up.iter().all(|up| *up) && at.known.iter().all(BTreeMap::is_empty)
            }),
        ]
    }
}

impl Checked for FloodModel {
    const KINDS: &'static [&'static str] =
        &["crash", "return", "cut", "mend", "fail", "forget", "flood", "exchange"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Crash(_) => 0,
            Action::Return(_) => 1,
            Action::Cut => 2,
            Action::Mend => 3,
            Action::Fail(..) => 4,
            Action::Forget(..) => 5,
            Action::Flood(_) => 6,
            Action::Exchange(..) => 7,
        }
    }
}

/// The scopes of the WAN.
pub fn scopes() -> Vec<Scope> {
    vec![Scope::new(
        "wan-flood",
        Tier::Ci,
        "two datacenters of two servers: crashes, links that break, members that are forgotten",
        &["WAN-2", "WAN-3", "WAN-4"],
        FloodModel { servers: 2, faults: 2, losses: 4 },
    )]
}
