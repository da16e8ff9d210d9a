//! A term of ownership: everything that runs only in it starts here, and ends with it.
//!
//! Holds what the parts of a term share, and the order in which they start. What each of them does is in `listen` and
//! `upkeep`; the loop itself is [`owner`].

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Failed, ShardContext, follow::Follower};
use crate::{
    bus::{api, consume::Budget, journal::JournalWriter, snapshots::SnapshotStore},
    coordinator::{
        calls::CAPACITY,
        intake::{Inbound, Inputs},
        objects,
        owner::{self, Term, TermEnd},
    },
    telemetry::names,
    wire::topology::REPORTS,
};

/// Deliveries read ahead of the owner, per stream.
pub(super) const READ_AHEAD: usize = 4_096;
/// Reports held undecided, in bytes.
const REPORTS_BYTES: usize = 64 << 20;

/// What runs beside the owner's loop, until the term is over.
pub(super) struct Running<'a> {
    pub(super) context: &'a ShardContext,
    pub(super) over: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) inputs: mpsc::Sender<Inbound>,
}

impl Running<'_> {
    /// Runs beside the loop, and stops where it is when the term is over.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(until(self.over.clone(), work));
    }
}

/// Owns the shard: everything that runs only in a term starts here and ends with it.
pub(super) async fn term(
    context: &ShardContext,
    follower: Follower,
    snapshots: SnapshotStore,
    idle: u64,
    ended: CancellationToken,
    stop: &CancellationToken,
) -> Result<TermEnd, Failed> {
    let Follower { reader, archive, engine, ended: undone, found } = follower;
    let shard = context.shard;
    // What a former owner did not decide comes again at once.
    api::reset_owner_consumers(&context.streams, shard).await?;
    let reports_before = api::last_waiting(&context.streams, REPORTS).await?;

    let (inputs, inputs_rx) = mpsc::channel::<Inbound>(READ_AHEAD);
    let (asked, asked_rx) = mpsc::channel::<Inbound>(READ_AHEAD);
    let (calls, calls_rx) = mpsc::channel(CAPACITY);
    let (asks, asks_rx) = mpsc::channel(8);
    let (reread, reread_rx) = mpsc::channel::<u64>(1);
    let (ended_tasks, ended_tasks_rx) = mpsc::channel(objects::ORDERS);
    let reports_budget = Budget::new(REPORTS_BYTES);
    let epoch = engine.state().epoch + 1;

    let running = Running { context, over: ended.child_token(), tasks: TaskTracker::new(), inputs };
    running.read_streams(asked, &reports_budget);
    running.listen().await?;
    running.drop_objects(ended_tasks_rx).await?;
    let head = running.note_head();
    running.index(epoch, asks, archive.clone());
    running.write_events();
    running.reread(reader, archive.clone(), reread_rx);
    let shrink = running.shrink(&engine, archive, snapshots, undone, found).await?;

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
    let Running { over, tasks, inputs, .. } = running;
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

pub(super) async fn until(over: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = over.cancelled() => {}
        () = work => {}
    }
}
