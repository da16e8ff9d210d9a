//! Publishing into streams. Three ends: stored, refused, unknown; unknown is never called failed.
//!
//! A publish whose acknowledgement does not come may still be stored later, so the only honest
//! thing to do with it is to publish the same bytes again, or to say that nobody knows.

use std::{error::Error as _, time::Duration};

use async_nats::jetstream::{
    self, ErrorCode,
    context::{PublishAckFuture, PublishError, PublishErrorKind},
};
use bytes::Bytes;
use tokio::time::Instant;

use super::link::Lane;

/// How long one acknowledgement may take before it counts as unknown.
pub(super) const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two tries of the same bytes.
const AGAIN: Duration = Duration::from_millis(200);

/// Why a message is not known to be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The stream takes no more now. Certain: not stored.
    #[error("the stream is full")]
    Full,
    /// Nothing takes this subject. Certain: not stored.
    #[error("no stream takes this subject")]
    NoStream,
    /// Above what the server takes in one message. Certain: not stored.
    #[error("the message is larger than the server's max_payload")]
    TooLarge,
    /// Refused by the server. Certain: not stored.
    #[error("the server refused the message: {0}")]
    Refused(String),
    /// Neither stored nor not stored, as far as anybody can tell from here.
    #[error("not acknowledged in time; it may or may not be stored")]
    Unknown,
}

/// A message on its way into a stream.
pub struct Posted(PublishAckFuture);

impl Posted {
    /// Waits for the stream's word.
    pub async fn stored(self) -> Result<(), StoreError> {
        self.0.await.map(drop).map_err(|error| classify(&error))
    }
}

fn classify(error: &PublishError) -> StoreError {
    match error.kind() {
        PublishErrorKind::StreamNotFound => StoreError::NoStream,
        PublishErrorKind::MaxPayloadExceeded => StoreError::TooLarge,
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => {
            StoreError::Unknown
        }
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence => {
            StoreError::Refused(error.to_string())
        }
        PublishErrorKind::Other => {
            match error.source().and_then(|source| source.downcast_ref::<jetstream::Error>()) {
                Some(server) if server.error_code() == ErrorCode::STREAM_STORE_FAILED => StoreError::Full,
                Some(server) if server.error_code() == ErrorCode::INSUFFICIENT_RESOURCES => StoreError::Full,
                Some(server) if server.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => {
                    StoreError::TooLarge
                }
                Some(server) => StoreError::Refused(server.to_string()),
                None => StoreError::Unknown,
            }
        }
    }
}

impl Lane {
    /// Hands a message over, in the order of the calls; the acknowledgement is awaited apart.
    pub async fn post(&self, subject: String, body: Bytes) -> Result<Posted, StoreError> {
        match self.streams().publish(subject, body).await {
            Ok(ack) => Ok(Posted(ack)),
            Err(error) => Err(classify(&error)),
        }
    }

    /// Stores one message, publishing the identical bytes again for as long as the outcome is unknown.
    pub async fn store(&self, subject: &str, body: Bytes, within: Duration) -> Result<(), StoreError> {
        let deadline = Instant::now() + within;
        let mut unknown = false;
        let mut no_stream = 0;
        loop {
            let attempt = async { self.post(subject.to_owned(), body.clone()).await?.stored().await };
            let error = match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => return Err(StoreError::Unknown),
            };
            match error {
                StoreError::Unknown => unknown = true,
                // A stream between two leaders answers nobody for a moment.
                StoreError::NoStream if no_stream < 3 => no_stream += 1,
                // An earlier try of the same bytes may have been stored.
                _ if unknown => return Err(StoreError::Unknown),
                certain => return Err(certain),
            }
            if Instant::now() + AGAIN >= deadline {
                return Err(if unknown { StoreError::Unknown } else { error });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
