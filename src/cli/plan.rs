//! `selvedge plan set | get | list`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::limits::{self, LimitArgs};
use super::output::table;
use crate::bus::limits::LimitsBucket;
use crate::task::{Plan, PlanName};

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge plan list
  selvedge plan set team --from pro --in-flight 50 --rate 100
  selvedge plan set free --backlog 5000

A change counts at once, for queued tasks too. `free` and `pro` are there from the start.")]
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

        /// The limits.
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Show a plan
    Get {
        /// Name of the plan
        name: PlanName,
    },
    /// List the plans
    #[command(visible_alias = "ls")]
    List,
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
    let connection = ctx.connection().await?;
    let bucket = LimitsBucket::open(connection.jetstream()).await?;
    match args.command {
        PlanCommand::Set { name, from, limits } => set(&ctx, &bucket, name, &from, &limits).await?,
        PlanCommand::Get { name } => {
            let shown = existing(&bucket, &name).await?;
            ctx.output.either(&shown, one)?;
        }
        PlanCommand::List => {
            let mut plans = Vec::new();
            for name in names(&bucket).await? {
                plans.extend(find(&bucket, &name).await?);
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
    ctx: &Ctx,
    bucket: &LimitsBucket,
    name: PlanName,
    from: &PlanName,
    limits: &LimitArgs,
) -> Result<()> {
    let (base, revision) = match find(bucket, &name).await? {
        Some(found) => (found.limits, found.revision),
        None => (existing(bucket, from).await?.limits, None),
    };
    let limits = base.with(&limits.overrides());
    let revision = bucket.set_plan(&name, &limits, revision).await?;
    ctx.output.either(&Shown { plan: name, limits, revision: Some(revision) }, one)?;
    Ok(())
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
    format!("plan {} ({origin})\n\n{}", shown.plan, limits::shown(&shown.limits, None))
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
                if shown.revision.is_some() { "set" } else { "shipped" }.to_owned(),
            ]
        }),
    )
}
