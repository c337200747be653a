//! Members that come, fail, leave and are made to leave, and what the others believe of them (SERF-3 to SERF-12).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use spec::{
    machine::Event,
    serf::{
        Command, Config, Message, Output, Status, Timer,
        leave::Lifecycle,
        members::{Heard, Members},
    },
    swim,
    time::Instant,
};
use stateright::{Model, Property};

use super::pool::{self, Beginning, Server, Told, name};
use crate::{Checked, Scope, Tier};

/// When everything that may be forgotten is.
const LATER: Instant = Instant(1 << 60);

/// The bounds.
#[derive(Clone, Debug)]
pub struct MembersModel {
    /// How many members there are.
    pub servers: usize,
    /// Members that leave.
    pub leaves: u8,
    /// Members that start again after they left, and join.
    pub rejoins: u8,
    /// Members that crash; each may start again.
    pub crashes: u8,
    /// Members that are made to leave by an operator.
    pub forced: u8,
    /// The operator also asks to forget them.
    pub prunes: bool,
    /// Times that a member that is up is held for dead.
    pub false_deaths: u8,
    /// Looks for members to forget.
    pub reaps: u8,
    /// The latest time of a clock. Where all announce themselves at one time, they begin at 4.
    pub max_ltime: u64,
    /// Announcements that were overtaken by word that the member is gone still arrive.
    pub late: bool,
    /// How the members begin.
    pub beginning: Beginning,
}

/// What steps showed that none may show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Faults {
    /// Somebody passed one intent on twice.
    gossiped_twice: bool,
    /// Somebody who left was there again without a later word, or a word about an earlier time counted.
    unordered: bool,
    /// Somebody who left was there again, or failed, and had not announced itself anew.
    returned_unannounced: bool,
    /// Somebody who is there was forgotten.
    live_member_forgotten: bool,
    /// A clock went back.
    clock_went_back: bool,
}

/// The members, and what was gossiped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) servers: Vec<Arc<Server>>,
    /// The intents that were said.
    pub(super) facts: BTreeSet<Message>,
    /// Who said what, since it last started.
    pub(super) said: BTreeSet<(usize, Message)>,
    /// Who left to the end.
    pub(super) departed: BTreeSet<usize>,
    faults: Faults,
    pub(super) leaves: u8,
    pub(super) rejoins: u8,
    pub(super) crashes: u8,
    pub(super) forced: u8,
    pub(super) false_deaths: u8,
    reaps: u8,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A member hears an intent.
    Hear(usize, Message),
    /// The first asks the second for a push/pull.
    PushPull(usize, usize),
    /// The first has the second for gone; by the second's own word or not.
    Gone(usize, usize, bool),
    /// The first hears from SWIM that the second is there.
    There(usize, usize),
    /// The first hears, late, what the second announced before it went.
    Late(usize, usize),
    /// A member stops without a word.
    Crash(usize),
    /// It starts again and joins through another.
    Restart(usize, usize),
    /// An operator at the first makes the second leave.
    ForceLeave(usize, usize),
    /// A member says that it leaves.
    Leave(usize),
    /// It has left.
    Depart(usize),
    /// A member looks for others to forget.
    Reap(usize),
}

impl MembersModel {
    fn change(config: &mut Config) {
        config.memory.intent = Duration::MAX;
        config.memory.failed = Duration::from_hours(1);
        config.memory.left = Duration::from_hours(1);
    }

    fn start(&self) -> State {
        State {
            servers: pool::pool(self.servers, self.beginning, false, &Self::change),
            facts: BTreeSet::new(),
            said: BTreeSet::new(),
            departed: BTreeSet::new(),
            faults: Faults::default(),
            leaves: 0,
            rejoins: 0,
            crashes: 0,
            forced: 0,
            false_deaths: 0,
            reaps: 0,
        }
    }

