//! The keeper: writes snapshots, purges the journal, reads what has to be carried. A task of its own, in the owner's term.
//!
//! ```text
//!            Begin, Part…, Done ─▶          ─▶ SNAPSHOTS: chunks, read back, then (the archive covers it) the manifest
//!  Shrink    Purge ───────────────▶ keeper ─▶ JOURNAL: purged up to the snapshot, never a message still needed
//!            Carry ───────────────▶         ─▶ inputs: `Input::Carry`
//!            ◀── Verified, Purged, Failed, Room
//! ```
//!
//! A keeper whose term is over without it knowing harms nobody: what it verified is verified, and what the acknowledged
//! state of its engine did not need, no later state needs.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::places::{PlaceError, Places};
use crate::{
    bus::{
        Clock,
        journal::Room,
        snapshots::{About, SnapshotStore, SnapshotWriter, WriteError},
    },
    coordinator::{
        intake::{Counted, Handle, Inbound},
        owner::Probe,
    },
    flow::{input::Input, snapshot::SnapshotHead},
    telemetry::names,
    wire::codec,
};

/// Orders on their way; with parts of [`super::PART_BYTES`], what a snapshot may hold in memory.
pub const ORDERS: usize = 8;
/// How often the journal's size is asked for.
const LOOK: Duration = Duration::from_secs(1);
/// Purges that free less are not worth a call, unless they free a tenth of the journal.
const WORTH: u64 = 256 * 1024;

/// What the owner's loop wants done.
pub enum Order {
    /// A snapshot of this begins.
    Begin(Box<SnapshotHead>),
    /// The next part of it.
    Part(Bytes),
    /// That was the last part.
    Done,
    /// It is given up.
    Abort,
    /// Drop what lies up to this sequence, but nothing from this revision on: it is still needed.
    Purge {
        /// The verified snapshot's.
        upto: u64,
        /// See [`crate::flow::engine::Engine::needed_from`].
        needed: Option<u64>,
    },
    /// Read these revisions, for [`Input::Carry`].
    Carry(Vec<u64>),
}

/// What came of it.
pub enum Told {
    /// The snapshot is published.
    Verified {
        /// At which revision.
        rev: u64,
        /// At which sequence.
        seq: u64,
        /// How large.
        bytes: u64,
    },
    /// The snapshot could not be written.
    Failed,
    /// The purge is over. What it left is this.
    Purged(Room),
    /// The journal, looked at.
    Room(Room),
    /// A revision that is needed is not there.
    Lost(PlaceError),
}

/// What a keeper works with.
pub struct Keeper {
    /// Where snapshots go.
    pub store: SnapshotStore,
    /// The journal by revision.
    pub places: Arc<Places>,
    /// How far the archive reaches.
    pub covered: watch::Receiver<u64>,
    /// Where payloads to be carried go.
    pub inputs: mpsc::Sender<Inbound>,
    /// Inputs of these that are not decided yet.
    pub carrying: Arc<AtomicUsize>,
    /// Told what is done.
    pub told: mpsc::Sender<Told>,
    /// For the time of day.
    pub clock: Clock,
    /// See [`Probe`].
    pub probe: Probe,
}

/// A snapshot being written.
struct Open {
    writer: SnapshotWriter,
    rev: u64,
    seq: u64,
    since: Instant,
}

