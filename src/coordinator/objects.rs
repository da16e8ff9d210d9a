//! Drops the large results of steps whose tasks are over: at once when the end is journaled, and by a sweep what a crash,
//! a lost order or an attempt that outlived its lease has left behind.
//!
//! Shows how full the stream is, too, and sweeps more often while it is half full: a task that found it full leaves the
//! chunks it had stored before, and nobody else may have their room until it is swept. Runs for one term, beside the
//! owner's loop. A sweep drops only what cannot belong to a task that lives, whoever owns the shard by now:
//!
//! ```text
//! the subjects, up to sequence s ─▶ the journal's head h, from its leader ─▶ the owner: not live, as of h or later ─▶ purge up to s
//! ```
//!
//! A handler runs only after its task's admission is journaled, so what was stored up to s belongs to tasks that stand in the
//! journal up to h. An owner that was superseded does not know of h, and nothing is dropped on its word.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::calls::{OwnerCall, OwnerHandle};
use crate::{
    bus::{
        Clock,
        journal::{JournalError, JournalReader},
        kept::KeptError,
        objects::{Objects, Page},
    },
    task::{Refusal, TaskKey},
    telemetry::names,
};

/// Tasks that wait for their objects to be dropped, at most; the sweep finds the others.
pub const ORDERS: usize = 4_096;
/// How often it is swept.
const EVERY: Duration = Duration::from_secs(300);
/// How often it is shown how full the stream is, and swept while that is half.
const SHOWN: Duration = Duration::from_secs(15);
/// Pause before the next sweep after one that did not come to its end.
const AGAIN: Duration = Duration::from_secs(2);
/// Tasks the owner is asked about at once: it answers between two journal messages.
const ASKED: usize = 1_000;

/// Why a sweep did not come to its end.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Objects(#[from] KeptError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the owner does not answer: {0}")]
    Owner(#[from] Refusal),
    #[error("the owner is behind the journal, or is none")]
    Behind,
}

/// See the module.
pub struct Dropper {
    /// What is dropped.
    pub objects: Objects,
    /// To see how far it has come.
    pub journal: JournalReader,
    /// Who knows which tasks live.
    pub owner: OwnerHandle,
    /// Real, or accelerated in tests.
    pub clock: Clock,
}

impl Dropper {
    /// Sweeps, and drops what is ordered, until the term ends.
    pub async fn run(self, mut over: mpsc::Receiver<TaskKey>) {
        let mut sweep_at = Instant::now();
        let mut show = interval(self.clock.real_duration(SHOWN));
        show.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                key = over.recv() => match key {
                    Some(key) => self.drop_ended(&key).await,
                    None => return,
                },
                _ = show.tick() => {
                    if self.is_half_full().await {
                        sweep_at = Instant::now();
                    }
                }
                () = sleep_until(sweep_at) => {
                    let pause = match self.sweep().await {
                        Ok(0) => EVERY,
                        Ok(messages) => {
                            tracing::info!(messages, "what was left of the steps of ended tasks was dropped");
                            EVERY
                        }
                        Err(error) => {
                            tracing::debug!(%error, "what is left of the steps of ended tasks is dropped later");
                            AGAIN
                        }
                    };
                    sweep_at = Instant::now() + self.clock.real_duration(pause);
                }
            }
        }
    }

    /// Shows how full the stream is.
    async fn is_half_full(&self) -> bool {
        let Ok((bytes, max)) = self.objects.fill().await else { return false };
        metrics::gauge!(names::STEPS_FILL).set(bytes as f64);
        metrics::gauge!(names::STEPS_MAX).set(max as f64);
        bytes >= max / 2
    }

    async fn drop_ended(&self, key: &TaskKey) {
        if let Err(error) = self.objects.drop_of(key, None).await {
            tracing::warn!(%error, task = %key, "what is kept of its steps is dropped later");
        }
    }

    /// Returns how many messages were dropped.
    async fn sweep(&self) -> Result<u64, SweepError> {
        let (mut skip, mut dropped) = (0, 0);
        loop {
            let page = self.objects.page(skip).await?;
            if page.subjects == 0 {
                return Ok(dropped);
            }
            let head = self.journal.head().await?.map_or(0, |head| head.seq);
            let mut gone = page.strangers.len();
            for subject in &page.strangers {
                dropped += self.objects.drop_subject(subject).await?;
            }
            for key in self.not_live(&page, head).await? {
                dropped += self.objects.drop_of(&key, Some(page.last_seq)).await?;
                gone += page.tasks.get(&key).copied().unwrap_or(0);
            }
            // What is gone makes the others move up.
            skip += page.subjects - gone;
            if page.total <= skip + gone {
                return Ok(dropped);
            }
        }
    }

    /// Those of the page's tasks that are not there or over, by the word of an owner who knows the journal up to `head`.
    async fn not_live(&self, page: &Page, head: u64) -> Result<Vec<TaskKey>, SweepError> {
        let keys: Vec<TaskKey> = page.tasks.keys().cloned().collect();
        let mut found = Vec::new();
        for some in keys.chunks(ASKED) {
            let keys = some.to_vec();
            let asked = self.owner.ask(|reply| OwnerCall::NotLive { keys, reply }).await?;
            match asked {
                Some((over, known)) if known >= head => found.extend(over),
                _ => return Err(SweepError::Behind),
            }
        }
        Ok(found)
    }
}
