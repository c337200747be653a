//! An agent that is no server and its requests: which server it turns to, and what becomes of a request while servers
//! crash, come back, join and go, and connections break (prose/servers.md).
//!
//! The agent's driver is what it does: a request goes to the server in use, a failure tells both machines, and the
//! second says what comes next. A connection that breaks may leave a request behind that its server still carries out.

use std::{collections::BTreeSet, time::Duration};

use spec::{
    entropy::Entropy,
    sync::{
        retry::{Attempts, Failure, Kind, Next},
        servers::{Effect, Event, Servers},
    },
    time::Instant,
};
use stateright::{Model, Property};

use crate::{
    Checked, Scope, Tier,
    properties::{seen, steps},
};

/// The servers, the requests, and how long it goes on. How often servers crash, come and go has no bound.
#[derive(Clone, Debug)]
pub struct ClientModel {
    /// Servers that there may be.
    pub servers: u8,
    /// Servers come and go, and the lot is drawn anew.
    pub moves: bool,
    /// The requests.
    pub requests: Vec<Kind>,
    /// How long a request is held.
    pub hold: Duration,
    /// How far time goes, in steps of [`TICK`].
    pub ticks: u64,
}

/// A step of time.
pub const TICK: Duration = Duration::from_millis(10);

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// About to be sent.
    Ready,
    /// At a server, since then; whether it has been carried out there. One that crashed and is back goes on with it: more
    /// than a real one does.
    Sent { server: u8, began: Instant, done: bool },
    /// It waits.
    Paused { until: Instant },
    /// The client has the answer.
    Answered,
    /// The client was told that there is no answer, and that the request may have been carried out.
    Unknown,
    /// The client was told that the request was not carried out.
    NotDone,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Request {
    kind: Kind,
    attempts: Attempts,
    stage: Stage,
    /// How often a server carried it out, where it changes something.
    ran: u8,
    /// The server that may yet carry it out though the connection broke.
    stray: Option<u8>,
    /// When servers first failed it, since it was last well.
    failed_at: Option<Instant>,
    /// How often servers failed it since it last paused, and which.
    failed: usize,
    tried: BTreeSet<u8>,
    /// Something else changed the order of the servers meanwhile.
    disturbed: bool,
}

impl Request {
    /// What happened before its last pause says nothing about the next.
    fn start_anew(&mut self) {
        self.failed = 0;
        self.tried.clear();
        self.disturbed = false;
    }
}

/// The agent and its servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    servers: Servers<u8>,
    /// The servers that the agent knows.
    known: BTreeSet<u8>,
    up: BTreeSet<u8>,
    /// Who was ever pinged: an answer may come at any time, and be wrong by then.
    pings: BTreeSet<u8>,
    /// Whom the agent asked last, until it answers.
    asked: Option<u8>,
    /// The time of the next lot is set.
    armed: bool,
    requests: Vec<Request>,
    now: Instant,
    did: Option<Did>,
    broke: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Did {
    ChangeOver,
    AnswerAfterFailure,
    LeaveUnknownThoughDone,
    LeaveUnknownNotDone,
    GiveUp,
    Pause,
    HoldAnew,
}

/// What happens. A lot is a list of choices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A server crashes.
    Crash(u8),
    /// It comes back.
    Return(u8),
    /// The agent hears that these are the servers.
    Know(BTreeSet<u8>, Vec<usize>),
    /// It is time to draw the lot.
    Due(Vec<usize>),
    /// A ping is answered, or given up.
    Ping(u8, bool, Vec<usize>),
    /// A request that is none of those looked at failed at this server.
    Fail(u8),
    /// A request is sent.
    Send(usize),
    /// The server carries it out.
    Run(usize),
    /// Its answer arrives.
    Answer(usize),
    /// The server sends it away untouched.
    Refuse(usize),
    /// The connection breaks before that.
    Lose(usize),
    /// A server carries out what it had when the connection broke.
    Stray(usize),
    /// Time goes on.
    Tick,
}

const ORDER: &str = "the_order_holds_who_is_known";
const STAYS: &str = "who_is_in_use_stays";
const LAST: &str = "who_fails_goes_to_the_end";
const TURN: &str = "only_who_was_asked_changes_anything";
const PINGED: &str = "only_the_known_are_asked";
const ONCE: &str = "a_write_is_done_once_at_most";
const NOT_DONE: &str = "what_is_told_not_done_is_not";
const EARLY: &str = "nothing_is_given_up_early";
const LATE: &str = "nothing_is_held_for_ever";
const SPINS: &str = "nothing_spins";
const TRIED: &str = "each_server_is_tried_before_a_pause";
const LIVING: &str = "a_living_server_comes_into_use";
const THROUGH: &str = "requests_get_through";

