//! What one member makes of what it is told: tables of rules, and hostile input.

use std::{sync::Arc, time::Duration};

use spec::{
    entropy::{Entropy, Least, Seeded},
    machine::{Context, Effect, Event, Machine, Ticket},
    swim::{
        Ack, Alive, Command, Config, Dead, Dropped, Durable, ExchangeError, Incarnation,
        IndirectPing, Layer, MemberState, Message, Nack, NoLayer, Node, Output, Part, Peer, Ping,
        PushPull, Status, Suspect, Timer, Versions, invariant,
    },
    time::Instant,
};

use crate::net::{at, config, named};

type Effects<L> = Vec<Effect<Node<L>>>;

pub(crate) fn start<L: Layer>(config: &Config<L>) -> Node<L> {
    let (mut effects, mut ticket) = (vec![], Ticket::NONE);
    let mut cx = Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut ticket };
    let mut node = Node::recover(config, Durable::default(), &mut cx, &mut effects);
    node.step(Event::Durable(Ticket(1)), &mut cx, &mut effects);
    node
}

/// A step, with its writes durable at once.
pub(crate) fn step<L: Layer>(node: &mut Node<L>, event: Event<Node<L>>, now: u64) -> Effects<L> {
    let (mut effects, mut ticket) = (vec![], Ticket(100));
    let mut cx = Context { now: Instant(now), entropy: &mut Least, last_ticket: &mut ticket };
    node.step(event, &mut cx, &mut effects);
    let last = *cx.last_ticket;
    node.step(Event::Durable(last), &mut cx, &mut effects);
    effects
}

pub(crate) fn hear<L: Layer>(node: &mut Node<L>, part: Part<L>) -> Effects<L> {
    let message = Message::Packet(vec![part]);
    step(node, Event::Receive { from: Peer::Endpoint(at(9)), message }, 0)
}

pub(crate) fn alive<L: Layer>(n: u16, incarnation: u32) -> Part<L> {
    Part::Alive(Alive {
        incarnation: Incarnation(incarnation),
        node: named(n),
        endpoint: at(n),
        meta: Arc::from([]),
        versions: Versions::CURRENT,
    })
}

fn suspect<L: Layer>(n: u16, incarnation: u32) -> Part<L> {
    let incarnation = Incarnation(incarnation);
    Part::Suspect(Suspect { incarnation, node: named(n), from: named(7) })
}

fn dead<L: Layer>(n: u16, incarnation: u32, from: u16) -> Part<L> {
    let incarnation = Incarnation(incarnation);
    Part::Dead(Dead { incarnation, node: named(n), from: named(from) })
}

fn state(n: u16, incarnation: u32, status: Status) -> MemberState {
    MemberState {
        name: named(n),
        endpoint: at(n),
        meta: Arc::from([]),
        versions: Versions::CURRENT,
        incarnation: Incarnation(incarnation),
        status,
    }
}

fn outputs<L: Layer>(effects: Effects<L>) -> Vec<Output<L>> {
    let emits = effects.into_iter().filter_map(|effect| match effect {
        Effect::Emit { output, .. } => Some(output),
        _ => None,
    });
    emits.collect()
}

fn belief<L: Layer>(node: &Node<L>, n: u16) -> Option<(u32, Status)> {
    node.members.get(&named(n)).map(|member| (member.incarnation.0, member.status))
}

