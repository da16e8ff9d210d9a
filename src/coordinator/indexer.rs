//! Keeps the Redis index in step with the owner's acknowledged state, never in the owner's way.
//!
//! ```text
//!            Follow{generation, from} ─────────▶
//!  indexer   Next{max} ────────────────────────▶  owner loop   (answers when a task is dirty)
//!            ◀──────────────────── IndexBatch
//!            Written{generation, upto_seq} ────▶
//!     │
//!     └── IndexWriter ──▶ Redis: one script per touched tenant, then the restart point
//! ```
//!
//! The owner keeps its dirty tasks ([`crate::flow::dirty`]) in the order they were touched. Redis being down
//! costs the owner that set and nothing else. A batch takes the first of them; its `upto_seq` is
//! `Dirty::clean_up_to` after that. What is handed out is the indexer's: it sends the same batch until it
//! is stored.
//!
//! ## Pace
//!
//! A task is born and ends within milliseconds, and each write costs Redis the same. So after a write the
//! indexer lets changes gather, the longer the more there are ([`Pace`]), and then takes those that were touched before
//! its last look, in slices that keep the owner for a moment only: each is at least one pace old by then, and most are
//! over and are written once. After a quiet time the first change is written at once.
//!
//! ## Loss
//!
//! Redis may lose everything or go back in time at any moment. It is noticed by whichever comes first:
//!
//! | when | what shows it |
//! |---|---|
//! | at the start | no restart point (also after a crash within a wipe) |
//! | in a batch, before or in between the tenants' scripts | a tenant's meta is gone, or not from this writer's last flush there |
//! | in a batch, after them | the restart point is gone or not where this writer left it |
//! | while idle | the same, looked at every second |
//!
//! Then the indexer makes a new generation, tells the owner ([`IndexAsk::Follow`] without `from`: every task
//! is dirty, with its result, at sequence 0), wipes what is left, and goes on. A batch gathered for a former generation is
//! thrown away: its tasks are dirty again. As long as tasks at sequence 0 are left, `upto_seq` is 0, so
//! that a crash within a rebuild starts it again. A Redis that went back in time while no indexer
//! looked is consistent with its own restart point, and is followed from there.
//!
//! A newer owner's flush in Redis ends this indexer ([`IndexerEnd::Fenced`]).

mod ask;
mod options;
mod results;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use self::{
    ask::{FollowReply, IndexAsk},
    options::{IndexerOptions, Pace},
    results::Aside,
};
use super::queries::hot::Hot;
use crate::{
    bus::{
        archive::{Archive, ArchiveError, Archived},
        consume::jitter,
    },
    store::{
        Connection, StoreError,
        index::{Generation, IndexBatch, IndexWrite, IndexWriter, Mark, Written},
    },
    task::TenantName,
    telemetry::names,
    wire::subjects::Shard,
};

/// Tasks per write at most; with more than that waiting nothing is left to gather.
const MAX_GATHERED: usize = 8_192;

/// Bytes of results per write, roughly.
const MAX_GATHERED_BYTES: usize = 16 * 1024 * 1024;

/// How the index is, for queries that have to say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexState {
    /// Not looked at yet.
    Starting,
    /// Tasks are missing still.
    Rebuilding,
    /// All is in it, up to the sequence.
    Following,
    /// Redis takes no writes; what it holds grows old.
    Degraded {
        /// See [`StoreError::reason`].
        reason: &'static str,
    },
}

/// State and position, for status pages and queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHealth {
    /// How it is.
    pub state: IndexState,
    /// Everything up to this journal sequence is in it.
    pub upto_seq: u64,
}

impl Default for IndexHealth {
    fn default() -> Self {
        Self { state: IndexState::Starting, upto_seq: 0 }
    }
}

/// Why an indexer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexerEnd {
    /// It was told to stop.
    Stopped,
    /// The owner loop is gone.
    OwnerGone,
    /// A newer owner writes the index.
    Fenced,
}

/// One owner's indexer.
pub struct Indexer {
    connection: Connection,
    shard: Shard,
    epoch: u64,
    owner: mpsc::Sender<IndexAsk>,
    archive: Option<Archive>,
    aside: Option<Aside>,
    hot: Hot,
    health: watch::Sender<IndexHealth>,
    options: IndexerOptions,
    failures: u32,
}

