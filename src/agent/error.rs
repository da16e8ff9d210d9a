//! How a handler ends without a result.

use std::time::Duration;

use crate::task::{Code, Outcome, Refusal, WaitFor, capped_message, millis};

/// Everything a handler may return instead of a result.
///
/// Any standard error turns into a retryable failure with `?`. Not an error itself, so that it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentError(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Failed { message: String, retryable: bool, retry_after: Option<Duration>, code: Option<Code> },
    Snooze(Duration),
    Wait(WaitFor),
}

impl AgentError {
    /// This try failed; another may succeed.
    pub fn retryable(message: impl Into<String>) -> Self {
        Self::failed(message.into(), true)
    }

    /// This failed, and would fail again.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::failed(message.into(), false)
    }

    /// This try failed; another makes sense after `delay` at the earliest.
    pub fn retry_after(message: impl Into<String>, delay: Duration) -> Self {
        Self(Kind::Failed { message: message.into(), retryable: true, retry_after: Some(delay), code: None })
    }

    fn failed(message: String, retryable: bool) -> Self {
        Self(Kind::Failed { message, retryable, retry_after: None, code: None })
    }

    /// The handler is not the one that recorded what is recorded. An instance of the former version could go on.
    pub(super) fn changed(message: String) -> Self {
        Self::coded(Code::StepChanged, message, true)
    }

    pub(super) fn coded(code: Code, message: String, retryable: bool) -> Self {
        Self(Kind::Failed { message, retryable, retry_after: None, code: Some(code) })
    }

    /// Nothing went wrong; run the task again after `delay`. No try is counted.
    pub fn snooze(delay: Duration) -> Self {
        Self(Kind::Snooze(delay))
    }

    /// Run the task again when the children have ended. See `Ctx::wait_all`.
    pub fn wait(wait_for: WaitFor) -> Self {
        Self(Kind::Wait(wait_for))
    }

    /// What a try failed with, if it is more than that the handler failed: `STEPS_FULL`, say.
    pub fn code(&self) -> Option<Code> {
        match &self.0 {
            Kind::Failed { code, .. } => *code,
            Kind::Snooze(_) | Kind::Wait(_) => None,
        }
    }

    pub(super) fn into_outcome(self) -> Outcome {
        match self.0 {
            Kind::Failed { message, retryable, retry_after, code } => Outcome::Failed {
                message: capped_message(&message),
                retryable,
                retry_after_ms: retry_after.map(millis),
                code,
            },
            Kind::Snooze(delay) => Outcome::Snooze { ms: millis(delay) },
            Kind::Wait(wait_for) => Outcome::Wait(wait_for),
        }
    }
}

impl<E: std::error::Error> From<E> for AgentError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            message.push_str(": ");
            message.push_str(&inner.to_string());
            cause = inner.source();
        }
        Self::retryable(message)
    }
}

/// A value that no later try could make fit.
pub(super) fn refused(refusal: Refusal) -> AgentError {
    AgentError::fatal(refusal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_is_a_retryable_failure_with_its_causes() {
        let inner = std::io::Error::other("disk on fire");
        let error: AgentError = inner.into();
        assert_eq!(
            error.into_outcome(),
            Outcome::Failed {
                message: "disk on fire".into(),
                retryable: true,
                retry_after_ms: None,
                code: None
            }
        );
    }

    #[test]
    fn a_wait_is_no_failure() {
        let outcome = AgentError::wait(WaitFor::AllChildren).into_outcome();
        assert_eq!(outcome, Outcome::Wait(WaitFor::AllChildren));
    }
}
