//! A pool, as the rest of the agent sees it: its members, and what may be asked of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use spec::{
    serf::{
        Command, KeyRequest, KeyResult, Refused, Serf, Status, Tags, UserEvent as SerfEvent,
        coordinate::Coordinate, members::Refusal, tags,
    },
    swim::Versions,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    counters::Counters,
    events::{Events, NEW_LEADER, UserEvent},
    task::{Ask, Reply},
};
use crate::config::gossip::Area;

/// How long a request may take that the machine answers by itself.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often a keyring operation is asked for that members don't answer.
const KEYRING_TRIES: u32 = 3;

/// A member, as it is told to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolMember {
    /// Its name.
    pub name: Arc<str>,
    /// Where it receives.
    pub endpoint: SocketAddr,
    /// What it says of itself.
    pub tags: Tags,
    /// How it stands.
    pub status: Status,
    /// What it understands.
    pub versions: Versions,
}

impl PoolMember {
    /// The value of a tag; empty where it has none.
    pub fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map_or("", |value| value)
    }

    /// Where a server answers other servers, by its `port` tag.
    pub fn rpc_address(&self) -> Option<SocketAddr> {
        let port = self.tag("port").parse().ok()?;
        Some(SocketAddr::new(self.endpoint.ip(), port))
    }
}

/// All members, in order of their names.
pub type Members = Arc<Vec<Arc<PoolMember>>>;

/// The members as the machine knows them; those that didn't change are taken over.
pub(super) fn members(serf: &Serf, before: &[Arc<PoolMember>]) -> Vec<Arc<PoolMember>> {
    let entries = serf.members.entries.values();
    let member = |entry: &spec::serf::members::Entry| {
        let known = before.binary_search_by(|known| known.name.cmp(&entry.member.name));
        let tags = tags::decode(&entry.member.meta);
        let member = PoolMember {
            name: Arc::clone(&entry.member.name),
            endpoint: entry.member.endpoint,
            tags,
            status: entry.status,
            versions: entry.member.versions,
        };
        match known.ok().and_then(|at| before.get(at)) {
            Some(known) if **known == member => Arc::clone(known),
            _ => Arc::new(member),
        }
    };
    entries.map(member).collect()
}

/// Why a pool didn't do what it was asked to. The texts are Consul's where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The machine refused it.
    #[error("{0}")]
    Refused(Refused),
    /// No address was joined; each with why.
    #[error("{}", crate::config::load::multi_error(.0))]
    Join(Vec<String>),
    /// Nobody has this name.
    #[error("agent: No node found with name '{0}'")]
    NoSuchMember(String),
    /// The pool is gone: the agent stops.
    #[error("the agent is shutting down")]
    Gone,
}

/// A pool that this agent is a member of. Cloning it is cheap and gives the same one.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

pub(super) struct Shared {
    /// Which pool it is.
    pub area: Area,
    /// This member's name.
    pub name: Arc<str>,
    /// Where it receives.
    pub endpoint: SocketAddr,
    pub asks: mpsc::UnboundedSender<Ask>,
    pub next_request: AtomicU64,
    pub members: ArcSwap<Vec<Arc<PoolMember>>>,
    /// Counts changes of `members`.
    pub version: watch::Sender<u64>,
    pub events: Events,
    /// None where coordinates are switched off.
    pub coordinate: Option<ArcSwap<Coordinate>>,
    /// Where others are, as they told: of the WAN alone, whose members are few.
    pub places: ArcSwap<BTreeMap<Arc<str>, Coordinate>>,
    /// Why the agent must stop, once it must.
    pub fatal: watch::Sender<Option<String>>,
    /// Whether gossip is encrypted.
    pub encrypted: std::sync::atomic::AtomicBool,
    pub figures: Figures,
    pub counters: Arc<Counters>,
}

impl Shared {
    /// Says that the agent must stop, and why.
    pub(super) fn give_up(&self, reason: String) {
        tracing::error!(target: "agent", "{reason}");
        self.fatal.send_replace(Some(reason));
    }
}