impl Keeper {
    /// Works until the owner is gone.
    pub async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let mut open: Option<Open> = None;
        while let Some(order) = orders.recv().await {
            let alive = match order {
                Order::Begin(head) => match self.begin(*head).await {
                    Ok(begun) => {
                        open = Some(begun);
                        true
                    }
                    Err(error) => self.failed(&error, None).await,
                },
                Order::Part(part) => match open.as_mut() {
                    None => true,
                    Some(writing) => match writing.writer.part(&part).await {
                        Ok(()) => {
                            (self.probe)("snapshot_part");
                            true
                        }
                        Err(error) => self.failed(&error, open.take()).await,
                    },
                },
                Order::Done => match open.take() {
                    None => true,
                    Some(written) => self.finish(written).await,
                },
                Order::Abort => {
                    if let Some(open) = open.take() {
                        open.writer.abandon().await;
                    }
                    true
                }
                Order::Purge { upto, needed } => self.purge(upto, needed).await,
                Order::Carry(revs) => self.carry(revs).await,
            };
            if !alive {
                return;
            }
        }
    }

    async fn tell(&self, told: Told) -> bool {
        self.told.send(told).await.is_ok()
    }

    async fn failed(&self, error: &WriteError, open: Option<Open>) -> bool {
        tracing::error!(%error, "a snapshot could not be written; the journal does not shrink until one is");
        metrics::counter!(names::SNAPSHOTS_FAILED).increment(1);
        if let Some(open) = open {
            open.writer.abandon().await;
        }
        self.tell(Told::Failed).await
    }

    async fn begin(&self, head: SnapshotHead) -> Result<Open, WriteError> {
        let about = About { shard: head.shard, rev: head.rev, seq: head.seq, head: head.head.0 };
        let (rev, seq) = (head.rev, head.seq);
        let preface = codec::pack(&head).to_vec();
        let writer = self.store.begin(about, self.clock.wall(), preface).await?;
        (self.probe)("snapshot_begun");
        Ok(Open { writer, rev, seq, since: Instant::now() })
    }

    async fn finish(&self, mut open: Open) -> bool {
        if let Err(error) = open.writer.verify().await {
            return self.failed(&error, Some(open)).await;
        }
        (self.probe)("snapshot_written");
        let (rev, seq, since) = (open.rev, open.seq, open.since);
        let mut covered = self.covered.clone();
        if covered.wait_for(|upto| *upto >= seq).await.is_err() {
            return false;
        }
        let manifest = match open.writer.publish().await {
            Ok(manifest) => manifest,
            Err(error) => {
                if let Err(error) = self.store.drop_at(rev).await {
                    tracing::debug!(%error, "an unfinished snapshot is left to the next sweep");
                }
                return self.failed(&error, None).await;
            }
        };
        (self.probe)("snapshot_verified");
        let (bytes, took) = (manifest.bytes, since.elapsed());
        metrics::counter!(names::SNAPSHOTS_TAKEN).increment(1);
        metrics::gauge!(names::SNAPSHOT_BYTES).set(bytes as f64);
        metrics::histogram!(names::SNAPSHOT_TIME).record(took);
        tracing::info!(rev, seq, bytes, took_ms = took.as_millis() as u64, "a snapshot is verified");
        // Old ones that stay cost space and nothing else.
        if let Err(error) = self.store.sweep(rev).await {
            tracing::warn!(%error, "old snapshots could not be dropped");
        }
        self.tell(Told::Verified { rev, seq, bytes }).await
    }

    async fn purge(&self, upto: u64, needed: Option<u64>) -> bool {
        match self.try_purge(upto, needed).await {
            Ok(room) => self.tell(Told::Purged(room)).await,
            Err(PlaceError::Journal(error)) => {
                tracing::warn!(%error, "the journal could not be purged; it is tried again with the next snapshot");
                self.tell(Told::Failed).await
            }
            Err(lost) => self.tell(Told::Lost(lost)).await,
        }
    }

    async fn try_purge(&self, upto: u64, needed: Option<u64>) -> Result<Room, PlaceError> {
        let reader = self.places.reader();
        let bound = match needed {
            None => upto,
            Some(rev) => upto.min(self.places.message(rev).await?.seq - 1),
        };
        let before = reader.room().await?;
        let messages = (before.last_seq + 1).saturating_sub(before.first_seq).max(1);
        let goes = (bound + 1).saturating_sub(before.first_seq);
        let frees = before.bytes / messages * goes;
        if goes == 0 || (frees < WORTH && frees < before.bytes / 10) {
            return Ok(before);
        }
        let purged = reader.purge(bound).await?;
        (self.probe)("purged");
        let after = reader.room().await?;
        let bytes = before.bytes.saturating_sub(after.bytes);
        metrics::counter!(names::JOURNAL_PURGED).increment(bytes);
        tracing::info!(upto = bound, messages = purged, bytes, left = after.bytes, "the journal was purged");
        Ok(after)
    }

    async fn carry(&self, revs: Vec<u64>) -> bool {
        for rev in revs {
            // One count before the first read: what was ordered is under way until it is decided.
            let counted = Counted::new(&self.carrying);
            let payloads = loop {
                match self.places.payloads(rev).await {
                    Ok(payloads) => break payloads,
                    Err(PlaceError::Journal(error)) => {
                        tracing::warn!(rev, %error, "a message to be carried can't be read; trying again");
                        tokio::time::sleep(Duration::from_millis(250)).await;
                    }
                    Err(lost) => return self.tell(Told::Lost(lost)).await,
                }
            };
            metrics::counter!(names::JOURNAL_CARRIED).increment(1);
            let inbound = Inbound::of(Input::Carry { rev, payloads }, Some(Handle::Counted(counted)));
            if self.inputs.send(inbound).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Looks at the journal's size every second.
pub async fn look(places: Arc<Places>, told: mpsc::Sender<Told>) {
    loop {
        match places.reader().room().await {
            Ok(room) => {
                if told.send(Told::Room(room)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "the journal's size can't be asked for"),
        }
        tokio::time::sleep(LOOK).await;
    }
}