/// What a state of the loop leads to.
enum Next {
    Open,
    Rebuild,
    Follow(Box<IndexWriter>),
}

type Step = Result<Next, IndexerEnd>;

impl Indexer {
    /// For the owner of `shard` in `epoch`; `owner` leads to its loop.
    pub fn new(
        connection: Connection,
        shard: Shard,
        epoch: u64,
        owner: mpsc::Sender<IndexAsk>,
        health: watch::Sender<IndexHealth>,
        options: IndexerOptions,
    ) -> Self {
        Self {
            connection,
            shard,
            epoch,
            owner,
            archive: None,
            aside: None,
            hot: Hot::default(),
            health,
            options,
            failures: 0,
        }
    }

    /// Fills a new index from here first.
    pub fn with_archive(self, archive: Archive) -> Self {
        Self { archive: Some(archive), ..self }
    }

    /// Keeps large results there.
    pub fn with_aside(self, aside: Aside) -> Self {
        Self { aside: Some(aside), ..self }
    }

    /// Tells these kept answers what was written.
    pub fn with_hot(self, hot: Hot) -> Self {
        Self { hot, ..self }
    }

    /// Runs until `stop`, or until the owner loop is gone or fenced off.
    pub async fn run(mut self, stop: CancellationToken) -> IndexerEnd {
        let end = tokio::select! {
            () = stop.cancelled() => IndexerEnd::Stopped,
            end = self.go() => end,
        };
        tracing::info!(shard = self.shard.0, epoch = self.epoch, ?end, "the indexer ended");
        end
    }

    async fn go(&mut self) -> IndexerEnd {
        let mut next = Next::Open;
        loop {
            let step = match next {
                Next::Open => self.open().await,
                Next::Rebuild => self.rebuild().await,
                Next::Follow(writer) => self.follow(writer).await,
            };
            next = match step {
                Ok(next) => next,
                Err(end) => return end,
            };
        }
    }

    /// Goes on from the restart point, if there is one that the owner can follow from.
    async fn open(&mut self) -> Step {
        let found = loop {
            match IndexWriter::restart_point(&self.connection, self.shard).await {
                Ok(found) => break found,
                Err(error) => self.pause(&error).await,
            }
        };
        let Some(point) = found else { return Ok(Next::Rebuild) };
        if point.seq == 0 {
            // A rebuild that never got to its end.
            return Ok(Next::Rebuild);
        }
        if self.ask_to_follow(point.generation, Some(point.seq)).await? == FollowReply::TooOld {
            return Ok(Next::Rebuild);
        }
        loop {
            let connection = self.connection.clone();
            match IndexWriter::resume(connection, self.shard, self.epoch, point).await {
                Ok(Some(writer)) => {
                    self.say(IndexState::Following, point.seq);
                    return Ok(Next::Follow(Box::new(writer)));
                }
                Ok(None) => return Err(IndexerEnd::Fenced),
                Err(error) => self.pause(&error).await,
            }
        }
    }

    /// Begins a new generation from nothing.
    async fn rebuild(&mut self) -> Step {
        let generation = Generation::fresh();
        self.say(IndexState::Rebuilding, 0);
        metrics::counter!(names::INDEX_REBUILDS).increment(1);
        tracing::info!(shard = self.shard.0, %generation, "the index is rebuilt from the owner's state");
        self.ask_to_follow(generation, None).await?;
        loop {
            let connection = self.connection.clone();
            match IndexWriter::begin(connection, self.shard, self.epoch, generation).await {
                Ok(writer) => {
                    let mut writer = Box::new(writer);
                    return match self.fill(&mut writer, generation).await? {
                        true => Ok(Next::Follow(writer)),
                        false => Ok(Next::Rebuild),
                    };
                }
                Err(error) => self.pause(&error).await,
            }
        }
    }

