//! What clients are told without asking: that something was decided, and the events of an attempt.

use serde::{Deserialize, Serialize};

use super::version;
use crate::task::{Millis, Payload, Phase, Refusal, TaskId};

/// Results up to this size ride on the hint, in bytes.
pub const MAX_HINT_RESULT: usize = 64 * 1024;

/// `sv.done.<tenant>.<task>`: a hint, at most once; ask `get` to be sure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// Journal revision this state is from.
    pub rev: u64,
    /// The state.
    pub state: Phase,
    /// Why, if it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// The result, if completed and at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
    /// The attempt that ended it.
    #[serde(default)]
    pub attempt: u32,
    /// Number of its last event.
    #[serde(default)]
    pub last_event: u32,
    /// What the id was submitted with: another hash means your submit was a conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<crate::task::BodyHash>,
    /// Present: what became of the message to the task with this nonce, and no news of the task itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<TaskId>,
}

impl Done {
    /// Says what became of a message, and nothing of the task.
    pub fn answers_a_message(&self) -> bool {
        self.nonce.is_some()
    }

    /// Refuses the one submission that has this body hash, and says nothing of the task with this id.
    pub fn refuses_a_submission(&self) -> bool {
        self.rev == 0 && self.state == Phase::Rejected
    }
}

/// Largest encoded event, in bytes.
pub const MAX_EVENT_BYTES: usize = 16 * 1024;

/// `sv.event.<tenant>.<task>`: progress, a token delta, a log line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// The attempt that emits.
    pub attempt: u32,
    /// 1, 2, … per attempt.
    pub n: u32,
    /// Unix milliseconds, by the instance's clock.
    pub at: Millis,
    /// A word of the agent's choosing: `progress`, `token`, `log`.
    pub kind: String,
    /// Opaque.
    #[serde(default)]
    pub data: Payload,
}
