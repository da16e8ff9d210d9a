//! `selvedge tenant set | get | list | pause | resume | rm`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::limits::{self, LimitArgs};
use super::output::table;
use super::plan;
use crate::bus::limits::LimitsBucket;
use crate::task::{Overrides, Plan, PlanName, TenantName, TenantSettings};

/// Arguments of `tenant`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge tenant set acme --plan pro --in-flight 40
  selvedge tenant set acme --reset              (back to the plan's own limits)
  selvedge tenant pause acme                    (nothing is dispatched; submits are still taken)
  selvedge tenant pause acme --refuse-submits

A change counts at once, for queued tasks too.")]
pub struct TenantArgs {
    /// Which.
    #[command(subcommand)]
    pub command: TenantCommand,
}

/// What can be done with tenants.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Set up a tenant, or change what is given
    Set {
        /// Name of the tenant
        name: TenantName,

        /// Its plan
        #[arg(long, value_name = "PLAN")]
        plan: Option<PlanName>,

        /// Drop the limits set for this tenant before applying the ones given
        #[arg(long)]
        reset: bool,

        /// The limits.
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Show a tenant: its plan, and the limits that count
    Get {
        /// Name of the tenant
        name: TenantName,
    },
    /// List the tenants that were set up
    #[command(visible_alias = "ls")]
    List,
    /// Dispatch nothing of a tenant's; what runs goes on
    Pause {
        /// Name of the tenant
        name: TenantName,

        /// Refuse its submits too
        #[arg(long)]
        refuse_submits: bool,
    },
    /// Undo a pause
    Resume {
        /// Name of the tenant
        name: TenantName,
    },
    /// Forget a tenant's settings; its tasks stay, under the default plan
    Rm {
        /// Name of the tenant
        name: TenantName,
    },
}

/// A tenant as `tenant` prints it.
#[derive(Debug, Serialize)]
struct Shown {
    tenant: TenantName,
    #[serde(flatten)]
    settings: TenantSettings,
    /// What counts: the plan with the tenant's own limits.
    limits: Plan,
    revision: u64,
}

/// Runs it.
pub async fn run(args: TenantArgs, ctx: Ctx) -> Result<ExitCode> {
    let connection = ctx.connection().await?;
    let bucket = LimitsBucket::open(connection.jetstream()).await?;
    let default_plan = ctx.settings()?.coordinator.default_plan.clone();
    let change = |name: TenantName| Change { ctx: &ctx, bucket: &bucket, default_plan: &default_plan, name };
    match args.command {
        TenantCommand::Set { name, plan, reset, limits } => {
            change(name)
                .make(|settings| {
                    settings.plan = plan.unwrap_or_else(|| settings.plan.clone());
                    let own = std::mem::take(&mut settings.overrides);
                    let own = if reset { Overrides::default() } else { own };
                    settings.overrides = limits::merged(own, limits.overrides());
                })
                .await?;
        }
        TenantCommand::Pause { name, refuse_submits } => {
            change(name)
                .make(|settings| {
                    settings.paused = true;
                    settings.suspended |= refuse_submits;
                })
                .await?;
        }
        TenantCommand::Resume { name } => {
            change(name)
                .make(|settings| {
                    settings.paused = false;
                    settings.suspended = false;
                })
                .await?;
        }
        TenantCommand::Get { name } => {
            let Some(shown) = find(&bucket, &name).await? else { return Err(not_set(&name, &default_plan)) };
            ctx.output.either(&shown, one)?;
        }
        TenantCommand::List => {
            let mut tenants = Vec::new();
            for name in bucket.tenants().await? {
                tenants.extend(find(&bucket, &name).await?);
            }
            if tenants.is_empty() {
                ctx.output.hint(format_args!("no tenants were set up; all are under plan {default_plan}"))?;
            }
            ctx.output.either(&Tenants { tenants: &tenants }, |_| many(&tenants))?;
        }
        TenantCommand::Rm { name } => {
            if bucket.tenant(&name).await?.is_none() {
                return Err(not_set(&name, &default_plan));
            }
            bucket.remove_tenant(&name).await?;
            ctx.output.either(&serde_json::json!({"tenant": name, "removed": true}), |_| {
                format!("{name} is under the default plan {default_plan} again")
            })?;
        }
    }
    Ok(Exit::Ok.into())
}

#[derive(Serialize)]
struct Tenants<'a> {
    tenants: &'a [Shown],
}

