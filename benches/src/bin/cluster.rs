//! Three of our servers beside Consul and etcd, in one run on one box: see `benches` for what runs what.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use benches::{
    bound::Bound,
    report::Report,
    system::{Cluster, Programs, System},
    trial::{TRIALS, Trial},
};
use clap::Parser;

/// Measures three servers of Proconsul, Consul and etcd in alternating runs. Only ratios taken in one run carry over.
#[derive(Parser)]
struct Options {
    /// Only these systems (proconsul, consul, etcd, bound: a bare replicated append, what the box allows at best;
    /// via-client: proconsul behind a client agent, measured only where it is named)
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// Only loads whose names contain one of these
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
    /// Seconds of each run that are counted
    #[arg(long)]
    seconds: Option<f64>,
    /// How often the systems alternate
    #[arg(long)]
    rounds: Option<usize>,
    /// A selection of loads in two to three minutes
    #[arg(long)]
    quick: bool,
    /// Folder with consul and etcd (conformance/peers/get fetches them)
    #[arg(long, env = "PROCONSUL_PEERS", default_value = "target/peers/bin")]
    peers: PathBuf,
    /// Our agent
    #[arg(long, default_value = "target/release/proconsul")]
    proconsul: PathBuf,
    /// Where data directories go: a disk whose fdatasync is real
    #[arg(long, default_value = "target/cluster")]
    scratch: PathBuf,
    /// Writes every sample to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Lists the loads
    #[arg(long)]
    list: bool,
}

impl Options {
    fn trials(&self) -> Vec<&'static Trial> {
        let named = |trial: &Trial| self.loads.iter().any(|load| trial.name.contains(load));
        let chosen = |trial: &&Trial| {
            if self.loads.is_empty() { !self.quick || trial.quick } else { named(trial) }
        };
        TRIALS.iter().filter(chosen).collect()
    }

    /// The systems that are asked for, or else those whose programs are there.
    fn systems(&self, programs: &Programs) -> Result<Vec<System>> {
        for name in &self.systems {
            ensure!(System::ALL.iter().any(|s| s.name() == name), "no system is called {name}");
        }
        let mut systems = System::ALL.to_vec();
        systems.retain(|system| {
            if !self.systems.is_empty() {
                return self.systems.iter().any(|name| name == system.name());
            }
            let path = programs.path(*system);
            if *system == System::ThroughClient {
                return false;
            }
            if !path.is_file() {
                eprintln!("{} isn't measured: {} isn't there", system.name(), path.display());
            }
            path.is_file()
        });
        Ok(systems)
    }
}

fn round(
    system: System,
    trials: &[&Trial],
    programs: &Programs,
    measure: Duration,
    report: &mut Report,
) -> Result<()> {
    let trials = trials.iter().copied().filter(|trial| trial.fits(system));
    let (alone, together): (Vec<&Trial>, Vec<_>) = trials.partition(|trial| trial.alone());
    for trial in alone {
        let mut cluster = Cluster::start(system, trial.servers(), programs)?;
        measure_one(trial, &mut cluster, measure, report);
    }
    if together.is_empty() {
        return Ok(());
    }
    let mut cluster = Cluster::start(system, 3, programs)?;
    for trial in together {
        if !measure_one(trial, &mut cluster, measure, report) {
            cluster = Cluster::start(system, 3, programs)?;
        }
    }
    Ok(())
}

/// Runs a trial and reports on it; says whether it gave figures.
fn measure_one(
    trial: &Trial,
    cluster: &mut Cluster,
    measure: Duration,
    report: &mut Report,
) -> bool {
    let system = cluster.system;
    eprint!("{:>9} {:<23}", system.name(), trial.name);
    match trial.run(cluster, trial.name, measure) {
        Ok(sample) => {
            if let Some(rate) = sample.rate {
                eprint!("{rate:9.0}/s  ");
            }
            eprintln!("p50 {:?}  p99 {:?}  errors {}", sample.p50, sample.p99, sample.errors);
            report.add(trial, system, sample);
            true
        }
        Err(error) => {
            eprintln!("{error:#}");
            report.fail(format!("{} {}: {error:#}", trial.name, system.name()));
            false
        }
    }
}

fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("the limit of open files stays: {error}");
    }
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, command, number, client, data, servers @ ..] = &arguments[..]
        && command == "bound"
    {
        let servers = servers.iter().map(|server| server.parse()).collect::<Result<_, _>>()?;
        let bound = Bound { client: client.parse()?, servers, number: number.parse()? };
        return bound.serve(Path::new(data));
    }
    let options = Options::parse();
    if options.list {
        for trial in &TRIALS {
            println!("{}{}", trial.name, if trial.quick { "  (quick)" } else { "" });
        }
        return Ok(());
    }
    raise_open_files();
    let programs = Programs {
        proconsul: options.proconsul.clone(),
        peers: options.peers.clone(),
        own: std::env::current_exe()?,
        scratch: options.scratch.clone(),
    };
    let trials = options.trials();
    let systems = options.systems(&programs)?;
    ensure!(!trials.is_empty() && !systems.is_empty(), "there is nothing to measure");
    let (seconds, rounds) = if options.quick { (2.0, 2) } else { (3.0, 3) };
    let measure = Duration::from_secs_f64(options.seconds.unwrap_or(seconds));
    let mut report = Report::default();
    for _ in 0..options.rounds.unwrap_or(rounds) {
        for system in &systems {
            if let Err(error) = round(*system, &trials, &programs, measure, &mut report) {
                eprintln!("{}: {error:#}", system.name());
                report.fail(format!("{}: {error:#}", system.name()));
            }
        }
    }
    println!("{}", report.table());
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{:#}\n", report.json()))
            .with_context(|| path.display().to_string())?;
    }
    ensure!(report.is_clean(), "some runs had errors: their figures don't count");
    Ok(())
}
