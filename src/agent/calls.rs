//! Calls: a handler whose parts go straight to the caller's inbox, numbered, as they come.
//!
//! A call is an attempt without a task: [`Ctx::emit`] streams, the result ends the stream, and what needs a task (children,
//! steps, messages, waits) is refused with advice to submit one. Every part is published with a reply subject: when nobody
//! listens at the inbox any more the server says so there at once, and the handler is cancelled.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{sync::Mutex as Turn, time::Instant};

use super::{
    AgentError, Ctx, Handled,
    attempt::Attempt,
    caught::{Caught, Ended},
    instance::Instance,
};
use crate::{
    bus::Lane,
    client::{Call as Asking, check_size},
    task::{Code, Millis, Outcome, Payload, Refusal, TaskId, Token},
    wire::{
        Format, VERSION,
        calls::{ALIVE_EVERY_MS, Call, CallOver, CallPart, HeldCall, PartOp, public_id},
        messages::{Event, Offer},
    },
};

/// The caller's side of a call.
pub(super) struct Answer {
    lane: Lane,
    to: String,
    /// Where the server says that nobody listens at `to`.
    unheard: String,
    format: Format,
    borrows: Option<TaskId>,
    arrived: Instant,
    /// The last part's number, held while a part leaves: parts leave in the order of their numbers.
    last: Turn<u32>,
    spoke: Mutex<Spoke>,
}

#[derive(Default)]
struct Spoke {
    first: Option<Instant>,
    last: Option<Instant>,
    /// Why it has no answer, or no more of it.
    over: Option<Refusal>,
    /// Somebody else has told the caller, or there is none.
    told: bool,
}

impl Answer {
    pub(super) fn new(instance: &Instance, call: &Call, to: String, unheard: String) -> Self {
        Self {
            // Where the server's word on an unheard part comes back to.
            lane: instance.link.main.clone(),
            to,
            unheard,
            format: if call.json { Format::Json } else { Format::MsgPack },
            borrows: call.borrows.clone(),
            arrived: Instant::now(),
            last: Turn::new(0),
            spoke: Mutex::default(),
        }
    }

    fn spoke(&self) -> MutexGuard<'_, Spoke> {
        // Nothing can panic while it is held; a poisoned lock still holds whole data.
        self.spoke.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn say(&self, op: PartOp) -> Result<(), AgentError> {
        let mut last = self.last.lock().await;
        if !matches!(op, PartOp::Alive {}) {
            *last += 1;
        }
        let body = self.format.encode(&CallPart { v: VERSION, n: *last, op });
        self.lane.tell_answerable(self.to.clone(), &self.unheard, body).await?;
        let now = Instant::now();
        let mut spoke = self.spoke();
        spoke.first.get_or_insert(now);
        spoke.last = Some(now);
        Ok(())
    }

    /// A part that is not the last one.
    pub(super) async fn chunk(&self, event: Event) -> Result<(), AgentError> {
        self.say(PartOp::Chunk { kind: event.kind, data: event.data }).await
    }

    /// It is over for this. `told`: the caller is told by somebody else, or gone.
    pub(super) fn give_up(&self, refusal: Refusal, told: bool) {
        let mut spoke = self.spoke();
        if spoke.over.is_none() {
            spoke.told = told;
            spoke.over = Some(refusal);
        }
    }

    fn alive_at(&self) -> Instant {
        self.spoke().last.unwrap_or(self.arrived) + Duration::from_millis(ALIVE_EVERY_MS)
    }

    fn over(&self, token: Token, code: Option<Code>) -> CallOver {
        let first = self.spoke().first.map(|at| at.saturating_duration_since(self.arrived));
        CallOver { token, code, first_ms: first.map(|first| first.as_millis() as Millis) }
    }
}

/// What a handler is told of a call, in the words of an offer: it is no task, and has no lease.
pub(super) fn as_offer(instance: &Instance, call: &Call) -> Offer {
    let id = public_id(&call.token);
    Offer {
        tenant: call.tenant.clone(),
        task: id.clone(),
        attempt: 1,
        token: call.token,
        lease_ms: instance.settings.lease_ms(),
        tries: 0,
        parent: None,
        root: id,
        depth: call.depth,
        children: 0,
        recorded: 0,
        told: 0,
        deadline_at: None,
        time_left_ms: Some(call.time_left_ms),
        hops: call.hops,
        input: Payload::default(),
    }
}

/// What only a task has.
pub(super) fn needs_task(what: &str) -> AgentError {
    let message = format!("{what} needs a task, and this is a call: submit it as a task");
    AgentError::coded(Code::NeedsTask, message, false)
}

