//! Comparing this server's state with the others': reports go to them, theirs come back, and a server whose state is
//! wrong serves no more (prose/state.md, STATE-21 to STATE-24).
//!
//! Consensus never waits for it: the apply turn leaves a report and goes on, and a task of its own carries reports.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use agent_sync::{GroupCommit, Watches};
use spec::{
    codec::{self, RPC_LIMIT},
    raft::{Configuration, ServerId},
    state::agreement::{Agreement, Divergence, Event, KEPT, Report, Verdict},
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};

use super::{Request, Response, ServerError, Shared};
use crate::{driver::consensus::Input, storage};

/// How long another server may take to answer. What doesn't get there goes with the next reports.
const EXCHANGE_TIMEOUT: Duration = Duration::from_millis(500);

/// What is known of the servers' states, and what becomes of it.
pub(super) struct Agreeing {
    machine: Mutex<Agreement>,
    /// Why this server serves no more.
    diverged: OnceLock<String>,
    /// There is a new report to send.
    fresh: Notify,
    /// What the operator has to move away, where there is anything on disk.
    wrong: Option<PathBuf>,
    inbox: Arc<GroupCommit<Input>>,
    watches: Watches,
}

impl Agreeing {
    pub(super) fn new(
        own: ServerId,
        data_dir: Option<&Path>,
        inbox: Arc<GroupCommit<Input>>,
        watches: Watches,
    ) -> Self {
        Self {
            machine: Mutex::new(Agreement::new(own, KEPT)),
            diverged: OnceLock::new(),
            fresh: Notify::new(),
            wrong: data_dir.map(storage::raft_directory),
            inbox,
            watches,
        }
    }

    fn machine(&self) -> MutexGuard<'_, Agreement> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what happened, and acts on what follows.
    pub(super) fn tell(&self, event: Event) {
        let is_report = matches!(event, Event::Applied(_));
        let mut verdicts = Vec::new();
        self.machine().step(event, &mut verdicts);
        for verdict in verdicts {
            match verdict {
                Verdict::Alarm(alarm) => tracing::error!("state: {alarm}"),
                Verdict::Diverged(divergence) => {
                    let reason = self.explain(&divergence);
                    tracing::error!("state: {reason}");
                    let _ = self.diverged.set(reason);
                    let _ = self.inbox.push(Input::Diverged);
                    // Parked queries are refused at once, like all others.
                    self.watches.wake_all();
                }
            }
        }
        if is_report {
            self.fresh.notify_one();
        }
    }

    /// Why this server serves nothing, and what the operator has to do.
    fn explain(&self, divergence: &Divergence) -> String {
        let wrong = self.wrong.as_ref();
        let wrong =
            wrong.map_or_else(String::new, |path| format!("move {} away, ", path.display()));
        format!(
            "{divergence}. It serves nothing until it is replaced: stop it, {wrong}and start it again. It then rejoins as a \
             new server"
        )
    }

    /// Which servers vote.
    pub(super) fn vote(&self, configuration: &Configuration) {
        self.tell(Event::Voters(configuration.voters().copied().collect()));
    }

    /// Takes another server's reports, and gives this one's.
    pub(super) fn exchange(&self, from: ServerId, reports: Vec<Report>) -> Vec<Report> {
        self.tell(Event::Received { from, reports });
        self.machine().reports()
    }

    /// Refuses where this server serves no more.
    pub(super) fn check(&self) -> Result<(), ServerError> {
        match self.diverged.get() {
            None => Ok(()),
            Some(reason) => Err(ServerError::Diverged(reason.clone())),
        }
    }

    /// Why this server serves no more, if so.
    pub(super) fn reason(&self) -> Option<&str> {
        self.diverged.get().map(String::as_str)
    }

    /// Has the task that carries reports look whether the server is gone.
    pub(super) fn wake(&self) {
        self.fresh.notify_one();
    }
}

/// Sends each new report, with those before it, to all other servers. Runs until the server is gone.
pub(super) async fn run(shared: Weak<Shared>, agreeing: Arc<Agreeing>) {
    loop {
        agreeing.fresh.notified().await;
        let Some(shared) = shared.upgrade() else { return };
        let configuration = Arc::clone(&shared.leadership.borrow().configuration);
        let mut exchanges = JoinSet::new();
        for to in configuration.servers.keys().filter(|to| **to != shared.id) {
            exchanges.spawn(exchange(Arc::clone(&shared), *to));
        }
        exchanges.join_all().await;
    }
}

async fn exchange(shared: Arc<Shared>, to: ServerId) {
    let reports = shared.agreeing.machine().reports();
    let encode = |buffer: &mut Vec<u8>| codec::encode_into(&Request::Digests(reports), buffer);
    let deadline = Instant::now() + EXCHANGE_TIMEOUT;
    let answer = shared.transport.call_server(to, encode, deadline).await;
    match answer.map(|bytes| codec::decode::<Response, RPC_LIMIT>(&bytes)) {
        Ok(Ok(Response::Digests(reports))) => {
            shared.agreeing.tell(Event::Received { from: to, reports });
        }
        // A server of an older version knows no such request.
        Ok(Ok(_) | Err(_)) => tracing::debug!(?to, "no digests of a state came back"),
        Err(error) => tracing::debug!(?to, "digests of the state were not sent: {error}"),
    }
}
