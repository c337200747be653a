//! The agents of a pool as processes, and what their logs say of members.

use std::{
    fs,
    io::{BufRead as _, BufReader, PipeReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use conformance::ports::Ports;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Kind, Plan};

/// Ports of one agent: gossip, and HTTP or serf's RPC.
const PORTS: u16 = 2;
/// Agents that share a block of ports.
const SHARING: u16 = 9;
/// The last lines of an agent's log that are kept, for messages.
const TAIL: usize = 8;

/// What Consul's agents say of themselves in their tags, and ours: serf's announcements shall be as long.
const TAGS: [(&str, &str); 9] = [
    ("acls", "0"),
    ("build", "1.8.7:12345678"),
    ("dc", "dc1"),
    ("id", "01234567-89ab-cdef-0123-456789abcdef"),
    ("role", "node"),
    ("proconsul", "1"),
    ("vsn", "2"),
    ("vsn_max", "3"),
    ("vsn_min", "2"),
];

/// What an agent says of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// It came.
    Join,
    /// It is dead.
    Failed,
    /// It left.
    Leave,
}

/// What a line of a log says, and of which member.
fn read(line: &str) -> Option<(Says, usize)> {
    let (_, news) = line.split_once("serf: EventMember")?;
    let (what, rest) = news.split_once(": n")?;
    let says = match what {
        "Join" => Says::Join,
        "Failed" => Says::Failed,
        "Leave" => Says::Leave,
        _ => return None,
    };
    Some((says, rest.split_whitespace().next()?.parse().ok()?))
}

/// A line of an agent's log, and when it was there.
struct Line {
    agent: usize,
    at: Instant,
    text: String,
}

struct Agent {
    child: Child,
    /// Whether it still runs as it should.
    up: bool,
    /// What it last said of each member, and when.
    knows: Vec<Option<(Says, Instant)>>,
    tail: Vec<String>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agents of one pool, called `n0` and so on; they are stopped when it is dropped.
pub(super) struct Agents {
    all: Vec<Agent>,
    lines: Receiver<Line>,
    read: usize,
    wrong: usize,
    started: Instant,
    /// Behind the agents: what they use is given back once they are stopped.
    setup: Setup,
}

/// What agents are started with.
struct Setup {
    kind: Kind,
    program: PathBuf,
    folder: TempDir,
    ports: Vec<Ports>,
}

impl Setup {
    fn port(&self, agent: usize, which: u16) -> Result<u16> {
        let (block, place) = (agent / usize::from(SHARING), agent % usize::from(SHARING));
        Ok(self.ports[block].port(u16::try_from(place)? * PORTS + which))
    }

    fn command(&self, agent: usize) -> Result<Command> {
        let (gossip, api) = (self.port(agent, 0)?, self.port(agent, 1)?);
        let folder = self.folder.path().join(format!("n{agent}"));
        fs::create_dir_all(&folder)?;
        let mut command = Command::new(&self.program);
        command.args(["agent", &format!("-node=n{agent}"), "-log-level=info"]);
        match self.kind {
            Kind::Proconsul => command
                .args(["-bind=127.0.0.1", &format!("-serf-lan-port={gossip}")])
                .args([format!("-http-port={api}"), format!("-data-dir={}", folder.display())]),
            Kind::Serf => command
                .args(["-profile=lan", &format!("-bind=127.0.0.1:{gossip}")])
                .args([format!("-rpc-addr=127.0.0.1:{api}")])
                .args(TAGS.map(|(tag, value)| format!("-tag={tag}={value}")))
                .arg(format!("-snapshot={}", folder.join("snapshot").display())),
        };
        if agent > 0 {
            command.arg(format!("-join=127.0.0.1:{}", self.port(0, 0)?));
        }
        Ok(command)
    }

    fn start(&self, agent: usize, lines: Sender<Line>) -> Result<Child> {
        let (log, end) = std::io::pipe()?;
        let mut command = self.command(agent)?;
        command.stdin(Stdio::null()).stdout(end.try_clone()?).stderr(end);
        let child = command.spawn().with_context(|| self.program.display().to_string())?;
        thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || follow(agent, log, &lines))
            .context("a thread")?;
        Ok(child)
    }
}

/// Passes on what an agent says until it ends.
fn follow(agent: usize, log: PipeReader, lines: &Sender<Line>) {
    for text in BufReader::new(log).lines().map_while(Result::ok) {
        if lines.send(Line { agent, at: Instant::now(), text }).is_err() {
            return;
        }
    }
}

impl Agents {
    /// Starts the first agent, waits until it is there, and starts the others.
    pub(super) fn start(kind: Kind, plan: &Plan) -> Result<Self> {
        fs::create_dir_all(&plan.scratch)?;
        let folder = tempfile::Builder::new().prefix(kind.name()).tempdir_in(&plan.scratch)?;
        let blocks = plan.agents.div_ceil(usize::from(SHARING));
        let ports = (0..blocks).map(|_| Ports::take()).collect::<Result<Vec<_>>>()?;
        let setup = Setup { kind, program: plan.program.clone(), folder, ports };
        let (sender, lines) = channel();
        let knows = vec![None; plan.agents];
        let mut pool = Self {
            all: Vec::with_capacity(plan.agents),
            lines,
            read: 0,
            wrong: 0,
            started: Instant::now(),
            setup,
        };
        for number in 0..plan.agents {
            let child = pool.setup.start(number, sender.clone())?;
            pool.all.push(Agent { child, up: true, knows: knows.clone(), tail: Vec::new() });
            if number == 0 {
                let there = |agents: &[Agent]| agents[0].knows[0].is_some();
                ensure!(pool.wait(Duration::from_secs(30), there)?, "the first agent isn't there");
                pool.started = Instant::now();
            }
        }
        Ok(pool)
    }

