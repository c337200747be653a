//! Plain reads without hyper.
//!
//! A read that waits for no change has no body, and its answer is whole when it is there: of all that hyper does for a
//! connection it needs nothing, and that took a fifth of what a read costs a server. So a connection is served here while
//! nothing but such reads come on it. What else comes goes to hyper, with all that was read of it, and hyper keeps the
//! connection. Nothing is judged here: a head that isn't known to be a plain read's is hyper's.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    mem::MaybeUninit,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{HeaderName, HeaderValue},
};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};

use super::{
    Inner, Origin,
    respond::{Format, Shape},
    route::{self, Action},
    stream::Watched,
};

/// The longest head that is read here, and at most so many headers of it.
const HEAD_BYTES: usize = 2048;
const HEADERS: usize = 24;
/// Up to this length a body is copied behind its head, so that both leave in one write.
const COPIED: usize = 64 << 10;
/// What decides about a request's body, its connection or its protocol: hyper's business.
const HYPERS: [&str; 6] =
    ["connection", "content-length", "transfer-encoding", "expect", "upgrade", "http2-settings"];
/// What nothing here looks at, and every request has.
const UNREAD: [&str; 2] = ["host", "user-agent"];

/// What a connection in the lane and whoever ends it tell each other.
#[derive(Debug, Default)]
pub(super) struct Lane {
    under_way: AtomicBool,
    closing: AtomicBool,
}

/// How a connection leaves the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// What it sent is hyper's.
    ToHyper,
    /// It is over.
    Ended,
}

/// What a connection sends.
enum Next {
    Read(Action, Shape),
    Other,
    Gone,
}

impl Lane {
    /// Has the connection end behind the answer that is under way; tells whether one is.
    pub(super) fn close(&self) -> bool {
        self.closing.store(true, Ordering::Relaxed);
        self.under_way.load(Ordering::Relaxed)
    }

