//! Triggers and how they are doing, in a bucket of their own; and the consumers they read with.
//!
//! `trigger.<name>` is written by operators, `state.<name>` by the owner's runner, each by compare-and-set. A consumer is made
//! when its trigger first runs and goes with it; its place in the stream is the trigger's place.

use async_nats::jetstream::{self, ErrorCode};
use futures_util::{Stream, StreamExt, future};
use serde_json::{Value, json};

use super::{
    api::{self, ApiError},
    entries::{Changed, Entries, EntriesError},
};
use crate::{
    task::{
        TriggerName,
        trigger::{Start, TriggerSettings, state::TriggerState},
    },
    wire::topology::{self, TRIGGERS_BUCKET},
};

/// Larger entries are none of ours.
const MAX_ENTRY: usize = 256 * 1024;
/// Unacknowledged messages are asked for again by whoever takes over, not by the server's clock.
const ACK_WAIT_NANOS: u64 = 24 * 60 * 60 * 1_000_000_000;
/// Messages a trigger may hold, at most.
const MAX_ACK_PENDING: u32 = 4_096;

/// A trigger was set; `None`: removed.
#[derive(Debug)]
pub struct TriggerChange {
    /// Which.
    pub name: TriggerName,
    /// Revision of the entry.
    pub revision: u64,
    /// What it says, or why it can't be read.
    pub settings: Option<Result<Box<TriggerSettings>, String>>,
}

/// The bucket.
#[derive(Clone)]
pub struct TriggersBucket {
    entries: Entries,
}

impl TriggersBucket {
    /// Opens the bucket, which `bus::provision` makes.
    pub async fn open(js: &jetstream::Context) -> Result<Self, EntriesError> {
        Ok(Self { entries: Entries::open(js, TRIGGERS_BUCKET, MAX_ENTRY).await? })
    }

    /// Every trigger there is, then every change, as they come.
    pub async fn follow(
        &self,
    ) -> Result<impl Stream<Item = Result<TriggerChange, EntriesError>> + Unpin + use<>, EntriesError> {
        let (changes, entries) = (self.entries.follow("trigger.*").await?, self.entries.clone());
        let changes = changes.filter_map(move |changed| {
            let change = changed.map(|Changed { key, revision, value }| {
                let name = TriggerName::new(key.strip_prefix("trigger.")?).ok()?;
                let settings = value.map(|value| entries.read(&value));
                Some(TriggerChange { name, revision, settings })
            });
            future::ready(change.transpose())
        });
        Ok(changes)
    }

    /// Names of all triggers that are set.
    pub async fn names(&self) -> Result<Vec<TriggerName>, EntriesError> {
        self.entries.names("trigger.").await
    }

    /// Names of all triggers that were ever run, and not cleaned up after.
    pub async fn with_state(&self) -> Result<Vec<TriggerName>, EntriesError> {
        self.entries.names("state.").await
    }

    /// A trigger with its revision.
    pub async fn trigger(&self, name: &TriggerName) -> Result<Option<(TriggerSettings, u64)>, EntriesError> {
        self.entries.get(topology::trigger_key(name)).await
    }

    /// How it is doing, with the revision of that.
    pub async fn state(&self, name: &TriggerName) -> Result<Option<(TriggerState, u64)>, EntriesError> {
        self.entries.get(topology::trigger_state_key(name)).await
    }

    /// Sets a trigger if the entry is still at `revision` (`None`: there is none). Returns the new revision.
    pub async fn set(
        &self,
        name: &TriggerName,
        settings: &TriggerSettings,
        revision: Option<u64>,
    ) -> Result<u64, EntriesError> {
        settings.check().map_err(|rule| self.entries.nonsense(rule))?;
        self.entries.set(topology::trigger_key(name), settings, revision).await
    }

    /// Notes how it is doing if nobody else has since.
    pub async fn note(
        &self,
        name: &TriggerName,
        state: &TriggerState,
        revision: Option<u64>,
    ) -> Result<u64, EntriesError> {
        self.entries.set(topology::trigger_state_key(name), state, revision).await
    }

    /// Removes a trigger; its tasks stay. Its consumer goes when a coordinator sees it.
    pub async fn remove(&self, name: &TriggerName) -> Result<(), EntriesError> {
        self.entries.remove(topology::trigger_key(name)).await
    }

    /// Forgets how a trigger was doing.
    pub async fn forget(&self, name: &TriggerName) -> Result<(), EntriesError> {
        self.entries.purge(topology::trigger_state_key(name)).await
    }
}

/// A stream as a trigger finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStream {
    /// When it was made.
    pub created: String,
    /// Of its oldest message.
    pub first_seq: u64,
    /// Of the newest it ever had.
    pub last_seq: u64,
    /// Messages leave it when they are acknowledged.
    pub is_queue: bool,
    /// Acknowledging one message may acknowledge all before it.
    pub acks_all: bool,
}