    /// Waits until all know all; from the start of the second agent on.
    pub(super) fn join(&mut self, limit: Duration) -> Result<Duration> {
        let all_joined =
            |agent: &Agent| agent.knows.iter().all(|known| matches!(known, Some((Says::Join, _))));
        let joined = self.wait(limit, |agents| agents.iter().all(all_joined))?;
        ensure!(joined, "not all have joined after {limit:?}");
        let times = self.all.iter().flat_map(|agent| agent.knows.iter().flatten());
        let last = times.map(|(_, at)| *at).max().context("there are no agents")?;
        Ok(last.saturating_duration_since(self.started))
    }

    /// Ends an agent, or stops it.
    pub(super) fn end(&mut self, number: usize, signal: Signal) -> Result<()> {
        // What was said before is not of this end.
        self.take_lines();
        let agent = &mut self.all[number];
        agent.up = false;
        let pid = i32::try_from(agent.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process id")?, signal).context("can't signal an agent")
    }

    /// Waits until all who are up have said this of a member; gives when the first did and when the last did, or who
    /// didn't, and what they say instead.
    pub(super) fn wait_for(
        &mut self,
        says: Says,
        member: usize,
        since: Instant,
        limit: Duration,
    ) -> Result<Result<(Duration, Duration), String>> {
        let when = |agent: &Agent| match agent.knows[member] {
            Some((said, at)) if said == says => Some(at),
            _ => None,
        };
        let all = self
            .wait(limit, |agents| agents.iter().all(|agent| !agent.up || when(agent).is_some()))?;
        let up = self.all.iter().filter(|agent| agent.up);
        if !all {
            let others = self.all.iter().enumerate();
            let missing = others.filter(|(_, agent)| agent.up && when(agent).is_none());
            let missing = missing.map(|(number, agent)| {
                let said = agent.knows[member].map(|(says, _)| says);
                format!("to n{number} it is {said:?}")
            });
            let missing: Vec<_> = missing.collect();
            return Ok(Err(format!("{says:?} of n{member}: {}", missing.join(", "))));
        }
        let times: Vec<Instant> = up.filter_map(when).collect();
        let first = times.iter().min().context("nobody is up")?;
        let last = times.iter().max().context("nobody is up")?;
        Ok(Ok((first.saturating_duration_since(since), last.saturating_duration_since(since))))
    }

    /// The processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.all.iter().map(|agent| agent.child.id()).collect()
    }

    /// How many lines all wrote so far.
    pub(super) fn lines(&mut self) -> usize {
        self.take_lines();
        self.read
    }

    /// How often an agent said that one is dead that was up.
    pub(super) fn wrong(&mut self) -> usize {
        self.take_lines();
        self.wrong
    }

    fn take_lines(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.take(line);
        }
    }

    fn take(&mut self, line: Line) {
        self.read += 1;
        if let Some((says, member)) = read(&line.text) {
            let there = self.all.get(member).is_some_and(|agent| agent.up);
            let by_one_who_is_up = self.all[line.agent].up;
            self.wrong += usize::from(says == Says::Failed && there && by_one_who_is_up);
            if let Some(known) = self.all[line.agent].knows.get_mut(member) {
                *known = Some((says, line.at));
            }
        }
        let tail = &mut self.all[line.agent].tail;
        if tail.len() == TAIL {
            tail.remove(0);
        }
        tail.push(line.text);
    }

    /// Reads what the agents say until something is done; false where it isn't after `limit`.
    fn wait(&mut self, limit: Duration, done: impl Fn(&[Agent]) -> bool) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            self.take_lines();
            if done(&self.all) {
                return Ok(true);
            }
            for (number, agent) in self.all.iter_mut().enumerate().filter(|(_, agent)| agent.up) {
                if let Some(status) = agent.child.try_wait()? {
                    bail!("n{number} ended with {status}:\n  {}", agent.tail.join("\n  "));
                }
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Ok(false);
            };
            if let Ok(line) = self.lines.recv_timeout(left.min(Duration::from_millis(200))) {
                self.take(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_logs_tell_of_members_alike() {
        let ours = "    2026-11-24T23:15:01.123Z [INFO]  agent.serf.lan: serf: EventMemberFailed: n12 127.0.0.1";
        let serfs = "    2026/11/24 23:15:01 [INFO] serf: EventMemberFailed: n12 127.0.0.1";
        assert_eq!([ours, serfs].map(read), [Some((Says::Failed, 12)); 2]);
        assert_eq!(read("[INFO] serf: EventMemberJoin: n0 127.0.0.1"), Some((Says::Join, 0)));
        assert_eq!(read("[INFO] serf: EventMemberLeave: n7 127.0.0.1"), Some((Says::Leave, 7)));
        assert_eq!(read("[INFO] serf: EventMemberUpdate: n7"), None);
        assert_eq!(read("[INFO] agent: Received event: member-failed"), None);
    }
}
