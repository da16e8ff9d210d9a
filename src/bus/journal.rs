//! The journal's bytes: appending them under a compare-and-set, and reading them back in order.
//!
//! [`JournalWriter::append`] ends in certainty: stored at a sequence, or certainly not going to
//! count, or told to stop. An append without an answer is repeated with the identical bytes and
//! expectation; only one copy can fit behind the expected head. A message without
//! [`headers::COORDINATOR`] is noise (a client had an acknowledgement sent here): readers skip it, the
//! writer appends behind it. What the bytes mean (revision,
//! chain, epoch) is checked by whoever decodes them, never here.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    connection::State,
    jetstream::{
        Context, ErrorCode,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
        stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::api::{self, ApiError};
use crate::{
    task::Millis,
    telemetry::names,
    wire::{
        headers,
        subjects::{self, Shard},
        topology,
    },
};

mod reader;
pub mod witness;

pub use reader::{Extent, JournalReader, Room, Tail};

/// Shortest and longest pause before an append is repeated.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// How long an acknowledgement is waited for before the append counts as unanswered.
const ACK_TIMEOUT: Duration = Duration::from_secs(1);

/// One message of a shard's journal, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Stream sequence: what the next append expects, if this is the head.
    pub seq: u64,
    /// The message.
    pub bytes: Bytes,
    /// When the server stored it, Unix milliseconds by the server's clock.
    pub at: Millis,
}

/// Why an append did not happen. After all but [`AppendError::Stopped`] the bytes will not count.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else appended: this coordinator owns the shard no more. Drop everything, step down.
    #[error("the journal moved on: expected its head at {expected}, found {found:?}")]
    Lost {
        /// What the append was based on.
        expected: u64,
        /// Where the head is. Lower than expected: the journal went back in time.
        found: Option<u64>,
    },
    /// The stream or the server's storage is full. The same append can succeed later.
    #[error("the journal is full: {reason}")]
    Full {
        /// The server's words.
        reason: String,
    },
    /// The message is larger than the server takes; it never succeeds.
    #[error("a journal message of {bytes} bytes is larger than the server takes: {reason}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What was said.
        reason: String,
    },
    /// Told to stop. If an attempt went out, it may be stored or not.
    #[error("stopped before the journal answered")]
    Stopped,
}

/// Why the journal could not be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A call failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// An answer made no sense.
    #[error("the server's answer to {call} has no {field}")]
    Malformed {
        /// Which call.
        call: &'static str,
        /// What was looked for.
        field: &'static str,
    },
}

/// Appends to one shard's journal. One append at a time; the caller keeps the head.
pub struct JournalWriter {
    js: Context,
    stream: Stream<()>,
    subject: String,
}

/// What came of one publish.
enum Outcome {
    Stored(u64),
    Conflict,
    Unknown,
    Refused(AppendError),
}

impl JournalWriter {
    /// A writer for `shard`. Asks the server nothing yet.
    pub async fn new(js: &Context, shard: Shard) -> Result<Self, JournalError> {
        Ok(Self { js: js.clone(), stream: journal_stream(js).await?, subject: subjects::journal(shard) })
    }

