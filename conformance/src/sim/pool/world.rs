//! A pool in virtual time: what the agent's task, its sockets and its disk's thread do around a turn of gossip.

use std::{collections::BTreeMap, fmt, time::Duration};

use proconsul::gossip::turn::{Input, Outbox, Turn};
use spec::{
    entropy::{Entropy as _, Seeded},
    machine::Ticket,
    serf::{Command, Output, Packet},
    swim::{Endpoint, Message, Peer},
    time::Instant,
};

use super::{
    brief::Brief,
    carrier::Carrier,
    member::{Dial, Member},
};
use crate::sim::{
    Violation, Weather, ghosts::require, journal::Journal, network::Network, schedule::Schedule,
};

/// How long a stream may take, at either end (memberlist's TCP timeout on a local network).
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// Inputs that one turn takes, as in the agent.
const MOST_INPUTS: usize = 256;
/// Turns of one member at one instant: one that spins would never let time pass.
const MOST_SPINS: u32 = 10_000;
/// The most that a host waits before it tries again to join (`retry_interval`).
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// The request by which a host joins; others are numbered from here on.
const JOIN: u64 = 1;

/// What happens at some moment.
#[derive(Debug)]
enum Happening {
    /// A datagram arrives.
    Datagram {
        from: usize,
        from_endpoint: Endpoint,
        to: usize,
        to_endpoint: Endpoint,
        message: Packet,
    },
    /// A stream is open, and what was asked on it has arrived.
    Opened { dial: Dial, to: usize, to_endpoint: Endpoint, message: Packet },
    /// An answer on a stream arrives.
    Answer { dial: Dial, by: usize, by_endpoint: Endpoint, message: Packet },
    /// A stream gave no answer; `refused` tells that nobody listens there.
    Broken { dial: Dial, refused: bool },
    /// A stream is served no longer.
    Forgotten { member: usize, run: u64, stream: u64 },
    /// A sync ends.
    Synced { member: usize, run: u64, ticket: Ticket },
    /// A timer is due.
    Wake { member: usize, at: Instant },
    /// A member that stood still goes on.
    Resume { member: usize },
    /// A host tries to join.
    Join { member: usize, run: u64 },
    /// Something that isn't the world's.
    Chore(Chore),
}

/// What the trial around a world has to do at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Something goes wrong.
    Fault,
    /// Cuts end.
    Heal,
    /// A member starts.
    Start(usize),
    /// Somebody asks a member for something.
    Request,
    /// See whether what is waited for has come.
    Look,
}

/// How far a world went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// Something happened.
    Step,
    /// This is to be done.
    Chore(Chore),
    /// The end of the time.
    Over,
}

/// Who looks at all that happens.
pub trait Watch {
    /// A member has started.
    fn started(&mut self, _member: &Member) {}

    /// A member is about to take a turn.
    fn before(&mut self, _member: &Member) {}

    /// A member took a turn; `only_tables` tells that it heard nothing but push/pulls.
    fn after(
        &mut self,
        _now: Instant,
        _member: &Member,
        _only_tables: bool,
    ) -> Result<(), Violation> {
        Ok(())
    }

    /// A sync of a member's disk ended.
    fn synced(&mut self, _member: &Member) {}

    /// A member sends something; what is broken on purpose may be changed.
    fn sent(&mut self, _member: &Member, _message: &mut Packet) -> Result<(), Violation> {
        Ok(())
    }

    /// A member's host is told something.
    fn told(&mut self, now: Instant, member: &Member, output: &Output) -> Result<(), Violation>;
}

/// A pool, and all around it.
pub struct World<W> {
    /// What chance is drawn from.
    pub chance: Seeded,
    /// The members, by place.
    pub members: Vec<Member>,
    /// The links between them.
    pub network: Network,
    /// How well they carry.
    pub weather: Weather,
    /// The most that a sync takes.
    pub sync: Duration,
    /// What was sent, as bytes.
    pub carrier: Carrier,
    /// Who looks.
    pub watch: W,
    /// What happened, in lines.
    pub journal: Journal,
    /// Whether each input and each output has a line.
    pub is_detailed: bool,
    /// Turns of all members.
    pub turns: u64,
    /// Messages that were lost, by chance or by a cut.
    pub lost_messages: u64,
    /// Members that have left since the trial last looked.
    pub left: Vec<usize>,
    schedule: Schedule<Happening>,
    places: BTreeMap<Endpoint, usize>,
    dials: u64,
    spin: (Instant, usize, u32),
}

