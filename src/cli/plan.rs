//! `selvedge plan set | get | list | pause | resume | rm`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::limits::{self, LimitArgs};
use super::operate::{self, Desk};
use super::output::table;
use crate::bus::limits::LimitsBucket;
use crate::flow::operate::{Change, is_shipped};
use crate::task::{Code, Plan, PlanName};

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge plan list
  selvedge plan set team --from pro --in-flight 50 --rate 100
  selvedge plan set free --backlog 5000
  selvedge plan pause team                      (nothing of its tenants is dispatched; submits are still taken)

A change counts at once, for queued tasks too; the command returns when the owner has journaled it. `free` and `pro` are there from the start.")]
pub struct PlanArgs {
    /// Which.
    #[command(subcommand)]
    pub command: PlanCommand,
}

/// What can be done with plans.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Make a plan, or change the limits given
    Set {
        /// Name of the plan
        name: PlanName,

        /// Plan to start from, if this one is new
        #[arg(long, value_name = "PLAN", default_value = "free")]
        from: PlanName,

        /// Change it only if its entry is at this revision
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,

        /// The limits.
        #[command(flatten)]
        limits: Box<LimitArgs>,
    },
    /// Show a plan
    Get {
        /// Name of the plan
        name: PlanName,
    },
    /// List the plans
    #[command(visible_alias = "ls")]
    List,
    /// Dispatch nothing of a plan's tenants; what runs goes on
    Pause {
        /// Name of the plan
        name: PlanName,
    },
    /// Undo a pause
    Resume {
        /// Name of the plan
        name: PlanName,
    },
    /// Remove a plan that nobody is under; a shipped one is as shipped again
    Rm {
        /// Name of the plan
        name: PlanName,
    },
}

/// A plan as `plan` prints it.
#[derive(Debug, Serialize)]
pub struct Shown {
    plan: PlanName,
    limits: Plan,
    /// Of the entry in the bucket; absent while the plan is as shipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
}

/// Runs it.
pub async fn run(args: PlanArgs, ctx: Ctx) -> Result<ExitCode> {
    let desk = Desk::open(&ctx).await?;
    let bucket = &desk.bucket;
    match args.command {
        PlanCommand::Set { name, from, if_revision, limits } => {
            let shown = set(bucket, name, &from, if_revision, |plan| plan.with(&limits.overrides())).await?;
            desk.journaled(Change::Plan(shown.plan.clone(), shown.revision.unwrap_or(0))).await?;
            ctx.output.either(&shown, one)?;
        }
        PlanCommand::Pause { name } => {
            let shown = pause(&desk, name, true).await?;
            ctx.output.either(&shown, one)?;
        }
        PlanCommand::Resume { name } => {
            let shown = pause(&desk, name, false).await?;
            ctx.output.either(&shown, one)?;
        }
        PlanCommand::Rm { name } => remove(&ctx, &desk, name).await?,
        PlanCommand::Get { name } => {
            let shown = existing(bucket, &name).await?;
            ctx.output.either(&shown, one)?;
        }
        PlanCommand::List => {
            let mut plans = Vec::new();
            for name in names(bucket).await? {
                plans.extend(find(bucket, &name).await?);
            }
            ctx.output.either(&Plans { plans: &plans }, |_| many(&plans))?;
        }
    }
    Ok(Exit::Ok.into())
}

#[derive(Serialize)]
struct Plans<'a> {
    plans: &'a [Shown],
}

async fn set(
    bucket: &LimitsBucket,
    name: PlanName,
    from: &PlanName,
    if_revision: Option<u64>,
    change: impl FnOnce(&Plan) -> Plan,
) -> Result<Shown> {
    let known = find(bucket, &name).await?;
    operate::expect(&format!("plan {name}"), if_revision, known.as_ref().and_then(|known| known.revision))?;
    let (base, revision) = match &known {
        Some(found) => (found.limits.clone(), found.revision),
        None => (existing(bucket, from).await?.limits, None),
    };
    let limits = change(&base);
    let revision = match bucket.set_plan(&name, &limits, revision).await {
        Ok(revision) => revision,
        Err(error) => return Err(operate::told(error, Some(&base), bucket.plan(&name)).await),
    };
    Ok(Shown { plan: name, limits, revision: Some(revision) })
}

async fn pause(desk: &Desk, name: PlanName, paused: bool) -> Result<Shown> {
    // One that is not there is told as such, not made.
    existing(&desk.bucket, &name).await?;
    let change = |plan: &Plan| Plan { paused, ..plan.clone() };
    let shown = set(&desk.bucket, name.clone(), &name, None, change).await?;
    desk.journaled(Change::Plan(name, shown.revision.unwrap_or(0))).await?;
    Ok(shown)
}

