//! One lease: its handler, its reports and events in order, until the owner's verdict on the end.
//!
//! ```text
//! running ──handler done──▶ flushing events ──▶ ending ──verdict──▶ released
//!    └──stop, stale──▶ stopping ──handler gone──▶ released
//! ```
//!
//! A report is settled only by a verdict; until then the same bytes are published again, from the
//! lowest unanswered number. Runs as one task that the runner owns; never talks to other attempts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{AgentError, Ctx};
use crate::{
    bus::{
        Clock,
        link::jitter_below,
        ordered::{Ordered, Progress},
    },
    client::check_size,
    task::{AgentName, Code, InstanceId, Outcome, Payload, Refusal, Token},
    wire::{
        VERSION, codec,
        messages::{End, Event, Report, ReportOp, Spawn, Verdict},
    },
};

/// Pause before what is not known to be stored is published again.
const DOUBT_PAUSE: Duration = Duration::from_millis(250);

/// How long the verdict on a new report is waited for before it is published again, at most.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

/// How long events are tried before they are given up: progress must never hold up work for good.
const EVENT_PATIENCE: Duration = Duration::from_secs(10);

/// How long the end waits for the events before it.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// Reaches every resender within this time after a take-over, each at a moment of its own.
pub(super) const JITTER_MS: u64 = 200;

/// What a handler asks of its attempt.
pub(super) enum Command {
    /// The number is set here.
    Emit(Event),
    Spawn(Spawn),
    /// Answer when every report so far is decided.
    Decided(oneshot::Sender<()>),
}

/// What the runner says to an attempt.
pub(super) struct Signals {
    /// Bounded; a verdict that finds no room is asked for again by a resend.
    pub(super) verdicts: mpsc::Receiver<Box<Verdict>>,
    /// The lease is over.
    pub(super) stop: CancellationToken,
    /// The process ends soon: give the task back.
    pub(super) hand_back: CancellationToken,
    /// Changes when everything unanswered is to be published again.
    pub(super) resend: watch::Receiver<u64>,
    /// Cleared when the handler is gone and its slot free.
    pub(super) busy: Arc<AtomicBool>,
}

/// Who reports.
pub(super) struct Reporter {
    pub(super) agent: AgentName,
    pub(super) instance: InstanceId,
    pub(super) token: Token,
    pub(super) attempt: u32,
}

pub(super) struct Attempt {
    pub(super) ctx: Ctx,
    pub(super) reporter: Reporter,
    pub(super) signals: Signals,
    pub(super) commands: mpsc::Receiver<Box<Command>>,
    pub(super) handler: JoinSet<Result<Payload, AgentError>>,
    pub(super) reports: Ordered,
    pub(super) events: Ordered,
    pub(super) timers: Timers,
    pub(super) undecided: Vec<oneshot::Sender<()>>,
}

pub(super) struct Timers {
    clock: Clock,
    /// A third of the lease: no verdict for that long is worth another publish.
    every: Duration,
    /// How long a verdict is waited for now: shorter at first, since a publish may be lost without a word.
    patience: Duration,
    /// How long a handler may go on after a cancel.
    grace: Duration,
    /// How long a handler may go on when its task is handed back.
    hand_back: Duration,
    reports_at: Instant,
    events_at: Option<Instant>,
    /// Since when no event could be stored.
    events_fail_since: Option<Instant>,
}

impl Timers {
    pub(super) fn new(clock: Clock, every: Duration, grace: Duration, hand_back: Duration) -> Self {
        let patience = every.min(FIRST_PATIENCE);
        let reports_at = clock.after(patience);
        Self {
            clock,
            every,
            patience,
            grace,
            hand_back,
            reports_at,
            events_at: None,
            events_fail_since: None,
        }
    }

    /// Something was decided, or said for the first time.
    fn report_again(&mut self) {
        self.patience = self.every.min(FIRST_PATIENCE);
        self.reports_at = self.clock.after(self.patience);
    }

    /// Nobody has answered.
    fn report_again_later(&mut self) {
        self.patience = (self.patience * 2).min(self.every);
        self.reports_at = self.clock.after(self.patience);
    }
}

