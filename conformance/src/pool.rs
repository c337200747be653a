//! Servers and clients of ours that find each other by gossip alone, from Consul's own configuration: on loopback, or each
//! in a network namespace of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    agent::{Agent, Options, Place, merge},
    http::{Address, Body, Request, Response},
    namespaces::Network,
    ports::Ports,
    process::wait_for,
};

/// How long anything may take that ends by itself, on a busy machine.
pub const LIMIT: Duration = Duration::from_mins(1);

/// A pool: servers first, `s1` and so on, then clients, `c1` and so on, then who was added.
#[derive(Debug)]
pub struct Pool {
    /// Its agents. They go before the network that they are in.
    pub agents: Vec<Agent>,
    /// The network; none on loopback.
    pub network: Option<Network>,
    /// Where their folders are.
    pub folder: TempDir,
    /// What all are configured with.
    pub config: Value,
    servers: usize,
}

impl Pool {
    /// Starts so many servers and clients on loopback, and waits until each serves.
    pub fn on_loopback(servers: usize, clients: usize, config: &Value) -> Result<Self> {
        let place = |_| Ok(Place::loopback(Ports::take()?));
        let places = (0..servers + clients).map(place).collect::<Result<Vec<_>>>()?;
        Self::start(places, servers, None, config)
    }

    /// Starts so many servers and clients in a network, and waits until each serves. None where no network can be had.
    pub fn in_network(servers: usize, clients: usize, config: &Value) -> Result<Option<Self>> {
        let Some(network) = Network::make(servers + clients, true)? else { return Ok(None) };
        let places = (0..servers + clients).map(|member| network.place(member)).collect();
        Self::start(places, servers, Some(network), config).map(Some)
    }

    fn start(
        places: Vec<Place>,
        servers: usize,
        network: Option<Network>,
        config: &Value,
    ) -> Result<Self> {
        let join: Vec<String> = places.iter().take(servers).map(Place::gossip_address).collect();
        let mut all = json!({ "retry_join": join, "retry_interval": "1s" });
        merge(&mut all, config);
        let folder = tempfile::tempdir()?;
        let mut pool = Self { agents: Vec::new(), network, folder, config: all, servers };
        for (n, place) in places.into_iter().enumerate() {
            let (name, config) = if n < servers {
                (format!("s{}", n + 1), json!({ "server": true, "bootstrap_expect": servers }))
            } else {
                (format!("c{}", n + 1 - servers), json!({ "server": false }))
            };
            pool.start_at(place, Options::ours(&name)?.config(config))?;
        }
        pool.wait_until_ready(LIMIT)?;
        Ok(pool)
    }

    /// Adds an agent on loopback, with what all are configured with; doesn't wait for anything.
    pub fn add(&mut self, options: Options) -> Result<usize> {
        ensure!(self.network.is_none(), "on loopback only");
        self.start_at(Place::loopback(Ports::take()?), options)
    }

    fn start_at(&mut self, place: Place, options: Options) -> Result<usize> {
        let mut config = self.config.clone();
        merge(&mut config, &options.config);
        self.agents.push(Agent::start_at(place, &options.config(config), self.folder.path())?);
        Ok(self.agents.len() - 1)
    }

    /// The network, of a pool that is in one.
    pub fn network(&mut self) -> Result<&mut Network> {
        self.network.as_mut().context("on loopback")
    }

    /// The agents that started as servers.
    pub fn servers(&self) -> Vec<usize> {
        (0..self.servers).collect()
    }

    /// The agent of this name.
    pub fn named(&mut self, name: &str) -> Result<&mut Agent> {
        let found = self.agents.iter_mut().find(|agent| agent.name == name);
        found.with_context(|| format!("no agent is called {name}"))
    }

    /// Where the agents answer clients.
    pub fn addresses(&self) -> Vec<Address> {
        self.agents.iter().map(|agent| agent.http().clone()).collect()
    }

    /// Waits until every agent that runs knows a leader and serves a linearizable read.
    pub fn wait_until_ready(&mut self, limit: Duration) -> Result<()> {
        for agent in &mut self.agents {
            if agent.process.id().is_some() {
                agent.wait_until_ready(limit)?;
            }
        }
        Ok(())
    }

    /// Whom all of these take for the leader, if it is one of them.
    pub fn leader_among(&self, these: &[usize]) -> Option<usize> {
        let leader = these.first().and_then(|first| self.agents[*first].leader())?;
        let agreed = |i: &usize| self.agents[*i].leader().as_ref() == Some(&leader);
        let leads = |i: &&usize| self.agents[**i].server_address() == leader;
        these.iter().all(agreed).then(|| these.iter().find(leads).copied())?
    }

