//! Moves events from the EVENTS stream into Redis, where readers find them.
//!
//! ```text
//! EVENTS ──pull──▶ bounded channel ──▶ read, up to 512 at once ──▶ XADD + EXPIRE in one pipeline ──▶ settle
//! ```
//!
//! It writes at once whatever has arrived: one event when idle, full pipelines under load, and reads the next batch
//! while Redis works on one. While Redis is down it holds two batches, tries the first again with a pause, and takes no
//! more from the channel, so that the pulling stops too; the stream's own age and size bound what waits. Events are
//! settled after they are written, and purged. One that can't be read is settled and counted: trying again won't mend it.
//! Of those of one batch the first is told in the log, so that a flood of them does not fill it.
//!
//! Nothing here touches dispatch. One coordinator runs it at a time, the owner: Redis refuses an event that
//! comes after a later one of its task, so two writers that share the stream would lose events between
//! them. A redelivery is harmless.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::consume::{Delivery, jitter},
    store::events::{EventPolicy, EventStore, EventWrite},
    task::Backoff,
    telemetry::names,
    wire::{
        codec,
        messages::{Event, MAX_EVENT_BYTES},
        subjects,
    },
};

/// Events per round trip to Redis.
pub const MAX_BATCH: usize = 512;

const PAUSE: Backoff = Backoff { base_ms: 100, cap_ms: 5_000 };

/// What is written at once.
struct Batch {
    arrived: Vec<Delivery>,
    writes: Vec<EventWrite>,
}

/// Writes until `stop`, or until the channel is closed and empty.
pub async fn run(
    store: EventStore,
    policy: watch::Receiver<EventPolicy>,
    deliveries: mpsc::Receiver<Delivery>,
    stop: CancellationToken,
) {
    // What is read waits here while the batch before it is written.
    let (batches, read) = mpsc::channel(1);
    tokio::select! {
        // Unsettled, they come again.
        () = stop.cancelled() => {}
        _ended = futures_util::future::join(gather(deliveries, batches), write_all(&store, &policy, read)) => {}
    }
}

/// Room first: what comes meanwhile goes into the same batch.
async fn gather(mut deliveries: mpsc::Receiver<Delivery>, batches: mpsc::Sender<Batch>) {
    while let Ok(room) = batches.reserve().await {
        let mut arrived = Vec::with_capacity(deliveries.len().clamp(1, MAX_BATCH));
        if deliveries.recv_many(&mut arrived, MAX_BATCH).await == 0 {
            return;
        }
        let writes = readable(&arrived);
        room.send(Batch { arrived, writes });
    }
}

async fn write_all(
    store: &EventStore,
    policy: &watch::Receiver<EventPolicy>,
    mut batches: mpsc::Receiver<Batch>,
) {
    while let Some(Batch { arrived, writes }) = batches.recv().await {
        let written = write(store, policy, &writes).await;
        metrics::counter!(names::EVENTS_WRITTEN).increment(written.stored);
        metrics::counter!(names::EVENTS_REFUSED).increment(written.refused);
        metrics::counter!(names::EVENTS_LOST).increment(written.lost);
        for delivery in &arrived {
            delivery.ack.ack().await;
        }
    }
}

/// Tries until it works: a batch sent again stores nothing twice.
async fn write(
    store: &EventStore,
    policy: &watch::Receiver<EventPolicy>,
    writes: &[EventWrite],
) -> crate::store::events::Appended {
    let mut failures = 0;
    loop {
        let policy = *policy.borrow();
        match store.append(writes, policy).await {
            Ok(appended) => {
                if failures > 0 {
                    tracing::info!(failures, "events are written to Redis again");
                }
                return appended;
            }
            Err(error) => {
                failures += 1;
                metrics::counter!(names::EVENT_WRITE_FAILURES, names::REASON => error.reason()).increment(1);
                if failures == 1 {
                    tracing::warn!(%error, "events can't be written to Redis; they wait in the stream");
                }
                tokio::time::sleep(Duration::from_millis(50 + PAUSE.delay(failures, jitter()))).await;
            }
        }
    }
}

/// The events of a batch that can be read. Of the others the first is told, without its content.
fn readable(arrived: &[Delivery]) -> Vec<EventWrite> {
    let mut writes = Vec::with_capacity(arrived.len());
    let mut dropped = None;
    for delivery in arrived {
        match parse(delivery) {
            Ok(write) => writes.push(write),
            Err((what, reason)) => {
                metrics::counter!(names::EVENTS_MALFORMED, names::REASON => what).increment(1);
                dropped.get_or_insert((delivery, reason, 0)).2 += 1;
            }
        }
    }
    if let Some((first, reason, events)) = dropped {
        tracing::warn!(
            events,
            first = first.stream_seq,
            bytes = first.payload.len(),
            %reason,
            "events can't be read; they are dropped"
        );
    }
    writes
}

fn parse(delivery: &Delivery) -> Result<EventWrite, (&'static str, String)> {
    let key = subjects::parse_event(&delivery.subject).map_err(|e| ("subject", e.to_string()))?;
    let (format, event) =
        codec::decode_any::<Event>(delivery.content_type.as_deref(), &delivery.payload, MAX_EVENT_BYTES);
    let event = event.map_err(|e| ("body", e.to_string()))?;
    if event.attempt == 0 || event.n == 0 {
        return Err(("number", "attempt and n start at 1".to_owned()));
    }
    let encoded = match format {
        codec::Format::MsgPack => delivery.payload.clone(),
        codec::Format::Json => codec::pack(&event),
    };
    Ok(EventWrite { key, attempt: event.attempt, n: event.n, encoded })
}
