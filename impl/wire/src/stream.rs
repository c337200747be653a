//! Streams: one message in either direction, over a connection of its own.
//!
//! ```text
//! [244 len label] [10 length32 version nonce12 ciphertext tag16] [9 {Algo,Buf}] type body
//!
//! push/pull   6 {Join,Nodes,UserStateLen} {Name,Addr,...}* user state
//! user        8 {UserMsgLen} bytes
//! ping, ack   0, 2 and the body that packets have; the one who answers gives no payload
//! error       13 {Error}
//! ```
//!
//! An encrypted frame authenticates its type, its length and the label besides its text. There is no length around a
//! message that isn't encrypted: [`StreamReader`] finds its end in its contents, as its bytes arrive.

use std::ops::Range;

use crate::{
    Refused, Unsendable, cipher,
    envelope::Envelope,
    limits, lzw,
    memberlist::{Ack, NodeState, Ping, kind},
    msgpack::{Reader, Writer},
    packet::{Scratch, nonce, shrink},
};

/// A message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamMessage<'a> {
    /// All that one member knows of the others.
    PushPull(PushPull<'a>),
    /// A ping to whom UDP doesn't seem to reach.
    Ping(Ping<'a>),
    /// Its answer.
    Ack(Ack<'a>),
    /// What lies on top, too large for a packet or too dear to lose.
    User(&'a [u8]),
    /// Why the other one refused.
    Error(&'a str),
}

/// The state of one member, which the other one answers with its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushPull<'a> {
    /// Whether the one who asks joins, or only compares.
    pub join: bool,
    /// The members that it knows, itself among them.
    pub nodes: Vec<NodeState<'a>>,
    /// What lies on top adds here: Serf its [`crate::serf::PushPull`].
    pub user: &'a [u8],
}

/// The head of a push/pull.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    join: bool,
    nodes: usize,
    user: usize,
}

impl Head {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Refused> {
        let mut head = Self::default();
        reader.fields(|field, reader| {
            match field {
                b"Join" => head.join = reader.bool()?,
                b"Nodes" => head.nodes = reader.number()?,
                b"UserStateLen" => head.user = reader.number()?,
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        if head.nodes > limits::MEMBERS || head.user > limits::STREAM {
            return Err(Refused::TooLarge);
        }
        Ok(head)
    }
}

/// The length before a user message.
fn user_length(reader: &mut Reader<'_>) -> Result<usize, Refused> {
    let mut length = 0;
    reader.fields(|field, reader| {
        match field {
            b"UserMsgLen" => length = reader.number()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    if length > limits::STREAM { Err(Refused::TooLarge) } else { Ok(length) }
}

fn error_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Refused> {
    let mut text = "";
    reader.fields(|field, reader| {
        match field {
            b"Error" => text = reader.text()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(text)
}

fn rest<'a>(reader: &Reader<'a>, length: usize) -> Result<&'a [u8], Refused> {
    reader.rest().get(..length).ok_or(Refused::Truncated)
}

impl<'a> StreamMessage<'a> {
    /// Takes apart what lies inside of the wrapping. Bytes after the message are ignored, as in Go.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Refused> {
        let (&kind, body) = bytes.split_first().ok_or(Refused::Truncated)?;
        let mut reader = Reader::new(body);
        Ok(match kind {
            kind::PUSH_PULL => {
                let head = Head::read(&mut reader)?;
                let mut nodes = Vec::new();
                for _ in 0..head.nodes {
                    nodes.push(NodeState::read(&mut reader)?);
                }
                let user = rest(&reader, head.user)?;
                Self::PushPull(PushPull { join: head.join, nodes, user })
            }
            kind::PING => Self::Ping(Ping::read(&mut reader)?),
            kind::ACK => Self::Ack(Ack::read(&mut reader)?),
            kind::USER => {
                let length = user_length(&mut reader)?;
                Self::User(rest(&reader, length)?)
            }
            kind::ERROR => Self::Error(error_text(&mut reader)?),
            kind::COMPRESSED | kind::ENCRYPTED => return Err(Refused::Nested),
            other => return Err(Refused::Unknown(other)),
        })
    }

    /// Appends its type byte and its body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match self {
            Self::PushPull(state) => {
                writer.plain(&[kind::PUSH_PULL]).map(3).text("Join").bool(state.join);
                writer.text("Nodes").u64(state.nodes.len() as u64);
                writer.text("UserStateLen").u64(state.user.len() as u64);
                for node in &state.nodes {
                    node.write(&mut writer);
                }
                writer.plain(state.user);
            }
            Self::Ping(ping) => ping.write(writer.plain(&[kind::PING])),
            Self::Ack(ack) => ack.write(writer.plain(&[kind::ACK])),
            Self::User(bytes) => {
                writer.plain(&[kind::USER]).map(1).text("UserMsgLen").u64(bytes.len() as u64);
                writer.plain(bytes);
            }
            Self::Error(text) => {
                writer.plain(&[kind::ERROR]).map(1).text("Error").text(text);
            }
        }
    }
}

/// Gathers the bytes of a stream until its message is whole.
///
/// It holds what arrived and, once, what that decompresses to: at most 20 MiB of each, whatever lengths are claimed.
/// Feed it with [`Self::receive`] until that says true, then ask for [`Self::message`].
#[derive(Debug, Default)]
pub struct StreamReader {
    received: Vec<u8>,
    /// Where the message begins, once the label was read.
    label: Option<usize>,
    progress: Progress,
    whole: Option<Whole>,
}

/// How much of a push/pull that isn't encrypted was passed over.
#[derive(Debug, Default)]
struct Progress {
    head: Option<Head>,
    nodes: usize,
    at: usize,
}

/// Where the whole message is.
#[derive(Debug)]
enum Whole {
    Received(Range<usize>),
    Decompressed(Vec<u8>),
}

impl StreamReader {
    /// A reader of a stream that just opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they came; says whether the message is whole. Refused is the stream, and nothing more is to be
    /// expected of it.
    pub fn receive(&mut self, envelope: &Envelope, bytes: &[u8]) -> Result<bool, Refused> {
        const MOST: usize = limits::STREAM + limits::STREAM_OVERHEAD;
        if self.whole.is_some() {
            return Ok(true);
        }
        if self.received.len() + bytes.len() > MOST {
            return Err(Refused::TooLarge);
        }
        lzw::grow(&mut self.received, bytes.len(), MOST);
        self.received.extend_from_slice(bytes);
        match self.advance(envelope) {
            Ok(()) => Ok(true),
            Err(Refused::Truncated) => Ok(false),
            Err(refused) => Err(refused),
        }
    }

    /// The message, once it is whole.
    pub fn message(&self) -> Result<StreamMessage<'_>, Refused> {
        let bytes = match &self.whole {
            None => return Err(Refused::Truncated),
            Some(Whole::Received(range)) => self.received.get(range.clone()).unwrap_or_default(),
            Some(Whole::Decompressed(bytes)) => bytes,
        };
        StreamMessage::decode(bytes)
    }

    /// Truncated until the message is whole.
    fn advance(&mut self, envelope: &Envelope) -> Result<(), Refused> {
        let start = match self.label {
            Some(start) => start,
            None => *self.label.insert(envelope.read_label(&self.received)?),
        };
        let bytes = self.received.get(start..).unwrap_or_default();
        match bytes.first() {
            None => Err(Refused::Truncated),
            Some(&kind::ENCRYPTED) => self.decrypt(envelope, start),
            Some(_) if envelope.requires_encryption() => Err(Refused::Sealed),
            Some(&kind::COMPRESSED) => {
                self.whole = Some(decompress(bytes)?);
                Ok(())
            }
            Some(_) => {
                self.progress.advance(bytes)?;
                self.whole = Some(Whole::Received(start..self.received.len()));
                Ok(())
            }
        }
    }

    fn decrypt(&mut self, envelope: &Envelope, start: usize) -> Result<(), Refused> {
        if envelope.keyring.primary().is_none() {
            return Err(Refused::NoKeys);
        }
        let frame = self.received.get_mut(start..).unwrap_or_default();
        let (head, rest) = frame.split_first_chunk_mut::<FRAME>().ok_or(Refused::Truncated)?;
        let [_, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Refused::TooLarge)?;
        if length > limits::STREAM {
            return Err(Refused::TooLarge);
        }
        let sealed = rest.get_mut(..length).ok_or(Refused::Truncated)?;
        let associated = [&head[..], envelope.label_bytes()].concat();
        let plain = cipher::open(envelope.keyring.keys(), &associated, sealed)?;
        // All of it is here: what ends early inside will not be continued.
        self.whole = Some(if plain.first() == Some(&kind::COMPRESSED) {
            decompress(plain).map_err(|refused| match refused {
                Refused::Truncated => Refused::Compression,
                other => other,
            })?
        } else {
            let at = start + FRAME + cipher::PREFIX;
            Whole::Received(at..at + plain.len())
        });
        Ok(())
    }
}

/// Bytes before an encrypted stream's version: the type and the length.
const FRAME: usize = 5;

/// Decompresses a message from its type byte on.
fn decompress(bytes: &[u8]) -> Result<Whole, Refused> {
    let mut reader = Reader::new(bytes.get(1..).unwrap_or_default());
    let start = reader;
    let mut compressed = lzw::Compressed::default();
    let read = compressed.read(&mut reader);
    // The data is passed over at once, however long it is.
    if used(&start, &reader) > limits::STRUCT + compressed.data.len() {
        return Err(Refused::TooLarge);
    }
    read?;
    let mut out = Vec::new();
    // Streams are few, so this one's tables are its own.
    lzw::Tables::default().decompress(compressed.data, limits::STREAM, &mut out)?;
    Ok(Whole::Decompressed(out))
}

/// How many bytes were read between the two.
fn used(start: &Reader<'_>, end: &Reader<'_>) -> usize {
    start.rest().len() - end.rest().len()
}

/// Reads a struct that may not be whole yet. Whatever would come of it, and however it arrives, it is refused where it
/// is longer than [`limits::STRUCT`].
fn bounded<'a, T>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Refused>,
) -> Result<T, Refused> {
    let start = *reader;
    let value = read(reader);
    if used(&start, reader) > limits::STRUCT { Err(Refused::TooLarge) } else { value }
}

impl Progress {
    /// Passes over what is there of a message that starts with `bytes`; truncated until it is all there. A push/pull is
    /// gone through once, node by node, however its bytes are cut into pieces.
    fn advance(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let (&kind, body) = bytes.split_first().ok_or(Refused::Truncated)?;
        let mut reader = Reader::new(body);
        match kind {
            kind::PUSH_PULL => self.push_pull(body),
            kind::USER => {
                let length = bounded(&mut reader, user_length)?;
                rest(&reader, length).map(drop)
            }
            kind::PING | kind::ACK | kind::ERROR => bounded(&mut reader, Reader::skip),
            other => Err(Refused::Unknown(other)),
        }
    }

    fn push_pull(&mut self, body: &[u8]) -> Result<(), Refused> {
        let mut reader = Reader::new(body.get(self.at..).unwrap_or_default());
        let head = match self.head {
            Some(head) => head,
            None => *self.head.insert(bounded(&mut reader, Head::read)?),
        };
        self.at = body.len() - reader.rest().len();
        while self.nodes < head.nodes {
            // Decoded and not just passed over: a stream with one bad record is refused at that record.
            bounded(&mut reader, NodeState::read)?;
            self.nodes += 1;
            self.at = body.len() - reader.rest().len();
        }
        rest(&reader, head.user).map(drop)
    }
}

impl Envelope {
    /// Puts a message into the bytes of a stream, in `out`, which is emptied first.
    pub fn seal_stream(
        &self,
        message: &StreamMessage<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Unsendable> {
        out.clear();
        self.write_label(out);
        let frame = out.len();
        let key = self.outgoing_key();
        if key.is_some() {
            out.extend_from_slice(&[0; FRAME + cipher::PREFIX]);
        }
        let contents = out.len();
        message.encode(out);
        if out.len() - contents > limits::STREAM {
            return Err(Unsendable::StreamTooLarge);
        }
        if self.compression {
            shrink(out, contents, scratch);
        }
        let Some(key) = key else { return Ok(()) };
        let length = self.version.sealed_length(out.len() - contents);
        if length > limits::STREAM {
            return Err(Unsendable::StreamTooLarge);
        }
        let length = u32::try_from(length).map_err(|_| Unsendable::StreamTooLarge)?;
        let mut head = [kind::ENCRYPTED, 0, 0, 0, 0];
        head[1..].copy_from_slice(&length.to_be_bytes());
        if let Some(place) = out.get_mut(frame..frame + FRAME) {
            place.copy_from_slice(&head);
        }
        let associated = [&head[..], self.label_bytes()].concat();
        key.seal(self.version, nonce()?, &associated, out, contents);
        Ok(())
    }
}
