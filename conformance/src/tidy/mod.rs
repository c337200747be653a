//! What the workspace holds itself to, beyond what compiler and clippy see: who may import whom, who may touch files and
//! sockets, which licences and versions come in, and what no tracked file may say.
//!
//! | module | what it checks |
//! |---|---|
//! | [`imports`] | dependencies between the crates; files and sockets in few places |
//! | [`supply`] | licences, pins |
//! | [`prose`] | what clauses of `spec/prose` name is there, and mutants' clauses name them |
//! | [`text`] | words that no tracked file may have; long files |

pub mod imports;
pub mod prose;
pub mod supply;
pub mod text;

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// A tracked text file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path from the workspace's folder.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What was found: failures, and remarks that fail nothing.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What has to be put right.
    pub failures: Vec<String>,
    /// What is worth a look.
    pub remarks: Vec<String>,
}

/// Checks the workspace.
pub fn check(root: &Path) -> Result<Findings> {
    let sources = sources(root)?;
    let metadata = metadata(root)?;
    let mut findings = Findings::default();
    findings.failures.extend(imports::dependencies(&metadata));
    findings.failures.extend(imports::touches(&sources));
    findings.failures.extend(supply::licences(&metadata));
    findings.failures.extend(supply::pins(&metadata));
    findings.failures.extend(text::forbidden(&sources));
    findings.failures.extend(prose::links(&sources));
    findings.remarks.extend(text::long_files(&sources));
    findings.remarks.extend(supply::duplicates(&metadata));
    Ok(findings)
}

/// Every tracked or new file that is text.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("can't run git")?;
    ensure!(
        output.status.success(),
        "git ls-files failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let list = String::from_utf8(output.stdout)?;
    let paths = list.split('\0').filter(|path| !path.is_empty());
    Ok(paths
        .filter_map(|path| {
            let text = String::from_utf8(std::fs::read(root.join(path)).ok()?).ok()?;
            Some(Source { path: path.to_owned(), text })
        })
        .collect())
}

/// What cargo knows of all packages.
fn metadata(root: &Path) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .context("can't run cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata isn't JSON")
}

/// The packages of cargo's metadata.
fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

/// Whether a path's name ends so.
fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}
