//! `retention`: a million short tasks with ten events each through a retention of 10,000. Redis must hold what is kept, not
//! what has gone through: its memory at the end beside that after a tenth.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::figure::{Figure, Report, Target};
use super::load::Load;
use super::rig::{Rig, Sizes};
use super::{Bench, MB};
use crate::client::Client;
use crate::store::keys;

const CASE: &str = "retention";
/// Tasks kept, of one tenant.
const KEPT: u64 = 10_000;
const EVENTS: &str = "10";
const AGENT: &str = "chatty";
/// Event streams live so long after their last entry, so that they come and go within the run.
const TTL: u64 = 3;
const PARTS: u64 = 10;

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let tasks = bench.args.scaled(1_000_000, 1_000).div_ceil(PARTS) * PARTS;
    let kept = bench.args.scaled(KEPT, 10);
    let mut rig = Rig::start(bench, Sizes { kept, stream_ttl: TTL, ..Sizes::default() }).await?;
    let warm = rig.await_plan().await?;
    rig.stack.start_own(AGENT, &["bench-agent", AGENT, "--events", EVENTS])?;
    let client = rig.client.tenant("kept")?;
    let load = Load::new(vec![client.clone()], AGENT);
    let begin = Instant::now();
    let mut marks = Vec::new();
    let mut largest = Vec::new();
    for part in 1..=PARTS {
        load.submit_many(tasks / PARTS).await?;
        let ended = rig.await_ended(warm + part * tasks / PARTS);
        let mut ended = Box::pin(ended);
        let mut most: f64 = 0.0;
        loop {
            tokio::select! {
                done = &mut ended => break done?,
                () = tokio::time::sleep(Duration::from_millis(200)) => most = most.max(rig.redis_memory().await?),
            }
        }
        // What has ended still has its events for a moment.
        settled(&rig, &client, kept).await?;
        marks.push(rig.redis_memory().await? / MB);
        largest.push(most / MB);
    }
    let rate = tasks as f64 / begin.elapsed().as_secs_f64();
    report.add(CASE, Figure::once(format!("{tasks} tasks of {EVENTS} events"), "1/s", rate))?;
    let (Some(first), Some(last)) = (marks.first(), marks.last()) else { return Ok(()) };
    let figure =
        Figure::once(format!("Redis, used_memory, beside that after {}", tasks / PARTS), "MB", *last);
    report.add(CASE, figure.against(&[*first]).target(Target::RatioAtMost(1.1)))?;
    report.add(CASE, Figure::over("Redis, used_memory, largest of each part", "MB", &largest))?;
    rig.stop().await;
    Ok(())
}

/// Waits until the index holds no more than is kept, and the events have expired.
async fn settled(rig: &Rig, client: &Client, kept: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut redis = rig.redis.clone();
    loop {
        let records: u64 =
            redis::cmd("HLEN").arg(keys::records(client.tenant_name())).query_async(&mut redis).await?;
        let all: u64 = redis::cmd("DBSIZE").query_async(&mut redis).await?;
        // Index keys of a few tenants, and no event stream.
        if records <= kept && all < 100 {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{records} tasks and {all} keys stay in Redis");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
