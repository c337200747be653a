//! Labels, and how encryption comes to a pool that runs.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use gossip_wire::{
    Refused,
    cipher::Version,
    envelope::Envelope,
    keyring::Keyring,
    memberlist::{Ack, Message},
    packet::Scratch,
    stream::{StreamMessage, StreamReader},
};

const ACK: Ack<'static> = Ack { seq: 7, payload: None };

fn envelope(key: Option<u8>, incoming: bool, outgoing: bool) -> Envelope {
    let mut envelope =
        Envelope { verify_incoming: incoming, verify_outgoing: outgoing, ..Envelope::default() };
    if let Some(key) = key {
        envelope.keyring.install(&[key; 32]).unwrap();
    }
    envelope
}

fn packet(from: &Envelope, to: &Envelope) -> Result<(), Refused> {
    let (mut scratch, mut bytes) = (Scratch::default(), Vec::new());
    from.seal_packet(&[Message::Ack(ACK)], false, &mut scratch, &mut bytes).unwrap();
    let messages: Vec<_> = to.open_packet(&mut bytes, &mut scratch)?.collect();
    match messages[..] {
        [Ok(Message::Ack(ack))] if ack == ACK => Ok(()),
        _ => Err(Refused::Type),
    }
}

fn stream(from: &Envelope, to: &Envelope) -> Result<(), Refused> {
    let (mut scratch, mut bytes) = (Scratch::default(), Vec::new());
    from.seal_stream(&StreamMessage::Ack(ACK), &mut scratch, &mut bytes).unwrap();
    let mut reader = StreamReader::new();
    assert!(reader.receive(to, &bytes)?);
    assert_eq!(reader.message().unwrap(), StreamMessage::Ack(ACK));
    Ok(())
}

#[test]
fn at_each_step_of_the_way_to_encryption_neighbouring_steps_understand_each_other() {
    let steps = [
        envelope(None, true, true),
        envelope(Some(1), false, false),
        envelope(Some(1), false, true),
        envelope(Some(1), true, true),
    ];
    for pair in steps.windows(2) {
        for (from, to) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            assert_eq!(packet(from, to), Ok(()));
            assert_eq!(stream(from, to), Ok(()));
        }
    }
}

#[test]
fn what_is_not_encrypted_is_refused_where_that_is_asked_for() {
    let (clear, strict) = (envelope(None, true, true), envelope(Some(1), true, true));
    assert_eq!(packet(&clear, &strict), Err(Refused::Sealed));
    assert_eq!(stream(&clear, &strict), Err(Refused::Sealed));
    assert_eq!(stream(&strict, &clear), Err(Refused::NoKeys));
    assert!(packet(&strict, &clear).is_err(), "a packet says nothing of being encrypted");
    let other = envelope(Some(2), true, true);
    assert_eq!(packet(&other, &strict), Err(Refused::Sealed));
    assert_eq!(stream(&other, &strict), Err(Refused::Sealed));
}

#[test]
fn pools_of_different_labels_do_not_understand_each_other() {
    let labelled = |label: &str, key: Option<u8>| Envelope {
        label: label.into(),
        ..envelope(key, true, true)
    };
    for key in [None, Some(1)] {
        let (none, a, b) = (labelled("", key), labelled("a", key), labelled("bb", key));
        for same in [&none, &a, &b] {
            assert_eq!(packet(same, same), Ok(()));
            assert_eq!(stream(same, same), Ok(()));
        }
        for (from, to) in [(&none, &a), (&a, &none), (&a, &b), (&b, &a)] {
            assert_eq!(packet(from, to), Err(Refused::Label));
            assert_eq!(stream(from, to), Err(Refused::Label));
        }
    }
    let mut empty = [244, 0, 0, 0x80];
    let mut scratch = Scratch::default();
    let refused = Envelope::default().open_packet(&mut empty, &mut scratch).map(drop);
    assert_eq!(refused, Err(Refused::Label), "an empty label has no header");
}

#[test]
fn a_keyring_opens_with_every_key_and_seals_with_the_first() {
    let (mut old, mut new) = (envelope(Some(1), true, true), envelope(Some(2), true, true));
    assert_eq!(packet(&old, &new), Err(Refused::Sealed));
    old.keyring.install(&[2; 32]).unwrap();
    new.keyring.install(&[1; 32]).unwrap();
    assert_eq!(packet(&old, &new), Ok(()));
    assert_eq!(packet(&new, &old), Ok(()));
    old.keyring.use_key(&[2; 32]).unwrap();
    old.keyring.remove(&[1; 32]).unwrap();
    assert_eq!(packet(&old, &new), Ok(()));
    assert_eq!(
        packet(&new, &old),
        Ok(()),
        "sealed with the second key, which is the only one left"
    );
}

#[test]
fn a_packet_of_more_parts_than_a_compound_counts_is_not_sent() {
    let (mut scratch, mut bytes) = (Scratch::default(), Vec::new());
    let acks = vec![Message::Ack(ACK); 256];
    let envelope = Envelope::default();
    assert!(envelope.seal_packet(&acks, false, &mut scratch, &mut bytes).is_err());
    assert!(envelope.seal_packet(&acks[..255], true, &mut scratch, &mut bytes).is_ok());
    assert_eq!(envelope.open_packet(&mut bytes, &mut scratch).unwrap().count(), 255);
}

#[test]
fn what_another_implementation_sealed_opens_with_every_size_of_key_in_both_versions() {
    for line in include_str!("recorded/aes.txt").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [version, size, label, hex] = words[..] else { panic!("{line}") };
        let key: Vec<u8> = (0..size.parse().unwrap()).collect();
        let envelope = Envelope {
            label: if label == "-" { "" } else { label }.into(),
            keyring: Keyring::new([&key[..]]).unwrap(),
            version: if version == "0" { Version::Padded } else { Version::Plain },
            ..Envelope::default()
        };
        let digits = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
        let mut bytes: Vec<u8> = digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect();
        let length = bytes.len();
        let mut scratch = Scratch::default();
        let parts: Vec<_> = envelope.open_packet(&mut bytes, &mut scratch).unwrap().collect();
        assert_eq!(parts, [Ok(Message::Nack { seq: 7 })], "{line}");
        let mut out = Vec::new();
        envelope.seal_packet(&[Message::Nack { seq: 7 }], false, &mut scratch, &mut out).unwrap();
        assert_eq!(out.len(), length, "{line}");
    }
}
