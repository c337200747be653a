//! Who may import whom; who may touch files and sockets.

use serde_json::Value;

use super::{Source, packages};

/// For each package of ours, which others of ours it may depend on, in any way.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("spec", &[]),
    ("agent-sync", &[]),
    ("model", &["spec"]),
    // What must hold of the decoders stands with the fuzz targets; only the tests of `gossip-wire` may use it, or there
    // would be a circle.
    ("gossip-wire", &["spec", "gossip-fuzz"]),
    ("gossip-fuzz", &["spec", "gossip-wire"]),
    ("proconsul", &["spec", "agent-sync", "gossip-wire"]),
    ("conformance", &["spec", "proconsul", "agent-sync", "gossip-wire"]),
    ("benches", &["spec", "proconsul", "agent-sync", "gossip-wire", "conformance"]),
];

/// All that the concurrent primitives may depend on.
const AGENT_SYNC: &[&str] = &["arc-swap", "loom"];

/// A way to touch the world, and where in the sources it may stand.
struct Touch {
    what: &'static str,
    words: &'static [&'static str],
    within: &'static str,
    allowed: &'static [&'static str],
}

/// How bincode is asked to encode and to decode; deriving what it needs is free to all.
const BINCODE: &[&str] =
    &["bincode::config", "bincode::encode", "bincode::decode", "bincode::serde"];

const TOUCHES: &[Touch] = &[
    Touch {
        what: "opens files",
        words: &[
            "std::fs",
            "fs::File",
            "File::open",
            "File::create",
            "OpenOptions",
            "tokio::fs",
            "rustix::fs",
        ],
        within: "impl/src/",
        // Configuration and the command line read files that are given by name; data files are storage's alone.
        allowed: &["impl/src/storage", "impl/src/config", "impl/src/cli"],
    },
    Touch {
        what: "opens sockets",
        words: &[
            "TcpListener",
            "TcpStream",
            "TcpSocket",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "UnixSocket",
            "rustix::net",
        ],
        within: "impl/src/",
        allowed: &[
            "impl/src/net",
            "impl/src/gossip",
            "impl/src/dns",
            "impl/src/http",
            "impl/src/check",
            "impl/src/cli",
        ],
    },
    Touch {
        what: "leaves no_std",
        words: &["std::", "extern crate std"],
        within: "spec/src/",
        allowed: &[],
    },
    Touch {
        what: "uses a map or set without an order",
        words: &["HashMap", "HashSet"],
        within: "spec/src/",
        allowed: &[],
    },
    Touch { what: "uses tokio", words: &["tokio::"], within: "impl/sync/", allowed: &[] },
    Touch {
        what: "touches files, sockets or clocks, and is to be a function of bytes",
        words: &["std::fs", "std::io", "std::time", "tokio::", "TcpStream", "UdpSocket"],
        within: "impl/wire/src/",
        allowed: &[],
    },
    Touch {
        what: "encodes by itself, which is the codec's alone",
        words: BINCODE,
        within: "impl/",
        allowed: &[],
    },
    Touch {
        what: "encodes by itself, which is the codec's alone",
        words: BINCODE,
        within: "spec/",
        allowed: &["spec/src/codec"],
    },
];

/// Dependencies between our packages that must not be.
pub fn dependencies(metadata: &Value) -> Vec<String> {
    let mut failures = Vec::new();
    let ours: Vec<&str> = packages(metadata)
        .filter(|p| p["source"].is_null())
        .filter_map(|p| p["name"].as_str())
        .collect();
    for package in packages(metadata).filter(|package| package["source"].is_null()) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(of, _)| *of == name) else {
            failures.push(format!("package {name} has no import rule: add it to tidy's"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            if ours.contains(&other) && !allowed.contains(&other) {
                failures.push(format!("{name} imports {other}, which it may not"));
            }
            let test_only = dependency["kind"] == "dev";
            if name == "agent-sync" && !test_only && !AGENT_SYNC.contains(&other) {
                failures
                    .push(format!("agent-sync imports {other}: it may import only {AGENT_SYNC:?}"));
            }
        }
    }
    failures
}