impl<W: Watch> World<W> {
    /// Members that don't run yet.
    pub fn new(seed: u64, members: usize, weather: Weather, carrier: Carrier, watch: W) -> Self {
        let members: Vec<Member> = (0..members).map(Member::new).collect();
        Self {
            chance: Seeded::new(seed),
            places: members.iter().map(|member| (member.endpoint, member.place)).collect(),
            members,
            network: Network::default(),
            weather,
            sync: Duration::from_millis(5),
            carrier,
            watch,
            journal: Journal::default(),
            is_detailed: true,
            turns: 0,
            lost_messages: 0,
            left: Vec::new(),
            schedule: Schedule::default(),
            dials: 0,
            spin: (Instant(0), 0, 0),
        }
    }

    /// The moment.
    pub fn now(&self) -> Instant {
        self.schedule.now()
    }

    /// Has something done after a while.
    pub fn after(&mut self, delay: Duration, chore: Chore) {
        self.schedule.after(delay, Happening::Chore(chore));
    }

    /// Writes a line.
    pub fn note(&mut self, text: fmt::Arguments<'_>) {
        self.journal.line(self.schedule.now(), text);
    }

    /// Lets the next thing happen, if it does until `end`.
    pub fn advance(&mut self, end: Instant) -> Result<Advance, Violation> {
        match self.schedule.pop(end) {
            None => return Ok(Advance::Over),
            Some(Happening::Chore(chore)) => return Ok(Advance::Chore(chore)),
            Some(Happening::Datagram { from, from_endpoint, to, to_endpoint, message }) => {
                if self.members[to].endpoint == to_endpoint && !self.network.is_cut(from, to) {
                    let from = Peer::Endpoint(from_endpoint);
                    self.turn(to, vec![Input::Message { from, message }])?;
                }
            }
            Some(Happening::Opened { dial, to, to_endpoint, message }) => {
                self.opened(dial, to, to_endpoint, message)?;
            }
            Some(Happening::Answer { dial, by, by_endpoint, message }) => {
                let cut = self.network.is_cut(by, dial.by);
                if !cut && self.members[dial.by].dialled.remove(&dial.number).is_some() {
                    let from = Peer::Endpoint(by_endpoint);
                    self.turn(dial.by, vec![Input::Message { from, message }])?;
                }
            }
            Some(Happening::Broken { dial, refused }) => {
                if let Some(to) = self.members[dial.by].dialled.remove(&dial.number) {
                    let failed = Command::StreamFailed { to, refused };
                    self.turn(dial.by, vec![Input::Command(failed)])?;
                }
            }
            Some(Happening::Forgotten { member, run, stream }) => {
                if self.members[member].run == run {
                    self.members[member].accepted.remove(&stream);
                }
            }
            Some(Happening::Synced { member, run, ticket }) if self.runs(member, run) => {
                self.members[member].disk.synced(ticket);
                self.watch.synced(&self.members[member]);
                self.turn(member, vec![Input::Durable(ticket)])?;
                self.sync(member);
            }
            Some(Happening::Wake { member, at }) if self.members[member].wake == at => {
                self.turn(member, Vec::new())?;
            }
            Some(Happening::Resume { member }) => self.resume(member)?,
            Some(Happening::Join { member, run }) if self.runs(member, run) => {
                self.join(member)?;
            }
            Some(Happening::Synced { .. } | Happening::Wake { .. } | Happening::Join { .. }) => {}
        }
        Ok(Advance::Step)
    }

    fn runs(&self, member: usize, run: u64) -> bool {
        self.members[member].turn.is_some() && self.members[member].run == run
    }

    // Hosts.

    /// Starts a member from its disk; its host joins the seeds.
    pub fn start(&mut self, place: usize) -> Result<(), Violation> {
        let (now, seed) = (self.now(), self.chance.next_u64());
        let member = &mut self.members[place];
        if member.turn.is_some() {
            return Ok(());
        }
        let mut out = Outbox::default();
        member.start(now, seed, &mut out);
        self.watch.started(member);
        self.journal.line(now, format_args!("{} starts at {}", member.name, member.endpoint));
        self.deliver(place, out)?;
        self.turn(place, vec![Input::Command(Command::Start)])?;
        self.join(place)
    }

    /// Starts a member elsewhere.
    pub fn move_on(&mut self, place: usize) {
        let member = &mut self.members[place];
        self.places.remove(&member.endpoint);
        member.move_on();
        self.places.insert(member.endpoint, place);
    }

    /// The process ends between two instructions. Tells how many writes were lost; none where it didn't run.
    pub fn crash(&mut self, place: usize) -> Option<usize> {
        let member = &mut self.members[place];
        member.turn.as_ref()?;
        member.end();
        let lost = member.disk.crash(&mut self.chance);
        let now = self.schedule.now();
        let name = &self.members[place].name;
        self.journal.line(now, format_args!("{name} crashes, {lost} writes are lost"));
        Some(lost)
    }

