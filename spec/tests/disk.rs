//! The log on disk: what is written comes back, whatever a crash leaves, and damage is never taken for a crash.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use spec::{
    disk::{
        Corruption, Damage, Ledger, Recovered, SECTOR, format, invariant, read_batch, recover,
        snapshot,
    },
    raft::{
        Change, ClusterId, Configuration, DiskId, Durable, Entry, HardState, Index, Member,
        ServerId, SnapshotId, SnapshotMeta, Suffrage, Term, Write, types::Request,
    },
    time::ClusterTime,
};

const DISK: DiskId = DiskId(0x00d1_5c00_00d1_5c00);
const SEGMENT: usize = 4 * SECTOR;

/// A log as a writer makes it, with small segments that are recycled as soon as they may.
struct Log {
    ledger: Ledger,
    segments: BTreeMap<u64, Vec<u8>>,
    durable: Durable,
    /// Where each batch of the live segments ends, padding left out, and the durable state from there on.
    ends: Vec<(u64, usize, Durable)>,
    recycled: u64,
}

impl Log {
    fn new() -> Self {
        let mut log = Self {
            ledger: Ledger::new(DISK),
            segments: BTreeMap::new(),
            durable: Durable::default(),
            ends: Vec::new(),
            recycled: 0,
        };
        log.roll_over(SEGMENT);
        log
    }

    fn put(&mut self, sequence: u64, offset: usize, bytes: &[u8]) {
        let segment = self.segments.entry(sequence).or_default();
        let size = segment.len().max(SEGMENT).max(offset + bytes.len());
        segment.resize(size, 0);
        segment[offset..offset + bytes.len()].copy_from_slice(bytes);
        let length = read_batch(bytes).expect("sealed").payload.len();
        self.ends.push((sequence, offset + format::HEADER + length, self.durable.clone()));
    }

    fn roll_over(&mut self, size: usize) {
        let mut opening = Vec::new();
        let sequence = self.ledger.seal_opening(&mut opening);
        let segment = self.segments.entry(sequence).or_default();
        segment.resize(segment.len().max(size), 0);
        self.put(sequence, 0, &opening);
        self.ledger.opened(&opening);
    }

    fn append(&mut self, writes: &[Write]) {
        let mut batch = Vec::new();
        format::begin(&mut batch);
        for write in writes {
            format::push(write, &mut batch);
        }
        let end = batch.len();
        let size = self.segments[&self.ledger.sequence()].len();
        if !self.ledger.fits(end, size) {
            self.roll_over(self.ledger.needed(end).max(SEGMENT));
        }
        self.ledger.seal(&mut batch, end);
        let place = self.ledger.place();
        for write in writes {
            self.durable.fold(write);
        }
        self.put(place.sequence, place.offset, &batch);
        self.ledger.synced(&batch, writes);
    }

    /// Prepares the next segment, from the oldest where that may be recycled; others that may are removed.
    fn recycle(&mut self) {
        while let Some(sequence) = self.ledger.recycle() {
            let bytes = self.segments.remove(&sequence).expect("a live segment");
            self.ends.retain(|(of, ..)| *of != sequence);
            self.segments.entry(self.ledger.sequence() + 1).or_insert(bytes);
            self.recycled += 1;
        }
    }

    fn recover(&self) -> Result<Recovered, Corruption> {
        recover(DISK, self.segments.iter().map(|(sequence, bytes)| (*sequence, &bytes[..])))
    }
}

/// What a history does next; made legal by [`write`].
#[derive(Clone, Copy, Debug)]
enum Step {
    Vote,
    Append { entries: u64, bytes: usize },
    Truncate { by: u64, bytes: usize },
    Snapshot { behind: u64, trailing: u64 },
    Install { ahead: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Vote),
        5 => (1..4_u64, 0..900_usize).prop_map(|(entries, bytes)| Step::Append { entries, bytes }),
        1 => (1..3_u64, 0..99_usize).prop_map(|(by, bytes)| Step::Truncate { by, bytes }),
        2 => (0..3_u64, 0..3_u64)
            .prop_map(|(behind, trailing)| Step::Snapshot { behind, trailing }),
        1 => (1..5_u64).prop_map(|ahead| Step::Install { ahead }),
    ]
}

