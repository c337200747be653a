//! Whether servers' states agree: damage to some, reports that are lost, late, repeated and out of order.
//!
//! Servers apply one log, each at its own pace, with a restore under way at its beginning; the states and digests are
//! `spec`'s. Damage changes a state in place, as a broken memory or an error in one build would. A report that was sent
//! may be delivered at any time, any number of times, or never. Only some servers listen, since all of them do alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use spec::{
    raft::{Index, ServerId, quorum::majority},
    state::{
        Chunk, Command, Digest, Key, KvCommand, State, Value,
        agreement::{Agreement, Event, Report, Verdict},
        restore,
        snapshot::{Loader, Saver},
    },
    time::ClusterTime,
};
use stateright::{Model, Property};

use crate::{Checked, Scope, Tier};

/// At which indexes states are compared.
const INTERVAL: u64 = 2;

/// Who takes part, and what may happen.
#[derive(Clone, Debug)]
pub struct AgreementModel {
    /// The servers: 0 and up.
    pub servers: usize,
    /// How many of them vote once a change of the voters is known; before that, all do.
    pub voters_after: usize,
    /// Those that listen. One that has the lowest id would always find its own word first.
    pub listeners: &'static [usize],
    /// How many reports each server makes.
    pub reports: u64,
    /// How many reports are kept of each.
    pub kept: usize,
    /// How many states may be damaged.
    pub faults: u8,
    /// Whether all damage is alike, as an error in one build would be.
    pub alike: bool,
    /// How many snapshots may be installed.
    pub installs: u8,
    /// How many restarts there may be.
    pub restarts: u8,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    state: State,
    machine: Agreement,
    /// Whether it knows of the change of the voters.
    changed: bool,
    /// What it reported of the state that it has, and whether that was right.
    reported: BTreeMap<Index, (Digest, bool)>,
    /// What it heard from each other one, as of the last word.
    heard: BTreeMap<(usize, Index), Digest>,
}

/// All servers, and what is on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    servers: Vec<Server>,
    sent: BTreeSet<(usize, Report)>,
    faults: u8,
    installs: u8,
    restarts: u8,
    /// What the last step did that not every history does.
    did: Option<Did>,
    /// The properties that the last step broke.
    broke: Option<&'static str>,
}

/// What is worth seeing at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Did {
    Stop,
    AlarmWithoutMajority,
    AlarmWithMajority,
    Heal,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A server applies entries until its next report.
    Apply(usize),
    /// A server's state is damaged.
    Damage(usize),
    /// A report arrives.
    Deliver(usize, usize, Report),
    /// A server gets another's snapshot in place of its own state.
    Install(usize, usize),
    /// A server starts again, from a snapshot of its state as it is or, to be healed, from the log alone.
    Restart(usize, bool),
    /// A server learns of the change of the voters.
    Learn(usize),
}

fn id(n: usize) -> ServerId {
    ServerId::new(n as u128, 0)
}

fn set(key: &str, value: &str) -> Command {
    Command::Kv(KvCommand::Set { key: Key::from(key), value: Value::from(value), flags: 0 })
}

/// The log behind its first entry, which is a configuration. At 2 a restore is under way, at 4 it has replaced all that
/// was there, damage included.
fn log() -> Vec<Command> {
    let mut saved = State::default();
    saved.apply(Index(2), ClusterTime(1), &set("z", "1"), &mut Vec::new());
    let stream: Vec<u8> = Saver::archive(saved).flatten().collect();
    let (first, second) = stream.split_at(stream.len() / 2);
    let piece =
        |number, bytes| Command::RestoreChunk { restore: 1, number, bytes: Chunk::from(bytes) };
    let mut log = vec![piece(0, first), piece(1, second)];
    log.extend(restore::commands(1, &stream).last());
    log.extend([set("a", "1"), Command::Kv(KvCommand::Delete { key: Key::from("a") })]);
    log
}

/// The right state at each index, from 1 on.
fn right() -> &'static [(Command, State)] {
    static RIGHT: OnceLock<Vec<(Command, State)>> = OnceLock::new();
    RIGHT.get_or_init(|| {
        let mut state = blank();
        log()
            .into_iter()
            .map(|command| {
                advance(&mut state, &command);
                (command, state.clone())
            })
            .collect()
    })
}

/// A state that holds the first entry.
fn blank() -> State {
    let mut state = State::default();
    state.advance(Index(1), ClusterTime(0));
    state
}

fn advance(state: &mut State, command: &Command) {
    let (Index(applied), _) = state.applied();
    let next = Index(applied + 1);
    state.apply(next, ClusterTime(next.0), command, &mut Vec::new());
}

/// Where in [`right`] the entry behind `state` stands.
fn next(state: &State) -> usize {
    usize::try_from(state.applied().0.0).map_or(0, |applied| applied - 1)
}

impl Server {
    fn is_right(&self) -> bool {
        match next(&self.state).checked_sub(1) {
            Some(at) => right()[at].1 == self.state,
            None => self.state == blank(),
        }
    }
}

