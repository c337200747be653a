//! Serf's messages as the machine has them, through the wire and from recordings.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use gossip_wire::convert::LayerCodec as _;
use proptest::{collection::vec, option, prelude::*};
use spec::{
    serf::{
        Key, KeyRequest, KeyResponse, LamportTime, SerfLayer, State, Status, UserEvent,
        message::{
            Answer, Filter, JoinIntent, Known, LeaveIntent, Message, Query, QueryBody,
            QueryResponse, UserEventMessage,
        },
        tags,
    },
    swim::{Incarnation, Layer as _, MemberState, Name, Status as SwimStatus, Versions},
};

fn name() -> impl Strategy<Value = Name> {
    prop_oneof!["[a-z0-9.-]{1,40}", "\\PC{1,60}", "[a-z]{255}"].prop_map(Name::from)
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "[ -~]{0,50}".prop_map(Arc::from)
}

fn bytes() -> impl Strategy<Value = Arc<[u8]>> {
    // Not what opens like an internal query's answer.
    vec(20..=255_u8, 0..300).prop_map(Arc::from)
}

fn ltime() -> impl Strategy<Value = LamportTime> {
    prop_oneof![0..300_u64, 0..100_000_u64, any::<u64>()].prop_map(LamportTime)
}

fn endpoint() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
    let v6 = any::<[u8; 16]>().prop_map(|octets| IpAddr::from(octets).to_canonical());
    (prop_oneof![v4, v6], any::<u16>()).prop_map(SocketAddr::from)
}

fn key() -> impl Strategy<Value = Key> {
    let size = prop_oneof![Just(16), Just(24), Just(32)];
    (size, any::<u8>()).prop_map(|(size, byte)| Key::new(&vec![byte; size]).unwrap())
}

fn event() -> impl Strategy<Value = UserEvent> {
    (text(), bytes()).prop_map(|(name, payload)| UserEvent { name, payload })
}

fn filter() -> impl Strategy<Value = Filter> {
    prop_oneof![
        vec(name(), 0..20).prop_map(Filter::Nodes),
        (text(), text()).prop_map(|(tag, expr)| Filter::Tag { tag, expr }),
    ]
}

fn body() -> impl Strategy<Value = QueryBody> {
    prop_oneof![
        (text(), bytes()).prop_map(|(name, payload)| QueryBody::User { name, payload }),
        Just(QueryBody::Ping),
        name().prop_map(QueryBody::Conflict),
        key().prop_map(|key| QueryBody::Key(KeyRequest::Install(key))),
        key().prop_map(|key| QueryBody::Key(KeyRequest::Use(key))),
        key().prop_map(|key| QueryBody::Key(KeyRequest::Remove(key))),
        Just(QueryBody::Key(KeyRequest::List)),
    ]
}

fn query() -> impl Strategy<Value = Query> {
    let who = (endpoint(), option::of(name()), vec(filter(), 0..4));
    let how = (any::<bool>(), any::<bool>(), any::<u8>(), 0..i64::MAX.cast_unsigned());
    (ltime(), any::<u32>(), who, how, body()).prop_map(
        |(
            ltime,
            id,
            (source, source_node, filters),
            (ack, no_broadcast, relay_factor, nanos),
            body,
        )| {
            Query {
                ltime,
                id,
                source,
                source_node: source_node.unwrap_or_else(|| "".into()),
                filters,
                ack,
                no_broadcast,
                relay_factor,
                timeout: Duration::from_nanos(nanos),
                body,
            }
        },
    )
}

fn key_response() -> impl Strategy<Value = KeyResponse> {
    (any::<bool>(), text(), vec(key(), 0..16), option::of(key()))
        .prop_map(|(ok, message, keys, primary)| KeyResponse { ok, message, keys, primary })
}

fn known() -> impl Strategy<Value = Known> {
    let status = prop_oneof![
        Just((Status::Alive, SwimStatus::Alive)),
        Just((Status::Leaving, SwimStatus::Alive)),
        Just((Status::Left, SwimStatus::Left)),
        Just((Status::Failed, SwimStatus::Dead)),
    ];
    let tags = proptest::collection::btree_map(text(), text(), 0..8);
    (name(), endpoint(), tags, any::<[u8; 6]>(), status).prop_filter_map(
        "tags that fit",
        |(name, endpoint, tags, versions, (status, swim))| {
            let [protocol_min, protocol_max, protocol, delegate_min, delegate_max, delegate] =
                versions;
            let versions = Versions {
                protocol_min,
                protocol_max,
                protocol,
                delegate_min,
                delegate_max,
                delegate,
            };
            let (meta, incarnation) = (tags::encode(&tags)?, Incarnation(0));
            let member = MemberState { name, endpoint, meta, versions, incarnation, status: swim };
            Some(Known { member, status })
        },
    )
}

