//! One term of ownership: the loop around [`Engine`].
//!
//! ```text
//! INTAKE ─┐                         ┌─▶ JOURNAL (compare-and-set)
//! REPORTS ┼─▶ inputs ─▶ engine.next ┤        │ PubAck
//! beats  ─┤                         └─ effects: acks, offers, verdicts, hints
//! limits ─┘        questions, index ◀── answered between two messages
//! ```
//!
//! The loop owns the engine; everybody else has a channel to it. It decides nothing itself. A term
//! ends when ownership does, when the compare-and-set is lost, or when the journal does not fit; the
//! engine is dropped then, with everything it had not journaled.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    admin::{Heartbeat, Readiness},
    calls::{CAPACITY, OwnerCall},
    entropy::SystemEntropy,
    index_feed::IndexFeed,
    indexer::IndexAsk,
    intake::{Closed, Handle, Inbound, Inputs},
    measure,
    perform::Performer,
    shrink::{Shrink, places::PlaceError},
};
use crate::{
    bus::{
        Clock, Lane,
        consume::Budget,
        journal::{AppendError, JournalWriter},
    },
    flow::{
        agents,
        engine::{Engine, JournalError, Next},
        input::Input,
        load::Load,
        state::Policy,
        tenants, why,
    },
    task::{Millis, TaskKey},
    telemetry::names,
};

/// The longest the loop sleeps: leases expire and offers are repeated in steps of this.
const TICK: Duration = Duration::from_millis(100);
/// How often the epoch is announced again, for who missed it.
const HELLO_EVERY: Millis = 5_000;
/// How long a full journal is waited for before the same append is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// Tries after which the term ends: the next begins with a snapshot of what is acknowledged, which makes room.
const FULL_TRIES: u32 = 4;

/// What `/readyz` says while submits wait for room.
const SHORT_OF_ROOM: &str = "nearly full: new submits wait in INTAKE, admitted tasks go on; it is being purged, raise its max bytes if this lasts";

/// Told which point of the loop was reached: `taken` (inputs read), `decided` (not appended yet), `appended`
/// (acknowledged, nothing told yet), `offer`, `ctl`, `call`, `beat`, `done`, `kept` (before what is kept of a task's steps is dropped), `ack` (before
/// each message of the kind), `performed`; by
/// the keeper `snapshot_begun`, `snapshot_part`, `snapshot_written` (read back, not published), `snapshot_verified`,
/// `purged`; `carried` after an append that holds carried payloads.
pub type Probe = Arc<dyn Fn(&'static str) + Send + Sync>;

/// A probe that looks away.
pub fn no_probe() -> Probe {
    Arc::new(|_| {})
}

/// Why a term ended.
#[derive(Debug)]
pub enum TermEnd {
    /// Somebody else owns the shard, or nobody may for now. Start over from the journal.
    Lost(String),
    /// Told to stop; what was in flight is known.
    Stopped,
    /// The journal can't be continued; an operator decides.
    Halted(JournalError),
}

impl TermEnd {
    /// In one word, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Lost(_) => "lost",
            Self::Stopped => "stopped",
            Self::Halted(_) => "halted",
        }
    }
}

/// What a term works with.
pub struct Term {
    /// Who, for people.
    pub coordinator: String,
    /// Journaled when the term opens.
    pub policy: Policy,
    /// Real, or accelerated in tests.
    pub clock: Clock,
    /// See [`Probe`].
    pub probe: Probe,
    /// For what is told and heard.
    pub lane: Lane,
    /// Tasks that are over, and what is kept of their steps may go.
    pub over: mpsc::Sender<TaskKey>,
    /// For the journal.
    pub writer: JournalWriter,
    /// Submits, commands, reports, heartbeats, changed limits, payloads read back.
    pub inputs: Inputs,
    /// From the query plane.
    pub calls: mpsc::Receiver<OwnerCall>,
    /// From the indexer.
    pub index: mpsc::Receiver<IndexAsk>,
    /// Wants results read back from this journal sequence on.
    pub reread: mpsc::Sender<u64>,
    /// Snapshots, the archive, payloads read back.
    pub shrink: Shrink,
    /// What reports may take undecided.
    pub reports_budget: Budget,
    /// Reports stored before the take-over: until the last of them is read, no lease expires.
    pub reports_before: Option<u64>,
    /// Where the journal's last acknowledged sequence is shown.
    pub head: watch::Sender<u64>,
    /// How much work there is, every few seconds.
    pub loads: watch::Sender<Load>,
    /// The loop turns.
    pub heartbeat: Heartbeat,
    /// Whether the journal takes appends.
    pub readiness: Readiness,
    /// Ownership has ended.
    pub ended: CancellationToken,
    /// The process is to stop.
    pub stop: CancellationToken,
}

