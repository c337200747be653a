//! Members as Serf sees them: what SWIM says of each, and what the intents say (SERF-3 to SERF-12).
//!
//! SWIM tells that a member is there or gone. Whether one that is gone failed or left is told by intents, which bear
//! Lamport times: the last word about a member wins. A status and its time form a lattice, so intents may come in any
//! order, many times, by gossip or by push/pull.

use alloc::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry as Slot},
    sync::Arc,
    vec::Vec,
};
use core::time::Duration;

use super::{
    lamport::{Clock, LamportTime, Limits},
    message::{JoinIntent, LeaveIntent},
};
use crate::{
    swim::{Member, Name},
    time::Instant,
};

/// The most names that are remembered after they were forgotten as members.
const MAX_TOMBSTONES: usize = 65_536;

/// How a member stands. One that is not known has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It is there.
    Alive,
    /// It is there and said that it leaves.
    Leaving,
    /// It left, or an operator said so.
    Left,
    /// It is gone and never said why.
    Failed,
}

impl Status {
    /// Whether SWIM holds it for one that is there.
    pub const fn is_present(self) -> bool {
        matches!(self, Self::Alive | Self::Leaving)
    }
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What SWIM last told of it.
    pub member: Member,
    /// How it stands.
    pub status: Status,
    /// The time of the last intent about it.
    pub status_ltime: LamportTime,
    /// When it failed or left, on this member's clock.
    pub since: Instant,
    /// Is to be forgotten as soon as it is gone.
    pub prune: bool,
}

/// What an intent said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IntentKind {
    /// The member is there.
    Join,
    /// The member leaves.
    Leave,
}

/// The last intent about a name that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Intent {
    /// What it said.
    pub kind: IntentKind,
    /// When it was said.
    pub ltime: LamportTime,
    /// When it was heard.
    pub since: Instant,
}

/// What is to be done with an intent that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heard {
    /// Nothing: it is no news.
    Old,
    /// It is news: pass it on.
    News,
    /// It says that this member leaves, which it doesn't: announce this member.
    Refute,
    /// Its time can't be one.
    Implausible,
    /// There is no room to remember it.
    Full,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A member is there.
    Joined {
        /// Who.
        name: Name,
        /// It had failed a moment before.
        flapped: bool,
    },
    /// A member is there and says something new of itself.
    Updated(Name),
    /// A member that is there leaves, by what was said of it, or doesn't any more.
    Turned(Name),
    /// A member failed.
    Failed(Member),
    /// A member left.
    Left(Member),
    /// A member is forgotten.
    Reaped(Entry),
}

/// Why an operator's request about a member is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Nobody has the name.
    Unknown,
    /// The member is this one.
    Own,
    /// The member is there: to forget it would take it out of the catalog, and nothing would bring it back.
    Live,
}

/// How long members and intents are remembered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Memory {
    /// A member that failed (Serf's `ReconnectTimeout`).
    pub failed: Duration,
    /// A member that left (Serf's `TombstoneTimeout`).
    pub left: Duration,
    /// An intent about an unknown name (Serf's `RecentIntentTimeout`).
    pub intent: Duration,
    /// A member that is there again after less than this has flapped.
    pub flap: Duration,
    /// The most intents about unknown names.
    pub max_intents: usize,
}

/// The members, and the clock of the intents about them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Members {
    /// This member's name.
    pub own: Name,
    /// Everybody that is known, this member included.
    pub entries: BTreeMap<Name, Entry>,
    /// The last intents about names that aren't known.
    pub intents: BTreeMap<Name, Intent>,
    /// The members' clock.
    pub clock: Clock,
    /// This member doesn't leave: it refutes who says so.
    pub serving: bool,
}

impl Members {
    /// Nobody but this member.
    pub fn new(own: Member, seen: LamportTime, limits: Limits, now: Instant) -> Self {
        let name = Arc::clone(&own.name);
        let entry = Entry {
            member: own,
            status: Status::Alive,
            status_ltime: LamportTime::default(),
            since: now,
            prune: false,
        };
        Self {
            own: Arc::clone(&name),
            entries: BTreeMap::from([(name, entry)]),
            intents: BTreeMap::new(),
            clock: Clock::resume(seen, limits),
            serving: true,
        }
    }

