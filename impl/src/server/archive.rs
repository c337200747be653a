//! A state as an archive that users save, and back.

use std::io;

use bytes::Bytes;
use spec::state::{
    State,
    snapshot::{Loader, Saver},
};

use super::types::{ServerError, SnapshotFile, View};
use crate::archive;

/// The format of `state.bin`; Consul's is another, and refused.
pub(super) const STATE_VERSION: u64 = 1;

fn internal(error: impl std::fmt::Display) -> ServerError {
    ServerError::Refused(format!("snapshot: {error}"))
}

/// Makes the archive of a state.
pub(super) async fn save(view: View, term: u64) -> Result<SnapshotFile, ServerError> {
    let (known_leader, last_contact) = (view.known_leader, view.last_contact);
    let work = tokio::task::spawn_blocking(move || {
        let index = view.state.index();
        pack(&view.state, term).map(|bytes| (bytes, index))
    });
    let (bytes, index) = work.await.map_err(internal)?.map_err(internal)?;
    Ok(SnapshotFile { bytes: bytes.into(), index, known_leader, last_contact })
}

fn pack(state: &State, term: u64) -> io::Result<Vec<u8>> {
    let mut stream = Vec::new();
    for chunk in Saver::archive(state.clone()) {
        stream.extend_from_slice(&chunk);
    }
    archive::pack(STATE_VERSION, state.index(), term, &stream)
}

/// Unpacks and checks an archive; gives the state's stream.
pub(super) async fn open(archive: Bytes) -> Result<Vec<u8>, ServerError> {
    let work = tokio::task::spawn_blocking(move || unpack(&archive));
    work.await.map_err(internal)?.map_err(ServerError::Refused)
}

/// Nothing is restored of an archive that isn't whole.
fn unpack(archive: &[u8]) -> Result<Vec<u8>, String> {
    let mut state = Vec::new();
    let meta = archive::unpack(archive, &mut state)?;
    // Read to its end before any of it is proposed: half a state must not replace a whole one.
    let mut loader = Loader::archive();
    loader.push(&state).and_then(|()| loader.finish()).map_err(|error| {
        let version = meta.version;
        format!(
            "failed to restore: state.bin (version {version}, Proconsul's is {STATE_VERSION}): {error}"
        )
    })?;
    Ok(state)
}