impl World {
    /// Whether a server ever said something wrong of an index.
    fn was_wrong_at(&self, n: usize, index: Index) -> bool {
        let right = right().iter().find(|(_, state)| state.applied().0 == index);
        let right = right.map(|(_, state)| state.digest());
        self.sent.iter().any(|(from, report)| {
            *from == n && report.index == index && Some(report.digest) != right
        })
    }

    fn tell(&mut self, model: &AgreementModel, n: usize, event: Event) {
        let mut verdicts = Vec::new();
        self.servers[n].machine.step(event, &mut verdicts);
        let server = &self.servers[n];
        for verdict in verdicts {
            match verdict {
                Verdict::Diverged(divergence) => {
                    self.did = Some(Did::Stop);
                    let was_wrong = server
                        .reported
                        .get(&divergence.index)
                        .is_some_and(|(digest, right)| *digest == divergence.own && !right);
                    let voters = model.voters(server.changed);
                    let wrong = (0..voters).filter(|n| self.was_wrong_at(*n, divergence.index));
                    if !was_wrong && wrong.count() < majority(voters) {
                        self.broke = Some("diverged_only_by_majority");
                    }
                }
                Verdict::Alarm(alarm) => {
                    self.did = Some(match alarm.majority {
                        None => Did::AlarmWithoutMajority,
                        Some(_) => Did::AlarmWithMajority,
                    });
                    let several: BTreeSet<_> = alarm.digests.values().collect();
                    let said = |(server, digest): (&ServerId, &Digest)| {
                        let report = Report { index: alarm.index, digest: *digest };
                        self.sent.iter().any(|(from, sent)| id(*from) == *server && *sent == report)
                    };
                    let is_true = several.len() > 1
                        && self.faults < model.faults
                        && alarm.digests.iter().all(said);
                    if !is_true {
                        self.broke = Some("alarms_are_true");
                    }
                }
            }
        }
    }

    fn apply(&mut self, model: &AgreementModel, n: usize) {
        let server = &mut self.servers[n];
        let report = loop {
            let Some((command, _)) = right().get(next(&server.state)) else { return };
            advance(&mut server.state, command);
            if let Some(report) = Report::due(&server.state, INTERVAL) {
                break report;
            }
        };
        let is_right = server.is_right();
        server.reported.insert(report.index, (report.digest, is_right));
        self.sent.insert((n, report));
        self.tell(model, n, Event::Applied(report));
    }
}

/// The highest `kept` of some indexes.
fn last(kept: usize, indexes: impl DoubleEndedIterator<Item = Index>) -> BTreeSet<Index> {
    indexes.rev().take(kept).collect()
}

impl AgreementModel {
    fn voters(&self, changed: bool) -> usize {
        if changed { self.voters_after } else { self.servers }
    }

    fn voters_event(&self, changed: bool) -> Event {
        Event::Voters((0..self.voters(changed)).map(id).collect())
    }

    /// A server that was contradicted by a majority, as far as it keeps what it reported and heard, has stopped.
    fn is_found(&self, server: &Server) -> bool {
        if server.machine.diverged().is_some() {
            return true;
        }
        let voters = self.voters(server.changed);
        let heard = |from: usize, index: Index| {
            let all = server.heard.range((from, Index(0))..=(from, Index(u64::MAX)));
            let kept = last(self.kept, all.map(|((_, index), _)| *index));
            kept.contains(&index).then(|| server.heard[&(from, index)])
        };
        last(self.kept, server.reported.keys().copied()).into_iter().all(|index| {
            let (own, _) = server.reported[&index];
            let mut count = BTreeMap::<Digest, usize>::new();
            for digest in (0..voters).filter_map(|from| heard(from, index)) {
                *count.entry(digest).or_default() += 1;
            }
            count.iter().all(|(digest, count)| *digest == own || *count < majority(voters))
        })
    }
}