    /// Waits until all of these take one of them for the leader, for whom `wanted` holds.
    pub fn wait_for_leader(
        &self,
        these: &[usize],
        limit: Duration,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<usize> {
        let found = wait_for("a leader that all know", limit, || {
            self.leader_among(these).filter(|leader| wanted(*leader))
        });
        found.map_err(|error| anyhow!("{error}\n{}", self.logs()))
    }

    /// Waits until these agents, as far as they run, see these members and no others, each as it is told here.
    pub fn wait_until_these_see(
        &self,
        these: &[usize],
        expected: &BTreeMap<String, String>,
        limit: Duration,
    ) -> Result<()> {
        let mut last = String::new();
        let agreed = wait_for("all to see the same members", limit, || {
            let agents = these.iter().map(|i| &self.agents[*i]);
            for agent in agents.filter(|agent| agent.process.id().is_some()) {
                let seen = agent.members();
                if seen.as_ref() != Some(expected) {
                    last = format!("{} sees {seen:?}", agent.name);
                    return None;
                }
            }
            Some(())
        });
        agreed.map_err(|error| anyhow!("{error}; expected {expected:?}; {last}\n{}", self.logs()))
    }

    /// As [`Pool::wait_until_these_see`], for all agents.
    pub fn wait_until_all_see(
        &self,
        expected: &BTreeMap<String, String>,
        limit: Duration,
    ) -> Result<()> {
        let all: Vec<usize> = (0..self.agents.len()).collect();
        self.wait_until_these_see(&all, expected, limit)
    }

    /// All of its agents as members: these with another status, the others alive.
    pub fn alive_but(&self, these: &[usize], status: &str) -> BTreeMap<String, String> {
        let member = |(i, agent): (usize, &Agent)| {
            let status = if these.contains(&i) { status } else { "alive" };
            (agent.name.clone(), status.to_owned())
        };
        self.agents.iter().enumerate().map(member).collect()
    }

    /// Waits until every agent that runs sees all of them alive.
    pub fn wait_until_all_alive(&self, limit: Duration) -> Result<()> {
        self.wait_until_all_see(&self.alive_but(&[], "alive"), limit)
    }

    /// How many lines of all logs together have all of these words.
    pub fn count(&self, words: &[&str]) -> usize {
        self.agents.iter().map(|agent| agent.count(words)).sum()
    }

    /// Each term's leader, by name, as the servers' logs have it; an error where two say of one term that they lead in it,
    /// or where one is told of two.
    pub fn leaders(&self) -> Result<BTreeMap<u64, String>> {
        let mut found: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        for agent in &self.agents {
            for line in agent.process.log().lines() {
                let field = |name: &str| {
                    let (_, rest) = line.split_once(name)?;
                    rest.split_whitespace().next().map(str::to_owned)
                };
                let leader = if line.contains("raft: cluster leadership acquired") {
                    Some(agent.server_address())
                } else if line.contains("raft: new leader elected") {
                    field(" leader=")
                } else {
                    None
                };
                let Some(leader) = leader else { continue };
                let term = field(" term=").and_then(|term| term.parse().ok());
                found.entry(term.with_context(|| line.to_owned())?).or_default().insert(leader);
            }
        }
        let one = |(term, leaders): (u64, BTreeSet<String>)| {
            ensure!(leaders.len() == 1, "term {term} has the leaders {leaders:?}\n{}", self.logs());
            Ok((term, leaders.into_iter().next().unwrap_or_default()))
        };
        found.into_iter().map(one).collect()
    }

    /// The ends of all logs, for messages.
    pub fn logs(&self) -> String {
        let log = |agent: &Agent| format!("---- {}\n{}", agent.name, agent.process.log_tail(30));
        self.agents.iter().map(log).collect::<Vec<_>>().join("\n")
    }
}

/// As [`keyring`], for what every member has to answer: again where an answer was lost on a busy machine.
pub fn change_keyring(agent: &Agent, method: &str, key: &str) -> Result<()> {
    let mut last = String::new();
    let done = wait_for(&format!("{method} of a key"), LIMIT, || {
        let answer = keyring(agent, method, key).ok()?;
        last = answer.text();
        (answer.status == 200).then_some(())
    });
    done.map_err(|error| anyhow!("{error}: {last}"))
}

/// An operation on the keyrings of all members, asked for at one: `GET` lists keys, `POST` installs one, `PUT` uses it,
/// `DELETE` removes it.
pub fn keyring(agent: &Agent, method: &str, key: &str) -> Result<Response> {
    let body = json!({ "Key": key }).to_string();
    let body = if method == "GET" { Body::None } else { Body::Sized(body.as_bytes()) };
    let request = Request { method, target: "/v1/operator/keyring", headers: &[], body };
    Ok(agent.client().send(&request)?)
}
