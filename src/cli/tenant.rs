//! `selvedge tenant set | get | list | pause | resume | rm`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::limits::{self, LimitArgs};
use super::operate::{self, Desk};
use super::output::table;
use super::plan;
use crate::bus::limits::LimitsBucket;
use crate::flow::operate::Change;
use crate::task::{Overrides, Plan, PlanName, TenantName, TenantSettings};

/// Arguments of `tenant`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge tenant set acme --plan pro --in-flight 40
  selvedge tenant set acme --reset              (back to the plan's own limits)
  selvedge tenant pause acme                    (nothing is dispatched; submits are still taken)
  selvedge tenant pause acme --refuse-submits
  selvedge tenant pause acme --stop             (what runs is stopped, and queued again; no try is lost)

A change counts at once, for queued tasks too; the command returns when the owner has journaled it.")]
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

        /// Change it only if its entry is at this revision
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,

        /// The limits.
        #[command(flatten)]
        limits: Box<LimitArgs>,
    },
    /// Show a tenant: its plan, and the limits that count
    Get {
        /// Name of the tenant
        name: TenantName,
    },
    /// List the tenants that were set up
    #[command(visible_alias = "ls")]
    List,
    /// Dispatch nothing of a tenant's; what runs goes on, unless it is stopped
    Pause {
        /// Name of the tenant
        name: TenantName,

        /// Refuse its submits too
        #[arg(long)]
        refuse_submits: bool,

        /// Stop what runs, too, and queue it again
        #[arg(long)]
        stop: bool,
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
pub struct Shown {
    /// Which.
    pub tenant: TenantName,
    #[serde(flatten)]
    settings: TenantSettings,
    /// What counts: the plan with the tenant's own limits.
    limits: Plan,
    /// Of its entry.
    pub revision: u64,
}

/// Runs it.
pub async fn run(args: TenantArgs, ctx: Ctx) -> Result<ExitCode> {
    let desk = Desk::open(&ctx).await?;
    let bucket = &desk.bucket;
    let default_plan = ctx.settings()?.coordinator.default_plan.clone();
    let change = |name: TenantName| Edit { bucket, default_plan: &default_plan, name, if_revision: None };
    match args.command {
        TenantCommand::Set { name, plan, reset, if_revision, limits } => {
            let edit = Edit { if_revision, ..change(name) };
            let shown = edit
                .make(|settings| {
                    settings.plan = plan.unwrap_or_else(|| settings.plan.clone());
                    let own = std::mem::take(&mut settings.overrides);
                    let own = if reset { Overrides::default() } else { own };
                    settings.overrides = limits::merged(own, limits.overrides());
                })
                .await?;
            desk.journaled(Change::Tenant(shown.tenant.clone(), shown.revision)).await?;
            ctx.output.either(&shown, one)?;
        }
        TenantCommand::Pause { name, refuse_submits, stop } => {
            let shown = change(name)
                .make(|settings| {
                    settings.paused = true;
                    settings.suspended |= refuse_submits;
                    settings.stopped |= stop;
                })
                .await?;
            desk.journaled(Change::Tenant(shown.tenant.clone(), shown.revision)).await?;
            ctx.output.either(&shown, one)?;
        }
        TenantCommand::Resume { name } => {
            let shown = change(name).make(resumed).await?;
            desk.journaled(Change::Tenant(shown.tenant.clone(), shown.revision)).await?;
            ctx.output.either(&shown, one)?;
        }
        TenantCommand::Get { name } => {
            let Some(shown) = find(bucket, &name).await? else { return Err(not_set(&name, &default_plan)) };
            ctx.output.either(&shown, one)?;
        }
        TenantCommand::List => {
            let mut tenants = Vec::new();
            for name in bucket.tenants().await? {
                tenants.extend(find(bucket, &name).await?);
            }
            if tenants.is_empty() {
                ctx.output.hint(format_args!("no tenants were set up; all are under plan {default_plan}"))?;
            }
            ctx.output.either(&Tenants { tenants: &tenants }, |_| many(&tenants))?;
        }
        TenantCommand::Rm { name } => {
            let Some((known, revision)) = bucket.tenant(&name).await? else {
                return Err(not_set(&name, &default_plan));
            };
            let removed = match bucket.remove_tenant(&name, revision).await {
                Ok(removed) => removed,
                Err(error) => return Err(operate::told(error, Some(&known), bucket.tenant(&name)).await),
            };
            desk.journaled(Change::TenantRemoved(name.clone(), removed)).await?;
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

/// Nothing of a tenant is held back any more.
pub fn resumed(settings: &mut TenantSettings) {
    (settings.paused, settings.suspended, settings.stopped) = (false, false, false);
}

/// One change of one tenant's settings: read, changed, written if nobody else wrote meanwhile.
pub struct Edit<'a> {
    /// Where they are.
    pub bucket: &'a LimitsBucket,
    /// Of a tenant that was not set up.
    pub default_plan: &'a PlanName,
    /// Whose.
    pub name: TenantName,
    /// Only if its entry is at this revision.
    pub if_revision: Option<u64>,
}

impl Edit<'_> {
    /// Makes it.
    pub async fn make(self, change: impl FnOnce(&mut TenantSettings)) -> Result<Shown> {
        let known = self.bucket.tenant(&self.name).await?;
        let revision = known.as_ref().map(|(_, revision)| *revision);
        operate::expect(&format!("tenant {}", self.name), self.if_revision, revision)?;
        let before = known.map(|(settings, _)| settings);
        let mut settings = before.clone().unwrap_or_else(|| TenantSettings::under(self.default_plan.clone()));
        change(&mut settings);
        let limits = plan::existing(self.bucket, &settings.plan).await?.limits().with(&settings.overrides);
        limits.check().map_err(|rule| Failure::new(Exit::Usage, "BAD_LIMITS", rule))?;
        match self.bucket.set_tenant(&self.name, &settings, revision).await {
            Ok(revision) => Ok(Shown { tenant: self.name, settings, limits, revision }),
            Err(error) => Err(operate::told(error, before.as_ref(), self.bucket.tenant(&self.name)).await),
        }
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
    match (settings.paused, settings.suspended, settings.stopped) {
        (_, true, false) => "paused, refuses submits",
        (_, true, true) => "stopped, refuses submits",
        (_, false, true) => "stopped",
        (true, false, false) => "paused",
        (false, false, false) => "active",
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
