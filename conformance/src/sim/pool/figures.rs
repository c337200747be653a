//! Large pools: how long until all know all, until all know of a crash, how many members are taken for failed that
//! aren't, and what it costs. Nothing goes wrong but what the plan says: the figures are those of the protocol.

use std::{collections::BTreeSet, fmt, time::Duration};

use spec::{
    entropy::Entropy as _,
    serf::Output,
    swim::{self, Name},
    time::Instant,
};

use super::{
    carrier::{Carrier, Traffic},
    member::Member,
    world::{Advance, Chore, Watch, World},
};
use crate::sim::{Report, Violation, Weather, ghosts::require};

/// In how long all members start.
const STARTING: Duration = Duration::from_secs(10);
/// How many members the others are told of.
const SEEDS: usize = 3;
/// How long all may take to know all, and to know of a crash.
const PATIENCE: Duration = Duration::from_mins(15);
/// How long the pool rests before it is measured.
const REST: Duration = Duration::from_mins(1);
/// One message in so many is encoded, to tell how many bytes all take.
const SAMPLE: u64 = 16;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The seed of everything.
    pub seed: u64,
    /// How many members there are.
    pub members: usize,
    /// Datagrams, and packets of streams, that are lost, per thousand.
    pub loss: usize,
    /// How long the pool is watched while nothing happens, in virtual time.
    pub quiet: Duration,
    /// How many members crash after that, one after the other.
    pub crashes: usize,
}

impl Plan {
    /// So many members on a network that loses so many messages of a thousand: watched for ten minutes, then five crash.
    pub const fn new(members: usize, loss: usize) -> Self {
        Self { seed: 1, members, loss, quiet: Duration::from_mins(10), crashes: 5 }
    }
}

/// How long something took for each of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread(Vec<Duration>);

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// What so many hundredths of all did not exceed; zero where there are none.
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get(last * percent / 100).copied().unwrap_or_default()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = |percent| self.percentile(percent).as_secs_f64();
        write!(f, "{:.1} / {:.1} / {:.1} s", second(0), second(50), second(100))
    }
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many members there are.
    pub members: usize,
    /// Messages lost, per thousand.
    pub loss: usize,
    /// From the last start until every member had heard of every other.
    pub convergence: Duration,
    /// How long the pool was watched.
    pub quiet: Duration,
    /// Suspicions that began meanwhile, at all members.
    pub suspicions: u64,
    /// Members that were taken for failed meanwhile, though all ran.
    pub falsely_failed: usize,
    /// How many members took them so, one for each pair.
    pub false_failures: u64,
    /// What all sent meanwhile.
    pub traffic: Traffic,
    /// From a crash until a member took the crashed one for failed.
    pub detection: Spread,
    /// Turns of all members, in the whole run.
    pub turns: u64,
}

impl Figures {
    fn per_member_second(&self, n: u64) -> f64 {
        let members = u64::try_from(self.members).unwrap_or(u64::MAX);
        // Thousandths are exact as integers, and few enough for a float.
        let thousandths = n.saturating_mul(1000) / members.max(1);
        Duration::from_millis(thousandths).as_secs_f64() / self.quiet.as_secs_f64()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic { datagrams, datagram_bytes, streamed, streamed_bytes } = self.traffic;
        writeln!(f, "{} members, {}.{} % lost", self.members, self.loss / 10, self.loss % 10)?;
        writeln!(
            f,
            "  all know all          {:.1} s after the last start",
            self.convergence.as_secs_f64()
        )?;
        writeln!(f, "  a crash is known      {} (first, median, last member)", self.detection)?;
        writeln!(
            f,
            "  false positives       {} members in {:.0} min, by {} others; {} suspicions",
            self.falsely_failed,
            self.quiet.as_secs_f64() / 60.0,
            self.false_failures,
            self.suspicions
        )?;
        write!(
            f,
            "  a member sends        {:.2} datagrams/s, {:.0} B/s; {:.3} messages/s on streams, {:.0} B/s",
            self.per_member_second(datagrams),
            self.per_member_second(datagram_bytes),
            self.per_member_second(streamed),
            self.per_member_second(streamed_bytes)
        )
    }
}

/// Who knows of whom, and who is wrong.
#[derive(Debug)]
struct Meter {
    /// Whether a member has another for one that is there, by their places.
    has: Vec<Vec<bool>>,
    /// How many such pairs there are.
    pairs: usize,
    /// Who runs.
    runs: Vec<bool>,
    suspicions: u64,
    false_failures: u64,
    falsely_failed: BTreeSet<usize>,
    /// When each took the crashed member for failed, and which that is.
    crashed: Option<usize>,
    detected: Vec<Option<Instant>>,
}

impl Meter {
    fn new(members: usize) -> Self {
        Self {
            has: vec![vec![false; members]; members],
            pairs: 0,
            runs: vec![false; members],
            suspicions: 0,
            false_failures: 0,
            falsely_failed: BTreeSet::new(),
            crashed: None,
            detected: vec![None; members],
        }
    }

    fn set(&mut self, of: usize, other: usize, there: bool) {
        if of != other && std::mem::replace(&mut self.has[of][other], there) != there {
            self.pairs = if there { self.pairs + 1 } else { self.pairs - 1 };
        }
    }
}

/// A member's place, by its name.
fn place(name: &Name) -> usize {
    name.trim_start_matches('n').parse().unwrap_or_default()
}

impl Watch for Meter {
    fn started(&mut self, member: &Member) {
        self.runs[member.place] = true;
    }

