//! Answers: what handlers give, how it goes out, and the one place where errors become answers (rules H7-H10, H15).

use std::{cell::RefCell, time::Duration};

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};
use http_body_util::Full;
use hyper::{
    HeaderMap, Response, StatusCode,
    ext::ReasonPhrase,
    header::{
        ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName,
        HeaderValue, LOCATION, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};

use super::json;
use crate::{
    client::ForwardError,
    net::RpcError,
    server::{Consistency, ServerError},
};

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const EFFECTIVE_CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
const ACL_POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");
const QUERY_BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");

/// What a handler answers.
#[derive(Debug)]
pub(crate) struct Reply {
    status: StatusCode,
    content: Content,
    body: Bytes,
    meta: Option<Meta>,
    header: Option<(HeaderName, HeaderValue)>,
    close: bool,
    mute: bool,
    untouched: bool,
}

/// Marks the answer to a request that nothing came of for want of a leader: it may be asked again of another server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Untouched;

/// A reply that ends a request before its work is done; boxed, since few requests meet one.
pub(crate) type Refusal = Box<Reply>;

/// What a body is, which decides its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Nothing.
    Empty,
    /// Compact JSON, indented on the way out where that is asked for.
    Json,
    /// Plain text: every error.
    Text,
    /// A key's bytes as they are; the browser must not guess what they are (CVE-2020-25864).
    Raw,
    /// Go's redirect.
    Html,
    /// A snapshot.
    Archive,
}

/// What a read tells about itself in headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The index to wait on next.
    pub index: u64,
    /// Whether the answering server knew a leader.
    pub known_leader: bool,
    /// How long ago it heard from the leader.
    pub last_contact: Duration,
    /// How consistent the answer is, where the endpoint tells.
    pub consistency: Option<Consistency>,
}

/// A request that failed, as text.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    text: String,
}

impl Failure {
    /// Consul's default for what fails: 500.
    pub(crate) fn internal(text: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, text: text.into() }
    }

    /// A status that says it all.
    fn bare(status: StatusCode) -> Self {
        Self { status, text: String::new() }
    }
}

impl From<ServerError> for Failure {
    /// The mapping from the server's errors to statuses.
    fn from(error: ServerError) -> Self {
        let status = match &error {
            // Nothing happened, and the client may well try again.
            ServerError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            ServerError::NoLeader
            | ServerError::OutcomeUnknown(_)
            | ServerError::Refused(_)
            | ServerError::Diverged(_)
            | ServerError::Remote(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, text: error.to_string() }
    }
}

impl From<ForwardError> for Failure {
    /// The mapping from what keeps a client agent from its servers.
    fn from(error: ForwardError) -> Self {
        let status = match &error {
            ForwardError::RateExceeded => return Self::bare(StatusCode::TOO_MANY_REQUESTS),
            ForwardError::Rpc(RpcError::Overloaded) => StatusCode::SERVICE_UNAVAILABLE,
            ForwardError::NoServers | ForwardError::NoCluster | ForwardError::Rpc(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self { status, text: error.to_string() }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let mut reply = match failure.text.as_str() {
            "" => Reply::empty(failure.status),
            _ => Reply::text_with(failure.status, failure.text),
        };
        if failure.status == StatusCode::SERVICE_UNAVAILABLE {
            reply.header = Some((RETRY_AFTER, HeaderValue::from_static("1")));
        }
        reply.into()
    }
}

impl From<ServerError> for Refusal {
    fn from(error: ServerError) -> Self {
        let untouched = matches!(error, ServerError::NoLeader);
        let mut refusal = Self::from(Failure::from(error));
        refusal.untouched = untouched;
        refusal
    }
}

impl Reply {
    fn new(status: StatusCode, content: Content, body: Bytes) -> Self {
        Self {
            status,
            content,
            body,
            meta: None,
            header: None,
            close: false,
            mute: false,
            untouched: false,
        }
    }

    /// Nothing but a status.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self::new(status, Content::Empty, Bytes::new())
    }

    /// Compact JSON.
    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, Content::Json, body.into())
    }

    /// A bare `true` or `false`.
    pub(crate) fn bool(value: bool) -> Self {
        Self::json(Bytes::from_static(if value { b"true" } else { b"false" }))
    }

