//! The leader's reconcile: members that come, fail, leave, change their names and ids; events that get lost; others who
//! write to the catalog; and a pass that mends it all.
//!
//! The model holds the replicated state and gossip's members. Whatever a reconcile proposes is applied at once. That one
//! pass mends everything is checked in every state: the pass runs on a copy.

use std::collections::BTreeMap;

use spec::{
    raft::{ClusterId, Configuration, Index, Member as RaftMember, NodeId, ServerId, Suffrage},
    state::{
        Command, Outcome, State, TableId, Touched,
        catalog::{
            CatalogCommand, Check, CheckBody, CheckStatus, Deregistration, Node, NodeBody, Part,
            Registration, SERF_HEALTH,
        },
        invariant,
        text::canonical,
    },
    sync::reconcile::{Duty, Member, MemberStatus, Own, OwnTags, Reconcile, Role},
    time::ClusterTime,
};
use stateright::{Model, Property};

use crate::{
    Checked, Scope, Tier,
    properties::{seen, steps},
};

/// Who there is, and how much may happen.
#[derive(Clone, Debug)]
pub struct ReconcileModel {
    /// The names under which machines come into gossip.
    pub names: &'static [&'static str],
    /// The ids that they have.
    pub ids: &'static [u128],
    /// How often membership changes.
    pub changes: u8,
    /// How often somebody else writes to the catalog.
    pub writes: u8,
    /// How often a leader dies in a pass.
    pub cuts: u8,
    /// Whether the members are servers.
    pub servers: bool,
}

/// How a member is: its id and status.
type Standing = (u128, MemberStatus);

/// The state, and what is around it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    state: State,
    members: BTreeMap<&'static str, Standing>,
    changes: u8,
    writes: u8,
    cuts: u8,
    /// What the last step did that not every history does.
    did: Option<Did>,
    /// The properties that the last step broke.
    broke: Vec<&'static str>,
}

/// What is worth seeing at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Did {
    Skip,
    Admit,
    Remove,
    Reap,
    SpareSelf,
    Replace,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A member comes to be so.
    Gossip {
        /// Who.
        name: &'static str,
        /// With which id, and how.
        to: Standing,
        /// Whether the leader hears of it.
        told: bool,
    },
    /// Somebody else writes to the catalog.
    Write(CatalogCommand),
    /// The leader dies after the first command of a pass.
    Cut,
    /// A whole pass.
    Pass,
}

const OWN: &str = "l";
const OWN_ID: u128 = 9;
const CLUSTER: ClusterId = ClusterId(7);
/// The cluster of the machine with id 2, which is another one.
const OTHER_CLUSTER: ClusterId = ClusterId(8);

/// A name without regard to case, by the model's own word.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase()
}

fn own() -> Own {
    Own {
        name: OWN.into(),
        datacenter: "dc1".into(),
        server: ServerId::new(OWN_ID, 1),
        cluster: CLUSTER,
    }
}

/// The leader, and the machine with id 1 at an address that it doesn't have any more.
fn configuration() -> Configuration {
    let voter = |address: &str| RaftMember { suffrage: Suffrage::Voter, address: address.into() };
    let servers =
        [(ServerId::new(OWN_ID, 1), voter("9:8300")), (ServerId::new(1, 1), voter("old"))];
    Configuration { cluster: CLUSTER, servers: servers.into_iter().collect() }
}

impl World {
    fn member(servers: bool, name: &'static str, (id, status): Standing) -> Member {
        let cluster = if id == 2 { OTHER_CLUSTER } else { CLUSTER };
        let tags = OwnTags {
            server: ServerId::new(id, 1),
            cluster: Some(cluster),
            address: format!("{id}:8300").into(),
        };
        Member {
            name: name.into(),
            id: Some(NodeId(id)),
            address: format!("10.0.0.{id}").as_str().into(),
            datacenter: "dc1".into(),
            status,
            role: if servers { Role::Server(Some(tags)) } else { Role::Client },
        }
    }

