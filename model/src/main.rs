//! The command line of the model checker: `check`, `replay`, `explore`, `mutants`, `list`.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::SocketAddr,
    panic::resume_unwind,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use anyhow::{bail, ensure};
use clap::{Parser, Subcommand};
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use model::{
    Hunt, Hunted, Report, Scope, Steps, Tier, expected, mutants,
    table::{self, Row},
};

/// Explores the machines of `spec`: every state within a scope's bounds, every crash, loss and reordering.
#[derive(Parser)]
#[command(name = "model")]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Explore scopes whole, and hold each to its properties and its exact number of states.
    Check {
        /// Scopes by name, or those of the tier by the beginning of their names; all of the tier where none is given.
        names: Vec<String>,
        /// `deep` also runs what `ci` runs.
        #[arg(long, value_enum, default_value_t = Tier::Ci)]
        tier: Tier,
        /// Write the numbers of states that were found to model/expected.toml.
        #[arg(long)]
        bless: bool,
        /// Scopes that are searched at once, or threads of the search where there are fewer; as many as there are cores where not given.
        #[arg(long)]
        threads: Option<usize>,
    },
    /// Serve Stateright's Explorer of one scope.
    Explore {
        /// The scope.
        name: String,
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:3000")]
        bind: SocketAddr,
    },
    /// Go one path of a scope again, as a violation names it; exit status 42 where a property breaks on it.
    Replay {
        /// The scope.
        name: String,
        /// The path.
        steps: Steps,
    },
    /// Put known bugs into `spec`, one at a time, and demand that the named property catches each.
    Mutants {
        /// Mutants by name or number; all of the tier where none is given.
        names: Vec<String>,
        /// `deep` also runs what `ci` runs.
        #[arg(long, value_enum, default_value_t = Tier::Deep)]
        tier: Tier,
        /// Only check that each line matches exactly once and that scope and property exist.
        #[arg(long)]
        check_lines: bool,
        /// Only those of which the file, the model that is to catch them, or the entry in the list differs from this revision.
        #[arg(long, value_name = "REV")]
        changed_since: Option<String>,
        /// Mutants that are built and hunted at once; as many as there are cores, two at most, where not given.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// List scopes and mutants.
    List,
    /// Look for one property's violation in one scope; exit status 42 where there is one.
    #[command(hide = true)]
    Hunt {
        scope: String,
        property: String,
        #[arg(long, value_enum, default_value_t = Hunt::Breadth)]
        search: Hunt,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Action::Check { names, tier, bless, threads } => check(&names, tier, bless, threads),
        Action::Explore { name, bind } => {
            let scope = one_scope(&name)?;
            println!("Exploring {} on http://{bind}/", scope.name);
            scope.explore(bind);
            Ok(ExitCode::SUCCESS)
        }
        Action::Replay { name, steps } => replay(&name, &steps),
        Action::Mutants { names, tier, check_lines, changed_since, jobs } => {
            let cores = || std::thread::available_parallelism().map_or(1, usize::from).min(2);
            let jobs = jobs.unwrap_or_else(cores).max(1);
            run_mutants(&names, tier, check_lines, changed_since.as_deref(), jobs)
        }
        Action::List => list(),
        Action::Hunt { scope, property, search } => hunt(&scope, &property, search),
    }
}

fn one_scope(name: &str) -> anyhow::Result<Scope> {
    match model::scopes().into_iter().find(|scope| scope.name == name) {
        Some(scope) => Ok(scope),
        None => bail!("no scope is called {name:?}; `list` names them"),
    }
}

