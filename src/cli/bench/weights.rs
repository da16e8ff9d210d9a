//! `weights`: three tenants of weights 1, 2 and 4, all with more than they can run: what each gets of the slots.

use std::time::Duration;

use anyhow::Result;

use super::figure::{Figure, Report, Target};
use super::fold::{self, Window};
use super::rig::{Rig, Sizes};
use super::{Bench, load};
use crate::task::{Overrides, TenantName, TenantSettings};

const CASE: &str = "weights";
const AGENT: &str = "timed";
const SLOTS: u32 = 20;
/// Weights by tenant.
const WEIGHTS: [u32; 3] = [1, 2, 4];
/// How long it is looked at, and what is let pass before.
const SECONDS: f64 = 10.0;
const WARM: f64 = 1.0;
/// How far a share may be from what its weight gives, in percent of it.
const OFF_PERCENT: f64 = 3.0;
const MS: [u64; 3] = [1, 20, 500];

/// How long the `n`th task of a tenant takes, in milliseconds.
type Length = fn(usize, u64) -> u64;

/// Runs it.
pub async fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let kinds: [(&str, Length); 3] = [
        ("20 ms tasks", |_, _| 20),
        ("1, 20 and 500 ms by tenant", |tenant, _| MS[tenant]),
        // Each tenant has all three in turn, at another place.
        ("1, 20 and 500 ms mixed", |tenant, n| MS[(tenant + n as usize) % 3]),
    ];
    for (name, length) in kinds {
        kind(bench, report, name, length).await?;
    }
    Ok(())
}

async fn kind(bench: &Bench, report: &mut Report, name: &str, length: Length) -> Result<()> {
    let seconds = (SECONDS * bench.args.scale).max(1.0);
    let mut rig = Rig::start(bench, Sizes::default()).await?;
    rig.await_plan().await?;
    let mut tenants = Vec::new();
    for (n, weight) in WEIGHTS.into_iter().enumerate() {
        let tenant: TenantName = format!("w{weight}").parse()?;
        let overrides = Overrides { weight: Some(weight), ..Overrides::default() };
        let settings = TenantSettings { overrides, ..TenantSettings::under("bench".parse()?) };
        rig.set_tenant(&tenant, &settings).await?;
        // What it could run in all slots that are its share, and as much again.
        let share = f64::from(weight * SLOTS) / f64::from(WEIGHTS.iter().sum::<u32>());
        let mean = (0..3).map(|i| length(n, i)).sum::<u64>() as f64 / 3_000.0;
        let tasks = ((WARM + seconds + 1.0) * share / mean * 1.5) as u64 + u64::from(SLOTS);
        let client = rig.client.tenant(tenant.as_str())?;
        let lengths = (0..tasks).map(|i| Duration::from_millis(length(n, i)));
        load::submit_lengths(&client, AGENT, lengths).await?;
        tenants.push(tenant);
    }
    rig.await_decided().await?;
    let from = crate::cli::output::unix_now() + (WARM * 1e3) as u64;
    rig.start_timed(AGENT, SLOTS, 1).await?;
    tokio::time::sleep(Duration::from_secs_f64(WARM + seconds + 0.5)).await;
    let window = Window { agent: AGENT.parse()?, slots: SLOTS, from, ms: (seconds * 1e3) as u64 };
    let slots = fold::fold(&rig, &window, &tenants).await?;
    anyhow::ensure!(slots.window > 0.0, "the agent was never busy in the journal");
    let held: f64 = slots.held.values().sum();
    let mut worst: f64 = 0.0;
    for (tenant, weight) in tenants.iter().zip(WEIGHTS) {
        let part = slots.held.get(tenant).copied().unwrap_or(0.0) / held * 100.0;
        let fair = f64::from(weight) / f64::from(WEIGHTS.iter().sum::<u32>()) * 100.0;
        worst = worst.max((part / fair - 1.0).abs() * 100.0);
        let figure = Figure::once(format!("part of the slots, weight {weight}, {name}"), "%", part);
        report.add(CASE, figure.against(&[fair]))?;
    }
    let figure = Figure::once(format!("furthest from its weight, {name}"), "%", worst);
    report.add(CASE, figure.target(Target::AtMost(OFF_PERCENT)))?;
    let figure = Figure::once(format!("slots idle with work for them, {name}"), "%", slots.idle_percent());
    report.add(CASE, figure.target(Target::AtMost(1.0)))?;
    report.add(CASE, Figure::once(format!("looked at, {name}"), "s", slots.window / 1e3))?;
    rig.stop().await;
    Ok(())
}
