//! A stream of what is kept: publishing until it is known to be stored, reading by sequence or subject, purging.
//!
//! What lacks [`headers::COORDINATOR`] is noise, as in the journal, and reads as if it were not there. What the
//! bytes mean is checked by whoever reads them. Used by [`super::snapshots`], [`super::archive`], [`super::results`] and
//! [`super::objects`]; the last of them is written by instances, so it reads noise too.

use std::time::Duration;

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{PublishError, PublishErrorKind},
    message::{PublishMessage, StreamMessage},
    stream::{DirectGetError, DirectGetErrorKind, LastRawMessageErrorKind, RawMessageErrorKind, Stream},
};
use bytes::Bytes;

use super::api::{self, ApiError};
use crate::wire::headers;

/// How long an acknowledgement is waited for before the same bytes are published again.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the same bytes are published before it is given up.
const TRIES: u32 = 5;
/// Pause between two tries.
const AGAIN: Duration = Duration::from_millis(200);
/// Messages without the mark that a search for the last marked one steps over.
const NOISE: u32 = 10_000;

/// Why something could not be kept, or read back.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// A call failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The stream or the server's storage is full.
    #[error("the stream {stream} is full: {reason}")]
    Full {
        /// Which stream.
        stream: &'static str,
        /// The server's words.
        reason: String,
    },
    /// Refused, or not acknowledged however often it was tried.
    #[error("the stream {stream} did not take a message of {bytes} bytes: {reason}")]
    NotStored {
        /// Which stream.
        stream: &'static str,
        /// Its size.
        bytes: usize,
        /// What was said.
        reason: String,
    },
}

/// Some of a stream's subjects.
pub(super) struct Subjects {
    pub(super) subjects: Vec<String>,
    /// How many match in all.
    pub(super) total: usize,
    /// Of the stream.
    pub(super) last_seq: u64,
}

/// One such stream.
#[derive(Clone)]
pub(super) struct Kept {
    js: Context,
    stream: Stream<()>,
    name: &'static str,
}

impl Kept {
    /// The stream called `name`. Asks the server nothing yet.
    pub(super) async fn new(js: &Context, name: &'static str) -> Result<Self, KeptError> {
        let stream =
            js.get_stream_no_info(name).await.map_err(|e| ApiError::from_source("a stream by name", &e))?;
        Ok(Self { js: js.clone(), stream, name })
    }

    /// Stores `bytes`, publishing them again while the outcome is unknown; so they may be there twice. Returns the
    /// sequence of the acknowledged copy.
    pub(super) async fn store(&self, subject: &str, bytes: Bytes) -> Result<u64, KeptError> {
        self.store_for(subject, bytes, None).await
    }

