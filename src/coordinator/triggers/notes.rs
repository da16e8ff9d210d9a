//! What a trigger's runner writes down: how it is doing, its dead letters, the batch it is about to make.
//!
//! Written by compare-and-set: a runner of a former owner that still writes makes the next write here fail, and the life
//! begins again from what stands there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    bus::{
        Clock,
        entries::EntriesError,
        triggers::{Progress, TriggersBucket},
    },
    task::{
        Refusal, TriggerName,
        trigger::state::{Counts, Cut, DeadLetter, Doing, TriggerState},
    },
    telemetry::names,
};

/// How soon a change is written, unless it is urgent.
const SOON: Duration = Duration::from_secs(1);
/// Between two writes of dead letters.
const URGENT: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct Notes {
    bucket: TriggersBucket,
    name: TriggerName,
    clock: Clock,
    state: TriggerState,
    revision: Option<u64>,
    /// When it is to be written.
    due: Option<Instant>,
    written: Instant,
    /// There are dead letters that nobody else knows of.
    unsaved_dead: bool,
    /// What of the counts the metrics show.
    shown: Counts,
}

impl Notes {
    /// As they stand.
    pub async fn read(bucket: TriggersBucket, name: TriggerName, clock: Clock) -> Result<Self, EntriesError> {
        let (state, revision) = match bucket.state(&name).await {
            Ok(Some((state, revision))) => (state, Some(revision)),
            Ok(None) => (TriggerState::default(), None),
            Err(error) => return Err(error),
        };
        let (written, shown) = (Instant::now(), state.counts);
        Ok(Self { bucket, name, clock, state, revision, due: None, written, unsaved_dead: false, shown })
    }

    pub fn state(&self) -> &TriggerState {
        &self.state
    }

    /// When they are to be written next.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether something must be written before more is acknowledged.
    pub fn holds_acks(&self) -> bool {
        self.unsaved_dead
    }

    fn changed(&mut self, within: Duration) {
        let at = self.written.max(Instant::now() - within) + within;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// What the trigger does.
    pub fn doing(&mut self, doing: Doing, refusal: Option<Refusal>) {
        let same_code = self.state.refusal.as_ref().map(|r| r.code) == refusal.as_ref().map(|r| r.code);
        if self.state.doing != doing || !same_code {
            (self.state.doing, self.state.refusal) = (doing, refusal);
            self.changed(SOON);
        }
    }

    /// Counts messages.
    pub fn count(&mut self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.state.counts);
        self.changed(SOON);
    }

    /// Messages left the stream unread, at most so many.
    pub fn missed(&mut self, missed: u64) {
        self.count(|counts| counts.missed += missed);
    }

    /// A message no task could be made of.
    pub fn bury(&mut self, seq: u64, subject: String, refusal: Refusal) {
        tracing::warn!(trigger = %self.name, seq, %refusal, "no task could be made of a message");
        self.state.bury(DeadLetter { seq, subject, at: self.clock.wall(), refusal });
        self.unsaved_dead = true;
        self.changed(URGENT);
    }

    /// It reads another stream, from behind `floor`.
    pub fn moved(&mut self, stream: &str, created: &str, floor: u64) {
        let state = &mut self.state;
        (state.stream, state.created, state.floor) = (stream.to_owned(), created.to_owned(), floor);
        (state.cut, state.batched) = (None, 0);
        self.changed(Duration::ZERO);
    }

    /// How far the consumer is, in a stream that reached to `last` before that was asked.
    pub fn at(&mut self, progress: Progress, last: u64, done: &Arc<AtomicU64>) {
        let idle = progress.pending == 0 && progress.unacked == 0;
        let floor = if idle { progress.floor.max(last) } else { progress.floor };
        let floor = floor.max(self.state.floor);
        done.store(floor, Ordering::Relaxed);
        let pending = progress.pending + progress.unacked;
        let trigger = self.name.to_string();
        metrics::gauge!(names::TRIGGER_PENDING, names::TRIGGER => trigger).set(pending as f64);
        if (floor, pending) != (self.state.floor, self.state.pending) {
            (self.state.floor, self.state.pending) = (floor, pending);
            self.changed(SOON);
        }
    }

    /// Decides which messages the next batch is made of: written before anything is made of them.
    pub async fn cut(&mut self, cut: Cut) -> Result<(), EntriesError> {
        if self.state.cut != Some(cut) {
            self.state.cut = Some(cut);
            self.save().await?;
        }
        Ok(())
    }

    /// The batch is made, or never will be.
    pub fn uncut(&mut self, cut: Cut) {
        (self.state.cut, self.state.batched) = (None, self.state.batched.max(cut.last));
        self.changed(SOON);
    }

    /// Writes what has changed.
    pub async fn save_if_changed(&mut self) -> Result<(), EntriesError> {
        match self.due.is_some() || self.unsaved_dead {
            true => self.save().await,
            false => Ok(()),
        }
    }

    /// Writes them.
    pub async fn save(&mut self) -> Result<(), EntriesError> {
        self.state.at = self.clock.wall();
        let revision = self.bucket.note(&self.name, &self.state, self.revision).await?;
        self.revision = Some(revision);
        (self.due, self.written, self.unsaved_dead) = (None, Instant::now(), false);
        self.show();
        Ok(())
    }

    fn show(&mut self) {
        let (now, before) = (self.state.counts, std::mem::replace(&mut self.shown, self.state.counts));
        for (outcome, more) in [
            ("made", now.messages - before.messages),
            ("known", now.known - before.known),
            ("filtered", now.filtered - before.filtered),
            ("dead", now.dead - before.dead),
            ("missed", now.missed - before.missed),
        ] {
            if more > 0 {
                let trigger = self.name.to_string();
                metrics::counter!(names::TRIGGER_MESSAGES, names::TRIGGER => trigger, names::OUTCOME => outcome)
                    .increment(more);
            }
        }
    }
}
