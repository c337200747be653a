//! Members with Serf's layer on a network in virtual time: they join, fail, leave, fire events, ask queries and rotate
//! keys. Nothing is stubbed: packets carry what the machines send, timers fire when they are due.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use spec::{
    entropy::Seeded,
    gate::Gate,
    machine::{Context, Effect, Event, Machine},
    serf::{
        Command, Config, Counter, Durable, Key, KeyRequest, KeyResult, Keyring, LamportTime,
        Message, Output, Packet, Question, Record, Refused, Serf, Status, Tags, Timer, UserEvent,
        invariant,
        members::Refusal,
        message::{Filter, LeaveIntent, Query, QueryBody, UserEventMessage},
        tags::Rules,
    },
    swim::{self, Endpoint, Part, Peer},
    time::{Instant, Timers},
};

const NO_SPACE: &str = "no space left on device";

struct Server {
    machine: Serf,
    gate: Gate<Serf>,
    timers: Timers<Timer>,
    durable: Durable,
    entropy: Seeded,
    told: Vec<Output>,
}

/// A network that loses nothing but what goes to who is down or on the other side of a cut.
struct Net {
    now: Instant,
    servers: BTreeMap<usize, Server>,
    disks: BTreeMap<usize, Durable>,
    wires: VecDeque<(usize, Peer, Packet)>,
    /// Accepted streams: who opened them.
    streams: Vec<usize>,
    cut: BTreeSet<usize>,
    /// Members whose disks take no keyring.
    full: BTreeSet<usize>,
}

fn endpoint(n: usize) -> Endpoint {
    (Ipv4Addr::new(10, 0, 0, u8::try_from(n).unwrap()), 7946).into()
}

fn name(n: usize) -> Arc<str> {
    format!("n{n}").into()
}

fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(tag, value)| ((*tag).into(), (*value).into())).collect()
}

fn event(text: &str) -> UserEvent {
    UserEvent { name: "deploy".into(), payload: text.as_bytes().into() }
}

fn config(n: usize) -> Config {
    // Sent twice only, one of many messages misses somebody, by chance.
    let swim = swim::Config {
        retransmit_mult: 4,
        ..swim::Config::local(name(n), endpoint(n), Rules::default())
    };
    let role = if n.is_multiple_of(2) { "even" } else { "odd" };
    Config::new(swim, tags(&[("role", role)]))
}

impl Net {
    fn of(servers: usize) -> Self {
        let mut net = Self::empty();
        for n in 0..servers {
            net.start(&config(n), n);
        }
        for n in 1..servers {
            net.join(n, 0);
        }
        net.run(Duration::from_secs(3));
        net.clear();
        net
    }

    fn empty() -> Self {
        Self {
            now: Instant(0),
            servers: BTreeMap::new(),
            disks: BTreeMap::new(),
            wires: VecDeque::new(),
            streams: Vec::new(),
            cut: BTreeSet::new(),
            full: BTreeSet::new(),
        }
    }

    fn start(&mut self, config: &Config, n: usize) {
        let durable = self.disks.remove(&n).unwrap_or_default();
        let (mut gate, mut effects) = (Gate::default(), vec![]);
        let mut entropy = Seeded::new(u64::try_from(n).unwrap() + self.now.0);
        let mut cx = Context { now: self.now, entropy: &mut entropy, last_ticket: &mut gate.last };
        let machine = Serf::recover(config, durable.clone(), &mut cx, &mut effects);
        let timers = Timers::default();
        let server = Server { machine, gate, timers, durable, entropy, told: vec![] };
        self.servers.insert(n, server);
        self.route(n, effects);
        self.command(n, Command::Start);
    }

    fn join(&mut self, n: usize, to: usize) {
        let to = vec![endpoint(to)];
        self.command(n, Command::Join { request: 9, to, ignore_old: false });
    }

    fn kill(&mut self, n: usize) {
        let server = self.servers.remove(&n).unwrap();
        self.disks.insert(n, server.durable);
    }

    fn command(&mut self, n: usize, command: Command) {
        self.step(n, Event::Command(command));
        self.deliver();
    }

