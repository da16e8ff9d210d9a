//! The only place that knows Redis (or Valkey): what is kept there, how it is written and read.
//!
//! ```text
//! connect  how to reach it, and whether it is fit
//! connection  what commands go through: one server, or a cluster of them
//! keys     every key name, and how each kind is bounded
//! record   one task as stored: a header the script can read, a small result, the rest of the view
//! index    the one writer: a script call per touched tenant (`index.lua` beside it)
//! read     get, list, stats: bounded reads (`pick.lua` beside it)
//! events   capped streams of events
//! scan     every key, for wipes and checks
//! audit    proves that each is bounded
//! ```
//!
//! Nothing in here is the truth: everything can be wiped and comes back from the journal, except
//! the history of events. Callers: the coordinator's indexer, event writer and query service.

pub mod audit;
pub mod connect;
mod connection;
pub mod cursor;
pub mod events;
pub mod index;
pub mod keys;
pub mod read;
pub mod record;
pub mod scan;

use redis::{ErrorKind, RedisError, ServerErrorKind};

pub use connection::{Connection, Node};

/// What can go wrong with the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No answer in time, no connection, or a server that is loading or failing over.
    #[error("Redis does not answer: {0}")]
    Unavailable(RedisError),
    /// `maxmemory` is reached and nothing may be evicted.
    #[error("Redis is out of memory (maxmemory reached under noeviction): {0}")]
    Full(RedisError),
    /// The server refused a command that should have worked.
    #[error("Redis refused a command: {0}")]
    Refused(RedisError),
    /// A stored value is not what this version writes.
    #[error("a value in Redis is not readable: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// A word for metrics and status pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Full(_) => "full",
            Self::Refused(_) => "refused",
            Self::Corrupt(_) => "corrupt",
        }
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        if is_oom(&error) {
            return Self::Full(error);
        }
        match error.kind() {
            ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => Self::Unavailable(error),
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ReadOnly,
            ) => Self::Unavailable(error),
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => Self::Corrupt(error.to_string()),
            _ => Self::Refused(error),
        }
    }
}

/// A script that hits the limit reports it inside a general error, hence the look at the text.
fn is_oom(error: &RedisError) -> bool {
    error.code() == Some("OOM") || error.detail().is_some_and(|text| text.contains("OOM command not allowed"))
}

/// The server forgot our script (it restarted, or `SCRIPT FLUSH`): load it again.
pub(crate) fn is_noscript(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
