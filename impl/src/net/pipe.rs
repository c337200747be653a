//! What leaves and enters through one connection, frame by frame.
//!
//! Values are encoded straight into the connection's buffer, and whoever adds to it tries to write it out at once,
//! from whatever thread it is: a message takes no hop through a task unless the socket is full. Everything queued
//! leaves in one write.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bincode::Encode;
use bytes::{Buf, Bytes, BytesMut};
use spec::codec;
use tokio::{io::Interest, net::TcpStream, sync::Notify};

/// How much is asked of a socket at once.
const READ_SIZE: usize = 64 << 10;
/// A buffer that a burst made larger than this is given back once it is empty.
const KEPT_CAPACITY: usize = 1 << 20;

/// Why a frame was not queued; nothing of it will leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// Too many frames or bytes are queued.
    Full,
    /// Longer than a frame may be.
    TooLong,
    /// The connection is gone.
    Closed,
}

/// The outgoing half: a bounded buffer of frames, before a connection that may come and go.
#[derive(Debug)]
pub(super) struct Pipe {
    out: Mutex<Out>,
    /// Tells the connection's task that the buffer is blocked, has failed, or is closed.
    changed: Notify,
    max_frames: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Out {
    /// Frames; those before `start` are written.
    buffer: Vec<u8>,
    start: usize,
    /// How many bytes were ever taken off the buffer's front.
    taken: u64,
    /// Where each frame that is not wholly written ends, counted like `taken`.
    ends: VecDeque<u64>,
    stream: Option<Arc<TcpStream>>,
    /// The socket was full: its task writes on when it isn't.
    blocked: bool,
    failure: Option<io::Error>,
    closed: bool,
}

impl Out {
    fn written(&self) -> u64 {
        self.taken + self.start as u64
    }