    fn members(&self, servers: bool) -> Vec<Member> {
        self.members.iter().map(|(name, standing)| Self::member(servers, name, *standing)).collect()
    }

    /// What the leader has to do: for one member, or for all.
    fn duties(&self, servers: bool, changed: Option<&Member>) -> Vec<Duty> {
        let (own, configuration, members) = (own(), configuration(), self.members(servers));
        let reconcile = Reconcile {
            own: &own,
            state: &self.state,
            configuration: &configuration,
            members: &members,
            settled: true,
        };
        match changed {
            Some(member) => reconcile.changed(std::slice::from_ref(member)),
            None => reconcile.pass(),
        }
    }

    fn put(&mut self, command: &Command) -> Outcome {
        let (Index(index), time) = self.state.applied();
        let (before, mut touched) = (self.state.clone(), Vec::new());
        let outcome = self.state.apply(Index(index + 1), time, command, &mut touched);
        let (mut again, mut touched_again) = (self.state.clone(), Vec::new());
        let same = again.apply(Index(index + 2), time, command, &mut touched_again) != outcome
            || again.catalog() == self.state.catalog() && touched_again.is_empty();
        let (moved, woken) = (self.indexes_move(&before), self.wakes(&before, &touched));
        for (name, holds) in [
            ("equal_registration_writes_nothing", same),
            ("catalog_index_never_goes_back", moved),
            ("catalog_changes_wake_who_waits", woken),
        ] {
            if !holds {
                self.broke.push(name);
            }
        }
        outcome
    }

    /// Every answer of the catalog has an index that didn't go back since, and went up where the answer changed.
    fn indexes_move(&self, before: &State) -> bool {
        let nodes = |state: &State| {
            let (index, nodes) = state.nodes();
            (index, nodes.map(visible).collect::<Vec<_>>())
        };
        let checks = |state: &State| {
            let (index, checks) = state.checks();
            let named = checks.map(|(node, check)| (node.name.clone(), check.clone()));
            (index, named.collect::<Vec<_>>())
        };
        let names = self.members.keys().copied().chain(["x"]);
        moves(&nodes(before), &nodes(&self.state))
            && moves(&checks(before), &checks(&self.state))
            && names.into_iter().all(|name| {
                let key = canonical(name);
                let node = |state: &State| {
                    let (index, node) = state.node(name);
                    (index, node.map(visible))
                };
                let checks = |state: &State| {
                    let (index, checks) = state.node_checks(&key);
                    (index, checks.cloned().collect::<Vec<_>>())
                };
                moves(&node(before), &node(&self.state))
                    && moves(&checks(before), &checks(&self.state))
            })
    }

    /// Where nodes or checks changed, something of theirs was touched.
    fn wakes(&self, before: &State, touched: &[Touched]) -> bool {
        let of = |table| {
            touched.iter().any(|touched| match touched {
                Touched::Key(other, _) | Touched::Prefix(other, _) => *other == table,
                Touched::All => true,
            })
        };
        let (old, new) = (before.catalog(), self.state.catalog());
        let same_nodes = old
            .nodes
            .iter()
            .map(|(_, node)| visible(node))
            .eq(new.nodes.iter().map(|(_, node)| visible(node)));
        (same_nodes || of(TableId::Nodes)) && (old.checks == new.checks || of(TableId::Checks))
    }

    /// Carries out duties; gives whether every command was accepted.
    fn carry_out(&mut self, duties: &[Duty]) -> bool {
        duties.iter().all(|duty| match duty {
            Duty::Propose(command) => self.put(command) == Outcome::Applied(true),
            Duty::Admit { .. } | Duty::Remove(_) | Duty::Skip { .. } => true,
        })
    }

    fn node(&self, name: &str) -> Option<&Node> {
        self.state.catalog().node(name)
    }

    fn serf(&self, name: &str) -> Option<&CheckStatus> {
        self.state.catalog().check(name, SERF_HEALTH).map(|check| &check.body.status)
    }

