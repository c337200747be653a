//! etcd's own gRPC over one HTTP/2 connection (RFC 9113, prior knowledge), with hand-encoded protobuf.
//!
//! Unary calls of `etcdserverpb.KV` and `Maintenance`, and `Watch`. Request headers go through HPACK's dynamic table
//! as those of real gRPC clients do: 40 bytes the first time, 8 from then on. Response headers aren't decoded: a gRPC
//! server sends a unary call's message only with status 0 and answers an error by trailers alone, so an answer is
//! good when its message came.

use anyhow::{Result, bail, ensure};

use crate::wire::{Answer, Reads, Request};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What we let the server send before it hears from us again.
const WINDOW: u32 = 1 << 30;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const KV_PUT: &str = "/etcdserverpb.KV/Put";
const KV_RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// A connection's state.
#[derive(Debug)]
pub struct Wire {
    /// The current stream.
    stream: u32,
    /// The path that stands in the dynamic table.
    indexed: Option<&'static str>,
    /// What the current call is.
    path: &'static str,
    /// The message so far, with gRPC's five bytes before it.
    message: Vec<u8>,
    /// The body, cut out of the message.
    body: std::ops::Range<usize>,
    /// Message bytes that the server's windows don't allow yet.
    held: Vec<u8>,
    connection_window: i64,
    stream_window: i64,
    initial_window: i64,
    max_frame: usize,
    /// Received since the last update of the connection's window.
    received: u32,
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length-delimited field.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// An HPACK literal of up to 126 bytes, not Huffman-coded.
fn literal(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).unwrap_or(0));
    out.extend_from_slice(text.as_bytes());
}

impl Wire {
    /// Opens a connection.
    pub fn open(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(PREFACE);
        let window = WINDOW.to_be_bytes();
        let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
        settings.extend_from_slice(&window);
        frame(out, SETTINGS, 0, 0, &settings);
        frame(out, WINDOW_UPDATE, 0, 0, &window);
        Self {
            stream: u32::MAX,
            indexed: None,
            path: "",
            message: vec![],
            body: 0..0,
            held: vec![],
            connection_window: 65_535,
            stream_window: 65_535,
            initial_window: 65_535,
            max_frame: 16_384,
            received: 0,
        }
    }

    fn headers(&mut self, path: &'static str, out: &mut Vec<u8>) {
        let mut block = vec![0x83, 0x86];
        if let Some(indexed) = self.indexed {
            if indexed == path {
                block.push(0xc1);
            } else {
                block.push(0x04);
                literal(&mut block, path);
            }
            // :authority, content-type, te, in the order that they were put in.
            block.extend_from_slice(&[0xc0, 0xbf, 0xbe]);
        } else {
            self.indexed = Some(path);
            block.push(0x44);
            literal(&mut block, path);
            block.push(0x41);
            literal(&mut block, "127.0.0.1");
            block.push(0x5f);
            literal(&mut block, "application/grpc");
            block.push(0x40);
            literal(&mut block, "te");
            literal(&mut block, "trailers");
        }
        frame(out, HEADERS, END_HEADERS, self.stream, &block);
    }

    /// Appends a request to `out`.
    pub fn request(&mut self, request: Request<'_>, out: &mut Vec<u8>) {
        let mut message = vec![0; 5];
        self.path = match request {
            Request::Put { key, value } => {
                field(&mut message, 1, key.as_bytes());
                field(&mut message, 2, value);
                KV_PUT
            }
            Request::Get { key, reads } | Request::Check { key, reads } => {
                field(&mut message, 1, key.as_bytes());
                if reads == Reads::Stale {
                    message.extend_from_slice(&[7 << 3, 1]);
                }
                KV_RANGE
            }
            Request::Wait { key, .. } => {
                let mut create = vec![];
                field(&mut create, 1, key.as_bytes());
                field(&mut message, 1, &create);
                WATCH
            }
            Request::Leader => STATUS,
        };
        let length = u32::try_from(message.len() - 5).unwrap_or(u32::MAX);
        message[1..5].copy_from_slice(&length.to_be_bytes());
        self.stream = self.stream.wrapping_add(2);
        self.stream_window = self.initial_window;
        self.message.clear();
        self.headers(self.path, out);
        self.held = message;
        self.send_held(out);
    }

