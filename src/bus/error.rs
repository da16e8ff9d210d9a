//! The one error of this module, matched by kind.

/// What went wrong between us and NATS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server answered.
    #[error("cannot reach NATS at {servers}: {reason}")]
    Unreachable {
        /// Where we tried, without credentials.
        servers: String,
        /// What the last try said.
        reason: String,
    },
    /// The server does not accept our credentials.
    #[error("NATS at {servers} refuses the credentials ({with})")]
    Denied {
        /// Where we tried.
        servers: String,
        /// The kind of credentials that were sent.
        with: String,
    },
    /// TLS could not be agreed on.
    #[error("no TLS connection to NATS at {servers}: {reason}")]
    Tls {
        /// Where we tried.
        servers: String,
        /// What rustls said.
        reason: String,
    },
    /// The server is older than we support.
    #[error("nats-server {found} at {servers} is too old, need >= 2.15.1")]
    OldServer {
        /// Its version.
        found: String,
        /// Where it runs.
        servers: String,
    },
    /// JetStream is off, not permitted, or older than we support.
    #[error("JetStream at {servers} cannot be used: {reason}")]
    JetStream {
        /// Where we asked.
        servers: String,
        /// What the server said.
        reason: String,
    },
    /// Options, variables or a context that make no sense.
    #[error("{origin}: {reason}")]
    Config {
        /// The option, variable or file.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server forbade an operation.
    #[error("not permitted by NATS: {what}")]
    Forbidden {
        /// The server's words.
        what: String,
    },
    /// Nothing came back in time; whether it happened is unknown.
    #[error("no answer from NATS in time: {what}")]
    Timeout {
        /// What was asked.
        what: String,
    },
    /// Anything else async-nats reports.
    #[error("{what}: {reason}")]
    Other {
        /// What was tried.
        what: String,
        /// What was said.
        reason: String,
    },
}

/// The kinds of [`Error`], for deciding what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Trying again later may help.
    Unreachable,
    /// Credentials or permissions.
    Denied,
    /// Options, variables, context.
    Config,
    /// The server lacks what we need.
    Unsupported,
    /// Unknown outcome.
    Timeout,
    /// None of these.
    Other,
}

impl Error {
    /// What kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Unreachable { .. } => ErrorKind::Unreachable,
            Error::Denied { .. } | Error::Forbidden { .. } => ErrorKind::Denied,
            Error::Config { .. } | Error::Tls { .. } => ErrorKind::Config,
            Error::OldServer { .. } | Error::JetStream { .. } => ErrorKind::Unsupported,
            Error::Timeout { .. } => ErrorKind::Timeout,
            Error::Other { .. } => ErrorKind::Other,
        }
    }

    /// What the reader can do about it, if there is something to say.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Error::Unreachable { .. } => {
                Some("check --server or NATS_URL and that the server runs; `selvedge dev` starts one for you")
            }
            Error::Denied { .. } => {
                Some("check --user, --creds, --nkey, --token, the NATS_* variables and the context")
            }
            Error::Tls { .. } => Some(
                "give the server's authority with --tlsca or NATS_CA; --tlsfirst if it wants TLS at once",
            ),
            Error::OldServer { .. } => Some(
                "upgrade nats-server (`brew upgrade nats-server`, or a release >= 2.15.1); `selvedge dev` brings one",
            ),
            Error::JetStream { .. } => {
                Some("enable JetStream on the server (`-js`) and for this account; check --js-domain")
            }
            Error::Forbidden { .. } => Some("nats/permissions.md lists the subjects each role needs"),
            Error::Config { .. } | Error::Timeout { .. } | Error::Other { .. } => None,
        }
    }

    pub(crate) fn config(origin: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Config { origin: origin.into(), reason: reason.into() }
    }
}
