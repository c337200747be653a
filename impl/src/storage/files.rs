//! The file system as the log and the snapshots see it: one flat directory of files that are written at offsets.
//!
//! [`Disk`] is the real one. [`super::memory::Memory`] keeps everything in memory, can be made to fail, and can crash.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::fs::FallocateFlags;

/// A directory of files.
pub trait Directory: Send + Sync {
    /// Where it is, for messages.
    fn path(&self) -> &Path;
    /// The names of its files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file that exists.
    fn open(&self, name: &str) -> io::Result<Box<dyn DataFile>>;
    /// Creates a file, or empties the one that exists.
    fn create(&self, name: &str) -> io::Result<Box<dyn DataFile>>;
    /// Gives a file another name, in place of the one that has it. Durable after [`Self::sync`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Durable after [`Self::sync`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes durable which files there are.
    fn sync(&self) -> io::Result<()>;
}

/// A file of a [`Directory`].
pub trait DataFile: Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Reserves room on the disk up to this length, where the file system can.
    fn reserve(&self, length: u64) -> io::Result<()>;
    /// Writes at an offset with one call; gives how many bytes it took.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Fills `bytes` from an offset.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// Writes all of `bytes`; a short write is an error.
pub(super) fn write_whole(file: &dyn DataFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let written = file.write_at(bytes, offset)?;
    if written == bytes.len() {
        return Ok(());
    }
    let text = format!("a short write: {written} of {} bytes", bytes.len());
    Err(io::Error::new(io::ErrorKind::WriteZero, text))
}

/// A directory on a disk.
#[derive(Clone, Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Creates the directory where it doesn't exist.
    pub fn create(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Takes the directory that exists.
    pub fn existing(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

impl Directory for Disk {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DataFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Box::new(OnDisk(file)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DataFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Box::new(OnDisk(options.open(self.path.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        sync_directory(&self.path)
    }
}

/// Makes durable which files a directory has.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

struct OnDisk(File);

impl DataFile for OnDisk {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, length) {
            // Some file systems can't; the zeros that are written next take the room as well.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        loop {
            match rustix::io::pwrite(&self.0, bytes, offset) {
                // Interrupted before anything was written.
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }
}
