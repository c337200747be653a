//! The archive that users save and restore: a gzipped tar of `meta.json`, `state.bin` and `SHA256SUMS`, as Consul's.
//!
//! What is wrong with one is told in Consul's words.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Read, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// The largest `meta.json` and `SHA256SUMS` that are read; the real ones are a few hundred bytes.
const MAX_SMALL_FILE_BYTES: u64 = 1 << 20;
/// The most that an archive may unpack to: what a state could be, with room to spare.
const MAX_UNPACKED_BYTES: u64 = 64 << 30;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const GZIP_HEADER_BYTES: usize = 10;

/// What an archive says of itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct Meta {
    /// The version of its format.
    #[serde(default)]
    pub version: u64,
    /// The snapshot's id.
    #[serde(rename = "ID", default)]
    pub id: String,
    /// The index of the last entry in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The bytes of its state.
    #[serde(default)]
    pub size: u64,
}

/// Makes an archive of a state's bytes.
pub fn pack(version: u64, index: u64, term: u64, state: &[u8]) -> io::Result<Vec<u8>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let meta = serde_json::json!({
        "Version": version,
        "ID": format!("{term}-{index}-{}", now.as_millis()),
        "Index": index,
        "Term": term,
        "Peers": null,
        "Size": state.len(),
    });
    let meta = format!("{meta}\n").into_bytes();
    let sum = |bytes: &[u8]| hex(&Sha256::digest(bytes));
    let sums = format!("{}  meta.json\n{}  state.bin\n", sum(&meta), sum(state));
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in
        [("meta.json", &meta[..]), ("state.bin", state), ("SHA256SUMS", sums.as_bytes())]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.as_secs());
        tar.append_data(&mut header, name, bytes)?;
    }
    tar.into_inner()?.finish()
}

/// Reads an archive to its end and checks its sums; the state's bytes go into `state` as they pass.
pub fn unpack(mut archive: impl Read, state: &mut impl Write) -> Result<Meta, String> {
    let mut header = [0; GZIP_HEADER_BYTES];
    archive
        .read_exact(&mut header)
        .map_err(|error| format!("failed to decompress snapshot: {}", archive_error(&error)))?;
    if !header.starts_with(&GZIP_MAGIC) {
        return Err("failed to decompress snapshot: gzip: invalid header".to_owned());
    }
    let gzip = GzDecoder::new(header.chain(archive));
    read(tar::Archive::new(gzip.take(MAX_UNPACKED_BYTES)), state)
        .map_err(|error| format!("failed to read snapshot file: {error}"))
}

fn read(mut tar: tar::Archive<impl Read>, state: &mut impl Write) -> Result<Meta, String> {
    let unreadable =
        |error: io::Error| format!("failed reading snapshot: {}", archive_error(&error));
    let mut sums = BTreeMap::new();
    let mut meta: Option<Meta> = None;
    let mut stated = None;
    let mut state_bytes = 0;
    for entry in tar.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path().map_err(unreadable)?.display().to_string();
        match name.as_str() {
            "meta.json" => {
                let text = small(&mut entry).map_err(unreadable)?;
                sums.insert(name, hex(&Sha256::digest(&text)));
                let decoded = serde_json::from_slice(&text);
                meta = Some(
                    decoded
                        .map_err(|error| format!("failed to decode snapshot metadata: {error}"))?,
                );
            }
            "state.bin" => {
                let mut hash = Sha256::new();
                state_bytes = copy(&mut entry, &mut hash, state).map_err(|error| {
                    format!("failed to read or write snapshot data: {}", archive_error(&error))
                })?;
                sums.insert(name, hex(&hash.finalize()));
            }
            "SHA256SUMS" => stated = Some(small(&mut entry).map_err(unreadable)?),
            other => return Err(format!("unexpected file {other:?} in snapshot")),
        }
    }
    let missing = "failed checking integrity of snapshot: list of hashes is missing";
    compare(&String::from_utf8_lossy(&stated.ok_or(missing)?), &sums)
        .map_err(|error| format!("failed checking integrity of snapshot: {error}"))?;
    let mut meta = meta.ok_or("metadata is missing")?;
    meta.size = state_bytes;
    Ok(meta)
}

