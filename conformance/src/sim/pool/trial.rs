//! Small pools: what goes wrong, by chance, and how all of it ends.

use std::time::Duration;

use spec::{
    entropy::Entropy as _,
    serf::{Command, Status, UserEvent},
};

use super::{
    Broken, Plan, Tally,
    carrier::Carrier,
    ghosts::Ghosts,
    world::{Advance, Chore, World},
};
use crate::sim::{Violation, ghosts::require, journal::Journal};

/// By when all that come back in calm have, and hosts have joined.
const RETURNING: Duration = Duration::from_secs(15);
/// How long a pool may take to heal once nothing goes wrong: members that have each other for failed meet again by
/// chance, each trying one of them every 30 seconds.
const HEALING: Duration = Duration::from_mins(20);
/// How long the last leave, the last crash and the last event may take to be known to all.
const SETTLING: Duration = Duration::from_mins(5);
/// The event that is fired last.
const LAST_EVENT: &str = "last";

/// What is to become of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is to run.
    Up,
    /// It crashed, and stays down.
    Crashed,
    /// It left, and stays away.
    Left,
}

/// A run.
pub(super) struct Trial {
    plan: Plan,
    world: World<Ghosts>,
    fates: Vec<Fate>,
    calm: bool,
    requests: u64,
    tally: Tally,
}

impl Trial {
    pub(super) fn new(plan: Plan, whole_log: bool) -> Self {
        let ghosts = Ghosts::new(plan.members, plan.broken);
        let carrier = Carrier::new(1);
        let mut world = World::new(plan.seed, plan.members, plan.weather, carrier, ghosts);
        world.journal = Journal::new(whole_log);
        world.sync = plan.sync;
        for member in &mut world.members {
            member.disk.lies = plan.broken == Some(Broken::Disk);
            member.seeds = (0..plan.seeds).collect();
        }
        let fates = vec![Fate::Up; plan.members];
        Self { plan, world, fates, calm: false, requests: 10, tally: Tally::default() }
    }

    pub(super) fn tally(&self) -> Tally {
        let (watch, traffic) = (&self.world.watch, &self.world.carrier.traffic);
        Tally {
            turns: self.world.turns,
            lost_messages: self.world.lost_messages,
            events: watch.events,
            refutations: watch.refutations,
            false_failures: watch.false_failures,
            messages: traffic.datagrams + traffic.streamed,
            bytes: traffic.datagram_bytes + traffic.streamed_bytes,
            ..self.tally.clone()
        }
    }

    pub(super) fn into_journal(self) -> Journal {
        self.world.journal
    }

    /// Runs the plan: faults first, then calm, in which the pool must heal, and know of what happens then.
    pub(super) fn run(&mut self) -> Result<(), Violation> {
        let plan = self.plan.clone();
        self.world.note(format_args!("{plan:?}"));
        for place in 0..plan.members {
            let delay = self.world.chance.jitter(Duration::from_secs(3));
            self.world.after(delay, Chore::Start(place));
        }
        self.world.after(plan.fault_pause, Chore::Fault);
        self.world.after(plan.request_pause, Chore::Request);
        self.until(plan.faulty, |_| false)?;
        self.become_calm()?;
        self.until(RETURNING, |_| false)?;
        self.until(HEALING, Self::is_healed)?;
        require(self.is_healed(), "heals", || {
            format!("{HEALING:?} without faults, and the pool isn't well:\n{}", self.describe())
        })?;
        self.last_acts()?;
        self.until(SETTLING, Self::is_settled)?;
        require(self.is_settled(), "known_to_all", || {
            format!("{SETTLING:?} after the last acts:\n{}", self.describe())
        })
    }

    /// Goes on for so long, or until `done`, which is looked at every second.
    fn until(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        let end = self.world.now().after(time);
        self.world.after(Duration::from_secs(1), Chore::Look);
        loop {
            match self.world.advance(end)? {
                Advance::Over => return Ok(()),
                Advance::Chore(Chore::Look) => {
                    if done(self) {
                        return Ok(());
                    }
                    self.world.after(Duration::from_secs(1), Chore::Look);
                }
                Advance::Chore(chore) => self.chore(chore)?,
                Advance::Step => {}
            }
            self.see_off();
        }
    }

    fn chore(&mut self, chore: Chore) -> Result<(), Violation> {
        match chore {
            Chore::Fault if !self.calm => self.fault(),
            Chore::Request if !self.calm => self.request(),
            Chore::Heal => {
                self.world.network.heal();
                self.world.note(format_args!("the network heals"));
                Ok(())
            }
            Chore::Start(place) => self.start(place),
            Chore::Fault | Chore::Request | Chore::Look => Ok(()),
        }
    }

    fn start(&mut self, place: usize) -> Result<(), Violation> {
        if self.world.members[place].turn.is_none() && self.fates[place] == Fate::Up {
            self.tally.starts += 1;
            self.world.start(place)?;
        }
        Ok(())
    }