    /// Sends what the windows allow. A watch's stream stays open.
    fn send_held(&mut self, out: &mut Vec<u8>) {
        while !self.held.is_empty() {
            let window = self.connection_window.min(self.stream_window).max(0) as usize;
            let length = self.held.len().min(window).min(self.max_frame);
            if length == 0 {
                return;
            }
            let ends = length == self.held.len() && self.path != WATCH;
            frame(out, DATA, if ends { END_STREAM } else { 0 }, self.stream, &self.held[..length]);
            self.held.drain(..length);
            self.connection_window -= length.cast_signed() as i64;
            self.stream_window -= length.cast_signed() as i64;
        }
    }

    /// Takes all whole frames; gives the answer once its stream ends, or a watch's message came.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Answer>)> {
        let mut used = 0;
        while let Some(header) = input[used..].first_chunk::<9>() {
            let [a, b, c, kind, flags, stream @ ..] = *header;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
            let Some(payload) = input.get(used + 9..used + 9 + length) else { break };
            used += 9 + length;
            if self.frame(kind, flags, stream, payload, out)? {
                return Ok((used, Some(self.answer()?)));
            }
        }
        Ok((used, None))
    }

    /// Takes one frame; says whether the answer is there.
    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        let current = stream == self.stream;
        let number = || payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        match kind {
            DATA => {
                self.received += payload.len() as u32;
                if self.received > WINDOW / 2 {
                    frame(out, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
                    self.received = 0;
                }
                ensure!(current, "data of another stream");
                self.message.extend_from_slice(payload);
                Ok(flags & END_STREAM != 0 || (self.path == WATCH && self.is_whole()))
            }
            HEADERS => Ok(current && flags & END_STREAM != 0),
            RST_STREAM => {
                self.message.clear();
                Ok(current)
            }
            SETTINGS if flags & ACK == 0 => {
                self.settings(payload);
                frame(out, SETTINGS, ACK, 0, &[]);
                Ok(false)
            }
            PING if flags & ACK == 0 => {
                frame(out, PING, ACK, 0, payload);
                Ok(false)
            }
            WINDOW_UPDATE => {
                let window =
                    if stream == 0 { &mut self.connection_window } else { &mut self.stream_window };
                if stream == 0 || current {
                    *window += i64::from(number());
                }
                self.send_held(out);
                Ok(false)
            }
            GOAWAY => bail!("the server went away: {}", String::from_utf8_lossy(payload)),
            _ => Ok(false),
        }
    }

    fn settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match setting[1] {
                4 => {
                    self.stream_window += i64::from(value) - self.initial_window;
                    self.initial_window = i64::from(value);
                }
                5 => self.max_frame = value as usize,
                _ => {}
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.message.first_chunk::<5>().is_some_and(|[_, length @ ..]| {
            self.message.len() >= 5 + u32::from_be_bytes(*length) as usize
        })
    }

    /// Reads the message that came.
    fn answer(&mut self) -> Result<Answer> {
        let mut answer = Answer::default();
        if !self.is_whole() {
            return Ok(answer);
        }
        let message = &self.message[5..];
        let header = bytes_field(message, 1)?.unwrap_or_default();
        let mut body = 0..0;
        answer.ok = match self.path {
            KV_RANGE => match bytes_field(message, 2)? {
                None => false,
                Some(kv) => {
                    let value = bytes_field(kv, 5)?.unwrap_or_default();
                    let start = value.as_ptr().addr() - self.message.as_ptr().addr();
                    body = start..start + value.len();
                    true
                }
            },
            // Leads itself: member_id of the header is the leader.
            STATUS => {
                let leader = number_field(message, 4)?;
                leader != 0 && leader == number_field(header, 2)?
            }
            _ => true,
        };
        answer.index = number_field(header, 3)?;
        if self.path == WATCH {
            self.message.clear();
        }
        self.body = body;
        Ok(answer)
    }

    /// The value of the answer to a range.
    pub fn body(&self, _answer: &Answer) -> &[u8] {
        &self.message[self.body.clone()]
    }
}

