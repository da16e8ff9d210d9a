//! How an attempt ends, and what is remembered of a try that went wrong.

use serde::{Deserialize, Serialize};

use super::{Code, Millis, Payload, TaskId};

/// What a handler says at the end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done; the result is kept.
    Completed {
        /// Opaque to the coordinator.
        #[serde(default)]
        result: Payload,
    },
    /// This try went wrong. Counts as a try.
    Failed {
        /// For people; cut to 512 bytes.
        #[serde(default)]
        message: String,
        /// Whether another try makes sense.
        #[serde(default = "yes")]
        retryable: bool,
        /// The least time to wait before the next try, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<Millis>,
        /// Of a step: `STEP_CHANGED`, `STEPS_EXCEEDED`, `STEP_LOST`, `STEPS_FULL`, `TOO_LARGE` or `UNAVAILABLE`; else it is
        /// `HANDLER_FAILED`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
    },
    /// Call me again after this long; no try is counted.
    Snooze {
        /// Milliseconds.
        ms: Millis,
    },
    /// Call me again when this has happened; no try is counted.
    Wait(WaitFor),
}

fn yes() -> bool {
    true
}

/// What a waiting task waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    /// Every child spawned so far is terminal.
    AllChildren,
    /// These children are terminal. Ids that are no children of the task count as ended.
    Children(#[serde(deserialize_with = "super::grown")] Vec<TaskId>),
    /// A message: the first that was not taken yet, also one that is there already. It is recorded as taken at `place`.
    Message {
        /// Number of this call in the handler.
        #[serde(default)]
        place: u32,
        /// Only signals of this name; absent: only messages without a name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        /// No longer than this, in milliseconds; then it is recorded that none has come.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within_ms: Option<Millis>,
    },
    /// A time: it is recorded at `place` that it has passed.
    Time {
        /// Number of this call in the handler.
        #[serde(default)]
        place: u32,
        /// Milliseconds.
        ms: Millis,
    },
}

/// One lost or failed try, kept with the task (the last ten).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TryFailure {
    /// Which attempt.
    pub attempt: u32,
    /// Wall clock, Unix milliseconds.
    pub at: Millis,
    /// `HANDLER_FAILED`, `LEASE_LOST`, `OFFER_LOST`, `TRY_TIMEOUT`, or what a step failed with.
    pub code: Code,
    /// For people; at most 512 bytes.
    pub message: String,
}
