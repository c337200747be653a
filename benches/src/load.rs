//! Closed and paced loops of many connections on one thread, over epoll.
//!
//! Each connection has one request under way: one `read` and one `write` for an answer, and a share of an
//! `epoll_wait`. A paced loop measures from the moment that a request was due, so that a stall counts for all the
//! requests that it delayed.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};

use crate::{
    histogram::Histogram,
    system::Cpu,
    wire::{Answer, Protocol, Reads, Request, Wire},
};

/// What each connection does, again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Writes its keys in turn.
    Put,
    /// Reads its keys in turn.
    Get(Reads),
}

/// One run of load.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The API.
    pub protocol: Protocol,
    /// Where connections go, in turn.
    pub targets: Vec<SocketAddr>,
    /// What they do.
    pub work: Work,
    /// How many there are.
    pub connections: usize,
    /// Keys of each connection.
    pub keys: usize,
    /// Names the keys.
    pub prefix: &'a str,
    /// A value's bytes, at least 16.
    pub size: usize,
    /// Runs before anything is counted.
    pub warm: Duration,
    /// Counted after that.
    pub measure: Duration,
    /// Requests a second of all connections together; as fast as answers come where it is none.
    pub rate: Option<u32>,
    /// Stops each connection after so many requests.
    pub limit: Option<u64>,
    /// The servers' processes.
    pub pids: Vec<u32>,
}

/// What a run gave.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Latencies of the counted answers.
    pub latencies: Histogram,
    /// How long was counted.
    pub elapsed: Duration,
    /// Answers that were not what was asked for, over the whole run.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// What the servers used meanwhile.
    pub server_cpu: Duration,
    /// What this process used meanwhile.
    pub client_cpu: Duration,
    /// The sequence number last acknowledged for each key; none where its last write's outcome isn't known.
    pub acknowledged: Vec<(String, Option<u64>)>,
}

/// The name of a connection's key.
pub fn key_name(prefix: &str, connection: usize, key: usize) -> String {
    format!("bench/{prefix}/{connection:03}-{key:04}")
}

/// Fills `value` with what belongs to a sequence number.
pub fn fill(value: &mut [u8], sequence: u64) {
    let _ = write!(&mut value[..16], "{sequence:016x}");
}

/// A value of `size` bytes that doesn't compress well; [`fill`] makes it one of its own.
pub fn blank(size: usize) -> Vec<u8> {
    let mut random = spec::entropy::Seeded::new(size as u64);
    (0..size.max(16)).map(|_| b' ' + 1 + (random.next_u64() % 90) as u8).collect()
}

/// One connection of a load.
pub struct Client {
    stream: TcpStream,
    wire: Wire,
    input: Vec<u8>,
    filled: usize,
    out: Vec<u8>,
    sent: usize,
    watching_out: bool,
}

impl Client {
    /// Connects.
    pub fn connect(protocol: Protocol, target: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        let mut out = vec![];
        let wire = Wire::open(protocol, &mut out);
        let input = vec![0; 32 << 10];
        Ok(Self { stream, wire, input, filled: 0, out, sent: 0, watching_out: false })
    }

    /// Takes an answer from what was read; calls `read` with it and its body.
    fn take<T>(&mut self, read: impl FnOnce(&Answer, &[u8]) -> T) -> Result<Option<T>> {
        let input = &self.input[..self.filled];
        let (used, answer) = self.wire.receive(input, &mut self.out)?;
        let result = answer.map(|answer| read(&answer, self.wire.body(&answer, input)));
        self.input.copy_within(used..self.filled, 0);
        self.filled -= used;
        Ok(result)
    }

