//! The query plane: what `sv.api.<tenant>.<verb>` answers, beside the owner's loop and never in its way.
//!
//! Reads go to Redis; what is not indexed yet, and what only the owner knows, is asked of the owner:
//! in this process over a channel, in another one over `sv.ask.<shard>`. Only the owner may say
//! `NOT_FOUND`. `submit`, `cancel` and `retry` publish to INTAKE like everybody else and wait a
//! moment for the decision. Nothing here retries a query.

mod tell;

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use super::calls::{OwnerCall, OwnerHandle};
use crate::{
    bus::{
        AskError, Link, StoreError as BusStoreError,
        service::{Answer, Query},
    },
    client::Client,
    flow::{input::unreadable, operate::Change},
    store::{
        StoreError,
        events::EventStore,
        read::{IndexReader, ReadError, ScanLimits},
    },
    task::{
        BodyHash, Code, MAX_PAYLOAD_BYTES, Millis, Phase, Refusal, TaskId, TaskKey, TenantName, keyed_id,
        retry_id,
    },
    telemetry::names,
    wire::{
        VERSION,
        api::{
            CancelRequest, ChildrenPage, ChildrenRequest, EventsRequest, GetRequest, ListRequest,
            PauseRequest, RetryRequest, SubmitRequest, TaskReply, TaskView, verb,
        },
        codec::{self, Format},
        history::HistoryPage,
        messages::{Cmd, CmdOp, Done, Submit},
        subjects::{self, Shard},
    },
};

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

/// What one coordinator asks the owner for in another process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// One task.
    View(TaskKey),
    /// A page of children.
    Children(TaskKey, u32, u32, bool),
    /// A page of a task's history, from a place and after a message.
    History(TaskKey, u32, u32),
    /// Whether a change of limits is journaled; also asked by whoever made it.
    Applied(Change),
}

/// The owner's answer to [`Ask`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// One task, or that there is none.
    View(Option<Box<TaskView>>),
    /// A page, or that there is no such task.
    Children(Option<ChildrenPage>),
    /// A page, or that there is no such task.
    History(Option<HistoryPage>),
    /// Whether it is.
    Applied(bool),
    /// Not now, or never.
    Refused(Refusal),
}

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
}

impl Queries {
    /// Answers one query.
    pub async fn answer(&self, query: Query) -> Answer {
        let started = std::time::Instant::now();
        let answer = self.dispatch(&query).await;
        let code = answer.as_ref().map_or_else(|refusal| refusal.code.as_str(), |_| "OK");
        metrics::histogram!(names::QUERY_TIME, names::VERB => query.verb).record(started.elapsed());
        metrics::counter!(names::QUERIES, names::VERB => query.verb, names::CODE => code).increment(1);
        answer
    }

    async fn dispatch(&self, query: &Query) -> Answer {
        let tenant = &query.tenant;
        match query.verb {
            verb::SUBMIT => reply(query, &self.submit(tenant, body(query)?).await?),
            verb::GET => reply(query, &self.get(tenant, body(query)?).await?),
            verb::LIST => {
                let request: ListRequest = body_or_default(query)?;
                let scan = *self.scan.borrow();
                reply(query, &self.index.list(tenant, &request, scan).await.map_err(read_refusal)?)
            }
            verb::CHILDREN => reply(query, &self.children(tenant, body(query)?).await?),
            verb::EVENTS => {
                let request: EventsRequest = body(query)?;
                let limit = within(request.limit, 100, 1_000)?;
                let key = TaskKey { tenant: tenant.clone(), id: request.task };
                reply(query, &self.events.read(&key, request.after, limit).await.map_err(store_refusal)?)
            }
            verb::CANCEL => reply(query, &self.cancel(tenant, body(query)?).await?),
            verb::RETRY => reply(query, &self.retry(tenant, body(query)?).await?),
            verb::PAUSE => reply(query, &self.set_tree(tenant, body(query)?, true).await?),
            verb::RESUME => reply(query, &self.set_tree(tenant, body(query)?, false).await?),
            verb::TELL => reply(query, &self.tell_task(tenant, body(query)?, false).await?),
            verb::SIGNAL => reply(query, &self.tell_task(tenant, body(query)?, true).await?),
            verb::HISTORY => reply(query, &self.history(tenant, body(query)?).await?),
            verb::STATS => reply(query, &self.index.stats(tenant).await.map_err(store_refusal)?),
            other => Err(Refusal::new(Code::BadQuery, format!("there is no verb {other}"))),
        }
    }

