//! What the workspace does with itself: `cargo xtask COMMAND`.

use std::{
    fmt::Display,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use conformance::{
    agent::{Cluster, workspace_root},
    drill, flight, fuzz,
    sim::{
        self, Report,
        pool::{self, figures::Plan},
        turns,
    },
    tidy,
};

const USAGE: &str = "\
cargo xtask COMMAND

  tidy                     import rules, licences, pins, forbidden words, what spec/prose names
  test [ARGUMENTS]         cargo test --workspace
  model [ARGUMENTS]        the model checker: check --tier ci, unless told otherwise
  sim [--kind raft|turns|pool] [--seed N] [--count M] [--minutes T] [--log]
                           M seeds of the simulator from N on, of each kind, or as many as T minutes allow; without a seed
                           also those that once found something; --log prints the whole log of each
  sim --pool MEMBERS [--loss PERCENT] [--quiet MINUTES] [--seed N]
                           figures of a large pool of gossip: convergence, detection, false positives in MINUTES of virtual
                           time, traffic; at 0, 5 and 30 % loss, unless told otherwise
  drill [--minutes T] [--seed N]
                           writers through three real servers while they are killed, paused and started again
  flight FOLDER            replays the flight records of servers (flight_record_dir) in a folder
  loom                     the concurrent primitives under loom
  fuzz [TARGET...] [--seconds N]
                           libFuzzer on each decoder of gossip, N seconds (10) each; logs, corpora and findings in target/fuzz
  bench [ARGUMENTS]        the criterion benchmarks
  ci                       all that CI runs, in its order
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["tidy"] => tidy(),
        ["test", rest @ ..] => cargo(&[&["test", "--workspace"], rest].concat(), &[]),
        ["model", rest @ ..] => model(rest),
        ["sim", rest @ ..] => simulate(rest),
        ["drill", rest @ ..] => drill(rest),
        ["flight", folder] => flight::replay_all(Path::new(folder))
            .map(|tally| println!("every step is the machine's: {tally:?}")),
        ["loom"] => loom(),
        ["fuzz", rest @ ..] => fuzz(rest),
        ["bench", rest @ ..] => cargo(&[&["bench", "-p", "benches"], rest].concat(), &[]),
        ["ci"] => run(Command::new("./.ci/run")),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut command: Command) -> Result<()> {
    let status = command
        .current_dir(workspace_root())
        .status()
        .with_context(|| format!("can't run {}", command.get_program().display()))?;
    ensure!(status.success(), "{} ended with {status}", command.get_program().display());
    Ok(())
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).envs(environment.iter().copied());
    run(command)
}

fn model(rest: &[&str]) -> Result<()> {
    let rest = if rest.is_empty() { &["check", "--tier", "ci"] } else { rest };
    cargo(&[&["run", "-q", "-p", "model", "--"], rest].concat(), &[])
}

/// Under `--cfg loom` everything is built anew, so it has a target folder of its own.
fn loom() -> Result<()> {
    let environment = [("RUSTFLAGS", "--cfg loom"), ("LOOM_MAX_PREEMPTIONS", "3")];
    let arguments = ["test", "-p", "agent-sync", "--release", "--target-dir", "target/loom"];
    cargo(&arguments, &environment)
}

fn fuzz(words: &[&str]) -> Result<()> {
    let mut targets: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    if let Some(at) = words.iter().position(|word| *word == "--seconds") {
        targets.drain(at..words.len().min(at + 2));
    }
    let plan = fuzz::Plan { targets, seconds: value(words, "--seconds")?.unwrap_or(10) };
    fuzz::run(workspace_root(), &plan)
}

fn tidy() -> Result<()> {
    let findings = tidy::check(workspace_root())?;
    for remark in &findings.remarks {
        println!("remark: {remark}");
    }
    for failure in &findings.failures {
        println!("FAILED: {failure}");
    }
    ensure!(findings.failures.is_empty(), "{} things to put right", findings.failures.len());
    println!("tidy");
    Ok(())
}

fn drill(words: &[&str]) -> Result<()> {
    let minutes = value(words, "--minutes")?.unwrap_or(5);
    let seed = value(words, "--seed")?.unwrap_or(1);
    let start = Instant::now();
    let mut cluster = Cluster::start(3, &serde_json::json!({}))?;
    let mut round = 0;
    // A round ends with a check of its histories, so that a long drill keeps none of them for long.
    while start.elapsed() < Duration::from_secs(60 * minutes) {
        let left = Duration::from_secs(60 * minutes).saturating_sub(start.elapsed());
        let plan = drill::Plan {
            duration: left.min(Duration::from_mins(1)),
            clients: 8,
            pause: Duration::from_millis(1500),
            seed: seed + round,
        };
        let tally = drill::run(&mut cluster, &plan).with_context(|| format!("round {round}"))?;
        println!("{:>5.0} s: linearizable: {tally:?}", start.elapsed().as_secs_f64());
        round += 1;
    }
    Ok(())
}