    fn told(&mut self, now: Instant, member: &Member, output: &Output) -> Result<(), Violation> {
        match output {
            Output::Joined { member: other, .. } => {
                self.set(member.place, place(&other.name), true);
            }
            Output::Failed(other) | Output::Left(other) => {
                let other = place(&other.name);
                self.set(member.place, other, false);
                if self.runs[other] {
                    self.false_failures += 1;
                    self.falsely_failed.insert(other);
                }
                if self.crashed == Some(other) {
                    self.detected[member.place].get_or_insert(now);
                }
            }
            Output::Swim(swim::Output::Suspected { .. }) => self.suspicions += 1,
            _ => {}
        }
        Ok(())
    }
}

/// A pool that is measured.
struct Measurement {
    plan: Plan,
    world: World<Meter>,
    figures: Figures,
}

/// Measures.
pub fn run(plan: &Plan) -> Report<Figures> {
    // A local network: half a millisecond, and now and then ten.
    let weather = Weather { loss: plan.loss, repeat: 0, delay: Duration::from_micros(500) };
    let meter = Meter::new(plan.members);
    let mut world = World::new(plan.seed, plan.members, weather, Carrier::new(SAMPLE), meter);
    world.is_detailed = false;
    let figures = Figures { members: plan.members, loss: plan.loss, ..Figures::default() };
    let mut measurement = Measurement { plan: *plan, world, figures };
    let violation = measurement.run().err();
    let Measurement { mut world, figures, .. } = measurement;
    world.note(format_args!("{figures:?}"));
    Report::new(figures, world.journal, violation)
}

impl Measurement {
    fn run(&mut self) -> Result<(), Violation> {
        self.converge()?;
        self.until(REST, |_| false)?;
        self.watch()?;
        let mut detection = Vec::new();
        for _ in 0..self.plan.crashes {
            self.crash(&mut detection)?;
        }
        self.figures.detection = Spread::of(detection);
        self.figures.turns = self.world.turns;
        Ok(())
    }

    /// All members start, and join the first ones.
    fn converge(&mut self) -> Result<(), Violation> {
        for place in 0..self.plan.members {
            self.world.members[place].seeds = (0..SEEDS.min(self.plan.members)).collect();
            let delay = self.world.chance.jitter(STARTING);
            self.world.after(delay, Chore::Start(place));
        }
        let all = self.plan.members * (self.plan.members - 1);
        self.until(STARTING + PATIENCE, |meter| meter.pairs == all)?;
        let pairs = self.world.watch.pairs;
        require(pairs == all, "all_know_all", || {
            format!("{pairs} of {all} pairs know each other after {PATIENCE:?}")
        })?;
        self.figures.convergence = self.world.now().since(Instant(0).after(STARTING));
        Ok(())
    }

    /// Nothing happens; whoever is taken for failed isn't.
    fn watch(&mut self) -> Result<(), Violation> {
        let before = self.world.carrier.traffic;
        let meter = &mut self.world.watch;
        (meter.suspicions, meter.false_failures) = (0, 0);
        meter.falsely_failed.clear();
        self.until(self.plan.quiet, |_| false)?;
        let meter = &self.world.watch;
        self.figures = Figures {
            quiet: self.plan.quiet,
            suspicions: meter.suspicions,
            false_failures: meter.false_failures,
            falsely_failed: meter.falsely_failed.len(),
            traffic: self.world.carrier.traffic.since(before),
            ..std::mem::take(&mut self.figures)
        };
        Ok(())
    }

    /// One member crashes, at any moment of the others' rounds.
    fn crash(&mut self, detection: &mut Vec<Duration>) -> Result<(), Violation> {
        let moment = self.world.chance.jitter(Duration::from_secs(10));
        self.until(moment, |_| false)?;
        let up: Vec<usize> =
            (0..self.plan.members).filter(|place| self.world.watch.runs[*place]).collect();
        let victim = up[self.world.chance.choose(up.len())];
        self.world.crash(victim);
        let at = self.world.now();
        let meter = &mut self.world.watch;
        meter.runs[victim] = false;
        meter.crashed = Some(victim);
        for (place, detected) in meter.detected.iter_mut().enumerate() {
            // Whoever has it for failed already needs no time.
            *detected = (!meter.has[place][victim]).then_some(at);
        }
        let known = |meter: &Meter| {
            let mut detected = meter.runs.iter().zip(&meter.detected);
            detected.all(|(runs, at)| !runs || at.is_some())
        };
        self.until(PATIENCE, known)?;
        let meter = &self.world.watch;
        require(known(meter), "crash_is_known", || {
            format!("n{victim} crashed {PATIENCE:?} ago, and not all know")
        })?;
        let known = meter.runs.iter().zip(&meter.detected).filter(|(runs, _)| **runs);
        detection.extend(known.filter_map(|(_, detected)| Some(detected.as_ref()?.since(at))));
        Ok(())
    }

    /// Goes on for so long, or until `done`.
    fn until(&mut self, time: Duration, done: impl Fn(&Meter) -> bool) -> Result<(), Violation> {
        let end = self.world.now().after(time);
        let mut look = self.world.now();
        loop {
            if self.world.now() >= look {
                if done(&self.world.watch) {
                    return Ok(());
                }
                look = self.world.now().after(Duration::from_millis(100));
            }
            match self.world.advance(end)? {
                Advance::Over => return Ok(()),
                Advance::Chore(Chore::Start(place)) => self.world.start(place)?,
                Advance::Chore(_) | Advance::Step => {}
            }
        }
    }
}
