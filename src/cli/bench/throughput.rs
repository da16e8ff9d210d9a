//! `throughput`: as many tasks as go through, until the index shows the end of each; the floor in turn with the fabric.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;

use super::figure::{Figure, Report, Target};
use super::floor::{Floor, OPERATIONS};
use super::rig::{AGENT, INPUT, Rig, Sizes, Used};
use super::{Bench, probes};

const CASE: &str = "throughput";
/// Callers that submit one by one.
const CALLERS: usize = 64;

/// How the tasks are submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Many,
    Single,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Many => "submit_many",
            Mode::Single => "64 callers",
        }
    }
}

/// What all runs of one side gave.
#[derive(Default)]
struct Side {
    rates: Vec<f64>,
    /// CPU us per task by process.
    cpu: BTreeMap<String, Vec<f64>>,
    /// Counted by the servers, per task.
    counts: BTreeMap<&'static str, Vec<f64>>,
}

impl Side {
    fn take(&mut self, tasks: u64, used: &Used) {
        let each = |total: f64| total / tasks as f64;
        self.rates.push(tasks as f64 / used.wall);
        let mut sum = 0.0;
        for (name, seconds) in &used.cpu {
            sum += seconds;
            self.cpu.entry(name.clone()).or_default().push(each(seconds * 1e6));
        }
        self.cpu.entry("all".to_owned()).or_default().push(each(sum * 1e6));
        let counters = used.counters;
        for (name, total) in [
            ("messages into NATS", counters.nats_in),
            ("messages out of NATS", counters.nats_out),
            ("bytes through NATS", counters.nats_bytes),
            ("Redis commands", counters.redis_commands),
            ("bytes through Redis", counters.redis_bytes),
        ] {
            self.counts.entry(name).or_default().push(each(total));
        }
    }
}

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    report.note("The floor does per task:")?;
    for operation in OPERATIONS {
        report.note(&format!("  - {operation}"))?;
    }
    let tasks = bench.args.scaled(100_000, 200);
    let mut sides: BTreeMap<Mode, [Side; 2]> = BTreeMap::new();
    for round in 0..bench.args.runs {
        let mut rig = Rig::start(bench, Sizes::default()).await?;
        rig.start_agent().await?;
        for mode in [Mode::Many, Mode::Single] {
            let [fabric, floor] = sides.entry(mode).or_default();
            // Who goes first changes, so that neither is always the one to find warm servers.
            for turn in 0..2 {
                if (turn + round) % 2 == 0 {
                    fabric.take(tasks, &run_fabric(&mut rig, mode, tasks).await?);
                } else {
                    floor.take(tasks, &run_floor(&mut rig, mode, tasks).await?);
                }
            }
        }
        if round == 0 {
            probes::run(bench, &mut rig, report).await?;
        }
        rig.stop().await;
    }
    for (mode, [fabric, floor]) in &sides {
        let rate = Figure::over(format!("tasks, {}", mode.name()), "1/s", &fabric.rates);
        let rate = rate.map(|figure| figure.against(&floor.rates));
        report.add(CASE, rate.map(|rate| rate.target(Target::RatioAtLeast(0.75))))?;
        for (name, runs) in &fabric.cpu {
            // The floor is one process: its own part is the bench's.
            let figure = Figure::over(format!("CPU per task, {}, {name}", mode.name()), "us", runs);
            let same = floor.cpu.get(name).filter(|_| name != AGENT && name != "coordinator");
            report
                .add(CASE, figure.map(|figure| same.map_or(figure.clone(), |runs| figure.against(runs))))?;
        }
        for (name, runs) in &fabric.counts {
            let figure = Figure::over(format!("{name} per task, {}", mode.name()), "", runs);
            let floor = floor.counts.get(name).map_or(&[][..], Vec::as_slice);
            report.add(CASE, figure.map(|figure| figure.against(floor)))?;
        }
    }
    Ok(())
}

async fn run_fabric(rig: &mut Rig, mode: Mode, tasks: u64) -> Result<Used> {
    let before = rig.moment().await?;
    match mode {
        Mode::Many => rig.load(AGENT).submit_many(tasks).await?,
        Mode::Single => rig.load(AGENT).submit_single(tasks, CALLERS).await?,
    }
    rig.await_completed(tasks).await?;
    rig.used(&before).await
}

async fn run_floor(rig: &mut Rig, mode: Mode, tasks: u64) -> Result<Used> {
    let redis = rig.stack.redis.as_ref().map(|redis| redis.url.clone()).unwrap_or_default();
    let mut floor = Floor::start(&rig.stack.nats.url, &redis).await?;
    let input = Bytes::from(vec![7; INPUT]);
    // As the fabric, it has done everything once before the clock starts.
    floor.submit_single(100, 1, input.clone()).await?;
    floor.await_shown(100).await?;
    let before = rig.moment().await?;
    match mode {
        Mode::Many => floor.submit_many(tasks, input).await?,
        Mode::Single => floor.submit_single(tasks, CALLERS, input).await?,
    }
    tokio::time::timeout(Duration::from_secs(600), floor.await_shown(100 + tasks)).await??;
    let used = rig.used(&before).await?;
    floor.stop().await?;
    Ok(used)
}
