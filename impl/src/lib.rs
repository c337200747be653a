//! The agent that stands in Consul's place, and its command line.

pub mod cli;
pub mod config;
pub mod http;
pub mod server;
pub mod storage;
pub mod telemetry;
