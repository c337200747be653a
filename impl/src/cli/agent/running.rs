//! The agent while it runs: what is started in which order, what stops it, and how it stops.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process;

use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::go_error;
use crate::config::{Config, Listen, Sources, resolve};
use crate::http::{self, Api, Listener};
use crate::server::Server;
use crate::telemetry::log::Log;

/// Runs the agent until it is told to stop. An error is why it couldn't start, or couldn't go on.
pub(super) fn run(sources: &Sources, config: &Config, log: &Log) -> Result<(), String> {
    end_with_any_thread();
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(|error| go_error(&error))?;
    let _pid_file = PidFile::write(config.pid_file.as_deref())?;
    runtime.block_on(serve(sources, config, log))
}

async fn serve(sources: &Sources, config: &Config, log: &Log) -> Result<(), String> {
    // Before anything starts: a signal that comes while we start must find its handler.
    let mut signals = Signals::new().map_err(|error| go_error(&error))?;
    for warning in &config.warnings {
        tracing::warn!(target: "agent", "{warning}");
    }
    warn_of_open_doors(config);
    let mut listeners = Vec::new();
    for listen in &config.http.listen {
        listeners.push((listen, bind(listen)?));
    }
    let server =
        Server::start(config.server_settings()).await.map_err(|error| error.to_string())?;
    let settings = config.http_settings(server.status().node_id);
    tracing::info!(target: "agent", node_id = %settings.node_id, "Started server: rpc={}", config.bind_address);
    let api = Api::new(server.clone(), settings).map_err(|error| error.to_string())?;

    let stopping = watch::Sender::new(false);
    let mut serving = JoinSet::new();
    for (listen, listener) in listeners {
        let network = if matches!(listen, Listen::Tcp(_)) { "tcp" } else { "unix" };
        tracing::info!(target: "agent", address = %listen, network, "Started HTTP server");
        let mut stop = stopping.subscribe();
        let stopped = async move {
            // An error says that the sender is gone, which is a stop as well.
            let _ = stop.wait_for(|stopping| *stopping).await;
        };
        serving.spawn(http::serve(listener, api.clone(), stopped));
    }
    log.banner("==> Proconsul agent running!");

    let ended = until_stopped(&mut signals, &server, sources, log).await;
    let _ = stopping.send(true);
    let stop = async {
        while serving.join_next().await.is_some() {}
        server.shutdown().await;
    };
    tokio::select! {
        () = stop => {}
        () = signals.terminated() => {
            tracing::warn!(target: "agent", "Caught second signal, exiting at once");
            log.flush();
            process::exit(1);
        }
    }
    remove_sockets(config);
    tracing::info!(target: "agent", "shutdown complete");
    ended
}

/// Waits for what ends the agent: a signal, or a failure that the server can't survive.
async fn until_stopped(
    signals: &mut Signals,
    server: &Server,
    sources: &Sources,
    log: &Log,
) -> Result<(), String> {
    loop {
        tokio::select! {
            name = signals.next() => match name {
                "hangup" => reload(sources, log),
                name => {
                    tracing::info!(target: "agent", signal = name, "Caught");
                    tracing::info!(target: "agent", "Requesting shutdown");
                    return Ok(());
                }
            },
            reason = server.failed() => return Err(reason),
        }
    }
}

/// Reads the configuration again and takes over what can change while the agent runs.
fn reload(sources: &Sources, log: &Log) {
    tracing::info!(target: "agent", signal = "hangup", "Caught");
    match resolve(sources) {
        Ok(config) => {
            log.set_level(config.log_level);
            tracing::info!(target: "agent", log_level = %config.log_level, "Reloaded configuration");
        }
        Err(error) => {
            tracing::error!(target: "agent", %error, "Failed to reload configs");
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupt",
            _ = self.terminate.recv() => "terminated",
            _ = self.hangup.recv() => "hangup",
        }
    }

    /// Waits for a signal that ends the agent.
    async fn terminated(&mut self) {
        while self.next().await == "hangup" {}
    }
}

fn bind(listen: &Listen) -> Result<Listener, String> {
    match listen {
        Listen::Tcp(address) => {
            let failed =
                |error: &io::Error| format!("listen tcp {address}: bind: {}", go_error(error));
            let listener = std::net::TcpListener::bind(address).map_err(|error| failed(&error))?;
            listener.set_nonblocking(true).map_err(|error| failed(&error))?;
            TcpListener::from_std(listener).map(Listener::from).map_err(|error| failed(&error))
        }
        Listen::Unix(path) => {
            // A socket that a killed agent left behind would refuse this one for ever.
            if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
                fs::remove_file(path)
                    .map_err(|error| format!("remove {}: {}", path.display(), go_error(&error)))?;
            }
            UnixListener::bind(path).map(Listener::from).map_err(|error| {
                format!("listen unix {}: bind: {}", path.display(), go_error(&error))
            })
        }
    }
}

fn remove_sockets(config: &Config) {
    for listen in &config.http.listen {
        if let Listen::Unix(path) = listen {
            let _ = fs::remove_file(path);
        }
    }
}

/// Says what an operator may not expect: nobody is asked who they are.
fn warn_of_open_doors(config: &Config) {
    for listen in &config.http.listen {
        if let Listen::Tcp(address) = listen
            && !address.ip().is_loopback()
        {
            tracing::warn!(
                target: "agent",
                address = %address,
                "the HTTP API is open to the network, without access control or encryption"
            );
        }
    }
    if !config.bind_address.ip().is_loopback() {
        tracing::warn!(
            target: "agent",
            address = %config.bind_address,
            "traffic between servers is neither encrypted nor authenticated: keep its port within a trusted network"
        );
    }
}

/// Makes a panic of any thread end the process: an agent without one of its threads would only look alive.
fn end_with_any_thread() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        show(panic);
        process::abort();
    }));
}

/// The file with the process's id, for as long as the agent runs.
struct PidFile<'a>(Option<&'a Path>);

impl<'a> PidFile<'a> {
    fn write(path: Option<&'a Path>) -> Result<Self, String> {
        if let Some(path) = path {
            fs::write(path, process::id().to_string()).map_err(|error| {
                format!("Could not write pid file: open {}: {}", path.display(), go_error(&error))
            })?;
        }
        Ok(Self(path))
    }
}

impl Drop for PidFile<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = fs::remove_file(path);
        }
    }
}
