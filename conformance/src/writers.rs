//! Writers and readers: clients that put, read, compare-and-set and delete a few keys through agents, and note what came of
//! it, for the checker of linearizability.
//!
//! What is held: every acknowledged write is there, none appears that nobody asked for, and each key's history is
//! linearizable. A request without an answer, or with one that leaves its outcome open, may have happened or not; one
//! that is answered by `No cluster leader` has not.
//!
//! Each write's value is its own, so a value names its write; a compare-and-set by index is one by the value that
//! its client read under that index. Clients move on to fresh keys, since a history's check costs more the more
//! open ends it has.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use spec::entropy::{Entropy as _, Seeded};

use crate::{
    agent::Agent,
    http::{Address, Body, Client, Failure, Request, Response},
    linear::{self, Event, Operation, Value},
    process::wait_for,
};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whom a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Any agent, by chance, each time.
    All,
    /// One agent only: one that doesn't answer holds up its own clients, and nobody else's.
    One,
}

/// What the clients did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were answered.
    pub answered: usize,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Writes whose outcome is unknown.
    pub unknown: usize,
    /// The longest time without any acknowledged write.
    pub longest_stall: Duration,
    /// Keys whose histories were checked.
    pub keys: usize,
}

/// A write that was acknowledged, in time since the clients' start.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    asked: Duration,
    answered: Duration,
}

/// What the clients share.
struct Shared {
    seed: u64,
    agents: Vec<Address>,
    spread: Spread,
    start: Instant,
    stop: AtomicBool,
    values: AtomicU64,
    clock: AtomicU64,
    histories: Mutex<BTreeMap<String, Vec<Event>>>,
    /// Of each key, the requests of which nothing came, and why: for the report, should one of them have happened after all.
    refused: Mutex<BTreeMap<String, Vec<String>>>,
    acknowledged: Mutex<Vec<Acknowledged>>,
}

impl Shared {
    /// A moment: later calls give later ones, and what ended before another began has the lower ones.
    fn moment(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// The longest time without an acknowledged write from `since` on.
    fn longest_stall(&self, since: Duration) -> Duration {
        let acknowledged = lock(&self.acknowledged);
        let later = acknowledged.iter().map(|write| write.answered).filter(|at| *at >= since);
        let mut last = since;
        later
            .map(|at| at.saturating_sub(std::mem::replace(&mut last, at)))
            .max()
            .unwrap_or_default()
    }
}

/// Clients on threads of their own, until they are stopped.
pub struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts so many clients of these agents.
    pub fn start(agents: &[Address], clients: usize, spread: Spread, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            seed,
            agents: agents.to_vec(),
            spread,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            values: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            histories: Mutex::default(),
            refused: Mutex::default(),
            acknowledged: Mutex::default(),
        });
        let client = |client| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || run_client(client, &shared))
        };
        let threads = (0..clients).map(client).collect();
        Self { shared, threads }
    }

    /// The time since their start.
    pub fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// Waits for the acknowledgement of a write that is asked for from this moment on; gives how long that took.
    pub fn wait_for_write(&self, limit: Duration) -> Result<Duration> {
        let since = self.elapsed();
        wait_for("an acknowledged write", limit, || {
            let acknowledged = lock(&self.shared.acknowledged);
            let newest = acknowledged.iter().rev().take_while(|write| write.answered >= since);
            let asked_since = newest.filter(|write| write.asked >= since);
            asked_since.map(|write| write.answered.saturating_sub(since)).min()
        })
    }

    /// The longest time without an acknowledged write from `since` on, a time since their start.
    pub fn longest_stall(&self, since: Duration) -> Duration {
        self.shared.longest_stall(since)
    }

    /// Stops them, and gives what they noted.
    pub fn stop(mut self) -> History {
        self.end();
        History(Arc::clone(&self.shared))
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.end();
    }
}

/// What clients asked for, and what came of it.
pub struct History(Arc<Shared>);

