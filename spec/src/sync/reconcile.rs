//! The leader's reconcile: gossip's members in the catalog, and in Raft (prose/sync.md; Consul's `leader.go`).
//!
//! A pure step: given the members, the state and Raft's configuration, it says which commands to propose and which
//! servers to admit or remove. It runs for members whose status changed, and as a pass over all of them each
//! [`INTERVAL`] and when leadership begins, which mends whatever an event that got lost left behind. Where all is as it
//! should be, it says nothing: no entry of the log is spent on what changes nothing.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    sync::Arc,
    vec,
    vec::Vec,
};
use core::time::Duration;

use crate::{
    raft::{ClusterId, Configuration, NodeId, ServerId},
    state::{
        Command, Key, State,
        catalog::{
            CatalogCommand, CheckBody, CheckStatus, Deregistration, Node, NodeBody, Part,
            Registration, SERF_HEALTH,
        },
        text::{Text, canonical},
    },
};

/// How often a leader goes through all members.
pub const INTERVAL: Duration = Duration::from_mins(1);
/// The name of the check by which gossip says whether a node lives.
const SERF_HEALTH_NAME: &str = "Serf Health Status";
/// What it says of a member that lives.
const ALIVE: &str = "Agent alive and reachable";
/// What it says of one that doesn't.
const FAILED: &str = "Agent not live or unreachable";

/// How gossip sees a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberStatus {
    /// It answers.
    Alive,
    /// It has said that it leaves.
    Leaving,
    /// It has left.
    Left,
    /// It doesn't answer.
    Failed,
    /// Gossip has forgotten it: it was failed or left for long, or was pruned.
    Reaped,
}

/// What a member is to this datacenter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Neither: an agent of Serf alone, say.
    Other,
    /// A client agent (`role=node`).
    Client,
    /// A server (`role=consul`); of ours where it carries our own tags.
    Server(Option<OwnTags>),
}

/// What only our own servers tell of themselves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnTags {
    /// The server, by node and disk.
    pub server: ServerId,
    /// The cluster that it is of; none while it is of none.
    pub cluster: Option<ClusterId>,
    /// Where other servers reach it.
    pub address: Arc<str>,
}

/// A member of the LAN's gossip.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its name.
    pub name: Text,
    /// Its node's id (tag `id`), where it tells one.
    pub id: Option<NodeId>,
    /// Its address, without a port.
    pub address: Text,
    /// Its datacenter (tag `dc`).
    pub datacenter: Text,
    /// How gossip sees it.
    pub status: MemberStatus,
    /// What it is.
    pub role: Role,
}

/// The leader itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Own {
    /// Its name.
    pub name: Text,
    /// Its datacenter.
    pub datacenter: Text,
    /// The server that it is.
    pub server: ServerId,
    /// Its cluster.
    pub cluster: ClusterId,
}

/// Something for the leader to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Duty {
    /// Put this through the log.
    Propose(Command),
    /// Add this server to Raft, as a learner first, in place of one of the same node; or note its new address.
    Admit {
        /// The server.
        server: ServerId,
        /// Where it answers.
        address: Arc<str>,
    },
    /// Remove this server from Raft.
    Remove(ServerId),
    /// Leave a member alone, and say why.
    Skip {
        /// Its name.
        member: Text,
        /// Why.
        reason: String,
    },
}

/// What a reconcile goes by.
#[derive(Clone, Copy, Debug)]
pub struct Reconcile<'a> {
    /// The leader.
    pub own: &'a Own,
    /// The state as it is applied.
    pub state: &'a State,
    /// Raft's configuration in force.
    pub configuration: &'a Configuration,
    /// Everyone whom gossip knows, in any order.
    pub members: &'a [Member],
    /// Whether gossip has had the time to hear of everyone, a minute from its start, say. A leader that has just started
    /// knows itself alone, and would take every other node for forgotten.
    pub settled: bool,
}

/// Which member has a name, and which living member has an id.
struct Claims<'a> {
    names: BTreeMap<Key, &'a Member>,
    ids: BTreeMap<NodeId, &'a Member>,
}

