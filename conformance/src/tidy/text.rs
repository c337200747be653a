//! What no tracked file may say, and files that grew long.

use super::Source;

/// Words that would tie the work to one machine or to one archive. Written in halves, or this file would have them.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("/ho", "me/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/Us", "ers/"), "a path of one machine"),
    (concat!("/tmp/", "peers"), "a path of one machine"),
    (concat!("deb.", "debian.org"), "a registry's host: apt knows its own"),
    (concat!("static.", "crates.io"), "a registry's host: cargo knows its own"),
    (concat!("index.", "crates.io"), "a registry's host: cargo knows its own"),
    (concat!("releases.", "hashicorp.com"), "a registry's host"),
];

/// A file of more lines than this is worth a look for the second thing in it.
const LONG: usize = 700;

/// Lines with a forbidden word.
pub fn forbidden(sources: &[Source]) -> Vec<String> {
    let mut failures = Vec::new();
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            for (word, what) in FORBIDDEN {
                if has_path(line, word) {
                    failures.push(format!("{}:{}: {word}: {what}", source.path, number + 1));
                }
            }
        }
    }
    failures
}

/// Whether `word` stands in a line; a path only where it begins there, not within a longer path or address.
fn has_path(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !word.starts_with('/') || !before.is_some_and(|c| c.is_alphanumeric() || "_.-}".contains(c))
    })
}

/// Rust files that grew long.
pub fn long_files(sources: &[Source]) -> Vec<String> {
    let rust = sources.iter().filter(|source| super::has_extension(&source.path, "rs"));
    rust.filter(|source| source.text.lines().count() > LONG)
        .map(|source| format!("{} has {} lines", source.path, source.text.lines().count()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        forbidden(&[Source { path: "a.md".to_owned(), text: text.to_owned() }])
    }

    #[test]
    fn paths_of_a_machine_and_hosts_of_registries_are_found() {
        for (word, _) in FORBIDDEN {
            assert_eq!(lines(&format!("see {word}x\n")).len(), 1, "{word}");
            assert_eq!(lines(&format!("`{word}x`\n")).len(), 1, "{word}");
        }
    }

    #[test]
    fn a_longer_path_with_the_same_part_is_not_meant() {
        assert_eq!(lines(concat!("/v1/connect/ca/ro", "ots and $dir/ho", "me/x\n")), [""; 0]);
        assert_eq!(lines(concat!("{H}/ro", "ot/x\n")), [""; 0]);
    }

    #[test]
    fn long_files_are_told() {
        let source = |lines: usize| Source { path: "a.rs".to_owned(), text: "\n".repeat(lines) };
        assert_eq!(long_files(&[source(700)]), [""; 0]);
        assert_eq!(long_files(&[source(701)]), ["a.rs has 701 lines"]);
    }
}
