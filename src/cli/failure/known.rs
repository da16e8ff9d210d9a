//! What the errors of the library are to a user: exit code, code, advice.
//!
//! Verbs pass such errors up with `?`; they are recognised here, once, when the command reports its failure.

use super::{Exit, Failure};
use crate::bus::api::ApiError;
use crate::bus::entries::EntriesError;
use crate::bus::{self, BusError, ErrorKind};
use crate::client;
use crate::store::connect as redis;
use crate::task::{Code, NameError, Refusal};
use crate::wire::topology::TRIGGERS_BUCKET;

/// The failure behind an error of the library, if it is one that is known here.
pub fn recognise(error: &anyhow::Error) -> Option<Failure> {
    if let Some(error) = error.downcast_ref::<client::Error>() {
        Some(client_failure(error))
    } else if let Some(error) = error.downcast_ref::<bus::Error>() {
        Some(nats_failure(error))
    } else if let Some(error) = error.downcast_ref::<redis::Error>() {
        Some(redis_failure(error))
    } else if let Some(error) = error.downcast_ref::<ApiError>() {
        Some(api_failure(error))
    } else if let Some(error) = error.downcast_ref::<EntriesError>() {
        Some(entries_failure(error))
    } else if let Some(error) = error.downcast_ref::<NameError>() {
        Some(Failure::new(Exit::Usage, "BAD_NAME", error.to_string()))
    } else {
        let error = error.downcast_ref::<BusError>()?;
        Some(Failure::new(Exit::Unavailable, "NATS_CLOSED", error.to_string()))
    }
}

/// What a failed connection to NATS is to a user.
pub fn nats_failure(error: &bus::Error) -> Failure {
    let exit = match error.kind() {
        ErrorKind::Unreachable => Exit::Unavailable,
        ErrorKind::Timeout => Exit::Temporary,
        ErrorKind::Denied | ErrorKind::Config | ErrorKind::Unsupported => Exit::Config,
        ErrorKind::Other => Exit::Failed,
    };
    let code = match error {
        bus::Error::Unreachable { .. } => "NATS_UNREACHABLE",
        bus::Error::Denied { .. } => "NATS_DENIED",
        bus::Error::Tls { .. } => "NATS_TLS",
        bus::Error::OldServer { .. } => "NATS_OLD_SERVER",
        bus::Error::JetStream { .. } => "NATS_JETSTREAM",
        bus::Error::Config { .. } => "NATS_CONFIG",
        bus::Error::Forbidden { .. } => "NATS_FORBIDDEN",
        bus::Error::Timeout { .. } => "NATS_TIMEOUT",
        bus::Error::Other { .. } => "NATS_FAILED",
    };
    let failure = Failure::new(exit, code, error.to_string());
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// What a failed connection to Redis is to a user.
pub fn redis_failure(error: &redis::Error) -> Failure {
    let (exit, code) = match error {
        redis::Error::Unreachable { .. } => (Exit::Unavailable, "REDIS_UNREACHABLE"),
        redis::Error::Denied { .. } => (Exit::Config, "REDIS_DENIED"),
        redis::Error::Config { .. } => (Exit::Config, "REDIS_CONFIG"),
        redis::Error::OldServer { .. } => (Exit::Config, "REDIS_OLD_SERVER"),
        redis::Error::Evicts { .. } => (Exit::Config, "REDIS_EVICTS"),
    };
    Failure::new(exit, code, error.to_string()).help(error.help())
}

/// What a call to JetStream that came to nothing is to a user.
pub fn api_failure(error: &ApiError) -> Failure {
    if error.is_unavailable() {
        return Failure::new(Exit::Unavailable, "NATS_JETSTREAM", error.to_string()).help(
            "enable JetStream for this account, and see nats/permissions.md for the rights a role needs",
        );
    }
    Failure::new(Exit::Config, "NATS_REFUSED", error.to_string())
        .help("`selvedge doctor` compares JetStream's limits with what is needed")
}

/// What a failed call of the client is to a user.
pub fn client_failure(error: &client::Error) -> Failure {
    let what = error.to_string();
    match error {
        client::Error::Refused(refusal) => refusal_failure(refusal),
        client::Error::Ended { .. } => Failure::new(Exit::Failed, "TASK_ENDED", what),
        client::Error::Unknown { .. } => Failure::new(Exit::Temporary, "UNKNOWN_OUTCOME", what)
            .help("submit again with the same --id: it is taken once at most"),
        client::Error::Unavailable(_) => Failure::new(Exit::Unavailable, "UNAVAILABLE", what)
            .help("start one with `selvedge coordinator`, or look with `selvedge doctor`"),
        client::Error::TimedOut { .. } => Failure::new(Exit::Temporary, "TIMED_OUT", what)
            .help("the query is not repeated for you; `selvedge doctor` says what is slow or down"),
        client::Error::Data(_) => Failure::new(Exit::Failed, "BAD_DATA", what),
        client::Error::Name(_) => Failure::new(Exit::Usage, "BAD_NAME", what),
        client::Error::Bus(_) => Failure::new(Exit::Unavailable, "NATS_CLOSED", what),
    }
}

/// What a refusal is to a user.
pub fn refusal_failure(refusal: &Refusal) -> Failure {
    let exit = match refusal.code {
        Code::Unavailable => Exit::Unavailable,
        code if code.is_retryable() => Exit::Temporary,
        Code::BadQuery | Code::BadName | Code::BadMessage => Exit::Usage,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, refusal.code.as_str(), refusal.message.clone());
    match refusal.retry_after_ms {
        Some(ms) => {
            failure.help(format!("try again in {ms} ms; docs/codes.md has a page on {}", refusal.code))
        }
        None => failure.help(format!("docs/codes.md has a page on {}", refusal.code)),
    }
}

/// What a change of limits or triggers that came to nothing is to a user.
pub fn entries_failure(error: &EntriesError) -> Failure {
    let what = error.to_string();
    let triggers = error.bucket() == TRIGGERS_BUCKET;
    let code = |limits, of_triggers| if triggers { of_triggers } else { limits };
    match error {
        EntriesError::Bucket { .. } => {
            Failure::new(Exit::Unavailable, code("LIMITS_BUCKET", "TRIGGERS_BUCKET"), what).help(
                "a coordinator with provision = auto makes the bucket; this user also needs the rights of an operator, \
                 see nats/permissions.md",
            )
        }
        EntriesError::Conflict { .. } => {
            Failure::new(Exit::Temporary, code("LIMITS_CONFLICT", "TRIGGERS_CONFLICT"), what)
                .help("nothing was changed; look at what it says now, then run the command again")
        }
        EntriesError::Unreadable { .. } => {
            Failure::new(Exit::Config, code("LIMITS_UNREADABLE", "TRIGGERS_UNREADABLE"), what).help(code(
                "somebody wrote it by hand: correct it with `nats kv put selvedge_limits`, or set it anew",
                "somebody wrote it by hand: remove it with `nats kv del selvedge_triggers`, and set it anew",
            ))
        }
        EntriesError::Nonsense { .. } => Failure::new(Exit::Usage, code("BAD_LIMITS", "BAD_TRIGGER"), what),
    }
}