/// Runs the term on an engine that has replayed the whole journal.
pub async fn run(mut term: Term, mut engine: Engine<Handle>, idle: Millis) -> TermEnd {
    let shard = engine.state().shard;
    let performer = Performer::new(term.lane.clone(), shard, term.over.clone(), term.probe.clone());
    tokio::select! {
        () = term.shrink.make_room(&mut engine, &term.heartbeat) => {}
        () = term.ended.cancelled() => return TermEnd::Lost("the lease of the shard ran out".to_owned()),
        () = term.stop.cancelled() => return TermEnd::Stopped,
    }
    let base = engine.state().now + idle;
    engine.open(&term.coordinator, term.policy.clone());
    let start = term.clock.now();
    let mut turn = Turn {
        performer,
        entropy: SystemEntropy::default(),
        feed: IndexFeed::default(),
        meters: measure::Meters::default(),
        gauges: measure::Gauges::new(term.loads.clone()),
        base,
        start,
        last: start,
        hello_at: start + HELLO_EVERY,
        reports: 0,
        inputs: Vec::new(),
        unanswered: Vec::new(),
    };
    loop {
        match turn.once(&mut term, &mut engine).await {
            Ok(()) => {}
            Err(end) => return end,
        }
    }
}

struct Turn {
    performer: Performer,
    entropy: SystemEntropy,
    feed: IndexFeed,
    meters: measure::Meters,
    gauges: measure::Gauges,
    /// Logical time at the start of the term.
    base: Millis,
    /// The clock at the start of the term.
    start: Millis,
    /// The clock at the last turn.
    last: Millis,
    hello_at: Millis,
    /// Reports read since the last announcement.
    reports: usize,
    inputs: Vec<Inbound>,
    /// Questions that wait for the journal.
    unanswered: Vec<OwnerCall>,
}

impl Turn {
    async fn once(&mut self, term: &mut Term, engine: &mut Engine<Handle>) -> Result<(), TermEnd> {
        term.heartbeat.beat();
        if term.ended.is_cancelled() {
            return Err(TermEnd::Lost("the lease of the shard ran out".to_owned()));
        }
        if term.stop.is_cancelled() {
            // Nothing is in flight here; what waits undecided is not acknowledged and comes again.
            if engine.is_open() {
                tokio::select! {
                    () = term.shrink.last(engine) => {}
                    () = term.ended.cancelled() => {}
                }
            }
            return Err(TermEnd::Stopped);
        }
        let clock = term.clock.now();
        let connected = term.lane.is_connected();
        engine.live_mut().tick(clock.saturating_sub(self.last), connected);
        self.last = clock;
        let now = self.base + clock.saturating_sub(self.start);
        let wall = term.clock.wall();
        match engine.next(now, wall, &mut self.entropy).map_err(TermEnd::Halted)? {
            Next::Append { bytes, expect } => {
                (term.probe)("decided");
                let length = bytes.len() as u64;
                let seq = self.append(term, engine, bytes, expect).await?;
                let opened = !engine.is_open();
                (term.probe)("appended");
                term.head.send_replace(seq);
                let mut effects = engine.appended(seq);
                term.shrink.appended(seq, length);
                if term.shrink.take(&mut effects) {
                    (term.probe)("carried");
                }
                self.meters.count(engine.take_news());
                self.meters.count_calls(engine.take_call_facts());
                if opened {
                    self.announce(term, engine, clock).await?;
                }
                self.perform(&term.ended, engine, effects).await?;
                (term.probe)("performed");
                self.serve(term, engine)?;
                metrics::histogram!(names::JOURNAL_APPEND)
                    .record((term.clock.now().saturating_sub(clock)) as f64 / 1_000.0);
            }
            Next::Effects(mut effects) => {
                term.shrink.take(&mut effects);
                self.meters.count_calls(engine.take_call_facts());
                self.perform(&term.ended, engine, effects).await?;
                self.serve(term, engine)?;
            }
            Next::Idle => {
                self.serve(term, engine)?;
                self.wait(term, engine, now).await?;
            }
        }
        if term.reports_before.is_none() && engine.is_open() && !engine.live().is_listening() {
            engine.live_mut().listen();
        }
        if clock >= self.hello_at {
            self.announce(term, engine, clock).await?;
            self.housekeeping(&term.readiness, engine);
            if engine.backlog().held > 0 {
                // Reports held back must not keep out the ones they wait for.
                term.reports_budget.relieve();
            }
            // Reports from before that nobody delivers any more must not keep leases alive for ever.
            if std::mem::take(&mut self.reports) == 0 {
                term.reports_before = None;
            }
        }
        Ok(())
    }

