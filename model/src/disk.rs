//! The log on a disk that crashes and rots (`spec/prose/disk.md`).
//!
//! The bytes are real: `spec::disk`'s ledger makes them, its recovery rule reads them. The model is the disk: a batch that
//! is written but not synced may be there in any subset of its sectors after a power cut, whole after a kill; a recycled
//! segment keeps its old bytes; and, in one scope, a sector rots.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spec::{
    disk::{Ledger, SECTOR, format, invariant, recover},
    raft::{
        Change, Configuration, DiskId, Durable, Entry, HardState, Index, ServerId, SnapshotId,
        SnapshotMeta, Term, Write, types::Request,
    },
    time::ClusterTime,
};
use stateright::{Model, Property};

use crate::{Checked, Scope, Tier};

const DISK: DiskId = DiskId(0x5eed);
const CANDIDATES: [ServerId; 2] = [ServerId::new(1, 1), ServerId::new(2, 1)];

/// The bounds of a scope.
#[derive(Clone, Debug)]
pub struct LogModel {
    /// Batches of the machine's writes.
    pub writes: u8,
    /// The highest term.
    pub terms: u64,
    /// Power cuts and kills.
    pub crashes: u8,
    /// Sectors that rot.
    pub damages: u8,
    /// Sectors of a segment; the first holds the opening.
    pub segment_sectors: usize,
    /// Whether what is recovered is made durable before anything stands on it; without it the log is not safe.
    pub sync_at_start: bool,
}

/// A batch that is written and not synced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flight {
    sequence: u64,
    offset: usize,
    bytes: Arc<Vec<u8>>,
    /// What it holds; none is an opening.
    write: Option<Write>,
    /// It was recovered from the cache of a killed server, so the ledger is behind it already.
    recovered: bool,
}

/// What became of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Standing {
    Running,
    /// It found damage and doesn't start.
    Refused,
    /// Its last batch rotted, which nothing can tell from a torn write.
    Undetectable,
}

/// What recoveries showed so far that no recovery may show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Faults {
    lost: bool,
    illegal: bool,
    vote_lost: bool,
    ledger_differs: bool,
    false_alarm: bool,
}

/// What the last action showed that some should show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Seen {
    torn: bool,
    unsynced_kept: bool,
    old_batch_behind_the_tail: bool,
    recycled: bool,
}

/// The disk, the writer, and what the world was told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    segments: BTreeMap<u64, Arc<Vec<u8>>>,
    ledger: Ledger,
    flight: Option<Flight>,
    /// The fold of what was acknowledged.
    acknowledged: Durable,
    /// The votes that were told, by term.
    told: BTreeMap<Term, BTreeSet<ServerId>>,
    /// The batch whose sector rotted: its number.
    rotten: Option<u64>,
    standing: Standing,
    faults: Faults,
    seen: Seen,
    writes: u8,
    crashes: u8,
    damages: u8,
}

/// What a machine asks to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Votes in the current term, where it hasn't, or in the next one.
    Vote {
        /// For whom, by place in the list of candidates.
        candidate: usize,
        /// In the next term.
        next: bool,
    },
    /// Appends an entry whose batch takes so many sectors.
    Append(usize),
    /// Replaces the last entry by one of the current, later term.
    Replace,
    /// Names a snapshot of all entries, and keeps so many of them.
    Snapshot(u64),
    /// Takes a leader's snapshot that is ahead of the log.
    Install,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The machine writes; where the batch has no room, the next segment's opening is written first.
    Write(Kind),
    /// The last write is durable and is told.
    Sync,
    /// The oldest segment becomes the next one.
    Recycle,
    /// The power fails; of the batch on its way, the sectors in this set arrived.
    PowerCut(u32),
    /// The process is killed; the system keeps what was written.
    Kill,
    /// A sector rots: a byte of it flips, or all of it is as if never written.
    Rot {
        /// The segment.
        sequence: u64,
        /// The sector.
        sector: usize,
        /// All of it, or one byte.
        whole: bool,
    },
}

fn meta(id: SnapshotId) -> SnapshotMeta {
    SnapshotMeta {
        id,
        time: ClusterTime(0),
        configuration: Arc::new(Configuration::default()),
        configuration_index: Index(0),
        chunks: 1,
    }
}

fn last_of(durable: &Durable) -> SnapshotId {
    let last = durable.entries.last();
    last.map_or(durable.base, |entry| SnapshotId { index: entry.index, term: entry.term })
}