impl Model for AgreementModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let server = |n| {
            let mut machine = Agreement::new(id(n), self.kept);
            machine.step(self.voters_event(false), &mut Vec::new());
            Server {
                state: blank(),
                machine,
                changed: false,
                reported: BTreeMap::new(),
                heard: BTreeMap::new(),
            }
        };
        vec![World {
            servers: (0..self.servers).map(server).collect(),
            sent: BTreeSet::new(),
            faults: self.faults,
            installs: self.installs,
            restarts: self.restarts,
            did: None,
            broke: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let last = self.reports * INTERVAL;
        let applied = |n: usize| world.servers[n].state.applied().0.0;
        for n in 0..self.servers {
            if applied(n) < last {
                actions.push(Action::Apply(n));
            }
            if world.faults > 0 && world.servers[n].is_right() && applied(n) < last {
                actions.push(Action::Damage(n));
            }
            if world.restarts > 0 {
                actions.extend([Action::Restart(n, false), Action::Restart(n, true)]);
            }
            if world.installs > 0 {
                let others = (0..self.servers).filter(|from| applied(*from) > applied(n));
                actions.extend(others.map(|from| Action::Install(n, from)));
            }
            if self.listeners.contains(&n)
                && self.voters_after < self.servers
                && !world.servers[n].changed
            {
                actions.push(Action::Learn(n));
            }
        }
        for &to in self.listeners {
            let from_others = world.sent.iter().filter(|(from, _)| *from != to);
            actions.extend(from_others.map(|(from, report)| Action::Deliver(to, *from, *report)));
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = World { did: None, ..world.clone() };
        match action {
            Action::Apply(n) => next.apply(self, n),
            Action::Damage(n) => {
                next.faults -= 1;
                let value = if self.alike { "rot".to_owned() } else { format!("rot {n}") };
                let state = &mut next.servers[n].state;
                let (index, time) = state.applied();
                state.apply(index, time, &set("rot", &value), &mut Vec::new());
            }
            Action::Deliver(to, from, report) => {
                let server = &mut next.servers[to];
                if from < self.voters(server.changed) {
                    server.heard.insert((from, report.index), report.digest);
                }
                next.tell(self, to, Event::Received { from: id(from), reports: vec![report] });
            }
            Action::Install(to, from) => {
                next.installs -= 1;
                if !world.servers[to].is_right() && world.servers[from].is_right() {
                    next.did = Some(Did::Heal);
                }
                next.servers[to].state = reload(&world.servers[from].state)?;
                next.servers[to].reported.clear();
                next.tell(self, to, Event::Restored);
            }
            Action::Restart(n, heals) => {
                next.restarts -= 1;
                let server = &mut next.servers[n];
                server.state = if heals { blank() } else { reload(&server.state)? };
                server.machine = Agreement::new(id(n), self.kept);
                server.reported.clear();
                server.heard.clear();
                let voters = self.voters_event(server.changed);
                next.tell(self, n, voters);
            }
            Action::Learn(n) => {
                let server = &mut next.servers[n];
                server.changed = true;
                server.reported.clear();
                server.heard.clear();
                next.tell(self, n, self.voters_event(true));
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("diverged_only_by_majority", |_, world: &World| {
                world.broke != Some("diverged_only_by_majority")
            }),
            Property::always("alarms_are_true", |_, world: &World| {
                world.broke != Some("alarms_are_true")
            }),
            Property::always("divergence_is_found", |model: &Self, world: &World| {
                world.servers.iter().all(|server| model.is_found(server))
            }),
            Property::sometimes("a_server_stops", |_, world: &World| world.did == Some(Did::Stop)),
            Property::sometimes("an_alarm_without_a_majority", |_, world: &World| {
                world.did == Some(Did::AlarmWithoutMajority)
            }),
            Property::sometimes("an_alarm_with_a_majority", |_, world: &World| {
                world.did == Some(Did::AlarmWithMajority)
            }),
        ];
        if self.installs > 0 {
            properties.push(Property::sometimes("a_snapshot_heals", |_, world: &World| {
                world.did == Some(Did::Heal)
            }));
        }
        properties
    }
}

/// The state as a snapshot gives it back.
fn reload(state: &State) -> Option<State> {
    let mut loader = Loader::new();
    Saver::new(state.clone()).try_for_each(|chunk| loader.push(&chunk)).ok()?;
    loader.finish().ok()
}

impl Checked for AgreementModel {
    const KINDS: &'static [&'static str] =
        &["apply", "damage", "deliver", "install", "restart", "learn"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Apply(_) => 0,
            Action::Damage(_) => 1,
            Action::Deliver(..) => 2,
            Action::Install(..) => 3,
            Action::Restart(..) => 4,
            Action::Learn(_) => 5,
        }
    }
}

/// The scopes of agreement.
pub fn scopes() -> Vec<Scope> {
    let three = AgreementModel {
        servers: 3,
        voters_after: 3,
        listeners: &[1],
        reports: 3,
        kept: 2,
        faults: 1,
        alike: true,
        installs: 0,
        restarts: 0,
    };
    vec![
        Scope::new(
            "agreement",
            Tier::Ci,
            "three servers, two of them damaged, each in its own way; of three reports two are kept",
            &["STATE-21", "STATE-22", "STATE-23"],
            AgreementModel { faults: 2, alike: false, ..three.clone() },
        ),
        Scope::new(
            "agreement-five",
            Tier::Ci,
            "five servers, two of them damaged alike, one report of each",
            &["STATE-22", "STATE-23"],
            AgreementModel {
                servers: 5,
                voters_after: 5,
                listeners: &[0, 4],
                reports: 1,
                faults: 2,
                ..three.clone()
            },
        ),
        Scope::new(
            "agreement-install",
            Tier::Ci,
            "three servers, one of them damaged; snapshots are installed, servers start again",
            &["STATE-21", "STATE-22", "STATE-24"],
            AgreementModel { reports: 2, installs: 1, restarts: 1, ..three.clone() },
        ),
        Scope::new(
            "agreement-change",
            Tier::Ci,
            "four servers, two of them damaged alike, of which one votes no more",
            &["STATE-22", "STATE-24"],
            AgreementModel { servers: 4, reports: 2, faults: 2, ..three },
        ),
    ]
}
