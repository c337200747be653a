//! The snapshot's file on a disk whose power fails at any point of writing and of compaction (SERF-50 to SERF-55).
//!
//! The bytes are real: `spec::serf::snapshot` makes and reads them, and says how compaction goes. The model is the file
//! system: of bytes that were not synced any beginning may be there after a power cut, and of changes to names any first
//! few.

use std::{collections::BTreeMap, sync::Arc};

use spec::{
    serf::{
        Durable, LamportTime, Record,
        snapshot::{self, COMPACTION, File, Step},
    },
    swim::{self, Incarnation},
};
use stateright::{Model, Property};

use super::pool::{endpoint, name};
use crate::{Checked, Scope, Tier};

/// The bounds.
#[derive(Clone, Debug)]
pub struct SnapshotModel {
    /// Records that are written.
    pub records: u8,
    /// Power cuts.
    pub crashes: u8,
    /// Compactions, the one that makes the file not counted.
    pub compactions: u8,
}

/// The bytes of a file; of those behind `synced` a power cut keeps any beginning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Inode {
    bytes: Arc<Vec<u8>>,
    synced: usize,
}

/// A change of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Rename {
    Created(File),
    Removed(File),
    Renamed,
}

/// The disk and the writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The names that are on the disk.
    durable_names: BTreeMap<File, u8>,
    /// The names as the running system sees them.
    names: BTreeMap<File, u8>,
    /// What the files hold, by whichever name.
    inodes: BTreeMap<u8, Inode>,
    next_inode: u8,
    /// Changes of names that are not on the disk, in order.
    renames: Vec<(Rename, u8)>,
    /// What each number of records since the last start folds to, from none on.
    folds: Vec<Durable>,
    /// How many of them were acknowledged.
    acknowledged: usize,
    /// How far compaction is.
    step: Option<usize>,
    lost: bool,
    unlike: bool,
    refused: bool,
    records: u8,
    crashes: u8,
    compactions: u8,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The next record is appended.
    Append,
    /// The file is synced, and what it holds acknowledged.
    Sync,
    /// Compaction begins.
    Compact,
    /// Compaction takes its next step.
    Step,
    /// The power fails: so many changes of names are on the disk, and of each file this much of what was not synced.
    PowerCut {
        /// Changes of names.
        renames: usize,
        /// In quarters of a file's unsynced bytes.
        quarters: usize,
    },
}

fn record(n: u8) -> Record {
    match n % 4 {
        0 => Record::Alive { name: name(1), endpoint: endpoint(1) },
        1 => Record::EventClock(LamportTime(u64::from(n) + 1)),
        2 => Record::NotAlive(name(1)),
        _ => Record::Swim(swim::Durable { incarnation: Incarnation(u32::from(n)) }),
    }
}

impl State {
    fn current(&self) -> Option<u8> {
        self.names.get(&File::Current).copied()
    }

    fn append(&mut self, n: u8) {
        let record = record(n);
        let Some(inode) = self.current().and_then(|at| self.inodes.get_mut(&at)) else { return };
        snapshot::append(&record, Arc::make_mut(&mut inode.bytes));
        let mut fold = self.folds.last().cloned().unwrap_or_default();
        fold.fold(&record);
        self.folds.push(fold);
    }

    fn sync(&mut self, file: File) {
        if let Some(inode) = self.names.get(&file).and_then(|at| self.inodes.get_mut(at)) {
            inode.synced = inode.bytes.len();
        }
    }

    /// Takes a step of compaction.
    fn compact(&mut self, step: Step) {
        match step {
            Step::Remove(file) => {
                if let Some(inode) = self.names.remove(&file) {
                    self.renames.push((Rename::Removed(file), inode));
                }
            }
            Step::Write(file) => {
                if self.names.contains_key(&file) {
                    self.refused = true;
                    return;
                }
                let fold = self.folds.last().cloned().unwrap_or_default();
                let bytes = Arc::new(snapshot::compacted(&fold));
                let inode = self.next_inode;
                self.next_inode += 1;
                self.inodes.insert(inode, Inode { bytes, synced: 0 });
                self.names.insert(file, inode);
                self.renames.push((Rename::Created(file), inode));
            }
            Step::Sync(file) => self.sync(file),
            Step::Rename => {
                if let Some(inode) = self.names.remove(&File::Temporary) {
                    self.names.insert(File::Current, inode);
                    self.renames.push((Rename::Renamed, inode));
                }
            }
            Step::SyncFolder => {
                self.renames.clear();
                self.durable_names = self.names.clone();
                self.acknowledged = self.folds.len() - 1;
            }
        }
        self.forget_inodes();
    }

    /// A file without a name is gone; the least numbers are used, so that equal states meet.
    fn forget_inodes(&mut self) {
        let named = |at: &u8| {
            self.names.values().any(|n| n == at)
                || self.durable_names.values().any(|n| n == at)
                || self.renames.iter().any(|(_, n)| n == at)
        };
        let kept: Vec<u8> = self.inodes.keys().copied().filter(named).collect();
        let place = |at: u8| kept.iter().position(|n| *n == at).and_then(|n| u8::try_from(n).ok());
        let moved = |names: &BTreeMap<File, u8>| {
            names.iter().filter_map(|(file, at)| Some((*file, place(*at)?))).collect()
        };
        self.names = moved(&self.names);
        self.durable_names = moved(&self.durable_names);
        let renames = self.renames.iter().filter_map(|(rename, at)| Some((*rename, place(*at)?)));
        self.renames = renames.collect();
        let inodes = std::mem::take(&mut self.inodes);
        self.inodes = inodes.into_iter().filter_map(|(at, i)| Some((place(at)?, i))).collect();
        self.next_inode = u8::try_from(self.inodes.len()).unwrap_or(u8::MAX);
    }

