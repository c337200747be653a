//! What pools of both did, beside each other.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{Kind, Sample};
use crate::report::{median, short};

/// A figure: its name with its unit, and its values in a sample. Less is better.
type Figure = (&'static str, fn(&Sample) -> Vec<f64>);

fn firsts(times: &[(Duration, Duration)]) -> Vec<f64> {
    times.iter().map(|(first, _)| first.as_secs_f64()).collect()
}

fn lasts(times: &[(Duration, Duration)]) -> Vec<f64> {
    times.iter().map(|(_, last)| last.as_secs_f64()).collect()
}

const MIB: f64 = 1024.0 * 1024.0;

/// The rows of the table, for each size.
const FIGURES: [Figure; 13] = [
    ("joined, known by all, s", |sample| vec![sample.join.as_secs_f64()]),
    ("killed, known by the first, s", |sample| firsts(&sample.killed)),
    ("killed, known by all, s", |sample| lasts(&sample.killed)),
    ("silent, known by the first, s", |sample| firsts(&sample.silenced)),
    ("silent, known by all, s", |sample| lasts(&sample.silenced)),
    ("left, known by all, s", |sample| lasts(&sample.left)),
    ("idle CPU of an agent, % of a core", |sample| vec![sample.cpu * 100.0]),
    ("idle wake-ups of an agent, 1/s", |sample| vec![sample.wakes]),
    ("resident memory of an agent, MiB", |sample| vec![sample.resident / MIB]),
    ("its share of all agents' memory, MiB", |sample| vec![sample.proportional / MIB]),
    ("idle log lines of an agent, 1/min", |sample| vec![sample.lines]),
    ("not known by all in time, in a run", |sample| vec![sample.unknown.len() as f64]),
    ("taken for dead wrongly, in a run", |sample| vec![sample.wrong as f64]),
];

/// All samples, by the number of agents and whose they are.
#[derive(Debug, Default)]
pub struct Report {
    samples: BTreeMap<usize, [Vec<Sample>; 2]>,
    failures: Vec<String>,
}

impl Report {
    /// Adds a run.
    pub fn add(&mut self, agents: usize, kind: Kind, sample: Sample) {
        let both = self.samples.entry(agents).or_default();
        both[usize::from(kind == Kind::Serf)].push(sample);
    }

    /// Adds a run that gave no figures.
    pub fn fail(&mut self, text: String) {
        self.failures.push(text);
    }

    /// Whether every run gave figures.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    /// A figure of ours and of serf's, and their ratio.
    fn row(both: &[Vec<Sample>; 2], figure: Figure) -> ([Vec<f64>; 2], f64) {
        let values = |samples: &Vec<Sample>| samples.iter().flat_map(figure.1).collect();
        let [ours, theirs]: [Vec<f64>; 2] = [values(&both[0]), values(&both[1])];
        let ratio = median(ours.clone()) / median(theirs.clone());
        ([ours, theirs], ratio)
    }

    /// The table: medians over all events of all rounds, the range in brackets.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| agents | figure | proconsul [range] | serf [range] | ours to it |\n|--:|---|--:|--:|--:|\n",
        );
        let shown = |values: &[f64]| {
            if values.is_empty() {
                return String::new();
            }
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            format!("{} [{}-{}]", short(median(values.to_vec())), short(low), short(high))
        };
        for (agents, both) in &self.samples {
            for figure in FIGURES {
                let ([ours, theirs], ratio) = Self::row(both, figure);
                let ratio = if ratio.is_finite() { format!("{ratio:.2}") } else { String::new() };
                let (name, ours, theirs) = (figure.0, shown(&ours), shown(&theirs));
                let _ = writeln!(text, "| {agents} | {name} | {ours} | {theirs} | {ratio} |");
            }
        }
        for (agents, both) in &self.samples {
            for (kind, samples) in Kind::ALL.iter().zip(both) {
                for unknown in samples.iter().flat_map(|sample| &sample.unknown) {
                    let _ = writeln!(text, "\n{agents} agents of {}: {unknown}", kind.name());
                }
            }
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nno figures: {failure}");
        }
        text
    }

    /// Every value, and the ratios of the medians.
    pub fn json(&self) -> Value {
        let mut rows = Vec::new();
        for (agents, both) in &self.samples {
            for figure in FIGURES {
                let ([ours, theirs], ratio) = Self::row(both, figure);
                rows.push(json!({
                    "agents": agents, "figure": figure.0, "proconsul": ours, "serf": theirs,
                    "ours_to_it": ratio,
                }));
            }
        }
        json!({ "rows": rows, "failures": self.failures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_all_rounds_are_medians_beside_each_other() {
        let mut report = Report::default();
        let killed = |times: [u64; 2]| {
            let killed = times.map(|s| (Duration::from_secs(s / 2), Duration::from_secs(s)));
            Sample { killed: killed.to_vec(), cpu: 0.001, ..Sample::default() }
        };
        report.add(20, Kind::Proconsul, killed([4, 6]));
        report.add(20, Kind::Proconsul, killed([2, 40]));
        report.add(20, Kind::Serf, killed([8, 12]));
        let table = report.table();
        let row = "| 20 | killed, known by all, s | 5.00 [2.00-40.0] | 10.0 [8.00-12.0] | 0.50 |";
        assert!(table.contains(row), "{table}");
        // What wasn't done has no figure.
        assert!(table.contains("| 20 | left, known by all, s |  |  |  |"), "{table}");
        assert!(report.is_clean());
        report.fail("why".to_owned());
        assert!(!report.is_clean() && report.table().contains("no figures: why"));
    }
}
