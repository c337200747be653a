//! The leader's reconcile, driven: gossip's members become what [`spec::sync::reconcile`] takes, and what it says is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spec::{
    raft::{ClusterId, DiskId, NodeId, ServerId},
    serf::Status,
    state::{
        Command,
        catalog::{CatalogCommand, Deregistration},
    },
    sync::reconcile::{Duty, INTERVAL, Member, MemberStatus, Own, OwnTags, Reconcile, Role},
};
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};

use super::{Request, Response, Server};
use crate::gossip::{CLUSTER_TAG, DISK_TAG, Pool, PoolMember};

/// How long gossip may take to hear of everyone: until then nobody counts as forgotten.
const SETTLED: Duration = Duration::from_mins(1);

/// What a server remembers from one look at its pool to the next.
pub(super) struct Members {
    pool: Pool,
    changes: watch::Receiver<u64>,
    started: Instant,
    /// The members at the last look, by name.
    seen: BTreeMap<Arc<str>, Member>,
    /// When all of them were last gone through; none before this server led.
    passed: Option<Instant>,
    /// Whether the pool was told that this server leads.
    announced: bool,
}

impl Members {
    /// Looks at this pool from here on.
    pub(super) fn new(pool: Pool) -> Self {
        let changes = pool.watch();
        let started = Instant::now();
        Self { pool, changes, started, seen: BTreeMap::new(), passed: None, announced: false }
    }

    /// Waits until there may be something to do, and no longer than `most`.
    pub(super) async fn changed(&mut self, most: Duration) {
        let changed = async {
            if self.changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(most, changed).await;
    }
}

/// Whether a duty takes the node of one of these machines away.
fn takes_away(duty: &Duty, nodes: &BTreeSet<NodeId>) -> bool {
    let Duty::Propose(Command::Catalog(CatalogCommand::Deregister(what))) = duty else {
        return false;
    };
    matches!(what, Deregistration::Node { only: Some(node), .. } if nodes.contains(node))
}

/// A member in the terms of the reconcile.
fn member(member: &PoolMember) -> Member {
    let id = crate::storage::parse_node_id(member.tag("id"));
    let number = |tag| u128::from_str_radix(member.tag(tag), 16).ok();
    let own = || {
        let disk = u64::try_from(number(DISK_TAG)?).ok()?;
        Some(OwnTags {
            server: ServerId { node: id?, disk: DiskId(disk) },
            cluster: number(CLUSTER_TAG).map(ClusterId),
            address: member.rpc_address()?.to_string().into(),
        })
    };
    Member {
        name: (*member.name).into(),
        id,
        address: member.endpoint.ip().to_string().as_str().into(),
        datacenter: member.tag("dc").into(),
        status: status(member.status),
        role: match member.tag("role") {
            "node" => Role::Client,
            "consul" => Role::Server(own().filter(|_| member.is_own_server())),
            _ => Role::Other,
        },
    }
}

pub(super) const fn status(status: Status) -> MemberStatus {
    match status {
        Status::Alive => MemberStatus::Alive,
        Status::Leaving => MemberStatus::Leaving,
        Status::Left => MemberStatus::Left,
        Status::Failed => MemberStatus::Failed,
    }
}

impl Server {
    /// Brings the catalog and Raft in line with the pool, where this server leads.
    pub(super) async fn reconcile(&self, members: &mut Members) {
        members.changes.mark_unchanged();
        let leadership = self.0.leadership.borrow().clone();
        if !leadership.leads {
            (members.passed, members.seen) = (None, BTreeMap::new());
            members.announced = false;
            return;
        }
        let now: Vec<Member> = members.pool.members().iter().map(|one| member(one)).collect();
        if !members.announced {
            members.announced = members.pool.announce_leader().await.is_ok();
        }
        // Not by what an earlier leader left under way: the read waits for this one's own term.
        let Ok(view) = self.read(super::Consistency::Default).await else { return };
        let own = Own {
            name: self.0.settings.node_name.as_str().into(),
            datacenter: self.0.settings.datacenter.as_str().into(),
            server: self.0.id,
            cluster: leadership.configuration.cluster,
        };
        let reconcile = Reconcile {
            own: &own,
            state: &view.state,
            configuration: &leadership.configuration,
            members: &now,
            settled: members.started.elapsed() >= SETTLED,
        };
        let due = members.passed.is_none_or(|passed| passed.elapsed() >= INTERVAL);
        let duties = if due { reconcile.pass() } else { reconcile.changed(&members.news(&now)) };
        let mut done = true;
        // The node of a server that is still in Raft shows that gossip knew it: it stays until that one is out.
        let mut stays = BTreeSet::new();
        for duty in duties {
            let removal = match &duty {
                Duty::Remove(server) => Some(server.node),
                Duty::Propose(_) | Duty::Admit { .. } | Duty::Skip { .. } => None,
            };
            let seen_to = !takes_away(&duty, &stays) && self.see_to(duty).await;
            if !seen_to {
                stays.extend(removal);
            }
            done &= seen_to;
        }
        // What failed is tried again with the next look, and not only when something changes again.
        if done {
            if due {
                members.passed = Some(Instant::now());
            }
            members.seen =
                now.into_iter().map(|member| (Arc::from(&*member.name), member)).collect();
        }
    }

