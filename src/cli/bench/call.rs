//! `call`: from a call to the first part of its answer, beside a bare request and reply; and a hundred answers at once, of 50
//! parts a second each: none may be lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::args::Work;
use super::figure::{Figure, Report, Target};
use super::reference::{self, ECHO};
use super::rig::{Rig, Sizes};
use super::stats::Samples;
use super::{Bench, clock};
use crate::client::Client;
use crate::task::{Code, Payload};

const CASE: &str = "call";
/// The agent that answers.
const STREAMER: &str = "streamer";
/// Bytes of a bare answer.
const ANSWER: usize = 2;
/// Answers at once.
const STREAMS: usize = 100;
/// Parts a second of each.
pub const PARTS_PER_SECOND: u64 = 50;
/// How long the instance may take to be heard of.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.await_plan().await?;
    rig.start_working(STREAMER, Work::Stream)?;
    let client = rig.client.tenant("caller")?;
    await_instance(&client).await?;
    let nats = async_nats::connect(&rig.stack.nats.url).await?;
    reference::start(&mut rig, &nats, ANSWER, None).await?;
    let calls = bench.args.scaled(5_000, 100);
    let (mut p50, mut p99) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
    for _ in 0..bench.args.runs {
        let mut nanos = [Vec::new(), Vec::new()];
        for _ in 0..calls {
            nanos[0].push(first_part(&client).await?);
            let begin = Instant::now();
            nats.request(ECHO, "".into()).await?;
            nanos[1].push(begin.elapsed().as_nanos() as u64);
        }
        for (side, nanos) in nanos.into_iter().enumerate() {
            let samples = Samples::new(nanos);
            p50[side].extend(samples.percentile_ms(0.5));
            p99[side].extend(samples.percentile_ms(0.99));
        }
    }
    for (word, sides, most) in [("p50", &p50, 3.0), ("p99", &p99, 4.0)] {
        let figure = Figure::over(format!("{word} to the first part"), "ms", &sides[0]);
        let target = Target::RatioAtMost(most);
        report.add(CASE, figure.map(|figure| figure.against(&sides[1]).target(target)))?;
    }
    let seconds = bench.args.scaled(10, 1);
    let (mut lost, mut late) = (Vec::new(), Vec::new());
    for _ in 0..bench.args.runs {
        let (seen, samples) = streams(&client, seconds * PARTS_PER_SECOND).await?;
        lost.push((STREAMS as u64 * seconds * PARTS_PER_SECOND - seen) as f64);
        late.extend(samples.percentile_ms(0.99));
    }
    let figure = Figure::over(format!("parts lost, {STREAMS} answers at once"), "", &lost);
    report.add(CASE, figure.map(|figure| figure.target(Target::AtMost(0.0))))?;
    report.add(CASE, Figure::over("p99, part emitted to seen by its caller", "ms", &late))?;
    rig.stop().await;
    Ok(())
}

/// Parts that the answer is to have.
fn parts(n: u64) -> Payload {
    Payload::Bytes(n.to_le_bytes().to_vec().into())
}

async fn await_instance(client: &Client) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.call_raw(STREAMER, parts(1)).await?.raw_result().await {
            Ok(_) => return Ok(()),
            Err(error) if error.code().is_some_and(Code::is_retryable) => {
                anyhow::ensure!(Instant::now() < deadline, "nobody answers: {error}");
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nanoseconds until the first part was there; the rest of it is read untimed.
async fn first_part(client: &Client) -> Result<u64> {
    let begin = Instant::now();
    let mut answer = client.call_raw(STREAMER, parts(1)).await?;
    answer.next().await.context("an answer without a part")??;
    let took = begin.elapsed().as_nanos() as u64;
    answer.raw_result().await?;
    Ok(took)
}

/// Parts seen, and how long each took.
async fn streams(client: &Client, each: u64) -> Result<(u64, Samples)> {
    let mut running = JoinSet::new();
    for _ in 0..STREAMS {
        let call = client.call_raw(STREAMER, parts(each));
        running.spawn(async move {
            let mut answer = call.await?;
            let mut nanos = Vec::with_capacity(each as usize);
            while let Some(part) = answer.next().await {
                let Payload::Bytes(bytes) = part?.data else { continue };
                nanos.push(clock::now().saturating_sub(clock::read(&bytes).unwrap_or(0)));
            }
            Ok::<_, anyhow::Error>(nanos)
        });
    }
    let mut nanos = Vec::new();
    while let Some(ended) = running.join_next().await {
        nanos.extend(ended??);
    }
    Ok((nanos.len() as u64, Samples::new(nanos)))
}
