//! Messages that are acknowledged one by one, or all up to one: of streams that are not ours to purge.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_nats::jetstream::{self, consumer::pull};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    Ended, LOOK, PullOptions,
    delivery::{Delivery, How, delivery},
    next,
};
use crate::{bus::api, telemetry::names};

/// How many deliveries are held here unacknowledged, by the round (between two looks) they came in.
#[derive(Default)]
pub(super) struct Rounds {
    current: AtomicUsize,
    held: [AtomicUsize; 4],
}

/// One of them; gone with its `Ack`.
pub(super) struct Held {
    rounds: Arc<Rounds>,
    round: usize,
    /// Its part of the budget.
    _room: Option<OwnedSemaphorePermit>,
}

impl Rounds {
    fn hold(self: &Arc<Self>, room: Option<OwnedSemaphorePermit>) -> Held {
        let round = self.current.load(Ordering::Relaxed) % 4;
        self.held[round].fetch_add(1, Ordering::Relaxed);
        Held { rounds: Arc::clone(self), round, _room: room }
    }

    /// Whether something from before this round is still held. Begins the next round.
    fn turn(&self) -> bool {
        let current = self.current.fetch_add(1, Ordering::Relaxed) % 4;
        (0..4).any(|round| round != current && self.held[round].load(Ordering::Relaxed) > 0)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.rounds.held[self.round].fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) async fn hand_over(
    options: &PullOptions,
    messages: &mut pull::Stream,
    covers_earlier: bool,
    out: &mpsc::Sender<Delivery>,
    failures: &mut u32,
    rounds: &Arc<Rounds>,
) -> Ended {
    let idle = AtomicBool::new(false);
    loop {
        let (room, message) = match next(messages, out, &idle).await {
            Ok(next) => next,
            Err(ended) => return ended,
        };
        *failures = 0;
        let held = rounds.hold(options.budget.take(message.payload.len()).await);
        let how = |acker| How::Explicit { acker: Box::new(acker), covers_earlier, _held: held };
        match delivery(message, |_, _, acker| how(acker)) {
            Ok(delivery) => room.send(delivery),
            Err(reason) => return Ended::Broken(reason),
        }
    }
}

/// Resets the consumer when its oldest unacknowledged message is held by nobody here. Never ends.
pub(super) async fn free_stuck(js: &jetstream::Context, options: &PullOptions, rounds: &Rounds) {
    let mut before = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let ours = rounds.turn();
        let waits = match api::waits_for_acks(js, &options.stream, &options.durable).await {
            Ok(waits) => waits,
            Err(error) => {
                tracing::debug!(stream = %options.stream, %error, "the consumer can't be looked at");
                None
            }
        };
        if !ours && waits.is_some() && waits == before {
            tracing::warn!(
                stream = %options.stream,
                after_seq = waits,
                "deliveries are held by a reader that is gone; they are asked for again"
            );
            metrics::counter!(names::PULL_STUCK, names::STREAM => options.stream.clone()).increment(1);
            if let Err(error) = api::consumer_reset(js, &options.stream, &options.durable).await {
                tracing::warn!(stream = %options.stream, %error, "the consumer can't be reset");
            }
            before = None;
        } else {
            before = waits;
        }
    }
}