    fn step(&mut self, n: usize, event: Event<Serf>) {
        let Some(server) = self.servers.get_mut(&n) else { return };
        let mut effects = vec![];
        let mut cx = Context {
            now: self.now,
            entropy: &mut server.entropy,
            last_ticket: &mut server.gate.last,
        };
        server.machine.step(event, &mut cx, &mut effects);
        for (invariant, holds) in invariant::ALL {
            assert!(holds(&server.machine), "n{n} breaks {invariant}");
        }
        self.route(n, effects);
    }

    fn route(&mut self, n: usize, mut effects: Vec<Effect<Serf>>) {
        let server = self.servers.get_mut(&n).unwrap();
        let mut ready = vec![];
        server.gate.admit(&mut effects, &mut ready);
        let tickets = ready.iter().filter_map(|effect| match effect {
            Effect::Persist { ticket, .. } => Some(*ticket),
            _ => None,
        });
        assert!(tickets.is_sorted(), "n{n} writes out of order: {ready:?}");
        let pending = server.gate.is_pending();
        let last = server.gate.last;
        let mut failed = None;
        if pending {
            for effect in &ready {
                if let Effect::Persist { ticket, write } = effect {
                    let of_keys = matches!(write, Record::Keyring(_) | Record::KeyringClock(_));
                    if of_keys && self.full.contains(&n) {
                        failed = Some(*ticket);
                        continue;
                    }
                    Serf::fold(&mut server.durable, write);
                }
            }
            server.gate.durable(last, &mut ready);
        }
        for effect in ready {
            match effect {
                Effect::Persist { .. } => {}
                Effect::Arm { timer, delay } => server.timers.arm(timer, self.now.after(delay)),
                Effect::Disarm { timer } => server.timers.disarm(&timer),
                Effect::Send { to, message, .. } => self.wires.push_back((n, to, message)),
                Effect::Emit { output, .. } => server.told.push(output),
            }
        }
        if let Some(ticket) = failed {
            let command = Command::KeyringNotWritten { ticket, reason: NO_SPACE.into() };
            self.step(n, Event::Command(command));
        }
        if pending {
            self.step(n, Event::Durable(last));
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to, packet)) = self.wires.pop_front() {
            let stream = !matches!(packet, Packet::Packet(_));
            let (to, peer) = match to {
                Peer::Stream(id) => (self.streams[usize::try_from(id).unwrap()], None),
                Peer::Endpoint(at) => {
                    let to = (0..200).find(|n| endpoint(*n) == at).unwrap();
                    (to, stream.then_some(()))
                }
            };
            let reached = self.servers.contains_key(&to)
                && self.cut.contains(&from) == self.cut.contains(&to);
            if !reached {
                if stream {
                    let failed = Command::StreamFailed { to: endpoint(to), refused: false };
                    self.step(from, Event::Command(failed));
                }
                continue;
            }
            let from = if peer.is_some() {
                self.streams.push(from);
                Peer::Stream(u64::try_from(self.streams.len() - 1).unwrap())
            } else {
                Peer::Endpoint(endpoint(from))
            };
            self.step(to, Event::Receive { from, message: packet });
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            let next = self
                .servers
                .iter()
                .filter_map(|(n, server)| Some((server.timers.next_deadline()?, *n)))
                .min();
            let Some((at, n)) = next.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            if let Some(timer) = self.servers.get_mut(&n).unwrap().timers.pop(self.now) {
                self.step(n, Event::Fire(timer));
                self.deliver();
            }
        }
        self.now = end;
    }

    fn clear(&mut self) {
        for server in self.servers.values_mut() {
            server.told.clear();
        }
    }

    fn told(&self, n: usize) -> &[Output] {
        &self.servers[&n].told
    }

    fn status(&self, n: usize, other: usize) -> Option<Status> {
        self.servers[&n].machine.members.status(&name(other))
    }

    fn events(&self, n: usize) -> Vec<String> {
        let texts = self.told(n).iter().filter_map(|output| match output {
            Output::Event { event, .. } => Some(String::from_utf8(event.payload.to_vec()).unwrap()),
            _ => None,
        });
        texts.collect()
    }

    fn fire(&mut self, n: usize, text: &str) {
        self.command(n, Command::Event { request: 5, event: event(text), coalesce: false });
    }

    fn hear(&mut self, n: usize, message: Message) {
        let packet = Packet::Packet(vec![Part::User(message)]);
        self.step(n, Event::Receive { from: Peer::Endpoint(endpoint(99)), message: packet });
        self.deliver();
    }

    /// How a member's host takes another to stand, by what it was told last, and how it stands.
    fn shown(&self, n: usize, other: usize) -> (Option<Status>, Option<Status>) {
        let shown = self.told(n).iter().rev().find_map(|output| {
            let (member, status) = match output {
                Output::Joined { member, .. } => (member, Status::Alive),
                Output::Turned { member, status } => (member, *status),
                Output::Failed(member) => (member, Status::Failed),
                Output::Left(member) => (member, Status::Left),
                _ => return None,
            };
            (member.name == name(other)).then_some(status)
        });
        (shown, self.status(n, other))
    }

    /// Has n0 carry out an operation on all keyrings.
    fn operate(&mut self, operation: KeyRequest) -> KeyResult {
        self.clear();
        self.command(0, Command::Keyring { request: 1, operation, relay_factor: 0 });
        self.run(Duration::from_secs(20));
        let done = self.told(0).iter().find_map(|output| match output {
            Output::KeyringDone { result, .. } => Some(result.clone()),
            _ => None,
        });
        done.unwrap()
    }

    fn counted(&self, n: usize, counter: Counter) -> bool {
        self.told(n).contains(&Output::Counted(counter))
    }
}