    /// Members that have left come back after a while, unless they are to stay away.
    fn see_off(&mut self) {
        for place in std::mem::take(&mut self.world.left) {
            self.tally.leaves += 1;
            self.world.watch.ended(place);
            self.start_later(place, Duration::from_secs(30));
        }
    }

    fn start_later(&mut self, place: usize, most: Duration) {
        let delay = Duration::from_millis(1) + self.world.chance.jitter(most);
        self.world.after(delay, Chore::Start(place));
    }

    // What goes wrong.

    fn fault(&mut self) -> Result<(), Violation> {
        let pause = self.world.chance.jitter(self.plan.fault_pause * 2);
        self.world.after(pause, Chore::Fault);
        let victim = self.world.chance.choose(self.plan.members);
        match self.world.chance.choose(if self.plan.plain { 12 } else { 16 }) {
            0..=3 => {
                self.crash(victim);
            }
            4 => (0..self.plan.members).for_each(|place| {
                self.crash(place);
            }),
            12 if self.crash(victim) => {
                self.tally.moves += 1;
                self.world.move_on(victim);
            }
            13 if self.crash(victim) => {
                self.tally.wipes += 1;
                let disk = &mut self.world.members[victim].disk;
                *disk = disk.blank();
                self.world.watch.wiped(victim);
                self.world.note(format_args!("the disk of n{victim} is lost"));
            }
            5 | 6 => self.split(),
            7 => self.isolate(victim),
            8 => self.cut_some_directions(),
            9 | 10 => self.pause(victim),
            11 => (0..self.plan.members).for_each(|place| self.pause(place)),
            _ => {
                let request = self.next_request();
                self.world.ask(victim, Command::Leave { request })?;
            }
        }
        Ok(())
    }

    /// The process ends between two instructions, and starts again after a while; tells whether it ran.
    fn crash(&mut self, place: usize) -> bool {
        let Some(lost) = self.world.crash(place) else { return false };
        self.world.watch.ended(place);
        self.tally.crashes += 1;
        self.tally.lost_writes += lost as u64;
        // Often it is back before anybody has noticed, sometimes after everybody has.
        let most = [Duration::from_secs(1), Duration::from_secs(40)];
        let most = most[self.world.chance.choose(2)];
        self.start_later(place, most);
        true
    }

    fn pause(&mut self, place: usize) {
        self.tally.pauses += 1;
        let most = [Duration::from_secs(2), Duration::from_secs(20)];
        let most = most[self.world.chance.choose(2)];
        let until = self.world.now().after(self.world.chance.jitter(most));
        self.world.pause(place, until);
    }

    fn heal_later(&mut self) {
        self.tally.cuts += 1;
        let delay = Duration::from_millis(500) + self.world.chance.jitter(Duration::from_secs(40));
        self.world.after(delay, Chore::Heal);
    }

    fn split(&mut self) {
        let sides = self.world.network.split(self.plan.members, &mut self.world.chance);
        self.world.note(format_args!("the network splits: {sides:?}"));
        self.heal_later();
    }

    fn isolate(&mut self, place: usize) {
        self.world.network.isolate(place, self.plan.members);
        self.world.note(format_args!("n{place} is alone"));
        self.heal_later();
    }

    fn cut_some_directions(&mut self) {
        let members = self.plan.members;
        let cut = self.world.network.cut_some(members, members, &mut self.world.chance);
        self.world.note(format_args!("who is not heard by whom: {cut:?}"));
        self.heal_later();
    }

    // What is asked.

    fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    fn request(&mut self) -> Result<(), Violation> {
        let pause = self.world.chance.jitter(self.plan.request_pause * 2);
        self.world.after(pause, Chore::Request);
        let place = self.world.chance.choose(self.plan.members);
        let request = self.next_request();
        match self.world.chance.choose(if self.plan.plain { 7 } else { 8 }) {
            0..=4 => self.fire(place, request, format!("e{request}")),
            5 | 6 => {
                let member = &mut self.world.members[place];
                member.tags.insert("build".into(), format!("1.8.7:{request}").into());
                let tags = member.tags.clone();
                self.world.ask(place, Command::SetTags { request, tags })
            }
            _ => {
                // An operator takes a member for gone, rightly or not.
                let other = self.world.chance.choose(self.plan.members);
                let prune = self.world.chance.choose(2) == 0;
                let name = self.world.members[other].name.clone();
                self.world.ask(place, Command::ForceLeave { request, name, prune })
            }
        }
    }

    fn fire(&mut self, place: usize, request: u64, name: String) -> Result<(), Violation> {
        let event = UserEvent { name: name.into(), payload: [].into() };
        self.world.ask(place, Command::Event { request, event, coalesce: false })
    }

    // How it ends.