    /// Whether nothing has gone wrong yet, and all members are alike.
    fn is_fresh(&self, state: &State) -> bool {
        let spent = [state.leaves, state.crashes, state.forced, state.false_deaths];
        self.beginning == Beginning::Alike && spent.iter().all(|spent| *spent == 0)
    }
}

/// Lets a member step, and looks at what that did.
fn act(state: &mut State, n: usize, step: impl FnOnce(&mut Server) -> Told) {
    let before = Arc::clone(&state.servers[n]);
    let told = step(Arc::make_mut(&mut state.servers[n]));
    judge(state, n, &before, &told);
    for message in told.gossip {
        state.faults.gossiped_twice |= !state.said.insert((n, message.clone()));
        state.facts.insert(message);
    }
}

/// Looks at what a step of a member did.
fn judge(state: &mut State, n: usize, then: &Server, told: &Told) {
    let now = &state.servers[n];
    let (before, after) = (&then.machine.members, &now.machine.members);
    let (swim_before, swim_after) = (&then.machine.swim.members, &now.machine.swim.members);
    let faults = &mut state.faults;
    faults.clock_went_back |= after.clock.time() < before.clock.time();
    for (name, now) in &after.entries {
        let Some(then) = before.entries.get(name) else { continue };
        let (swim_then, swim_now) = (swim_before.get(name), swim_after.get(name));
        // What SWIM says has no time.
        let told_by_swim = swim_then.map(|m| m.status) != swim_now.map(|m| m.status);
        let later = now.status_ltime > then.status_ltime;
        faults.unordered |= now.status_ltime < then.status_ltime
            || match (then.status, now.status) {
                (Status::Alive, Status::Leaving) | (Status::Leaving, Status::Alive) => !later,
                // An operator's word, or another's who has it as left since the same time.
                (Status::Failed, Status::Left) => now.status_ltime < then.status_ltime,
                (Status::Left, Status::Failed) => true,
                (then, now) => then != now && !told_by_swim,
            };
        if then.status == Status::Left && now.status != Status::Left {
            // Only the member itself brings it back, by an announcement that is later than the one which it left with.
            let incarnation = |member: Option<&swim::Member>| member.map(|m| m.incarnation);
            let anew = told_by_swim && incarnation(swim_now) > incarnation(swim_then);
            faults.returned_unannounced |= !(anew && now.status == Status::Alive);
        }
    }
    for output in &told.outputs {
        if let Output::Reaped { status, .. } = output {
            faults.live_member_forgotten |= status.is_present();
        }
    }
}

/// Both tell each other what they know, as it was before.
fn push_pull(state: &mut State, from: usize, to: usize) {
    let (asked, answer) = (state.servers[from].push_pull(), state.servers[to].push_pull());
    act(state, to, |server| pool::receive(server, from, asked));
    act(state, from, |server| pool::receive(server, to, answer));
}

/// SWIM tells the first that the second is there; an announcement that it believes.
fn there(state: &mut State, n: usize, other: usize) {
    let believed = state.servers[n].sees(other).map(|member| (member.incarnation, member.status));
    let own = state.servers[other].machine.swim.incarnation();
    if believed.is_some_and(|(incarnation, status)| incarnation >= own && status.is_gone()) {
        // First the other one hears that it is dead.
        let death = pool::death(&state.servers[n], other, false);
        if let Some(death) = death {
            act(state, other, |server| pool::receive(server, n, death));
        }
    }
    let alive = state.servers[other].alive();
    if let Some(alive) = alive {
        act(state, n, |server| pool::receive(server, other, alive));
    }
}

fn gone(state: &mut State, n: usize, other: usize, said_so: bool) {
    if let Some(death) = pool::death(&state.servers[n], other, said_so) {
        act(state, n, |server| pool::receive(server, other, death));
    }
}

/// What the second announced last, before the first had it for gone, comes late.
fn late(state: &mut State, n: usize, other: usize) {
    if let Some(alive) = state.servers[n].announcement(other) {
        act(state, n, |server| pool::receive(server, other, alive));
    }
}

