//! One lease: its handler, its reports and events in order, until the owner's verdict on the end.
//!
//! ```text
//! Running ──handler gone──▶ Flushing ──end said──▶ Ending ──verdict──▶ Released
//!    └──stop, stale──▶ Stopping ──handler gone──▶ Released
//! ```
//!
//! Shared by two: the handler's task, which also says the end, and the runner, which hears verdicts and
//! stops. Between the two there is one small lock, never held across an await. What only some handlers
//! need is made when they first ask for it: events, children, a client.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    sync::{Notify, OnceCell},
    time::Instant,
};

use super::{
    AgentError, Ctx, Handled,
    calls::{Answer, needs_task},
    caught::{Caught, Ended},
    children::Spawned,
    events::{self, Events, Say},
    history::Places,
    instance::Instance,
    reports::{Reports, first_patience},
    voice::Said,
};
use crate::{
    client::{Client, check_size},
    task::{Code, Millis, Outcome, Payload, Refusal},
    wire::{
        codec,
        messages::{End, Event, Offer, ReportOp, Spawn, TaskReport, Verdict},
        subjects,
    },
};

/// See the module.
pub(super) struct Attempt {
    /// The offer, without its input.
    pub(super) offer: Offer,
    pub(super) instance: Arc<Instance>,
    /// When it is over by the instance's clock, if the offer said so.
    pub(super) ends: Option<Millis>,
    client: OnceLock<Client>,
    /// Set once what was recorded before this attempt is in `places`.
    pub(super) history: OnceCell<()>,
    /// Of a call: who is answered.
    pub(super) answer: Option<Answer>,
    state: Mutex<State>,
    /// The state changed in a way that somebody may wait for.
    changed: Notify,
    /// The handler is to be dropped where it stands. Set first, then its task is woken.
    dropped: AtomicBool,
    handler: AtomicWaker,
}

pub(super) struct State {
    stage: Stage,
    /// The handler was told that its work counts for nothing.
    pub(super) cancelled: bool,
    pub(super) reports: Reports,
    events: Option<Events>,
    pub(super) spawned: Spawned,
    pub(super) places: Places,
    /// Cells the handler says it used.
    pub(super) used: Option<u32>,
    end_said: Option<Instant>,
    /// Messages it has published.
    pub(super) published: u32,
}

/// See the picture above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The handler runs.
    Running,
    /// The handler is gone; what it emitted is being stored.
    Flushing,
    /// The end is said.
    Ending,
    /// The lease is over for everybody but the handler.
    Stopping,
    /// Nothing is left to be done.
    Released,
}

/// What a verdict means for the runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing.
    Noted,
    /// Reports are to be published again now.
    Gap,
    /// The end is decided: the lease is released.
    Released,
    /// The lease is over.
    Stale,
}

impl State {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Stopping | Stage::Released)
    }

    /// Whether nothing more is to be reported.
    pub(super) fn is_closed(&self) -> bool {
        self.stage != Stage::Running
    }

    fn has_handler(&self) -> bool {
        matches!(self.stage, Stage::Running | Stage::Stopping)
    }
}

impl Attempt {
    /// Of this offer, whose input is given to [`Attempt::run`]. It takes a slot from now on.
    pub(super) fn new(instance: Arc<Instance>, offer: Offer) -> Self {
        Self::answering(instance, offer, None)
    }

    /// The same of a call.
    pub(super) fn answering(instance: Arc<Instance>, offer: Offer, answer: Option<Answer>) -> Self {
        instance.slots.take(answer.is_none());
        let every = instance.real(offer.lease_ms) / 3;
        let ends = offer.time_left_ms.map(|left| instance.settings.clock.now().saturating_add(left));
        let state = State {
            stage: Stage::Running,
            cancelled: false,
            reports: Reports::new(every, Instant::now()),
            events: None,
            spawned: Spawned::default(),
            places: Places::default(),
            used: None,
            end_said: None,
            published: 0,
        };
        Self {
            offer,
            instance,
            ends,
            client: OnceLock::new(),
            history: OnceCell::new(),
            answer,
            state: Mutex::new(state),
            changed: Notify::new(),
            dropped: AtomicBool::new(false),
            handler: AtomicWaker::new(),
        }
    }

