//! `events`: from the EVENTS stream into Redis as fast as they go, beside a bare loop of pipelined XADD and EXPIRE; and from
//! being emitted to a watcher, 200 tasks at 50 events a second each.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use tokio::task::JoinSet;

use super::figure::{Figure, Report, Target};
use super::pace::due_times;
use super::rig::{CLIENT, Rig, Sizes};
use super::stats::Samples;
use super::{Bench, clock};
use crate::cli::stack::{COORDINATOR, REDIS};
use crate::client::WatchItem;
use crate::coordinator::event_writer::MAX_BATCH;
use crate::task::{Payload, TaskId, TaskKey, TenantName};
use crate::telemetry::names;
use crate::wire::{codec, messages::Event, subjects};

const CASE: &str = "events";
const TASKS: usize = 200;
/// Events a second, of all tasks.
const RATE: f64 = 10_000.0;
/// Events that wait for their stream's acknowledgement while the stream is filled.
const UNACKED: usize = 1_000;
/// Of what is written: the part that is left out at the beginning, in which the pulling starts again.
const WARM: f64 = 0.05;
/// Between two looks at how much is written.
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let events = bench.args.scaled(200_000, 2_000);
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.await_plan().await?;
    let tenant: TenantName = rig.client.tenant_name().clone();
    let (mut written, mut bare) = (Vec::new(), Vec::new());
    let (mut costs, mut bare_costs) = (Vec::new(), Vec::new());
    for run in 0..bench.args.runs {
        let (rate, cost) = drain(&mut rig, &tenant, run, events).await?;
        written.push(rate);
        costs.push(cost);
        let (rate, cost) = loop_bare(&mut rig, &tenant, events).await?;
        bare.push(rate);
        bare_costs.push(cost);
    }
    let figure = Figure::over("events into Redis", "1/s", &written);
    report.add(CASE, figure.map(|figure| figure.against(&bare).target(Target::RatioAtLeast(0.7))))?;
    let figure = Figure::over("CPU per event, service and Redis", "us", &costs);
    report.add(CASE, figure.map(|figure| figure.against(&bare_costs).target(Target::RatioAtMost(1.43))))?;

    let seconds = bench.args.scaled(10, 1);
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for run in 0..bench.args.runs {
        let samples = watched(&rig, &tenant, 1_000 + run, (seconds as f64 * RATE) as u64).await?;
        p50.extend(samples.percentile_ms(0.5));
        p99.extend(samples.percentile_ms(0.99));
    }
    let figure = Figure::over("p50, emitted to seen by a watcher", "ms", &p50);
    report.add(CASE, figure.map(|figure| figure.target(Target::AtMost(2.0))))?;
    let figure = Figure::over("p99, emitted to seen by a watcher", "ms", &p99);
    report.add(CASE, figure.map(|figure| figure.target(Target::AtMost(10.0))))?;
    rig.stop().await;
    Ok(())
}

/// How fast the event writer takes what stands in the stream, and the CPU it and Redis need for one: what it needs to come
/// into the stream is not in it, as it is not in the bare loop.
async fn drain(rig: &mut Rig, tenant: &TenantName, run: u16, events: u64) -> Result<(f64, f64)> {
    let before = rig.metric(names::EVENTS_WRITTEN).await?;
    rig.freeze(COORDINATOR)?;
    let filled = fill(rig, tenant, run, events).await;
    rig.thaw(COORDINATOR)?;
    filled?;
    let begin = Instant::now();
    // Until it is under way: few events may be written before anybody looks again.
    let (mut from, mut skipped) = (rig.moment().await?, None);
    loop {
        let done = rig.metric(names::EVENTS_WRITTEN).await? - before;
        if done >= events as f64 {
            break;
        }
        if skipped.is_none() && done >= events as f64 * WARM {
            (from, skipped) = (rig.moment().await?, Some(done));
        }
        anyhow::ensure!(begin.elapsed() < PATIENCE, "{done} of {events} events are written");
        tokio::time::sleep(LOOK).await;
    }
    let (used, counted) = (rig.used(&from).await?, events as f64 - skipped.unwrap_or_default());
    Ok((counted / used.wall, used.of(&[COORDINATOR, REDIS]) * 1e6 / counted))
}

