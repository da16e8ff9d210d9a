//! Triggers: messages that become tasks, while this process owns the shard.
//!
//! ```text
//!  bucket ──▶ Triggers ── one task per trigger ──▶ runner ──▶ lives: look at the stream, ensure the consumer, pull
//!                │                                              │ message ─▶ reading ─▶ Input::Triggered ─▶ owner
//!                └─ makes room in TOPICS                        └◀─ made, known, refused, later ◀─ journaled ┘
//! ```
//!
//! All of it runs on a connection of its own and hands the owner no more than a window of undecided tasks per trigger:
//! it can't starve dispatch. A message is acknowledged when its task is in the journal, or when it is noted why there is
//! none; everything in between comes again after a crash, and is the same task by its id.

mod batch;
mod life;
mod notes;
mod reading;
mod runner;
mod window;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use self::runner::Runner;
use super::intake::Inbound;
use crate::{
    bus::{
        Clock, JetStream, api,
        triggers::{TriggersBucket, delete_consumer, purge_through},
    },
    task::{
        TriggerName,
        trigger::{MAX_TRIGGERS, Source, TriggerSettings},
    },
    telemetry::names,
    wire::topology::TOPICS,
};

/// How often it is looked for room in TOPICS, and for triggers that are gone.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// Pause before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long triggers may take to write down how far they have come.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What triggers work with in a term.
#[derive(Clone)]
pub struct Context {
    /// On a connection of its own.
    pub js: JetStream,
    /// Real, or accelerated in tests.
    pub clock: Clock,
    /// To the owner's loop.
    pub inputs: mpsc::Sender<Inbound>,
}

/// A trigger that is run.
struct Running {
    revision: u64,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Whether it reads TOPICS.
    topic: bool,
    /// Up to where it has no use for its stream any more; [`UNKNOWN`] until it has looked.
    done: Arc<AtomicU64>,
}

/// It is not known how far a trigger is.
const UNKNOWN: u64 = 0;

/// Runs all triggers until `over`.
pub async fn run(context: Context, over: CancellationToken) {
    let mut triggers = Triggers { context, over: over.clone(), running: BTreeMap::new() };
    loop {
        tokio::select! {
            () = over.cancelled() => break,
            end = triggers.follow() => {
                if let Err(error) = end {
                    tracing::warn!(%error, "triggers can't be followed; trying again");
                }
            }
        }
        tokio::select! {
            () = over.cancelled() => break,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    // They watch the same token. A server that does not answer must not keep the term from ending: whatever is cut short
    // comes again.
    let deadline = tokio::time::Instant::now() + LAST_WORDS;
    for (_, mut running) in std::mem::take(&mut triggers.running) {
        if tokio::time::timeout_at(deadline, &mut running.task).await.is_err() {
            running.task.abort();
        }
    }
    metrics::gauge!(names::TRIGGERS).set(0.0);
}

struct Triggers {
    context: Context,
    over: CancellationToken,
    running: BTreeMap<TriggerName, Running>,
}

impl Triggers {
    async fn follow(&mut self) -> Result<(), String> {
        let bucket = TriggersBucket::open(&self.context.js).await.map_err(|e| e.to_string())?;
        self.leave_the_removed(&bucket).await?;
        let mut changes = bucket.follow().await.map_err(|e| e.to_string())?;
        let mut tick = tokio::time::interval(HOUSEKEEPING);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = changes.next() => {
                    let Some(change) = change else { return Err("the watch ended".to_owned()) };
                    let change = change.map_err(|e| e.to_string())?;
                    match change.settings {
                        None => self.remove(&bucket, &change.name).await?,
                        Some(Ok(settings)) => self.set(&bucket, change.name, *settings, change.revision).await,
                        Some(Err(error)) => {
                            tracing::error!(trigger = %change.name, %error, "a trigger can't be read; it is ignored");
                        }
                    }
                    metrics::gauge!(names::TRIGGERS).set(self.running.len() as f64);
                }
                _ = tick.tick() => {
                    if let Err(error) = self.make_room().await {
                        tracing::debug!(%error, "no room was made in the topics' stream");
                    }
                }
            }
        }
    }

    /// Triggers that were removed while nobody looked: their consumers go.
    async fn leave_the_removed(&mut self, bucket: &TriggersBucket) -> Result<(), String> {
        let set: BTreeSet<_> = bucket.names().await.map_err(|e| e.to_string())?.into_iter().collect();
        let ran = bucket.with_state().await.map_err(|e| e.to_string())?;
        let gone = ran.into_iter().chain(self.running.keys().cloned()).filter(|name| !set.contains(name));
        for name in gone.collect::<BTreeSet<_>>() {
            self.remove(bucket, &name).await?;
        }
        Ok(())
    }

    async fn set(
        &mut self,
        bucket: &TriggersBucket,
        name: TriggerName,
        settings: TriggerSettings,
        revision: u64,
    ) {
        if self.running.get(&name).is_some_and(|running| running.revision >= revision) {
            return;
        }
        self.end(&name).await;
        if self.running.len() >= MAX_TRIGGERS {
            tracing::error!(trigger = %name, most = MAX_TRIGGERS, "there are too many triggers; this one is not run");
            return;
        }
        let topic = matches!(settings.source, Source::Topic(_));
        let trigger = match settings.compile() {
            Ok(trigger) => trigger,
            Err(error) => {
                tracing::error!(trigger = %name, %error, "a trigger makes no sense; it is ignored");
                return;
            }
        };
        let (stop, done) = (self.over.child_token(), Arc::new(AtomicU64::new(UNKNOWN)));
        let runner = Runner {
            name: name.clone(),
            trigger: Arc::new(trigger),
            bucket: bucket.clone(),
            context: self.context.clone(),
            done: done.clone(),
            stop: stop.clone(),
        };
        let task = tokio::spawn(runner.run());
        self.running.insert(name, Running { revision, stop, task, topic, done });
    }

    async fn end(&mut self, name: &TriggerName) {
        if let Some(running) = self.running.remove(name) {
            running.stop.cancel();
            if running.task.await.is_err() {
                tracing::error!(trigger = %name, "a trigger's task failed");
            }
        }
    }

    async fn remove(&mut self, bucket: &TriggersBucket, name: &TriggerName) -> Result<(), String> {
        self.end(name).await;
        let Some((state, _)) = bucket.state(name).await.map_err(|e| e.to_string())? else { return Ok(()) };
        delete_consumer(&self.context.js, &state.stream, name).await.map_err(|e| e.to_string())?;
        bucket.forget(name).await.map_err(|e| e.to_string())
    }

    /// Drops from TOPICS what every trigger on it is done with, once it is half full.
    async fn make_room(&mut self) -> Result<(), String> {
        let state = api::stream_state(&self.context.js, TOPICS).await.map_err(|e| e.to_string())?;
        if state.bytes < state.max_bytes / 2 {
            return Ok(());
        }
        let on_topics = self.running.values().filter(|running| running.topic);
        let done = on_topics.map(|running| running.done.load(Ordering::Relaxed)).min();
        match done.unwrap_or(state.last_seq) {
            UNKNOWN => Ok(()),
            done if done < state.first_seq => Ok(()),
            done => purge_through(&self.context.js, TOPICS, done).await.map_err(|e| e.to_string()),
        }
    }
}
