//! Whole data directories on a real disk: identity, lock, start and restart.

use std::path::PathBuf;

use super::*;

const OPTIONS: LogOptions =
    LogOptions { first_segment_bytes: 8192, segment_bytes: 8192, background: true };

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn node(n: u128) -> NodeId {
    NodeId(n << 96 | 0x4000 << 64 | n)
}

fn log_file(data_dir: &Path) -> PathBuf {
    data_dir.join("raft/log/0000000000000001.log")
}

#[test]
fn a_blank_directory_becomes_a_server_that_keeps_its_name() {
    let scratch = scratch();
    let data_dir = scratch.path().join("data");
    let opened = open(&data_dir, None, OPTIONS).unwrap();
    assert!(opened.blank && opened.durable == Durable::default());
    let identity = opened.identity;
    drop(opened);
    let text = fs::read_to_string(data_dir.join("node-id")).unwrap();
    assert_eq!(parse_node_id(&text), Some(identity.node));
    assert_eq!(text.as_bytes()[14], b'4', "a random UUID: {text}");
    let opened = open(&data_dir, Some(identity.node), OPTIONS).unwrap();
    assert!(!opened.blank);
    assert_eq!(opened.identity, identity);
    // Another directory is another server, on another disk.
    let other = open(&scratch.path().join("other"), None, OPTIONS).unwrap().identity;
    assert!(other.node != identity.node && other.disk != identity.disk);
}

#[test]
fn a_wiped_directory_of_the_same_node_is_another_disk() {
    let scratch = scratch();
    let first = open(scratch.path(), Some(node(7)), OPTIONS).unwrap().identity;
    fs::remove_dir_all(scratch.path().join("raft")).unwrap();
    // The node-id file, as Consul writes it, was left.
    let second = open(scratch.path(), None, OPTIONS).unwrap().identity;
    assert_eq!(first.node, second.node);
    assert_ne!(first.disk, second.disk);
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let scratch = scratch();
    let mut expected = Durable::default();
    for round in 0..4 {
        let mut opened = open(scratch.path(), None, OPTIONS).unwrap();
        assert_eq!(opened.durable, expected);
        for n in 1..=20 {
            let write = append(round * 20 + n, 300);
            expected.fold(&write);
            opened.log.append(&[(Ticket(n), write)]).unwrap();
        }
        opened.log.seal().unwrap();
        assert!(opened.log.has_room());
    }
}

#[test]
fn a_directory_in_use_is_refused_with_the_others_pid() {
    let scratch = scratch();
    let opened = open(scratch.path(), None, OPTIONS).unwrap();
    let Err(error) = open(scratch.path(), None, OPTIONS) else { panic!("opened twice") };
    let pid = std::process::id();
    assert!(matches!(error, StorageError::Locked { pid: Some(found), .. } if found == pid));
    assert!(error.to_string().contains(&format!("(pid {pid})")), "{error}");
    drop(opened);
    open(scratch.path(), None, OPTIONS).unwrap();
}

