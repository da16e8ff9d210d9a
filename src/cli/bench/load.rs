//! The same loads for the fabric that the floor has, through the client SDK as anybody would use it.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::clock;
use super::floor::share;
use super::pace::due_times;
use super::rig::INPUT;
use super::stats::{Paced, Samples};
use crate::client::{self, Client, NewTask};
use crate::task::{Payload, Phase};

/// Tasks of one `submit_many`: their handles are kept until it returns.
const PART: u64 = 20_000;

/// Whose tasks, for which agent.
#[derive(Clone)]
pub struct Load {
    clients: Vec<Client>,
    agent: &'static str,
    cost: Option<u32>,
}

impl Load {
    /// Tasks of `clients`, each of which speaks for one tenant.
    pub fn new(clients: Vec<Client>, agent: &'static str) -> Load {
        Load { clients, agent, cost: None }
    }

    /// Its tasks cost so many cells.
    pub fn cost(self, cells: u32) -> Load {
        Load { cost: Some(cells), ..self }
    }

    /// The client of the `n`th caller.
    fn client(&self, n: usize) -> Client {
        self.clients[n % self.clients.len()].clone()
    }

    /// Every tenant submits its share with `submit_many`, all of them at once. Returns when all are stored.
    pub async fn submit_many(&self, tasks: u64) -> Result<()> {
        let mut working = JoinSet::new();
        for (n, client) in self.clients.iter().enumerate() {
            let (client, agent, cost) = (client.clone(), self.agent, self.cost);
            let share = share(tasks, self.clients.len(), n);
            working.spawn(async move {
                let mut left = share;
                while left > 0 {
                    let part = left.min(PART);
                    left -= part;
                    let one = || {
                        let task = task(agent)?;
                        client::Result::Ok(cost.map_or(task.clone(), |cells| task.cost(cells)))
                    };
                    let tasks = (0..part).map(|_| one()).collect::<client::Result<Vec<_>>>()?;
                    for stored in client.submit_many(tasks).await {
                        stored?;
                    }
                }
                anyhow::Ok(())
            });
        }
        all(working).await
    }

    /// `callers` submit at once, each of them one after the other.
    pub async fn submit_single(&self, tasks: u64, callers: usize) -> Result<()> {
        let mut working = JoinSet::new();
        for caller in 0..callers {
            let (client, agent) = (self.client(caller), self.agent);
            let share = share(tasks, callers, caller);
            working.spawn(async move {
                for _ in 0..share {
                    client.submit_task(task(agent)?).await?;
                }
                anyhow::Ok(())
            });
        }
        all(working).await
    }

    /// Submits at `rate` a second, each task at its time however slow the ones before are, and waits for its end.
    pub async fn submit_paced(&self, tasks: u64, rate: f64) -> Result<Paced> {
        let mut times = due_times(tasks, rate);
        let mut waiting = JoinSet::new();
        let mut tenant = 0;
        while let Some(due) = times.recv().await {
            let (client, agent) = (self.client(tenant), self.agent);
            tenant += 1;
            waiting.spawn(async move {
                let (start, seen) = run_one(&client, agent).await?;
                anyhow::Ok((start.saturating_sub(due), seen.saturating_sub(due)))
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
}

/// A task of the load.
pub fn task(agent: &str) -> client::Result<NewTask> {
    NewTask::raw(agent, Payload::Bytes(vec![7; INPUT].into()))
}

/// Runs a task of the load: when its handler was called, and when its end had been seen.
pub async fn run_one(client: &Client, agent: &str) -> Result<(u64, u64)> {
    let ended = client.submit_task(task(agent)?).wait().await?;
    let seen = clock::now();
    anyhow::ensure!(ended.state == Phase::Completed, "a task ended as {}", ended.state);
    let Some(Payload::Bytes(result)) = ended.result else { anyhow::bail!("the result is no time") };
    Ok((clock::read(&result).context("the result is no time")?, seen))
}

/// Nanoseconds from before a task's submit to the start of its handler.
pub async fn submit_to_start(client: &Client, agent: &str) -> Result<u64> {
    let begin = clock::now();
    let (start, _) = run_one(client, agent).await?;
    Ok(start.saturating_sub(begin))
}

/// Submits `tasks` that take so long each.
pub async fn submit_timed(client: &Client, agent: &str, tasks: u64, length: Duration) -> Result<()> {
    submit_lengths(client, agent, (0..tasks).map(|_| length)).await
}

/// Submits a task for each of these lengths.
pub async fn submit_lengths(
    client: &Client,
    agent: &str,
    lengths: impl Iterator<Item = Duration>,
) -> Result<()> {
    let mut lengths = lengths.peekable();
    while lengths.peek().is_some() {
        let part = lengths.by_ref().take(PART as usize).map(|length| {
            let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
            NewTask::raw(agent, Payload::Bytes(micros.to_le_bytes().to_vec().into()))
        });
        for stored in client.submit_many(part.collect::<client::Result<Vec<_>>>()?).await {
            stored?;
        }
    }
    Ok(())
}

async fn all(mut working: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = working.join_next().await {
        ended??;
    }
    Ok(())
}
