//! The snapshot keeper: the thread that writes, receives, reads and removes snapshot files, so that nothing else waits
//! for them.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use agent_sync::{GroupCommit, Taken};
use bytes::Bytes;
use spec::{
    raft::{Message, SnapshotId, SnapshotMeta},
    state::{
        State,
        snapshot::{Loader, Saver},
    },
};

use super::{
    Wire,
    consensus::{Input, Snapshot, SnapshotEvent},
};
use crate::storage::{SnapshotReader, SnapshotStore, StorageError};

/// Owns the snapshot files while the agent runs.
pub struct Keeper {
    store: SnapshotStore,
    wire: Arc<dyn Wire>,
    consensus: Arc<GroupCommit<Input>>,
    reader: Option<SnapshotReader>,
}

impl Keeper {
    /// Keeps snapshots in `store`, sends chunks over `wire` and tells `consensus` what became of all.
    pub fn new(
        store: SnapshotStore,
        wire: Arc<dyn Wire>,
        consensus: Arc<GroupCommit<Input>>,
    ) -> Self {
        Self { store, wire, consensus, reader: None }
    }

    /// Handles all of `items`.
    pub fn turn(&mut self, items: &mut Vec<Snapshot>) {
        for item in items.drain(..) {
            self.handle(item);
        }
        self.wire.flush();
    }

    /// Starts the thread; it ends when `inbox` is closed.
    pub fn spawn(
        store: SnapshotStore,
        wire: Arc<dyn Wire>,
        consensus: Arc<GroupCommit<Input>>,
        inbox: Arc<GroupCommit<Snapshot>>,
    ) -> std::io::Result<JoinHandle<()>> {
        let mut keeper = Self::new(store, wire, consensus);
        thread::Builder::new().name("snapshots".into()).spawn(move || {
            let mut items = Vec::new();
            while inbox.take(&mut items, None) != Taken::Closed {
                keeper.turn(&mut items);
            }
        })
    }

    fn tell(&self, event: SnapshotEvent) {
        let _ = self.consensus.push(Input::Snapshot(event));
    }

    fn handle(&mut self, item: Snapshot) {
        match item {
            Snapshot::Save { id, state } => match self.save(id, *state) {
                Ok(chunks) => {
                    tracing::info!(index = id.index.0, chunks, "raft: snapshot saved");
                    self.tell(SnapshotEvent::Saved { index: id.index, chunks });
                }
                Err(error) => {
                    tracing::error!("raft: no snapshot was saved, the log goes on: {error}");
                    self.tell(SnapshotEvent::NotSaved);
                }
            },
            Snapshot::Store { meta, number, bytes } => {
                if let Err(error) = self.store.store_chunk(&meta, number, &bytes) {
                    tracing::error!("raft: a received snapshot could not be written: {error}");
                    self.tell(SnapshotEvent::Failed(meta.id));
                }
            }
            Snapshot::Finish(meta) => self.tell(self.finish(&meta)),
            Snapshot::Send { to, message } => match self.read(message.meta.id, message.number) {
                Ok(bytes) => {
                    self.wire.queue(to, Message::InstallSnapshot(message), Some(bytes));
                }
                Err(error) => {
                    tracing::error!("raft: a snapshot to send could not be read: {error}");
                    self.reader = None;
                    self.tell(SnapshotEvent::Unreadable(message.meta.id));
                }
            },
            Snapshot::Compacted { snapshot } => {
                if let Err(error) = self.store.named(snapshot) {
                    tracing::warn!("raft: an old snapshot could not be removed: {error}");
                }
            }
        }
    }

    fn save(&self, id: SnapshotId, state: State) -> Result<u64, StorageError> {
        let mut writer = self.store.writer(id)?;
        for chunk in Saver::new(state) {
            writer.write_chunk(&chunk)?;
        }
        writer.finish()
    }

    fn finish(&self, meta: &SnapshotMeta) -> SnapshotEvent {
        // Loaded once before it may take the log's place: a snapshot that can't be read back must not.
        let stored = self
            .store
            .finish(meta)
            .map_err(|error| error.to_string())
            .and_then(|()| load(&self.store, meta));
        match stored {
            Ok(_) => {
                tracing::info!(index = meta.id.index.0, "raft: snapshot received");
                SnapshotEvent::Stored(meta.id)
            }
            Err(error) => {
                tracing::error!("raft: a received snapshot is of no use: {error}");
                SnapshotEvent::Failed(meta.id)
            }
        }
    }

    fn read(&mut self, id: SnapshotId, number: u64) -> Result<Bytes, StorageError> {
        if self.reader.as_ref().is_none_or(|reader| reader.id() != id) {
            self.reader = Some(self.store.reader(id)?);
        }
        match &self.reader {
            Some(reader) => reader.read_chunk(number).map(Bytes::from),
            None => Ok(Bytes::new()),
        }
    }
}

/// Loads the state that a snapshot holds.
pub fn load(store: &SnapshotStore, meta: &SnapshotMeta) -> Result<State, String> {
    let reader = store.reader(meta.id).map_err(|error| error.to_string())?;
    let mut loader = Loader::new();
    for number in 0..reader.chunks() {
        let chunk = reader.read_chunk(number).map_err(|error| error.to_string())?;
        loader.push(&chunk).map_err(|error| format!("the snapshot {:?}: {error}", meta.id))?;
    }
    let state = loader.finish().map_err(|error| format!("the snapshot {:?}: {error}", meta.id))?;
    if state.applied().0 == meta.id.index {
        Ok(state)
    } else {
        Err(format!("the snapshot {:?} holds the state of another index", meta.id))
    }
}