/// Chooses by a list, and notes of how many each choice was.
struct Script<'a> {
    choices: &'a [usize],
    of: Vec<usize>,
}

impl Entropy for Script<'_> {
    /// The longest, which comes nearest to the bounds.
    fn jitter(&mut self, bound: Duration) -> Duration {
        bound
    }

    fn choose(&mut self, n: usize) -> usize {
        let choice = self.choices.get(self.of.len()).copied().unwrap_or(0);
        self.of.push(n);
        choice
    }
}

/// Every list of choices that a machine may ask for.
fn lots(servers: &Servers<u8>, event: &Event<u8>) -> Vec<Vec<usize>> {
    let mut lots = Vec::new();
    let mut lot = Vec::new();
    loop {
        let mut script = Script { choices: &lot, of: Vec::new() };
        servers.clone().step(event.clone(), &mut script, &mut Vec::new());
        let of = script.of;
        lot.resize(of.len(), 0);
        lots.push(lot.clone());
        // The next one, as an odometer counts.
        let Some(at) = (0..of.len()).rev().find(|at| lot[*at] + 1 < of[*at]) else { return lots };
        lot[at] += 1;
        lot.truncate(at + 1);
    }
}

impl World {
    fn route(&mut self, event: &Event<u8>, lot: &[usize]) {
        let before = self.servers.order().to_vec();
        let waited_for = self.asked;
        match event {
            Event::Known { servers, .. } => self.known.clone_from(servers),
            Event::RebalanceDue => self.armed = false,
            Event::Pinged { server, .. } => {
                if self.asked == Some(*server) {
                    self.asked = None;
                }
            }
            Event::Failed(_) => {}
        }
        let mut effects = Vec::new();
        let mut script = Script { choices: lot, of: Vec::new() };
        self.servers.step(event.clone(), &mut script, &mut effects);
        for effect in effects {
            match effect {
                Effect::Ping(server) => {
                    if !self.known.contains(&server) {
                        self.broke.push(PINGED);
                    }
                    self.pings.insert(server);
                    self.asked = Some(server);
                }
                Effect::RebalanceAfter(_) => self.armed = true,
            }
        }
        let order = self.servers.order();
        let in_use = self.servers.in_use().copied();
        let used = before.first().copied();
        let may_change = match event {
            Event::Known { servers, .. } => used.is_none_or(|used| !servers.contains(&used)),
            Event::Failed(server) => used == Some(*server),
            Event::Pinged { server, alive } => *alive && in_use == Some(*server),
            Event::RebalanceDue => false,
        };
        if in_use != used && !may_change {
            self.broke.push(STAYS);
        }
        match event {
            Event::Failed(server) if used == Some(*server) => {
                let mut expected = before.clone();
                expected.rotate_left(1);
                if order != expected {
                    self.broke.push(LAST);
                }
            }
            Event::Pinged { server, .. } if waited_for != Some(*server) && order != before => {
                self.broke.push(TURN);
            }
            _ => {}
        }
        if order != before {
            for request in &mut self.requests {
                request.disturbed = true;
            }
        }
        if in_use != used && used.is_some() && matches!(event, Event::Pinged { .. }) {
            self.did = Some(Did::ChangeOver);
        }
    }

    /// A request failed.
    fn fail(&mut self, r: usize, failure: Failure, server: u8, began: Instant) {
        let disturbed = self.requests[r].disturbed;
        self.route(&Event::Failed(server), &[]);
        // That was its own doing.
        self.requests[r].disturbed = disturbed;
        let (now, servers) = (self.now, self.servers.order().len());
        let request = &mut self.requests[r];
        let hold = request.attempts.hold();
        let mut script = Script { choices: &[], of: Vec::new() };
        let next = request.attempts.failed(failure, servers, began, now, &mut script);
        if request.kind == Kind::Poll && now.since(began) >= hold {
            if request.failed_at.is_some() {
                self.did = Some(Did::HoldAnew);
            }
            request.failed_at = None;
            request.start_anew();
        }
        request.failed += 1;
        request.tried.insert(server);
        let until = request.failed_at.get_or_insert(now).after(hold);
        let (stage, did) = match (next, request.kind, failure) {
            (Next::GiveUp, Kind::Write, Failure::Lost) => {
                let done = request.ran > 0;
                let did = if done { Did::LeaveUnknownThoughDone } else { Did::LeaveUnknownNotDone };
                (Stage::Unknown, Some(did))
            }
            (Next::GiveUp, ..) => {
                if now < until {
                    self.broke.push(EARLY);
                }
                (Stage::NotDone, Some(Did::GiveUp))
            }
            (Next::AtOnce, ..) => {
                if now >= until {
                    self.broke.push(LATE);
                }
                if request.failed > servers {
                    self.broke.push(SPINS);
                }
                (Stage::Ready, self.did)
            }
            (Next::After(pause), ..) => {
                let wakes = now.after(pause);
                if wakes > until || wakes <= now {
                    self.broke.push(LATE);
                }
                if !request.disturbed && request.tried != self.known {
                    self.broke.push(TRIED);
                }
                request.start_anew();
                (Stage::Paused { until: wakes }, Some(Did::Pause))
            }
        };
        request.stage = stage;
        self.did = did;
    }

