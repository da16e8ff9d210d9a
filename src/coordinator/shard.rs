//! A shard's life in one process: stand by with the journal followed hot, own it for a term, start over.
//!
//! ```text
//!            ┌──────── lease acquired ───────┐
//!  standby ──┤ follow the journal            ├─▶ catch up ─▶ reset consumers ─▶ term ─┐
//!     ▲      └───────────────────────────────┘                                       │
//!     └──────────────────── lost: engine dropped, replay ────────────────────────────┘
//! ```
//!
//! A journal that can't be continued halts the shard: it is named, readiness goes, nothing is guessed.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admin::{Heartbeat, Readiness},
    calls::{CAPACITY, OwnerCall, OwnerHandle},
    event_writer,
    index_feed::reread_results,
    indexer::{Aside, IndexHealth, Indexer, IndexerOptions},
    intake::{self, From, Handle, Inbound, Inputs},
    limits, objects,
    owner::{self, Probe, Term, TermEnd},
    perform::refuse_call,
    queries::Queries,
    schemas::Schemas,
    shrink::{
        Channels, Shrink, ShrinkOptions,
        archiver::{self, EndedFeed},
        keeper::{self, Keeper},
        loads,
        places::Places,
        start::{self, Found, StartError},
    },
    triggers,
};
use crate::{
    bus::{
        Clock, JetStream, Lane, Link, api,
        archive::Archive,
        consume::{self, Budget, PullOptions},
        journal::{JournalReader, JournalWriter, witness},
        objects::Objects,
        ownership::OwnershipHandle,
        snapshots::SnapshotStore,
    },
    flow::{
        engine::{Engine, JournalError},
        load::Load,
        state::Policy,
    },
    store::{
        Connection,
        events::{EventPolicy, EventStore},
    },
    telemetry::names,
    wire::{
        subjects::{self, Shard},
        topology::{self, EVENTS, INTAKE, REPORTS},
    },
};

/// Deliveries read ahead of the owner, per stream.
const READ_AHEAD: usize = 4_096;
/// Submits and commands held undecided, in bytes. Each counts as a KiB at least, so that submits that wait for room in the
/// journal stay fewer than the engine parks.
const INTAKE_BYTES: usize = 12 << 20;
/// Reports held undecided, in bytes.
const REPORTS_BYTES: usize = 64 << 20;
/// Deliveries pulled at once.
const PULL: usize = 1_024;
/// How long a pull request stands: for so long a frozen former owner is still handed deliveries.
const PULL_EXPIRES: Duration = Duration::from_secs(2);

/// What a shard works with.
#[derive(Clone)]
pub struct ShardContext {
    /// Which.
    pub shard: Shard,
    /// Who, for people.
    pub coordinator: String,
    /// Journaled at every take-over.
    pub policy: Policy,
    /// When the journal shrinks.
    pub shrink: ShrinkOptions,
    /// Real, or accelerated in tests.
    pub clock: Clock,
    /// Called at the points of the owner's loop.
    pub probe: Probe,
    /// Effects, heartbeats, acceptances; and publishing.
    pub link: Link,
    /// For the journal, on a connection of its own.
    pub journal: JetStream,
    /// For pulling.
    pub streams: JetStream,
    /// For triggers, on a connection of its own.
    pub triggers: JetStream,
    /// The index and event streams.
    pub store: Connection,
    /// How events are kept.
    pub event_policy: watch::Receiver<EventPolicy>,
    /// Where large results go.
    pub aside: Aside,
    /// How the index is.
    pub index_health: watch::Sender<IndexHealth>,
    /// Where the owner's loop says that it is there.
    pub owner: watch::Sender<Option<mpsc::Sender<OwnerCall>>>,
    /// The same, to ask it.
    pub owner_handle: OwnerHandle,
    /// For other coordinators' questions.
    pub queries: Queries,
    /// Where the owner's loop says how much work there is.
    pub loads: watch::Sender<Load>,
    /// The loop turns.
    pub heartbeat: Heartbeat,
    /// What is met.
    pub readiness: Readiness,
}

