//! What is measured, and its check: no figure stands without a look whether the writes are there on another server.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{
    histogram::Histogram,
    load::{Client, Clients, Figures, Plan, Work, blank, fill, key_name, run},
    system::{Cluster, Cpu, System, resident},
    wire::{Protocol, Reads, Request},
};

/// What a trial does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Puts at the leader.
    Put,
    /// Puts at the followers in turn.
    PutAtFollowers,
    /// Puts at the leader at a fixed rate a second.
    Paced(u32),
    /// Gets: at the leader, or at the followers where stale ones are allowed.
    Get(Reads),
    /// From the start of the processes to the first put; so many servers.
    Start(usize),
    /// One write wakes all connections, which wait for it.
    Wake,
}

/// One load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trial {
    /// Its name in tables and options.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// How many connections.
    pub connections: usize,
    /// A value's bytes.
    pub size: usize,
    /// Whether it belongs to the quick selection.
    pub quick: bool,
}

const fn trial(
    name: &'static str,
    kind: Kind,
    connections: usize,
    size: usize,
    quick: bool,
) -> Trial {
    Trial { name, kind, connections, size, quick }
}

/// All loads.
pub const TRIALS: [Trial; 24] = [
    trial("start-1", Kind::Start(1), 1, 64, true),
    trial("start-3", Kind::Start(3), 1, 64, true),
    trial("put-64B-1", Kind::Put, 1, 64, true),
    trial("put-64B-64", Kind::Put, 64, 64, true),
    trial("put-64B-256", Kind::Put, 256, 64, false),
    trial("put-1KiB-1", Kind::Put, 1, 1 << 10, false),
    trial("put-1KiB-64", Kind::Put, 64, 1 << 10, true),
    trial("put-1KiB-256", Kind::Put, 256, 1 << 10, false),
    trial("put-16KiB-1", Kind::Put, 1, 16 << 10, false),
    trial("put-16KiB-64", Kind::Put, 64, 16 << 10, false),
    trial("put-16KiB-256", Kind::Put, 256, 16 << 10, false),
    trial("put-followers-64", Kind::PutAtFollowers, 64, 64, true),
    trial("put-paced-1500", Kind::Paced(1500), 64, 64, false),
    trial("get-consistent-64", Kind::Get(Reads::Consistent), 64, 64, true),
    trial("get-default-64", Kind::Get(Reads::Default), 64, 64, false),
    trial("get-consistent-1", Kind::Get(Reads::Consistent), 1, 64, false),
    trial("get-consistent-256", Kind::Get(Reads::Consistent), 256, 64, false),
    trial("get-consistent-16KiB-64", Kind::Get(Reads::Consistent), 64, 16 << 10, false),
    trial("get-stale-1", Kind::Get(Reads::Stale), 1, 64, false),
    trial("get-stale-64", Kind::Get(Reads::Stale), 64, 64, true),
    trial("get-stale-256", Kind::Get(Reads::Stale), 256, 64, false),
    trial("wake-1000", Kind::Wake, 1000, 64, false),
    trial("wake-4000", Kind::Wake, 4000, 64, false),
    trial("wake-10000", Kind::Wake, 10_000, 64, false),
];

/// One run's figures.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Answers a second; none where a time was measured.
    pub rate: Option<f64>,
    /// The median latency, or the time.
    pub p50: Duration,
    /// The 99th percentile; of a wake-up the last one's.
    pub p99: Duration,
    /// The servers' CPU time for one answer.
    pub server_cpu: Duration,
    /// The share of one core that the load generator took.
    pub client_busy: f64,
    /// The bytes that the servers hold for each connection that waits; none where none does.
    pub waiting_bytes: Option<f64>,
    /// Wrong answers, and values that another server doesn't have.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
}

impl Sample {
    /// A measured time.
    pub fn time(time: Duration) -> Self {
        Self { p50: time, p99: time, ..Self::default() }
    }

    fn of(figures: &Figures) -> Self {
        let answers = figures.latencies.total();
        let seconds = figures.elapsed.as_secs_f64();
        Self {
            rate: Some(answers as f64 / seconds),
            p50: figures.latencies.quantile(0.5),
            p99: figures.latencies.quantile(0.99),
            server_cpu: figures.server_cpu.div_f64(answers.max(1) as f64),
            client_busy: figures.client_cpu.as_secs_f64() / seconds,
            waiting_bytes: None,
            errors: figures.errors,
            first_error: figures.first_error.clone(),
        }
    }
}

impl Trial {
    /// Whether a system can do it: the bound only takes puts at its leader.
    pub fn fits(&self, system: System) -> bool {
        system != System::Bound || matches!(self.kind, Kind::Put | Kind::Paced(_))
    }

    /// Whether it wants servers that did nothing before: memory that others freed would hide what it takes.
    pub fn alone(&self) -> bool {
        matches!(self.kind, Kind::Start(1) | Kind::Wake)
    }

    /// How many servers it wants.
    pub fn servers(&self) -> usize {
        if let Kind::Start(count) = self.kind { count } else { 3 }
    }