fn read_varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let Some((byte, rest)) = bytes.split_first() else { bail!("a varint that ends early") };
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a varint that is too long")
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn find(mut message: &[u8], number: u64) -> Result<Option<Field<'_>>> {
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        let found = match tag & 7 {
            0 => Field::Number(read_varint(&mut message)?),
            2 => {
                let length = read_varint(&mut message)? as usize;
                ensure!(length <= message.len(), "a field that ends early");
                let (bytes, rest) = message.split_at(length);
                message = rest;
                Field::Bytes(bytes)
            }
            kind => bail!("a field of kind {kind}"),
        };
        if tag >> 3 == number {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn bytes_field(message: &[u8], number: u64) -> Result<Option<&[u8]>> {
    Ok(match find(message, number)? {
        Some(Field::Bytes(bytes)) => Some(bytes),
        _ => None,
    })
}

fn number_field(message: &[u8], number: u64) -> Result<u64> {
    Ok(match find(message, number)? {
        Some(Field::Number(value)) => value,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range_answer(stream: u32) -> Vec<u8> {
        let (mut kv, mut message) = (vec![], vec![0; 5]);
        field(&mut kv, 1, b"key");
        field(&mut kv, 5, b"value");
        field(&mut message, 1, &[3 << 3, 42]);
        field(&mut message, 2, &kv);
        message[4] = u8::try_from(message.len() - 5).unwrap();
        let mut out = vec![];
        frame(&mut out, SETTINGS, 0, 0, &[]);
        frame(&mut out, HEADERS, END_HEADERS, stream, &[0x88]);
        frame(&mut out, DATA, 0, stream, &message);
        frame(&mut out, HEADERS, END_HEADERS | END_STREAM, stream, &[0x80]);
        out
    }

    #[test]
    fn an_answer_comes_with_its_value_and_revision() {
        let mut out = vec![];
        let mut wire = Wire::open(&mut out);
        wire.request(Request::Check { key: "key", reads: Reads::Stale }, &mut out);
        out.clear();
        let input = range_answer(1);
        let (used, answer) = wire.receive(&input, &mut out).unwrap();
        let answer = answer.unwrap();
        assert_eq!((answer.ok, answer.index, used), (true, 42, input.len()));
        assert_eq!(wire.body(&answer), b"value");
        assert_eq!(out, [0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0], "the settings are acknowledged");
    }

    #[test]
    fn an_answer_without_a_message_is_not_ok() {
        let mut out = vec![];
        let mut wire = Wire::open(&mut out);
        wire.request(Request::Put { key: "key", value: b"v" }, &mut out);
        let mut input = vec![];
        frame(&mut input, HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]);
        assert!(!wire.receive(&input, &mut out).unwrap().1.unwrap().ok);
    }

    #[test]
    fn a_message_waits_for_the_window() {
        let mut out = vec![];
        let mut wire = Wire::open(&mut out);
        out.clear();
        wire.request(Request::Put { key: "key", value: &vec![7; 70_000] }, &mut out);
        let before = out.len();
        assert!(before > 65_535 && before < 66_000);
        let mut input = vec![];
        frame(&mut input, WINDOW_UPDATE, 0, 0, &65_535_u32.to_be_bytes());
        assert!(wire.receive(&input, &mut out).unwrap().1.is_none());
        assert_eq!(out.len(), before, "the stream's own window is still closed");
        input.clear();
        frame(&mut input, WINDOW_UPDATE, 0, 1, &65_535_u32.to_be_bytes());
        wire.receive(&input, &mut out).unwrap();
        assert!(out.len() > 70_000 && wire.held.is_empty());
    }
}