/// One change of one tenant's settings: read, changed, written if nobody else wrote meanwhile, shown.
struct Change<'a> {
    ctx: &'a Ctx,
    bucket: &'a LimitsBucket,
    default_plan: &'a PlanName,
    name: TenantName,
}

impl Change<'_> {
    async fn make(self, change: impl FnOnce(&mut TenantSettings)) -> Result<()> {
        let (mut settings, revision) = match self.bucket.tenant(&self.name).await? {
            Some((settings, revision)) => (settings, Some(revision)),
            None => {
                let plan = self.default_plan.clone();
                let fresh =
                    TenantSettings { plan, overrides: Overrides::default(), paused: false, suspended: false };
                (fresh, None)
            }
        };
        change(&mut settings);
        let limits = plan::existing(self.bucket, &settings.plan).await?.limits().with(&settings.overrides);
        limits.check().map_err(|rule| Failure::new(Exit::Usage, "BAD_LIMITS", rule))?;
        let revision = self.bucket.set_tenant(&self.name, &settings, revision).await?;
        self.ctx.output.either(&Shown { tenant: self.name, settings, limits, revision }, one)?;
        Ok(())
    }
}

async fn find(bucket: &LimitsBucket, name: &TenantName) -> Result<Option<Shown>> {
    let Some((settings, revision)) = bucket.tenant(name).await? else { return Ok(None) };
    // A plan nobody has set counts as `free`, so that a typing error never lifts limits.
    let plan =
        plan::find(bucket, &settings.plan).await?.map_or_else(Plan::free, |plan| plan.limits().clone());
    let limits = plan.with(&settings.overrides);
    Ok(Some(Shown { tenant: name.clone(), settings, limits, revision }))
}

fn not_set(name: &TenantName, default_plan: &PlanName) -> anyhow::Error {
    Failure::new(Exit::Failed, "UNKNOWN_TENANT", format!("tenant {name} was not set up"))
        .help(format!("it is treated as coordinators are configured to: by default, plan {default_plan}"))
        .into()
}

fn state(settings: &TenantSettings) -> &'static str {
    match (settings.paused, settings.suspended) {
        (_, true) => "paused, refuses submits",
        (true, false) => "paused",
        (false, false) => "active",
    }
}

fn one(shown: &Shown) -> String {
    format!(
        "tenant {} (plan {}, {}, revision {})\n\n{}",
        shown.tenant,
        shown.settings.plan,
        state(&shown.settings),
        shown.revision,
        limits::shown(&shown.limits, Some(&shown.settings.overrides)),
    )
}

fn many(tenants: &[Shown]) -> String {
    table(
        ["TENANT", "PLAN", "STATE", "IN FLIGHT", "RATE/S", "BACKLOG", "OWN LIMITS"],
        tenants.iter().map(|shown| {
            let own = serde_json::to_value(&shown.settings.overrides).unwrap_or_default();
            let own: Vec<&str> =
                own.as_object().into_iter().flatten().map(|(limit, _)| limit.as_str()).collect();
            [
                shown.tenant.to_string(),
                shown.settings.plan.to_string(),
                state(&shown.settings).to_owned(),
                shown.limits.in_flight.to_string(),
                shown.limits.rate.to_string(),
                shown.limits.backlog.to_string(),
                own.join(", "),
            ]
        }),
    )
}
