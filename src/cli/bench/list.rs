//! `list`: the ten newest tasks of tenants with a thousand, a hundred thousand and a million, over NATS. The reference is
//! a bare request and reply around one script that reads ten ids and ten records.

use std::time::Instant;

use anyhow::Result;

use super::figure::{Figure, Report, Target};
use super::load::Load;
use super::reference::{self, BARE};
use super::rig::{Rig, Sizes};
use super::stats::Samples;
use super::{Bench, memory};
use crate::client::Client;

const CASE: &str = "list";
/// Tasks of each tenant.
const STORED: [u64; 3] = [1_000, 100_000, 1_000_000];

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let stored = STORED.map(|tasks| bench.args.scaled(tasks, 100));
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.await_plan().await?;
    let mut tenants = Vec::new();
    for (n, tasks) in stored.into_iter().enumerate() {
        let client = rig.client.tenant(&format!("list{n}"))?;
        Load::new(vec![client.clone()], memory::LATER).submit_many(tasks).await?;
        tenants.push(client);
    }
    rig.await_decided().await?;
    rig.await_indexed().await?;

    let nats = async_nats::connect(&rig.stack.nats.url).await?;
    reference::start(&mut rig, &nats, 0, Some(tenants[0].tenant_name())).await?;
    let calls = bench.args.scaled(2_000, 50);
    let sides = stored.len();
    // By tenant, the reference last; one value a run.
    let (mut p50, mut p99) = (vec![Vec::new(); sides + 1], vec![Vec::new(); sides + 1]);
    // A question that was asked before is answered without Redis: each is asked in words of its own.
    let mut once = 0;
    let mut page = async |client: &Client| {
        once += 1;
        client.list().since(once).limit(10).page().await
    };
    for _ in 0..bench.args.runs {
        let mut nanos = vec![Vec::new(); sides + 1];
        for _ in 0..calls {
            for (client, nanos) in tenants.iter().zip(&mut nanos) {
                let begin = Instant::now();
                let page = page(client).await?;
                nanos.push(begin.elapsed().as_nanos() as u64);
                anyhow::ensure!(page.tasks.len() == 10, "a page of {}", page.tasks.len());
            }
            let begin = Instant::now();
            nats.request(BARE, "".into()).await?;
            nanos[sides].push(begin.elapsed().as_nanos() as u64);
        }
        for (n, nanos) in nanos.into_iter().enumerate() {
            let samples = Samples::new(nanos);
            p50[n].extend(samples.percentile_ms(0.5));
            p99[n].extend(samples.percentile_ms(0.99));
        }
    }
    let mut first = None;
    for (n, tasks) in stored.into_iter().enumerate() {
        let figure = Figure::over(format!("p50, newest 10 of {tasks}"), "ms", &p50[n]);
        let target = Target::RatioAtMost(2.0);
        report.add(CASE, figure.map(|figure| figure.against(&p50[sides]).target(target)))?;
        let figure = Figure::over(format!("p99, newest 10 of {tasks}, beside {}", stored[0]), "ms", &p99[n]);
        let figure = figure.map(|figure| figure.against(&p99[0]));
        let target = Target::RatioAtMost(1.5);
        report.add(CASE, figure.map(|figure| if n > 0 { figure.target(target) } else { figure }))?;

        let before = rig.moment().await?;
        for _ in 0..calls {
            page(&tenants[n]).await?;
        }
        let counters = rig.used(&before).await?.counters;
        let each = [
            ("messages into NATS", counters.nats_in),
            ("bytes through NATS", counters.nats_bytes),
            ("Redis commands", counters.redis_commands),
            ("bytes through Redis", counters.redis_bytes),
        ]
        .map(|(name, total)| (name, total / calls as f64));
        let reference = *first.get_or_insert(each);
        for ((name, value), (_, reference)) in each.into_iter().zip(reference) {
            let figure = Figure::once(format!("{name} per call, of {tasks}"), "", value);
            report.add(CASE, figure.against(&[reference]).target(Target::RatioAtMost(1.1)))?;
        }
    }
    report.add(CASE, Figure::over("p99 of the bare request", "ms", &p99[sides]))?;
    rig.stop().await;
    Ok(())
}