    /// Runs it once on a cluster that is up. `tag` makes its keys its own.
    pub fn run(&self, cluster: &mut Cluster, tag: &str, measure: Duration) -> Result<Sample> {
        cluster.find_leader()?;
        let leader = vec![cluster.leader()];
        let mut plan = Plan {
            protocol: cluster.system.protocol(),
            targets: leader,
            work: Work::Put,
            connections: self.connections,
            keys: 4096 / self.connections.min(1024),
            prefix: tag,
            size: self.size,
            warm: (measure / 4).min(Duration::from_secs(1)),
            measure,
            rate: None,
            limit: None,
            pids: cluster.pids(),
        };
        match self.kind {
            Kind::Start(_) => return Ok(Sample::time(cluster.first_put)),
            Kind::Wake => return wake(self, cluster, tag),
            Kind::Put => {}
            Kind::PutAtFollowers => plan.targets = cluster.followers(),
            Kind::Paced(rate) => plan.rate = Some(rate),
            Kind::Get(reads) => {
                let keys = (1024 / self.connections).max(1);
                let filled =
                    run(&Plan { keys, limit: Some(keys as u64), measure: FILL, ..plan.clone() })?;
                check(&filled, cluster, self.size)?;
                (plan.keys, plan.work) = (keys, Work::Get(reads));
                if reads == Reads::Stale {
                    plan.targets = cluster.followers();
                }
                return Ok(Sample::of(&run(&plan)?));
            }
        }
        let figures = run(&plan)?;
        let mut sample = Sample::of(&figures);
        if let Err(error) = check(&figures, cluster, self.size) {
            sample.errors += 1;
            sample.first_error.get_or_insert(format!("{error:#}"));
        }
        Ok(sample)
    }
}

const FILL: Duration = Duration::from_mins(1);

/// Looks whether a sample of what was acknowledged is there on another server than the one that took it.
fn check(figures: &Figures, cluster: &Cluster, size: usize) -> Result<()> {
    let known: Vec<_> =
        figures.acknowledged.iter().filter_map(|(key, made)| Some((key, (*made)?))).collect();
    ensure!(!known.is_empty(), "nothing was acknowledged");
    let other = cluster.followers().pop().unwrap_or(cluster.leader());
    let mut client = Client::connect(cluster.system.protocol(), other)?;
    let mut value = blank(size);
    let deadline = Instant::now() + Duration::from_secs(3);
    for (key, made) in known.iter().step_by((known.len() / 200).max(1)) {
        fill(&mut value, *made);
        loop {
            let request = Request::Check { key, reads: Reads::Stale };
            let (answer, found) = client.ask(request, Duration::from_secs(5))?;
            if answer.ok && found == value {
                break;
            }
            let found = String::from_utf8_lossy(&found[..found.len().min(16)]);
            ensure!(Instant::now() < deadline, "{key} is {found:?} at {other}, not number {made}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// Lets all connections wait for a change of one key, then changes it.
fn wake(trial: &Trial, cluster: &Cluster, tag: &str) -> Result<Sample> {
    let (protocol, leader) = (cluster.system.protocol(), cluster.leader());
    let key = key_name(tag, 0, 0);
    let patience = Duration::from_secs(10);
    let mut client = Client::connect(protocol, leader)?;
    client.ask(Request::Put { key: &key, value: b"asleep" }, patience)?;
    let check = Request::Check { key: &key, reads: Reads::Default };
    let index = client.ask(check, patience)?.0.index;
    let waiters = trial.connections;
    let asleep = resident(&cluster.pids())?;
    let mut clients = Clients::none()?;
    // Each asks at once: who opens a connection and says nothing is soon shown the door.
    for _ in 0..waiters {
        let number = clients.add(protocol, leader)?;
        clients.request(number, Request::Wait { key: &key, index })?;
    }
    let writer = clients.add(protocol, leader)?;
    // A watch says that it is there; a blocking query says nothing, so it gets time to settle.
    if protocol == Protocol::Grpc {
        let settled = answers(&mut clients, waiters, Instant::now(), patience)?;
        ensure!(settled.total() == waiters as u64, "{} watches were opened", settled.total());
    }
    let settling = Duration::from_millis(500 + waiters as u64 / 5);
    let early = answers(&mut clients, 1, Instant::now(), settling)?;
    ensure!(early.total() == 0, "{} waits ended before the write", early.total());
    let held = resident(&cluster.pids())?.saturating_sub(asleep);
    let before = Cpu::of(&cluster.pids())?;
    let start = Instant::now();
    clients.request(writer, Request::Put { key: &key, value: b"awake" })?;
    let woken = answers(&mut clients, waiters + 1, start, patience)?;
    let elapsed = start.elapsed();
    let after = Cpu::of(&cluster.pids())?;
    let missing = (waiters as u64 + 1).saturating_sub(woken.total());
    Ok(Sample {
        rate: None,
        p50: woken.quantile(0.5),
        p99: woken.quantile(1.0),
        server_cpu: after.servers.saturating_sub(before.servers) / waiters as u32,
        client_busy: after.own.saturating_sub(before.own).as_secs_f64() / elapsed.as_secs_f64(),
        waiting_bytes: Some(held as f64 / waiters as f64),
        errors: missing,
        first_error: (missing > 0).then(|| format!("{missing} of {waiters} waits didn't end")),
    })
}

/// Collects `wanted` answers, or those that come within `patience`.
fn answers(
    clients: &mut Clients,
    wanted: usize,
    start: Instant,
    patience: Duration,
) -> Result<Histogram> {
    let mut latencies = Histogram::default();
    let mut ready = vec![];
    let deadline = start + patience;
    while latencies.total() < wanted as u64 && Instant::now() < deadline {
        clients.wait(deadline, &mut ready)?;
        for number in &ready {
            if let Some((_, error)) = clients.receive(*number).context("waiting")? {
                ensure!(error.is_none(), "a wait was answered with {error:?}");
                latencies.record(start.elapsed());
            }
        }
    }
    Ok(latencies)
}