    fn send(&mut self, r: usize) {
        let Some(server) = self.servers.in_use().copied() else {
            self.requests[r].stage = Stage::NotDone;
            return;
        };
        if self.up.contains(&server) {
            let began = self.now;
            self.requests[r].stage = Stage::Sent { server, began, done: false };
        } else {
            self.fail(r, Failure::NotSent, server, self.now);
        }
    }

    /// The server carries it out.
    fn run(&mut self, r: usize) {
        let request = &mut self.requests[r];
        if let Stage::Sent { done, .. } = &mut request.stage {
            *done = true;
        }
        request.ran += u8::from(request.kind == Kind::Write);
        if request.ran > 1 {
            self.broke.push(ONCE);
        }
    }

    fn answer(&mut self, r: usize) {
        let request = &mut self.requests[r];
        request.stage = Stage::Answered;
        self.did = request.failed_at.take().map(|_| Did::AnswerAfterFailure);
    }

    /// Answers the ping that is waited for by what is so, and those that follow.
    fn answer_pings(&mut self) {
        // Each lot asks each server once at most.
        for _ in 0..=2 * self.known.len() {
            let Some(server) = self.asked else { return };
            let alive = self.up.contains(&server);
            self.route(&Event::Pinged { server, alive }, &[]);
        }
    }

    /// Whether the agent turns to a server that lives, when the time for the next lot has come and pings are answered.
    fn finds_the_living(&self) -> bool {
        let mut after = self.clone();
        if after.known.is_disjoint(&after.up) {
            return true;
        }
        after.answer_pings();
        if !after.armed {
            return false;
        }
        after.route(&Event::RebalanceDue, &[]);
        after.answer_pings();
        after.asked.is_none()
            && after.servers.in_use().is_some_and(|server| after.up.contains(server))
    }

    /// Whether each request that has time enough for a pause is answered, once nothing more goes wrong.
    fn gets_through(&self) -> bool {
        let over =
            |r: &Request| matches!(r.stage, Stage::Answered | Stage::Unknown | Stage::NotDone);
        (0..self.requests.len()).all(|r| {
            let mut after = self.clone();
            let enough = |world: &Self| {
                let request = &world.requests[r];
                let pause = TICK + request.attempts.hold() / 16;
                request.failed_at.is_none_or(|first| {
                    world.now.after(2 * pause) < first.after(request.attempts.hold())
                })
            };
            if after.known.is_disjoint(&after.up) || over(&after.requests[r]) || !enough(&after) {
                return true;
            }
            // Each server once for what came before, and once after a pause.
            for _ in 0..4 * after.known.len() {
                match after.requests[r].stage {
                    Stage::Ready => after.send(r),
                    Stage::Paused { until } => {
                        after.now = after.now.max(until);
                        after.requests[r].stage = Stage::Ready;
                    }
                    Stage::Sent { server, .. } if after.up.contains(&server) => after.answer(r),
                    Stage::Sent { server, began, .. } => {
                        after.fail(r, Failure::Lost, server, began);
                    }
                    Stage::Answered => return true,
                    // It was at a server that is gone.
                    Stage::Unknown => return after.requests[r].kind == Kind::Write,
                    Stage::NotDone => return false,
                }
            }
            false
        })
    }
}

impl ClientModel {
    fn all(&self) -> BTreeSet<u8> {
        (0..self.servers).collect()
    }

    fn sets(&self) -> impl Iterator<Item = BTreeSet<u8>> {
        let all = self.all();
        (0..1_u32 << self.servers)
            .map(move |bits| all.iter().copied().filter(|s| bits & (1 << s) != 0).collect())
    }

