//! The bytes of what is sent: each message, or a sample, goes through the agent's own encoding and back.

use gossip_wire::{
    convert::{self, Streamed},
    envelope::Envelope,
    packet::Scratch,
    stream::StreamReader,
};
use spec::{
    serf::{Packet, SerfLayer},
    swim::Message,
};

use crate::sim::{Violation, ghosts::require};

/// The most bytes of a datagram (SWIM-24).
const MAX_DATAGRAM: usize = 1400;

/// What was sent, by all members together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes; an estimate, where only a sample is encoded.
    pub datagram_bytes: u64,
    /// Messages on streams.
    pub streamed: u64,
    /// Their bytes; an estimate, where only a sample is encoded.
    pub streamed_bytes: u64,
}

impl Traffic {
    /// What was sent since an earlier count.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            datagrams: self.datagrams - earlier.datagrams,
            datagram_bytes: self.datagram_bytes - earlier.datagram_bytes,
            streamed: self.streamed - earlier.streamed,
            streamed_bytes: self.streamed_bytes - earlier.streamed_bytes,
        }
    }
}

/// Encodes, decodes and counts.
pub struct Carrier {
    envelope: Envelope,
    scratch: Scratch,
    bytes: Vec<u8>,
    /// One message in so many is encoded.
    every: u64,
    /// What was carried so far.
    pub traffic: Traffic,
}

impl Carrier {
    /// Encodes one message in `every`.
    pub fn new(every: u64) -> Self {
        let (envelope, scratch) = (Envelope::default(), Scratch::default());
        Self { envelope, scratch, bytes: Vec::new(), every, traffic: Traffic::default() }
    }

    /// Gives what the receiver reads of a message; `answer` tells that it is one, on the stream of what was asked. It
    /// must be what was sent, and a datagram must fit.
    pub fn carry(&mut self, message: Packet, answer: bool) -> Result<Packet, Violation> {
        let datagram = matches!(message, Message::Packet(_));
        let traffic = &mut self.traffic;
        let (count, bytes) = if datagram {
            (&mut traffic.datagrams, &mut traffic.datagram_bytes)
        } else {
            (&mut traffic.streamed, &mut traffic.streamed_bytes)
        };
        *count += 1;
        if !count.is_multiple_of(self.every) {
            return Ok(message);
        }
        let sealed = self.envelope.seal(&message, false, &mut self.scratch, &mut self.bytes);
        require(sealed.is_ok(), "what_is_sent_can_be", || format!("{sealed:?}: {message:?}"))?;
        *bytes += self.bytes.len() as u64 * self.every;
        let length = self.bytes.len();
        require(!datagram || length <= MAX_DATAGRAM, "datagrams_fit", || {
            format!("{length} bytes: {message:?}")
        })?;
        let read = if datagram { self.read_datagram() } else { self.read_stream(answer) };
        require(read.as_ref() == Ok(&message), "read_as_sent", || {
            format!("{message:?} is read as {read:?}")
        })?;
        // What was sent shares its names and metadata with its sender: of large pools that is most of the memory.
        Ok(message)
    }

    fn read_datagram(&mut self) -> Result<Packet, String> {
        let mut refusals = Vec::new();
        let parts = self.envelope.open_packet(&mut self.bytes, &mut self.scratch);
        let parts = parts.map_err(|refused| format!("{refused:?}"))?;
        let read = convert::packet::<SerfLayer>(parts, |refused| refusals.push(refused));
        if refusals.is_empty() { Ok(Message::Packet(read)) } else { Err(format!("{refusals:?}")) }
    }

    fn read_stream(&self, answer: bool) -> Result<Packet, String> {
        let mut reader = StreamReader::new();
        match reader.receive(&self.envelope, &self.bytes) {
            Ok(true) => {}
            other => return Err(format!("{other:?}")),
        }
        let read = reader.message().and_then(|message| convert::stream(&message, answer));
        match read {
            Ok(Streamed::Message(message)) => Ok(message),
            Ok(Streamed::Error(error)) => Err(error),
            Err(refused) => Err(format!("{refused:?}")),
        }
    }
}
