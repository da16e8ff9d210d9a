//! `latency`: tasks at a fixed rate, each timed from when it was due; the floor in turn with the fabric.

use anyhow::Result;
use bytes::Bytes;

use super::Bench;
use super::figure::{Figure, Report, Target};
use super::floor::Floor;
use super::rig::{AGENT, INPUT, Rig, Sizes};
use super::stats::{Paced, Samples};

const CASE: &str = "latency";

/// A rate, how long it is kept up, and the most that fabric may take of the floor's median and 99th percentile.
const LOADS: [(f64, f64, f64, f64); 2] = [(200.0, 20.0, 1.6, 2.0), (1_000.0, 20.0, 1.6, 1.5)];

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.start_agent().await?;
    let redis = rig.stack.redis.as_ref().map(|redis| redis.url.clone()).unwrap_or_default();
    for (rate, seconds, p50, p99) in LOADS {
        let tasks = bench.args.scaled((rate * seconds) as u64, 100);
        let input = Bytes::from(vec![7; INPUT]);
        let (mut fabric, mut floors) = (Vec::new(), Vec::new());
        for round in 0..bench.args.runs {
            for turn in 0..2 {
                if (turn + round) % 2 == 0 {
                    // A tenth of it first, unmeasured: connections, caches and consumers are warm on both sides.
                    rig.load(AGENT).submit_paced(tasks / 10, rate).await?;
                    fabric.push(rig.load(AGENT).submit_paced(tasks, rate).await?);
                } else {
                    let floor = Floor::start(&rig.stack.nats.url, &redis).await?;
                    floor.submit_paced(tasks / 10, rate, input.clone()).await?;
                    floors.push(floor.submit_paced(tasks, rate, input.clone()).await?);
                    floor.stop().await?;
                }
            }
        }
        let seen = |side: &[Paced], share| each(side, share, |paced| &paced.seen);
        let started = |side: &[Paced], share| each(side, share, |paced| &paced.started);
        for (word, share, most) in [("p50", 0.5, Some(p50)), ("p99", 0.99, Some(p99)), ("max", 1.0, None)] {
            let name = format!("{word} seen by the client, {rate}/s");
            let figure = Figure::over(name, "ms", &seen(&fabric, share)).map(|figure| {
                let figure = figure.against(&seen(&floors, share));
                most.map_or(figure.clone(), |most| figure.target(Target::RatioAtMost(most)))
            });
            report.add(CASE, figure)?;
            let figure =
                Figure::over(format!("{word} to handler start, {rate}/s"), "ms", &started(&fabric, share));
            report.add(CASE, figure.map(|figure| figure.against(&started(&floors, share))))?;
        }
    }
    rig.stop().await;
    Ok(())
}

fn each(side: &[Paced], share: f64, which: impl Fn(&Paced) -> &Samples) -> Vec<f64> {
    side.iter().filter_map(|paced| which(paced).percentile_ms(share)).collect()
}