    fn known(servers: &BTreeSet<u8>) -> Event<u8> {
        Event::Known { servers: servers.clone(), agents: servers.len() + 1 }
    }
}

impl Model for ClientModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let request = |kind: &Kind| Request {
            kind: *kind,
            attempts: Attempts::new(*kind, self.hold),
            stage: Stage::Ready,
            ran: 0,
            stray: None,
            failed_at: None,
            failed: 0,
            tried: BTreeSet::new(),
            disturbed: false,
        };
        let mut world = World {
            servers: Servers::default(),
            known: BTreeSet::new(),
            up: self.all(),
            pings: BTreeSet::new(),
            asked: None,
            armed: false,
            requests: self.requests.iter().map(request).collect(),
            now: Instant(0),
            did: None,
            broke: Vec::new(),
        };
        if !self.moves {
            // All are alike: which lot falls makes no difference.
            world.route(&Self::known(&self.all()), &[]);
            world.route(&Event::Pinged { server: world.asked.unwrap_or(0), alive: true }, &[]);
        }
        vec![world]
    }

    fn actions(&self, at: &World, actions: &mut Vec<Action>) {
        for server in self.all() {
            let up = at.up.contains(&server);
            actions.push(if up { Action::Crash(server) } else { Action::Return(server) });
        }
        // Without moves the first lot is drawn, and nobody is asked again.
        for server in at.pings.iter().filter(|_| self.moves) {
            for alive in [false, true] {
                let lots = lots(&at.servers, &Event::Pinged { server: *server, alive });
                actions.extend(lots.into_iter().map(|lot| Action::Ping(*server, alive, lot)));
            }
        }
        if self.moves {
            for set in self.sets().filter(|set| *set != at.known) {
                let lots = lots(&at.servers, &Self::known(&set));
                actions.extend(lots.into_iter().map(|lot| Action::Know(set.clone(), lot)));
            }
            actions.extend(at.known.iter().map(|server| Action::Fail(*server)));
            if at.armed {
                let lots = lots(&at.servers, &Event::RebalanceDue);
                actions.extend(lots.into_iter().map(Action::Due));
            }
        }
        for (r, request) in at.requests.iter().enumerate() {
            match request.stage {
                Stage::Ready => actions.push(Action::Send(r)),
                Stage::Paused { until } if at.now >= until => actions.push(Action::Send(r)),
                Stage::Sent { server, done, .. } => {
                    actions.push(Action::Lose(r));
                    if at.up.contains(&server) {
                        if done {
                            actions.push(Action::Answer(r));
                        } else {
                            actions.extend([Action::Run(r), Action::Refuse(r)]);
                        }
                    }
                }
                Stage::Paused { .. } | Stage::Answered | Stage::Unknown | Stage::NotDone => {}
            }
            if request.stray.is_some() {
                actions.push(Action::Stray(r));
            }
        }
        let ends = Instant(0).after(TICK * u32::try_from(self.ticks).unwrap_or(u32::MAX));
        if !self.requests.is_empty() && at.now < ends {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, at: &World, action: Action) -> Option<World> {
        let mut next = World { broke: Vec::new(), did: None, ..at.clone() };
        match action {
            Action::Crash(server) => {
                next.up.remove(&server);
                for request in &mut next.requests {
                    request.stray = request.stray.filter(|at| *at != server);
                }
            }
            Action::Return(server) => {
                next.up.insert(server);
            }
            Action::Know(set, lot) => next.route(&Self::known(&set), &lot),
            Action::Due(lot) => next.route(&Event::RebalanceDue, &lot),
            Action::Ping(server, alive, lot) => {
                next.route(&Event::Pinged { server, alive }, &lot);
            }
            Action::Fail(server) => next.route(&Event::Failed(server), &[]),
            Action::Send(r) => next.send(r),
            Action::Run(r) | Action::Stray(r) => {
                if matches!(action, Action::Stray(_)) {
                    next.requests[r].stray = None;
                }
                next.run(r);
            }
            Action::Answer(r) => next.answer(r),
            Action::Refuse(r) => {
                let Stage::Sent { server, began, .. } = at.requests[r].stage else { return None };
                next.fail(r, Failure::NotSent, server, began);
            }
            Action::Lose(r) => {
                let Stage::Sent { server, began, done } = at.requests[r].stage else { return None };
                // What was sent may still be on its way when the connection is given up.
                let write = at.requests[r].kind == Kind::Write;
                if write && !done && at.up.contains(&server) {
                    next.requests[r].stray = Some(server);
                }
                next.fail(r, Failure::Lost, server, began);
            }
            Action::Tick => next.now = next.now.after(TICK),
        }
        if next.requests.iter().any(|r| r.stage == Stage::NotDone && r.ran > 0) {
            next.broke.push(NOT_DONE);
        }
        if next.servers.order().iter().copied().collect::<BTreeSet<_>>() != next.known
            || next.servers.order().len() != next.known.len()
        {
            next.broke.push(ORDER);
        }
        if !next.finds_the_living() {
            next.broke.push(LIVING);
        }
        if !next.gets_through() {
            next.broke.push(THROUGH);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = steps!(World: "the_order_holds_who_is_known" "who_is_in_use_stays"
            "who_fails_goes_to_the_end" "only_who_was_asked_changes_anything"
            "only_the_known_are_asked" "a_write_is_done_once_at_most" "what_is_told_not_done_is_not"
            "nothing_is_given_up_early" "nothing_is_held_for_ever" "nothing_spins"
            "each_server_is_tried_before_a_pause" "a_living_server_comes_into_use"
            "requests_get_through");
        if self.moves {
            properties.extend(seen!(World: "the_agent_changes_over" Did::ChangeOver,));
        }
        if !self.requests.is_empty() {
            properties.extend(seen!(World:
                "an_answer_after_a_failure" Did::AnswerAfterFailure,
                "a_request_is_given_up" Did::GiveUp,
                "a_request_pauses" Did::Pause,
            ));
        }
        if self.requests.contains(&Kind::Write) {
            properties.extend(seen!(World:
                "a_write_without_an_answer_was_done" Did::LeaveUnknownThoughDone,
                "a_write_without_an_answer_was_not_done" Did::LeaveUnknownNotDone,
            ));
        }
        if self.requests.contains(&Kind::Poll) {
            properties.extend(seen!(World: "a_poll_is_held_anew" Did::HoldAnew,));
        }
        properties
    }
}

impl Checked for ClientModel {
    const KINDS: &'static [&'static str] = &[
        "crash", "return", "know", "due", "ping", "fail", "send", "run", "answer", "refuse",
        "lose", "stray", "tick",
    ];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Crash(_) => 0,
            Action::Return(_) => 1,
            Action::Know(..) => 2,
            Action::Due(_) => 3,
            Action::Ping(..) => 4,
            Action::Fail(_) => 5,
            Action::Send(_) => 6,
            Action::Run(_) => 7,
            Action::Answer(_) => 8,
            Action::Refuse(_) => 9,
            Action::Lose(_) => 10,
            Action::Stray(_) => 11,
            Action::Tick => 12,
        }
    }
}