#[test]
fn what_is_believed_follows_from_what_is_heard() {
    use Status::{Alive, Dead, Left, Suspect};
    // Believed before; heard; believed after.
    type Row = (Option<(u32, Status)>, Part<NoLayer>, Option<(u32, Status)>);
    let table: Vec<Row> = vec![
        (None, alive(1, 3), Some((3, Alive))),
        (None, alive(1, 0), None),
        (None, suspect(1, 3), None),
        (None, dead(1, 3, 7), None),
        (Some((3, Alive)), alive(1, 2), Some((3, Alive))),
        (Some((3, Alive)), alive(1, 4), Some((4, Alive))),
        (Some((3, Alive)), suspect(1, 2), Some((3, Alive))),
        (Some((3, Alive)), suspect(1, 3), Some((3, Suspect))),
        (Some((3, Alive)), suspect(1, 4), Some((4, Suspect))),
        (Some((3, Alive)), dead(1, 2, 7), Some((3, Alive))),
        (Some((3, Alive)), dead(1, 3, 7), Some((3, Dead))),
        (Some((3, Alive)), dead(1, 3, 1), Some((3, Left))),
        (Some((3, Suspect)), alive(1, 3), Some((3, Suspect))),
        (Some((3, Suspect)), alive(1, 4), Some((4, Alive))),
        (Some((3, Suspect)), suspect(1, 4), Some((4, Suspect))),
        (Some((3, Suspect)), dead(1, 3, 7), Some((3, Dead))),
        (Some((3, Dead)), alive(1, 3), Some((3, Dead))),
        (Some((3, Dead)), alive(1, 4), Some((4, Alive))),
        (Some((3, Dead)), suspect(1, 4), Some((3, Dead))),
        // memberlist keeps the 3, and then takes an announcement of the 5 that this ends.
        (Some((3, Dead)), dead(1, 5, 7), Some((5, Dead))),
        (Some((3, Left)), suspect(1, 3), Some((3, Left))),
        (Some((3, Left)), dead(1, 3, 7), Some((3, Left))),
        (Some((3, Left)), alive(1, 4), Some((4, Alive))),
        // Beyond what an incarnation can be.
        (Some((3, Alive)), dead(1, u32::MAX, 7), Some((3, Alive))),
        (Some((3, Alive)), suspect(1, 1 << 31), Some((3, Alive))),
        (Some((3, Alive)), alive(1, 1 << 31), Some((3, Alive))),
        // At the highest only the owner's word counts.
        (Some((3, Alive)), dead(1, (1 << 31) - 1, 7), Some((3, Alive))),
        (Some((3, Alive)), dead(1, (1 << 31) - 1, 1), Some(((1 << 31) - 1, Left))),
    ];
    for (before, part, after) in table {
        let mut node = start(&config(0));
        if let Some((incarnation, status)) = before {
            hear(&mut node, alive(1, incarnation));
            match status {
                Alive => {}
                Suspect => drop(hear(&mut node, suspect(1, incarnation))),
                Dead => drop(hear(&mut node, dead(1, incarnation, 7))),
                Left => drop(hear(&mut node, dead(1, incarnation, 1))),
            }
        }
        assert_eq!(belief(&node, 1), before);
        hear(&mut node, part.clone());
        assert_eq!(belief(&node, 1), after, "{before:?} {part:?}");
    }
}

#[test]
fn who_is_accused_takes_the_next_incarnation_once_it_is_durable() {
    let mut node = start(&config(0));
    let (mut effects, mut ticket) = (vec![], Ticket(4));
    let mut cx = Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut ticket };
    for accused in [1, 6, 3] {
        let message = Message::Packet(vec![suspect(0, accused)]);
        let from = Peer::Endpoint(at(9));
        node.step(Event::Receive { from, message }, &mut cx, &mut effects);
    }
    // The accusation at 6 takes more than the first one's answer; that at 3 is answered by then.
    let writes: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Persist { ticket, write } => Some((ticket.0, write.incarnation.0)),
            _ => None,
        })
        .collect();
    assert_eq!(writes, [(5, 2), (6, 7)]);
    assert_eq!(node.incarnation(), Incarnation(1));
    assert!(node.queue.entries.is_empty());
    node.step(Event::Durable(Ticket(5)), &mut cx, &mut effects);
    assert_eq!(node.incarnation(), Incarnation(1));
    node.step(Event::Durable(Ticket(6)), &mut cx, &mut effects);
    assert_eq!(node.incarnation(), Incarnation(7));
    let queued: Vec<_> = node.queue.entries.values().cloned().collect();
    assert_eq!(queued, [alive(0, 7)]);
    assert_eq!(node.awareness.0, 2);
}

