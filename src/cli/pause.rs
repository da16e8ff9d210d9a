//! `selvedge pause` and `selvedge resume`: the kill switch, for a tenant, an agent, a tree or everything.
//!
//! Each returns once the owner has journaled it: from then on nothing of what is paused starts, and what ran has been
//! told to stop.

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgGroup, Args};
use serde::Serialize;

use super::agent;
use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::operate::{self, Desk};
use super::tenant::{self, Edit};
use crate::flow::operate::Change;
use crate::task::{AgentName, AllSettings, TaskId, TenantName};

/// What is paused, or goes on.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["tenant", "agent", "tree", "all"]))]
pub struct WhatArgs {
    /// A tenant; with --tree, whose tree it is
    #[arg(short = 't', long, value_name = "NAME", conflicts_with_all = ["agent", "all"])]
    pub tenant: Option<TenantName>,

    /// An agent, for all tenants
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tree", "all"])]
    pub agent: Option<AgentName>,

    /// The whole tree of a task, of tenant `default` unless --tenant says otherwise
    #[arg(long, value_name = "TASK", conflicts_with = "all")]
    pub tree: Option<TaskId>,

    /// Everything
    #[arg(long)]
    pub all: bool,
}

/// Arguments of `pause`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge pause --tenant acme
  selvedge pause --agent writer
  selvedge pause --tree 0190f3c2a1b37d4e8f60718293a4b5c6 --tenant acme
  selvedge pause --all --let-run

It returns once the owner has journaled it: nothing of what is paused starts from then on. What runs is stopped: its
handlers are cancelled, its tasks queued again in their old places, and no try is lost. `selvedge resume` undoes it.")]
pub struct PauseArgs {
    /// What.
    #[command(flatten)]
    pub what: WhatArgs,

    /// Let what runs go on to its end
    #[arg(long, conflicts_with = "tree")]
    pub let_run: bool,
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge resume --tenant acme
  selvedge resume --all

A tenant that was paused by name stays paused when everything is resumed, and the other way round.")]
pub struct ResumeArgs {
    /// What.
    #[command(flatten)]
    pub what: WhatArgs,
}

/// What became of it.
#[derive(Debug, Serialize)]
struct Told {
    what: String,
    paused: bool,
    /// What ran was told to stop.
    stopped: bool,
    /// The owner has written it to its journal.
    journaled: bool,
}

/// Runs `pause`.
pub async fn run(args: PauseArgs, ctx: Ctx) -> Result<ExitCode> {
    set(&ctx, args.what, true, !args.let_run).await
}

/// Runs `resume`.
pub async fn resume(args: ResumeArgs, ctx: Ctx) -> Result<ExitCode> {
    set(&ctx, args.what, false, false).await
}

async fn set(ctx: &Ctx, what: WhatArgs, paused: bool, stopped: bool) -> Result<ExitCode> {
    let (what, stopped) = match what {
        WhatArgs { tree: Some(task), tenant, .. } => {
            let tenant = match tenant {
                Some(tenant) => tenant,
                None => TenantName::new("default")?,
            };
            tree(ctx, &tenant, &task, paused).await?;
            (format!("the tree of {task}"), paused)
        }
        WhatArgs { tenant: Some(name), .. } => {
            let desk = Desk::open(ctx).await?;
            let default_plan = &ctx.settings()?.coordinator.default_plan;
            let edit = Edit { bucket: &desk.bucket, default_plan, name: name.clone(), if_revision: None };
            let shown = edit.make(|settings| match paused {
                true => (settings.paused, settings.stopped) = (true, stopped || settings.stopped),
                false => tenant::resumed(settings),
            });
            let revision = shown.await?.revision;
            desk.journaled(Change::Tenant(name.clone(), revision)).await?;
            (format!("tenant {name}"), stopped)
        }
        WhatArgs { agent: Some(name), .. } => {
            agent::pause(&Desk::open(ctx).await?, name.clone(), paused, stopped).await?;
            (format!("agent {name}"), stopped)
        }
        WhatArgs { .. } => {
            all(ctx, AllSettings { paused, stopped }).await?;
            ("everything".to_owned(), stopped)
        }
    };
    let told = Told { what, paused, stopped, journaled: true };
    ctx.output.either(&told, |told| match (told.paused, told.stopped) {
        (true, true) => format!("{} is paused, and what ran is told to stop", told.what),
        (true, false) => format!("{} is paused; what runs goes on", told.what),
        (false, _) => format!("{} goes on", told.what),
    })?;
    Ok(Exit::Ok.into())
}

async fn tree(ctx: &Ctx, tenant: &TenantName, task: &TaskId, paused: bool) -> Result<()> {
    let client = ctx.client(tenant).await?;
    let reply = if paused { client.pause(task).await? } else { client.resume(task).await? };
    match reply.state {
        Some(state) if state.is_terminal() && paused => {
            let what = format!("{task} is {state}; should anything of its tree live, it is paused");
            Ok(ctx.output.hint(what)?)
        }
        Some(_) => Ok(()),
        None => Err(Failure::new(
            Exit::Temporary,
            "NOT_CONFIRMED",
            "the command is stored, but not journaled yet",
        )
        .help("the owner decides it as soon as it can; run the command again to be sure")
        .into()),
    }
}

async fn all(ctx: &Ctx, settings: AllSettings) -> Result<()> {
    let desk = Desk::open(ctx).await?;
    let known = desk.bucket.all().await?;
    let revision = known.map(|(_, revision)| revision);
    let revision = match desk.bucket.set_all(&settings, revision).await {
        Ok(revision) => revision,
        Err(error) => {
            let before = known.map(|(settings, _)| settings);
            return Err(operate::told(error, before.as_ref(), desk.bucket.all()).await);
        }
    };
    desk.journaled(Change::All(revision)).await
}