#[test]
fn members_that_join_know_each_other_and_a_crashed_one_fails() {
    let mut net = Net::of(4);
    for (n, other) in (0..4).flat_map(|n| (0..4).map(move |other| (n, other))) {
        assert_eq!(net.status(n, other), Some(Status::Alive), "{n} of {other}");
    }
    net.kill(3);
    net.run(Duration::from_mins(1));
    assert_eq!(net.status(0, 3), Some(Status::Failed));
    assert!(net.told(0).iter().any(|o| matches!(o, Output::Failed(m) if m.name == name(3))));
    // It comes back by itself, through those that it knew.
    net.start(&config(3), 3);
    net.run(Duration::from_secs(5));
    assert!(net.told(3).iter().any(|o| matches!(o, Output::Rejoined { through: Some(_) })));
    assert_eq!(net.status(1, 3), Some(Status::Alive));
}

#[test]
fn a_member_that_leaves_has_left_and_does_not_join_again_by_itself() {
    let mut net = Net::of(3);
    net.command(2, Command::Leave { request: 1 });
    net.run(Duration::from_secs(10));
    assert!(net.told(2).contains(&Output::LeaveDone { request: 1 }));
    net.kill(2);
    net.run(Duration::from_mins(1));
    assert_eq!(net.status(0, 2), Some(Status::Left));
    assert!(net.told(0).iter().any(|o| matches!(o, Output::Left(m) if m.name == name(2))));
    assert!(!net.told(0).iter().any(|o| matches!(o, Output::Failed(_))));
    assert!(net.disks[&2].left);
    net.start(&config(2), 2);
    net.run(Duration::from_secs(5));
    assert_eq!(net.status(0, 2), Some(Status::Left));
    assert!(!net.servers[&2].durable.left && net.servers[&2].durable.known.is_empty());
}

#[test]
fn an_incarnation_is_written_before_what_was_heard_with_the_accusation() {
    let mut net = Net::of(2);
    let own = net.servers[&0].machine.swim.incarnation();
    let heard = vec![
        Part::Alive(swim::Alive {
            incarnation: swim::Incarnation(1),
            node: name(7),
            endpoint: endpoint(7),
            meta: [].into(),
            versions: swim::Versions::CURRENT,
        }),
        Part::Suspect(swim::Suspect { incarnation: own, node: name(0), from: name(1) }),
    ];
    let message = Packet::Packet(heard);
    // Both are written: that n7 is there, and that n0 takes the next incarnation. The step checks their order.
    net.step(0, Event::Receive { from: Peer::Endpoint(endpoint(1)), message });
    assert!(net.servers[&0].durable.known.contains_key(&name(7)));
    assert!(net.servers[&0].machine.swim.incarnation() > own);
}