fn chosen_scopes(names: &[String], tier: Tier) -> anyhow::Result<Vec<Scope>> {
    let all = model::scopes();
    if names.is_empty() {
        return Ok(all.into_iter().filter(|scope| scope.tier <= tier).collect());
    }
    for name in names {
        ensure!(
            all.iter().any(|scope| scope.name.starts_with(name.as_str())),
            "no scope is called {name:?}; `list` names them"
        );
    }
    let named = |scope: &Scope| {
        let exact = names.iter().any(|name| name == scope.name);
        // A full name means that scope alone, of whatever tier, though others may begin with it.
        exact
            || scope.tier <= tier
                && names.iter().any(|name| {
                    scope.name.starts_with(name.as_str()) && !all.iter().any(|s| s.name == *name)
                })
    };
    Ok(all.iter().filter(|scope| named(scope)).cloned().collect())
}

fn bar(name: &str) -> ProgressBar {
    named(ProgressBar::new_spinner(), name)
}

fn named(bar: ProgressBar, name: &str) -> ProgressBar {
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed_precise} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar
}

/// Runs scopes beside each other, as many as there are threads: much of a search with symmetry finds no work to share,
/// so one search after the other would leave cores idle. The largest come first, so that none of them is left to the
/// end. Where there are fewer scopes than threads, each has several.
fn run_scopes(scopes: &[Scope], counts: &BTreeMap<String, usize>, threads: usize) -> Vec<Report> {
    let size = |at: &usize| counts.get(scopes[*at].name).copied().unwrap_or(usize::MAX);
    let mut order: Vec<_> = (0..scopes.len()).collect();
    order.sort_by_key(|at| Reverse(size(at)));
    let at_once = threads.min(scopes.len());
    let threads_each = threads / at_once.max(1);
    let next = AtomicUsize::new(0);
    let bars = MultiProgress::new();
    let worker = || {
        let mut done = Vec::new();
        while let Some(at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let bar = named(bars.add(ProgressBar::new_spinner()), scopes[*at].name);
            let report = scopes[*at].check(threads_each, &mut |states, generated| {
                bar.set_message(format!(
                    "{} states, {} transitions",
                    HumanCount(u64::try_from(states).unwrap_or(u64::MAX)),
                    HumanCount(u64::try_from(generated).unwrap_or(u64::MAX))
                ));
                bar.tick();
            });
            bar.finish_and_clear();
            bars.remove(&bar);
            done.push((*at, report));
        }
        done
    };
    let mut reports: Vec<_> = std::thread::scope(|running| {
        let workers: Vec<_> = (0..at_once).map(|_| running.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    reports.sort_by_key(|(at, _)| *at);
    reports.into_iter().map(|(_, report)| report).collect()
}

fn check(
    names: &[String],
    tier: Tier,
    bless: bool,
    threads: Option<usize>,
) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let threads = threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
        .max(1);
    let counts = expected::read().unwrap_or_default();
    let scopes = chosen_scopes(names, tier)?;
    let reports = run_scopes(&scopes, &counts, threads);
    let mut rows = Vec::new();
    for (scope, report) in scopes.into_iter().zip(reports) {
        let expected = counts.get(scope.name).copied();
        rows.push(Row { scope, report, expected });
    }
    if bless {
        // A run that failed was cut short: its count means nothing.
        let found: BTreeMap<_, _> = rows
            .iter()
            .filter(|row| row.report.is_clean())
            .map(|row| (row.scope.name.to_owned(), row.report.states))
            .collect();
        expected::bless(&found)?;
        for row in &mut rows {
            row.expected = found.get(row.scope.name).copied().or(row.expected);
        }
    }
    for row in &rows {
        print!("{}", table::violations(row));
    }
    print!("{}", table::render(&rows));
    println!(
        "{} scopes in {:.1} s on {threads} threads",
        rows.len(),
        started.elapsed().as_secs_f64()
    );
    Ok(if rows.iter().all(Row::passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_mutants(
    names: &[String],
    tier: Tier,
    check_lines: bool,
    changed_since: Option<&str>,
    jobs: usize,
) -> anyhow::Result<ExitCode> {
    let all = mutants::read()?;
    for name in names {
        let known = all.iter().any(|m| m.name == *name || m.number.to_string() == *name);
        ensure!(known, "no mutant is called {name:?}");
    }
    let changes = changed_since.map(mutants::Changes::since).transpose()?;
    for mutant in &all {
        mutant.verify()?;
    }
    if check_lines {
        println!("{} mutants match one line each", all.len());
        return Ok(ExitCode::SUCCESS);
    }
    let mut chosen = Vec::new();
    for mutant in all {
        let (in_tier, number) = (mutant.tier <= tier, mutant.number.to_string());
        let wanted = match (&changes, names) {
            (Some(changes), _) => in_tier && changes.concern(&mutant)?,
            (None, []) => in_tier,
            (None, names) => names.iter().any(|name| *name == mutant.name || *name == number),
        };
        if wanted {
            chosen.push(mutant);
        }
    }
    let next = AtomicUsize::new(0);
    let worker = |number| -> anyhow::Result<usize> {
        let scratch = mutants::Scratch::prepare(number)?;
        let mut survivors = 0;
        while let Some(mutant) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let verdicts = scratch.run(mutant)?;
            survivors += usize::from(verdicts.iter().any(|verdict| !verdict.caught));
            for verdict in verdicts {
                print_verdict(mutant, &verdict);
            }
        }
        Ok(survivors)
    };
    let survivors: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(chosen.len()))
            .map(|number| {
                let worker = &worker;
                scope.spawn(move || worker(number))
            })
            .collect();
        let joined = workers.into_iter().map(|worker| match worker.join() {
            Ok(survivors) => survivors,
            Err(_) => bail!("a worker panicked"),
        });
        joined.sum::<anyhow::Result<usize>>()
    })?;
    println!("{} mutants, {survivors} not caught", chosen.len());
    Ok(if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_verdict(mutant: &mutants::Mutant, verdict: &mutants::Verdict) {
    println!(
        "{:>3} {:52} {:9} {:28} in {:28} {:>6.1} s  {}",
        mutant.number,
        mutant.name,
        if verdict.caught { "caught by" } else { "MISSED by" },
        verdict.property,
        mutant.scope,
        verdict.time.as_secs_f64(),
        verdict.text,
    );
}

fn list() -> anyhow::Result<ExitCode> {
    for scope in model::scopes() {
        println!("{:32} {:4} {}", scope.name, scope.tier, scope.about);
    }
    println!();
    for mutant in mutants::read()? {
        println!(
            "{:>3} {:44} {:4} {} in {}",
            mutant.number, mutant.name, mutant.tier, mutant.property, mutant.scope
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn replay(name: &str, steps: &Steps) -> anyhow::Result<ExitCode> {
    let replayed = one_scope(name)?.replay(steps).map_err(anyhow::Error::msg)?;
    println!("```mermaid\n{}\n```\n\n{}", replayed.path.diagram, replayed.path.last_state);
    for (property, after) in &replayed.broken {
        println!("{property} is violated after {after} actions");
    }
    if replayed.broken.is_empty() {
        println!("every property holds in each of these states");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(mutants::HUNT_CAUGHT))
}

fn hunt(scope: &str, property: &str, search: Hunt) -> anyhow::Result<ExitCode> {
    let bar = bar(scope);
    let hunted = one_scope(scope)?.hunt(property, search, &mut |states, _| {
        bar.set_message(format!("{states} states"));
        bar.tick();
    });
    bar.finish_and_clear();
    Ok(match hunted {
        Hunted::Caught(path) => {
            println!("after {} actions\n\n{}\n\n{}", path.length, path.diagram, path.last_state);
            if let Some(steps) = path.steps {
                println!("\nreplay {scope} {steps}");
            }
            ExitCode::from(mutants::HUNT_CAUGHT)
        }
        Hunted::Survived(states) => {
            println!("held in {states} states");
            ExitCode::SUCCESS
        }
        Hunted::Panicked(text) => {
            println!("panicked: {text}");
            ExitCode::FAILURE
        }
        Hunted::NoSuchProperty => bail!("scope {scope} has no property {property}"),
    })
}
