//! What a server does by itself: the leader has old tombstones forgotten, and every server keeps its address and the
//! others' names up to date.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use spec::{
    codec::{self, RPC_LIMIT},
    state::Command,
    time::ClusterTime,
};
use tokio::time::{self, Instant, MissedTickBehavior};

use super::{Request, Response, Server, Shared, lock, reconcile::Members};

/// How often duties are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a server may take to say its name.
const NAME_TIMEOUT: Duration = Duration::from_millis(300);

/// Runs until the server is gone.
pub(super) async fn run(shared: Weak<Shared>) {
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = (ClusterTime::default(), Instant::now());
    let mut asked = Instant::now();
    let mut members: Option<Members> = None;
    loop {
        // What gossip says is seen to at once, the rest now and then.
        match &mut members {
            None => drop(ticks.tick().await),
            Some(members) => tokio::select! {
                _ = ticks.tick() => {}
                () = members.changed(INTERVAL) => {}
            },
        }
        let Some(shared) = shared.upgrade() else { return };
        let server = Server(shared);
        if members.is_none() {
            members = server.0.pool.get().cloned().map(Members::new);
        }
        if let Some(members) = &mut members {
            server.reconcile(members).await;
        }
        server.return_to_cluster(&mut asked);
        server.learn_names().await;
        server.reap_tombstones(&mut last).await;
        server.look_after_servers().await;
        server.tell_address().await;
    }
}

impl Server {
    /// Has tombstones forgotten that are old enough.
    ///
    /// Cluster time stands in the state as of the last entry; since then it went on by this server's clock.
    async fn reap_tombstones(&self, last: &mut (ClusterTime, Instant)) {
        if !self.0.leadership.borrow().leads {
            return;
        }
        let state = Arc::clone(&self.0.published.load().value);
        let (_, time) = state.applied();
        if time != last.0 {
            *last = (time, Instant::now());
        }
        let since = u64::try_from(last.1.elapsed().as_millis()).unwrap_or(0);
        let now = ClusterTime(last.0.0.saturating_add(since));
        if let Some(up_to) = state.reapable(now)
            && let Err(error) = self.propose(Command::ReapTombstones { up_to }).await
        {
            tracing::debug!("tombstones are not reaped yet: {error}");
        }
    }

    /// Learns the names of servers that are new.
    pub(super) async fn learn_names(&self) {
        let configuration = Arc::clone(&self.0.leadership.borrow().configuration);
        for id in configuration.servers.keys() {
            let known = {
                let names = lock(&self.0.names);
                names.contains_key(&id.node)
            };
            if known {
                continue;
            }
            let deadline = Instant::now() + NAME_TIMEOUT;
            let encode = |buffer: &mut Vec<u8>| codec::encode_into(&Request::Name, buffer);
            let answer = self.0.transport.call_server(*id, encode, deadline).await;
            if let Ok(bytes) = answer
                && let Ok(Response::Name(name)) = codec::decode::<Response, RPC_LIMIT>(&bytes)
            {
                let mut names = lock(&self.0.names);
                names.insert(id.node, name);
            }
        }
    }

    /// Tells the leader where this server answers, where the configuration says otherwise.
    async fn tell_address(&self) {
        let leadership = self.0.leadership.borrow().clone();
        let address = self.0.settings.advertise_address.to_string();
        let moved = leadership
            .configuration
            .servers
            .get(&self.0.id)
            .is_some_and(|member| *member.address != *address);
        if moved && leadership.leader.is_some() {
            let request = Request::Join { server: self.0.id, address };
            if let Err(error) = self.ask_leader(request).await {
                tracing::debug!("the leader doesn't know this server's new address yet: {error}");
            }
        }
    }
}
