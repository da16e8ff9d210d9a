//! Requests and replies of the query service, `sv.api.<tenant>.<verb>`.
//!
//! A refusal is answered with the error headers of NATS services and a [`Refusal`] as body.

mod tenants;
mod why;

use serde::{Deserialize, Serialize};

pub use self::{
    tenants::{TenantLoad, TenantsReply, TenantsRequest},
    why::{Hold, Reason, Why, WhyRequest},
};
use super::messages::Event;
use crate::task::{
    AgentName, BodyHash, InstanceId, Labels, Millis, Payload, Phase, Priority, Refusal, TaskId, TenantName,
    Times, TryFailure,
};

/// The verbs, each an endpoint of the NATS service.
pub mod verb {
    /// Submit a task and wait for its admission.
    pub const SUBMIT: &str = "submit";
    /// One task.
    pub const GET: &str = "get";
    /// A page of tasks, newest first.
    pub const LIST: &str = "list";
    /// A page of one task's children, oldest first, with results if asked for.
    pub const CHILDREN: &str = "children";
    /// A page of one task's events.
    pub const EVENTS: &str = "events";
    /// Cancel a task and its tree.
    pub const CANCEL: &str = "cancel";
    /// Submit a dead task again.
    pub const RETRY: &str = "retry";
    /// Pause a task's whole tree.
    pub const PAUSE: &str = "pause";
    /// Let a task's tree go on.
    pub const RESUME: &str = "resume";
    /// What holds a task back.
    pub const WHY: &str = "why";
    /// Who is there, and what they say about themselves.
    pub const AGENTS: &str = "agents";
    /// Put a message into a task's mailbox.
    pub const TELL: &str = "tell";
    /// The same, with a name.
    pub const SIGNAL: &str = "signal";
    /// What a task was told and what its handler recorded.
    pub const HISTORY: &str = "history";
    /// A chunk of a step's large result.
    pub const KEPT: &str = "kept";
    /// Counts per state.
    pub const STATS: &str = "stats";
    /// Several tasks at once.
    pub const MANY: &str = "many";
    /// How many tasks one filter fits.
    pub const COUNT: &str = "count";
    /// A page of a whole tree, oldest first.
    pub const TREE: &str = "tree";
    /// All of them.
    pub const ALL: [&str; 19] = [
        SUBMIT, GET, LIST, CHILDREN, EVENTS, WHY, AGENTS, CANCEL, RETRY, PAUSE, RESUME, TELL, SIGNAL,
        HISTORY, KEPT, STATS, MANY, COUNT, TREE,
    ];
    /// Those that wait for a decision of the owner's.
    pub const DECIDED: [&str; 7] = [SUBMIT, CANCEL, RETRY, PAUSE, RESUME, TELL, SIGNAL];
}

/// `submit`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubmitRequest {
    /// Who is to run it.
    pub agent: AgentName,
    /// The id; made if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Derive the id from this key instead: the same key is the same task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Opaque.
    #[serde(default)]
    pub input: Payload,
    /// Class within the tenant.
    #[serde(default)]
    pub priority: Priority,
    /// Tries before it is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tries: Option<u32>,
    /// When it may start and by when it must be over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Box<Times>>,
    /// See [`Spec::cost`](crate::task::Spec::cost).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// See [`Spec::labels`](crate::task::Spec::labels).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Box<Labels>>,
}

/// Answer to `submit`, `cancel`, `retry`, `pause`, `resume`, `tell` and `signal`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReply {
    /// The task's id; for `retry` the new one's.
    pub task: TaskId,
    /// Its state. For what was stored but not decided within the wait: `null`.
    pub state: Option<Phase>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// `get`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GetRequest {
    /// Which task.
    pub task: TaskId,
    /// Answer from this journal revision or later, if a hint named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_rev: Option<u64>,
}

/// One task, as far as a reader may see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// Whose.
    pub tenant: TenantName,
    /// Which.
    pub task: TaskId,
    /// Who runs it.
    pub agent: AgentName,
    /// Where it is.
    pub state: Phase,
    /// Journal revision of its last change.
    pub rev: u64,
    /// Class.
    #[serde(default)]
    pub priority: Priority,
    /// Spawned by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// Root of its tree.
    pub root: TaskId,
    /// 0 for a root.
    #[serde(default)]
    pub depth: u32,
    /// Dispatches so far.
    #[serde(default)]
    pub attempt: u32,
    /// Tries lost so far.
    #[serde(default)]
    pub tries: u32,
    /// Runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Unix milliseconds.
    #[serde(default)]
    pub created_at: Millis,
    /// Not started before this time, Unix milliseconds. Of a delay it is told by the owner's clock at its admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Millis>,
    /// Expires at this time, Unix milliseconds: its own deadline or its parent's, whichever is earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<Millis>,
    /// First dispatch, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Millis>,
    /// Terminal since, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Millis>,
    /// Why it was refused or went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// The tries that went wrong, oldest first, at most ten.
    #[serde(deserialize_with = "crate::task::grown", default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<TryFailure>,
    /// The dead task this one retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TaskId>,
    /// Number of the last attempt's last event.
    #[serde(default)]
    pub last_event: u32,
    /// What the id was submitted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<BodyHash>,
    /// What its submitter wrote on it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// In `get` and `children` only, never in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
}

