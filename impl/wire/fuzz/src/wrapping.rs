//! What is around messages: compounds, compression, and packets and streams in clear and encrypted.
//!
//! No fuzzer comes upon the tag of a ciphertext. So what a key seals is the fuzzer's, and it is sealed here, by AES-GCM
//! itself and not by what is under test: what lies inside of encryption is no better known than what lies in clear, since
//! every member has the key.

use std::cell::RefCell;

use aes_gcm::{
    Aes128Gcm,
    aead::{AeadInOut as _, KeyInit as _},
};
use gossip_wire::{
    Refused,
    envelope::Envelope,
    keyring::Keyring,
    limits,
    lzw::Tables,
    memberlist::{Message, kind},
    packet::{Parts, Scratch},
    stream::{StreamMessage, StreamReader},
};

use crate::{measured, within};

/// The key with which the fuzzer's bytes are sealed.
const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// Any will do: nothing here is secret, and a target must do the same with the same bytes.
const NONCE: [u8; 12] = [7; 12];

/// An envelope that takes what is encrypted, with the keys of the recordings, and what isn't.
pub fn permissive() -> Envelope {
    let keys: [Vec<u8>; 3] = [(0..32).collect(), (100..132).collect(), KEY.to_vec()];
    let keyring = Keyring::new(keys.iter().map(Vec::as_slice)).expect("keys of 16 and 32 bytes");
    Envelope { keyring, verify_incoming: false, ..Envelope::default() }
}

/// An envelope that takes nothing but what [`KEY`] sealed.
fn strict(label: &str) -> Envelope {
    let keyring = Keyring::new([&KEY[..]]).expect("a key of 16 bytes");
    Envelope { keyring, label: label.into(), ..Envelope::default() }
}

thread_local! {
    /// Used again from one input to the next, as by the agent: what one leaves behind must not reach the next.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static TABLES: RefCell<Tables> = RefCell::default();
    static PERMISSIVE: Envelope = permissive();
}

/// `version nonce ciphertext tag` of a text.
fn sealed(padded: bool, associated: &[u8], text: &[u8]) -> Vec<u8> {
    let padding = if padded { 16 - text.len() % 16 } else { 0 };
    let byte = u8::try_from(padding).unwrap_or_default();
    let mut text = [text, &vec![byte; padding]].concat();
    let cipher = Aes128Gcm::new(&KEY.into());
    let tag = cipher.encrypt_inout_detached(&NONCE.into(), associated, text.as_mut_slice().into());
    let tag = tag.expect("shorter than 64 GiB");
    [&[u8::from(!padded)], &NONCE[..], &text, &tag].concat()
}

type Opened<'a> = Result<Vec<Result<Message<'a>, Refused>>, Refused>;

/// The messages of a packet, and why others aren't any.
fn open<'a>(envelope: &Envelope, packet: &'a mut [u8], scratch: &'a mut Scratch) -> Opened<'a> {
    // Decompressed it may be a whole datagram; a buffer that grows is copied, so that for a moment there are two.
    let parts = within(2 * limits::PACKET, || envelope.open_packet(packet, scratch))?;
    Ok(parts.collect())
}

/// Several messages in one.
pub fn compound(bytes: &[u8]) -> bool {
    let Ok(parts) = within(0, || Parts::decode(bytes)) else { return false };
    let parts: Vec<_> = parts.collect();
    assert!(parts.len() <= 255);
    let Ok(messages) = parts.into_iter().collect::<Result<Vec<_>, _>>() else { return false };
    let envelope = Envelope { compression: false, ..Envelope::default() };
    let (mut scratch, mut packet) = (Scratch::default(), Vec::new());
    // Each may be longer than it came, by the fields that old members leave out.
    if envelope.seal_packet(&messages, false, &mut scratch, &mut packet).is_ok() {
        let again = Parts::decode(&packet).expect("it was just sealed");
        assert_eq!(again.collect::<Result<Vec<_>, _>>(), Ok(messages));
    }
    true
}

/// Compression, in both directions.
pub fn lzw(bytes: &[u8]) -> bool {
    TABLES.with_borrow_mut(|tables| {
        let (mut compressed, mut back) = (Vec::new(), Vec::new());
        tables.compress(bytes, &mut compressed);
        assert_eq!(tables.decompress(&compressed, bytes.len(), &mut back), Ok(()));
        assert_eq!(back, bytes);
        let mut out = Vec::new();
        let result =
            within(2 * limits::PACKET, || tables.decompress(bytes, limits::PACKET, &mut out));
        assert!(out.len() <= limits::PACKET);
        if result.is_err() {
            return false;
        }
        // No byte more than the limit, and the limit itself.
        assert_eq!(tables.decompress(bytes, out.len(), &mut back), Ok(()));
        assert_eq!(back, out, "used tables decompress otherwise");
        if let Some(less) = out.len().checked_sub(1) {
            let refused = tables.decompress(bytes, less, &mut back);
            assert_eq!(refused, Err(Refused::TooLarge));
        }
        true
    })
}

/// A datagram as it arrives: in a pool without keys, in one that is on its way to encryption, and in one that insists.
pub fn packet(bytes: &[u8]) -> bool {
    let mut taken = false;
    for envelope in [&Envelope::default(), &permissive(), &strict("")] {
        let (mut packet, mut scratch) = (bytes.to_vec(), Scratch::default());
        let opened = open(envelope, &mut packet, &mut scratch);
        SCRATCH.with_borrow_mut(|used| {
            let mut packet = bytes.to_vec();
            assert_eq!(open(envelope, &mut packet, used), opened, "used buffers open otherwise");
        });
        let Ok(messages) = opened else { continue };
        taken = true;
        let messages: Vec<_> = messages.into_iter().flatten().collect();
        let (mut out, mut scratch) = (Vec::new(), Scratch::default());
        if envelope.seal_packet(&messages, true, &mut scratch, &mut out).is_ok() {
            let again = open(envelope, &mut out, &mut scratch);
            assert_eq!(again, Ok(messages.into_iter().map(Ok).collect()));
        }
    }
    taken
}

