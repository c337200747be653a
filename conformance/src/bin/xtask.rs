//! What the workspace does with itself: `cargo xtask COMMAND`.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use conformance::sim::{self, Plan, Tally};

const USAGE: &str = "\
cargo xtask COMMAND

  sim [--seed N] [--count M] [--minutes T] [--log]
                           runs M seeds of the simulator from N on, or as many as T minutes allow; --log prints the
                           whole log of each
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["sim", rest @ ..] => simulate(rest),
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

/// The value of `--name VALUE` among `words`.
fn value(words: &[&str], name: &str) -> Result<Option<u64>> {
    let Some(at) = words.iter().position(|word| *word == name) else { return Ok(None) };
    let value = words.get(at + 1).with_context(|| format!("{name} needs a value"))?;
    Ok(Some(value.parse().with_context(|| format!("{name} {value}"))?))
}

fn simulate(words: &[&str]) -> Result<()> {
    let first = value(words, "--seed")?.unwrap_or(0);
    let minutes = value(words, "--minutes")?;
    let count = value(words, "--count")?.unwrap_or(if minutes.is_some() { u64::MAX } else { 200 });
    let whole = words.contains(&"--log");
    let start = Instant::now();
    let mut total = Tally::default();
    let mut done = 0;
    for seed in first..first.saturating_add(count) {
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
    println!(
        "{done} seeds from {first} on, no violation, {:.1} s: {total}",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