/// A member that is down starts again on its disk, and joins.
fn restart(state: &mut State, n: usize, via: usize) {
    let durable = state.servers[n].durable.clone();
    let config = pool::config(n, &MembersModel::change);
    state.servers[n] = Arc::new(Server::start(n, &config, durable, false));
    state.rejoins += u8::from(state.departed.remove(&n));
    state.said.retain(|(who, _)| *who != n);
    let before = state.servers.clone();
    let mut all: [Told; 2] = Default::default();
    for (who, told) in pool::join(&mut state.servers, n, via) {
        all[usize::from(who == via)].add(told);
    }
    for (who, told) in [n, via].into_iter().zip(all) {
        judge(state, who, &before[who], &told);
        state.said.extend(told.gossip.iter().map(|message| (who, message.clone())));
        state.facts.extend(told.gossip);
    }
}

fn depart(state: &mut State, n: usize) {
    for timer in [Timer::Leave, Timer::Swim(swim::Timer::Leave), Timer::Leave] {
        act(state, n, |server| server.step(Event::Fire(timer)));
    }
    Arc::make_mut(&mut state.servers[n]).up = false;
    state.departed.insert(n);
}

fn up(state: &State) -> impl Iterator<Item = usize> + Clone + '_ {
    (0..state.servers.len()).filter(|n| state.servers[*n].up)
}

fn serves(state: &State, n: usize) -> bool {
    let server = &state.servers[n];
    server.up && server.machine.lifecycle == Lifecycle::Serving
}

/// Serf and SWIM agree on who is there.
fn status_follows_swim(state: &State) -> bool {
    up(state).all(|n| {
        let server = &state.servers[n];
        let entries = &server.machine.members.entries;
        let others = (0..state.servers.len()).filter(|other| *other != n);
        let own = entries.get(&name(n)).is_some_and(|own| own.status.is_present());
        own && others.clone().all(|other| {
            let status = entries.get(&name(other)).map(|entry| entry.status);
            status.is_some_and(Status::is_present) == server.sees_present(other)
        })
    })
}

fn merge(into: &mut Members, from: &Members, config: &Config) -> Heard {
    let (ltimes, left) = from.tell();
    into.merge(from.clock.time(), &ltimes, &left, &config.memory, Instant(0), &mut Vec::new())
}

fn pairs(state: &State) -> impl Iterator<Item = (usize, usize)> + '_ {
    let up: Vec<usize> = up(state).collect();
    up.clone()
        .into_iter()
        .flat_map(move |a| up.clone().into_iter().map(move |b| (a, b)))
        .filter(|(a, b)| a != b)
}

/// What a push/pull told once, it tells in vain a second time.
fn merge_idempotent(state: &State) -> bool {
    pairs(state).all(|(from, to)| {
        let (from, to) = (&state.servers[from].machine, &state.servers[to].machine);
        let mut once = to.members.clone();
        if merge(&mut once, &from.members, &to.config) == Heard::Refute {
            once.announce();
        }
        let mut twice = once.clone();
        merge(&mut twice, &from.members, &to.config) == Heard::News && once == twice
    })
}

/// Two members that tell each other what they know, again and again, soon have nothing more to tell.
fn exchange_settles(state: &State) -> bool {
    // Where SWIM has one for dead that is up, each push/pull makes it say anew that it is there, until SWIM knows.
    let sees = |a: usize, b: usize| state.servers[a].sees_present(b);
    pairs(state).filter(|(a, b)| a < b && sees(*a, *b) && sees(*b, *a)).all(|(a, b)| {
        let (a, b) = (&state.servers[a].machine, &state.servers[b].machine);
        let mut both = (a.members.clone(), b.members.clone());
        for _ in 0..6 {
            let before = both.clone();
            if merge(&mut both.1, &before.0, &b.config) == Heard::Refute {
                both.1.announce();
            }
            if merge(&mut both.0, &before.1, &a.config) == Heard::Refute {
                both.0.announce();
            }
            if both == before {
                return true;
            }
        }
        false
    })
}

