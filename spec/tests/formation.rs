//! Blank servers on a network that loses nothing: who forms a cluster, who joins one, and what the others say.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use spec::{
    entropy::Least,
    gate::Gate,
    machine::{Context, Effect, Event, Machine},
    raft::{
        ClusterId, Configuration, ServerId,
        formation::{Address, Command, Config, Durable, Formation, Message, Output, Timer, Wait},
    },
    time::Instant,
};

/// Servers whose writes are durable at once and whose messages all arrive.
#[derive(Default)]
struct Net {
    servers: BTreeMap<Address, (Formation, Gate<Formation>)>,
    wires: VecDeque<(Address, Address, Message)>,
    told: BTreeMap<Address, Vec<Output>>,
}

fn at(n: usize) -> Address {
    format!("s{n}").into()
}

impl Net {
    fn start(&mut self, n: usize, expect: usize, asks: &[usize]) {
        let config = Config {
            server: ServerId::new(u128::try_from(n).unwrap(), 1),
            address: at(n),
            expect,
            addresses: asks.iter().map(|n| at(*n)).collect(),
            member_of: None,
            retry: Duration::from_millis(500),
            retry_jitter: Duration::ZERO,
            patience: Duration::from_secs(2),
        };
        let (mut gate, mut effects) = (Gate::default(), vec![]);
        let mut cx = Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut gate.last };
        let server = Formation::recover(&config, Durable::default(), &mut cx, &mut effects);
        self.servers.insert(at(n), (server, gate));
        self.run(&at(n), effects);
    }

    fn run(&mut self, own: &Address, mut effects: Vec<Effect<Formation>>) {
        let (server, gate) = self.servers.get_mut(own).unwrap();
        loop {
            let mut ready = vec![];
            gate.admit(&mut effects, &mut ready);
            gate.durable(gate.last, &mut ready);
            for effect in ready {
                match effect {
                    Effect::Send { to, message, .. } => {
                        self.wires.push_back((own.clone(), to, message));
                    }
                    Effect::Emit { output, .. } => {
                        self.told.entry(own.clone()).or_default().push(output);
                    }
                    Effect::Persist { .. } | Effect::Arm { .. } | Effect::Disarm { .. } => {}
                }
            }
            let mut cx =
                Context { now: Instant(0), entropy: &mut Least, last_ticket: &mut gate.last };
            server.step(Event::Durable(gate.durable), &mut cx, &mut effects);
            if effects.is_empty() {
                break;
            }
        }
    }

    fn step(&mut self, own: &Address, event: Event<Formation>) {
        let Some((server, gate)) = self.servers.get_mut(own) else { return };
        let (mut entropy, mut effects) = (Least, vec![]);
        let mut cx =
            Context { now: Instant(0), entropy: &mut entropy, last_ticket: &mut gate.last };
        server.step(event, &mut cx, &mut effects);
        self.run(own, effects);
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.wires.pop_front() {
            self.step(&to, Event::Receive { from, message });
        }
    }

    fn round(&mut self) {
        for own in self.servers.keys().cloned().collect::<Vec<_>>() {
            self.step(&own, Event::Fire(Timer::Retry));
            self.deliver();
        }
    }

    fn formed(&self, n: usize) -> Option<&Configuration> {
        self.told.get(&at(n))?.iter().find_map(|output| match output {
            Output::Formed(configuration) => Some(configuration),
            _ => None,
        })
    }

    fn last(&self, n: usize) -> Option<&Output> {
        self.told.get(&at(n))?.last()
    }
}

#[test]
fn three_servers_that_know_each_other_form_without_waiting() {
    let mut net = Net::default();
    for n in 1..=3 {
        net.start(n, 3, &[1, 2, 3]);
        net.deliver();
    }
    let configuration = net.formed(1).unwrap();
    assert_eq!(configuration.servers.len(), 3);
    assert!(configuration.voters().count() == 3 && configuration.cluster != ClusterId(0));
    assert!((2..=3).all(|n| net.formed(n) == Some(configuration)));
}

#[test]
fn a_lone_server_forms_its_cluster_in_its_first_step() {
    let mut net = Net::default();
    net.start(1, 1, &[]);
    assert_eq!(net.formed(1).unwrap().servers.len(), 1);
}

#[test]
fn servers_that_were_given_one_address_hear_of_each_other() {
    let mut net = Net::default();
    // The lowest id is not the one that all were given.
    for n in [3, 1, 2] {
        net.start(n, 3, if n == 3 { &[] } else { &[3] });
        net.deliver();
    }
    for _ in 0..2 {
        net.round();
    }
    assert!((1..=3).all(|n| net.formed(n).is_some()));
}

#[test]
fn a_server_that_finds_a_cluster_joins_it() {
    let mut net = Net::default();
    for n in 1..=2 {
        net.start(n, 2, &[1, 2]);
    }
    net.deliver();
    let cluster = net.formed(1).unwrap().cluster;
    let leader = Some(at(2));
    net.step(&at(1), Event::Command(Command::Belongs { cluster, leader }));
    net.start(0, 2, &[1]);
    net.deliver();
    assert_eq!(net.last(0), Some(&Output::Join { cluster, leader: at(2) }));
    net.round();
    assert!(net.told[&at(0)].contains(&Output::Waiting(vec![Wait::Cluster(cluster)])));
    net.step(&at(0), Event::Command(Command::Belongs { cluster, leader: None }));
    net.round();
    assert_eq!(net.formed(0), None);
}

#[test]
fn a_server_says_for_whom_it_waits() {
    let mut net = Net::default();
    net.start(2, 3, &[1, 9]);
    net.start(1, 2, &[2]);
    net.deliver();
    net.round();
    let told = vec![
        Wait::Expects { address: at(1), expect: 2 },
        Wait::Unanswered(at(9)),
        Wait::More { found: 1, expect: 3 },
    ];
    assert_eq!(net.last(2), Some(&Output::Waiting(told)));
}

#[test]
fn a_server_that_vanished_holds_nobody_up() {
    let mut net = Net::default();
    for n in 1..=2 {
        net.start(n, 3, &[1, 2, 3, 4]);
    }
    net.deliver();
    net.servers.remove(&at(1));
    for n in 3..=4 {
        net.start(n, 3, &[1, 2, 3, 4]);
        net.deliver();
    }
    assert_eq!(net.formed(2), None);
    for _ in 0..3 {
        net.round();
    }
    assert!((2..=4).all(|n| net.formed(n).is_some()));
}