    /// Appends, gathering what arrives meanwhile.
    async fn append(
        &mut self,
        term: &mut Term,
        engine: &mut Engine<Handle>,
        bytes: Bytes,
        expect: u64,
    ) -> Result<u64, TermEnd> {
        let mut full = 0;
        loop {
            let append = term.writer.append(bytes.clone(), expect, &term.ended);
            tokio::pin!(append);
            let outcome = loop {
                let backlog = engine.backlog();
                tokio::select! {
                    biased;
                    outcome = &mut append => break outcome,
                    came = term.inputs.read(&mut self.inputs, backlog) => {
                        came.map_err(|Closed| readers_gone())?;
                        self.take(engine, &mut term.reports_before);
                    }
                }
            };
            match outcome {
                Ok(seq) => {
                    show_room(&term.readiness, engine);
                    return Ok(seq);
                }
                Err(AppendError::Full { reason }) => {
                    tracing::error!(%reason, "the journal is full; nothing is decided until it is not");
                    term.readiness.unmet("journal", format!("full: {reason}"));
                    full += 1;
                    if full > FULL_TRIES {
                        return Err(TermEnd::Lost(
                            "the journal is full; beginning again with a snapshot".to_owned(),
                        ));
                    }
                    tokio::select! {
                        () = term.ended.cancelled() => {}
                        () = tokio::time::sleep(FULL_PAUSE) => {}
                    }
                }
                Err(error) => return Err(TermEnd::Lost(error.to_string())),
            }
        }
    }

    async fn announce(&mut self, term: &Term, engine: &Engine<Handle>, clock: Millis) -> Result<(), TermEnd> {
        self.hello_at = clock + HELLO_EVERY;
        let epoch = engine.state().epoch;
        self.performer.hello(epoch, &term.coordinator).await.map_err(|e| TermEnd::Lost(e.to_string()))
    }

    async fn perform(
        &mut self,
        ended: &CancellationToken,
        engine: &Engine<Handle>,
        effects: Vec<crate::flow::engine::Effect<Handle>>,
    ) -> Result<(), TermEnd> {
        let epoch = engine.state().epoch;
        // Without a connection what is told piles up in the client until it takes no more.
        tokio::select! {
            biased;
            told = self.performer.perform(epoch, effects) => told.map_err(|e| TermEnd::Lost(e.to_string())),
            () = ended.cancelled() => Err(TermEnd::Lost("the lease of the shard ran out".to_owned())),
        }
    }

    /// Answers questions and the indexer, and goes on with shrinking the journal. Nothing is in flight here.
    fn serve(&mut self, term: &mut Term, engine: &mut Engine<Handle>) -> Result<(), TermEnd> {
        for call in std::mem::take(&mut self.unanswered) {
            if !call.is_given_up() {
                self.unanswered.extend(answer(engine, call));
            }
        }
        for _ in 0..CAPACITY.saturating_sub(self.unanswered.len()) {
            let Ok(call) = term.calls.try_recv() else { break };
            self.unanswered.extend(answer(engine, call));
        }
        while let Ok(ask) = term.index.try_recv() {
            self.feed.ask(engine, ask);
        }
        self.feed.serve(engine, term.clock.wall());
        if let Ok(room) = term.reread.try_reserve()
            && let Some(from) = self.feed.take_reread(engine)
        {
            room.send(from);
        }
        let worked = term.shrink.work(engine, term.clock.wall());
        worked.map_err(|lost| TermEnd::Halted(lost_payloads(engine.state().shard.0, &lost)))
    }