/// From this state on, with what was gossiped lost, what will be gossiped heard, SWIM right and everybody in touch, who is up is alive to everybody, and
/// who is not is gone; as one that left, where it did and nobody else's word about it bears the same time.
fn live_members_are_alive_again(model: &MembersModel, state: &State) -> bool {
    let intended = model.forced == 0;
    let mut state = state.clone();
    state.facts.clear();
    for _ in 0..3 {
        let servers: Vec<usize> = up(&state).collect();
        for &n in &servers {
            for other in 0..state.servers.len() {
                if serves(&state, other) && n != other && !state.servers[n].sees_present(other) {
                    there(&mut state, n, other);
                } else if !state.servers[other].up && state.servers[n].sees_present(other) {
                    let said_so = state.departed.contains(&other);
                    gone(&mut state, n, other, said_so);
                }
            }
            for fact in state.facts.clone() {
                act(&mut state, n, |server| server.hear(fact));
            }
        }
        for (a, b) in pairs(&state.clone()) {
            push_pull(&mut state, a, b);
        }
    }
    up(&state).all(|n| {
        let members = &state.servers[n].machine.members;
        (0..state.servers.len()).all(|other| {
            let status = members.status(&name(other));
            if serves(&state, other) {
                status == Some(Status::Alive)
            } else if state.departed.contains(&other) {
                // As long as anybody heard its own word.
                let known = intended && up(&state).any(|n| has_left(&state, n, other));
                matches!(status, None | Some(Status::Left))
                    || !known && status == Some(Status::Failed)
            } else if state.servers[other].up {
                true
            } else {
                !status.is_some_and(Status::is_present)
            }
        })
    })
}

fn has_left(state: &State, n: usize, other: usize) -> bool {
    state.servers[n].machine.members.status(&name(other)) == Some(Status::Left)
}