fn refused(data_dir: &Path, node: Option<NodeId>) -> String {
    match open(data_dir, node, OPTIONS) {
        Ok(_) => panic!("opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_directory_of_another_node_is_refused() {
    let scratch = scratch();
    drop(open(scratch.path(), Some(node(1)), OPTIONS).unwrap());
    assert!(refused(scratch.path(), Some(node(2))).contains("but -node-id says"));
    fs::write(scratch.path().join("node-id"), node(2).to_string()).unwrap();
    assert!(refused(scratch.path(), None).contains("but node-id says"));
    fs::write(scratch.path().join("node-id"), "me").unwrap();
    assert!(refused(scratch.path(), None).contains("doesn't hold a UUID"));
}

#[test]
fn identity_and_log_are_both_there_or_the_server_does_not_start() {
    let scratch = scratch();
    drop(open(scratch.path(), None, OPTIONS).unwrap());
    let identity = scratch.path().join("raft/identity");
    let text = fs::read_to_string(&identity).unwrap();
    fs::write(&identity, text.replace("disk ", "disk 1")).unwrap();
    assert!(refused(scratch.path(), None).contains("is damaged"));
    fs::remove_file(&identity).unwrap();
    assert!(refused(scratch.path(), None).contains("is missing"));
    fs::write(&identity, &text).unwrap();
    fs::remove_file(log_file(scratch.path())).unwrap();
    assert!(refused(scratch.path(), None).contains("term and vote are lost"));
    // The log of another disk, copied here.
    let other = self::scratch();
    drop(open(other.path(), None, OPTIONS).unwrap());
    fs::copy(log_file(other.path()), log_file(scratch.path())).unwrap();
    assert!(refused(scratch.path(), None).contains("belongs to another disk"));
}

#[test]
fn what_a_crash_left_of_a_directory_in_the_making_is_made_anew() {
    let scratch = scratch();
    fs::create_dir_all(scratch.path().join("raft.new/log")).unwrap();
    fs::write(scratch.path().join("raft.new/log/0000000000000001.log"), b"half").unwrap();
    assert!(open(scratch.path(), None, OPTIONS).unwrap().blank);
    assert!(!scratch.path().join("raft.new").exists());
}

#[test]
fn damage_names_the_file_and_the_directory_to_move_away() {
    let scratch = scratch();
    let mut opened = open(scratch.path(), None, OPTIONS).unwrap();
    for n in 1..=3 {
        opened.log.append(&[(Ticket(n), append(n, 10))]).unwrap();
    }
    drop(opened);
    let mut bytes = fs::read(log_file(scratch.path())).unwrap();
    bytes[512 + 50] ^= 1;
    fs::write(log_file(scratch.path()), bytes).unwrap();
    let text = refused(scratch.path(), None);
    assert!(text.contains(&log_file(scratch.path()).display().to_string()), "{text}");
    assert!(text.contains(&format!("move {} away", scratch.path().display())), "{text}");
    // And what it says to do, helps.
    fs::remove_dir_all(scratch.path().join("raft")).unwrap();
    assert!(open(scratch.path(), None, OPTIONS).unwrap().blank);
}

/// A directory with entries 1 to 8, snapshots at 3 and 6, and a log that begins behind `base`.
fn with_snapshots(data_dir: &Path, base: u64) {
    with_snapshots_at(data_dir, &[3, 6], base);
}

fn with_snapshots_at(data_dir: &Path, indexes: &[u64], base: u64) {
    let mut opened = open(data_dir, None, OPTIONS).unwrap();
    for n in 1..=8 {
        opened.log.append(&[(Ticket(n), append(n, 10))]).unwrap();
    }
    for &index in indexes {
        let mut writer = opened.snapshots.writer(id(index)).unwrap();
        writer.write_chunk(b"state").unwrap();
        writer.finish().unwrap();
        opened.log.append(&[(Ticket(9), compact(index, base.min(index)))]).unwrap();
        opened.snapshots.named(id(index)).unwrap();
    }
}

fn damage_newest(data_dir: &Path) {
    let name = format!("raft/snapshots/{:016x}-{:016x}.snap", 6, 1);
    let mut bytes = fs::read(data_dir.join(&name)).unwrap();
    bytes[2] ^= 1;
    fs::write(data_dir.join(&name), bytes).unwrap();
}

#[test]
fn a_damaged_snapshot_is_replaced_by_the_older_one_and_the_log() {
    let scratch = scratch();
    with_snapshots(scratch.path(), 2);
    damage_newest(scratch.path());
    let opened = open(scratch.path(), None, OPTIONS).unwrap();
    assert_eq!(opened.durable.snapshot, Some(meta(3)));
    assert_eq!(opened.durable.base, id(2));
    assert_eq!(opened.durable.entries.len(), 6);
    assert_eq!(spec::disk::invariant::broken(&opened.durable), None);
}

#[test]
fn a_damaged_first_snapshot_is_replaced_by_the_log() {
    let scratch = scratch();
    with_snapshots_at(scratch.path(), &[6], 0);
    damage_newest(scratch.path());
    let opened = open(scratch.path(), None, OPTIONS).unwrap();
    assert_eq!(opened.durable.snapshot, None);
    assert_eq!(opened.durable.base.index, Index(0));
    assert_eq!(opened.durable.entries.len(), 8);
    assert_eq!(spec::disk::invariant::broken(&opened.durable), None);
}

#[test]
fn a_damaged_snapshot_that_the_log_needs_is_refused_with_what_to_do() {
    let scratch = scratch();
    with_snapshots(scratch.path(), 5);
    damage_newest(scratch.path());
    let text = refused(scratch.path(), None);
    assert!(text.contains("doesn't reach back"), "{text}");
    assert!(text.contains(&format!("Move {} away", scratch.path().display())), "{text}");
}

#[test]
fn a_server_in_memory_takes_everything_and_keeps_nothing() {
    let mut opened = in_memory(Some(node(3))).unwrap();
    assert_eq!(opened.identity.node, node(3));
    let ticket = opened.log.append(&[(Ticket(5), append(1, 10))]).unwrap();
    assert_eq!(ticket, Ticket(5));
    opened.snapshots.writer(id(1)).unwrap().finish().unwrap();
    opened.snapshots.verify(id(1)).unwrap();
    RecordFile::new(opened.records, "promise").store(b"x").unwrap();
}