/// Looks at a stream; `None`: there is none.
pub async fn source_stream(js: &jetstream::Context, stream: &str) -> Result<Option<SourceStream>, ApiError> {
    let info = match api::call(js, &format!("STREAM.INFO.{stream}"), &json!({})).await {
        Ok(info) => info,
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => return Ok(None),
        Err(error) => return Err(error),
    };
    let state = |field| info["state"][field].as_u64().unwrap_or(0);
    let retention = info["config"]["retention"].as_str().unwrap_or_default();
    Ok(Some(SourceStream {
        created: info["created"].as_str().unwrap_or_default().to_owned(),
        first_seq: state("first_seq").max(1),
        last_seq: state("last_seq"),
        is_queue: retention == "workqueue",
        acks_all: retention == "limits",
    }))
}

/// Where a new trigger on this stream begins: behind what is there, or with it.
pub fn start_of(stream: Option<&SourceStream>, all: bool) -> Start {
    match stream {
        Some(stream) if !all => Start { seq: stream.last_seq + 1, created: stream.created.clone() },
        Some(stream) => Start { seq: 1, created: stream.created.clone() },
        None => Start { seq: 1, created: String::new() },
    }
}

/// How far a consumer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here is acknowledged.
    pub floor: u64,
    /// Messages that are still to come.
    pub pending: u64,
    /// Messages handed out and not acknowledged.
    pub unacked: u64,
}

fn progress(info: &Value) -> Progress {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    Progress {
        floor: number(&info["ack_floor"]["stream_seq"]),
        pending: number(&info["num_pending"]),
        unacked: number(&info["num_ack_pending"]),
    }
}

/// How far a trigger's consumer is; `None`: it is gone, or its stream.
pub async fn consumer_progress(
    js: &jetstream::Context,
    stream: &str,
    name: &TriggerName,
) -> Result<Option<Progress>, ApiError> {
    Ok(consumer(js, stream, name).await?.as_ref().map(progress))
}

async fn consumer(
    js: &jetstream::Context,
    stream: &str,
    name: &TriggerName,
) -> Result<Option<Value>, ApiError> {
    let durable = topology::trigger_consumer(name);
    match api::call(js, &format!("CONSUMER.INFO.{stream}.{durable}"), &json!({})).await {
        Ok(info) => Ok(Some(info)),
        Err(e) if e.is(ErrorCode::CONSUMER_NOT_FOUND) || e.is(ErrorCode::STREAM_NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sees to it that a trigger has its consumer, with this filter; a new one begins at `from`.
pub async fn ensure_consumer(
    js: &jetstream::Context,
    stream: &str,
    found: &SourceStream,
    name: &TriggerName,
    filter: Option<&str>,
    from: u64,
) -> Result<Progress, ApiError> {
    let durable = topology::trigger_consumer(name);
    let call = format!("CONSUMER.CREATE.{stream}.{durable}");
    let filter = filter.unwrap_or_default();
    let (mut config, action) = match consumer(js, stream, name).await? {
        Some(info) if info["config"]["filter_subject"].as_str().unwrap_or_default() == filter => {
            return Ok(progress(&info));
        }
        Some(info) => (info["config"].clone(), "update"),
        None => {
            let mut config = json!({
                "name": durable,
                "durable_name": durable,
                "description": format!("Of the trigger {name}"),
                "deliver_policy": "all",
                "ack_policy": if found.acks_all { "all" } else { "explicit" },
                "replay_policy": "instant",
                "ack_wait": ACK_WAIT_NANOS,
                "max_ack_pending": MAX_ACK_PENDING,
                "max_deliver": -1,
            });
            if from > 1 && !found.is_queue {
                config["deliver_policy"] = "by_start_sequence".into();
                config["opt_start_seq"] = from.into();
            }
            (config, "create")
        }
    };
    match (filter, config.as_object_mut()) {
        ("", Some(fields)) => drop(fields.remove("filter_subject")),
        _ => config["filter_subject"] = filter.into(),
    }
    let body = json!({"stream_name": stream, "config": config, "action": action});
    api::call(js, &call, &body).await.map(|info| progress(&info))
}

/// Deletes a trigger's consumer; one that is gone is fine.
pub async fn delete_consumer(
    js: &jetstream::Context,
    stream: &str,
    name: &TriggerName,
) -> Result<(), ApiError> {
    let durable = topology::trigger_consumer(name);
    match api::call(js, &format!("CONSUMER.DELETE.{stream}.{durable}"), &json!({})).await {
        Ok(_) => Ok(()),
        Err(e) if e.is(ErrorCode::CONSUMER_NOT_FOUND) || e.is(ErrorCode::STREAM_NOT_FOUND) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Drops what stands in a stream up to a sequence, this one included.
pub async fn purge_through(js: &jetstream::Context, stream: &str, seq: u64) -> Result<(), ApiError> {
    api::call(js, &format!("STREAM.PURGE.{stream}"), &json!({"seq": seq + 1})).await.map(drop)
}
