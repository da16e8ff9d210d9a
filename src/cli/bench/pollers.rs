//! `pollers`: 200 pollers at 20 lists a second each, over all tenants, 30 % with combined filters, while tasks run at full
//! speed, and then at an even pace. The reference is the same load while as much CPU is burnt as the pollers cost beside it:
//! what they take from the machine is theirs, what they take from dispatch beyond that is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::figure::{Figure, Report, Target};
use super::load::Load;
use super::rig::{AGENT, Rig, Sizes, Used};
use super::{Bench, floor::TENANTS};
use crate::client::Client;
use crate::task::{AgentName, Phase};

const CASE: &str = "pollers";
const POLLERS: usize = 200;
const EVERY: Duration = Duration::from_millis(50);
/// Tasks a second whose starts are timed.
const RATE: f64 = 500.0;
/// A burner works so long of every slice, at its share.
const SLICE: Duration = Duration::from_millis(10);

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let tasks = bench.args.scaled(100_000, 500);
    let probes = bench.args.scaled(5_000, 100);
    let whole = Duration::from_millis(bench.args.scaled(3_000, 100));
    let mut rig = Rig::start(bench, Sizes { kept: 10_000, ..Sizes::default() }).await?;
    let mut ended = rig.start_agent().await?;
    let load = rig.load(AGENT);
    let [mut polled, mut burnt, mut starts, mut reference] = [const { Vec::new() }; 4];
    let (mut answered, mut refused) = (0, 0);
    let (mut cost, mut paced_cost) = (Vec::new(), Vec::new());
    for _ in 0..bench.args.runs {
        let alone = dispatch(&mut rig, &load, tasks, &mut ended).await?;
        let nothing = spent(&mut rig, whole).await?;
        let polls = Polls::start(&rig);
        let nothing_else = spent(&mut rig, whole).await?;
        let with = dispatch(&mut rig, &load, tasks, &mut ended).await?;
        let p99 = paced(&load, probes, &mut ended).await?;
        let (good, bad) = polls.end().await;
        (answered, refused) = (answered + good, refused + bad);
        polled.push(tasks as f64 / with.wall);
        starts.extend(p99);
        // What the pollers cost, their own process and the service, in cores: less where dispatch takes what there is.
        let cores = (total(&with) - total(&alone)).max(0.0) / with.wall;
        let paced_cores = (nothing_else - nothing).max(0.0);
        cost.push(cores);
        paced_cost.push(paced_cores);
        let burners = Burners::start(cores);
        let beside = dispatch(&mut rig, &load, tasks, &mut ended).await?;
        burners.end();
        let burners = Burners::start(paced_cores);
        let p99 = paced(&load, probes, &mut ended).await?;
        burners.end();
        burnt.push(tasks as f64 / beside.wall);
        reference.extend(p99);
    }
    let figure = Figure::over("tasks beside pollers", "1/s", &polled);
    report.add(CASE, figure.map(|figure| figure.against(&burnt).target(Target::RatioAtLeast(0.95))))?;
    let figure = Figure::over(format!("p99 to handler start beside pollers, {RATE}/s"), "ms", &starts);
    report.add(CASE, figure.map(|figure| figure.against(&reference).target(Target::RatioAtMost(1.2))))?;
    report.add(CASE, Figure::over("cores the pollers cost beside full speed", "", &cost))?;
    report.add(CASE, Figure::over("cores the pollers cost alone", "", &paced_cost))?;
    report.add(CASE, Figure::once("lists answered", "", answered as f64))?;
    report.add(CASE, Figure::once("lists shed or late", "", refused as f64))?;
    rig.stop().await;
    Ok(())
}

async fn dispatch(rig: &mut Rig, load: &Load, tasks: u64, ended: &mut u64) -> Result<Used> {
    let before = rig.moment().await?;
    load.submit_many(tasks).await?;
    *ended += tasks;
    rig.await_ended(*ended).await?;
    rig.used(&before).await
}

/// The time to handler start of nearly all of so many tasks at an even pace, in milliseconds.
async fn paced(load: &Load, probes: u64, ended: &mut u64) -> Result<Option<f64>> {
    let paced = load.submit_paced(probes, RATE).await?;
    *ended += probes;
    Ok(paced.started.percentile_ms(0.99))
}

/// The cores that are used while nothing is done here for a while.
async fn spent(rig: &mut Rig, time: Duration) -> Result<f64> {
    let before = rig.moment().await?;
    tokio::time::sleep(time).await;
    let used = rig.used(&before).await?;
    Ok(total(&used) / used.wall)
}

fn total(used: &Used) -> f64 {
    used.cpu.values().sum()
}

/// The pollers.
struct Polls {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    working: JoinSet<()>,
}

impl Polls {
    fn start(rig: &Rig) -> Self {
        let (stop, answered, refused) = (Arc::default(), Arc::default(), Arc::default());
        let mut polls = Polls { stop, answered, refused, working: JoinSet::new() };
        for n in 0..POLLERS {
            let client = rig.tenant(n % TENANTS);
            let (stop, answered, refused) =
                (polls.stop.clone(), polls.answered.clone(), polls.refused.clone());
            polls.working.spawn(async move {
                // Not all at the same moment.
                tokio::time::sleep(EVERY.mul_f64(n as f64 / POLLERS as f64)).await;
                let mut every = tokio::time::interval(EVERY);
                every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
                while !stop.load(Ordering::Relaxed) {
                    every.tick().await;
                    match poll(&client, n % 10 < 3).await {
                        true => answered.fetch_add(1, Ordering::Relaxed),
                        false => refused.fetch_add(1, Ordering::Relaxed),
                    };
                }
            });
        }
        polls
    }

    /// Answers and refusals.
    async fn end(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        while self.working.join_next().await.is_some() {}
        (self.answered.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}

async fn poll(client: &Client, combined: bool) -> bool {
    let mut list = client.list().limit(10);
    if combined && let Ok(agent) = AgentName::new(AGENT) {
        list = list.agent(&agent).state(Phase::Running);
    }
    list.page().await.is_ok()
}

/// Threads that burn so many cores.
struct Burners(Arc<AtomicBool>);

impl Burners {
    fn start(cores: f64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for n in 0..cores.ceil() as usize {
            let (stop, share) = (stop.clone(), (cores - n as f64).clamp(0.0, 1.0));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let work = SLICE.mul_f64(share);
                    while begin.elapsed() < work {
                        std::hint::spin_loop();
                    }
                    std::thread::sleep(SLICE - work.min(SLICE));
                }
            });
        }
        Self(stop)
    }

    fn end(self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
