//! The log on a disk that fails and crashes.

use std::time::{Duration, Instant};

use super::*;

#[test]
fn what_was_appended_is_there_after_a_power_cut() {
    let memory = Memory::default();
    let mut store = fresh(&memory, SMALL);
    let mut expected = Durable::default();
    for index in 1..=40 {
        let write = append(index, 100 + usize::try_from(index).unwrap());
        expected.fold(&write);
        assert_eq!(put(&mut store, index, write).unwrap(), Ticket(index));
    }
    let found = reopen(&memory.crash_with_names(|_, _| false)).unwrap();
    assert_eq!(found.durable, expected);
    assert!(!found.torn);
    assert!(names(&memory).len() > 2, "rolled over: {:?}", names(&memory));
}

#[test]
fn a_batch_of_many_writes_gives_its_last_ticket_and_is_one_write_and_one_sync() {
    let memory = Memory::default();
    let mut store = fresh(&memory, LogOptions { first_segment_bytes: 65536, ..SMALL });
    let writes: Vec<_> = (1..=64).map(|n| (Ticket(n), append(n, 256))).collect();
    memory.inject(fault(Operation::Any, 2, u64::MAX, ErrorKind::Other));
    assert_eq!(store.append(&writes).unwrap(), Ticket(64));
    assert_eq!(store.append(&[]).unwrap(), Ticket::NONE);
    memory.heal();
    let found = reopen(&memory.crash(|_, _| false)).unwrap();
    assert_eq!(found.durable.last_index(), Index(64));
}

#[test]
fn a_torn_write_is_dropped_whichever_of_its_sectors_arrived() {
    // A batch of four sectors that was written, but whose sync failed.
    for kept in 0..16_u32 {
        let memory = Memory::default();
        let mut store = fresh(&memory, LogOptions { first_segment_bytes: 8192, ..SMALL });
        put(&mut store, 1, append(1, 10)).unwrap();
        memory.inject(fault(Operation::Sync, 0, 1, ErrorKind::Other));
        assert!(put(&mut store, 2, append(2, 1900)).is_err());
        let mut sector = 0;
        let crashed = memory.crash(|_, _| {
            sector += 1;
            kept >> (sector - 1) & 1 == 1
        });
        let found = reopen(&crashed).unwrap();
        let whole = kept == 15;
        assert_eq!(found.durable.last_index(), Index(if whole { 2 } else { 1 }), "{kept:04b}");
        // The header's sector alone shows that a batch was begun.
        assert_eq!(found.torn, !whole && kept & 1 == 1, "{kept:04b}");
    }
}

#[test]
fn a_torn_write_is_written_over() {
    let memory = Memory::default();
    let mut store = fresh(&memory, LogOptions { first_segment_bytes: 8192, ..SMALL });
    put(&mut store, 1, append(1, 10)).unwrap();
    memory.inject(fault(Operation::Sync, 0, 1, ErrorKind::Other));
    assert!(put(&mut store, 2, append(2, 1900)).is_err());
    let mut first = true;
    let crashed = memory.crash(|_, _| std::mem::take(&mut first));
    let (mut store, found) = LogStore::open(Arc::new(crashed.clone()), DISK, SMALL).unwrap();
    assert!(found.torn);
    put(&mut store, 1, append(2, 20)).unwrap();
    let found = reopen(&crashed.crash(|_, _| false)).unwrap();
    assert_eq!((found.durable.last_index(), found.torn), (Index(2), false));
}

#[test]
fn what_a_killed_server_left_in_the_cache_is_durable_before_anything_stands_on_it() {
    let memory = Memory::default();
    let mut store = fresh(&memory, SMALL);
    memory.inject(fault(Operation::Sync, 0, 1, ErrorKind::Other));
    assert!(put(&mut store, 1, append(1, 10)).is_err());
    // Killed, not cut off: the next start reads the cache.
    let found = reopen(&memory).unwrap();
    assert_eq!(found.durable.last_index(), Index(1));
    let found = reopen(&memory.crash(|_, _| false)).unwrap();
    assert_eq!(found.durable.last_index(), Index(1), "a power cut takes back what was recovered");
}

