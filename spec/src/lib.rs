//! The specification of Proconsul, executable.
//!
//! Everything that decides something lives here as a [`machine::Machine`] or a pure function: no clock, no I/O, no
//! threads and no randomness of its own. The model checker explores this crate, the agent compiles this crate.
#![no_std]
#![warn(clippy::as_conversions, clippy::wildcard_enum_match_arm)]

extern crate alloc;

pub mod codec;
pub mod disk;
pub mod entropy;
pub mod gate;
pub mod machine;
pub mod raft;
pub mod serf;
pub mod state;
pub mod swim;
pub mod sync;
pub mod time;
pub mod trace;
