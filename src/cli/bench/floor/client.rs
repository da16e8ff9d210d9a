//! The floor's clients: many tasks in a window, one by one from many callers, and one at a given time each.

use std::collections::HashMap;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream::context::PublishAckFuture;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Floor, TENANTS, address};
use crate::cli::bench::clock;
use crate::cli::bench::pace::due_times;
use crate::cli::bench::stats::{Paced, Samples};

/// Submits whose acknowledgement may be awaited at once.
const WINDOW: usize = 512;
/// How long after the last submit an answer may come.
const LATE: Duration = Duration::from_secs(30);

pub(super) fn subject(what: &str, tenant: usize, id: u64) -> String {
    format!("bench.{what}.t{tenant}.{id:032x}")
}

impl Floor {
    /// Submits `tasks`, a window of them at once. Returns when all are stored.
    pub async fn submit_many(&self, tasks: u64, input: Bytes) -> Result<()> {
        let (sent, mut acks) = mpsc::channel::<PublishAckFuture>(WINDOW);
        let stored = async move {
            while let Some(ack) = acks.recv().await {
                ack.into_future().await?;
            }
            anyhow::Ok(())
        };
        let send = async {
            for n in 0..tasks {
                let tenant = (n % TENANTS as u64) as usize;
                let ack = self.js.publish(subject("in", tenant, self.fresh()), input.clone()).await?;
                sent.send(ack).await.context("nobody awaits acknowledgements")?;
            }
            drop(sent);
            anyhow::Ok(())
        };
        // A task of its own: acknowledgements are taken while the next submits are put together.
        let stored = tokio::spawn(stored);
        send.await?;
        stored.await?
    }

    /// Submits `tasks` from `callers` at once, each of them one after the other.
    pub async fn submit_single(&self, tasks: u64, callers: usize, input: Bytes) -> Result<()> {
        let mut working = JoinSet::new();
        for caller in 0..callers {
            let share = share(tasks, callers, caller);
            let ids: Vec<u64> = (0..share).map(|_| self.fresh()).collect();
            let (js, input) = (self.js.clone(), input.clone());
            working.spawn(async move {
                for id in ids {
                    js.publish(subject("in", caller % TENANTS, id), input.clone()).await?.await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = working.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Submits `tasks` at `rate` a second, each at its time however slow the ones before are.
    pub async fn submit_paced(&self, tasks: u64, rate: f64, input: Bytes) -> Result<Paced> {
        let mut hints = self.nats.subscribe("bench.done.>").await?;
        self.nats.flush().await?;
        let waiting: Arc<Mutex<HashMap<u64, u64>>> = Arc::default();
        let known = waiting.clone();
        let hear = tokio::spawn(async move {
            let (mut started, mut seen) = (Vec::new(), Vec::new());
            while seen.len() < tasks as usize {
                let hint = hints.next().await.context("no more hints")?;
                let now = clock::now();
                let Some((_, id)) = address(&hint.subject) else { continue };
                let due = known.lock().ok().and_then(|mut known| known.remove(&id));
                if let (Some(due), Some(start)) = (due, clock::read(&hint.payload)) {
                    seen.push(now.saturating_sub(due));
                    started.push(start.saturating_sub(due));
                }
            }
            anyhow::Ok(Paced { started: Samples::new(started), seen: Samples::new(seen) })
        });
        let mut times = due_times(tasks, rate);
        let mut sending = JoinSet::new();
        while let Some(due) = times.recv().await {
            let id = self.fresh();
            if let Ok(mut waiting) = waiting.lock() {
                waiting.insert(id, due);
            }
            let (js, input) = (self.js.clone(), input.clone());
            sending.spawn(async move {
                js.publish(subject("in", id as usize % TENANTS, id), input).await?.await?;
                anyhow::Ok(())
            });
        }
        while let Some(ended) = sending.join_next().await {
            ended??;
        }
        tokio::time::timeout(LATE, hear).await.context("the floor's last tasks did not end")??
    }
}

/// How many of `tasks` the `caller`th of `callers` has.
pub(in crate::cli::bench) fn share(tasks: u64, callers: usize, caller: usize) -> u64 {
    let (callers, caller) = (callers as u64, caller as u64);
    tasks / callers + u64::from(caller < tasks % callers)
}