    /// The living member that has this name, and the living member that has this id: where two claim the same, the
    /// catalog's word, then the order of names, decides.
    fn winner(&self, name: &str) -> Option<(&'static str, u128)> {
        let alive = |spelt: &&'static str| self.members[*spelt].1 == MemberStatus::Alive;
        let known =
            |spelt: &&'static str| self.node(spelt).is_some_and(|node| *node.name == **spelt);
        let mut same: Vec<&'static str> = self.members.keys().copied().collect();
        same.retain(|spelt| alive(spelt) && folded(spelt) == folded(name));
        let spelt = same.iter().find(|spelt| known(spelt)).or(same.first()).copied()?;
        Some((spelt, self.members[spelt].0))
    }

    fn bearer(&self, id: u128) -> Option<&'static str> {
        let mut all: Vec<&'static str> = self
            .members
            .keys()
            .filter_map(|name| self.winner(name))
            .filter(|(_, other)| *other == id)
            .map(|(spelt, _)| spelt)
            .collect();
        all.sort_by_key(|spelt| folded(spelt));
        let standing = self.state.catalog().node_by_id(NodeId(id));
        let known = |spelt: &&&'static str| {
            standing.is_some_and(|node| folded(&node.name) == folded(spelt))
        };
        all.iter().find(known).or(all.first()).copied()
    }
}

/// A node but for what isn't told of it.
fn visible(node: &Node) -> Node {
    Node { checks_index: 0, ..node.clone() }
}

/// Whether an answer's index went up, or the answer is the same and it didn't go back.
fn moves<T: PartialEq>((old, was): &(u64, T), (new, is): &(u64, T)) -> bool {
    new > old || new == old && was == is
}

fn belongings(state: &State, name: &str) -> (Option<Node>, Vec<Check>) {
    let key = canonical(name);
    let checks = state.catalog().checks_of(&key).map(|(_, check)| check.clone()).collect();
    (state.catalog().node(name).cloned(), checks)
}

/// A pass, looked at from before and after.
struct Mended<'a> {
    before: &'a World,
    after: World,
    duties: Vec<Duty>,
    accepted: bool,
}

impl<'a> Mended<'a> {
    fn new(before: &'a World, servers: bool) -> Self {
        let duties = before.duties(servers, None);
        let mut after = before.clone();
        let accepted = after.carry_out(&duties);
        Self { before, after, duties, accepted }
    }

    /// Every name that anything says.
    fn names(&self) -> Vec<String> {
        let catalog = self.before.state.catalog();
        let nodes = catalog.nodes.iter().map(|(_, node)| node.name.to_string());
        nodes.chain(self.before.members.keys().map(|name| (*name).to_owned())).collect()
    }

    /// Every member that lives has its node with the check that says so, and every node that gossip made is that of a
    /// member, critical where it failed.
    fn is_membership(&self) -> bool {
        self.names().iter().all(|name| {
            let (node, serf) = (self.after.node(name), self.after.serf(name));
            let members = self.before.members.iter();
            let mut statuses = members
                .filter(|(spelt, _)| folded(spelt) == folded(name))
                .map(|(_, (_, status))| *status);
            if let Some((spelt, id)) = self.before.winner(name) {
                if self.before.bearer(id) != Some(spelt) {
                    // Another member has its id: it gets nothing.
                    return true;
                }
                return node.is_some_and(|node| {
                    *node.name == *spelt
                        && node.id == Some(NodeId(id))
                        && *node.address == *format!("10.0.0.{id}")
                }) && serf == Some(&CheckStatus::Passing);
            }
            if folded(name) == OWN {
                return true;
            }
            match statuses.find(|status| *status == MemberStatus::Failed) {
                Some(_) => serf.is_none_or(|status| *status == CheckStatus::Critical),
                None => serf.is_none(),
            }
        })
    }

