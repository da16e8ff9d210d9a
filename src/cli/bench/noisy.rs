//! `noisy`: one tenant submits thousands of tasks, then another a few. How long the few wait, how long all of it takes,
//! and what one shared queue, and a fixed share for each, make of the same; then with far more in front.

use std::time::Duration;

use anyhow::Result;

use super::fifo::{self, Sharing};
use super::figure::{Figure, Report, Target};
use super::fold::{self, Window};
use super::rig::{Rig, Sizes};
use super::trace::{ENDED, Trace};
use super::{Bench, clock, load};
use crate::client::Client;
use crate::telemetry::names;

const CASE: &str = "noisy";
/// The agent.
const AGENT: &str = "timed";
const SLOTS: u32 = 20;
const LENGTH: Duration = Duration::from_millis(20);
/// Tasks of the one, and of the other.
const MANY: u64 = 5_000;
const FEW: u64 = 20;
/// Repeats, each at another phase.
const REPEATS: f64 = 20.0;
/// What the one has waiting in the second part.
const FLOOD: u64 = 200_000;
/// Tenants in the third part, and what each of them has waiting: first a little, then a lot.
const CROWD: u64 = 1_000;
const EACH: [u64; 2] = [10, 100];
/// Newcomers among them, one after the other.
const NEWCOMERS: u64 = 60;
/// The wait with a lot beside that with a little: the same, as far as so many can tell.
const CROWD_RATIO: f64 = 1.5;
/// What the slowest of the few may wait: in the middle of all repeats, and at most.
const USUAL_MS: f64 = 25.0;
const WORST_MS: f64 = 45.0;

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let repeats = (REPEATS * bench.args.scale).ceil() as u64;
    together(bench, report, repeats).await?;
    behind_a_flood(bench, report, repeats).await?;
    in_a_crowd(bench, report).await
}

async fn rig(bench: &Bench) -> Result<(Rig, Trace)> {
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.start_timed(AGENT, SLOTS, 1).await?;
    rig.await_plan().await?;
    let trace = Trace::listen(&rig.stack.nats.url).await?;
    Ok((rig, trace))
}

async fn together(bench: &Bench, report: &mut Report, repeats: u64) -> Result<()> {
    let many = bench.args.scaled(MANY, 200);
    let ideal = (many + FEW) as f64 * LENGTH.as_secs_f64() / f64::from(SLOTS);
    let (rig, mut trace) = rig(bench).await?;
    let (a, b) = (rig.client.tenant("a")?, rig.client.tenant("b")?);
    let (mut waits, mut batches, mut idle, mut trips) = (Vec::new(), Vec::new(), None, Vec::new());
    for repeat in 0..repeats {
        let (from, begin) = (unix_ms(), clock::now());
        load::submit_timed(&a, AGENT, many, LENGTH).await?;
        phase().await;
        let due = clock::now();
        load::submit_timed(&b, AGENT, FEW, LENGTH).await?;
        let ran = trace.take(many + FEW, |ran| ran.what == ENDED).await?;
        let last = ran.iter().map(|ran| ran.at).max().unwrap_or(begin);
        let first = ran.iter().map(|ran| ran.began).min().unwrap_or(begin);
        let worked: u64 = ran.iter().map(|ran| ran.at - ran.began).sum();
        let slots = (last - first) as f64 * f64::from(SLOTS);
        trips.push((1.0 - worked as f64 / slots) * 100.0);
        let of_b = ran.iter().filter(|ran| ran.tenant == "b").map(|ran| ran.began.saturating_sub(due));
        waits.push(of_b.max().unwrap_or(0) as f64 / 1e6);
        batches.push((last - begin) as f64 / 1e9);
        if repeat == 0 {
            // The journal is whole still.
            let window = Window { agent: AGENT.parse()?, slots: SLOTS, from, ms: 60_000 };
            idle = Some(fold::fold(&rig, &window, &[]).await?.idle_percent());
        }
    }
    let mut of_shared = Vec::new();
    for (sharing, name) in [(Sharing::Fifo, "one shared FIFO"), (Sharing::Static, "a fixed half each")] {
        let url = &rig.stack.nats.url;
        let shared = fifo::run(url, sharing, SLOTS as usize, many, FEW, LENGTH).await?;
        let wait = Figure::over(format!("slowest wait of {FEW}, beside {name}"), "ms", &waits);
        report.add(CASE, wait.map(|figure| figure.against(&[shared.wait * 1e3])))?;
        of_shared.push((name, shared.batch));
    }
    waited(report, format!("slowest wait of {FEW} behind {many}"), &waits)?;
    for (name, batch) in of_shared {
        let figure = Figure::over(format!("all of it, beside {name}"), "s", &batches);
        report.add(CASE, figure.map(|figure| figure.against(&[batch])))?;
    }
    let figure = Figure::over("all of it, beside the least it could take", "s", &batches);
    let target = Target::RatioAtMost(1.1);
    report.add(CASE, figure.map(|figure| figure.against(&[ideal]).target(target)))?;
    if let Some(idle) = idle {
        report.add(
            CASE,
            Figure::once("slots idle with work for them", "%", idle).target(Target::AtMost(1.0)),
        )?;
    }
    report
        .add(CASE, Figure::over("slots without a handler, the way there and back included", "%", &trips))?;
    rig.stop().await;
    Ok(())
}