fn entry(index: Index, term: Term, sectors: usize) -> Entry {
    let bytes = if sectors > 1 { (sectors - 1) * SECTOR } else { 8 };
    let request = Request::Command(vec![b'x'; bytes].into());
    Entry { term, index, time: ClusterTime(0), request }
}

impl LogModel {
    /// The write that the machine would ask for, where it may.
    fn write(&self, durable: &Durable, kind: Kind) -> Option<Write> {
        let HardState { term, voted_for } = durable.hard_state;
        let last = last_of(durable);
        let committed = durable.snapshot.as_ref().map_or(Index(0), |meta| meta.id.index);
        let mut hard_state = durable.hard_state;
        let change = match kind {
            Kind::Vote { candidate, next } => {
                let free = term > Term(0) && voted_for.is_none();
                if next == free || next && term.0 >= self.terms {
                    return None;
                }
                let term = if next { term.next() } else { term };
                hard_state = HardState { term, voted_for: Some(CANDIDATES[candidate]) };
                Change::None
            }
            Kind::Append(sectors) if term > Term(0) => {
                let entries = vec![entry(last.index.next(), term, sectors)];
                Change::Append { after: last.index, entries }
            }
            Kind::Replace if last.index > committed && last.term < term => {
                let entries = vec![entry(last.index, term, 1)];
                Change::Append { after: last.index.previous(), entries }
            }
            Kind::Snapshot(keep) if last.index > committed => {
                let index = Index(last.index.0.saturating_sub(keep)).max(durable.base.index);
                let entry = durable.entries.iter().find(|entry| entry.index == index);
                let term = entry.map_or(durable.base.term, |entry| entry.term);
                Change::Snapshot { meta: meta(last), base: SnapshotId { index, term } }
            }
            Kind::Install if term > Term(0) && durable.snapshot.is_none() => {
                let index = Index(last.index.0 + 2);
                Change::Install { meta: meta(SnapshotId { index, term }) }
            }
            Kind::Append(_) | Kind::Replace | Kind::Snapshot(_) | Kind::Install => return None,
        };
        Some(Write { hard_state, change })
    }

    const WRITES: [Kind; 10] = [
        Kind::Vote { candidate: 0, next: true },
        Kind::Vote { candidate: 1, next: true },
        Kind::Vote { candidate: 0, next: false },
        Kind::Vote { candidate: 1, next: false },
        Kind::Append(1),
        Kind::Append(2),
        Kind::Replace,
        Kind::Snapshot(0),
        Kind::Snapshot(1),
        Kind::Install,
    ];

    fn segment_size(&self) -> usize {
        self.segment_sectors * SECTOR
    }

    /// Writes a batch, or the opening that it needs first.
    fn begin(&self, state: &mut State, write: Write) {
        let mut bytes = Vec::new();
        format::begin(&mut bytes);
        format::push(&write, &mut bytes);
        let end = bytes.len();
        if state.ledger.fits(end, self.segment_size()) {
            state.ledger.seal(&mut bytes, end);
            let place = state.ledger.place();
            state.flight = Some(Flight {
                sequence: place.sequence,
                offset: place.offset,
                bytes: Arc::new(bytes),
                write: Some(write),
                recovered: false,
            });
        } else {
            let sequence = state.ledger.seal_opening(&mut bytes);
            let blank = || Arc::new(vec![0; self.segment_size()]);
            state.segments.entry(sequence).or_insert_with(blank);
            state.flight = Some(Flight {
                sequence,
                offset: 0,
                bytes: Arc::new(bytes),
                write: None,
                recovered: false,
            });
        }
    }

