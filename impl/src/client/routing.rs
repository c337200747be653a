//! Which server is in use: drives the machine of [`spec::sync::servers`] with timers and pings.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Weak},
    time::Duration,
};

use hyper::StatusCode;
use spec::{
    entropy::Seeded,
    sync::servers::{Effect, Event, Servers},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{KnownServer, KnownServers, Shared, lock};

/// How long a server may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Names a server, whatever becomes of its address.
pub(super) type Id = Arc<str>;

/// The servers in their order, and where they are.
pub(super) struct Routing {
    pub(super) servers: Servers<Id>,
    known: BTreeMap<Id, (Place, KnownServer)>,
    pub(super) entropy: Seeded,
}

impl Routing {
    pub(super) fn new() -> Self {
        let entropy = Seeded::new(RandomState::new().hash_one(0));
        Self { servers: Servers::default(), known: BTreeMap::new(), entropy }
    }

    pub(super) fn in_use(&self) -> Option<KnownServer> {
        let (_, server) = self.known.get(self.servers.in_use()?)?;
        Some(server.clone())
    }

    fn place_in_use(&self) -> Option<Place> {
        let (place, _) = self.known.get(self.servers.in_use()?)?;
        Some(place.clone())
    }

    fn step(&mut self, event: Event<Id>) -> Vec<Effect<Id>> {
        let mut effects = Vec::new();
        self.servers.step(event, &mut self.entropy, &mut effects);
        effects
    }

    fn know(&mut self, known: &KnownServers) -> Vec<Effect<Id>> {
        let placed = |(id, server): (&String, &KnownServer)| {
            let id = Id::from(id.as_str());
            let place = Place { id: id.clone(), address: server.address.as_str().into() };
            (id, (place, server.clone()))
        };
        self.known = known.servers.iter().map(placed).collect();
        let servers = self.known.keys().cloned().collect();
        self.step(Event::Known { servers, agents: known.agents })
    }
}

/// A server in use, or one that may be: whom to dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) id: Id,
    pub(super) address: Arc<str>,
}

impl Shared {
    /// Where requests go at present.
    pub(super) fn in_use(&self) -> Option<Place> {
        lock(&self.routing).place_in_use()
    }

    fn place(&self, id: &Id) -> Option<Place> {
        lock(&self.routing).known.get(id).map(|(place, _)| place.clone())
    }

    /// A server can't be reached, or broke off.
    pub(super) fn failed(&self, id: &Id) {
        self.step(Event::Failed(id.clone()));
    }

    /// These are the servers from here on.
    pub(super) fn know(&self, known: &KnownServers) -> Vec<Effect<Id>> {
        self.change(|routing| routing.know(known))
    }

    fn step(&self, event: Event<Id>) -> Vec<Effect<Id>> {
        self.change(|routing| routing.step(event))
    }

    /// Changes the routing, and lets go of connections to servers that aren't in use any more.
    fn change(&self, change: impl FnOnce(&mut Routing) -> Vec<Effect<Id>>) -> Vec<Effect<Id>> {
        let (effects, before, after, server) = {
            let mut routing = lock(&self.routing);
            let before = routing.place_in_use();
            let effects = change(&mut routing);
            (effects, before, routing.place_in_use(), routing.in_use())
        };
        if before != after {
            if let Some(KnownServer { name, address, version }) = &server {
                tracing::debug!(target: "agent.client", server = name, address, version, "New server in use");
            }
            self.pool.retire(|place| Some(place) == after.as_ref());
        }
        effects
    }

    /// Whether the server answers. Its connection is kept, since requests follow.
    async fn ping(self: &Arc<Self>, id: &Id) -> bool {
        let Some(place) = self.place(id) else { return false };
        let answer = timeout(PING_TIMEOUT, self.ask_leader(&place)).await;
        matches!(answer, Ok(Ok(StatusCode::OK)))
    }
}

/// Follows the servers, and changes over between them, until the client is gone.
pub(super) async fn run(
    shared: Weak<Shared>,
    mut known: watch::Receiver<KnownServers>,
    mut effects: Vec<Effect<Id>>,
    stopped: impl Future<Output = ()>,
) {
    let mut stopped = std::pin::pin!(stopped);
    let mut pings = JoinSet::new();
    let mut rebalance = None;
    let mut fixed = false;
    loop {
        for effect in std::mem::take(&mut effects) {
            match effect {
                Effect::Ping(id) => {
                    let Some(shared) = shared.upgrade() else { return };
                    pings.spawn(async move {
                        let alive = shared.ping(&id).await;
                        (id, alive)
                    });
                }
                Effect::RebalanceAfter(delay) => rebalance = Some(Instant::now() + delay),
            }
        }
        let due = async {
            match rebalance {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            () = &mut stopped => return,
            changed = known.changed(), if !fixed => {
                // Where nobody is left to tell of others, the servers stay as they are.
                fixed = changed.is_err();
                None
            }
            Some(Ok((server, alive))) = pings.join_next() => Some(Event::Pinged { server, alive }),
            () = due => {
                rebalance = None;
                Some(Event::RebalanceDue)
            }
        };
        let Some(shared) = shared.upgrade() else { return };
        effects = match event {
            Some(event) => shared.step(event),
            None => shared.know(&known.borrow_and_update()),
        };
    }
}
