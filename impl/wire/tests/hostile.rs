//! No bytes break a decoder, and none makes it take more memory than they are worth.
//!
//! What is tried: bytes at random; the recordings of real agents with bytes changed, cut out, repeated, and with counts
//! and lengths that lie; each decoder is given what lies at each layer of a recorded packet, not only the outermost.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use gossip_fuzz::{TARGETS, Target, seeds::corpus, wrapping::permissive};
use gossip_wire::{
    Refused,
    envelope::Envelope,
    limits,
    lzw::Tables,
    msgpack::Writer,
    packet::Scratch,
    stream::{StreamMessage, StreamReader},
};
use proptest::{collection::vec, prelude::*, sample::Index};

/// The most that `run` held at once, in bytes. What other threads allocate meanwhile isn't counted: the test runner's do.
fn allocated(run: impl FnOnce()) -> usize {
    let counted = allocation_counter::measure(run);
    usize::try_from(counted.bytes_max).unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Gives bytes to every decoder there is, each of which asserts what must hold of it, the memory that it takes among
/// that. Returns how many took them.
fn decode_all(choice: u8, bytes: &[u8]) -> usize {
    let take = |target: &Target| (target.run)(&[&vec![choice; target.choices][..], bytes].concat());
    TARGETS.iter().filter(|target| take(target)).count()
}

/// A way to spoil bytes.
#[derive(Clone, Debug)]
enum Spoil {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index, Index),
    Repeat(Index, Index),
    Insert(Index, Vec<u8>),
}

fn spoil() -> impl Strategy<Value = Spoil> {
    // Heads of msgpack that claim much, and nesting.
    let claims = prop_oneof![
        Just(vec![0xdd, 0xff, 0xff, 0xff, 0xff]),
        Just(vec![0xdf, 0x7f, 0xff, 0xff, 0xff]),
        Just(vec![0xdb, 0x01, 0x00, 0x00, 0x00]),
        Just(vec![0xdc, 0xff, 0xff]),
        Just(vec![0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        Just(vec![0x91; 64]),
        Just(vec![7, 255]),
        vec(any::<u8>(), 0..8),
    ];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Spoil::Set(at, byte)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Spoil::Flip(at, bit)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Spoil::Cut(from, to)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Spoil::Repeat(from, to)),
        (any::<Index>(), claims).prop_map(|(at, bytes)| Spoil::Insert(at, bytes)),
    ]
}