#[test]
fn after_a_failed_write_or_sync_nothing_is_taken_any_more() {
    for operation in [Operation::Write, Operation::ShortWrite, Operation::Sync] {
        let memory = Memory::default();
        let mut store = fresh(&memory, SMALL);
        put(&mut store, 1, append(1, 10)).unwrap();
        memory.inject(fault(operation, 0, 1, ErrorKind::Other));
        let error = put(&mut store, 2, append(2, 10)).unwrap_err();
        assert!(matches!(error, StorageError::Failed { .. }), "{operation:?}: {error}");
        assert!(error.to_string().contains("empty data directory"), "{error}");
        // The fault is gone, and still: what the disk holds of the failed write is unknown.
        let error = put(&mut store, 3, append(2, 10)).unwrap_err();
        assert!(matches!(error, StorageError::Poisoned(_)), "{operation:?}: {error}");
        assert!(store.seal().is_err());
        let found = reopen(&memory.crash(|_, _| false)).unwrap();
        assert_eq!(found.durable.last_index(), Index(1));
    }
}

#[test]
fn a_full_disk_shows_at_the_next_segment_and_passes() {
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::ReadOnlyFilesystem] {
        let memory = Memory::default();
        let mut store = fresh(&memory, SMALL);
        memory.inject(fault(Operation::Reserve, 0, 2, kind));
        (1..=3).for_each(|n| {
            put(&mut store, n, append(n, 10)).unwrap();
        });
        let error = put(&mut store, 4, append(4, 10)).unwrap_err();
        assert!(error.is_full(), "{error}");
        assert!(error.to_string().contains("free some space"), "{error}");
        // The second attempt fails as well; asking finds that there is room again, and the same append goes through.
        assert!(!store.has_room());
        assert!(store.has_room());
        assert_eq!(put(&mut store, 4, append(4, 10)).unwrap(), Ticket(4));
        let found = reopen(&memory.crash_with_names(|_, _| false)).unwrap();
        assert_eq!(found.durable.last_index(), Index(4));
    }
}

#[test]
fn a_full_disk_is_known_before_the_segment_ends_and_terms_still_fit() {
    let memory = Memory::default();
    let options =
        LogOptions { first_segment_bytes: 16 * 512, segment_bytes: 65536, background: true };
    memory.inject(fault(Operation::Reserve, 1, 1, ErrorKind::StorageFull));
    let mut store = fresh(&memory, options);
    (1..=4).for_each(|n| {
        put(&mut store, n, append(n, 10)).unwrap();
    });
    let started = Instant::now();
    while store.has_room() {
        assert!(started.elapsed() < Duration::from_secs(20), "the thread prepares nothing");
        std::thread::sleep(Duration::from_millis(2));
    }
    let vote = Write { hard_state: hard_state(2), change: Change::None };
    put(&mut store, 5, vote).unwrap();
    while !store.has_room() {
        assert!(started.elapsed() < Duration::from_secs(20), "the thread doesn't try again");
        std::thread::sleep(Duration::from_millis(20));
    }
    let later = |n| {
        let mut write = append(n, 10);
        write.hard_state = hard_state(2);
        write
    };
    (5..=40).for_each(|n| {
        put(&mut store, n, later(n)).unwrap();
    });
    let found = reopen(&memory.crash_with_names(|_, _| false)).unwrap();
    assert_eq!(found.durable.last_index(), Index(40));
}

#[test]
fn a_write_larger_than_a_segment_gets_a_larger_one() {
    let memory = Memory::default();
    let mut store = fresh(&memory, SMALL);
    put(&mut store, 1, append(1, 30_000)).unwrap();
    put(&mut store, 2, append(2, 10)).unwrap();
    let found = reopen(&memory.crash_with_names(|_, _| false)).unwrap();
    assert_eq!(found.durable.entries, vec![entry(1, 30_000), entry(2, 10)]);
    // Where there is no room for it, nothing happened.
    memory.inject(fault(Operation::Reserve, 1, 1, ErrorKind::StorageFull));
    assert!(put(&mut store, 3, append(3, 90_000)).unwrap_err().is_full());
    assert_eq!(put(&mut store, 3, append(3, 90_000)).unwrap(), Ticket(3));
    let found = reopen(&memory.crash_with_names(|_, _| false)).unwrap();
    assert_eq!(found.durable.last_index(), Index(3));
}

/// Whether a batch of an older segment stands behind a newer one's.
fn holds_two_segments(memory: &Memory, name: &str) -> bool {
    let bytes = memory.bytes(name).unwrap_or_default();
    let batches = bytes.chunks(512).filter_map(spec::disk::read_batch);
    let sequences: Vec<u64> = batches.map(|batch| batch.header.sequence).collect();
    sequences.windows(2).any(|pair| pair[0] > pair[1])
}

