//! A pool of our client agents beside one of serf's, in one run on one box: see `benches::pool`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use benches::pool::{Kind, Plan, Report, run};
use clap::Parser;

/// Measures pools of Proconsul's and of serf's agents in alternating runs. Only ratios taken in one run carry over.
#[derive(Parser)]
struct Options {
    /// Only these systems (proconsul, serf)
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// How many agents there are
    #[arg(long, value_delimiter = ',', default_value = "20,50,100")]
    agents: Vec<usize>,
    /// How often the systems alternate
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Seconds before a pool counts as idle
    #[arg(long, default_value_t = 15.0)]
    settle: f64,
    /// Seconds that it is then watched
    #[arg(long, default_value_t = 30.0)]
    idle: f64,
    /// How many agents are killed in a run
    #[arg(long, default_value_t = 3)]
    kills: usize,
    /// How many fall silent
    #[arg(long, default_value_t = 2)]
    silences: usize,
    /// How many leave
    #[arg(long, default_value_t = 2)]
    leavings: usize,
    /// Folder with serf (conformance/peers/get fetches it)
    #[arg(long, env = "PROCONSUL_PEERS", default_value = "target/peers/bin")]
    peers: PathBuf,
    /// Our agent
    #[arg(long, default_value = "target/release/proconsul")]
    proconsul: PathBuf,
    /// Where data directories go
    #[arg(long, default_value = "target/pool")]
    scratch: PathBuf,
    /// Writes every figure to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Options {
    fn program(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::Proconsul => self.proconsul.clone(),
            Kind::Serf => self.peers.join("serf"),
        }
    }

    /// The systems that are asked for, or else those whose programs are there.
    fn systems(&self) -> Result<Vec<Kind>> {
        for name in &self.systems {
            ensure!(Kind::ALL.iter().any(|kind| kind.name() == name), "no system is called {name}");
        }
        let mut kinds = Kind::ALL.to_vec();
        kinds.retain(|kind| {
            if !self.systems.is_empty() {
                return self.systems.iter().any(|name| name == kind.name());
            }
            let program = self.program(*kind);
            if !program.is_file() {
                eprintln!("{} isn't measured: {} isn't there", kind.name(), program.display());
            }
            program.is_file()
        });
        Ok(kinds)
    }

    fn plan(&self, kind: Kind, agents: usize) -> Plan {
        Plan {
            program: self.program(kind),
            scratch: self.scratch.clone(),
            agents,
            settle: Duration::from_secs_f64(self.settle),
            idle: Duration::from_secs_f64(self.idle),
            kills: self.kills,
            silences: self.silences,
            leavings: self.leavings,
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let systems = options.systems()?;
    let victims = options.kills + options.silences + options.leavings;
    ensure!(!systems.is_empty() && !options.agents.is_empty(), "there is nothing to measure");
    ensure!(
        options.agents.iter().all(|agents| agents / 2 > victims),
        "a pool that loses half of its agents is another pool"
    );
    let mut report = Report::default();
    for round in 0..options.rounds {
        for agents in &options.agents {
            for kind in &systems {
                eprintln!("round {}: {agents} agents of {}", round + 1, kind.name());
                match run(*kind, &options.plan(*kind, *agents)) {
                    Ok(sample) => report.add(*agents, *kind, sample),
                    Err(error) => {
                        eprintln!("{error:#}");
                        report.fail(format!("{agents} agents of {}: {error:#}", kind.name()));
                    }
                }
            }
        }
    }
    println!("{}", report.table());
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{:#}\n", report.json()))
            .with_context(|| path.display().to_string())?;
    }
    ensure!(report.is_clean(), "some runs gave no figures");
    Ok(())
}
