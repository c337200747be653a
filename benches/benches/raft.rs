//! The Raft machine alone: propose, replicate, acknowledge, commit on three nodes in memory, and a ReadIndex round.

use std::{collections::VecDeque, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput};
use spec::{
    entropy::Least,
    gate::Gate,
    machine::{Context, Effect, Event, Machine},
    raft::{
        ClusterId, Configuration, Durable, Entry, HardState, Index, Member, Message, Payload,
        ServerId, Suffrage, Term,
        node::{Command, Config, Node, Output, Proposal, Timer},
        types::Request,
    },
    time::{ClusterTime, Instant},
};

/// Three nodes whose disks are instant and whose network is a queue.
#[derive(Clone)]
struct Network {
    nodes: Vec<(Node, Gate<Node>)>,
    messages: VecDeque<(ServerId, ServerId, Message)>,
    effects: Vec<Effect<Node>>,
    ready: Vec<Effect<Node>>,
    /// Committed entries and confirmed reads that node 0 told its host of.
    told: usize,
}

fn id(number: usize) -> ServerId {
    ServerId::new(number as u128, 0)
}

impl Network {
    /// Three nodes of which the first leads.
    fn formed() -> Self {
        let member = Member { suffrage: Suffrage::Voter, address: "".into() };
        let configuration = Arc::new(Configuration {
            cluster: ClusterId(1),
            servers: (0..3).map(|number| (id(number), member.clone())).collect(),
        });
        let durable = Durable {
            hard_state: HardState { term: Term(1), voted_for: None },
            entries: vec![Entry {
                term: Term(1),
                index: Index(1),
                time: ClusterTime(0),
                request: Request::Configuration(configuration),
            }],
            ..Durable::default()
        };
        let mut network = Self {
            nodes: vec![],
            messages: VecDeque::new(),
            effects: vec![],
            ready: vec![],
            told: 0,
        };
        for number in 0..3 {
            let config = Arc::new(Config::new(id(number), 1));
            let mut gate = Gate::default();
            let mut entropy = Least;
            let mut cx =
                Context { now: Instant(0), entropy: &mut entropy, last_ticket: &mut gate.last };
            let node = Node::recover(&config, durable.clone(), &mut cx, &mut network.effects);
            network.nodes.push((node, gate));
            network.effects.clear();
        }
        network.step(0, Event::Fire(Timer::Election));
        network.settle();
        network.propose(1);
        assert!(network.told > 0, "nothing was committed");
        network
    }

    fn step(&mut self, number: usize, event: Event<Node>) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let (node, gate) = &mut self.nodes[number];
            let mut entropy = Least;
            let mut cx =
                Context { now: Instant(1_000), entropy: &mut entropy, last_ticket: &mut gate.last };
            node.step(event, &mut cx, &mut self.effects);
            gate.admit(&mut self.effects, &mut self.ready);
            if gate.is_pending() {
                let ticket = gate.last;
                gate.durable(ticket, &mut self.ready);
                next = Some(Event::Durable(ticket));
            }
            for effect in self.ready.drain(..) {
                match effect {
                    Effect::Send { to, message, .. } => {
                        self.messages.push_back((id(number), to, message));
                    }
                    Effect::Emit { output, .. } if number == 0 => match output {
                        Output::Committed(entries) => self.told += entries.len(),
                        Output::ReadReady { .. } => self.told += 1,
                        _ => {}
                    },
                    Effect::Emit { .. }
                    | Effect::Persist { .. }
                    | Effect::Arm { .. }
                    | Effect::Disarm { .. } => {}
                }
            }
        }
    }

    /// Delivers messages until there are none.
    fn settle(&mut self) {
        while let Some((from, to, message)) = self.messages.pop_front() {
            self.step(to.node.0 as usize, Event::Receive { from, message });
        }
    }

    fn propose(&mut self, count: u64) {
        let payload = Payload::from(vec![7; 100]);
        let proposals = (0..count).map(|request| Proposal { request, payload: payload.clone() });
        self.step(0, Event::Command(Command::Propose(proposals.collect())));
        self.settle();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let formed = Network::formed();
    for count in [1, 64] {
        let mut group = criterion.benchmark_group("raft/commit-on-three");
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count}"), |bench| {
            bench.iter_batched_ref(
                || formed.clone(),
                |network| {
                    network.propose(count);
                    assert!(network.told > formed.told);
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
    criterion.bench_function("raft/read-index-round", |bench| {
        let mut network = formed.clone();
        let mut n = 0;
        bench.iter(|| {
            n += 1;
            let before = network.told;
            network.step(0, Event::Command(Command::Read { n }));
            network.settle();
            assert!(network.told > before);
        });
    });
    criterion.final_summary();
}
