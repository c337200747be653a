//! Mutants: known bugs, put into `spec` one at a time, each of which a named property must catch.
//!
//! A mutant is one edit of one line (or of the few that guard against one bug together), kept as data in `mutants.toml`. The runner applies it to a copy of `spec` and
//! `model`, builds there, and hunts for a counterexample of the named property in the named scope. A panic doesn't
//! count, nor does another property; a line that doesn't match exactly once fails the run.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::{Tier, search::Hunt};

/// One known bug.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// Its number in the list of known bugs.
    pub number: u32,
    /// Its name, unique.
    pub name: String,
    /// The clause of `spec/prose` that it breaks.
    pub clause: String,
    /// The file, from the workspace's root.
    pub file: String,
    /// The line, without the white space around it; it stands exactly once in the file.
    pub line: String,
    /// What the line becomes; may be several lines.
    pub becomes: String,
    /// Further lines of the file, where several guard against the same bug and each alone is enough.
    #[serde(default)]
    pub also: Vec<Edit>,
    /// The property that must catch it.
    pub property: String,
    /// Other properties that must catch it there, too.
    #[serde(default)]
    pub besides: Vec<String>,
    /// The smallest scope in which it does.
    pub scope: String,
    /// When it runs besides when something that it depends on changed.
    pub tier: Tier,
    /// How to look for it.
    #[serde(default)]
    pub search: Hunt,
}

/// A line and what it becomes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The line, as in [`Mutant::line`].
    pub line: String,
    /// What it becomes.
    pub becomes: String,
}

/// Where mutants are listed.
const LIST: &str = "model/mutants.toml";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    #[serde(default)]
    mutant: Vec<Mutant>,
}

/// The workspace's root.
pub fn root() -> PathBuf {
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    model.parent().map_or_else(|| model.clone(), Path::to_path_buf)
}

/// The list of mutants.
pub fn read() -> anyhow::Result<Vec<Mutant>> {
    let path = root().join(LIST);
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let listed: Listed = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
    Ok(listed.mutant)
}

impl Mutant {
    /// The text of its file with the mutant in it.
    pub fn apply(&self, text: &str) -> anyhow::Result<String> {
        let first = Edit { line: self.line.clone(), becomes: self.becomes.clone() };
        let mut edits: Vec<_> = std::iter::once(&first).chain(&self.also).collect();
        for edit in &edits {
            let wanted = edit.line.trim();
            let matches = text.lines().filter(|line| line.trim() == wanted).count();
            ensure!(
                matches == 1,
                "mutant {} ({}): the line `{wanted}` stands {matches} times in {}, not once",
                self.number,
                self.name,
                self.file,
            );
        }
        let mut mutated = String::with_capacity(text.len() + self.becomes.len());
        for line in text.lines() {
            let edit = edits.iter().position(|edit| edit.line.trim() == line.trim());
            let becomes = edit.map(|at| edits.swap_remove(at).becomes.as_str());
            mutated.push_str(becomes.unwrap_or(line));
            mutated.push('\n');
        }
        Ok(mutated)
    }

    /// Fails unless its line matches once, its scope exists and has its property.
    pub fn verify(&self) -> anyhow::Result<()> {
        let path = root().join(&self.file);
        let text = std::fs::read_to_string(&path).with_context(|| self.file.clone())?;
        self.apply(&text)?;
        let scopes = crate::scopes();
        let Some(scope) = scopes.iter().find(|scope| scope.name == self.scope) else {
            bail!("mutant {} ({}): no scope is called {}", self.number, self.name, self.scope);
        };
        for property in self.properties() {
            ensure!(
                scope.properties().contains(&property.as_str()),
                "mutant {} ({}): scope {} has no property {property}",
                self.number,
                self.name,
                self.scope,
            );
        }
        Ok(())
    }

    /// The module that makes its scope.
    fn family(&self) -> anyhow::Result<&'static str> {
        let mut families = crate::families().into_iter();
        let family =
            families.find(|(_, scopes)| scopes.iter().any(|scope| scope.name == self.scope));
        family.map(|(name, _)| name).with_context(|| format!("no scope is called {}", self.scope))
    }

    /// The properties that must catch it.
    pub fn properties(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.property).chain(&self.besides)
    }
}

/// What became of a mutant before one of its properties.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The property.
    pub property: String,
    /// Whether it caught the mutant.
    pub caught: bool,
    /// What there is to say.
    pub text: String,
    /// How long the hunt took, without the build.
    pub time: Duration,
}

/// A copy of the workspace's `spec` and `model` to put mutants in.
pub struct Scratch {
    folder: PathBuf,
    target: PathBuf,
    /// The text of `model/src/lib.rs`.
    library: String,
}