fn entries(after: Index, term: Term, count: u64, bytes: usize) -> Change {
    let entries = (1..=count).map(|n| Entry {
        term,
        index: Index(after.0 + n),
        time: ClusterTime(n),
        request: Request::Command(vec![b'v'; bytes].into()),
    });
    Change::Append { after, entries: entries.collect() }
}

fn meta(id: SnapshotId) -> SnapshotMeta {
    let member = Member { suffrage: Suffrage::Voter, address: "10.0.0.1:8300".into() };
    let servers = [(ServerId::new(1, 1), member)].into();
    SnapshotMeta {
        id,
        time: ClusterTime(7),
        configuration: Arc::new(Configuration { cluster: ClusterId(3), servers }),
        configuration_index: Index(1),
        chunks: 2,
    }
}

fn write(durable: &Durable, step: Step) -> Write {
    let mut hard_state = durable.hard_state;
    hard_state.term.0 = hard_state.term.0.max(1);
    let term_of = |index: Index| {
        let entry = durable.entries.iter().find(|entry| entry.index == index);
        entry.map_or(durable.base.term, |entry| entry.term)
    };
    let last = durable.last_index();
    let committed = durable.snapshot.as_ref().map_or(Index(0), |meta| meta.id.index);
    let change = match step {
        Step::Vote => {
            hard_state.term = hard_state.term.next();
            hard_state.voted_for = Some(ServerId::new(u128::from(hard_state.term.0), 1));
            Change::None
        }
        Step::Append { entries: count, bytes } => entries(last, hard_state.term, count, bytes),
        Step::Truncate { by, bytes } => {
            hard_state.term = hard_state.term.next();
            hard_state.voted_for = None;
            let after = Index(last.0.saturating_sub(by)).max(committed).max(durable.base.index);
            entries(after, hard_state.term, 1, bytes)
        }
        Step::Snapshot { behind, trailing } => {
            let index = Index(last.0.saturating_sub(behind)).max(committed).max(durable.base.index);
            if index == Index(0) {
                Change::None
            } else {
                let base = Index(index.0.saturating_sub(trailing)).max(durable.base.index);
                let id = |index| SnapshotId { index, term: term_of(index) };
                Change::Snapshot { meta: meta(id(index)), base: id(base) }
            }
        }
        Step::Install { ahead } => {
            let id = SnapshotId { index: Index(last.0 + ahead), term: hard_state.term };
            Change::Install { meta: meta(id) }
        }
    };
    Write { hard_state, change }
}

fn written(steps: &[Vec<Step>]) -> Log {
    let mut log = Log::new();
    for steps in steps {
        // Before the batch and not after: what the last batch allows is done only once it is durable.
        log.recycle();
        let mut state = log.durable.clone();
        let writes: Vec<Write> = steps
            .iter()
            .map(|step| {
                let write = write(&state, *step);
                state.fold(&write);
                write
            })
            .collect();
        assert_eq!(invariant::broken(&state), None, "the history is legal");
        log.append(&writes);
    }
    log
}

