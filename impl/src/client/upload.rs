//! The body of a request on its way to a server.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;

/// A body that was read, and can be sent again, or one that passes through as it comes.
pub(crate) type Upload = Either<Full<Bytes>, Incoming>;

/// A body that was read.
pub(crate) fn whole(body: Bytes) -> Upload {
    Either::Left(Full::new(body))
}

/// No body.
pub(crate) fn empty() -> Upload {
    Either::Left(Full::default())
}

/// The same body once more, where it was read.
pub(super) fn again(body: &Upload) -> Option<Upload> {
    match body {
        Either::Left(whole) => Some(Either::Left(whole.clone())),
        Either::Right(_) => None,
    }
}
