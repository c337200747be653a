//! The leader's reconcile and autopilot's rules, one by one.

use std::{sync::Arc, time::Duration};

use spec::{
    raft::{
        ClusterId, Configuration, Index, Member as RaftMember, NodeId, ServerId, Suffrage, Term,
    },
    state::{
        AutopilotSettings, Command, Outcome, State,
        catalog::{
            CatalogCommand, CheckStatus, Deregistration, NodeBody, Registration, SERF_HEALTH,
        },
    },
    sync::{
        autopilot::{Autopilot, Change, Rules, Server},
        leave::{Leave, PATIENCE, Step, View, Went, may_go},
        reconcile::{Duty, Member, MemberStatus, Own, OwnTags, Reconcile, Role},
    },
    time::{ClusterTime, Instant},
};

/// A leader named `l`, its state, and whom gossip knows.
struct Leader {
    own: Own,
    state: State,
    configuration: Configuration,
    members: Vec<Member>,
    settled: bool,
}

const CLUSTER: ClusterId = ClusterId(7);

fn member(name: &str, id: u128, status: MemberStatus) -> Member {
    Member {
        name: name.into(),
        id: Some(NodeId(id)),
        address: format!("10.0.0.{id}").into(),
        datacenter: "dc1".into(),
        status,
        role: Role::Client,
    }
}

fn server(name: &str, id: u128, cluster: Option<ClusterId>) -> Member {
    let tags =
        OwnTags { server: ServerId::new(id, 1), cluster, address: format!("{id}:8300").into() };
    Member { role: Role::Server(Some(tags)), ..member(name, id, MemberStatus::Alive) }
}

impl Leader {
    fn new() -> Self {
        let mut state = State::default();
        state.advance(Index(1), ClusterTime(0));
        let own = ServerId::new(9, 1);
        let voter = RaftMember { suffrage: Suffrage::Voter, address: "9:8300".into() };
        Self {
            own: Own { name: "l".into(), datacenter: "dc1".into(), server: own, cluster: CLUSTER },
            state,
            configuration: Configuration {
                cluster: CLUSTER,
                servers: [(own, voter)].into_iter().collect(),
            },
            members: vec![member("l", 9, MemberStatus::Alive)],
            settled: true,
        }
    }

    fn pass(&self) -> Vec<Duty> {
        Reconcile {
            own: &self.own,
            state: &self.state,
            configuration: &self.configuration,
            members: &self.members,
            settled: self.settled,
        }
        .pass()
    }

    fn put(&mut self, command: &Command) -> Outcome {
        let (Index(index), time) = self.state.applied();
        self.state.apply(Index(index + 1), time, command, &mut Vec::new())
    }

    /// Carries out a pass and gives how many commands it took.
    fn settle(&mut self) -> usize {
        let mut commands = 0;
        for duty in self.pass() {
            if let Duty::Propose(command) = duty {
                assert_eq!(self.put(&command), Outcome::Applied(true));
                commands += 1;
            }
        }
        commands
    }

    fn serf(&self, name: &str) -> Option<(CheckStatus, String)> {
        let check = self.state.catalog().check(name, SERF_HEALTH)?;
        Some((check.body.status.clone(), check.body.output.to_string()))
    }
}

#[test]
fn a_member_lives_fails_comes_back_and_leaves() {
    let mut leader = Leader::new();
    leader.members.push(member("a", 1, MemberStatus::Alive));
    assert_eq!(leader.settle(), 2);
    let alive = (CheckStatus::Passing, "Agent alive and reachable".to_owned());
    assert_eq!(leader.serf("a"), Some(alive.clone()));
    let node = leader.state.node("a").1.unwrap();
    assert_eq!((&*node.address, node.id), ("10.0.0.1", Some(NodeId(1))));
    assert_eq!(leader.settle(), 0, "what is so already is not proposed");

    leader.members[1].status = MemberStatus::Failed;
    assert_eq!(leader.settle(), 1);
    let failed = (CheckStatus::Critical, "Agent not live or unreachable".to_owned());
    assert_eq!(leader.serf("a"), Some(failed));

    leader.members[1].status = MemberStatus::Alive;
    assert_eq!((leader.settle(), leader.serf("a")), (1, Some(alive)));
    leader.members[1].status = MemberStatus::Left;
    assert_eq!(leader.settle(), 1);
    assert!(leader.state.node("a").1.is_none());
}

