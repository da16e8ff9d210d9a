//! What a handler holds: its task, and ways to emit, spawn, wait and notice a cancel.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{AgentError, attempt::Attempt, error::refused};
use crate::{
    client::Client,
    task::{Code, Millis, Payload, Refusal, TaskId, TenantName},
    wire::{
        VERSION, codec,
        messages::{Event, MAX_EVENT_BYTES, RefusedChild},
    },
};

/// One attempt, as its handler sees it. Cheap to clone.
#[derive(Clone)]
pub struct Ctx(pub(super) Arc<Attempt>);

impl Ctx {
    /// Whose task this is.
    pub fn tenant(&self) -> &TenantName {
        &self.0.offer.tenant
    }

    /// The task's id; of a call, an id of its own.
    pub fn task(&self) -> &TaskId {
        &self.0.offer.task
    }

    /// The task that spawned this one.
    pub fn parent(&self) -> Option<&TaskId> {
        self.0.offer.parent.as_ref()
    }

    /// The root of its tree.
    pub fn root(&self) -> &TaskId {
        &self.0.offer.root
    }

    /// 0 for a root.
    pub fn depth(&self) -> u32 {
        self.0.offer.depth
    }

    /// Which dispatch this is, from 1. A resume after waiting is a new attempt.
    pub fn attempt(&self) -> u32 {
        self.0.offer.attempt
    }

    /// Tries lost before this one.
    pub fn tries(&self) -> u32 {
        self.0.offer.tries
    }

    /// When the task expires, whatever it does then, Unix milliseconds; `None`: it has no deadline. Its own, or that of
    /// a task above it, whichever is earlier.
    pub fn deadline(&self) -> Option<Millis> {
        self.0.offer.deadline_at
    }

    /// How long this attempt may still go on: until the deadline of the task or the end of the try, whichever is
    /// earlier, counted by the coordinator's clocks when the task was offered. `None`: for as long as it likes.
    pub fn time_left(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.0.ends?.saturating_sub(self.0.instance.settings.clock.now())))
    }

    /// A client of this task's tenant, on the same connection.
    pub fn client(&self) -> &Client {
        self.0.client()
    }

    /// Returns when the task is cancelled or its lease is over. What the handler does after that
    /// counts for nothing, and it is dropped after a grace time.
    pub async fn cancelled(&self) {
        self.0.until(|state| state.cancelled.then_some(())).await;
    }

    /// Whether the task is cancelled or its lease over.
    pub fn is_cancelled(&self) -> bool {
        self.0.state().cancelled
    }

    /// Whether the process has been asked to stop: a good time for a long handler to snooze.
    pub fn is_draining(&self) -> bool {
        self.0.instance.is_draining()
    }

    /// Run me again after `delay`, without counting a try: `return Err(ctx.snooze(delay))`.
    pub fn snooze(&self, delay: Duration) -> AgentError {
        AgentError::snooze(delay)
    }

    /// Says that the attempt has used so many cells (tokens, say); several times add up. Told with the attempt's end: more
    /// than the task's cost is owed by its tenant and its agent, less is given back. Without a word it is its cost.
    pub fn used(&self, cells: u32) {
        let mut state = self.0.state();
        state.used = Some(state.used.unwrap_or(0).saturating_add(cells));
    }

    /// Emits an event: kept in a capped stream, shown to watchers, never truth. Does not wait for it
    /// to be stored; waits while too many are on their way. In a call it is the next part of the answer, straight to the caller.
    pub async fn emit<T: Serialize + ?Sized>(&self, kind: &str, data: &T) -> Result<(), AgentError> {
        let data =
            Payload::json(data).map_err(|e| AgentError::fatal(format!("the event is no JSON: {e}")))?;
        self.emit_raw(kind, data).await
    }

    /// The same with data that is encoded already.
    pub async fn emit_raw(&self, kind: &str, data: Payload) -> Result<(), AgentError> {
        let at = self.0.instance.settings.clock.wall();
        let event =
            Event { v: VERSION, attempt: self.attempt(), n: u32::MAX, at, kind: kind.to_owned(), data };
        let bytes = codec::pack(&event).len();
        if bytes > MAX_EVENT_BYTES {
            return Err(refused(Refusal::over(
                Code::TooLarge,
                format!("the event has {bytes} bytes > limit {MAX_EVENT_BYTES}; emit less at a time"),
                bytes as u64,
                MAX_EVENT_BYTES as u64,
            )));
        }
        self.0.emit(event).await
    }

    /// Children of this attempt that the coordinator refused so far. Complete once `wait_all` returns.
    pub fn refused(&self) -> Vec<RefusedChild> {
        self.0.state().spawned.refused.clone()
    }

    /// Waits by this agent's clock in its slot; returns early, with an error to pass on, when the task is cancelled.
    pub async fn sleep_here(&self, duration: Duration) -> Result<(), AgentError> {
        tokio::select! {
            () = self.0.instance.settings.clock.sleep(duration) => Ok(()),
            () = self.cancelled() => Err(AgentError::retryable("cancelled")),
        }
    }

    /// The time by this agent's clock, Unix milliseconds.
    pub fn now(&self) -> Millis {
        self.0.instance.settings.clock.wall()
    }
}
