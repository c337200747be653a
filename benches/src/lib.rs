//! Load, systems and figures of the cluster bench (`cargo run --release -p benches --bin cluster`), and the agents of the
//! pool bench (`--bin pool`).
//!
//! | file | what it is |
//! |---|---|
//! | [`histogram`] | latencies in log-linear buckets |
//! | [`http`] | Consul's HTTP API over one keep-alive connection: ours and Consul |
//! | [`grpc`] | etcd's KV and Watch over one HTTP/2 connection |
//! | [`wire`] | the requests that both speak |
//! | [`load`] | closed and paced loops of many connections on one thread |
//! | [`system`] | three servers, or one, of each system |
//! | [`bound`] | what they could do at best |
//! | [`trial`] | what is measured, and its check |
//! | [`report`] | medians, ranges, ratios |
//! | [`pool`] | a pool of our client agents, or of serf's: how soon all know what happens, and what an agent takes |
//!
//! One load loop drives all systems over raw sockets: load generator and servers share the cores, so what the client
//! costs is taken from the servers, and it has to be little and the same for each.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and durations become the figures of a table"
)]

pub mod bound;
pub mod grpc;
pub mod histogram;
pub mod http;
pub mod load;
pub mod pool;
pub mod report;
pub mod system;
pub mod trial;
pub mod wire;
