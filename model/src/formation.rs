//! Formation: blank servers on a network that loses, repeats and reorders, and on disks that lose what was not synced.
//!
//! A message stays in the network once it was sent: that it is never delivered is its loss, that it is delivered
//! twice its repetition. A crash restarts the server at once; a server that is down is one to which nothing is
//! delivered.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use spec::{
    entropy::Least,
    gate::Gate,
    machine::{Context, Effect, Event, Machine, Ticket},
    raft::{
        ClusterId, ServerId,
        formation::{
            Address, Config, Durable, Formation, Message, Output, Presence, ServerSet, SetId,
            Standing, Timer,
        },
    },
    time::Instant,
};
use stateright::{Model, Property};

use crate::{Checked, Scope, Tier};

/// A server with so many pending writes waits for its disk. (The agent's waits with one.)
const MAX_PENDING: usize = 2;

/// Who can hear of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Everybody was given every address, and asks.
    Full,
    /// Each server hears from any of the others, in any order, and what it hears may be long past: that they are
    /// blank. So it covers every pattern of addresses.
    Any,
}

/// The bounds.
#[derive(Clone, Debug)]
pub struct FormationModel {
    /// How many servers there are.
    pub servers: usize,
    /// How many each of them expects.
    pub expect: usize,
    /// Who can hear of whom.
    pub sight: Sight,
    /// Attempts of one coordinator.
    pub attempts: u64,
    /// Timers that fire.
    pub fires: u8,
    /// Crashes.
    pub crashes: u8,
    /// Whether a write may linger, and be lost by a crash; else it is durable at once.
    pub lingering: bool,
    /// Whether `one_forms` is asked of every state.
    pub progress: bool,
    /// Whether messages that can't do anything any more are forgotten. Only a test keeps them.
    pub forgets: bool,
}

/// A server, its disk, and what waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    machine: Formation,
    gate: Gate<Formation>,
    armed: BTreeSet<Timer>,
    durable: Durable,
    pending: VecDeque<(Ticket, Durable)>,
    /// The clusters that its host was ever told to ask for membership, a ghost.
    asked: BTreeSet<ClusterId>,
}

/// The servers and the network between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    servers: Vec<Arc<Server>>,
    network: BTreeSet<(usize, usize, Message)>,
    fires: u8,
    crashes: u8,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A message arrives.
    Deliver(usize, usize, Message),
    /// A timer fires.
    Fire(usize, Timer),
    /// The pending writes become durable.
    Sync(usize),
    /// A server crashes and starts again with what is durable and so many of the pending writes.
    Crash(usize, usize),
}

fn address(n: usize) -> Address {
    ["a", "b", "c", "d"][n].into()
}

fn place(address: &Address) -> Option<usize> {
    (0..4).find(|n| **address == *self::address(*n))
}

fn id(n: usize) -> ServerId {
    ServerId::new(u128::try_from(n).unwrap_or(0) + 1, 0)
}

impl Server {
    /// Does what a step asked for; gives the messages that may leave.
    fn route(
        &mut self,
        mut effects: Vec<Effect<Formation>>,
        lingering: bool,
    ) -> Vec<(Address, Message)> {
        let mut sent = Vec::new();
        loop {
            let mut ready = Vec::new();
            self.gate.admit(&mut effects, &mut ready);
            for effect in ready {
                self.perform(effect, &mut sent);
            }
            if lingering || self.pending.is_empty() {
                break;
            }
            effects = self.sync(&mut sent);
        }
        self.gate.rebase();
        // As in the network, what is sent twice is one message.
        let mut held = VecDeque::new();
        for send in self.gate.sends.drain(..) {
            if !held.contains(&send) {
                held.push_back(send);
            }
        }
        self.gate.sends = held;
        // What the host is told once a write is durable follows from that write.
        self.gate.emits.clear();
        sent
    }

