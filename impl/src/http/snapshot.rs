//! `/v1/snapshot`: the whole state as an archive, and back.

use hyper::{StatusCode, body::Incoming};

use super::{
    Inner,
    body::{self, BodyError},
    respond::{Failure, Meta, Refusal, Reply},
};

/// The largest archive that is taken in: it is held in memory while it is checked.
const ARCHIVE_LIMIT: u64 = 1 << 30;

/// Gives an archive of the state.
pub(crate) async fn save(inner: &Inner, stale: bool) -> Result<Reply, Refusal> {
    let file = inner.server.save_snapshot(stale).await?;
    Ok(Reply::archive(file.bytes).with_meta(Meta {
        index: file.index,
        known_leader: file.known_leader,
        last_contact: file.last_contact,
        consistency: None,
    }))
}

/// Puts the state of an archive in place of what stands.
pub(crate) async fn restore(inner: &Inner, incoming: Incoming) -> Result<Reply, Refusal> {
    let archive = match body::read(incoming, ARCHIVE_LIMIT).await {
        Ok(archive) => archive,
        Err(BodyError::TooLarge(length)) => {
            let text = format!("snapshot of more than {ARCHIVE_LIMIT} bytes ({length} read)");
            return Err(Reply::text_with(StatusCode::PAYLOAD_TOO_LARGE, text).closing().into());
        }
        Err(BodyError::Broken(text)) => {
            return Err(Failure::internal(format!("failed to read snapshot: {text}")).into());
        }
    };
    inner.server.restore_snapshot(archive).await?;
    Ok(Reply::empty(StatusCode::OK))
}
