//! Coverage-guided fuzzing of gossip's decoders (`cargo xtask fuzz`): builds the targets of `gossip-fuzz` with LLVM's
//! instrumentation, writes their seeds, and runs libFuzzer on each.
//!
//! Stable Rust is enough: the pass that counts edges and traces comparisons is LLVM's own. There is no sanitizer, which
//! would need an unstable flag, and nothing for one to find in code that forbids `unsafe`; so libFuzzer sees no
//! allocations either (its `-malloc_limit_mb` would do nothing), and the targets count those themselves.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, ensure};

/// What the instrumentation is asked for: edges counted in 8 bits, a table of them, comparisons traced.
const FLAGS: &[&str] = &[
    "--cfg fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Ccodegen-units=1",
];

/// The longest input, in bytes: several times a datagram that isn't fragmented.
const MAX_LEN: u32 = 4096;
/// How long one input may take, in seconds.
const TIMEOUT: u32 = 5;
/// The most memory of a whole process, in MiB. The stream of 20 MiB that a bomb expands to is held twice at most.
const RSS_LIMIT: u32 = 512;

/// Heads of msgpack that claim much.
const CLAIMS: &[&str] = &[
    r"\xdd\xff\xff\xff\xff",
    r"\xdf\x7f\xff\xff\xff",
    r"\xdb\x01\x00\x00\x00",
    r"\xdc\xff\xff",
    r"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    r"\x91\x91\x91\x91\x91\x91\x91\x91",
];

/// What is fuzzed, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names of targets; all, if empty.
    pub targets: Vec<String>,
    /// How long each is run.
    pub seconds: u64,
}

/// What libFuzzer tells at the end of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Inputs that were tried.
    pub runs: u64,
    /// Inputs a second.
    pub runs_per_second: u64,
    /// Edges that were reached.
    pub coverage: u64,
    /// Edges with how often, and comparisons with how near.
    pub features: u64,
    /// Inputs that are kept, since each reaches something of its own.
    pub corpus: u64,
    /// The most memory of the process, in MiB.
    pub rss: u64,
}

impl Figures {
    /// Reads them from libFuzzer's log. None where it didn't come to its end.
    fn read(log: &str) -> Option<Self> {
        let done = log.lines().rfind(|line| line.contains("\tDONE "))?;
        let words: Vec<&str> = done.split_whitespace().collect();
        let behind = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            let digits: &str = words.get(at + 1)?.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        };
        Some(Self {
            runs: words.first()?.strip_prefix('#')?.parse().ok()?,
            runs_per_second: behind("exec/s:")?,
            coverage: behind("cov:")?,
            features: behind("ft:")?,
            corpus: behind("corp:")?,
            rss: behind("rss:")?,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, runs_per_second, coverage, features, corpus, rss } = self;
        write!(
            f,
            "{runs:>9} runs, {runs_per_second:>7}/s, cov {coverage:>5}, ft {features:>6}, \
             corpus {corpus:>5}, {rss:>3} MiB"
        )
    }
}

/// The folders of a run.
struct Folders {
    root: PathBuf,
    fuzz: PathBuf,
}

