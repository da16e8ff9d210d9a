//! Submitting: stored means it will be decided; a refusal by limits comes later, as state `rejected`.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::{Client, Ended, Error, Result, TaskHandle, wait};
use crate::{
    bus::{Lane, StoreError, Subscription},
    task::{
        AgentName, BodyHash, Code, Labels, MAX_PAYLOAD_BYTES, Millis, Payload, Phase, Priority, Refusal,
        Spec, TaskId, Times, keyed_id, millis,
    },
    wire::{
        VERSION, codec,
        messages::{Submit, TaskSubmit},
        subjects,
    },
};

/// When a full intake is worth another try.
const BACKPRESSURE_RETRY_MS: Millis = 1_000;

/// A task to submit.
#[derive(Debug, Clone)]
pub struct NewTask {
    pub(super) spec: Spec,
    id: Option<TaskId>,
    key: Option<String>,
}

impl NewTask {
    /// For `agent`, with `input` encoded as JSON. A [`Payload`] is taken as it is by [`NewTask::raw`].
    pub fn new<T: Serialize + ?Sized>(agent: &str, input: &T) -> Result<Self> {
        let input = Payload::json(input).map_err(|e| Error::Data(format!("the input is no JSON: {e}")))?;
        Self::raw(agent, input)
    }

    /// For `agent`, with an input that is encoded already.
    pub fn raw(agent: &str, input: Payload) -> Result<Self> {
        let (agent, priority) = (AgentName::new(agent)?, Priority::Normal);
        let spec = Spec { labels: None, agent, input, priority, max_tries: None, times: None, cost: None };
        Ok(Self { spec, id: None, key: None })
    }

    /// The id; a fresh one unless set.
    pub fn id(self, id: TaskId) -> Self {
        Self { id: Some(id), ..self }
    }

    /// Derives the id from `key`: submitting the same key again finds the same task.
    pub fn key(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// The class within the tenant.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.spec.priority = priority;
        self
    }

    /// Tries before it is dead; the plan's limit is never exceeded.
    pub fn max_tries(mut self, tries: u32) -> Self {
        self.spec.max_tries = Some(tries);
        self
    }

    /// Not before this long after its admission. It is `queued` meanwhile, and counts as waiting.
    pub fn delay(self, delay: Duration) -> Self {
        self.timed(|times| times.delay_ms = Some(millis(delay)))
    }

    /// Not before this time, Unix milliseconds; at once if it has passed.
    pub fn run_at(self, unix_ms: Millis) -> Self {
        self.timed(|times| times.run_at = Some(unix_ms))
    }

    /// Expires unless it is started within this long of when it may be.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.timed(|times| times.ttl_ms = Some(millis(ttl)))
    }

    /// How long one try may take. What takes longer is stopped, and tried again as after any failure.
    pub fn try_timeout(self, limit: Duration) -> Self {
        self.timed(|times| times.try_timeout_ms = Some(millis(limit)))
    }

    /// Expires this long after the submit, with everything below it, whatever it does then.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.timed(|times| times.deadline_ms = Some(millis(deadline)))
    }

    /// The same at a time, Unix milliseconds.
    pub fn deadline_at(self, unix_ms: Millis) -> Self {
        self.timed(|times| times.deadline_at = Some(unix_ms))
    }

    /// When it may start and by when it must be over, all at once.
    pub fn times(mut self, times: Times) -> Self {
        self.spec.times = (!times.is_empty()).then(|| Box::new(times));
        self
    }

    fn timed(mut self, set: impl FnOnce(&mut Times)) -> Self {
        set(self.spec.times.get_or_insert_default());
        self
    }

    /// Cells (tokens, say) that an attempt is expected to use: it waits until its tenant and its agent have them.
    pub fn cost(mut self, cells: u32) -> Self {
        self.spec.cost = Some(cells);
        self
    }

    /// Writes a label on it, by which lists find it: at most eight, short texts. Its children don't have it.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.labels.get_or_insert_default().set(key, value);
        self
    }
}

/// A submit on its way: await it, or set more first.
#[must_use = "a submission does nothing until it is awaited"]
pub struct Submission {
    client: Client,
    task: Result<NewTask>,
}

impl Submission {
    /// See [`NewTask::id`].
    pub fn id(self, id: &str) -> Self {
        let task = self.task.and_then(|t| Ok(t.id(TaskId::new(id)?)));
        Self { task, ..self }
    }

    /// See [`NewTask::key`].
    pub fn key(self, key: impl Into<String>) -> Self {
        Self { task: self.task.map(|t| t.key(key)), ..self }
    }

    /// See [`NewTask::priority`].
    pub fn priority(self, priority: Priority) -> Self {
        Self { task: self.task.map(|t| t.priority(priority)), ..self }
    }