    /// A key's bytes.
    pub(crate) fn raw(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, Content::Raw, body.into())
    }

    /// A snapshot.
    pub(crate) fn archive(body: Bytes) -> Self {
        Self::new(StatusCode::OK, Content::Archive, body)
    }

    /// Plain text.
    pub(crate) fn text_with(status: StatusCode, text: impl Into<String>) -> Self {
        Self::new(status, Content::Text, Bytes::from(text.into()))
    }

    /// 400 with its reason.
    pub(crate) fn bad_request(text: impl Into<String>) -> Refusal {
        Self::text_with(StatusCode::BAD_REQUEST, text).into()
    }

    /// 301, with the page that says so, or without any.
    pub(crate) fn redirect(location: &str, page: Option<String>) -> Self {
        let content = if page.is_some() { Content::Html } else { Content::Empty };
        let page = page.unwrap_or_default();
        let mut reply = Self::new(StatusCode::MOVED_PERMANENTLY, content, page.into());
        reply.header = HeaderValue::from_str(location).ok().map(|value| (LOCATION, value));
        reply
    }

    /// Names the methods that the path has.
    pub(crate) fn allowing(mut self, methods: &'static str) -> Self {
        self.header = Some((ALLOW, HeaderValue::from_static(methods)));
        self
    }

    /// Says what a read knew.
    pub(crate) fn with_meta(mut self, meta: Meta) -> Self {
        self.meta = Some(meta).filter(|_| !self.mute);
        self
    }

    /// Never says what a read knew: some of Consul's answers have gone out before that is added to them.
    pub(crate) fn without_meta(mut self) -> Self {
        self.mute = true;
        self
    }

    /// With another status.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Says the index to wait by, and nothing else of where the answer comes from.
    pub(crate) fn indexed(mut self, index: u64) -> Self {
        self.header = Some((INDEX, HeaderValue::from(index)));
        self
    }

    /// Ends the connection behind this answer.
    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Whether it ends its connection.
    pub(crate) fn closes(&self) -> bool {
        self.close
    }

    /// Makes the answer that goes out; its headers go into `headers`, which has none yet.
    pub(crate) fn finish(
        self,
        mut headers: HeaderMap,
        format: &Format<'_>,
    ) -> Response<Full<Bytes>> {
        let untouched = self.untouched;
        let (status, body) = self.write(&mut headers, format);
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        name_status(&mut response);
        *response.headers_mut() = headers;
        if untouched {
            response.extensions_mut().insert(Untouched);
        }
        response
    }

    /// Writes the headers of what goes out into `headers`, which has none yet; gives its status and its body.
    pub(crate) fn write(self, headers: &mut HeaderMap, format: &Format<'_>) -> (StatusCode, Bytes) {
        let Shape { routed, pretty, gzip: gzipped } = format.shape;
        headers.reserve(8 + format.always.len());
        if routed {
            headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
            headers.insert(ACL_POLICY, HeaderValue::from_static("allow"));
            for (name, value) in format.always {
                headers.append(name, value.clone());
            }
        }
        if let Some(meta) = &self.meta {
            meta.write(headers);
        }
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(content_type) = self.content.header() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if self.content == Content::Raw {
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
        }
        let mut body = self.body;
        if pretty && self.content == Content::Json {
            body = json::indent(&body).into();
        }
        // An archive is gzip already.
        if gzipped && routed && !body.is_empty() && self.content != Content::Archive {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            body = gzip(&body).into();
        }
        (self.status, body)
    }
}

/// Gives a status the name that it had when Go took it up.
pub(super) fn name_status<B>(response: &mut Response<B>) {
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let reason = ReasonPhrase::from_static(b"Request Entity Too Large");
        response.extensions_mut().insert(reason);
    }
}

impl Content {
    fn header(self) -> Option<&'static str> {
        match self {
            Self::Empty => None,
            Self::Json => Some("application/json"),
            Self::Text => Some("text/plain; charset=utf-8"),
            Self::Raw => Some("text/plain"),
            Self::Html => Some("text/html; charset=utf-8"),
            Self::Archive => Some("application/x-gzip"),
        }
    }
}