    /// Starts the server from the bytes that a crash left. `cached` is what was still on its way, and can be read.
    fn start(&self, state: &mut State, before: &State, cached: Option<Flight>) {
        let mut segments = state.segments.clone();
        if let Some(flight) = &cached {
            arrive(&mut segments, flight, u32::MAX);
        }
        let issued = issued(before);
        let result = recover(DISK, segments.iter().map(|(s, bytes)| (*s, bytes.as_slice())));
        // With nothing valid behind it, a rotten last batch looks as a torn one does.
        let whole = before.flight.as_ref().is_some_and(|flight| is_whole(&segments, flight));
        let undetectable = before.rotten.is_some_and(|number| {
            let on_its_way = u64::from(before.flight.as_ref().is_some_and(|f| f.recovered));
            number + 1 + on_its_way == before.ledger.number() && !whole
        });
        let recovered = match result {
            Err(_) if before.rotten.is_some() => {
                state.standing = Standing::Refused;
                return;
            }
            Err(_) => {
                state.faults.false_alarm = true;
                state.standing = Standing::Refused;
                return;
            }
            Ok(recovered)
                if undetectable
                    && (recovered.durable != before.acknowledged
                        || recovered.ledger != before.ledger) =>
            {
                state.standing = Standing::Undetectable;
                return;
            }
            Ok(recovered) => recovered,
        };
        let durable = &recovered.durable;
        let kept = *durable == issued;
        let faults = &mut state.faults;
        faults.illegal |= *durable != before.acknowledged && !kept;
        faults.lost |= loses(durable, &before.acknowledged) && !kept;
        faults.vote_lost |= durable.hard_state != before.acknowledged.hard_state
            && durable.hard_state != issued.hard_state;
        state.seen.torn |= recovered.torn;
        state.seen.unsynced_kept |= issued != before.acknowledged && kept;
        let place = recovered.ledger.place();
        let behind = segments.get(&place.sequence).and_then(|bytes| bytes.get(place.offset..));
        let old = behind.and_then(format::read_batch);
        state.seen.old_batch_behind_the_tail |= old.is_some();
        faults.ledger_differs |= !goes_on(before, &recovered.ledger);
        state.ledger = recovered.ledger;
        // What was read from the cache is written and synced again before the server does anything.
        let last = recovered.last;
        let durable = recovered.durable;
        state.flight = cached
            .filter(|f| f.sequence == last.sequence && f.offset == last.offset)
            .map(|flight| Flight { recovered: true, ..flight });
        if state.flight.is_none() || !self.sync_at_start {
            tell(state, durable);
        }
    }
}

/// What would be durable once the write on its way is.
fn issued(state: &State) -> Durable {
    let mut durable = state.acknowledged.clone();
    if let Some(write) = state.flight.as_ref().and_then(|flight| flight.write.as_ref()) {
        durable.fold(write);
    }
    durable
}

/// The sectors of a batch in `mask` reach the disk.
fn arrive(segments: &mut BTreeMap<u64, Arc<Vec<u8>>>, flight: &Flight, mask: u32) {
    let Some(segment) = segments.get_mut(&flight.sequence) else { return };
    let segment = Arc::make_mut(segment);
    for (sector, bytes) in flight.bytes.chunks(SECTOR).enumerate() {
        let at = flight.offset + sector * SECTOR;
        if mask >> sector & 1 == 1
            && let Some(to) = segment.get_mut(at..at + bytes.len())
        {
            to.copy_from_slice(bytes);
        }
    }
}

fn is_whole(segments: &BTreeMap<u64, Arc<Vec<u8>>>, flight: &Flight) -> bool {
    let end = flight.offset + flight.bytes.len();
    segments
        .get(&flight.sequence)
        .and_then(|bytes| bytes.get(flight.offset..end))
        .is_some_and(|bytes| bytes == flight.bytes.as_slice())
}

/// The server says what it did: acknowledges entries, tells its vote.
fn tell(state: &mut State, durable: Durable) {
    if let Some(candidate) = durable.hard_state.voted_for {
        state.told.entry(durable.hard_state.term).or_default().insert(candidate);
    }
    state.acknowledged = durable;
}

/// Whether something acknowledged is missing.
fn loses(durable: &Durable, acknowledged: &Durable) -> bool {
    let behind = durable.hard_state.term < acknowledged.hard_state.term
        || durable.last_index() < acknowledged.last_index();
    let older = match (&durable.snapshot, &acknowledged.snapshot) {
        (Some(found), Some(told)) => found.id < told.id,
        (None, told) => told.is_some(),
        (Some(_), None) => false,
    };
    let missing = acknowledged
        .entries
        .iter()
        .any(|entry| entry.index > durable.base.index && !durable.entries.contains(entry));
    behind || older || missing
}

/// Whether a recovered ledger is that of the writer before the crash, with or without the batch on its way.
fn goes_on(before: &State, recovered: &Ledger) -> bool {
    let mut with = before.ledger.clone();
    if let Some(flight) = before.flight.as_ref().filter(|flight| !flight.recovered) {
        advance(&mut with, flight);
    }
    let without_recovered = before.flight.as_ref().is_some_and(|flight| flight.recovered);
    *recovered == before.ledger || *recovered == with || without_recovered
}

fn advance(ledger: &mut Ledger, flight: &Flight) {
    match &flight.write {
        Some(write) => ledger.synced(&flight.bytes, [write]),
        None => ledger.opened(&flight.bytes),
    }
}