#[test]
fn compacted_segments_are_written_again_and_the_log_stays_small() {
    for background in [false, true] {
        let memory = Memory::default();
        let options = LogOptions { first_segment_bytes: 8192, segment_bytes: 8192, background };
        let mut store = fresh(&memory, options);
        let mut expected = Durable::default();
        let mut ticket = 0;
        let mut recycled = false;
        for index in 1..=200 {
            for write in
                [Some(append(index, 10)), (index % 4 == 0).then(|| compact(index, index - 2))]
                    .into_iter()
                    .flatten()
            {
                ticket += 1;
                expected.fold(&write);
                put(&mut store, ticket, write).unwrap();
                recycled |= names(&memory).iter().any(|name| holds_two_segments(&memory, name));
            }
        }
        drop(store);
        let crashed = memory.crash_with_names(|_, _| false);
        let found = reopen(&crashed).unwrap();
        assert_eq!(found.durable, expected);
        assert_eq!(found.older_snapshot, Some(meta(196)));
        assert!(names(&crashed).len() <= 6, "{:?}", names(&crashed));
        assert!(recycled, "nothing was recycled");
    }
}

#[test]
fn a_power_cut_at_any_point_of_rollover_and_recycling_loses_nothing() {
    let mut after = 0;
    loop {
        let memory = Memory::default();
        let options =
            LogOptions { first_segment_bytes: 8192, segment_bytes: 8192, background: false };
        let mut store = fresh(&memory, options);
        memory.inject(fault(Operation::Any, after, u64::MAX, ErrorKind::Other));
        let mut acknowledged = Durable::default();
        let mut failed = None;
        let writes = (1..=48).flat_map(|index| {
            [Some(append(index, 10)), (index % 3 == 0).then(|| compact(index, index - 1))]
        });
        for write in writes.flatten() {
            let mut next = acknowledged.clone();
            next.fold(&write);
            if put(&mut store, 1, write).is_err() {
                failed = Some(next);
                break;
            }
            acknowledged = next;
        }
        let crashes = [
            memory.crash(|_, _| false),
            memory.crash(|_, _| true),
            memory.crash_with_names(|_, _| false),
            memory.crash_with_names(|_, _| true),
        ];
        for crashed in crashes {
            let found = reopen(&crashed).unwrap_or_else(|error| panic!("after {after}: {error}"));
            let legal = found.durable == acknowledged || Some(&found.durable) == failed.as_ref();
            assert!(legal, "after {after}: {:?}", found.durable);
        }
        if failed.is_none() {
            break;
        }
        after += 1;
    }
    assert!(after > 120, "only {after} points");
}

#[test]
fn damage_before_the_last_batch_is_refused_with_what_to_do() {
    let memory = Memory::default();
    let mut store = fresh(&memory, SMALL);
    (1..=3).for_each(|n| {
        put(&mut store, n, append(n, 10)).unwrap();
    });
    memory.damage("0000000000000001.log", |bytes| bytes[512 + 45] ^= 4);
    let error = reopen(&memory).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StorageError::Corrupt { .. }));
    assert!(text.contains("0000000000000001.log, offset 512"), "{text}");
    assert!(text.contains("move (memory) away"), "{text}");
    assert!(text.contains("joins as a new one"), "{text}");
}

#[test]
fn damage_to_the_last_batch_is_told_from_a_torn_write_once_the_log_is_sealed() {
    for sealed in [false, true] {
        let memory = Memory::default();
        let mut store = fresh(&memory, SMALL);
        (1..=2).for_each(|n| {
            put(&mut store, n, append(n, 10)).unwrap();
        });
        if sealed {
            store.seal().unwrap();
        }
        memory.damage("0000000000000001.log", |bytes| bytes[1024 + 45] ^= 4);
        match reopen(&memory) {
            Ok(found) => assert!(!sealed && found.torn && found.durable.last_index() == Index(1)),
            Err(error) => assert!(sealed, "{error}"),
        }
    }
}

#[test]
fn a_log_without_its_first_segment_is_lost() {
    let memory = Memory::default();
    drop(fresh(&memory, SMALL));
    memory.remove("0000000000000001.log").unwrap();
    let error = reopen(&memory).unwrap_err();
    assert!(error.to_string().contains("term and vote are lost"), "{error}");
}

#[test]
fn a_read_error_at_the_start_is_no_damage() {
    let memory = Memory::default();
    drop(fresh(&memory, SMALL));
    memory.inject(fault(Operation::Read, 0, 1, ErrorKind::Other));
    assert!(matches!(reopen(&memory).unwrap_err(), StorageError::Io { .. }));
    reopen(&memory).unwrap();
}
