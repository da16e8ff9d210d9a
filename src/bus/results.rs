//! Large results, for as long as the index shows their tasks: one message a task, in a stream of their own.
//!
//! A result is bounded far below what a message may hold, so nothing is cut in pieces. Written by the owner's indexer
//! before the index names it, and again when the index is made anew: the last one of a subject counts. Each goes by itself
//! when its task's retention by age is over; beyond the stream's size the oldest make room.

use std::time::Duration;

use async_nats::jetstream::Context;

use super::{
    api::ApiError,
    kept::{Kept, KeptError},
};
use crate::{
    task::{Payload, TaskKey},
    wire::{codec, subjects, topology::RESULTS},
};

/// The shortest time to live that the server takes.
const LEAST: Duration = Duration::from_secs(1);

/// Why a result could not be kept, or read back.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// A call failed.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// It is not what was written.
    #[error("the stored result of {key} is broken: {what}")]
    Broken {
        /// Whose.
        key: TaskKey,
        /// What is wrong with it.
        what: String,
    },
}

/// The results of all tasks. Cheap to clone.
#[derive(Clone)]
pub struct Results {
    kept: Kept,
}

impl Results {
    /// Asks the server nothing yet.
    pub async fn new(js: &Context) -> Result<Self, ApiError> {
        match Kept::new(js, RESULTS).await {
            Ok(kept) => Ok(Self { kept }),
            Err(KeptError::Api(error)) => Err(error),
            Err(other) => Err(ApiError::Unavailable {
                call: format!("the stream {RESULTS}"),
                reason: other.to_string(),
            }),
        }
    }

    /// Stores a task's result for that long. `again`: it may be there already, and what is there goes.
    pub async fn store(
        &self,
        key: &TaskKey,
        result: &Payload,
        lives: Duration,
        again: bool,
    ) -> Result<(), KeptError> {
        let subject = subjects::result(&key.tenant, &key.id);
        let seq = self.kept.store_for(&subject, codec::pack(result), Some(lives.max(LEAST))).await?;
        if again {
            self.kept.purge(&subject, Some(seq)).await?;
        }
        Ok(())
    }

    /// A task's result; `None` if it is not there any more.
    pub async fn get(&self, key: &TaskKey) -> Result<Option<Payload>, ResultError> {
        let Some(message) = self.kept.last(&subjects::result(&key.tenant, &key.id)).await? else {
            return Ok(None);
        };
        let broken =
            |error: codec::DecodeError| ResultError::Broken { key: key.clone(), what: error.to_string() };
        codec::unpack(&message.payload).map(Some).map_err(broken)
    }
}
