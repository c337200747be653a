//! What fuzzing starts from: the recordings of real agents, and all that lies inside of them, layer by layer.

use std::{collections::BTreeSet, path::Path};

use gossip_wire::{
    envelope::Envelope,
    keyring::{Keyring, format_key},
    memberlist::{Encode as _, Message, kind},
    msgpack::{Reader, Writer},
    packet::Scratch,
    serf,
    stream::{StreamMessage, StreamReader},
};
use spec::{
    serf::snapshot::{self, Durable},
    swim::Incarnation,
};

use crate::{TARGETS, Target, wrapping::permissive};

const RECORDED: [&str; 6] = [
    include_str!("../../tests/recorded/serf-plain.txt"),
    include_str!("../../tests/recorded/serf-lzw.txt"),
    include_str!("../../tests/recorded/consul.txt"),
    include_str!("../../tests/recorded/serf-encrypted.txt"),
    include_str!("../../tests/recorded/serf-encrypted-128.txt"),
    include_str!("../../tests/recorded/consul-encrypted.txt"),
];

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    (0..hex.len()).step_by(2).map_while(digit).collect()
}

/// Recorded packets and streams, and what lies at each of their layers, and what no recording holds; each once, in
/// order.
///
/// # Panics
/// Where a recording doesn't open.
pub fn corpus() -> BTreeSet<Vec<u8>> {
    let mut corpus = BTreeSet::new();
    let envelope = permissive();
    for line in RECORDED.into_iter().flat_map(str::lines) {
        let bytes = unhex(line.rsplit(' ').next().unwrap_or_default());
        if line.starts_with("tcp") {
            stream(&envelope, &bytes, &mut corpus);
        } else {
            packet(&envelope, &bytes, &mut corpus);
        }
        corpus.insert(bytes);
    }
    corpus.extend(made());
    corpus
}

fn stream(envelope: &Envelope, bytes: &[u8], corpus: &mut BTreeSet<Vec<u8>>) {
    let mut reader = StreamReader::new();
    assert_eq!(reader.receive(envelope, bytes), Ok(true), "a recorded stream is whole");
    let message = reader.message().expect("a recorded stream has a message");
    let mut plain = Vec::new();
    message.encode(&mut plain);
    corpus.insert(plain);
    match message {
        StreamMessage::PushPull(state) => {
            corpus.extend(state.nodes.iter().map(|node| node.meta.to_vec()));
            corpus.insert(state.user.to_vec());
        }
        StreamMessage::User(body) => user(body, corpus),
        StreamMessage::Ping(_) | StreamMessage::Ack(_) | StreamMessage::Error(_) => {}
    }
    compressed(bytes, corpus);
}

fn packet(envelope: &Envelope, bytes: &[u8], corpus: &mut BTreeSet<Vec<u8>>) {
    let (mut packet, mut scratch) = (bytes.to_vec(), Scratch::default());
    let parts = envelope.open_packet(&mut packet, &mut scratch).expect("a recorded packet opens");
    let mut messages = Vec::new();
    for message in parts {
        let message = message.expect("a recorded packet has messages");
        let mut plain = Vec::new();
        message.encode(&mut plain);
        corpus.insert(plain);
        match message {
            Message::User(body) => user(body, corpus),
            Message::Ack(ack) => corpus.extend(ack.payload.map(<[u8]>::to_vec)),
            Message::Alive(alive) => corpus.extend([alive.meta.to_vec()]),
            _ => {}
        }
        messages.push(message);
    }
    // What was encrypted, in clear.
    let (clear, mut out) = (Envelope::default(), Vec::new());
    for (compression, checksum) in [(false, false), (true, true)] {
        let envelope = Envelope { compression, ..clear.clone() };
        if envelope.seal_packet(&messages, checksum, &mut Scratch::default(), &mut out).is_ok() {
            corpus.insert(out.clone());
        }
    }
    compressed(bytes, corpus);
}

/// The compressed data of what isn't encrypted, which stands alone or behind a checksum.
fn compressed(bytes: &[u8], corpus: &mut BTreeSet<Vec<u8>>) {
    let ([kind::CHECKSUM, _, _, _, _, kind::COMPRESSED, body @ ..] | [kind::COMPRESSED, body @ ..]) =
        bytes
    else {
        return;
    };
    let data = Reader::new(body).fields(|field, reader| {
        if field == b"Buf" {
            corpus.insert(reader.bytes()?.to_vec());
            return Ok(());
        }
        reader.skip()
    });
    assert_eq!(data, Ok(()), "recorded compression");
}