fn history() -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(prop::collection::vec(step(), 0..4), 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_log_means_the_fold_of_its_writes(steps in history()) {
        let log = written(&steps);
        let recovered = log.recover().unwrap();
        prop_assert_eq!(&recovered.durable, &log.durable);
        prop_assert_eq!(&recovered.ledger, &log.ledger);
        prop_assert!(!recovered.torn);
    }

    #[test]
    fn a_log_cut_at_any_offset_of_its_last_segment_ends_with_the_batch_before(steps in history()) {
        let log = written(&steps);
        let last = log.ledger.sequence();
        let whole = log.segments[&last].len();
        // A segment is recycled by what later batches say: without them, nothing can be made of what is left.
        let needed = log.recycled > 0;
        let last_batch = log.recover().unwrap().last.offset;
        for cut in 0..=log.ledger.place().offset {
            // The file is shorter, or its rest is still zeros.
            for size in [cut, whole] {
                let mut segments = log.segments.clone();
                segments.retain(|sequence, _| *sequence <= last);
                let bytes = segments.get_mut(&last).unwrap();
                bytes.truncate(cut);
                bytes.resize(size, 0);
                let original = &log.segments[&last];
                let expected = log.ends.iter().rfind(|(s, end, _)| {
                    *s < last || segments[&last].get(..*end) == original.get(..*end)
                });
                let result = recover(DISK, segments.iter().map(|(s, bytes)| (*s, &bytes[..])));
                if needed && cut < last_batch && result.is_err() { continue }
                if let Some((.., durable)) = expected {
                    prop_assert_eq!(&result.unwrap().durable, durable);
                } else {
                    // The only segment's opening: term and vote are lost, and that is said.
                    prop_assert_eq!(result.unwrap_err().damage, Damage::Lost);
                }
            }
        }
    }

    #[test]
    fn an_earlier_segment_cut_at_any_offset_is_damage(steps in history()) {
        let log = written(&steps);
        let last = log.ledger.sequence();
        for sequence in log.ledger.segments().map(|segment| segment.sequence) {
            if sequence == last { continue }
            let end = log.ends.iter().rfind(|(s, ..)| *s == sequence).unwrap().1;
            for cut in (0..end).step_by(37) {
                let mut segments = log.segments.clone();
                segments.get_mut(&sequence).unwrap().truncate(cut);
                let result = recover(DISK, segments.iter().map(|(s, bytes)| (*s, &bytes[..])));
                prop_assert!(result.is_err(), "cut at {} of segment {}", cut, sequence);
            }
        }
    }

    #[test]
    fn a_flipped_byte_is_detected_harmless_or_in_the_last_batch(
        steps in history(),
        mask in 1..=255_u8,
        phase in 0..7_usize,
    ) {
        let log = written(&steps);
        let before_last = log.ends.iter().rev().nth(1).map(|(.., durable)| durable);
        let (last_segment, last_end, _) = *log.ends.last().unwrap();
        let mut segments = log.segments.clone();
        let live: Vec<u64> = log.ledger.segments().map(|segment| segment.sequence).collect();
        for sequence in live {
            for at in (phase..log.segments[&sequence].len()).step_by(7) {
                segments.get_mut(&sequence).unwrap()[at] ^= mask;
                let result = recover(DISK, segments.iter().map(|(s, bytes)| (*s, &bytes[..])));
                segments.get_mut(&sequence).unwrap()[at] ^= mask;
                let Ok(recovered) = result else { continue };
                let padding = recovered.durable == log.durable;
                let in_last = sequence == last_segment && at < last_end
                    && Some(&recovered.durable) == before_last;
                prop_assert!(padding || in_last, "byte {} of segment {}", at, sequence);
            }
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert!(recover(DISK, [(1, &bytes[..])]).is_err());
        prop_assert!(snapshot::table(&bytes).is_none());
    }

    #[test]
    fn garbage_in_a_batch_with_a_right_checksum_is_refused_or_read(
        payload in prop::collection::vec(any::<u8>(), 1..600),
    ) {
        let mut log = Log::new();
        log.append(&[]);
        let mut batch = Vec::new();
        format::begin(&mut batch);
        batch.extend_from_slice(&payload);
        let end = batch.len();
        log.ledger.seal(&mut batch, end);
        let place = log.ledger.place();
        log.put(place.sequence, place.offset, &batch);
        // Whatever it decodes to: no panic, and nothing illegal is handed out.
        if let Ok(recovered) = log.recover() {
            prop_assert_eq!(invariant::broken(&recovered.durable), None);
        }
    }
}

fn rolled_over() -> Log {
    let append = Step::Append { entries: 1, bytes: 300 };
    let log = written(&vec![vec![append]; 8]);
    assert!(log.segments.len() > 2);
    log
}

#[test]
fn a_bad_batch_with_a_valid_one_behind_it_is_corruption() {
    let mut log = rolled_over();
    log.segments.get_mut(&1).unwrap()[SECTOR + 100] ^= 1;
    let corruption = log.recover().unwrap_err();
    assert_eq!((corruption.sequence, corruption.offset), (1, SECTOR));
    assert!(matches!(corruption.damage, Damage::BadBatch { .. }));
}

#[test]
fn the_last_batch_of_an_earlier_segment_may_not_be_bad() {
    let mut log = rolled_over();
    let (_, end, _) = log.ends.iter().rfind(|(s, ..)| *s == 1).unwrap();
    log.segments.get_mut(&1).unwrap()[end - 1] ^= 1;
    let corruption = log.recover().unwrap_err();
    assert_eq!(corruption.sequence, 1);
    assert!(matches!(corruption.damage, Damage::BrokenChain { .. }), "{corruption}");
}

#[test]
fn a_missing_segment_is_named() {
    let mut log = rolled_over();
    log.segments.remove(&2);
    let corruption = log.recover().unwrap_err();
    assert_eq!((corruption.sequence, corruption.damage), (2, Damage::Missing));
}

#[test]
fn a_lost_first_segment_is_not_taken_for_a_compacted_one() {
    let mut log = rolled_over();
    log.segments.remove(&1);
    assert_eq!(log.recover().unwrap_err().damage, Damage::Illegal("consecutive"));
}

#[test]
fn segments_that_changed_places_are_told() {
    let mut log = rolled_over();
    let (one, two) = (log.segments[&1].clone(), log.segments[&2].clone());
    log.segments.insert(1, two);
    log.segments.insert(2, one);
    assert_eq!(log.recover().unwrap_err().damage, Damage::Misplaced(2));
}

#[test]
fn the_log_of_another_disk_is_refused() {
    let log = rolled_over();
    let result = recover(DiskId(9), log.segments.iter().map(|(s, bytes)| (*s, &bytes[..])));
    assert_eq!(result.unwrap_err().damage, Damage::OtherDisk(DISK));
}

#[test]
fn a_write_that_went_astray_breaks_the_chain() {
    // Batch 2 was written over batch 1's place, as a disk that misdirects a write does.
    let mut log = Log::new();
    (0..3).for_each(|_| log.append(&[]));
    let segment = log.segments.get_mut(&1).unwrap();
    segment.copy_within(2 * SECTOR..3 * SECTOR, SECTOR);
    let corruption = log.recover().unwrap_err();
    assert_eq!(corruption.damage, Damage::BrokenChain { expected: 1, found: 2 });
}

#[test]
fn recycled_segments_hold_old_batches_behind_the_tail_that_do_not_exist() {
    let mut steps = vec![vec![Step::Append { entries: 1, bytes: 10 }]; 3];
    steps.push(vec![Step::Snapshot { behind: 0, trailing: 0 }]);
    steps.extend(vec![vec![Step::Vote]; 3]);
    let log = written(&steps);
    assert_eq!(log.recycled, 1);
    let recovered = log.recover().unwrap();
    let reused = &log.segments[&log.ledger.sequence()];
    let behind = read_batch(&reused[log.ledger.place().offset..]).unwrap();
    assert!(behind.header.sequence < log.ledger.sequence(), "an old batch stands at the tail");
    assert_eq!(recovered.durable, log.durable);
    assert!(!recovered.torn);
}

/// How far the value is into a sector, in the batch below.
const IMAGE_AT: usize = 52;

#[test]
fn a_value_that_looks_like_a_batch_is_not_taken_for_one() {
    // A client stores the image of the next batch, but can't know the disk's id. The batch that holds it is torn.
    let mut log = Log::new();
    let mut image = Vec::new();
    format::begin(&mut image);
    format::seal(&mut image, format::HEADER, DiskId(1), 1, 2, 0);
    let payload: Vec<u8> = image.iter().copied().cycle().skip(IMAGE_AT).take(1200).collect();
    let request = Request::Command(payload.into());
    let entry = Entry { term: Term(1), index: Index(1), time: ClusterTime(0), request };
    let change = Change::Append { after: Index(0), entries: vec![entry] };
    let hard_state = HardState { term: Term(1), voted_for: None };
    log.append(&[Write { hard_state, change }]);
    let segment = log.segments.get_mut(&1).unwrap();
    let found = (2..4).any(|sector| read_batch(&segment[sector * SECTOR..]).is_some());
    assert!(found, "the image stands at a sector's start");
    segment[SECTOR + 50] ^= 1;
    let recovered = log.recover().unwrap();
    assert!(recovered.torn);
    assert_eq!(recovered.durable, Durable::default());
}

#[test]
fn the_bytes_of_the_log_are_frozen() {
    let mut log = Log::new();
    let append = write(&Durable::default(), Step::Append { entries: 1, bytes: 2 });
    log.append(&[append]);
    let durable = log.durable.clone();
    log.append(&[write(&durable, Step::Snapshot { behind: 0, trailing: 0 })]);
    let id = SnapshotId { index: Index(258), term: Term(3) };
    let lines = [snapshot::line(b"chunk"), snapshot::line(b"")];
    let bytes = [
        log.segments[&1][..47].to_vec(),
        log.segments[&1][SECTOR..SECTOR + 52].to_vec(),
        log.segments[&1][2 * SECTOR..2 * SECTOR + 69].to_vec(),
        snapshot::ending(id, &lines),
    ];
    for (bytes, golden) in bytes.iter().zip(GOLDEN) {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let hex = hex.concat();
        assert_eq!(hex, golden);
    }
    // The check value of CRC-32C (RFC 3720, B.4: 32 bytes of zeros).
    assert_eq!(snapshot::line(&[0; 32]).checksum, 0x8a91_36aa);
}

// An opening, an entry, a snapshot, and the end of a snapshot's file.
const GOLDEN: [&str; 4] = [
    "50434c310e2ff0aa005cd100005cd100010000000000000000000000000000000000000007000000\
     00000000000000",
    "50434c31160588f2005cd100005cd100010000000000000001000000000000000e2ff0aa0c000000\
     010001000101010101027676",
    "50434c31daf5564f005cd100005cd10001000000000000000200000000000000160588f21d000000\
     01000201010703010101000d31302e302e302e313a3833303001020101",
    "05000000448e6b4a0000000000000000020100000000000003000000000000000200000000000000\
     050000000000000048f6108b50435331",
];

#[test]
fn a_snapshots_table_comes_back_and_every_flip_in_it_is_found() {
    let lines = [snapshot::line(b"one"), snapshot::line(b"three")];
    let id = SnapshotId { index: Index(9), term: Term(2) };
    let ending = snapshot::ending(id, &lines);
    let (footer, table) = snapshot::table(&ending).unwrap();
    assert_eq!((footer.id, footer.chunks, footer.bytes), (id, 2, 8));
    assert_eq!(table, lines);
    assert_eq!(footer.ending_length(8 + 56), Some(56));
    assert_eq!(footer.ending_length(8 + 55), None);
    assert!(snapshot::is_chunk(&table[0], b"one") && !snapshot::is_chunk(&table[0], b"two"));
    for at in 0..ending.len() {
        let mut flipped = ending.clone();
        flipped[at] ^= 0x10;
        assert!(snapshot::table(&flipped).is_none(), "byte {at}");
        assert!(snapshot::table(&ending[at + 1..]).is_none(), "cut at {at}");
    }
}