impl Scratch {
    /// Copies the sources. The folder and its build stay, so that the next mutant builds on them. Several copies, each
    /// of a number of its own, are worked on at once: a build and a search by levels each keep one core busy.
    pub fn prepare(number: usize) -> anyhow::Result<Self> {
        let target = root().join(format!("target/mutants/{number}"));
        let folder = target.join("workspace");
        for package in ["spec", "model"] {
            copy(&root().join(package), &folder.join(package))?;
        }
        let manifest = std::fs::read_to_string(root().join("Cargo.toml"))?;
        std::fs::write(folder.join("Cargo.toml"), only_members(&manifest, &["spec", "model"])?)?;
        std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
        let library = std::fs::read_to_string(root().join(LIBRARY))?;
        Ok(Self { folder, target: target.join("build"), library })
    }

    /// Puts one mutant in, builds, hunts, and takes it out again.
    pub fn run(&self, mutant: &Mutant) -> anyhow::Result<Vec<Verdict>> {
        let path = self.folder.join(&mutant.file);
        let original = std::fs::read_to_string(&path).with_context(|| mutant.file.clone())?;
        std::fs::write(self.folder.join(LIBRARY), only_family(&self.library, mutant.family()?))?;
        std::fs::write(&path, mutant.apply(&original)?)?;
        let built = self.build(mutant);
        let verdicts =
            built.and_then(|()| mutant.properties().map(|p| self.hunt(mutant, p)).collect());
        std::fs::write(&path, original)?;
        verdicts
    }

    fn build(&self, mutant: &Mutant) -> anyhow::Result<()> {
        let build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--offline", "-p", "model", "--bin", "model"])
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("RUSTFLAGS", "-Awarnings")
            .output()?;
        if !build.status.success() {
            let said = String::from_utf8_lossy(&build.stderr).into_owned();
            bail!("mutant {} ({}) doesn't compile:\n{said}", mutant.number, mutant.name);
        }
        Ok(())
    }

    fn hunt(&self, mutant: &Mutant, property: &str) -> anyhow::Result<Verdict> {
        let started = Instant::now();
        let search = if mutant.search == Hunt::Breadth { "breadth" } else { "depth" };
        let hunt = Command::new(self.target.join("debug/model"))
            .args(["hunt", &mutant.scope, property, "--search", search])
            .output()?;
        let said = String::from_utf8_lossy(&hunt.stdout);
        Ok(Verdict {
            property: property.to_owned(),
            caught: hunt.status.code() == Some(i32::from(HUNT_CAUGHT)),
            text: said.lines().next().unwrap_or("said nothing").to_owned(),
            time: started.elapsed(),
        })
    }
}

/// The exit status of a `hunt` that found a counterexample: none that a panic, or a usage error, has.
pub const HUNT_CAUGHT: u8 = 42;

/// Where the modules of scopes are listed.
const LIBRARY: &str = "model/src/lib.rs";

/// The library without the modules that make other scopes: to compile them takes longer than most hunts.
fn only_family(library: &str, family: &str) -> String {
    let others: Vec<_> =
        library.lines().filter_map(listed_family).filter(|name| *name != family).collect();
    let of_another = |line: &&str| {
        let module = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'));
        module.or(listed_family(line)).is_some_and(|name| others.contains(&name))
    };
    let kept = library.lines().filter(|line| !of_another(line));
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// The module of which this line of [`crate::families`] is.
fn listed_family(line: &str) -> Option<&str> {
    line.trim().strip_prefix("(\"").and_then(|rest| rest.split('"').next())
}

/// The manifest with these members only.
fn only_members(manifest: &str, members: &[&str]) -> anyhow::Result<String> {
    let mut table: toml::Table = toml::from_str(manifest)?;
    let workspace = table.get_mut("workspace").and_then(toml::Value::as_table_mut);
    let workspace = workspace.context("the manifest has no [workspace]")?;
    workspace.insert("members".to_owned(), toml::Value::try_from(members)?);
    workspace.remove("default-members");
    // Each mutant compiles spec and model again: what a fast build saves is more than what a fast search would.
    if let Some(dev) = table.get_mut("profile").and_then(|profile| profile.get_mut("dev")) {
        set(dev, "debug", toml::Value::Boolean(false));
        for member in members {
            if let Some(package) = dev.get_mut("package").and_then(|p| p.get_mut(*member)) {
                set(package, "opt-level", toml::Value::Integer(1));
            }
        }
    }
    Ok(toml::to_string(&table)?)
}

fn set(table: &mut toml::Value, key: &str, value: toml::Value) {
    if let Some(table) = table.as_table_mut() {
        table.insert(key.to_owned(), value);
    }
}

/// Copies what changed, so that cargo builds no more than that; removes what is gone.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(to)? {
        let entry = entry?;
        if !from.join(entry.file_name()).exists() {
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    for entry in std::fs::read_dir(from).with_context(|| format!("{}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                copy(&entry.path(), &target)?;
            }
        } else {
            let bytes = std::fs::read(entry.path())?;
            if std::fs::read(&target).ok().as_deref() != Some(bytes.as_slice()) {
                std::fs::write(&target, bytes)?;
            }
        }
    }
    Ok(())
}

/// What differs from a revision, as far as mutants depend on it.
pub struct Changes {
    /// The files, from the workspace's root.
    files: Vec<String>,
    /// The list as it was; empty where it can't be told.
    list: Vec<Mutant>,
}

