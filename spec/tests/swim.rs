//! Membership by examples: pools on a simulated network and clock, and single members that are told things.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "small numbers")]

#[path = "swim/net.rs"]
mod net;
#[path = "swim/rules.rs"]
mod rules;

use std::time::Duration;

use net::{Net, at, config, named};
use spec::{
    entropy::Least,
    machine::{Context, Effect, Event, Machine, Ticket},
    swim::{
        Command, Config, Durable, Incarnation, Message, NoLayer, Node, Output, Part, Status, Timer,
        suspicion::least,
    },
    time::Instant,
};

#[test]
fn members_that_join_one_of_them_all_know_each_other() {
    let net = Net::pool(1, 9);
    for by in 0..9 {
        for of in 0..9 {
            assert_eq!(net.belief(of, by), Some((1, Status::Alive)), "{of} by {by}");
        }
        let joined = net.told(by).filter(|output| matches!(output, Output::Joined(_))).count();
        assert_eq!(joined, 9);
    }
}

#[test]
fn a_crashed_member_is_dead_to_all_within_its_rounds_and_the_longest_suspicion() {
    let mut net = Net::pool(2, 9);
    net.seats.remove(&named(4));
    let one = Duration::from_secs(1);
    // A round and the next one's end, the probe itself, the longest suspicion, and some gossip.
    net.pass(one * 17 + one * 2 + least(4, 9, one) * 6 + one * 2);
    for by in (0..9).filter(|by| *by != 4) {
        let died = |output: &&Output<NoLayer>| matches!(output, Output::Gone { member, status: Status::Dead } if member.name == named(4));
        assert_eq!(net.told(by).filter(died).count(), 1, "by {by}");
        assert!(net.belief(4, by).is_none_or(|(_, status)| status == Status::Dead), "by {by}");
        for of in (0..9).filter(|of| *of != 4) {
            assert_eq!(net.belief(of, by).unwrap().1, Status::Alive, "{of} by {by}");
        }
    }
}

#[test]
fn the_dead_are_forgotten_and_come_back_at_a_higher_incarnation() {
    let mut net = Net::pool(3, 5);
    let durable = net.seats.remove(&named(4)).unwrap().durable;
    net.pass(Duration::from_mins(3));
    assert_eq!(net.belief(4, 0), None);
    assert!(net.told(0).any(|output| *output == Output::Reaped(named(4))));
    net.start(&config(4), durable);
    net.command(&named(4), Command::PushPull { request: 7, to: at(0), join: true });
    net.pass(Duration::from_secs(5));
    for by in 0..5 {
        assert_eq!(net.belief(4, by), Some((2, Status::Alive)));
    }
    assert!(net.told(4).any(|output| *output == Output::Pushed { request: 7, result: Ok(()) }));
}

#[test]
fn a_member_that_cannot_hear_datagrams_is_kept_by_its_streams() {
    let mut net = Net::pool(4, 4);
    for n in 0..3 {
        net.deaf.insert((at(3), at(n)));
    }
    net.pass(Duration::from_mins(2));
    for by in 0..3 {
        assert_eq!(net.belief(3, by).unwrap().1, Status::Alive);
    }
    assert!(net.told(0).any(|output| *output == Output::OnlyStreams(named(3))));
}

#[test]
fn between_two_that_do_not_hear_each_other_relays_do() {
    let mut net = Net::pool(5, 5);
    net.deaf.extend([(at(0), at(1)), (at(1), at(0))]);
    net.pass(Duration::from_mins(2));
    for by in 0..5 {
        for of in 0..5 {
            assert_eq!(net.belief(of, by), Some((1, Status::Alive)), "{of} by {by}");
        }
    }
}

#[test]
fn a_member_that_hears_nobody_doubts_itself_first() {
    let mut net = Net::pool(6, 5);
    net.streams_fail = true;
    for n in 0..4 {
        net.deaf.insert((at(n), at(4)));
    }
    let before = net.seats[&named(4)].told.len();
    net.pass(Duration::from_mins(1));
    // Its probes take longer and longer: its relays' nacks are missing too.
    let healths: Vec<_> = net.seats[&named(4)].told[before..]
        .iter()
        .filter_map(|(_, output)| match output {
            Output::Health(health) => Some(*health),
            _ => None,
        })
        .collect();
    assert!(healths.iter().any(|health| *health >= 3), "{healths:?}");
    assert!(healths.iter().all(|health| *health < 8), "{healths:?}");
}

