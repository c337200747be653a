//! A small file system of its own, which can be filled.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::namespaces;

/// A file system in memory, mounted on a folder; unmounted on drop.
#[derive(Debug)]
pub struct Volume(PathBuf);

impl Volume {
    /// Mounts one of so many MiB on `folder`, which it makes. None where this process may not mount any, unless
    /// `PROCONSUL_REQUIRE_NAMESPACES=1` says that it must: a test without it says that it was left out.
    pub fn mount(folder: &Path, mib: u32) -> Result<Option<Self>> {
        fs::create_dir_all(folder)?;
        let size = format!("size={mib}m");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder)
            .output()
            .context("mount")?;
        if done.status.success() {
            return Ok(Some(Self(folder.to_owned())));
        }
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(!namespaces::required(), "can't mount a file system: {said}");
        println!("left out: can't mount a file system: {said}");
        Ok(None)
    }

    /// Takes all the room that is left.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = OpenOptions::new().create(true).append(true).open(self.ballast())?;
        for size in [1 << 20, 4 << 10, 1] {
            let block = vec![1; size];
            loop {
                match ballast.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => bail!("filling {}: {error}", self.0.display()),
                }
            }
        }
        Ok(())
    }

    /// Gives that room back.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Whoever still has files open there keeps them until it ends.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