/// The scopes of clients.
pub fn scopes() -> Vec<Scope> {
    let routing =
        ClientModel { servers: 3, moves: true, requests: Vec::new(), hold: 6 * TICK, ticks: 0 };
    let requests = ClientModel {
        servers: 2,
        moves: false,
        requests: vec![Kind::Write, Kind::Read],
        hold: 4 * TICK,
        ticks: 5,
    };
    let poll = ClientModel { requests: vec![Kind::Poll], hold: 2 * TICK, ..requests.clone() };
    let moving = ClientModel {
        moves: true,
        ticks: 4,
        requests: vec![Kind::Write],
        hold: 4 * TICK,
        ..requests.clone()
    };
    let routing_clauses = &["SERVER-1", "SERVER-2", "SERVER-3", "SERVER-4", "SERVER-5"];
    vec![
        Scope::new(
            "client-routing",
            Tier::Ci,
            "Three servers that crash, come and go without bound, every lot, pings that are lost, and late or wrong answers.",
            routing_clauses,
            routing,
        ),
        Scope::new(
            "client-requests",
            Tier::Ci,
            "A write and a read at once, two servers that crash and connections that break without bound.",
            &["SERVER-3", "SERVER-7", "SERVER-8", "SERVER-9"],
            requests,
        ),
        Scope::new(
            "client-poll",
            Tier::Ci,
            "A long poll that outlasts its hold time, two servers that crash and connections that break without bound.",
            &["SERVER-8", "SERVER-9"],
            poll,
        ),
        Scope::new(
            "client-moves",
            Tier::Ci,
            "A write while servers come and go and the lot is drawn anew, without bound.",
            &["SERVER-2", "SERVER-4", "SERVER-7", "SERVER-9"],
            moving,
        ),
    ]
}
