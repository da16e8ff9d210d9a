//! The verbs that change something: they publish to INTAKE like everybody else and wait a moment for the decision.

use std::time::Duration;

use bytes::Bytes;

use super::{DECISION, Queries, STORED, not_found, wall};
use crate::{
    bus::StoreError as BusStoreError,
    flow::operate::Change,
    task::{
        BodyHash, Code, Labels, MAX_PAYLOAD_BYTES, Phase, Refusal, TaskId, TaskKey, TenantName, keyed_id,
        retry_id,
    },
    wire::{
        VERSION,
        api::{CancelRequest, PauseRequest, RetryRequest, SubmitRequest, TaskReply, TaskView},
        codec,
        messages::{Cmd, CmdOp, Done, Submit},
        subjects,
    },
};

impl Queries {
    pub(super) async fn submit(
        &self,
        tenant: &TenantName,
        request: SubmitRequest,
    ) -> Result<TaskReply, Refusal> {
        if request.input.len() > MAX_PAYLOAD_BYTES {
            let (actual, limit) = (request.input.len() as u64, MAX_PAYLOAD_BYTES as u64);
            let message = format!("the input has {actual} bytes, at most {limit} are taken");
            return Err(Refusal::over(Code::TooLarge, message, actual, limit));
        }
        request.labels.as_deref().map_or(Ok(()), Labels::check)?;
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
            labels: request.labels,
            first_try: Some(wall()),
            confirm: true,
            hops: 0,
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

    pub(super) async fn cancel(
        &self,
        tenant: &TenantName,
        request: CancelRequest,
    ) -> Result<TaskReply, Refusal> {
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

    pub(super) async fn retry(
        &self,
        tenant: &TenantName,
        request: RetryRequest,
    ) -> Result<TaskReply, Refusal> {
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

    /// Pauses a task's tree, or lets it go on: answered once that is journaled.
    pub(super) async fn set_tree(
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

    pub(super) async fn hints(
        &self,
        tenant: &TenantName,
        task: &TaskId,
    ) -> Result<crate::bus::Subscription, Refusal> {
        self.link
            .main
            .subscribe(subjects::done(tenant, task))
            .await
            .map_err(|error| Refusal::new(Code::Unavailable, error.to_string()).retry_after(1_000))
    }

    pub(super) async fn publish(&self, subject: &str, body: Bytes) -> Result<(), Refusal> {
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
    pub(super) async fn decided(
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

    pub(super) async fn poll(
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
