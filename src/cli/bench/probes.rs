//! What the single steps cost by themselves, on the same servers: the ground under fabric and floor.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::jetstream::{self, consumer::pull, stream};
use bytes::Bytes;
use futures_util::StreamExt;

use super::figure::{Figure, Report};
use super::rig::{INPUT, Rig};
use super::{Bench, Case};

const STREAM: &str = "BENCH_PROBE";
const SUBJECT: &str = "bench.probe";
/// Publishes whose acknowledgement may be awaited at once.
const WINDOW: usize = 500;

/// Takes all of them and adds them to the figures.
pub async fn run(bench: &Bench, rig: &mut Rig, report: &mut Report) -> Result<()> {
    let case = Case::Throughput.name();
    let url = rig.stack.nats.url.as_str();
    let nats = async_nats::connect(url).await?;
    let js = jetstream::new(nats.clone());
    let messages = bench.args.scaled(100_000, 500);
    let stream = js
        .create_stream(stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![SUBJECT.to_owned()],
            retention: stream::RetentionPolicy::WorkQueue,
            ..stream::Config::default()
        })
        .await?;

    let begin = Instant::now();
    let body = Bytes::from(vec![7; INPUT]);
    let publishes = (0..messages).map(|_| {
        let (js, body) = (js.clone(), body.clone());
        async move {
            js.publish(SUBJECT, body).await?.await?;
            anyhow::Ok(())
        }
    });
    let mut stored = futures_util::stream::iter(publishes).buffered(WINDOW);
    while let Some(stored) = stored.next().await {
        stored?;
    }
    report.add(case, rate("raw: JetStream publish, window of 500", messages, begin.elapsed()))?;

    let consumer = stream
        .create_consumer(pull::Config { durable_name: Some("probe".to_owned()), ..pull::Config::default() })
        .await?;
    let mut deliveries = consumer.stream().max_messages_per_batch(500).messages().await?;
    let begin = Instant::now();
    for _ in 0..messages {
        let message = deliveries.next().await.context("the deliveries ended")??;
        message.ack().await.map_err(|error| anyhow::anyhow!("cannot acknowledge: {error}"))?;
    }
    nats.flush().await?;
    report.add(case, rate("raw: delivery + acknowledgement", messages, begin.elapsed()))?;
    drop(deliveries);
    js.delete_stream(STREAM).await?;

    let calls = bench.args.scaled(10_000, 100);
    let mut questions = async_nats::connect(url).await?.subscribe("bench.ask").await?;
    let answering = async_nats::connect(url).await?;
    let answers = tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            if let Some(reply) = question.reply {
                // Whoever asked will notice.
                let _ = answering.publish(reply, question.payload).await;
            }
        }
    });
    let begin = Instant::now();
    for _ in 0..calls {
        nats.request("bench.ask", body.clone()).await?;
    }
    report.add(case, mean("raw: core NATS request and reply", calls, begin.elapsed()))?;
    answers.abort();

    let script = redis::Script::new("return redis.call('SET', KEYS[1], ARGV[1])");
    let begin = Instant::now();
    for _ in 0..calls {
        script.key("bench:probe").arg(body.as_ref()).invoke_async::<()>(&mut rig.redis).await?;
    }
    report.add(case, mean("raw: one Redis script", calls, begin.elapsed()))?;

    let syncs = bench.args.scaled(200, 10);
    let path = rig.stack.data().path().join("probe");
    let elapsed = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::create(path)?;
        let begin = Instant::now();
        for _ in 0..syncs {
            file.write_all(&[7; 4096])?;
            file.sync_data()?;
        }
        std::io::Result::Ok(begin.elapsed())
    });
    report.add(case, mean("raw: one fsync of 4 KiB", syncs, elapsed.await??))?;
    Ok(())
}

fn rate(name: &str, count: u64, elapsed: Duration) -> Figure {
    Figure::once(name, "1/s", count as f64 / elapsed.as_secs_f64())
}

fn mean(name: &str, count: u64, elapsed: Duration) -> Figure {
    Figure::once(name, "us", elapsed.as_secs_f64() * 1e6 / count as f64)
}