    /// The process stands still; its disk and its connections don't.
    pub fn pause(&mut self, place: usize, until: Instant) {
        let member = &mut self.members[place];
        if member.turn.is_none() || member.paused >= until {
            return;
        }
        member.paused = until;
        let now = self.schedule.now();
        self.journal.line(now, format_args!("{} stands still until {until:?}", member.name));
        self.schedule.at(until, Happening::Resume { member: place });
    }

    /// A member that stood still takes what waited for it.
    pub fn resume(&mut self, place: usize) -> Result<(), Violation> {
        let member = &mut self.members[place];
        if member.paused > self.schedule.now() || member.turn.is_none() {
            return Ok(());
        }
        let mut waiting = member.take_waiting();
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(MOST_INPUTS));
            self.turn(place, std::mem::replace(&mut waiting, rest))?;
        }
        self.turn(place, Vec::new())
    }

    /// A host asks its member for something.
    pub fn ask(&mut self, place: usize, command: Command) -> Result<(), Violation> {
        self.turn(place, vec![Input::Command(command)])
    }

    /// A host joins again, after a while.
    pub fn rejoin_later(&mut self, place: usize, delay: Duration) {
        let run = self.members[place].run;
        self.schedule.after(delay, Happening::Join { member: place, run });
    }

    fn join(&mut self, place: usize) -> Result<(), Violation> {
        let member = &self.members[place];
        let seeds = member.seeds.iter().filter(|seed| **seed != place);
        let to: Vec<Endpoint> = seeds.map(|seed| self.members[*seed].endpoint).collect();
        if to.is_empty() {
            return Ok(());
        }
        self.ask(place, Command::Join { request: JOIN, to, ignore_old: true })
    }

    // Turns.

    fn turn(&mut self, place: usize, mut inputs: Vec<Input>) -> Result<(), Violation> {
        let now = self.schedule.now();
        let member = &mut self.members[place];
        if member.turn.is_none() {
            return Ok(());
        }
        if member.paused > now {
            for input in inputs {
                member.hold(input);
            }
            return Ok(());
        }
        for input in inputs.iter().filter(|_| self.is_detailed) {
            self.journal.line(now, format_args!("{} <- {}", member.name, Brief(input)));
        }
        let table =
            |input: &Input| matches!(input, Input::Message { message: Message::PushPull(_), .. });
        let only_tables = !inputs.is_empty() && inputs.iter().all(table);
        self.turns += 1;
        let (at, who, count) = self.spin;
        self.spin = if (at, who) == (now, place) { (at, who, count + 1) } else { (now, place, 0) };
        require(self.spin.2 < MOST_SPINS, "time_passes", || {
            format!("{MOST_SPINS} turns of {} at one instant", self.members[place].name)
        })?;
        self.watch.before(&self.members[place]);
        let member = &mut self.members[place];
        member.wake = Instant(u64::MAX);
        let mut out = Outbox::default();
        let Some(turn) = &mut member.turn else { return Ok(()) };
        turn.turn(now, &mut inputs, &mut out).map_err(|broken| Violation {
            property: broken.invariant,
            detail: format!("{:#?}", member.serf()),
        })?;
        self.watch.after(now, &self.members[place], only_tables)?;
        self.deliver(place, out)
    }

    /// Brings an outbox to where it belongs.
    fn deliver(&mut self, place: usize, out: Outbox) -> Result<(), Violation> {
        let member = &mut self.members[place];
        for (ticket, record) in out.persist {
            let last = member.disk.pending.back().map(|(ticket, _)| *ticket);
            require(last < Some(ticket), "writes_in_order", || {
                format!("{} writes {record:?} as {ticket:?} behind {last:?}", member.name)
            })?;
            member.disk.pending.push_back((ticket, record));
        }
        self.sync(place);
        for (to, message) in out.send {
            self.send(place, to, message)?;
        }
        for output in out.outputs {
            self.output(place, &output)?;
        }
        let member = &mut self.members[place];
        if let Some(at) = member.turn.as_ref().and_then(Turn::next_deadline)
            && at != member.wake
        {
            member.wake = at;
            self.schedule.at(at, Happening::Wake { member: place, at });
        }
        Ok(())
    }

    fn sync(&mut self, place: usize) {
        let member = &mut self.members[place];
        if let Some(ticket) = member.disk.sync() {
            let run = member.run;
            let delay = Duration::from_micros(100) + self.chance.jitter(self.sync);
            self.schedule.after(delay, Happening::Synced { member: place, run, ticket });
        }
    }

    fn output(&mut self, place: usize, output: &Output) -> Result<(), Violation> {
        let now = self.schedule.now();
        let member = &mut self.members[place];
        if self.is_detailed
            && let Some(told) = super::brief::told(output)
        {
            self.journal.line(now, format_args!("{} tells {told}", member.name));
        }
        self.watch.told(now, member, output)?;
        match output {
            Output::JoinDone { request: JOIN, joined: 0, .. } => {
                let sooner = Duration::from_millis(250) * (1 << member.tries.min(10));
                member.tries += 1;
                self.rejoin_later(place, RETRY_INTERVAL.min(sooner));
            }
            Output::LeaveDone { .. } => {
                // A clean stop: the disk's thread ends when all that it was given is durable.
                if let Some((ticket, _)) = member.disk.pending.back() {
                    let ticket = *ticket;
                    member.disk.synced(ticket);
                }
                member.end();
                self.left.push(place);
            }
            _ => {}
        }
        Ok(())
    }

    // The network.

    fn send(&mut self, place: usize, to: Peer, mut message: Packet) -> Result<(), Violation> {
        let member = &self.members[place];
        self.watch.sent(member, &mut message)?;
        if matches!(&message, Message::Packet(parts) if parts.is_empty()) {
            return Ok(());
        }
        let from_endpoint = member.endpoint;
        let message = self.carrier.carry(message, matches!(to, Peer::Stream(_)))?;
        match (to, message) {
            (Peer::Endpoint(to_endpoint), message @ Message::Packet(_)) => {
                let Some(to) = self.places.get(&to_endpoint).copied() else { return Ok(()) };
                let delays = self.network.deliveries(place, to, &self.weather, &mut self.chance);
                self.lost_messages += u64::from(delays.is_empty());
                let mut message = Some(message);
                for (n, delay) in delays.iter().enumerate() {
                    let last = n + 1 == delays.len();
                    let Some(message) = (if last { message.take() } else { message.clone() })
                    else {
                        break;
                    };
                    let happening = Happening::Datagram {
                        from: place,
                        from_endpoint,
                        to,
                        to_endpoint,
                        message,
                    };
                    self.schedule.after(*delay, happening);
                }
            }
            (Peer::Endpoint(to_endpoint), message) => self.dial(place, to_endpoint, message),
            (Peer::Stream(stream), message) => {
                let Some(dial) = self.members[place].accepted.remove(&stream) else {
                    return Ok(());
                };
                let delay = self.network.answer(place, dial.by, &self.weather, &mut self.chance);
                self.lost_messages += u64::from(delay.is_none());
                if let Some(delay) = delay {
                    let (by, by_endpoint) = (place, from_endpoint);
                    self.schedule
                        .after(delay, Happening::Answer { dial, by, by_endpoint, message });
                }
            }
        }
        Ok(())
    }

    fn dial(&mut self, by: usize, to_endpoint: Endpoint, message: Packet) {
        self.dials += 1;
        let dial = Dial { by, number: self.dials };
        self.members[by].dialled.insert(dial.number, to_endpoint);
        self.schedule.after(STREAM_TIMEOUT, Happening::Broken { dial, refused: false });
        let Some(to) = self.places.get(&to_endpoint).copied() else { return };
        let delay = self.network.opening(by, to, &self.weather, &mut self.chance);
        self.lost_messages += u64::from(delay.is_none());
        if let Some(delay) = delay {
            self.schedule.after(delay, Happening::Opened { dial, to, to_endpoint, message });
        }
    }

    /// A stream is open at the side that was dialled.
    fn opened(
        &mut self,
        dial: Dial,
        to: usize,
        to_endpoint: Endpoint,
        message: Packet,
    ) -> Result<(), Violation> {
        let cut = self.network.is_cut(dial.by, to) || self.network.is_cut(to, dial.by);
        if cut || self.members[to].endpoint != to_endpoint {
            return Ok(());
        }
        let member = &mut self.members[to];
        let refused = member.turn.is_none();
        let accepted = if refused { None } else { member.accept(dial) };
        let Some(stream) = accepted else {
            // Nobody listens, or who does has no room: the other side hears of it at once.
            let back = self.network.answer(to, dial.by, &self.weather, &mut self.chance);
            if let Some(delay) = back {
                self.schedule.after(delay, Happening::Broken { dial, refused });
            }
            return Ok(());
        };
        let run = member.run;
        self.schedule.after(STREAM_TIMEOUT, Happening::Forgotten { member: to, run, stream });
        self.turn(to, vec![Input::Message { from: Peer::Stream(stream), message }])
    }
}