    /// The handler's task, to the end that is said of it.
    pub(super) async fn run(self: Arc<Self>, input: Payload) {
        let begun = Instant::now();
        let ended = {
            let ctx = Ctx(self.clone());
            let mut handler = Caught::new(|| (self.instance.handler)(ctx, input));
            let ended = self.until_done(&mut handler).await;
            handler.drop_after(ended)
        };
        self.instance.ahead.ran(begun.elapsed());
        let outcome = self.outcome(ended);
        if self.handler_gone() {
            self.end(outcome).await;
        }
    }

    /// Polls the handler until it is done or is to be dropped.
    pub(super) async fn until_done(&self, handler: &mut Caught<Handled>) -> Ended {
        poll_fn(|cx| {
            if self.dropped.load(Ordering::Acquire) {
                return Poll::Ready(Ended::Dropped);
            }
            let polled = handler.poll(cx);
            if polled.is_pending() {
                self.handler.register(cx.waker());
                if self.dropped.load(Ordering::Acquire) {
                    return Poll::Ready(Ended::Dropped);
                }
            }
            polled
        })
        .await
    }

    fn outcome(&self, ended: Ended) -> Outcome {
        let error = match ended {
            Ended::Returned(Ok(result)) => {
                return completed(result, self.instance.link.bulk.max_payload());
            }
            _ if self.instance.is_handing_back() => return Outcome::Snooze { ms: 0 },
            Ended::Returned(Err(error)) => error,
            Ended::Panicked(text) => AgentError::retryable(format!("the handler panicked: {text}")),
            Ended::Dropped => AgentError::retryable("the handler was dropped"),
        };
        error.into_outcome()
    }

    /// Of a call: its slot is free.
    pub(super) fn call_gone(&self) {
        let mut state = self.state();
        state.stage = Stage::Released;
        self.instance.slots.free(false);
    }

    /// Its slot is free. Whether there is an end to be said.
    fn handler_gone(&self) -> bool {
        let mut state = self.state();
        let over = state.is_over();
        state.stage = if over { Stage::Released } else { Stage::Flushing };
        // Under the lock: whoever finds the lease released must find the slot free.
        self.instance.slots.free(true);
        drop(state);
        if over {
            self.instance.handler_gone(self.offer.token);
        }
        !over
    }

    async fn end(&self, outcome: Outcome) {
        let emitted = self.state().events.as_ref().map(Events::queue);
        let last_event = match emitted {
            None => 0,
            Some(queue) => tokio::select! {
                biased;
                () = self.until(|state| state.is_over().then_some(())) => return,
                last = events::end(queue) => last,
            },
        };
        let mut state = self.state();
        if state.stage == Stage::Flushing {
            let used = state.used;
            self.say(&mut state, ReportOp::End(End { last_event, outcome, used }));
            state.stage = Stage::Ending;
            state.end_said = Some(Instant::now());
            state.events = None;
        }
    }

    /// Reports children. Waits while too many reports are undecided.
    pub(super) async fn spawn(&self, spawn: Spawn) -> Result<(), AgentError> {
        self.report(ReportOp::Spawn(spawn)).await.map(drop)
    }

    /// Reports something, and says by which number. Waits while too many reports are undecided.
    pub(super) async fn report(&self, op: ReportOp) -> Result<u32, AgentError> {
        if self.answer.is_some() {
            return Err(needs_task("what it reports"));
        }
        let mut op = Some(op);
        self.until(|state| {
            if state.is_closed() {
                return Some(Err(nothing_more()));
            }
            if !state.reports.has_room() {
                return None;
            }
            op.take().map(|op| Ok(self.say(state, op)))
        })
        .await
    }

    /// Emits an event. Waits while too many are on their way.
    pub(super) async fn emit(&self, event: Event) -> Result<(), AgentError> {
        let queue = {
            let mut state = self.state();
            if state.stage != Stage::Running {
                return Err(nothing_more());
            }
            match &self.answer {
                Some(answer) => Err(answer),
                None => Ok(state.events.get_or_insert_with(|| self.start_events()).queue()),
            }
        };
        let queue = match queue {
            Ok(queue) => queue,
            Err(answer) => return answer.chunk(event).await,
        };
        queue.send(Say::Emit(Box::new(event))).await.map_err(|_| nothing_more())
    }

    fn start_events(&self) -> Events {
        let subject = subjects::event(&self.offer.tenant, &self.offer.task);
        Events::start(self.instance.link.bulk.clone(), subject, self.instance.resend.subscribe())
    }

