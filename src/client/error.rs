//! What can go wrong for a client, by kind.

use crate::{
    bus::BusError,
    task::{Code, NameError, Phase, Refusal, TaskId},
};

/// A client's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call of the client did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Refused, with a code, its numbers, and what to do.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The submit or command may or may not be stored. Submitting the same id again is safe.
    #[error("no acknowledgement for {task} in time: it may or may not be stored; submit the same id again")]
    Unknown {
        /// The id to ask about, or to submit again.
        task: TaskId,
    },
    /// Nobody answers queries for the tenant now.
    #[error("{0}")]
    Unavailable(String),
    /// A query took too long. It is not repeated for you.
    #[error("no answer to {what} within {ms} ms")]
    TimedOut {
        /// What was asked.
        what: String,
        /// How long was waited.
        ms: u64,
    },
    /// The task ended without a result.
    #[error("{task} is {state}{}", .refusal.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    Ended {
        /// Which task.
        task: TaskId,
        /// Its terminal state.
        state: Phase,
        /// Why.
        refusal: Option<Refusal>,
    },
    /// A value that is no JSON, or a message that is not understood.
    #[error("{0}")]
    Data(String),
    /// Not a valid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The connection.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Error {
    /// The refusal code, if it was a refusal.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Ended { refusal: Some(refusal), .. } => Some(refusal.code),
            _ => None,
        }
    }

    /// Whether waiting and asking again can help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            // Whoever waits asks again after a pause that grows: what took too long may be quick then.
            Self::Refused(refusal) => {
                refusal.code.is_retryable() || matches!(refusal.code, Code::NotFound | Code::TimedOut)
            }
            Self::Unavailable(_) | Self::TimedOut { .. } => true,
            Self::Unknown { .. } | Self::Ended { .. } | Self::Data(_) | Self::Name(_) | Self::Bus(_) => false,
        }
    }
}
