//! Reading a shard's journal: its head, a replay up to it, and following it for ever.
//!
//! Reads go through an ordered consumer, which notices what was dropped on the way and asks again.
//! Readers own their restart point; nothing is acknowledged and nothing is kept in the server.

use std::time::Duration;

use async_nats::jetstream::{
    Context,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::{RawMessageErrorKind, Stream},
};
use futures_util::StreamExt;

use super::{Entry, JournalError, StreamState, is_noise, journal_stream, leader_head, stream_state, unix_ms};
use crate::{
    bus::api::{self, ApiError},
    telemetry::names,
    wire::{
        subjects::{self, Shard},
        topology::JOURNAL,
    },
};

/// Pause before a broken consumer is made anew.
const PAUSE: Duration = Duration::from_millis(250);
/// A replay gives up after this many consumers in a row that brought nothing; a follower never does.
const BARREN: u32 = 20;

/// Reads one shard's journal.
#[derive(Clone)]
pub struct JournalReader {
    js: Context,
    stream: Stream<()>,
    subject: String,
}

/// Where a journal begins and ends, how full it is, and how long nothing was written, by the
/// server's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The first sequence the stream still has; above 1 after a purge.
    pub first_seq: u64,
    /// The last message of the shard, if any.
    pub head: Option<Entry>,
    /// Time passed since the head was stored, both ends measured by the server; zero without a head.
    pub idle: Duration,
    /// Bytes in the stream, all shards together.
    pub bytes: u64,
    /// Bytes it may hold.
    pub max_bytes: u64,
}

/// How full the journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The first sequence the stream still has.
    pub first_seq: u64,
    /// The last.
    pub last_seq: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes it may hold.
    pub max_bytes: u64,
}

impl JournalReader {
    /// A reader for `shard`.
    pub async fn new(js: &Context, shard: Shard) -> Result<Self, JournalError> {
        Ok(Self { js: js.clone(), stream: journal_stream(js).await?, subject: subjects::journal(shard) })
    }

    /// The last message, read from the stream's leader.
    pub async fn head(&self) -> Result<Option<Entry>, JournalError> {
        Ok(leader_head(&self.stream, &self.subject).await?.0)
    }

    /// First sequence, head, and the server-side time since the head: what a take-over adds to `now`.
    pub async fn extent(&self) -> Result<Extent, JournalError> {
        let head = self.head().await?;
        let StreamState { server_now, first_seq, bytes, max_bytes, .. } = stream_state(&self.js).await?;
        let since = |at| Duration::from_millis(server_now.saturating_sub(at));
        let idle = head.as_ref().map_or(Duration::ZERO, |head| since(head.at));
        Ok(Extent { first_seq, head, idle, bytes, max_bytes })
    }

    /// Every message from `from` (a sequence; at least 1) up to the head at the time of the call.
    pub async fn read(&self, from: u64) -> Result<Tail, JournalError> {
        let last = self.head().await?.map_or(0, |head| head.seq);
        Ok(self.tail(from, Some(last)))
    }

    /// Every message from `from` on, as it is written, for ever.
    pub fn follow(&self, from: u64) -> Tail {
        self.tail(from, None)
    }

    /// The message at a sequence; `None`: there is none, or only noise. From any replica, and from the leader if that has none.
    pub async fn at(&self, seq: u64) -> Result<Option<Entry>, JournalError> {
        let found = match self.stream.direct_get(seq).await {
            Ok(message) => message,
            Err(_) => match self.stream.get_raw_message(seq).await {
                Ok(message) => message,
                Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => return Ok(None),
                Err(e) => return Err(ApiError::from_source("STREAM.MSG.GET.JOURNAL", &e).into()),
            },
        };
        if found.subject.as_str() != self.subject || is_noise(Some(&found.headers)) {
            return Ok(None);
        }
        let at = unix_ms(found.time.unix_timestamp_nanos());
        Ok(Some(Entry { seq: found.sequence, bytes: found.payload, at }))
    }

