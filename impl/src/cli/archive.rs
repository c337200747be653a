//! A snapshot's archive as a file: a gzipped tar of `meta.json`, `state.bin` and `SHA256SUMS`, and how it is verified.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;

use flate2::read::GzDecoder;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::go_error;

/// The largest `meta.json` and `SHA256SUMS` that are read; the real ones are a few hundred bytes.
const MAX_SMALL_FILE_BYTES: u64 = 1 << 20;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const GZIP_HEADER_BYTES: usize = 10;

/// What an archive says of itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct Meta {
    /// The snapshot's id.
    #[serde(rename = "ID", default)]
    pub id: String,
    /// The index of the last entry in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The version of its format.
    #[serde(default)]
    pub version: u64,
    /// The bytes of its state.
    #[serde(default)]
    pub size: u64,
}

/// Reads an archive to its end and checks its sums; the state itself is hashed as it passes, and not kept.
pub fn verify(mut archive: impl Read) -> Result<Meta, String> {
    let mut header = [0; GZIP_HEADER_BYTES];
    archive
        .read_exact(&mut header)
        .map_err(|error| format!("failed to decompress snapshot: {}", archive_error(&error)))?;
    if !header.starts_with(&GZIP_MAGIC) {
        return Err("failed to decompress snapshot: gzip: invalid header".to_owned());
    }
    let mut tar = tar::Archive::new(GzDecoder::new(header.chain(archive)));
    let unreadable = |error: &io::Error| {
        format!("failed to read snapshot file: failed reading snapshot: {}", archive_error(error))
    };
    let mut sums = BTreeMap::new();
    let mut meta: Option<Meta> = None;
    let mut stated = None;
    let mut state_bytes = 0;
    for entry in tar.entries().map_err(|error| unreadable(&error))? {
        let mut entry = entry.map_err(|error| unreadable(&error))?;
        let name = entry.path().map_err(|error| unreadable(&error))?.display().to_string();
        match name.as_str() {
            "meta.json" => {
                let text = small(&mut entry).map_err(|error| unreadable(&error))?;
                sums.insert(name, hex(&Sha256::digest(&text)));
                meta = Some(serde_json::from_slice(&text).map_err(|error| {
                    format!(
                        "failed to read snapshot file: failed to decode snapshot metadata: {error}"
                    )
                })?);
            }
            "state.bin" => {
                let mut hash = Sha256::new();
                state_bytes = copy_into(&mut entry, &mut hash).map_err(|error| {
                    format!(
                        "failed to read snapshot file: failed to read or write snapshot data: {}",
                        archive_error(&error)
                    )
                })?;
                sums.insert(name, hex(&hash.finalize()));
            }
            "SHA256SUMS" => stated = Some(small(&mut entry).map_err(|error| unreadable(&error))?),
            other => {
                return Err(format!(
                    "failed to read snapshot file: unexpected file {other:?} in snapshot"
                ));
            }
        }
    }
    let stated = stated.ok_or("failed to read snapshot file: failed checking integrity of snapshot: list of hashes is missing")?;
    compare(&String::from_utf8_lossy(&stated), &sums)?;
    let mut meta = meta.ok_or("failed to read snapshot file: metadata is missing")?;
    meta.size = state_bytes;
    Ok(meta)
}

fn archive_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        _ => go_error(error),
    }
}

fn small(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    entry.take(MAX_SMALL_FILE_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

fn copy_into(entry: &mut impl Read, hash: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match entry.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(read) => {
                hash.update(&buffer[..read]);
                total += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn compare(stated: &str, sums: &BTreeMap<String, String>) -> Result<(), String> {
    let failed = |why: String| {
        Err(format!("failed to read snapshot file: failed checking integrity of snapshot: {why}"))
    };
    let mut seen = 0;
    for line in stated.lines() {
        let Some((sum, name)) = line.split_once("  ") else {
            return failed("list of hashes is malformed".to_owned());
        };
        match sums.get(name) {
            Some(found) if found == sum => seen += 1,
            Some(_) => return failed(format!("hash check failed for {name:?}")),
            None => return failed(format!("list missing hash for {name:?}")),
        }
    }
    if seen == sums.len() { Ok(()) } else { failed("file missing for hash list".to_owned()) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes a file so that it is whole or not there, and its content survives a crash; nobody else may read it.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file: File = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

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
        let meta = verify(good.as_slice()).unwrap();
        assert_eq!(
            (meta.id.as_str(), meta.index, meta.term, meta.version, meta.size),
            ("2-24-17", 24, 2, 1, 5)
        );
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
            verify(changed.as_slice()).unwrap_err().contains("hash check failed for \"state.bin\"")
        );
        let missing = packed(&[("meta.json", META), ("SHA256SUMS", other.as_bytes())]);
        assert!(verify(missing.as_slice()).is_err());
        let unsummed = packed(&[("meta.json", META), ("state.bin", b"state")]);
        assert!(verify(unsummed.as_slice()).is_err());
    }

    #[test]
    fn what_is_no_archive_is_told_in_consul_s_words() {
        assert_eq!(
            verify(&b"vm\n"[..]).unwrap_err(),
            "failed to decompress snapshot: unexpected EOF"
        );
        assert_eq!(
            verify(&[b'a'; 40][..]).unwrap_err(),
            "failed to decompress snapshot: gzip: invalid header"
        );
        let good = packed(&[("meta.json", META), ("state.bin", &vec![7; 100_000])]);
        assert!(verify(&good[..good.len() / 2]).unwrap_err().ends_with("unexpected EOF"));
    }
}