    /// A member that fails keeps its node, unless a living member bears its id or its name.
    ///
    /// Where others spell its name in other letters, it is the one that the catalog spells so.
    fn keeps_the_failed(&self) -> bool {
        self.before.members.iter().all(|(name, (_, status))| {
            let node = self.before.node(name);
            let taken = node.and_then(|node| node.id).is_some_and(|id| {
                self.before.bearer(id.0).is_some() || self.before.winner(name).is_some()
            });
            *status != MemberStatus::Failed
                || node.is_none_or(|node| *node.name != **name)
                || taken
                || self.after.node(name).is_some_and(|kept| {
                    node.is_some_and(|node| kept.create_index == node.create_index)
                })
        })
    }

    /// What gossip never made, and what no member lays claim to, stays as it is.
    fn leaves_others_alone(&self) -> bool {
        self.names().iter().all(|name| {
            let node = self.before.node(name);
            let made = self.before.serf(name).is_some();
            let claimed = self.before.winner(name).is_some()
                || node.and_then(|node| node.id).is_some_and(|id| {
                    self.before.bearer(id.0).is_some()
                        || self.before.members.iter().any(|(spelt, (member, _))| {
                            folded(spelt) == folded(name) && *member == id.0
                        })
                });
            made || claimed
                || belongings(&self.before.state, name) == belongings(&self.after.state, name)
        })
    }

    /// The leader's own node goes only when somebody else leads.
    fn spares_itself(&self) -> bool {
        self.before.node(OWN).is_none()
            || self.after.node(OWN).is_some()
            // Its machine is in gossip under another name.
            || self.before.bearer(OWN_ID).is_some_and(|name| name != OWN)
    }

    /// Nothing is left to do, and where nothing is to be done nothing is written.
    fn settles(&self, servers: bool) -> bool {
        let proposes = |duties: &[Duty]| duties.iter().any(|d| matches!(d, Duty::Propose(_)));
        let changed = self.before.state.catalog() != self.after.state.catalog();
        self.accepted
            && proposes(&self.duties) == changed
            && !proposes(&self.after.duties(servers, None))
    }

    /// Only living servers of this cluster are admitted, only those that have left are removed, and never the leader.
    fn admits_its_own(&self) -> bool {
        self.duties.iter().all(|duty| match duty {
            Duty::Admit { server, .. } => {
                server.node.0 == 1 && self.before.bearer(server.node.0).is_some()
            }
            Duty::Remove(server) => {
                server.node.0 == 1 && self.before.bearer(server.node.0).is_none()
            }
            Duty::Propose(_) | Duty::Skip { .. } => true,
        })
    }

    /// A server in Raft that gossip once knew and knows no longer is removed, before anything else is done.
    fn forgets_the_forgotten(&self) -> bool {
        let gone = !self.before.members.values().any(|(id, _)| *id == 1);
        let node = self.before.state.catalog().node_by_id(NodeId(1));
        let known = node.is_some_and(|node| self.before.serf(&node.name).is_some());
        let removal = Duty::Remove(ServerId::new(1, 1));
        !(gone && known) || self.duties.first() == Some(&removal)
    }

    fn did(&self) -> Option<Did> {
        let removed =
            |name: &str| self.before.node(name).is_some() && self.after.node(name).is_none();
        let catalog = self.before.state.catalog();
        let replaced = self.before.members.keys().any(|name| {
            let (old, new) = (self.before.node(name), self.after.node(name));
            old.zip(new).is_some_and(|(old, new)| old.id.is_some() && old.id != new.id)
        });
        let mut reaped = catalog.nodes.iter().map(|(_, node)| &node.name);
        if self.duties.iter().any(|duty| matches!(duty, Duty::Skip { .. })) {
            Some(Did::Skip)
        } else if self.duties.iter().any(|duty| matches!(duty, Duty::Admit { .. })) {
            Some(Did::Admit)
        } else if replaced {
            Some(Did::Replace)
        } else if self.duties.iter().any(|duty| matches!(duty, Duty::Remove(_))) {
            Some(Did::Remove)
        } else if self
            .before
            .members
            .get(OWN)
            .is_some_and(|(_, status)| *status == MemberStatus::Left)
            && self.before.node(OWN).is_some()
        {
            Some(Did::SpareSelf)
        } else if reaped.any(|name| removed(name) && !self.before.members.contains_key(&**name)) {
            Some(Did::Reap)
        } else {
            None
        }
    }
}

