//! The agent's few hand-made concurrent primitives. Loom checks each of them (`tests/loom.rs`).
//!
//! | type | what it is |
//! |---|---|
//! | [`GroupCommit`] | the inbox of a thread that takes all that is queued at once |
//! | [`Published`] | an index and the state it belongs to, seen together, and the wait for an index |
//! | [`Watches`] | who waits for a change of a key or below a prefix |
//! | [`Latch`] | the end: nobody enters any more, those inside finish, one drains |
//!
//! Nothing here knows tokio: futures are woken through [`std::task::Waker`]. Ordering rests on mutexes and on
//! acquire/release alone. Where one side writes A and reads B while the other writes B and reads A, both go through a
//! read-modify-write of the same atomic, so that one of them sees the other: plain loads could both miss.

mod group_commit;
mod latch;
mod prim;
mod published;
mod slab;
mod watches;

pub use group_commit::{GroupCommit, Refused, Taken};
pub use latch::{Drained, Inside, Latch, Tripped};
pub use published::{Published, Version, WaitFor};
pub use watches::{Topic, Watch, Watches};