#[test]
fn two_sides_of_a_cut_meet_again_by_reconnecting() {
    let mut net = Net::of(4);
    net.cut = BTreeSet::from([2, 3]);
    net.run(Duration::from_mins(2));
    assert_eq!(net.status(0, 2), Some(Status::Failed));
    assert_eq!(net.status(2, 0), Some(Status::Failed));
    net.cut.clear();
    net.run(Duration::from_mins(5));
    for (n, other) in (0..4).flat_map(|n| (0..4).map(move |other| (n, other))) {
        assert_eq!(net.status(n, other), Some(Status::Alive), "{n} of {other}");
    }
}

#[test]
fn what_the_host_is_told_is_how_each_member_stands() {
    let mut net = Net::of(3);
    // An intent without SWIM's word, as a late one or an operator's: n1 refutes it.
    net.command(0, Command::ForceLeave { request: 1, name: name(1), prune: false });
    assert_eq!(net.shown(0, 1), (Some(Status::Leaving), Some(Status::Leaving)));
    net.run(Duration::from_secs(5));
    assert_eq!(net.shown(0, 1), (Some(Status::Alive), Some(Status::Alive)));
    let other = |o: &Output| matches!(o, Output::Left(_) | Output::Failed(_));
    assert!(!net.told(0).iter().any(other), "no event of Serf's");
    // Who leaves shows so to itself and to the others, before it has left.
    net.command(2, Command::Leave { request: 2 });
    assert_eq!(net.shown(2, 2).0, Some(Status::Leaving));
    while net.status(0, 2) == Some(Status::Alive) {
        net.run(Duration::from_millis(10));
    }
    assert_eq!(net.shown(0, 2), (Some(Status::Leaving), Some(Status::Leaving)));
    net.run(Duration::from_secs(10));
    assert_eq!(net.shown(0, 2), (Some(Status::Left), Some(Status::Left)));
}

#[test]
fn a_failed_member_that_is_forced_out_has_left_and_a_live_one_refutes() {
    let mut net = Net::of(3);
    net.kill(2);
    net.run(Duration::from_mins(1));
    net.command(0, Command::ForceLeave { request: 1, name: name(2), prune: false });
    net.command(0, Command::ForceLeave { request: 2, name: name(1), prune: false });
    assert_eq!(net.status(0, 1), Some(Status::Leaving));
    net.run(Duration::from_secs(5));
    assert_eq!(net.status(1, 2), Some(Status::Left));
    assert_eq!(net.status(0, 1), Some(Status::Alive));
    assert!(net.counted(1, Counter::RefutedLeave));
}

#[test]
fn a_live_member_is_not_pruned_and_a_failed_one_is() {
    let mut net = Net::of(3);
    let prune = |request, n| Command::ForceLeave { request, name: name(n), prune: true };
    net.command(0, prune(1, 2));
    let reason = Refused::Member(Refusal::Live);
    assert!(net.told(0).contains(&Output::Refused { request: 1, reason }));
    assert!(reason.to_string().starts_with("the member is alive"));
    net.command(0, prune(2, 0));
    let reason = Refused::Member(Refusal::Own);
    assert!(net.told(0).contains(&Output::Refused { request: 2, reason }));
    net.kill(2);
    net.run(Duration::from_mins(1));
    net.command(0, prune(3, 2));
    net.run(Duration::from_secs(5));
    assert_eq!((net.status(0, 2), net.status(1, 2)), (None, None));
    assert!(net.told(1).iter().any(|o| matches!(o, Output::Reaped { .. })));
}

#[test]
fn a_hostile_time_moves_no_clock() {
    let mut net = Net::of(2);
    let before = net.servers[&1].machine.members.clock.time();
    let leave = LeaveIntent { ltime: LamportTime(u64::MAX), node: name(0), prune: true };
    net.hear(1, Message::Leave(leave));
    let event =
        UserEventMessage { ltime: LamportTime(1 << 62), event: event("x"), coalesce: false };
    net.hear(1, Message::UserEvent(event));
    assert_eq!(net.servers[&1].machine.members.clock.time(), before);
    assert_eq!(net.status(1, 0), Some(Status::Alive));
    assert_eq!(net.events(1), Vec::<String>::new());
    assert!(net.counted(1, Counter::ImplausibleTime));
}

