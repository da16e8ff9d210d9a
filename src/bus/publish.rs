//! Publishing into streams. Three ends: stored, refused, unknown; unknown is never called failed.
//!
//! A publish whose acknowledgement does not come may still be stored later, so the only honest
//! thing to do with it is to publish the same bytes again, or to say that nobody knows.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::time::Instant;

use super::{acks::Answer, link::Lane};
use crate::wire::headers;

/// How long one acknowledgement may take before it counts as unknown.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Its subject has a message already, and it may have one only. Certain: not stored, now.
    #[error("there is a message of this subject already")]
    Taken,
    /// Refused by the server. Certain: not stored.
    #[error("the server refused the message: {0}")]
    Refused(String),
    /// Neither stored nor not stored, as far as anybody can tell from here.
    #[error("not acknowledged in time; it may or may not be stored")]
    Unknown,
}

/// What stands in the headers of a message about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// What makes two messages the same: letters of ASCII, none that end a line.
    pub message_id: String,
    /// Triggers that lie behind whoever publishes it.
    pub hops: u32,
    /// How its body is encoded.
    pub content_type: &'static str,
}

impl Marks {
    fn headers(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(headers::CONTENT_TYPE, self.content_type);
        map.insert(headers::MESSAGE_ID, self.message_id.as_str());
        if self.hops > 0 {
            map.insert(headers::HOPS, self.hops.to_string());
        }
        map
    }
}

/// A message on its way into a stream.
pub struct Posted(Answer);

impl Posted {
    /// Waits for the stream's word.
    pub async fn stored(self) -> Result<(), StoreError> {
        // Nobody answers any more: its time is over, or the connection is closed.
        self.0.await.unwrap_or(Err(StoreError::Unknown))
    }
}

impl Lane {
    /// Hands a message over, in the order of the calls; the acknowledgement is awaited apart.
    pub async fn post(&self, subject: String, body: Bytes) -> Result<Posted, StoreError> {
        self.acks().post(subject, None, body, Instant::now() + ACK_TIMEOUT).await.map(Posted)
    }

    /// Stores one message, publishing the identical bytes again for as long as the outcome is unknown.
    pub async fn store(&self, subject: &str, body: Bytes, within: Duration) -> Result<(), StoreError> {
        self.store_with(subject, None, body, within).await
    }

    /// The same with what stands in its headers.
    pub async fn store_marked(
        &self,
        subject: &str,
        marks: &Marks,
        body: Bytes,
        within: Duration,
    ) -> Result<(), StoreError> {
        self.store_with(subject, Some(marks.headers()), body, within).await
    }

    pub(super) async fn store_with(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        body: Bytes,
        within: Duration,
    ) -> Result<(), StoreError> {
        let deadline = Instant::now() + within;
        let mut unknown = false;
        let mut no_stream = 0;
        loop {
            let until = deadline.min(Instant::now() + ACK_TIMEOUT);
            let posted = self.acks().post(subject.to_owned(), headers.clone(), body.clone(), until).await;
            let error = match posted.map(Posted) {
                Err(error) => error,
                Ok(posted) => match posted.stored().await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
            };
            match error {
                StoreError::Unknown => unknown = true,
                // It may be the earlier try of the same bytes, or somebody's who was faster.
                StoreError::Taken => return Err(StoreError::Taken),
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
