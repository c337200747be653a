//! The thread that makes a pool's records durable.

use std::{
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use agent_sync::Taken;
use spec::{
    machine::Ticket,
    serf::{Command, Keyring, Record},
};
use tokio::sync::mpsc;

use super::{
    task::{Records, ring},
    turn::Input,
};
use crate::storage::{GossipStore, StorageError, write_keyring};

/// How long a disk that can't be written is left alone.
const RETRY: Duration = Duration::from_secs(30);

/// Where a pool's records go.
pub(super) struct Disk {
    store: Option<GossipStore>,
    keyring: Option<PathBuf>,
    /// When something last couldn't be written that still isn't.
    broken: Option<Instant>,
}

/// A write of the keyring, or of its time, that failed.
#[derive(Debug, PartialEq, Eq)]
struct NotWritten {
    ticket: Ticket,
    reason: String,
}

impl Disk {
    /// Where records are kept, and the keyring's file; none where keys that are installed later are forgotten at a
    /// restart.
    pub(super) const fn new(store: Option<GossipStore>, keyring: Option<PathBuf>) -> Self {
        Self { store, keyring, broken: None }
    }

    /// Starts the thread; it ends when its inbox is closed.
    pub(super) fn spawn(
        mut self,
        inbox: Arc<Records>,
        control: mpsc::UnboundedSender<Input>,
    ) -> std::io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name("gossip-disk".into()).spawn(move || {
            let mut items = Vec::new();
            loop {
                let retry = self.broken.map(|since| since + RETRY);
                let taken = inbox.take(&mut items, retry);
                let last = items.last().map(|(ticket, _)| *ticket);
                if let Some(NotWritten { ticket, reason }) = self.keep(&mut items) {
                    let failed = Command::KeyringNotWritten { ticket, reason: reason.into() };
                    let _ = control.send(Input::Command(failed));
                }
                if let Some(ticket) = last {
                    let _ = control.send(Input::Durable(ticket));
                }
                if taken == Taken::Closed {
                    break;
                }
            }
        })
    }

    /// Makes records durable, or says why it can't; they are written with the next ones then, or when the disk has rested.
    ///
    /// A member without a disk is still a member: it refutes what is said of it, and only a restart finds out what it
    /// forgot (SERF-57). One that said nothing more would be taken for dead. With keys it is another matter: all members
    /// count on what it says of them, so what can't be written is told (SERF-37), and not tried again behind its back.
    fn keep(&mut self, items: &mut Vec<(Ticket, Record)>) -> Option<NotWritten> {
        let (mut records, mut keyring, mut asked) = (Vec::new(), None, None);
        for (ticket, record) in items.drain(..) {
            match record {
                Record::Keyring(newer) => {
                    keyring = Some(newer);
                    asked = Some(ticket);
                }
                record => {
                    if matches!(record, Record::KeyringClock(_)) {
                        asked = Some(ticket);
                    }
                    records.push(record);
                }
            }
        }
        // An operator waits for an answer about keys, who may just have mended the disk.
        let rests = asked.is_none() && self.broken.is_some_and(|since| since.elapsed() < RETRY);
        if rests {
            if let Some(store) = &mut self.store {
                store.fold(&records);
            }
            return None;
        }
        let appended = self.append(&records);
        self.broken = appended.is_err().then(Instant::now);
        if let Err(error) = &appended {
            tracing::error!("gossip: what this member must remember is not kept: {error}");
        }
        // Behind its time: where that isn't kept, the keys must not be.
        let kept = appended.map_err(|error| error.to_string()).and_then(|()| match &keyring {
            Some(keyring) => self.write_keyring(keyring),
            None => Ok(()),
        });
        let not_written = |reason| asked.map(|ticket| NotWritten { ticket, reason });
        kept.err().and_then(not_written)
    }

    fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        match &mut self.store {
            Some(store) if !records.is_empty() || self.broken.is_some() => store.append(records),
            _ => Ok(()),
        }
    }

    fn write_keyring(&self, keyring: &Keyring) -> Result<(), String> {
        let Some(file) = &self.keyring else { return Ok(()) };
        let written = ring(keyring)
            .map_err(|error| error.to_string())
            .and_then(|ring| write_keyring(file, &ring).map_err(|error| error.to_string()));
        written
            .map_err(|error| format!("Failed to write keyring file: {error}"))
            .inspect_err(|error| tracing::error!("serf: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io};

    use spec::{
        serf::{Durable, Key, LamportTime},
        swim,
    };

    use super::*;
    use crate::storage::{
        memory::{Fault, Memory, Operation},
        read_keyring,
    };

    fn keyring(byte: u8) -> Record {
        Record::Keyring(Keyring::of(&[Key::new(&[byte; 16]).unwrap()]))
    }

    fn incarnation(n: u32) -> Record {
        Record::Swim(swim::Durable { incarnation: swim::Incarnation(n) })
    }

    fn keep<const N: usize>(disk: &mut Disk, records: [Record; N]) -> Option<NotWritten> {
        disk.keep(&mut (1..).map(Ticket).zip(records).collect())
    }

    fn kept(directory: &Memory) -> Durable {
        GossipStore::open(Arc::new(directory.clone()), "local").unwrap().1
    }

    fn rested(disk: &mut Disk) {
        disk.broken = Instant::now().checked_sub(RETRY);
        assert!(disk.broken.is_some());
    }

    #[test]
    fn a_keyring_that_cant_be_written_is_told_and_holds_up_no_other_record() {
        let memory = Memory::default();
        let (store, _) = GossipStore::open(Arc::new(memory.clone()), "local").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("later").join("local.keyring");
        let mut disk = Disk::new(Some(store), Some(file.clone()));
        let time = |time| Record::KeyringClock(LamportTime(time));
        let failed =
            keep(&mut disk, [incarnation(7), time(3), keyring(1), incarnation(8)]).unwrap();
        assert_eq!(failed.ticket, Ticket(3));
        assert!(failed.reason.contains("No such file or directory"), "{}", failed.reason);
        let durable = kept(&memory);
        assert_eq!(durable.swim.incarnation.0, 8, "it has nothing to do with the keyring");
        assert_eq!(durable.keyring_ltime, LamportTime(3));
        // It isn't written behind the member's back, who goes on with the one before.
        fs::create_dir(file.parent().unwrap()).unwrap();
        assert_eq!(keep(&mut disk, [incarnation(9)]), None);
        assert!(!file.exists());
        assert_eq!(keep(&mut disk, [time(4), keyring(2)]), None);
        let written = read_keyring(&file).unwrap().unwrap();
        assert_eq!(written.primary().unwrap().as_bytes(), [2; 16]);
    }

    #[test]
    fn a_time_of_the_keyring_that_cant_be_written_is_told_and_its_keys_are_not_written() {
        let memory = Memory::default();
        let (store, _) = GossipStore::open(Arc::new(memory.clone()), "local").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("local.keyring");
        let mut disk = Disk::new(Some(store), Some(file.clone()));
        let fail_once = || {
            let kind = io::ErrorKind::Other;
            memory.inject(Fault { operation: Operation::Any, after: 0, times: 1, kind });
        };
        fail_once();
        assert_eq!(keep(&mut disk, [incarnation(2)]), None, "no operator waits for it");
        fail_once();
        let time = |time| Record::KeyringClock(LamportTime(time));
        assert_eq!(keep(&mut disk, [time(3), keyring(1)]).unwrap().ticket, Ticket(2));
        assert!(!file.exists());
        // The disk rests, but who asks for keys is not kept waiting for that.
        assert_eq!(keep(&mut disk, [time(4), keyring(1)]), None);
        assert!(file.exists() && disk.broken.is_none());
        assert_eq!(kept(&memory).keyring_ltime, LamportTime(4));
    }

    #[test]
    fn what_a_failed_disk_missed_is_written_when_it_has_rested_though_nothing_is_new() {
        let memory = Memory::default();
        let (store, _) = GossipStore::open(Arc::new(memory.clone()), "local").unwrap();
        let mut disk = Disk::new(Some(store), None);
        let kind = io::ErrorKind::Other;
        memory.inject(Fault { operation: Operation::Any, after: 0, times: 1, kind });
        keep(&mut disk, [incarnation(3)]);
        keep(&mut disk, [incarnation(4)]);
        assert_eq!(kept(&memory.clone()).swim.incarnation.0, 0);
        rested(&mut disk);
        keep(&mut disk, []);
        assert_eq!(kept(&memory).swim.incarnation.0, 4);
    }
}