    /// Reads once; false where nothing was there.
    fn read(&mut self) -> Result<bool> {
        if self.filled == self.input.len() {
            self.input.resize(2 * self.filled, 0);
        }
        match (&self.stream).read(&mut self.input[self.filled..]) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(length) => self.filled += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("reading an answer"),
        }
        Ok(true)
    }

    /// Writes what is to be sent; says whether all of it went.
    fn flush(&mut self) -> Result<bool> {
        while self.sent < self.out.len() {
            match (&self.stream).write(&self.out[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error).context("sending a request"),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Asks and waits: for what isn't measured.
    pub fn ask(&mut self, request: Request<'_>, timeout: Duration) -> Result<(Answer, Vec<u8>)> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_read_timeout(Some(timeout))?;
        self.wire.request(request, &mut self.out);
        loop {
            self.flush()?;
            if let Some(answer) = self.take(|answer, body| (answer.clone(), body.to_vec()))? {
                self.flush()?;
                return Ok(answer);
            }
            ensure!(self.flush()? && self.read()?, "no answer in time");
        }
    }
}

/// The connections of a loop, and their epoll.
pub(crate) struct Clients {
    epoll: OwnedFd,
    pub(crate) all: Vec<Client>,
    events: Vec<epoll::Event>,
}

impl Clients {
    pub(crate) fn connect(
        protocol: Protocol,
        targets: &[SocketAddr],
        connections: usize,
    ) -> Result<Self> {
        let mut clients = Self::none()?;
        for target in targets.iter().cycle().take(connections) {
            clients.add(protocol, *target)?;
        }
        Ok(clients)
    }

    pub(crate) fn none() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, all: vec![], events: Vec::with_capacity(1) })
    }

    /// Opens one connection more; gives its number.
    pub(crate) fn add(&mut self, protocol: Protocol, target: SocketAddr) -> Result<usize> {
        let number = self.all.len();
        let client = Client::connect(protocol, target)?;
        client.stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.epoll, &client.stream, data, epoll::EventFlags::IN)?;
        self.all.push(client);
        self.events.reserve(self.all.len());
        Ok(number)
    }

    pub(crate) fn request(&mut self, number: usize, request: Request<'_>) -> Result<()> {
        let client = &mut self.all[number];
        client.wire.request(request, &mut client.out);
        self.flush(number)
    }

    fn flush(&mut self, number: usize) -> Result<()> {
        let client = &mut self.all[number];
        let blocked = !client.flush()?;
        if blocked != client.watching_out {
            client.watching_out = blocked;
            let out = if blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let data = epoll::EventData::new_u64(number as u64);
            epoll::modify(&self.epoll, &client.stream, data, epoll::EventFlags::IN | out)?;
        }
        Ok(())
    }

    /// Waits at most until `until`; gives the numbers of the connections that have something to read.
    pub(crate) fn wait(&mut self, until: Instant, ready: &mut Vec<usize>) -> Result<()> {
        let timeout = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(timeout)?;
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.clear();
        ready.extend(self.events.iter().map(|event| event.data.u64() as usize));
        Ok(())
    }

    /// Reads from a connection and writes what waits; gives the answer that came, and its text where it isn't ok.
    pub(crate) fn receive(&mut self, number: usize) -> Result<Option<(Answer, Option<String>)>> {
        let client = &mut self.all[number];
        client.read()?;
        let answer = client.take(|answer, body| {
            let text = || format!("{} {}", answer.status, String::from_utf8_lossy(body));
            (answer.clone(), (!answer.ok).then(text))
        })?;
        if answer.is_none() {
            self.flush(number)?;
        }
        Ok(answer)
    }
}

/// Where a run is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Warm,
    Measure,
    Drain,
}

/// One connection's part in a run.
struct Slot {
    keys: Vec<(String, Option<u64>)>,
    /// Requests made so far; the next one's sequence number.
    made: u64,
    /// When the request under way was due.
    started: Instant,
}

struct Run<'a> {
    plan: &'a Plan<'a>,
    clients: Clients,
    slots: Vec<Slot>,
    value: Vec<u8>,
    phase: Phase,
    figures: Figures,
    busy: usize,
    /// Connections of a paced run that wait for the next request.
    idle: VecDeque<usize>,
    due: Option<(Instant, Duration)>,
}

