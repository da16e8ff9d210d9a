//! `soak`: two million tasks at full speed. What is kept must depend on what is configured, not on how much has gone
//! through: the largest sizes of the last tenth beside those of the first.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::figure::{Figure, Report, Target};
use super::rig::{AGENT, Rig, Sizes};
use super::{Bench, MB};
use crate::cli::stack::{COORDINATOR, NATS, REDIS};
use crate::wire::topology;

const CASE: &str = "soak";
/// Parts of the run, each with its largest sizes; the first is the reference. Sizes go up and down with every snapshot,
/// so what is compared is how far up.
const MARKS: u64 = 10;
/// Between two looks at the sizes.
const LOOK: Duration = Duration::from_millis(200);
/// Submitted while the part before still runs, so that there is always something to do.
const PARTS: u64 = 4;
/// What may be kept of ended tasks, per tenant: reached by all 50 well before the first look.
const KEPT: u64 = 1_000;

/// The largest sizes seen, in bytes.
#[derive(Default)]
struct Mark {
    journal: f64,
    redis: f64,
    coordinator: f64,
    nats: f64,
    redis_resident: f64,
}

impl Mark {
    async fn look(&mut self, rig: &Rig) -> Result<()> {
        let grow = |largest: &mut f64, now: f64| *largest = largest.max(now);
        grow(&mut self.journal, rig.stored(topology::JOURNAL).await?.1 as f64);
        grow(&mut self.redis, rig.redis_memory().await?);
        grow(&mut self.coordinator, rig.resident(COORDINATOR)? as f64);
        grow(&mut self.nats, rig.resident(NATS)? as f64);
        grow(&mut self.redis_resident, rig.resident(REDIS)? as f64);
        Ok(())
    }
}

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let tasks = bench.args.scaled(2_000_000, 2_000).div_ceil(MARKS * PARTS) * MARKS * PARTS;
    let kept = bench.args.scaled(KEPT, 10);
    report.note(&format!(
        "Kept of ended tasks, per tenant: {kept} in the index, {kept} remembered ids. Reached after {} tasks.",
        kept * super::floor::TENANTS as u64
    ))?;
    let mut rig = Rig::start(bench, Sizes { kept, ..Sizes::default() }).await?;
    let warm = rig.start_agent().await?;
    let load = rig.load(AGENT);
    let begin = Instant::now();
    let mut marks = Vec::new();
    let part = tasks / (MARKS * PARTS);
    for n in 1..=MARKS {
        let mut mark = Mark::default();
        for at in 0..PARTS {
            // One part stays ahead; at the end of a mark everything has ended.
            let submitted = warm + ((n - 1) * PARTS + at + 1) * part;
            let ended = if at + 1 == PARTS { submitted } else { submitted - part };
            let mut work = Box::pin(async {
                load.submit_many(part).await?;
                rig.await_ended(ended).await
            });
            loop {
                tokio::select! {
                    done = &mut work => break done?,
                    () = tokio::time::sleep(LOOK) => mark.look(&rig).await?,
                }
            }
        }
        mark.look(&rig).await?;
        marks.push(mark);
    }
    let rate = tasks as f64 / begin.elapsed().as_secs_f64();
    report.add(CASE, Figure::once(format!("{tasks} tasks"), "1/s", rate))?;
    let (Some(first), Some(last)) = (marks.first(), marks.last()) else { return Ok(()) };
    let after = tasks / MARKS;
    for (name, size, judged) in [
        ("journal", (|mark: &Mark| mark.journal) as fn(&Mark) -> f64, true),
        ("Redis, used_memory", |mark| mark.redis, true),
        ("coordinator resident", |mark| mark.coordinator, true),
        ("NATS resident", |mark| mark.nats, false),
        ("Redis resident", |mark| mark.redis_resident, false),
    ] {
        let figure =
            Figure::once(format!("{name}, largest at last, beside the first {after}"), "MB", size(last) / MB);
        let figure = figure.against(&[size(first) / MB]);
        let target = Target::RatioAtMost(1.1);
        report.add(CASE, if judged { figure.target(target) } else { figure })?;
        let all: Vec<f64> = marks.iter().map(|mark| size(mark) / MB).collect();
        report.add(CASE, Figure::over(format!("{name}, largest of each {after}"), "MB", &all))?;
    }
    rig.stop().await;
    Ok(())
}
