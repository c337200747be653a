//! What the machine is given: `spec`'s messages from bytes, and the files that a pool keeps.

use gossip_wire::{
    convert::{self, LayerCodec as _, Streamed},
    envelope::Envelope,
    keyring::{Keyring, format_key, parse_key},
    memberlist::{Encode as _, Message},
    packet::Scratch,
    serf as wire,
    stream::{StreamMessage, StreamReader},
};
use spec::{
    serf::{
        SerfLayer,
        message::{Message as SerfMessage, QueryBody},
        query, snapshot, tags,
    },
    swim::{self, Part},
};

use crate::{bound, messages::comes_back, within};

/// A part of a packet, down to Serf's queries and their typed bodies.
pub fn part(bytes: &[u8]) -> bool {
    let decode = |bytes| convert::part::<SerfLayer>(&Message::decode(bytes)?);
    comes_back!(bytes, decode, |part: &Part<SerfLayer>, out: &mut _| part.encode(out))
}

/// The user state of a push/pull.
pub fn state(bytes: &[u8]) -> bool {
    comes_back!(bytes, SerfLayer::decode_state, SerfLayer::encode_state)
}

/// The message of a stream.
pub fn stream(bytes: &[u8]) -> bool {
    let decode = |bytes| convert::stream::<SerfLayer>(&StreamMessage::decode(bytes)?, false);
    let message = match within(bound(bytes.len()), || decode(bytes)) {
        Ok(Streamed::Message(message)) => message,
        Ok(Streamed::Error(_)) => return true,
        Err(_) => return false,
    };
    let (mut scratch, mut sealed) = (Scratch::default(), Vec::new());
    let envelope = Envelope { compression: false, ..Envelope::default() };
    envelope.seal(&message, false, &mut scratch, &mut sealed).expect("it came in a stream");
    let again = if matches!(message, swim::Message::Packet(_)) {
        // Over a stream or in a datagram, it is the same to the machine, and a datagram it becomes again.
        let parts = envelope.open_packet(&mut sealed, &mut scratch).expect("it was just sealed");
        swim::Message::Packet(convert::packet(parts, |refused| panic!("{refused}")))
    } else {
        let mut reader = StreamReader::new();
        assert_eq!(reader.receive(&envelope, &sealed), Ok(true));
        let whole = reader.message().expect("it was just sealed");
        match convert::stream::<SerfLayer>(&whole, false) {
            Ok(Streamed::Message(message)) => message,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(again, message);
    true
}

/// A query's filter, which is bytes inside of the query. A filter that is known is asked whether it lets a member
/// pass: the expression of a tag is a decoder as well.
pub fn query_filter(bytes: &[u8]) -> bool {
    let mut wrapped = Vec::new();
    let query = wire::Query {
        ltime: 1,
        id: 2,
        endpoint: ([127, 0, 0, 1], 7946).into(),
        source_node: "n1",
        filters: vec![wire::Filter::Other(bytes)],
        flags: 0,
        relay_factor: 0,
        timeout_nanos: 0,
        name: "load",
        payload: &[],
    };
    wire::Message::Query(query).encode_body(&mut wrapped);
    let decoded = within(bound(wrapped.len()), || SerfLayer::decode_message(&wrapped));
    let Ok(SerfMessage::Query(query)) = decoded else { return false };
    assert_eq!(query.filters.len(), 1);
    assert!(matches!(query.body, QueryBody::User { .. }));
    let tags = tags::Tags::from([("role".into(), "web".into()), ("dc".into(), "east-1".into())]);
    // An automaton of at most 64 KiB, what it is compiled from, and the cache of one match.
    let passes = within(4 << 20, || query::matches(&query.filters, &"n1".into(), &tags));
    let mut again = Vec::new();
    SerfLayer::encode_message(&SerfMessage::Query(query.clone()), &mut again);
    let Ok(SerfMessage::Query(again)) = SerfLayer::decode_message(&again) else {
        panic!("a query that was encoded is none")
    };
    assert_eq!(again, query);
    assert_eq!(query::matches(&again.filters, &"n1".into(), &tags), passes);
    true
}

/// The file of a keyring.
pub fn keyring(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    // A key's schedule takes many times the key, and still less than its letters of base64 are worth.
    let Ok(ring) = within(bound(bytes.len()), || Keyring::from_json(text)) else { return false };
    assert!(ring.primary().is_some(), "a file without keys would turn encryption off");
    assert_eq!(Keyring::from_json(&ring.to_json()), Ok(ring));
    true
}

/// A key as configuration and commands have it.
pub fn key(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let Ok(key) = within(bound(bytes.len()), || parse_key(text)) else { return false };
    assert!(matches!(key.as_bytes().len(), 16 | 24 | 32));
    // A key has one text: otherwise two members could hold one key under two names.
    assert_eq!(format_key(&key), text);
    true
}

/// The file of a pool's snapshot: the bytes as they are, and with their records' checksums put right, which nothing
/// guided by coverage comes upon.
pub fn snapshot(bytes: &[u8]) -> bool {
    recover(bytes);
    let mut file = Vec::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length));
        let (body, after) = after.split_at(length.min(after.len()));
        file.extend(with_header(body));
        rest = after;
    }
    recover(&file) > 0
}

/// A record of a snapshot file with this body.
fn with_header(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    let sum = crc32c::crc32c_append(crc32c::crc32c(&length), body).to_le_bytes();
    [&length, &sum, body].concat()
}

/// How many bytes of a file are whole. What is recovered is recovered again from those alone, and from a file that was
/// written afresh.
fn recover(file: &[u8]) -> usize {
    let recovered = within(bound(file.len()), || snapshot::recover(file));
    assert_eq!(snapshot::recover(&file[..recovered.length]), recovered);
    let compacted = snapshot::compacted(&recovered.durable);
    let again = snapshot::recover(&compacted);
    assert_eq!((again.durable, again.length), (recovered.durable, compacted.len()));
    recovered.length
}