#[test]
fn tables_bring_suspicion_and_leavings_and_never_death() {
    use Status::{Alive, Dead, Left, Suspect};
    for (told, after) in [(Alive, Alive), (Suspect, Suspect), (Dead, Suspect), (Left, Left)] {
        let mut node = start(&config(0));
        hear(&mut node, alive(1, 3));
        let members = vec![state(1, 3, told)];
        let push = PushPull { join: false, members, user: None, reply: false };
        let message = Message::PushPull(push);
        let effects = step(&mut node, Event::Receive { from: Peer::Stream(5), message }, 0);
        assert_eq!(belief(&node, 1), Some((3, after)));
        // The answer is the table as it was before.
        let answer = effects.iter().find_map(|effect| match effect {
            Effect::Send { to: Peer::Stream(5), message: Message::PushPull(answer), .. } => {
                Some(answer)
            }
            _ => None,
        });
        let answer = answer.unwrap();
        assert!(answer.reply);
        assert_eq!(answer.members, [state(0, 1, Alive), state(1, 3, Alive)]);
    }
}

#[test]
fn an_exchange_ends_once_however_it_ends() {
    let push = || Event::Command(Command::PushPull { request: 4, to: at(1), join: false });
    let pushed = |result| Output::<NoLayer>::Pushed { request: 4, result };
    let answer = PushPull { join: false, members: vec![], user: None, reply: true };
    let answer = Message::PushPull(answer);
    let ends: [(Event<Node<NoLayer>>, _); 3] = [
        (Event::Fire(Timer::Exchange(at(1))), Err(ExchangeError::TimedOut)),
        (
            Event::Command(Command::StreamFailed { to: at(1), refused: false }),
            Err(ExchangeError::Failed),
        ),
        (Event::Receive { from: Peer::Endpoint(at(1)), message: answer.clone() }, Ok(())),
    ];
    for (end, result) in ends {
        let mut node = start(&config(0));
        step(&mut node, push(), 0);
        assert_eq!(outputs(step(&mut node, push(), 0)), [pushed(Err(ExchangeError::Busy))]);
        assert!(outputs(step(&mut node, end, 0)).contains(&pushed(result)));
        assert!(node.exchanges.is_empty());
        let late = Event::Receive { from: Peer::Endpoint(at(1)), message: answer.clone() };
        assert_eq!(outputs(step(&mut node, late, 0)), [Output::Dropped(Dropped::Unsolicited)]);
    }
}

#[test]
fn versions_that_do_not_go_together_are_not_merged() {
    let mut node = start(&config(0));
    let newer = Versions { protocol_min: 4, protocol: 4, ..Versions::CURRENT };
    let members = vec![MemberState { versions: newer, ..state(1, 1, Status::Alive) }];
    step(&mut node, Event::Command(Command::PushPull { request: 1, to: at(1), join: true }), 0);
    let push = PushPull { join: false, members, user: None, reply: true };
    let from = Peer::Endpoint(at(1));
    let told =
        outputs(step(&mut node, Event::Receive { from, message: Message::PushPull(push) }, 0));
    let result = Err(ExchangeError::Versions);
    assert_eq!(told, [Output::Pushed { request: 1, result }]);
    assert_eq!(node.members.len(), 1);
}

#[test]
fn a_name_is_taken_over_only_from_one_that_left_or_has_been_dead_for_long() {
    let second = 1_000_000;
    let moved = |incarnation| {
        let Part::<NoLayer>::Alive(alive) = alive(1, incarnation) else { unreachable!() };
        Part::Alive(Alive { endpoint: at(100), ..alive })
    };
    let reclaim = Some(Duration::from_secs(30));
    for (before, after_seconds, taken) in [
        (None, 99, false),
        (Some(dead(1, 3, 7)), 29, false),
        (Some(dead(1, 3, 7)), 30, true),
        (Some(dead(1, 3, 1)), 0, true),
        (Some(suspect(1, 3)), 99, false),
    ] {
        let mut node = start(&Config { dead_node_reclaim: reclaim, ..config(0) });
        hear(&mut node, alive(1, 3));
        if let Some(part) = before.clone() {
            hear(&mut node, part);
        }
        let message = Message::Packet(vec![moved(1)]);
        let from = Peer::Endpoint(at(100));
        let event = Event::Receive { from, message };
        let told = outputs(step(&mut node, event, after_seconds * second));
        let conflict = told.iter().any(|output| matches!(output, Output::Conflict { .. }));
        assert_eq!(conflict, !taken, "{before:?} {after_seconds}");
        // Whoever takes a name over may begin at a lower incarnation.
        assert_eq!(belief(&node, 1) == Some((1, Status::Alive)), taken);
    }
}