    /// How a member stands.
    pub fn status(&self, name: &Name) -> Option<Status> {
        self.entries.get(name).map(|entry| entry.status)
    }

    /// The members that stand so.
    pub fn with(&self, status: Status) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(move |entry| entry.status == status)
    }

    /// Whether anybody else is there.
    pub fn has_others(&self) -> bool {
        self.entries
            .values()
            .any(|entry| entry.status.is_present() && entry.member.name != self.own)
    }

    /// The names of the members that stand so.
    pub fn named(&self, wanted: impl Fn(Status) -> bool) -> BTreeSet<Name> {
        let entries = self.entries.iter().filter(|(_, entry)| wanted(entry.status));
        entries.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// The members that haven't left.
    pub fn remaining(&self) -> BTreeSet<Name> {
        let remaining = self.entries.iter().filter(|(_, entry)| entry.status != Status::Left);
        remaining.map(|(name, _)| Arc::clone(name)).collect()
    }

    // What SWIM says.

    /// SWIM says that a member is there.
    pub fn joined(&mut self, member: &Member, memory: &Memory, now: Instant) -> Change {
        let name = Arc::clone(&member.name);
        let mut flapped = false;
        match self.entries.entry(Arc::clone(&name)) {
            Slot::Occupied(mut known) => {
                let known = known.get_mut();
                flapped = known.status == Status::Failed && now.since(known.since) < memory.flap;
                if !known.status.is_present() {
                    known.status = Status::Alive;
                    known.prune = false;
                }
                known.member.clone_from(member);
            }
            Slot::Vacant(free) => {
                let intent = self.intents.remove(&name);
                let leaving = intent.is_some_and(|intent| intent.kind == IntentKind::Leave);
                free.insert(Entry {
                    member: member.clone(),
                    status: if leaving { Status::Leaving } else { Status::Alive },
                    status_ltime: intent.map(|intent| intent.ltime).unwrap_or_default(),
                    since: now,
                    prune: false,
                });
            }
        }
        Change::Joined { name, flapped }
    }

    /// SWIM says that a member says something new of itself.
    pub fn updated(&mut self, member: &Member) -> Option<Change> {
        let known = self.entries.get_mut(&member.name)?;
        known.member.clone_from(member);
        Some(Change::Updated(Arc::clone(&member.name)))
    }

    /// SWIM says that a member is gone, and whether it said so itself. It left if it said so, to SWIM or by an intent:
    /// Serf looks at the intent alone, and takes a leaver whose intent was lost for one that failed.
    pub fn gone(&mut self, name: &Name, said_so: bool, now: Instant, changes: &mut Vec<Change>) {
        let Some(known) = self.entries.get_mut(name) else { return };
        if *name == self.own || !known.status.is_present() {
            return;
        }
        let left = said_so || known.status == Status::Leaving;
        known.status = if left { Status::Left } else { Status::Failed };
        known.since = now;
        let prune = known.prune && left;
        let member = known.member.clone();
        changes.push(if left { Change::Left(member) } else { Change::Failed(member) });
        if prune {
            self.erase(name, now, changes);
        }
    }

    // Intents.

    /// Takes a leave intent, heard or this member's own.
    pub fn leave_intent(
        &mut self,
        intent: &LeaveIntent,
        memory: &Memory,
        now: Instant,
        changes: &mut Vec<Change>,
    ) -> Heard {
        if !self.clock.witness(intent.ltime) {
            return Heard::Implausible;
        }
        let Some(known) = self.entries.get_mut(&intent.node) else {
            return self.remember(&intent.node, IntentKind::Leave, intent.ltime, memory, now);
        };
        // Each word about a member is passed on once: what is passed on raises the time (serf#606 went round for ever
        // where two members passed on two intents about a third).
        if intent.ltime <= known.status_ltime {
            return Heard::Old;
        }
        if intent.node == self.own && self.serving {
            return Heard::Refute;
        }
        known.status_ltime = intent.ltime;
        self.apply_leave(&intent.node, intent.prune, now, changes);
        Heard::News
    }

    fn apply_leave(&mut self, name: &Name, prune: bool, now: Instant, changes: &mut Vec<Change>) {
        let Some(known) = self.entries.get_mut(name) else { return };
        match known.status {
            Status::Alive => {
                known.status = Status::Leaving;
                changes.push(Change::Turned(Arc::clone(name)));
            }
            Status::Failed => {
                known.status = Status::Left;
                known.since = now;
                changes.push(Change::Left(known.member.clone()));
            }
            Status::Leaving | Status::Left => {}
        }
        if prune {
            self.prune(name, now, changes);
        }
    }

    /// Forgets a member as an operator asked; one that is there only once it is gone.
    fn prune(&mut self, name: &Name, now: Instant, changes: &mut Vec<Change>) {
        let Some(known) = self.entries.get_mut(name) else { return };
        // A member that is there is not forgotten: SWIM tells of it again only after it was gone.
        if known.status.is_present() {
            known.prune = true;
            return;
        }
        self.erase(name, now, changes);
    }

    /// Takes a join intent, heard or this member's own.
    pub fn join_intent(
        &mut self,
        intent: &JoinIntent,
        memory: &Memory,
        now: Instant,
        changes: &mut Vec<Change>,
    ) -> Heard {
        if !self.clock.witness(intent.ltime) {
            return Heard::Implausible;
        }
        let Some(known) = self.entries.get_mut(&intent.node) else {
            return self.remember(&intent.node, IntentKind::Join, intent.ltime, memory, now);
        };
        if known.status_ltime >= intent.ltime {
            return Heard::Old;
        }
        known.status_ltime = known.status_ltime.max(intent.ltime);
        if known.status == Status::Leaving {
            // What said that it leaves was about an earlier time.
            known.status = Status::Alive;
            known.prune = false;
            changes.push(Change::Turned(Arc::clone(&intent.node)));
        }
        Heard::News
    }

    /// Keeps the last intent about a name that is not known: it may be ahead of SWIM's word.
    fn remember(
        &mut self,
        name: &Name,
        kind: IntentKind,
        ltime: LamportTime,
        memory: &Memory,
        now: Instant,
    ) -> Heard {
        match self.intents.get(name) {
            Some(known) if ltime <= known.ltime => return Heard::Old,
            None if self.intents.len() >= memory.max_intents => return Heard::Full,
            Some(_) | None => {}
        }
        self.intents.insert(Arc::clone(name), Intent { kind, ltime, since: now });
        Heard::News
    }

    /// Forgets a member, but not what was last said of it: the same word coming again is no news.
    fn erase(&mut self, name: &Name, now: Instant, changes: &mut Vec<Change>) {
        let Some(entry) = self.entries.remove(name) else { return };
        let intent = Intent { kind: IntentKind::Join, ltime: entry.status_ltime, since: now };
        if self.intents.len() < MAX_TOMBSTONES {
            self.intents.insert(Arc::clone(name), intent);
        }
        changes.push(Change::Reaped(entry));
    }

    // What this member says.

    /// This member is there: the intent to send.
    pub fn announce(&mut self) -> JoinIntent {
        let intent = JoinIntent { ltime: self.clock.tick(), node: Arc::clone(&self.own) };
        if let Some(own) = self.entries.get_mut(&self.own) {
            own.status_ltime = intent.ltime;
        }
        intent
    }

    /// This member leaves: the intent to send.
    pub fn begin_leave(&mut self, changes: &mut Vec<Change>) -> LeaveIntent {
        self.serving = false;
        let ltime = self.clock.tick();
        if let Some(own) = self.entries.get_mut(&self.own) {
            own.status_ltime = ltime;
            own.status = Status::Leaving;
            changes.push(Change::Turned(Arc::clone(&self.own)));
        }
        LeaveIntent { ltime, node: Arc::clone(&self.own), prune: false }
    }

    /// An operator says that a member has left: the intent to send. A member that is there refutes it.
    pub fn force_leave(
        &mut self,
        name: &Name,
        prune: bool,
        now: Instant,
        changes: &mut Vec<Change>,
    ) -> Result<LeaveIntent, Refusal> {
        let known = self.entries.get_mut(name).ok_or(Refusal::Unknown)?;
        if *name == self.own {
            return Err(Refusal::Own);
        }
        if prune && known.status.is_present() {
            return Err(Refusal::Live);
        }
        let said = LeaveIntent { ltime: self.clock.tick(), node: Arc::clone(name), prune };
        known.status_ltime = said.ltime;
        self.apply_leave(name, prune, now, changes);
        Ok(said)
    }

    // Push/pull.

    /// What a push/pull tells: the time of the last intent about each member, and who left.
    ///
    /// A member that is leaving is left out: the receiver takes a time for that of a join, and the leave intent, which
    /// bears the same time, would be no news to it.
    pub fn tell(&self) -> (Vec<(Name, LamportTime)>, Vec<Name>) {
        let mut ltimes = Vec::with_capacity(self.entries.len());
        let mut left = Vec::new();
        for (name, entry) in &self.entries {
            if entry.status != Status::Leaving {
                ltimes.push((Arc::clone(name), entry.status_ltime));
            }
            if entry.status == Status::Left {
                left.push(Arc::clone(name));
            }
        }
        (ltimes, left)
    }

    /// Takes what a push/pull tells. Taking it twice is taking it once, and two members that tell each other in turn soon
    /// have no more to tell. Says whether this member has to announce itself.
    pub fn merge(
        &mut self,
        ltime: LamportTime,
        status_ltimes: &[(Name, LamportTime)],
        left_members: &[Name],
        memory: &Memory,
        now: Instant,
        changes: &mut Vec<Change>,
    ) -> Heard {
        if !self.clock.witness(LamportTime(ltime.0.saturating_sub(1))) {
            return Heard::Implausible;
        }
        let left: BTreeSet<&Name> = left_members.iter().collect();
        // Who doesn't have this member's own time, or has a later one, believes that it leaves; unless it spoke before
        // this member last announced itself. Who has it as left at an earlier time believes SWIM, and SWIM heals that.
        let own = self.entries.get(&self.own).map(|own| own.status_ltime).unwrap_or_default();
        let mut believed = own >= ltime;
        for (name, ltime) in status_ltimes {
            if *name == self.own {
                believed |= *ltime <= own;
            } else if left.contains(name) {
                self.merge_left(name, *ltime, memory, now, changes);
            } else {
                let join = JoinIntent { ltime: *ltime, node: Arc::clone(name) };
                self.join_intent(&join, memory, now, changes);
            }
        }
        if self.serving && !believed { Heard::Refute } else { Heard::News }
    }

    /// Somebody has a member as left since `ltime`.
    ///
    /// Serf takes it for a leave intent at the time after that, so that two members which both have it as left drive
    /// the time up for ever, by two for each push/pull (E2; consul#5509 shows 3,187,734).
    fn merge_left(
        &mut self,
        name: &Name,
        ltime: LamportTime,
        memory: &Memory,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        let Some(known) = self.entries.get_mut(name) else {
            let _ = self.clock.witness(ltime)
                && self.remember(name, IntentKind::Leave, ltime, memory, now) == Heard::News;
            return;
        };
        let later = match known.status {
            // To have left twice is to have left.
            Status::Left => false,
            // Its join at this time, as another tells it, was the leave intent.
            Status::Failed | Status::Leaving => ltime >= known.status_ltime,
            Status::Alive => ltime > known.status_ltime,
        };
        if later && self.clock.witness(ltime) {
            let Some(known) = self.entries.get_mut(name) else { return };
            known.status_ltime = ltime;
            self.apply_leave(name, false, now, changes);
        }
    }

    // Time.

    /// Forgets who failed or left long ago, and old intents.
    pub fn reap(&mut self, memory: &Memory, now: Instant, changes: &mut Vec<Change>) {
        let over = |entry: &Entry| match entry.status {
            Status::Failed => now.since(entry.since) > memory.failed,
            Status::Left => now.since(entry.since) > memory.left,
            Status::Alive | Status::Leaving => false,
        };
        let gone = self.entries.iter().filter(|(_, entry)| over(entry));
        let gone: Vec<Name> = gone.map(|(name, _)| Arc::clone(name)).collect();
        self.intents.retain(|_, intent| now.since(intent.since) <= memory.intent);
        for name in gone {
            self.erase(&name, now, changes);
        }
    }
}