/// Why a state of the attempt was left.
enum Left {
    /// The lease is over for everybody.
    Over,
    /// The handler is done.
    Done(Outcome),
}

impl Attempt {
    /// Runs to the release of the lease.
    pub(super) async fn run(mut self) -> Token {
        match self.while_running().await {
            Left::Over => self.while_stopping().await,
            Left::Done(outcome) => {
                self.handler_gone();
                self.while_flushing().await;
                self.end(outcome).await;
                self.while_ending().await;
            }
        }
        self.reporter.token
    }

    async fn while_running(&mut self) -> Left {
        let mut handing_back = false;
        let mut abort_at = None;
        loop {
            let room = self.reports.has_room() && self.events.has_room();
            tokio::select! {
                biased;
                () = self.signals.stop.cancelled() => return Left::Over,
                Some(verdict) = self.signals.verdicts.recv() => {
                    if self.hear(*verdict) {
                        return Left::Over;
                    }
                }
                Ok(()) = self.signals.resend.changed() => self.resend_soon(),
                () = self.signals.hand_back.cancelled(), if !handing_back => {
                    self.ctx.0.cancel.cancel();
                    handing_back = true;
                    abort_at = Some(self.timers.clock.after(self.timers.hand_back));
                }
                () = at(abort_at) => {
                    abort_at = None;
                    self.handler.abort_all();
                }
                progress = self.reports.progress() => self.doubt_report(&progress),
                progress = self.events.progress() => self.heed_event(&progress),
                () = tokio::time::sleep_until(self.timers.reports_at), if !self.reports.is_settled() => {
                    self.resend_reports().await;
                }
                () = at(self.timers.events_at) => self.resend_events().await,
                Some(command) = self.commands.recv(), if room => self.perform(*command).await,
                Some(joined) = self.handler.join_next() => {
                    let outcome = match joined {
                        Ok(Ok(result)) => completed(result, self.ctx.client().link().bulk.max_payload()),
                        Ok(Err(_)) | Err(_) if handing_back => Outcome::Snooze { ms: 0 },
                        Ok(Err(error)) => error.into_outcome(),
                        Err(error) => panicked(error).into_outcome(),
                    };
                    return Left::Done(outcome);
                }
            }
        }
    }