/// Runs a load.
pub fn run(plan: &Plan<'_>) -> Result<Figures> {
    let now = Instant::now();
    let slots = (0..plan.connections)
        .map(|number| Slot {
            keys: (0..plan.keys).map(|key| (key_name(plan.prefix, number, key), None)).collect(),
            made: 0,
            started: now,
        })
        .collect();
    let mut run = Run {
        plan,
        clients: Clients::connect(plan.protocol, &plan.targets, plan.connections)?,
        slots,
        value: blank(plan.size),
        phase: Phase::Warm,
        figures: Figures::default(),
        busy: 0,
        idle: (0..plan.connections).collect(),
        due: plan.rate.map(|rate| (now, Duration::from_secs(1) / rate)),
    };
    run.turns()?;
    let Run { mut figures, slots, .. } = run;
    figures.acknowledged = slots.into_iter().flat_map(|slot| slot.keys).collect();
    Ok(figures)
}

impl Run<'_> {
    fn turns(&mut self) -> Result<()> {
        let measure = Instant::now() + self.plan.warm;
        let drain = measure + self.plan.measure;
        let give_up = drain + Duration::from_secs(15);
        let (mut began, mut cpu) = (measure, Cpu::default());
        let mut ready = Vec::with_capacity(self.plan.connections);
        loop {
            let now = Instant::now();
            let next = match self.phase {
                Phase::Warm if now >= measure => {
                    (began, cpu) = (now, Cpu::of(&self.plan.pids)?);
                    self.phase = Phase::Measure;
                    drain
                }
                Phase::Warm => measure,
                Phase::Measure if now >= drain => {
                    self.phase = Phase::Drain;
                    let used = Cpu::of(&self.plan.pids)?;
                    self.figures.elapsed = now - began;
                    self.figures.server_cpu = used.servers.saturating_sub(cpu.servers);
                    self.figures.client_cpu = used.own.saturating_sub(cpu.own);
                    give_up
                }
                Phase::Measure => drain,
                Phase::Drain if now >= give_up => bail!("{} requests got no answer", self.busy),
                Phase::Drain => give_up,
            };
            self.issue(now)?;
            if self.busy == 0 && (self.phase == Phase::Drain || self.plan.rate.is_none()) {
                return Ok(());
            }
            let due = self.due.filter(|_| !self.idle.is_empty() && self.phase != Phase::Drain);
            self.clients.wait(due.map_or(next, |(due, _)| due.min(next)), &mut ready)?;
            for number in &ready {
                self.receive(*number)?;
            }
        }
    }

    /// Starts what is due on idle connections.
    fn issue(&mut self, now: Instant) -> Result<()> {
        while self.phase != Phase::Drain && !self.idle.is_empty() {
            let mut started = now;
            if let Some((due, gap)) = &mut self.due {
                if *due > now {
                    break;
                }
                started = *due;
                *due += *gap;
            }
            let Some(number) = self.idle.pop_front() else { break };
            self.request(number, started)?;
        }
        Ok(())
    }

    fn request(&mut self, number: usize, started: Instant) -> Result<()> {
        let slot = &mut self.slots[number];
        if self.plan.limit.is_some_and(|limit| slot.made >= limit) {
            return Ok(());
        }
        let (key, _) = &slot.keys[(slot.made % slot.keys.len() as u64) as usize];
        let request = match self.plan.work {
            Work::Get(reads) => Request::Get { key, reads },
            Work::Put => {
                fill(&mut self.value, slot.made);
                Request::Put { key, value: &self.value }
            }
        };
        slot.made += 1;
        slot.started = started;
        self.busy += 1;
        self.clients.request(number, request)
    }

    fn receive(&mut self, number: usize) -> Result<()> {
        let Some((answer, error)) = self.clients.receive(number)? else { return Ok(()) };
        let now = Instant::now();
        self.busy -= 1;
        let slot = &mut self.slots[number];
        let made = slot.made - 1;
        let key = (made % slot.keys.len() as u64) as usize;
        slot.keys[key].1 = answer.ok.then_some(made);
        if self.phase == Phase::Measure && answer.ok {
            self.figures.latencies.record(now - slot.started);
        }
        if let Some(error) = error {
            self.figures.errors += 1;
            self.figures.first_error.get_or_insert(error);
        }
        if self.phase == Phase::Drain {
            return Ok(());
        }
        if self.plan.rate.is_some() {
            self.idle.push_back(number);
            return Ok(());
        }
        self.request(number, now)
    }
}