    fn perform(&mut self, effect: Effect<Formation>, sent: &mut Vec<(Address, Message)>) {
        match effect {
            Effect::Persist { ticket, write } => self.pending.push_back((ticket, write)),
            Effect::Send { to, message, .. } => sent.push((to, message)),
            Effect::Arm { timer, .. } => drop(self.armed.insert(timer)),
            Effect::Disarm { timer } => drop(self.armed.remove(&timer)),
            Effect::Emit { output: Output::Join { cluster, .. }, .. } => {
                self.asked.insert(cluster);
            }
            Effect::Emit { .. } => {}
        }
    }

    /// Makes all pending writes durable.
    fn sync(&mut self, sent: &mut Vec<(Address, Message)>) -> Vec<Effect<Formation>> {
        for (_, write) in self.pending.drain(..) {
            Formation::fold(&mut self.durable, &write);
        }
        if let Standing::Joined(cluster) = self.durable.standing {
            self.asked.insert(cluster);
        }
        let (ticket, mut ready) = (self.gate.last, Vec::new());
        self.gate.durable(ticket, &mut ready);
        for effect in ready {
            self.perform(effect, sent);
        }
        self.step(Event::Durable(ticket))
    }

    fn step(&mut self, event: Event<Formation>) -> Vec<Effect<Formation>> {
        let mut effects = Vec::new();
        let mut entropy = Least;
        let mut cx =
            Context { now: Instant(0), entropy: &mut entropy, last_ticket: &mut self.gate.last };
        self.machine.step(event, &mut cx, &mut effects);
        effects
    }

    fn start(config: &Config, durable: Durable) -> (Self, Vec<Effect<Formation>>) {
        let (mut gate, mut effects, mut entropy) = (Gate::default(), Vec::new(), Least);
        let mut cx =
            Context { now: Instant(0), entropy: &mut entropy, last_ticket: &mut gate.last };
        let machine = Formation::recover(config, durable.clone(), &mut cx, &mut effects);
        let (armed, asked) = (BTreeSet::new(), BTreeSet::new());
        (Self { machine, gate, armed, durable, pending: VecDeque::new(), asked }, effects)
    }

    /// The set that became a cluster, as far as this server's disk knows.
    fn formed(&self) -> Option<&ServerSet> {
        match &self.durable.standing {
            Standing::Formed(set) => Some(set),
            Standing::Blank | Standing::Promised(_) | Standing::Joined(_) => None,
        }
    }
}

impl FormationModel {
    fn others(&self, n: usize) -> impl Iterator<Item = usize> {
        (0..self.servers).filter(move |other| *other != n)
    }

    fn config(&self, n: usize) -> Config {
        Config {
            server: id(n),
            address: address(n),
            expect: self.expect,
            addresses: self.others(n).map(address).collect(),
            member_of: None,
            retry: Duration::ZERO,
            retry_jitter: Duration::ZERO,
            patience: Duration::ZERO,
        }
    }

    fn start(&self) -> State {
        let mut state =
            State { servers: Vec::new(), network: BTreeSet::new(), fires: 0, crashes: 0 };
        for n in 0..self.servers {
            let (mut server, effects) = Server::start(&self.config(n), Durable::default());
            let sent = server.route(effects, self.lingering);
            state.servers.push(Arc::new(server));
            self.send(&mut state, n, sent);
        }
        if self.sight == Sight::Any {
            for n in 0..self.servers {
                // Nobody has answered in the first round.
                self.act(&mut state, n, Event::Fire(Timer::Retry));
            }
            let pairs = (0..self.servers).flat_map(|n| self.others(n).map(move |other| (n, other)));
            // The highest ids never coordinate: what they hear changes nothing.
            for (n, other) in pairs.filter(|(n, _)| n + self.expect <= self.servers) {
                let answer = Message::Answer {
                    server: id(other),
                    name: address(other),
                    presence: Presence::Blank { expect: self.expect },
                    others: BTreeSet::new(),
                };
                state.network.insert((other, n, answer));
            }
        }
        state
    }

