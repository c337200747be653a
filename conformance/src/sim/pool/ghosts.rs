//! What no member knows: every incarnation that was ever durable, what each was announced with, every event that was
//! delivered. Properties of the whole pool are stated over these, by the names that `spec/prose/swim.md` and
//! `spec/prose/serf.md` give them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spec::{
    serf::{self, LamportTime, Message as SerfMessage, Output, Packet, Serf, UserEvent},
    swim::{self, Endpoint, Incarnation, Message, Name, Part, suspicion::retransmit_limit},
    time::Instant,
};

use super::{Broken, member::Member, world::Watch};
use crate::sim::{Violation, ghosts::require};

/// What of a member's tables its next turn is compared with.
#[derive(Debug, Default)]
struct Before {
    swim: BTreeMap<Name, swim::Member>,
    serf: BTreeMap<Name, serf::Status>,
}

/// What an incarnation was announced with: by which run, from where, saying what.
type Content = (u64, Endpoint, Arc<[u8]>);

/// A word of Serf's about a member, or an event: who says what of whom, and when.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Join(Name, LamportTime),
    Leave(Name, LamportTime),
    Event(LamportTime, UserEvent),
}

/// The ghosts.
#[derive(Debug)]
pub struct Ghosts {
    broken: Option<Broken>,
    before: Before,
    places: BTreeMap<Name, usize>,
    /// The highest incarnation of each that was ever durable.
    durable: Vec<Incarnation>,
    /// What each incarnation was announced with.
    contents: BTreeMap<(usize, Incarnation), Content>,
    /// The incarnation that each run began with.
    began: Vec<Incarnation>,
    /// What each was told of users' events, over all its runs.
    delivered: BTreeSet<(usize, LamportTime, UserEvent)>,
    /// How often each run sent each word.
    sent: BTreeMap<(usize, Word), u32>,
    /// Who ever said that it leaves, or was said to.
    pub left: Vec<bool>,
    /// Members that were taken for failed while they ran.
    pub false_failures: u64,
    /// Accusations that were refuted.
    pub refutations: u64,
    /// Events told to hosts.
    pub events: u64,
    /// Who runs.
    runs: Vec<bool>,
}

impl Ghosts {
    /// Of members that have done nothing yet.
    pub fn new(members: usize, broken: Option<Broken>) -> Self {
        Self {
            broken,
            before: Before::default(),
            places: (0..members).map(|place| (Member::new(place).name, place)).collect(),
            durable: vec![Incarnation(0); members],
            contents: BTreeMap::new(),
            began: vec![Incarnation(0); members],
            delivered: BTreeSet::new(),
            sent: BTreeMap::new(),
            left: vec![false; members],
            false_failures: 0,
            refutations: 0,
            events: 0,
            runs: vec![false; members],
        }
    }

    /// A member runs no longer.
    pub fn ended(&mut self, place: usize) {
        self.runs[place] = false;
    }

    /// A member's disk is lost: what comes back is blank, and remembers neither incarnations nor events.
    pub fn wiped(&mut self, place: usize) {
        self.contents.retain(|(of, _), _| *of != place);
        self.delivered.retain(|(of, ..)| *of != place);
    }

    /// Whether a member was told of an event of this name.
    pub fn was_told(&self, place: usize, name: &str) -> bool {
        self.delivered.iter().any(|(of, _, event)| *of == place && *event.name == *name)
    }

    /// Nobody speaks of an incarnation that its owner has not taken, durably (SWIM-1).
    fn only_the_owner_raises(&self, own: &Name, serf: &Serf) -> Result<(), Violation> {
        for member in serf.swim.members.values().filter(|member| member.name != *own) {
            let highest = self.places.get(&member.name).map(|place| self.durable[*place]);
            require(highest >= Some(member.incarnation), "only_the_owner_raises", || {
                format!("{own} has {member:?}, which took at most {highest:?}")
            })?;
        }
        Ok(())
    }

    /// What a member believes of another never goes back, but where it is forgotten or moves (SWIM-3); nobody is taken
    /// for dead by a table alone (SWIM-4).
    fn beliefs_never_go_back(
        &self,
        now: Instant,
        own: &Name,
        serf: &Serf,
        only_tables: bool,
    ) -> Result<(), Violation> {
        let keep = serf.config.swim.gossip_to_the_dead;
        for (name, before) in self.before.swim.iter().filter(|(name, _)| *name != own) {
            let Some(after) = serf.swim.members.get(name) else { continue };
            let forgotten = before.status.is_gone() && now.since(before.since) > keep;
            if forgotten || before.endpoint != after.endpoint {
                continue;
            }
            let held = (before.incarnation, before.status) <= (after.incarnation, after.status);
            require(held, "beliefs_never_go_back", || {
                format!("{own} had {before:?} and has {after:?}")
            })?;
            let by_table = only_tables
                && before.status == swim::Status::Alive
                && after.status == swim::Status::Dead;
            require(!by_table, "dead_only_after_suspicion", || {
                format!("{own} had {before:?} and took it for dead by a table")
            })?;
        }
        Ok(())
    }

