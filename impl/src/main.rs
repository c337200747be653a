//! The agent and its command line.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    ExitCode::from(proconsul::cli::run(&arguments))
}
