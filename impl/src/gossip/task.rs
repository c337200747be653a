//! The task of a pool: it takes what arrived as one turn, and brings what the turn leaves to where it belongs.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use agent_sync::GroupCommit;
use arc_swap::ArcSwap;
use gossip_wire::envelope::Envelope;
use spec::{
    machine::Ticket,
    serf::{Command, Key, KeyResult, Keyring, Output, Record, Refused},
    swim,
    time::Instant,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    events::{NEW_LEADER, UserEvent},
    network::Wire,
    pool::{self, Shared},
    turn::{Input, Outbox, Turn},
};
use crate::{config::gossip::Area, driver::Clock};

/// Inputs that one turn takes.
const MAX_INPUTS: usize = 256;

/// How a join went.
#[derive(Debug)]
pub(super) struct Joined {
    /// How many answered.
    pub count: usize,
    /// Who didn't, and why.
    pub failures: Vec<(SocketAddr, String)>,
}

/// Who waits for an answer of the machine.
pub(super) enum Reply {
    Join(oneshot::Sender<Result<Joined, Refused>>),
    Done(oneshot::Sender<Result<(), Refused>>),
    Keyring(oneshot::Sender<Result<KeyResult, Refused>>),
}

/// A request.
pub(super) struct Ask {
    pub request: u64,
    pub command: Command,
    pub reply: Reply,
}

/// The writer's inbox.
pub(super) type Records = GroupCommit<(Ticket, Record)>;

pub(super) struct Task {
    pub turn: Turn,
    pub outbox: Outbox,
    pub shared: Arc<Shared>,
    pub clock: Clock,
    pub inputs: mpsc::Receiver<Input>,
    pub control: mpsc::UnboundedReceiver<Input>,
    pub asks: mpsc::UnboundedReceiver<Ask>,
    pub records: Arc<Records>,
    pub wire: Arc<Wire>,
    pub envelope: Arc<ArcSwap<Envelope>>,
    pub waiting: HashMap<u64, Reply>,
}

/// A line of the log in the name of the pool.
macro_rules! says {
    ($area:expr, $level:ident, $($text:tt)+) => {
        match $area {
            Area::Lan => tracing::$level!(target: "agent.serf.lan", $($text)+),
            Area::Wan => tracing::$level!(target: "agent.serf.wan", $($text)+),
        }
    };
}

impl Task {
    /// Runs until the pool's handles are gone, this member has left, or an invariant broke.
    pub(super) async fn run(mut self) {
        let mut inputs = vec![Input::Command(Command::Start)];
        loop {
            let now = self.clock.now();
            if let Err(violation) = self.turn.turn(now, &mut inputs, &mut self.outbox) {
                self.shared.give_up(violation.to_string());
                break;
            }
            if self.deliver() {
                break;
            }
            let deadline = self.turn.next_deadline().unwrap_or(Instant(u64::MAX));
            let wait = deadline.since(self.clock.now()).min(Duration::from_hours(1));
            let input = tokio::select! {
                biased;
                ask = self.asks.recv() => match ask {
                    Some(ask) => {
                        self.waiting.insert(ask.request, ask.reply);
                        Some(Input::Command(ask.command))
                    }
                    None => break,
                },
                Some(input) = self.control.recv() => Some(input),
                Some(input) = self.inputs.recv() => Some(input),
                () = tokio::time::sleep(wait) => None,
            };
            inputs.extend(input);
            self.take_waiting(&mut inputs);
        }
        self.records.close();
    }

    /// Takes what else arrived, so that one turn answers it all.
    fn take_waiting(&mut self, inputs: &mut Vec<Input>) {
        while inputs.len() < MAX_INPUTS {
            match self.control.try_recv().or_else(|_| self.inputs.try_recv()) {
                Ok(input) => inputs.push(input),
                Err(_) => return,
            }
        }
    }

