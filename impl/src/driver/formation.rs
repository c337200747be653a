//! Runs the machine by which blank servers form or join a cluster, and answers those that look for one.
//!
//! Its messages are requests of the Rpc class, each answered by nothing: what a server has to say it sends itself, to
//! the address that the other one says it answers at.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use spec::{
    codec,
    entropy::Seeded,
    gate::Gate,
    machine::{Context, Effect, Event, Machine, Ticket},
    raft::{
        ClusterId, Configuration, ServerId,
        formation::{Address, Command, Config, Durable, Formation, Message, Output, Timer, Wait},
    },
    time::Timers,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::Clock;
use crate::storage::{RecordFile, StorageError};

/// The longest message; a set of servers and their addresses fits many times.
const MESSAGE_LIMIT: usize = 64 << 10;
/// Messages that wait to be looked at; more are dropped, and come again.
const QUEUE: usize = 256;
/// The name of the record that keeps what a server promised.
pub const RECORD: &str = "formation";

/// What the machine's host does for it.
pub trait Host: Send + Sync + 'static {
    /// Carries a message to the server at `to`, which hands it to its [`Forming::receive`]. It may be lost.
    fn carry(&self, to: &str, message: Vec<u8>);
    /// This server is a member of a formed cluster, durably: `configuration` is the first entry of its log. Told
    /// again at each start.
    fn formed(&self, configuration: Configuration);
    /// Ask the cluster to add this server: its leader answers at `leader`, or a server that should know it. Told
    /// again and again until [`Forming::belongs`].
    fn join(&self, cluster: ClusterId, leader: &str);
    /// What this server promises can't be made durable any more: stop.
    fn failed(&self, error: StorageError);
}

/// What a server is told when it starts to look for a cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This server.
    pub server: ServerId,
    /// Where it answers, as `host:port`.
    pub address: String,
    /// How many servers form a cluster (`bootstrap_expect`, 1 for `bootstrap`); 0 where it only joins one.
    pub expect: usize,
    /// The servers that it was told of (`retry_join`).
    pub addresses: Vec<String>,
    /// The cluster that its log belongs to, where it has one: then it only answers.
    pub member_of: Option<ClusterId>,
    /// What chance is drawn from.
    pub seed: u64,
}

impl Settings {
    fn config(&self) -> Config {
        Config {
            server: self.server,
            address: self.address.as_str().into(),
            expect: self.expect,
            addresses: self.addresses.iter().map(|address| address.as_str().into()).collect(),
            member_of: self.member_of,
            retry: Duration::from_millis(100),
            retry_jitter: Duration::from_millis(100),
            patience: Duration::from_secs(2),
        }
    }
}

/// A message and where its sender answers.
type Envelope = (Address, Message);

enum Input {
    Message(Address, Message),
    Command(Command),
}

/// A server that looks for a cluster, or answers those that do. Dropping the last one ends it.
#[derive(Clone)]
pub struct Forming {
    inbox: mpsc::Sender<Input>,
    waiting: watch::Receiver<Vec<Wait>>,
}

impl Forming {
    /// Starts from what `record` has. Called from within tokio's runtime.
    pub fn start(
        settings: &Settings,
        record: RecordFile,
        host: Arc<dyn Host>,
    ) -> Result<Self, StorageError> {
        let config = settings.config();
        let durable = match record.load()? {
            None => Durable::default(),
            Some(bytes) => match codec::decode::<Durable, MESSAGE_LIMIT>(&bytes) {
                Ok(durable) => durable,
                Err(error) => return Err(record.unreadable(&error)),
            },
        };
        let (inbox, inputs) = mpsc::channel(QUEUE);
        let (waits, waiting) = watch::channel(Vec::new());
        let mut task = Task {
            own: Arc::clone(&config.address),
            machine: None,
            durable: durable.clone(),
            gate: Gate::default(),
            timers: Timers::default(),
            entropy: Seeded::new(settings.seed),
            clock: Clock::default(),
            record: Arc::new(record),
            host,
            waits,
            others: BTreeSet::new(),
        };
        let mut effects = Vec::new();
        let mut cx = Context {
            now: task.clock.now(),
            entropy: &mut task.entropy,
            last_ticket: &mut task.gate.last,
        };
        task.machine = Some(Formation::recover(&config, durable, &mut cx, &mut effects));
        tokio::spawn(task.run(effects, inputs));
        Ok(Self { inbox, waiting })
    }

