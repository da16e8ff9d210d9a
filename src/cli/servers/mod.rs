//! The servers Selvedge runs for you: finding, installing, starting and supervising `nats-server` and Redis.
//!
//! ```text
//! resolve ──(not found)──> install        which executable, and why that one
//!    └──> spawn ──> process               a server of ours: own directory, own port, dies with us
//!            └──> supervise               restarted when it dies, stopped in order
//! ```
//!
//! Called by `selvedge dev`, `selvedge demo` and the integration tests: one path for all three.
//! Never touches a server it did not start, never prints (it reports through callbacks and channels),
//! and listens on loopback only.

mod install;
pub mod ports;
pub mod process;
mod redis;
pub mod resolve;
pub mod spawn;
pub mod supervise;

pub use process::Process;
pub use redis::{RedisConfig, RedisServer, supports_tls};
pub use resolve::{Found, Origin, Program, Resolver, Version};
pub use spawn::{NatsConfig, NatsServer, TlsFiles};
pub use supervise::{Child, Event, Supervisor};

use std::path::PathBuf;

/// What can go wrong between wanting a server and having one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable executable anywhere, and none may or could be installed.
    #[error("no usable {program} found: {}", looked.join("; "))]
    NotFound {
        /// What was looked for.
        program: Program,
        /// One entry per place: what was there and why it does not do.
        looked: Vec<String>,
    },
    /// An executable named by flag or variable does not do.
    #[error("{}: {reason} (named by {by})", path.display())]
    Explicit {
        /// The flag or variable.
        by: String,
        /// The path it gave.
        path: PathBuf,
        /// Why it does not do.
        reason: String,
    },
    /// The port asked for is taken.
    #[error(transparent)]
    PortInUse(#[from] ports::PortInUse),
    /// The server started and ended, or never became healthy.
    #[error("{name} did not start: {reason} (log: {})", log.display())]
    Unhealthy {
        /// The server.
        name: String,
        /// Its last words, or what was waited for.
        reason: String,
        /// The whole log.
        log: PathBuf,
    },
    /// This build of the server lacks something that was asked for.
    #[error("{} was built without {feature}", path.display())]
    Unsupported {
        /// The executable.
        path: PathBuf,
        /// What it lacks.
        feature: &'static str,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// What the reader can do about it.
    pub fn help(&self) -> String {
        match self {
            Error::NotFound { program, .. } => program.how_to_get(),
            Error::Explicit { by, .. } => format!("point {by} at a suitable executable, or leave it out"),
            Error::PortInUse(inner) => inner.help(),
            Error::Unhealthy { log, .. } => format!("read {}", log.display()),
            Error::Unsupported { feature, .. } => format!("use a build with {feature}, or do without"),
            Error::Io { .. } => "check permissions and free space".to_owned(),
        }
    }

    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}

/// Runs blocking work beside an asynchronous caller.
async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Io { what: "the starting thread ended".to_owned(), source: error.into() }),
    }
}