    fn power_cut(&mut self, renames: usize, quarters: usize) {
        for (rename, inode) in self.renames.drain(..).take(renames) {
            let names = &mut self.durable_names;
            match rename {
                Rename::Created(file) => drop(names.insert(file, inode)),
                Rename::Removed(file) => drop(names.remove(&file)),
                Rename::Renamed => {
                    names.remove(&File::Temporary);
                    names.insert(File::Current, inode);
                }
            }
        }
        for inode in self.inodes.values_mut() {
            let unsynced = inode.bytes.len() - inode.synced;
            let kept = inode.synced + unsynced * quarters / 4;
            Arc::make_mut(&mut inode.bytes).truncate(kept);
            inode.synced = kept;
        }
        self.names = self.durable_names.clone();
        self.step = None;
        self.recover();
        self.forget_inodes();
    }

    /// Starts from what the disk holds, and holds it to what was written and acknowledged.
    fn recover(&mut self) {
        let current = self.current();
        let bytes = current.and_then(|at| self.inodes.get(&at)).map(|i| Arc::clone(&i.bytes));
        let recovered = snapshot::recover(bytes.as_deref().map_or(&[], Vec::as_slice));
        let legal = self.folds.iter().rposition(|fold| *fold == recovered.durable);
        self.unlike |= legal.is_none();
        self.lost |= legal.is_some_and(|legal| legal < self.acknowledged);
        if let Some(inode) = current.and_then(|at| self.inodes.get_mut(&at)) {
            Arc::make_mut(&mut inode.bytes).truncate(recovered.length);
            inode.synced = inode.bytes.len();
        }
        self.folds = vec![recovered.durable];
        self.acknowledged = 0;
    }
}

impl Model for SnapshotModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            durable_names: BTreeMap::new(),
            names: BTreeMap::new(),
            inodes: BTreeMap::new(),
            next_inode: 0,
            renames: Vec::new(),
            folds: vec![Durable::default()],
            acknowledged: 0,
            step: None,
            lost: false,
            unlike: false,
            refused: false,
            records: 0,
            crashes: 0,
            compactions: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        match (state.step, state.current()) {
            (Some(_), _) => actions.push(Action::Step),
            (None, None) => actions.push(Action::Compact),
            (None, Some(_)) => {
                if state.records < self.records {
                    actions.push(Action::Append);
                }
                if state.acknowledged + 1 < state.folds.len() {
                    actions.push(Action::Sync);
                }
                if state.compactions < self.compactions {
                    actions.push(Action::Compact);
                }
            }
        }
        if state.crashes < self.crashes {
            for renames in 0..=state.renames.len() {
                for quarters in 0..=4 {
                    actions.push(Action::PowerCut { renames, quarters });
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        match action {
            Action::Append => {
                state.append(state.records);
                state.records += 1;
            }
            Action::Sync => {
                state.sync(File::Current);
                state.acknowledged = state.folds.len() - 1;
            }
            Action::Compact => {
                state.compactions += u8::from(state.current().is_some());
                state.step = Some(0);
            }
            Action::Step => {
                let at = state.step?;
                state.compact(*COMPACTION.get(at)?);
                state.step = (at + 1 < COMPACTION.len()).then_some(at + 1);
            }
            Action::PowerCut { renames, quarters } => {
                state.crashes += 1;
                state.power_cut(renames, quarters);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("snapshot_keeps_what_was_acknowledged", |_, s| !s.lost),
            Property::<Self>::always("snapshot_recovers_a_prefix", |_, state| !state.unlike),
            Property::<Self>::always("compaction_goes_on", |_, state| !state.refused),
            Property::<Self>::sometimes("a_record_is_acknowledged", |_, s| s.acknowledged > 1),
            Property::<Self>::sometimes("a_power_cut_amid_compaction", |_, state| {
                state.crashes > 0 && state.names.contains_key(&File::Temporary)
            }),
        ]
    }
}

impl Checked for SnapshotModel {
    const KINDS: &'static [&'static str] = &["append", "sync", "compact", "step", "power-cut"];

    fn kind(action: &Action) -> usize {
        match action {
            Action::Append => 0,
            Action::Sync => 1,
            Action::Compact => 2,
            Action::Step => 3,
            Action::PowerCut { .. } => 4,
        }
    }
}

/// The scopes of the snapshot.
pub(super) fn scopes() -> Vec<Scope> {
    vec![Scope::new(
        "serf-snapshot",
        Tier::Ci,
        "Six records, two compactions, two power cuts at any point.",
        &["SERF-50", "SERF-51", "SERF-52", "SERF-53"],
        SnapshotModel { records: 6, crashes: 2, compactions: 2 },
    )]
}