impl History {
    /// Reads every key once more through each of these agents, and checks each key's history.
    pub fn judge(self, agents: &[&Agent]) -> Result<Tally> {
        let Self(shared) = self;
        let keys: Vec<String> = lock(&shared.histories).keys().cloned().collect();
        thread::scope(|scope| {
            let read = |agent| {
                let (shared, keys) = (&shared, &keys);
                scope.spawn(move || read_back(agent, keys, shared))
            };
            let readers: Vec<_> = agents.iter().map(|agent| read(*agent)).collect();
            readers.into_iter().try_for_each(|reader| {
                reader.join().unwrap_or_else(|_| Err(anyhow!("a reader panicked")))
            })
        })?;
        judge(&shared)
    }
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
    let agents = shared.agents.iter();
    let mut connections: Vec<Client> =
        agents.map(|agent| Client::at(agent.clone(), PATIENCE)).collect();
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    while !shared.stop.load(Ordering::SeqCst) {
        // Keys of this second: a few clients meet on each, and each gets some dozens of operations.
        let second = shared.start.elapsed().as_secs();
        let key = format!("writers/{}/{}/{}", shared.seed, second / 2, chance.choose(4));
        let agent = match shared.spread {
            Spread::All => chance.choose(shared.agents.len()),
            Spread::One => client % shared.agents.len(),
        };
        let connection = &mut connections[agent];
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
    let (asked, start) = (shared.start.elapsed(), shared.moment());
    let outcome = connection.send(&Request { method, target: &target, headers: &[], body });
    let refused = |why: &str| {
        let end = shared.moment();
        let line = format!("client {client}, {start} to {end}: {method} {target} {text}: {why}");
        lock(&shared.refused).entry(key.to_owned()).or_default().push(line);
        false
    };
    let answer = match outcome {
        Err(Failure::NotSent(error)) => return refused(&format!("not sent: {error:#}")),
        Err(Failure::Unknown(_)) => None,
        // If it did happen all the same, somebody will read what nobody wrote.
        Ok(response) if nothing_happened(&response) => return refused(&response.text()),
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
        let mut acknowledged = lock(&shared.acknowledged);
        acknowledged.push(Acknowledged { asked, answered: shared.start.elapsed() });
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
            // The index of a single key's answer is its ModifyIndex. What is no number nobody wrote: an empty value, which
            // would otherwise pass for none.
            let value = response.text().parse().unwrap_or(u64::MAX);
            *last = Known { value: Some(value), index: response.index()? };
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

/// Whether the answer says that nothing came of the request.
fn nothing_happened(response: &Response) -> bool {
    let text = response.text();
    response.status == 500
        && (text == "No cluster leader"
            || text == "No known Consul servers"
            || text.starts_with("rpc error getting client: failed to get conn"))
}

/// Reads every key through an agent: what the faults left.
fn read_back(agent: &Agent, keys: &[String], shared: &Shared) -> Result<()> {
    let mut client = agent.client();
    for key in keys {
        let start = shared.moment();
        let response = client.get(&format!("/v1/kv/{key}?raw"))?;
        let read = answered(Operation::Get(None), &response, &mut Known::default());
        let operation = read.with_context(|| format!("{} {key}: {response:?}", agent.name))?;
        let event = Event { client: usize::MAX, start, end: Some(shared.moment()), operation };
        lock(&shared.histories).entry(key.clone()).or_default().push(event);
    }
    Ok(())
}

fn judge(shared: &Shared) -> Result<Tally> {
    let histories = lock(&shared.histories);
    let events = || histories.values().flatten();
    let write = |event: &&Event| !matches!(event.operation, Operation::Get(_));
    let tally = Tally {
        answered: events().filter(|event| event.end.is_some()).count(),
        acknowledged: events().filter(write).filter(|event| event.end.is_some()).count(),
        unknown: events().filter(|event| event.end.is_none()).count(),
        longest_stall: shared.longest_stall(Duration::ZERO),
        keys: histories.len(),
    };
    for (key, history) in histories.iter() {
        if let Err(contradiction) = linear::check(history) {
            let mut lines: Vec<String> =
                history.iter().enumerate().map(|(i, event)| format!("{i}: {event:?}")).collect();
            lines.sort();
            lines.extend(lock(&shared.refused).remove(key).unwrap_or_default());
            bail!("{key} isn't linearizable: {contradiction:?}\n{}", lines.join("\n"));
        }
    }
    Ok(tally)
}
