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
//! | [`writers`] | clients whose history it checks |
//! | [`drill`] | writers through all servers while servers are killed |
//! | [`flight`] | flight records of real servers, replayed |
//! | [`fuzz`] | libFuzzer on the decoders of gossip |
//! | [`namespaces`] | a network of namespaces that can be cut, blocked and made to lose packets |
//! | [`pool`] | servers and clients that find each other by gossip, there or on loopback |
//! | [`sim`] | the simulator: Raft, whole servers, pools of gossip |
//! | [`tidy`] | what the workspace holds itself to |

pub mod agent;
pub mod drill;
pub mod flight;
pub mod fuzz;
pub mod http;
pub mod linear;
pub mod namespaces;
pub mod peers;
pub mod pool;
pub mod ports;
pub mod process;
pub mod recorded;
pub mod sim;
pub mod tidy;
pub mod volume;
pub mod writers;
