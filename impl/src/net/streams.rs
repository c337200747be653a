//! What both ends of a connection of the Http class keep to: how many requests it carries, and how much of each.

use std::time::Duration;

use hyper::StatusCode;

/// Requests under way over one connection.
pub const MAX_STREAMS: usize = 8192;
/// What one stream may have on its way without being taken: a client that reads slowly holds up so much. At a round trip
/// of half a millisecond it allows for 256 MiB/s.
pub const STREAM_WINDOW: u32 = 128 << 10;
/// All streams, each with its window full, fit into it: a slow reader never holds up another's answer.
pub const CONNECTION_WINDOW: u32 = 1 << 30;
/// The longest head of a request, in bytes: what the HTTP server takes, keys of any length among it.
pub const MAX_HEAD: u32 = 512 << 10;
/// An end whose process stands still is found out after 6 s at most, a little sooner than one whose machine is gone.
pub const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Says that nothing has come of a request and nothing will, and that another server is to be asked (RFC 9110, section
/// 15.5.20). Nothing else says so: Consul's API has no such status.
pub const ELSEWHERE: StatusCode = StatusCode::MISDIRECTED_REQUEST;
/// How long the answer to a ping may take.
pub const PING_TIMEOUT: Duration = Duration::from_secs(4);