    /// Keeps what was sent, but for answers: those arrive at once. That an answer is lost is the ask's loss; that it is
    /// late is explored where everybody has heard from any others.
    fn send(&self, state: &mut State, from: usize, sent: Vec<(Address, Message)>) {
        for (to, message) in sent {
            let Some(to) = place(&to) else { continue };
            match message {
                Message::Ask { .. } if self.sight == Sight::Any => {}
                Message::Answer { .. } => {
                    let event = Event::Receive { from: address(from), message };
                    self.act(state, to, event);
                }
                _ => drop(state.network.insert((from, to, message))),
            }
        }
    }

    fn act(&self, state: &mut State, n: usize, event: Event<Formation>) {
        let server = Arc::make_mut(&mut state.servers[n]);
        let effects = server.step(event);
        let sent = server.route(effects, self.lingering);
        self.send(state, n, sent);
    }

    fn crash(&self, state: &mut State, n: usize, kept: usize) {
        let server = Arc::make_mut(&mut state.servers[n]);
        for (_, write) in server.pending.drain(..).take(kept) {
            Formation::fold(&mut server.durable, &write);
        }
        if let Standing::Joined(cluster) = server.durable.standing {
            server.asked.insert(cluster);
        }
        let config = Arc::clone(&server.machine.config);
        let asked = std::mem::take(&mut server.asked);
        let (started, effects) = Server::start(&config, server.durable.clone());
        *server = Server { asked, ..started };
        let sent = server.route(effects, self.lingering);
        self.send(state, n, sent);
    }
}

/// Whether a message can't do anything any more, whatever comes. The test below shows that no state of the servers is lost by it.
fn is_dead(state: &State, from: usize, to: usize, message: &Message) -> bool {
    // For good: neither standing is ever left, and both are durable.
    let formed = |n: usize| state.servers[n].formed().is_some();
    let settled =
        |n: usize| formed(n) || matches!(state.servers[n].durable.standing, Standing::Joined(_));
    let coordinates = |n: usize, id: SetId| {
        let standing = &state.servers[n].machine.standing;
        matches!(standing, Standing::Promised(set) if set.id == id)
    };
    match message {
        // Only a coordinator amid this very attempt heeds them, and an attempt never begins twice.
        Message::Promised { set, .. } | Message::Refused { set } => !coordinates(to, *set),
        // Only a promised server heeds them.
        Message::Release(_) | Message::Decided(_) => settled(to),
        // Refused, and the refusal is dead.
        Message::Prepare(set) => settled(to) && !coordinates(from, set.id),
        // Answered by what is dead.
        Message::Inquire { .. } => settled(from),
        // Answered by what is dead; but a server that joined still notes who asks.
        Message::Ask { .. } => settled(from) && formed(to),
        Message::Answer { .. } => formed(to),
    }
}

fn forget_dead_messages(state: &mut State) {
    let network = std::mem::take(&mut state.network);
    let live = |(from, to, message): &(usize, usize, Message)| !is_dead(state, *from, *to, message);
    state.network = network.into_iter().filter(live).collect();
}

/// The sets that became clusters.
fn clusters(state: &State) -> BTreeSet<(ClusterId, Vec<ServerId>)> {
    let formed = state.servers.iter().filter_map(|server| server.formed());
    formed.map(|set| (set.cluster(), set.members.keys().copied().collect())).collect()
}

/// Two clusters never share a server, whether it formed one or asked to be added to one.
fn no_shared_server(state: &State) -> bool {
    let mut belongs: Vec<(ServerId, ClusterId)> = Vec::new();
    for (cluster, members) in clusters(state) {
        belongs.extend(members.into_iter().map(|member| (member, cluster)));
    }
    for (n, server) in state.servers.iter().enumerate() {
        belongs.extend(server.asked.iter().map(|cluster| (id(n), *cluster)));
    }
    belongs.iter().all(|(server, cluster)| {
        belongs.iter().all(|(other, elsewhere)| server != other || cluster == elsewhere)
    })
}