    async fn submit(&self, tenant: &TenantName, request: SubmitRequest) -> Result<TaskReply, Refusal> {
        if request.input.len() > MAX_PAYLOAD_BYTES {
            let (actual, limit) = (request.input.len() as u64, MAX_PAYLOAD_BYTES as u64);
            let message = format!("the input has {actual} bytes, at most {limit} are taken");
            return Err(Refusal::over(Code::TooLarge, message, actual, limit));
        }
        let task = match (request.task, &request.key) {
            (Some(_), Some(_)) => {
                return Err(Refusal::new(Code::BadQuery, "give either `task` or `key`, not both"));
            }
            (Some(task), None) => task,
            (None, Some(key)) => keyed_id(tenant, key),
            (None, None) => TaskId::fresh(),
        };
        let submit = Submit {
            v: VERSION,
            input: request.input,
            priority: request.priority,
            max_tries: request.max_tries,
            times: request.times,
            cost: request.cost,
            first_try: Some(wall()),
            confirm: true,
        };
        let hash = submit.clone().into_spec(request.agent.clone()).body_hash();
        let mut hints = self.hints(tenant, &task).await?;
        let subject = subjects::submit(tenant, &request.agent, &task);
        self.publish(&subject, codec::pack(&submit)).await?;
        let key = TaskKey { tenant: tenant.clone(), id: task.clone() };
        let Some(done) = self.decided(&mut hints, &key, hash).await? else {
            return Ok(TaskReply { task, state: None, refusal: None });
        };
        if done.body_hash.is_some_and(|found| found != hash) {
            let message = "this id was submitted before with another body; use a new id";
            let refusal = Some(Refusal::new(Code::IdempotencyConflict, message));
            return Ok(TaskReply { task, state: Some(Phase::Rejected), refusal });
        }
        Ok(TaskReply { task, state: Some(done.state), refusal: done.refusal })
    }

    async fn cancel(&self, tenant: &TenantName, request: CancelRequest) -> Result<TaskReply, Refusal> {
        let mut hints = self.hints(tenant, &request.task).await?;
        let cmd = Cmd { v: VERSION, op: CmdOp::Cancel { reason: request.reason } };
        self.publish(&subjects::cmd(tenant, &request.task, &TaskId::fresh()), codec::pack(&cmd)).await?;
        let key = TaskKey { tenant: tenant.clone(), id: request.task.clone() };
        let deadline = tokio::time::Instant::now() + DECISION;
        loop {
            let state =
                match tokio::time::timeout(Duration::from_millis(250), next_hint(&mut hints, None)).await {
                    Ok(Some(done)) => Some((done.state, done.refusal)),
                    _ => self.view(&key).await?.map(|view| (view.state, view.refusal)),
                };
            match state {
                Some((state, refusal)) if state.is_terminal() => {
                    return Ok(TaskReply { task: request.task, state: Some(state), refusal });
                }
                other if tokio::time::Instant::now() >= deadline => {
                    // Unknown so far: the cancel is stored and will meet the submit, should it come.
                    let state = other.map(|(state, _)| state);
                    return Ok(TaskReply { task: request.task, state, refusal: None });
                }
                _ => {}
            }
        }
    }

    async fn retry(&self, tenant: &TenantName, request: RetryRequest) -> Result<TaskReply, Refusal> {
        let dead = TaskKey { tenant: tenant.clone(), id: request.task };
        match self.view(&dead).await? {
            None => return Err(not_found(&dead)),
            Some(view) if view.state != Phase::Failed => {
                let message = format!("{} is {}; only a failed task can be retried", dead.id, view.state);
                return Err(Refusal::new(Code::NotDead, message));
            }
            Some(_) => {}
        }
        let nonce = request.nonce.unwrap_or_else(TaskId::fresh);
        let task = retry_id(&dead.id, nonce.as_str());
        let cmd = Cmd { v: VERSION, op: CmdOp::Retry {} };
        self.publish(&subjects::cmd(tenant, &dead.id, &nonce), codec::pack(&cmd)).await?;
        let key = TaskKey { tenant: tenant.clone(), id: task.clone() };
        let decided = self.poll(&key, DECISION, |view| view.is_some()).await?;
        // The new task may have run and failed by now: that is its own story, not a refusal of the retry.
        let (state, refusal) = decided.map_or((None, None), |view| {
            (Some(view.state), view.refusal.filter(|_| view.state == Phase::Rejected))
        });
        Ok(TaskReply { task, state, refusal })
    }

