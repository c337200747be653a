//! The requests of the bench, and the two wires that carry them.

use std::ops::Range;

use anyhow::Result;

use crate::{grpc, http};

/// How fresh a read has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reads {
    /// What the system does unasked: Consul trusts its leader's lease, ours and etcd are linearizable.
    Default,
    /// Linearizable: `?consistent`; etcd's default.
    Consistent,
    /// What the asked server has: `?stale`; etcd's `serializable`.
    Stale,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Writes a key.
    Put {
        /// The key.
        key: &'a str,
        /// Its value.
        value: &'a [u8],
    },
    /// Reads a key, as clients read it (Consul's API: JSON with the value in base64).
    Get {
        /// The key.
        key: &'a str,
        /// How fresh.
        reads: Reads,
    },
    /// Reads a key's value as it is, to be checked.
    Check {
        /// The key.
        key: &'a str,
        /// How fresh.
        reads: Reads,
    },
    /// Waits for a change of a key: a blocking query behind `index`, a watch on etcd.
    Wait {
        /// The key.
        key: &'a str,
        /// The key's index.
        index: u64,
    },
    /// Asks who leads.
    Leader,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Whether it is what the request asks for.
    pub ok: bool,
    /// HTTP's status, or 0.
    pub status: u16,
    /// The value, or the body, within the input.
    pub body: Range<usize>,
    /// The index or revision that came with it.
    pub index: u64,
}

/// Which API a system speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Consul's HTTP API.
    Http,
    /// etcd's gRPC.
    Grpc,
}

/// One connection's protocol state.
#[derive(Debug)]
pub enum Wire {
    /// Consul's HTTP API.
    Http(http::Wire),
    /// etcd's gRPC.
    Grpc(Box<grpc::Wire>),
}

impl Wire {
    /// Opens a connection: what has to be said first is appended to `out`.
    pub fn open(protocol: Protocol, out: &mut Vec<u8>) -> Self {
        match protocol {
            Protocol::Http => Self::Http(http::Wire::default()),
            Protocol::Grpc => Self::Grpc(Box::new(grpc::Wire::open(out))),
        }
    }

    /// Appends a request to `out`. One request is under way at a time.
    pub fn request(&mut self, request: Request<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Http(wire) => wire.request(request, out),
            Self::Grpc(wire) => wire.request(request, out),
        }
    }

    /// Looks for an answer in `input`; says how many of its bytes are done with. What the protocol itself has to say
    /// is appended to `out`.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Answer>)> {
        match self {
            Self::Http(wire) => wire.receive(input),
            Self::Grpc(wire) => wire.receive(input, out),
        }
    }

    /// The bytes that an answer's body names.
    pub fn body<'a>(&'a self, answer: &Answer, input: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Http(wire) => wire.body(answer, input),
            Self::Grpc(wire) => wire.body(answer),
        }
    }
}
