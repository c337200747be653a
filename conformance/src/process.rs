//! A child process: its output in a file, signals by its id, and always stopped when it goes out of scope.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A program that runs, or ran, with its output appended to one file.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts `program`; `name` names it in messages, `log` gets its standard output and error.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self> {
        let arguments = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let mut process = Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments,
            environment: Vec::new(),
            log: log.to_owned(),
            child: None,
        };
        process.restart()?;
        Ok(process)
    }

    /// Sets what the next start's environment has besides this process's own.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// Starts the program again, with the same arguments, after it ended.
    pub fn restart(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.name);
        }
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        writeln!(
            log,
            "---- {} starts: {} {:?}",
            self.name,
            self.program.display(),
            self.arguments
        )?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("can't start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Sets the arguments of the next start.
    pub fn set_arguments<A: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = A>) {
        self.arguments = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it runs; one that ended is noted as such.
    pub fn is_running(&mut self) -> bool {
        if let Some(child) = &mut self.child
            && !matches!(child.try_wait(), Ok(None))
        {
            self.child = None;
        }
        self.child.is_some()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(child) = &self.child else { bail!("{} doesn't run", self.name) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a process id that isn't one")?;
        kill_process(pid, signal).with_context(|| format!("can't signal {}", self.name))
    }

    /// SIGKILL: it ends between two instructions, as at a power cut, but the page cache survives.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().with_context(|| format!("can't kill {}", self.name))?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGSTOP: it stands still, and its connections stay open.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: it goes on as if no time had passed.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, and the exit status; an error where it hasn't ended within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        let Some(child) = &mut self.child else { bail!("{} doesn't run", self.name) };
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} hasn't ended after {limit:?}", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it wrote so far, all runs of it.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last `lines` lines of what it wrote, for messages.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let tail = self.log_tail(40);
            let _ = writeln!(std::io::stderr(), "---- log of {} ----\n{tail}\n----", self.name);
        }
        let _ = self.kill();
    }
}

/// Creates an empty file, for a log that may be read before anything is written to it.
pub fn touch(path: &Path) -> Result<()> {
    File::create(path).with_context(|| format!("can't create {}", path.display()))?;
    Ok(())
}

/// Asks `ready` every 20 ms until it gives something; an error that names `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = ready() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Process {
        Process::start("sh", Path::new("/bin/sh"), ["-c", script], &folder.join("log")).unwrap()
    }

    #[test]
    fn a_process_is_stopped_when_it_goes_out_of_scope() {
        let folder = tempfile::tempdir().unwrap();
        let process = shell("exec sleep 600", folder.path());
        let path = format!("/proc/{}", process.id().unwrap());
        assert!(Path::new(&path).exists());
        drop(process);
        assert!(!Path::new(&path).exists());
    }

    #[test]
    fn a_process_can_be_killed_and_started_again_and_its_log_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell("echo hello; exec sleep 600", folder.path());
        for runs in 1..=2 {
            wait_for("two lines", Duration::from_secs(5), || {
                (process.log().lines().filter(|line| *line == "hello").count() == runs)
                    .then_some(())
            })
            .unwrap();
            process.kill().unwrap();
            assert!(!process.is_running());
            process.restart().unwrap();
        }
    }

    #[test]
    fn the_exit_status_after_a_signal_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done";
        let mut process = shell(script, folder.path());
        wait_for("the trap", Duration::from_secs(5), || {
            process.log().contains("\nup").then_some(())
        })
        .unwrap();
        let status = process.terminate(Duration::from_secs(5)).unwrap();
        assert_eq!(status.code(), Some(7));
    }
}