    /// Hands a report over, in the order of the calls: the lock is held. Returns its number.
    pub(super) fn say(&self, state: &mut State, op: ReportOp) -> u32 {
        let n = state.reports.next();
        let said = codec::pack(&TaskReport {
            tenant: self.offer.tenant.clone(),
            task: self.offer.task.clone(),
            token: self.offer.token,
            attempt: self.offer.attempt,
            n,
            op,
        });
        state.reports.take(said.clone(), Instant::now());
        self.instance.say(said);
        n
    }

    /// Adds what is to be published again, in order.
    pub(super) fn overdue(&self, now: Instant, again: &mut Vec<Said>) {
        let mut state = self.state();
        if !state.is_over() {
            again.extend(state.reports.overdue(now));
        }
    }

    /// What is undecided is due at `at`, if not before.
    pub(super) fn hurry(&self, at: Instant) {
        self.state().reports.hurry(at);
    }

    /// How often it is to be looked for overdue reports.
    pub(super) fn look_every(&self) -> Duration {
        let every = self.instance.real(self.offer.lease_ms) / 3;
        (first_patience(every) / 5).max(Duration::from_millis(5))
    }

    /// Takes a verdict in.
    pub(super) fn hear(&self, verdict: Verdict, now: Instant) -> Heard {
        let mut state = self.state();
        if state.is_over() {
            return Heard::Noted;
        }
        match verdict.refusal {
            Some(refusal) if refusal.code == Code::StaleLease => return Heard::Stale,
            Some(refusal) if refusal.code == Code::ReportGap => {
                state.reports.hurry(now);
                return Heard::Gap;
            }
            Some(refusal) => {
                tracing::warn!(task = %self.offer.task, n = verdict.n, code = %refusal.code, "a report was refused");
                state.places.refused(verdict.n, refusal.clone());
                state.spawned.failed.get_or_insert(refusal);
            }
            None => {}
        }
        state.spawned.refused.extend(verdict.refused);
        state.reports.settle(verdict.n, now);
        if state.stage == Stage::Ending {
            if !state.reports.is_settled() {
                return Heard::Noted;
            }
            state.stage = Stage::Released;
            if let Some(said) = state.end_said {
                self.instance.ahead.away(now.saturating_duration_since(said));
            }
            return Heard::Released;
        }
        drop(state);
        self.changed.notify_waiters();
        Heard::Noted
    }

    /// The lease is over for everybody: nothing is reported any more, and the handler may notice. True if
    /// there is no handler any more; otherwise the instance is told when it is gone.
    pub(super) fn lease_over(&self) -> bool {
        let mut state = self.state();
        state.stage = if state.has_handler() { Stage::Stopping } else { Stage::Released };
        state.cancelled = true;
        state.events = None;
        let released = state.stage == Stage::Released;
        drop(state);
        self.changed.notify_waiters();
        released
    }

    /// Tells the handler to come to its end. False if there is none any more.
    pub(super) fn cancel(&self) -> bool {
        let mut state = self.state();
        state.cancelled = true;
        let running = state.has_handler();
        drop(state);
        self.changed.notify_waiters();
        running
    }

    /// Drops the handler where it stands. One that blocks its thread stays: there is no way to end it.
    pub(super) fn drop_handler(&self) {
        if self.state().has_handler() {
            self.dropped.store(true, Ordering::Release);
            self.handler.wake();
        }
    }

    /// Whoever waits looks again.
    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until `look` finds what it looks for.
    pub(super) async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.state()) {
                return found;
            }
            changed.await;
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held; a poisoned lock still holds whole data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of the task's tenant, on the same connection.
    pub(super) fn client(&self) -> &Client {
        self.client.get_or_init(|| {
            Client::on(self.instance.link.clone(), self.offer.tenant.clone()).behind(self.offer.hops)
        })
    }
}

pub(super) fn nothing_more() -> AgentError {
    AgentError::retryable("the attempt is over; nothing more is reported")
}

fn completed(result: Payload, max_payload: usize) -> Outcome {
    match check_size("the result", result.len(), max_payload) {
        Ok(()) => Outcome::Completed { result },
        Err(refusal) => too_large(&refusal),
    }
}

fn too_large(refusal: &Refusal) -> Outcome {
    AgentError::fatal(refusal.to_string()).into_outcome()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_above_the_limit_is_a_final_failure() {
        let outcome = completed(Payload::Bytes(vec![0; 300_000].into()), 1 << 20);
        assert!(
            matches!(&outcome, Outcome::Failed { retryable: false, message, .. } if message.contains("TOO_LARGE")),
            "{outcome:?}"
        );
    }
}
