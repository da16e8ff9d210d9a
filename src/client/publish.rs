//! Publishing about topics: stored means that every trigger on the topic will see it.
//!
//! A message is published again, with the same bytes and the same id, for as long as nobody knows whether it is stored; so it
//! may stand in the stream twice, and triggers make one task of it.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use serde::Serialize;

use super::{Client, Error, Result, submit::check_size};
use crate::{
    bus::{Marks, StoreError},
    task::{Code, Millis, Payload, Refusal, TaskId, millis, trigger::topic::Topic},
    wire::{headers, subjects},
};

/// Characters of a message's id, at most.
const MAX_MESSAGE_ID: usize = 128;
/// When a full stream is worth another try.
const BACKPRESSURE_RETRY_MS: Millis = 1_000;

/// A message on its way: await it, or set more first.
#[must_use = "a message is not published until it is awaited"]
pub struct Publication {
    client: Client,
    message: Result<(Topic, Payload)>,
    id: Option<String>,
}

impl Publication {
    /// What makes two messages the same: triggers make one task of all that are published under it. Up to 128 printable
    /// characters of ASCII; a fresh one unless set.
    pub fn id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }
}

impl IntoFuture for Publication {
    type Output = Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (topic, message) = self.message?;
            let id = self.id.unwrap_or_else(|| TaskId::fresh().to_string());
            self.client.store_message(&topic, message, id).await
        })
    }
}

impl Client {
    /// Publishes about a topic of this client's tenant, names separated by dots. `Ok` means stored.
    pub fn publish<T: Serialize + ?Sized>(&self, topic: &str, message: &T) -> Publication {
        let message =
            Payload::json(message).map_err(|error| Error::Data(format!("the message is no JSON: {error}")));
        let message = message.and_then(|message| Ok((topic_of(topic)?, message)));
        Publication { client: self.clone(), message, id: None }
    }

    /// The same with a message that is encoded already.
    pub fn publish_raw(&self, topic: &str, message: Payload) -> Publication {
        let message = topic_of(topic).map(|topic| (topic, message));
        Publication { client: self.clone(), message, id: None }
    }

    async fn store_message(&self, topic: &Topic, message: Payload, id: String) -> Result<()> {
        check_size("the message", message.len(), self.parts.link.main.max_payload())?;
        check_id(&id)?;
        let content_type = match &message {
            Payload::Json(_) => headers::JSON,
            Payload::Bytes(_) => headers::OCTETS,
        };
        let marks = Marks { message_id: id, hops: self.parts.hops, content_type };
        let (subject, within) = (subjects::topic(&self.parts.tenant, topic), self.parts.submit_within);
        let body = message.as_bytes().clone();
        let stored = self.parts.link.bulk.store_marked(&subject, &marks, body, within).await;
        stored.map_err(|error| not_stored(error, &marks.message_id, millis(within)))
    }
}

fn topic_of(topic: &str) -> Result<Topic> {
    Topic::new(topic).map_err(|error| Refusal::new(Code::BadName, error.to_string()).into())
}

fn check_id(id: &str) -> Result<()> {
    if !id.is_empty() && id.len() <= MAX_MESSAGE_ID && id.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Ok(());
    }
    let message = format!("a message's id has 1 to {MAX_MESSAGE_ID} printable characters of ASCII");
    Err(Refusal::new(Code::BadMessage, message).into())
}

fn not_stored(error: StoreError, id: &str, within: Millis) -> Error {
    match error {
        StoreError::Unknown => Error::TimedOut {
            what: format!("the message {id}: it may or may not be stored; publish it under the same id again"),
            ms: within,
        },
        StoreError::Full => Error::Refused(
            Refusal::new(
                Code::Backpressure,
                "the topics' stream is full: a trigger is far behind; publish under the same id again later",
            )
            .retry_after(BACKPRESSURE_RETRY_MS),
        ),
        StoreError::TooLarge => Error::Refused(Refusal::new(
            Code::TooLarge,
            "the message is above the server's max_payload; send a reference instead of the data",
        )),
        StoreError::NoStream => Error::Unavailable(
            "no stream takes topics here; has a coordinator of this version ever run on this NATS server or account?"
                .to_owned(),
        ),
        refused @ (StoreError::Taken | StoreError::Refused(_)) => {
            Error::Unavailable(format!("the message was not stored: {refused}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_fits_into_a_header_and_a_bad_topic_says_what_is_wrong() {
        for good in ["a", "order 17/b", &"x".repeat(128)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", "a\r\nNats-Msg-Id: x", "ä", &"x".repeat(129)] {
            assert_eq!(check_id(bad).unwrap_err().code(), Some(Code::BadMessage), "{bad}");
        }
        let error = topic_of("Docs.new").unwrap_err();
        assert!(error.code() == Some(Code::BadName) && error.to_string().contains("Docs.new"), "{error}");
    }

    #[test]
    fn a_full_stream_is_backpressure_and_silence_is_no_refusal() {
        assert_eq!(not_stored(StoreError::Full, "a", 1).code(), Some(Code::Backpressure));
        assert!(matches!(not_stored(StoreError::Unknown, "a", 1), Error::TimedOut { .. }));
    }
}
