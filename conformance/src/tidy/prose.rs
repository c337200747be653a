//! What the clauses of `spec/prose` name is there: code, files, properties, tests, transcripts, mutants, other clauses; and
//! each mutant's clause names it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{Source, has_extension};

const PROSE: &str = "spec/prose/";
const MUTANTS: &str = "model/mutants.toml";
/// What a path in the prose begins with.
const FOLDERS: [&str; 5] = ["spec", "model", "impl", "conformance", "benches"];

/// Names in the prose that nothing has, and mutants that their clause doesn't name.
pub fn links(sources: &[Source]) -> Vec<String> {
    let mut failures = Vec::new();
    let prose: Vec<_> = sources
        .iter()
        .filter(|source| source.path.starts_with(PROSE) && has_extension(&source.path, "md"))
        .flat_map(blocks)
        .collect();
    let mut clauses = BTreeMap::new();
    for block in prose.iter().filter(|block| !block.clause.is_empty()) {
        if clauses.insert(block.clause, block).is_some() {
            failures.push(format!("{}: {} is there twice", block.path, block.clause));
        }
    }
    let known = match Known::of(sources) {
        Ok(known) => known,
        Err(error) => return vec![format!("{MUTANTS}: {error}")],
    };
    for block in &prose {
        let wrong = known.wrong_names(&block.text).into_iter();
        let wrong = wrong.chain(unknown_clauses(&block.text, &clauses));
        failures.extend(wrong.map(|what| format!("{}: {}: {what}", block.path, block.clause)));
    }
    for (number, mutant) in &known.mutants {
        let names_it = |block: &&Block<'_>| {
            mutants(&block.text).iter().any(|named| named.numbers().any(|n| n == *number))
        };
        match clauses.get(mutant.clause.as_str()) {
            None => failures.push(format!("mutant {number}: there is no clause {}", mutant.clause)),
            Some(block) if !names_it(block) => {
                failures
                    .push(format!("{}: {} doesn't name mutant {number}", block.path, block.clause));
            }
            Some(_) => {}
        }
    }
    failures
}

/// A clause, or what stands before, between and behind clauses, where its name is empty.
struct Block<'a> {
    path: &'a str,
    clause: &'a str,
    text: String,
}

/// Cuts a file into clauses: one begins with its number in bold type and ends with the next, or with a heading. Lines are
/// joined, but for those of a list.
fn blocks(source: &Source) -> Vec<Block<'_>> {
    let mut blocks = vec![Block { path: &source.path, clause: "", text: String::new() }];
    for line in source.text.lines() {
        let bold = line.strip_prefix("**").and_then(|rest| rest.split([' ', '*']).next());
        let clause =
            bold.filter(|word| clause_at(word).is_some_and(|(_, _, rest)| rest.is_empty()));
        if clause.is_some() || line.starts_with('#') {
            let clause = clause.unwrap_or_default();
            blocks.push(Block { path: &source.path, clause, text: String::new() });
        }
        if let Some(block) = blocks.last_mut() {
            block.text.push(if line.starts_with("- ") { '\n' } else { ' ' });
            block.text.push_str(line.trim());
        }
    }
    blocks
}

/// The prefix and number of a clause with which a text begins, as `RAFT` and `12`, and what follows.
fn clause_at(text: &str) -> Option<(&str, &str, &str)> {
    let end = |text: &str, within: fn(&char) -> bool| {
        text.chars().take_while(within).map(char::len_utf8).sum::<usize>()
    };
    let (prefix, rest) = text.split_at(end(text, char::is_ascii_uppercase));
    let rest = rest.strip_prefix('-')?;
    let (number, rest) = rest.split_at(end(rest, char::is_ascii_digit));
    (prefix.len() > 1 && !number.is_empty()).then_some((prefix, number, rest))
}

/// References to clauses that aren't there, of those whose prefix some clause has.
fn unknown_clauses(text: &str, clauses: &BTreeMap<&str, &Block<'_>>) -> Vec<String> {
    let is_prefix = |prefix: &str| {
        clauses.keys().any(|clause| clause_at(clause).is_some_and(|(other, ..)| other == prefix))
    };
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '-');
    words
        .filter_map(|word| clause_at(word).map(|(prefix, number, _)| (prefix, number)))
        .filter(|(prefix, _)| is_prefix(prefix))
        .map(|(prefix, number)| format!("{prefix}-{number}"))
        .filter(|clause| !clauses.contains_key(clause.as_str()))
        .map(|clause| format!("there is no clause {clause}"))
        .collect()
}