fn spoiled(mut bytes: Vec<u8>, spoils: &[Spoil]) -> Vec<u8> {
    for spoil in spoils {
        let at = |index: &Index| index.index(bytes.len() + 1);
        let ordered = |a: &Index, b: &Index| (at(a).min(at(b)), at(a).max(at(b)));
        match spoil {
            Spoil::Set(index, byte) => {
                let at = at(index);
                bytes.get_mut(at).into_iter().for_each(|place| *place = *byte);
            }
            Spoil::Flip(index, bit) => {
                let at = at(index);
                bytes.get_mut(at).into_iter().for_each(|place| *place ^= 1 << bit);
            }
            Spoil::Cut(a, b) => {
                let (from, to) = ordered(a, b);
                bytes.drain(from..to);
            }
            Spoil::Repeat(a, b) => {
                let (from, to) = ordered(a, b);
                let piece = bytes[from..to].to_vec();
                bytes.splice(to..to, piece);
            }
            Spoil::Insert(index, piece) => {
                let at = at(index);
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

fn cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(4096), failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn random_bytes_break_no_decoder(
        bytes in vec(any::<u8>(), 0..512),
        kind in 0..16_u8,
        choice: u8,
    ) {
        prop_assert!(decode_all(choice, &[&[kind][..], &bytes].concat()) <= TARGETS.len());
    }
}

#[test]
fn spoiled_recordings_break_no_decoder() {
    let corpus: Vec<Vec<u8>> = corpus().into_iter().collect();
    assert!(corpus.len() > 300, "{} seeds", corpus.len());
    let seeds = (any::<Index>(), vec(spoil(), 1..6), any::<u8>());
    let mut runner = proptest::test_runner::TestRunner::new(cases());
    let result = runner.run(&seeds, |(seed, spoils, choice)| {
        let bytes = spoiled(seed.get(&corpus).clone(), &spoils);
        prop_assert!(decode_all(choice, &bytes) <= TARGETS.len());
        Ok(())
    });
    result.unwrap();
}

#[test]
fn every_decoder_takes_some_of_the_recordings() {
    let corpus = corpus();
    for target in &TARGETS {
        let seeds = gossip_fuzz::seeds::seeds(target, &corpus);
        assert!(!seeds.is_empty(), "{} is tried on nothing that it takes", target.name);
    }
}

#[test]
fn every_prefix_of_a_recording_is_refused_or_waited_for() {
    for bytes in corpus() {
        for n in 0..bytes.len() {
            decode_all(2, &bytes[..n]);
        }
    }
}

/// A compressed message of `n` zeros.
fn bomb(n: usize) -> Vec<u8> {
    let mut data = Vec::new();
    Tables::default().compress(&vec![0; n], &mut data);
    let mut out = Vec::new();
    Writer::new(&mut out).plain(&[9]).map(2).text("Algo").u64(0).text("Buf").bytes(&data);
    out
}

#[test]
fn a_packet_that_expands_beyond_a_datagram_is_refused_within_a_datagram_s_memory() {
    let mut bytes = bomb(30 << 20);
    assert!(bytes.len() < limits::PACKET, "it fits a datagram");
    let mut scratch = Scratch::default();
    let envelope = Envelope::default();
    let taken = allocated(|| {
        let refused = envelope.open_packet(&mut bytes, &mut scratch).map(drop);
        assert_eq!(refused, Err(Refused::TooLarge));
    });
    // A buffer that grows is copied: for a moment there are two.
    assert!(taken <= 2 * limits::PACKET, "{taken} bytes");
}

#[test]
fn a_stream_that_expands_beyond_the_limit_is_refused_at_the_limit() {
    let bytes = bomb(100 << 20);
    let taken = allocated(|| {
        let refused = StreamReader::new().receive(&Envelope::default(), &bytes);
        assert_eq!(refused, Err(Refused::TooLarge));
    });
    assert!(taken <= 2 * limits::STREAM, "{taken} bytes");
}

#[test]
fn wrappings_inside_of_themselves_are_refused() {
    let mut scratch = Scratch::default();
    let mut open = |bytes: &[u8]| -> Result<Vec<bool>, Refused> {
        let mut bytes = bytes.to_vec();
        let parts = Envelope::default().open_packet(&mut bytes, &mut scratch)?;
        Ok(parts.map(|part| part == Err(Refused::Nested)).collect())
    };
    let compound = [7, 2, 0, 3, 0, 1, 7, 0, 0, 9];
    assert_eq!(open(&compound), Ok(vec![true, true]), "in a compound");
    let mut data = Vec::new();
    Tables::default().compress(&bomb(10), &mut data);
    let mut twice = Vec::new();
    Writer::new(&mut twice).plain(&[9]).map(2).text("Algo").u64(0).text("Buf").bytes(&data);
    assert_eq!(open(&twice), Err(Refused::Nested), "compressed twice");
}

#[test]
fn a_stream_holds_only_what_arrived_whatever_it_claims() {
    // An encrypted frame, a user message and a push/pull, each of which claims nearly 20 MiB and has 100 bytes.
    let frame = [&[10, 1, 0x3f, 0xff, 0xff][..], &[0; 95]].concat();
    let mut user = Vec::new();
    Writer::new(&mut user).plain(&[8]).map(1).text("UserMsgLen").u64(20 << 20).plain(&[0; 80]);
    let mut state = Vec::new();
    let mut writer = Writer::new(&mut state);
    writer.plain(&[6]).map(2).text("Nodes").u64(131_072).text("UserStateLen").u64(20 << 20);
    for bytes in [frame, user, state] {
        let envelope = permissive();
        let taken = allocated(|| {
            assert_eq!(StreamReader::new().receive(&envelope, &bytes), Ok(false));
        });
        assert!(taken <= 1024, "{taken} bytes");
    }
    let mut too_many = Vec::new();
    Writer::new(&mut too_many).plain(&[6]).map(1).text("Nodes").u64(131_073);
    let mut reader = StreamReader::new();
    assert_eq!(reader.receive(&Envelope::default(), &too_many), Err(Refused::TooLarge));
}

#[test]
fn a_struct_without_an_end_is_refused_before_it_is_gone_through_again_and_again() {
    // Arrays in arrays where a ping, a push/pull's head or record, a length or compressed data should be.
    let mut record = vec![6];
    Writer::new(&mut record).map(1).text("Nodes").u64(1);
    let heads = [vec![0], vec![13], vec![6, 0x81, 0xa0], vec![8, 0x81, 0xa0], vec![9, 0x81, 0xa0]];
    for head in heads.into_iter().chain([[&record[..], &[0x81, 0xa0]].concat()]) {
        let bytes = [&head[..], &vec![0x91; limits::STRUCT + 16]].concat();
        let envelope = Envelope::default();
        assert_eq!(StreamReader::new().receive(&envelope, &bytes), Err(Refused::TooLarge));
        let mut reader = StreamReader::new();
        let mut pieces = bytes.chunks(1000).map(|piece| reader.receive(&envelope, piece));
        assert_eq!(pieces.find(|result| *result != Ok(false)), Some(Err(Refused::TooLarge)));
        // With its end, it is no better, whether in pieces or at once.
        let ended = [&bytes[..], &[0xc0]].concat();
        assert_eq!(StreamReader::new().receive(&envelope, &ended), Err(Refused::TooLarge));
    }
}

#[test]
fn long_compressed_data_is_no_long_struct() {
    let noise = (0..500_000_u32).map(|i| (i.wrapping_mul(i) >> 7).to_le_bytes()[0] & 31);
    let noise: Vec<u8> = noise.collect();
    let (envelope, mut out) = (Envelope::default(), Vec::new());
    let message = StreamMessage::User(&noise);
    envelope.seal_stream(&message, &mut Scratch::default(), &mut out).unwrap();
    assert!(out[0] == 9 && out.len() > 2 * limits::STRUCT, "compressed to {} bytes", out.len());
    let mut reader = StreamReader::new();
    let mut pieces = out.chunks(1000).map(|piece| reader.receive(&envelope, piece));
    assert_eq!(pieces.find(|result| *result != Ok(false)), Some(Ok(true)));
    assert_eq!(reader.message(), Ok(message));
}

#[test]
fn a_typical_packet_is_taken_apart_without_allocating() {
    let recorded = include_str!("recorded/serf-plain.txt");
    let line = recorded.lines().find(|line| line.contains("compound(ack,alive,user1)"));
    let mut bytes = unhex(line.unwrap().rsplit(' ').next().unwrap());
    let envelope = Envelope::default();
    let mut scratch = Scratch::default();
    let taken = allocated(|| {
        let parts = envelope.open_packet(&mut bytes, &mut scratch).unwrap();
        assert_eq!(parts.flatten().count(), 3);
    });
    assert_eq!(taken, 0);
}
