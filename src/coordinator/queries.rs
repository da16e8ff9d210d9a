//! The query plane: what `sv.api.<tenant>.<verb>` answers, beside the owner's loop and never in its way.
//!
//! ```text
//! queries ── which verb, which bounds
//!   look ── get, many, tree, children        hot ── pages that many ask for: one read for all of them
//!   act, tell ── submit, cancel, messages …      ask ── the owner's loop, here or elsewhere
//! ```
//!
//! Reads go to Redis; what is not indexed yet, and what only the owner knows, is asked of the owner:
//! in this process over a channel, in another one over `sv.ask.<shard>`. Only the owner may say
//! `NOT_FOUND`. `submit`, `cancel` and `retry` publish to INTAKE like everybody else and wait a
//! moment for the decision. Nothing here retries a query.

mod act;
mod ask;
mod counts;
pub mod hot;
mod look;
mod tell;

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use super::calls::OwnerHandle;
use crate::{
    bus::{
        Link,
        objects::Objects,
        results::Results,
        service::{Answer, Handler, Query},
    },
    client::Client,
    flow::{input::unreadable, load::Load},
    store::{
        StoreError,
        events::EventStore,
        read::{IndexReader, ReadError, ScanLimits},
    },
    task::{Code, MAX_PAYLOAD_BYTES, Millis, Refusal, TaskKey, TenantName},
    wire::{
        api::{CountRequest, EventsRequest, ListRequest, verb},
        codec::Format,
        subjects::Shard,
    },
};

pub use ask::{Ask, Told};
pub use counts::Counts;
use hot::Hot;

/// A request holds at most an input and its envelope.
const REQUEST_LIMIT: usize = 2 * MAX_PAYLOAD_BYTES;
/// How long a decision is waited for before the answer is "stored, not yet decided".
const DECISION: Duration = Duration::from_secs(2);
/// How long a stream may take to acknowledge.
const STORED: Duration = Duration::from_secs(5);
/// How long an index that lags behind the owner is waited for.
const INDEX_LAG: Duration = Duration::from_secs(2);
/// How long the owner may take to answer from another process.
const OWNER_ANSWER: Duration = Duration::from_secs(2);

/// Answers queries. Cheap to clone.
#[derive(Clone)]
pub struct Queries {
    /// The index.
    pub index: IndexReader,
    /// Event streams.
    pub events: EventStore,
    /// How far a list may look.
    pub scan: watch::Receiver<ScanLimits>,
    /// The owner, if it is in this process.
    pub owner: OwnerHandle,
    /// To publish, and to ask an owner elsewhere.
    pub link: Link,
    /// Which shard.
    pub shard: Shard,
    /// Results too large for the index.
    pub results: Results,
    /// Results of steps too large for the journal.
    pub objects: Objects,
    /// Pages that many ask for.
    pub hot: Hot,
    /// How much work there is, as the owner in this process sees it.
    pub loads: watch::Receiver<Load>,
    /// What is counted of them.
    pub counts: Counts,
}

impl Handler for Queries {
    fn at_hand(&self, query: &Query) -> Option<Bytes> {
        if !matches!(query.verb, verb::LIST | verb::COUNT | verb::STATS) {
            return None;
        }
        let started = Instant::now();
        let answer = self.hot.fresh(query)?;
        self.counts.answered(query.verb, started.elapsed());
        Some(answer)
    }

    async fn answer(&self, query: Query) -> Answer {
        let started = Instant::now();
        let answer = self.dispatch(&query).await;
        match &answer {
            Ok(_) => self.counts.answered(query.verb, started.elapsed()),
            Err(refusal) => self.counts.refused(query.verb, refusal.code, started.elapsed()),
        }
        answer
    }
}

