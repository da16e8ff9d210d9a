//! A durable pull consumer that keeps going: messages out of a bounded channel, whatever the servers do.
//!
//! INTAKE, REPORTS and EVENTS are read through this. It pulls ahead by at most one batch plus the
//! channel's capacity, and by no more than a budget of bytes that are undecided; a receiver that stops
//! receiving stops the pulling, and the stream's own bounds do the rest. Messages come in stream order until something breaks; then everything undecided comes again
//! (in order, see [`PullOptions::reset`]), so receivers are idempotent.
//!
//! EVENTS is acknowledged message by message. INTAKE and REPORTS have no acknowledgements: what is decided is
//! noted in a ledger and purged many at a time, which costs the server and us half as much.
//!
//! A former reader that froze may still have a pull request standing: what the server hands to it would not come
//! here. So the consumer is looked at every second, and reset when it has delivered, or waits for an
//! acknowledgement of, something that nobody here holds.
//!
//! The pull stream is dropped and made anew, after a pause with jitter, on a missed heartbeat, when nobody
//! answers, and when the consumer or stream is gone (until somebody makes it again). It ends when it is
//! told to stop or the receiver is dropped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, PullConsumer, pull},
    message::Acker,
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    api,
    ledger::{self, Ledger, Seen},
};
use crate::{
    task::{Backoff, Millis},
    telemetry::names,
    wire::headers,
};

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
    /// Whether the consumer is reset whenever pulling starts: everything unacknowledged comes again at once
    /// and in order, instead of after `ack_wait`. Only for a consumer with one reader at a time.
    pub reset: bool,
    /// What may be held unacknowledged at once, in bytes.
    pub budget: Budget,
}

/// Bytes of deliveries that may be held unacknowledged at once; the rest waits in the stream. Copies share it.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    /// Of so many bytes, and at least one message of any size.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / BUDGET_UNIT).clamp(1, MOST_UNITS as usize))))
    }

    /// Grows by as much as it was made with, if nothing is left of it: for when what is held waits for something that is not.
    pub fn relieve(&self) {
        if self.0.available_permits() == 0 {
            self.0.add_permits(RELIEF / BUDGET_UNIT);
        }
    }

    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(BUDGET_UNIT)).unwrap_or(MOST_UNITS).clamp(1, MOST_UNITS);
        let mut all = self.0.clone().acquire_owned().await.ok()?;
        // What is larger than the rest takes what there is: nothing waits for more than the whole budget.
        let more = (units - 1).min(u32::try_from(self.0.available_permits()).unwrap_or(MOST_UNITS));
        if more > 0
            && let Ok(rest) = self.0.clone().try_acquire_many_owned(more)
        {
            all.merge(rest);
        }
        Some(all)
    }
}

impl PullOptions {
    /// With the defaults for a busy stream.
    pub fn new(stream: impl Into<String>, durable: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            durable: durable.into(),
            batch: 512,
            expires: Duration::from_secs(5),
            reset: true,
            budget: Budget::new(64 << 20),
        }
    }
}

/// What a budget counts in.
const BUDGET_UNIT: usize = 1024;
/// More than a budget ever has.
const MOST_UNITS: u32 = 1 << 24;
/// What a relieved budget grows by.
const RELIEF: usize = 16 << 20;
/// Bytes asked for at once: several of the largest messages.
const PULL_BYTES: usize = 8 << 20;

/// Makes the pause between two attempts; short enough to hide a server restart, long enough not to spin.
const PAUSE: Backoff = Backoff { base_ms: 500, cap_ms: 5_000 };
const LEAST_PAUSE: Duration = Duration::from_millis(250);
/// How often it is asked whether the consumer waits for somebody else.
const LOOK: Duration = Duration::from_secs(1);

/// One message of a stream.
pub struct Delivery {
    /// Where it was published.
    pub subject: String,
    /// `Content-Type`, if it has one.
    pub content_type: Option<String>,
    /// [`headers::MESSAGE_ID`], if it has one.
    pub message_id: Option<String>,
    /// [`headers::HOPS`]; 0 without.
    pub hops: u32,
    /// Whether it has headers at all: what the server answers has none.
    pub has_headers: bool,
    /// The body.
    pub payload: Bytes,
    /// Its place in the stream.
    pub stream_seq: u64,
    /// When the server stored it, Unix milliseconds.
    pub timestamp: Millis,
    /// 1 for the first delivery.
    pub delivered: u64,
    /// Messages of the consumer that were still to come then.
    pub pending: u64,
    /// To acknowledge it with.
    pub ack: Ack,
}