/// What `info` shows.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub member_time: AtomicU64,
    pub event_time: AtomicU64,
    pub query_time: AtomicU64,
    pub health: AtomicU64,
    pub intents: AtomicU64,
    pub queries: AtomicU64,
    pub events: AtomicU64,
    pub resets: AtomicU64,
}

impl Pool {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Which pool it is.
    pub fn area(&self) -> Area {
        self.0.area
    }

    /// This member's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Where this member receives.
    pub fn endpoint(&self) -> SocketAddr {
        self.0.endpoint
    }

    /// All members, this one too.
    pub fn members(&self) -> Members {
        self.0.members.load_full()
    }

    /// The member of this name.
    pub fn member(&self, name: &str) -> Option<Arc<PoolMember>> {
        let members = self.0.members.load();
        let at = members.binary_search_by(|member| (*member.name).cmp(name)).ok()?;
        members.get(at).cloned()
    }

    /// Tells of each change of the members from here on.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// The user events that came.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// Where this member is in the network; none where coordinates are switched off.
    pub fn coordinate(&self) -> Option<Arc<Coordinate>> {
        self.0.coordinate.as_ref().map(ArcSwap::load_full)
    }

    /// Where a member of the WAN is in the network, this one too; none as long as it wasn't measured.
    pub fn place(&self, member: &str) -> Option<Coordinate> {
        if *member == *self.0.name {
            return self.coordinate().map(|own| Coordinate::clone(&own));
        }
        self.0.places.load().get(member).cloned()
    }

