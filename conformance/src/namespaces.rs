//! Network namespaces on one bridge, and faults between them: links that go down, cuts, one direction only, UDP or TCP only,
//! loss.
//!
//! A fault is a rule of nftables in the namespace of who receives: what is dropped there is lost without a word to anybody,
//! as on a wire. (A rule on the way out would tell the sender.)

use std::{
    collections::BTreeMap,
    fmt,
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};

use crate::{agent::Place, ports::Ports};

/// Namespaces on a bridge, which has a namespace of its own; each is called by a number. All are removed on drop.
#[derive(Debug)]
pub struct Network {
    name: String,
    members: usize,
    /// What each namespace drops.
    rules: BTreeMap<usize, Vec<Rule>>,
}

/// Packets that a namespace drops on arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    /// Those of this namespace; none for all.
    from: Option<usize>,
    /// Those of this protocol; none for all.
    protocol: Option<Protocol>,
    /// So many of a hundred, by chance.
    percent: u8,
}

/// What lies on IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Gossip's probes and news.
    Udp,
    /// Everything between servers; gossip's push/pulls, and probes where UDP fails.
    Tcp,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(from) = self.from {
            write!(f, "ip saddr {} ", address(from))?;
        }
        match self.protocol {
            None => {}
            Some(Protocol::Udp) => f.write_str("meta l4proto udp ")?,
            Some(Protocol::Tcp) => f.write_str("meta l4proto tcp ")?,
        }
        if self.percent < 100 {
            write!(f, "numgen random mod 100 < {} ", self.percent)?;
        }
        f.write_str("drop")
    }
}

/// Where a namespace is in the network.
fn address(member: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(member + 1).unwrap_or(u8::MAX))
}

/// Whether namespaces must be had: CI says so, where it found that they can be. Elsewhere a test without them says that
/// it was left out.
pub(crate) fn required() -> bool {
    std::env::var_os("PROCONSUL_REQUIRE_NAMESPACES").is_some_and(|value| value == "1")
}