    /// What the handler had handed over before it ended belongs before its end.
    async fn while_flushing(&mut self) {
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            self.perform(*command).await;
        }
        let patience = Instant::now() + FLUSH_PATIENCE;
        while !self.events.is_settled() {
            tokio::select! {
                biased;
                () = self.signals.stop.cancelled() => return,
                progress = self.events.progress() => self.heed_event(&progress),
                () = at(self.timers.events_at) => self.resend_events().await,
                () = tokio::time::sleep_until(patience) => return,
            }
        }
    }

    async fn end(&mut self, outcome: Outcome) {
        self.report(ReportOp::End(End { last_event: self.events.last(), outcome })).await;
    }

    async fn while_ending(&mut self) {
        while !self.reports.is_settled() {
            tokio::select! {
                biased;
                () = self.signals.stop.cancelled() => return,
                Some(verdict) = self.signals.verdicts.recv() => {
                    if self.hear(*verdict) {
                        return;
                    }
                }
                Ok(()) = self.signals.resend.changed() => self.resend_soon(),
                progress = self.reports.progress() => self.doubt_report(&progress),
                _ = self.events.progress() => {}
                () = tokio::time::sleep_until(self.timers.reports_at) => self.resend_reports().await,
            }
        }
    }

    /// Nothing is reported any more; the handler may notice, and is dropped if it does not.
    async fn while_stopping(&mut self) {
        self.ctx.0.cancel.cancel();
        let grace = self.timers.clock.after(self.timers.grace);
        let mut aborted = false;
        loop {
            tokio::select! {
                joined = self.handler.join_next() => {
                    drop(joined);
                    return self.handler_gone();
                }
                Some(command) = self.commands.recv() => drop(command),
                // A handler that blocks its thread keeps the slot: there is no way to end it.
                () = tokio::time::sleep_until(grace), if !aborted => {
                    tracing::warn!(task = %self.ctx.task(), "the handler ignored the cancel; dropping it");
                    self.handler.abort_all();
                    aborted = true;
                }
            }
        }
    }

    fn handler_gone(&self) {
        self.signals.busy.store(false, Ordering::Release);
    }

    async fn perform(&mut self, command: Command) {
        match command {
            Command::Spawn(spawn) => self.report(ReportOp::Spawn(spawn)).await,
            Command::Emit(mut event) => {
                event.n = self.events.next();
                self.events.push(codec::pack(&event)).await;
            }
            Command::Decided(waiter) => {
                self.undecided.push(waiter);
                self.tell_decided();
            }
        }
    }

    async fn report(&mut self, op: ReportOp) {
        if self.reports.is_settled() {
            self.timers.report_again();
        }
        let body = self.reporter.encode(self.reports.next(), op);
        self.reports.push(body).await;
    }

    /// Takes a verdict in; true if the lease is over.
    fn hear(&mut self, verdict: Verdict) -> bool {
        match &verdict.refusal {
            Some(refusal) if refusal.code == Code::StaleLease => return true,
            Some(refusal) if refusal.code == Code::ReportGap => {
                self.timers.reports_at = Instant::now();
                return false;
            }
            Some(refusal) => {
                tracing::warn!(task = %self.ctx.task(), n = verdict.n, code = %refusal.code, "a report was refused");
                self.ctx.spawned().failed.get_or_insert_with(|| refusal.clone());
            }
            None => {}
        }
        self.ctx.spawned().refused.extend(verdict.refused);
        self.reports.settle(verdict.n);
        self.timers.report_again();
        self.tell_decided();
        false
    }

    fn tell_decided(&mut self) {
        if self.reports.is_settled() {
            for waiter in self.undecided.drain(..) {
                // A handler that stopped waiting does not mind.
                let _gone = waiter.send(());
            }
        }
    }

    fn resend_soon(&mut self) {
        let soon = Instant::now() + Duration::from_millis(jitter_below(JITTER_MS));
        self.timers.reports_at = self.timers.reports_at.min(soon);
        if !self.events.is_settled() {
            self.timers.events_at = Some(soon);
        }
    }

    fn doubt_report(&mut self, progress: &Progress) {
        if let Progress::Doubt(n, error) = progress {
            tracing::debug!(task = %self.ctx.task(), n, %error, "a report is not known to be stored");
            self.timers.reports_at = self.timers.reports_at.min(Instant::now() + DOUBT_PAUSE);
        }
    }

    async fn resend_reports(&mut self) {
        self.timers.report_again_later();
        self.reports.resend().await;
    }

    fn heed_event(&mut self, progress: &Progress) {
        let Progress::Doubt(n, error) = progress else {
            self.timers.events_fail_since = None;
            return;
        };
        let since = *self.timers.events_fail_since.get_or_insert_with(Instant::now);
        if since.elapsed() > EVENT_PATIENCE {
            tracing::warn!(task = %self.ctx.task(), n, %error, "events can't be stored; watchers will see a gap");
            self.events.settle(self.events.last());
            self.timers.events_at = None;
        } else {
            self.timers.events_at.get_or_insert_with(|| Instant::now() + DOUBT_PAUSE);
        }
    }

    async fn resend_events(&mut self) {
        self.timers.events_at = None;
        self.events.resend().await;
    }
}

impl Reporter {
    fn encode(&self, n: u32, op: ReportOp) -> Bytes {
        codec::pack(&Report {
            v: VERSION,
            token: self.token,
            attempt: self.attempt,
            agent: self.agent.clone(),
            instance: self.instance.clone(),
            n,
            op,
        })
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
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

fn panicked(error: tokio::task::JoinError) -> AgentError {
    match error.try_into_panic() {
        Ok(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            AgentError::retryable(format!("the handler panicked: {text}"))
        }
        Err(_) => AgentError::retryable("the handler was dropped"),
    }
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

    #[tokio::test]
    async fn a_panic_is_a_retryable_failure() {
        let joined = tokio::spawn(async { panic!("boom {}", 1) }).await;
        let outcome = panicked(joined.unwrap_err()).into_outcome();
        assert!(
            matches!(&outcome, Outcome::Failed { retryable: true, message, .. } if message.contains("boom 1")),
            "{outcome:?}"
        );
    }
}