#[test]
fn with_a_member_that_left_the_clocks_of_the_others_stand_still() {
    let mut net = Net::of(3);
    net.command(2, Command::Leave { request: 1 });
    net.run(Duration::from_secs(10));
    net.kill(2);
    net.run(Duration::from_mins(2));
    let clock = |net: &Net| net.servers[&0].machine.members.clock.time();
    let before = clock(&net);
    net.run(Duration::from_secs(210));
    assert_eq!(clock(&net), before);
}

#[test]
fn an_event_comes_once_to_everybody_and_to_who_joins_later() {
    let mut net = Net::of(3);
    net.fire(0, "one");
    net.fire(1, "two");
    net.run(Duration::from_mins(1));
    for n in 0..3 {
        assert_eq!(net.events(n).into_iter().collect::<BTreeSet<_>>().len(), 2, "{n}");
        assert_eq!(net.events(n).len(), 2, "{n}");
    }
    net.start(&config(3), 3);
    net.join(3, 1);
    assert_eq!(net.events(3).len(), 2);
    net.start(&config(4), 4);
    let to = vec![endpoint(1)];
    net.command(4, Command::Join { request: 1, to, ignore_old: true });
    net.run(Duration::from_mins(1));
    assert_eq!(net.events(4), Vec::<String>::new());
    // After a restart nothing comes again.
    net.kill(3);
    net.start(&config(3), 3);
    net.run(Duration::from_mins(1));
    assert_eq!(net.events(3), Vec::<String>::new());
    net.fire(0, "three");
    net.run(Duration::from_secs(5));
    assert_eq!((net.events(3), net.events(4)), (vec!["three".into()], vec!["three".into()]));
}

#[test]
fn an_event_that_is_too_long_is_refused_with_serfs_words() {
    let mut net = Net::of(1);
    let refused = |net: &Net| {
        net.told(0).iter().find_map(|output| match output {
            Output::Refused { reason, .. } => Some(reason.to_string()),
            _ => None,
        })
    };
    net.fire(0, &"x".repeat(507));
    assert_eq!(
        refused(&net).unwrap(),
        "user event exceeds configured limit of 512 bytes before encoding"
    );
    net.clear();
    // "deploy", its payload, and what the encoding takes: type, map, LTime, Name, Payload, CC.
    net.fire(0, &"x".repeat(512 - 6 - 29));
    assert_eq!(
        refused(&net).unwrap(),
        "encoded user event exceeds configured limit of 512 bytes after encoding"
    );
    net.clear();
    net.fire(0, &"x".repeat(400));
    assert_eq!(refused(&net), None);
    let tags = Tags::from([("k".into(), "v".repeat(600).into())]);
    net.command(0, Command::SetTags { request: 1, tags });
    assert_eq!(refused(&net).unwrap(), "Encoded length of tags exceeds limit of 512 bytes");
}

#[test]
fn a_query_is_answered_by_those_that_its_filters_match() {
    let mut net = Net::of(4);
    let filters = vec![Filter::Tag { tag: "role".into(), expr: "^ev".into() }];
    let question = Question {
        name: "uptime".into(),
        filters,
        ack: true,
        relay_factor: 2,
        ..Question::default()
    };
    net.command(1, Command::Query { request: 7, question });
    net.run(Duration::from_secs(1));
    for n in 0..4 {
        let query = net.told(n).iter().find_map(|output| match output {
            Output::Query(query) => Some((query.ltime, query.id)),
            _ => None,
        });
        assert_eq!(query.is_some(), n % 2 == 0, "{n}");
        let Some(query) = query else { continue };
        let respond =
            |request, text: &[u8]| Command::Respond { request, query, payload: text.into() };
        net.command(n, respond(1, &[0; 1_024]));
        net.command(n, respond(2, b"up"));
        net.command(n, respond(3, b"again"));
        let limit = Refused::ResponseLimit(1_024);
        assert!(net.told(n).contains(&Output::Refused { request: 1, reason: limit }));
        assert!(net.told(n).contains(&Output::Done { request: 2 }));
        let answered = Refused::AlreadyResponded;
        assert!(net.told(n).contains(&Output::Refused { request: 3, reason: answered }));
    }
    net.run(Duration::from_secs(10));
    let told = net.told(1);
    let answers = told.iter().filter(|output| matches!(output, Output::Answered { .. })).count();
    assert_eq!(answers, 2);
    assert!(told.contains(&Output::QueryDone { request: 7, acks: 2, responses: 2 }));
    assert!(net.counted(1, Counter::DuplicateResponse) || net.counted(1, Counter::UnaskedResponse));
    assert_eq!(net.servers[&1].machine.running.len(), 0);
}