/// Runs a program of the network with these words as its arguments and this input; gives what it says where it fails.
fn run(program: &str, arguments: &str, input: &str) -> Result<()> {
    let child = Command::new(program)
        .args(arguments.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.with_context(|| format!("can't run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{program} {arguments}: {said}{input}");
    Ok(())
}

fn ip(arguments: &str) -> Result<()> {
    run("ip", arguments, "")
}

impl Network {
    /// Makes so many namespaces that all reach each other. None where this process may not make any; or where nft is
    /// missing, if `filters` says that it is needed.
    pub fn make(members: usize, filters: bool) -> Result<Option<Self>> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("proconsul{}-{n}-", std::process::id());
        let mut network = Self { name, members: 0, rules: BTreeMap::new() };
        let bridge = network.bridge();
        if let Err(error) = ip(&format!("netns add {bridge}")) {
            let text = format!("{error:#}");
            let denied = ["Operation not permitted", "Permission denied", "can't run ip"];
            return left_out(error, denied.iter().any(|why| text.contains(why)));
        }
        ip(&format!("-n {bridge} link add bridge type bridge"))?;
        ip(&format!("-n {bridge} link set bridge up"))?;
        for _ in 0..members {
            network.add()?;
        }
        if filters && let Err(error) = network.apply(0) {
            let text = format!("{error:#}");
            // `ip netns exec` says so where it can't find the program.
            let missing = ["No such file", "Operation not permitted"];
            return left_out(error, missing.iter().any(|why| text.contains(why)));
        }
        Ok(Some(network))
    }

    /// Adds a namespace; gives its number.
    pub fn add(&mut self) -> Result<usize> {
        let member = self.members;
        let (bridge, own, port) = (self.bridge(), self.namespace(member), port(member));
        ip(&format!("netns add {own}"))?;
        self.members += 1;
        ip(&format!("-n {bridge} link add {port} type veth peer name eth0 netns {own}"))?;
        ip(&format!("-n {bridge} link set {port} master bridge up"))?;
        ip(&format!("-n {own} address add {}/24 dev eth0", address(member)))?;
        ip(&format!("-n {own} link set eth0 up"))?;
        // An agent talks to its own address, too.
        ip(&format!("-n {own} link set lo up"))?;
        Ok(member)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    fn namespace(&self, member: usize) -> String {
        format!("{}{member}", self.name)
    }

    /// A place for an agent: one in each namespace.
    pub fn place(&self, member: usize) -> Place {
        let namespace = Some(self.namespace(member));
        Place { ip: address(member), ports: Ports::of_a_namespace(), namespace }
    }

    /// Takes the link of a namespace down: nothing arrives behind it, and nobody is told.
    pub fn unplug(&self, member: usize) -> Result<()> {
        ip(&format!("-n {} link set {} down", self.bridge(), port(member)))
    }

    /// Brings the link of a namespace up.
    pub fn plug(&self, member: usize) -> Result<()> {
        ip(&format!("-n {} link set {} up", self.bridge(), port(member)))
    }

    /// Loses all that these send to those, and all that those send to these.
    pub fn cut(&mut self, these: &[usize], those: &[usize]) -> Result<()> {
        self.silence(these, those)?;
        self.silence(those, these)
    }

    /// Loses all that `from` send to `to`, and nothing of what comes the other way.
    pub fn silence(&mut self, from: &[usize], to: &[usize]) -> Result<()> {
        for member in to {
            let rule = |from: &usize| Rule { from: Some(*from), protocol: None, percent: 100 };
            self.add_rules(*member, from.iter().map(rule).collect())?;
        }
        Ok(())
    }

    /// Loses all of this protocol that a namespace sends or is sent.
    pub fn block(&mut self, member: usize, protocol: Protocol) -> Result<()> {
        for other in 0..self.members {
            let from = (other != member).then_some(member);
            let rule = Rule { from, protocol: Some(protocol), percent: 100 };
            self.add_rules(other, vec![rule])?;
        }
        Ok(())
    }

    /// Loses so many of a hundred packets of all that is sent, by chance.
    pub fn lose(&mut self, percent: u8) -> Result<()> {
        for member in 0..self.members {
            self.add_rules(member, vec![Rule { from: None, protocol: None, percent }])?;
        }
        Ok(())
    }

    /// Takes all rules back; links stay as they are.
    pub fn heal(&mut self) -> Result<()> {
        for member in std::mem::take(&mut self.rules).into_keys() {
            self.apply(member)?;
        }
        Ok(())
    }

    fn add_rules(&mut self, member: usize, rules: Vec<Rule>) -> Result<()> {
        self.rules.entry(member).or_default().extend(rules);
        self.apply(member)
    }

    /// Puts a namespace's rules in the place of those that it had, all at one moment.
    fn apply(&self, member: usize) -> Result<()> {
        let mut text = String::from(
            "table inet faults\ndelete table inet faults\ntable inet faults {\n  chain arriving {\n\
             \x20   type filter hook input priority 0;\n    iifname \"lo\" accept\n",
        );
        for rule in self.rules.get(&member).into_iter().flatten() {
            text.extend(["    ", &rule.to_string(), "\n"]);
        }
        text.push_str("  }\n}\n");
        run("ip", &format!("netns exec {} nft -f -", self.namespace(member)), &text)
    }
}

/// The bridge's end of a namespace's link.
fn port(member: usize) -> String {
    format!("port{member}")
}

/// What a test gets that can't have its network for this reason: nothing, or the error where it must have it.
fn left_out(error: anyhow::Error, excused: bool) -> Result<Option<Network>> {
    if !excused || required() {
        return Err(error.context("no network of namespaces"));
    }
    println!("left out, for want of network namespaces: {error:#}");
    Ok(None)
}

impl Drop for Network {
    fn drop(&mut self) {
        for member in 0..self.members {
            let _ = ip(&format!("netns delete {}", self.namespace(member)));
        }
        let _ = ip(&format!("netns delete {}", self.bridge()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_as_nft_wants_it() {
        let all = Rule { from: None, protocol: None, percent: 100 };
        assert_eq!(all.to_string(), "drop");
        let from = Rule { from: Some(2), protocol: Some(Protocol::Udp), ..all };
        assert_eq!(from.to_string(), "ip saddr 10.77.0.3 meta l4proto udp drop");
        let some = Rule { percent: 30, ..all };
        assert_eq!(some.to_string(), "numgen random mod 100 < 30 drop");
    }
}
