//! `members`, `join`, `leave`, `force-leave`: the pool that the agent gossips in.

use std::collections::BTreeMap;

use bytes::Bytes;
use clap::Command;
use hyper::Method;
use regex_lite::Regex;
use serde::Deserialize;

use super::client::{Answer, connect};
use super::flags::{Given, switch, value, with_api_options};
use super::{Ending, Leaf, columns};

pub(super) const MEMBERS: Leaf = Leaf {
    path: &["members"],
    synopsis: "Lists the members of a Consul cluster",
    usage: "members [options]",
    about: "Outputs the members of a running agent.",
    definition: || {
        with_api_options(Command::new("members")).args([
            switch("detailed", "Provides detailed information about nodes."),
            value(
                "segment",
                "string",
                "(Enterprise-only) If provided, output is filtered to only nodes in the given segment.",
            ),
            value(
                "status",
                "string",
                "If provided, output is filtered to only nodes matching the regular expression for status.",
            ),
            switch(
                "wan",
                "If the agent is in server mode, this can be used to return the other peers in the WAN pool.",
            ),
        ])
    },
    run: members,
};

pub(super) const JOIN: Leaf = Leaf {
    path: &["join"],
    synopsis: "Tell Consul agent to join cluster",
    usage: "join [options] address ...",
    about: "\
Tells a running agent to join the cluster of which each of the given addresses
is a member.",
    definition: || {
        with_api_options(Command::new("join"))
            .arg(switch("wan", "Joins a server to another server in the WAN pool."))
    },
    run: join,
};

pub(super) const LEAVE: Leaf = Leaf {
    path: &["leave"],
    synopsis: "Gracefully leaves the Consul cluster and shuts down",
    usage: "leave [options]",
    about: "Causes the agent to gracefully leave the cluster and shut down.",
    definition: || with_api_options(Command::new("leave")),
    run: leave,
};

pub(super) const FORCE_LEAVE: Leaf = Leaf {
    path: &["force-leave"],
    synopsis: "Forces a member of the cluster to enter the \"left\" state",
    usage: "force-leave [options] name",
    about: "\
Forces a failed member of the cluster to enter the \"left\" state, which a member
that is alive refutes. It is for those that are never coming back: the others
would try to reach them until the reconnect timeout.",
    definition: || {
        with_api_options(Command::new("force-leave"))
            .arg(switch("prune", "Remove agent completely from list of members"))
            .arg(switch("wan", "Exclusively leave the agent from the WAN serf pool."))
    },
    run: force_leave,
};

/// A member, as the API tells it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Member {
    name: String,
    addr: String,
    port: u16,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    status: u8,
}

impl Member {
    fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map_or("", String::as_str)
    }

    fn address(&self) -> String {
        if self.addr.contains(':') {
            format!("[{}]:{}", self.addr, self.port)
        } else {
            format!("{}:{}", self.addr, self.port)
        }
    }

    fn status(&self) -> &'static str {
        match self.status {
            0 => "none",
            1 => "alive",
            2 => "leaving",
            3 => "left",
            4 => "failed",
            _ => "unknown",
        }
    }

    /// Servers are of every segment.
    fn segment(&self) -> &str {
        match (self.tag("segment"), self.tag("role")) {
            ("", "consul") => "<all>",
            ("", _) => "<default>",
            (segment, _) => segment,
        }
    }
}

fn members(given: &Given) -> Result<Ending, String> {
    let pattern = given.text("status").unwrap_or(".*");
    let status = Regex::new(pattern).map_err(|error| {
        format!("Failed to compile status regexp: error parsing regexp: {error}")
    })?;
    let client = connect(given)?;
    let mut query = Vec::new();
    // All of them, unless one is asked for.
    query.push(("segment", given.text("segment").unwrap_or("_all")));
    if given.on("wan") {
        query.push(("wan", "1"));
    }
    let failed = |error| format!("Error retrieving members: {error}");
    let answer = client
        .send(&Method::GET, "agent/members", &query, Bytes::new())
        .and_then(Answer::ok)
        .map_err(failed)?;
    let found: Option<Vec<Member>> =
        serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string()))?;
    // An agent that isn't in the WAN says null.
    let mut found = found.unwrap_or_default();
    found.retain(|member| status.is_match(member.status()));
    if found.is_empty() {
        return Ok(Ending::Code(2));
    }
    found.sort_by(|a, b| (a.segment(), &a.name).cmp(&(b.segment(), &b.name)));
    let rows = if given.on("detailed") { detailed(&found) } else { plain(&found) };
    Ok(Ending::Done(columns::table(&rows).into_bytes()))
}