/// Who asked a cluster to be added has durably noted which, and never unlearns it.
fn joins_on_durable_note(state: &State) -> bool {
    state.servers.iter().all(|server| {
        server.asked.iter().all(|cluster| server.durable.standing == Standing::Joined(*cluster))
    })
}

/// What was decided rests on a durable promise of every member.
fn decided_on_durable_promises(state: &State) -> bool {
    state.servers.iter().filter_map(|server| server.formed()).all(|set| {
        state.servers.iter().enumerate().all(|(n, server)| match &server.durable.standing {
            Standing::Promised(own) | Standing::Formed(own) => {
                own == set || !set.members.contains_key(&id(n))
            }
            Standing::Blank | Standing::Joined(_) => !set.members.contains_key(&id(n)),
        })
    })
}

/// From this state on, with nothing lost and nobody crashing, a cluster forms and everybody belongs to it.
fn one_forms(model: &FormationModel, state: &State) -> bool {
    let mut state = state.clone();
    // All that was under way is lost.
    state.network.clear();
    let model = FormationModel { lingering: false, ..model.clone() };
    let mut wires = VecDeque::new();
    let mut act = |state: &mut State, n: usize, event: Option<Event<Formation>>| {
        let server = Arc::make_mut(&mut state.servers[n]);
        let effects = match event {
            Some(event) => server.step(event),
            None => Vec::new(),
        };
        let sent = server.route(effects, false);
        wires.extend(sent.into_iter().map(|(to, message)| (n, to, message)));
        while let Some((from, to, message)) = wires.pop_front() {
            let Some(to) = place(&to) else { continue };
            let server = Arc::make_mut(&mut state.servers[to]);
            let effects = server.step(Event::Receive { from: address(from), message });
            let sent = server.route(effects, false);
            wires.extend(sent.into_iter().map(|(next, message)| (to, next, message)));
        }
    };
    for n in 0..model.servers {
        act(&mut state, n, None);
    }
    for _ in 0..4 {
        for timer in [Timer::Retry, Timer::Attempt] {
            for n in 0..model.servers {
                if Arc::make_mut(&mut state.servers[n]).armed.remove(&timer) {
                    act(&mut state, n, Some(Event::Fire(timer)));
                }
            }
        }
    }
    let allowed = model.servers / model.expect;
    (1..=allowed).contains(&clusters(&state).len())
        && state.servers.iter().all(|server| match &server.durable.standing {
            Standing::Formed(_) | Standing::Joined(_) => true,
            Standing::Blank | Standing::Promised(_) => false,
        })
}