fn archive_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        _ => crate::cli::go_error(error),
    }
}

fn small(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    entry.take(MAX_SMALL_FILE_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

fn copy(entry: &mut impl Read, hash: &mut Sha256, state: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match entry.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(read) => {
                hash.update(&buffer[..read]);
                state.write_all(&buffer[..read])?;
                total += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn compare(stated: &str, sums: &BTreeMap<String, String>) -> Result<(), String> {
    let mut seen = 0;
    for line in stated.lines() {
        let Some((sum, name)) = line.split_once("  ") else {
            return Err("list of hashes is malformed".to_owned());
        };
        match sums.get(name) {
            Some(found) if found == sum => seen += 1,
            Some(_) => return Err(format!("hash check failed for {name:?}")),
            None => return Err(format!("list missing hash for {name:?}")),
        }
    }
    // `state.bin` that is listed but not there is found here as well.
    if seen == sums.len() { Ok(()) } else { Err("file missing for hash list".to_owned()) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_cksum();
            tar.append_data(&mut header, name, *content).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    const META: &[u8] = br#"{"Version":1,"ID":"2-24-17","Index":24,"Term":2,"Size":5}"#;

    fn sums(state: &[u8]) -> String {
        format!(
            "{}  meta.json\n{}  state.bin\n",
            hex(&Sha256::digest(META)),
            hex(&Sha256::digest(state))
        )
    }

    #[test]
    fn an_archive_verifies_against_its_sums() {
        let good = packed(&[
            ("meta.json", META),
            ("state.bin", b"state"),
            ("SHA256SUMS", sums(b"state").as_bytes()),
        ]);
        let mut state = vec![];
        let meta = unpack(good.as_slice(), &mut state).unwrap();
        assert_eq!(state, b"state");
        assert_eq!(
            (meta.id.as_str(), meta.index, meta.term, meta.version, meta.size),
            ("2-24-17", 24, 2, 1, 5)
        );
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let packed = pack(1, 24, 2, b"the state").unwrap();
        let mut state = vec![];
        let meta = unpack(packed.as_slice(), &mut state).unwrap();
        assert_eq!((meta.version, meta.index, meta.term, meta.size), (1, 24, 2, 9));
        assert!(meta.id.starts_with("2-24-"));
        assert_eq!(state, b"the state");
    }

    #[test]
    fn a_changed_or_missing_part_is_refused() {
        let other = sums(b"state");
        let changed = packed(&[
            ("meta.json", META),
            ("state.bin", b"STATE"),
            ("SHA256SUMS", other.as_bytes()),
        ]);
        assert!(
            unpack(changed.as_slice(), &mut io::sink())
                .unwrap_err()
                .contains("hash check failed for \"state.bin\"")
        );
        let missing = packed(&[("meta.json", META), ("SHA256SUMS", other.as_bytes())]);
        assert!(unpack(missing.as_slice(), &mut io::sink()).is_err());
        let unsummed = packed(&[("meta.json", META), ("state.bin", b"state")]);
        assert!(unpack(unsummed.as_slice(), &mut io::sink()).is_err());
    }

    #[test]
    fn what_is_no_archive_is_told_in_consul_s_words() {
        assert_eq!(
            unpack(&b"vm\n"[..], &mut io::sink()).unwrap_err(),
            "failed to decompress snapshot: unexpected EOF"
        );
        assert_eq!(
            unpack(&[b'a'; 40][..], &mut io::sink()).unwrap_err(),
            "failed to decompress snapshot: gzip: invalid header"
        );
        let good = packed(&[("meta.json", META), ("state.bin", &vec![7; 100_000])]);
        assert!(
            unpack(&good[..good.len() / 2], &mut io::sink())
                .unwrap_err()
                .ends_with("unexpected EOF")
        );
    }
}