/// An engine that follows the journal, and what goes with it.
struct Follower {
    reader: JournalReader,
    archive: Archive,
    engine: Engine<Handle>,
    ended: EndedFeed,
    found: Found,
}

/// Why a stand-by or a take-over ended without a term.
enum Failed {
    Stopped,
    Again(String),
    Halted(JournalError),
}

impl<E: std::error::Error> std::convert::From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Again(error.to_string())
    }
}

/// Runs the shard until `stop`; returns the reason if it had to halt.
pub async fn run(
    context: ShardContext,
    mut ownership: OwnershipHandle,
    stop: CancellationToken,
) -> Result<(), JournalError> {
    loop {
        let mut held = None;
        let failed = match life(&context, &mut ownership, &mut held, &stop).await {
            Ok(TermEnd::Stopped) => return Ok(()),
            Ok(TermEnd::Lost(reason)) => Failed::Again(reason),
            Ok(TermEnd::Halted(error)) => Failed::Halted(error),
            Err(failed) => failed,
        };
        match failed {
            Failed::Stopped => return Ok(()),
            Failed::Halted(error) => {
                tracing::error!(shard = context.shard.0, %error, "the shard is halted; an operator has to decide");
                context.readiness.unmet("shard", error.to_string());
                // Also without holding it now: nobody here may acquire it again.
                ownership.step_down();
                return Err(error);
            }
            Failed::Again(reason) => {
                tracing::warn!(shard = context.shard.0, %reason, "the term is over; starting over from the journal");
                metrics::counter!(names::TERMS_LOST).increment(1);
                context.readiness.unmet("shard", reason);
                // An ownership that ended by itself needs no stepping down; the next one must not pay for it.
                if held.is_some_and(|ended: CancellationToken| !ended.is_cancelled()) {
                    ownership.step_down();
                }
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(Duration::from_millis(200)) => {}
                }
            }
        }
    }
}

/// One life of an engine: stand by, take over, own.
async fn life(
    context: &ShardContext,
    ownership: &mut OwnershipHandle,
    held: &mut Option<CancellationToken>,
    stop: &CancellationToken,
) -> Result<TermEnd, Failed> {
    let reader = JournalReader::new(&context.journal, context.shard).await?;
    let store = SnapshotStore::new(&context.streams, context.shard).await?;
    let archive = Archive::new(&context.streams, context.shard).await?;
    let started = tokio::select! {
        () = stop.cancelled() => return Err(Failed::Stopped),
        started = start::engine(&reader, &store, context.shard, &context.heartbeat) => started,
    };
    let (mut engine, found) = started.map_err(|error| match error {
        StartError::Journal(error) => Failed::Halted(error),
        error => Failed::Again(error.to_string()),
    })?;
    engine.keep_ended();
    engine.set_resident_budget(usize::try_from(context.shrink.cache_bytes).unwrap_or(usize::MAX));
    let mut ended = EndedFeed::default();
    // A snapshot is published only when the archive covers it.
    ended.covered(found.seq.max(archive.covered().await?));
    let mut follower = Follower { reader, archive, engine, ended, found };
    replay(context, &mut follower, stop).await?;
    context.readiness.degraded("shard", "standing by");
    let over = stand_by(context, &mut follower, ownership, stop).await?;
    *held = Some(over.clone());
    // Whoever owned it before may have written until a moment ago.
    replay(context, &mut follower, stop).await?;
    follower.ended.covered(follower.archive.covered().await?);
    let extent = follower.reader.extent().await?;
    let head = extent.head.as_ref().map_or(0, |head| head.seq);
    let witness = follower.engine.seq().max(witness::noted(&context.journal, context.shard).await?);
    if head < witness {
        let shard = context.shard.0;
        return Err(Failed::Halted(JournalError::Regressed { shard, head, witness }));
    }
    let idle = extent.idle.as_millis() as u64;
    term(context, follower, store, idle, over, stop).await
}