fn write(name: &str, id: Option<u128>) -> CatalogCommand {
    let check = CheckBody { id: "c".into(), name: "c".into(), ..CheckBody::default() };
    CatalogCommand::Register(Registration {
        node: NodeBody {
            name: name.into(),
            id: id.map(NodeId),
            address: "203.0.113.7".into(),
            datacenter: "dc1".into(),
            ..NodeBody::default()
        },
        skip_node_update: false,
        parts: vec![Part::Check(check)],
    })
}

impl ReconcileModel {
    fn look(&self, world: &mut World) {
        let mended = Mended::new(world, self.servers);
        let mut broke = world.broke.clone();
        for (name, holds) in [
            ("one_pass_mends_all", mended.is_membership()),
            ("failed_members_keep_their_nodes", mended.keeps_the_failed()),
            ("others_are_left_alone", mended.leaves_others_alone()),
            ("leader_spares_itself", mended.spares_itself()),
            ("a_second_pass_writes_nothing", mended.settles(self.servers)),
            ("raft_takes_only_its_own", mended.admits_its_own()),
            ("forgotten_servers_leave_raft", mended.forgets_the_forgotten()),
        ] {
            if !holds {
                broke.push(name);
            }
        }
        let did = mended.did();
        world.broke = broke;
        world.did = did;
    }
}

