//! The story of three servers and a client that go away one by one (cases 140 to 148): the client is killed, comes back
//! and leaves; then the leader is killed, and then another server.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::{
    lists::Lists,
    parse::{Case, Step},
    run::Story,
    send::{Target, clean},
    stories::{SERF_LAN, options, ports, wait_for_nodes},
};
use crate::{
    agent::{Agent, Kind},
    http::{Body, Request},
    ports::Ports,
    process::wait_for,
};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often a leader is made to give way until the recorded one leads.
const TRIES: usize = 20;

/// The recorded agents, their HTTP ports and their ids: the order of ids is that in which ours tell servers.
const AGENTS: [(&str, u16, &str); 4] = [
    ("q1", 22500, "e4d29ef7-77dd-8672-b095-3e468d44aade"),
    ("q2", 23500, "9c725059-489c-8a66-2dfa-1dadff661981"),
    ("q3", 24500, "f6ad188e-7986-3c94-3a3c-ed559f1495eb"),
    ("qc", 25500, "a566d3fd-58c3-7de6-084c-a0e194c14495"),
];

/// Places in [`AGENTS`].
const Q1: usize = 0;
const Q2: usize = 1;
const Q3: usize = 2;
const QC: usize = 3;

/// Goes through the cases.
pub(super) fn run<'a>(
    kind: Kind,
    cases: &[&Case],
    lists: &'a Lists,
    scratch: &Path,
) -> Result<Story<'a>> {
    let mut story = Story::new(lists);
    let (agents, target) = start(kind, scratch)?;
    let mut quorum = Quorum { kind, agents };
    for case in cases {
        quorum.before(&case.name).with_context(|| format!("before {}", case.name))?;
        if case.name.starts_with("148-") {
            // Most are held for seconds, and none changes what another sees.
            let steps: Vec<&Step> = case.steps.iter().collect();
            story.send_side_by_side(&steps, &target);
        } else {
            for step in &case.steps {
                story.send(step, &target);
                quorum.after(&step.name)?;
            }
        }
    }
    story.look_for_the_dead(&mut quorum.agents);
    Ok(story)
}

fn start(kind: Kind, scratch: &Path) -> Result<(Vec<Agent>, Target)> {
    let scratch = scratch.join("quorum");
    let blocks: Vec<Ports> = AGENTS.iter().map(|_| Ports::take()).collect::<Result<_>>()?;
    let join: Vec<String> =
        blocks[..QC].iter().map(|ports| format!("127.0.0.1:{}", ports.port(SERF_LAN))).collect();
    let mut agents = Vec::new();
    let mut recorded = Vec::new();
    let mut program = None;
    for ((name, http, id), block) in AGENTS.into_iter().zip(blocks) {
        let mut config = json!({
            "datacenter": "dcq", "node_id": id, "retry_join": join, "retry_interval": "1s",
        });
        if agents.len() == QC {
            config["server"] = false.into();
        } else {
            config["bootstrap_expect"] = 3.into();
        }
        let options = options(kind, name, config)?;
        let agent = Agent::start_on(block, &options, &scratch)?;
        recorded.extend(ports(http, &agent));
        program = Some(options.program);
        agents.push(agent);
    }
    for agent in &mut agents {
        agent.wait_until_ready(PATIENCE)?;
    }
    let mut quorum = Quorum { kind, agents };
    quorum.let_lead(Q3)?;
    wait_for_nodes(&quorum.agents[Q1], AGENTS.len())?;
    let program = program.context("no agent")?;
    let target = Target { program, ports: recorded, folder: scratch.join("commands") };
    clean(&target.folder)?;
    Ok((quorum.agents, target))
}

struct Quorum {
    kind: Kind,
    agents: Vec<Agent>,
}

impl Quorum {
    /// Has this server lead, as the recorded one did.
    fn let_lead(&mut self, wanted: usize) -> Result<()> {
        let address = self.agents[wanted].server_address();
        for _ in 0..TRIES {
            let leader = wait_for("a leader", PATIENCE, || self.agreed())?;
            if leader == address {
                return Ok(());
            }
            match self.kind {
                Kind::Proconsul => self.transfer(AGENTS[wanted].2)?,
                // Consul of that time hands leadership to nobody: one that stands still loses it.
                Kind::Consul => {
                    let leads = |agent: &&Agent| agent.server_address() == leader;
                    let agent =
                        self.agents.iter().find(leads).context("a leader from elsewhere")?;
                    agent.process.pause()?;
                    thread::sleep(Duration::from_millis(2500));
                    agent.process.resume()?;
                }
            }
        }
        bail!("{} doesn't lead after {TRIES} elections", AGENTS[wanted].0)
    }

    /// The leader that all servers take for it.
    fn agreed(&self) -> Option<String> {
        let leaders: Vec<String> = self.agents[..QC].iter().filter_map(Agent::leader).collect();
        let first = leaders.first()?;
        (leaders.len() == QC && leaders.iter().all(|leader| leader == first)).then(|| first.clone())
    }

    fn transfer(&self, id: &str) -> Result<()> {
        let target = format!("/v1/operator/raft/transfer-leader?id={id}");
        let request = Request { method: "POST", target: &target, headers: &[], body: Body::None };
        self.agents[Q1].client().send(&request)?;
        thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    /// What happened before a case.
    fn before(&mut self, case: &str) -> Result<()> {
        match &case[..3] {
            // Their steps tell who leads. Servers that stood still since then may have elected another.
            "141" | "146" => self.let_lead(Q3),
            "142" => self.agents[QC].process.kill(),
            "143" => {
                self.agents[QC].process.restart()?;
                self.agents[QC].wait_until_ready(PATIENCE)?;
                self.wait("qc's check passes", "/v1/health/node/qc", |checks| {
                    checks[0]["Status"] == "passing"
                })
            }
            "145" => {
                let status = self.agents[QC].process.wait(Duration::from_secs(10))?;
                ensure!(status.success(), "qc left, and ended with {status}");
                Ok(())
            }
            "147" => {
                self.let_lead(Q3)?;
                self.agents[Q3].process.kill()?;
                // The others hear of it at once, by their connections to it.
                let gone = self.agents[Q3].server_address();
                self.wait("q1 misses q3", "/v1/status/leader", |leader| leader != gone.as_str())
            }
            "148" => {
                self.wait("q3 is out of Raft", "/v1/operator/raft/configuration", |raft| {
                    raft["Servers"].as_array().is_some_and(|servers| servers.len() == 2)
                })?;
                self.agents[Q2].process.kill()?;
                self.wait("q1 knows no leader", "/v1/status/leader", |leader| leader == "")?;
                // Until the last word of a leader is older than a second.
                thread::sleep(Duration::from_millis(1200));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What had come about after a step before the next one was sent.
    fn after(&self, step: &str) -> Result<()> {
        match step.split_once('/') {
            // The leader knows it already, and acts on it; q1 hears it from others.
            Some(("142-client-crash-after", "1")) => {
                self.wait("q1 takes qc for failed", "/v1/agent/members", |members| {
                    members.as_array().is_some_and(|members| {
                        members.iter().any(|m| m["Name"] == "qc" && m["Status"] == 4)
                    })
                })
            }
            _ => Ok(()),
        }
    }

    /// Waits until what q1 answers is so.
    fn wait(
        &self,
        what: &str,
        target: &str,
        is_so: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<()> {
        let mut client = self.agents[Q1].client();
        wait_for(what, PATIENCE, || {
            let answer = client.get(target).ok()?.json().ok()?;
            is_so(&answer).then_some(())
        })
    }
}