impl Reconcile<'_> {
    /// What to do for members that changed, as they are now; those that gossip has forgotten come as reaped.
    pub fn changed(&self, changed: &[Member]) -> Vec<Duty> {
        let mut duties = self.forgotten();
        self.each(changed, &mut duties);
        duties
    }

    /// What to do so that all is as it should be.
    ///
    /// Servers and nodes without a member go first: one of them may stand where a member is to go.
    pub fn pass(&self) -> Vec<Duty> {
        let mut duties = self.forgotten();
        duties.extend(self.reaped());
        self.each(self.members, &mut duties);
        duties
    }

    /// What to do for each of these members, the living last.
    ///
    /// A machine that comes back under another name takes its node along. If the member of its old name were seen to
    /// after that, it would bring the node of that name back.
    fn each(&self, members: &[Member], duties: &mut Vec<Duty>) {
        let claims = self.claims();
        let (living, others): (Vec<_>, Vec<_>) =
            members.iter().partition(|member| member.status == MemberStatus::Alive);
        for member in others.into_iter().chain(living) {
            for duty in self.member(&claims, member) {
                // A server that was reaped just now is also one that gossip has forgotten.
                if !matches!(duty, Duty::Remove(_)) || !duties.contains(&duty) {
                    duties.push(duty);
                }
            }
        }
    }

    /// Whether a member is of this datacenter at all.
    fn concerns(&self, member: &Member) -> bool {
        member.role != Role::Other && member.datacenter == self.own.datacenter
    }

    /// Gives each name to one member, and each id to one living member.
    ///
    /// Of those that spell one name in other letters, one that lives has it, then the one that the catalog knows, then one
    /// that may come back. Of the living that say the same id, the one that the catalog knows has it. If they took turns,
    /// each pass would rename the node back and forth, and its checks would come and go.
    fn claims(&self) -> Claims<'_> {
        let catalog = self.state.catalog();
        let mut members: Vec<_> = self
            .members
            .iter()
            .filter(|member| self.concerns(member))
            .map(|member| (canonical(&member.name), member))
            .collect();
        members.sort();
        let mut claims = Claims { names: BTreeMap::new(), ids: BTreeMap::new() };
        for (name, member) in members {
            let node = catalog.nodes.get(&name);
            let rank = |member: &Member| {
                let known = node.is_some_and(|node| node.name == member.name);
                (member.status == MemberStatus::Alive, known, member.status == MemberStatus::Failed)
            };
            let standing = claims.names.entry(name).or_insert(member);
            if rank(member) > rank(standing) {
                *standing = member;
            }
        }
        let living = claims.names.iter().filter(|(_, member)| member.status == MemberStatus::Alive);
        for (name, member) in living {
            let Some(id) = member.id else { continue };
            let known = catalog.ids.get(&id).is_some_and(|bearer| bearer.0 == *name);
            let standing = claims.ids.entry(id).or_insert(*member);
            if known {
                *standing = *member;
            }
        }
        claims
    }

    fn member(&self, claims: &Claims<'_>, member: &Member) -> Vec<Duty> {
        if !self.concerns(member) {
            return Vec::new();
        }
        let name = canonical(&member.name);
        // One that gossip has forgotten is no longer among the members, and has its name if nobody else has.
        let has_name = claims.names.get(&name).is_none_or(|other| *other == member);
        match member.status {
            MemberStatus::Alive => match claims.rival(&name, member) {
                None => self.alive(&name, member),
                Some(reason) => vec![Duty::Skip { member: member.name.clone(), reason }],
            },
            MemberStatus::Failed if has_name => self.failed(member).into_iter().collect(),
            MemberStatus::Left | MemberStatus::Reaped => {
                // A living member may be the same server under another name.
                let lives = member.id.is_some_and(|id| claims.ids.contains_key(&id));
                let removal = self.removal(member).filter(|_| !lives);
                let node = self.gone(&name, member).filter(|_| has_name);
                removal.into_iter().chain(node).collect()
            }
            MemberStatus::Failed | MemberStatus::Leaving => Vec::new(),
        }
    }

    /// Sees to it that a living member has its node, with the check that says so.
    fn alive(&self, name: &Key, member: &Member) -> Vec<Duty> {
        let mut duties: Vec<Duty> = self.admission(member).into_iter().collect();
        let catalog = self.state.catalog();
        let standing = catalog.nodes.get(name);
        let id = member.id.or(standing.and_then(|node| node.id));
        let serf = self.serf_health(member);
        if serf == Some(&CheckStatus::Passing)
            && standing.is_some_and(|node| {
                node.id == id && node.address == member.address && node.name == member.name
            })
        {
            return duties;
        }
        // Gossip has one member of a name: a node that it made for another id is that of a machine which isn't there under
        // this name any more. As long as it stands, the name is reserved for it (`Catalog::conflict`).
        let other = standing.filter(|node| node.id.is_some() && node.id != id && serf.is_some());
        // What this machine was called before, where it can't simply be renamed because something stands in its place.
        let before = id.and_then(|id| catalog.node_by_id(id));
        let before = before.filter(|node| standing.is_some() && canonical(&node.name) != *name);
        duties.extend([other, before].into_iter().flatten().map(deregister));
        let kept = standing.filter(|_| other.is_none());
        let node = NodeBody {
            id,
            // What the agent itself says of its node stays: the member doesn't know it.
            tagged_addresses: kept.and_then(|node| node.tagged_addresses.clone()),
            meta: kept.and_then(|node| node.meta.clone()),
            ..self.body(member)
        };
        duties.push(register(node, false, CheckStatus::Passing, ALIVE));
        duties
    }

    /// Says of a member's node that it doesn't answer. What else is of the node stays: it may come back.
    fn failed(&self, member: &Member) -> Option<Duty> {
        let node = self.state.catalog().node(&member.name)?;
        let serf = self.serf_health(member);
        let is_members = serf.is_some() || is_same(node, member);
        if !is_members || serf == Some(&CheckStatus::Critical) {
            return None;
        }
        Some(register(self.body(member), true, CheckStatus::Critical, FAILED))
    }

    /// Takes a member's node away. One that gossip made goes with whoever has its name there, also where it was made for
    /// another machine.
    fn gone(&self, name: &Key, member: &Member) -> Option<Duty> {
        // A leader that leaves may still lead when it learns of it: whoever leads next sees to it.
        if *name == canonical(&self.own.name) {
            return None;
        }
        let node = self.state.catalog().nodes.get(name)?;
        let is_members = self.serf_health(member).is_some() || is_same(node, member);
        is_members.then(|| deregister(node))
    }

    /// Takes a server out of Raft that has left.
    fn removal(&self, member: &Member) -> Option<Duty> {
        let Role::Server(Some(OwnTags { server, .. })) = &member.role else { return None };
        let stands = self.configuration.servers.contains_key(server);
        (stands && *server != self.own.server).then_some(Duty::Remove(*server))
    }

    /// Takes away the nodes that gossip made and knows no longer. Those without gossip's check are somebody else's.
    fn reaped(&self) -> Vec<Duty> {
        let mut known: BTreeSet<Key> =
            self.members.iter().map(|member| canonical(&member.name)).collect();
        known.insert(canonical(&self.own.name));
        let serf = canonical(SERF_HEALTH);
        let catalog = self.state.catalog();
        let checks = catalog.checks.iter().filter(|(key, _)| key.id == serf);
        checks
            .filter(|(key, _)| self.settled && !known.contains(&key.node))
            .filter_map(|(key, _)| catalog.nodes.get(&key.node))
            .map(deregister)
            .collect()
    }

    /// Takes servers out of Raft that gossip knew, by the word of the catalog, and knows no longer: forgotten, or another
    /// machine has their name.
    ///
    /// This comes before all else, since their nodes are what shows that gossip knew them. One that it never met is left
    /// alone: servers may find each other by their addresses.
    fn forgotten(&self) -> Vec<Duty> {
        let catalog = self.state.catalog();
        let goes = |server: &&ServerId| {
            let id = Some(server.node);
            let node = catalog.node_by_id(server.node);
            let known = node.filter(|node| catalog.check(&node.name, SERF_HEALTH).is_some());
            let replaced = |node: &Node| {
                let name = canonical(&node.name);
                let mut living =
                    self.members.iter().filter(|member| member.status == MemberStatus::Alive);
                living.any(|member| canonical(&member.name) == name)
            };
            **server != self.own.server
                && !self.members.iter().any(|member| member.id == id)
                && known.is_some_and(|node| self.settled || replaced(node))
        };
        self.configuration.servers.keys().filter(goes).copied().map(Duty::Remove).collect()
    }

    /// Adds a server of this cluster to Raft that isn't there, or isn't there under its address.
    fn admission(&self, member: &Member) -> Option<Duty> {
        let Role::Server(Some(OwnTags { server, cluster, address })) = &member.role else {
            return None;
        };
        if *cluster != Some(self.own.cluster) || *server == self.own.server {
            return None;
        }
        let standing = self.configuration.servers.get(server);
        if standing.is_some_and(|standing| standing.address == *address) {
            return None;
        }
        Some(Duty::Admit { server: *server, address: Arc::clone(address) })
    }

    fn serf_health(&self, member: &Member) -> Option<&CheckStatus> {
        let check = self.state.catalog().check(&member.name, SERF_HEALTH)?;
        Some(&check.body.status)
    }

    fn body(&self, member: &Member) -> NodeBody {
        NodeBody {
            name: member.name.clone(),
            id: member.id,
            address: member.address.clone(),
            datacenter: self.own.datacenter.clone(),
            ..NodeBody::default()
        }
    }
}