#[test]
fn nobody_sends_packets_for_a_stranger() {
    let mut net = Net::of(3);
    let query = Query {
        ltime: LamportTime(5),
        id: 1,
        source: endpoint(50),
        source_node: name(0),
        filters: vec![],
        ack: true,
        no_broadcast: false,
        relay_factor: 5,
        timeout: Duration::from_secs(5),
        body: QueryBody::Ping,
    };
    let step = |net: &mut Net, message| {
        let packet = Packet::Packet(vec![Part::User(message)]);
        net.step(1, Event::Receive { from: Peer::Endpoint(endpoint(50)), message: packet });
        let sent = net.wires.len();
        net.deliver();
        sent
    };
    assert_eq!(step(&mut net, Message::Query(Arc::new(query.clone()))), 0);
    assert!(net.counted(1, Counter::StrangersQuery));
    let response = spec::serf::message::QueryResponse {
        ltime: LamportTime(5),
        id: 1,
        from: name(0),
        ack: true,
        answer: spec::serf::message::Answer::default(),
    };
    let relay = |to| Message::Relay { to, to_node: "".into(), response: response.clone() };
    assert_eq!(step(&mut net, relay(endpoint(50))), 0);
    assert!(net.counted(1, Counter::StrangersRelay));
    assert_eq!(step(&mut net, relay(endpoint(2))), 1);
    let honest = Query { source: endpoint(0), id: 2, ..query };
    assert!(step(&mut net, Message::Query(Arc::new(honest))) >= 1);
}

#[test]
fn a_query_of_a_member_that_is_not_known_yet_is_taken_when_it_comes_again() {
    let mut net = Net::of(2);
    let query = Query {
        ltime: net.servers[&1].machine.queries.clock.time(),
        id: 1,
        source: endpoint(7),
        source_node: name(7),
        filters: vec![],
        ack: true,
        no_broadcast: false,
        relay_factor: 0,
        timeout: Duration::from_secs(5),
        body: QueryBody::User { name: "uptime".into(), payload: [].into() },
    };
    let query = Message::Query(Arc::new(query));
    let taken = |net: &Net| net.told(1).iter().any(|output| matches!(output, Output::Query(_)));
    net.hear(1, query.clone());
    assert!(net.counted(1, Counter::StrangersQuery) && !taken(&net));
    net.start(&config(7), 7);
    net.join(7, 1);
    net.hear(1, query.clone());
    assert!(taken(&net));
    net.clear();
    net.hear(1, query);
    assert!(!taken(&net), "once");
}

