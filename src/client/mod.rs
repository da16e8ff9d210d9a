//! The client SDK: submit, wait, look, watch, cancel.
//!
//! ```no_run
//! # async fn example() -> Result<(), selvedge::client::Error> {
//! use selvedge::client::Client;
//!
//! let client = Client::connect("nats://127.0.0.1:4222").await?.tenant("acme")?;
//! let task = client.submit("reader", &"README.md").await?;
//! let words: u64 = task.result().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A client holds no state of tasks. It never retries a query that timed out, and never calls a
//! submit failed whose fate it does not know.

mod call;
mod error;
mod handle;
mod many;
mod publish;
mod query;
mod submit;
mod wait;
mod watch;

use std::{sync::Arc, time::Duration};

pub use call::{Answer, Call, Chunk, Sign};
pub use error::{Error, Result};
pub use handle::TaskHandle;
pub use publish::Publication;
pub use query::List;
pub(crate) use submit::check_size;
pub use submit::{NewTask, Submission};
pub use wait::Ended;
pub use watch::{Watch, WatchItem};

use crate::{
    bus::Link,
    task::{NameError, TenantName},
};

/// The tenant of a client that names none.
pub const DEFAULT_TENANT: &str = "default";

/// A connection that speaks for one tenant. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    /// Behind one pointer: every handle to a task has a client.
    parts: Arc<Parts>,
}

#[derive(Clone)]
struct Parts {
    link: Link,
    tenant: TenantName,
    /// How long a submit is tried before its fate is called unknown.
    submit_within: Duration,
    /// How long one query may take.
    ask_within: Duration,
    /// Triggers that lie behind the task this client works for.
    hops: u32,
}

impl Client {
    /// Connects to `url`; commas separate several servers of one cluster.
    pub async fn connect(url: &str) -> Result<Self> {
        let link = Link::open(url, "selvedge-client").await?;
        Ok(Self::on(link, TenantName::new(DEFAULT_TENANT)?))
    }

    /// Connects as the `NATS_*` variables and the selected context of the `nats` CLI say, to a local
    /// server if they say nothing; as tenant `SELVEDGE_TENANT` (`default` if unset).
    pub async fn from_env() -> Result<Self> {
        let tenant = std::env::var("SELVEDGE_TENANT").unwrap_or_else(|_| DEFAULT_TENANT.to_owned());
        let tenant = TenantName::new(tenant)?;
        Ok(Self::on(Link::from_env("selvedge-client").await?, tenant))
    }

    /// Speaks over connections that exist already.
    pub fn on(link: Link, tenant: TenantName) -> Self {
        let parts = Parts {
            link,
            tenant,
            submit_within: Duration::from_secs(30),
            ask_within: Duration::from_secs(5),
            hops: 0,
        };
        Self { parts: Arc::new(parts) }
    }

    /// The same connection, speaking for `tenant`.
    pub fn tenant(&self, tenant: &str) -> std::result::Result<Self, NameError> {
        let tenant = TenantName::new(tenant)?;
        Ok(self.clone().with(|parts| parts.tenant = tenant))
    }

    /// What it submits and publishes says that so many triggers lie behind it.
    #[cfg(feature = "agent")]
    pub(crate) fn behind(self, hops: u32) -> Self {
        self.with(|parts| parts.hops = hops)
    }

    /// How long a submit is tried before its fate is called unknown; 30 s unless set.
    pub fn submit_within(self, within: Duration) -> Self {
        self.with(|parts| parts.submit_within = within)
    }

    /// How long one query may take; 5 s unless set.
    pub fn ask_within(self, within: Duration) -> Self {
        self.with(|parts| parts.ask_within = within)
    }

    fn with(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        change(Arc::make_mut(&mut self.parts));
        self
    }

    /// Whose tasks this client sees.
    pub fn tenant_name(&self) -> &TenantName {
        &self.parts.tenant
    }

    /// The connections underneath.
    pub fn link(&self) -> &Link {
        &self.parts.link
    }
}