/// The contents of memberlist's `user`, and what is in those.
fn user(body: &[u8], corpus: &mut BTreeSet<Vec<u8>>) {
    corpus.insert(body.to_vec());
    match serf::Message::decode(body) {
        Ok(serf::Message::UserEvent(event)) => corpus.extend([event.payload.to_vec()]),
        Ok(serf::Message::Query(query)) => {
            corpus.insert(query.payload.to_vec());
            corpus.extend(query.filters.iter().map(filter));
        }
        Ok(serf::Message::QueryResponse(response)) => corpus.extend([response.payload.to_vec()]),
        Ok(serf::Message::Relay(relay)) => corpus.extend([relay.response.payload.to_vec()]),
        Ok(serf::Message::Leave(_) | serf::Message::Join(_)) | Err(_) => {}
    }
}

/// A filter's bytes, as they stand in a query.
fn filter(filter: &serf::Filter<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    match filter {
        serf::Filter::Nodes(names) => {
            writer.plain(&[0]).list(names.len());
            for name in names {
                writer.text(name);
            }
        }
        serf::Filter::Tag { tag, expression } => {
            writer.plain(&[1]).map(2).text("Expr").text(expression).text("Tag").text(tag);
        }
        serf::Filter::Other(bytes) => {
            writer.plain(bytes);
        }
    }
    out
}

/// What no recording holds: the files of a pool, filters with expressions, the answer to a conflict.
fn made() -> Vec<Vec<u8>> {
    let keys: [Vec<u8>; 3] = [(0..32).collect(), (100..124).collect(), (0..16).collect()];
    let ring = Keyring::new(keys.iter().map(Vec::as_slice)).expect("keys of 16, 24 and 32 bytes");
    let mut made = vec![ring.to_json().into_bytes(), b"[\"AAECAwQFBgcICQoLDA0ODw==\"]".to_vec()];
    made.extend(ring.keys().iter().map(|key| format_key(key).into_bytes()));
    for expression in ["^web$", "east-[0-9]+|(?i)WEST", "[^a-z]{2,8}?", "(?P<n>\\d*)\\b."] {
        made.push(filter(&serf::Filter::Tag { tag: "role", expression }));
    }
    made.push(filter(&serf::Filter::Nodes(vec!["n1", "n2"])));
    let member = serf::Member {
        name: "n1",
        endpoint: ([127, 0, 0, 1], 7001).into(),
        tags: vec![("role", "web"), ("dc", "east")],
        status: 1,
        versions: [1, 5, 2, 2, 5, 5],
    };
    let mut answer = Vec::new();
    member.encode(&mut answer);
    made.push(answer);
    let machine_keys: Vec<_> = keys.iter().filter_map(|key| spec::serf::Key::new(key)).collect();
    let mut durable = Durable {
        keyring: Some(spec::serf::Keyring::of(&machine_keys)),
        left: true,
        ..Durable::default()
    };
    durable.swim.incarnation = Incarnation(7);
    durable.known.insert("n1".into(), ([127, 0, 0, 1], 7001).into());
    durable.known.insert("n2".into(), ([1_u16; 8], 8301).into());
    made.push(bodies(&durable));
    made
}

/// The bodies of a snapshot's records as the target takes them: each behind its length in two bytes.
fn bodies(durable: &Durable) -> Vec<u8> {
    let mut bodies = Vec::new();
    for record in durable.records() {
        let mut bytes = Vec::new();
        snapshot::append(&record, &mut bytes);
        let body = bytes.get(snapshot::HEADER..).unwrap_or_default();
        bodies.extend(u16::try_from(body.len()).unwrap_or_default().to_le_bytes());
        bodies.extend(body);
    }
    bodies
}

/// What a target starts from: all of the corpus that it takes.
pub fn seeds(target: &Target, corpus: &BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
    let seeds = corpus.iter().map(|seed| [&vec![0; target.choices][..], seed].concat());
    seeds.filter(|seed| (target.run)(seed)).collect()
}

/// Writes the seeds of each target into a folder of its name, in `folder`. Gives the targets' names.
pub fn write(folder: &Path) -> std::io::Result<Vec<&'static str>> {
    let corpus = corpus();
    for target in &TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in seeds(target, &corpus).into_iter().enumerate() {
            std::fs::write(folder.join(format!("{number:04}")), seed)?;
        }
    }
    Ok(TARGETS.iter().map(|target| target.name).collect())
}