impl Follower {
    /// Applies one message.
    async fn apply(&mut self, seq: u64, bytes: &[u8]) -> Result<(), Failed> {
        if let Err(error) = self.engine.replay(seq, bytes) {
            if matches!(error, JournalError::Gap { .. })
                && start::is_purged_beyond(&self.reader, &self.engine).await
            {
                let reason =
                    "the journal was purged beyond what was read of it; beginning again from the snapshot";
                return Err(Failed::Again(reason.to_owned()));
            }
            return Err(Failed::Halted(error));
        }
        self.found.tail_bytes += bytes.len() as u64;
        self.ended.absorb(self.engine.take_ended());
        Ok(())
    }
}

/// Replays what the journal holds beyond the engine.
async fn replay(
    context: &ShardContext,
    follower: &mut Follower,
    stop: &CancellationToken,
) -> Result<(), Failed> {
    let started = std::time::Instant::now();
    let from = follower.engine.seq();
    let mut tail = follower.reader.read(from + 1).await?;
    let mut messages = 0u64;
    loop {
        context.heartbeat.beat();
        let entry = tokio::select! {
            () = stop.cancelled() => return Err(Failed::Stopped),
            entry = tail.next() => entry,
        };
        let Some(entry) = entry else { break };
        let entry = entry?;
        follower.apply(entry.seq, &entry.bytes).await?;
        messages += 1;
    }
    metrics::histogram!(names::REPLAY).record(started.elapsed());
    if messages > 0 {
        tracing::info!(
            shard = context.shard.0,
            from,
            messages,
            tasks = follower.engine.state().tasks().len(),
            took_ms = started.elapsed().as_millis() as u64,
            "the journal was replayed"
        );
    }
    Ok(())
}

/// Follows the journal until this process owns the shard.
async fn stand_by(
    context: &ShardContext,
    follower: &mut Follower,
    ownership: &mut OwnershipHandle,
    stop: &CancellationToken,
) -> Result<CancellationToken, Failed> {
    let mut tail = follower.reader.follow(follower.engine.seq() + 1);
    let mut beat = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Failed::Stopped),
            acquired = ownership.acquired() => {
                let (revision, ended) = acquired.ok_or(Failed::Stopped)?;
                tracing::info!(shard = context.shard.0, revision, "the shard's lease was acquired");
                return Ok(ended);
            }
            entry = tail.next() => {
                let Some(entry) = entry else { return Err(Failed::Again("the journal can't be followed".into())) };
                let entry = entry?;
                follower.apply(entry.seq, &entry.bytes).await?;
            }
            _ = beat.tick() => {
                context.heartbeat.beat();
                if follower.ended.is_long() {
                    follower.ended.covered(follower.archive.covered().await?);
                }
            }
        }
    }
}