    /// Only a member that is gone is forgotten (SERF-10).
    fn prune_safety(&self, own: &Name, serf: &Serf) -> Result<(), Violation> {
        for (name, before) in &self.before.serf {
            let forgotten = before.is_present() && !serf.members.entries.contains_key(name);
            require(!forgotten, "prune_safety", || format!("{own} forgot {name}, {before:?}"))?;
        }
        Ok(())
    }

    /// An incarnation belongs to one run, and has one content (SWIM-2, SWIM-7).
    fn one_content_each(&mut self, member: &Member, said: &swim::Alive) -> Result<(), Violation> {
        let content = (member.run, said.endpoint, Arc::clone(&said.meta));
        let place = (member.place, said.incarnation);
        let known = self.contents.entry(place).or_insert_with(|| content.clone());
        require(*known == content, "one_content_each", || {
            format!("{} announces {said:?} in run {}, before: {known:?}", member.name, member.run)
        })
    }

    /// Each word is passed on at most once by each member, as often as gossip sends one thing (SERF-7).
    fn regossip_bounded(&mut self, member: &Member, word: Word) -> Result<(), Violation> {
        let Some(serf) = member.serf() else { return Ok(()) };
        let limit = retransmit_limit(serf.config.swim.retransmit_mult, self.places.len());
        let sent = self.sent.entry((member.place, word)).or_default();
        *sent += 1;
        let (sent, sender) = (*sent, &member.name);
        require(sent <= limit, "regossip_bounded", || {
            format!("{sender} sends one word {sent} times, {limit} are enough")
        })
    }
}

/// Takes out of what a member sends that it announced itself again since it began.
fn refute_nothing(began: Incarnation, own: &Name, message: &mut Packet) {
    match message {
        Message::Packet(parts) => parts.retain(|part| {
            !matches!(part, Part::Alive(said) if said.node == *own && said.incarnation > began)
        }),
        Message::PushPull(table) => {
            for said in table.members.iter_mut().filter(|said| said.name == *own) {
                said.incarnation = began;
            }
        }
        Message::StreamPing(_) | Message::StreamAck(_) => {}
    }
}

impl Watch for Ghosts {
    fn started(&mut self, member: &Member) {
        self.runs[member.place] = true;
        self.sent.retain(|(of, _), _| *of != member.place);
        if let Some(serf) = member.serf() {
            self.began[member.place] = serf.swim.incarnation();
        }
    }

    fn before(&mut self, member: &Member) {
        let Some(serf) = member.serf() else { return };
        self.before.swim.clone_from(&serf.swim.members);
        let entries = serf.members.entries.iter();
        self.before.serf = entries.map(|(name, entry)| (Name::clone(name), entry.status)).collect();
    }

    fn after(&mut self, now: Instant, member: &Member, only_tables: bool) -> Result<(), Violation> {
        let Some(serf) = member.serf() else { return Ok(()) };
        for (name, holds) in serf::invariant::ALL {
            require(holds(serf), name, || format!("{serf:#?}"))?;
        }
        for (name, holds) in swim::invariant::all() {
            require(holds(&serf.swim), name, || format!("{serf:#?}"))?;
        }
        self.only_the_owner_raises(&member.name, serf)?;
        self.beliefs_never_go_back(now, &member.name, serf, only_tables)?;
        self.prune_safety(&member.name, serf)
    }

    fn synced(&mut self, member: &Member) {
        let highest = &mut self.durable[member.place];
        *highest = (*highest).max(member.disk.durable.swim.incarnation);
    }

    fn sent(&mut self, member: &Member, message: &mut Packet) -> Result<(), Violation> {
        if self.broken == Some(Broken::Refutation) && member.place == 0 {
            refute_nothing(self.began[0], &member.name, message);
        }
        let Message::Packet(parts) = message else { return Ok(()) };
        for part in parts.iter_mut() {
            match part {
                Part::Alive(said) if said.node == member.name => {
                    self.one_content_each(member, said)?;
                }
                Part::Alive(said) if self.broken == Some(Broken::Incarnation) => {
                    said.incarnation.0 += 1;
                }
                Part::User(SerfMessage::Join(said)) => {
                    self.regossip_bounded(member, Word::Join(Name::clone(&said.node), said.ltime))?;
                }
                Part::User(SerfMessage::Leave(said)) => {
                    if let Some(place) = self.places.get(&said.node) {
                        self.left[*place] = true;
                    }
                    self.regossip_bounded(
                        member,
                        Word::Leave(Name::clone(&said.node), said.ltime),
                    )?;
                }
                Part::User(SerfMessage::UserEvent(said)) => {
                    self.regossip_bounded(member, Word::Event(said.ltime, said.event.clone()))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn told(&mut self, _now: Instant, member: &Member, output: &Output) -> Result<(), Violation> {
        match output {
            Output::Event { ltime, event, .. } => {
                self.events += 1;
                let new = self.delivered.insert((member.place, *ltime, event.clone()));
                return require(new, "delivered_at_most_once", || {
                    format!("{} is told again of {event:?} of {ltime:?}", member.name)
                });
            }
            Output::Failed(failed) => {
                let runs = self.places.get(&failed.name).is_some_and(|place| self.runs[*place]);
                self.false_failures += u64::from(runs);
            }
            Output::Swim(swim::Output::Refuted(_)) => self.refutations += 1,
            _ => {}
        }
        Ok(())
    }
}
