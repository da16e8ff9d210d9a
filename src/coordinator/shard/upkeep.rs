//! What a term keeps up beside the owner's loop: the index, the events, what is kept of steps, the witness, and the
//! journal's size.
//!
//! Everything here follows the loop through channels and asks it through them; nothing of it is waited for before
//! somebody is answered.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{
    Failed,
    term::{READ_AHEAD, Running, until},
};
use crate::{
    bus::{
        archive::Archive,
        consume::{self, PullOptions},
        journal::{JournalReader, witness},
        objects::Objects,
        snapshots::SnapshotStore,
    },
    coordinator::{
        event_writer,
        index_feed::reread_results,
        indexer::{IndexAsk, Indexer, IndexerOptions},
        intake::Handle,
        objects,
        shrink::{
            Channels, Shrink,
            archiver::{self, EndedFeed},
            keeper::{self, Keeper},
            loads,
            places::Places,
            start::Found,
        },
    },
    flow::engine::Engine,
    store::events::EventStore,
    task::TaskKey,
    wire::topology::{self, EVENTS},
};

impl Running<'_> {
    /// Drops what was kept of the steps of tasks that are over.
    pub(super) async fn drop_objects(&self, ended: mpsc::Receiver<TaskKey>) -> Result<(), Failed> {
        let context = self.context;
        let dropper = objects::Dropper {
            objects: Objects::new(&context.streams).await?,
            journal: JournalReader::new(&context.streams, context.shard).await?,
            owner: context.owner_handle.clone(),
            clock: context.clock,
        };
        self.spawn(dropper.run(ended));
        Ok(())
    }

    /// Notes the journal's head, so that one that goes back is noticed.
    pub(super) fn note_head(&self) -> watch::Sender<u64> {
        let (head, head_seen) = watch::channel(0);
        let context = self.context;
        self.tasks.spawn(witness::note(context.journal.clone(), context.shard, head_seen, self.over.clone()));
        head
    }

    /// Keeps the index in step.
    pub(super) fn index(&self, epoch: u64, asks: mpsc::Sender<IndexAsk>, archive: Archive) {
        let context = self.context;
        let indexer = Indexer::new(
            context.store.clone(),
            context.shard,
            epoch,
            asks,
            context.index_health.clone(),
            IndexerOptions { clock: context.clock, ..IndexerOptions::default() },
        )
        .with_archive(archive)
        .with_aside(context.aside.clone())
        .with_hot(context.queries.hot.clone());
        let indexing = self.over.clone();
        self.tasks.spawn(async move {
            indexer.run(indexing).await;
        });
    }

    /// Moves events to where they are watched.
    pub(super) fn write_events(&self) {
        let context = self.context;
        let (events, events_rx) = mpsc::channel(READ_AHEAD);
        let options = PullOptions::new(EVENTS, topology::EVENT_WRITER);
        self.tasks.spawn(consume::pull(context.streams.clone(), options, events, self.over.clone()));
        let store = EventStore::new(context.store.clone());
        self.tasks.spawn(event_writer::run(
            store,
            context.event_policy.clone(),
            events_rx,
            self.over.clone(),
        ));
    }

    /// Reads results again for an index that has lost them, when it is asked to.
    pub(super) fn reread(&self, reader: JournalReader, past: Archive, mut asked: mpsc::Receiver<u64>) {
        let owner_handle = self.context.owner_handle.clone();
        self.spawn(async move {
            while let Some(from) = asked.recv().await {
                reread_results(reader.clone(), past.clone(), from, owner_handle.clone()).await;
            }
        });
    }

    /// Starts what makes the journal shrink: snapshots, the archive, payloads carried on or read back.
    pub(super) async fn shrink(
        &self,
        engine: &Engine<Handle>,
        archive: Archive,
        snapshots: SnapshotStore,
        undone: EndedFeed,
        found: Found,
    ) -> Result<Shrink, Failed> {
        let Self { context, over, tasks, inputs } = self;
        let places = Arc::new(Places::new(
            JournalReader::new(&context.streams, context.shard).await?,
            engine.state().rev,
            engine.seq(),
        ));
        let carrying = Arc::default();
        let (orders, orders_rx) = mpsc::channel(keeper::ORDERS);
        let (told, told_rx) = mpsc::channel(keeper::ORDERS);
        let (loads, asked) = mpsc::channel(loads::WAITING);
        let (lost, lost_rx) = mpsc::channel(1);
        let (batches, batches_rx) = mpsc::channel(archiver::BATCHES);
        let (covered, covered_rx) = watch::channel(0);
        let from = undone.covered_upto();
        tasks.spawn(until(over.clone(), archiver::run(archive, batches_rx, from, covered)));
        tasks.spawn(until(over.clone(), loads::run(places.clone(), asked, inputs.clone(), lost)));
        tasks.spawn(until(over.clone(), keeper::look(places.clone(), told.clone())));
        let keeper = Keeper {
            store: snapshots,
            places,
            covered: covered_rx,
            inputs: inputs.clone(),
            carrying: Arc::clone(&carrying),
            told,
            clock: context.clock,
            probe: context.probe.clone(),
        };
        tasks.spawn(until(over.clone(), keeper.run(orders_rx)));
        let channels = Channels { orders, told: told_rx, archiver: batches, loads, lost: lost_rx, carrying };
        Ok(Shrink::new(context.shrink.clone(), channels, undone, found))
    }
}
