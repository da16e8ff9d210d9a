//! The same loads for the fabric that the floor has, through the client SDK as anybody would use it.

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::clock;
use super::floor::{TENANTS, share};
use super::pace::due_times;
use super::rig::{AGENT, Rig, input};
use super::stats::{Paced, Samples};
use crate::client::{self, NewTask};
use crate::task::{Payload, Phase};

/// A task of the load.
pub fn task(input: Payload) -> client::Result<NewTask> {
    NewTask::raw(AGENT, input)
}

/// Every tenant submits its share with `submit_many`, all of them at once. Returns when all are stored.
pub async fn submit_many(rig: &Rig, tasks: u64) -> Result<()> {
    let mut working = JoinSet::new();
    for tenant in 0..TENANTS {
        let client = rig.tenant(tenant);
        let share = share(tasks, TENANTS, tenant);
        working.spawn(async move {
            let tasks = (0..share).map(|_| task(input())).collect::<client::Result<Vec<_>>>()?;
            for stored in client.submit_many(tasks).await {
                stored?;
            }
            anyhow::Ok(())
        });
    }
    all(working).await
}

/// `callers` submit at once, each of them one after the other.
pub async fn submit_single(rig: &Rig, tasks: u64, callers: usize) -> Result<()> {
    let mut working = JoinSet::new();
    for caller in 0..callers {
        let client = rig.tenant(caller % TENANTS);
        let share = share(tasks, callers, caller);
        working.spawn(async move {
            for _ in 0..share {
                client.submit_task(task(input())?).await?;
            }
            anyhow::Ok(())
        });
    }
    all(working).await
}

/// Submits at `rate` a second, each task at its time however slow the ones before are, and waits for its end.
pub async fn submit_paced(rig: &Rig, tasks: u64, rate: f64) -> Result<Paced> {
    let mut times = due_times(tasks, rate);
    let mut waiting = JoinSet::new();
    let mut tenant = 0;
    while let Some(due) = times.recv().await {
        let client = rig.tenant(tenant);
        tenant = (tenant + 1) % TENANTS;
        waiting.spawn(async move {
            let ended = client.submit_task(task(input())?).await?.wait().await?;
            let seen = clock::now();
            anyhow::ensure!(ended.state == Phase::Completed, "a task ended as {}", ended.state);
            let result = ended.result.context("a completed task has a result")?;
            let Payload::Bytes(result) = result else { anyhow::bail!("the result is no time") };
            let start = clock::read(&result).context("the result is no time")?;
            Ok((start.saturating_sub(due), seen.saturating_sub(due)))
        });
    }
    let (mut started, mut seen) = (Vec::new(), Vec::new());
    while let Some(ended) = waiting.join_next().await {
        let (start, end) = ended??;
        started.push(start);
        seen.push(end);
    }
    Ok(Paced { started: Samples::new(started), seen: Samples::new(seen) })
}

async fn all(mut working: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = working.join_next().await {
        ended??;
    }
    Ok(())
}
