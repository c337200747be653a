//! Messages that borrow from the bytes: msgpack, and memberlist's, Serf's and Consul's structs in it.

use gossip_wire::{
    consul, coordinate as wire_coordinate,
    memberlist::{Encode as _, Message},
    msgpack::{Reader, Writer},
    serf,
    stream::StreamMessage,
    tags as wire_tags,
};
use spec::serf::tags as spec_tags;

use crate::{bound, within};

/// `$decode` takes the bytes within their bound, and what `$encode` makes of the value decodes to the same value.
macro_rules! comes_back {
    ($bytes:expr, $decode:expr, $encode:expr) => {{
        let bytes: &[u8] = $bytes;
        let Ok(value) = within(bound(bytes.len()), || $decode(bytes)) else { return false };
        let mut encoded = Vec::new();
        $encode(&value, &mut encoded);
        assert_eq!($decode(&encoded), Ok(value), "not the same once encoded: {encoded:02x?}");
        true
    }};
}
pub(crate) use comes_back;

/// A scalar reads within no memory, ends where it would be passed over, and reads the same once it is written.
macro_rules! scalar {
    ($bytes:expr, $read:ident, $write:ident) => {{
        let mut reader = Reader::new($bytes);
        if let Ok(value) = within(0, || reader.$read()) {
            let mut passed = Reader::new($bytes);
            assert_eq!(passed.skip(), Ok(()));
            assert_eq!(passed.rest(), reader.rest(), "passed over to another end");
            let mut written = Vec::new();
            Writer::new(&mut written).$write(value);
            let mut again = Reader::new(&written);
            assert_eq!(again.$read(), Ok(value));
            assert_eq!(again.rest(), b"");
        }
    }};
}

/// Values of any type, one behind the other.
pub fn msgpack(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    let mut taken = 0;
    loop {
        let rest = reader.rest();
        scalar!(rest, bytes, bytes);
        scalar!(rest, text, text);
        scalar!(rest, u64, u64);
        scalar!(rest, i64, i64);
        scalar!(rest, bool, bool);
        not_a_number_aside(rest);
        let list = within(bound(rest.len()), || Reader::new(rest).elements(1 << 20, Reader::u64));
        // Each element takes a byte at least.
        assert!(list.map_or(0, |list| list.len()) < rest.len().max(1));
        if within(0, || reader.skip()).is_err() {
            return taken > 0;
        }
        assert!(reader.rest().len() < rest.len() && rest.ends_with(reader.rest()));
        taken += 1;
    }
}

/// [`scalar`] of floating-point numbers, which don't all equal themselves.
fn not_a_number_aside(bytes: &[u8]) {
    if Reader::new(bytes).f64().is_ok_and(|value| !value.is_nan()) {
        scalar!(bytes, f64, f64);
    }
}

/// A part of a packet.
pub fn memberlist(bytes: &[u8]) -> bool {
    // Taking one apart allocates nothing at all.
    let _ = within(0, || Message::decode(bytes));
    comes_back!(bytes, Message::decode, |message: &Message<'_>, out: &mut _| message.encode(out))
}

/// The message of a stream, once it is whole.
pub fn stream_message(bytes: &[u8]) -> bool {
    comes_back!(bytes, StreamMessage::decode, StreamMessage::encode)
}

/// The contents of memberlist's `user`.
pub fn serf(bytes: &[u8]) -> bool {
    comes_back!(bytes, serf::Message::decode, serf::Message::encode_body)
}

/// What Serf adds to a push/pull.
pub fn serf_push_pull(bytes: &[u8]) -> bool {
    comes_back!(bytes, serf::PushPull::decode, serf::PushPull::encode)
}

/// The payload of a key query.
pub fn serf_key_request(bytes: &[u8]) -> bool {
    comes_back!(bytes, serf::KeyRequest::decode, serf::KeyRequest::encode)
}

/// The answer to a key query.
pub fn serf_key_response(bytes: &[u8]) -> bool {
    comes_back!(bytes, serf::KeyResponse::decode, serf::KeyResponse::encode)
}

/// The answer to a conflict query.
pub fn serf_member(bytes: &[u8]) -> bool {
    comes_back!(bytes, serf::Member::decode, serf::Member::encode)
}

/// A member's metadata, by both decoders: the machine's takes whatever it can read, and of what the other takes as a
/// whole it makes the same.
pub fn tags(bytes: &[u8]) -> bool {
    let judged = within(bound(bytes.len()), || spec_tags::decode(bytes));
    if let Some(meta) = spec_tags::encode(&judged) {
        assert_eq!(spec_tags::decode(&meta), judged);
    }
    if let Ok(shown) = wire_tags::decode(bytes) {
        // Where a tag comes twice, the last counts, as in Go. Empty metadata is nobody's role.
        let shown = shown.into_iter().filter(|_| !bytes.is_empty());
        let shown: spec_tags::Tags = shown.map(|(tag, of)| (tag.into(), of.into())).collect();
        assert_eq!(shown, judged);
    }
    comes_back!(bytes, wire_tags::decode, |tags: &Vec<(&str, &str)>, out: &mut Vec<u8>| {
        out.extend(wire_tags::encode(tags.iter().copied()));
    })
}

/// The payload of an ack.
pub fn coordinate(bytes: &[u8]) -> bool {
    let _ = within(0, || wire_coordinate::decode(bytes));
    comes_back!(bytes, wire_coordinate::decode, |of: &_, out: &mut Vec<u8>| {
        out.extend(wire_coordinate::encode(of));
    })
}

/// The payload of Consul's events.
pub fn consul_event(bytes: &[u8]) -> bool {
    let _ = within(0, || consul::UserEvent::decode(bytes));
    comes_back!(bytes, consul::UserEvent::decode, consul::UserEvent::encode)
}