#[test]
fn what_the_agent_says_of_its_node_stays() {
    let mut leader = Leader::new();
    leader.members.push(member("a", 1, MemberStatus::Alive));
    let node = NodeBody {
        name: "a".into(),
        id: Some(NodeId(1)),
        address: "10.0.0.1".into(),
        datacenter: "dc1".into(),
        meta: Some([("rack", "r1")].into_iter().collect()),
        ..NodeBody::default()
    };
    let register = Registration { node, skip_node_update: false, parts: vec![] };
    leader.put(&Command::Catalog(CatalogCommand::Register(register)));
    leader.settle();
    let node = leader.state.node("a").1.unwrap();
    assert_eq!(node.meta.as_ref().and_then(|meta| meta.get("rack")), Some("r1"));
    assert_eq!(node.create_index, node.modify_index, "only the check was new");
}

#[test]
fn a_pass_takes_nothing_for_forgotten_before_gossip_has_settled() {
    let mut leader = Leader::new();
    leader.members.push(member("a", 1, MemberStatus::Alive));
    leader.settle();
    // The leader starts again, and its gossip hasn't heard of anybody yet.
    leader.members.truncate(1);
    leader.settled = false;
    assert_eq!(leader.pass(), []);
    leader.settled = true;
    let gone = Deregistration::Node { name: "a".into(), only: Some(NodeId(1)) };
    let gone = Command::Catalog(CatalogCommand::Deregister(gone));
    assert_eq!(leader.pass(), [Duty::Propose(gone)]);
}

#[test]
fn of_two_that_say_one_id_the_one_that_stands_keeps_it() {
    let mut leader = Leader::new();
    leader.members.push(member("b", 1, MemberStatus::Alive));
    leader.settle();
    leader.members.push(member("a", 1, MemberStatus::Alive));
    let reason = "Node \"a\" has the same ID 00000000-0000-0000-0000-000000000001 as \"b\"";
    let skip = Duty::Skip { member: "a".into(), reason: reason.into() };
    assert_eq!(leader.pass(), [skip]);
}

#[test]
fn only_this_clusters_own_servers_are_admitted_to_raft() {
    let mut leader = Leader::new();
    leader.members.push(server("a", 1, Some(CLUSTER)));
    leader.members.push(server("b", 2, Some(ClusterId(8))));
    leader.members.push(server("c", 3, None));
    leader.members.push(Member { role: Role::Server(None), ..server("d", 4, None) });
    leader.members.push(Member { datacenter: "dc2".into(), ..server("e", 5, Some(CLUSTER)) });
    leader.settle();
    let admit = Duty::Admit { server: ServerId::new(1, 1), address: "1:8300".into() };
    assert_eq!(leader.pass(), std::slice::from_ref(&admit));
    // At another address it is told again; where all is as it should be, it isn't.
    let learner =
        |address: &str| RaftMember { suffrage: Suffrage::Learner, address: address.into() };
    leader.configuration.servers.insert(ServerId::new(1, 1), learner("old:8300"));
    assert_eq!(leader.pass(), [admit]);
    leader.configuration.servers.insert(ServerId::new(1, 1), learner("1:8300"));
    assert_eq!(leader.pass(), []);
    leader.members[1].status = MemberStatus::Left;
    assert_eq!(leader.pass()[0], Duty::Remove(ServerId::new(1, 1)));
}

fn peer(id: u128, status: MemberStatus, heard_ms: u64) -> Server {
    Server {
        id: ServerId::new(id, 1),
        name: format!("s{id}").into(),
        address: Arc::from("a"),
        version: "".into(),
        status: Some(status),
        voter: true,
        leader: id == 1,
        last_contact: Some(Duration::from_millis(heard_ms)),
        last_term: Term(2),
        last_index: Index(1000),
    }
}

fn rules(settings: &AutopilotSettings) -> Rules<'_> {
    Rules {
        settings,
        heartbeat: Duration::from_millis(100),
        reconnect_timeout: Duration::from_hours(72),
    }
}

