//! Looking at tasks and acting on them: request and reply on `sv.api.<tenant>.<verb>`, once each.

use serde::{Serialize, de::DeserializeOwned};

use super::{Client, Error, Result, TaskHandle};
use crate::{
    bus::{AskError, Message},
    task::{AgentName, Code, Millis, ObjectHash, Payload, Phase, Refusal, TaskId},
    wire::{
        about::{AgentsReply, AgentsRequest},
        api::{
            CancelRequest, ChildrenPage, ChildrenRequest, CountReply, CountRequest, EventsPage,
            EventsRequest, GetRequest, ListRequest, ManyReply, ManyRequest, PauseRequest, RetryRequest,
            StatsReply, TaskPage, TaskReply, TaskView, TreePage, TreeRequest, Why, WhyRequest, verb,
        },
        codec, headers,
        history::{HistoryPage, HistoryRequest, KeptReply, KeptRequest, TellRequest},
        subjects,
    },
};

/// Answers above this size are not read.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

impl Client {
    /// One task.
    pub async fn get(&self, task: &TaskId) -> Result<TaskView> {
        self.get_from(task, None).await
    }

    /// One task, at least as new as journal revision `min_rev`.
    pub async fn get_from(&self, task: &TaskId, min_rev: Option<u64>) -> Result<TaskView> {
        self.ask(verb::GET, &GetRequest { task: task.clone(), min_rev }).await
    }

    /// A page of tasks, newest first: set filters, then [`List::page`].
    pub fn list(&self) -> List<'_> {
        List { client: self, request: ListRequest::default() }
    }

    /// A page of a task's children, oldest first, with their results if asked for.
    pub async fn children(&self, task: &TaskId, after: u32, results: bool) -> Result<ChildrenPage> {
        let request = ChildrenRequest { task: task.clone(), after, limit: None, results };
        self.ask(verb::CHILDREN, &request).await
    }

    /// A page of a task's events after (attempt, n), oldest first.
    pub async fn events(&self, task: &TaskId, after: Option<(u32, u32)>) -> Result<EventsPage> {
        self.ask(verb::EVENTS, &EventsRequest { task: task.clone(), after, limit: None }).await
    }

    /// Cancels a task and everything below it.
    pub async fn cancel(&self, task: &TaskId, reason: &str) -> Result<TaskReply> {
        self.ask(verb::CANCEL, &CancelRequest { task: task.clone(), reason: reason.to_owned() }).await
    }

    /// Pauses the task's whole tree: what runs is stopped, and nothing of it starts until it is resumed. `Ok` with a state
    /// means that it is journaled.
    pub async fn pause(&self, task: &TaskId) -> Result<TaskReply> {
        self.ask(verb::PAUSE, &PauseRequest { task: task.clone() }).await
    }

    /// Lets the task's tree go on.
    pub async fn resume(&self, task: &TaskId) -> Result<TaskReply> {
        self.ask(verb::RESUME, &PauseRequest { task: task.clone() }).await
    }

    /// Puts a message into a task's mailbox. `Ok` with a state means that it is journaled; without one it is stored, and not
    /// decided yet.
    pub async fn tell<T: Serialize + ?Sized>(&self, task: &TaskId, message: &T) -> Result<TaskReply> {
        self.send(&told(task, None, message)?).await
    }

    /// The same with a name: what a handler waits for with `Ctx::wait_signal`.
    pub async fn signal<T: Serialize + ?Sized>(
        &self,
        task: &TaskId,
        name: &str,
        message: &T,
    ) -> Result<TaskReply> {
        self.send(&told(task, Some(name.to_owned()), message)?).await
    }

    /// The same, saying who says it, or by which nonce a repeat is recognised.
    pub async fn send(&self, request: &TellRequest) -> Result<TaskReply> {
        let verb = if request.name.is_some() { verb::SIGNAL } else { verb::TELL };
        self.ask(verb, request).await
    }

    /// A page of what a task was told and what its handler recorded: steps from `place` on, messages after `after`.
    pub async fn history(&self, task: &TaskId, place: u32, after: u32) -> Result<HistoryPage> {
        self.ask(verb::HISTORY, &HistoryRequest { task: task.clone(), place, after }).await
    }

    /// A chunk of a step's large result, as [`Client::history`] gives the reference. `STEP_LOST` if it is not there.
    pub async fn kept(&self, task: &TaskId, hash: ObjectHash, chunk: u32) -> Result<Payload> {
        let request = KeptRequest { task: task.clone(), hash, chunk };
        self.ask(verb::KEPT, &request).await.map(|reply: KeptReply| reply.chunk)
    }

    /// Submits a dead task again, as a new one linked to it.
    pub async fn retry(&self, dead: &TaskId) -> Result<TaskHandle> {
        self.retry_as(dead, None).await
    }

    /// The same; the same nonce is the same retry.
    pub async fn retry_as(&self, dead: &TaskId, nonce: Option<TaskId>) -> Result<TaskHandle> {
        let nonce = nonce.unwrap_or_else(TaskId::fresh);
        let request = RetryRequest { task: dead.clone(), nonce: Some(nonce) };
        let reply: TaskReply = self.ask(verb::RETRY, &request).await?;
        match reply.refusal {
            Some(refusal) => Err(refusal.into()),
            None => Ok(self.task(&reply.task)),
        }
    }

    /// The agents of which some instance lives, with what they say about themselves, and this tenant's tasks on them.
    pub async fn agents(&self, request: &AgentsRequest) -> Result<AgentsReply> {
        self.ask(verb::AGENTS, request).await
    }

    /// What holds the task back, or where it is, with the numbers.
    pub async fn why(&self, task: &TaskId) -> Result<Why> {
        self.ask(verb::WHY, &WhyRequest { task: task.clone() }).await
    }

    /// Several tasks, 100 at most, without their results.
    pub async fn get_many(&self, tasks: &[TaskId]) -> Result<ManyReply> {
        self.ask(verb::MANY, &ManyRequest { tasks: tasks.to_vec() }).await
    }

    /// How many tasks one filter fits.
    pub async fn count(&self, request: &CountRequest) -> Result<CountReply> {
        self.ask(verb::COUNT, request).await
    }

    /// A page of the tree that a task belongs to, oldest first; `cursor` is a former page's `next`.
    pub async fn tree(&self, task: &TaskId, cursor: Option<String>) -> Result<TreePage> {
        self.ask(verb::TREE, &TreeRequest { task: task.clone(), limit: None, cursor }).await
    }

    /// Tasks in the index, counted by state.
    pub async fn stats(&self) -> Result<StatsReply> {
        #[derive(Serialize)]
        struct Nothing {}
        self.ask(verb::STATS, &Nothing {}).await
    }

    async fn ask<Q: Serialize, R: DeserializeOwned>(&self, verb: &str, query: &Q) -> Result<R> {
        let subject = subjects::api(&self.parts.tenant, verb);
        match self.parts.link.main.ask(subject, codec::pack(query), self.parts.ask_within).await {
            Ok(message) => answer(verb, &message),
            Err(AskError::NoResponders) => Err(Error::Unavailable(format!(
                "no coordinator answers {verb} for tenant {}: none runs on this NATS server or account, or this \
                 user may not ask",
                self.parts.tenant
            ))),
            Err(AskError::TimedOut) => Err(Error::TimedOut {
                what: verb.to_owned(),
                ms: u64::try_from(self.parts.ask_within.as_millis()).unwrap_or(u64::MAX),
            }),
            Err(error @ (AskError::TooLarge | AskError::Closed)) => {
                Err(Error::Unavailable(error.to_string()))
            }
        }
    }
}

