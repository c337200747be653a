//! The file system as the log and the snapshots see it: one flat directory of files that are written at offsets.
//!
//! [`Disk`] is the real one. [`super::memory::Memory`] keeps everything in memory, can be made to fail, and can crash.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, OFlags};

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
    /// As [`Self::write_at`], past the page cache where the file system can: for much that nobody reads soon. Both `offset`
    /// and `bytes`, their place in memory too, are whole blocks, as `Blocks` has them.
    fn write_past_cache(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.write_at(bytes, offset)
    }
    /// Fills `bytes` from an offset.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// Writes all of `bytes`; a short write is an error.
pub(super) fn write_whole(file: &dyn DataFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    whole(file.write_at(bytes, offset)?, bytes)
}

/// As [`write_whole`], by [`DataFile::write_past_cache`].
pub(super) fn write_whole_past_cache(
    file: &dyn DataFile,
    bytes: &[u8],
    offset: u64,
) -> io::Result<()> {
    whole(file.write_past_cache(bytes, offset)?, bytes)
}

fn whole(written: usize, bytes: &[u8]) -> io::Result<()> {
    if written == bytes.len() {
        return Ok(());
    }
    let text = format!("a short write: {written} of {} bytes", bytes.len());
    Err(io::Error::new(io::ErrorKind::WriteZero, text))
}

/// What a file's ranges and the memory that is written to them are multiples of where the page cache is left out: a page,
/// and no less than any disk's block.
pub(super) const BLOCK: usize = 4096;

/// Memory that begins with a block: a disk can take it from where it lies.
pub(super) struct Blocks {
    memory: Vec<u8>,
    start: usize,
}

impl Blocks {
    /// How large it is, in bytes.
    pub(super) const SIZE: usize = 1 << 20;

    /// All zeros.
    pub(super) fn new() -> Self {
        let memory = vec![0; Self::SIZE + BLOCK];
        // A pointer that can't be aligned would be written as any other: the write is refused, and done through the cache.
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { memory, start }
    }

    /// The first bytes of it, [`Self::SIZE`] at most.
    pub(super) fn first(&self, length: usize) -> &[u8] {
        &self.memory[self.start..self.start + length]
    }
}

/// Bytes that go to a file one after another, in large writes past the page cache. A snapshot is as large as the state: to
/// copy it into the cache costs more of a processor than to make it, and takes the place of what is read.
pub(super) struct Run {
    blocks: Blocks,
    length: usize,
    /// Where in the file the bytes go.
    offset: u64,
}

impl Run {
    /// Bytes for the beginning of a file.
    pub(super) fn new() -> Self {
        Self { blocks: Blocks::new(), length: 0, offset: 0 }
    }

    /// Where in the file the next byte goes.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.length as u64
    }

    fn bytes(&self) -> &[u8] {
        self.blocks.first(self.length)
    }

    /// Adds `bytes`, and writes what is full.
    pub(super) fn push(&mut self, file: &dyn DataFile, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(Blocks::SIZE - self.length));
            let from = self.blocks.start + self.length;
            self.blocks.memory[from..from + now.len()].copy_from_slice(now);
            self.length += now.len();
            bytes = later;
            if self.length == Blocks::SIZE {
                write_whole_past_cache(file, self.bytes(), self.offset)?;
                self.offset = self.end();
                self.length = 0;
            }
        }
        Ok(())
    }

    /// Writes the rest, which is no whole block.
    pub(super) fn finish(&mut self, file: &dyn DataFile) -> io::Result<()> {
        write_whole(file, self.bytes(), self.offset)?;
        self.offset = self.end();
        self.length = 0;
        Ok(())
    }
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
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
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

    fn write_past_cache(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let flags = rustix::fs::fcntl_getfl(&self.0)?;
        // Not all file systems can.
        if rustix::fs::fcntl_setfl(&self.0, flags | OFlags::DIRECT).is_ok() {
            let written = rustix::io::pwrite(&self.0, bytes, offset);
            rustix::fs::fcntl_setfl(&self.0, flags)?;
            if !matches!(written, Err(rustix::io::Errno::INVAL | rustix::io::Errno::INTR)) {
                return Ok(written?);
            }
        }
        self.write_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }
}