/// Owns the shard: everything that runs only in a term starts here and ends with it.
async fn term(
    context: &ShardContext,
    follower: Follower,
    snapshots: SnapshotStore,
    idle: u64,
    ended: CancellationToken,
    stop: &CancellationToken,
) -> Result<TermEnd, Failed> {
    let Follower { reader, archive, engine, ended: undone, found } = follower;
    let shard = context.shard;
    let durable = topology::owner_consumer(shard);
    // What a former owner did not decide comes again at once.
    api::reset_owner_consumers(&context.streams, shard).await?;
    let reports_before = api::last_waiting(&context.streams, REPORTS).await?;

    let over = ended.child_token();
    let tasks = TaskTracker::new();
    let (inputs, inputs_rx) = mpsc::channel::<Inbound>(READ_AHEAD);
    let (asked, asked_rx) = mpsc::channel::<Inbound>(READ_AHEAD);
    let (calls, calls_rx) = mpsc::channel(CAPACITY);
    let (asks, asks_rx) = mpsc::channel(8);
    let (reread, mut reread_rx) = mpsc::channel::<u64>(1);
    let (ended_tasks, ended_tasks_rx) = mpsc::channel(objects::ORDERS);

    let reports_budget = Budget::new(REPORTS_BYTES);
    for (from, stream, budget, inputs) in [
        (From::Intake, INTAKE, Budget::new(INTAKE_BYTES), asked),
        (From::Reports, REPORTS, reports_budget.clone(), inputs.clone()),
    ] {
        let (deliveries, arrived) = mpsc::channel(READ_AHEAD);
        let mut options = PullOptions::new(stream, durable.clone());
        options.batch = PULL;
        options.expires = PULL_EXPIRES;
        options.budget = budget;
        let pulling = consume::pull(context.streams.clone(), options, deliveries, over.clone());
        let reading = until(over.clone(), intake::read(from, arrived, inputs));
        // One task: a message that wakes the one is read by the other at once.
        tasks.spawn(async move {
            tokio::join!(pulling, reading);
        });
    }
    for subject in [subjects::BEAT_ALL, subjects::ACCEPT_ALL] {
        let heard = context.link.main.subscribe(subject).await?;
        tasks.spawn(until(over.clone(), pulses(heard, inputs.clone())));
    }
    for subject in [subjects::CALL_ALL, subjects::SUBCALL_ALL] {
        let heard = context.link.main.subscribe(subject).await?;
        tasks.spawn(until(over.clone(), callers(context.link.main.clone(), heard, inputs.clone())));
    }
    let questions = context.link.main.subscribe(subjects::ask(shard)).await?;
    tasks.spawn(until(over.clone(), questions_of_others(context.clone(), questions)));
    tasks.spawn(limits::follow(context.streams.clone(), inputs.clone(), over.clone()));
    let triggering =
        triggers::Context { js: context.triggers.clone(), clock: context.clock, inputs: inputs.clone() };
    tasks.spawn(triggers::run(triggering, over.clone()));

    let dropper = objects::Dropper {
        objects: Objects::new(&context.streams).await?,
        journal: JournalReader::new(&context.streams, shard).await?,
        owner: context.owner_handle.clone(),
        clock: context.clock,
    };
    tasks.spawn(until(over.clone(), dropper.run(ended_tasks_rx)));

    let (head, head_seen) = watch::channel(0);
    tasks.spawn(witness::note(context.journal.clone(), shard, head_seen, over.clone()));

    let epoch = engine.state().epoch + 1;
    let indexer = Indexer::new(
        context.store.clone(),
        shard,
        epoch,
        asks,
        context.index_health.clone(),
        IndexerOptions { clock: context.clock, ..IndexerOptions::default() },
    )
    .with_archive(archive.clone())
    .with_aside(context.aside.clone())
    .with_hot(context.queries.hot.clone());
    let indexing = over.clone();
    tasks.spawn(async move {
        indexer.run(indexing).await;
    });
    let (events, events_rx) = mpsc::channel(READ_AHEAD);
    let options = PullOptions::new(EVENTS, topology::EVENT_WRITER);
    tasks.spawn(consume::pull(context.streams.clone(), options, events, over.clone()));
    let store = EventStore::new(context.store.clone());
    tasks.spawn(event_writer::run(store, context.event_policy.clone(), events_rx, over.clone()));
    let (owner_handle, past) = (context.owner_handle.clone(), archive.clone());
    tasks.spawn(until(over.clone(), async move {
        while let Some(from) = reread_rx.recv().await {
            reread_results(reader.clone(), past.clone(), from, owner_handle.clone()).await;
        }
    }));

    let shrink = {
        let places = Arc::new(Places::new(
            JournalReader::new(&context.streams, shard).await?,
            engine.state().rev,
            engine.seq(),
        ));
        let carrying = Arc::default();
        let (orders, orders_rx) = mpsc::channel(keeper::ORDERS);
        let (told, told_rx) = mpsc::channel(keeper::ORDERS);
        let (loads, asked) = mpsc::channel(loads::WAITING);
        let (lost, lost_rx) = mpsc::channel(1);
        let (batches, batches_rx) = mpsc::channel(archiver::BATCHES);
        let (covered, covered_rx) = watch::channel(0);
        let from = undone.covered_upto();
        tasks.spawn(until(over.clone(), archiver::run(archive, batches_rx, from, covered)));
        tasks.spawn(until(over.clone(), loads::run(places.clone(), asked, inputs.clone(), lost)));
        tasks.spawn(until(over.clone(), keeper::look(places.clone(), told.clone())));
        let keeper = Keeper {
            store: snapshots,
            places,
            covered: covered_rx,
            inputs: inputs.clone(),
            carrying: Arc::clone(&carrying),
            told,
            clock: context.clock,
            probe: context.probe.clone(),
        };
        tasks.spawn(until(over.clone(), keeper.run(orders_rx)));
        let channels = Channels { orders, told: told_rx, archiver: batches, loads, lost: lost_rx, carrying };
        Shrink::new(context.shrink.clone(), channels, undone, found)
    };

    let term = Term {
        coordinator: context.coordinator.clone(),
        policy: context.policy.clone(),
        clock: context.clock,
        probe: context.probe.clone(),
        lane: context.link.main.clone(),
        over: ended_tasks,
        writer: JournalWriter::new(&context.journal, shard).await?,
        inputs: Inputs { asked: asked_rx, others: inputs_rx },
        calls: calls_rx,
        index: asks_rx,
        reread,
        shrink,
        reports_budget,
        reports_before,
        head,
        loads: context.loads.clone(),
        heartbeat: context.heartbeat.clone(),
        readiness: context.readiness.clone(),
        ended: ended.clone(),
        stop: stop.clone(),
    };
    // Only the loop and the readers hold the inputs: when they are gone, so is the term.
    drop(inputs);
    context.owner.send_replace(Some(calls));
    context.readiness.met("shard");
    tracing::info!(shard = shard.0, epoch, idle_ms = idle, "the term begins");
    metrics::counter!(names::TAKEOVERS).increment(1);
    metrics::gauge!(names::OWNER).set(1.0);
    metrics::gauge!(names::OWNER_EPOCH).set(epoch as f64);
    let end = owner::run(term, engine, idle).await;
    metrics::gauge!(names::OWNER).set(0.0);
    metrics::counter!(names::STEP_DOWNS, names::REASON => end.reason()).increment(1);
    context.owner.send_replace(None);
    over.cancel();
    tasks.close();
    tasks.wait().await;
    tracing::info!(shard = shard.0, epoch, ?end, "the term is over");
    Ok(end)
}

