//! Transcripts of Raft: each file in `tests/raft` is a list of commands and what the machines did.
//!
//! `BLESS=1 cargo test -p spec --test raft` writes the answers afresh; read the difference before it is committed.

#![allow(clippy::unwrap_used, reason = "a transcript that makes no sense stops the test")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use spec::{
    entropy::Least,
    gate::Gate,
    machine::{Context, Effect, Event, Machine, Ticket},
    raft::{
        ClusterId, Command, Config, Configuration, Durable, Index, Member, MembershipChange,
        Message, Node, Output, Payload, Proposal, Request, Role, ServerId, SnapshotId, Suffrage,
        Timer, Write, invariant, message::AppendResult,
    },
    time::Instant,
};

struct Host {
    config: Arc<Config>,
    node: Node,
    gate: Gate<Node>,
    durable: Durable,
    pending: VecDeque<(Ticket, Write)>,
    timers: BTreeSet<Timer>,
}

#[derive(Default)]
struct Cluster {
    hosts: BTreeMap<u128, Host>,
    down: BTreeMap<u128, (Arc<Config>, Durable)>,
    network: Vec<(u128, u128, Message)>,
    manual_sync: bool,
    tuning: Vec<String>,
    now_ms: u64,
    out: String,
}

fn id(n: u128) -> ServerId {
    ServerId::new(n, 0)
}