/// What a name between backquotes is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Code,
    Property,
    Test,
    Transcript,
    /// Nothing in particular.
    Word,
}

/// What stands before names, in a sentence or at the head of a list's line, and what the names are then.
const LABELS: [(&str, Kind); 8] = [
    ("code", Kind::Code),
    ("code, in the agent", Kind::Code),
    ("property", Kind::Property),
    ("properties", Kind::Property),
    ("test", Kind::Test),
    ("tests", Kind::Test),
    ("transcript", Kind::Transcript),
    ("transcripts", Kind::Transcript),
];

/// The names between backquotes. A label is about those up to the end of its sentence, part of a sentence, or line.
fn names(text: &str) -> Vec<(Kind, &str)> {
    let mut names = Vec::new();
    let mut kind = Kind::Word;
    for (number, part) in text.split('`').enumerate() {
        if number % 2 == 1 {
            names.push((kind, part));
            continue;
        }
        // Only what stands behind the last end of a sentence is about the next name.
        let ends = [". ", ";", "\n"].iter().filter_map(|end| Some(part.rfind(end)? + end.len()));
        let start = ends.max();
        if start.is_some() {
            kind = Kind::Word;
        }
        let last = part[start.unwrap_or(0)..].trim().to_ascii_lowercase();
        let is_label = |label: &str| {
            let before = last.strip_suffix(':').and_then(|last| last.strip_suffix(label));
            before.is_some_and(|before| !before.ends_with(char::is_alphanumeric))
        };
        let found = LABELS.iter().find(|(label, _)| is_label(label));
        kind = found.map_or(kind, |(_, kind)| *kind);
    }
    names
}

/// A mutant that is named, or a range of them.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    first: u32,
    last: u32,
    /// Its name, where that is given.
    name: Option<&'a str>,
}

impl Named<'_> {
    fn numbers(&self) -> impl Iterator<Item = u32> {
        self.first..=self.last
    }
}

/// The mutants that a text names: `mutant 1`, `mutants 1, 3 to 5`, `- mutant: 1 its-name, 2 its-name`.
fn mutants(text: &str) -> Vec<Named<'_>> {
    let mut named: Vec<Named<'_>> = Vec::new();
    let (mut inside, mut range) = (false, false);
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        // A sentence ends the list; a comma doesn't.
        let ends = word.ends_with(['.', ';', ')']);
        if matches!(bare.to_ascii_lowercase().as_str(), "mutant" | "mutants") {
            (inside, range) = (!ends, false);
            continue;
        }
        if !inside {
            continue;
        }
        if let Ok(number) = bare.parse() {
            match named.last_mut() {
                Some(before) if range => before.last = number,
                _ => named.push(Named { first: number, last: number, name: None }),
            }
            (inside, range) = (!ends, false);
        } else if bare == "to" || bare == "and" {
            range = bare == "to";
        } else if let Some(before) = named.last_mut().filter(|_| bare.contains('-')) {
            before.name = Some(bare);
            inside = !ends;
        } else {
            inside = false;
        }
    }
    named
}

#[derive(Deserialize)]
struct Mutant {
    number: u32,
    name: String,
    clause: String,
}

#[derive(Deserialize)]
struct Mutants {
    #[serde(default)]
    mutant: Vec<Mutant>,
}

/// What there is to be named.
struct Known<'a> {
    paths: Vec<&'a str>,
    /// For each file of Rust, what it defines, and the modules and types within which it does.
    files: Vec<(BTreeSet<&'a str>, BTreeSet<&'a str>)>,
    tests: BTreeSet<&'a str>,
    /// The texts in quotes of the models: a property's name is one.
    properties: BTreeSet<&'a str>,
    mutants: BTreeMap<u32, Mutant>,
}

impl<'a> Known<'a> {
    fn of(sources: &'a [Source]) -> Result<Self, toml::de::Error> {
        let mut known = Self {
            paths: sources.iter().map(|source| source.path.as_str()).collect(),
            files: Vec::new(),
            tests: BTreeSet::new(),
            properties: BTreeSet::new(),
            mutants: BTreeMap::new(),
        };
        for source in sources {
            if source.path == MUTANTS {
                let list: Mutants = toml::from_str(&source.text)?;
                known.mutants = list.mutant.into_iter().map(|m| (m.number, m)).collect();
            }
            if has_extension(&source.path, "rs") {
                known.add(source);
            }
        }
        Ok(known)
    }