impl Model for FormationModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let ready = |n: usize| state.servers[n].pending.len() < MAX_PENDING;
        for (from, to, message) in state.network.iter().filter(|(_, to, _)| ready(*to)) {
            actions.push(Action::Deliver(*from, *to, message.clone()));
        }
        for (n, server) in state.servers.iter().enumerate() {
            if !server.pending.is_empty() {
                actions.push(Action::Sync(n));
            }
            if state.fires < self.fires && ready(n) {
                actions.extend(server.armed.iter().map(|timer| Action::Fire(n, *timer)));
            }
            if state.crashes < self.crashes {
                actions.extend((0..=server.pending.len()).map(|kept| Action::Crash(n, kept)));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        match action {
            Action::Deliver(from, to, message) => {
                self.act(&mut state, to, Event::Receive { from: address(from), message });
            }
            Action::Fire(n, timer) => {
                state.fires += 1;
                Arc::make_mut(&mut state.servers[n]).armed.remove(&timer);
                self.act(&mut state, n, Event::Fire(timer));
            }
            Action::Sync(n) => {
                let server = Arc::make_mut(&mut state.servers[n]);
                let mut sent = Vec::new();
                let effects = server.sync(&mut sent);
                sent.extend(server.route(effects, true));
                self.send(&mut state, n, sent);
            }
            Action::Crash(n, kept) => {
                state.crashes += 1;
                self.crash(&mut state, n, kept);
            }
        }
        if self.forgets {
            forget_dead_messages(&mut state);
        }
        Some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.servers.iter().all(|server| server.machine.attempt <= self.attempts)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always("no_shared_server", |_, state| no_shared_server(state)),
            Property::<Self>::always("at_most_one_cluster", |model, state| {
                model.servers >= 2 * model.expect || clusters(state).len() <= 1
            }),
            Property::<Self>::always("decided_on_durable_promises", |_, state| {
                decided_on_durable_promises(state)
            }),
            Property::<Self>::always("joins_on_durable_note", |_, state| {
                joins_on_durable_note(state)
            }),
            Property::<Self>::sometimes("a_cluster_is_known_to_all_its_members", |_, state| {
                let set = state.servers.iter().find_map(|server| server.formed());
                let known = |n: &ServerId| {
                    state.servers.iter().any(|s| s.machine.config.server == *n && s.formed() == set)
                };
                set.is_some_and(|set| set.members.keys().all(known))
            }),
        ];
        if self.servers > self.expect {
            properties.push(Property::<Self>::sometimes("a_promise_is_refused", |_, state| {
                state.network.iter().any(|(_, _, m)| matches!(m, Message::Refused { .. }))
            }));
        }
        if self.servers >= 2 * self.expect {
            properties.push(Property::<Self>::sometimes("two_clusters_form", |_, state| {
                clusters(state).len() == 2
            }));
        }
        if self.sight == Sight::Full && self.servers > self.expect {
            properties.push(Property::<Self>::sometimes("a_server_joins", |_, state| {
                let joined =
                    |server: &Arc<Server>| matches!(server.durable.standing, Standing::Joined(_));
                state.servers.iter().any(joined)
            }));
        }
        if self.progress {
            properties.push(Property::<Self>::always("one_forms", one_forms));
        }
        properties
    }
}

impl Checked for FormationModel {
    const KINDS: &'static [&'static str] = &[
        "ask", "answer", "prepare", "promised", "refused", "release", "decided", "inquire",
        "retry", "attempt", "sync", "crash",
    ];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Deliver(_, _, message) => match message {
                Message::Ask { .. } => 0,
                Message::Answer { .. } => 1,
                Message::Prepare(_) => 2,
                Message::Promised { .. } => 3,
                Message::Refused { .. } => 4,
                Message::Release(_) => 5,
                Message::Decided(_) => 6,
                Message::Inquire { .. } => 7,
            },
            Action::Fire(_, Timer::Retry) => 8,
            Action::Fire(_, Timer::Attempt) => 9,
            Action::Sync(_) => 10,
            Action::Crash(..) => 11,
        }
    }

    fn diagram(&self, path: &[(State, Option<Action>)]) -> String {
        let name = |n: &usize| address(*n);
        let mut lines = vec!["sequenceDiagram".to_owned()];
        lines.extend((0..self.servers).map(|n| format!("    participant {}", address(n))));
        for action in path.iter().filter_map(|(_, action)| action.as_ref()) {
            lines.push(match action {
                Action::Deliver(from, to, message) => {
                    let text = format!("{message:?}").replace([';', '#', '\n'], " ");
                    format!("    {}->>{}: {text}", name(from), name(to))
                }
                Action::Fire(n, timer) => format!("    Note over {}: {timer:?} fires", name(n)),
                Action::Sync(n) => format!("    Note over {}: writes become durable", name(n)),
                Action::Crash(n, kept) => {
                    format!("    Note over {}: crash, {kept} pending writes survive", name(n))
                }
            });
        }
        lines.join("\n")
    }
}

