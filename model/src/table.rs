//! What a person sees at the end of a run.

use std::fmt::Write as _;

use crate::{Report, Scope, Standing};

/// A run of a scope beside what was expected of it.
pub struct Row {
    /// The scope.
    pub scope: Scope,
    /// Its run.
    pub report: Report,
    /// The expected number of states, where one stands.
    pub expected: Option<usize>,
}

impl Row {
    /// Whether everything held and the count is the expected one.
    pub fn passed(&self) -> bool {
        self.report.is_clean() && self.expected == Some(self.report.states)
    }
}

/// All runs as a table, then what each property and each kind of action came to.
pub fn render(rows: &[Row]) -> String {
    let mut text = String::new();
    let width = rows.iter().map(|row| row.scope.name.len()).max().unwrap_or(5).max(5);
    let _ = writeln!(
        text,
        "{:width$}  tier      states  transitions  depth   time s   states/s  fingerprint odds  verdict",
        "scope"
    );
    for row in rows {
        let report = &row.report;
        let seconds = report.time.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
        let rate = report.states as f64 / seconds.max(1e-6);
        let _ = writeln!(
            text,
            "{:width$}  {:4}  {:>10}  {:>11}  {:>5}  {seconds:>7.1}  {rate:>9.0}  {:>16.1e}  {}",
            row.scope.name,
            row.scope.tier,
            report.states,
            report.transitions,
            report.depth,
            report.collision_odds(),
            verdict(row),
        );
    }
    for row in rows {
        let _ = writeln!(text, "\n{}: {}", row.scope.name, row.scope.about);
        for (name, standing) in &row.report.properties {
            let standing = match standing {
                Standing::Held => "held".to_owned(),
                Standing::Found => "found".to_owned(),
                Standing::NeverFound => "NEVER FOUND".to_owned(),
                Standing::Violated(path) => format!("VIOLATED after {} actions", path.length),
            };
            let _ = writeln!(text, "  {name:32} {standing}");
        }
        let ran: Vec<_> =
            row.report.actions.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let _ = writeln!(text, "  actions: {}", ran.join(", "));
    }
    let _ = writeln!(
        text,
        "\nExhaustive within the stated bounds, which is no proof beyond them. Codec, operating system, clock and disk \
         are tested,\nnot verified. The odds are those that two states met in one 64-bit fingerprint."
    );
    text
}

fn verdict(row: &Row) -> String {
    if row.report.panic.is_some() {
        return "PANICKED".to_owned();
    }
    if !row.report.is_clean() {
        return "FAILED".to_owned();
    }
    match row.expected {
        Some(expected) if expected == row.report.states => "held".to_owned(),
        Some(expected) => format!("EXPECTED {expected} STATES"),
        None => "NO EXPECTED COUNT (check --bless)".to_owned(),
    }
}

/// Each violation of a run: its shortest known path as a Mermaid diagram, and the state that it ends in.
pub fn violations(row: &Row) -> String {
    let mut text = String::new();
    if let Some(panic) = &row.report.panic {
        let _ = writeln!(text, "{}: panicked: {panic}", row.scope.name);
    }
    for (name, standing) in &row.report.properties {
        if let Standing::Violated(path) = standing {
            let _ = writeln!(
                text,
                "{}: {name} is violated after {} actions:\n\n```mermaid\n{}\n```\n\n{}\n",
                row.scope.name, path.length, path.diagram, path.last_state
            );
            if let Some(steps) = &path.steps {
                let _ = writeln!(
                    text,
                    "To go the same way again: cargo run --release -p model -- replay {} {steps}\n",
                    row.scope.name
                );
            }
        }
    }
    text
}
