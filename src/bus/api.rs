//! The JetStream API spoken in plain JSON, for what needs the server's own words.
//!
//! Configurations are compared and exported field by field, so they travel as JSON values and not
//! as a client library's structs. Called by `provision` and `journal`; decides nothing.

use async_nats::jetstream::{Context, ErrorCode, context::RequestErrorKind, response::Response};
use serde::Serialize;
use serde_json::Value;

use crate::wire::topology;

/// Why a call to the JetStream API came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer: JetStream is off, has no leader now, or the user may not ask.
    #[error("JetStream does not answer {call}: {reason} (is JetStream enabled, and may this user call it?)")]
    Unavailable {
        /// Which call.
        call: String,
        /// What was seen instead.
        reason: String,
    },
    /// The server said no.
    #[error("{call}: {description} (error code {code})")]
    Refused {
        /// Which call.
        call: String,
        /// The server's error code, `err_code` in its API.
        code: u64,
        /// The server's words.
        description: String,
    },
}

impl ApiError {
    /// Whether the server refused with this code.
    pub fn is(&self, wanted: ErrorCode) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted.0)
    }

    /// Whether the same call can succeed later, unchanged.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            // 10008: JetStream temporarily unavailable.
            Self::Refused { code, .. } => *code == 10_008,
        }
    }

    /// An error that came out of the client library's own call.
    pub(super) fn from_source(call: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut source = Some(error);
        while let Some(e) = source {
            if let Some(js) = e.downcast_ref::<async_nats::jetstream::Error>() {
                return refused(call, js);
            }
            source = e.source();
        }
        Self::Unavailable { call: call.to_owned(), reason: error.to_string() }
    }
}

fn refused(call: &str, error: &async_nats::jetstream::Error) -> ApiError {
    let text = error.to_string();
    let description = text.split(" (code ").next().unwrap_or(&text).to_owned();
    ApiError::Refused { call: call.to_owned(), code: error.error_code().0, description }
}

/// Calls `$JS.API.<call>` (or the context's own prefix) and returns the answer as it is.
pub(super) async fn call<T: Serialize + ?Sized>(
    js: &Context,
    call: &str,
    body: &T,
) -> Result<Value, ApiError> {
    match js.request::<_, T, Response<Value>>(call.to_owned(), body).await {
        Ok(Response::Ok(value)) => Ok(value),
        Ok(Response::Err { error }) => Err(refused(call, &error)),
        Err(error) => Err(ApiError::Unavailable {
            call: call.to_owned(),
            reason: match error.kind() {
                RequestErrorKind::NoResponders => "nobody listens".to_owned(),
                RequestErrorKind::TimedOut => "no answer in time".to_owned(),
                _ => error.to_string(),
            },
        }),
    }
}

/// Has everything unacknowledged redelivered at once: what a new owner does first. Needs 2.14.
pub async fn consumer_reset(js: &Context, stream: &str, consumer: &str) -> Result<(), ApiError> {
    let nothing = serde_json::json!({});
    match call(js, &format!("CONSUMER.RESET.{stream}.{consumer}"), &nothing).await {
        // The server leaves a reset of a consumer it does not have unanswered; ask which it is.
        Err(unanswered @ ApiError::Unavailable { .. }) => {
            call(js, &format!("CONSUMER.INFO.{stream}.{consumer}"), &nothing).await?;
            Err(unanswered)
        }
        answered => answered.map(|_| ()),
    }
}

/// Has everything that the stream still holds delivered again: for a consumer without acknowledgements.
/// Returns the stream's state from before.
pub async fn consumer_rewind(js: &Context, stream: &str, consumer: &str) -> Result<StreamState, ApiError> {
    let state = stream_state(js, stream).await?;
    let from = serde_json::json!({"seq": state.first_seq});
    match call(js, &format!("CONSUMER.RESET.{stream}.{consumer}"), &from).await {
        Err(unanswered @ ApiError::Unavailable { .. }) => {
            call(js, &format!("CONSUMER.INFO.{stream}.{consumer}"), &serde_json::json!({})).await?;
            Err(unanswered)
        }
        answered => answered.map(|_| state),
    }
}

/// What a stream says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// When it was made: tells it from another one of the same name.
    pub created: String,
    /// Of its oldest message; nothing before it exists. At least 1.
    pub first_seq: u64,
    /// Of the newest it ever had.
    pub last_seq: u64,
    /// How many it holds.
    pub messages: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// The most bytes it may hold.
    pub max_bytes: u64,
}

/// Asks a stream.
pub async fn stream_state(js: &Context, stream: &str) -> Result<StreamState, ApiError> {
    let info = call(js, &format!("STREAM.INFO.{stream}"), &serde_json::json!({})).await?;
    let state = |field| info["state"][field].as_u64().unwrap_or(0);
    Ok(StreamState {
        created: info["created"].as_str().unwrap_or_default().to_owned(),
        first_seq: state("first_seq").max(1),
        last_seq: state("last_seq"),
        messages: state("messages"),
        bytes: state("bytes"),
        max_bytes: info["config"]["max_bytes"].as_u64().unwrap_or(u64::MAX),
    })
}

/// Up to which stream sequence a consumer has delivered.
pub async fn delivered_up_to(js: &Context, stream: &str, consumer: &str) -> Result<u64, ApiError> {
    let info = call(js, &format!("CONSUMER.INFO.{stream}.{consumer}"), &serde_json::json!({})).await?;
    Ok(info["delivered"]["stream_seq"].as_u64().unwrap_or(0))
}

/// Has everything undecided delivered again to the owner's consumers of a shard.
pub async fn reset_owner_consumers(
    js: &Context,
    shard: crate::wire::subjects::Shard,
) -> Result<(), ApiError> {
    let consumer = topology::owner_consumer(shard);
    consumer_rewind(js, topology::INTAKE, &consumer).await?;
    consumer_rewind(js, topology::REPORTS, &consumer).await?;
    consumer_rewind(js, topology::EVENTS, topology::EVENT_WRITER).await.map(drop)
}

/// The last sequence of a stream that still holds messages; `None` if it is empty.
pub async fn last_waiting(js: &Context, stream: &str) -> Result<Option<u64>, ApiError> {
    let state = stream_state(js, stream).await?;
    Ok((state.messages > 0).then_some(state.last_seq))
}

/// Up to which stream sequence everything is acknowledged, if the consumer waits for acknowledgements now.
pub async fn waits_for_acks(js: &Context, stream: &str, consumer: &str) -> Result<Option<u64>, ApiError> {
    let info = call(js, &format!("CONSUMER.INFO.{stream}.{consumer}"), &serde_json::json!({})).await?;
    let waiting = info["num_ack_pending"].as_u64().unwrap_or(0);
    Ok((waiting > 0).then(|| info["ack_floor"]["stream_seq"].as_u64().unwrap_or(0)))
}