    /// Waits until there is something to do.
    async fn wait(
        &mut self,
        term: &mut Term,
        engine: &mut Engine<Handle>,
        now: Millis,
    ) -> Result<(), TermEnd> {
        let due = engine.state().next_due().map_or(TICK, |at| Duration::from_millis(at.saturating_sub(now)));
        let wall = engine.state().next_due_wall();
        let due = wall.map_or(due, |at| due.min(Duration::from_millis(at.saturating_sub(term.clock.wall()))));
        let pause = term.clock.real_duration(due.min(TICK)).max(Duration::from_micros(200));
        tokio::select! {
            biased;
            () = term.ended.cancelled() => {}
            () = term.stop.cancelled() => {}
            came = term.inputs.read(&mut self.inputs, engine.backlog()) => {
                came.map_err(|Closed| readers_gone())?;
                (term.probe)("taken");
                self.take(engine, &mut term.reports_before);
            }
            Some(call) = term.calls.recv() => self.unanswered.extend(answer(engine, call)),
            Some(ask) = term.index.recv() => {
                self.feed.ask(engine, ask);
                self.feed.serve(engine, term.clock.wall());
            }
            () = term.shrink.ready() => {}
            () = tokio::time::sleep(pause) => {}
        }
        Ok(())
    }

    /// Queues inputs, noting how instances speak and how far the reports from before have come.
    fn take(&mut self, engine: &mut Engine<Handle>, before: &mut Option<u64>) {
        for Inbound { input, handle, report_seq, format } in self.inputs.drain(..) {
            if let Some(seq) = report_seq {
                self.reports += 1;
                if before.is_some_and(|last| seq >= last) {
                    *before = None;
                }
            }
            if let (Some(format), Input::Beat { agent, instance, .. }) = (format, &input) {
                self.performer.heard_in(agent, instance, format);
            }
            engine.push(input, handle);
        }
    }

    fn housekeeping(&mut self, readiness: &Readiness, engine: &mut Engine<Handle>) {
        show_room(readiness, engine);
        engine.live_mut().forget_silent();
        self.gauges.show(engine, self.feed.indexed);
    }
}

fn readers_gone() -> TermEnd {
    TermEnd::Lost("the readers are gone".to_owned())
}

/// Whether the journal takes what comes.
fn show_room(readiness: &Readiness, engine: &Engine<Handle>) {
    if engine.is_short_of_room() {
        readiness.degraded("journal", SHORT_OF_ROOM);
    } else {
        readiness.met("journal");
    }
}

/// Payloads that are needed are gone from the journal: it can't be continued, and nothing is guessed.
fn lost_payloads(shard: u16, lost: &PlaceError) -> JournalError {
    let seq = match lost {
        PlaceError::NotThere { seq, .. } => *seq,
        PlaceError::Journal(_) => 0,
    };
    JournalError::Unreadable { shard, seq, reason: lost.to_string() }
}

/// Answers a question, or gives it back if the journal has to be asked first.
fn answer(engine: &mut Engine<Handle>, call: OwnerCall) -> Option<OwnerCall> {
    // Whoever stopped waiting gets no answer.
    match call {
        OwnerCall::View { key, reply } => {
            let _ = reply.send(engine.view(&key));
        }
        OwnerCall::Children { key, after, limit, results, reply } => {
            match engine.children(&key, after, limit, results) {
                // Asked again once the journal has given what it lacks.
                Some((_, false)) => return Some(OwnerCall::Children { key, after, limit, results, reply }),
                page => {
                    let _ = reply.send(page.map(|(page, _)| page));
                }
            }
        }
        OwnerCall::Why { key, reply } => {
            let _ = reply.send(why::why(engine.state(), engine.live(), &key));
        }
        OwnerCall::Agents { tenant, request, reply } => {
            let _ = reply.send(agents::agents(engine.state(), engine.live(), &tenant, &request));
        }
        OwnerCall::Tenants { request, reply } => {
            let _ = reply.send(tenants::tenants(engine.state(), engine.live(), &request));
        }
        OwnerCall::History { key, place, after, reply } => match engine.history(&key, place, after) {
            Some((_, false)) => return Some(OwnerCall::History { key, place, after, reply }),
            page => {
                let _ = reply.send(page.map(|(page, _)| page));
            }
        },
        OwnerCall::Applied { change, reply } => {
            let _ = reply.send(engine.is_applied(&change));
        }
        OwnerCall::NotLive { mut keys, reply } => {
            keys.retain(|key| !engine.is_live(key));
            let _ = reply.send((keys, engine.seq()));
        }
        OwnerCall::Results { results, reply } => {
            for (_, key, result) in results {
                engine.reread(&key, result);
            }
            let _ = reply.send(engine.dirty().result_bytes());
        }
    }
    None
}
