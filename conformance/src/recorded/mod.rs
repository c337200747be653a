//! The recorded contract: what a real Consul 1.8.7 answered, step by step, and how a running agent compares.
//!
//! `conformance/recorded/cases` has one file a case, as it was recorded. The cases of one agent form one story: they
//! run in order against one agent, since later answers show what earlier steps did. Beside them lie
//!
//! - `prelude.txt`: what the recorded server had been told before the first case;
//! - `variable.toml`: values that say nothing about the contract (sizes, versions of a runtime);
//! - `pending.toml`: steps that need what isn't built yet; one that starts to pass is a failure until it is taken off;
//! - `differences.toml`: where our answer differs on purpose, what it is instead, and why; a difference that isn't
//!   there any more is a failure;
//! - `consul.toml`: the same two lists for a real Consul in place of ours, which shows that the comparison is right.
//!
//! | module | what it does |
//! |---|---|
//! | [`parse`] | reads the case files |
//! | [`send`] | sends a step's request, or runs its command |
//! | [`compare`] | compares two answers, with ids and indexes by their relations |
//! | [`lists`] | pending steps and deliberate differences |
//! | [`run`] | goes through the cases, each story against agents of its own |
//! | `stories` | starts the agents of a story |
//! | `quorum` | the story of three servers that go away one by one |

pub mod compare;
mod flatten;
pub mod lists;
pub mod parse;
mod python;
mod quorum;
pub mod run;
pub mod send;
mod stories;

use std::path::PathBuf;

use crate::agent::workspace_root;

/// Where the cases and the lists lie.
pub fn folder() -> PathBuf {
    workspace_root().join("conformance/recorded")
}

/// An answer, recorded or observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Over HTTP.
    Http {
        /// The status line.
        status_line: String,
        /// Names and values in their own bytes and order.
        headers: Vec<(String, String)>,
        /// The body, as text.
        body: String,
        /// Whether a body could be seen: not after HEAD, nor where only the head was asked for.
        has_body: bool,
    },
    /// A command's output, standard output and error together, and its exit code.
    Text {
        /// The output.
        output: String,
        /// The exit code.
        exit: i32,
    },
    /// Names and values of a tree, in order, each name with those above it.
    Tree(Vec<(String, String)>),
}
