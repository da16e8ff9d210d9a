//! What a task's handler was told and what it recorded: reports of it, and the page that gives it back.
//!
//! A handler that runs again runs from its start. Its calls that wait for something or record something are counted, from
//! 0: the *place*. What is recorded at a place is given back there.

use serde::{Deserialize, Serialize};

use crate::task::{Millis, Object, ObjectHash, Payload, TaskId};

/// What happened at one place of a handler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of the call in the handler, from 0.
    pub place: u32,
    /// Name of the step, or of the signal; empty for a message without a name and for a time.
    #[serde(default)]
    pub name: String,
    /// What it was.
    pub did: Did,
}

/// See [`Step`]. A handler reports the first two and the last; the others are recorded by the owner when a wait is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Did {
    /// A step was done, with this result.
    Result(Payload),
    /// The message of this number was taken.
    Took(u32),
    /// No message came in time.
    TimedOut {},
    /// A time has passed.
    Slept {},
    /// A step was done, with a result that is kept as this object.
    Kept(Object),
}

/// A message in a task's mailbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mail {
    /// 1, 2, … per task, in the order they were told.
    pub seq: u32,
    /// Its name, of a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Who says it, as the sender says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// When it was decided, Unix milliseconds.
    pub at: Millis,
    /// Opaque.
    #[serde(default)]
    pub message: Payload,
}

/// `tell` and `signal`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TellRequest {
    /// To which task.
    pub task: TaskId,
    /// Which signal; of a plain message: absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Opaque.
    #[serde(default)]
    pub message: Payload,
    /// Who says it; cut to 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The same nonce is the same message; made if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<TaskId>,
}

/// `history`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryRequest {
    /// Of which task.
    pub task: TaskId,
    /// Steps from this place on.
    #[serde(default)]
    pub place: u32,
    /// Messages after this number.
    #[serde(default)]
    pub after: u32,
}

/// Answer to `history`: messages and steps, cut at 512 KiB.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryPage {
    /// In order of number.
    #[serde(deserialize_with = "crate::task::grown", default)]
    pub messages: Vec<Mail>,
    /// In order of place.
    #[serde(deserialize_with = "crate::task::grown", default)]
    pub steps: Vec<Step>,
    /// `place` and `after` of the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<(u32, u32)>,
}

/// `kept`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptRequest {
    /// Of which task.
    pub task: TaskId,
    /// Which object.
    pub hash: ObjectHash,
    /// Which chunk of it, from 0.
    pub chunk: u32,
}

/// Answer to `kept`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptReply {
    /// The chunk, bytes.
    pub chunk: Payload,
}
