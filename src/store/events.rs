//! Events in capped streams, one per task, that end themselves.
//!
//! An event's stream id is `<attempt>-<n>`: Redis refuses what was stored before and what a former
//! attempt sends late, and a refusal is success, so a batch can be sent again. A jump in n is a gap.
//!
//! XADD and EXPIRE go in one pipeline without MULTI. An EXPIRE that fails after its XADD worked is logged
//! and counted, never returned: sending the event again would not help, and the next one sets the TTL.
//! Writes refresh the TTL, reads don't. A stream is never deleted when its task ends: a reader may not
//! have seen the last event.

use std::{collections::HashMap, fmt::Write};

use bytes::Bytes;
use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};

use super::{Connection, StoreError, keys};
use crate::{
    task::TaskKey,
    telemetry::names,
    wire::{
        api::EventsPage,
        codec,
        messages::{Event, MAX_EVENT_BYTES},
    },
};

/// Field of a stream entry that holds the encoded event.
const FIELD: &str = "e";

/// Arguments of an XADD, and bytes of those that are always the same.
const XADD_ARGS: usize = 8;
const XADD_BYTES: usize = "XADD".len() + "MAXLEN".len() + "~".len() + FIELD.len();

/// Bytes of events on a page, at most: it has to fit into a message.
const PAGE_BYTES: usize = 512 * 1024;

/// Id and fields, as XRANGE answers.
type Entry = (String, Vec<(String, Vec<u8>)>);

/// How long a stream gets and how long it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventPolicy {
    /// Entries kept, approximately: `REDIS_STREAM_MAXLEN`.
    pub maxlen: u64,
    /// Seconds after the last write: `REDIS_STREAM_TTL_SECONDS`; 0: no expiry is set.
    pub ttl_seconds: u64,
}

impl Default for EventPolicy {
    fn default() -> Self {
        Self { maxlen: 10_000, ttl_seconds: 3_600 }
    }
}

/// An event to store. The encoding is checked by the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct EventWrite {
    /// Whose.
    pub key: TaskKey,
    /// The attempt that emitted it.
    pub attempt: u32,
    /// Its number, from 1.
    pub n: u32,
    /// As MessagePack.
    pub encoded: Bytes,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Appended {
    /// New entries.
    pub stored: u64,
    /// There already, or of a former attempt.
    pub refused: u64,
    /// Streams whose TTL could not be set.
    pub unexpiring: u64,
    /// Entries that Redis will never take, for a reason that trying again won't change.
    pub lost: u64,
}

/// Reads and writes event streams. Cheap to clone.
#[derive(Clone)]
pub struct EventStore {
    connection: Connection,
}

impl EventStore {
    /// Works through this connection.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Stores a batch in one round trip. After an error send the same batch again.
    pub async fn append(&self, events: &[EventWrite], policy: EventPolicy) -> Result<Appended, StoreError> {
        let mut done = Appended::default();
        if events.is_empty() {
            return Ok(done);
        }
        let (pipeline, expires) = batch(events, policy);
        let replies: Vec<RedisResult<Value>> = pipeline.query_async(&mut self.connection.clone()).await?;
        for (reply, expire) in replies.into_iter().zip(expires) {
            match (reply, expire) {
                (Ok(_), false) => done.stored += 1,
                (Ok(_), true) => {}
                (Err(error), false) if is_not_newer(&error) => done.refused += 1,
                (Err(error), true) => {
                    done.unexpiring += 1;
                    metrics::counter!(names::EVENT_EXPIRE_FAILURES).increment(1);
                    tracing::warn!(%error, "an event stream's expiry could not be set");
                }
                (Err(error), false) => match StoreError::from(error) {
                    StoreError::Refused(error) => {
                        done.lost += 1;
                        tracing::warn!(%error, "Redis takes an event neither now nor later");
                    }
                    error => return Err(error),
                },
            }
        }
        Ok(done)
    }

    /// A task's events after (attempt, n), oldest first, `limit` at most. One round trip.
    pub async fn read(
        &self,
        key: &TaskKey,
        after: Option<(u32, u32)>,
        limit: u32,
    ) -> Result<EventsPage, StoreError> {
        let start = after.map_or("-".to_owned(), |(attempt, n)| format!("({attempt}-{n}"));
        let entries: Vec<Entry> = redis::cmd("XRANGE")
            .arg(keys::events(key))
            .arg(start)
            .arg("+")
            .arg("COUNT")
            .arg(u64::from(limit) + 1)
            .query_async(&mut self.connection.clone())
            .await?;
        let mut more = entries.len() > limit as usize;
        let mut events = Vec::with_capacity(entries.len().min(limit as usize));
        let mut bytes = 0;
        for (_, fields) in entries.into_iter().take(limit as usize) {
            let encoded = fields.into_iter().find(|(name, _)| name == FIELD);
            let encoded = encoded.ok_or_else(|| StoreError::Corrupt("an entry holds no event".into()))?;
            bytes += encoded.1.len();
            if bytes > PAGE_BYTES && !events.is_empty() {
                more = true;
                break;
            }
            let event: Event = codec::unpack(&encoded.1).map_err(|e| StoreError::Corrupt(e.to_string()))?;
            events.push(event);
        }
        Ok(EventsPage { events, more })
    }
}

/// The commands of a batch, and which of them are EXPIREs: one per stream, after its last XADD.
fn batch(events: &[EventWrite], policy: EventPolicy) -> (Pipeline, Vec<bool>) {
    let last: HashMap<&TaskKey, usize> = events.iter().enumerate().map(|(i, e)| (&e.key, i)).collect();
    let mut pipeline = Pipeline::with_capacity(events.len() + last.len());
    let mut expires = Vec::with_capacity(events.len() + last.len());
    pipeline.ignore_errors();
    let maxlen = policy.maxlen.max(1).to_string();
    let mut id = String::new();
    for (i, event) in events.iter().enumerate() {
        debug_assert!(event.encoded.len() <= 2 * MAX_EVENT_BYTES);
        let key = keys::events(&event.key);
        id.clear();
        // Writing into a string can't fail.
        let _never = write!(id, "{}-{}", event.attempt, event.n);
        let bytes = XADD_BYTES + key.len() + maxlen.len() + id.len() + event.encoded.len();
        let mut xadd = Cmd::with_capacity(XADD_ARGS, bytes);
        xadd.arg("XADD").arg(&key).arg("MAXLEN").arg("~").arg(&maxlen).arg(&id).arg(FIELD);
        xadd.arg(&event.encoded[..]);
        pipeline.add_command(xadd);
        expires.push(false);
        if policy.ttl_seconds > 0 && last.get(&event.key) == Some(&i) {
            pipeline.cmd("EXPIRE").arg(&key).arg(policy.ttl_seconds);
            expires.push(true);
        }
    }
    (pipeline, expires)
}

/// "The ID specified in XADD is equal or smaller than the target stream top item": the server gives
/// this refusal no code of its own.
fn is_not_newer(error: &RedisError) -> bool {
    error.detail().is_some_and(|text| text.contains("equal or smaller"))
}