/// An own answer, and whether its bytes are left to the encoding.
fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        bytes().prop_map(|bytes| Answer { bytes, ..Answer::default() }),
        key_response().prop_map(|key| Answer { key: Some(Arc::new(key)), ..Answer::default() }),
        known().prop_map(|known| Answer { member: Some(Arc::new(known)), ..Answer::default() }),
    ]
}

fn response() -> impl Strategy<Value = QueryResponse> {
    (ltime(), any::<u32>(), name(), any::<bool>(), answer())
        .prop_map(|(ltime, id, from, ack, answer)| QueryResponse { ltime, id, from, ack, answer })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (ltime(), name(), any::<bool>())
            .prop_map(|(ltime, node, prune)| Message::Leave(LeaveIntent { ltime, node, prune })),
        (ltime(), name()).prop_map(|(ltime, node)| Message::Join(JoinIntent { ltime, node })),
        (ltime(), event(), any::<bool>()).prop_map(|(ltime, event, coalesce)| Message::UserEvent(
            UserEventMessage { ltime, event, coalesce }
        )),
        query().prop_map(|query| Message::Query(Arc::new(query))),
        response().prop_map(Message::QueryResponse),
        (endpoint(), name(), response()).prop_map(|(to, to_node, response)| Message::Relay {
            to,
            to_node,
            response
        }),
    ]
}

/// The answer without the bytes that the encoding made.
fn typed(message: Message) -> Message {
    let strip = |mut response: QueryResponse| {
        let answer = &mut response.answer;
        if answer.key.is_some() || answer.member.is_some() {
            answer.bytes = [].into();
        }
        response
    };
    match message {
        Message::QueryResponse(response) => Message::QueryResponse(strip(response)),
        Message::Relay { to, to_node, response } => {
            Message::Relay { to, to_node, response: strip(response) }
        }
        other => other,
    }
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    SerfLayer::encode_message(message, &mut out);
    out
}

proptest! {
    #[test]
    fn no_message_is_encoded_longer_than_the_machine_believes(message in message()) {
        // With memberlist's type byte.
        let length = 1 + encoded(&message).len();
        let believed = SerfLayer::size(&message);
        prop_assert!(length <= believed, "{length} > {believed}: {message:?}");
        if matches!(message, Message::UserEvent(_)) {
            // The limit of events is in encoded bytes; an empty payload takes a byte either way.
            prop_assert_eq!(length, believed);
        }
    }

    #[test]
    fn a_message_comes_back(message in message()) {
        let again = SerfLayer::decode_message(&encoded(&message)).unwrap();
        prop_assert_eq!(typed(again), message);
    }

    #[test]
    fn a_state_comes_back(
        clocks in any::<[u64; 3]>(),
        status_ltimes in vec((name(), ltime()), 0..20),
        left_members in vec(name(), 0..5),
        events in vec((ltime(), vec(event(), 1..4)), 0..5),
    ) {
        let [ltime, event_ltime, query_ltime] = clocks.map(LamportTime);
        let state = State { ltime, status_ltimes, left_members, event_ltime, events, query_ltime };
        let mut out = Vec::new();
        SerfLayer::encode_state(&state, &mut out);
        prop_assert_eq!(SerfLayer::decode_state(&out).unwrap(), state);
    }

    #[test]
    fn tags_are_read_alike_by_the_machine_and_the_codec(
        pairs in proptest::collection::btree_map(text(), text(), 0..8),
    ) {
        let plain = pairs.iter().map(|(name, value)| (&**name, &**value));
        let meta = gossip_wire::tags::encode(plain);
        prop_assert_eq!(tags::decode(&meta), pairs.clone());
        if let Some(encoded) = tags::encode(&pairs) {
            prop_assert_eq!(&encoded[..], &meta[..]);
        }
    }
}

#[test]
fn a_keyring_goes_from_the_codec_to_the_machine_and_back() {
    let ring = gossip_wire::keyring::Keyring::new([&[9; 32][..], &[1; 16]]).unwrap();
    let machine = spec::serf::Keyring::of(&gossip_wire::convert::serf::keys(&ring));
    assert_eq!(machine.primary, Key::new(&[9; 32]));
    assert_eq!(gossip_wire::convert::serf::keyring(&machine).unwrap(), ring);
}