/// How the first byte has the rest sealed: whether padded, and the label.
fn choices(bytes: &[u8]) -> Option<(bool, &'static str, &[u8])> {
    let (choice, rest) = bytes.split_first()?;
    Some((choice & 1 != 0, if choice & 2 != 0 { "wan" } else { "" }, rest))
}

/// The header of a label.
fn header(label: &str) -> Vec<u8> {
    match u8::try_from(label.len()) {
        Ok(length @ 1..) => [&[kind::LABEL, length], label.as_bytes()].concat(),
        _ => Vec::new(),
    }
}

/// The contents of an encrypted datagram: they open as in clear, in a pool that insists on encryption.
pub fn packet_sealed(bytes: &[u8]) -> bool {
    let Some((padded, label, contents)) = choices(bytes) else { return false };
    let mut packet = [header(label), sealed(padded, label.as_bytes(), contents)].concat();
    let mut scratch = Scratch::default();
    let opened = open(&strict(label), &mut packet, &mut scratch);
    // In clear, these would begin a label.
    if contents.first() != Some(&kind::LABEL) {
        let (mut clear, mut scratch) = (contents.to_vec(), Scratch::default());
        assert_eq!(open(&Envelope::default(), &mut clear, &mut scratch), opened);
    }
    opened.is_ok()
}

/// What a reader makes of the bytes of a stream that come in pieces of this size: whether they are whole, and as what.
fn receive(
    reader: &mut StreamReader,
    envelope: &Envelope,
    bytes: &[u8],
    piece: usize,
) -> Result<bool, Refused> {
    let (result, held) = measured(|| {
        for piece in bytes.chunks(piece) {
            if reader.receive(envelope, piece)? {
                return Ok(true);
            }
        }
        Ok(false)
    });
    // What arrived, in a vector that doubled. Only what has come to its end may have been decompressed.
    let most = 4096 + 3 * bytes.len();
    let label = header(&envelope.label);
    let expands = match bytes.strip_prefix(&label[..]).and_then(<[u8]>::first) {
        Some(&kind::COMPRESSED) => true,
        Some(&kind::ENCRYPTED) => result != Ok(false),
        _ => false,
    };
    let most = if expands { most + 2 * limits::STREAM } else { most };
    assert!(held <= most, "held {held} bytes, where {most} are allowed");
    result
}

/// A stream as it arrives, in a pool that is on its way to encryption. The first byte is the size of its pieces: cut
/// into those it says what it says as a whole.
pub fn stream(bytes: &[u8]) -> bool {
    let Some((piece, bytes)) = bytes.split_first() else { return false };
    let (mut at_once, mut in_pieces) = (StreamReader::new(), StreamReader::new());
    PERMISSIVE.with(|envelope| {
        let whole = receive(&mut at_once, envelope, bytes, bytes.len().max(1));
        let cut = receive(&mut in_pieces, envelope, bytes, usize::from(*piece) + 1);
        assert_eq!(cut, whole);
        assert_eq!(in_pieces.message(), at_once.message());
        let Ok(message) = at_once.message() else { return false };
        comes_back(envelope, &message);
        true
    })
}

/// A message goes through a stream and comes back.
fn comes_back(envelope: &Envelope, message: &StreamMessage<'_>) {
    let (mut scratch, mut out) = (Scratch::default(), Vec::new());
    envelope.seal_stream(message, &mut scratch, &mut out).expect("it came in a stream");
    let mut reader = StreamReader::new();
    assert_eq!(reader.receive(envelope, &out), Ok(true));
    assert_eq!(reader.message().as_ref(), Ok(message));
}

/// The contents of an encrypted frame: they say what they say in clear, in a pool that insists on encryption, however
/// the frame is cut.
pub fn stream_sealed(bytes: &[u8]) -> bool {
    let Some((padded, label, contents)) = choices(bytes) else { return false };
    let length = u32::try_from(sealed(padded, &[], contents).len()).unwrap_or(u32::MAX);
    let head = [&[kind::ENCRYPTED], &length.to_be_bytes()[..]].concat();
    let frame = sealed(padded, &[&head, label.as_bytes()].concat(), contents);
    let frame = [header(label), head, frame].concat();
    let envelope = strict(label);
    let (mut at_once, mut in_pieces) = (StreamReader::new(), StreamReader::new());
    let whole = receive(&mut at_once, &envelope, &frame, frame.len());
    let cut = receive(&mut in_pieces, &envelope, &frame, 1 + usize::from(bytes[0] >> 2));
    assert_eq!(cut, whole);
    assert_eq!(in_pieces.message(), at_once.message());
    if contents.first() == Some(&kind::COMPRESSED) {
        let mut clear = StreamReader::new();
        // What is cut off inside of a frame will not be continued; in clear, it may be.
        match clear.receive(&Envelope::default(), contents) {
            Ok(true) => assert_eq!(at_once.message(), clear.message()),
            Ok(false) => assert_eq!(whole, Err(Refused::Compression)),
            Err(refused) => assert_eq!(whole, Err(refused)),
        }
    } else {
        assert_eq!(whole, Ok(true));
        assert_eq!(at_once.message(), StreamMessage::decode(contents));
    }
    at_once.message().is_ok()
}