/// A layer that admits nobody whose metadata begins with an x, and whose messages have priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Picky;

impl Layer for Picky {
    type Message = (u8, u16);
    type State = ();
    type Rules = u8;

    fn size(message: &(u8, u16)) -> usize {
        usize::from(message.1)
    }

    fn priority(message: &(u8, u16)) -> u8 {
        message.0
    }

    fn admit(member: &MemberState, refused: &u8) -> Result<(), &'static str> {
        if member.meta.first() == Some(refused) { Err("begins with it") } else { Ok(()) }
    }

    fn is_soon_missed(meta: &[u8]) -> bool {
        !meta.is_empty()
    }
}

#[test]
fn the_layer_refuses_members_and_whole_tables_that_join_with_them() {
    let mut node = start(&Config::<Picky>::lan(named(0), at(0), b'x'));
    let Part::<Picky>::Alive(plain) = alive(1, 1) else { unreachable!() };
    let told =
        outputs(hear(&mut node, Part::Alive(Alive { meta: b"xy".as_slice().into(), ..plain })));
    let refused = Output::Dropped(Dropped::Refused("begins with it"));
    assert_eq!(told, std::slice::from_ref(&refused));
    let odd = MemberState { meta: b"x".as_slice().into(), ..state(2, 1, Status::Alive) };
    let members = vec![state(1, 1, Status::Alive), odd];
    for (join, known) in [(true, 1), (false, 2)] {
        let push = PushPull { join, members: members.clone(), user: None, reply: false };
        let message = Message::PushPull(push);
        let told = outputs(step(&mut node, Event::Receive { from: Peer::Stream(1), message }, 0));
        assert!(told.contains(&refused));
        assert_eq!(node.members.len(), known);
    }
}

/// A pool of six whose second member doesn't answer, up to the end of the probe that finds it; and what that sends.
fn accused<L: Layer>(config: &Config<L>, refused: bool) -> (Node<L>, Effects<L>) {
    let mut node = start(config);
    for n in 1..6 {
        hear(&mut node, alive(n, 1));
    }
    node.next = node.order.iter().position(|name| *name == named(1)).unwrap();
    step(&mut node, Event::Fire(Timer::Probe), 0);
    step(&mut node, Event::Fire(Timer::ProbeTimeout), 500_000);
    step(&mut node, Event::Command(Command::StreamFailed { to: at(1), refused }), 500_100);
    let effects = step(&mut node, Event::Fire(Timer::Probe), 1_000_000);
    assert_eq!(belief(&node, 1), Some((1, Status::Suspect)));
    (node, effects)
}

fn respite<L: Layer>(effects: &Effects<L>) -> Option<Duration> {
    effects.iter().find_map(|effect| match effect {
        Effect::Arm { timer: Timer::Refusal(name), delay } if *name == named(1) => Some(*delay),
        _ => None,
    })
}

#[test]
fn a_suspect_that_is_refused_twice_is_dead_before_its_time() {
    let failed = |refused| Event::Command(Command::StreamFailed { to: at(1), refused });
    // How the second stream fails; whether the suspect is dead then.
    for (refused, after) in [(true, Status::Dead), (false, Status::Suspect)] {
        let (mut node, effects) = accused(&config(0), true);
        assert_eq!(respite(&effects), Some(Duration::from_secs(1)));
        // One that fails meanwhile says nothing of what is later.
        step(&mut node, failed(true), 1_500_000);
        assert_eq!(belief(&node, 1), Some((1, Status::Suspect)));
        let tried = step(&mut node, Event::Fire(Timer::Refusal(named(1))), 2_000_000);
        let pings = tried.iter().filter(|effect| {
            matches!(effect, Effect::Send { message: Message::StreamPing(_), to, .. } if *to == Peer::Endpoint(at(1)))
        });
        assert_eq!(pings.count(), 1);
        step(&mut node, failed(refused), 2_000_100);
        assert_eq!(belief(&node, 1), Some((1, after)));
        // What was lost once is not believed later.
        step(&mut node, failed(true), 2_000_200);
        assert_eq!(belief(&node, 1), Some((1, after)));
    }
    assert_eq!(respite(&accused(&config(0), false).1), None);
    let off = Config { refusal_mult: 0, ..config(0) };
    assert_eq!(respite(&accused(&off, true).1), None);
    // To its layer it isn't soon missed.
    assert_eq!(respite(&accused(&Config::<Picky>::lan(named(0), at(0), b'x'), true).1), None);
}