    /// Writes as much as the socket takes.
    fn flush(&mut self) {
        let Some(stream) = &self.stream else { return };
        self.blocked = false;
        while self.start < self.buffer.len() && self.failure.is_none() {
            match stream.try_write(&self.buffer[self.start..]) {
                Ok(0) => self.failure = Some(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.start += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.failure = Some(error),
            }
        }
        let written = self.written();
        while self.ends.front().is_some_and(|end| *end <= written) {
            self.ends.pop_front();
        }
        if self.start == self.buffer.len() {
            self.clear();
        } else if self.start > READ_SIZE && self.start > self.buffer.len() / 2 {
            self.taken += self.start as u64;
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }

    fn clear(&mut self) {
        self.taken += self.buffer.len() as u64;
        self.start = 0;
        self.ends.clear();
        self.buffer.clear();
        if self.buffer.capacity() > KEPT_CAPACITY {
            self.buffer = Vec::new();
        }
    }
}

impl Pipe {
    pub(super) fn new(max_frames: usize, max_bytes: usize) -> Self {
        Self { out: Mutex::default(), changed: Notify::new(), max_frames, max_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame: `head` in its encoding, then `rest` as it is. Gives where it starts, see [`End`].
    pub(super) fn queue<T: Encode>(&self, head: &T, rest: &[u8]) -> Result<u64, Dropped> {
        self.queue_into(&mut self.lock(), |buffer| {
            codec::encode_into(head, buffer);
            buffer.extend_from_slice(rest);
        })
    }

    /// Queues a frame and writes out what the socket takes.
    pub(super) fn send<T: Encode>(&self, head: &T, rest: &[u8]) -> Result<u64, Dropped> {
        self.send_with(|buffer| {
            codec::encode_into(head, buffer);
            buffer.extend_from_slice(rest);
        })
    }

    /// Queues a frame whose body `encode` appends, and writes out what the socket takes.
    pub(super) fn send_with(&self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<u64, Dropped> {
        let mut out = self.lock();
        let start = self.queue_into(&mut out, encode)?;
        self.write_out(out);
        Ok(start)
    }

    fn queue_into(&self, out: &mut Out, encode: impl FnOnce(&mut Vec<u8>)) -> Result<u64, Dropped> {
        if out.closed {
            return Err(Dropped::Closed);
        }
        let queued = out.buffer.len() - out.start;
        if out.ends.len() >= self.max_frames || queued >= self.max_bytes {
            return Err(Dropped::Full);
        }
        let start = out.buffer.len();
        out.buffer.extend_from_slice(&[0, 0, 0, 0, codec::VERSION]);
        encode(&mut out.buffer);
        let length = out.buffer.len() - start - 4;
        let too_long = length > codec::RPC_LIMIT;
        // A single frame passes through an empty buffer, however narrow the bound.
        if too_long || (queued > 0 && queued + length + 4 > self.max_bytes) {
            out.buffer.truncate(start);
            return Err(if too_long { Dropped::TooLong } else { Dropped::Full });
        }
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        out.buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
        let end = out.taken + out.buffer.len() as u64;
        out.ends.push_back(end);
        Ok(out.taken + start as u64)
    }

    /// Writes out what the socket takes.
    pub(super) fn flush(&self) {
        self.write_out(self.lock());
    }

    fn write_out(&self, mut out: MutexGuard<'_, Out>) {
        if out.blocked || out.stream.is_none() || out.buffer.is_empty() {
            return;
        }
        out.flush();
        let tell = out.blocked || out.failure.is_some();
        drop(out);
        if tell {
            self.changed.notify_one();
        }
    }

    /// Refuses frames from here on and ends the connection.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Whether it was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Drops what is queued for a connection that can't be had.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn attach(&self, stream: &Arc<TcpStream>) -> Attached<'_> {
        let mut out = self.lock();
        out.stream = Some(stream.clone());
        out.blocked = false;
        out.failure = None;
        out.flush();
        Attached(self)
    }

    /// Gives what [`End::written`] says.
    fn detach(&self) -> u64 {
        let mut out = self.lock();
        out.stream = None;
        let written = out.written();
        // A frame that was written in part can't be continued on another connection.
        if out.start > 0 || out.failure.is_some() {
            out.failure = None;
            out.clear();
        }
        written
    }

    /// Serves the connection until it ends: writes what is queued, lets `receive` take what arrived.
    pub(super) async fn run(
        &self,
        stream: TcpStream,
        mut receive: impl FnMut(&mut Frames) -> io::Result<()>,
    ) -> End {
        let stream = Arc::new(stream);
        let attached = self.attach(&stream);
        let mut frames = Frames::default();
        let error = loop {
            let interest = {
                let mut out = self.lock();
                if let Some(failure) = out.failure.take() {
                    break Some(failure);
                }
                if out.closed {
                    break None;
                }
                if out.blocked {
                    Interest::READABLE | Interest::WRITABLE
                } else {
                    Interest::READABLE
                }
            };
            let ready = tokio::select! {
                ready = stream.ready(interest) => match ready {
                    Ok(ready) => ready,
                    Err(error) => break Some(error),
                },
                () = self.changed.notified() => continue,
            };
            if ready.is_writable() {
                self.lock().flush();
            }
            if ready.is_readable() || ready.is_read_closed() {
                match frames.read(&stream).and_then(|()| receive(&mut frames)) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => break Some(error),
                }
            }
        };
        drop(stream);
        End { error, written: attached.0.detach() }
    }
}

/// Lets go of the socket when the connection's task ends, also where that is dropped.
struct Attached<'a>(&'a Pipe);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.0.detach();
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(super) struct End {
    /// Why; [`io::ErrorKind::UnexpectedEof`] where the other side closed it, none where this side did.
    pub(super) error: Option<io::Error>,
    /// Up to where the socket took the frames: one that starts here or later never left.
    pub(super) written: u64,
}

/// The incoming half: bytes read so far, frame by frame.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: BytesMut,
}

fn invalid(error: codec::CodecError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Frames {
    fn read(&mut self, stream: &TcpStream) -> io::Result<()> {
        // Grows with what arrives, not with what a header claims.
        self.buffer.reserve(READ_SIZE);
        let room = self.buffer.capacity() - self.buffer.len();
        let mut taken = 0;
        let read = stream.try_io(Interest::READABLE, || {
            taken = stream.try_read_buf(&mut self.buffer)?;
            // Less than there was room for: there is no more, and to ask again would only find that out.
            let all = taken > 0 && taken < room;
            if all { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match read {
            Err(error) if taken == 0 => Err(error),
            _ if taken == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The length of the frame at the front, its header not counted, if all of it is there.
    fn complete(&self) -> io::Result<Option<usize>> {
        let Some(header) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = codec::frame_length::<{ codec::RPC_LIMIT }>(*header).map_err(invalid)?;
        match self.buffer.get(4) {
            Some(&codec::VERSION) | None => {}
            Some(&version) => return Err(invalid(codec::CodecError::Version(version))),
        }
        Ok((self.buffer.len() >= 4 + length).then_some(length))
    }

    /// Looks at the next frame's body where it lies.
    pub(super) fn next<R>(
        &mut self,
        look: impl FnOnce(&[u8]) -> Result<R, codec::CodecError>,
    ) -> io::Result<Option<R>> {
        let Some(length) = self.complete()? else { return Ok(None) };
        let result = look(&self.buffer[5..4 + length]).map_err(invalid);
        self.buffer.advance(4 + length);
        result.map(Some)
    }

    /// Takes the next frame's body out, without copying it.
    pub(super) fn take(&mut self) -> io::Result<Option<Bytes>> {
        let Some(length) = self.complete()? else { return Ok(None) };
        self.buffer.advance(5);
        Ok(Some(self.buffer.split_to(length - 1).freeze()))
    }
}

/// Splits a frame's body into its head and what follows it.
pub(super) fn split<T: bincode::Decode<()>>(mut body: Bytes) -> io::Result<(T, Bytes)> {
    let (head, used) = codec::decode_prefix::<T, { codec::RPC_LIMIT }>(&body).map_err(invalid)?;
    body.advance(used);
    Ok((head, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_bounded_by_frames_and_bytes_and_keeps_whole_frames_only() {
        let pipe = Pipe::new(3, 40);
        assert_eq!(pipe.queue(&1_u8, &[7; 20]), Ok(0));
        assert_eq!(pipe.queue(&1_u8, &[7; 20]), Err(Dropped::Full));
        assert_eq!(pipe.queue(&2_u8, &[]), Ok(26));
        assert_eq!(pipe.queue(&3_u8, &[]), Ok(32));
        assert_eq!(pipe.queue(&4_u8, &[]), Err(Dropped::Full));
        assert_eq!(pipe.lock().buffer.len(), 38);
        pipe.clear();
        assert_eq!(pipe.queue(&1_u8, &vec![0; codec::RPC_LIMIT]), Err(Dropped::TooLong));
        assert_eq!(pipe.queue(&1_u8, &[7; 100]), Ok(38), "alone, a frame of any size passes");
        pipe.close();
        pipe.clear();
        assert_eq!(pipe.queue(&1_u8, &[]), Err(Dropped::Closed));
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let pipe = Pipe::new(9, 900);
        for n in 0..3_u8 {
            pipe.queue(&n, &[n; 9]).unwrap();
        }
        let bytes = std::mem::take(&mut pipe.lock().buffer);
        for size in 1..bytes.len() {
            let (mut frames, mut out) = (Frames::default(), vec![]);
            for chunk in bytes.chunks(size) {
                frames.buffer.extend_from_slice(chunk);
                while let Some(body) = frames.take().unwrap() {
                    out.push(split::<u8>(body).unwrap());
                }
            }
            let expected: Vec<_> = (0..3).map(|n| (n, Bytes::from(vec![n; 9]))).collect();
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn a_header_that_claims_too_much_is_refused_before_its_body() {
        let mut frames = Frames::default();
        frames.buffer.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(frames.take().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut frames = Frames::default();
        frames.buffer.extend_from_slice(&[9, 0, 0, 0, 77]);
        assert_eq!(frames.take().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
