//! The files of snapshots, and how they go with the log.

use super::*;
use crate::storage::files::{Blocks, Directory, Disk};

fn store(memory: &Memory, named: &[SnapshotId]) -> SnapshotStore {
    SnapshotStore::open(Arc::new(memory.clone()), named).unwrap()
}

fn save(store: &SnapshotStore, index: u64) -> Result<u64, StorageError> {
    let mut writer = store.writer(id(index))?;
    writer.write_chunk(format!("first of {index}").as_bytes())?;
    writer.write_chunk(b"second")?;
    writer.finish()
}

fn snap(index: u64) -> String {
    format!("{index:016x}-{:016x}.snap", 1)
}

#[test]
fn a_snapshot_comes_back_chunk_by_chunk() {
    let memory = Memory::default();
    let snapshots = store(&memory, &[]);
    assert_eq!(save(&snapshots, 7).unwrap(), 2);
    let reader = store(&memory.crash_with_names(|_, _| false), &[id(7)]).reader(id(7)).unwrap();
    assert_eq!((reader.id(), reader.chunks()), (id(7), 2));
    assert_eq!(reader.read_chunk(0).unwrap(), b"first of 7");
    assert_eq!(reader.read_chunk(1).unwrap(), b"second");
    assert!(reader.read_chunk(2).is_err());
    // An empty state is a snapshot as well, of one chunk.
    assert_eq!(snapshots.writer(id(8)).unwrap().finish().unwrap(), 1);
    assert_eq!(snapshots.reader(id(8)).unwrap().read_chunk(0).unwrap(), b"");
}

#[test]
fn every_flip_in_a_snapshot_is_found() {
    let memory = Memory::default();
    let snapshots = store(&memory, &[]);
    save(&snapshots, 7).unwrap();
    let length = memory.bytes(&snap(7)).unwrap().len();
    for at in 0..length {
        memory.damage(&snap(7), |bytes| bytes[at] ^= 0x20);
        assert!(snapshots.verify(id(7)).is_err(), "byte {at}");
        memory.damage(&snap(7), |bytes| bytes[at] ^= 0x20);
    }
    snapshots.verify(id(7)).unwrap();
    memory.damage(&snap(7), |bytes| bytes.truncate(9));
    assert!(snapshots.verify(id(7)).unwrap_err().to_string().contains("too short"));
    memory.rename(&snap(7), &snap(9)).unwrap();
    assert!(snapshots.verify(id(9)).is_err());
}

#[test]
fn a_received_snapshot_is_stored_in_order_and_durable_when_it_is_finished() {
    let memory = Memory::default();
    let snapshots = store(&memory, &[]);
    let meta = meta(7);
    snapshots.store_chunk(&meta, 0, b"lost with its leader").unwrap();
    snapshots.store_chunk(&meta, 0, b"one").unwrap();
    assert!(snapshots.finish(&meta).is_err(), "a chunk is missing");
    assert!(snapshots.store_chunk(&meta, 1, b"two").is_err(), "begins with chunk 0");
    snapshots.store_chunk(&meta, 0, b"one").unwrap();
    snapshots.store_chunk(&meta, 1, b"two").unwrap();
    snapshots.finish(&meta).unwrap();
    let reader = store(&memory.crash_with_names(|_, _| false), &[id(7)]).reader(id(7)).unwrap();
    assert_eq!(reader.read_chunk(1).unwrap(), b"two");
    assert_eq!(names(&memory), [snap(7)], "nothing unfinished is left");
}

#[test]
fn two_snapshots_are_kept_and_one_on_its_way_into_the_log() {
    let memory = Memory::default();
    let snapshots = store(&memory, &[]);
    for index in [3, 5, 7, 9] {
        save(&snapshots, index).unwrap();
        if index != 9 {
            snapshots.named(id(index)).unwrap();
        }
    }
    assert_eq!(names(&memory), [snap(5), snap(7), snap(9)]);
    let reader = snapshots.reader(id(5)).unwrap();
    snapshots.named(id(9)).unwrap();
    assert_eq!(names(&memory), [snap(7), snap(9)]);
    assert_eq!(reader.read_chunk(1).unwrap(), b"second", "an open reader goes on");
    // A start removes what the log doesn't name.
    store(&memory, &[id(9)]);
    assert_eq!(names(&memory), [snap(9)]);
}

