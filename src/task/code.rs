//! The closed set of codes a remote may be told. Each has a help page in `docs/codes.md`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Millis;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal, $retry:literal;)*) => {
        /// Why something was refused, or how a task or a try went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
            /// A code of a newer version.
            #[serde(other, rename = "UNKNOWN_CODE")]
            UnknownCode,
        }

        impl Code {
            /// Every code this version can say.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::UnknownCode => "UNKNOWN_CODE",
                }
            }

            /// The HTTP-like status for the `Nats-Service-Error-Code` header.
            pub fn status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)*
                    Self::UnknownCode => 500,
                }
            }

            /// Whether the same request can succeed later. For `TENANT_SUSPENDED`, `BACKLOG_FULL` and
            /// `SHARD_FULL` under a new id only: the refused task stays rejected, and a repeated submit is
            /// that task.
            pub fn is_retryable(self) -> bool {
                match self {
                    $(Self::$variant => $retry,)*
                    Self::UnknownCode => false,
                }
            }
        }
    };
}

codes! {
    /// The message is no valid MessagePack or JSON of the expected shape.
    BadMessage = "BAD_MESSAGE", 400, false;
    /// A name outside `[a-z0-9][a-z0-9_-]{0,62}`.
    BadName = "BAD_NAME", 400, false;
    /// The sender speaks a protocol version this coordinator does not.
    UnsupportedVersion = "UNSUPPORTED_VERSION", 400, false;
    /// Input, result, event or message above its size limit.
    TooLarge = "TOO_LARGE", 413, false;
    /// First tried before what the tenant's duplicate memory still covers.
    TooOld = "TOO_OLD", 409, false;
    /// Same id, another body.
    IdempotencyConflict = "IDEMPOTENCY_CONFLICT", 409, false;
    /// No such tenant, and unknown ones are refused here.
    UnknownTenant = "UNKNOWN_TENANT", 403, false;
    /// The tenant takes no submits now.
    TenantSuspended = "TENANT_SUSPENDED", 403, true;
    /// The child would be deeper than the plan allows.
    DepthExceeded = "DEPTH_EXCEEDED", 422, false;
    /// The parent has as many children as the plan allows.
    ChildrenExceeded = "CHILDREN_EXCEEDED", 422, false;
    /// The tree has as many tasks as the plan allows.
    TreeExceeded = "TREE_EXCEEDED", 422, false;
    /// The tenant has as many root tasks waiting as the plan allows.
    BacklogFull = "BACKLOG_FULL", 429, true;
    /// The shard has as many tasks waiting as it is configured for.
    ShardFull = "SHARD_FULL", 429, true;
    /// The task costs more cells than a limit gives at once: it could never run.
    CostExceeded = "COST_EXCEEDED", 422, false;
    /// The input is not what the agent's schema asks for.
    SchemaViolation = "SCHEMA_VIOLATION", 422, false;
    /// As many triggers lie behind the message as the trigger allows: they may trigger each other.
    HopsExceeded = "HOPS_EXCEEDED", 422, false;
    /// A trigger's template asks for what the message does not have, or becomes too large.
    TemplateFailed = "TEMPLATE_FAILED", 422, false;
    /// The plan has tenants, or is the default one: it can't be removed.
    PlanInUse = "PLAN_IN_USE", 409, false;
    /// An operator has paused what it belongs to: the attempt is over, the task waits.
    Paused = "PAUSED", 409, true;
    /// The intake stream is full.
    Backpressure = "BACKPRESSURE", 429, true;
    /// The report's lease is over; nothing was changed.
    StaleLease = "STALE_LEASE", 409, false;
    /// The lease was already ended with another outcome; the first stands.
    ResultConflict = "RESULT_CONFLICT", 409, false;
    /// A report number beyond the window.
    ReportGap = "REPORT_GAP", 409, true;
    /// No such task of this tenant.
    NotFound = "NOT_FOUND", 404, false;
    /// This coordinator can't say; the owner is not reachable now.
    Unknown = "UNKNOWN", 503, true;
    /// Only a dead task can be retried.
    NotDead = "NOT_DEAD", 409, false;
    /// The task is over: it takes no messages any more.
    TaskEnded = "TASK_ENDED", 409, false;
    /// The task has as many messages, or bytes of them, as a mailbox holds.
    MailboxFull = "MAILBOX_FULL", 429, true;
    /// The task has as many steps and messages, or bytes of them, as are kept of one.
    StepsExceeded = "STEPS_EXCEEDED", 422, false;
    /// Something else is recorded at this place of the handler, or is next to be taken.
    StepConflict = "STEP_CONFLICT", 409, false;
    /// The handler does not call the same steps in the same order as when they were recorded.
    StepChanged = "STEP_CHANGED", 409, false;
    /// What is kept of a step's large result is gone, or is not what was recorded.
    StepLost = "STEP_LOST", 410, false;
    /// The stream that keeps large results of steps is full.
    StepsFull = "STEPS_FULL", 429, true;
    /// Too many queries at once.
    Busy = "BUSY", 503, true;
    /// The query was not answered within its deadline; what was done for it was dropped.
    TimedOut = "TIMED_OUT", 504, false;
    /// The service or its store can't answer now.
    Unavailable = "UNAVAILABLE", 503, true;
    /// The calls and tasks in flight are as many as a cap allows.
    InFlightFull = "IN_FLIGHT_FULL", 429, true;
    /// No call may start now: the rate of the tenant or of the agent is used up.
    RateExceeded = "RATE_EXCEEDED", 429, true;
    /// Nobody who takes calls serves the agent now.
    NoInstance = "NO_INSTANCE", 503, true;
    /// The instance that ran the call is gone, or part of its answer is.
    CallLost = "CALL_LOST", 502, true;
    /// The call took longer than calls may: submit a task.
    CallTimeout = "CALL_TIMEOUT", 504, false;
    /// The handler needs a task for what it did: submit one.
    NeedsTask = "NEEDS_TASK", 422, false;
    /// A cursor, filter or limit that makes no sense.
    BadQuery = "BAD_QUERY", 400, false;
    /// Cancelled, itself or with its tree.
    Cancelled = "CANCELLED", 409, false;
    /// The handler said that it failed.
    HandlerFailed = "HANDLER_FAILED", 500, false;
    /// Times that make no sense: zero, too far ahead, or a start after the end.
    BadTime = "BAD_TIME", 400, false;
    /// Not started within its time to live.
    TtlExpired = "TTL_EXPIRED", 408, false;
    /// Not over by its deadline, or submitted after it.
    DeadlineExceeded = "DEADLINE_EXCEEDED", 408, false;
    /// The try took longer than it may.
    TryTimeout = "TRY_TIMEOUT", 500, false;
    /// The lease was not renewed in time.
    LeaseLost = "LEASE_LOST", 500, false;
    /// The instance vanished before accepting, three times or more.
    OfferLost = "OFFER_LOST", 500, false;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A refusal with its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// Which rule.
    pub code: Code,
    /// The rule with its numbers and what to do, for people.
    pub message: String,
    /// The limit in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// What was asked for, or is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<u64>,
    /// When trying again may make sense, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<Millis>,
}

impl Refusal {
    /// A refusal without numbers.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), limit: None, actual: None, retry_after_ms: None }
    }

    /// A refusal because `actual` is above `limit`.
    pub fn over(code: Code, message: impl Into<String>, actual: u64, limit: u64) -> Self {
        Self { limit: Some(limit), actual: Some(actual), ..Self::new(code, message) }
    }

    /// The same, saying when to try again.
    pub fn retry_after(self, ms: Millis) -> Self {
        Self { retry_after_ms: Some(ms), ..self }
    }
}
