//! `tell`: from a message being told to a running handler having it, in turn with tasks from their submit to their start.

use anyhow::Result;

use super::args::Work;
use super::figure::{Figure, Report, Target};
use super::rig::{AGENT, Rig, Sizes};
use super::stats::Samples;
use super::trace::{REACHED, Trace};
use super::{Bench, clock, load};
use crate::client::TaskHandle;

const CASE: &str = "tell";
/// The agent that listens.
const LISTENER: &str = "listener";

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.start_agent().await?;
    rig.start_working(LISTENER, Work::Listen)?;
    let mut trace = Trace::listen(&rig.stack.nats.url).await?;
    let client = rig.client.tenant("teller")?;
    let messages = bench.args.scaled(1_000, 100);
    let (mut p50, mut p99) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
    for _ in 0..bench.args.runs {
        let listener = client.submit(LISTENER, &(messages + 1)).await?;
        // Unmeasured: from here on its handler runs.
        told(&listener, &mut trace).await?;
        let mut nanos = [Vec::new(), Vec::new()];
        for _ in 0..messages {
            nanos[0].push(told(&listener, &mut trace).await?);
            nanos[1].push(load::submit_to_start(&client, AGENT).await?);
        }
        listener.result::<()>().await?;
        for (side, nanos) in nanos.into_iter().enumerate() {
            let samples = Samples::new(nanos);
            p50[side].extend(samples.percentile_ms(0.5));
            p99[side].extend(samples.percentile_ms(0.99));
        }
    }
    let beside = "told to taken by a running handler, beside submit to start";
    let figure = Figure::over(format!("p50, {beside}"), "ms", &p50[0]);
    report.add(CASE, figure.map(|figure| figure.against(&p50[1]).target(Target::RatioAtMost(2.0))))?;
    let figure = Figure::over(format!("p99, {beside}"), "ms", &p99[0]);
    report.add(CASE, figure.map(|figure| figure.against(&p99[1])))?;
    rig.stop().await;
    Ok(())
}

/// Nanoseconds until the handler had the message.
async fn told(listener: &TaskHandle, trace: &mut Trace) -> Result<u64> {
    let begin = clock::now();
    listener.tell(&begin).await?;
    // This message and no other: one may be told of twice, should its handler have run again.
    let had = trace.take(1, |ran| ran.what == REACHED && ran.began == begin).await?;
    Ok(had.iter().map(|ran| ran.at.saturating_sub(begin)).sum())
}
