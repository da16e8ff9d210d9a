//! One trigger, from its start to its end: life after life, with pauses between those that fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Context, life, notes::Notes};
use crate::{
    bus::{
        consume::jitter,
        triggers::{TriggersBucket, ensure_consumer, source_stream},
    },
    task::{
        Backoff, Code, Refusal, TriggerName,
        trigger::{Source, Trigger, state::Doing},
    },
    wire::{subjects, topology::TOPICS},
};

/// Between two lives that fail.
const PAUSE: Backoff = Backoff { base_ms: 500, cap_ms: 5_000 };
const LEAST_PAUSE: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Runner {
    pub name: TriggerName,
    pub trigger: Arc<Trigger>,
    pub bucket: TriggersBucket,
    pub context: Context,
    /// Up to where it has no use for its stream any more.
    pub done: Arc<AtomicU64>,
    pub stop: CancellationToken,
}

/// Why a life ended.
pub(super) enum Over {
    /// It was told to.
    Stopped,
    /// Something failed; the trigger begins again.
    Broken(Refusal),
}

impl<E: std::error::Error> From<E> for Over {
    fn from(error: E) -> Self {
        Self::Broken(Refusal::new(Code::Unavailable, error.to_string()))
    }
}

impl Runner {
    /// The stream it reads.
    pub fn stream(&self) -> &str {
        match &self.trigger.settings.source {
            Source::Topic(_) => TOPICS,
            Source::Stream { name, .. } => name,
        }
    }

    fn filter(&self) -> Option<String> {
        match &self.trigger.settings.source {
            Source::Topic(filter) => Some(subjects::topics(&self.trigger.settings.tenant, filter)),
            Source::Stream { subject, .. } => subject.clone(),
        }
    }

    /// Runs until it is stopped.
    pub async fn run(self) {
        let mut failures = 0;
        loop {
            // Not cut short: what is decided is noted and acknowledged before it ends.
            let refusal = match self.live(&mut failures).await {
                Over::Stopped => return,
                Over::Broken(refusal) => refusal,
            };
            self.done.store(super::UNKNOWN, Ordering::Relaxed);
            failures += 1;
            tracing::warn!(trigger = %self.name, %refusal, failures, "a trigger does not run; it is tried again");
            self.note_broken(refusal).await;
            let pause = LEAST_PAUSE + Duration::from_millis(PAUSE.delay(failures, jitter()));
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn note_broken(&self, refusal: Refusal) {
        let noted = async {
            let mut notes = Notes::read(self.bucket.clone(), self.name.clone(), self.context.clock).await?;
            notes.doing(Doing::Broken, Some(refusal));
            notes.save().await
        };
        if let Err(error) = noted.await {
            tracing::debug!(trigger = %self.name, %error, "a trigger's state was not noted");
        }
    }

    async fn live(&self, failures: &mut u32) -> Over {
        match self.begin().await {
            Ok(mut notes) => {
                *failures = 0;
                let over = match self.trigger.settings.paused {
                    true => life::paused(self, &mut notes).await,
                    false => life::run(self, &mut notes).await,
                };
                if let Err(error) = notes.save_if_changed().await {
                    tracing::debug!(trigger = %self.name, %error, "a trigger's state was not noted");
                }
                over
            }
            Err(over) => over,
        }
    }

    /// Looks at the stream and sees to it that there is a consumer.
    async fn begin(&self) -> Result<Notes, Over> {
        let (js, stream) = (&self.context.js, self.stream());
        let mut notes = Notes::read(self.bucket.clone(), self.name.clone(), self.context.clock).await?;
        let Some(found) = source_stream(js, stream).await? else {
            let message = format!("there is no stream {stream}; the trigger begins when there is one");
            return Err(Over::Broken(Refusal::new(Code::NotFound, message)));
        };
        let start = &self.trigger.settings.start;
        let known = notes.state();
        if known.stream != stream && !known.stream.is_empty() {
            crate::bus::triggers::delete_consumer(js, &known.stream, &self.name).await?;
        }
        let same = known.stream == stream && known.created == found.created;
        let fresh = if start.created == found.created { start.seq } else { 1 };
        let from = if same { (known.floor + 1).max(fresh) } else { fresh };
        if same && found.first_seq > known.floor + 1 && known.floor > 0 {
            let missed = found.first_seq - known.floor - 1;
            tracing::warn!(trigger = %self.name, stream, missed, "messages have left the stream before they were read");
            notes.missed(missed);
        }
        if !same {
            notes.moved(stream, &found.created, from.saturating_sub(1));
        }
        let progress =
            ensure_consumer(js, stream, &found, &self.name, self.filter().as_deref(), from).await?;
        notes.at(progress, found.last_seq, &self.done);
        Ok(notes)
    }
}