fn plain(members: &[Member]) -> Vec<Vec<String>> {
    let heading = ["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Segment"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for member in members {
        let kind = match member.tag("role") {
            "node" => "client",
            "consul" => "server",
            _ => "unknown",
        };
        let build = match member.tag("build") {
            "" => "< 0.3",
            build => build.split(':').next().unwrap_or(build),
        };
        let mut row = vec![
            member.name.clone(),
            member.address(),
            member.status().to_owned(),
            kind.to_owned(),
        ];
        if kind == "unknown" {
            row.extend([(); 4].map(|()| String::new()));
        } else {
            let rest = [build, member.tag("vsn"), member.tag("dc"), member.segment()];
            row.extend(rest.map(str::to_owned));
        }
        rows.push(row);
    }
    rows
}

fn detailed(members: &[Member]) -> Vec<Vec<String>> {
    let mut rows = vec![["Node", "Address", "Status", "Tags"].map(str::to_owned).to_vec()];
    for member in members {
        let mut tags = member.tags.clone();
        tags.insert("segment".to_owned(), member.segment().to_owned());
        let tags: Vec<_> = tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        rows.push(vec![
            member.name.clone(),
            member.address(),
            member.status().to_owned(),
            tags.join(","),
        ]);
    }
    rows
}

fn join(given: &Given) -> Result<Ending, String> {
    let addresses = given.arguments();
    if addresses.is_empty() {
        return Err("At least one address to join must be specified.".to_owned());
    }
    let client = connect(given)?;
    let query: &[(&str, &str)] = if given.on("wan") { &[("wan", "1")] } else { &[] };
    let mut joined = 0;
    for address in addresses {
        let address = address.to_string_lossy();
        let path = format!("agent/join/{address}");
        match client.send(&Method::PUT, &path, query, Bytes::new()).and_then(Answer::ok) {
            Ok(_) => joined += 1,
            Err(error) => super::complain(&format!("Error joining address '{address}': {error}")),
        }
    }
    if joined == 0 {
        return Err("Failed to join any nodes.".to_owned());
    }
    Ok(Ending::line(format!("Successfully joined cluster by contacting {joined} nodes.")))
}

fn leave(given: &Given) -> Result<Ending, String> {
    let extra = given.arguments();
    if !extra.is_empty() {
        let extra: Vec<_> = extra.iter().map(|word| word.to_string_lossy()).collect();
        return Err(format!("Error found unexpected args: [{}]", extra.join(" ")));
    }
    let client = connect(given)?;
    client
        .send(&Method::PUT, "agent/leave", &[], Bytes::new())
        .and_then(Answer::ok)
        .map_err(|error| format!("Error leaving: {error}"))?;
    Ok(Ending::line("Graceful leave complete"))
}

fn force_leave(given: &Given) -> Result<Ending, String> {
    let arguments = given.arguments();
    let [name] = arguments.as_slice() else {
        return Err("A single node name must be specified to force leave.".to_owned());
    };
    let client = connect(given)?;
    let flags = ["prune", "wan"].into_iter().filter(|flag| given.on(flag));
    let query: Vec<(&str, &str)> = flags.map(|flag| (flag, "1")).collect();
    let path = format!("agent/force-leave/{}", name.to_string_lossy());
    client
        .send(&Method::PUT, &path, &query, Bytes::new())
        .and_then(Answer::ok)
        .map_err(|error| format!("Error force leaving: {error}"))?;
    Ok(Ending::Done(Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"[
        {"Name":"s1","Addr":"127.0.0.1","Port":18301,"Status":1,"Tags":{"acls":"0","build":"1.8.7:","dc":"dc1","role":"consul","segment":"","vsn":"2"}},
        {"Name":"c1","Addr":"::1","Port":28301,"Status":4,"Tags":{"build":"1.8.7:abc","dc":"dc1","role":"node","vsn":"2"}},
        {"Name":"other","Addr":"127.0.0.1","Port":1,"Status":1,"Tags":{}}
    ]"#;

    #[test]
    fn members_are_listed_in_consul_s_columns() {
        let members: Vec<Member> = serde_json::from_str(BODY).unwrap();
        assert_eq!(
            columns::table(&plain(&members)),
            "Node   Address          Status  Type     Build  Protocol  DC   Segment\n\
             s1     127.0.0.1:18301  alive   server   1.8.7  2         dc1  <all>\n\
             c1     [::1]:28301      failed  client   1.8.7  2         dc1  <default>\n\
             other  127.0.0.1:1      alive   unknown                        \n"
        );
    }

    #[test]
    fn tags_are_sorted_and_name_the_segment() {
        let members: Vec<Member> = serde_json::from_str(BODY).unwrap();
        assert_eq!(
            columns::table(&detailed(&members[..1])),
            "Node  Address          Status  Tags\n\
             s1    127.0.0.1:18301  alive   acls=0,build=1.8.7:,dc=dc1,role=consul,segment=<all>,vsn=2\n"
        );
    }
}