    /// Answers reads until something else comes.
    pub(super) async fn serve(
        &self,
        stream: &mut Watched,
        inner: &Arc<Inner>,
        remote: Option<IpAddr>,
    ) -> Left {
        if !stream.ahead.is_empty() {
            return Left::ToHyper;
        }
        loop {
            let (action, shape) = match next(stream, inner, remote).await {
                Next::Read(action, shape) => (action, shape),
                Next::Other => return Left::ToHyper,
                Next::Gone => return Left::Ended,
            };
            self.under_way.store(true, Ordering::Relaxed);
            stream.phase.begin();
            #[cfg(test)]
            UNDER_WAY.set(UNDER_WAY.get() + 1);
            let reply = action.poll(inner).await.unwrap_or_else(|refusal| *refusal);
            #[cfg(test)]
            SERVED.set(SERVED.get() + 1);
            stream.phase.end();
            let closes = reply.closes();
            let format = Format { shape, always: &inner.response_headers };
            let written = HEADER_MAP.with_borrow_mut(|headers| {
                let (status, body) = reply.write(headers, &format);
                let written = write(stream, status, headers, body);
                headers.clear();
                written
            });
            let sent = match written {
                Ok(None) => Ok(()),
                Ok(Some((head, body))) => send(stream, &head, &body).await,
                Err(error) => Err(error),
            };
            self.under_way.store(false, Ordering::Relaxed);
            if sent.is_err() || closes || self.closing.load(Ordering::Relaxed) {
                return Left::Ended;
            }
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How many reads this thread has begun to answer here, and has answered.
    pub(super) static UNDER_WAY: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    pub(super) static SERVED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

thread_local! {
    /// Of requests and of answers; each is used up before anything is waited for.
    static HEADER_MAP: RefCell<HeaderMap> = RefCell::default();
    static WRITTEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The date in headers, and its second.
    static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// Waits for what the client sends, and reads it where it is a plain read.
async fn next(stream: &mut Watched, inner: &Inner, remote: Option<IpAddr>) -> Next {
    poll_fn(|cx| {
        let mut room = [MaybeUninit::uninit(); HEAD_BYTES];
        let mut buffer = ReadBuf::uninit(&mut room);
        // Not `try_read`: this one knows after a short read that there is no more, and doesn't ask again.
        let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
        let bytes = buffer.filled();
        Poll::Ready(match (read, bytes) {
            (Err(_), _) | (Ok(()), []) => Next::Gone,
            (Ok(()), bytes) => {
                let plan = HEADER_MAP.with_borrow_mut(|headers| {
                    let plan = plan(inner, bytes, remote, headers);
                    headers.clear();
                    plan
                });
                if plan.is_none() {
                    stream.ahead = Bytes::copy_from_slice(bytes);
                }
                plan.map_or(Next::Other, |(action, shape)| Next::Read(action, shape))
            }
        })
    })
    .await
}

/// What is to be done where these are the bytes of one whole plain read.
fn plan(
    inner: &Inner,
    bytes: &[u8],
    remote: Option<IpAddr>,
    headers: &mut HeaderMap,
) -> Option<(Action, Shape)> {
    let mut room = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Request::new(&mut room);
    if head.parse(bytes) != Ok(httparse::Status::Complete(bytes.len())) {
        return None;
    }
    if head.method != Some("GET") || head.version != Some(1) {
        return None;
    }
    for header in head.headers.iter() {
        let is = |name: &&str| header.name.eq_ignore_ascii_case(name);
        if is(&"connection") && header.value.eq_ignore_ascii_case(b"keep-alive") {
            // What HTTP/1.1 does anyway.
            continue;
        }
        if HYPERS.iter().any(is) {
            return None;
        }
        if !UNREAD.iter().any(is) {
            let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
        }
    }
    let mut parts = Request::new(()).into_parts().0;
    parts.method = Method::GET;
    parts.uri = Uri::try_from(head.path?).ok()?;
    parts.headers = std::mem::take(headers);
    let plan = route::plan(inner, &parts, Origin::Client(remote));
    // Its room is for the answer's.
    *headers = parts.headers;
    let action = plan.action.ok()?;
    action.reads_at_once().then_some((action, plan.shape))
}

/// What of an answer the socket didn't take at once.
type Rest = Option<(Vec<u8>, Bytes)>;

/// Writes an answer out as far as the socket takes it.
fn write(
    stream: &Watched,
    status: StatusCode,
    headers: &HeaderMap,
    body: Bytes,
) -> io::Result<Rest> {
    WRITTEN.with_borrow_mut(|out| {
        out.clear();
        encode_head(status, headers, body.len(), out);
        if body.len() > COPIED {
            return Ok(Some((out.clone(), body)));
        }
        out.extend_from_slice(&body);
        match stream.socket.try_write(out) {
            Ok(length) if length == out.len() => Ok(None),
            Ok(length) => Ok(Some((out[length..].to_vec(), Bytes::new()))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(Some((out.clone(), Bytes::new())))
            }
            Err(error) => Err(error),
        }
    })
}

/// Writes out the rest of an answer.
async fn send(stream: &mut Watched, head: &[u8], body: &[u8]) -> io::Result<()> {
    stream.write_all(head).await?;
    stream.write_all(body).await
}

/// An answer's head, in the form that hyper gives it.
fn encode_head(status: StatusCode, headers: &HeaderMap, length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        let mut starts = true;
        for byte in name.as_str().bytes() {
            out.push(if starts { byte.to_ascii_uppercase() } else { byte });
            starts = byte == b'-';
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"Content-Length: ");
    decimal(length, out);
    out.extend_from_slice(b"\r\nDate: ");
    DATE.with_borrow_mut(|(second, date)| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if *second != now {
            (*second, *date) =
                (now, httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now)));
        }
        out.extend_from_slice(date.as_bytes());
    });
    out.extend_from_slice(b"\r\n\r\n");
}

fn decimal(mut number: usize, out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        out.push(b'0' + u8::try_from(number % 10).unwrap_or(0));
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out[start..].reverse();
}