impl Model for MembersModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let fresh = self.is_fresh(state);
        let last = self.servers - 1;
        for n in 0..state.servers.len() {
            let server = &state.servers[n];
            let others = (0..state.servers.len()).filter(|other| *other != n);
            let (befalls, does) = (!fresh || n == last, !fresh || n == 0);
            if !server.up {
                if !state.departed.contains(&n) || state.rejoins < self.rejoins {
                    let via = others.filter(|via| serves(state, *via));
                    actions.extend(via.map(|via| Action::Restart(n, via)));
                }
                continue;
            }
            actions.extend(state.facts.iter().map(|fact| Action::Hear(n, fact.clone())));
            for other in others {
                let seen = server.sees_present(other);
                let its = &state.servers[other];
                if its.up {
                    actions.push(Action::PushPull(n, other));
                    let one = does && (!fresh || other == last);
                    if one && seen && state.false_deaths < self.false_deaths {
                        actions.push(Action::Gone(n, other, false));
                    }
                    if !seen && serves(state, other) {
                        actions.push(Action::There(n, other));
                    }
                } else if seen {
                    actions.push(Action::Gone(n, other, false));
                    if state.departed.contains(&other) {
                        actions.push(Action::Gone(n, other, true));
                    }
                }
                if self.late && !seen {
                    actions.push(Action::Late(n, other));
                }
                if does && (!fresh || other == last) && state.forced < self.forced {
                    actions.push(Action::ForceLeave(n, other));
                }
            }
            if serves(state, n) {
                if befalls && state.crashes < self.crashes {
                    actions.push(Action::Crash(n));
                }
                if befalls && state.leaves < self.leaves {
                    actions.push(Action::Leave(n));
                }
            } else {
                actions.push(Action::Depart(n));
            }
            if state.reaps < self.reaps {
                actions.push(Action::Reap(n));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        match action {
            Action::Hear(n, fact) => act(&mut state, n, |server| server.hear(fact)),
            Action::PushPull(from, to) => push_pull(&mut state, from, to),
            Action::Gone(n, other, said_so) => {
                state.false_deaths += u8::from(state.servers[other].up);
                gone(&mut state, n, other, said_so);
            }
            Action::There(n, other) => there(&mut state, n, other),
            Action::Late(n, other) => late(&mut state, n, other),
            Action::Crash(n) => {
                state.crashes += 1;
                Arc::make_mut(&mut state.servers[n]).crash(0);
            }
            Action::Restart(n, via) => restart(&mut state, n, via),
            Action::ForceLeave(n, other) => {
                state.forced += 1;
                let (name, prune) = (name(other), self.prunes);
                let command = Command::ForceLeave { request: 1, name, prune };
                act(&mut state, n, |server| server.command(command));
            }
            Action::Leave(n) => {
                state.leaves += 1;
                act(&mut state, n, |server| server.command(Command::Leave { request: 1 }));
            }
            Action::Depart(n) => depart(&mut state, n),
            Action::Reap(n) => {
                state.reaps += 1;
                act(&mut state, n, |server| server.step_at(Event::Fire(Timer::Reap), LATER));
            }
        }
        Some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        let mut clocks = state.servers.iter().map(|server| server.machine.members.clock.time().0);
        clocks.all(|time| time <= self.max_ltime)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always("status_follows_swim", |_, state| status_follows_swim(state)),
            Property::<Self>::always("intents_in_order", |_, state| !state.faults.unordered),
            Property::<Self>::always("left_stays_left", |_, state| {
                !state.faults.returned_unannounced
            }),
            Property::<Self>::always("regossip_bounded", |_, state| !state.faults.gossiped_twice),
            Property::<Self>::always("prune_safety", |_, state| {
                !state.faults.live_member_forgotten
            }),
            Property::<Self>::always("clocks_never_go_back", |_, state| {
                !state.faults.clock_went_back
            }),
            Property::<Self>::always("merge_idempotent", |_, state| merge_idempotent(state)),
            Property::<Self>::always("exchange_settles", |_, state| exchange_settles(state)),
            Property::<Self>::always("live_members_are_alive_again", live_members_are_alive_again),
        ];
        if self.leaves + self.crashes > 0 {
            properties.push(Property::<Self>::sometimes("a_member_has_left", |_, state| {
                up(state)
                    .any(|n| state.servers[n].machine.members.with(Status::Left).next().is_some())
            }));
        }
        if self.crashes > 0 {
            properties.push(Property::<Self>::sometimes("a_member_has_failed", |_, state| {
                up(state)
                    .any(|n| state.servers[n].machine.members.with(Status::Failed).next().is_some())
            }));
        }
        if self.forced > 0 {
            properties.push(Property::<Self>::sometimes("a_live_member_refutes", |_, state| {
                let joins = state.facts.iter().filter(|fact| matches!(fact, Message::Join(_)));
                joins.count() > usize::from(state.crashes)
            }));
        }
        if self.prunes || self.reaps > 0 {
            properties.push(Property::<Self>::sometimes("a_member_is_forgotten", |_, state| {
                up(state)
                    .any(|n| state.servers[n].machine.members.entries.len() < state.servers.len())
            }));
        }
        if self.rejoins > 0 {
            properties.push(Property::<Self>::sometimes("who_left_is_alive_again", |_, state| {
                let joined = |n: &usize| state.servers[*n].machine.swim.incarnation().0 > 1;
                state.rejoins > 0
                    && state.crashes + state.forced + state.false_deaths == 0
                    && up(state).filter(joined).any(|n| {
                        up(state).filter(|other| *other != n).all(|other| {
                            let members = &state.servers[other].machine.members;
                            members.status(&name(n)) == Some(Status::Alive)
                        })
                    })
            }));
        }
        properties
    }
}