impl Attempt {
    /// As a heartbeat names it.
    pub(super) fn held_call(&self) -> HeldCall {
        HeldCall {
            tenant: self.offer.tenant.clone(),
            token: self.offer.token,
            depth: self.offer.depth,
            hops: self.offer.hops,
            borrows: self.answer.as_ref().and_then(|answer| answer.borrows.clone()),
        }
    }

    /// The handler of a call, to the end of its answer.
    pub(super) async fn run_call(self: Arc<Self>, input: Payload) {
        let Some(answer) = &self.answer else { return };
        let ended = {
            let ctx = Ctx(self.clone());
            let mut handler = Caught::new(|| (self.instance.handler)(ctx, input));
            let ended = self.until_over(answer, &mut handler).await;
            handler.drop_after(ended)
        };
        let (last, code) = self.last_part(answer, ended);
        if let Some(last) = last
            && answer.say(last).await.is_err()
        {
            tracing::debug!(call = %self.offer.task, "the end of an answer could not be sent");
        }
        self.call_gone();
        self.instance.call_over(answer.over(self.offer.token, code));
    }

    /// Polls the handler until it is done, its time is over, or it was given up and has had its grace.
    async fn until_over(&self, answer: &Answer, handler: &mut Caught<Handled>) -> Ended {
        let settings = &self.instance.settings;
        let left = Duration::from_millis(self.offer.time_left_ms.unwrap_or(Millis::MAX));
        let over_at = settings.clock.after(left);
        let mut drop_at = None;
        let mut done = std::pin::pin!(self.until_done(handler));
        loop {
            tokio::select! {
                biased;
                ended = &mut done => return ended,
                () = self.until(|state| state.cancelled.then_some(())), if drop_at.is_none() => {
                    drop_at = Some(settings.clock.after(settings.grace));
                }
                () = tokio::time::sleep_until(drop_at.unwrap_or(over_at).min(over_at)) => {
                    answer.give_up(timed_out(), false);
                    return Ended::Dropped;
                }
                () = tokio::time::sleep_until(answer.alive_at()), if drop_at.is_none() => {
                    if answer.say(PartOp::Alive {}).await.is_err() {
                        answer.give_up(lost("its connection is closed"), true);
                        return Ended::Dropped;
                    }
                }
            }
        }
    }

    /// What is said last, and why it is no answer.
    fn last_part(&self, answer: &Answer, ended: Ended) -> (Option<PartOp>, Option<Code>) {
        let spoke = answer.spoke();
        if let Some(refusal) = &spoke.over {
            let told = (!spoke.told).then(|| PartOp::Failed(refusal.clone()));
            return (told, Some(refusal.code));
        }
        let refusal = match ended {
            Ended::Returned(Ok(result)) => {
                match check_size("the result", result.len(), self.instance.link.main.max_payload()) {
                    Ok(()) => return (Some(PartOp::End { result }), None),
                    Err(refusal) => refusal,
                }
            }
            Ended::Returned(Err(error)) => refusal_of(error.into_outcome()),
            Ended::Panicked(text) => {
                Refusal::new(Code::HandlerFailed, format!("the handler panicked: {text}"))
            }
            Ended::Dropped => lost("the instance ended"),
        };
        let code = refusal.code;
        (Some(PartOp::Failed(refusal)), Some(code))
    }
}

fn timed_out() -> Refusal {
    Refusal::new(Code::CallTimeout, "the call took longer than it may; submit a task for work of this length")
}

/// An instance that leaves.
pub(super) fn lost(why: &str) -> Refusal {
    Refusal::new(Code::CallLost, format!("the call was given up: {why}"))
}

/// Nobody listens any more.
pub(super) fn unheard() -> Refusal {
    Refusal::new(Code::Cancelled, "the caller is gone")
}

fn refusal_of(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::Failed { message, retry_after_ms, code, .. } => {
            let code = code.unwrap_or(Code::HandlerFailed);
            Refusal { retry_after_ms, ..Refusal::new(code, message) }
        }
        Outcome::Snooze { .. } | Outcome::Wait(_) | Outcome::Completed { .. } => Refusal::new(
            Code::NeedsTask,
            "the handler asked to be run again later, which needs a task: submit it as a task",
        ),
    }
}

impl Ctx {
    /// Asks another agent of the tenant, or its own, and gets the answer as a stream: await it, or set more first. It is a call
    /// on this attempt's place in flight, refused at once if no instance has a free slot, and given up with this attempt.
    ///
    /// Nothing of it is recorded: a handler that runs again asks again, unless it asks in a [`Ctx::step`].
    pub fn ask<T: Serialize + ?Sized>(&self, agent: &str, input: &T) -> Asking {
        self.client().call(agent, input).asked_by(self.0.offer.token)
    }

    /// Whether this is a call: somebody waits for each part, and there is no task.
    pub fn is_call(&self) -> bool {
        self.0.answer.is_some()
    }
}