/// The scopes of formation.
pub fn scopes() -> Vec<Scope> {
    let two_of_three = FormationModel {
        servers: 3,
        expect: 2,
        sight: Sight::Full,
        attempts: 2,
        fires: 2,
        crashes: 1,
        lingering: false,
        progress: true,
        forgets: true,
    };
    let all_three = FormationModel { expect: 3, fires: 1, ..two_of_three.clone() };
    let disk = FormationModel {
        lingering: true,
        progress: false,
        attempts: 1,
        fires: 1,
        ..two_of_three.clone()
    };
    let two_of_four = FormationModel { servers: 4, attempts: 1, fires: 1, ..two_of_three.clone() };
    let any_sight = FormationModel {
        sight: Sight::Any,
        fires: 0,
        crashes: 0,
        progress: false,
        ..two_of_four.clone()
    };
    vec![
        Scope::new(
            "formation",
            Tier::Ci,
            "Three servers that expect two: one set forms, the third joins.",
            &["FORM-1", "FORM-2", "FORM-3", "FORM-4", "FORM-6", "FORM-10", "FORM-12", "FORM-17"],
            two_of_three,
        ),
        Scope::new(
            "formation-three",
            Tier::Ci,
            "Three servers that expect three.",
            &["FORM-2", "FORM-3", "FORM-4", "FORM-13", "FORM-14", "FORM-16", "FORM-17"],
            all_three,
        ),
        Scope::new(
            "formation-disk",
            Tier::Ci,
            "Three servers that expect two, whose writes may linger and be lost.",
            &["FORM-1", "FORM-3", "FORM-11", "FORM-12", "FORM-16"],
            disk,
        ),
        Scope::new(
            "formation-sight",
            Tier::Ci,
            "Four servers that expect two, each hearing of any others, in any order, however late.",
            &["FORM-1", "FORM-3", "FORM-10", "FORM-12", "FORM-14", "FORM-15"],
            any_sight,
        ),
        Scope::new(
            "formation-four",
            Tier::Deep,
            "Four servers that expect two: one or two clusters form.",
            &["FORM-1", "FORM-3", "FORM-6", "FORM-12"],
            two_of_four.clone(),
        ),
        Scope::new(
            "formation-four-timers",
            Tier::Deep,
            "Four servers that expect two, and two timers that run out: one forms, one joins, others form too.",
            &["FORM-1", "FORM-3", "FORM-6", "FORM-12"],
            FormationModel { fires: 2, crashes: 0, progress: false, ..two_of_four },
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet as Set;

    use super::*;
    use crate::hash_of;

    /// The states of the servers, the network left out, that are reached.
    fn reached(model: &FormationModel) -> Set<u64> {
        let mut seen: Set<u64> = Set::new();
        let (mut servers, mut stack) = (Set::new(), model.init_states());
        while let Some(state) = stack.pop() {
            if !seen.insert(hash_of(&state)) {
                continue;
            }
            servers.insert(hash_of(&state.servers));
            let mut actions = Vec::new();
            model.actions(&state, &mut actions);
            let next = actions.into_iter().filter_map(|action| model.next_state(&state, action));
            stack.extend(next.filter(|next| model.within_boundary(next)));
        }
        servers
    }

    #[test]
    fn forgetting_dead_messages_loses_no_state_of_the_servers() {
        let full = FormationModel {
            servers: 3,
            expect: 2,
            sight: Sight::Full,
            attempts: 2,
            fires: 1,
            crashes: 0,
            lingering: false,
            progress: false,
            forgets: true,
        };
        let crash = FormationModel { attempts: 1, fires: 0, crashes: 1, ..full.clone() };
        let lingering = FormationModel { lingering: true, crashes: 0, ..crash.clone() };
        let any = FormationModel { sight: Sight::Any, ..full.clone() };
        for model in [full, crash, lingering, any] {
            let all = reached(&FormationModel { forgets: false, ..model.clone() });
            assert!(all == reached(&model), "a state of the servers is lost: {model:?}");
            assert!(all.len() > 20, "{}", all.len());
        }
    }
}