/// Payloads may hold secrets; debug output shows the size only.
impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("subject", &self.subject)
            .field("stream_seq", &self.stream_seq)
            .field("delivered", &self.delivered)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Acknowledges one message; dropped, the message comes again when it is next pulled from the beginning, or after
/// the consumer's `ack_wait`.
pub struct Ack(How);

enum How {
    /// Not at all.
    Never,
    /// With the others of its message: when the last of them is.
    Part(Arc<Parts>),
    /// By a message to the server.
    Explicit {
        /// Boxed: it is larger than everything else in a delivery.
        acker: Box<Acker>,
        covers_earlier: bool,
        /// Counted as held for as long as this lives.
        _held: Held,
    },
    /// By a note; a purge follows.
    Noted {
        ledger: Arc<Ledger>,
        seq: u64,
        bytes: usize,
        /// Its part of the budget.
        _room: Option<OwnedSemaphorePermit>,
    },
}

/// An acknowledgement that several things wait for.
struct Parts {
    whole: Ack,
    left: AtomicUsize,
}

impl std::fmt::Debug for Ack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = match &self.0 {
            How::Never => "never",
            How::Part(_) => "part",
            How::Explicit { .. } => "explicit",
            How::Noted { .. } => "noted",
        };
        f.debug_tuple("Ack").field(&how).finish()
    }
}

impl Ack {
    /// For tests and replays: acknowledges nothing.
    pub fn none() -> Self {
        Self(How::Never)
    }

    /// One for each of the `n` things its message holds: it is acknowledged when all of them are.
    pub fn split(self, n: usize) -> impl Iterator<Item = Self> {
        let parts = Arc::new(Parts { whole: self, left: AtomicUsize::new(n) });
        (0..n).map(move |_| Self(How::Part(Arc::clone(&parts))))
    }

    /// Whether acknowledging this one acknowledges every earlier message (a consumer with `ack_policy: all`).
    pub fn covers_earlier(&self) -> bool {
        matches!(self.0, How::Explicit { covers_earlier: true, .. })
    }

    /// Acknowledges without waiting for the server. One that gets lost is no harm: the message comes again.
    pub async fn ack(&self) {
        match &self.0 {
            How::Never => {}
            How::Part(parts) => {
                if parts.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    // A part is acknowledged once: whoever does it lets go of it.
                    Box::pin(parts.whole.ack()).await;
                }
            }
            How::Noted { ledger, seq, bytes, .. } => ledger.settle(*seq, *bytes),
            How::Explicit { acker, .. } => {
                if let Err(error) = acker.ack().await {
                    tracing::debug!(%error, "an acknowledgement could not be sent");
                }
            }
        }
    }
}

/// How many deliveries are held here unacknowledged, by the round (between two looks) they came in.
#[derive(Default)]
struct Rounds {
    current: AtomicUsize,
    held: [AtomicUsize; 4],
}