/// Sources that touch the world where they may not.
pub fn touches(sources: &[Source]) -> Vec<String> {
    let mut failures = Vec::new();
    for source in sources.iter().filter(|source| is_rust(&source.path)) {
        let program = without_tests(&source.text);
        for touch in TOUCHES.iter().filter(|touch| source.path.starts_with(touch.within)) {
            let allowed = touch.allowed.iter().any(|place| {
                source.path.strip_prefix(place).is_some_and(|rest| rest.starts_with(['/', '.']))
            });
            if allowed {
                continue;
            }
            for (number, line) in program.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                if let Some(word) = touch.words.iter().find(|word| has_word(code, word)) {
                    let (path, what) = (&source.path, touch.what);
                    failures.push(format!("{path}:{}: {what} ({word})", number + 1));
                }
            }
        }
    }
    failures
}

fn is_rust(path: &str) -> bool {
    super::has_extension(path, "rs") && !path.contains("/tests/") && !path.ends_with("tests.rs")
}

/// The part of a file before its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
}

/// Whether `word` stands in `code`, not as the end of a longer name.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn source(path: &str, text: &str) -> Vec<Source> {
        vec![Source { path: path.to_owned(), text: text.to_owned() }]
    }

    fn metadata(name: &str, imports: &[&str]) -> Value {
        let dependencies: Vec<Value> =
            imports.iter().map(|name| json!({ "name": name, "kind": null })).collect();
        let mut packages =
            vec![json!({ "name": name, "source": null, "dependencies": dependencies })];
        for (other, _) in MAY_IMPORT.iter().filter(|(other, _)| *other != name) {
            packages.push(json!({ "name": other, "source": null, "dependencies": [] }));
        }
        json!({ "packages": packages })
    }

    #[test]
    fn spec_may_import_none_of_the_others() {
        assert_eq!(dependencies(&metadata("spec", &["imbl"])), [""; 0]);
        assert_eq!(dependencies(&metadata("spec", &["agent-sync"])).len(), 1);
    }

    #[test]
    fn model_and_agent_may_not_import_each_other() {
        assert_eq!(dependencies(&metadata("model", &["spec", "stateright"])), [""; 0]);
        assert_eq!(dependencies(&metadata("model", &["proconsul"])).len(), 1);
        assert_eq!(dependencies(&metadata("proconsul", &["model"])).len(), 1);
    }

    #[test]
    fn the_concurrent_primitives_import_next_to_nothing() {
        assert_eq!(dependencies(&metadata("agent-sync", &["arc-swap", "loom"])), [""; 0]);
        assert_eq!(dependencies(&metadata("agent-sync", &["tokio"])).len(), 1);
    }

    #[test]
    fn files_and_sockets_have_their_places() {
        let open = "fn f() { let _ = std::fs::read(\"x\"); }\n";
        assert_eq!(touches(&source("impl/src/storage/log.rs", open)), [""; 0]);
        assert_eq!(touches(&source("impl/src/driver/apply.rs", open)).len(), 1);
        let listen = "use tokio::net::TcpListener;\n";
        assert_eq!(touches(&source("impl/src/http/mod.rs", listen)), [""; 0]);
        assert_eq!(touches(&source("impl/src/server.rs", listen)).len(), 1);
        // A file whose name only begins like an allowed place isn't that place.
        assert_eq!(touches(&source("impl/src/network.rs", listen)).len(), 1);
    }

    #[test]
    fn comments_and_tests_may_name_what_the_program_may_not() {
        assert_eq!(touches(&source("spec/src/a.rs", "// std::fs\nuse core::fmt;\n")), [""; 0]);
        assert_eq!(touches(&source("spec/src/a.rs", "use std::fmt;\n")).len(), 1);
        let test = "#[cfg(test)]\nmod tests {\n    use std::fmt;\n}\n";
        assert_eq!(touches(&source("spec/src/a.rs", test)), [""; 0]);
    }
}
