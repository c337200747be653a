//! The archive that users save and restore: a gzipped tar of `meta.json`, `state.bin` and `SHA256SUMS`, as Consul's.

use std::{
    fmt::Write as _,
    io::{Read, Write as _},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use sha2::{Digest, Sha256};
use spec::state::{
    State,
    snapshot::{Loader, Saver},
};

use super::types::{ServerError, SnapshotFile, View};

/// The format of `state.bin`; Consul's is another, and refused.
pub(super) const STATE_VERSION: u64 = 1;

/// The most that an archive may unpack to, in bytes: what a state could be, with room to spare.
const MAX_UNPACKED: u64 = 64 << 30;

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

fn pack(state: &State, term: u64) -> std::io::Result<Vec<u8>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut stream = Vec::new();
    for chunk in Saver::archive(state.clone()) {
        stream.extend_from_slice(&chunk);
    }
    let meta = serde_json::json!({
        "Version": STATE_VERSION,
        "ID": format!("{}-{}-{}", term, state.index(), now.as_millis()),
        "Index": state.index(),
        "Term": term,
        "Peers": null,
        "Size": stream.len(),
    });
    let meta = format!("{meta}\n").into_bytes();
    let sums = format!("{}  meta.json\n{}  state.bin\n", sha256(&meta), sha256(&stream));
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in
        [("meta.json", &meta[..]), ("state.bin", &stream[..]), ("SHA256SUMS", sums.as_bytes())]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.as_secs());
        tar.append_data(&mut header, name, bytes)?;
    }
    let mut gzip = tar.into_inner()?;
    gzip.flush()?;
    gzip.finish()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Unpacks and checks an archive; gives the state's stream.
pub(super) async fn open(archive: Bytes) -> Result<Vec<u8>, ServerError> {
    let work = tokio::task::spawn_blocking(move || unpack(&archive));
    work.await.map_err(internal)?.map_err(ServerError::Refused)
}

/// Consul's texts where it has one. Nothing is restored of an archive that isn't whole.
fn unpack(archive: &[u8]) -> Result<Vec<u8>, String> {
    let gzip = GzDecoder::new(archive);
    if gzip.header().is_none() {
        let reason = if archive.len() < 10 { "unexpected EOF" } else { "gzip: invalid header" };
        return Err(format!("failed to decompress snapshot: {reason}"));
    }
    let read = |error: std::io::Error| format!("failed to read snapshot file: {error}");
    let (mut meta, mut state, mut sums) = (None, None, None);
    let mut tar = tar::Archive::new(gzip.take(MAX_UNPACKED));
    for file in tar.entries().map_err(read)? {
        let mut file = file.map_err(read)?;
        let name = file.path().map_err(read)?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(read)?;
        match name.as_str() {
            "meta.json" => meta = Some(bytes),
            "state.bin" => state = Some(bytes),
            "SHA256SUMS" => sums = Some(bytes),
            other => {
                return Err(format!("failed to read snapshot file: unexpected file {other:?}"));
            }
        }
    }
    let missing = |name: &str| format!("failed to read snapshot file: missing {name}");
    let meta = meta.ok_or_else(|| missing("meta.json"))?;
    let state = state.ok_or_else(|| missing("state.bin"))?;
    let sums = sums.ok_or_else(|| missing("SHA256SUMS"))?;
    let sums = String::from_utf8_lossy(&sums);
    for (name, bytes) in [("meta.json", &meta), ("state.bin", &state)] {
        let listed = sums.lines().any(|line| {
            line.split_once("  ").is_some_and(|(sum, file)| file == name && sum == sha256(bytes))
        });
        if !listed {
            return Err(format!(
                "failed checking integrity of snapshot: hash check failed for {name:?}"
            ));
        }
    }
    let meta: serde_json::Value = serde_json::from_slice(&meta)
        .map_err(|error| format!("failed to decode snapshot metadata: {error}"))?;
    // Read to its end before any of it is proposed: half a state must not replace a whole one.
    let mut loader = Loader::archive();
    let loaded = loader.push(&state).and_then(|()| loader.finish());
    if let Err(error) = loaded {
        return Err(format!(
            "failed to restore: state.bin (version {}, Proconsul's is {STATE_VERSION}): {error}",
            meta["Version"]
        ));
    }
    Ok(state)
}