    /// Appends `bytes` behind the message at `expected` (0: the journal is empty) and returns its
    /// sequence. Goes on through lost acknowledgements and restarts of the server until it knows,
    /// or until `stop`: then act on nothing that depends on it.
    pub async fn append(
        &self,
        bytes: Bytes,
        expected: u64,
        stop: &CancellationToken,
    ) -> Result<u64, AppendError> {
        let work = self.append_until_known(&bytes, expected);
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(AppendError::Stopped),
            done = work => done,
        }
    }

    async fn append_until_known(&self, bytes: &Bytes, expected: u64) -> Result<u64, AppendError> {
        let mut pause = PAUSE.0;
        // Where the subject really ends: `expected`, or noise behind it.
        let mut end = expected;
        loop {
            match self.publish(bytes, end).await {
                Outcome::Stored(seq) => return Ok(seq),
                Outcome::Refused(error) => return Err(error),
                Outcome::Conflict => match self.judge(bytes, expected).await {
                    Some(Judged::Certain(result)) => return result,
                    Some(Judged::NoiseUpTo(seq)) => {
                        end = seq;
                        continue;
                    }
                    None => {}
                },
                Outcome::Unknown => {}
            }
            metrics::counter!(names::JOURNAL_REPUBLISHED).increment(1);
            tracing::debug!(
                expected,
                pause_ms = pause.as_millis() as u64,
                "journal append unanswered, repeating"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn publish(&self, bytes: &Bytes, end: u64) -> Outcome {
        let message = PublishMessage::build()
            .header(headers::COORDINATOR, "1")
            .payload(bytes.clone())
            .expected_last_subject_sequence(end);
        // While disconnected the client would queue a copy per attempt, and block once the queue is full.
        if self.js.client().connection_state() != State::Connected {
            return Outcome::Unknown;
        }
        let sent = async { self.js.send_publish(self.subject.clone(), message).await?.await };
        match tokio::time::timeout(ACK_TIMEOUT, sent).await {
            Ok(Ok(ack)) => Outcome::Stored(ack.sequence),
            Ok(Err(error)) => outcome_of(&error, bytes.len()),
            Err(_elapsed) => Outcome::Unknown,
        }
    }

    /// After a conflict: is the head our own message, somebody else's, or noise? `None`: can't say yet.
    async fn judge(&self, bytes: &Bytes, expected: u64) -> Option<Judged> {
        let (head, end) = leader_head(&self.stream, &self.subject).await.ok()?;
        let found = head.as_ref().map_or(0, |h| h.seq);
        match head {
            Some(head) if head.seq > expected && head.bytes == *bytes => Some(Judged::Certain(Ok(head.seq))),
            _ if found == expected && end > expected => Some(Judged::NoiseUpTo(end)),
            // The leader we read from sees no conflict: it lags behind the one that refused.
            _ if found == expected => None,
            head => {
                let found = head.map(|h| h.seq);
                Some(Judged::Certain(Err(AppendError::Lost { expected, found })))
            }
        }
    }
}

/// What a conflict turned out to be.
enum Judged {
    Certain(Result<u64, AppendError>),
    /// Nothing of a coordinator's is behind the expected head, only noise up to here.
    NoiseUpTo(u64),
}

/// Sorts by error code, never by text.
fn outcome_of(error: &PublishError, bytes: usize) -> Outcome {
    let server = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    match (error.kind(), server.map(|e| e.error_code())) {
        (PublishErrorKind::WrongLastSequence, _) => Outcome::Conflict,
        (PublishErrorKind::MaxPayloadExceeded, _) => {
            Outcome::Refused(AppendError::TooLarge { bytes, reason: error.to_string() })
        }
        (_, Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)) => {
            Outcome::Refused(AppendError::TooLarge { bytes, reason: said(server) })
        }
        (
            _,
            Some(
                ErrorCode::STREAM_STORE_FAILED
                | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
                | ErrorCode::INSUFFICIENT_RESOURCES
                | ErrorCode::STORAGE_RESOURCES_EXCEEDED,
            ),
        ) => Outcome::Refused(AppendError::Full { reason: said(server) }),
        // Includes "another append for this subject is in flight" (10164): it may be our own.
        _ => Outcome::Unknown,
    }
}

fn said(error: Option<&async_nats::jetstream::Error>) -> String {
    error.map(ToString::to_string).unwrap_or_default()
}

async fn journal_stream(js: &Context) -> Result<Stream<()>, JournalError> {
    js.get_stream_no_info(topology::JOURNAL)
        .await
        .map_err(|e| ApiError::from_source("the journal stream", &e).into())
}

/// The last message a coordinator wrote and the sequence the subject ends at (0: empty), from the
/// stream's leader: a replica may lag.
async fn leader_head(stream: &Stream<()>, subject: &str) -> Result<(Option<Entry>, u64), JournalError> {
    let failed = |e: &(dyn std::error::Error + 'static)| {
        JournalError::from(ApiError::from_source("STREAM.MSG.GET.JOURNAL", e))
    };
    let mut message = match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => message,
        Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok((None, 0)),
        Err(e) => return Err(failed(&e)),
    };
    let end = message.sequence;
    // Usually no step; as many as there is noise at the end.
    while message.subject.as_str() != subject || is_noise(Some(&message.headers)) {
        let before = message.sequence - 1;
        if before == 0 {
            return Ok((None, end));
        }
        message = match stream.get_raw_message(before).await {
            Ok(message) => message,
            // Below the first message: a purge went past everything but noise.
            Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => return Ok((None, end)),
            Err(e) => return Err(failed(&e)),
        };
    }
    let at = unix_ms(message.time.unix_timestamp_nanos());
    Ok((Some(Entry { seq: message.sequence, bytes: message.payload, at }), end))
}

/// Whether no coordinator wrote it.
fn is_noise(headers: Option<&HeaderMap>) -> bool {
    headers.is_none_or(|h| h.get(headers::COORDINATOR).is_none())
}

fn unix_ms(nanos: i128) -> Millis {
    Millis::try_from(nanos / 1_000_000).unwrap_or(0)
}

/// What the stream says about itself, and the server's clock as it says it.
struct StreamState {
    /// Unix milliseconds.
    server_now: Millis,
    first_seq: u64,
    last_seq: u64,
    bytes: u64,
    max_bytes: u64,
}

async fn stream_state(js: &Context) -> Result<StreamState, JournalError> {
    const CALL: &str = "STREAM.INFO.JOURNAL";
    let info = api::call(js, CALL, &serde_json::json!({})).await?;
    let ts = info["ts"].as_str().ok_or(JournalError::Malformed { call: CALL, field: "ts" })?;
    let ts = async_nats::datetime::parse_rfc3339(ts)
        .map_err(|_| JournalError::Malformed { call: CALL, field: "readable ts" })?;
    let state = |field| info["state"][field].as_u64().ok_or(JournalError::Malformed { call: CALL, field });
    Ok(StreamState {
        server_now: unix_ms(ts.unix_timestamp_nanos()),
        first_seq: state("first_seq")?,
        last_seq: state("last_seq")?,
        bytes: state("bytes")?,
        // -1, no limit, is refused by provisioning; here it reads as never full.
        max_bytes: info["config"]["max_bytes"].as_u64().unwrap_or(u64::MAX),
    })
}