#[test]
fn a_server_is_healthy_while_it_is_heard_and_near_the_leader() {
    use MemberStatus::{Alive, Failed};
    let mut autopilot = Autopilot::default();
    let settings = AutopilotSettings::default();
    for (sick, other) in [
        (false, peer(2, Alive, 200)),
        (true, peer(2, Alive, 201)),
        (true, peer(2, Failed, 0)),
        (true, Server { last_term: Term(1), ..peer(2, Alive, 0) }),
        (false, Server { last_index: Index(750), ..peer(2, Alive, 0) }),
        (true, Server { last_index: Index(749), ..peer(2, Alive, 0) }),
        (true, Server { last_contact: None, ..peer(2, Alive, 0) }),
    ] {
        let servers = [peer(1, Alive, 0), other, peer(3, Alive, 0)];
        let report = autopilot.step(Instant(0), &rules(&settings), &servers);
        assert_eq!(report.healthy, !sick, "{servers:?}");
        assert_eq!(report.failure_tolerance, usize::from(!sick), "{servers:?}");
    }
}

#[test]
fn dead_servers_go_one_by_one_while_they_are_a_minority() {
    use MemberStatus::{Alive, Failed, Reaped};
    let mut autopilot = Autopilot::default();
    let settings = AutopilotSettings::default();
    let mut servers: Vec<Server> = (1..=5)
        .map(|id| peer(id, if id > 3 { Failed } else { Alive }, if id > 3 { 9000 } else { 0 }))
        .collect();
    for gone in [4, 5] {
        let report = autopilot.step(Instant(0), &rules(&settings), &servers);
        let (server, member) = (ServerId::new(gone, 1), Some(format!("s{gone}").into()));
        assert_eq!(report.change, Some(Change::Remove { server, member }));
        servers.retain(|other| other.id != server);
    }
    servers[1].status = Some(Reaped);
    servers[1].last_contact = None;
    servers[2].status = Some(Failed);
    servers[2].last_contact = Some(Duration::from_secs(9));
    let report = autopilot.step(Instant(0), &rules(&settings), &servers);
    assert_eq!(report.change, None);
    assert_eq!(report.denied.as_deref(), Some("2 of 3 servers are silent: they are no minority"));
    let off = AutopilotSettings { cleanup_dead_servers: false, ..settings };
    assert_eq!(autopilot.step(Instant(0), &rules(&off), &servers).denied, None);
}

#[test]
fn a_learner_votes_once_it_has_been_healthy_for_long_enough() {
    let mut autopilot = Autopilot::default();
    let settings = AutopilotSettings::default();
    let learner = Server { voter: false, ..peer(2, MemberStatus::Alive, 0) };
    let servers = [peer(1, MemberStatus::Alive, 0), learner];
    let seconds = |seconds: u64| Instant(seconds * 1_000_000);
    let change = |autopilot: &mut Autopilot, at| {
        autopilot.step(seconds(at), &rules(&settings), &servers).change
    };
    assert_eq!(change(&mut autopilot, 100), None);
    assert_eq!(change(&mut autopilot, 109), None);
    assert_eq!(change(&mut autopilot, 110), Some(Change::Promote(ServerId::new(2, 1))));
}

/// Voters with these ids.
fn voters(ids: &[u128]) -> Configuration {
    let voter = || RaftMember { suffrage: Suffrage::Voter, address: "".into() };
    let servers = ids.iter().map(|id| (ServerId::new(*id, 1), voter())).collect();
    Configuration { cluster: CLUSTER, servers }
}

fn leaving(configuration: &Configuration, leads: bool) -> View<'_> {
    View { own: ServerId::new(1, 1), leads, configuration, waited: Duration::ZERO }
}

#[test]
fn a_leader_hands_over_once_and_then_asks_like_everybody() {
    let three = voters(&[1, 2, 3]);
    let mut leave = Leave::default();
    assert_eq!(leave.next(&leaving(&three, true), &Went::Open), Step::HandOver);
    assert_eq!(leave.next(&leaving(&three, true), &Went::Open), Step::AskRemoval);
    assert_eq!(leave.next(&leaving(&three, false), &Went::Open), Step::AskRemoval);
    let out = leave.next(&leaving(&three, false), &Went::Removed);
    assert_eq!(out, Step::LeavePools { late: false });
    let mut follower = Leave::default();
    assert_eq!(follower.next(&leaving(&three, false), &Went::Open), Step::AskRemoval);
    let needed = Went::Needed("why".to_owned());
    assert_eq!(follower.next(&leaving(&three, false), &needed), Step::Stay("why".to_owned()));
    let late = View { waited: PATIENCE, ..leaving(&three, false) };
    assert_eq!(follower.next(&late, &Went::Open), Step::LeavePools { late: true });
}

