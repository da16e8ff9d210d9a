//! `pause`: everything is stopped while 200 instances are at work: what starts after the acknowledgement, and when the
//! last running handler has been told.

use std::time::Duration;

use anyhow::Result;

use super::figure::{Figure, Report, Target};
use super::rig::{Rig, Sizes};
use super::stats::Samples;
use super::trace::{BEGAN, STOPPED, Trace};
use super::{Bench, clock, load};
use crate::task::AllSettings;

const CASE: &str = "pause";
const AGENT: &str = "timed";
const INSTANCES: u64 = 200;
/// One slot of each holds a long task, the other has short ones in turn.
const SLOTS: u32 = 2;
const REPEATS: f64 = 20.0;
const LONG: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(150);
/// What is told within this after the last is told.
const SILENCE: Duration = Duration::from_millis(1_500);

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let instances = bench.args.scaled(INSTANCES, 10);
    let repeats = (REPEATS * bench.args.scale).ceil() as u64;
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.start_timed(AGENT, SLOTS, instances as u32).await?;
    rig.await_plan().await?;
    let mut trace = Trace::listen(&rig.stack.nats.url).await?;
    let (long, short) = (rig.client.tenant("long")?, rig.client.tenant("short")?);
    load::submit_timed(&long, AGENT, instances, LONG).await?;
    let (mut after, mut acks, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for repeat in 0..repeats {
        if repeat > 0 {
            rig.set_all(&AllSettings::default()).await?;
        }
        // The long ones come first, then a short one in each slot that is left, again and again.
        trace.take(instances, |ran| ran.what == BEGAN && ran.tenant == "long").await?;
        load::submit_timed(&short, AGENT, instances * 4, SHORT).await?;
        trace.take(instances * 2, |ran| ran.what == BEGAN && ran.tenant == "short").await?;
        tokio::time::sleep(Duration::from_nanos(clock::now() % SHORT.as_nanos() as u64)).await;

        let begin = clock::now();
        rig.set_all(&AllSettings { paused: true, stopped: true }).await?;
        let acknowledged = clock::now();
        acks.push((acknowledged - begin) as f64 / 1e6);
        let rest = trace.rest(SILENCE).await;
        let began = rest.iter().filter(|ran| ran.what == BEGAN).map(|ran| ran.began);
        after.push(began.max().unwrap_or(0).saturating_sub(acknowledged) as f64 / 1e6);
        let stops: Vec<u64> = rest
            .iter()
            .filter(|ran| ran.what == STOPPED && ran.tenant == "long")
            .map(|ran| ran.at.saturating_sub(begin))
            .collect();
        anyhow::ensure!(
            stops.len() as u64 == instances,
            "{} of {instances} handlers were told to stop",
            stops.len()
        );
        told.extend(stops);
    }
    let worst = after.iter().copied().fold(0.0, f64::max);
    let figure = Figure::once("acknowledgement to last start, worst", "ms", worst);
    report.add(CASE, figure.target(Target::AtMost(0.0)))?;
    report.add(CASE, Figure::over("command to acknowledgement", "ms", &acks))?;
    let told = Samples::new(told);
    for (word, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let name = format!("{word} from the command to a handler being told, {instances} instances");
        let figure = Figure::once(name, "ms", told.percentile_ms(share).unwrap_or(0.0));
        let judged = word == "p99";
        report.add(CASE, if judged { figure.target(Target::AtMost(1_000.0)) } else { figure })?;
    }
    rig.stop().await;
    Ok(())
}