/// Builds and runs what is planned. Each target's log, corpus and findings are kept in `target/fuzz`; the corpus grows
/// from run to run.
pub fn run(root: &Path, plan: &Plan) -> Result<()> {
    let folders = Folders { root: root.to_owned(), fuzz: root.join("target/fuzz") };
    let compiler = Command::new("c++").arg("--version").output();
    ensure!(
        compiler.is_ok_and(|output| output.status.success()),
        "libFuzzer is C++: c++ is needed to build it (Debian's package g++)"
    );
    let fuzzer = folders.build()?;
    let known = folders.seeds(&fuzzer)?;
    for name in &plan.targets {
        ensure!(known.contains(name), "no target is named {name}; there are {}", known.join(", "));
    }
    let targets = if plan.targets.is_empty() { &known } else { &plan.targets };
    let left = Mutex::new(targets.iter());
    let next = || left.lock().ok()?.next();
    let failures = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(name) = next() {
                    match folders.fuzz(&fuzzer, name, plan.seconds) {
                        Ok(figures) => println!("{name:<18}{figures}"),
                        Err(error) => {
                            println!("{name:<18}FAILED: {error:#}");
                            failures.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failures.is_empty(), "{} of {} targets failed", failures.len(), targets.len());
    println!("{} targets, {} s each, nothing found", targets.len(), plan.seconds);
    Ok(())
}

fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

/// What a command that has to succeed prints.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("can't run {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}:\n{errors}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// What libFuzzer puts in as a whole, in its own form: the words in the sources of a folder as msgpack has them, for the
/// names of fields are among those, and heads that lie. Comparisons of names are calls that aren't traced, and a field
/// that no recorded agent knew is hit upon by nobody: serf 0.9.4 sends no `Prune`.
fn dictionary(sources: &Path) -> Result<String> {
    let mut words = BTreeSet::new();
    for entry in fs::read_dir(sources)? {
        let path = entry?.path();
        if path.is_file() {
            let text = fs::read_to_string(path)?;
            let word = |text: &&str| {
                (1..32).contains(&text.len())
                    && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            };
            words.extend(text.split('"').filter(word).map(str::to_owned));
        }
    }
    let word = |word: &String| format!("\"\\x{:02x}{word}\"\n", 0xa0 | word.len());
    let claim = |claim: &&str| format!("\"{claim}\"\n");
    Ok(words.iter().map(word).chain(CLAIMS.iter().map(claim)).collect())
}

impl Folders {
    /// Builds the fuzzer. The flags would change everything that is built, so it has a target folder of its own; and
    /// they are not for build scripts, which are spared them only where a target is named.
    fn build(&self) -> Result<PathBuf> {
        let host = output(Command::new("rustc").args(["--print", "host-tuple"]))?;
        let host = host.trim();
        let folder = self.fuzz.join("build");
        let status = cargo(&self.root)
            .args(["build", "-q", "-p", "gossip-fuzz", "--profile", "fuzz", "--target", host])
            .arg("--target-dir")
            .arg(&folder)
            .env("RUSTFLAGS", FLAGS.join(" "))
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .status()
            .context("can't run cargo")?;
        ensure!(status.success(), "the fuzzer doesn't build");
        Ok(folder.join(host).join("fuzz/gossip-fuzz"))
    }

    /// Has the seeds written. Gives the targets' names.
    fn seeds(&self, fuzzer: &Path) -> Result<Vec<String>> {
        let seeds = self.fuzz.join("seeds");
        if seeds.exists() {
            fs::remove_dir_all(&seeds)?;
        }
        let names = output(Command::new(fuzzer).env("FUZZ_SEEDS", seeds))?;
        fs::write(self.fuzz.join("dictionary"), dictionary(&self.root.join("impl/wire/src"))?)?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Runs one target. An error says where the input is that broke it, and how to run it again.
    fn fuzz(&self, fuzzer: &Path, name: &str, seconds: u64) -> Result<Figures> {
        let [corpus, found, logs] = ["corpus", "found", "logs"].map(|kind| self.fuzz.join(kind));
        let (corpus, seeds) = (corpus.join(name), self.fuzz.join("seeds").join(name));
        for folder in [&corpus, &found, &logs] {
            fs::create_dir_all(folder)?;
        }
        let log = logs.join(name);
        let file = File::create(&log)?;
        let at = |flag: &str, path: PathBuf| {
            let mut argument = OsString::from(flag);
            argument.push(path);
            argument
        };
        let status = Command::new(fuzzer)
            .env("FUZZ_TARGET", name)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={MAX_LEN}"))
            .arg(format!("-timeout={TIMEOUT}"))
            .arg(format!("-rss_limit_mb={RSS_LIMIT}"))
            .arg(at("-artifact_prefix=", found.join(format!("{name}-"))))
            .arg(at("-dict=", self.fuzz.join("dictionary")))
            .args([&corpus, &seeds])
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("can't run {}", fuzzer.display()))?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        ensure!(status.success(), "{}", self.story(name, &text, &log));
        let figures = Figures::read(&text).with_context(|| format!("see {}", log.display()))?;
        let seeds = u64::try_from(fs::read_dir(&seeds)?.count())?;
        // A fuzzer that is built without instrumentation, or never comes to an end of its seeds, finds nothing either.
        ensure!(
            seeds > 0 && figures.runs > seeds && figures.coverage > 0,
            "{seeds} seeds and {figures}: nothing was fuzzed"
        );
        Ok(figures)
    }

    /// What broke a target, from the log of its run.
    fn story(&self, name: &str, log: &str, path: &Path) -> String {
        let why = log.lines().skip_while(|line| !line.contains("panicked at"));
        let ends = ["==", "note:", "stack backtrace:"];
        let why = why.take_while(|line| !ends.iter().any(|end| line.starts_with(end)));
        let mut why: Vec<&str> = why.take(8).collect();
        why.extend(log.lines().filter(|line| line.starts_with("SUMMARY:")));
        let input = log.lines().find_map(|line| line.split_once("Test unit written to "));
        let Some((_, input)) = input else { return format!("see {}", path.display()) };
        let input = Path::new(input.trim());
        let input = input.strip_prefix(&self.root).unwrap_or(input).display();
        let why = why.join("\n  ");
        format!("\n  {why}\n  input: {input}\n  again: cargo run -p gossip-fuzz -- {name} {input}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_last_line_of_a_run() {
        let log = "#2\tINITED cov: 3 ft: 4 corp: 1/1b exec/s: 0 rss: 30Mb\n\
            #2097152\tDONE   cov: 120 ft: 431 corp: 57/2310b lim: 4096 exec/s: 524288 rss: 41Mb\n\
            Done 2097152 runs in 4 second(s)\n";
        let figures = Figures {
            runs: 2_097_152,
            runs_per_second: 524_288,
            coverage: 120,
            features: 431,
            corpus: 57,
            rss: 41,
        };
        assert_eq!(Figures::read(log), Some(figures));
        assert_eq!(Figures::read("#2\tINITED cov: 3\n"), None);
    }

    #[test]
    fn the_dictionary_has_the_names_of_fields_behind_their_lengths() {
        let sources = crate::agent::workspace_root().join("impl/wire/src");
        let dictionary = dictionary(&sources).unwrap();
        let has = |line: &str| dictionary.lines().any(|l| l == line);
        assert!(has(r#""\xa5Prune""#) && has(r#""\xa2nf""#) && has(r#""\xdc\xff\xff""#));
    }

    #[test]
    fn a_failure_names_its_input_and_how_to_run_it_again() {
        let folders = Folders { root: "/x".into(), fuzz: "/x/target/fuzz".into() };
        let log = "thread 'main' panicked at a.rs:1:2:\nheld 9 bytes\nnote: run with\n\
            ==1== ERROR: libFuzzer: deadly signal\nSUMMARY: libFuzzer: deadly signal\n\
            artifact_prefix='/x/'; Test unit written to /x/target/fuzz/found/tags-crash-ab\n";
        let story = folders.story("tags", log, Path::new("log"));
        assert!(story.contains("held 9 bytes") && !story.contains("note:"), "{story}");
        let again = "cargo run -p gossip-fuzz -- tags target/fuzz/found/tags-crash-ab";
        assert!(story.ends_with(again), "{story}");
    }
}
