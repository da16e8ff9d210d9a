//! `overload`: far more submits than the fabric can run, for a minute. The intake must stay within its bytes, what does
//! not fit must be refused with a time to come back, what was accepted must run, and soon after all must be as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::figure::{Figure, Report, Target};
use super::pace::due_times;
use super::rig::{AGENT, Rig, Sizes};
use super::{Bench, MB, clock, load};
use crate::cli::stack::{COORDINATOR, NATS, REDIS};
use crate::client::{self, Client};
use crate::task::Code;
use crate::telemetry::names;
use crate::wire::topology;

const CASE: &str = "overload";
/// Largest intake: what waits in it waits before everything that comes later, so it is a few seconds' work.
const INTAKE: u64 = 8 << 20;
/// What is kept per tenant, reached in the first seconds.
const KEPT: u64 = 500;
/// What a tenant may have waiting: of all of them together a few seconds' work, too.
const BACKLOG: u64 = 1_000;
/// How many times the sustainable rate.
const TIMES: f64 = 10.0;
/// Submits that may be under way at once; beyond it the offered rate is what the machine can offer.
const OUTSTANDING: usize = 16_384;
/// Callers that find out what is sustainable, one task after the other.
const CALLERS: usize = 64;
/// Probes a second, before and after.
const RATE: f64 = 100.0;
/// As slow as before, within noise.
const NORMAL: f64 = 2.0;
/// Between two looks at the sizes.
const LOOK: Duration = Duration::from_millis(250);

/// What became of the submits.
#[derive(Default)]
struct Fates {
    accepted: AtomicU64,
    refused: AtomicU64,
    /// Refusals that name no time to come back.
    untimed: AtomicU64,
    unknown: AtomicU64,
}

/// One look at the sizes, in bytes.
struct Look {
    intake: u64,
    resident: [u64; 3],
}

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let seconds = (60.0 * bench.args.scale).max(2.0);
    let mut rig =
        Rig::start(bench, Sizes { intake: INTAKE, kept: KEPT, backlog: BACKLOG, ..Sizes::default() }).await?;
    let mut ended = rig.start_agent().await?;

    let tasks = bench.args.scaled(20_000, 500);
    let begin = Instant::now();
    rig.load(AGENT).submit_single(tasks, CALLERS).await?;
    ended += tasks;
    rig.await_ended(ended).await?;
    let sustainable = tasks as f64 / begin.elapsed().as_secs_f64();
    report.add(CASE, Figure::once("sustainable", "1/s", sustainable))?;

    let probes = bench.args.scaled(1_000, 50);
    let client = rig.client.tenant("probe")?;
    let before = probe(&client, probes).await?;
    ended += probes;
    let normal = percentile(&before, 0.99).context("no probe was taken")?;

    let fates = Arc::new(Fates::default());
    let looks = flood(&rig, sustainable * TIMES, seconds, &fates).await?;
    // Over now. How long until a task takes no longer than before?
    let over = clock::now();
    let after = probe(&client, (RATE * 15.0) as u64).await?;
    ended += (RATE * 15.0) as u64;
    let healed = healed(&after, over, normal);

    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (accepted, refused) = (of(&fates.accepted), of(&fates.refused));
    let offered = (accepted + refused + of(&fates.unknown)) as f64 / seconds;
    report.add(CASE, Figure::once("offered", "1/s", offered).against(&[sustainable]))?;
    report.add(CASE, Figure::once("accepted", "tasks", accepted as f64))?;
    report.add(
        CASE,
        Figure::once("refused as BACKPRESSURE", "submits", refused as f64).target(Target::AtLeast(1.0)),
    )?;
    let untimed = Figure::once("refusals without a time to come back", "submits", of(&fates.untimed) as f64);
    report.add(CASE, untimed.target(Target::AtMost(0.0)))?;
    report.add(CASE, Figure::once("submits without an answer", "submits", of(&fates.unknown) as f64))?;
    let most = looks.iter().map(|look| look.intake).max().unwrap_or(0) as f64;
    let figure = Figure::once("largest intake", "MB", most / MB);
    report.add(CASE, figure.target(Target::AtMost(INTAKE as f64 / MB)))?;
    let (early, late) = looks.split_at(looks.len() / 2);
    for (at, name) in [COORDINATOR, NATS, REDIS].into_iter().enumerate() {
        let largest =
            |looks: &[Look]| looks.iter().map(|look| look.resident[at]).max().unwrap_or(0) as f64 / MB;
        let figure = Figure::once(format!("{name} resident, second half beside first"), "MB", largest(late));
        report.add(CASE, figure.against(&[largest(early)]).target(Target::RatioAtMost(1.25)))?;
    }
    let figure = Figure::once("p99 of a task before", "ms", normal / 1e6);
    report.add(CASE, figure)?;
    let figure =
        Figure::once("until 95 of 100 take less than twice that", "s", healed).target(Target::AtMost(5.0));
    report.add(CASE, figure)?;

    // A submit without an answer may have been stored or not.
    rig.await_ended(ended + accepted).await?;
    let limited = rig.metric(names::TASKS_REFUSED).await?;
    report.add(CASE, Figure::once("of them refused by the limit of a tenant's backlog", "tasks", limited))?;
    let decided = rig.metric(names::TASKS_ENDED).await? + limited - ended as f64;
    let figure = Figure::once("tasks run or refused, beside those accepted", "tasks", decided);
    report.add(CASE, figure.against(&[accepted as f64]).target(Target::RatioAtLeast(1.0)))?;
    rig.stop().await;
    Ok(())
}

