//! Starts the agents that the cases were recorded from, and goes through the cases.

use std::{collections::BTreeSet, fs, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    compare::{Finding, Relations, compare},
    folder,
    lists::{Lists, Variable, matches},
    parse::{Case, Step, read_folder},
    send::{Target, send},
};
use crate::{
    agent::{Agent, Kind, Options},
    peers,
};

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As recorded, but for deliberate differences.
    Holds,
    /// Not as recorded, and listed as pending.
    Pending,
    /// As recorded, though listed as pending.
    Passes,
    /// Not as recorded.
    Fails(Vec<Finding>),
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each step and how it went.
    pub steps: Vec<(String, Verdict)>,
    /// Why the run isn't as it should be, in sentences.
    pub failures: Vec<String>,
}

/// Runs all cases against an agent of this kind.
pub fn run(kind: Kind) -> Result<Report> {
    let files: &[&str] = match kind {
        Kind::Proconsul => &["pending.toml", "differences.toml", "variable.toml"],
        Kind::Consul => &["consul.toml", "variable.toml"],
    };
    let lists = Lists::read(&folder(), files)?;
    let cases = read_folder(&folder().join("cases"))?;
    let scratch = tempfile::tempdir()?;
    let mut story = Story { lists: &lists, used: BTreeSet::new(), report: Report::default() };
    let (alone, main): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.agent == "nl1");
    let alone = thread::scope(|scope| {
        let alone = scope.spawn(|| run_without_leader(kind, &alone, scratch.path()));
        story.run_main(kind, &main, scratch.path())?;
        alone.join().unwrap_or_else(|_| bail!("the run without a leader panicked"))
    })?;
    for (step, observed) in alone {
        story.judge(&step, observed, &mut Relations::default());
    }
    story.finish(&cases);
    Ok(story.report)
}

/// What the cases of one kind of agent came to so far.
struct Story<'a> {
    lists: &'a Lists,
    /// The differences that were met.
    used: BTreeSet<usize>,
    report: Report,
}

impl Story<'_> {
    fn run_main(&mut self, kind: Kind, cases: &[&Case], scratch: &Path) -> Result<()> {
        let (mut agents, target) = start_main(kind, scratch)?;
        prelude(&agents[0], kind)?;
        let mut relations = Relations::default();
        let mut last = 0;
        for case in cases {
            let number: u32 = case.name.split('-').next().unwrap_or_default().parse()?;
            if number > last + 10 {
                relations.forget_indexes();
            }
            last = number;
            ensure!(case.agent == "s1", "{}: no agent {:?} here", case.name, case.agent);
            for step in &case.steps {
                let command = with_indexes(&step.command, &relations);
                let observed = send(&command, &target);
                self.judge(step, observed, &mut relations);
            }
        }
        for agent in agents.iter_mut().filter(|agent| agent.process.id().is_some()) {
            if !agent.process.is_running() {
                let tail = agent.process.log_tail(60);
                self.report.failures.push(format!("{} ended on its own:\n{tail}", agent.name));
            }
        }
        Ok(())
    }

    /// Compares a step, and takes its relations over where it holds.
    fn judge(
        &mut self,
        step: &Step,
        observed: Result<super::send::Observed>,
        relations: &mut Relations,
    ) {
        let variables = variables(&self.lists.variable, &step.name);
        let mut trial = relations.clone();
        let found = match observed {
            Ok(observed) => compare(step, &observed, &variables, &mut trial),
            Err(error) => vec![Finding {
                field: "answer".to_owned(),
                recorded: "one".to_owned(),
                observed: format!("{error:#}"),
            }],
        };
        let mut used: BTreeSet<usize> = BTreeSet::new();
        let left: Vec<Finding> = found
            .into_iter()
            .filter(|finding| {
                let covers = self.lists.difference.iter().enumerate();
                let covers = covers.filter(|(_, d)| d.covers(&step.name, finding));
                let covers: Vec<usize> = covers.map(|(i, _)| i).collect();
                used.extend(covers.iter().copied());
                covers.is_empty()
            })
            .collect();
        let pending = self.lists.pending.iter().find(|pending| pending.step == step.name);
        let verdict = match (pending, left.is_empty()) {
            (None, true) => {
                self.used.extend(used);
                *relations = trial;
                Verdict::Holds
            }
            (Some(pending), true) => {
                let needs = &pending.needs;
                let text = format!("{} passes: it is pending ({needs}) no longer", step.name);
                self.report.failures.push(text);
                Verdict::Passes
            }
            (Some(_), false) => Verdict::Pending,
            (None, false) => {
                for Finding { field, recorded, observed } in &left {
                    self.report.failures.push(format!(
                        "{} ({}): {field}\n    recorded: {recorded:?}\n    observed: {observed:?}",
                        step.name, step.command
                    ));
                }
                Verdict::Fails(left)
            }
        };
        self.report.steps.push((step.name.clone(), verdict));
    }

    /// Lists must not name what isn't there.
    fn finish(&mut self, cases: &[Case]) {
        let names: BTreeSet<&str> = cases
            .iter()
            .flat_map(|case| case.steps.iter().map(|step| step.name.as_str()))
            .collect();
        for pending in &self.lists.pending {
            if !names.contains(pending.step.as_str()) {
                self.report.failures.push(format!("pending: there is no step {}", pending.step));
            }
        }
        for (i, difference) in self.lists.difference.iter().enumerate() {
            if !self.used.contains(&i) {
                let super::lists::Difference { step, field, .. } = difference;
                self.report
                    .failures
                    .push(format!("difference of {step}, {field}: there is none any more"));
            }
        }
    }
}

