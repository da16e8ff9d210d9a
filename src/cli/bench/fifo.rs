//! The references of `noisy`: a work queue of NATS with workers, one for both tenants, or one for each with half of the
//! workers. No journal, no leases, no index: only who waits for whom.

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream::{self, consumer::pull, stream};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::clock;

const STREAM: &str = "BENCH_FIFO";

/// How the workers are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All take from one queue.
    Fifo,
    /// Each tenant has its part of them.
    Static,
}

/// What it gave, in seconds.
pub struct Shared {
    /// The slowest wait of the second tenant.
    pub wait: f64,
    /// From the first submit to the last end.
    pub batch: f64,
}

/// The first tenant submits `many` tasks, then the second `few`, each of which takes a worker for so long.
pub async fn run(
    nats: &str,
    sharing: Sharing,
    workers: usize,
    many: u64,
    few: u64,
    length: Duration,
) -> Result<Shared> {
    let js = jetstream::new(async_nats::connect(nats).await?);
    let _ = js.delete_stream(STREAM).await;
    let stream = js
        .create_stream(stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["bench.fifo.*".to_owned()],
            retention: stream::RetentionPolicy::WorkQueue,
            ..stream::Config::default()
        })
        .await?;
    let subjects = match sharing {
        Sharing::Fifo => vec!["bench.fifo.*"],
        Sharing::Static => vec!["bench.fifo.a", "bench.fifo.b"],
    };
    let (told, mut ran) = mpsc::unbounded_channel();
    let mut working = JoinSet::new();
    for (n, subject) in subjects.iter().enumerate() {
        let config = pull::Config {
            durable_name: Some(format!("workers-{n}")),
            filter_subject: (*subject).to_owned(),
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        for _ in 0..workers / subjects.len() {
            let messages = consumer.stream().max_messages_per_batch(1).messages().await?;
            working.spawn(work(messages, length, told.clone()));
        }
    }
    let begin = clock::now();
    submit(&js, "bench.fifo.a", many).await?;
    let due = clock::now();
    submit(&js, "bench.fifo.b", few).await?;
    let (mut wait, mut end) = (0, 0);
    for _ in 0..many + few {
        let next = tokio::time::timeout(Duration::from_secs(60), ran.recv()).await;
        let (second, began, ended): (bool, u64, u64) = next?.context("the workers are gone")?;
        end = end.max(ended);
        if second {
            wait = wait.max(began.saturating_sub(due));
        }
    }
    working.shutdown().await;
    js.delete_stream(STREAM).await?;
    Ok(Shared { wait: wait as f64 / 1e9, batch: (end - begin) as f64 / 1e9 })
}

async fn submit(js: &jetstream::Context, subject: &'static str, tasks: u64) -> Result<()> {
    let mut stored = Vec::new();
    for _ in 0..tasks {
        stored.push(js.publish(subject, Bytes::from_static(&[7; 64])).await?);
        if stored.len() >= 256 {
            for stored in stored.drain(..) {
                stored.await?;
            }
        }
    }
    for stored in stored {
        stored.await?;
    }
    Ok(())
}

async fn work(mut messages: pull::Stream, length: Duration, told: mpsc::UnboundedSender<(bool, u64, u64)>) {
    while let Some(Ok(message)) = messages.next().await {
        let began = clock::now();
        let slept = tokio::task::spawn_blocking(move || std::thread::sleep(length)).await;
        let acked = message.ack().await;
        if slept.is_err() || acked.is_err() {
            return;
        }
        let _ = told.send((message.subject.ends_with('b'), began, clock::now()));
    }
}
