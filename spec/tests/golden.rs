//! The bytes of what servers send each other and keep, frozen: a change here is a new version of the protocol.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use proptest::prelude::*;
use spec::{
    codec::{self, CodecError, RPC_LIMIT},
    raft::{
        Change, ClusterId, Configuration, Entry, HardState, Index, Member, Message, Payload,
        Request, ServerId, SnapshotId, SnapshotMeta, Suffrage, Term, Write,
        message::{
            AppendEntries, AppendResult, Appended, InstallSnapshot, ReadId, ReadIndex,
            ReadIndexReply, RequestVote, SnapshotReply, TimeoutNow, Vote,
        },
    },
    time::ClusterTime,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
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
    for (message, golden) in messages() {
        let bytes = codec::encode(&message);
        assert_eq!(hex(&bytes), golden.replace(char::is_whitespace, ""), "{message:?}");
        assert_eq!(codec::decode::<Message, RPC_LIMIT>(&bytes), Ok(message));
    }
}

#[test]
fn the_bytes_of_writes_stand_still() {
    let hard_state = HardState { term: Term(2), voted_for: Some(ServerId::new(1, 7)) };
    let base = SnapshotId { index: Index(900), term: Term(2) };
    for (change, golden) in [
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
    ] {
        let write = Write { hard_state, change };
        let bytes = codec::encode(&write);
        assert_eq!(hex(&bytes), golden.replace(char::is_whitespace, ""), "{write:?}");
        assert_eq!(codec::decode::<Write, RPC_LIMIT>(&bytes), Ok(write));
    }
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
