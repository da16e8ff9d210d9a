//! `limits`: what limits cost that do not bind: the same load with every limit there is, without those that need not be,
//! and the floor, in turn.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;

use super::Bench;
use super::figure::{Figure, Report, Target};
use super::floor::Floor;
use super::fold::{self, Window};
use super::rig::{AGENT, AGENT_SLOTS, INPUT, Rig, Sizes};
use crate::task::{AgentSettings, MAX_CELLS};

const CASE: &str = "limits";
/// What each task says it costs, where cells are limited.
const COST: u32 = 1;
/// So many never bind.
const PLENTY: u32 = 1_000_000;

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let tasks = bench.args.scaled(100_000, 200);
    let (mut on, mut off, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..bench.args.runs {
        let mut rig = Rig::start(bench, Sizes::default()).await?;
        rig.start_agent().await?;
        if round == 0 {
            let idle = idle(bench, &mut rig).await?;
            let figure = Figure::once("slots idle with work for them, all limits on", "%", idle);
            report.add(CASE, figure.target(Target::AtMost(1.0)))?;
        }
        // Who goes first changes.
        for turn in 0..3 {
            match (turn + round) % 3 {
                0 => on.push(run_fabric(&mut rig, tasks, true).await?),
                1 => off.push(run_fabric(&mut rig, tasks, false).await?),
                _ => floor.push(run_floor(&mut rig, tasks).await?),
            }
        }
        rig.stop().await;
    }
    let figure = Figure::over("tasks, all limits on, beside off", "1/s", &on);
    report.add(CASE, figure.map(|figure| figure.against(&off).target(Target::RatioAtLeast(0.95))))?;
    let figure = Figure::over("tasks, all limits on, beside the floor", "1/s", &on);
    report.add(CASE, figure.map(|figure| figure.against(&floor).target(Target::RatioAtLeast(0.75))))?;
    let figure = Figure::over("tasks, limits off, beside the floor", "1/s", &off);
    report.add(CASE, figure.map(|figure| figure.against(&floor)))?;
    Ok(())
}

/// Every limit that need not be there, so high that it never binds; or none of them.
async fn set(rig: &Rig, on: bool) -> Result<()> {
    let agent = AgentSettings {
        in_flight: Some(PLENTY),
        rate: Some(PLENTY),
        burst: Some(PLENTY),
        cells: Some(MAX_CELLS),
        ..AgentSettings::default()
    };
    rig.set_agent(AGENT, &if on { agent } else { AgentSettings::default() }).await?;
    rig.change_plan(|plan| {
        (plan.agent_in_flight, plan.cells) = if on { (Some(PLENTY), Some(MAX_CELLS)) } else { (None, None) };
    })
    .await
}

async fn run_fabric(rig: &mut Rig, tasks: u64, on: bool) -> Result<f64> {
    set(rig, on).await?;
    let before = rig.moment().await?;
    let load = rig.load(AGENT);
    let load = if on { load.cost(COST) } else { load };
    load.submit_many(tasks).await?;
    rig.await_completed(tasks).await?;
    Ok(tasks as f64 / rig.used(&before).await?.wall)
}

async fn run_floor(rig: &mut Rig, tasks: u64) -> Result<f64> {
    let redis = rig.stack.redis.as_ref().map(|redis| redis.url.clone()).unwrap_or_default();
    let mut floor = Floor::start(&rig.stack.nats.url, &redis).await?;
    let input = Bytes::from(vec![7; INPUT]);
    floor.submit_single(100, 1, input.clone()).await?;
    floor.await_shown(100).await?;
    let before = rig.moment().await?;
    floor.submit_many(tasks, input).await?;
    tokio::time::timeout(Duration::from_secs(600), floor.await_shown(100 + tasks)).await??;
    let rate = tasks as f64 / rig.used(&before).await?.wall;
    floor.stop().await?;
    Ok(rate)
}

/// The same with fewer tasks, so that the journal still holds all of it.
async fn idle(bench: &Bench, rig: &mut Rig) -> Result<f64> {
    let from = crate::cli::output::unix_now();
    run_fabric(rig, bench.args.scaled(20_000, 2_000), true).await?;
    let window = Window { agent: AGENT.parse()?, slots: AGENT_SLOTS, from, ms: 60_000 };
    Ok(fold::fold(rig, &window, &[]).await?.idle_percent())
}