    async fn get(&self, tenant: &TenantName, request: GetRequest) -> Result<TaskView, Refusal> {
        let key = TaskKey { tenant: tenant.clone(), id: request.task };
        let indexed = match self.index.get(tenant, &key.id).await {
            Ok(view) => view,
            Err(error) => {
                tracing::debug!(%error, "the index can't be read; asking the owner");
                None
            }
        };
        if let Some(view) = indexed
            && request.min_rev.is_none_or(|rev| view.rev >= rev)
            && (view.state.is_terminal() || request.min_rev.is_some())
        {
            return Ok(view);
        }
        // Not there, not new enough, or still moving: the owner knows.
        let Some(view) = self.view(&key).await? else {
            return match self.index.get(tenant, &key.id).await {
                Ok(Some(view)) => Ok(view),
                _ => Err(not_found(&key)),
            };
        };
        if view.state != Phase::Completed || view.result.is_some() {
            return Ok(view);
        }
        self.indexed(&key, view).await
    }

    /// A completed task's result is in the index, or will be in a moment.
    async fn indexed(&self, key: &TaskKey, view: TaskView) -> Result<TaskView, Refusal> {
        let deadline = tokio::time::Instant::now() + INDEX_LAG;
        let mut pause = Duration::from_millis(2);
        loop {
            if let Ok(Some(found)) = self.index.get(&key.tenant, &key.id).await
                && found.rev >= view.rev
            {
                return Ok(found);
            }
            if tokio::time::Instant::now() >= deadline {
                let message = format!("{} is completed, but the index with its result lags behind", key.id);
                return Err(Refusal::new(Code::Unavailable, message).retry_after(1_000));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    async fn children(&self, tenant: &TenantName, request: ChildrenRequest) -> Result<ChildrenPage, Refusal> {
        let limit = within(request.limit, 100, 1_000)?;
        let key = TaskKey { tenant: tenant.clone(), id: request.task };
        let (after, results) = (request.after, request.results);
        let mine = {
            let key = key.clone();
            self.owner.ask(|reply| OwnerCall::Children { key, after, limit, results, reply }).await?
        };
        let page = match mine {
            Some(page) => page,
            None => match self.elsewhere(Ask::Children(key.clone(), after, limit, results)).await? {
                Told::Children(page) => page,
                Told::Refused(refusal) => return Err(refusal),
                _ => return Err(nonsense()),
            },
        };
        page.ok_or_else(|| not_found(&key))
    }

    /// A task as its owner knows it; `None`: there is none.
    async fn view(&self, key: &TaskKey) -> Result<Option<TaskView>, Refusal> {
        let asked = key.clone();
        if let Some(view) = self.owner.ask(|reply| OwnerCall::View { key: asked, reply }).await? {
            return Ok(view);
        }
        match self.elsewhere(Ask::View(key.clone())).await? {
            Told::View(view) => Ok(view.map(|view| *view)),
            Told::Refused(refusal) => Err(refusal),
            _ => Err(nonsense()),
        }
    }

    /// Whether a change of limits is journaled.
    async fn applied(&self, change: Change) -> Result<bool, Refusal> {
        let asked = change.clone();
        if let Some(applied) = self.owner.ask(|reply| OwnerCall::Applied { change: asked, reply }).await? {
            return applied;
        }
        match self.elsewhere(Ask::Applied(change)).await? {
            Told::Applied(applied) => Ok(applied),
            Told::Refused(refusal) => Err(refusal),
            _ => Err(nonsense()),
        }
    }

    /// Pauses a task's tree, or lets it go on: answered once that is journaled.
    async fn set_tree(
        &self,
        tenant: &TenantName,
        request: PauseRequest,
        paused: bool,
    ) -> Result<TaskReply, Refusal> {
        let key = TaskKey { tenant: tenant.clone(), id: request.task };
        // Of a task that is not there nothing could be paused.
        self.applied(Change::Tree(key.clone(), paused)).await?;
        let op = if paused { CmdOp::Pause {} } else { CmdOp::Resume {} };
        let cmd = Cmd { v: VERSION, op };
        self.publish(&subjects::cmd(tenant, &key.id, &TaskId::fresh()), codec::pack(&cmd)).await?;
        let deadline = tokio::time::Instant::now() + DECISION;
        let mut pause = Duration::from_millis(2);
        while !self.applied(Change::Tree(key.clone(), paused)).await? {
            if tokio::time::Instant::now() >= deadline {
                return Ok(TaskReply { task: key.id, state: None, refusal: None });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        let view = self.view(&key).await?;
        Ok(TaskReply { task: key.id, state: view.map(|view| view.state), refusal: None })
    }

    async fn elsewhere(&self, ask: Ask) -> Result<Told, Refusal> {
        let subject = subjects::ask(self.shard);
        let answer = self.link.main.ask(subject, codec::pack(&ask), OWNER_ANSWER).await;
        let message = answer.map_err(|error| {
            let why = match error {
                AskError::NoResponders => "no coordinator owns the shard now",
                _ => "the owner does not answer",
            };
            Refusal::new(Code::Unknown, format!("{why}; the task may exist")).retry_after(1_000)
        })?;
        codec::unpack(&message.payload).map_err(|_| nonsense())
    }

    /// The owner's side of a question from another coordinator.
    pub async fn tell(&self, body: &[u8]) -> Bytes {
        let told = match codec::unpack::<Ask>(body) {
            Ok(Ask::View(key)) => match self.owner.ask(|reply| OwnerCall::View { key, reply }).await {
                Ok(Some(view)) => Told::View(view.map(Box::new)),
                Ok(None) => Told::Refused(changing()),
                Err(refusal) => Told::Refused(refusal),
            },
            Ok(Ask::Children(key, after, limit, results)) => {
                let limit = limit.min(1_000);
                let call = |reply| OwnerCall::Children { key, after, limit, results, reply };
                match self.owner.ask(call).await {
                    Ok(Some(page)) => Told::Children(page),
                    Ok(None) => Told::Refused(changing()),
                    Err(refusal) => Told::Refused(refusal),
                }
            }
            Ok(Ask::History(key, place, after)) => {
                match self.owner.ask(|reply| OwnerCall::History { key, place, after, reply }).await {
                    Ok(Some(page)) => Told::History(page),
                    Ok(None) => Told::Refused(changing()),
                    Err(refusal) => Told::Refused(refusal),
                }
            }
            Ok(Ask::Applied(change)) => {
                match self.owner.ask(|reply| OwnerCall::Applied { change, reply }).await {
                    Ok(Some(Ok(applied))) => Told::Applied(applied),
                    Ok(None) => Told::Refused(changing()),
                    Ok(Some(Err(refusal))) | Err(refusal) => Told::Refused(refusal),
                }
            }
            Err(error) => Told::Refused(unreadable(&error)),
        };
        codec::pack(&told)
    }

    async fn hints(&self, tenant: &TenantName, task: &TaskId) -> Result<crate::bus::Subscription, Refusal> {
        self.link
            .main
            .subscribe(subjects::done(tenant, task))
            .await
            .map_err(|error| Refusal::new(Code::Unavailable, error.to_string()).retry_after(1_000))
    }

    async fn publish(&self, subject: &str, body: Bytes) -> Result<(), Refusal> {
        self.link.bulk.store(subject, body, STORED).await.map_err(|error| match error {
            BusStoreError::Full => Refusal::new(Code::Backpressure, "the intake is full").retry_after(1_000),
            BusStoreError::Unknown => {
                Refusal::new(Code::Unknown, "the intake did not answer; repeat the request with the same id")
                    .retry_after(1_000)
            }
            other => Refusal::new(Code::Unavailable, other.to_string()).retry_after(1_000),
        })
    }

    /// The decision on a submit: a hint, or what the owner says if the hint got lost.
    async fn decided(
        &self,
        hints: &mut crate::bus::Subscription,
        key: &TaskKey,
        ours: BodyHash,
    ) -> Result<Option<Done>, Refusal> {
        if let Ok(Some(done)) = tokio::time::timeout(DECISION, next_hint(hints, Some(ours))).await {
            return Ok(Some(done));
        }
        // Not finding it only means that it is not decided yet.
        let view = self.view(key).await.ok().flatten();
        Ok(view.map(|view| Done {
            v: VERSION,
            rev: view.rev,
            state: view.state,
            refusal: view.refusal,
            result: None,
            attempt: view.attempt,
            last_event: view.last_event,
            body_hash: view.body_hash,
            nonce: None,
        }))
    }

    async fn poll(
        &self,
        key: &TaskKey,
        within: Duration,
        enough: impl Fn(&Option<TaskView>) -> bool,
    ) -> Result<Option<TaskView>, Refusal> {
        let deadline = tokio::time::Instant::now() + within;
        let mut pause = Duration::from_millis(2);
        loop {
            let view = self.view(key).await?;
            if enough(&view) || tokio::time::Instant::now() >= deadline {
                return Ok(view);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// A client of the tenant's on this coordinator's own connections.
    pub fn client(&self, tenant: TenantName) -> Client {
        Client::on(self.link.clone(), tenant)
    }
}

async fn next_hint(hints: &mut crate::bus::Subscription, ours: Option<BodyHash>) -> Option<Done> {
    use futures_util::StreamExt;
    while let Some(message) = hints.next().await {
        if let (_, Ok(done)) = codec::decode_any::<Done>(None, &message.payload, usize::MAX)
            && !done.answers_a_message()
            // Somebody else's submit under this id was refused: no news of the task.
            && !(done.refuses_a_submission() && (ours.is_none() || done.body_hash != ours))
        {
            return Some(done);
        }
    }
    None
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

fn wall() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as Millis
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
