//! Goes through the cases, story by story, and says what came of them.

use std::{collections::BTreeSet, thread};

use anyhow::{Result, bail, ensure};

use super::{
    compare::{Finding, Relations, compare, compare_elapsed},
    folder,
    lists::{Lists, Variable, matches},
    parse::{Case, Step, read_folder},
    quorum,
    send::{Observed, Target, send},
    stories,
};
use crate::agent::{Agent, Kind};

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

/// Runs all cases against an agent of this kind: each story on a thread of its own.
pub fn run(kind: Kind) -> Result<Report> {
    let files: &[&str] = match kind {
        Kind::Proconsul => &["pending.toml", "differences.toml", "variable.toml"],
        Kind::Consul => &["consul.toml", "variable.toml"],
    };
    let lists = Lists::read(&folder(), files)?;
    let cases = read_folder(&folder().join("cases"))?;
    let scratch = tempfile::tempdir()?;
    let of = |agents: &[&str]| -> Vec<&Case> {
        cases.iter().filter(|case| agents.contains(&case.agent.as_str())).collect()
    };
    let (main, alone, encrypted) = (of(&["s1", "c1"]), of(&["nl1"]), of(&["acl1"]));
    let quorum = of(&["q1", "qc"]);
    let known = main.len() + alone.len() + encrypted.len() + quorum.len();
    ensure!(known == cases.len(), "a case is of an agent that is not started here");
    let scratch = scratch.path();
    let mut story = Story::new(&lists);
    thread::scope(|scope| {
        let lists = &lists;
        let spawned = [
            scope.spawn(move || stories::without_leader(kind, &alone, lists, scratch)),
            scope.spawn(move || stories::encrypted(kind, &encrypted, lists, scratch)),
            scope.spawn(move || quorum::run(kind, &quorum, lists, scratch)),
        ];
        let mut main = stories::main(kind, &main, lists, scratch)?;
        for thread in spawned {
            main.join(thread.join().unwrap_or_else(|_| bail!("a story panicked"))?);
        }
        story.join(main);
        anyhow::Ok(())
    })?;
    story.finish(&cases);
    Ok(story.report)
}

/// What the cases of one kind of agent came to so far.
pub(super) struct Story<'a> {
    lists: &'a Lists,
    /// The differences that were met.
    used: BTreeSet<usize>,
    relations: Relations,
    report: Report,
}

impl<'a> Story<'a> {
    /// A story that begins.
    pub(super) fn new(lists: &'a Lists) -> Self {
        Self {
            lists,
            used: BTreeSet::new(),
            relations: Relations::default(),
            report: Report::default(),
        }
    }

    /// Adds what another story came to.
    fn join(&mut self, other: Self) {
        self.used.extend(other.used);
        self.report.steps.extend(other.report.steps);
        self.report.failures.extend(other.report.failures);
    }

    /// Notes something that isn't as it should be, beside the steps.
    pub(super) fn fail(&mut self, why: String) {
        self.report.failures.push(why);
    }

    /// Forgets which index stands for which: steps that lie between were left out.
    pub(super) fn forget_indexes(&mut self) {
        self.relations.forget_indexes();
    }

    /// A step's command, with what was observed in place of what was recorded.
    pub(super) fn command(&self, step: &Step) -> String {
        self.relations.with_ids(&with_indexes(&step.command, &self.relations))
    }

    /// Whether a step isn't sent.
    pub(super) fn leaves_out(&self, step: &Step) -> bool {
        self.lists.pending.iter().any(|pending| pending.step == step.name && pending.left_out)
    }

    /// Sends a step and compares what comes.
    pub(super) fn send(&mut self, step: &Step, target: &Target) {
        if self.leaves_out(step) {
            self.report.steps.push((step.name.clone(), Verdict::Pending));
            return;
        }
        let observed = send(&self.command(step), target);
        self.judge(step, observed);
    }

    /// Sends steps that have nothing to do with each other side by side.
    pub(super) fn send_side_by_side(&mut self, steps: &[&Step], target: &Target) {
        let (left_out, steps): (Vec<&Step>, Vec<&Step>) =
            steps.iter().copied().partition(|step| self.leaves_out(step));
        for step in left_out {
            self.send(step, target);
        }
        let answers: Vec<Result<Observed>> = thread::scope(|scope| {
            let running: Vec<_> = steps
                .iter()
                .enumerate()
                .map(|(n, step)| {
                    let folder = target.folder.join(n.to_string());
                    let (command, target) =
                        (self.command(step), Target { folder, ..target.clone() });
                    scope.spawn(move || {
                        super::send::clean(&target.folder)?;
                        send(&command, &target)
                    })
                })
                .collect();
            let answers = running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("a step panicked")));
            answers.collect()
        });
        for (step, observed) in steps.into_iter().zip(answers) {
            self.judge(step, observed);
        }
    }

    /// Notes agents that ended without being told to.
    pub(super) fn look_for_the_dead(&mut self, agents: &mut [Agent]) {
        for agent in agents.iter_mut().filter(|agent| agent.process.id().is_some()) {
            if !agent.process.is_running() {
                let tail = agent.process.log_tail(60);
                self.fail(format!("{} ended on its own:\n{tail}", agent.name));
            }
        }
    }

    /// Compares a step, and takes its relations over where it holds.
    fn judge(&mut self, step: &Step, observed: Result<Observed>) {
        let variables = variables(&self.lists.variable, &step.name);
        let mut trial = self.relations.clone();
        let mut used: BTreeSet<usize> = BTreeSet::new();
        let found = match observed {
            Ok(observed) => {
                let mut found = compare(step, &observed, &variables, &mut trial);
                let (told, instead) = self.lists.elapsed(&step.name).unzip();
                let elapsed = compare_elapsed(step, &observed, &variables, instead.as_ref());
                if elapsed.is_none() {
                    used.extend(told);
                }
                found.extend(elapsed);
                found
            }
            Err(error) => vec![Finding {
                field: "answer".to_owned(),
                recorded: "one".to_owned(),
                observed: format!("{error:#}"),
            }],
        };
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
                self.relations = trial;
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
