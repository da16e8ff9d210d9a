//! The floor: a bare loop of the same shape as the fabric, to measure the fabric against.
//!
//! ```text
//! client ──▶ BENCH_IN ──▶ owner: FIFO per tenant ──▶ BENCH_JOURNAL ──▶ offers ──▶ instance
//!                          ▲                             └──▶ hints at ends        │
//!                          └──────────────── BENCH_ENDS ◀──────────────────────────┘
//!                         index: touched tasks ──▶ Redis
//! ```
//!
//! It keeps the fabric's order (journal first, effects after) and its durable steps, and leaves out everything else: no
//! admission, limits, fairness, leases, tries, trees, duplicates, hashes or queries. Bodies are bare bytes. It
//! shares no code with the fabric: only the NATS and Redis clients. Everything runs in one process, which saves it what
//! processes cost; that makes it faster than the fabric is allowed to be, not slower.
//!
//! [`OPERATIONS`] lists what one task costs it.

mod client;
mod index;
mod instance;
mod owner;

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, consumer::pull, stream};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::clock;

pub(super) use client::share;

/// Tenants of every load.
pub const TENANTS: usize = 50;
/// What can run at once.
const SLOTS: usize = 256;
/// Messages of the two work queues in one turn at most.
const BATCH: usize = 512;

/// What one task costs the floor; shown beside its figures.
pub const OPERATIONS: [&str; 9] = [
    "1 JetStream publish of the submit, acknowledged by the stream (one journal message per turn of up to 512)",
    "1 delivery of the submit to a pull consumer, 1 explicit acknowledgement",
    "1/turn compare-and-set journal append with the submits' bytes and who was given a slot",
    "1/turn offer message on core NATS, with the inputs of all tasks given a slot",
    "1 publish of the end into the second work queue, answered by 1/turn verdict message on core NATS",
    "1 delivery of the end, 1 explicit acknowledgement, 1/turn journal append (the same turn takes submits)",
    "1 hint at the end on core NATS, on the task's own subject",
    "1 to 2 fields of a Redis HSET, one per tenant and flush (a task once per flush it was touched in, 100 ms apart)",
    "per flush and tenant 1 ZADD each to all, agent and state, 1 ZREM of the state before; many members each",
];

const IN: &str = "BENCH_IN";
const ENDS: &str = "BENCH_ENDS";
const JOURNAL: &str = "BENCH_JOURNAL";
const OFFERS: &str = "bench.offer.1";
const VERDICTS: &str = "bench.verdict.1";

/// One task: whose, its number, what it was given.
struct Task {
    tenant: usize,
    id: u64,
    input: Bytes,
}

/// Where a task is, as the index shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    Running,
    Done,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Done => "done",
        }
    }
}

/// A change for the index.
struct Touched {
    tenant: usize,
    id: u64,
    state: State,
}

/// A running floor.
pub struct Floor {
    nats: async_nats::Client,
    js: jetstream::Context,
    /// Begins with the time, so that no run meets what another left in Redis.
    next_id: AtomicU64,
    /// Tasks the index shows as done.
    done: watch::Receiver<u64>,
    loops: JoinSet<Result<()>>,
}

impl Floor {
    /// Makes its streams anew and starts its loops. `nats` and `redis` are servers that are the bench's own.
    pub async fn start(nats: &str, redis: &str) -> Result<Floor> {
        let (bulk, reads, hears) =
            tokio::try_join!(connect(nats, "client"), connect(nats, "owner"), connect(nats, "instance"))?;
        let writes = connect(nats, "journal").await?;
        let js = context(&bulk);
        let owner = context(&reads);
        for (name, subject, kind) in [
            (IN, "bench.in.>", stream::RetentionPolicy::WorkQueue),
            (ENDS, "bench.end.>", stream::RetentionPolicy::WorkQueue),
            (JOURNAL, "bench.journal", stream::RetentionPolicy::Limits),
        ] {
            // Left over from the run before.
            let _ = js.delete_stream(name).await;
            js.create_stream(stream::Config {
                name: name.to_owned(),
                subjects: vec![subject.to_owned()],
                retention: kind,
                discard: stream::DiscardPolicy::New,
                storage: stream::StorageType::File,
                max_bytes: 512 << 20,
                allow_direct: true,
                ..stream::Config::default()
            })
            .await
            .with_context(|| format!("cannot make the stream {name}"))?;
        }
        let submits = consume(&owner, IN).await?;
        let ends = consume(&owner, ENDS).await?;
        let redis = redis::Client::open(redis)?.get_multiplexed_async_connection().await?;

        let (touched, changes) = mpsc::unbounded_channel();
        let (shown, done) = watch::channel(0);
        let mut loops = JoinSet::new();
        let offers = hears.subscribe(OFFERS).await?;
        let verdicts = hears.subscribe(VERDICTS).await?;
        hears.flush().await?;
        loops.spawn(instance::run(hears, offers, verdicts));
        loops.spawn(index::run(redis, changes, shown));
        loops.spawn(owner::Owner::new(context(&writes), writes, touched).run(submits, ends));
        Ok(Floor { nats: bulk, js, next_id: AtomicU64::new(clock::now()), done, loops })
    }

    /// Waits until the index shows this many tasks as done.
    pub async fn await_shown(&mut self, tasks: u64) -> Result<()> {
        tokio::select! {
            seen = self.done.wait_for(|done| *done >= tasks) => { seen.context("the floor's index ended")?; }
            Some(ended) = self.loops.join_next() => {
                ended??;
                anyhow::bail!("a loop of the floor ended");
            }
        }
        Ok(())
    }

    /// Ends it and removes its streams.
    pub async fn stop(mut self) -> Result<()> {
        self.loops.shutdown().await;
        for name in [IN, ENDS, JOURNAL] {
            self.js.delete_stream(name).await?;
        }
        Ok(())
    }

    fn fresh(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

async fn connect(url: &str, role: &str) -> Result<async_nats::Client> {
    let options = async_nats::ConnectOptions::new().name(format!("bench-floor/{role}"));
    Ok(options.subscription_capacity(65_536).connect(url).await?)
}

fn context(nats: &async_nats::Client) -> jetstream::Context {
    jetstream::new(nats.clone())
}

async fn consume(js: &jetstream::Context, name: &str) -> Result<pull::Stream> {
    let stream = js.get_stream(name).await?;
    let consumer = stream
        .create_consumer(pull::Config {
            durable_name: Some("owner".to_owned()),
            max_ack_pending: 65_536,
            ack_wait: std::time::Duration::from_secs(600),
            ..pull::Config::default()
        })
        .await?;
    Ok(consumer.stream().max_messages_per_batch(2 * BATCH).messages().await?)
}

/// Tenant and number at the end of a subject; the bench wrote it itself.
fn address(subject: &str) -> Option<(usize, u64)> {
    let mut tokens = subject.rsplit('.');
    let id = u64::from_str_radix(tokens.next()?, 16).ok()?;
    let tenant = tokens.next()?.strip_prefix('t')?.parse().ok()?;
    (tenant < TENANTS).then_some((tenant, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_says_whose_task_it_is() {
        assert_eq!(address(&client::subject("in", 7, 255)), Some((7, 255)));
        assert_eq!(address("bench.in.t99.1"), None);
        assert_eq!(address("bench"), None);
    }
}