fn variables<'a>(all: &'a [Variable], step: &str) -> Vec<&'a str> {
    all.iter().filter(|v| matches(&v.step, step)).map(|v| v.after.as_str()).collect()
}

/// A command with the observed indexes in place of the recorded ones: `index=156`, `cas=35`.
fn with_indexes(command: &str, relations: &Relations) -> String {
    let mut out = String::new();
    let mut rest = command;
    while let Some(at) =
        ["index=", "cas="].iter().filter_map(|p| Some(rest.find(p)? + p.len())).min()
    {
        out += &rest[..at];
        rest = &rest[at..];
        let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let index = rest[..length].parse().ok().and_then(|index| relations.index(index));
        match index {
            Some(index) => out += &index.to_string(),
            None => out += &rest[..length],
        }
        rest = &rest[length..];
    }
    out + rest
}

fn options(kind: Kind, name: &str, config: Value) -> Result<Options> {
    let options = match kind {
        Kind::Proconsul => Options::ours(name)?,
        Kind::Consul => peers::consul(name).context("no real Consul")?,
    };
    Ok(options.config(config))
}

/// The recorded server `s1`; with a real Consul also the client `c1` and the other datacenter's `d2s1`.
fn start_main(kind: Kind, scratch: &Path) -> Result<(Vec<Agent>, Target)> {
    let config = json!({
        "bootstrap": true,
        "datacenter": "dc1",
        "http_config": {
            "response_headers": { "X-Oracle": "yes" },
            "block_endpoints": ["/v1/agent/connect"],
        },
        "telemetry": { "prometheus_retention_time": "60s" },
        "node_meta": { "rack": "r1" },
    });
    let options = options(kind, "s1", config)?;
    let program = options.program.clone();
    let mut s1 = Agent::start(&options, scratch)?;
    s1.wait_until_ready(Duration::from_secs(30))?;
    let recorded = [18500, 18300, 18301, 18302, 18600];
    let ports = recorded.into_iter().zip(0..).map(|(port, n)| (port, s1.ports().port(n)));
    let mut target = Target { program, ports: ports.collect(), folder: scratch.join("main") };
    super::send::clean(&target.folder)?;
    let mut agents = vec![s1];
    if kind == Kind::Consul {
        start_companions(&mut agents, &mut target, scratch)?;
    }
    Ok((agents, target))
}