#[test]
fn the_last_server_just_leaves_the_pools() {
    for (ids, leads) in [(&[1][..], true), (&[2, 3], false), (&[], false)] {
        let configuration = voters(ids);
        let step = Leave::default().next(&leaving(&configuration, leads), &Went::Open);
        assert_eq!(step, Step::LeavePools { late: false }, "{ids:?}");
    }
}

#[test]
fn a_server_goes_while_those_that_stay_hear_each_other() {
    let may = |ids: &[u128], goes: u128, heard: &[u128]| {
        let heard = |id: &ServerId| heard.iter().any(|one| ServerId::new(*one, 1) == *id);
        may_go(&voters(ids), ServerId::new(goes, 1), heard)
    };
    assert_eq!(may(&[1, 2, 3], 2, &[1, 2, 3]), Ok(()));
    assert_eq!(may(&[1, 2], 2, &[1, 2]), Ok(()));
    assert_eq!(may(&[1, 2], 2, &[1]), Ok(()), "the dead may always go");
    assert_eq!(
        may(&[1, 2, 3], 2, &[1, 2]),
        Err("of the 2 servers that would be left, 1 can be reached: they are no majority"
            .to_owned())
    );
    assert_eq!(may(&[1, 2, 3], 4, &[1]), Ok(()), "a learner counts for nothing");
}

#[test]
fn a_slow_heartbeat_makes_nobody_sick() {
    let settings = AutopilotSettings::default();
    let servers = [peer(1, MemberStatus::Alive, 0), peer(2, MemberStatus::Alive, 900)];
    let rules = rules(&settings);
    let slow = Rules { heartbeat: Duration::from_millis(500), ..rules };
    assert!(!Autopilot::default().step(Instant(0), &rules, &servers).healthy);
    assert!(Autopilot::default().step(Instant(0), &slow, &servers).healthy);
}

#[test]
fn a_server_that_gossip_never_knew_gets_time() {
    let settings = AutopilotSettings::default();
    let (hours, second) = (|hours: u64| Instant(hours * 3_600_000_000), Duration::from_secs(1));
    let never_met = Server { status: None, ..peer(3, MemberStatus::Alive, 0) };
    let heard = [peer(1, MemberStatus::Alive, 0), peer(2, MemberStatus::Alive, 0), never_met];
    let mut silent = heard.clone();
    silent[2].last_contact = None;
    let mut autopilot = Autopilot::default();
    let mut change = |at, servers| autopilot.step(at, &rules(&settings), servers).change;
    assert_eq!(change(hours(1), &silent), None);
    assert_eq!(change(hours(72), &silent), None);
    // It was heard meanwhile: the time begins anew.
    assert_eq!(change(hours(72).after(second), &heard), None);
    assert_eq!(change(hours(73), &silent), None);
    assert_eq!(change(hours(144), &silent), None);
    let removal = Change::Remove { server: ServerId::new(3, 1), member: None };
    assert_eq!(change(hours(145), &silent), Some(removal));
}

#[test]
fn a_server_that_gossip_forgot_leaves_raft_before_its_node_goes() {
    let mut leader = Leader::new();
    let gone = server("s", 5, Some(CLUSTER));
    let voter = RaftMember { suffrage: Suffrage::Voter, address: "5:8300".into() };
    leader.configuration.servers.insert(ServerId::new(5, 1), voter);
    leader.members.push(gone.clone());
    assert_eq!(leader.settle(), 2);
    // Nobody saw it go.
    leader.members.retain(|member| *member != gone);
    let duties = leader.pass();
    assert_eq!(duties[0], Duty::Remove(ServerId::new(5, 1)));
    assert!(matches!(duties[1], Duty::Propose(_)), "{duties:?}");
    // A machine of another id under its name shows the same, before gossip has settled too.
    leader.settled = false;
    assert_eq!(leader.pass(), []);
    leader.members.push(server("s", 6, Some(CLUSTER)));
    assert_eq!(leader.pass()[0], Duty::Remove(ServerId::new(5, 1)));
    // One that gossip never met stays.
    leader.settled = true;
    leader.settle();
    assert_eq!(leader.pass().iter().filter(|d| matches!(d, Duty::Remove(_))).count(), 0);
}
