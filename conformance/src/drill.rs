//! The fault drill: writers and readers through all servers of a cluster while servers are killed and started again.
//!
//! What is held: every acknowledged write is there, none appears that nobody asked for, and each key's history is
//! linearizable. A request without an answer, or with one that leaves its outcome open, may have happened or not.
//!
//! Each write's value is its own, so a value names its write; a compare-and-set by index is one by the value that
//! its client read under that index. Clients move on to fresh keys, since a history's check costs more the more
//! open ends it has.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use spec::entropy::{Entropy as _, Seeded};

use crate::{
    agent::Cluster,
    http::{Body, Client, Failure, Request, Response},
    linear::{self, Event, Operation, Value},
};

/// How a drill is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long faults go on.
    pub duration: Duration,
    /// Clients at once; each goes from server to server.
    pub clients: usize,
    /// Between a fault's end and the next.
    pub pause: Duration,
    /// Seed of the faults and of the requests.
    pub seed: u64,
}

/// What a drill did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were answered.
    pub answered: usize,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Writes whose outcome is unknown.
    pub unknown: usize,
    /// Servers killed.
    pub kills: usize,
    /// Of them, leaders.
    pub leaders: usize,
    /// Servers paused.
    pub pauses: usize,
    /// The longest time without any acknowledged write.
    pub longest_stall: Duration,
    /// Keys whose histories were checked.
    pub keys: usize,
}

/// What the clients share.
struct Shared {
    seed: u64,
    ports: Vec<u16>,
    start: Instant,
    stop: AtomicBool,
    values: AtomicU64,
    clock: AtomicU64,
    histories: Mutex<BTreeMap<String, Vec<Event>>>,
    acknowledgements: Mutex<Vec<Duration>>,
}