#[test]
fn a_suspect_that_answers_again_has_the_whole_time_to_refute() {
    let (mut node, _) = accused(&config(0), true);
    step(&mut node, Event::Fire(Timer::Refusal(named(1))), 2_000_000);
    let message = Message::StreamAck(Ack { seq: 1, payload: None });
    let told = step(&mut node, Event::Receive { from: Peer::Endpoint(at(1)), message }, 2_000_100);
    assert_eq!(outputs(told), []);
    let failed = Command::StreamFailed { to: at(1), refused: true };
    step(&mut node, Event::Command(failed), 2_000_200);
    assert_eq!(belief(&node, 1), Some((1, Status::Suspect)));
    let told = outputs(hear(&mut node, alive(1, 2)));
    assert_eq!((belief(&node, 1), told), (Some((2, Status::Alive)), vec![]));
}

#[test]
fn the_layers_messages_go_behind_membership_by_priority_and_as_often_as_it() {
    let mut node = start(&Config::<Picky> { gossip_nodes: 1, ..Config::lan(named(0), at(0), 0) });
    for message in [(2, 300), (0, 400), (1, 900), (0, 500), (9, 1500)] {
        step(&mut node, Event::Command(Command::Broadcast(message)), 0);
    }
    hear(&mut node, alive(1, 1));
    let mut rounds = vec![];
    while !node.queue.entries.is_empty() {
        let effects = step(&mut node, Event::Fire(Timer::Gossip), 0);
        rounds.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::Send { message: Message::Packet(parts), .. } => Some(parts),
            _ => None,
        }));
    }
    // The newest of equal priority first; what doesn't fit is passed over for what does.
    let first: Vec<Part<Picky>> =
        vec![alive(1, 1), Part::User((0, 500)), Part::User((0, 400)), Part::User((2, 300))];
    assert_eq!(rounds[0], first);
    for message in [(2, 300), (0, 400), (1, 900), (0, 500)] {
        let sent = rounds.iter().flatten().filter(|part| **part == Part::User(message)).count();
        assert_eq!(sent, 4, "{message:?}");
    }
    assert!(rounds.iter().flatten().all(|part| *part != Part::User((9, 1500))));
}

#[test]
fn of_too_many_of_the_layers_messages_the_last_in_the_order_is_dropped() {
    let mut node = start(&Config::<Picky> { max_broadcasts: 3, ..Config::lan(named(0), at(0), 0) });
    for n in 1..=3 {
        step(&mut node, Event::Command(Command::Broadcast((1, n))), 0);
    }
    let told = outputs(step(&mut node, Event::Command(Command::Broadcast((0, 9))), 0));
    assert_eq!(told, [Output::Dropped(Dropped::Broadcasts)]);
    let kept: Vec<_> = node.queue.entries.values().cloned().collect();
    assert_eq!(kept, [(0, 9), (1, 3), (1, 2)].map(Part::User));
}

#[test]
fn another_ping_is_neither_answered_nor_passed_on() {
    let mut node = start(&config(0));
    hear(&mut node, alive(1, 1));
    let ping = |target: u16| Ping {
        seq: 5,
        target: named(target),
        source: Some(named(1)),
        source_endpoint: Some(at(66)),
    };
    let told = hear(&mut node, Part::Ping(ping(2)));
    assert_eq!(outputs(told), [Output::Dropped(Dropped::Misdirected)]);
    // The answer goes where it came from, not where somebody claims that it should.
    let effects = hear(&mut node, Part::Ping(ping(0)));
    let to = effects.iter().find_map(|effect| match effect {
        Effect::Send { to, .. } => Some(*to),
        _ => None,
    });
    assert_eq!(to, Some(Peer::Endpoint(at(9))));
    let indirect = IndirectPing {
        seq: 6,
        target: named(1),
        target_endpoint: at(66),
        wants_nack: true,
        source: None,
        source_endpoint: None,
    };
    let effects = hear(&mut node, Part::IndirectPing(indirect));
    let nack = Message::Packet(vec![Part::Nack(Nack { seq: 6 }), alive(1, 1)]);
    let sent = effects.iter().any(|effect| {
        matches!(effect, Effect::Send { to, message, .. }
            if *to == Peer::Endpoint(at(9)) && *message == nack)
    });
    assert!(sent, "{effects:?}");
    assert!(node.relays.is_empty());
}