fn number(word: &str) -> u128 {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn describe(message: &Message) -> String {
    match message {
        Message::RequestVote(m) => format!(
            "{} t{} last={}/t{}{}",
            if m.pre_vote { "PreVote?" } else { "Vote?" },
            m.term.0,
            m.last.index.0,
            m.last.term.0,
            if m.transfer { " transfer" } else { "" }
        ),
        Message::Vote(m) => format!(
            "{} t{} {}",
            if m.pre_vote { "PreVote" } else { "Vote" },
            m.term.0,
            if m.granted { "granted" } else { "refused" }
        ),
        Message::AppendEntries(m) => {
            let entries: Vec<_> = m.entries.iter().map(entry).collect();
            let round = if m.round == 0 { String::new() } else { format!(" round={}", m.round) };
            format!(
                "Append t{} prev={}/t{} [{}] commit={}{round}",
                m.term.0,
                m.previous.index.0,
                m.previous.term.0,
                entries.join(" "),
                m.commit.0
            )
        }
        Message::Appended(m) => {
            let round = if m.round == 0 { String::new() } else { format!(" round={}", m.round) };
            match &m.result {
                AppendResult::Matched(index) => {
                    format!("Appended t{} matched={}{round}", m.term.0, index.0)
                }
                AppendResult::Conflict { rejected, hint } => format!(
                    "Appended t{} conflict={} hint={}/t{}{round}",
                    m.term.0, rejected.0, hint.index.0, hint.term.0
                ),
            }
        }
        Message::InstallSnapshot(m) => {
            format!(
                "Install t{} {}/t{} chunk {}",
                m.term.0, m.meta.id.index.0, m.meta.id.term.0, m.number
            )
        }
        Message::SnapshotReply(m) => {
            format!("Installed t{} {} next={}", m.term.0, m.id.index.0, m.next)
        }
        Message::TimeoutNow(m) => format!("TimeoutNow t{}", m.term.0),
        Message::ReadIndex(m) => format!("ReadIndex? {}", m.id.n),
        Message::ReadIndexReply(m) => format!("ReadIndex {} {:?}", m.id.n, m.index.map(|i| i.0)),
    }
}

fn entry(entry: &spec::raft::Entry) -> String {
    let request = match &entry.request {
        Request::Noop => "-".to_owned(),
        Request::Command(payload) => String::from_utf8_lossy(&payload.0).into_owned(),
        Request::Configuration(configuration) => members(configuration),
    };
    format!("{}/t{}:{request}", entry.index.0, entry.term.0)
}

fn members(configuration: &Configuration) -> String {
    let members: Vec<_> = configuration
        .servers
        .iter()
        .map(|(id, m)| {
            let learner = if m.suffrage == Suffrage::Learner { "~" } else { "" };
            // An address that only repeats the id tells nothing.
            let same = *m.address == *id.node.0.to_string();
            let address = if same { String::new() } else { format!("@{}", m.address) };
            format!("{id:?}{learner}{address}")
        })
        .collect();
    format!("({})", members.join(","))
}

fn output(output: &Output) -> Option<String> {
    Some(match output {
        Output::Appended { request, term, index } => {
            format!("request {request} appended at {}/t{}", index.0, term.0)
        }
        Output::Rejected { request, reason } => format!("request {request} rejected: {reason:?}"),
        Output::Transferred { request } => format!("request {request}: transferred"),
        Output::Committed(entries) => {
            format!("commits {}", entries.iter().map(entry).collect::<Vec<_>>().join(" "))
        }
        Output::ReadReady { n, index } => format!("read {n} at {}", index.0),
        Output::ReadFailed { n } => format!("read {n} failed"),
        Output::Changed { term, standing, leader } => {
            format!("is {standing:?} t{} leader={leader:?}", term.0)
        }
        Output::Configured { index, configuration } => {
            format!("configured at {}: {}", index.0, members(configuration))
        }
        Output::CaughtUp(id) => format!("{id:?} has caught up"),
        Output::LeaderHeard => return None,
        Output::StoreChunk { meta, number } => {
            format!("stores chunk {number} of {}", meta.id.index.0)
        }
        Output::FinishSnapshot(meta) => format!("finishes snapshot {}", meta.id.index.0),
        Output::Restore(meta) => format!("restores snapshot {}", meta.id.index.0),
        Output::Compacted { snapshot, base } => {
            format!("compacted to {} behind {}", snapshot.index.0, base.index.0)
        }
        Output::Dropped(why) => format!("dropped: {why}"),
    })
}

impl Cluster {
    fn config(&self, n: u128) -> Arc<Config> {
        let mut config = Config::new(id(n), 0);
        config.reach_back = false;
        config.election_jitter = Duration::ZERO;
        config.trailing_entries = 0;
        config.catch_up_slack = 0;
        for word in &self.tuning {
            let (name, value) = word.split_once('=').unwrap_or((word, "0"));
            let value = value.parse().unwrap();
            match name {
                "no-pre-vote" => config.pre_vote = false,
                "no-quorum-check" => config.check_quorum = false,
                "reach-back" => config.reach_back = true,
                "lazy-commit" => config.eager_commit = false,
                "one-entry" => config.max_append_entries = 1,
                "inflight" => config.max_inflight = value,
                "inflight-bytes" => config.max_inflight_bytes = value,
                "uncommitted-bytes" => config.max_uncommitted_bytes = value,
                "reads" => config.max_reads = value,
                other => panic!("unknown tuning {other}"),
            }
        }
        Arc::new(config)
    }

    fn start(&mut self, n: u128, config: Arc<Config>, durable: Durable) {
        let mut gate = Gate::default();
        let mut effects = Vec::new();
        let mut cx = Context {
            now: Instant(self.now_ms * 1000),
            entropy: &mut Least,
            last_ticket: &mut gate.last,
        };
        let node = Node::recover(&config, durable.clone(), &mut cx, &mut effects);
        let host =
            Host { config, node, gate, durable, pending: VecDeque::new(), timers: BTreeSet::new() };
        self.hosts.insert(n, host);
        self.run(n, &mut effects);
    }

    fn step(&mut self, n: u128, event: Event<Node>) {
        let Some(host) = self.hosts.get_mut(&n) else { panic!("server {n} is down") };
        let mut effects = Vec::new();
        let mut cx = Context {
            now: Instant(self.now_ms * 1000),
            entropy: &mut Least,
            last_ticket: &mut host.gate.last,
        };
        host.node.step(event, &mut cx, &mut effects);
        for (name, holds) in invariant::ALL {
            assert!(holds(&host.node), "{name} violated: {:#?}\n{}", host.node, self.out);
        }
        self.run(n, &mut effects);
    }

    fn run(&mut self, n: u128, effects: &mut Vec<Effect<Node>>) {
        let host = self.hosts.get_mut(&n).unwrap();
        let mut ready = Vec::new();
        host.gate.admit(effects, &mut ready);
        self.perform(n, ready);
        if !self.manual_sync {
            self.sync(n);
        }
    }

    fn perform(&mut self, n: u128, ready: Vec<Effect<Node>>) {
        for effect in ready {
            let host = self.hosts.get_mut(&n).unwrap();
            match effect {
                Effect::Persist { ticket, write } => {
                    if self.manual_sync {
                        let _ = writeln!(self.out, "  {n} writes {}", ticket.0);
                    }
                    host.pending.push_back((ticket, write));
                }
                Effect::Send { to, message, .. } => self.network.push((n, to.node.0, message)),
                Effect::Arm { timer, .. } => drop(host.timers.insert(timer)),
                Effect::Disarm { timer } => drop(host.timers.remove(&timer)),
                Effect::Emit { output: emitted, .. } => {
                    if let Some(text) = output(&emitted) {
                        let _ = writeln!(self.out, "  {n} {text}");
                    }
                }
            }
        }
    }

    /// Syncs everything that is pending, as one batch.
    fn sync(&mut self, n: u128) {
        while let Some(host) = self.hosts.get_mut(&n) {
            let mut last = None;
            while let Some((ticket, write)) = host.pending.pop_front() {
                host.durable.fold(&write);
                last = Some(ticket);
            }
            let Some(ticket) = last else { return };
            let mut ready = Vec::new();
            host.gate.durable(ticket, &mut ready);
            self.perform(n, ready);
            self.step(n, Event::Durable(ticket));
        }
    }

    fn deliver(&mut self, filter: impl Fn(u128, u128) -> bool, limit: usize) {
        for _ in 0..limit {
            let Some(at) = self.network.iter().position(|(from, to, _)| filter(*from, *to)) else {
                return;
            };
            let (from, to, message) = self.network.remove(at);
            let lost = if self.hosts.contains_key(&to) { "" } else { " (down)" };
            let _ = writeln!(self.out, "{from}->{to} {}{lost}", describe(&message));
            if lost.is_empty() {
                self.step(to, Event::Receive { from: id(from), message });
            }
        }
    }

    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let server = words.get(1).and_then(|word| word.parse::<u128>().ok());
        match words[0] {
            "tune" => self.tuning = words[1..].iter().map(|word| (*word).to_owned()).collect(),
            "servers" => self.servers(&words[1..]),
            "blank" => {
                let n = server.unwrap();
                self.start(n, self.config(n), Durable::default());
            }
            "sync" if words[1] == "manual" => self.manual_sync = true,
            "sync" if words[1] == "auto" => self.manual_sync = false,
            "sync" => self.sync(server.unwrap()),
            "fire" => {
                let timer = match words[2] {
                    "election" => Timer::Election,
                    "lease" => Timer::Lease,
                    "heartbeat" => Timer::Heartbeat,
                    "quorum-check" => Timer::QuorumCheck,
                    "transfer" => Timer::Transfer,
                    other => panic!("unknown timer {other}"),
                };
                let host = self.hosts.get_mut(&server.unwrap()).unwrap();
                assert!(host.timers.remove(&timer), "{line}: not armed");
                self.step(server.unwrap(), Event::Fire(timer));
            }
            "wait" => self.now_ms += u64::try_from(number(words[1])).unwrap(),
            "propose" => {
                let proposals = words[2..]
                    .iter()
                    .enumerate()
                    .map(|(n, word)| Proposal {
                        request: n as u64 + 1,
                        payload: Payload::from(word.as_bytes().to_vec()),
                    })
                    .collect();
                self.step(server.unwrap(), Event::Command(Command::Propose(proposals)));
            }
            "deliver" => match words.get(1) {
                None => self.deliver(|_, _| true, 1000),
                Some(link) => {
                    let (from, to) = link.split_once("->").unwrap();
                    let limit = words.get(2).map_or(1000, |word| word.parse().unwrap());
                    let matches = |pattern: &str, n: u128| pattern == "*" || number(pattern) == n;
                    self.deliver(|f, t| matches(from, f) && matches(to, t), limit);
                }
            },
            "drop" => {
                let (from, to) = words[1].split_once("->").unwrap();
                let mut left = words.get(2).map_or(1000, |word| word.parse().unwrap());
                let matches = |pattern: &str, n: u128| pattern == "*" || number(pattern) == n;
                self.network.retain(|(f, t, _)| {
                    let lost = left > 0 && matches(from, *f) && matches(to, *t);
                    left -= usize::from(lost);
                    !lost
                });
            }
            "duplicate" => self.network.extend(self.network.clone()),
            "crash" => {
                let n = server.unwrap();
                let host = self.hosts.remove(&n).unwrap();
                let _ = writeln!(self.out, "  {n} loses {} writes", host.pending.len());
                self.down.insert(n, (host.config, host.durable));
            }
            "restart" => {
                let (config, durable) = self.down.remove(&server.unwrap()).unwrap();
                self.start(server.unwrap(), config, durable);
            }
            "show" => self.show(),
            _ => self.ask(&words),
        }
    }

    fn ask(&mut self, words: &[&str]) {
        let n = number(words[1]);
        let command = match words[0] {
            "read" => Command::Read { n: words[2].parse().unwrap() },
            "add" => Command::Reconfigure {
                request: 1,
                change: MembershipChange::AddLearner {
                    id: id(number(words[2])),
                    address: words[2].into(),
                },
            },
            "promote" => Command::Reconfigure {
                request: 1,
                change: MembershipChange::Promote(id(number(words[2]))),
            },
            "remove" => Command::Reconfigure {
                request: 1,
                change: MembershipChange::Remove(id(number(words[2]))),
            },
            "set-address" => Command::Reconfigure {
                request: 1,
                change: MembershipChange::SetAddress {
                    id: id(number(words[2])),
                    address: words[3].into(),
                },
            },
            "transfer" => {
                Command::Transfer { request: 1, to: words.get(2).map(|word| id(number(word))) }
            }
            "unreachable" => Command::Unreachable(id(number(words[2]))),
            "snapshot" => Command::SnapshotSaved {
                index: Index(words[2].parse().unwrap()),
                chunks: words[3].parse().unwrap(),
            },
            "stored" | "failed" | "unreadable" => {
                let (index, term) = words[2].split_once("/t").unwrap();
                let snapshot = SnapshotId {
                    index: Index(index.parse().unwrap()),
                    term: spec::raft::Term(term.parse().unwrap()),
                };
                match words[0] {
                    "stored" => Command::SnapshotStored(snapshot),
                    "failed" => Command::SnapshotFailed(snapshot),
                    _ => Command::SnapshotUnreadable(snapshot),
                }
            }
            "step-down" => Command::StepDown,
            other => panic!("unknown command {other}"),
        };
        self.step(n, Event::Command(command));
    }

    fn servers(&mut self, words: &[&str]) {
        let mut servers = BTreeMap::new();
        for word in words {
            let (suffrage, word) = match word.strip_prefix('~') {
                Some(word) => (Suffrage::Learner, word),
                None => (Suffrage::Voter, *word),
            };
            servers.insert(id(number(word)), Member { suffrage, address: word.into() });
        }
        let configuration = Arc::new(Configuration { cluster: ClusterId(1), servers });
        for server in configuration.servers.keys() {
            let n = server.node.0;
            self.start(n, self.config(n), Durable::default());
            self.step(n, Event::Command(Command::Form(Arc::clone(&configuration))));
        }
    }

    fn show(&mut self) {
        for (n, host) in &self.hosts {
            let node = &host.node;
            let role = match &node.role {
                Role::Follower => "follower",
                Role::PreCandidate { .. } => "pre-candidate",
                Role::Candidate { .. } => "candidate",
                Role::Leader(_) => "leader",
            };
            let entries: Vec<_> = node.log.entries.iter().map(entry).collect();
            let _ = writeln!(
                self.out,
                "  {n} {role} t{} voted={:?} base={} commit={} durable={} [{}]",
                node.hard_state.term.0,
                node.hard_state.voted_for,
                node.log.base.index.0,
                node.commit_index.0,
                node.durable_index.0,
                entries.join(" ")
            );
        }
    }
}

/// Runs a transcript and gives it with the answers as they are.
fn run(text: &str) -> String {
    let mut cluster = Cluster::default();
    let mut answered = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            let _ = writeln!(answered, "{line}");
            cluster.command(command);
            answered.push_str(&std::mem::take(&mut cluster.out));
        } else if line.is_empty() || line.starts_with('#') {
            let _ = writeln!(answered, "{line}");
        }
    }
    answered
}

#[test]
fn raft_does_what_its_transcripts_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/raft");
    let mut count = 0;
    let mut wrong = Vec::new();
    for file in fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let answered = run(&text);
        count += 1;
        if answered == text {
            continue;
        }
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, answered).unwrap();
        } else {
            let difference =
                text.lines().zip(answered.lines()).position(|(a, b)| a != b).map_or_else(
                    || "one ends earlier".to_owned(),
                    |at| {
                        format!(
                            "line {}: expected `{}`, got `{}`",
                            at + 1,
                            text.lines().nth(at).unwrap_or(""),
                            answered.lines().nth(at).unwrap_or("")
                        )
                    },
                );
            wrong.push(format!("{}: {difference}", path.display()));
        }
    }
    assert!(count >= 20, "only {count} transcripts");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