impl Changes {
    /// What differs from `revision`, committed or not.
    pub fn since(revision: &str) -> anyhow::Result<Self> {
        let files = git(&["diff", "--name-only", "--relative", revision, "--"])?;
        // Where there was no list, or one that reads otherwise, all of them are new.
        let list = git(&["show", &format!("{revision}:./{LIST}")]).ok();
        let list = list.and_then(|text| toml::from_str(&text).ok()).unwrap_or_default();
        let Listed { mutant: list } = list;
        Ok(Self { files: files.lines().map(str::to_owned).collect(), list })
    }

    /// Whether a mutant has to be caught anew: its file changed, the model that is to catch it, or what the list says of it.
    pub fn concern(&self, mutant: &Mutant) -> anyhow::Result<bool> {
        let family = mutant.family()?;
        Ok(self.files.contains(&mutant.file)
            || self.files.iter().any(|file| is_of_family(file, family))
            || !self.list.contains(mutant))
    }
}

/// Whether a file is part of the model that makes a family's scopes. What all models share is none's, and tests catch no
/// mutant.
fn is_of_family(file: &str, family: &str) -> bool {
    let rest = file.strip_prefix("model/src/").and_then(|rest| rest.strip_prefix(family));
    rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/') && rest != "/tests.rs")
}

fn git(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git").args(arguments).current_dir(root()).output().context("git")?;
    ensure!(
        output.status.success(),
        "git {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(line: &str) -> Mutant {
        Mutant {
            number: 1,
            name: "one".to_owned(),
            clause: "RAFT-1".to_owned(),
            file: "spec/src/lib.rs".to_owned(),
            line: line.to_owned(),
            becomes: "changed;".to_owned(),
            also: Vec::new(),
            property: "p".to_owned(),
            besides: Vec::new(),
            scope: "s".to_owned(),
            tier: Tier::Ci,
            search: Hunt::Breadth,
        }
    }

    #[test]
    fn a_mutant_changes_its_one_line_whatever_the_indent() {
        let changed = mutant("b();").apply("a();\n    b();\nc();\n").unwrap();
        assert_eq!(changed, "a();\nchanged;\nc();\n");
    }

    #[test]
    fn a_mutant_whose_line_stands_twice_or_never_is_refused() {
        assert!(mutant("b();").apply("b();\nb();\n").is_err());
        assert!(mutant("b();").apply("b(c);\n").is_err());
    }

    #[test]
    fn every_mutant_matches_one_line_and_names_a_scope_with_its_property() {
        let mutants = read().unwrap();
        for mutant in &mutants {
            mutant.verify().unwrap();
        }
        let mut names: Vec<_> = mutants.iter().map(|mutant| &mutant.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), mutants.len(), "two mutants bear one name");
    }

    #[test]
    fn a_mutant_is_caught_anew_when_its_file_its_model_or_its_entry_changed() {
        let mut old = mutant("b();");
        old.scope = crate::leave::scopes()[0].name.to_owned();
        let concern = |files: &[&str], mutant: &Mutant| {
            let files = files.iter().map(|&file| file.to_owned()).collect();
            Changes { files, list: vec![old.clone()] }.concern(mutant).unwrap()
        };
        assert!(!concern(&[], &old));
        for file in ["spec/src/lib.rs", "model/src/leave.rs", "model/src/leave/world.rs"] {
            assert!(concern(&[file], &old), "{file}");
        }
        for file in [
            "spec/src/time.rs",
            "model/src/kv.rs",
            "model/src/leaves.rs",
            "model/src/leave/tests.rs",
            "model/src/scope.rs",
            LIST,
        ] {
            assert!(!concern(&[file], &old), "{file}");
        }
        let other_line = Mutant { becomes: "other;".to_owned(), ..old.clone() };
        let other_property = Mutant { property: "q".to_owned(), ..old.clone() };
        let new = Mutant { number: 2, name: "two".to_owned(), ..old.clone() };
        for changed in [other_line, other_property, new] {
            assert!(concern(&[], &changed), "{changed:?}");
        }
    }

    #[test]
    fn every_family_is_a_module_of_the_model() {
        for (family, _) in crate::families() {
            let there = [format!("model/src/{family}.rs"), format!("model/src/{family}/mod.rs")];
            assert!(there.iter().any(|file| root().join(file).exists()), "{family}");
            assert!(there.iter().all(|file| is_of_family(file, family)), "{family}");
        }
    }

    #[test]
    fn a_mutant_is_built_with_the_scopes_of_its_family_only() {
        let library = std::fs::read_to_string(root().join(LIBRARY)).unwrap();
        let families = crate::families();
        for (family, _) in &families {
            let text = only_family(&library, family);
            for (other, _) in &families {
                let has = |line: String| text.lines().any(|l| l.trim() == line);
                let there = [
                    has(format!("pub mod {other};")),
                    has(format!("(\"{other}\", {other}::scopes()),")),
                ];
                assert_eq!(there, [other == family; 2], "{family} {other}");
            }
            assert!(text.contains("pub mod mutants;\n"));
        }
    }
}