#[test]
fn a_key_is_rotated_in_order_only_and_survives_a_restart() {
    let mut net = Net::empty();
    let keys = [1, 2].map(|n| Key::new(&[n; 32]).unwrap());
    let with_keys = |n| {
        let mut config = config(n);
        config.keyring = Keyring::of(&keys[..1]);
        config
    };
    for n in 0..3 {
        net.start(&with_keys(n), n);
    }
    net.join(1, 0);
    net.join(2, 0);
    net.run(Duration::from_secs(3));
    let early = net.operate(KeyRequest::Use(keys[1].clone()));
    assert!(early.error.unwrap().ends_with("nodes reported failure"));
    assert!(early.messages.values().any(|why| &**why == "Requested key is not in the keyring"));
    let primary = net.operate(KeyRequest::Remove(keys[0].clone()));
    assert!(primary.error.unwrap().ends_with("nodes reported failure"));
    assert!(
        primary.messages.values().any(|why| &**why == "Removing the primary key is not allowed")
    );
    assert_eq!(net.operate(KeyRequest::Install(keys[1].clone())).error, None);
    let listed = net.operate(KeyRequest::List);
    assert_eq!((listed.nodes, listed.responses, listed.errors), (3, 3, 0));
    assert_eq!((listed.keys[&keys[0]], listed.keys[&keys[1]]), (3, 3));
    assert_eq!(net.operate(KeyRequest::Use(keys[1].clone())).error, None);
    assert_eq!(net.operate(KeyRequest::Remove(keys[0].clone())).error, None);
    for n in 0..3 {
        let keyring = &net.servers[&n].machine.keyring;
        assert_eq!((keyring.primary.as_ref(), keyring.keys.len()), (Some(&keys[1]), 1), "{n}");
    }
    net.kill(2);
    net.run(Duration::from_mins(1));
    // A failed member comes back with the keyring that it has: it has to be asked, or forced out.
    let missing = net.operate(KeyRequest::Use(keys[1].clone()));
    assert_eq!(missing.messages[&name(2)].as_ref(), "did not answer");
    assert_eq!(missing.error.unwrap(), "2/3 nodes reported success");
    let listed = net.operate(KeyRequest::List);
    assert_eq!((listed.error, listed.nodes, listed.responses), (None, 2, 2));
    assert_eq!(listed.keys, BTreeMap::from([(keys[1].clone(), 2)]));
    let failed = "has failed: its keys are not counted";
    assert_eq!(listed.messages, BTreeMap::from([(name(2), failed.into())]));
    net.start(&with_keys(2), 2);
    assert_eq!(net.servers[&2].machine.keyring.primary, Some(keys[1].clone()));
}

#[test]
fn a_keyring_that_cant_be_written_is_refused_with_the_reason_and_the_old_one_is_used() {
    let mut net = Net::empty();
    let keys = [1, 2].map(|n| Key::new(&[n; 32]).unwrap());
    for n in 0..3 {
        let mut config = config(n);
        config.keyring = Keyring::of(&keys[..1]);
        net.start(&config, n);
    }
    (1..3).for_each(|n| net.join(n, 0));
    net.run(Duration::from_secs(3));
    net.full.insert(1);
    let install = || KeyRequest::Install(keys[1].clone());
    let refused = net.operate(install());
    assert_eq!(refused.error.unwrap(), "1/3 nodes reported failure");
    assert_eq!(refused.messages, BTreeMap::from([(name(1), NO_SPACE.into())]));
    assert!(!net.told(1).iter().any(|output| matches!(output, Output::Keyring(_))));
    assert_eq!(net.servers[&1].machine.keyring.keys.len(), 1);
    // Its keys can be told, with a warning, but nothing is built on them.
    let listed = net.operate(KeyRequest::List);
    assert_eq!((listed.error, listed.errors, listed.responses), (None, 0, 3));
    assert_eq!((listed.keys[&keys[0]], listed.keys[&keys[1]]), (3, 2));
    assert_eq!(&*listed.messages[&name(1)], NO_SPACE);
    let refused = net.operate(KeyRequest::Use(keys[0].clone()));
    assert_eq!(refused.error.unwrap(), "1/3 nodes reported failure");
    assert_eq!(&*refused.messages[&name(1)], NO_SPACE);
    // With room, the first operation writes what the disk may lack.
    net.full.clear();
    assert_eq!(net.operate(KeyRequest::List).messages.len(), 0);
    assert_eq!(net.servers[&1].durable.keyring, Some(Keyring::of(&keys[..1])));
    assert_eq!(net.operate(install()).error, None);
    assert_eq!(net.operate(KeyRequest::Use(keys[1].clone())).error, None);
    for n in 0..3 {
        let server = &net.servers[&n];
        let keyring = server.durable.keyring.as_ref().unwrap();
        assert_eq!((keyring.primary.as_ref(), keyring.keys.len()), (Some(&keys[1]), 2), "{n}");
        assert_eq!(server.durable.keyring_ltime, server.machine.keyring.last);
    }
}