impl Queries {
    async fn dispatch(&self, query: &Query) -> Answer {
        let tenant = &query.tenant;
        match query.verb {
            verb::SUBMIT => reply(query, &self.submit(tenant, body(query)?).await?),
            verb::GET => reply(query, &self.get(tenant, body(query)?).await?),
            verb::LIST => self.hot(query, |queries, query| async move { queries.list(&query).await }).await,
            verb::MANY => reply(query, &self.many(tenant, body(query)?).await?),
            verb::COUNT => self.hot(query, |queries, query| async move { queries.count(&query).await }).await,
            verb::TREE => reply(query, &self.tree(tenant, body(query)?).await?),
            verb::CHILDREN => reply(query, &self.children(tenant, body(query)?).await?),
            verb::EVENTS => {
                let request: EventsRequest = body(query)?;
                let limit = within(request.limit, 100, 1_000)?;
                let key = TaskKey { tenant: tenant.clone(), id: request.task };
                reply(query, &self.events.read(&key, request.after, limit).await.map_err(store_refusal)?)
            }
            verb::WHY => reply(query, &self.why(tenant, body(query)?).await?),
            verb::AGENTS => self.hot(query, |queries, query| async move { queries.who(&query).await }).await,
            verb::CANCEL => reply(query, &self.cancel(tenant, body(query)?).await?),
            verb::RETRY => reply(query, &self.retry(tenant, body(query)?).await?),
            verb::PAUSE => reply(query, &self.set_tree(tenant, body(query)?, true).await?),
            verb::RESUME => reply(query, &self.set_tree(tenant, body(query)?, false).await?),
            verb::TELL => reply(query, &self.tell_task(tenant, body(query)?, false).await?),
            verb::SIGNAL => reply(query, &self.tell_task(tenant, body(query)?, true).await?),
            verb::HISTORY => reply(query, &self.history(tenant, body(query)?).await?),
            verb::KEPT => reply(query, &self.kept(tenant, body(query)?).await?),
            verb::STATS => self.hot(query, |queries, query| async move { queries.stats(&query).await }).await,
            other => Err(Refusal::new(Code::BadQuery, format!("there is no verb {other}"))),
        }
    }

    async fn list(&self, query: &Query) -> Answer {
        let request: ListRequest = body_or_default(query)?;
        let scan = *self.scan.borrow();
        reply(query, &self.index.list(&query.tenant, &request, scan).await.map_err(read_refusal)?)
    }

    async fn who(&self, query: &Query) -> Answer {
        reply(query, &self.agents(&query.tenant, body_or_default(query)?).await?)
    }

    async fn stats(&self, query: &Query) -> Answer {
        reply(query, &self.index.stats(&query.tenant).await.map_err(store_refusal)?)
    }

    async fn count(&self, query: &Query) -> Answer {
        let request: CountRequest = body_or_default(query)?;
        reply(query, &self.index.count(&query.tenant, &request).await.map_err(read_refusal)?)
    }

    /// A page that many may ask for at once: one read serves all who ask the same.
    async fn hot<F>(&self, query: &Query, read: impl FnOnce(Self, Query) -> F) -> Answer
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.hot.page(query, || read(self.clone(), query.clone())).await
    }

    /// A client of the tenant's on this coordinator's own connections.
    pub fn client(&self, tenant: TenantName) -> Client {
        Client::on(self.link.clone(), tenant)
    }
}

fn body<T: DeserializeOwned>(query: &Query) -> Result<T, Refusal> {
    query.format.decode(&query.body, REQUEST_LIMIT).map_err(|error| unreadable(&error))
}

/// An empty body means that nothing special is asked for.
fn body_or_default<T: DeserializeOwned + Default>(query: &Query) -> Result<T, Refusal> {
    if query.body.is_empty() { Ok(T::default()) } else { body(query) }
}

fn reply<T: Serialize>(query: &Query, value: &T) -> Answer {
    Ok(Format::encode(query.format, value))
}

fn within(asked: Option<u32>, default: u32, max: u32) -> Result<u32, Refusal> {
    match asked {
        None => Ok(default),
        Some(n) if (1..=max).contains(&n) => Ok(n),
        Some(n) => {
            let message = format!("limit {n} is not within 1 to {max}");
            Err(Refusal::over(Code::BadQuery, message, n.into(), max.into()))
        }
    }
}

fn not_found(key: &TaskKey) -> Refusal {
    Refusal::new(Code::NotFound, format!("tenant {} has no task {}", key.tenant, key.id))
}

fn nonsense() -> Refusal {
    Refusal::new(
        Code::Unavailable,
        "the owner's answer makes no sense; do all coordinators have one version?",
    )
}

fn changing() -> Refusal {
    Refusal::new(Code::Unknown, "the owner is changing").retry_after(1_000)
}

fn store_refusal(error: StoreError) -> Refusal {
    tracing::warn!(%error, "a query could not read the index");
    Refusal::new(Code::Unavailable, format!("the index is {}", error.reason())).retry_after(1_000)
}

fn read_refusal(error: ReadError) -> Refusal {
    match error {
        ReadError::Query(refusal) => refusal,
        ReadError::Store(error) => store_refusal(error),
    }
}

fn wall() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as Millis
}
