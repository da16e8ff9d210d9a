//! The journal's content: what was decided, never what might be.
//!
//! Records are complete: `evolve` needs nothing else to reach the same state anywhere. A kind this
//! version does not know halts the shard with both versions named; it is never skipped.

mod message;

use serde::{Deserialize, Serialize};

pub use self::message::{Hash, JOURNAL_VERSION, JournalMessage, What};
use super::{permits::Permit, state::Policy};
use crate::{
    task::{
        AgentName, AgentSettings, AllSettings, BodyHash, InstanceId, Labels, Millis, Outcome, Payload, Plan,
        PlanName, Refusal, ScheduleName, ScheduleSettings, Spec, TaskId, TaskKey, TenantName, TenantSettings,
        Token, TryFailure,
    },
    wire::history::{Did, Step},
};

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Where a task came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Submitted from outside.
    Root {
        /// Clamped first-try time, Unix milliseconds.
        first_try: Millis,
        /// The dead task it retries.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_of: Option<TaskId>,
        /// Triggers that lie behind it.
        #[serde(default, skip_serializing_if = "is_zero")]
        hops: u32,
    },
    /// Spawned by a task.
    Child {
        /// By whom.
        parent: TaskId,
        /// In which step.
        step: String,
        /// At which index.
        index: u32,
        /// Root of the tree.
        root: TaskId,
        /// Depth below the root.
        depth: u32,
    },
}

/// A task as admitted, or as refused at admission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Admission {
    /// Which task.
    pub task: TaskId,
    /// What it is to do. The input of a refused one is dropped.
    pub spec: Spec,
    /// What it was submitted with, before limits were applied to it.
    pub body_hash: BodyHash,
    /// Where it came from.
    pub origin: Origin,
    /// When it expires, Unix milliseconds: its own deadline or its parent's, whichever is earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
    /// Absent: admitted as queued. Present: rejected, terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// What follows from a try that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterFailure {
    /// Queued again once `now` reaches this logical time.
    RetryAt(Millis),
    /// Dead: failed for good.
    Dead,
}