    async fn see_to(&self, duty: Duty) -> bool {
        match duty {
            Duty::Propose(command) => match self.propose(command).await {
                Ok(_) => true,
                Err(error) => {
                    tracing::warn!("leader: a member isn't in the catalog yet: {error}");
                    false
                }
            },
            Duty::Admit { server, address } => {
                let request = Request::Join { server, address: address.to_string() };
                self.change_of_raft(request, "added to", &address).await
            }
            Duty::Remove(server) => {
                let address = server.node.to_string();
                self.change_of_raft(Request::Leave(server), "removed from", &address).await
            }
            Duty::Skip { member, reason } => {
                tracing::warn!(member = &*member, "leader: a member is left alone: {reason}");
                true
            }
        }
    }

    pub(super) async fn change_of_raft(&self, request: Request, what: &str, server: &str) -> bool {
        match self.lead(request).await {
            Response::Done | Response::Joined(_) => {
                tracing::info!(server, "leader: a server was {what} Raft");
                true
            }
            response => {
                let error = super::unexpected(response);
                tracing::info!(server, "leader: a server isn't {what} Raft yet: {error}");
                false
            }
        }
    }
}

impl Members {
    /// The members that are other than at the last look; those that are gone come as reaped.
    fn news(&self, now: &[Member]) -> Vec<Member> {
        let mut gone = self.seen.clone();
        let mut news = Vec::new();
        for member in now {
            if gone.remove(&*member.name).as_ref() != Some(member) {
                news.push(member.clone());
            }
        }
        let reaped = |member| Member { status: MemberStatus::Reaped, ..member };
        news.extend(gone.into_values().map(reaped));
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(tags: &[(&str, &str)]) -> PoolMember {
        PoolMember {
            name: "s1".into(),
            endpoint: "127.0.0.1:8301".parse().unwrap(),
            tags: tags.iter().map(|(tag, value)| ((*tag).into(), (*value).into())).collect(),
            status: Status::Alive,
            versions: spec::swim::Versions::CURRENT,
        }
    }

    #[test]
    fn only_a_server_with_our_own_tags_is_one_of_ours() {
        let id = "0a4e64c1-872e-a0ec-b2dc-fdf268e35d46";
        let consul = [("role", "consul"), ("id", id), ("port", "8300"), ("dc", "dc1")];
        assert_eq!(member(&tagged(&consul)).role, Role::Server(None));
        let mut own = consul.to_vec();
        own.extend([("proconsul", "1"), ("disk", "0000000000000007")]);
        let found = member(&tagged(&own));
        let Role::Server(Some(tags)) = found.role else { panic!("{found:?}") };
        assert_eq!((tags.server.disk, tags.cluster), (DiskId(7), None));
        assert_eq!(&*tags.address, "127.0.0.1:8300");
        own.push(("cluster", "0000000000000000000000000000000a"));
        let found = member(&tagged(&own));
        let Role::Server(Some(tags)) = found.role else { panic!("{found:?}") };
        assert_eq!(tags.cluster, Some(ClusterId(10)));
        assert_eq!(member(&tagged(&[("role", "node")])).role, Role::Client);
        assert_eq!(member(&tagged(&[])).role, Role::Other);
    }
}