    /// Fills a new index with the ended tasks of the archive, oldest first. The owner does not know all of them any more; what it
    /// does know it writes again, which changes nothing. False: lost.
    async fn fill(&mut self, writer: &mut IndexWriter, generation: Generation) -> Result<bool, IndexerEnd> {
        let Some(archive) = self.archive.clone() else { return Ok(true) };
        let (mut next, mut tasks) = (1, 0u64);
        loop {
            let chunk = match archive.next(next).await {
                Ok(Some((seq, chunk))) => {
                    next = seq + 1;
                    chunk
                }
                Ok(None) => break,
                Err(ArchiveError::Kept(error)) => {
                    tracing::warn!(%error, "the archive can't be read; trying again");
                    tokio::time::sleep(self.options.idle_check).await;
                    continue;
                }
                Err(ArchiveError::Broken { seq, what }) => {
                    metrics::counter!(names::ARCHIVE_BROKEN).increment(1);
                    tracing::error!(seq, %what, "a message of the archive is broken; its tasks are missing in the index");
                    next = seq + 1;
                    continue;
                }
            };
            tasks += chunk.tasks.len() as u64;
            let mut tenants: Vec<TenantName> =
                chunk.tasks.iter().map(|task| task.view.tenant.clone()).collect();
            tenants.sort();
            tenants.dedup();
            let (reply, answer) = oneshot::channel();
            self.tell(IndexAsk::Retention { tenants, reply }).await?;
            let retain = answer.await.map_err(|_| IndexerEnd::OwnerGone)?;
            let write = |task: Archived| IndexWrite {
                view: task.view,
                result: task.result,
                aside: false,
                before: None,
            };
            let writes = chunk.tasks.into_iter().map(write);
            let mut batch = IndexBatch {
                shard: self.shard,
                generation,
                upto_seq: 0,
                writes: writes.collect(),
                gone: Vec::new(),
                retain,
                now_wall: self.options.clock.wall(),
                left: 0,
                shows: None,
                mark: Mark::default(),
            };
            self.put_aside(&mut batch).await;
            if !self.store(writer, &batch).await? {
                return Ok(false);
            }
        }
        tracing::info!(shard = self.shard.0, tasks, "the index was filled from the archive");
        Ok(true)
    }

    /// Writes batches until the index is lost.
    async fn follow(&mut self, mut writer: Box<IndexWriter>) -> Step {
        let mut until = None;
        loop {
            let Some(mut batch) = self.next_batch(&mut writer, until).await? else {
                return Ok(Next::Rebuild);
            };
            while batch.left > 0 && batch.len() < MAX_GATHERED && batch.result_bytes() < MAX_GATHERED_BYTES {
                let later = self.ask_for_batch(until).await?.await.map_err(|_| IndexerEnd::OwnerGone)?;
                batch.absorb(later);
            }
            if batch.generation != writer.generation() {
                continue;
            }
            let begun = tokio::time::Instant::now();
            self.put_aside(&mut batch).await;
            if !self.store(&mut writer, &batch).await? {
                return Ok(Next::Rebuild);
            }
            let state = if batch.upto_seq == 0 { IndexState::Rebuilding } else { IndexState::Following };
            self.say(state, batch.upto_seq);
            let written = IndexAsk::Written { generation: batch.generation, upto_seq: batch.upto_seq };
            self.tell(written).await?;
            if batch.left == 0 {
                until = Some(batch.mark);
                let pause = self.options.pace.after(batch.len(), begun.elapsed());
                tokio::time::sleep_until(begun + pause).await;
            }
        }
    }

    async fn put_aside(&self, batch: &mut IndexBatch) {
        if let Some(aside) = &self.aside {
            aside.put(batch).await;
        }
    }

    async fn ask_for_batch(
        &mut self,
        until: Option<Mark>,
    ) -> Result<oneshot::Receiver<IndexBatch>, IndexerEnd> {
        let (reply, batch) = oneshot::channel();
        let (max, max_bytes) = (self.options.max_tasks, self.options.max_bytes);
        self.tell(IndexAsk::Next { max, max_bytes, until, reply }).await?;
        Ok(batch)
    }