/// `list`: newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ListRequest {
    /// Only these states; empty: all but cancelled.
    #[serde(deserialize_with = "crate::task::grown", default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<Phase>,
    /// Only this agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// Only this tree, by its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<TaskId>,
    /// Only this task's children.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// Only tasks created at this time or later, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Millis>,
    /// Only tasks created before this time, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// Only tasks with all of these labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// At most this many, 1 to 100; 10 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Skip this many. Excludes `cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u32>,
    /// Go on where a page ended (its `next`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Answer to `list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskPage {
    /// The tasks.
    #[serde(deserialize_with = "crate::task::grown")]
    pub tasks: Vec<TaskView>,
    /// Where the next page starts; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// False if the scan stopped at its cap before the page was full.
    pub complete: bool,
    /// How many ids were looked at.
    pub scanned: u32,
    /// Unix milliseconds: what was decided up to then is in the answer. Absent while the index is built anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Millis>,
}

/// `children`: in order of (spawn, index).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildrenRequest {
    /// Whose children.
    pub task: TaskId,
    /// Skip this many.
    #[serde(default)]
    pub after: u32,
    /// At most this many, 1 to 1000; pages are cut at 512 KiB. 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Whether to send results.
    #[serde(default)]
    pub results: bool,
}

/// Answer to `children`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildrenPage {
    /// In order.
    #[serde(deserialize_with = "crate::task::grown")]
    pub children: Vec<ChildView>,
    /// `after` of the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
}

/// A child as its parent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildView {
    /// Its id.
    pub task: TaskId,
    /// Who runs it.
    pub agent: AgentName,
    /// Step it was spawned in.
    pub step: String,
    /// Index within the step.
    pub index: u32,
    /// Where it is.
    pub state: Phase,
    /// Why it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// Its result, if asked for and completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
}

/// `events`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventsRequest {
    /// Which task.
    pub task: TaskId,
    /// After this (attempt, n).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<(u32, u32)>,
    /// At most this many, 1 to 1000; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Answer to `events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventsPage {
    /// Oldest first.
    #[serde(deserialize_with = "crate::task::grown")]
    pub events: Vec<Event>,
    /// Whether more are stored already.
    pub more: bool,
}

/// `cancel`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// Which task; its tree goes with it.
    pub task: TaskId,
    /// For people.
    #[serde(default)]
    pub reason: String,
}

/// `pause` and `resume`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PauseRequest {
    /// A task of the tree.
    pub task: TaskId,
}

/// `retry`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryRequest {
    /// The dead task.
    pub task: TaskId,
    /// The same nonce is the same retry; made if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<TaskId>,
}

/// Answer to `stats`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatsReply {
    /// Tasks in the index, by state.
    pub states: std::collections::BTreeMap<String, u64>,
    /// All of them.
    pub total: u64,
    /// As in [`TaskPage`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Millis>,
}

/// `many`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManyRequest {
    /// Which tasks, 1 to 100.
    #[serde(deserialize_with = "crate::task::grown")]
    pub tasks: Vec<TaskId>,
}

/// Answer to `many`: each task that was asked for is in one of the three.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ManyReply {
    /// Those that were found, in the order asked for, without results.
    #[serde(deserialize_with = "crate::task::grown")]
    pub tasks: Vec<TaskView>,
    /// Those that the owner does not know either.
    #[serde(deserialize_with = "crate::task::grown", default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<TaskId>,
    /// Those that are not in the index, and nobody could be asked who knows.
    #[serde(deserialize_with = "crate::task::grown", default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<TaskId>,
}

/// `count`: as in `list`, but one of `states`, `agent`, `root` and `parent` at most.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CountRequest {
    /// Only these states; empty: all but cancelled.
    #[serde(deserialize_with = "crate::task::grown", default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<Phase>,
    /// Only this agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// Only this tree, by its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<TaskId>,
    /// Only this task's children.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// Only tasks created at this time or later, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Millis>,
    /// Only tasks created before this time, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// Refused: there is no set of the tasks with a label. For `list`.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Answer to `count`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CountReply {
    /// How many.
    pub count: u64,
    /// As in [`TaskPage`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Millis>,
}

/// `tree`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeRequest {
    /// A task of the tree.
    pub task: TaskId,
    /// At most this many, 1 to 100; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on where a page ended (its `next`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Answer to `tree`: in order of creation, by the millisecond.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreePage {
    /// The root.
    pub root: TaskId,
    /// The tasks, without results; cancelled ones are not among them.
    #[serde(deserialize_with = "crate::task::grown")]
    pub tasks: Vec<TaskView>,
    /// Where the next page starts; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// As in [`TaskPage`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Millis>,
}