impl Meta {
    fn write(&self, headers: &mut HeaderMap) {
        // A client that waits on index 0 would never wait (rule B13).
        headers.insert(INDEX, HeaderValue::from(self.index.max(1)));
        headers.insert(
            KNOWN_LEADER,
            HeaderValue::from_static(if self.known_leader { "true" } else { "false" }),
        );
        let milliseconds = u64::try_from(self.last_contact.as_millis()).unwrap_or(u64::MAX);
        headers.insert(
            LAST_CONTACT,
            match milliseconds {
                0 => HeaderValue::from_static("0"),
                _ => HeaderValue::from(milliseconds),
            },
        );
        if let Some(consistency) = self.consistency {
            let word = match consistency {
                Consistency::Default => "leader",
                Consistency::Consistent => "consistent",
                Consistency::Stale => "stale",
            };
            headers.insert(EFFECTIVE_CONSISTENCY, HeaderValue::from_static(word));
        }
        headers.insert(QUERY_BACKEND, HeaderValue::from_static("blocking-query"));
    }
}

/// How a request wants its answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// Whether the path belongs to the API: only such answers carry `Vary` and the configured headers.
    pub routed: bool,
    /// Indent JSON.
    pub pretty: bool,
    /// The client takes gzip.
    pub gzip: bool,
}

/// How the client and the configuration want answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format<'a> {
    /// What the request says.
    pub shape: Shape,
    /// `http_config.response_headers`.
    pub always: &'a [(HeaderName, HeaderValue)],
}

/// Below this size compressing costs more than it saves: such bodies go into a gzip frame as they are.
const STORED_LIMIT: usize = 256;

thread_local! {
    /// A compressor is some hundred KiB of tables: each thread keeps one.
    static COMPRESSOR: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

/// Frames `body` as gzip (RFC 1952) around deflate (RFC 1951).
fn gzip(body: &[u8]) -> Vec<u8> {
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut out = Vec::with_capacity(body.len() / 2 + STORED_LIMIT + 64);
    out.extend_from_slice(&HEADER);
    let stored =
        u16::try_from(body.len()).ok().filter(|length| usize::from(*length) < STORED_LIMIT);
    if let Some(length) = stored {
        out.push(1);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(body);
    } else {
        COMPRESSOR.with_borrow_mut(|compressor| {
            compressor.reset();
            let mut read = 0;
            loop {
                out.reserve(body.len() / 4 + 64);
                let before = compressor.total_in();
                let status =
                    compressor.compress_vec(&body[read..], &mut out, FlushCompress::Finish);
                read += usize::try_from(compressor.total_in() - before).unwrap_or(0);
                // A buffer that is full is enlarged on the next turn.
                if !matches!(status, Ok(flate2::Status::Ok | flate2::Status::BufError)) {
                    break;
                }
            }
        });
    }
    let mut crc = Crc::new();
    crc.update(body);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    // The format counts modulo 2^32.
    let length = u32::try_from(body.len() & 0xffff_ffff).unwrap_or(0);
    out.extend_from_slice(&length.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn gzip_gives_back_what_went_in() {
        for length in [1, 17, 255, 256, 257, 70_000, 3_000_000] {
            let body: Vec<u8> = (0..length).map(|n: u64| ((n * n) >> 7).to_le_bytes()[0]).collect();
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&gzip(&body)[..]).read_to_end(&mut back).unwrap();
            assert_eq!(back, body);
        }
    }

    #[test]
    fn an_index_is_never_0() {
        let mut headers = HeaderMap::new();
        let last_contact = Duration::from_millis(12_823);
        Meta { last_contact, ..Meta::default() }.write(&mut headers);
        assert_eq!(headers["x-consul-index"], "1");
        assert_eq!(headers["x-consul-knownleader"], "false");
        assert_eq!(headers["x-consul-lastcontact"], "12823");
    }

    #[test]
    fn errors_become_answers_in_one_place() {
        for (error, status, text) in [
            (ServerError::NoLeader, 500, "No cluster leader"),
            (ServerError::Unavailable("disk full".into()), 503, "disk full"),
            (ServerError::Diverged("diverged".into()), 500, "diverged"),
            (ServerError::Remote("EOF".into()), 500, "rpc error making call: EOF"),
        ] {
            let reply = Refusal::from(error);
            assert_eq!((reply.status().as_u16(), reply.text()), (status, text));
            let retry = reply.header.is_some_and(|(name, _)| name == RETRY_AFTER);
            assert_eq!(retry, status == 503);
        }
    }
}