/// Anything that may come, with small numbers so that it hits.
fn anything(entropy: &mut Seeded) -> Event<Node<NoLayer>> {
    let n = |entropy: &mut Seeded, bound: usize| entropy.choose(bound);
    let member = u16::try_from(n(entropy, 5)).unwrap();
    let incarnations = [0, 1, 2, 3, 4, (1 << 31) - 2, (1 << 31) - 1, 1 << 31, u32::MAX];
    let incarnation = incarnations[n(entropy, incarnations.len())];
    let from = [Peer::Endpoint(at(member)), Peer::Stream(3)][n(entropy, 2)];
    let seq = u32::try_from(n(entropy, 6)).unwrap();
    let ping = Ping { seq, target: named(member), source: None, source_endpoint: None };
    let statuses = [Status::Alive, Status::Suspect, Status::Dead, Status::Left];
    let members = vec![state(member, incarnation, statuses[n(entropy, 4)])];
    let (join, reply) = (n(entropy, 2) == 0, n(entropy, 2) == 0);
    let request = 1;
    let parts = [
        alive(member, incarnation),
        suspect(member, incarnation),
        dead(member, incarnation, 7),
        dead(member, incarnation, member),
        Part::Ping(ping.clone()),
        Part::Ack(Ack { seq, payload: None }),
        Part::Nack(Nack { seq }),
        Part::IndirectPing(IndirectPing {
            seq,
            target: named(member),
            target_endpoint: at(member),
            wants_nack: true,
            source: Some(named(1)),
            source_endpoint: Some(at(1)),
        }),
    ];
    let part = parts[n(entropy, parts.len())].clone();
    let timers = [
        Timer::Probe,
        Timer::ProbeTimeout,
        Timer::Gossip,
        Timer::PushPull,
        Timer::Leave,
        Timer::Relay(seq),
        Timer::Suspicion(named(member)),
        Timer::Refusal(named(member)),
        Timer::Exchange(at(member)),
    ];
    match n(entropy, 16) {
        0..=5 => Event::Receive { from, message: Message::Packet(vec![part]) },
        6..=7 => {
            let push = PushPull { join, members, user: None, reply };
            Event::Receive { from, message: Message::PushPull(push) }
        }
        8 => Event::Receive { from, message: Message::StreamPing(ping) },
        9 => Event::Receive { from, message: Message::StreamAck(Ack { seq, payload: None }) },
        10 => Event::Command(Command::PushPull { request, to: at(member), join }),
        11 => {
            Event::Command(Command::Update { meta: Arc::from(vec![0; 64 * usize::from(member)]) })
        }
        12 if seq == 0 && join && reply => Event::Command(Command::Leave { request }),
        13 => Event::Command(Command::StreamFailed { to: at(member), refused: join }),
        _ => Event::Fire(timers[n(entropy, timers.len())].clone()),
    }
}

#[test]
fn whatever_comes_every_invariant_holds() {
    for seed in 0..300 {
        let mut entropy = Seeded::new(seed);
        let mut node = start(&Config { max_members: 4, max_relays: 2, ..config(0) });
        let mut gone = 0;
        for now in 0..400 {
            let event = anything(&mut entropy);
            let effects = step(&mut node, event.clone(), now * 200_000);
            for (name, holds) in invariant::all() {
                assert!(holds(&node), "{name} after {event:?}, seed {seed}");
            }
            gone += outputs(effects).iter().filter(|o| matches!(o, Output::Gone { .. })).count();
            assert!(node.incarnation() >= Incarnation(1) && node.incarnation() <= Incarnation::MAX);
        }
        assert!(gone > 0, "seed {seed}");
    }
}
