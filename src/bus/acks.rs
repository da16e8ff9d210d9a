//! Acknowledgements of what one connection publishes into streams: one subscription, one clock for all of them.
//!
//! Every message has a number, which is the last part of its reply subject. A message that is not answered in
//! its time is unknown, never failed. Used by [`super::publish`] only; nothing is asked of the JetStream API.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Client as Nats, HeaderMap, Message, StatusCode, Subscriber, client::PublishErrorKind,
    jetstream::ErrorCode,
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::{Deserialize, de::IgnoredAny};
use tokio::{
    sync::{OnceCell, oneshot},
    time::Instant,
};

use super::publish::StoreError;

/// Messages that may await their acknowledgement at once. Every publisher bounds its own window far below;
/// beyond this a publish counts as unknown, because waiting for room could wait for itself.
const MAX_UNACKED: usize = 65_536;

/// How often it is looked for messages whose time is over.
const SWEEP: Duration = Duration::from_millis(100);

/// What becomes of a message.
pub(super) type Answer = oneshot::Receiver<Result<(), StoreError>>;

struct Waiting {
    until: Instant,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

/// See the module.
pub(super) struct Acks {
    nats: Nats,
    /// Of the reply subjects, with the dot before the number.
    prefix: String,
    next: AtomicU64,
    /// Held for a look-up or an insertion, never across an await.
    waiting: Mutex<HashMap<u64, Waiting>>,
    listening: OnceCell<()>,
}

impl Acks {
    /// Subscribes with the first message.
    pub(super) fn new(nats: Nats) -> Self {
        let prefix = format!("{}.", nats.new_inbox());
        Self { nats, prefix, next: AtomicU64::new(0), waiting: Mutex::default(), listening: OnceCell::new() }
    }

    /// Hands a message over, in the order of the calls. Unknown if it is not answered by `until`.
    pub(super) async fn post(
        self: &Arc<Self>,
        subject: String,
        headers: Option<HeaderMap>,
        body: Bytes,
        until: Instant,
    ) -> Result<Answer, StoreError> {
        self.listening.get_or_try_init(|| self.listen()).await.map_err(|_: ()| StoreError::Unknown)?;
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.len() >= MAX_UNACKED {
                return Err(StoreError::Unknown);
            }
            waiting.insert(n, Waiting { until, answer });
        }
        let reply = format!("{}{n}", self.prefix);
        let sent = async {
            match headers {
                None => self.nats.publish_with_reply(subject, reply, body).await,
                Some(headers) => {
                    self.nats.publish_with_reply_and_headers(subject, reply, headers, body).await
                }
            }
        };
        // A connection that takes nothing must not hold its user for longer than it may wait.
        let error = match tokio::time::timeout_at(until, sent).await {
            Ok(Ok(())) => return Ok(answered),
            Ok(Err(error)) => match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => StoreError::TooLarge,
                PublishErrorKind::InvalidSubject => StoreError::Refused(error.to_string()),
                PublishErrorKind::Send => StoreError::Unknown,
            },
            Err(_) => StoreError::Unknown,
        };
        self.waiting().remove(&n);
        Err(error)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        // Nothing can panic while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(self: &Arc<Self>) -> Result<(), ()> {
        let answers = self.nats.subscribe(format!("{}*", self.prefix)).await.map_err(drop)?;
        tokio::spawn(listen(Arc::downgrade(self), answers));
        Ok(())
    }

    /// Hands out what has come, all that has come.
    fn hear(&self, first: Message, answers: &mut Subscriber) {
        let mut waiting = self.waiting();
        let mut next = Some(first);
        while let Some(message) = next {
            let number = message.subject.get(self.prefix.len()..).and_then(|n| n.parse().ok());
            if let Some(waiting) = number.and_then(|n: u64| waiting.remove(&n)) {
                // Whoever stopped waiting does not mind.
                let _gone = waiting.answer.send(read(&message));
            }
            next = answers.next().now_or_never().flatten();
        }
    }

    fn sweep(&self) {
        let now = Instant::now();
        // Without an answer: its sender is dropped, which is read as unknown.
        self.waiting().retain(|_, waiting| waiting.until > now && !waiting.answer.is_closed());
    }
}

/// Ends with the connection, or when nobody publishes over it any more.
async fn listen(acks: Weak<Acks>, mut answers: Subscriber) {
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = answers.next() => message.map(Some),
            _ = sweep.tick() => Some(None),
        };
        let (Some(message), Some(acks)) = (message, acks.upgrade()) else { return };
        match message {
            Some(message) => acks.hear(message, &mut answers),
            None => acks.sweep(),
        }
    }
}

/// The answers of a stream.
#[derive(Deserialize)]
struct Said {
    stream: Option<IgnoredAny>,
    error: Option<SaidError>,
}

#[derive(Deserialize)]
struct SaidError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

fn read(message: &Message) -> Result<(), StoreError> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(StoreError::NoStream);
    }
    match serde_json::from_slice::<Said>(&message.payload) {
        Ok(Said { stream: Some(_), error: None }) => Ok(()),
        Ok(Said { error: Some(error), .. }) => Err(refused(error)),
        _ => Err(StoreError::Unknown),
    }
}

fn refused(error: SaidError) -> StoreError {
    let is = |codes: &[ErrorCode]| codes.iter().any(|code| code.0 == error.err_code);
    if is(&[ErrorCode::STREAM_STORE_FAILED, ErrorCode::INSUFFICIENT_RESOURCES]) {
        StoreError::Full
    } else if is(&[ErrorCode::STREAM_WRONG_LAST_SEQUENCE]) {
        StoreError::Taken
    } else if is(&[ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT]) {
        // Another try of it is on its way between the replicas: what becomes of that is not known yet.
        StoreError::Unknown
    } else if is(&[ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM]) {
        StoreError::TooLarge
    } else {
        StoreError::Refused(format!("{} (error code {})", error.description, error.err_code))
    }
}