    /// Drops every message of the shard up to this sequence, but never the last one a coordinator wrote: an empty subject
    /// would take any append. Returns how many went.
    pub async fn purge(&self, upto: u64) -> Result<u64, JournalError> {
        let Some(head) = self.head().await? else { return Ok(0) };
        // The server drops what lies before the sequence it is given.
        let before = upto.saturating_add(1).min(head.seq);
        let call = format!("STREAM.PURGE.{JOURNAL}");
        let body = serde_json::json!({"filter": self.subject, "seq": before});
        let answer = api::call(&self.js, &call, &body).await?;
        Ok(answer["purged"].as_u64().unwrap_or(0))
    }

    /// What the stream holds now, all shards together.
    pub async fn room(&self) -> Result<Room, JournalError> {
        let StreamState { first_seq, last_seq, bytes, max_bytes, .. } = stream_state(&self.js).await?;
        Ok(Room { first_seq, last_seq, bytes, max_bytes })
    }

    fn tail(&self, from: u64, last: Option<u64>) -> Tail {
        Tail { reader: self.clone(), next: from.max(1), last, messages: None, barren: 0 }
    }

    async fn consumer(&self, from: u64) -> Result<pull::Stream, ApiError> {
        // Ordered by hand: no acknowledgements, our own sequence check, made anew from `next` when
        // it falters. `max_deliver` 1 and a threshold let the server forget it by itself.
        let config = pull::Config {
            filter_subject: self.subject.clone(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: Duration::from_secs(30),
            ..Default::default()
        };
        let failed = |e: &(dyn std::error::Error + 'static)| ApiError::from_source("a journal consumer", e);
        let consumer = self.stream.create_consumer(config).await.map_err(|e| failed(&e))?;
        consumer
            .stream()
            .max_messages_per_batch(512)
            .expires(Duration::from_secs(5))
            .heartbeat(Duration::from_millis(1500))
            .messages()
            .await
            .map_err(|e| failed(&e))
    }
}

/// Messages of a journal in order, each once.
pub struct Tail {
    reader: JournalReader,
    next: u64,
    last: Option<u64>,
    messages: Option<Box<Delivery>>,
    barren: u32,
}

struct Delivery {
    messages: pull::Stream,
    /// Delivery number the next message must have; a jump means something was dropped on the way.
    number: u64,
}

impl Tail {
    /// The next message; `None` at the end of a replay. A follower waits, and mends itself, for
    /// ever; it yields an error only for a replay that gets nowhere. Safe to drop and call again.
    pub async fn next(&mut self) -> Option<Result<Entry, JournalError>> {
        loop {
            if self.last.is_some_and(|last| self.next > last) {
                return None;
            }
            match self.step().await {
                Ok(Some(entry)) => {
                    self.next = entry.seq + 1;
                    self.barren = 0;
                    return Some(Ok(entry));
                }
                Ok(None) => {}
                Err(error) => {
                    self.barren += 1;
                    if self.last.is_some() && self.barren >= BARREN {
                        return Some(Err(error.into()));
                    }
                    tracing::debug!(%error, next = self.next, "journal consumer not available, trying again");
                }
            }
            // Here the delivery broke: begin a new one where it stopped.
            self.messages = None;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The sequence the next message will have, at least.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// One message, or `None` if the delivery is broken and has to be begun anew.
    async fn step(&mut self) -> Result<Option<Entry>, ApiError> {
        if self.messages.is_none() {
            let messages = self.reader.consumer(self.next).await?;
            self.messages = Some(Box::new(Delivery { messages, number: 1 }));
        }
        let Some(delivery) = self.messages.as_mut() else { return Ok(None) };
        loop {
            let Some(Ok(message)) = delivery.messages.next().await else { return Ok(None) };
            let Ok(info) = message.info() else { return Ok(None) };
            if info.consumer_sequence != delivery.number || info.stream_sequence < self.next {
                return Ok(None);
            }
            delivery.number += 1;
            if !is_noise(message.headers.as_ref()) {
                let (seq, at) = (info.stream_sequence, unix_ms(info.published.unix_timestamp_nanos()));
                return Ok(Some(Entry { seq, bytes: message.payload.clone(), at }));
            }
            tracing::warn!(seq = info.stream_sequence, "a message in the journal that no coordinator wrote");
            metrics::counter!(names::JOURNAL_NOISE).increment(1);
            self.next = info.stream_sequence + 1;
        }
    }
}
