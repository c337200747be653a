//! The agent: threads around the machines of `spec`, its disk, its network and its HTTP API.

pub mod archive;
pub mod cli;
pub mod client;
pub mod config;
pub mod driver;
#[cfg(test)]
mod golden;
pub mod gossip;
pub mod http;
pub mod net;
pub mod server;
pub mod storage;
pub mod telemetry;
mod telling;