    /// Nothing goes wrong from here on. Who is down stays so, or comes back.
    fn become_calm(&mut self) -> Result<(), Violation> {
        self.world.note(format_args!("calm"));
        self.calm = true;
        self.world.network.calm();
        self.world.sync = self.world.sync.min(Duration::from_millis(5));
        let now = self.world.now();
        for place in 0..self.plan.members {
            let member = &mut self.world.members[place];
            member.paused = member.paused.min(now);
            self.world.resume(place)?;
        }
        for place in 0..self.plan.members {
            let up = (0..self.plan.members).filter(|other| self.fates[*other] == Fate::Up).count();
            let down = self.world.members[place].turn.is_none();
            // Those that are told to new members come back: there must be somebody to meet.
            if down && place >= self.plan.seeds && up > 2 && self.world.chance.choose(2) == 0 {
                self.fates[place] = Fate::Crashed;
            }
            self.start_later(place, Duration::from_secs(5));
        }
        // Who left, moved or forgot the others may be tried by nobody and try nobody: only hosts know whom to join
        // (SWIM-6). Where nobody did, members must find each other by themselves.
        if !self.plan.plain {
            for place in 0..self.plan.members {
                self.world.rejoin_later(place, Duration::from_secs(10));
            }
        }
        Ok(())
    }

    fn up(&self) -> impl Iterator<Item = usize> {
        (0..self.plan.members).filter(|place| self.fates[*place] == Fate::Up)
    }

    /// Whether all that are up are alive to each other as they are, and those that are down to nobody.
    fn is_healed(&self) -> bool {
        let clock =
            |place: usize| self.world.members[place].serf().map(|serf| serf.events.clock.time());
        let first = self.up().next().and_then(clock);
        first.is_some()
            && self.up().all(|place| clock(place) == first)
            // While a host joins, its member takes no event that may have been fired before.
            && self.up().all(|place| self.world.members[place].serf().is_some_and(|serf| serf.joins.is_empty()))
            && self.up().all(|place| (0..self.plan.members).all(|of| self.sees_rightly(place, of)))
    }

    fn sees_rightly(&self, place: usize, of: usize) -> bool {
        let Some(serf) = self.world.members[place].serf() else { return false };
        let member = &self.world.members[of];
        let status = serf.members.status(&member.name);
        let failed = status.is_none() || status == Some(Status::Failed);
        match self.fates[of] {
            Fate::Up => {
                let (Some(held), Some(own)) = (serf.swim.members.get(&member.name), member.serf())
                else {
                    return false;
                };
                let Some(own) = own.swim.members.get(&member.name) else { return false };
                status == Some(Status::Alive)
                    && held.status == spec::swim::Status::Alive
                    && (held.incarnation, held.endpoint) == (own.incarnation, own.endpoint)
                    && held.meta == own.meta
            }
            // Whoever ever said that it leaves, or was said to, may be remembered so.
            Fate::Crashed if self.world.watch.left[of] => failed || status == Some(Status::Left),
            Fate::Crashed => failed,
            Fate::Left => status.is_none_or(|status| !status.is_present()),
        }
    }

    /// In calm one member crashes, one leaves, and an event is fired.
    fn last_acts(&mut self) -> Result<(), Violation> {
        self.world.note(format_args!("last acts"));
        let up: Vec<usize> = self.up().collect();
        let first = self.world.chance.choose(up.len());
        let rest = [up[(first + 1) % up.len()], up[(first + 2) % up.len()]];
        if up.len() > 2 {
            let (leaves, crashes) = (rest[0], rest[1]);
            self.fates[leaves] = Fate::Left;
            let request = self.next_request();
            self.world.ask(leaves, Command::Leave { request })?;
            if up.len() > 3 {
                self.fates[crashes] = Fate::Crashed;
                self.crash(crashes);
            }
        }
        let request = self.next_request();
        self.fire(up[first], request, LAST_EVENT.to_owned())
    }

    /// Whether the last leave, the last crash and the last event are known to all.
    fn is_settled(&self) -> bool {
        self.up().all(|place| {
            self.world.watch.was_told(place, LAST_EVENT)
                && (0..self.plan.members).all(|of| self.sees_rightly(place, of))
                && self.knows_who_left(place)
        })
    }

    fn knows_who_left(&self, place: usize) -> bool {
        let Some(serf) = self.world.members[place].serf() else { return false };
        (0..self.plan.members).filter(|of| self.fates[*of] == Fate::Left).all(|of| {
            self.world.members[of].turn.is_none()
                && serf.members.status(&self.world.members[of].name) == Some(Status::Left)
        })
    }

    /// What the members are and see, for a message.
    fn describe(&self) -> String {
        let lines: Vec<String> = (0..self.plan.members)
            .map(|place| {
                let member = &self.world.members[place];
                let Some(serf) = member.serf() else {
                    return format!("{}: down, {:?}", member.name, self.fates[place]);
                };
                let sees: Vec<String> = serf
                    .members
                    .entries
                    .iter()
                    .map(|(name, entry)| {
                        let swim = serf.swim.members.get(name);
                        let held = swim.map(|held| (held.status, held.incarnation));
                        format!("{name} {:?} {held:?}", entry.status)
                    })
                    .collect();
                let time = serf.events.clock.time().0;
                format!(
                    "{}: {:?}, events {time}: {}",
                    member.name,
                    member.endpoint,
                    sees.join(", ")
                )
            })
            .collect();
        lines.join("\n")
    }
}
