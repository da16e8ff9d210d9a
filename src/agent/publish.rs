//! `ctx.publish`: messages about topics, out of a handler.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{AgentError, Ctx, error::refused};
use crate::{
    client::Error,
    task::{Payload, hex},
};

impl Ctx {
    /// How many triggers lie behind this task; 0 if none does. A trigger refuses to make tasks beyond its `max_hops`.
    pub fn hops(&self) -> u32 {
        self.0.offer.hops
    }

    /// Publishes about a topic of this task's tenant, for every trigger on it. `Ok` means stored. A handler that runs again
    /// and publishes the same in the same order publishes nothing new: triggers know the messages by their ids.
    pub async fn publish<T: Serialize + ?Sized>(&self, topic: &str, message: &T) -> Result<(), AgentError> {
        let message =
            Payload::json(message).map_err(|e| AgentError::fatal(format!("the message is no JSON: {e}")))?;
        self.publish_raw(topic, message).await
    }

    /// The same with a message that is encoded already.
    pub async fn publish_raw(&self, topic: &str, message: Payload) -> Result<(), AgentError> {
        let place = {
            let mut state = self.0.state();
            state.published += 1;
            state.published
        };
        let mut hash = Sha256::new();
        hash.update(topic);
        hash.update([0, message.kind()]);
        hash.update(message.as_bytes());
        let id = format!("{}/{place}/{}", self.task(), hex(&hash.finalize()[..12]));
        self.client().publish_raw(topic, message).id(id).await.map_err(|error| match error {
            Error::Refused(refusal) if !refusal.code.is_retryable() => refused(refusal),
            error => error.into(),
        })
    }
}
