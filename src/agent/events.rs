//! The events of one attempt, from its first one on: a task that publishes them in order and settles them by
//! the stream's acknowledgement. Attempts that emit nothing have none of this.
//!
//! Progress must never hold up work for good: events that can't be stored are given up, watchers see a gap.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::{JITTER_MS, at};
use crate::{
    bus::{
        Lane,
        link::jitter_below,
        ordered::{Ordered, Progress},
    },
    wire::{codec, messages::Event},
};

/// Events that one attempt has unacknowledged, and as many that wait behind them, at most.
const WINDOW: usize = 64;

/// Pause before what is not known to be stored is published again.
const DOUBT_PAUSE: Duration = Duration::from_millis(250);

/// How long events are tried before they are given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the end waits for the events before it.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// What an attempt says here. Boxed: a channel makes room for many at once.
pub(super) enum Say {
    /// The number is set here.
    Emit(Box<Event>),
    /// No more events; answer with the number of the last one when all are settled, or time is over.
    End(oneshot::Sender<u32>),
}

/// Where an attempt says it. The task ends with this.
pub(super) struct Events {
    queue: mpsc::Sender<Say>,
    _task: AbortOnDropHandle<()>,
}

impl Events {
    /// No event yet. Whatever is unsettled is published again when `resend` changes.
    pub(super) fn start(lane: Lane, subject: String, resend: watch::Receiver<u64>) -> Self {
        let (queue, said) = mpsc::channel(WINDOW);
        let events = Ordered::new(lane, subject, WINDOW);
        let speaker = Speaker { said, events, resend, again_at: None, failing_since: None };
        Self { queue, _task: AbortOnDropHandle::new(tokio::spawn(speaker.run())) }
    }

    /// Where to say it, bounded.
    pub(super) fn queue(&self) -> mpsc::Sender<Say> {
        self.queue.clone()
    }
}

/// Says that no more comes. What was emitted before is numbered before; returns the number of the last one.
pub(super) async fn end(queue: mpsc::Sender<Say>) -> u32 {
    let (answer, last) = oneshot::channel();
    // The task ends before it has answered only when nobody cares for the end any more.
    let _over = queue.send(Say::End(answer)).await;
    last.await.unwrap_or(0)
}

struct Speaker {
    said: mpsc::Receiver<Say>,
    events: Ordered,
    resend: watch::Receiver<u64>,
    again_at: Option<Instant>,
    /// Since when no event could be stored.
    failing_since: Option<Instant>,
}

impl Speaker {
    async fn run(mut self) {
        loop {
            let room = self.events.has_room();
            tokio::select! {
                biased;
                progress = self.events.progress() => self.heed(&progress),
                Ok(()) = self.resend.changed() => self.again_soon(),
                () = at(self.again_at) => self.again().await,
                Some(said) = self.said.recv(), if room => match said {
                    Say::Emit(event) => self.emit(*event).await,
                    Say::End(answer) => {
                        self.flush().await;
                        // The attempt is over for everybody if nobody listens.
                        let _gone = answer.send(self.events.last());
                        return;
                    }
                },
            }
        }
    }

    /// What was handed over before the end belongs before it.
    async fn flush(&mut self) {
        self.said.close();
        while let Some(said) = self.said.recv().await {
            if let Say::Emit(event) = said {
                self.emit(*event).await;
            }
        }
        let over = Instant::now() + FLUSH_PATIENCE;
        while !self.events.is_settled() {
            tokio::select! {
                biased;
                progress = self.events.progress() => self.heed(&progress),
                Ok(()) = self.resend.changed() => self.again_soon(),
                () = at(self.again_at) => self.again().await,
                () = tokio::time::sleep_until(over) => return,
            }
        }
    }

    async fn emit(&mut self, mut event: Event) {
        event.n = self.events.next();
        self.events.push(codec::pack(&event)).await;
    }

    fn again_soon(&mut self) {
        if !self.events.is_settled() {
            self.again_at = Some(Instant::now() + Duration::from_millis(jitter_below(JITTER_MS)));
        }
    }

    async fn again(&mut self) {
        self.again_at = None;
        self.events.resend().await;
    }

    fn heed(&mut self, progress: &Progress) {
        let Progress::Doubt(n, error) = progress else {
            self.failing_since = None;
            return;
        };
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() > PATIENCE {
            tracing::warn!(subject = self.events.subject(), n, %error, "events can't be stored; watchers will see a gap");
            self.events.settle(self.events.last());
            self.again_at = None;
        } else {
            self.again_at.get_or_insert_with(|| Instant::now() + DOUBT_PAUSE);
        }
    }
}
