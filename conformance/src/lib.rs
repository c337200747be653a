//! What holds running agents against the specification and against Consul.
//!
//! | module | what it is |
//! |---|---|
//! | [`ports`] | blocks of loopback ports that no two tests share |
//! | [`process`] | a child process: log, signals, always stopped |
//! | [`agent`] | our agent as processes: one server, a cluster of three |
//! | [`peers`] | a real Consul and etcd, where they are present |
//! | [`http`] | a small HTTP/1.1 client that shows the raw bytes |
//! | [`recorded`] | the recorded contract: parse, send, compare |
//! | [`linear`] | the linearizability checker |
//! | [`drill`] | writers through all servers while servers are killed |
//! | [`sim`] | the simulator of whole Raft clusters |
//! | [`tidy`] | what the workspace holds itself to |

pub mod agent;
pub mod drill;
pub mod http;
pub mod linear;
pub mod peers;
pub mod ports;
pub mod process;
pub mod recorded;
pub mod sim;
pub mod tidy;