/// Why a task is where it is, without the lease that was lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The try, as it will be remembered.
    pub what: TryFailure,
    /// Tries lost, this one included.
    pub tries: u32,
    /// What follows.
    pub next: AfterFailure,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A new owner starts to write. Always the first record of an epoch.
    Opened {
        /// Who, for people.
        coordinator: String,
        /// The installation's settings from now on.
        policy: Policy,
    },
    /// A plan was set, or removed.
    PlanSet {
        /// Which.
        name: PlanName,
        /// Its limits; absent: removed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<Plan>,
        /// Revision of the KV entry this came from; 0 for the shipped ones.
        kv_rev: u64,
    },
    /// A tenant's settings were set, or removed.
    TenantSet {
        /// Which.
        name: TenantName,
        /// Its settings; absent: the default plan's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        settings: Option<TenantSettings>,
        /// Revision of the KV entry this came from.
        kv_rev: u64,
    },
    /// A schedule was set, or removed.
    ScheduleSet {
        /// Which.
        name: ScheduleName,
        /// What it does; absent: removed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schedule: Option<Box<ScheduleSettings>>,
        /// Revision of the KV entry this came from.
        kv_rev: u64,
        /// When it fires next, Unix milliseconds; absent: it does not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<Millis>,
    },
    /// A firing time of a schedule has come. The task is in the record before this one, unless it was there already.
    ScheduleFired {
        /// Which.
        name: ScheduleName,
        /// The firing time, Unix milliseconds.
        at: Millis,
        /// Whether it became a task; else it was missed and is skipped with all up to the next, or became one before the
        /// wall clock went back.
        fired: bool,
        /// Missed firings made up for in a row.
        behind: u32,
        /// When it fires next, Unix milliseconds; absent: never again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<Millis>,
    },
    /// The wall clock has gone back: the next firing time was found anew.
    SchedulePlanned {
        /// Which.
        name: ScheduleName,
        /// When it fires next, Unix milliseconds; absent: never again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<Millis>,
    },
    /// An agent's settings were set, or removed.
    AgentSet {
        /// Which.
        name: AgentName,
        /// Its settings; absent: no limits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        settings: Option<AgentSettings>,
        /// Revision of the KV entry this came from.
        kv_rev: u64,
    },
    /// What an operator says about everything was set, or removed.
    AllSet {
        /// What.
        settings: AllSettings,
        /// Revision of the KV entry this came from.
        kv_rev: u64,
    },
    /// A tree was paused, its running attempts stopped; or it may go on.
    TreeSet {
        /// Its root.
        key: TaskKey,
        /// Whether it is paused from now on.
        paused: bool,
    },
    /// A submit was decided.
    Submitted {
        /// Whose.
        tenant: TenantName,
        /// Admitted or rejected.
        admission: Admission,
    },
    /// A spawn report was decided: each child admitted or rejected; adopted ones are not repeated.
    Spawned {
        /// The parent.
        key: TaskKey,
        /// Its lease.
        token: Token,
        /// Number of the report.
        n: u32,
        /// New children, in order of index.
        #[serde(deserialize_with = "crate::task::grown")]
        children: Vec<Admission>,
    },
    /// A message was put into a task's mailbox.
    Told {
        /// To which task.
        key: TaskKey,
        /// By which a repeat is recognised.
        nonce: TaskId,
        /// Its number among the task's messages, from 1.
        seq: u32,
        /// Its name, of a signal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        /// Who says it, as the sender says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// Opaque.
        message: Payload,
    },
    /// A step report was decided.
    Stepped {
        /// Which task.
        key: TaskKey,
        /// Its lease.
        token: Token,
        /// Number of the report.
        n: u32,
        /// What is recorded; absent: it was refused, and nothing is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<Step>,
    },
    /// A task was given to an instance.
    Dispatched {
        /// Which.
        key: TaskKey,
        /// Fencing number.
        attempt: u32,
        /// The lease.
        token: Token,
        /// To whom.
        instance: InstanceId,
        /// Length of the lease, in milliseconds.
        lease_ms: Millis,
        /// A resume after waiting: free of rate.
        resume: bool,
    },
    /// An offer was taken back before it was accepted; the token is void.
    Withdrawn {
        /// Which.
        key: TaskKey,
        /// The lease.
        token: Token,
        /// Whether the instance vanished (rather than said that it is busy).
        vanished: bool,
        /// Present from the third vanished instance in a row: it counts as a try.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
    },
    /// An attempt was ended by its own report.
    Ended {
        /// Which.
        key: TaskKey,
        /// The lease.
        token: Token,
        /// Number of the report.
        n: u32,
        /// Number of the attempt's last event.
        last_event: u32,
        /// What the handler said.
        outcome: Outcome,
        /// Hash of the outcome as reported, by which a repeated report is recognised.
        said: BodyHash,
        /// Present if the outcome is a failure.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
        /// For a snooze: queued again once `now` reaches this logical time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wake_at: Option<Millis>,
        /// Cells it used; absent: as many as were set aside.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        used: Option<u32>,
    },
    /// A lease was not heard of for its length.
    LeaseLost {
        /// Which.
        key: TaskKey,
        /// The lease.
        token: Token,
        /// It counts as a try.
        failure: Failure,
    },
    /// A try took longer than it may: its lease is over.
    TimedOut {
        /// Which.
        key: TaskKey,
        /// The lease.
        token: Token,
        /// It counts as a try.
        failure: Failure,
    },
    /// A time to live or a deadline has passed: the task ends, and with it the tree below.
    Expired {
        /// Which.
        key: TaskKey,
        /// Which time, and the numbers.
        refusal: Refusal,
    },
    /// A backoff, a snooze or a delay is over, or `run_at` has come.
    Woken {
        /// Which.
        key: TaskKey,
    },
    /// A task and its tree were cancelled, or will be should the task turn up: one tombstone.
    Cancelled {
        /// The top of the cancelled tree.
        key: TaskKey,
        /// For people.
        reason: String,
    },
    /// A payload that is still needed was written again, so that the message that held it may be purged.
    Carried {
        /// Whose.
        key: TaskKey,
        /// Which.
        what: What,
        /// The same bytes.
        payload: Payload,
    },
    /// So many places in flight are held for calls of a tenant at an agent, and so many of their starts are charged ahead.
    Permits {
        /// Whose calls.
        tenant: TenantName,
        /// At which agent.
        agent: AgentName,
        /// What is held from now on; none: nothing.
        permit: Permit,
        /// Dispatches charged now, of the tenant's rate and of the agent's.
        starts: u32,
        /// Slot-time of its calls that is charged now to the tenant's lane, in milliseconds.
        #[serde(default, skip_serializing_if = "is_zero")]
        used_ms: u32,
    },
    /// A submission or command was refused without touching the task it names. For the audit.
    Refused {
        /// Which task it named.
        key: TaskKey,
        /// Why.
        refusal: Refusal,
    },
}

/// What a submitter's own words weigh.
fn weight_of(spec: &Spec) -> usize {
    spec.input.len() + spec.labels.as_deref().map_or(0, Labels::weight)
}

/// What a record weighs besides its payload, roughly, encoded.
const RECORD_BYTES: usize = 280;

impl Record {
    /// Roughly how many bytes it takes in the journal.
    pub fn weight(&self) -> usize {
        let payload = match self {
            Self::Submitted { admission, .. } => weight_of(&admission.spec),
            Self::Spawned { children, .. } => {
                children.iter().map(|c| weight_of(&c.spec) + RECORD_BYTES).sum::<usize>()
            }
            Self::Ended { outcome: Outcome::Completed { result }, .. } => result.len(),
            Self::Carried { payload, .. } | Self::Told { message: payload, .. } => payload.len(),
            Self::Stepped { step: Some(Step { did: Did::Result(result), .. }), .. } => result.len(),
            _ => 0,
        };
        RECORD_BYTES + payload
    }
}