/// Chunks of odd lengths, that end within a run of writes, at its end and behind it.
fn save_large(snapshots: &SnapshotStore) -> Result<Vec<Vec<u8>>, StorageError> {
    let lengths = [Blocks::SIZE - 3, 3, 1, 2 * Blocks::SIZE, Blocks::SIZE + 5];
    let chunks: Vec<Vec<u8>> = (1..).zip(lengths).map(|(n, length)| vec![n; length]).collect();
    let mut writer = snapshots.writer(id(7))?;
    for chunk in &chunks {
        writer.write_chunk(chunk)?;
    }
    writer.finish()?;
    Ok(chunks)
}

#[test]
fn a_large_snapshot_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::create(folder.path()).unwrap();
    for directory in [Arc::new(disk) as Arc<dyn Directory>, Arc::new(Memory::default())] {
        let snapshots = SnapshotStore::open(directory, &[]).unwrap();
        let chunks = save_large(&snapshots).unwrap();
        let reader = snapshots.reader(id(7)).unwrap();
        for (number, chunk) in (0..).zip(&chunks) {
            assert!(reader.read_chunk(number).unwrap() == *chunk, "chunk {number}");
        }
        assert_eq!(reader.chunks(), chunks.len() as u64);
    }
}

#[test]
fn a_full_disk_leaves_no_half_snapshot() {
    // Four full runs, and what is left.
    for before in 0..5 {
        let memory = Memory::default();
        let snapshots = store(&memory, &[]);
        memory.inject(fault(Operation::Write, before, 1, ErrorKind::StorageFull));
        assert!(save_large(&snapshots).unwrap_err().is_full(), "after {before} writes");
        assert_eq!(names(&memory), [""; 0]);
        save_large(&snapshots).unwrap();
    }
}

/// At whatever point the power fails: a snapshot that the log names is there and whole (file first, then the record).
#[test]
fn a_snapshot_that_the_log_names_is_durable() {
    let mut after = 0;
    loop {
        let memory = Memory::default();
        let mut log = fresh(&memory, LogOptions { first_segment_bytes: 8192, ..SMALL });
        (1..=4).for_each(|n| {
            put(&mut log, n, append(n, 10)).unwrap();
        });
        let snapshots = store(&memory, &[]);
        memory.inject(fault(Operation::Any, after, u64::MAX, ErrorKind::Other));
        let mut run = || {
            for index in [2, 4] {
                save(&snapshots, index)?;
                put(&mut log, 9, compact(index, index))?;
                snapshots.named(id(index))?;
            }
            Ok::<(), StorageError>(())
        };
        let done = run().is_ok();
        memory.heal();
        for crashed in [
            memory.crash(|_, _| false),
            memory.crash(|_, _| true),
            memory.crash_with_names(|_, _| false),
        ] {
            let found = reopen(&crashed).unwrap();
            let Some(named) = found.durable.snapshot else {
                assert_eq!(found.durable.entries.len(), 4);
                continue;
            };
            store(&crashed, &[named.id]).verify(named.id).unwrap();
        }
        if done {
            break;
        }
        after += 1;
    }
    assert!(after > 12, "only {after} points");
}

#[test]
fn a_small_record_survives_or_is_replaced_whole() {
    let mut after = 0;
    loop {
        let memory = Memory::default();
        let record = RecordFile::new(Arc::new(memory.clone()), "promise");
        assert_eq!(record.load().unwrap(), None);
        record.store(b"old").unwrap();
        memory.inject(fault(Operation::Any, after, u64::MAX, ErrorKind::Other));
        let stored = record.store(b"the new one").is_ok();
        for crashed in
            [memory.crash(|_, _| false), memory.crash_with_names(|_, _| false), memory.clone()]
        {
            crashed.heal();
            let loaded = RecordFile::new(Arc::new(crashed), "promise").load().unwrap().unwrap();
            assert!(loaded == b"the new one" || !stored && loaded == b"old", "{loaded:?}");
        }
        if stored {
            break;
        }
        after += 1;
    }
    let memory = Memory::default();
    let record = RecordFile::new(Arc::new(memory.clone()), "promise");
    record.store(b"value").unwrap();
    memory.damage("promise", |bytes| bytes[1] ^= 1);
    assert!(record.load().is_err());
}
