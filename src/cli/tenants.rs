//! `selvedge tenants`: what tenants have and may have, as their owner sees it now.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::operate::Desk;
use super::output::table;
use crate::task::TenantName;
use crate::wire::api::{TenantLoad, TenantsReply, TenantsRequest};

/// Arguments of `tenants`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge tenants                              (those with the most work first)
  selvedge tenants acme
  selvedge tenants -n 500 --json

SHARE is the part of all running tasks that are the tenant's, then the part its weight gives it among the tenants
that have work. HELD BY names what holds its queued tasks back, as `selvedge why` does. PARKED waits for a time, for
children, or for a paused tree.")]
pub struct TenantsArgs {
    /// Only this tenant
    pub name: Option<TenantName>,

    /// Tenants to show at most, 1 to 1000
    #[arg(short = 'n', long, default_value = "50", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
}

/// Runs it.
pub async fn run(args: TenantsArgs, ctx: Ctx) -> Result<ExitCode> {
    let desk = Desk::open(&ctx).await?;
    let request = TenantsRequest { tenant: args.name.clone(), limit: Some(args.limit) };
    let reply = desk.tenants(request).await?;
    if let Some(name) = args.name.filter(|_| reply.tenants.is_empty()) {
        let what = format!("tenant {name} was not set up, and has no tasks");
        return Err(Failure::new(Exit::Failed, "UNKNOWN_TENANT", what).into());
    }
    ctx.output.either(&reply, shown)?;
    Ok(Exit::Ok.into())
}

fn shown(reply: &TenantsReply) -> String {
    let rows = reply.tenants.iter().map(row);
    let tenants = table(
        ["TENANT", "RUNNING", "QUEUED", "HELD BY", "PARKED", "BACKLOG", "SHARE", "RATE LEFT", "CELLS LEFT"],
        rows,
    );
    format!(
        "{tenants}\n{} tenants have work; {} of {} tasks run, {} root tasks wait\n",
        reply.busy, reply.running, reply.in_flight, reply.backlog
    )
}

fn row(load: &TenantLoad) -> [String; 9] {
    let held: Vec<String> =
        load.queued_by.iter().map(|(reason, tasks)| format!("{reason} {tasks}")).collect();
    let percent = |thousandths: u32| format!("{}.{}%", thousandths / 10, thousandths % 10);
    let cells = load.cells.map(|cells| format!("{}/{cells} per min", load.cells_left.unwrap_or(0)));
    [
        format!("{}{}", load.tenant, if load.paused { " (paused)" } else { "" }),
        format!("{}/{}", load.running + load.calls, load.in_flight),
        load.queued.to_string(),
        held.join(", "),
        load.parked.to_string(),
        format!("{}/{}", load.backlog, load.backlog_limit),
        format!("{} of {} (weight {})", percent(load.share), percent(load.fair_share), load.weight),
        format!("{} at {}/s", load.rate_left, load.rate),
        cells.unwrap_or_else(|| "-".to_owned()),
    ]
}
