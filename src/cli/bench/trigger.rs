//! `trigger`: messages about a topic that become tasks, beside tasks submitted one by one by as many callers; and what is lost
//! when the owner is killed in the middle.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;
use tokio::task::JoinSet;

use super::Bench;
use super::figure::{Figure, Report, Target};
use super::floor::share;
use super::load::Load;
use super::rig::{AGENT, INPUT, Rig, Sizes, tenant_name};
use crate::bus::triggers::{TriggersBucket, source_stream, start_of};
use crate::client::Client;
use crate::task::trigger::TriggerSettings;
use crate::wire::topology::TOPICS;

const CASE: &str = "trigger";
/// Callers that publish or submit, each of them one after the other.
const CALLERS: usize = 256;
/// The topic of all messages.
const TOPIC: &str = "bench.work";

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let tasks = bench.args.scaled(50_000, 500);
    let (mut triggered, mut plain, mut astray) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..bench.args.runs {
        let mut rig = Rig::start(bench, Sizes::default()).await?;
        rig.start_agent().await?;
        set(&rig).await?;
        // Who goes first changes, so that neither is always the one to find warm servers.
        for turn in 0..2 {
            let before = rig.moment().await?;
            let through = (turn + round) % 2 == 0;
            match through {
                true => publish(&rig.tenant(0), tasks).await?,
                false => Load::new(vec![rig.tenant(0)], AGENT).submit_single(tasks, CALLERS).await?,
            }
            rig.await_completed(tasks).await?;
            let rate = tasks as f64 / rig.used(&before).await?.wall;
            if through { triggered.push(rate) } else { plain.push(rate) }
        }
        astray.push(killed(&mut rig, tasks).await?);
        rig.stop().await;
    }
    let figure = Figure::over("tasks through a trigger, beside plain submits", "1/s", &triggered);
    report.add(CASE, figure.map(|figure| figure.against(&plain).target(Target::RatioAtLeast(0.6))))?;
    let figure = Figure::over("messages lost or doubled over a kill -9 of the owner", "", &astray);
    report.add(CASE, figure.map(|figure| figure.target(Target::AtMost(0.0))))?;
    Ok(())
}

/// A trigger on the topic, for the first tenant.
async fn set(rig: &Rig) -> Result<()> {
    let js = rig.jetstream();
    let bucket = TriggersBucket::open(js).await?;
    let settings = json!({"source": {"topic": TOPIC}, "tenant": tenant_name(0), "agent": AGENT});
    let mut settings: TriggerSettings = serde_json::from_value(settings)?;
    settings.start = start_of(source_stream(js, TOPICS).await?.as_ref(), false);
    bucket.set(&"bench".parse()?, &settings, None).await?;
    Ok(())
}

/// All callers publish their share at once.
async fn publish(client: &Client, messages: u64) -> Result<()> {
    let mut working = JoinSet::new();
    let body = "7".repeat(INPUT);
    for caller in 0..CALLERS {
        let (client, body, share) = (client.clone(), body.clone(), share(messages, CALLERS, caller));
        working.spawn(async move {
            for _ in 0..share {
                client.publish(TOPIC, &body).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = working.join_next().await {
        ended??;
    }
    Ok(())
}

/// Publishes while the owner is killed, and gives by how many the tasks differ from the messages.
async fn killed(rig: &mut Rig, messages: u64) -> Result<f64> {
    let before = completed(&rig.tenant(0)).await?;
    let client = rig.tenant(0);
    let first = messages / 2;
    publish(&client, first).await?;
    rig.kill9("coordinator")?;
    publish(&client, messages - first).await?;
    rig.await_completed(messages).await?;
    rig.await_indexed().await?;
    Ok((completed(&client).await? as f64 - before as f64 - messages as f64).abs())
}

/// Tasks the tenant has, whatever became of them.
async fn completed(client: &Client) -> Result<u64> {
    let states: BTreeMap<String, u64> = client.stats().await?.states;
    Ok(states.values().sum())
}
