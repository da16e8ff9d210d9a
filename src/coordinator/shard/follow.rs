//! The journal followed: replayed up to its end, and then hot, until this process owns the shard.
//!
//! Touches only the engine it follows with. Nothing here writes, and nobody is answered.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Failed, ShardContext};
use crate::{
    bus::{archive::Archive, journal::JournalReader, ownership::OwnershipHandle},
    coordinator::{
        intake::Handle,
        shrink::{
            archiver::EndedFeed,
            start::{self, Found},
        },
    },
    flow::engine::{Engine, JournalError},
    telemetry::names,
};

/// An engine that follows the journal, and what goes with it.
pub(super) struct Follower {
    pub(super) reader: JournalReader,
    pub(super) archive: Archive,
    pub(super) engine: Engine<Handle>,
    pub(super) ended: EndedFeed,
    pub(super) found: Found,
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
pub(super) async fn replay(
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
pub(super) async fn stand_by(
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