/// The value of `--name VALUE` among `words`.
fn value(words: &[&str], name: &str) -> Result<Option<u64>> {
    let Some(at) = words.iter().position(|word| *word == name) else { return Ok(None) };
    let value = words.get(at + 1).with_context(|| format!("{name} needs a value"))?;
    Ok(Some(value.parse().with_context(|| format!("{name} {value}"))?))
}

/// The word behind `--name` among `words`.
fn word<'a>(words: &[&'a str], name: &str) -> Result<Option<&'a str>> {
    let Some(at) = words.iter().position(|word| *word == name) else { return Ok(None) };
    words.get(at + 1).copied().map(Some).with_context(|| format!("{name} needs a value"))
}

/// Which seeds are run, and how much is told of them.
struct Seeds {
    first: Option<u64>,
    count: u64,
    minutes: Option<u64>,
    whole: bool,
}

impl Seeds {
    /// Runs them, the `known` ones before all others.
    fn run<T: Default + Display>(
        &self,
        kind: &str,
        known: &[u64],
        run: impl Fn(u64, bool) -> Report<T>,
        add: impl Fn(&mut T, &T),
    ) -> Result<()> {
        let known: &[u64] = if self.first.is_some() { &[] } else { known };
        let first = self.first.unwrap_or(0);
        let start = Instant::now();
        let (mut total, mut done) = (T::default(), 0);
        for seed in known.iter().copied().chain(first..first.saturating_add(self.count)) {
            let end = self.minutes.map(|minutes| Duration::from_secs(60 * minutes));
            if end.is_some_and(|end| start.elapsed() >= end) {
                break;
            }
            let report = run(seed, self.whole);
            if self.whole || report.violation.is_some() {
                println!("{}", report.log);
            }
            if let Some(violation) = report.violation {
                bail!(
                    "{kind}, seed {seed}: {violation}\nagain: cargo xtask sim --kind {kind} --seed {seed} --count 1 --log"
                );
            }
            add(&mut total, &report.tally);
            done += 1;
        }
        ensure!(done > 0, "no seed was run");
        let elapsed = start.elapsed().as_secs_f64();
        println!("{kind}: {done} seeds, no violation, {elapsed:.1} s: {total}");
        Ok(())
    }
}

fn simulate(words: &[&str]) -> Result<()> {
    if let Some(members) = value(words, "--pool")? {
        return figures(words, usize::try_from(members)?);
    }
    let minutes = value(words, "--minutes")?;
    let seeds = Seeds {
        first: value(words, "--seed")?,
        count: value(words, "--count")?.unwrap_or(if minutes.is_some() { u64::MAX } else { 200 }),
        minutes,
        whole: words.contains(&"--log"),
    };
    let kind = word(words, "--kind")?;
    let wanted = |name| kind.is_none_or(|kind| kind == name);
    ensure!(["raft", "turns", "pool"].into_iter().any(wanted), "no such kind: {kind:?}");
    if wanted("raft") {
        let run = |seed, whole| sim::run(&sim::Plan::draw(seed), whole);
        seeds.run("raft", sim::REGRESSIONS, run, sim::Tally::add)?;
    }
    if wanted("turns") {
        let run = |seed, whole| turns::run(&sim::Plan::draw(seed), whole);
        seeds.run("turns", turns::REGRESSIONS, run, sim::Tally::add)?;
    }
    if wanted("pool") {
        let run = |seed, whole| pool::run(&pool::Plan::draw(seed), whole);
        seeds.run("pool", pool::REGRESSIONS, run, pool::Tally::add)?;
    }
    Ok(())
}

/// Measures a large pool, without loss and with.
fn figures(words: &[&str], members: usize) -> Result<()> {
    // A pool of a thousand takes minutes with optimisation, and hours without.
    if cfg!(debug_assertions) {
        let release =
            ["run", "-q", "--release", "-p", "conformance", "--bin", "xtask", "--", "sim"];
        return cargo(&[&release, words].concat(), &[]);
    }
    ensure!(members >= 2, "a pool has two members at least");
    let percents = match value(words, "--loss")? {
        Some(percent) => vec![percent],
        None => vec![0, 5, 30],
    };
    for percent in percents {
        let start = Instant::now();
        let mut plan = Plan::new(members, usize::try_from(percent)? * 10);
        plan.seed = value(words, "--seed")?.unwrap_or(plan.seed);
        if let Some(minutes) = value(words, "--quiet")? {
            plan.quiet = Duration::from_secs(60 * minutes);
        }
        let report = pool::figures::run(&plan);
        if let Some(violation) = report.violation {
            bail!("{plan:?}: {violation}");
        }
        let (turns, elapsed) = (report.tally.turns, start.elapsed().as_secs_f64());
        println!("{}\n  simulated in {elapsed:.1} s, {turns} turns", report.tally);
    }
    Ok(())
}
