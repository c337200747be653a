//! Request bodies: read whole, counted while they come in, never waited for without end.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    Version,
    body::{Body, Incoming},
};
use tokio::time::timeout;

/// How long the next piece of a body may take.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a refused body is read so that the client gets to see why it was refused.
const DRAIN_LIMIT: usize = 64 << 20;
/// How long that may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no body.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// It is larger than allowed: so much had come when that was clear.
    TooLarge(u64),
    /// The client stopped in the middle.
    Broken(String),
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read(body: Incoming, limit: u64) -> Result<Bytes, BodyError> {
    read_by(body, limit, Version::HTTP_11).await
}

/// Reads a body of at most `limit` bytes of a request that came by `version`.
pub(crate) async fn read_by(
    mut body: Incoming,
    limit: u64,
    version: Version,
) -> Result<Bytes, BodyError> {
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut length = 0_u64;
    while let Some(data) = next(&mut body).await? {
        length += u64::try_from(data.len()).unwrap_or(u64::MAX);
        if length > limit {
            drain(body);
            return Err(BodyError::TooLarge(length));
        }
        match &first {
            None if rest.is_empty() => first = Some(data),
            _ => {
                // Most bodies come in one piece and are never copied.
                rest.extend_from_slice(&first.take().unwrap_or_default());
                rest.extend_from_slice(&data);
            }
        }
    }
    // By HTTP/2 a body also ends where its stream is reset with NO_ERROR. hyper resets them so when a connection's
    // keep-alive times out, and what an agent had announced and not yet sent was taken for an empty value.
    let whole = match body.size_hint().exact() {
        Some(missing) => missing == 0,
        None => version != Version::HTTP_2 || body.is_end_stream(),
    };
    if !whole {
        return Err(BodyError::Broken("unexpected EOF".to_owned()));
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>, BodyError> {
    loop {
        if body.is_end_stream() {
            return Ok(None);
        }
        let mut frame = pin!(body.frame());
        // Nearly every body is there already: no timer for it.
        let ready = poll_fn(|cx| Poll::Ready(frame.as_mut().poll(cx))).await;
        let frame = match ready {
            Poll::Ready(frame) => frame,
            Poll::Pending => timeout(PIECE_TIMEOUT, frame)
                .await
                .map_err(|_| BodyError::Broken("timed out reading the request body".to_owned()))?,
        };
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(BodyError::Broken(error.to_string())),
            // Trailers are of no interest.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Reads a refused body in the background, within bounds: closing a socket with unread data in it resets the
/// connection, and the client would see the reset instead of the answer.
pub(crate) fn drain(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(timeout(DRAIN_TIMEOUT, async move {
        let mut left = DRAIN_LIMIT;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(remaining) => left = remaining,
                None => break,
            }
        }
    }));
}
