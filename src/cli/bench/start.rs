//! `start`: a coordinator is killed with a million tasks queued. How long the next one takes, from the start of its
//! process to the first offer it makes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::StreamExt;

use super::figure::{Figure, Report, Target};
use super::rig::{AGENT, Rig, Sizes};
use super::{Bench, load, memory};
use crate::cli::servers::Event;
use crate::cli::stack::COORDINATOR;
use crate::wire::subjects;

const CASE: &str = "start";
/// How long it may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let tasks = bench.args.scaled(1_000_000, 1_000);
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.start_agent().await?;
    memory::fill(&rig, tasks).await?;
    let (_, journal) = rig.stored(crate::wire::topology::JOURNAL).await?;
    report.add(CASE, Figure::once(format!("journal, {tasks} queued"), "MB", journal as f64 / super::MB))?;
    let nats = async_nats::connect(&rig.stack.nats.url).await?;
    let (mut starts, mut kills) = (Vec::new(), Vec::new());
    for _ in 0..bench.args.runs {
        let mut offers = nats.subscribe(subjects::offers_of_agent(&AGENT.parse()?)).await?;
        nats.flush().await?;
        let mut events = rig.stack.events();
        let killed = Instant::now();
        rig.kill9(COORDINATOR)?;
        // Submits are taken while no coordinator runs; this one is the first to be offered.
        let task = rig.tenant(0).submit_task(load::task(AGENT)?).await?;
        let started = loop {
            match tokio::time::timeout(PATIENCE, events.recv()).await?? {
                Event::Started { name, .. } if name == COORDINATOR => break Instant::now(),
                _ => {}
            }
        };
        tokio::time::timeout(PATIENCE, offers.next()).await?.context("no more offers")?;
        starts.push(started.elapsed().as_secs_f64());
        kills.push(killed.elapsed().as_secs_f64());
        task.wait().await?;
    }
    let figure = Figure::over("process start to first offer", "s", &starts);
    report.add(CASE, figure.map(|figure| figure.target(Target::AtMost(5.0))))?;
    report.add(CASE, Figure::over("kill -9 to first offer", "s", &kills))?;
    rig.stop().await;
    Ok(())
}