/// In order, as an instance emits; stored when this returns.
async fn fill(rig: &Rig, tenant: &TenantName, run: u16, events: u64) -> Result<()> {
    let mut unacked = VecDeque::with_capacity(UNACKED);
    for n in 0..events as usize {
        if unacked.len() == UNACKED
            && let Some(oldest) = unacked.pop_front()
        {
            oldest.await?;
        }
        let subject = subjects::event(tenant, &task(run, n % TASKS));
        unacked.push_back(rig.jetstream().publish(subject, event((n / TASKS + 1) as u32)).await?);
    }
    for ack in unacked {
        ack.await?;
    }
    Ok(())
}

fn task(run: u16, n: usize) -> TaskId {
    // Names of this form fit the grammar.
    TaskId::new(format!("e{run}-{n}")).unwrap_or_else(|_| TaskId::fresh())
}

/// The `n`th event, with the time at which it was made.
fn event(n: u32) -> Bytes {
    let data = Payload::Bytes(Bytes::copy_from_slice(&clock::now().to_le_bytes()));
    codec::pack(&Event { v: 1, attempt: 1, n, at: 0, kind: "token".to_owned(), data })
}

async fn loop_bare(rig: &mut Rig, tenant: &TenantName, events: u64) -> Result<(f64, f64)> {
    let before = rig.moment().await?;
    let mut number = 0u64;
    while number < events {
        let mut pipeline = redis::pipe();
        let mut touched = Vec::new();
        for n in number..(number + MAX_BATCH as u64).min(events) {
            let key = TaskKey { tenant: tenant.clone(), id: task(u16::MAX, n as usize % TASKS) };
            let key = crate::store::keys::events(&key);
            let id = format!("1-{}", n as usize / TASKS + 1);
            let body = event(1);
            pipeline
                .cmd("XADD")
                .arg(&key)
                .arg("MAXLEN")
                .arg("~")
                .arg(10_000)
                .arg(id)
                .arg("e")
                .arg(&body[..])
                .ignore();
            touched.push(key);
        }
        touched.sort();
        touched.dedup();
        for key in &touched {
            pipeline.cmd("EXPIRE").arg(key).arg(3_600).ignore();
        }
        pipeline.exec_async(&mut rig.redis).await?;
        number += MAX_BATCH as u64;
    }
    let used = rig.used(&before).await?;
    for n in 0..TASKS {
        let key = TaskKey { tenant: tenant.clone(), id: task(u16::MAX, n) };
        redis::cmd("UNLINK").arg(crate::store::keys::events(&key)).exec_async(&mut rig.redis).await?;
    }
    Ok((events as f64 / used.wall, used.of(&[CLIENT, REDIS]) * 1e6 / events as f64))
}

/// A watcher for each task; gives how long each event took to be seen.
async fn watched(rig: &Rig, tenant: &TenantName, run: u16, events: u64) -> Result<Samples> {
    let each = (events as usize / TASKS).max(1);
    let mut watching = JoinSet::new();
    for n in 0..TASKS {
        let mut watch = rig.client.watch(&task(run, n)).await?;
        watching.spawn(async move {
            let mut nanos = Vec::with_capacity(each);
            while nanos.len() < each {
                match watch.next().await {
                    Some(Ok(WatchItem::Event(event))) => {
                        let emitted = clock::read(event.data.as_bytes()).unwrap_or(0);
                        nanos.push(clock::now().saturating_sub(emitted));
                    }
                    Some(Ok(WatchItem::Gap { from, to, .. })) => {
                        anyhow::bail!("events {from} to {to} are lost")
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => anyhow::bail!("a watch ended"),
                }
            }
            anyhow::Ok(nanos)
        });
    }
    rig.client.link().main.flush().await?;
    let nats = async_nats::connect(&rig.stack.nats.url).await?;
    let mut times = due_times((each * TASKS) as u64, RATE);
    let mut n = 0;
    while times.recv().await.is_some() {
        nats.publish(subjects::event(tenant, &task(run, n % TASKS)), event((n / TASKS + 1) as u32)).await?;
        n += 1;
    }
    let mut nanos = Vec::new();
    while let Some(seen) = tokio::time::timeout(Duration::from_secs(60), watching.join_next()).await? {
        nanos.extend(seen??);
    }
    Ok(Samples::new(nanos))
}
