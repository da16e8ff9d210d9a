//! A message of a stream as its reader gets it, and how it is settled.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_nats::jetstream::{self, message::Acker};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::{acked::Held, ledger::Ledger};
use crate::{task::Millis, wire::headers};

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
pub struct Ack(pub(super) How);

pub(super) enum How {
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
pub(super) struct Parts {
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

pub(super) fn delivery(
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