#[test]
fn who_leaves_has_left_everywhere_and_its_host_is_told_when() {
    let mut net = Net::pool(7, 7);
    net.command(&named(3), Command::Leave { request: 11 });
    assert!(!net.told(3).any(|output| *output == Output::Left { request: 11 }));
    net.pass(Duration::from_secs(3));
    assert!(net.told(3).any(|output| *output == Output::Left { request: 11 }));
    for by in (0..7).filter(|by| *by != 3) {
        assert_eq!(net.belief(3, by), Some((1, Status::Left)));
        let gone = |output: &&Output<NoLayer>| matches!(output, Output::Gone { member, status: Status::Left } if member.name == named(3));
        assert_eq!(net.told(by).filter(gone).count(), 1);
    }
    // Left for good, though it is still there and still answers.
    net.pass(Duration::from_secs(20));
    assert!((0..7).all(|by| net.belief(3, by).is_none_or(|(_, s)| s == Status::Left)));
}

#[test]
fn changed_metadata_reaches_everybody_at_the_next_incarnation() {
    let mut net = Net::pool(8, 6);
    net.command(&named(2), Command::Update { meta: b"role=web".as_slice().into() });
    net.pass(Duration::from_secs(4));
    for by in 0..6 {
        let member = &net.seats[&named(by)].node.members[&named(2)];
        assert_eq!((&*member.meta, member.incarnation.0), (b"role=web".as_slice(), 2), "by {by}");
    }
    assert_eq!(net.seats[&named(2)].durable.incarnation, Incarnation(2));
}

#[test]
fn members_that_all_restart_at_once_are_alive_to_each_other_again() {
    // memberlist#311: without durable incarnations they stay dead to whoever kept an accusation.
    let mut net = Net::pool(9, 6);
    let disks: Vec<_> = (1..6).map(|n| net.seats.remove(&named(n)).unwrap().durable).collect();
    net.pass(Duration::from_secs(28));
    assert!((1..6).any(|of| net.belief(of, 0).is_some_and(|(_, s)| s != Status::Alive)));
    for (n, durable) in (1..6).zip(disks) {
        net.start(&config(n), durable);
        net.command(&named(n), Command::PushPull { request: 1, to: at(0), join: true });
    }
    net.pass(Duration::from_secs(20));
    for by in 0..6 {
        assert!((0..6).all(|of| net.belief(of, by).is_some_and(|(_, s)| s == Status::Alive)));
    }
}

#[test]
fn a_quiet_pool_sends_no_more_than_its_probes() {
    let mut net = Net::pool(10, 8);
    net.pass(Duration::from_secs(30));
    net.datagrams = 0;
    net.pass(Duration::from_mins(1));
    // A ping and an ack for each of eight members in each second.
    assert!((940..=980).contains(&net.datagrams), "{}", net.datagrams);
}

#[test]
fn news_crosses_an_idle_pool_at_once() {
    let mut net = Net::pool(11, 30);
    net.pass(Duration::from_secs(30));
    net.command(&named(3), Command::Update { meta: b"new".as_slice().into() });
    // A millisecond for each step; whom no first round reached hears of it in one of the next two.
    let knows = |net: &Net, n: u16| *net.seats[&named(n)].node.members[&named(3)].meta == *b"new";
    net.pass(Duration::from_millis(20));
    let at_once = (0..30).filter(|n| knows(&net, *n)).count();
    assert!(at_once >= 20, "{at_once}");
    net.pass(Duration::from_millis(400));
    assert!((0..30).all(|n| knows(&net, n)));
}