    /// Takes a message that another server's [`Host::carry`] carried. Nonsense is dropped.
    pub fn receive(&self, message: &[u8]) {
        match codec::decode::<Envelope, MESSAGE_LIMIT>(message) {
            Ok((from, message)) => {
                let _ = self.inbox.try_send(Input::Message(from, message));
            }
            Err(error) => tracing::debug!(%error, "a message of formation was dropped"),
        }
    }

    /// Says that this server's Raft belongs to a cluster, and where its leader answers. It asks no more, but answers.
    pub async fn belongs(&self, cluster: ClusterId, leader: Option<&str>) {
        let leader = leader.map(Address::from);
        let _ = self.inbox.send(Input::Command(Command::Belongs { cluster, leader })).await;
    }

    /// Says that there may be a server at this address.
    pub async fn heard(&self, address: &str) {
        let _ = self.inbox.send(Input::Command(Command::Heard(address.into()))).await;
    }

    /// For what it waits.
    pub fn waiting(&self) -> Vec<Wait> {
        self.waiting.borrow().clone()
    }
}

/// Says a wait in words.
pub fn describe(wait: &Wait) -> String {
    match wait {
        Wait::Unanswered(address) => format!("nobody answers at {address}"),
        Wait::Expects { address, expect: 0 } => {
            format!("the server at {address} has no bootstrap_expect and only joins")
        }
        Wait::Expects { address, expect } => {
            format!("the server at {address} has bootstrap_expect {expect}")
        }
        Wait::More { expect: 0, .. } => {
            "no bootstrap_expect is set, so it waits for a cluster to join".to_owned()
        }
        Wait::More { found, expect } => {
            format!("{found} of the {expect} servers that bootstrap_expect asks for are there")
        }
        Wait::Coordinator(address) => {
            format!("the server at {address} has the lowest id and coordinates")
        }
        Wait::Decision(address) => format!(
            "it promised itself to a set of servers, and the server at {address} has to say what became of it"
        ),
        Wait::Promise(address) => format!("the server at {address} has not promised itself"),
        Wait::Cluster(cluster) => format!("cluster {:032x} is to add it", cluster.0),
    }
}

struct Task {
    own: Address,
    machine: Option<Formation>,
    /// What the record has, or will have once the pending write is done.
    durable: Durable,
    gate: Gate<Formation>,
    timers: Timers<Timer>,
    entropy: Seeded,
    clock: Clock,
    record: Arc<RecordFile>,
    host: Arc<dyn Host>,
    waits: watch::Sender<Vec<Wait>>,
    /// Servers of other clusters that were reported.
    others: BTreeSet<(Address, ClusterId)>,
}

impl Task {
    async fn run(mut self, effects: Vec<Effect<Formation>>, mut inputs: mpsc::Receiver<Input>) {
        let mut effects = effects;
        loop {
            if let Err(error) = self.route(&mut effects).await {
                self.host.failed(error);
                return;
            }
            let deadline = self.timers.next_deadline().map(|deadline| self.clock.at(deadline));
            let event = tokio::select! {
                input = inputs.recv() => match input {
                    None => return,
                    Some(Input::Message(from, message)) => Event::Receive { from, message },
                    Some(Input::Command(command)) => Event::Command(command),
                },
                () = sleep_until(deadline.map_or_else(far_future, Instant::from_std)) => {
                    match self.timers.pop(self.clock.now()) {
                        Some(timer) => Event::Fire(timer),
                        None => continue,
                    }
                }
            };
            self.step(event, &mut effects);
        }
    }

