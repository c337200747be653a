//! Consul's HTTP API over one HTTP/1.1 keep-alive connection: just what its answers need.

use std::io::Write;

use anyhow::{Context as _, Result, bail};

use crate::wire::{Answer, Reads, Request};

/// A connection's state.
#[derive(Debug, Default)]
pub struct Wire {
    put: bool,
    chunked: Vec<u8>,
}

/// What an answer's head says.
struct Head {
    length: usize,
    status: u16,
    index: u64,
    body: Body,
}

enum Body {
    Length(usize),
    Chunked,
}

impl Wire {
    /// Appends a request to `out`.
    pub fn request(&mut self, request: Request<'_>, out: &mut Vec<u8>) {
        self.put = matches!(request, Request::Put { .. });
        // Writing into a vector doesn't fail.
        let _ = match request {
            Request::Put { key, value } => {
                let length = value.len();
                let head = write!(
                    out,
                    "PUT /v1/kv/{key} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
                );
                out.extend_from_slice(value);
                head
            }
            Request::Get { key, reads } => get(out, key, reads, ""),
            Request::Check { key, reads } => get(out, key, reads, "raw&"),
            Request::Wait { key, index } => write!(
                out,
                "GET /v1/kv/{key}?index={index}&wait=60s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            ),
            Request::Leader => {
                write!(out, "GET /v1/status/leader HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            }
        };
    }

    /// Looks for a whole answer.
    pub fn receive(&mut self, input: &[u8]) -> Result<(usize, Option<Answer>)> {
        let Some(head) = head(input)? else { return Ok((0, None)) };
        let (body, used) = match head.body {
            Body::Length(length) if input.len() < head.length + length => return Ok((0, None)),
            Body::Length(length) => (head.length..head.length + length, head.length + length),
            Body::Chunked => {
                let Some(used) = dechunk(&input[head.length..], &mut self.chunked)? else {
                    return Ok((0, None));
                };
                (usize::MAX..usize::MAX, head.length + used)
            }
        };
        let mut answer =
            Answer { ok: head.status == 200, status: head.status, body, index: head.index };
        // A put that isn't done is answered with 200 and `false`.
        answer.ok &= !self.put || self.body(&answer, input).trim_ascii() == b"true";
        Ok((used, Some(answer)))
    }

    /// The answer's body.
    pub fn body<'a>(&'a self, answer: &Answer, input: &'a [u8]) -> &'a [u8] {
        if answer.body.start == usize::MAX { &self.chunked } else { &input[answer.body.clone()] }
    }
}

fn get(out: &mut Vec<u8>, key: &str, reads: Reads, raw: &str) -> std::io::Result<()> {
    let reads = match reads {
        Reads::Default => "",
        Reads::Consistent => "consistent",
        Reads::Stale => "stale",
    };
    let question = if raw.is_empty() && reads.is_empty() { "" } else { "?" };
    write!(out, "GET /v1/kv/{key}{question}{raw}{reads} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
}

fn head(input: &[u8]) -> Result<Option<Head>> {
    let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let digits = input.get(9..12).context("a status line without a status")?;
    let status = std::str::from_utf8(digits)?.parse().context("a status that is no number")?;
    let mut head = Head { length: end + 4, status, index: 0, body: Body::Length(0) };
    for line in input[..end].split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            head.body = Body::Length(std::str::from_utf8(value)?.parse()?);
        } else if name.eq_ignore_ascii_case(b"x-consul-index") {
            head.index = std::str::from_utf8(value)?.parse()?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            head.body = Body::Chunked;
        } else if name.eq_ignore_ascii_case(b"connection") && value.eq_ignore_ascii_case(b"close") {
            bail!("the server wants to close the connection (status {status})");
        }
    }
    Ok(Some(head))
}

/// Puts the chunks together in `body`; gives how much of the input they took, once they are all there.
fn dechunk(input: &[u8], body: &mut Vec<u8>) -> Result<Option<usize>> {
    body.clear();
    let mut at = 0;
    loop {
        let Some(line) = input[at..].windows(2).position(|window| window == b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&input[at..at + line])?;
        let size = usize::from_str_radix(size, 16).context("a chunk's size that is no number")?;
        let start = at + line + 2;
        if input.len() < start + size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&input[start..start + size]);
        at = start + size + 2;
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: Request<'_> = Request::Put { key: "a", value: b"v" };

    #[test]
    fn an_answer_is_taken_when_it_is_whole() {
        let mut wire = Wire::default();
        wire.request(Request::Get { key: "a", reads: Reads::Stale }, &mut vec![]);
        let input =
            b"HTTP/1.1 200 OK\r\nX-Consul-Index: 12\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1";
        for short in 0..input.len() - 8 {
            assert!(wire.receive(&input[..short]).unwrap().1.is_none());
        }
        let (used, answer) = wire.receive(input).unwrap();
        let answer = answer.unwrap();
        assert_eq!((answer.ok, answer.index, used), (true, 12, input.len() - 8));
        assert_eq!(wire.body(&answer, input), b"abc");
    }

    #[test]
    fn chunks_are_put_together() {
        let mut wire = Wire::default();
        let input = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        for short in 0..input.len() {
            assert!(wire.receive(&input[..short]).unwrap().1.is_none());
        }
        let (used, answer) = wire.receive(input).unwrap();
        let answer = answer.unwrap();
        assert_eq!((used, wire.body(&answer, input)), (input.len(), &b"abc0123456789"[..]));
    }

    #[test]
    fn a_put_answered_with_false_or_an_error_is_not_ok() {
        let mut wire = Wire::default();
        wire.request(PUT, &mut vec![]);
        let answer = |wire: &mut Wire, input: &[u8]| wire.receive(input).unwrap().1.unwrap().ok;
        assert!(answer(&mut wire, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue"));
        assert!(!answer(&mut wire, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfalse"));
        assert!(!answer(&mut wire, b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\ntrue"));
    }
}
