//! What real agents sent, taken apart, and put together again to the same bytes. `recorded/README.md` says how it was
//! recorded. The shape that each line names was found by another decoder, so the two check each other.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{collections::BTreeSet, fmt::Write as _};

use gossip_wire::{
    Refused,
    convert::{self, Streamed},
    coordinate,
    envelope::Envelope,
    keyring::Keyring,
    memberlist::{self, Message, Status},
    packet::Scratch,
    serf,
    stream::{StreamMessage, StreamReader},
    tags,
};
use spec::{
    serf::SerfLayer,
    swim::{self, Part},
};

/// One line of a recording.
struct Line {
    stream: bool,
    wrapped: Vec<String>,
    inside: String,
    bytes: Vec<u8>,
}

fn lines(text: &str) -> Vec<Line> {
    let parse = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [protocol, shape, hex] = words[..] else { panic!("{line}") };
        let mut wrapped: Vec<String> = shape.split('/').map(str::to_owned).collect();
        let inside = wrapped.pop().unwrap();
        Line { stream: protocol == "tcp", wrapped, inside, bytes: unhex(hex) }
    };
    text.lines().map(parse).collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The keys with which agents were recorded, under all of which the encrypted recordings were made.
fn keyring() -> Keyring {
    let keys: [Vec<u8>; 3] = [(0..32).collect(), (100..132).collect(), (0..16).collect()];
    Keyring::new(keys.iter().map(Vec::as_slice)).unwrap()
}

fn clear() -> Envelope {
    Envelope::default()
}

fn encrypted() -> Envelope {
    Envelope { keyring: keyring(), ..Envelope::default() }
}

const CLEAR: [&str; 3] = [
    include_str!("recorded/serf-plain.txt"),
    include_str!("recorded/serf-lzw.txt"),
    include_str!("recorded/consul.txt"),
];
const ENCRYPTED: [&str; 3] = [
    include_str!("recorded/serf-encrypted.txt"),
    include_str!("recorded/serf-encrypted-128.txt"),
    include_str!("recorded/consul-encrypted.txt"),
];

fn all() -> impl Iterator<Item = (Envelope, Line)> {
    let clear = CLEAR.into_iter().flat_map(lines).map(|line| (clear(), line));
    clear.chain(ENCRYPTED.into_iter().flat_map(lines).map(|line| (encrypted(), line)))
}

