//! `tenants`: ten thousand tenants with ten tasks each, beside one with all of them: assets in NATS, bytes, dispatches.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::figure::{Figure, Report, Target};
use super::rig::{Rig, Sizes};
use super::{Bench, load, memory};
use crate::cli::stack::COORDINATOR;
use crate::client::Client;
use crate::telemetry::names;

const CASE: &str = "tenants";
const TENANTS: u64 = 10_000;
/// Tasks of each.
const EACH: u64 = 10;
/// Tenants that submit at once.
const AT_ONCE: usize = 64;
/// Between two looks at how many have ended.
const LOOK: Duration = Duration::from_millis(10);

/// What one run gave.
struct Gave {
    rate: f64,
    /// Of the coordinator, per queued task.
    bytes: f64,
    /// Streams and consumers that came.
    assets: f64,
}

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let tenants = bench.args.scaled(TENANTS, 50);
    let (mut many, mut one) = (Vec::new(), Vec::new());
    for round in 0..bench.args.runs {
        for turn in 0..2 {
            match (turn + round) % 2 {
                0 => many.push(measure(bench, tenants, EACH).await?),
                _ => one.push(measure(bench, 1, tenants * EACH).await?),
            }
        }
    }
    let of = |gave: &[Gave], which: fn(&Gave) -> f64| gave.iter().map(which).collect::<Vec<f64>>();
    let rate =
        Figure::over(format!("dispatches, {tenants} tenants beside one"), "1/s", &of(&many, |g| g.rate));
    let target = Target::RatioAtLeast(0.9);
    report.add(CASE, rate.map(|figure| figure.against(&of(&one, |g| g.rate)).target(target)))?;
    let bytes =
        Figure::over("coordinator, per queued task, beside one tenant", "bytes", &of(&many, |g| g.bytes));
    report.add(CASE, bytes.map(|figure| figure.against(&of(&one, |g| g.bytes))))?;
    let assets = Figure::over("streams and consumers that came", "", &of(&many, |g| g.assets));
    report.add(CASE, assets.map(|figure| figure.target(Target::AtMost(0.0))))?;
    Ok(())
}

async fn measure(bench: &Bench, tenants: u64, each: u64) -> Result<Gave> {
    let tasks = tenants * each;
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    let before = rig.start_agent().await? as f64;
    rig.await_indexed().await?;
    let (empty, assets) = (rig.resident(COORDINATOR)? as f64, rig.assets().await?);
    let mut working: JoinSet<Result<()>> = JoinSet::new();
    for n in 0..tenants {
        let client = rig.client.tenant(&format!("many{n}"))?;
        while working.len() >= AT_ONCE {
            working.join_next().await.transpose()?.transpose()?;
        }
        working.spawn(async move { queue(&client, each).await });
    }
    while let Some(queued) = working.join_next().await {
        queued??;
    }
    rig.await_decided().await?;
    rig.await_indexed().await?;
    let bytes = (rig.resident(COORDINATOR)? as f64 - empty) / tasks as f64;
    let came = rig.assets().await? as f64 - assets as f64;

    rig.start_instance(memory::LATER)?;
    let ended = async || anyhow::Ok(rig.metric(names::TASKS_ENDED).await? - before);
    // From the first end on: how long a process takes to start is not what is asked.
    let begun = loop {
        let now = ended().await?;
        if now > 0.0 {
            break now;
        }
        tokio::time::sleep(LOOK).await;
    };
    let begin = Instant::now();
    let all = loop {
        let now = ended().await?;
        if now >= tasks as f64 {
            break now;
        }
        tokio::time::sleep(LOOK).await;
    };
    let rate = (all - begun) / begin.elapsed().as_secs_f64().max(1e-9);
    rig.stop().await;
    Ok(Gave { rate, bytes, assets: came })
}

async fn queue(client: &Client, tasks: u64) -> Result<()> {
    let made = (0..tasks).map(|_| load::task(memory::LATER)).collect::<Result<Vec<_>, _>>()?;
    for stored in client.submit_many(made).await {
        stored?;
    }
    Ok(())
}
