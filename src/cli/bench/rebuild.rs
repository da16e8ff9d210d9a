//! `rebuild`: 500,000 ended tasks in the index, then everything in Redis is forgotten: how fast the index is whole again.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::figure::{Figure, Report, Target};
use super::rig::{AGENT, Rig, Sizes};
use super::{Bench, floor::TENANTS};
use crate::store::keys;
use crate::task::TenantName;

const CASE: &str = "rebuild";

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let tasks = bench.args.scaled(500_000, 1_000);
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    let warm = rig.start_agent().await?;
    rig.load(AGENT).submit_many(tasks).await?;
    rig.await_ended(warm + tasks).await?;
    let wanted = records(&rig).await?;
    let mut rates = Vec::new();
    for _ in 0..bench.args.runs {
        let () = redis::cmd("FLUSHALL").query_async(&mut rig.redis).await?;
        // Noticed within a second, by the idle check; from there on it is counted.
        while records(&rig).await? == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let begin = Instant::now();
        let already = records(&rig).await?;
        while records(&rig).await? < wanted {
            anyhow::ensure!(begin.elapsed() < Duration::from_secs(300), "the index is not whole again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rates.push((wanted - already) as f64 / begin.elapsed().as_secs_f64());
        rig.await_indexed().await?;
    }
    let figure = Figure::over(format!("tasks, of {wanted}"), "1/s", &rates);
    report.add(CASE, figure.map(|figure| figure.target(Target::AtLeast(50_000.0))))?;
    rig.stop().await;
    Ok(())
}

/// Tasks in the index, of all tenants of the load.
async fn records(rig: &Rig) -> Result<u64> {
    let mut pipeline = redis::pipe();
    for n in 0..TENANTS {
        let tenant: TenantName = rig.tenant(n).tenant_name().clone();
        pipeline.cmd("HLEN").arg(keys::records(&tenant));
    }
    let counts: Vec<u64> = pipeline.query_async(&mut rig.redis.clone()).await?;
    Ok(counts.iter().sum())
}