impl Checked for MembersModel {
    const KINDS: &'static [&'static str] = &[
        "hear",
        "push-pull",
        "gone",
        "there",
        "late",
        "crash",
        "restart",
        "force-leave",
        "leave",
        "depart",
        "reap",
    ];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Hear(..) => 0,
            Action::PushPull(..) => 1,
            Action::Gone(..) => 2,
            Action::There(..) => 3,
            Action::Late(..) => 4,
            Action::Crash(_) => 5,
            Action::Restart(..) => 6,
            Action::ForceLeave(..) => 7,
            Action::Leave(_) => 8,
            Action::Depart(_) => 9,
            Action::Reap(_) => 10,
        }
    }
}

/// Three members, and nothing that goes wrong.
pub(super) const fn none() -> MembersModel {
    MembersModel {
        servers: 3,
        leaves: 0,
        rejoins: 0,
        crashes: 0,
        forced: 0,
        prunes: false,
        false_deaths: 0,
        reaps: 0,
        max_ltime: 6,
        late: false,
        beginning: Beginning::Joined,
    }
}

/// The scopes of members.
pub(super) fn scopes() -> Vec<Scope> {
    let none = none();
    let leave = MembersModel { leaves: 1, false_deaths: 1, ..none.clone() };
    let failed = MembersModel { servers: 2, crashes: 1, forced: 1, ..none.clone() };
    let prune = MembersModel { servers: 2, leaves: 1, forced: 2, prunes: true, ..failed.clone() };
    let three = MembersModel { forced: 1, false_deaths: 1, prunes: true, ..none.clone() };
    let two = MembersModel { forced: 2, ..none.clone() };
    let alike = MembersModel { late: true, beginning: Beginning::Alike, max_ltime: 8, ..none };
    let back = MembersModel { leaves: 1, rejoins: 1, ..alike };
    let held = MembersModel { false_deaths: 1, ..back.clone() };
    let said = MembersModel { forced: 1, ..back.clone() };
    let reap = MembersModel { servers: 2, reaps: 1, leaves: 1, ..failed.clone() };
    let scope = Scope::new;
    vec![
        scope(
            "serf-leave",
            Tier::Ci,
            "Three members: one leaves, and one is held for dead while it is up.",
            &["SERF-3", "SERF-4", "SERF-6", "SERF-7", "SERF-11"],
            leave,
        ),
        scope(
            "serf-force-leave",
            Tier::Ci,
            "Two members: one crashes and starts again, an operator makes one leave.",
            &["SERF-3", "SERF-5", "SERF-7", "SERF-8"],
            failed,
        ),
        scope(
            "serf-prune",
            Tier::Ci,
            "Two members: one crashes, one leaves, an operator asks twice to forget one.",
            &["SERF-9", "SERF-10"],
            prune,
        ),
        scope(
            "serf-prune-live",
            Tier::Ci,
            "Three members: one is held for dead, and an operator asks to forget one.",
            &["SERF-7", "SERF-10"],
            three,
        ),
        scope(
            "serf-two-intents",
            Tier::Ci,
            "Three members: operators say of two, or twice of one, that it has left.",
            &["SERF-4", "SERF-7", "SERF-8", "SERF-11"],
            two,
        ),
        scope(
            "serf-left",
            Tier::Ci,
            "Three members: one leaves and comes back; old intents and announcements come late.",
            &["SERF-3", "SERF-4", "SERF-8", "SERF-19"],
            back,
        ),
        scope(
            "serf-left-held",
            Tier::Deep,
            "Three members: one leaves and comes back, one is held for dead; old intents and announcements come late.",
            &["SERF-3", "SERF-4", "SERF-8", "SERF-19"],
            held,
        ),
        scope(
            "serf-left-said",
            Tier::Deep,
            "Three members: one leaves and comes back, an operator says of one that it leaves; all old word comes late.",
            &["SERF-3", "SERF-4", "SERF-7", "SERF-8", "SERF-19"],
            said,
        ),
        scope(
            "serf-reap",
            Tier::Ci,
            "Two members: one crashes, one leaves, and they are forgotten.",
            &["SERF-12"],
            reap,
        ),
    ]
}