async fn until(over: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = over.cancelled() => {}
        () = work => {}
    }
}

async fn pulses(mut heard: crate::bus::Subscription, inputs: mpsc::Sender<Inbound>) {
    use futures_util::StreamExt;
    let mut schemas = Schemas::default();
    while let Some(message) = heard.next().await {
        let reply = message.reply.as_ref().map(|r| r.to_string());
        let Some(mut inbound) = intake::pulse(message.subject.as_str(), reply, &message.payload) else {
            continue;
        };
        let announced = intake::announcement(&mut inbound, &mut schemas);
        for inbound in std::iter::once(inbound).chain(announced) {
            if inputs.send(inbound).await.is_err() {
                return;
            }
        }
    }
}

async fn callers(lane: Lane, mut heard: crate::bus::Subscription, inputs: mpsc::Sender<Inbound>) {
    use futures_util::StreamExt;
    while let Some(message) = heard.next().await {
        let listens = match intake::call(&message) {
            None => true,
            Some(Ok(inbound)) => inputs.send(inbound).await.is_ok(),
            Some(Err((to, refusal))) => {
                if let Err(error) = refuse_call(&lane, to, refusal).await {
                    tracing::debug!(%error, "a caller could not be told that its call is none");
                }
                true
            }
        };
        if !listens {
            return;
        }
    }
}

/// Answers other coordinators.
async fn questions_of_others(context: ShardContext, mut questions: crate::bus::Subscription) {
    use futures_util::StreamExt;
    while let Some(message) = questions.next().await {
        let Some(reply) = message.reply.filter(|to| subjects::may_answer(to)) else { continue };
        let told = context.queries.tell(&message.payload).await;
        if let Err(error) = context.link.main.tell(reply.to_string(), told).await {
            tracing::debug!(%error, "an answer to another coordinator could not be sent");
        }
    }
}