/// Removes a plan, unless somebody is under it. Whoever puts a tenant under it meanwhile wins: the owner keeps it, and
/// the entry is put back.
async fn remove(ctx: &Ctx, desk: &Desk, name: PlanName) -> Result<()> {
    let bucket = &desk.bucket;
    let shipped = is_shipped(&name);
    let Some((limits, revision)) = bucket.plan(&name).await? else {
        // As shipped already, or not there.
        existing(bucket, &name).await?;
        return Ok(ctx.output.line(format!("plan {name} is as shipped"))?);
    };
    if !shipped {
        let mut users = Vec::new();
        for tenant in bucket.tenants().await? {
            let plan = bucket.tenant(&tenant).await?.map(|(settings, _)| settings.plan);
            users.extend((plan.as_ref() == Some(&name)).then(|| tenant.to_string()));
        }
        if !users.is_empty() {
            return Err(in_use(&name, &format!("tenants under it: {}", users.join(", "))).into());
        }
        if ctx.settings()?.coordinator.default_plan == name {
            return Err(in_use(&name, "it is the default plan").into());
        }
    }
    if let Err(error) = bucket.remove_plan(&name, revision).await {
        return Err(operate::told(error, Some(&limits), bucket.plan(&name)).await);
    }
    let removed = desk.journaled(Change::PlanRemoved(name.clone())).await;
    if let Err(error) = removed {
        if error.downcast_ref::<Failure>().is_some_and(|failure| failure.code == Code::PlanInUse.as_str()) {
            bucket.set_plan(&name, &limits, None).await?;
        }
        return Err(error);
    }
    let told = serde_json::json!({"plan": name, "removed": true});
    ctx.output.either(&told, |_| match shipped {
        true => format!("plan {name} is as shipped again"),
        false => format!("plan {name} is removed"),
    })?;
    Ok(())
}

fn in_use(name: &PlanName, why: &str) -> Failure {
    Failure::new(Exit::Failed, Code::PlanInUse.as_str(), format!("plan {name} is in use: {why}"))
        .help("put them under another plan first: `selvedge tenant set NAME --plan PLAN`")
}

/// A plan as it was set, or as it was shipped.
pub async fn find(bucket: &LimitsBucket, name: &PlanName) -> Result<Option<Shown>> {
    if let Some((limits, revision)) = bucket.plan(name).await? {
        return Ok(Some(Shown { plan: name.clone(), limits, revision: Some(revision) }));
    }
    let shipped = Plan::shipped().into_iter().find(|(shipped, _)| *shipped == name.as_str());
    Ok(shipped.map(|(_, limits)| Shown { plan: name.clone(), limits, revision: None }))
}

/// The limits of a plan that must be there.
pub async fn existing(bucket: &LimitsBucket, name: &PlanName) -> Result<Shown> {
    if let Some(found) = find(bucket, name).await? {
        return Ok(found);
    }
    let all: Vec<String> = names(bucket).await?.iter().map(ToString::to_string).collect();
    Err(Failure::new(Exit::Failed, "UNKNOWN_PLAN", format!("there is no plan {name}"))
        .help(format!("plans: {}; `selvedge plan set {name}` makes one", all.join(", ")))
        .into())
}

impl Shown {
    /// Its limits.
    pub fn limits(&self) -> &Plan {
        &self.limits
    }
}

async fn names(bucket: &LimitsBucket) -> Result<Vec<PlanName>> {
    let mut names = bucket.plans().await?;
    names.extend(Plan::shipped().into_iter().filter_map(|(name, _)| PlanName::new(name).ok()));
    names.sort();
    names.dedup();
    Ok(names)
}

fn one(shown: &Shown) -> String {
    let origin = match shown.revision {
        Some(revision) => format!("set, revision {revision}"),
        None => "as shipped".to_owned(),
    };
    let paused = if shown.limits.paused { ", paused" } else { "" };
    format!("plan {} ({origin}{paused})\n\n{}", shown.plan, limits::shown(&shown.limits, None))
}

fn many(plans: &[Shown]) -> String {
    table(
        [
            "PLAN",
            "IN FLIGHT",
            "RATE/S",
            "BURST",
            "BACKLOG",
            "DEPTH",
            "CHILDREN",
            "TREE",
            "WEIGHT",
            "PRIORITY",
            "TRIES",
            "ORIGIN",
        ],
        plans.iter().map(|shown| {
            let limits = &shown.limits;
            [
                shown.plan.to_string(),
                limits.in_flight.to_string(),
                limits.rate.to_string(),
                limits.burst.to_string(),
                limits.backlog.to_string(),
                limits.depth.to_string(),
                limits.children.to_string(),
                limits.tree.to_string(),
                limits.weight.to_string(),
                limits.max_priority.as_str().to_owned(),
                limits.max_tries.to_string(),
                match (limits.paused, shown.revision) {
                    (true, _) => "set, paused",
                    (false, Some(_)) => "set",
                    (false, None) => "shipped",
                }
                .to_owned(),
            ]
        }),
    )
}