/// One of them; gone with its `Ack`.
struct Held {
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
                ended = hand_over_noted(js, options, &mut messages, out, failures, &ledger, &idle) => ended,
                reason = ledger::purge(js, &options.stream, &ledger, &opened) => Ended::Broken(reason),
                reason = find_stolen(js, options, &ledger, &idle) => Ended::Broken(reason),
            }
        }
        None => {
            let rounds = Arc::new(Rounds::default());
            let covers_earlier = policy == AckPolicy::All;
            tokio::select! {
                ended = hand_over(options, &mut messages, covers_earlier, out, failures, &rounds) => ended,
                () = free_stuck(js, options, &rounds) => Ended::Broken("the watch ended".to_owned()),
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

async fn hand_over(
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

async fn hand_over_noted(
    js: &jetstream::Context,
    options: &PullOptions,
    messages: &mut pull::Stream,
    out: &mpsc::Sender<Delivery>,
    failures: &mut u32,
    ledger: &Arc<Ledger>,
    idle: &AtomicBool,
) -> Ended {
    let stream = options.stream.as_str();
    loop {
        let (room, message) = match next(messages, out, idle).await {
            Ok(next) => next,
            Err(ended) => return ended,
        };
        let room_of_it = options.budget.take(message.payload.len()).await;
        let noted = |seq, bytes, _| How::Noted { ledger: Arc::clone(ledger), seq, bytes, _room: room_of_it };
        let delivery = match delivery(message, noted) {
            Ok(delivery) => delivery,
            Err(reason) => return Ended::Broken(reason),
        };
        let mut seen = ledger.deliver(delivery.stream_seq);
        if let Seen::Jump(from) = seen {
            match ledger::is_there(js, stream, from, delivery.stream_seq).await {
                Ok(false) => {
                    ledger.pass(delivery.stream_seq);
                    seen = ledger.deliver(delivery.stream_seq);
                }
                Ok(true) => {
                    metrics::counter!(names::PULL_STUCK, names::STREAM => stream.to_owned()).increment(1);
                    return Ended::Broken(format!("message {from} went to somebody else"));
                }
                Err(error) => return Ended::Broken(error.to_string()),
            }
        }
        if seen != Seen::Next {
            return Ended::Broken("the consumer was rewound".to_owned());
        }
        *failures = 0;
        room.send(delivery);
    }
}

/// Ends when the consumer has delivered something that never came here, and nothing comes behind it.
async fn find_stolen(
    js: &jetstream::Context,
    options: &PullOptions,
    ledger: &Ledger,
    idle: &AtomicBool,
) -> String {
    let mut before = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let next = ledger.next();
        let is_idle = idle.load(Ordering::Relaxed);
        let delivered = match api::delivered_up_to(js, &options.stream, &options.durable).await {
            Ok(delivered) => delivered,
            Err(error) => {
                tracing::debug!(stream = %options.stream, %error, "the consumer can't be looked at");
                before = None;
                continue;
            }
        };
        let missing = (is_idle && delivered >= next).then_some(next);
        if missing.is_some() && missing == before {
            metrics::counter!(names::PULL_STUCK, names::STREAM => options.stream.clone()).increment(1);
            return format!("message {next} went to somebody else");
        }
        before = missing;
    }
}

/// Resets the consumer when its oldest unacknowledged message is held by nobody here. Never ends.
async fn free_stuck(js: &jetstream::Context, options: &PullOptions, rounds: &Rounds) {
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
        if options.reset && !ours && waits.is_some() && waits == before {
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

async fn open(js: &jetstream::Context, options: &PullOptions) -> Result<PullConsumer, String> {
    let consumer: PullConsumer = js
        .get_consumer_from_stream(&options.durable, &options.stream)
        .await
        .map_err(|e| format!("consumer {} of {}: {e}", options.durable, options.stream))?;
    if options.reset && consumer.cached_info().config.ack_policy != AckPolicy::None {
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

fn delivery(
    message: jetstream::Message,
    how: impl FnOnce(u64, usize, Acker) -> How,
) -> Result<Delivery, String> {
    let info = message.info().map_err(|e| e.to_string())?;
    let (stream_seq, delivered, pending) = (info.stream_sequence, info.delivered, info.pending);
    let timestamp = info.published.unix_timestamp_nanos() / 1_000_000;
    let (message, acker) = message.split();
    let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
    let content_type = header(headers::CONTENT_TYPE);
    Ok(Delivery {
        subject: message.subject.to_string(),
        content_type,
        message_id: header(headers::MESSAGE_ID),
        // One that can't be read is no licence to go on for ever.
        hops: header(headers::HOPS).map_or(0, |hops| hops.parse().unwrap_or(u32::MAX)),
        has_headers: message.headers.is_some(),
        stream_seq,
        timestamp: Millis::try_from(timestamp).unwrap_or(0),
        delivered: delivered.max(1).unsigned_abs(),
        pending,
        ack: Ack(how(stream_seq, message.payload.len() + message.subject.len(), acker)),
        payload: message.payload,
    })
}
