//! The command line.

use std::io;

/// An operating system's error in Go's words, which scripts match on: `no such file or directory`.
pub fn go_error(error: &io::Error) -> String {
    let text = error.to_string();
    let Some(code) = error.raw_os_error() else { return text };
    let text = text.trim_end_matches(&format!(" (os error {code})"));
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
