//! `snapshot save`, `restore`, `inspect`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Command;
use hyper::Method;

use super::client::{Answer, connect};
use super::flags::{Given, with_api_options};
use super::{Ending, Group, Leaf, columns, go_error};
use crate::archive;

pub(super) const SNAPSHOT: Group = Group {
    path: &["snapshot"],
    synopsis: "Saves, restores and inspects snapshots of the servers' state",
    usage: "snapshot <subcommand> [options] [args]",
    about: "  Saves, restores and inspects the state of the servers, for disaster recovery.
  A snapshot is atomic and of one point in time. For example:

      $ proconsul snapshot save backup.snap
      $ proconsul snapshot restore backup.snap
      $ proconsul snapshot inspect backup.snap",
};

pub(super) const SAVE: Leaf = Leaf {
    path: &["snapshot", "save"],
    synopsis: "Saves snapshot of the servers' state",
    usage: "snapshot save [options] FILE",
    about: "\
Retrieves an atomic, point-in-time snapshot of the servers' state, verifies it
and saves it. With -stale any server gives it, also without a leader:

    $ proconsul snapshot save backup.snap
    $ proconsul snapshot save -stale backup.snap",
    definition: || with_api_options(Command::new("save")),
    run: save,
};

pub(super) const RESTORE: Leaf = Leaf {
    path: &["snapshot", "restore"],
    synopsis: "Restores snapshot of the servers' state",
    usage: "snapshot restore [options] FILE",
    about: "\
Replaces the servers' state by the one in the snapshot:

    $ proconsul snapshot restore backup.snap",
    definition: || with_api_options(Command::new("restore")),
    run: restore,
};

pub(super) const INSPECT: Leaf = Leaf {
    path: &["snapshot", "inspect"],
    synopsis: "Displays information about a snapshot file",
    usage: "snapshot inspect [options] FILE",
    about: "\
Displays information about a snapshot file on disk, after verifying it:

    $ proconsul snapshot inspect backup.snap",
    definition: || Command::new("inspect"),
    run: inspect,
};

fn file_of(given: &Given) -> Result<PathBuf, String> {
    match given.arguments().as_slice() {
        [] => Err("Missing FILE argument".to_owned()),
        [file] => Ok(PathBuf::from(file)),
        more => Err(format!("Too many arguments (expected 1, got {})", more.len())),
    }
}

fn open_error(path: &Path, error: &io::Error) -> String {
    format!("open {}: {}", path.display(), go_error(error))
}

fn save(given: &Given) -> Result<Ending, String> {
    let file = file_of(given)?;
    let client = connect(given)?;
    let answer = client
        .send(&Method::GET, "snapshot", &[], Bytes::new())
        .and_then(Answer::ok)
        .map_err(|error| format!("Error saving snapshot: {error}"))?;
    let mut unverified = file.clone().into_os_string();
    unverified.push(format!(".unverified.{}", std::process::id()));
    let unverified = PathBuf::from(unverified);
    let saved = save_verified(&answer.body, &unverified, &file);
    if saved.is_err() {
        // What isn't verified must not be taken for a backup later.
        let _ = fs::remove_file(&unverified);
    }
    saved?;
    let index = answer.headers.get("x-consul-index").and_then(|index| index.to_str().ok());
    Ok(Ending::line(format!("Saved and verified snapshot to index {}", index.unwrap_or("0"))))
}

/// Writes a file so that it is whole or not there, and its content survives a crash; nobody else may read it.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file: File = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn save_verified(bytes: &[u8], unverified: &Path, file: &Path) -> Result<(), String> {
    write_private(unverified, bytes).map_err(|error| {
        format!("Error writing unverified snapshot file: {}", open_error(unverified, &error))
    })?;
    let written = File::open(unverified).map_err(|error| {
        format!("Error opening snapshot file for verify: {}", open_error(unverified, &error))
    })?;
    archive::unpack(written, &mut io::sink())
        .map_err(|error| format!("Error verifying snapshot file: {error}"))?;
    fs::rename(unverified, file).map_err(|error| {
        format!(
            "Error renaming {:?} to {:?}: {}",
            unverified.display().to_string(),
            file.display().to_string(),
            go_error(&error)
        )
    })
}

fn restore(given: &Given) -> Result<Ending, String> {
    let file = file_of(given)?;
    let client = connect(given)?;
    let body = fs::read(&file)
        .map_err(|error| format!("Error opening snapshot file: {}", open_error(&file, &error)))?;
    client
        .send(&Method::PUT, "snapshot", &[], body.into())
        .and_then(Answer::ok)
        .map_err(|error| format!("Error restoring snapshot: {error}"))?;
    Ok(Ending::line("Restored snapshot"))
}

fn inspect(given: &Given) -> Result<Ending, String> {
    let file = file_of(given)?;
    let opened = File::open(&file)
        .map_err(|error| format!("Error opening snapshot file: {}", open_error(&file, &error)))?;
    let meta = archive::unpack(opened, &mut io::sink())
        .map_err(|error| format!("Error verifying snapshot: {error}"))?;
    let mut out = columns::pairs(&[
        ("ID", meta.id.as_bytes()),
        ("Size", meta.size.to_string().as_bytes()),
        ("Index", meta.index.to_string().as_bytes()),
        ("Term", meta.term.to_string().as_bytes()),
        ("Version", meta.version.to_string().as_bytes()),
    ]);
    out.push(b'\n');
    Ok(Ending::Done(out))
}
