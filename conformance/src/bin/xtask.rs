//! What the workspace does with itself: `cargo xtask COMMAND`.

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use conformance::{
    agent::{Cluster, workspace_root},
    drill,
    sim::{self, Plan, Tally},
    tidy,
};

const USAGE: &str = "\
cargo xtask COMMAND

  tidy                     import rules, licences, pins, forbidden words
  test [ARGUMENTS]         cargo test --workspace
  model [ARGUMENTS]        the model checker: check --tier ci, unless told otherwise
  sim [--seed N] [--count M] [--minutes T] [--log]
                           M seeds of the simulator from N on, or as many as T minutes allow; without a seed also those
                           that once found something; --log prints the whole log of each
  drill [--minutes T] [--seed N]
                           writers through three real servers while they are killed, paused and started again
  loom                     the concurrent primitives under loom
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
        ["loom"] => loom(),
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

fn simulate(words: &[&str]) -> Result<()> {
    let first = value(words, "--seed")?;
    let minutes = value(words, "--minutes")?;
    let count = value(words, "--count")?.unwrap_or(if minutes.is_some() { u64::MAX } else { 200 });
    let whole = words.contains(&"--log");
    let known: &[u64] = if first.is_some() { &[] } else { sim::REGRESSIONS };
    let first = first.unwrap_or(0);
    let start = Instant::now();
    let mut total = Tally::default();
    let mut done = 0;
    for seed in known.iter().copied().chain(first..first.saturating_add(count)) {
        if minutes.is_some_and(|minutes| start.elapsed() >= Duration::from_secs(60 * minutes)) {
            break;
        }
        let report = sim::run(&Plan::draw(seed), whole);
        if whole {
            println!("{}", report.log);
        }
        if let Some(violation) = report.violation {
            if !whole {
                println!("{}", report.log);
            }
            bail!("seed {seed}: {violation}\nagain: cargo xtask sim --seed {seed} --count 1 --log");
        }
        total.add(&report.tally);
        done += 1;
    }
    ensure!(done > 0, "no seed was run");
    println!("{done} seeds, no violation, {:.1} s: {total}", start.elapsed().as_secs_f64());
    Ok(())
}
