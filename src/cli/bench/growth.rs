//! `growth`: what a task costs as there is more of something else: tenants, slots, instances, tasks waiting. No targets:
//! it is for finding what grows that should not.

use anyhow::Result;

use super::figure::{Figure, Report};
use super::load::Load;
use super::rig::{AGENT, Rig, Sizes};
use super::{Bench, MB};
use crate::cli::stack::COORDINATOR;

const CASE: &str = "growth";
/// Tasks of every measurement.
const TASKS: u64 = 20_000;
const TENANTS: [u64; 4] = [1, 50, 1_000, 10_000];
/// Agents of one instance each, with so many slots.
const SLOTS: [(&str, u32); 4] = [("s16", 16), ("s64", 64), ("s256", 256), ("s1024", 1_024)];
/// Agents of so many instances, with 256 slots together.
const INSTANCES: [(&str, u32); 3] = [("i1", 1), ("i4", 4), ("i16", 16)];
/// Agents that find so many tasks waiting when their instance comes.
const BACKLOGS: [(&str, u64); 3] = [("b10000", 10_000), ("b100000", 100_000), ("b500000", 500_000)];

/// What a task cost in CPU us, one entry per run.
#[derive(Default)]
struct Cost {
    all: Vec<f64>,
    coordinator: Vec<f64>,
}

/// The costs along one dimension; the first is what the others are compared with.
struct Row {
    of: &'static str,
    steps: Vec<(u64, Cost)>,
}

impl Row {
    fn new(of: &'static str, steps: impl IntoIterator<Item = u64>) -> Row {
        Row { of, steps: steps.into_iter().map(|step| (step, Cost::default())).collect() }
    }

    fn report(&self, report: &mut Report) -> Result<()> {
        let Some((_, first)) = self.steps.first() else { return Ok(()) };
        for (step, cost) in &self.steps {
            let sides =
                [("all", &cost.all, &first.all), (COORDINATOR, &cost.coordinator, &first.coordinator)];
            for (who, runs, reference) in sides {
                let figure = Figure::over(format!("CPU per task, {step} {}, {who}", self.of), "us", runs);
                report.add(CASE, figure.map(|figure| figure.against(reference)))?;
            }
        }
        Ok(())
    }
}

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let tasks = bench.args.scaled(TASKS, 200);
    let mut tenants = Row::new("tenants", TENANTS.map(|n| n.min(tasks)));
    let mut slots = Row::new("slots", SLOTS.map(|(_, n)| u64::from(n)));
    let mut instances = Row::new("instances", INSTANCES.map(|(_, n)| u64::from(n)));
    let mut waiting = Row::new("waiting", BACKLOGS.map(|(_, n)| bench.args.scaled(n, 200)));
    for _ in 0..bench.args.runs {
        let mut rig = Rig::start(bench, Sizes::default()).await?;
        let mut ended = rig.start_agent().await?;
        for (n, cost) in &mut tenants.steps {
            let clients = (0..*n as usize).map(|n| rig.tenant(n)).collect();
            through(&mut rig, Load::new(clients, AGENT), tasks, &mut ended, cost).await?;
        }
        for ((agent, n), (_, cost)) in SLOTS.into_iter().zip(&mut slots.steps) {
            rig.stack.start_own(agent, &["bench-agent", agent, "--slots", &n.to_string()])?;
            let load = rig.load(agent);
            warm(&rig, &load, &mut ended).await?;
            through(&mut rig, load, tasks, &mut ended, cost).await?;
        }
        for ((agent, n), (_, cost)) in INSTANCES.into_iter().zip(&mut instances.steps) {
            let each = (256 / n).to_string();
            for instance in 0..n {
                let name = format!("{agent}-{instance}");
                rig.stack.start_own(&name, &["bench-agent", agent, "--slots", &each])?;
            }
            let load = rig.load(agent);
            warm(&rig, &load, &mut ended).await?;
            through(&mut rig, load, tasks, &mut ended, cost).await?;
        }
        for ((agent, _), (n, cost)) in BACKLOGS.into_iter().zip(&mut waiting.steps) {
            rig.load(agent).submit_many(*n).await?;
            rig.await_decided().await?;
            rig.await_indexed().await?;
            let resident = Figure::once(
                format!("coordinator resident, {n} waiting"),
                "MB",
                rig.resident(COORDINATOR)? as f64 / MB,
            );
            report.add(CASE, resident)?;
            let before = rig.moment().await?;
            rig.start_instance(agent)?;
            ended += *n;
            rig.await_ended(ended).await?;
            take(&mut rig, &before, *n, cost).await?;
        }
        rig.stop().await;
    }
    for row in [tenants, slots, instances, waiting] {
        row.report(report)?;
    }
    Ok(())
}

/// A task of every tenant, so that nothing is done for the first time later.
async fn warm(rig: &Rig, load: &Load, ended: &mut u64) -> Result<()> {
    load.submit_many(100).await?;
    *ended += 100;
    rig.await_ended(*ended).await
}

async fn through(rig: &mut Rig, load: Load, tasks: u64, ended: &mut u64, cost: &mut Cost) -> Result<()> {
    let before = rig.moment().await?;
    load.submit_many(tasks).await?;
    *ended += tasks;
    rig.await_ended(*ended).await?;
    take(rig, &before, tasks, cost).await
}

async fn take(rig: &mut Rig, before: &super::rig::Moment, tasks: u64, cost: &mut Cost) -> Result<()> {
    let used = rig.used(before).await?;
    let each = |seconds: f64| seconds * 1e6 / tasks as f64;
    cost.all.push(each(used.cpu.values().sum()));
    cost.coordinator.push(each(used.cpu.get(COORDINATOR).copied().unwrap_or_default()));
    Ok(())
}
