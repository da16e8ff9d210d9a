//! `query`: the ten newest of a thousand tasks up to a million, each question asked once so that nothing is kept of it; the
//! same question again and again; and beside them what others do: fetch 200, decode, sort, give 10.
//!
//! References: a bare request and reply of as many bytes as a page has (`echo`), the same around one script (`bare`), and
//! the pattern above (`story`), all served by a process of their own on the same servers. The times of pages are those of
//! the SDK, which decodes them; nobody decodes the answers of the references.
//!
//! CPU is that of the service and of Redis, over as many requests as burn some seconds of it, less what the same time
//! costs them when nobody asks. Both services are asked by the same bare requests, as many at a time.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use futures_util::{StreamExt, TryFutureExt, TryStreamExt};

use super::figure::{Figure, Report, Target};
use super::load::Load;
use super::reference::{self, BARE, ECHO, REFERENCE, STORY};
use super::rig::{Rig, Sizes, Used};
use super::stats::Samples;
use super::{Bench, memory};
use crate::cli::stack::{COORDINATOR, REDIS};
use crate::client::Client;
use crate::wire::api::{ListRequest, verb};
use crate::wire::{codec, headers, subjects};

const CASE: &str = "query";
/// Tasks of each tenant.
const STORED: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Requests at a time where CPU is counted.
const ASKERS: usize = 8;
/// CPU seconds that each side is given to burn: `/proc` counts hundredths.
const BURN: f64 = 3.0;
/// How long is looked at what is used when nobody asks.
const IDLE: Duration = Duration::from_secs(5);

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let stored = STORED.map(|tasks| bench.args.scaled(tasks, 250));
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.await_plan().await?;
    let mut tenants = Vec::new();
    for (n, tasks) in stored.into_iter().enumerate() {
        let client = rig.client.tenant(&format!("query{n}"))?;
        Load::new(vec![client.clone()], memory::LATER).submit_many(tasks).await?;
        tenants.push(client);
    }
    rig.await_decided().await?;
    rig.await_indexed().await?;

    let nats = async_nats::connect(&rig.stack.nats.url).await?;
    let biggest = &tenants[stored.len() - 1];
    let bytes = page(&nats, biggest, 0).await?.len();
    reference::start(&mut rig, &nats, bytes, Some(biggest.tenant_name())).await?;
    let calls = bench.args.scaled(2_000, 50);
    let sides = stored.len();
    // By tenant, then kept, echo, bare.
    let (mut p50, mut p99) = (vec![Vec::new(); sides + 3], vec![Vec::new(); sides + 3]);
    let mut once = 0;
    for _ in 0..bench.args.runs {
        let mut nanos = vec![Vec::new(); sides + 3];
        for _ in 0..calls {
            once += 1;
            for (client, nanos) in tenants.iter().zip(&mut nanos) {
                nanos.push(ask(client, once).await?);
            }
            nanos[sides].push(ask(&tenants[0], 0).await?);
            for (side, subject) in [(sides + 1, ECHO), (sides + 2, BARE)] {
                let begin = Instant::now();
                nats.request(subject, "".into()).await?;
                nanos[side].push(begin.elapsed().as_nanos() as u64);
            }
        }
        for (n, nanos) in nanos.into_iter().enumerate() {
            let samples = Samples::new(nanos);
            p50[n].extend(samples.percentile_ms(0.5));
            p99[n].extend(samples.percentile_ms(0.99));
        }
    }
    let (kept, echo, bare) = (&p50[sides], &p50[sides + 1], &p50[sides + 2]);
    for (n, tasks) in stored.into_iter().enumerate() {
        let figure = Figure::over(format!("p50, newest 10 of {tasks}, read"), "ms", &p50[n]);
        report.add(CASE, figure.map(|figure| figure.against(bare).target(Target::RatioAtMost(2.0))))?;
        let figure = Figure::over(format!("p99, newest 10 of {tasks}, read"), "ms", &p99[n]);
        let figure = figure.map(|figure| figure.against(&p99[0]));
        let target = Target::RatioAtMost(1.2);
        report.add(CASE, figure.map(|figure| if n > 0 { figure.target(target) } else { figure }))?;
    }
    let figure = Figure::over("p50, newest 10, kept", "ms", kept);
    report.add(CASE, figure.map(|figure| figure.against(echo).target(Target::RatioAtMost(1.2))))?;

    let whole = bench.args.scaled(1_000, 1) as f64 / 1_000.0;
    let idle = used(&mut rig, async {
        tokio::time::sleep(IDLE.mul_f64(whole)).await;
        Ok(())
    })
    .await?;
    let burn = Burn { idle, least: BURN * whole, calls };
    let ours = burn.each(&mut rig, COORDINATOR, |n| page(&nats, biggest, 1_000_000 + n)).await?;
    let others = burn.each(&mut rig, REFERENCE, |_| request(&nats, STORY, Bytes::new())).await?;
    let figure = Figure::once("CPU per page, service and Redis", "us", ours.service + ours.redis);
    let figure = figure.against(&[others.service + others.redis]).target(Target::RatioAtMost(0.2));
    report.add(CASE, figure)?;
    report.add(CASE, Figure::once("of which service", "us", ours.service).against(&[others.service]))?;
    report.add(CASE, Figure::once("of which Redis", "us", ours.redis).against(&[others.redis]))?;
    rig.stop().await;
    Ok(())
}