    /// Brings the outbox to where it belongs; true once this member has left.
    fn deliver(&mut self) -> bool {
        for record in self.outbox.persist.drain(..) {
            let _ = self.records.push(record);
        }
        for (to, message) in self.outbox.send.drain(..) {
            self.wire.send(to, message);
        }
        let mut left = false;
        let mut news = false;
        for output in std::mem::take(&mut self.outbox.outputs) {
            left |= matches!(output, Output::LeaveDone { .. });
            news |= is_news(&output);
            self.tell(output);
        }
        if news {
            let before = self.shared.members.load_full();
            self.shared.members.store(Arc::new(pool::members(self.turn.serf(), &before)));
            self.shared.version.send_modify(|version| *version += 1);
        }
        if let Some(coordinate) = &self.shared.coordinate {
            coordinate.store(Arc::new(self.turn.coordinate().clone()));
        }
        if let Some(places) = self.turn.take_places() {
            self.shared.places.store(Arc::new(places.clone()));
        }
        let (serf, figures) = (self.turn.serf(), &self.shared.figures);
        for (figure, value) in [
            (&figures.member_time, serf.members.clock.time().0),
            (&figures.event_time, serf.events.clock.time().0),
            (&figures.query_time, serf.queries.clock.time().0),
            (&figures.health, u64::from(serf.swim.awareness.0)),
            (&figures.resets, self.turn.coordinate_resets()),
        ] {
            figure.store(value, Ordering::Relaxed);
        }
        // Classes of the queue, in Serf's order of priority; membership itself is class 0.
        for (class, figure) in (1..).zip([&figures.intents, &figures.queries, &figures.events]) {
            let queued = serf.swim.queue.entries.keys().filter(|place| place.class == class);
            figure.store(queued.count() as u64, Ordering::Relaxed);
        }
        left
    }

    fn tell(&mut self, output: Output) {
        match output {
            Output::Joined { member, .. } => {
                says!(
                    self.shared.area,
                    info,
                    "serf: EventMemberJoin: {} {}",
                    member.name,
                    member.endpoint.ip()
                );
            }
            Output::Updated(member) => {
                says!(self.shared.area, info, "serf: EventMemberUpdate: {}", member.name);
            }
            Output::Failed(member) => {
                says!(
                    self.shared.area,
                    info,
                    "serf: EventMemberFailed: {} {}",
                    member.name,
                    member.endpoint.ip()
                );
            }
            Output::Left(member) => {
                says!(
                    self.shared.area,
                    info,
                    "serf: EventMemberLeave: {} {}",
                    member.name,
                    member.endpoint.ip()
                );
            }
            Output::Reaped { member, .. } => {
                says!(self.shared.area, info, "serf: EventMemberReap: {}", member.name);
            }
            Output::Event { ltime, event, .. } => match UserEvent::from_serf(ltime, &event) {
                Some(Ok(event)) => self.shared.events.take(event),
                Some(Err(error)) => tracing::error!("agent: Failed to decode event: {error}"),
                None if *event.name == *NEW_LEADER => {
                    let payload = String::from_utf8_lossy(&event.payload);
                    tracing::info!(target: "agent", "New leader elected: payload={payload}");
                }
                None => tracing::debug!(name = %event.name, "gossip: an event that isn't Consul's"),
            },
            Output::Keyring(keyring) => self.encrypt(&keyring),
            Output::Conflict { known, endpoint } => tracing::error!(
                "memberlist: Conflicting address for {}. Mine: {} Theirs: {endpoint}",
                known.name,
                known.endpoint
            ),
            Output::JoinDone { request, joined, failures } => {
                let failures = failures
                    .into_iter()
                    .map(|(to, error)| (to, self.wire.reason(to).unwrap_or_else(|| why(&error))))
                    .collect();
                if let Some(Reply::Join(reply)) = self.waiting.remove(&request) {
                    let _ = reply.send(Ok(Joined { count: joined, failures }));
                }
            }
            Output::KeyringDone { request, result } => {
                if let Some(Reply::Keyring(reply)) = self.waiting.remove(&request) {
                    let _ = reply.send(Ok(result));
                }
            }
            Output::Done { request } | Output::LeaveDone { request } => {
                if let Some(Reply::Done(reply)) = self.waiting.remove(&request) {
                    let _ = reply.send(Ok(()));
                }
            }
            Output::Refused { request, reason } => self.refuse(request, reason),
            Output::Rejoined { through: Some(name) } => {
                says!(self.shared.area, info, "serf: Re-joined to previously known node: {name}");
            }
            Output::Rejoined { through: None } => {
                says!(self.shared.area, warn, "serf: Failed to re-join any previously known node");
            }
            Output::Swim(output) => {
                if let swim::Output::Dropped(why) = &output {
                    self.shared.counters.dropped(*why);
                }
                swim_says(&output);
            }
            Output::Counted(counter) => {
                self.shared.counters.counted(counter);
                tracing::debug!(?counter, "serf: counted");
            }
            // Consul's agents answer no queries but the internal ones, which the machine answers itself; and that a member
            // leaves shows in the list of members alone.
            Output::Query(_)
            | Output::Acked { .. }
            | Output::Answered { .. }
            | Output::Turned { .. }
            | Output::QueryDone { .. }
            | Output::Rtt { .. } => {}
        }
    }

