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

mod follow;
mod listen;
mod term;
mod upkeep;

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::follow::Follower;
use super::{
    admin::{Heartbeat, Readiness},
    calls::{OwnerCall, OwnerHandle},
    indexer::{Aside, IndexHealth},
    owner::{Probe, TermEnd},
    queries::Queries,
    shrink::{
        ShrinkOptions,
        archiver::EndedFeed,
        start::{self, StartError},
    },
};
use crate::{
    bus::{
        Clock, JetStream, Link,
        archive::Archive,
        journal::{JournalReader, witness},
        ownership::OwnershipHandle,
        snapshots::SnapshotStore,
    },
    flow::{engine::JournalError, load::Load, state::Policy},
    store::{Connection, events::EventPolicy},
    telemetry::names,
    wire::subjects::Shard,
};

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
    follow::replay(context, &mut follower, stop).await?;
    context.readiness.degraded("shard", "standing by");
    let over = follow::stand_by(context, &mut follower, ownership, stop).await?;
    *held = Some(over.clone());
    // Whoever owned it before may have written until a moment ago.
    follow::replay(context, &mut follower, stop).await?;
    follower.ended.covered(follower.archive.covered().await?);
    let extent = follower.reader.extent().await?;
    let head = extent.head.as_ref().map_or(0, |head| head.seq);
    let witness = follower.engine.seq().max(witness::noted(&context.journal, context.shard).await?);
    if head < witness {
        let shard = context.shard.0;
        return Err(Failed::Halted(JournalError::Regressed { shard, head, witness }));
    }
    let idle = extent.idle.as_millis() as u64;
    term::term(context, follower, store, idle, over, stop).await
}