    fn step(&mut self, event: Event<Formation>, effects: &mut Vec<Effect<Formation>>) {
        let mut cx = Context {
            now: self.clock.now(),
            entropy: &mut self.entropy,
            last_ticket: &mut self.gate.last,
        };
        if let Some(machine) = &mut self.machine {
            machine.step(event, &mut cx, effects);
        }
    }

    /// Does what the machine asked for, and makes its writes durable: only the last one, which replaces the others.
    async fn route(&mut self, effects: &mut Vec<Effect<Formation>>) -> Result<(), StorageError> {
        while !effects.is_empty() {
            let mut ready = Vec::new();
            self.gate.admit(effects, &mut ready);
            let written = self.perform(ready);
            if let Some(ticket) = written {
                let (record, bytes) = (Arc::clone(&self.record), codec::encode(&self.durable));
                let stored = tokio::task::spawn_blocking(move || record.store(&bytes)).await;
                // A store that panicked or was cut off by the runtime's end made nothing durable.
                let Ok(stored) = stored else { return Ok(()) };
                stored?;
                let mut released = Vec::new();
                self.gate.durable(ticket, &mut released);
                self.perform(released);
                self.step(Event::Durable(ticket), effects);
            }
        }
        Ok(())
    }

    /// Gives the last write's ticket.
    fn perform(&mut self, ready: Vec<Effect<Formation>>) -> Option<Ticket> {
        let mut last = None;
        for effect in ready {
            match effect {
                Effect::Persist { ticket, write } => {
                    Formation::fold(&mut self.durable, &write);
                    last = Some(ticket);
                }
                Effect::Send { to, message, .. } => {
                    let envelope: Envelope = (Arc::clone(&self.own), message);
                    self.host.carry(&to, codec::encode(&envelope));
                }
                Effect::Arm { timer, delay } => {
                    self.timers.arm(timer, self.clock.now().after(delay));
                }
                Effect::Disarm { timer } => self.timers.disarm(&timer),
                Effect::Emit { output, .. } => self.tell(output),
            }
        }
        last
    }

    fn tell(&mut self, output: Output) {
        match output {
            Output::Formed(configuration) => {
                self.waits.send_replace(Vec::new());
                self.host.formed(configuration);
            }
            Output::Join { cluster, leader } => self.host.join(cluster, &leader),
            Output::Waiting(waits) => {
                let changed = *self.waits.borrow() != waits;
                if changed {
                    let told: Vec<_> = waits.iter().map(describe).collect();
                    tracing::info!("this server has no cluster yet: {}", told.join("; "));
                    self.waits.send_replace(waits);
                }
            }
            Output::OtherCluster { address, cluster } => {
                if self.others.len() < QUEUE && self.others.insert((Arc::clone(&address), cluster))
                {
                    tracing::error!(
                        "the server at {address} belongs to another cluster ({:032x}): two clusters were formed \
                         from servers that know each other",
                        cluster.0
                    );
                }
            }
        }
    }
}

