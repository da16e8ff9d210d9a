//! What clients ask for: tasks, one by one or several at once, and commands to tasks.

use serde::{Deserialize, Serialize};

use super::{is_zero, version};
use crate::task::{AgentName, Labels, Millis, Payload, Priority, Spec, TaskId, Times};

/// `sv.submit.<tenant>.<agent>.<task>`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submit {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// Opaque to the coordinator.
    #[serde(default)]
    pub input: Payload,
    /// Class within the tenant.
    #[serde(default)]
    pub priority: Priority,
    /// See [`Spec::max_tries`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tries: Option<u32>,
    /// See [`Spec::times`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Box<Times>>,
    /// See [`Spec::cost`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// See [`Spec::labels`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Box<Labels>>,
    /// When this id was first tried, Unix milliseconds; the time of storage if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_try: Option<Millis>,
    /// Ask for a hint on `sv.done` at admission too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirm: bool,
    /// Triggers that lie behind the task that submits it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hops: u32,
}

impl Submit {
    /// The spec this submit asks for, given the agent from the subject.
    pub fn into_spec(self, agent: AgentName) -> Spec {
        Spec {
            agent,
            input: self.input,
            priority: self.priority,
            max_tries: self.max_tries,
            times: self.times,
            cost: self.cost,
            labels: self.labels,
        }
    }
}

/// Submits in one message, at most.
pub const MAX_SUBMITS: usize = 256;

/// `sv.submits.<tenant>`: several tasks in one message, each decided as if it had come alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submits {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// At least one, at most [`MAX_SUBMITS`].
    #[serde(deserialize_with = "crate::task::grown")]
    pub tasks: Vec<TaskSubmit>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSubmit {
    /// Whom it is for.
    pub agent: AgentName,
    /// Its id, unique within the tenant.
    pub task: TaskId,
    /// What the message of a single one says.
    pub submit: Submit,
}

/// `sv.cmd.<tenant>.<task>.<nonce>`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cmd {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// What to do.
    pub op: CmdOp,
}

/// A command to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CmdOp {
    /// Cancel the task and everything below it.
    Cancel {
        /// For people; cut to 512 bytes.
        #[serde(default)]
        reason: String,
    },
    /// Submit the dead task again, as a new task linked to it.
    Retry {},
    /// Stop the task's whole tree: nothing of it runs until it is resumed. No try is lost.
    Pause {},
    /// Let the task's tree go on.
    Resume {},
    /// Put a message into the task's mailbox.
    Tell {
        /// Its name, of a signal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        /// Opaque.
        #[serde(default)]
        message: Payload,
        /// Who says it, as the sender says; cut to 128 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
}