    fn refuse(&mut self, request: u64, reason: Refused) {
        match self.waiting.remove(&request) {
            Some(Reply::Join(reply)) => drop(reply.send(Err(reason))),
            Some(Reply::Done(reply)) => drop(reply.send(Err(reason))),
            Some(Reply::Keyring(reply)) => drop(reply.send(Err(reason))),
            None => {}
        }
    }

    /// Encrypts and decrypts with this keyring from here on.
    fn encrypt(&self, keyring: &Keyring) {
        let mut envelope = Envelope::clone(&self.envelope.load());
        match ring(keyring) {
            Ok(ring) => {
                envelope.keyring = ring;
                self.shared.encrypted.store(keyring.is_enabled(), Ordering::Relaxed);
                self.envelope.store(Arc::new(envelope));
            }
            Err(error) => tracing::error!("gossip: the keyring can't be used: {error}"),
        }
    }
}

/// The keyring as the wire has it: the primary key first.
pub(super) fn ring(
    keyring: &Keyring,
) -> Result<gossip_wire::keyring::Keyring, gossip_wire::keyring::KeyError> {
    let others = keyring.keys.iter().filter(|key| Some(*key) != keyring.primary.as_ref());
    gossip_wire::keyring::Keyring::new(keyring.primary.iter().chain(others).map(Key::bytes))
}

/// Whether the list of members is another one: each change of an entry's member or status is told by one of these.
fn is_news(output: &Output) -> bool {
    matches!(
        output,
        Output::Joined { .. }
            | Output::Updated(_)
            | Output::Turned { .. }
            | Output::Failed(_)
            | Output::Left(_)
            | Output::Reaped { .. }
    )
}

fn why(error: &swim::ExchangeError) -> String {
    match error {
        swim::ExchangeError::Failed => "the stream broke".to_owned(),
        swim::ExchangeError::TimedOut => "i/o timeout".to_owned(),
        swim::ExchangeError::Busy => "too many push/pulls are under way".to_owned(),
        swim::ExchangeError::Versions => "the protocol versions don't go together".to_owned(),
        swim::ExchangeError::Refused(why) => format!("Member {why}"),
    }
}

fn swim_says(output: &swim::Output<spec::serf::SerfLayer>) {
    match output {
        swim::Output::OnlyStreams(name) => tracing::warn!(
            "memberlist: Was able to connect to {name} but other probes failed, network may be misconfigured"
        ),
        swim::Output::Suspected { name, from } => {
            tracing::info!("memberlist: Suspect {name} has failed ({from} says so)");
        }
        swim::Output::Refuted(incarnation) => {
            tracing::warn!(
                "memberlist: Refuting an accusation, now at incarnation {}",
                incarnation.0
            );
        }
        swim::Output::Health(score) => tracing::debug!(score, "memberlist: health"),
        swim::Output::Dropped(why) => tracing::debug!(?why, "memberlist: dropped"),
        _ => {}
    }
}
