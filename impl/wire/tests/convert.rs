//! The machine's messages through the wire: they come back, and no encoding is longer than the machine believes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use gossip_wire::{
    convert::{self, Streamed},
    envelope::Envelope,
    memberlist::Encode as _,
    packet::Scratch,
    stream::StreamReader,
};
use proptest::{collection::vec, option, prelude::*};
use spec::swim::{
    Ack, Alive, Dead, Incarnation, IndirectPing, MemberState, Message, Nack, Name, NoLayer, Part,
    Ping, PushPull, Status, Suspect, Versions,
};

fn name() -> impl Strategy<Value = Name> {
    prop_oneof!["[a-z0-9.-]{1,40}", "\\PC{1,60}", "[a-z]{255}"].prop_map(Name::from)
}

fn endpoint() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
    // An IPv4 address in an IPv6 one is read as what it is, and comes back as that.
    let v6 = any::<[u8; 16]>().prop_map(|octets| IpAddr::from(octets).to_canonical());
    (prop_oneof![v4, v6], 1..=u16::MAX).prop_map(SocketAddr::from)
}

fn meta() -> impl Strategy<Value = Arc<[u8]>> {
    vec(any::<u8>(), 0..=512).prop_map(Arc::from)
}

fn versions() -> impl Strategy<Value = Versions> {
    any::<[u8; 6]>().prop_map(|[a, b, c, d, e, f]| Versions {
        protocol_min: a,
        protocol_max: b,
        protocol: c,
        delegate_min: d,
        delegate_max: e,
        delegate: f,
    })
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    prop_oneof![0..200_u32, any::<u32>()].prop_map(Incarnation)
}

fn ping() -> impl Strategy<Value = Ping> {
    (any::<u32>(), name(), option::of(name()), option::of(endpoint())).prop_map(
        |(seq, target, source, source_endpoint)| Ping { seq, target, source, source_endpoint },
    )
}

fn ack() -> impl Strategy<Value = Ack> {
    (any::<u32>(), option::of(meta())).prop_map(|(seq, payload)| Ack { seq, payload })
}

fn part() -> impl Strategy<Value = Part<NoLayer>> {
    let indirect = (ping(), endpoint(), any::<bool>()).prop_map(|(ping, target_endpoint, nack)| {
        IndirectPing {
            seq: ping.seq,
            target: ping.target,
            target_endpoint,
            wants_nack: nack,
            source: ping.source,
            source_endpoint: ping.source_endpoint,
        }
    });
    let alive = (incarnation(), name(), endpoint(), meta(), versions()).prop_map(
        |(incarnation, node, endpoint, meta, versions)| Alive {
            incarnation,
            node,
            endpoint,
            meta,
            versions,
        },
    );
    prop_oneof![
        ping().prop_map(Part::Ping),
        indirect.prop_map(Part::IndirectPing),
        ack().prop_map(Part::Ack),
        any::<u32>().prop_map(|seq| Part::Nack(Nack { seq })),
        (incarnation(), name(), name()).prop_map(|(incarnation, node, from)| Part::Suspect(
            Suspect { incarnation, node, from }
        )),
        (incarnation(), name(), name()).prop_map(|(incarnation, node, from)| Part::Dead(Dead {
            incarnation,
            node,
            from
        })),
        alive.prop_map(Part::Alive),
    ]
}

fn member() -> impl Strategy<Value = MemberState> {
    let status = prop_oneof![
        Just(Status::Alive),
        Just(Status::Suspect),
        Just(Status::Dead),
        Just(Status::Left)
    ];
    (name(), endpoint(), meta(), versions(), incarnation(), status).prop_map(
        |(name, endpoint, meta, versions, incarnation, status)| MemberState {
            name,
            endpoint,
            meta,
            versions,
            incarnation,
            status,
        },
    )
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let key = prop_oneof![Just(0_usize), Just(16), Just(24), Just(32)];
    (key, "[a-z]{0,20}", any::<bool>(), any::<bool>()).prop_map(
        |(key, label, compression, padded)| {
            let mut envelope = Envelope { label: label.into(), compression, ..Envelope::default() };
            if key > 0 {
                envelope.keyring.install(&vec![5; key]).expect("a size of a key");
            }
            if padded {
                envelope.version = gossip_wire::cipher::Version::Padded;
            }
            envelope
        },
    )
}

proptest! {
    #[test]
    fn no_part_is_encoded_longer_than_the_machine_believes(part in part()) {
        let mut bytes = Vec::new();
        part.encode(&mut bytes);
        prop_assert!(bytes.len() <= part.size(), "{} > {}: {part:?}", bytes.len(), part.size());
    }

    #[test]
    fn a_packet_comes_back_in_every_envelope_within_its_overhead(
        envelope in envelope(),
        parts in vec(part(), 1..6),
        checksum: bool,
    ) {
        let (mut scratch, mut bytes) = (Scratch::default(), Vec::new());
        let message = Message::Packet(parts.clone());
        envelope.seal(&message, checksum, &mut scratch, &mut bytes).expect("it fits");
        let believed: usize = parts.iter().map(|part| 2 + part.size()).sum();
        prop_assert!(bytes.len() <= 2 + believed + envelope.packet_overhead());
        let opened = envelope.open_packet(&mut bytes, &mut scratch).expect("it opens");
        let mut refused = 0;
        let again: Vec<Part<NoLayer>> = convert::packet(opened, |_| refused += 1);
        prop_assert_eq!(refused, 0);
        prop_assert_eq!(again, parts);
    }

    #[test]
    fn a_stream_comes_back_in_every_envelope(
        envelope in envelope(),
        members in vec(member(), 0..20),
        ping in ping(),
        ack in ack(),
        join: bool,
    ) {
        let state = PushPull { join, members, user: None, reply: true };
        let messages: [Message<NoLayer>; 3] =
            [Message::PushPull(state), Message::StreamPing(ping), Message::StreamAck(ack)];
        for message in messages {
            let (mut scratch, mut bytes) = (Scratch::default(), Vec::new());
            envelope.seal(&message, false, &mut scratch, &mut bytes).expect("it fits");
            let mut reader = StreamReader::new();
            prop_assert!(reader.receive(&envelope, &bytes).expect("it is taken"));
            let again = convert::stream(&reader.message().expect("it is whole"), true);
            prop_assert_eq!(again, Ok(Streamed::Message(message)));
        }
    }
}
