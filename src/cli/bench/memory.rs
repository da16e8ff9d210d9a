//! `memory`: a million tasks wait for an agent that has no instance. What the coordinator holds for them, whether
//! another tenant notices, and that all of them run once an instance comes.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::figure::{Figure, Report, Target};
use super::load::Load;
use super::rig::{AGENT, Rig, Sizes};
use super::{Bench, MB};
use crate::cli::stack::COORDINATOR;

const CASE: &str = "memory";
/// The agent without an instance.
pub const LATER: &str = "later";
/// The other tenant's tasks a second.
const RATE: f64 = 200.0;
/// Between two looks at how much is resident.
const LOOK: Duration = Duration::from_millis(100);

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let tasks = bench.args.scaled(1_000_000, 1_000);
    let probes = bench.args.scaled(2_000, 100);
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.start_agent().await?;
    let other = Load::new(vec![rig.client.tenant("other")?], AGENT);
    other.submit_paced(probes / 10, RATE).await?;
    let empty = rig.resident(COORDINATOR)? as f64 / MB;
    let mut alone = Vec::new();
    for _ in 0..bench.args.runs {
        alone.extend(other.submit_paced(probes, RATE).await?.seen.percentile_ms(0.99));
    }

    let begin = Instant::now();
    let peak = fill(&rig, tasks).await?;
    report.add(CASE, Figure::once("tasks queued", "1/s", tasks as f64 / begin.elapsed().as_secs_f64()))?;
    let resident = rig.resident(COORDINATOR)? as f64 / MB;
    report.add(CASE, Figure::once("coordinator resident, empty", "MB", empty))?;
    let target = Target::AtMost(400.0);
    report.add(
        CASE,
        Figure::once(format!("coordinator resident, {tasks} queued"), "MB", resident).target(target),
    )?;
    report.add(CASE, Figure::once("coordinator resident, largest meanwhile", "MB", peak))?;

    let mut beside = Vec::new();
    for _ in 0..bench.args.runs {
        beside.extend(other.submit_paced(probes, RATE).await?.seen.percentile_ms(0.99));
    }
    let figure = Figure::over("p99 of another tenant, beside an empty one", "ms", &beside);
    report.add(CASE, figure.map(|figure| figure.against(&alone).target(Target::RatioAtMost(1.5))))?;

    let begin = Instant::now();
    rig.start_instance(LATER)?;
    rig.await_completed(tasks).await?;
    report.add(
        CASE,
        Figure::once("tasks run once an instance came", "1/s", tasks as f64 / begin.elapsed().as_secs_f64()),
    )?;
    rig.stop().await;
    Ok(())
}

/// Queues `tasks` for [`LATER`] until the owner has decided all of them and the index shows them; gives the most that
/// was resident meanwhile, in MB.
pub async fn fill(rig: &Rig, tasks: u64) -> Result<f64> {
    let load = rig.load(LATER);
    let mut peak = 0u64;
    let mut filling = Box::pin(async {
        load.submit_many(tasks).await?;
        rig.await_decided().await?;
        rig.await_indexed().await
    });
    loop {
        tokio::select! {
            filled = &mut filling => { filled?; return Ok(peak as f64 / MB) }
            () = tokio::time::sleep(LOOK) => peak = peak.max(rig.resident(COORDINATOR)?),
        }
    }
}