    fn add(&mut self, source: &'a Source) {
        let mut within: BTreeSet<_> = source.path.trim_end_matches(".rs").split('/').collect();
        let mut defined = BTreeSet::new();
        let mut is_test = false;
        for line in source.text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            let words: Vec<_> = line.split(|c| !is_word(c)).filter(|w| !w.is_empty()).collect();
            for pair in words.windows(2) {
                match pair[0] {
                    "fn" => {
                        defined.insert(pair[1]);
                        if std::mem::take(&mut is_test) {
                            self.tests.insert(pair[1]);
                        }
                    }
                    "const" | "static" | "macro_rules" => {
                        defined.insert(pair[1]);
                    }
                    "struct" | "enum" | "trait" | "type" | "mod" => {
                        defined.insert(pair[1]);
                        within.insert(pair[1]);
                    }
                    _ => {}
                }
            }
            if line.starts_with("impl") {
                within.extend(&words);
            }
            let field = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": "));
            defined.extend(field.map(|(name, _)| name).filter(|name| name.chars().all(is_word)));
            // A variant of an enum.
            if let Some(first) = words.first().filter(|word| line.starts_with(**word))
                && first.starts_with(|c: char| c.is_ascii_uppercase())
                && [",", "(", " {"].iter().any(|next| line[first.len()..].starts_with(next))
            {
                defined.insert(first);
            }
            if source.path.starts_with("model/src/") {
                self.properties.extend(line.split('"').skip(1).step_by(2));
            }
        }
        self.files.push((defined, within));
    }

    /// Whether `a::b::c` is there: some file defines `c`, and `a` and `b` are modules or types of that file.
    fn has_item(&self, path: &str) -> bool {
        let (around, item) = path.rsplit_once("::").unwrap_or(("", path));
        let around: Vec<_> = around.split("::").filter(|part| !part.is_empty()).collect();
        self.files.iter().any(|(defined, within)| {
            defined.contains(item) && around.iter().all(|part| within.contains(part))
        })
    }

    /// Whether there is such a file or folder; `{a,b}` stands for each.
    fn has_path(&self, path: &str) -> bool {
        if let Some((before, rest)) = path.split_once('{')
            && let Some((choices, after)) = rest.split_once('}')
        {
            return choices.split(',').all(|one| self.has_path(&format!("{before}{one}{after}")));
        }
        let is_it = |there: &&str| {
            let rest = if path.contains('/') {
                there.strip_prefix(path)
            } else {
                there.rsplit('/').next().and_then(|name| name.strip_prefix(path))
            };
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.paths.iter().any(is_it)
    }

    fn wrong_names(&self, text: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for (kind, name) in names(text) {
            let folder = name.split_once('/').map(|(folder, _)| folder);
            let is_path =
                folder.is_some_and(|folder| FOLDERS.contains(&folder)) || has_extension(name, "rs");
            let is_item = name.contains("::")
                && name.split("::").all(|part| !part.is_empty() && part.chars().all(is_word));
            let (there, what) = if is_path {
                (self.has_path(name), "file")
            } else if kind == Kind::Code || is_item {
                (self.has_item(name), "code")
            } else {
                match kind {
                    Kind::Property => (self.properties.contains(name), "property of a model"),
                    Kind::Test => (self.tests.contains(name), "test"),
                    Kind::Transcript => (self.has_path(&format!("{name}.txt")), "transcript"),
                    Kind::Code | Kind::Word => continue,
                }
            };
            if !there {
                wrong.push(format!("there is no {what} {name}"));
            }
        }
        for named in mutants(text) {
            for number in named.numbers() {
                match self.mutants.get(&number) {
                    None => wrong.push(format!("there is no mutant {number}")),
                    Some(mutant) if named.name.is_some_and(|name| name != mutant.name) => {
                        wrong.push(format!("mutant {number} is called {}", mutant.name));
                    }
                    Some(_) => {}
                }
            }
        }
        wrong
    }
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const INLINE: &str = "\
# Raft

**RAFT-1** A vote counts once (RAFT-2). Code: `election::Node::count`, `quorum.rs`,
`spec/src/{raft,swim}`. Property: `one_vote`; mutants 1, 3 to
4. Test: `a_vote_counts_once`. Transcript: `lone`. It says `hello`.

**RAFT-2** Code, in the agent: `Said::Yes`. Mutant 5.
";
    const LISTED: &str = "\
**KV-1 Set.** It is set (RAFT-1).
- code: `Said::No`
- property: `one_vote`
- mutant: 2 the-second, 6
  the-sixth
";

    /// A small workspace in which all names are right, but for what `change` does to it.
    fn found(change: impl Fn(&mut Vec<(&'static str, String)>)) -> Vec<String> {
        let code = "pub enum Said {\n    Yes,\n    No { why: u8 },\n}\nimpl Node {\n    fn count(&self) {}\n}\n";
        let numbered = |clause, numbers: &[(u32, &str)]| -> String {
            let one = |(number, name): &(u32, &str)| {
                format!("[[mutant]]\nnumber = {number}\nname = \"{name}\"\nclause = \"{clause}\"\n")
            };
            numbers.iter().map(one).collect()
        };
        let mutants = [
            numbered("RAFT-1", &[(1, "the-first"), (3, "the-third"), (4, "the-fourth")]),
            numbered("RAFT-2", &[(5, "the-fifth")]),
            numbered("KV-1", &[(2, "the-second"), (6, "the-sixth")]),
        ];
        let mut files = vec![
            ("spec/prose/raft.md", INLINE.to_owned()),
            ("spec/prose/kv.md", LISTED.to_owned()),
            ("spec/src/raft/election.rs", code.to_owned()),
            ("spec/src/raft/quorum.rs", "const HALF: u8 = 2;\n".to_owned()),
            ("spec/src/swim/mod.rs", String::new()),
            ("spec/tests/raft.rs", "#[test]\nfn a_vote_counts_once() {}\nfn aid() {}\n".to_owned()),
            ("spec/tests/raft/lone.txt", String::new()),
            ("model/src/raft.rs", "always(\"one_vote\");\n".to_owned()),
            (MUTANTS, mutants.concat()),
        ];
        change(&mut files);
        let source = |(path, text): (&str, String)| Source { path: path.to_owned(), text };
        links(&files.into_iter().map(source).collect::<Vec<_>>())
    }

    #[test]
    fn names_that_are_there_are_right() {
        assert_eq!(found(|_| ()), [""; 0]);
    }

    #[test]
    fn a_wrong_name_in_a_clause_is_found() {
        for (right, wrong, failure) in [
            (
                "election::Node::count",
                "election::Node::tally",
                "raft.md: RAFT-1: there is no code election::Node::tally",
            ),
            (
                "election::Node::count",
                "quorum::Node::count",
                "raft.md: RAFT-1: there is no code quorum::Node::count",
            ),
            ("quorum.rs", "majority.rs", "raft.md: RAFT-1: there is no file majority.rs"),
            (
                "{raft,swim}",
                "{raft,serf}",
                "raft.md: RAFT-1: there is no file spec/src/{raft,serf}",
            ),
            (
                "`one_vote`; mutants",
                "`two_votes`; mutants",
                "raft.md: RAFT-1: there is no property of a model two_votes",
            ),
            ("a_vote_counts_once", "aid", "raft.md: RAFT-1: there is no test aid"),
            ("`lone`", "`alone`", "raft.md: RAFT-1: there is no transcript alone"),
            ("`hello`", "`Said::Perhaps`", "raft.md: RAFT-1: there is no code Said::Perhaps"),
            ("(RAFT-2)", "(RAFT-7)", "raft.md: RAFT-1: there is no clause RAFT-7"),
            ("1, 3 to\n4", "1, 3 to\n4 and 7", "raft.md: RAFT-1: there is no mutant 7"),
            ("3 to\n4", "3", "raft.md: RAFT-1 doesn't name mutant 4"),
            ("Mutant 5", "No mutant", "raft.md: RAFT-2 doesn't name mutant 5"),
            ("6\n  the-sixth", "6\n  the-last", "kv.md: KV-1: mutant 6 is called the-sixth"),
            ("Said::No", "Said::Never", "kv.md: KV-1: there is no code Said::Never"),
            ("**KV-1 Set.**", "**RAFT-2 Set.**", "kv.md: RAFT-2 is there twice"),
        ] {
            let failures = found(|files| {
                for (_, text) in &mut files[..2] {
                    *text = text.replacen(right, wrong, 1);
                }
            });
            let failure = format!("spec/prose/{failure}");
            assert!(failures.contains(&failure), "{wrong}: {failures:?}");
        }
    }

    #[test]
    fn a_mutant_of_a_clause_that_is_not_there_is_found() {
        let failures = found(|files| {
            let (_, mutants) = files.last_mut().unwrap();
            *mutants = mutants.replace("\"RAFT-2\"", "\"RAFT-9\"");
        });
        assert_eq!(failures, ["mutant 5: there is no clause RAFT-9"]);
    }
}