fn shape(messages: &[Message<'_>]) -> String {
    let names: Vec<String> = messages.iter().map(name).collect();
    match &names[..] {
        [one] => one.clone(),
        several => format!("compound({})", several.join(",")),
    }
}

fn name(message: &Message<'_>) -> String {
    match message {
        Message::Ping(_) => "ping".to_owned(),
        Message::IndirectPing(_) => "indirect".to_owned(),
        Message::Ack(_) => "ack".to_owned(),
        Message::Nack { .. } => "nack".to_owned(),
        Message::Suspect(_) => "suspect".to_owned(),
        Message::Alive(_) => "alive".to_owned(),
        Message::Dead(_) => "dead".to_owned(),
        Message::User(body) => match serf::Message::decode(body).unwrap() {
            serf::Message::Leave(_) => "user0".to_owned(),
            serf::Message::Join(_) => "user1".to_owned(),
            serf::Message::UserEvent(_) => "user3".to_owned(),
            serf::Message::Query(query) => format!("user4[{},{}]", query.name, query.filters.len()),
            serf::Message::QueryResponse(response) => {
                let payload = match response.payload {
                    [] => "nil".to_owned(),
                    [kind, ..] if *kind < 12 => kind.to_string(),
                    _ => "x".to_owned(),
                };
                format!("user5[{},{payload}]", response.flags)
            }
            serf::Message::Relay(_) => "user9".to_owned(),
        },
    }
}

#[test]
fn every_recorded_packet_opens_to_the_messages_that_another_decoder_found() {
    let mut scratch = Scratch::default();
    let mut seen = 0;
    for (envelope, mut line) in all().filter(|(_, line)| !line.stream) {
        let parts = envelope.open_packet(&mut line.bytes, &mut scratch).unwrap();
        let messages: Vec<Message<'_>> = parts.map(Result::unwrap).collect();
        assert_eq!(shape(&messages), line.inside);
        seen += 1;
    }
    assert!(seen > 200, "{seen} packets");
}

#[test]
fn a_recorded_packet_is_sealed_to_the_same_bytes() {
    let (mut scratch, mut out) = (Scratch::default(), Vec::new());
    for line in CLEAR.into_iter().flat_map(lines).filter(|line| !line.stream) {
        let mut opening = Scratch::default();
        let mut bytes = line.bytes.clone();
        let messages: Result<Vec<_>, Refused> =
            clear().open_packet(&mut bytes, &mut opening).unwrap().collect();
        let has = |what: &str| line.wrapped.iter().any(|wrapping| wrapping == what);
        let envelope = Envelope { compression: has("lzw"), ..clear() };
        let messages = messages.unwrap();
        envelope.seal_packet(&messages, has("crc"), &mut scratch, &mut out).unwrap();
        if !has("lzw") {
            assert_eq!(out, line.bytes, "{:?} {}", line.wrapped, line.inside);
            continue;
        }
        assert!(out.len().abs_diff(line.bytes.len()) <= CLEAR_CODE);
        let again: Result<Vec<_>, Refused> =
            envelope.open_packet(&mut out, &mut scratch).unwrap().collect();
        assert_eq!(again.unwrap(), messages);
    }
}

/// The recorded agents, built with Go 1.15, begin LZW without the code that clears the table; newer Go, and we, begin
/// with it: 9 bits.
const CLEAR_CODE: usize = 2;

#[test]
fn a_recorded_encrypted_packet_is_sealed_to_as_many_bytes_and_opens_to_the_same() {
    for line in ENCRYPTED.into_iter().flat_map(lines).filter(|line| !line.stream) {
        let (mut scratch, mut out) = (Scratch::default(), Vec::new());
        let mut opening = Scratch::default();
        let mut bytes = line.bytes.clone();
        let messages: Result<Vec<_>, Refused> =
            encrypted().open_packet(&mut bytes, &mut opening).unwrap().collect();
        let messages = messages.unwrap();
        let has = |what: &str| line.wrapped.iter().any(|wrapping| wrapping == what);
        let envelope = Envelope { compression: has("lzw"), ..encrypted() };
        envelope.seal_packet(&messages, has("crc"), &mut scratch, &mut out).unwrap();
        assert!(out.len().abs_diff(line.bytes.len()) <= if has("lzw") { CLEAR_CODE } else { 0 });
        assert_ne!(out, line.bytes, "another nonce");
        let again: Result<Vec<_>, Refused> =
            envelope.open_packet(&mut out, &mut scratch).unwrap().collect();
        assert_eq!(again.unwrap(), messages);
    }
}

#[test]
fn what_serf_puts_into_a_packet_is_put_together_to_the_same_bytes() {
    let mut seen = 0;
    for (envelope, mut line) in all().filter(|(_, line)| !line.stream) {
        let mut scratch = Scratch::default();
        for message in envelope.open_packet(&mut line.bytes, &mut scratch).unwrap() {
            let Message::User(body) = message.unwrap() else { continue };
            let mut out = Vec::new();
            serf::Message::decode(body).unwrap().encode_body(&mut out);
            assert_eq!(out, body, "{}", line.inside);
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} messages");
}

#[test]
fn the_machine_s_messages_of_a_recorded_packet_are_sealed_to_the_same_bytes() {
    let (mut scratch, mut out) = (Scratch::default(), Vec::new());
    let mut seen = 0;
    for line in CLEAR.into_iter().flat_map(lines).filter(|line| !line.stream) {
        let has = |what: &str| line.wrapped.iter().any(|wrapping| wrapping == what);
        if has("lzw") {
            continue;
        }
        let mut bytes = line.bytes.clone();
        let parts = clear().open_packet(&mut bytes, &mut scratch).unwrap();
        let parts: Vec<Part<SerfLayer>> = convert::packet(parts, |why| panic!("{why}"));
        let envelope = Envelope { compression: false, ..clear() };
        let message = swim::Message::Packet(parts);
        envelope.seal(&message, has("crc"), &mut scratch, &mut out).unwrap();
        assert_eq!(out, line.bytes, "{}", line.inside);
        seen += 1;
    }
    assert!(seen > 100, "{seen} packets");
}

#[test]
fn a_recorded_stream_becomes_the_machine_s_message_and_comes_back() {
    let mut scratch = Scratch::default();
    for (envelope, line) in all().filter(|(_, line)| line.stream) {
        let reader = read(&envelope, &line.bytes, 512);
        let Streamed::Message(message) =
            convert::stream::<SerfLayer>(&reader.message().unwrap(), false).unwrap()
        else {
            panic!("an error");
        };
        let mut out = Vec::new();
        envelope.seal(&message, false, &mut scratch, &mut out).unwrap();
        let again = read(&envelope, &out, 512);
        let again = convert::stream(&again.message().unwrap(), false).unwrap();
        assert_eq!(again, Streamed::Message(message));
    }
}

/// Gives a recorded stream to a reader, in pieces of `step` bytes.
fn read(envelope: &Envelope, bytes: &[u8], step: usize) -> StreamReader {
    let mut reader = StreamReader::new();
    let mut pieces = bytes.chunks(step).peekable();
    while let Some(piece) = pieces.next() {
        let whole = reader.receive(envelope, piece).unwrap();
        assert_eq!(whole, pieces.peek().is_none(), "whole with the last byte, and no earlier");
    }
    reader
}

#[test]
fn every_recorded_stream_is_read_however_it_is_cut_and_sealed_to_the_same_bytes() {
    let mut scratch = Scratch::default();
    for (envelope, line) in all().filter(|(_, line)| line.stream) {
        for step in [1, 7, 100, line.bytes.len()] {
            let reader = read(&envelope, &line.bytes, step);
            let message = reader.message().unwrap();
            let found = match &message {
                StreamMessage::PushPull(state) => format!("pushpull{}", state.nodes.len()),
                StreamMessage::Ping(_) => "ping".to_owned(),
                StreamMessage::Ack(_) => "ack".to_owned(),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, line.inside);
            let compression = line.wrapped.iter().any(|wrapping| wrapping == "lzw");
            let envelope = Envelope { compression, ..envelope.clone() };
            let mut out = Vec::new();
            envelope.seal_stream(&message, &mut scratch, &mut out).unwrap();
            if line.wrapped.is_empty() {
                assert_eq!(out, line.bytes);
            }
            // memberlist compresses streams even where they become larger for it.
            assert!(out.len() <= line.bytes.len() + CLEAR_CODE);
            assert_eq!(read(&envelope, &out, 64).message().unwrap(), message);
        }
    }
}

#[test]
fn a_recorded_push_pull_holds_its_members_their_tags_and_serfs_state() {
    let mut states = 0;
    for (envelope, line) in all().filter(|(_, line)| line.inside.starts_with("pushpull")) {
        let reader = read(&envelope, &line.bytes, 512);
        let StreamMessage::PushPull(state) = reader.message().unwrap() else { panic!() };
        for node in &state.nodes {
            let tags = tags::decode(node.meta).unwrap();
            let role = tags.iter().find(|(name, _)| *name == "role").unwrap().1;
            assert!(["web", "consul", "node"].contains(&role), "{tags:?}");
            assert_eq!(node.versions, Some([1, 5, 2, 2, 5, if role == "web" { 5 } else { 4 }]));
            assert!(node.endpoint.ip().is_loopback());
        }
        let user = serf::PushPull::decode(state.user).unwrap();
        assert!(user.ltime >= 1 && user.event_ltime >= 1 && user.query_ltime >= 1);
        assert!(state.nodes.iter().all(|n| user.status.iter().any(|(name, _)| *name == n.name)));
        let mut out = Vec::new();
        user.encode(&mut out);
        assert_eq!(serf::PushPull::decode(&out).unwrap(), user);
        states += 1;
    }
    assert!(states > 10, "{states} states");
}

#[test]
fn recorded_coordinates_and_key_responses_come_back_to_the_same_bytes() {
    let (mut coordinates, mut responses, mut requests) = (0, 0, 0);
    for (envelope, mut line) in all().filter(|(_, line)| !line.stream) {
        let mut scratch = Scratch::default();
        for message in envelope.open_packet(&mut line.bytes, &mut scratch).unwrap() {
            match message.unwrap() {
                Message::Ack(ack) => {
                    let payload = ack.payload.unwrap();
                    assert_eq!(coordinate::encode(&coordinate::decode(payload).unwrap()), payload);
                    coordinates += 1;
                }
                Message::User(body) => match serf::Message::decode(body).unwrap() {
                    serf::Message::QueryResponse(r) if r.payload.first() == Some(&8) => {
                        let mut out = Vec::new();
                        serf::KeyResponse::decode(r.payload).unwrap().encode(&mut out);
                        assert_eq!(out, r.payload);
                        responses += 1;
                    }
                    serf::Message::Query(q) if q.name.ends_with("-key") => {
                        let request = serf::KeyRequest::decode(q.payload).unwrap();
                        assert_eq!(request.key.len(), 32);
                        let mut out = Vec::new();
                        request.encode(&mut out);
                        assert_eq!(out, q.payload);
                        requests += 1;
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }
    assert!(
        coordinates > 20 && responses > 0 && requests > 2,
        "{coordinates} {responses} {requests}"
    );
}

#[test]
fn the_fields_of_one_message_of_each_kind_are_what_was_set_up() {
    let mut text = String::new();
    let mut kinds = BTreeSet::new();
    for line in lines(CLEAR[0]).into_iter().filter(|line| !line.stream) {
        let (mut scratch, mut bytes) = (Scratch::default(), line.bytes);
        for message in clear().open_packet(&mut bytes, &mut scratch).unwrap() {
            let message = message.unwrap();
            if matches!(message, Message::Ack(_) | Message::User(_))
                || !kinds.insert(name(&message))
            {
                continue;
            }
            writeln!(text, "{message:?}").unwrap();
        }
    }
    assert_eq!(text, include_str!("recorded/fields.txt"));
}

#[test]
fn a_recorded_suspicion_names_accused_and_accuser() {
    let lines = lines(CLEAR[0]);
    let line = lines.iter().find(|line| line.inside == "suspect").unwrap();
    let (mut scratch, mut bytes) = (Scratch::default(), line.bytes.clone());
    let message = clear().open_packet(&mut bytes, &mut scratch).unwrap().next().unwrap();
    let expected = memberlist::Accusation { incarnation: 1, node: "n3", from: "n1" };
    assert_eq!(message, Ok(Message::Suspect(expected)));
    let line = lines.iter().find(|line| line.inside == "pushpull3").unwrap();
    let reader = read(&clear(), &line.bytes, 512);
    let StreamMessage::PushPull(state) = reader.message().unwrap() else { panic!() };
    assert!(state.nodes.iter().any(|node| node.status == Status::Alive && node.name == "n1"));
}
