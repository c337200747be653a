//! The lists beside the cases: pending steps, deliberate differences, values that vary.

use std::{fs, ops::Range, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::compare::Finding;

/// The field that is about how long an answer took.
const ELAPSED: &str = "elapsed";

/// A step that needs what isn't built yet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// The step, as `017-kv-cas/5`.
    pub step: String,
    /// What it needs.
    pub needs: String,
    /// Whether it isn't even sent: it takes too long, or comes out by chance.
    #[serde(default)]
    pub left_out: bool,
}

/// Something that differs on purpose.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The step; `*` at the end stands for anything.
    pub step: String,
    /// What of the answer: `status`, `header NAME`, `body`, `exit`, `elapsed`, a name of a tree. `*` as above.
    pub field: String,
    /// What it is in place of what was recorded: empty where it isn't there. `*` as above. Of `elapsed`, between how many
    /// seconds it lies, as `3..6`.
    pub instead: String,
    /// Why.
    pub reason: String,
}

/// A value that says nothing about the contract.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// The step; `*` at the end stands for anything.
    pub step: String,
    /// The text before the value, or a name of a tree. `NAME: ` is also the header of that name, there or not; `[elapsed ` is
    /// the time; `<number>` stands for every number of a body.
    pub after: String,
}

/// The lists for one kind of agent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lists {
    /// Steps that are not expected to hold.
    pub pending: Vec<Pending>,
    /// Deliberate differences.
    pub difference: Vec<Difference>,
    /// Values that vary.
    pub variable: Vec<Variable>,
}

impl Lists {
    /// Reads and joins these files of a folder.
    pub fn read(folder: &Path, files: &[&str]) -> Result<Self> {
        let mut all = Self::default();
        for file in files {
            let path = folder.join(file);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let lists: Self = toml::from_str(&text).with_context(|| path.display().to_string())?;
            for difference in lists.difference.iter().filter(|d| d.field == ELAPSED) {
                let Difference { step, instead, .. } = difference;
                ensure!(bounds(instead).is_some(), "{step}: {instead:?} is no range of seconds");
            }
            all.pending.extend(lists.pending);
            all.difference.extend(lists.difference);
            all.variable.extend(lists.variable);
        }
        Ok(all)
    }

    /// Between how many seconds a step takes where that differs on purpose, and which of the differences says so.
    pub fn elapsed(&self, step: &str) -> Option<(usize, Range<f64>)> {
        let mut all = self.difference.iter().enumerate();
        let (at, difference) = all.find(|(_, d)| d.field == ELAPSED && matches(&d.step, step))?;
        Some((at, bounds(&difference.instead)?))
    }
}

/// A range of seconds, as `3..6`.
fn bounds(text: &str) -> Option<Range<f64>> {
    let (start, end) = text.split_once("..")?;
    Some(start.parse().ok()?..end.parse().ok()?)
}

impl Difference {
    /// Whether this is what was found at `step`.
    pub fn covers(&self, step: &str, finding: &Finding) -> bool {
        matches(&self.step, step)
            && matches(&self.field, &finding.field)
            && matches(&self.instead, &finding.observed)
    }
}

/// Whether `text` is `pattern`, whose last `*` stands for anything.
pub fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => pattern == text,
    }
}