/// Offers `rate` submits a second, whatever becomes of them, and looks at the sizes meanwhile.
async fn flood(rig: &Rig, rate: f64, seconds: f64, fates: &Arc<Fates>) -> Result<Vec<Look>> {
    let over = Arc::new(AtomicBool::new(false));
    let (stop, told) = (over.clone(), fates.clone());
    let clients: Vec<Client> = (0..super::floor::TENANTS).map(|n| rig.tenant(n)).collect();
    let flooding = tokio::spawn(async move {
        let mut times = due_times((rate * seconds) as u64, rate);
        let mut working = JoinSet::new();
        let mut n = 0;
        while times.recv().await.is_some() && !stop.load(Ordering::Relaxed) {
            let (client, told) = (clients[n % clients.len()].clone(), told.clone());
            n += 1;
            working.spawn(async move { submit(&client, &told).await });
            while working.len() >= OUTSTANDING {
                working.join_next().await;
            }
            while working.try_join_next().is_some() {}
        }
        while working.join_next().await.is_some() {}
    });
    let mut looks = Vec::new();
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        let (_, intake) = rig.stored(topology::INTAKE).await?;
        let resident = [rig.resident(COORDINATOR)?, rig.resident(NATS)?, rig.resident(REDIS)?];
        looks.push(Look { intake, resident });
    }
    over.store(true, Ordering::Relaxed);
    flooding.await?;
    Ok(looks)
}

async fn submit(client: &Client, fates: &Fates) {
    let submitted = match load::task(AGENT) {
        Ok(task) => client.submit_task(task).await.map(drop),
        Err(error) => Err(error),
    };
    let fate = match submitted {
        Ok(()) => &fates.accepted,
        Err(client::Error::Refused(refusal)) if refusal.code == Code::Backpressure => {
            if refusal.retry_after_ms.is_none() {
                fates.untimed.fetch_add(1, Ordering::Relaxed);
            }
            &fates.refused
        }
        Err(_) => &fates.unknown,
    };
    fate.fetch_add(1, Ordering::Relaxed);
}

/// Tasks at [`RATE`], each submitted again when it is told to come back: when each was due, and how long it took from
/// then, in nanoseconds.
async fn probe(client: &Client, tasks: u64) -> Result<Vec<(u64, u64)>> {
    let mut times = due_times(tasks, RATE);
    let mut waiting = JoinSet::new();
    while let Some(due) = times.recv().await {
        let client = client.clone();
        waiting.spawn(async move {
            loop {
                match client.submit_task(load::task(AGENT)?).await {
                    Ok(task) => {
                        task.wait().await?;
                        return anyhow::Ok((due, clock::now().saturating_sub(due)));
                    }
                    Err(client::Error::Refused(refusal)) if refusal.code == Code::Backpressure => {
                        let pause = Duration::from_millis(refusal.retry_after_ms.unwrap_or(1_000));
                        tokio::time::sleep(pause).await;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        });
    }
    let mut took = Vec::new();
    while let Some(ended) = waiting.join_next().await {
        took.push(ended??);
    }
    Ok(took)
}

/// Seconds from `over` to the end of the last second in which more than one in twenty was slow.
fn healed(took: &[(u64, u64)], over: u64, normal: f64) -> f64 {
    let second = |due: u64| (due.saturating_sub(over) / 1_000_000_000) as usize;
    let mut slow = vec![(0u32, 0u32); took.iter().map(|(due, _)| second(*due) + 1).max().unwrap_or(0)];
    for (due, took) in took {
        let (all, late) = &mut slow[second(*due)];
        *all += 1;
        *late += u32::from(*took as f64 > normal * NORMAL);
    }
    slow.iter().rposition(|(all, late)| late * 20 > *all).map_or(0.0, |at| (at + 1) as f64)
}

fn percentile(took: &[(u64, u64)], share: f64) -> Option<f64> {
    let samples = super::stats::Samples::new(took.iter().map(|(_, took)| *took).collect());
    samples.percentile_ms(share).map(|ms| ms * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_with_the_last_second_in_which_many_were_slow() {
        let at = |second: u64, took: u64| (7 + second * 1_000_000_000, took);
        let mut took = vec![at(0, 90), at(1, 90), at(1, 1)];
        took.extend((0..40).map(|_| at(2, 1)));
        took.push(at(2, 90));
        assert_eq!(healed(&took, 7, 10.0), 2.0, "one of forty-one is no trouble");
        assert_eq!(healed(&[at(0, 20)], 7, 10.0), 0.0);
    }
}