/// A message under a fresh nonce.
pub(super) fn told<T: Serialize + ?Sized>(
    task: &TaskId,
    name: Option<String>,
    message: &T,
) -> Result<TellRequest> {
    let message = Payload::json(message).map_err(|e| Error::Data(format!("the message is no JSON: {e}")))?;
    Ok(TellRequest { task: task.clone(), name, message, from: None, nonce: Some(TaskId::fresh()) })
}

fn answer<R: DeserializeOwned>(verb: &str, message: &Message) -> Result<R> {
    let header = |name: &str| {
        message.headers.as_ref().and_then(|h| h.get(name)).map(|value| value.as_str().to_owned())
    };
    let content_type = header(headers::CONTENT_TYPE);
    if let Some(text) = header(headers::SERVICE_ERROR) {
        let refusal = codec::decode_any::<Refusal>(content_type.as_deref(), &message.payload, MAX_ANSWER).1;
        return Err(refusal.unwrap_or_else(|_| Refusal::new(Code::UnknownCode, text)).into());
    }
    codec::decode_any(content_type.as_deref(), &message.payload, MAX_ANSWER)
        .1
        .map_err(|e| Error::Data(format!("the answer to {verb} is not understood: {e}")))
}

/// A list query being put together.
#[must_use = "a list is not asked for until .page() is awaited"]
#[derive(Clone)]
pub struct List<'a> {
    client: &'a Client,
    request: ListRequest,
}

impl List<'_> {
    /// Only tasks in this state; may be repeated. Without it: all but cancelled.
    pub fn state(mut self, state: Phase) -> Self {
        self.request.states.push(state);
        self
    }

    /// Only this agent's.
    pub fn agent(mut self, agent: &AgentName) -> Self {
        self.request.agent = Some(agent.clone());
        self
    }

    /// Only this tree, by its root.
    pub fn root(mut self, root: &TaskId) -> Self {
        self.request.root = Some(root.clone());
        self
    }

    /// Only this task's children.
    pub fn parent(mut self, parent: &TaskId) -> Self {
        self.request.parent = Some(parent.clone());
        self
    }

    /// Only tasks created at this time or later, Unix milliseconds.
    pub fn since(mut self, at: Millis) -> Self {
        self.request.since = Some(at);
        self
    }

    /// Only tasks created before this time, Unix milliseconds.
    pub fn until(mut self, at: Millis) -> Self {
        self.request.until = Some(at);
        self
    }

    /// Only tasks with this label; may be repeated, for several.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.labels.set(key, value);
        self
    }

    /// At most this many, 1 to 100; 10 unless set.
    pub fn limit(mut self, limit: u32) -> Self {
        self.request.limit = Some(limit);
        self
    }

    /// Skips this many.
    pub fn offset(mut self, offset: u32) -> Self {
        self.request.offset = Some(offset);
        self
    }

    /// Goes on where a page ended, by its `next`.
    pub fn cursor(mut self, cursor: impl Into<String>) -> Self {
        self.request.cursor = Some(cursor.into());
        self
    }

    /// Asks.
    pub async fn page(self) -> Result<TaskPage> {
        self.client.ask(verb::LIST, &self.request).await
    }
}