    /// Whether gossip is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.0.encrypted.load(Ordering::Relaxed)
    }

    /// Whether this member has left, or its pool can't go on.
    pub fn is_gone(&self) -> bool {
        self.0.asks.is_closed()
    }

    /// Waits until the pool can't go on, and says why.
    pub async fn failed(&self) -> String {
        let mut fatal = self.0.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Says that the agent must stop.
    pub(super) fn give_up(&self, reason: String) {
        self.0.give_up(reason);
    }

    fn request(&self) -> u64 {
        self.0.next_request.fetch_add(1, Ordering::Relaxed)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(u64) -> Command,
        reply: impl FnOnce(oneshot::Sender<Result<T, Refused>>) -> Reply,
    ) -> Result<T, PoolError> {
        let request = self.request();
        let (sender, answer) = oneshot::channel();
        let ask = Ask { request, command: command(request), reply: reply(sender) };
        self.0.asks.send(ask).map_err(|_| PoolError::Gone)?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer.map_err(PoolError::Refused),
            Ok(Err(_)) | Err(_) => Err(PoolError::Gone),
        }
    }

    /// Joins the pools of whoever is at these addresses, `host` or `host:port`; gives how many answered, at least one.
    pub async fn join(&self, addresses: &[String]) -> Result<usize, PoolError> {
        let (mut endpoints, mut names) = (Vec::new(), BTreeMap::new());
        let mut errors = Vec::new();
        for address in addresses {
            match resolve(address, self.0.endpoint.port()).await {
                Ok(found) => {
                    for endpoint in found {
                        names.insert(endpoint, address.clone());
                        endpoints.push(endpoint);
                    }
                }
                Err(error) => errors.push(format!("Failed to resolve {address}: {error}")),
            }
        }
        endpoints.dedup();
        if endpoints.is_empty() {
            return Err(PoolError::Join(errors));
        }
        let joined = self
            .ask(|request| Command::Join { request, to: endpoints, ignore_old: true }, Reply::Join)
            .await?;
        errors.extend(
            joined
                .failures
                .iter()
                .map(|(endpoint, reason)| format!("Failed to join {}: {reason}", endpoint.ip())),
        );
        if joined.count == 0 { Err(PoolError::Join(errors)) } else { Ok(joined.count) }
    }

    /// Leaves the pool, so that the others don't take it for a failure.
    pub async fn leave(&self) -> Result<(), PoolError> {
        self.ask(|request| Command::Leave { request }, Reply::Done).await
    }

    /// Takes a failed member for one that left; forgets it, with `prune`.
    pub async fn force_leave(&self, name: &str, prune: bool) -> Result<(), PoolError> {
        let node: Arc<str> = name.into();
        let command = |request| Command::ForceLeave { request, name: node, prune };
        match self.ask(command, Reply::Done).await {
            Err(PoolError::Refused(Refused::Member(Refusal::Unknown))) => {
                Err(PoolError::NoSuchMember(name.to_owned()))
            }
            other => other,
        }
    }

    /// Fires a user event.
    pub async fn fire(&self, event: &UserEvent) -> Result<(), PoolError> {
        let event = event.to_serf();
        self.ask(|request| Command::Event { request, event, coalesce: false }, Reply::Done).await
    }

    /// Says to all members that this one leads the servers: a real Consul's agents then tell it at once what they have.
    pub async fn announce_leader(&self) -> Result<(), PoolError> {
        let event = SerfEvent { name: NEW_LEADER.into(), payload: self.name().as_bytes().into() };
        self.ask(|request| Command::Event { request, event, coalesce: false }, Reply::Done).await
    }

    /// Says something else of this member.
    pub async fn set_tags(&self, tags: Tags) -> Result<(), PoolError> {
        self.ask(|request| Command::SetTags { request, tags }, Reply::Done).await
    }

    /// An operation on the keyrings of all members.
    ///
    /// Gossip passes a query on a bounded number of times, by chance: now and then a member doesn't hear it. Each operation
    /// may be done twice, so it is asked again, unless it waits for a member that has failed and will not answer anyway.
    pub async fn keyring(
        &self,
        operation: KeyRequest,
        relay_factor: u8,
    ) -> Result<KeyResult, PoolError> {
        let mut tries = 1;
        let lists = operation == KeyRequest::List;
        loop {
            let operation = operation.clone();
            let command = |request| Command::Keyring { request, operation, relay_factor };
            let result = self.ask(command, Reply::Keyring).await?;
            let lost = result.errors == 0 && result.responses < result.nodes;
            let failed =
                !lists && self.members().iter().any(|member| member.status == Status::Failed);
            if !lost || failed || tries == KEYRING_TRIES {
                return Ok(result);
            }
            tries += 1;
        }
    }

    /// The block `gossip_lan` or `gossip_wan` of `info`: what was refused, dropped and lost.
    pub fn counted(&self) -> BTreeMap<&'static str, String> {
        self.0.counters.figures()
    }

    /// The block `serf_lan` or `serf_wan` of `info`.
    pub fn figures(&self) -> BTreeMap<&'static str, String> {
        let members = self.members();
        let count = |status| members.iter().filter(|member| member.status == status).count();
        let figure = |value: &AtomicU64| value.load(Ordering::Relaxed).to_string();
        let figures = &self.0.figures;
        BTreeMap::from([
            ("coordinate_resets", figure(&figures.resets)),
            ("encrypted", self.is_encrypted().to_string()),
            ("event_queue", figure(&figures.events)),
            ("event_time", figure(&figures.event_time)),
            ("failed", count(Status::Failed).to_string()),
            ("health_score", figure(&figures.health)),
            ("intent_queue", figure(&figures.intents)),
            ("left", count(Status::Left).to_string()),
            ("member_time", figure(&figures.member_time)),
            ("members", members.len().to_string()),
            ("query_queue", figure(&figures.queries)),
            ("query_time", figure(&figures.query_time)),
        ])
    }
}

/// Where `host` or `host:port` is.
async fn resolve(address: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(endpoint) = address.parse::<SocketAddr>() {
        return Ok(vec![endpoint]);
    }
    if let Ok(ip) = address.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let with_port =
        if address.contains(':') { address.to_owned() } else { format!("{address}:{port}") };
    match tokio::net::lookup_host(&with_port).await {
        Ok(found) => {
            let found: Vec<_> = found.collect();
            if found.is_empty() { Err("no such host".to_owned()) } else { Ok(found) }
        }
        Err(_) => Err(format!("lookup {address}: no such host")),
    }
}