#[test]
fn a_keyring_operation_that_was_overtaken_is_not_heeded_after_a_restart_either() {
    let mut net = Net::empty();
    let keys = [1, 2].map(|n| Key::new(&[n; 32]).unwrap());
    let with_keys = |n| {
        let mut config = config(n);
        config.keyring = Keyring::of(&keys);
        // What was asked before the crash is not known by the clock of queries.
        config.snapshot_interval = Duration::from_hours(1);
        config
    };
    net.start(&with_keys(0), 0);
    net.start(&with_keys(1), 1);
    net.join(1, 0);
    net.run(Duration::from_secs(3));
    assert_eq!(net.operate(KeyRequest::List).error, None);
    let looked = net.servers[&1].durable.keyring_ltime;
    assert!(looked > LamportTime::default());
    assert_eq!(net.servers[&1].durable.keyring, None, "to list changes no key");
    net.kill(1);
    net.start(&with_keys(1), 1);
    net.run(Duration::from_secs(3));
    let late = Query {
        ltime: looked,
        id: 77,
        source: endpoint(0),
        source_node: name(0),
        filters: vec![],
        ack: false,
        no_broadcast: true,
        relay_factor: 0,
        timeout: Duration::from_secs(5),
        body: QueryBody::Key(KeyRequest::Use(keys[1].clone())),
    };
    net.hear(1, Message::Query(Arc::new(late)));
    assert_eq!(net.servers[&1].machine.keyring.primary, Some(keys[0].clone()));
}

#[test]
fn answers_to_an_operation_on_keys_come_through_others_as_asked() {
    for relay_factor in [0, 2] {
        let mut net = Net::empty();
        for n in 0..4 {
            let mut config = config(n);
            config.keyring = Keyring::of(&[Key::new(&[1; 32]).unwrap()]);
            net.start(&config, n);
        }
        (1..4).for_each(|n| net.join(n, 0));
        net.run(Duration::from_secs(3));
        net.clear();
        let operation = KeyRequest::List;
        net.command(0, Command::Keyring { request: 1, operation, relay_factor });
        net.run(Duration::from_secs(20));
        let done = net.told(0).iter().find_map(|output| match output {
            Output::KeyringDone { result, .. } => Some((result.nodes, result.responses)),
            _ => None,
        });
        assert_eq!(done, Some((4, 4)));
        // Nothing was lost, so what came through others came twice.
        let twice =
            net.counted(0, Counter::DuplicateResponse) || net.counted(0, Counter::UnaskedResponse);
        assert_eq!(twice, relay_factor > 0);
    }
}

#[test]
fn members_are_forgotten_after_their_time() {
    let mut net = Net::empty();
    let short = |n| {
        let mut config = config(n);
        config.memory.failed = Duration::from_secs(100);
        config
    };
    net.start(&short(0), 0);
    net.start(&short(1), 1);
    net.join(1, 0);
    net.run(Duration::from_secs(3));
    net.kill(1);
    net.run(Duration::from_mins(1));
    assert_eq!(net.status(0, 1), Some(Status::Failed));
    net.run(Duration::from_mins(2));
    assert_eq!(net.status(0, 1), None);
    assert!(
        net.told(0)
            .iter()
            .any(|output| { matches!(output, Output::Reaped { status: Status::Failed, .. }) })
    );
}

#[test]
fn five_thousand_members_are_told_of_in_one_push_pull() {
    let mut net = Net::of(1);
    let members = (0..5_000_u32).map(|n| swim::MemberState {
        name: format!("m{n}").into(),
        endpoint: (Ipv4Addr::from(0x0a01_0000 + n), 7946).into(),
        meta: [].into(),
        versions: swim::Versions::CURRENT,
        incarnation: swim::Incarnation(1),
        status: swim::Status::Alive,
    });
    let members: Vec<_> = members.collect();
    let ltimes = members.iter().map(|member| (member.name.clone(), LamportTime(3))).collect();
    let user = spec::serf::State {
        ltime: LamportTime(9),
        status_ltimes: ltimes,
        left_members: vec!["m7".into()],
        event_ltime: LamportTime(1),
        events: vec![],
        query_ltime: LamportTime(1),
    };
    let packet = swim::PushPull { join: true, members, user: Some(user), reply: false };
    let event = Event::Receive { from: Peer::Stream(0), message: Packet::PushPull(packet) };
    net.streams.push(99);
    net.step(0, event);
    let machine = &net.servers[&0].machine;
    assert_eq!(machine.members.entries.len(), 5_001);
    assert_eq!(machine.members.status(&"m7".into()), Some(Status::Leaving));
    assert_eq!(machine.members.clock.time(), LamportTime(10));
    assert_eq!(net.servers[&0].durable.known.len(), 5_000);
}