impl Model for ReconcileModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut state = State::default();
        // The first entry of a log is a configuration.
        state.advance(Index(1), ClusterTime(0));
        let mut world = World {
            state,
            members: BTreeMap::from([(OWN, (OWN_ID, MemberStatus::Alive))]),
            changes: self.changes,
            writes: self.writes,
            cuts: self.cuts,
            did: None,
            broke: Vec::new(),
        };
        let first = world.duties(self.servers, None);
        world.carry_out(&first);
        self.look(&mut world);
        vec![world]
    }

    fn actions(&self, at: &World, actions: &mut Vec<Action>) {
        use MemberStatus::{Alive, Failed, Left, Reaped};
        if at.changes > 0 {
            let mut change = |name, to| {
                actions.extend([true, false].map(|told| Action::Gossip { name, to, told }));
            };
            for name in self.names {
                match at.members.get(name).copied() {
                    Some((id, Alive)) => {
                        change(name, (id, Failed));
                        change(name, (id, Left));
                    }
                    Some((id, status)) => {
                        if status == Failed {
                            change(name, (id, Left));
                        }
                        change(name, (id, Reaped));
                        self.ids.iter().for_each(|id| change(name, (*id, Alive)));
                    }
                    None => self.ids.iter().for_each(|id| change(name, (*id, Alive))),
                }
            }
            if at.members.get(OWN).is_some_and(|(_, status)| *status == Alive) {
                change(OWN, (OWN_ID, Left));
            }
        }
        if at.writes > 0 {
            let name = self.names[0];
            let check = Deregistration::Check { node: name.into(), id: SERF_HEALTH.into() };
            let node = Deregistration::Node { name: name.into(), only: None };
            actions.extend(
                [
                    write("x", None),
                    write("x", Some(self.ids[0])),
                    write(name, None),
                    CatalogCommand::Deregister(check),
                    CatalogCommand::Deregister(node),
                ]
                .map(Action::Write),
            );
        }
        if at.cuts > 0 {
            actions.push(Action::Cut);
        }
        actions.push(Action::Pass);
    }

    fn next_state(&self, at: &World, action: Action) -> Option<World> {
        let mut next = World { did: None, broke: Vec::new(), ..at.clone() };
        match action {
            Action::Gossip { name, to, told } => {
                next.changes -= 1;
                if to.1 == MemberStatus::Reaped {
                    next.members.remove(name);
                } else {
                    next.members.insert(name, to);
                }
                if told {
                    let member = World::member(self.servers, name, to);
                    let duties = next.duties(self.servers, Some(&member));
                    next.carry_out(&duties);
                }
            }
            Action::Write(command) => {
                next.writes -= 1;
                next.put(&Command::Catalog(command));
            }
            Action::Cut => {
                next.cuts -= 1;
                let duties = next.duties(self.servers, None);
                next.carry_out(&duties[..duties.len().min(1)]);
            }
            Action::Pass => {
                let duties = next.duties(self.servers, None);
                next.carry_out(&duties);
            }
        }
        self.look(&mut next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = steps!(World:
            "one_pass_mends_all" "failed_members_keep_their_nodes" "others_are_left_alone"
            "leader_spares_itself" "a_second_pass_writes_nothing" "raft_takes_only_its_own"
            "forgotten_servers_leave_raft"
            "equal_registration_writes_nothing" "catalog_index_never_goes_back"
            "catalog_changes_wake_who_waits"
        );
        properties.extend([
            Property::always("catalog_is_whole", |_, at: &World| {
                invariant::catalog_is_whole(&at.state)
            }),
            Property::always("catalog_rows_below_indexes", |_, at: &World| {
                invariant::catalog_rows_below_indexes(&at.state)
                    && invariant::floors_below_index(&at.state)
            }),
            Property::always("digest_is_of_contents", |_, at: &World| {
                invariant::digest_is_of_contents(&at.state)
            }),
            Property::always("load_of_save_is_same", |_, at: &World| {
                invariant::load_of_save_is_same(&at.state)
            }),
            Property::always("restore_of_save_is_same", |_, at: &World| {
                invariant::restore_of_save_is_same(&at.state, &State::default())
            }),
        ]);
        properties.extend(seen!(World:
            "a_leaving_leader_stays_registered" Did::SpareSelf,
            "a_node_is_replaced_by_another_machine" Did::Replace,
            "a_forgotten_member_is_reaped" Did::Reap,
            "two_members_claim_the_same" Did::Skip,
        ));
        if self.servers {
            properties.extend(seen!(World:
                "a_server_is_admitted" Did::Admit,
                "a_server_is_removed" Did::Remove,
            ));
        }
        properties
    }
}

impl Checked for ReconcileModel {
    const KINDS: &'static [&'static str] = &["told", "not told", "write", "cut", "pass"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Gossip { told: true, .. } => 0,
            Action::Gossip { told: false, .. } => 1,
            Action::Write(_) => 2,
            Action::Cut => 3,
            Action::Pass => 4,
        }
    }
}

/// The scopes of the reconcile.
pub fn scopes() -> Vec<Scope> {
    let catalog =
        &["CAT-1", "CAT-2", "CAT-3", "CAT-4", "CAT-6", "CAT-9", "SYNC-1", "SYNC-2", "SYNC-3"];
    vec![
        Scope::new(
            "reconcile",
            Tier::Ci,
            "two machines under two names of two spellings, events lost, others' writes, cut passes",
            catalog,
            ReconcileModel {
                names: &["a", "A", "b"],
                ids: &[1, 2],
                changes: 4,
                writes: 1,
                cuts: 1,
                servers: false,
            },
        ),
        Scope::new(
            "reconcile-servers",
            Tier::Ci,
            "two servers, one of them of another cluster, admitted to Raft and removed",
            &["SYNC-4", "SYNC-5"],
            ReconcileModel {
                names: &["a", "b"],
                ids: &[1, 2],
                changes: 4,
                writes: 1,
                cuts: 0,
                servers: true,
            },
        ),
    ]
}
