//! The bytes of what servers send each other and keep, frozen: a change here is a new version of the protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Write as _},
    sync::Arc,
    time::Duration,
};

use bincode::{Decode, Encode};
use proptest::prelude::*;
use spec::{
    codec::{self, CodecError, RPC_LIMIT},
    raft::{
        Change, ClusterId, Command, Config, Configuration, Durable, Entry, HardState, Index,
        Member, MembershipChange, Message, Node, Payload, Proposal, Request, ServerId, SnapshotId,
        SnapshotMeta, Suffrage, Term, Timer, Write,
        formation::{self, Presence, ServerSet, SetId, Standing},
        message::{
            AppendEntries, AppendResult, Appended, InstallSnapshot, ReadId, ReadIndex,
            ReadIndexReply, RequestVote, SnapshotReply, TimeoutNow, Vote,
        },
    },
    state::{Digest, agreement::Report},
    time::ClusterTime,
    trace::{Draw, Happened, Opening, OpeningOf, Step, StepOf, VERSION},
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Each value has these bytes, and is what they decode to.
fn stand_still<T: Encode + Decode<()> + Debug + PartialEq>(vectors: Vec<(T, &str)>) {
    for (value, golden) in vectors {
        let bytes = codec::encode(&value);
        assert_eq!(hex(&bytes), golden.replace(char::is_whitespace, ""), "{value:?}");
        assert_eq!(codec::decode::<T, RPC_LIMIT>(&bytes), Ok(value));
    }
}

/// An enum has as many kinds as this: none was added without a vector. Zeros are enough of every kind's fields.
fn has_kinds<T: Decode<()>>(count: u8) {
    let is_kind = |kind| {
        let mut bytes = vec![0; 200];
        bytes[0] = kind;
        matches!(codec::decode::<T, RPC_LIMIT>(&bytes), Err(CodecError::Trailing))
    };
    assert!((0..count).all(is_kind), "one is gone");
    assert!(!is_kind(count), "one was added");
}

fn configuration() -> Arc<Configuration> {
    let servers = BTreeMap::from([
        (
            ServerId::new(1, 7),
            Member { suffrage: Suffrage::Voter, address: "10.0.0.1:8300".into() },
        ),
        (ServerId::new(2, 8), Member { suffrage: Suffrage::Learner, address: "b:1".into() }),
    ]);
    Arc::new(Configuration { cluster: ClusterId(300), servers })
}

fn meta() -> SnapshotMeta {
    SnapshotMeta {
        id: SnapshotId { index: Index(1000), term: Term(3) },
        time: ClusterTime(70_000),
        configuration: configuration(),
        configuration_index: Index(4),
        chunks: 2,
    }
}

fn entries() -> Vec<Entry> {
    let entry = |index, request| Entry {
        term: Term(2),
        index: Index(index),
        time: ClusterTime(251),
        request,
    };
    vec![
        entry(5, Request::Noop),
        entry(6, Request::Command(Payload::from(b"put".to_vec()))),
        entry(7, Request::Configuration(configuration())),
    ]
}

fn messages() -> Vec<(Message, &'static str)> {
    let last = SnapshotId { index: Index(4), term: Term(1) };
    let id = ReadId { boot: 9, n: 1 };
    vec![
        (
            Message::RequestVote(RequestVote {
                term: Term(2),
                last,
                pre_vote: true,
                transfer: false,
            }),
            "000204010100",
        ),
        (Message::Vote(Vote { term: Term(2), granted: true, pre_vote: false }), "01020100"),
        (
            Message::AppendEntries(AppendEntries {
                term: Term(2),
                previous: last,
                entries: entries(),
                commit: Index(4),
                round: 0,
            }),
            "020204010302 05fbfb00 00 0206fbfb00 01 03 707574 0207fbfb00 02 fb2c01 02 01 07 00 0d \
             31302e302e302e313a38333030 02 08 01 03 623a31 04 00",
        ),
        (
            Message::Appended(Appended {
                term: Term(2),
                round: 5,
                result: AppendResult::Matched(Index(7)),
            }),
            "0302050007",
        ),
        (
            Message::Appended(Appended {
                term: Term(2),
                round: 0,
                result: AppendResult::Conflict { rejected: Index(4), hint: last },
            }),
            "03020001040401",
        ),
        (
            Message::InstallSnapshot(InstallSnapshot { term: Term(3), meta: meta(), number: 1 }),
            "0403 fbe803 03 fc70110100 fb2c01 02 01 07 00 0d 31302e302e302e313a38333030 02 08 01 03 \
             623a31 04 02 01",
        ),
        (Message::SnapshotReply(SnapshotReply { term: Term(3), id: last, next: 2 }), "0503040102"),
        (Message::TimeoutNow(TimeoutNow { term: Term(3) }), "0603"),
        (Message::ReadIndex(ReadIndex { id }), "070901"),
        (Message::ReadIndexReply(ReadIndexReply { id, index: Some(Index(7)) }), "0809010107"),
        (Message::ReadIndexReply(ReadIndexReply { id, index: None }), "08090100"),
    ]
}

#[test]
fn the_bytes_of_messages_stand_still() {
    stand_still(messages());
    has_kinds::<Message>(9);
}

#[test]
fn the_bytes_of_writes_stand_still() {
    let hard_state = HardState { term: Term(2), voted_for: Some(ServerId::new(1, 7)) };
    let base = SnapshotId { index: Index(900), term: Term(2) };
    let changes = [
        (Change::None, "0201010700"),
        (
            Change::Append { after: Index(4), entries: entries()[..2].to_vec() },
            "020101070104020205fbfb00000206fbfb000103707574",
        ),
        (
            Change::Snapshot { meta: meta(), base },
            "0201010702fbe80303fc70110100fb2c010201070 00d31302e302e302e313a3833303002080103623a310402 \
             fb840302",
        ),
        (
            Change::Install { meta: meta() },
            "0201010703fbe80303fc70110100fb2c010201070 00d31302e302e302e313a3833303002080103623a310402",
        ),
    ];
    let write = |(change, golden)| (Write { hard_state, change }, golden);
    stand_still(changes.into_iter().map(write).collect());
    has_kinds::<Change>(4);
}

#[test]
fn the_bytes_of_formation_stand_still() {
    let id = SetId { coordinator: ServerId::new(1, 7), attempt: 300 };
    let members =
        BTreeMap::from([(ServerId::new(1, 7), "a:1".into()), (ServerId::new(2, 8), "b:1".into())]);
    let set = || ServerSet { id, members: members.clone() };
    let (server, name) = (ServerId::new(2, 8), Arc::from("b:1"));
    let answer = |presence, others| formation::Message::Answer {
        server,
        name: Arc::clone(&name),
        presence,
        others,
    };
    let member = |leader| Presence::Member { cluster: ClusterId(300), leader };
    stand_still(vec![
        (
            formation::Message::Ask { server, expect: 3, name: Arc::clone(&name) },
            "0002080303623a31",
        ),
        (
            answer(Presence::Blank { expect: 3 }, BTreeSet::from(["a:1".into(), "c:1".into()])),
            "01020803623a3100030203613a3103633a31",
        ),
        (answer(member(None), BTreeSet::new()), "01020803623a3101fb2c010000"),
        (answer(member(Some("a:1".into())), BTreeSet::new()), "01020803623a3101fb2c010103613a3100"),
        (formation::Message::Prepare(set()), "020107fb2c0102010703613a31020803623a31"),
        (formation::Message::Promised { set: id, server }, "030107fb2c010208"),
        (formation::Message::Refused { set: id }, "040107fb2c01"),
        (formation::Message::Release(id), "050107fb2c01"),
        (formation::Message::Decided(id), "060107fb2c01"),
        (formation::Message::Inquire { set: id }, "070107fb2c01"),
    ]);
    has_kinds::<formation::Message>(8);
    has_kinds::<Presence>(2);
    let durable = |standing| formation::Durable { standing, attempt: 300 };
    stand_still(vec![
        (durable(Standing::Blank), "00fb2c01"),
        (durable(Standing::Promised(set())), "010107fb2c0102010703613a31020803623a31fb2c01"),
        (durable(Standing::Formed(set())), "020107fb2c0102010703613a31020803623a31fb2c01"),
        (durable(Standing::Joined(ClusterId(300))), "03fb2c01fb2c01"),
    ]);
    has_kinds::<Standing>(4);
    // Each member works the name of the cluster out for itself.
    assert_eq!(set().cluster(), ClusterId(0x3c4a_2800_776f_4ea2_c5da_e72a_7e1f_e261));
}

#[test]
fn the_bytes_of_reports_stand_still() {
    let report = |index| Report { index: Index(index), digest: Digest(1 << 100) };
    stand_still(vec![
        (vec![], "00"),
        (
            vec![report(1024), report(2048)],
            "02fb0004fe00000000000000000000000010000000fb0008fe00000000000000000000000010000000",
        ),
    ]);
}

/// A record is kept and replayed later: with what a machine is told, its settings and its timers are frozen, too.
#[test]
fn the_bytes_of_flight_records_stand_still() {
    let ms = Duration::from_millis;
    let config = Config {
        id: ServerId::new(1, 7),
        boot: 300,
        pre_vote: true,
        check_quorum: false,
        eager_commit: true,
        heartbeat: ms(1),
        election: ms(2),
        election_jitter: ms(3),
        quorum_check: ms(4),
        suspicion_jitter: ms(5),
        max_append_entries: 6,
        max_append_bytes: 7,
        max_inflight: 8,
        max_inflight_bytes: 9,
        max_uncommitted_bytes: 10,
        trailing_entries: 11,
        reach_back: false,
        snapshot_credit: 12,
        catch_up_slack: 13,
        max_reads: 14,
    };
    let durable = Durable {
        hard_state: HardState { term: Term(2), voted_for: None },
        snapshot: Some(meta()),
        base: SnapshotId { index: Index(900), term: Term(2) },
        entries: entries(),
    };
    let draws = vec![Draw::Jitter(300), Draw::Choice(2)];
    let opening: OpeningOf<Node> = Opening {
        version: VERSION,
        config: Arc::new(config),
        durable,
        now_us: 5,
        draws: draws.clone(),
        effects: 1 << 40,
    };
    stand_still(vec![(
        opening,
        "01 0107 fb2c01 010001 00fc40420f00 00fc80841e00 00fcc0c62d00 00fc00093d00 \
         00fc404b4c00 060708090a0b 00 0c0d0e 0200 01 fbe80303fc70110100fb2c01 02 \
         0107000d31302e302e302e313a38333030 02080103623a31 0402 fb840302 03 \
         0205fbfb0000 0206fbfb000103707574 0207fbfb0002fb2c01 02 \
         0107000d31302e302e302e313a38333030 02080103623a31 05 \
         0200fb2c010102fd0000000000010000",
    )]);
    has_kinds::<Draw>(2);

    let (id, snapshot) = (ServerId::new(2, 8), SnapshotId { index: Index(4), term: Term(1) });
    let change = |change| Command::Reconfigure { request: 9, change };
    let timeout_now = Message::TimeoutNow(TimeoutNow { term: Term(3) });
    let proposal = Proposal { request: 9, payload: Payload::from(b"put".to_vec()) };
    let commands = [
        (Command::Propose(vec![proposal]), "00010903707574"),
        (Command::Read { n: 1 }, "0101"),
        (change(MembershipChange::AddLearner { id, address: "b:1".into() }), "020900020803623a31"),
        (change(MembershipChange::Promote(id)), "0209010208"),
        (change(MembershipChange::Remove(id)), "0209020208"),
        (change(MembershipChange::SetAddress { id, address: "b:1".into() }), "020903020803623a31"),
        (Command::Transfer { request: 9, to: None }, "030900"),
        (Command::Transfer { request: 9, to: Some(id) }, "0309010208"),
        (
            Command::Form(configuration()),
            "04fb2c01020107000d31302e302e302e313a3833303002080103623a31",
        ),
        (Command::Unreachable(id), "050208"),
        (Command::SnapshotSaved { index: Index(4), chunks: 2 }, "060402"),
        (Command::SnapshotStored(snapshot), "070401"),
        (Command::SnapshotFailed(snapshot), "080401"),
        (Command::SnapshotUnreadable(snapshot), "090401"),
        (Command::StepDown, "0a"),
    ];
    let timers = [
        (Timer::Election, "00"),
        (Timer::Lease, "01"),
        (Timer::Heartbeat, "02"),
        (Timer::QuorumCheck, "03"),
        (Timer::Transfer, "04"),
    ];
    let step = |event, draws| Step { now_us: 5, draws, event, effects: 1 << 40 };
    let steps: Vec<(StepOf<Node>, &str)> = vec![
        (
            step(Happened::Receive { from: id, message: timeout_now }, draws),
            "050200fb2c0101020002080603fd0000000000010000",
        ),
        (step(Happened::Fire(Timer::Heartbeat), vec![]), "05000102fd0000000000010000"),
        (step(Happened::Durable(300), vec![]), "050002fb2c01fd0000000000010000"),
        (step(Happened::Command(Command::StepDown), vec![]), "0500030afd0000000000010000"),
    ];
    stand_still(commands.into());
    stand_still(timers.into());
    stand_still(steps);
    has_kinds::<Command>(11);
    has_kinds::<MembershipChange>(4);
    has_kinds::<Timer>(5);
    has_kinds::<Happened<ServerId, Message, Timer, Command>>(4);
}

#[test]
fn every_cut_of_a_message_is_refused() {
    for (message, _) in messages() {
        let bytes = codec::encode(&message);
        for end in 0..bytes.len() {
            let cut = codec::decode::<Message, RPC_LIMIT>(&bytes[..end]);
            assert_eq!(cut, Err(CodecError::Malformed), "{message:?} cut at {end}");
        }
    }
}

proptest! {
    /// Whatever arrives is decoded or refused; nothing panics, and what is decoded encodes to what was read.
    #[test]
    fn any_bytes_are_a_message_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = codec::decode::<Message, RPC_LIMIT>(&bytes) {
            let again = codec::encode(&message);
            prop_assert_eq!(codec::decode::<Message, RPC_LIMIT>(&again), Ok(message));
        }
    }
}