    /// Waits for work; meanwhile looks after Redis. `None`: the index is lost.
    async fn next_batch(
        &mut self,
        writer: &mut IndexWriter,
        until: Option<Mark>,
    ) -> Result<Option<IndexBatch>, IndexerEnd> {
        let mut batch = self.ask_for_batch(until).await?;
        loop {
            tokio::select! {
                biased;
                batch = &mut batch => return batch.map(Some).map_err(|_| IndexerEnd::OwnerGone),
                () = tokio::time::sleep(self.options.idle_check) => {
                    if !self.look_after(writer).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Checks that Redis is as it was left, and drops what is due of idle tenants. False: lost.
    async fn look_after(&mut self, writer: &mut IndexWriter) -> Result<bool, IndexerEnd> {
        let now = self.options.clock.wall();
        let outcome = match writer.check(now).await {
            Ok(Written::Done(_)) => writer.sweep(now, 16).await,
            other => other,
        };
        match outcome {
            Ok(Written::Done(_)) => {
                self.recovered();
                Ok(true)
            }
            Ok(Written::Lost) => Ok(false),
            Ok(Written::Fenced) => Err(IndexerEnd::Fenced),
            Err(error) => {
                self.degraded(&error);
                Ok(true)
            }
        }
    }

    /// Stores a batch, however long it takes. False: lost.
    async fn store(&mut self, writer: &mut IndexWriter, batch: &IndexBatch) -> Result<bool, IndexerEnd> {
        loop {
            let error = match writer.write(batch).await {
                Ok(Written::Done(flushed)) => {
                    metrics::counter!(names::INDEX_WRITES).increment(flushed.applied);
                    metrics::counter!(names::INDEX_DROPPED).increment(flushed.dropped);
                    let written = batch.writes.iter().map(|write| &write.view.tenant);
                    self.hot.committed(written.chain(batch.gone.iter().map(|key| &key.tenant)));
                    self.recovered();
                    return Ok(true);
                }
                Ok(Written::Lost) => return Ok(false),
                Ok(Written::Fenced) => return Err(IndexerEnd::Fenced),
                Err(error) => error,
            };
            if matches!(error, StoreError::Full(_)) {
                // Dropping what is due may be what makes room.
                match writer.sweep(self.options.clock.wall(), 64).await {
                    Ok(Written::Lost) => return Ok(false),
                    Ok(Written::Fenced) => return Err(IndexerEnd::Fenced),
                    Ok(Written::Done(_)) | Err(_) => {}
                }
            }
            self.pause(&error).await;
        }
    }

    async fn ask_to_follow(
        &mut self,
        generation: Generation,
        from: Option<u64>,
    ) -> Result<FollowReply, IndexerEnd> {
        let (reply, answer) = oneshot::channel();
        self.tell(IndexAsk::Follow { generation, from, reply }).await?;
        answer.await.map_err(|_| IndexerEnd::OwnerGone)
    }

    async fn tell(&mut self, ask: IndexAsk) -> Result<(), IndexerEnd> {
        self.owner.send(ask).await.map_err(|_| IndexerEnd::OwnerGone)
    }

    async fn pause(&mut self, error: &StoreError) {
        self.degraded(error);
        let ms = self.options.backoff.delay(self.failures, jitter());
        tokio::time::sleep(Duration::from_millis(20 + ms)).await;
    }

    fn degraded(&mut self, error: &StoreError) {
        self.failures = self.failures.saturating_add(1);
        metrics::counter!(names::INDEX_FAILURES, names::REASON => error.reason()).increment(1);
        metrics::gauge!(names::INDEX_DEGRADED).set(1.0);
        if self.failures == 1 {
            tracing::warn!(shard = self.shard.0, %error, "the index can't be written; work goes on without it");
        }
        let upto_seq = self.health.borrow().upto_seq;
        self.say(IndexState::Degraded { reason: error.reason() }, upto_seq);
    }

    fn recovered(&mut self) {
        if self.failures == 0 {
            return;
        }
        tracing::info!(shard = self.shard.0, failures = self.failures, "the index is written again");
        self.failures = 0;
        metrics::gauge!(names::INDEX_DEGRADED).set(0.0);
        let upto_seq = self.health.borrow().upto_seq;
        let state = if upto_seq == 0 { IndexState::Rebuilding } else { IndexState::Following };
        self.say(state, upto_seq);
    }

    fn say(&self, state: IndexState, upto_seq: u64) {
        let now = IndexHealth { state, upto_seq };
        self.health.send_if_modified(|health| std::mem::replace(health, now) != now);
        metrics::gauge!(names::INDEX_UPTO).set(upto_seq as f64);
    }
}
