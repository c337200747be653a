//! The log of a run: its lines, or the last of them, and a fingerprint of all.

use std::{collections::VecDeque, fmt::Write as _};

use spec::time::Instant;

/// Lines that are kept where the whole log isn't wanted.
const KEPT: usize = 400;

/// The log.
#[derive(Debug)]
pub struct Journal {
    lines: VecDeque<String>,
    whole: bool,
    hash: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Journal {
    /// An empty log.
    pub fn new(whole: bool) -> Self {
        Self { lines: VecDeque::new(), whole, hash: 0xcbf2_9ce4_8422_2325 }
    }

    /// Adds a line.
    pub fn line(&mut self, now: Instant, text: std::fmt::Arguments<'_>) {
        let mut line = format!("{:>5}.{:06} ", now.0 / 1_000_000, now.0 % 1_000_000);
        let _ = line.write_fmt(text);
        // FNV-1a: the same on every machine and in every run.
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if !self.whole && self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// A fingerprint of every line so far, kept or not.
    pub fn fingerprint(&self) -> u64 {
        self.hash
    }

    /// The lines that were kept.
    pub fn into_text(self) -> String {
        self.lines.into_iter().collect::<Vec<_>>().join("\n")
    }
}
