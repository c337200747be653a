//! Medians, ranges and ratios of the runs.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use crate::{
    system::System,
    trial::{Kind, Sample, TRIALS, Trial},
};

/// All samples, by trial and system.
#[derive(Debug, Default)]
pub struct Report {
    samples: BTreeMap<(usize, usize), Vec<Sample>>,
    failures: Vec<String>,
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A figure with three digits that count.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What a trial is compared by, and whether more is better.
fn figure(trial: &Trial, sample: &Sample) -> f64 {
    match trial.kind {
        Kind::Paced(_) | Kind::Wake => millis(sample.p99),
        Kind::Start(_) => millis(sample.p50),
        Kind::Put | Kind::PutAtFollowers | Kind::Get(_) => sample.rate.unwrap_or(f64::NAN),
    }
}

fn position(system: System) -> usize {
    System::ALL.iter().position(|other| *other == system).unwrap_or(0)
}

impl Report {
    /// Adds a run.
    pub fn add(&mut self, trial: &Trial, system: System, sample: Sample) {
        let number = TRIALS.iter().position(|other| other == trial).unwrap_or(0);
        self.samples.entry((number, position(system))).or_default().push(sample);
    }

    /// Adds a run that gave no figures.
    pub fn fail(&mut self, text: String) {
        self.failures.push(text);
    }

    /// Whether every run gave figures without an error.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.samples.values().flatten().all(|s| s.errors == 0)
    }

    fn median_of(&self, trial: usize, system: usize, read: impl Fn(&Sample) -> f64) -> f64 {
        let samples = self.samples.get(&(trial, system));
        median(samples.map_or(vec![], |samples| samples.iter().map(read).collect()))
    }

    /// How ours compares: more answers, or less time.
    fn ratio(&self, trial: usize, system: usize) -> f64 {
        let read = |sample: &Sample| figure(&TRIALS[trial], sample);
        self.median_of(trial, position(System::Proconsul), read)
            / self.median_of(trial, system, read)
    }

    /// The table: medians over the rounds, the range of the compared figure in brackets.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| load | system | ops/s [range] | p50 ms | p99 ms | server CPU us/op | client cores | \
             KiB/wait | ours to it |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for (&(trial, system), samples) in &self.samples {
            let median = |read: &dyn Fn(&Sample) -> f64| self.median_of(trial, system, read);
            let range = |read: &dyn Fn(&Sample) -> f64| {
                let values = || samples.iter().map(read);
                let low = values().fold(f64::INFINITY, f64::min);
                let high = values().fold(f64::NEG_INFINITY, f64::max);
                format!("{} [{}-{}]", short(median(read)), short(low), short(high))
            };
            let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
            let rate = match samples.first().and_then(|sample| sample.rate) {
                Some(_) => range(&|sample| sample.rate.unwrap_or(f64::NAN)),
                None => String::new(),
            };
            let (p50, p99) = match TRIALS[trial].kind {
                Kind::Start(_) => (range(&|s| millis(s.p50)), String::new()),
                Kind::Wake | Kind::Paced(_) => {
                    (short(median(&|s| millis(s.p50))), range(&|s| millis(s.p99)))
                }
                _ => (short(median(&|s| millis(s.p50))), short(median(&|s| millis(s.p99)))),
            };
            let waiting = match samples.first().and_then(|sample| sample.waiting_bytes) {
                Some(_) => short(median(&|s| s.waiting_bytes.unwrap_or(f64::NAN) / 1024.0)),
                None => String::new(),
            };
            let ratio = self.ratio(trial, system);
            let ours = system == position(System::Proconsul) || ratio.is_nan();
            let _ = writeln!(
                text,
                "| {} | {}{} | {rate} | {p50} | {p99} | {} | {:.2} | {waiting} | {} |",
                TRIALS[trial].name,
                System::ALL[system].name(),
                if errors > 0 { format!(" ({errors} ERRORS)") } else { String::new() },
                short(median(&|sample| micros(sample.server_cpu))),
                median(&|sample| sample.client_busy),
                if ours { String::new() } else { format!("{ratio:.2}") },
            );
        }
        for ((trial, system), samples) in &self.samples {
            for error in samples.iter().filter_map(|sample| sample.first_error.as_ref()) {
                let name = System::ALL[*system].name();
                let _ = writeln!(text, "\n{} {name}: {error}", TRIALS[*trial].name);
            }
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nno figures: {failure}");
        }
        text
    }

    /// Every sample, and the ratios of the medians.
    pub fn json(&self) -> Value {
        let rows = self.samples.iter().map(|(&(trial, system), samples)| {
            let samples = samples.iter().map(|sample| {
                json!({
                    "ops_per_s": sample.rate,
                    "p50_ms": millis(sample.p50),
                    "p99_ms": millis(sample.p99),
                    "server_cpu_us_per_op": micros(sample.server_cpu),
                    "client_cores": sample.client_busy,
                    "waiting_bytes": sample.waiting_bytes,
                    "errors": sample.errors,
                    "first_error": sample.first_error,
                })
            });
            json!({
                "load": TRIALS[trial].name,
                "system": System::ALL[system].name(),
                "median": self.median_of(trial, system, |s| figure(&TRIALS[trial], s)),
                "ours_to_it": self.ratio(trial, system),
                "samples": samples.collect::<Vec<_>>(),
            })
        });
        json!({ "rows": rows.collect::<Vec<_>>(), "failures": self.failures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_medians() {
        let mut report = Report::default();
        let sample = |rate| Sample { rate: Some(rate), ..Sample::default() };
        let put = &TRIALS[3];
        for rate in [10.0, 400.0, 40.0] {
            report.add(put, System::Proconsul, sample(rate));
        }
        for rate in [5.0, 15.0] {
            report.add(put, System::Consul, sample(rate));
        }
        assert!((report.ratio(3, 1) - 4.0).abs() < 1e-9);
        let table = report.table();
        assert!(table.contains("| put-64B-64 | consul | 10.0 [5.00-15.0] |"), "{table}");
        assert!(report.is_clean());
        report.add(put, System::Etcd, Sample { errors: 2, ..Sample::default() });
        assert!(report.table().contains("etcd (2 ERRORS)") && !report.is_clean());
    }
}