impl Shared {
    /// A moment: later calls give later ones, and what ended before another began has the lower ones.
    fn moment(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

/// Runs a drill on a cluster that has a leader; all servers run and agree at its end.
pub fn run(cluster: &mut Cluster, plan: &Plan) -> Result<Tally> {
    let shared = Shared {
        seed: plan.seed,
        ports: cluster.agents.iter().map(crate::agent::Agent::http_port).collect(),
        start: Instant::now(),
        stop: AtomicBool::new(false),
        values: AtomicU64::new(0),
        clock: AtomicU64::new(0),
        histories: Mutex::default(),
        acknowledgements: Mutex::default(),
    };
    let mut tally = Tally::default();
    thread::scope(|scope| {
        for client in 0..plan.clients {
            let shared = &shared;
            scope.spawn(move || run_client(client, shared));
        }
        let faults = faults(cluster, plan, &mut tally);
        shared.stop.store(true, Ordering::SeqCst);
        faults
    })?;
    for agent in &mut cluster.agents {
        if !agent.process.is_running() {
            agent.process.restart()?;
        }
    }
    cluster.wait_for_leader(Duration::from_secs(30)).context("after the faults")?;
    for agent in &mut cluster.agents {
        agent.wait_until_ready(Duration::from_secs(30))?;
    }
    read_back(cluster, &shared)?;
    judge(&shared, &mut tally)?;
    Ok(tally)
}

/// Kills the leader, a follower or all; starts them again; now and then pauses one instead.
fn faults(cluster: &mut Cluster, plan: &Plan, tally: &mut Tally) -> Result<()> {
    let mut chance = Seeded::new(plan.seed);
    let deadline = Instant::now() + plan.duration;
    let mut round = 0;
    while Instant::now() < deadline {
        thread::sleep(plan.pause);
        let leader = cluster.leader();
        let any = chance.choose(cluster.agents.len());
        let (victims, pause) = match round % 5 {
            0 | 3 => (vec![leader.unwrap_or(any)], false),
            1 => {
                (vec![(0..cluster.agents.len()).find(|i| Some(*i) != leader).unwrap_or(any)], false)
            }
            2 => (vec![leader.unwrap_or(any)], true),
            _ => ((0..cluster.agents.len()).collect(), false),
        };
        round += 1;
        for i in &victims {
            let agent = &mut cluster.agents[*i];
            // One that ended by itself is no victim of ours.
            ensure!(
                agent.process.is_running(),
                "{} ended:\n{}",
                agent.name,
                agent.process.log_tail(40)
            );
            if pause {
                agent.process.pause()?;
                tally.pauses += 1;
            } else {
                agent.process.kill()?;
                tally.kills += 1;
                tally.leaders += usize::from(Some(*i) == leader);
            }
        }
        thread::sleep(Duration::from_millis(200) + chance.jitter(Duration::from_millis(1300)));
        for i in victims {
            let agent = &mut cluster.agents[i];
            if pause { agent.process.resume()? } else { agent.process.restart()? }
        }
    }
    Ok(())
}

/// What a client last knew of a key.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    value: Value,
    /// `ModifyIndex`; 0 where there was nothing.
    index: u64,
}

fn run_client(client: usize, shared: &Shared) {
    let mut chance = Seeded::new(shared.seed ^ (client as u64 + 1).wrapping_mul(0x9e37_79b9));
    let mut connections: Vec<Client> = shared
        .ports
        .iter()
        .map(|port| Client::new(([127, 0, 0, 1], *port).into(), Duration::from_secs(10)))
        .collect();
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    while !shared.stop.load(Ordering::SeqCst) {
        // Keys of this second: a few clients meet on each, and each gets some dozens of operations.
        let second = shared.start.elapsed().as_secs();
        let key = format!("drill/{}/{}/{}", shared.seed, second / 2, chance.choose(4));
        let connection = &mut connections[chance.choose(shared.ports.len())];
        let last = known.entry(key.clone()).or_default();
        if !one_request(client, &key, last, connection, &mut chance, shared) {
            thread::sleep(Duration::from_millis(50));
        }
        thread::sleep(chance.jitter(Duration::from_millis(10)));
    }
}

/// Sends one request and notes it; tells whether it was answered.
fn one_request(
    client: usize,
    key: &str,
    last: &mut Known,
    connection: &mut Client,
    chance: &mut Seeded,
    shared: &Shared,
) -> bool {
    let new = shared.values.fetch_add(1, Ordering::SeqCst) + 1;
    let (method, query, operation) = match chance.choose(10) {
        0..=3 => ("GET", "?raw".to_owned(), Operation::Get(None)),
        4..=6 => ("PUT", String::new(), Operation::Put(new)),
        7 | 8 => {
            let expected = last.value;
            let query = format!("?cas={}", last.index);
            ("PUT", query, Operation::Cas { expected, new, done: None })
        }
        _ => ("DELETE", String::new(), Operation::Delete),
    };
    let target = format!("/v1/kv/{key}{query}");
    let text = new.to_string();
    let body = if method == "PUT" { Body::Sized(text.as_bytes()) } else { Body::None };
    let start = shared.moment();
    let outcome = connection.send(&Request { method, target: &target, headers: &[], body });
    let answer = match outcome {
        Err(Failure::NotSent(_)) => return false,
        Err(Failure::Unknown(_)) => None,
        Ok(response) => answered(operation, &response, last),
    };
    let write = !matches!(operation, Operation::Get(_));
    let event = match answer {
        Some(operation) => Event { client, start, end: Some(shared.moment()), operation },
        // A write without an answer may have happened; a read without one says nothing.
        None if write => Event { client, start, end: None, operation },
        None => return false,
    };
    if event.end.is_some() && write {
        lock(&shared.acknowledgements).push(shared.start.elapsed());
    }
    lock(&shared.histories).entry(key.to_owned()).or_default().push(event);
    answer.is_some()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The operation as its answer tells it; none where the answer leaves it open.
fn answered(operation: Operation, response: &Response, last: &mut Known) -> Option<Operation> {
    match (operation, response.status) {
        (Operation::Get(_), 404) => {
            *last = Known::default();
            Some(Operation::Get(None))
        }
        (Operation::Get(_), 200) => {
            // The index of a single key's answer is its ModifyIndex.
            *last = Known { value: response.text().parse().ok(), index: response.index()? };
            Some(Operation::Get(last.value))
        }
        (Operation::Put(_) | Operation::Delete, 200) if response.body == b"true" => Some(operation),
        (Operation::Cas { expected, new, .. }, 200) => {
            let done = Some(response.body == b"true");
            Some(Operation::Cas { expected, new, done })
        }
        _ => None,
    }
}

/// Reads every key from every server: what the faults left.
fn read_back(cluster: &Cluster, shared: &Shared) -> Result<()> {
    for agent in &cluster.agents {
        let mut client = agent.client();
        for (key, history) in lock(&shared.histories).iter_mut() {
            let start = shared.moment();
            let response = client.get(&format!("/v1/kv/{key}?raw"))?;
            let read = answered(Operation::Get(None), &response, &mut Known::default());
            let operation = read.with_context(|| format!("{} {key}: {response:?}", agent.name))?;
            let end = Some(shared.moment());
            history.push(Event { client: usize::MAX, start, end, operation });
        }
    }
    Ok(())
}

fn judge(shared: &Shared, tally: &mut Tally) -> Result<()> {
    let histories = lock(&shared.histories);
    let events = || histories.values().flatten();
    let write = |event: &&Event| !matches!(event.operation, Operation::Get(_));
    tally.keys = histories.len();
    tally.answered = events().filter(|event| event.end.is_some()).count();
    tally.acknowledged = events().filter(write).filter(|event| event.end.is_some()).count();
    tally.unknown = events().filter(|event| event.end.is_none()).count();
    let times = lock(&shared.acknowledgements);
    let gaps = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
    tally.longest_stall = gaps.max().unwrap_or_default();
    for (key, history) in histories.iter() {
        if let Err(contradiction) = linear::check(history) {
            let mut lines: Vec<String> =
                history.iter().enumerate().map(|(i, event)| format!("{i}: {event:?}")).collect();
            lines.sort();
            bail!("{key} isn't linearizable: {contradiction:?}\n{}", lines.join("\n"));
        }
    }
    Ok(())
}