fn start_companions(agents: &mut Vec<Agent>, target: &mut Target, scratch: &Path) -> Result<()> {
    let join = |n: u16| format!("127.0.0.1:{}", agents[0].ports().port(n));
    let client = json!({ "server": false, "datacenter": "dc1", "retry_join": [join(2)], "retry_interval": "1s" });
    let other = json!({
        "bootstrap": true, "datacenter": "dc2", "retry_join_wan": [join(3)], "retry_interval_wan": "1s",
    });
    let c1 = Agent::start(&options(Kind::Consul, "c1", client)?, scratch)?;
    let d2s1 = Agent::start(&options(Kind::Consul, "d2s1", other)?, scratch)?;
    target.ports.push((48300, d2s1.ports().port(1)));
    let mut s1 = agents[0].client();
    crate::process::wait_for("the companions", Duration::from_mins(1), || {
        let nodes = s1.get("/v1/catalog/nodes").ok()?.json().ok()?;
        let there = s1.get("/v1/catalog/nodes?dc=dc2").ok()?.json().ok()?;
        (nodes.as_array()?.len() == 2 && there.as_array()?.len() == 1).then_some(())
    })?;
    agents.extend([c1, d2s1]);
    Ok(())
}

/// Tells the server what the recorded one had been told before.
fn prelude(s1: &Agent, kind: Kind) -> Result<()> {
    let mut client = s1.client();
    for line in fs::read_to_string(folder().join("prelude.txt"))?.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (target, body) = line.split_once(' ').unwrap_or((line, ""));
        let response = client.put(target, body.as_bytes())?;
        let catalog = target.starts_with("/v1/catalog");
        ensure!(
            response.text() == "true" || (catalog && kind == Kind::Proconsul),
            "prelude {line}: {response:?}"
        );
    }
    Ok(())
}

/// The server that expects two others which never come. Its steps are held for seconds each, and have nothing to do with
/// each other: they run side by side.
fn run_without_leader(
    kind: Kind,
    cases: &[&Case],
    scratch: &Path,
) -> Result<Vec<(Step, Result<super::send::Observed>)>> {
    let config = json!({ "bootstrap_expect": 3, "datacenter": "dc9" });
    let options = options(kind, "nl1", config)?;
    let agent = Agent::start(&options, scratch)?;
    crate::process::wait_for("an agent without a leader", Duration::from_secs(30), || {
        agent.client().get("/v1/status/leader").ok().filter(|answer| answer.status == 200)
    })?;
    let recorded = [58500, 58300, 58301, 58302, 58600];
    let ports: Vec<(u16, u16)> =
        recorded.into_iter().zip(0..).map(|(port, n)| (port, agent.ports().port(n))).collect();
    let steps: Vec<&Step> = cases.iter().flat_map(|case| &case.steps).collect();
    thread::scope(|scope| {
        let running: Vec<_> = steps
            .iter()
            .enumerate()
            .map(|(n, step)| {
                let folder = scratch.join(format!("nl1-{n}"));
                let target =
                    Target { program: options.program.clone(), ports: ports.clone(), folder };
                scope.spawn(move || {
                    super::send::clean(&target.folder)?;
                    send(&step.command, &target)
                })
            })
            .collect();
        let answers = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a step panicked")));
        Ok(steps.iter().map(|step| (*step).clone()).zip(answers).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_indexes_in_a_command_become_observed_ones() {
        let mut relations = Relations::default();
        assert!(relations.relate_index(156, 12));
        let command = "curl 'x?index=156&wait=2s' 'y?cas=156' 'z?cas=1&index=9999'";
        let expected = "curl 'x?index=12&wait=2s' 'y?cas=12' 'z?cas=1&index=9999'";
        assert_eq!(with_indexes(command, &relations), expected);
    }
}