impl Model for LogModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut ledger = Ledger::new(DISK);
        let mut opening = Vec::new();
        let sequence = ledger.seal_opening(&mut opening);
        ledger.opened(&opening);
        opening.resize(self.segment_size(), 0);
        vec![State {
            segments: [(sequence, Arc::new(opening))].into(),
            ledger,
            flight: None,
            acknowledged: Durable::default(),
            told: BTreeMap::new(),
            rotten: None,
            standing: Standing::Running,
            faults: Faults::default(),
            seen: Seen::default(),
            writes: 0,
            crashes: 0,
            damages: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.standing != Standing::Running {
            return;
        }
        let sectors = state.flight.as_ref().map_or(0, |flight| flight.bytes.len() / SECTOR);
        match &state.flight {
            Some(_) => actions.push(Action::Sync),
            None if state.writes < self.writes => {
                let possible = |kind: &Kind| self.write(&state.acknowledged, *kind).is_some();
                actions.extend(Self::WRITES.into_iter().filter(possible).map(Action::Write));
            }
            None => {}
        }
        // A segment that recovery read from the cache may be gone after the next power cut: until it is synced, the
        // older ones are still needed.
        let unsynced = state.flight.as_ref().is_some_and(|flight| flight.recovered);
        if state.ledger.recyclable().is_some() && !unsynced {
            actions.push(Action::Recycle);
        }
        if state.crashes < self.crashes {
            // The sectors that arrived, as a set: none, some, all.
            actions.extend((0..1 << sectors).map(Action::PowerCut));
            if state.flight.is_some() {
                actions.push(Action::Kill);
            }
        }
        if state.damages < self.damages {
            for sequence in state.ledger.segments().map(|segment| segment.sequence) {
                for sector in 0..used_sectors(self, state, sequence) {
                    for whole in [false, true] {
                        actions.push(Action::Rot { sequence, sector, whole });
                    }
                }
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        // Only the state right after shows what was seen, or equal states would not meet.
        state.seen = Seen::default();
        match action {
            Action::Write(kind) => {
                let write = self.write(&state.acknowledged, kind)?;
                self.begin(&mut state, write);
                // An opening is no write of the machine's.
                state.writes += u8::from(state.flight.as_ref()?.write.is_some());
            }
            Action::Sync => {
                let durable = issued(before);
                let flight = state.flight.take()?;
                arrive(&mut state.segments, &flight, u32::MAX);
                if !flight.recovered {
                    advance(&mut state.ledger, &flight);
                }
                tell(&mut state, durable);
            }
            Action::Recycle => {
                let oldest = state.ledger.recycle()?;
                let bytes = state.segments.remove(&oldest)?;
                state.segments.entry(state.ledger.sequence() + 1).or_insert(bytes);
                state.seen.recycled = true;
            }
            Action::PowerCut(mask) => {
                state.crashes += 1;
                if let Some(flight) = state.flight.take() {
                    arrive(&mut state.segments, &flight, mask);
                }
                self.start(&mut state, before, None);
            }
            Action::Kill => {
                state.crashes += 1;
                let cached = state.flight.take();
                self.start(&mut state, before, cached);
            }
            Action::Rot { sequence, sector, whole } => {
                state.damages += 1;
                let bytes = Arc::make_mut(state.segments.get_mut(&sequence)?);
                state.rotten = Some(batch_at(bytes, sector)?);
                let sector = bytes.get_mut(sector * SECTOR..)?.get_mut(..SECTOR)?;
                if whole {
                    sector.fill(0);
                } else {
                    sector[45] ^= 4;
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always("no_acknowledged_record_lost", |_, s| !s.faults.lost),
            Property::<Self>::always("election_safety", |_, s| {
                s.told.values().all(|candidates| candidates.len() < 2)
            }),
            Property::<Self>::always("vote_survives_recycling", |_, s| !s.faults.vote_lost),
            Property::<Self>::always("recovered_is_a_legal_prefix", |_, s| !s.faults.illegal),
            Property::<Self>::always("ledger_is_recovered", |_, s| !s.faults.ledger_differs),
            Property::<Self>::always("a_crash_is_not_corruption", |_, s| !s.faults.false_alarm),
            Property::<Self>::always("durable_state_is_legal", |_, s| {
                invariant::broken(&s.acknowledged).is_none()
            }),
            Property::<Self>::sometimes("torn_tail_seen", |_, s| s.seen.torn),
            Property::<Self>::sometimes("unsynced_batch_kept", |_, s| s.seen.unsynced_kept),
            Property::<Self>::sometimes("recycled_segment_seen", |_, s| s.seen.recycled),
            Property::<Self>::sometimes("old_batch_behind_the_tail", |_, s| {
                s.seen.old_batch_behind_the_tail
            }),
        ];
        if self.damages > 0 {
            properties.push(Property::<Self>::sometimes("corruption_detected", |_, s| {
                s.standing == Standing::Refused
            }));
            properties.push(Property::<Self>::sometimes("rotten_last_batch", |_, s| {
                s.standing == Standing::Undetectable
            }));
        }
        properties
    }
}

/// How many sectors of a segment hold batches.
fn used_sectors(model: &LogModel, state: &State, sequence: u64) -> usize {
    let place = state.ledger.place();
    let bytes = &state.segments.get(&sequence);
    let end = if place.sequence == sequence { place.offset } else { model.segment_size() };
    let in_use = |sector: &usize| bytes.is_some_and(|bytes| batch_at(bytes, *sector).is_some());
    (0..end / SECTOR).take_while(in_use).count()
}

/// The number of the batch that a sector belongs to.
fn batch_at(bytes: &[u8], sector: usize) -> Option<u64> {
    let sequence = format::read_batch(bytes)?.header.sequence;
    let mut at = 0;
    loop {
        let batch = format::read_batch(bytes.get(at..)?)?;
        if batch.header.sequence != sequence {
            return None;
        }
        at += batch.size();
        if sector * SECTOR < at {
            return Some(batch.header.number);
        }
    }
}

impl Checked for LogModel {
    const KINDS: &'static [&'static str] =
        &["write", "sync", "recycle", "power cut", "kill", "rot"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Write(_) => 0,
            Action::Sync => 1,
            Action::Recycle => 2,
            Action::PowerCut(_) => 3,
            Action::Kill => 4,
            Action::Rot { .. } => 5,
        }
    }
}

fn small() -> LogModel {
    LogModel {
        writes: 5,
        terms: 1,
        crashes: 1,
        damages: 0,
        segment_sectors: 3,
        sync_at_start: true,
    }
}

/// The scopes of the disk.
pub fn scopes() -> Vec<Scope> {
    let model = small();
    vec![
        Scope::new(
            "disk-crash",
            Tier::Ci,
            "A log in recycled segments through power cuts that tear batches, and kills.",
            &["DISK-4", "DISK-8", "DISK-9", "DISK-10", "DISK-11", "DISK-13", "DISK-14", "DISK-15"],
            LogModel { writes: 4, terms: 2, crashes: 2, ..model.clone() },
        ),
        Scope::new(
            "disk-rot",
            Tier::Ci,
            "The log with a sector that rots: it is found, or it was in the last batch.",
            &["DISK-11", "DISK-12", "DISK-16"],
            LogModel { writes: 4, damages: 1, ..model.clone() },
        ),
        Scope::new(
            "disk-crash-deep",
            Tier::Deep,
            "The same with more writes, on into the third segment.",
            &["DISK-8", "DISK-13", "DISK-14", "DISK-15"],
            LogModel { terms: 2, crashes: 2, ..model.clone() },
        ),
        Scope::new(
            "disk-rot-deep",
            Tier::Deep,
            "The same with more writes and terms.",
            &["DISK-12", "DISK-14", "DISK-16"],
            LogModel { terms: 2, damages: 1, ..model },
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hunt, Hunted};

    #[test]
    fn a_small_log_holds_and_is_not_vacuous() {
        for damages in [0, 1] {
            let model = LogModel { writes: 4, terms: 1, crashes: 1, damages, ..small() };
            let report =
                Scope::new("disk-small", Tier::Ci, "", &[], model).check(1, &mut |_, _| ());
            println!("{} {:?} {:?}", report.states, report.time, report.actions);
            assert!(report.is_clean(), "{:?}", report.properties);
        }
    }

    #[test]
    fn without_a_sync_at_the_start_a_kill_and_a_power_cut_lose_what_was_told() {
        let model = LogModel { writes: 1, crashes: 2, sync_at_start: false, ..small() };
        let scope = Scope::new("disk-no-sync", Tier::Ci, "", &[], model);
        let hunted = scope.hunt("no_acknowledged_record_lost", Hunt::Breadth, &mut |_, _| ());
        assert!(matches!(hunted, Hunted::Caught(path) if path.length == 3));
    }
}