    /// See [`NewTask::max_tries`].
    pub fn max_tries(self, tries: u32) -> Self {
        Self { task: self.task.map(|t| t.max_tries(tries)), ..self }
    }

    /// See [`NewTask::delay`].
    pub fn delay(self, delay: Duration) -> Self {
        Self { task: self.task.map(|task| task.delay(delay)), ..self }
    }

    /// See [`NewTask::run_at`].
    pub fn run_at(self, unix_ms: Millis) -> Self {
        Self { task: self.task.map(|task| task.run_at(unix_ms)), ..self }
    }

    /// See [`NewTask::ttl`].
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { task: self.task.map(|task| task.ttl(ttl)), ..self }
    }

    /// See [`NewTask::try_timeout`].
    pub fn try_timeout(self, limit: Duration) -> Self {
        Self { task: self.task.map(|task| task.try_timeout(limit)), ..self }
    }

    /// See [`NewTask::deadline`].
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { task: self.task.map(|task| task.deadline(deadline)), ..self }
    }

    /// See [`NewTask::deadline_at`].
    pub fn deadline_at(self, unix_ms: Millis) -> Self {
        Self { task: self.task.map(|task| task.deadline_at(unix_ms)), ..self }
    }

    /// See [`NewTask::cost`].
    pub fn cost(self, cells: u32) -> Self {
        Self { task: self.task.map(|t| t.cost(cells)), ..self }
    }

    /// See [`NewTask::label`].
    pub fn label(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { task: self.task.map(|task| task.label(key, value)), ..self }
    }

    /// Waits for the admission too: a task that is refused by a limit is an error here.
    pub async fn confirmed(self) -> Result<TaskHandle> {
        self.client.confirm(self.task?).await
    }

    /// Submits and waits for the end. For short tasks better than waiting with the handle: the hint at the end is
    /// listened for before the task is submitted, so it can't have come too early.
    pub async fn wait(self) -> Result<Ended> {
        self.client.submit_and_wait(self.task?).await
    }

    /// The same, for the result.
    pub async fn result<T: DeserializeOwned>(self) -> Result<T> {
        self.wait().await?.result()
    }
}

impl IntoFuture for Submission {
    type Output = Result<TaskHandle>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let ready = self.client.ready(self.task?, false)?;
            self.client.store(&self.client.parts.link.bulk, ready).await
        })
    }
}

/// A submit as it goes out, again and again if need be: the bytes never change.
struct Ready {
    id: TaskId,
    subject: String,
    body: Bytes,
    hash: BodyHash,
}

impl Client {
    /// Submits a task for `agent`. `Ok` means stored and will be decided.
    pub fn submit<T: Serialize + ?Sized>(&self, agent: &str, input: &T) -> Submission {
        self.submission(NewTask::new(agent, input))
    }

    /// Submits a task that was put together before.
    pub fn submit_task(&self, task: NewTask) -> Submission {
        self.submission(Ok(task))
    }

    fn submission(&self, task: Result<NewTask>) -> Submission {
        Submission { client: self.clone(), task }
    }

    /// Submits and waits until the task is admitted, or refused by a limit.
    pub async fn submit_and_confirm<T: Serialize + ?Sized>(
        &self,
        agent: &str,
        input: &T,
    ) -> Result<TaskHandle> {
        self.submit(agent, input).confirmed().await
    }

    /// What a task says on the wire, and its hash.
    pub(super) fn entry(&self, task: NewTask, confirm: bool) -> Result<(TaskSubmit, BodyHash)> {
        let id = match (task.id, task.key) {
            (Some(id), None) => id,
            (None, Some(key)) => keyed_id(&self.parts.tenant, &key),
            (None, None) => TaskId::fresh(),
            (Some(_), Some(_)) => {
                return Err(Refusal::new(Code::BadMessage, "give a task an id or a key, not both").into());
            }
        };
        check_size("the input", task.spec.input.len(), self.parts.link.main.max_payload())?;
        task.spec.times.as_deref().map_or(Ok(()), |times| times.check_at(unix_now()))?;
        task.spec.labels.as_deref().map_or(Ok(()), Labels::check)?;
        let hash = task.spec.body_hash();
        let submit = Submit {
            v: VERSION,
            input: task.spec.input,
            priority: task.spec.priority,
            max_tries: task.spec.max_tries,
            times: task.spec.times,
            cost: task.spec.cost,
            labels: task.spec.labels,
            first_try: Some(unix_now()),
            confirm,
            hops: self.parts.hops,
        };
        Ok((TaskSubmit { agent: task.spec.agent, task: id, submit }, hash))
    }

