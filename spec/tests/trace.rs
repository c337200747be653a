//! Flight records: an honest one replays, an altered one is refused at the step that was altered.

use std::{collections::BTreeMap, sync::Arc};

use spec::{
    codec::{self, RECORD_LIMIT},
    entropy::Seeded,
    gate::Gate,
    machine::{Context, Effect, Event, Machine, Ticket},
    raft::{
        ClusterId, Command, Config, Configuration, Durable, Member, Node, Payload, Proposal,
        ServerId, Suffrage, Timer,
    },
    time::Instant,
    trace::{
        Departure, Draw, Happened, Opening, OpeningOf, Recording, Replay, StepOf, VERSION,
        fingerprint, step_of,
    },
};

/// A lone voter that forms its cluster, leads, and takes proposals; every step recorded.
fn record(config: &Arc<Config>) -> (OpeningOf<Node>, Vec<StepOf<Node>>, Durable) {
    let mut entropy = Seeded::new(7);
    let mut gate: Gate<Node> = Gate::default();
    let mut effects = Vec::new();
    let mut recording = Recording::new(&mut entropy);
    let mut cx = Context { now: Instant(5), entropy: &mut recording, last_ticket: &mut gate.last };
    let mut node = Node::recover(config, Durable::default(), &mut cx, &mut effects);
    let opening = Opening {
        version: VERSION,
        config: Arc::clone(config),
        durable: Durable::default(),
        now_us: 5,
        draws: recording.into_draws(),
        effects: fingerprint(&effects),
    };
    let member = Member { suffrage: Suffrage::Voter, address: "a".into() };
    let configuration =
        Configuration { cluster: ClusterId(1), servers: BTreeMap::from([(config.id, member)]) };
    let mut events =
        vec![Event::Fire(Timer::Election), Event::Command(Command::Form(Arc::new(configuration)))];
    for request in 0..5 {
        let payload = Payload::from(vec![b'x']);
        events.push(Event::Command(Command::Propose(vec![Proposal { request, payload }])));
    }
    events.push(Event::Fire(Timer::Heartbeat));
    let (mut steps, mut now, mut durable) = (vec![], 400_000, Durable::default());
    let mut pending = Vec::new();
    let perform = |effects: &mut Vec<Effect<Node>>, pending: &mut Vec<_>| {
        for effect in effects.drain(..) {
            if let Effect::Persist { ticket, write } = effect {
                pending.push((ticket, write));
            }
        }
    };
    perform(&mut effects, &mut pending);
    let mut events = std::collections::VecDeque::from(events);
    while let Some(event) = events.pop_front() {
        now += 200_000;
        let mut recording = Recording::new(&mut entropy);
        let last_ticket = &mut gate.last;
        let mut cx = Context { now: Instant(now), entropy: &mut recording, last_ticket };
        node.step(event.clone(), &mut cx, &mut effects);
        steps.push(step_of(Instant(now), recording.into_draws(), &event, &effects));
        perform(&mut effects, &mut pending);
        let mut last = None;
        for (ticket, write) in pending.drain(..) {
            durable.fold(&write);
            last = Some(ticket);
        }
        if let Some(ticket) = last {
            events.push_front(Event::Durable(ticket));
        }
    }
    assert_eq!(node.commit_index.0, 7);
    (opening, steps, durable)
}

fn replay(
    opening: &OpeningOf<Node>,
    steps: &[StepOf<Node>],
) -> Result<Durable, spec::trace::Refuted> {
    let mut replay: Replay<Node> = Replay::open(opening)?;
    for step in steps {
        replay.step(step)?;
    }
    assert_eq!(replay.machine().durable_index, replay.durable().last_index());
    Ok(replay.durable().clone())
}

#[test]
fn an_honest_record_replays_to_what_the_disk_holds() {
    let config = Arc::new(Config::new(ServerId::new(1, 1), 0));
    let (opening, steps, durable) = record(&config);
    assert_eq!(replay(&opening, &steps), Ok(durable));
    let bytes = codec::encode(&opening);
    assert_eq!(codec::decode::<OpeningOf<Node>, RECORD_LIMIT>(&bytes), Ok(opening));
    let bytes = codec::encode(&steps);
    assert_eq!(codec::decode::<Vec<StepOf<Node>>, RECORD_LIMIT>(&bytes), Ok(steps));
}

#[test]
fn an_altered_record_is_refused_where_it_was_altered() {
    let config = Arc::new(Config::new(ServerId::new(1, 1), 0));
    let (opening, steps, _) = record(&config);
    let refuted = |alter: &dyn Fn(&mut Vec<StepOf<Node>>)| {
        let mut steps = steps.clone();
        alter(&mut steps);
        replay(&opening, &steps).map(|_| ()).unwrap_err()
    };
    let is_durable = |step: &StepOf<Node>| matches!(step.event, Happened::Durable(_));
    let durable = steps.iter().position(is_durable).unwrap();
    let other = Opening { version: VERSION + 1, ..opening.clone() };
    assert_eq!(replay(&other, &steps).unwrap_err().departure, Departure::Version);
    // An event that didn't happen: what follows it has other effects.
    assert_eq!(refuted(&|s| drop(s.remove(durable))).step, durable + 1);
    assert_eq!(refuted(&|s| s[2].effects ^= 1).departure, Departure::Effects);
    assert_eq!(refuted(&|s| s[0].draws.clear()).departure, Departure::Draws);
    assert_eq!(refuted(&|s| s[0].draws.push(Draw::Choice(0))).departure, Departure::Draws);
    assert_eq!(
        refuted(&|s| s[0].event = Happened::Fire(Timer::Transfer)).departure,
        Departure::Timer
    );
    assert_eq!(refuted(&|s| s[0].now_us = 6).departure, Departure::Early);
    assert_eq!(refuted(&|s| s[3].now_us = 6).departure, Departure::Time);
    let ahead = |s: &mut Vec<StepOf<Node>>| s[durable].event = Happened::Durable(99);
    assert_eq!(refuted(&ahead).departure, Departure::Ticket);
    assert_eq!(Ticket::NONE, Ticket(0));
}
