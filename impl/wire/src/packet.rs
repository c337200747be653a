//! Datagrams: what is around the messages, and several of them in one.
//!
//! ```text
//! [244 len label] [version nonce12 ciphertext tag16] [12 crc32] [9 {Algo,Buf}] [7 count lengths] type body
//! ```
//!
//! Each layer may be left out, none may come twice, and they come in this order. memberlist takes them in any order and
//! number, by calling itself: 64 KiB of compounds in compounds, or LZW in LZW, cost a receiver what the sender likes.

use crate::{
    Refused, Unsendable, cipher,
    envelope::Envelope,
    limits,
    lzw::{self, Tables},
    memberlist::{Encode, Message, kind},
    msgpack::Reader,
};

/// Buffers that opening and sealing use again from packet to packet.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) tables: Tables,
    pub(crate) bytes: Vec<u8>,
}

/// The parts of an opened packet, in order.
///
/// A compound that ends early gives the parts that are whole, as memberlist does, and then one [`Refused::Truncated`].
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// A message that stands alone, without a length before it.
    lone: Option<&'a [u8]>,
    /// Two bytes for each part of a compound that is left: its length.
    lengths: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Takes apart what lies inside of the wrapping: a compound, or one message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Refused> {
        match bytes {
            [] | [kind::COMPOUND] => Err(Refused::Truncated),
            [kind::COMPOUND, count, rest @ ..] => {
                let lengths = rest.split_at_checked(2 * usize::from(*count));
                let (lengths, rest) = lengths.ok_or(Refused::Truncated)?;
                Ok(Self { lone: None, lengths, rest })
            }
            _ => Ok(Self { lone: Some(bytes), lengths: &[], rest: &[] }),
        }
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Message<'a>, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(lone) = self.lone.take() {
            return Some(Message::decode(lone));
        }
        let (length, lengths) = self.lengths.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((part, rest)) = self.rest.split_at_checked(length) else {
            self.lengths = &[];
            return Some(Err(Refused::Truncated));
        };
        (self.lengths, self.rest) = (lengths, rest);
        Some(Message::decode(part))
    }
}

impl Envelope {
    /// Opens a datagram: takes off its wrapping, and gives the messages inside, which borrow from `datagram` and from
    /// `scratch`. `datagram` is decrypted where it is.
    ///
    /// Refused is the datagram as a whole; each part may then be refused alone, and the others still count.
    pub fn open_packet<'a>(
        &self,
        datagram: &'a mut [u8],
        scratch: &'a mut Scratch,
    ) -> Result<Parts<'a>, Refused> {
        if datagram.len() > limits::PACKET {
            return Err(Refused::TooLarge);
        }
        let label = self.read_label(datagram)?;
        let contents = datagram.get_mut(label..).unwrap_or_default();
        let bytes = check(self.open(self.label_bytes(), contents)?)?;
        let Some((&kind::COMPRESSED, body)) = bytes.split_first() else {
            return Parts::decode(bytes);
        };
        let mut compressed = lzw::Compressed::default();
        compressed.read(&mut Reader::new(body))?;
        scratch.tables.decompress(compressed.data, limits::PACKET, &mut scratch.bytes)?;
        match scratch.bytes.first() {
            Some(&kind::COMPRESSED | &kind::CHECKSUM) => Err(Refused::Nested),
            _ => Parts::decode(&scratch.bytes),
        }
    }

    /// Puts messages into one datagram, in `out`, which is emptied first; several become a compound.
    ///
    /// `checksum` adds a CRC, which members understand whose greatest memberlist version is 5 or above. A datagram
    /// without is taken by all: with encryption a CRC says nothing new, in clear it finds what UDP's own sum of 16 bits
    /// misses.
    pub fn seal_packet<E: Encode>(
        &self,
        messages: &[E],
        checksum: bool,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Unsendable> {
        out.clear();
        self.write_label(out);
        let key = self.outgoing_key();
        if key.is_some() {
            out.extend_from_slice(&[0; cipher::PREFIX]);
        }
        let contents = out.len();
        if checksum {
            out.extend_from_slice(&[kind::CHECKSUM, 0, 0, 0, 0]);
        }
        let body = out.len();
        write_parts(messages, out)?;
        if self.compression {
            shrink(out, body, scratch);
        }
        if checksum && let Some((head, body)) = out.split_at_mut_checked(body) {
            let sum = crc32fast::hash(body).to_be_bytes();
            if let Some(place) = head.last_chunk_mut() {
                *place = sum;
            }
        }
        if let Some(key) = key {
            key.seal(self.version, nonce()?, self.label_bytes(), out, contents);
        }
        if out.len() > MAX_DATAGRAM { Err(Unsendable::PacketTooLarge) } else { Ok(()) }
    }
}

/// A nonce from the operating system. One that is used twice with one key gives away the key that authenticates, so it
/// must come from nothing that could be seeded alike in two processes.
pub(crate) fn nonce() -> Result<[u8; cipher::NONCE], Unsendable> {
    let mut nonce = [0; cipher::NONCE];
    getrandom::fill(&mut nonce).map_err(|_| Unsendable::NoEntropy)?;
    Ok(nonce)
}

/// What a UDP datagram over IPv4 can carry.
const MAX_DATAGRAM: usize = 65_507;

/// Checks the checksum, where there is one, and takes it off.
fn check(bytes: &[u8]) -> Result<&[u8], Refused> {
    let Some((&kind::CHECKSUM, rest)) = bytes.split_first() else { return Ok(bytes) };
    let (sum, rest) = rest.split_first_chunk().ok_or(Refused::Truncated)?;
    if crc32fast::hash(rest) != u32::from_be_bytes(*sum) {
        return Err(Refused::Checksum);
    }
    match rest.first() {
        Some(&kind::CHECKSUM) => Err(Refused::Nested),
        _ => Ok(rest),
    }
}

/// Appends one message as it is, or several as a compound.
fn write_parts<E: Encode>(messages: &[E], out: &mut Vec<u8>) -> Result<(), Unsendable> {
    if let [message] = messages {
        message.encode(out);
        return Ok(());
    }
    let count = u8::try_from(messages.len()).map_err(|_| Unsendable::PacketTooLarge)?;
    out.extend_from_slice(&[kind::COMPOUND, count]);
    let mut lengths = out.len();
    out.resize(lengths + 2 * messages.len(), 0);
    for message in messages {
        let before = out.len();
        message.encode(out);
        let length = u16::try_from(out.len().saturating_sub(before));
        let length = length.map_err(|_| Unsendable::PacketTooLarge)?;
        if let Some(place) = out.get_mut(lengths..lengths + 2) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        lengths += 2;
    }
    Ok(())
}

/// Compresses what follows `from`, where that makes it smaller.
pub(crate) fn shrink(out: &mut Vec<u8>, from: usize, scratch: &mut Scratch) {
    let plain = out.get(from..).unwrap_or_default();
    scratch.bytes.clear();
    scratch.tables.compress(plain, &mut scratch.bytes);
    if scratch.bytes.len() + lzw::OVERHEAD < plain.len() {
        out.truncate(from);
        lzw::write(&scratch.bytes, out);
    }
}
