//! The agent while it runs: what is started in which order, what stops it, and how it stops.

use std::fs;
use std::io;
use std::path::Path;
use std::process;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{role::Role, socket};
use crate::cli::go_error;
use crate::config::{Config, Listen, SocketAccess, Sources, resolve};
use crate::http::{self, Listener};
use crate::telemetry::log::Log;

/// Runs the agent until it is told to stop; says whether it did so by itself. An error is why it couldn't start.
pub(super) fn run(sources: &Sources, config: &Config, log: &Log) -> Result<Ended, String> {
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

/// How an agent that ran ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was told to.
    Told,
    /// It couldn't go on; the log says why.
    Broken,
}

async fn serve(sources: &Sources, config: &Config, log: &Log) -> Result<Ended, String> {
    // Before anything starts: a signal that comes while we start must find its handler.
    let mut signals = Signals::new().map_err(|error| go_error(&error))?;
    for warning in &config.warnings {
        tracing::warn!(target: "agent", "{warning}");
    }
    warn_of_open_doors(config);
    let mut listeners = Vec::new();
    for listen in &config.http.listen {
        listeners.push((listen, bind(listen, &config.http.socket_access)?));
    }
    let (role, api) = Role::start(config).await?;
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

    let stop = until_stopped(&mut signals, &role, sources, log).await;
    let leaves = match stop {
        Stop::Interrupt => Some(!config.gossip.skip_leave_on_interrupt),
        Stop::Terminate => Some(config.gossip.leave_on_terminate),
        // Who asked the agent to leave has waited for that already; and a broken one can't.
        Stop::Asked | Stop::Broken => None,
    };
    match leaves {
        None => {}
        Some(false) => {
            tracing::info!(target: "agent", "Graceful shutdown disabled. Exiting");
        }
        Some(true) => tokio::select! {
            () = role.leave() => {}
            signal = signals.terminated() => exit_at_once(signal, log),
        },
    }
    tracing::info!(target: "agent", "Requesting shutdown");
    let _ = stopping.send(true);
    let shut_down = async {
        let served = async { while serving.join_next().await.is_some() {} };
        tokio::join!(served, role.drain(config.leave_drain_time));
        role.stop().await;
    };
    tokio::select! {
        () = shut_down => {}
        signal = signals.terminated() => exit_at_once(signal, log),
    }
    remove_sockets(config);
    tracing::info!(target: "agent", "shutdown complete");
    Ok(if stop == Stop::Broken { Ended::Broken } else { Ended::Told })
}

/// Ends the process: somebody who signals twice doesn't want to wait.
fn exit_at_once(signal: &'static str, log: &Log) -> ! {
    tracing::info!(target: "agent", signal, "Caught second signal, Exiting");
    log.flush();
    process::exit(1);
}

/// What told the agent to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// A client, after the agent left.
    Asked,
    /// A failure that the agent can't survive.
    Broken,
}

/// Waits for what ends the agent: a signal, or a failure that the agent can't survive.
async fn until_stopped(signals: &mut Signals, role: &Role, sources: &Sources, log: &Log) -> Stop {
    loop {
        tokio::select! {
            name = signals.next() => match name {
                "hangup" => {
                    tracing::info!(target: "agent", signal = "hangup", "Caught");
                    // What is wrong stands in the log.
                    let _ = reload(sources, log);
                }
                name => {
                    tracing::info!(target: "agent", signal = name, "Caught");
                    let interrupted = name == "interrupt";
                    return if interrupted { Stop::Interrupt } else { Stop::Terminate };
                }
            },
            reply = role.reload_asked() => {
                let _ = reply.send(reload(sources, log));
            }
            () = role.stopped() => return Stop::Asked,
            () = role.failed() => return Stop::Broken,
        }
    }
}

/// Reads the configuration again and takes over what can change while the agent runs.
fn reload(sources: &Sources, log: &Log) -> Result<(), String> {
    tracing::info!(target: "agent", "Reloading configuration...");
    match resolve(sources) {
        Ok(config) => {
            log.set_level(config.log_level);
            tracing::info!(target: "agent", log_level = %config.log_level, "Reloaded configuration");
            Ok(())
        }
        Err(error) => {
            tracing::error!(target: "agent", %error, "Failed to reload configs");
            Err(error.to_string())
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

    /// Waits for a signal that ends the agent, and names it.
    async fn terminated(&mut self) -> &'static str {
        loop {
            let name = self.next().await;
            if name != "hangup" {
                return name;
            }
        }
    }
}

fn bind(listen: &Listen, access: &SocketAccess) -> Result<Listener, String> {
    match listen {
        Listen::Tcp(address) => {
            let failed =
                |error: &io::Error| format!("listen tcp {address}: bind: {}", go_error(error));
            let listener = std::net::TcpListener::bind(address).map_err(|error| failed(&error))?;
            listener.set_nonblocking(true).map_err(|error| failed(&error))?;
            TcpListener::from_std(listener).map(Listener::from).map_err(|error| failed(&error))
        }
        Listen::Unix(path) => socket::listen(path, access).map(Listener::from),
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
    if config.server && !config.bind_address.ip().is_loopback() {
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
