//! Where a task is in its life, and the one table of who may move it where.
//!
//! ```text
//!            ┌───────────── resumed / retried / snoozed ─────────────┐
//!            ▼                                                       │
//! (new) → queued ──dispatch──▶ running ──┬──▶ waiting ───────────────┤
//!   │        │                    │      └──▶ retrying ──────────────┘
//!   ▼        ▼                    ▼
//! rejected  cancelled, expired   completed, failed, cancelled, expired
//! ```
//!
//! Terminal is final: no step leads out of a terminal phase.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a task as everybody sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Admitted; waits for a slot.
    Queued,
    /// Dispatched under a live lease.
    Running,
    /// Its handler waits for children or a time; holds no slot.
    Waiting,
    /// A try failed; waits for its backoff to pass.
    Retrying,
    /// Terminal: the handler returned a result.
    Completed,
    /// Terminal: a non-retryable failure, or no tries left.
    Failed,
    /// Terminal: cancelled, itself or with its tree.
    Cancelled,
    /// Terminal: a deadline passed.
    Expired,
    /// Terminal: refused at admission.
    Rejected,
}

impl Phase {
    /// All phases, in the order of a life.
    pub const ALL: [Phase; 9] = [
        Phase::Queued,
        Phase::Running,
        Phase::Waiting,
        Phase::Retrying,
        Phase::Completed,
        Phase::Failed,
        Phase::Cancelled,
        Phase::Expired,
        Phase::Rejected,
    ];

    /// Whether nothing can change any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Expired | Self::Rejected)
    }

    /// The word used on the wire, in Redis and on screens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }

    /// The inverse of [`Phase::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }

    /// The only place that knows which step leads where.
    pub fn after(self, step: Step) -> Result<Phase, IllegalTransition> {
        use Phase as P;
        use Step as S;
        let next = match (self, step) {
            (P::Queued, S::Dispatch) => P::Running,
            (P::Running, S::Withdraw) => P::Queued,
            (P::Running, S::Complete) => P::Completed,
            (P::Running, S::Fail) => P::Failed,
            (P::Running, S::Retry) => P::Retrying,
            (P::Running, S::Wait) => P::Waiting,
            (P::Retrying | P::Waiting, S::Wake) => P::Queued,
            (P::Queued | P::Running | P::Waiting | P::Retrying, S::Cancel) => P::Cancelled,
            (P::Queued | P::Running | P::Waiting | P::Retrying, S::Expire) => P::Expired,
            (
                P::Queued
                | P::Running
                | P::Waiting
                | P::Retrying
                | P::Completed
                | P::Failed
                | P::Cancelled
                | P::Expired
                | P::Rejected,
                _,
            ) => return Err(IllegalTransition { from: self, step }),
        };
        Ok(next)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What can happen to a task after its admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A slot was found.
    Dispatch,
    /// The offer was not taken up; no try is counted unless the record says so.
    Withdraw,
    /// The handler returned a result.
    Complete,
    /// No try is left, or the failure is final.
    Fail,
    /// A try is lost or failed; back off.
    Retry,
    /// The handler asked to be called again when something has happened.
    Wait,
    /// The wait or the backoff is over.
    Wake,
    /// Cancelled, itself or with its tree.
    Cancel,
    /// A deadline passed.
    Expire,
}

/// A step that the phase does not allow: a bug in `decide`, or a journal that was tampered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {from} task can't take the step {step:?}")]
pub struct IllegalTransition {
    /// Where the task was.
    pub from: Phase,
    /// What was asked of it.
    pub step: Step,
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Step; 9] = [
        Step::Dispatch,
        Step::Withdraw,
        Step::Complete,
        Step::Fail,
        Step::Retry,
        Step::Wait,
        Step::Wake,
        Step::Cancel,
        Step::Expire,
    ];

    #[test]
    fn terminal_is_final() {
        for phase in Phase::ALL.into_iter().filter(|p| p.is_terminal()) {
            for step in STEPS {
                assert!(phase.after(step).is_err(), "{phase} {step:?}");
            }
        }
    }

    #[test]
    fn only_a_queued_task_is_dispatched() {
        for phase in Phase::ALL {
            assert_eq!(phase.after(Step::Dispatch).is_ok(), phase == Phase::Queued);
        }
    }

    #[test]
    fn words_parse_back() {
        for phase in Phase::ALL {
            assert_eq!(Phase::parse(phase.as_str()), Some(phase));
        }
    }
}
