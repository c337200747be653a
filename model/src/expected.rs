//! The exact number of states of each scope: a run that a change, or a cut, made smaller doesn't pass for a whole one.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use anyhow::Context as _;

/// Where the counts stand.
fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("expected.toml")
}

/// The expected number of distinct states of each scope, by its name.
pub fn read() -> anyhow::Result<BTreeMap<String, usize>> {
    let path = path();
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{}", path.display()))
}

/// Takes new counts for what stands there.
pub fn bless(counts: &BTreeMap<String, usize>) -> anyhow::Result<()> {
    let mut all = read().unwrap_or_default();
    all.extend(counts.iter().map(|(name, count)| (name.clone(), *count)));
    let known: Vec<_> = crate::scopes().iter().map(|scope| scope.name).collect();
    all.retain(|name, _| known.contains(&name.as_str()));
    let mut text = String::from(
        "# Distinct states of each scope, up to symmetry. Rewritten by `check --bless` only, after a person looked why\n\
         # they changed.\n",
    );
    for (name, count) in all {
        writeln!(text, "{name} = {count}")?;
    }
    let path = path();
    std::fs::write(&path, text).with_context(|| format!("{}", path.display()))
}