/// Where no timer is armed.
fn far_future() -> Instant {
    Instant::now() + Duration::from_hours(24)
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, OnceLock};

    use bytes::Bytes;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::{
        net::{Answer, Caller, Handler, RaftMessage, Transport, TransportConfig},
        storage,
    };

    #[derive(Default)]
    struct Agent {
        transport: OnceLock<Arc<Transport>>,
        forming: OnceLock<Forming>,
        formed: Mutex<Vec<Configuration>>,
        joins: Mutex<Vec<(ClusterId, String)>>,
    }

    impl Handler for Agent {
        fn raft(&self, _: ServerId, _: RaftMessage) {}

        fn unreachable(&self, _: ServerId) {}

        fn call(&self, _: Caller, request: Bytes) -> Answer {
            if let Some(forming) = self.forming.get() {
                forming.receive(&request);
            }
            Box::pin(async { Bytes::new() })
        }
    }

    impl Host for Agent {
        fn carry(&self, to: &str, message: Vec<u8>) {
            let (transport, to) = (self.transport.get().unwrap().clone(), to.to_owned());
            tokio::spawn(async move {
                let deadline = Instant::now() + Duration::from_secs(1);
                let _ = transport.call(&to, message.into(), deadline).await;
            });
        }

        fn formed(&self, configuration: Configuration) {
            self.formed.lock().unwrap().push(configuration);
        }

        fn join(&self, cluster: ClusterId, leader: &str) {
            self.joins.lock().unwrap().push((cluster, leader.to_owned()));
        }

        fn failed(&self, error: StorageError) {
            panic!("{error}");
        }
    }

    struct Running {
        agent: Arc<Agent>,
        records: Arc<dyn storage::Directory>,
        settings: Settings,
    }

    impl Running {
        async fn bind(n: u128) -> (Arc<Agent>, String) {
            let agent = Arc::new(Agent::default());
            let address = "127.0.0.1:0".parse().unwrap();
            let config = TransportConfig::new(ServerId::new(n, 1));
            let transport = Transport::bind(address, config, agent.clone()).await.unwrap();
            let address = transport.address().to_string();
            let _ = agent.transport.set(Arc::new(transport));
            (agent, address)
        }

        fn start(
            agent: Arc<Agent>,
            settings: Settings,
            records: Arc<dyn storage::Directory>,
        ) -> Self {
            let record = RecordFile::new(records.clone(), RECORD);
            let forming = Forming::start(&settings, record, agent.clone()).unwrap();
            let _ = agent.forming.set(forming);
            Self { agent, records, settings }
        }
    }

    async fn servers(count: u128, expect: usize) -> Vec<Running> {
        let mut bound = Vec::new();
        for n in 1..=count {
            bound.push(Running::bind(n).await);
        }
        let addresses: Vec<_> = bound.iter().map(|(_, address)| address.clone()).collect();
        let mut running = Vec::new();
        for (n, (agent, address)) in (1..).zip(bound) {
            let settings = Settings {
                server: ServerId::new(n, 1),
                address,
                expect,
                addresses: addresses.clone(),
                member_of: None,
                seed: u64::try_from(n).unwrap(),
            };
            let records = storage::in_memory(None).unwrap().records;
            running.push(Running::start(agent, settings, records));
        }
        running
    }

    async fn until(mut met: impl FnMut() -> bool) {
        let waited = timeout(Duration::from_secs(20), async {
            while !met() {
                sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.expect("waited in vain");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn three_of_four_servers_form_over_tcp_and_the_fourth_joins() {
        let servers = servers(4, 3).await;
        let formed = |server: &Running| server.agent.formed.lock().unwrap().first().cloned();
        until(|| servers[..3].iter().all(|server| formed(server).is_some())).await;
        let configuration = formed(&servers[0]).unwrap();
        assert!(servers[..3].iter().all(|server| formed(server).as_ref() == Some(&configuration)));
        assert_eq!(configuration.servers.len(), 3);
        for server in &servers[..3] {
            let leader = &servers[1].settings.address;
            server.agent.forming.get().unwrap().belongs(configuration.cluster, Some(leader)).await;
        }
        let join = (configuration.cluster, servers[1].settings.address.clone());
        until(|| servers[3].agent.joins.lock().unwrap().contains(&join)).await;
        assert_eq!(formed(&servers[3]), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_restarted_server_tells_the_same_again() {
        let servers = servers(1, 1).await;
        let formed = |agent: &Agent| agent.formed.lock().unwrap().clone();
        until(|| !formed(&servers[0].agent).is_empty()).await;
        let (agent, _) = Running::bind(1).await;
        let first = formed(&servers[0].agent);
        let again = Running::start(agent, servers[0].settings.clone(), servers[0].records.clone());
        until(|| !formed(&again.agent).is_empty()).await;
        assert_eq!(formed(&again.agent), first);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_without_partners_says_so() {
        let servers = servers(2, 3).await;
        until(|| {
            let waits = servers[1].agent.forming.get().unwrap().waiting();
            waits.iter().any(|wait| {
                describe(wait) == "2 of the 3 servers that bootstrap_expect asks for are there"
            })
        })
        .await;
    }
}
