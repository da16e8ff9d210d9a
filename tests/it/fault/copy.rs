//! A journal that is purged, kept whole by somebody who followed it from its beginning; and the state of a start.

use std::sync::{Arc, Mutex};

use selvedge::bus::Connection;
use selvedge::bus::journal::{Entry, JournalReader, Room};
use selvedge::bus::snapshots::SnapshotStore;
use selvedge::coordinator::admin::Heartbeat;
use selvedge::coordinator::intake::Handle;
use selvedge::coordinator::shrink::start;
use selvedge::flow::engine::Engine;
use selvedge::wire::subjects::Shard;

use crate::harness::{Stack, until};

const SHARD: Shard = Shard(0);

/// See the module.
pub struct JournalCopy {
    connection: Connection,
    reader: JournalReader,
    entries: Arc<Mutex<Vec<Entry>>>,
    follower: tokio::task::JoinHandle<()>,
}

impl JournalCopy {
    /// Begins to copy; before anything is purged.
    pub async fn follow(stack: &Stack) -> JournalCopy {
        let connection = stack.connect("copy").await;
        let reader = JournalReader::new(connection.jetstream(), SHARD).await.expect("the stream is there");
        let entries = Arc::new(Mutex::new(Vec::new()));
        let (mut tail, copy) = (reader.follow(1), entries.clone());
        let follower = tokio::spawn(async move {
            while let Some(Ok(entry)) = tail.next().await {
                copy.lock().unwrap().push(entry);
            }
        });
        JournalCopy { connection, reader, entries, follower }
    }

    /// Everything up to the head as it is now.
    pub async fn whole(&self) -> Vec<Entry> {
        let head = self.reader.head().await.expect("readable").map_or(0, |head| head.seq);
        until("the copy is whole", async || {
            let entries = self.entries.lock().unwrap();
            (entries.last().map_or(0, |entry| entry.seq) >= head).then(|| entries.clone())
        })
        .await
    }

    pub async fn room(&self) -> Room {
        self.reader.room().await.expect("readable")
    }

    /// Revisions of the snapshots that are there and good, newest first.
    pub async fn snapshots(&self) -> Vec<u64> {
        let found = self.store().await.manifests().await.expect("readable");
        found.into_iter().flatten().map(|manifest| manifest.about.rev).collect()
    }

    pub async fn store(&self) -> SnapshotStore {
        SnapshotStore::new(self.connection.jetstream(), SHARD).await.expect("the stream is there")
    }

    pub fn jetstream(&self) -> &selvedge::bus::JetStream {
        self.connection.jetstream()
    }

    /// What a start begins with: the state of the newest snapshot, and the journal behind it.
    pub async fn start(&self) -> (Engine<Handle>, Vec<Entry>) {
        let store = self.store().await;
        let started = start::engine(&self.reader, &store, SHARD, &Heartbeat::default()).await;
        let (engine, _) = started.expect("a start");
        let mut tail = self.reader.read(engine.seq() + 1).await.expect("readable");
        let mut entries = Vec::new();
        while let Some(entry) = tail.next().await {
            entries.push(entry.expect("readable"));
        }
        (engine, entries)
    }

    /// A start from the newest snapshot gives the same bytes as the whole journal from its beginning, up to the same message. Nothing
    /// may be appended meanwhile. Returns the sequence it started from.
    pub async fn assert_a_start_gives_the_same(&self) -> u64 {
        let whole = self.whole().await;
        let mut all: Engine<()> = Engine::new(SHARD);
        for entry in &whole {
            all.replay(entry.seq, &entry.bytes).expect("the journal follows on itself");
        }
        let (mut engine, found) =
            start::engine(&self.reader, &self.store().await, SHARD, &Heartbeat::default())
                .await
                .expect("a start");
        let mut tail = self.reader.read(engine.seq() + 1).await.expect("readable");
        while let Some(entry) = tail.next().await {
            let entry = entry.expect("readable");
            engine.replay(entry.seq, &entry.bytes).expect("the tail follows on the snapshot");
        }
        engine.state().check_derived().expect("derived data follow from the tasks");
        assert_eq!(engine.seq(), all.seq());
        assert!(engine.state().canonical() == all.state().canonical(), "the same state, byte for byte");
        found.seq
    }
}

impl Drop for JournalCopy {
    fn drop(&mut self) {
        self.follower.abort();
    }
}
