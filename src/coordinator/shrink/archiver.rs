//! Ended tasks on their way into the archive: a buffer beside the engine, and the owner's writer.
//!
//! ```text
//! engine.take_ended() ─▶ EndedFeed ─▶ archiver ─▶ ARCHIVE
//!                                       └─ covered: every task that ended up to here is in it
//! ```
//!
//! A standby fills the same buffer as it follows the journal, and forgets what the archive holds; so that the next owner
//! archives what the last one did not. A snapshot is published only when the archive covers it: what lies before may leave
//! the journal then.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};

use crate::{
    bus::archive::{Archive, Archived, CHUNK_BYTES},
    flow::engine::Ended,
    task::Payload,
    telemetry::names,
};

/// Batches on their way to the archiver.
pub const BATCHES: usize = 4;
/// Bytes of tasks in one batch, roughly.
const BATCH_BYTES: usize = 512 * 1024;
/// What a task weighs besides its result, roughly.
const VIEW_BYTES: usize = 500;
/// The most a task waits for others to share its message with.
const LINGER: Duration = Duration::from_secs(1);
/// Pause after a write that failed, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Bytes waiting above which a standby asks what the archive holds by now.
const LOOK_ABOVE: usize = 8 * 1024 * 1024;
/// Bytes waiting above which the oldest are given up, and counted: the archive takes nothing for long.
const GIVE_UP_ABOVE: usize = 256 * 1024 * 1024;

/// Ended tasks that are not known to be in the archive.
#[derive(Default)]
pub struct EndedFeed {
    waiting: VecDeque<Ended>,
    bytes: usize,
    covered: u64,
}

/// What is handed to the archiver at once.
pub struct Batch {
    /// Every task that ended up to this sequence is in this batch or was in one before.
    upto_seq: u64,
    tasks: Vec<Ended>,
    /// Write it now: a snapshot waits.
    flush: bool,
}

impl EndedFeed {
    /// Keeps what the archive does not hold yet.
    pub fn absorb(&mut self, ended: Vec<Ended>) {
        for task in ended {
            if task.seq > self.covered {
                self.bytes += weight(&task);
                self.waiting.push_back(task);
            }
        }
        let mut given_up = 0;
        while self.bytes > GIVE_UP_ABOVE
            && let Some(task) = self.waiting.pop_front()
        {
            self.bytes -= weight(&task);
            given_up += 1;
        }
        if given_up > 0 {
            metrics::counter!(names::ARCHIVE_LOST).increment(given_up);
        }
    }

    /// The archive holds everything up to here.
    pub fn covered(&mut self, seq: u64) {
        self.covered = self.covered.max(seq);
        while self.waiting.front().is_some_and(|task| task.seq <= seq) {
            self.bytes -= self.waiting.pop_front().as_ref().map_or(0, weight);
        }
    }

    /// Up to where the archive is known to reach.
    pub fn covered_upto(&self) -> u64 {
        self.covered
    }

    /// Whether so much waits that a look at the archive is worth it.
    pub fn is_long(&self) -> bool {
        self.bytes > LOOK_ABOVE
    }

    /// The next batch, if there is something to write or `flush` wants the archive to reach `head`.
    fn batch(&mut self, head: u64, flush: bool) -> Option<Batch> {
        if self.waiting.is_empty() && !flush {
            return None;
        }
        let (mut tasks, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some(task) = self.waiting.pop_front()
        {
            bytes += weight(&task);
            tasks.push(task);
        }
        self.bytes -= bytes;
        let upto_seq = self.waiting.front().map_or(head, |next| next.seq.saturating_sub(1));
        Some(Batch { upto_seq, tasks, flush: flush && self.waiting.is_empty() })
    }

    /// Hands over as much as the archiver takes now. True: everything, and if `flush`, as of now.
    pub fn hand_over(&mut self, head: u64, flush: bool, to: &mpsc::Sender<Batch>) -> bool {
        while !self.waiting.is_empty() || flush {
            let Ok(room) = to.try_reserve() else { return false };
            let Some(batch) = self.batch(head, flush) else { break };
            let last = batch.flush;
            room.send(batch);
            if last {
                break;
            }
        }
        true
    }
}

fn weight(task: &Ended) -> usize {
    VIEW_BYTES + task.result.as_ref().map_or(0, Payload::len)
}

/// Writes batches until the owner is gone. `from`: the archive holds everything up to there.
pub async fn run(
    archive: Archive,
    mut batches: mpsc::Receiver<Batch>,
    from: u64,
    covered: watch::Sender<u64>,
) {
    covered.send_replace(from);
    let mut writer = Writer { archive, from: from + 1, upto: from, open: Vec::new(), bytes: 0 };
    let mut since = Instant::now();
    loop {
        let linger = LINGER.saturating_sub(since.elapsed());
        let batch = tokio::select! {
            biased;
            batch = batches.recv() => batch,
            () = tokio::time::sleep(linger), if !writer.open.is_empty() => {
                writer.write().await;
                covered.send_replace(writer.upto);
                continue;
            }
        };
        let Some(batch) = batch else { return };
        for task in batch.tasks {
            if writer.open.is_empty() {
                since = Instant::now();
            }
            writer.add(task).await;
        }
        writer.upto = batch.upto_seq;
        if batch.flush {
            writer.write().await;
        }
        if writer.open.is_empty() {
            covered.send_replace(writer.upto);
        }
    }
}

struct Writer {
    archive: Archive,
    from: u64,
    upto: u64,
    open: Vec<Archived>,
    bytes: usize,
}

impl Writer {
    async fn add(&mut self, task: Ended) {
        let bytes = weight(&task);
        if self.bytes + bytes > CHUNK_BYTES {
            // The rest of the tasks that ended at this sequence follow in the next message.
            self.upto = task.seq.saturating_sub(1).max(self.upto);
            self.write().await;
        }
        self.bytes += bytes;
        self.open.push(Archived { view: task.view, result: task.result });
    }

    /// Writes what is open, however long it takes.
    async fn write(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let tasks = std::mem::take(&mut self.open);
        let count = tasks.len() as u64;
        let mut pause = PAUSE.0;
        loop {
            match self.archive.append(self.from, self.upto, &tasks).await {
                Ok(bytes) => {
                    metrics::counter!(names::ARCHIVED_TASKS).increment(count);
                    metrics::counter!(names::ARCHIVED_BYTES).increment(bytes);
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "ended tasks can't be archived; the journal does not shrink until they can");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
        self.from = self.upto + 1;
        self.bytes = 0;
    }
}