    fn ready(&self, task: NewTask, confirm: bool) -> Result<Ready> {
        let (TaskSubmit { agent, task: id, submit }, hash) = self.entry(task, confirm)?;
        let subject = subjects::submit(&self.parts.tenant, &agent, &id);
        Ok(Ready { id, subject, body: codec::pack(&submit), hash })
    }

    async fn store(&self, lane: &Lane, ready: Ready) -> Result<TaskHandle> {
        match lane.store(&ready.subject, ready.body, self.parts.submit_within).await {
            Ok(()) => Ok(self.stored(ready.id, ready.hash, Instant::now())),
            Err(error) => Err(not_stored(error, ready.id)),
        }
    }

    pub(super) fn stored(&self, id: TaskId, hash: BodyHash, at: Instant) -> TaskHandle {
        TaskHandle { client: self.clone(), id, body_hash: Some(hash), stored: Some(at) }
    }

    /// Submits a task whose hints are listened for from before.
    async fn store_heard(&self, ready: Ready) -> Result<(TaskHandle, Subscription)> {
        // The same lane for both: the server sees the subscription first.
        let lane = &self.parts.link.main;
        let hints = lane.subscribe(subjects::done(&self.parts.tenant, &ready.id)).await?;
        Ok((self.store(lane, ready).await?, hints))
    }

    async fn submit_and_wait(&self, task: NewTask) -> Result<Ended> {
        let (handle, mut hints) = self.store_heard(self.ready(task, false)?).await?;
        let look = wait::FIRST_PAUSE;
        let ended =
            wait::until(self, &handle.id, handle.body_hash, &mut hints, look, Phase::is_terminal).await?;
        handle.ours(ended)
    }

    async fn confirm(&self, task: NewTask) -> Result<TaskHandle> {
        let (handle, mut hints) = self.store_heard(self.ready(task, true)?).await?;
        // The hint can't have come before the subscription: it is rarely needed to ask.
        let look = wait::FIRST_PAUSE;
        let admitted = wait::until(self, &handle.id, handle.body_hash, &mut hints, look, |_| true);
        let seen = match tokio::time::timeout(self.parts.submit_within, admitted).await {
            Ok(seen) => seen?,
            Err(_) => {
                return Err(Error::Unavailable(format!(
                    "{} is stored and will be decided, but no coordinator has decided it yet",
                    handle.id
                )));
            }
        };
        handle.check(seen.body_hash)?;
        match (seen.state, seen.refusal) {
            (Phase::Rejected, Some(refusal)) => Err(Error::Refused(refusal)),
            _ => Ok(handle),
        }
    }
}

pub(super) fn not_stored(error: StoreError, task: TaskId) -> Error {
    match error {
        StoreError::Unknown => Error::Unknown { task },
        StoreError::Full => Error::Refused(
            Refusal::new(Code::Backpressure, "the intake stream is full; submit the same id again later")
                .retry_after(BACKPRESSURE_RETRY_MS),
        ),
        StoreError::TooLarge => Error::Refused(Refusal::new(
            Code::TooLarge,
            "the message is above the server's max_payload; send a reference instead of the data",
        )),
        StoreError::NoStream => Error::Unavailable(
            "no stream takes submits here; has a coordinator ever run on this NATS server or account?"
                .to_owned(),
        ),
        refused @ (StoreError::Taken | StoreError::Refused(_)) => {
            Error::Unavailable(format!("the submit was not stored: {refused}"))
        }
    }
}

/// Refuses what the other side would refuse, before it is sent.
pub(crate) fn check_size(what: &str, bytes: usize, max_payload: usize) -> std::result::Result<(), Refusal> {
    let limit = MAX_PAYLOAD_BYTES.min(max_payload / 4);
    if bytes <= limit {
        return Ok(());
    }
    Err(Refusal::over(
        Code::TooLarge,
        format!("{what} has {bytes} bytes > limit {limit}; send a reference instead of the data"),
        bytes as u64,
        limit as u64,
    ))
}

pub(crate) fn unix_now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_above_the_limit_is_refused_with_its_numbers() {
        let refusal = check_size("the input", MAX_PAYLOAD_BYTES + 1, 1 << 20).unwrap_err();
        assert_eq!((refusal.code, refusal.limit), (Code::TooLarge, Some(MAX_PAYLOAD_BYTES as u64)));
        assert_eq!(check_size("the input", 1_000, 2_000).unwrap_err().limit, Some(500));
        assert!(check_size("the input", MAX_PAYLOAD_BYTES, 1 << 20).is_ok());
    }

    #[test]
    fn an_unknown_outcome_is_never_called_a_refusal() {
        let task = TaskId::fresh();
        assert!(
            matches!(not_stored(StoreError::Unknown, task.clone()), Error::Unknown { task: t } if t == task)
        );
        assert_eq!(not_stored(StoreError::Full, task).code(), Some(Code::Backpressure));
    }
}
