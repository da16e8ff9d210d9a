//! A durable pull consumer that keeps going: messages out of a bounded channel, whatever the servers do.
//!
//! INTAKE, REPORTS, EVENTS and the streams of triggers are read through this. It pulls ahead by at most one batch plus the
//! channel's capacity, and by no more than a budget of bytes that are undecided; a receiver that stops
//! receiving stops the pulling, and the stream's own bounds do the rest. Messages come in stream order until something
//! breaks; then everything undecided comes again, in order, so receivers are idempotent.
//!
//! The streams of triggers are acknowledged (`acked`). The others have no acknowledgements: what is decided is
//! noted in a ledger and purged many at a time (`noted`), which costs the server and us half as much.
//!
//! A former reader that froze may still have a pull request standing: what the server hands to it would not come
//! here. So the consumer is looked at every second, and reset when it has delivered, or waits for an
//! acknowledgement of, something that nobody here holds.
//!
//! The pull stream is dropped and made anew, after a pause with jitter, on a missed heartbeat, when nobody
//! answers, and when the consumer or stream is gone (until somebody makes it again). It ends when it is
//! told to stop or the receiver is dropped.

mod acked;
mod budget;
mod delivery;
mod ledger;
mod noted;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, PullConsumer, pull},
};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::{acked::Rounds, ledger::Ledger};
pub use self::{
    budget::Budget,
    delivery::{Ack, Delivery},
};
use super::api;
use crate::{task::Backoff, telemetry::names};

/// Which consumer, and how it is pulled from.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The stream's name.
    pub stream: String,
    /// The durable's name. It must exist; `bus::provision` makes it.
    pub durable: String,
    /// Messages asked for at once. Keep it far below the client's subscription capacity (65,536), beyond
    /// which messages are dropped silently.
    pub batch: usize,
    /// How long a pull request stands.
    pub expires: Duration,
    /// What may be held unacknowledged at once, in bytes.
    pub budget: Budget,
}

impl PullOptions {
    /// With the defaults for a busy stream.
    pub fn new(stream: impl Into<String>, durable: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            durable: durable.into(),
            batch: 512,
            expires: Duration::from_secs(5),
            budget: Budget::new(64 << 20),
        }
    }
}

/// Bytes asked for at once: several of the largest messages.
const PULL_BYTES: usize = 8 << 20;

/// Makes the pause between two attempts; short enough to hide a server restart, long enough not to spin.
const PAUSE: Backoff = Backoff { base_ms: 500, cap_ms: 5_000 };
const LEAST_PAUSE: Duration = Duration::from_millis(250);
/// How often it is asked whether the consumer waits for somebody else.
const LOOK: Duration = Duration::from_secs(1);

/// Pulls until `stop` or until `out` is closed.
pub async fn pull(
    js: jetstream::Context,
    options: PullOptions,
    out: mpsc::Sender<Delivery>,
    stop: CancellationToken,
) {
    let mut failures = 0;
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = pull_once(&js, &options, &out, &mut failures) => ended,
        };
        let reason = match ended {
            Ended::ReceiverGone => return,
            Ended::Broken(reason) => reason,
        };
        failures += 1;
        metrics::counter!(names::PULL_RESTARTS, names::STREAM => options.stream.clone()).increment(1);
        let pause = LEAST_PAUSE + Duration::from_millis(PAUSE.delay(failures, jitter()));
        tracing::warn!(
            stream = %options.stream,
            durable = %options.durable,
            %reason,
            pause_ms = pause.as_millis() as u64,
            "pulling stopped; it will be started again"
        );
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// 64 random bits for a backoff.
pub fn jitter() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1 << 2
}

enum Ended {
    ReceiverGone,
    Broken(String),
}

async fn pull_once(
    js: &jetstream::Context,
    options: &PullOptions,
    out: &mpsc::Sender<Delivery>,
    failures: &mut u32,
) -> Ended {
    let consumer = match open(js, options).await {
        Ok(consumer) => consumer,
        Err(reason) => return Ended::Broken(reason),
    };
    let policy = consumer.cached_info().config.ack_policy;
    let mut opened = None;
    if policy == AckPolicy::None {
        match api::consumer_rewind(js, &options.stream, &options.durable).await {
            Ok(state) => opened = Some(state),
            Err(error) => return Ended::Broken(format!("rewinding consumer {}: {error}", options.durable)),
        }
    }
    let mut messages = match start(&consumer, options).await {
        Ok(messages) => messages,
        Err(reason) => return Ended::Broken(reason),
    };
    match opened {
        Some(opened) => {
            let ledger = Arc::new(Ledger::new(opened.first_seq));
            let idle = AtomicBool::new(false);
            tokio::select! {
                ended = noted::hand_over(js, options, &mut messages, out, failures, &ledger, &idle) => ended,
                reason = ledger::purge(js, &options.stream, &ledger, &opened) => Ended::Broken(reason),
                reason = noted::find_stolen(js, options, &ledger, &idle) => Ended::Broken(reason),
            }
        }
        None => {
            let rounds = Arc::new(Rounds::default());
            let covers_earlier = policy == AckPolicy::All;
            tokio::select! {
                ended = acked::hand_over(options, &mut messages, covers_earlier, out, failures, &rounds) => ended,
                () = acked::free_stuck(js, options, &rounds) => Ended::Broken("the watch ended".to_owned()),
            }
        }
    }
}

/// The next message, and room for it. Room first: what waits here can't be lost in a buffer, and a closed receiver
/// is seen while idle.
async fn next<'a>(
    messages: &mut pull::Stream,
    out: &'a mpsc::Sender<Delivery>,
    idle: &AtomicBool,
) -> Result<(mpsc::Permit<'a, Delivery>, jetstream::Message), Ended> {
    let room = match out.try_reserve() {
        Ok(room) => room,
        Err(_) => out.reserve().await.map_err(|_| Ended::ReceiverGone)?,
    };
    let next = match messages.next().now_or_never() {
        Some(next) => next,
        None => {
            idle.store(true, Ordering::Relaxed);
            let next = tokio::select! {
                () = out.closed() => return Err(Ended::ReceiverGone),
                next = messages.next() => next,
            };
            idle.store(false, Ordering::Relaxed);
            next
        }
    };
    match next {
        Some(Ok(message)) => Ok((room, message)),
        Some(Err(error)) => Err(Ended::Broken(error.to_string())),
        None => Err(Ended::Broken("the pull stream ended".to_owned())),
    }
}

async fn open(js: &jetstream::Context, options: &PullOptions) -> Result<PullConsumer, String> {
    let consumer: PullConsumer = js
        .get_consumer_from_stream(&options.durable, &options.stream)
        .await
        .map_err(|e| format!("consumer {} of {}: {e}", options.durable, options.stream))?;
    if consumer.cached_info().config.ack_policy != AckPolicy::None {
        api::consumer_reset(js, &options.stream, &options.durable)
            .await
            .map_err(|e| format!("reset of consumer {}: {e}", options.durable))?;
    }
    Ok(consumer)
}

async fn start(consumer: &PullConsumer, options: &PullOptions) -> Result<pull::Stream, String> {
    consumer
        .stream()
        .max_messages_per_batch(options.batch)
        .max_bytes_per_batch(PULL_BYTES)
        .expires(options.expires)
        .heartbeat(options.expires / 3)
        .messages()
        .await
        .map_err(|e| e.to_string())
}
