//! The thread that makes a pool's records durable.

use std::{
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use agent_sync::Taken;
use gossip_wire::keyring::Keyring;
use spec::serf::Record;
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
    /// The keyring that the file lacks.
    unwritten: Option<Keyring>,
    /// When something last couldn't be written that still isn't.
    broken: Option<Instant>,
}

impl Disk {
    /// Where records are kept, and the keyring's file; none where keys that are installed later are forgotten at a
    /// restart.
    pub(super) const fn new(store: Option<GossipStore>, keyring: Option<PathBuf>) -> Self {
        Self { store, keyring, unwritten: None, broken: None }
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
                let ticket = items.last().map(|(ticket, _)| *ticket);
                self.keep(items.drain(..).map(|(_, record)| record));
                if let Some(ticket) = ticket {
                    let _ = control.send(Input::Durable(ticket));
                }
                if taken == Taken::Closed {
                    break;
                }
            }
        })
    }

    /// Makes records durable, or says why it can't; they are written with the next ones then, or when the disk has rested.
    fn keep(&mut self, records: impl Iterator<Item = Record>) {
        let mut kept = Vec::new();
        for record in records {
            match record {
                Record::Keyring(keyring) => {
                    self.unwritten = ring(&keyring).ok().or(self.unwritten.take());
                }
                record => kept.push(record),
            }
        }
        if self.broken.is_some_and(|since| since.elapsed() < RETRY) {
            if let Some(store) = &mut self.store {
                store.fold(&kept);
            }
            return;
        }
        // A member without a disk is still a member: it refutes what is said of it, and only a restart finds out what it
        // forgot. One that said nothing more would be taken for dead.
        let results = [self.write_keyring(), self.append(&kept)];
        self.broken = results.iter().any(Result::is_err).then(Instant::now);
        for error in results.into_iter().filter_map(Result::err) {
            tracing::error!("gossip: what this member must remember is not kept: {error}");
        }
    }

    fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        match &mut self.store {
            Some(store) if !records.is_empty() || self.broken.is_some() => store.append(records),
            _ => Ok(()),
        }
    }

    fn write_keyring(&mut self) -> Result<(), StorageError> {
        if let (Some(file), Some(keyring)) = (&self.keyring, &self.unwritten) {
            write_keyring(file, keyring)?;
        }
        self.unwritten = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io};

    use spec::{
        serf::{Durable, Key},
        swim,
    };

    use super::*;
    use crate::storage::{
        memory::{Fault, Memory, Operation},
        read_keyring,
    };

    fn keyring(byte: u8) -> Record {
        Record::Keyring(spec::serf::Keyring::of(&[Key::new(&[byte; 16]).unwrap()]))
    }

    fn incarnation(n: u32) -> Record {
        Record::Swim(swim::Durable { incarnation: swim::Incarnation(n) })
    }

    fn kept(directory: &Memory) -> Durable {
        GossipStore::open(Arc::new(directory.clone()), "local").unwrap().1
    }

    fn rested(disk: &mut Disk) {
        disk.broken = Instant::now().checked_sub(RETRY);
        assert!(disk.broken.is_some());
    }

    #[test]
    fn a_keyring_that_cant_be_written_holds_up_no_other_record_and_is_tried_again() {
        let memory = Memory::default();
        let (store, _) = GossipStore::open(Arc::new(memory.clone()), "local").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("later").join("local.keyring");
        let mut disk = Disk::new(Some(store), Some(file.clone()));
        disk.keep([keyring(1), incarnation(7)].into_iter());
        assert_eq!(kept(&memory).swim.incarnation.0, 7, "it has nothing to do with the keyring");
        assert!(disk.broken.is_some());
        // While the disk rests, keys change once more.
        disk.keep([keyring(2)].into_iter());
        fs::create_dir(file.parent().unwrap()).unwrap();
        disk.keep([].into_iter());
        assert!(!file.exists(), "it rests");
        rested(&mut disk);
        disk.keep([].into_iter());
        let written = read_keyring(&file).unwrap().unwrap();
        assert_eq!(written.primary().unwrap().as_bytes(), [2; 16], "the newest");
        assert!(disk.broken.is_none());
    }

    #[test]
    fn what_a_failed_disk_missed_is_written_when_it_has_rested_though_nothing_is_new() {
        let memory = Memory::default();
        let (store, _) = GossipStore::open(Arc::new(memory.clone()), "local").unwrap();
        let mut disk = Disk::new(Some(store), None);
        let kind = io::ErrorKind::Other;
        memory.inject(Fault { operation: Operation::Any, after: 0, times: 1, kind });
        disk.keep([incarnation(3)].into_iter());
        disk.keep([incarnation(4)].into_iter());
        assert_eq!(kept(&memory.clone()).swim.incarnation.0, 0);
        rested(&mut disk);
        disk.keep([].into_iter());
        assert_eq!(kept(&memory).swim.incarnation.0, 4);
    }
}