/// A member that knows so many others, and its timers' effects left aside.
fn large(members: u16) -> Node<NoLayer> {
    let (mut effects, mut ticket) = (vec![], Ticket::NONE);
    let mut cx = Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut ticket };
    let mut node = Node::recover(&config(0), Durable::default(), &mut cx, &mut effects);
    node.step(Event::Durable(Ticket(1)), &mut cx, &mut effects);
    node.step(Event::Command(Command::Start), &mut cx, &mut effects);
    for n in 1..members {
        let part = rules::alive(n, 1);
        rules::hear(&mut node, part);
    }
    node
}

#[test]
fn each_member_is_probed_once_in_each_round() {
    let members: u16 = 40;
    let mut node = large(members);
    let mut entropy = spec::entropy::Seeded::new(3);
    let (mut seen, mut ticket) = (vec![], Ticket::NONE);
    for _ in 0..200 {
        let mut effects = vec![];
        let mut cx = Context { now: Instant(0), entropy: &mut entropy, last_ticket: &mut ticket };
        node.step(Event::Fire(Timer::Probe), &mut cx, &mut effects);
        let probe = node.probe.clone().unwrap();
        seen.push(probe.name);
        let ack = Part::Ack(spec::swim::Ack { seq: probe.seq, payload: None });
        rules::hear(&mut node, ack);
    }
    for n in 1..members {
        let places: Vec<_> =
            seen.iter().enumerate().filter(|(_, name)| **name == named(n)).collect();
        let gaps = places.windows(2).map(|pair| pair[1].0 - pair[0].0);
        // From the beginning of a round to the end of the next: 2(n - 1) - 1 periods.
        assert!(gaps.clone().all(|gap| gap < 2 * (usize::from(members) - 1)), "{n}");
        assert!(places.len() >= 4);
    }
}

#[test]
fn a_step_of_a_member_of_a_large_pool_sends_a_bounded_number_of_bounded_datagrams() {
    let mut node = large(5000);
    assert_eq!(node.members.len(), 5000);
    let mut ticket = Ticket::NONE;
    let mut sent = 0;
    for _ in 0..1000 {
        let mut effects = vec![];
        let mut cx = Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut ticket };
        node.step(Event::Fire(Timer::Gossip), &mut cx, &mut effects);
        let packets: Vec<_> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Send { message: Message::Packet(parts), .. } => Some(parts),
                _ => None,
            })
            .collect();
        assert!(packets.len() <= 3);
        for parts in packets {
            let size: usize = 2 + parts.iter().map(|part| part.size() + 2).sum::<usize>();
            assert!(size <= 1400 && size > 1000, "{size}");
            sent += parts.len();
        }
    }
    // Fewest sent first: nothing is sent a second time before all was sent once.
    let least = node.queue.entries.keys().map(|place| place.transmits).min().unwrap();
    let most = node.queue.entries.keys().map(|place| place.transmits).max().unwrap();
    assert!(most - least <= 1 && sent >= 2 * 5000, "{least}..{most}, {sent}");
}

#[test]
fn the_profiles_are_memberlists() {
    let lan = Config::<NoLayer>::lan(named(1), at(1), ());
    let wan = Config::<NoLayer>::wan(named(1), at(1), ());
    let local = Config::<NoLayer>::local(named(1), at(1), ());
    let secs = |c: &Config<NoLayer>| {
        [c.probe_interval, c.gossip_to_the_dead, c.push_pull_interval, c.stream_timeout]
            .map(|d| d.as_secs())
    };
    assert_eq!([&lan, &wan, &local].map(secs), [[1, 30, 30, 10], [5, 60, 60, 30], [1, 15, 15, 1]]);
    let millis = |c: &Config<NoLayer>| [c.probe_timeout, c.gossip_interval].map(|d| d.as_millis());
    assert_eq!([&lan, &wan, &local].map(millis), [[500, 200], [3000, 500], [200, 100]]);
    let counts = |c: &Config<NoLayer>| {
        let (checks, nodes) = (c.indirect_checks, c.gossip_nodes);
        (checks, nodes, c.suspicion_mult, c.retransmit_mult, c.awareness_max)
    };
    let counts = [&lan, &wan, &local].map(counts);
    assert_eq!(counts, [(3, 3, 4, 4, 8), (3, 4, 6, 4, 8), (1, 3, 3, 2, 8)]);
}