impl Claims<'_> {
    /// Why a living member doesn't get what it claims.
    fn rival(&self, name: &Key, member: &Member) -> Option<String> {
        let named = self.names.get(name).filter(|other| **other != member);
        if let Some(other) = named {
            return Some(format!(
                "Node {:?} has the same name as {:?}",
                &*member.name, &*other.name
            ));
        }
        let id = member.id?;
        let other = self.ids.get(&id).filter(|other| **other != member)?;
        Some(format!("Node {:?} has the same ID {id} as {:?}", &*member.name, &*other.name))
    }
}

/// Whether a node is surely that of a member: both have the same id.
fn is_same(node: &Node, member: &Member) -> bool {
    node.id.is_some() && node.id == member.id
}

fn register(node: NodeBody, skip_node_update: bool, status: CheckStatus, output: &str) -> Duty {
    let check = CheckBody {
        id: SERF_HEALTH.into(),
        name: SERF_HEALTH_NAME.into(),
        status,
        output: output.into(),
        ..CheckBody::default()
    };
    let registration = Registration { node, skip_node_update, parts: vec![Part::Check(check)] };
    Duty::Propose(Command::Catalog(CatalogCommand::Register(registration)))
}

/// Takes a node away, as long as it is the one that was looked at.
fn deregister(node: &Node) -> Duty {
    let what = Deregistration::Node { name: node.name.clone(), only: node.id };
    Duty::Propose(Command::Catalog(CatalogCommand::Deregister(what)))
}