    /// The same for a limited time, where the stream allows that.
    pub(super) async fn store_for(
        &self,
        subject: &str,
        bytes: Bytes,
        lives: Option<Duration>,
    ) -> Result<u64, KeptError> {
        let mut said = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(AGAIN).await;
            }
            let message = PublishMessage::build().header(headers::COORDINATOR, "1").payload(bytes.clone());
            let message = match lives {
                Some(lives) => message.ttl(lives),
                None => message,
            };
            let sent = async { self.js.send_publish(subject.to_owned(), message).await?.await };
            match tokio::time::timeout(ACK_TIMEOUT, sent).await {
                Ok(Ok(ack)) => return Ok(ack.sequence),
                Ok(Err(error)) => match verdict(&error) {
                    Verdict::Full => {
                        return Err(KeptError::Full { stream: self.name, reason: error.to_string() });
                    }
                    Verdict::Refused => {
                        said = error.to_string();
                        break;
                    }
                    Verdict::Unknown => said = error.to_string(),
                },
                Err(_elapsed) => said = "no acknowledgement in time".to_owned(),
            }
        }
        Err(KeptError::NotStored { stream: self.name, bytes: bytes.len(), reason: said })
    }

    /// The message at a sequence, from any replica; from the leader if that has none. `None`: not there, or noise.
    pub(super) async fn get(&self, seq: u64) -> Result<Option<StreamMessage>, KeptError> {
        match self.stream.direct_get(seq).await {
            Ok(message) => return Ok(marked(message)),
            Err(e) if falls_back(&e) => {}
            Err(e) => return Err(ApiError::from_source("a direct get", &e).into()),
        }
        match self.stream.get_raw_message(seq).await {
            Ok(message) => Ok(marked(message)),
            Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(e) => Err(ApiError::from_source("STREAM.MSG.GET", &e).into()),
        }
    }

    /// The first message of a subject at or behind a sequence, noise included.
    pub(super) async fn next(&self, subject: &str, from: u64) -> Result<Option<StreamMessage>, KeptError> {
        match self.stream.direct_get_next_for_subject(subject, Some(from)).await {
            Ok(message) => return Ok(Some(message)),
            Err(e) if falls_back(&e) => {}
            Err(e) => return Err(ApiError::from_source("a direct get", &e).into()),
        }
        let asked = self.stream.raw_message_builder().sequence(from).next_by_subject(subject);
        match asked.send().await {
            Ok(message) => Ok(Some(message)),
            Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(e) => Err(ApiError::from_source("STREAM.MSG.GET", &e).into()),
        }
    }

    /// The last message of a subject that is not noise, from the leader.
    pub(super) async fn last(&self, subject: &str) -> Result<Option<StreamMessage>, KeptError> {
        let last = match self.stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => message,
            Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(e) => return Err(ApiError::from_source("STREAM.MSG.GET", &e).into()),
        };
        let end = last.sequence;
        if let Some(message) = marked(last) {
            return Ok(Some(message));
        }
        // Somebody's acknowledgement lies on top; what is ours lies before it.
        let (mut from, mut found) = (1, None);
        for _ in 0..NOISE {
            let Some(message) = self.next(subject, from).await? else { break };
            from = message.sequence + 1;
            found = marked(message).or(found);
            if from > end {
                break;
            }
        }
        Ok(found)
    }

    /// Every subject of the stream that matches, sorted.
    pub(super) async fn subjects(&self, filter: &str) -> Result<Vec<String>, KeptError> {
        let mut all = Vec::new();
        loop {
            let page = self.subjects_from(filter, all.len()).await?;
            let last = page.subjects.is_empty();
            all.extend(page.subjects);
            if last || all.len() >= page.total {
                break;
            }
        }
        all.sort();
        Ok(all)
    }

    /// Subjects of the stream that match, as many as the server tells at once, `skip` of them further on.
    pub(super) async fn subjects_from(&self, filter: &str, skip: usize) -> Result<Subjects, KeptError> {
        let call = format!("STREAM.INFO.{}", self.name);
        let body = serde_json::json!({"subjects_filter": filter, "offset": skip});
        let mut info = api::call(&self.js, &call, &body).await?;
        let subjects = match info["state"]["subjects"].take() {
            serde_json::Value::Object(page) => page.into_iter().map(|(subject, _)| subject).collect(),
            _ => Vec::new(),
        };
        let total = info["total"].as_u64().map_or(0, |total| usize::try_from(total).unwrap_or(usize::MAX));
        Ok(Subjects { subjects, total, last_seq: info["state"]["last_seq"].as_u64().unwrap_or(0) })
    }

    /// Drops every message of the matching subjects; with `before`, only those with a lower sequence.
    pub(super) async fn purge(&self, filter: &str, before: Option<u64>) -> Result<u64, KeptError> {
        let mut body = serde_json::json!({"filter": filter});
        if let Some(seq) = before {
            body["seq"] = seq.into();
        }
        let answer = api::call(&self.js, &format!("STREAM.PURGE.{}", self.name), &body).await?;
        Ok(answer["purged"].as_u64().unwrap_or(0))
    }

    /// Bytes in the stream, and what it may hold.
    pub(super) async fn fill(&self) -> Result<(u64, u64), KeptError> {
        let info = api::call(&self.js, &format!("STREAM.INFO.{}", self.name), &serde_json::json!({})).await?;
        let bytes = info["state"]["bytes"].as_u64().unwrap_or(0);
        Ok((bytes, info["config"]["max_bytes"].as_u64().unwrap_or(u64::MAX)))
    }
}

/// A replica may lag, and a stream may not allow direct reads: then the leader knows.
fn falls_back(error: &DirectGetError) -> bool {
    matches!(error.kind(), DirectGetErrorKind::NotFound | DirectGetErrorKind::ErrorResponse(..))
}

fn marked(message: StreamMessage) -> Option<StreamMessage> {
    message.headers.get(headers::COORDINATOR).is_some().then_some(message)
}

enum Verdict {
    Full,
    Refused,
    Unknown,
}

fn verdict(error: &PublishError) -> Verdict {
    let server = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>())
        .map(|e| e.error_code());
    match (error.kind(), server) {
        (
            _,
            Some(
                ErrorCode::STREAM_STORE_FAILED
                | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
                | ErrorCode::INSUFFICIENT_RESOURCES
                | ErrorCode::STORAGE_RESOURCES_EXCEEDED,
            ),
        ) => Verdict::Full,
        (PublishErrorKind::MaxPayloadExceeded, _) | (_, Some(_)) => Verdict::Refused,
        _ => Verdict::Unknown,
    }
}
