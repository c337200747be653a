//! Licences and versions of what comes in.

use std::collections::BTreeMap;

use serde_json::Value;

use super::packages;

/// Licences that the work may be built from.
const LICENCES: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "BSL-1.0",
    "Unicode-3.0",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unlicense",
];

/// Licences that only these packages may have.
const EXCEPTIONS: &[(&str, &[&str])] = &[
    // Copyleft by the file: its own files stay under it, nothing else does.
    ("MPL-2.0", &["imbl", "imbl-sized-chunks", "option-ext"]),
    ("MPL-2.0+", &["imbl", "imbl-sized-chunks"]),
    // As free as MIT's: LLVM's libFuzzer, which is in nothing that is shipped.
    ("NCSA", &["libfuzzer-sys"]),
];

/// Packages that must not come in, and why.
const BANNED: &[(&str, &str)] = &[
    ("im", "is not maintained (RUSTSEC-2026-0248); imbl is its successor"),
    ("paste", "is archived"),
    ("instant", "is archived"),
    ("number_prefix", "is archived"),
    ("openssl-sys", "is C that has to be there; rustls is used"),
];

/// Packages whose licence isn't allowed.
pub fn licences(metadata: &Value) -> Vec<String> {
    let mut failures = Vec::new();
    for package in packages(metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(expression) = package["license"].as_str() else {
            failures.push(format!("{name} names no licence"));
            continue;
        };
        if !allows(expression, name) {
            failures.push(format!("{name} is under {expression}, which isn't on the list"));
        }
    }
    failures
}

/// Whether a licence expression can be met: one of its alternatives has only licences that are allowed.
fn allows(expression: &str, package: &str) -> bool {
    let plain = expression.replace('/', " OR ").replace(['(', ')'], " ");
    let good = |licence: &str| {
        LICENCES.contains(&licence)
            || EXCEPTIONS.iter().any(|(l, packages)| *l == licence && packages.contains(&package))
    };
    // `(A OR B) AND C` reads as `A`, or `B AND C`, once the brackets are gone: enough as long as each part that is
    // joined by AND is looked at in some alternative; where AND is there at all, every licence but one of each OR counts.
    if plain.contains(" AND ") {
        return plain
            .split(" AND ")
            .all(|part| part.split(" OR ").any(|licence| good(licence.trim())));
    }
    plain.split(" OR ").any(|licence| good(licence.trim()))
}

/// Versions that are not what they must be.
pub fn pins(metadata: &Value) -> Vec<String> {
    let mut failures = Vec::new();
    for package in packages(metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        let version = package["version"].as_str().unwrap_or_default();
        match name {
            "bincode" if version != "2.0.1" => failures.push(format!(
                "bincode is {version}: it must be 2.0.1, whose bytes the golden vectors fix (3.0.0 doesn't compile)"
            )),
            "imbl" if numbers(version) < numbers("7.0.2") => failures.push(format!(
                "imbl is {version}: below 7.0.2 comparing two maps misses changes, and states that differ would merge"
            )),
            _ => {}
        }
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            failures.push(format!("{name} {version} {why}"));
        }
    }
    failures
}

fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

/// Packages that come in more than one version.
pub fn duplicates(metadata: &Value) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages(metadata) {
        let (name, version) = (package["name"].as_str(), package["version"].as_str());
        versions.entry(name.unwrap_or_default()).or_default().extend(version);
    }
    let several = versions.into_iter().filter(|(_, versions)| versions.len() > 1);
    several.map(|(name, versions)| format!("{name} comes in {}", versions.join(" and "))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, version: &str, license: &str) -> Value {
        json!({ "packages": [{ "name": name, "version": version, "license": license }] })
    }

    #[test]
    fn a_licence_off_the_list_is_found() {
        assert_eq!(licences(&package("a", "1.0.0", "MIT OR Apache-2.0")), [""; 0]);
        assert_eq!(licences(&package("a", "1.0.0", "GPL-3.0 OR MIT")), [""; 0]);
        assert_eq!(licences(&package("a", "1.0.0", "GPL-3.0")).len(), 1);
        assert_eq!(licences(&json!({ "packages": [{ "name": "a" }] })).len(), 1);
    }

    #[test]
    fn all_of_several_licences_have_to_be_allowed() {
        assert_eq!(
            licences(&package("a", "1.0.0", "(MIT OR Apache-2.0) AND Unicode-3.0")),
            [""; 0]
        );
        assert_eq!(licences(&package("a", "1.0.0", "MIT AND GPL-3.0")).len(), 1);
    }

    #[test]
    fn a_licence_may_be_one_package_s_alone() {
        assert_eq!(licences(&package("imbl", "7.0.2", "MPL-2.0+")), [""; 0]);
        assert_eq!(licences(&package("other", "7.0.2", "MPL-2.0+")).len(), 1);
    }

    #[test]
    fn versions_that_bite_are_found() {
        assert_eq!(pins(&package("bincode", "2.0.1", "MIT")), [""; 0]);
        assert_eq!(pins(&package("bincode", "3.0.0", "MIT")).len(), 1);
        assert_eq!(pins(&package("imbl", "7.0.10", "MIT")), [""; 0]);
        assert_eq!(pins(&package("imbl", "7.0.1", "MIT")).len(), 1);
        assert_eq!(pins(&package("im", "15.0.0", "MIT")).len(), 1);
    }

    #[test]
    fn packages_that_come_twice_are_told() {
        let packages = [("a", "1.0.0"), ("a", "2.0.0"), ("b", "1.0.0")]
            .map(|(name, version)| json!({ "name": name, "version": version }));
        assert_eq!(duplicates(&json!({ "packages": packages })), ["a comes in 1.0.0 and 2.0.0"]);
    }
}