/// One page; a number above 0 makes a question that nobody has asked before.
async fn ask(client: &Client, once: u64) -> Result<u64> {
    let begin = Instant::now();
    let list = client.list().limit(10);
    let page = if once > 0 { list.since(once).page().await? } else { list.page().await? };
    anyhow::ensure!(page.tasks.len() == 10, "a page of {}", page.tasks.len());
    Ok(begin.elapsed().as_nanos() as u64)
}

async fn used(rig: &mut Rig, work: impl Future<Output = Result<()>>) -> Result<Used> {
    let before = rig.moment().await?;
    work.await?;
    rig.used(&before).await
}

/// CPU of one request, in microseconds.
struct Each {
    service: f64,
    redis: f64,
}

/// Asks until enough is burnt.
struct Burn {
    idle: Used,
    /// CPU seconds of service and Redis.
    least: f64,
    /// Requests between two looks.
    calls: u64,
}

impl Burn {
    async fn each<F>(&self, rig: &mut Rig, service: &str, ask: impl Fn(u64) -> F) -> Result<Each>
    where
        F: Future<Output = Result<Bytes>>,
    {
        let (mut asked, before) = (0, rig.moment().await?);
        loop {
            let some = futures_util::stream::iter(asked + 1..=asked + self.calls).map(Ok);
            some.try_for_each_concurrent(ASKERS, |n| ask(n).map_ok(drop)).await?;
            asked += self.calls;
            let used = rig.used(&before).await?;
            if used.of(&[service, REDIS]) < self.least {
                continue;
            }
            let each = |name| {
                let idle = self.idle.of(&[name]) / self.idle.wall * used.wall;
                (used.of(&[name]) - idle) * 1e6 / asked as f64
            };
            return Ok(Each { service: each(service), redis: each(REDIS) });
        }
    }
}

/// A page, asked for by a bare request and not decoded; a number above 0 makes a question that nobody has asked before.
async fn page(nats: &async_nats::Client, tenant: &Client, once: u64) -> Result<Bytes> {
    let list = ListRequest { limit: Some(10), since: (once > 0).then_some(once), ..ListRequest::default() };
    request(nats, &subjects::api(tenant.tenant_name(), verb::LIST), codec::pack(&list)).await
}

async fn request(nats: &async_nats::Client, subject: &str, body: Bytes) -> Result<Bytes> {
    let answer = nats.request(subject.to_owned(), body).await?;
    let refused = answer.headers.as_ref().and_then(|all| all.get(headers::SERVICE_ERROR));
    anyhow::ensure!(refused.is_none(), "refused: {refused:?}");
    Ok(answer.payload)
}