async fn behind_a_flood(bench: &Bench, report: &mut Report, repeats: u64) -> Result<()> {
    let flood = bench.args.scaled(FLOOD, 2_000);
    let (rig, mut trace) = rig(bench).await?;
    load::submit_timed(&rig.client.tenant("a")?, AGENT, flood, LENGTH).await?;
    rig.await_decided().await?;
    intake_age(report, &rig, &format!("{flood} of one tenant")).await?;
    let b = rig.client.tenant("b")?;
    let mut waits = Vec::new();
    for _ in 0..repeats {
        waits.push(wait(&b, &mut trace, FEW).await?);
        phase().await;
    }
    waited(report, format!("slowest wait of {FEW} behind {flood}"), &waits)?;
    rig.stop().await;
    Ok(())
}

/// Everybody has the same right to the slots there: a newcomer waits for those who are before it in this round, and that
/// must be as long whatever they have behind.
async fn in_a_crowd(bench: &Bench, report: &mut Report) -> Result<()> {
    let crowd = bench.args.scaled(CROWD, 50);
    let newcomers = bench.args.scaled(NEWCOMERS, 3);
    let round = crowd as f64 * LENGTH.as_secs_f64() * 1e3 / f64::from(SLOTS);
    let mut waits: [Vec<f64>; 2] = Default::default();
    for (each, waits) in EACH.into_iter().zip(&mut waits) {
        let (rig, mut trace) = rig(bench).await?;
        for n in 0..crowd {
            let tenant = rig.client.tenant(&format!("crowd{n}"))?;
            load::submit_timed(&tenant, AGENT, each, LENGTH).await?;
        }
        rig.await_decided().await?;
        intake_age(report, &rig, &format!("{each} of each of {crowd} tenants")).await?;
        for n in 0..newcomers {
            // Another newcomer each time: whoever has just run has had its share of such a crowd for a while.
            waits.push(wait(&rig.client.tenant(&format!("b{n}"))?, &mut trace, 1).await?);
            phase().await;
        }
        rig.stop().await;
    }
    let [few, many] = waits;
    let name = format!("wait of a newcomer among {crowd} tenants with {} each", EACH[1]);
    let worst = many.iter().copied().fold(0.0, f64::max);
    let figure = Figure::over(format!("{name}, beside {} each", EACH[0]), "ms", &many);
    report.add(CASE, figure.map(|figure| figure.against(&few).target(Target::RatioAtMost(CROWD_RATIO))))?;
    let figure = Figure::once(format!("{name}, worst of {newcomers}, beside a round of theirs"), "ms", worst);
    Ok(report.add(CASE, figure.against(&[round]).target(Target::RatioAtMost(1.0)))?)
}

/// Submits a few and gives the slowest wait for a start, in milliseconds.
async fn wait(client: &Client, trace: &mut Trace, few: u64) -> Result<f64> {
    let due = clock::now();
    load::submit_timed(client, AGENT, few, LENGTH).await?;
    let name = client.tenant_name().as_str();
    let ran = trace.take(few, |ran| ran.what == ENDED && ran.tenant == name).await?;
    let slowest = ran.iter().map(|ran| ran.began.saturating_sub(due)).max();
    Ok(slowest.unwrap_or(0) as f64 / 1e6)
}

fn waited(report: &mut Report, name: String, waits: &[f64]) -> Result<()> {
    let worst = waits.iter().copied().fold(0.0, f64::max);
    let figure = Figure::over(name.clone(), "ms", waits);
    report.add(CASE, figure.map(|figure| figure.target(Target::AtMost(USUAL_MS))))?;
    let figure = Figure::once(format!("{name}, worst of {}", waits.len()), "ms", worst);
    Ok(report.add(CASE, figure.target(Target::AtMost(WORST_MS)))?)
}

async fn intake_age(report: &mut Report, rig: &Rig, what: &str) -> Result<()> {
    let of = async |part: &str| rig.metric(&format!("{}_{part}", names::INTAKE_AGE)).await;
    let mean = of("sum").await? / of("count").await?.max(1.0) * 1e3;
    Ok(report.add(CASE, Figure::once(format!("intake age, mean, {what}"), "ms", mean))?)
}

/// Up to two lengths of a task: no repeat meets the slots where the one before did.
async fn phase() {
    let nanos = clock::now() % (2 * LENGTH.as_nanos() as u64);
    tokio::time::sleep(Duration::from_nanos(nanos)).await;
}

fn unix_ms() -> u64 {
    crate::cli::output::unix_now()
}
