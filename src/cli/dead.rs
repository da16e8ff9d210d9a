//! `selvedge dead ls | show | retry`: tasks that failed for good.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Ctx;
use super::failure::{self, Exit, Failure};
use super::output::{age, table, unix_now};
use super::target::{TaskArg, TenantArg, duration};
use super::{list, show};
use crate::client::Client;
use crate::task::{Code, Phase, TaskId};
use crate::wire::api::TaskView;

/// Arguments of `dead`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge dead ls --tenant acme
  selvedge dead show 0190f3c2a1b37d4e8f60718293a4b5c6
  selvedge dead retry 0190f3c2a1b37d4e8f60718293a4b5c6 --wait

A dead task stays dead: a retry is a new task with the same input, linked to it.")]
pub struct DeadArgs {
    /// Which.
    #[command(subcommand)]
    pub command: DeadCommand,
}

/// What can be done with dead tasks.
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// List dead tasks with the reason of their last try, newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Whose.
        #[command(flatten)]
        tenant: TenantArg,

        /// Tasks per page, 1 to 100
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,

        /// Go on where a page ended
        #[arg(long, value_name = "CURSOR", allow_hyphen_values = true)]
        cursor: Option<String>,
    },
    /// Show every failed try of a dead task
    Show {
        /// Which.
        #[command(flatten)]
        task: TaskArg,
    },
    /// Submit dead tasks again
    Retry {
        /// Task ids
        #[arg(value_name = "TASK", required = true, num_args = 1..)]
        tasks: Vec<TaskId>,

        /// Whose.
        #[command(flatten)]
        tenant: TenantArg,

        /// The same nonce is the same retry [default: a new retry each time]
        #[arg(long, value_name = "NONCE")]
        nonce: Option<TaskId>,

        /// Wait until the new tasks have ended
        #[arg(short, long)]
        wait: bool,

        /// How long to wait at most
        #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
        max_wait: Duration,
    },
}

/// Runs it.
pub async fn run(args: DeadArgs, ctx: Ctx) -> Result<ExitCode> {
    match args.command {
        DeadCommand::Ls { tenant, limit, cursor } => {
            let client = ctx.client(&tenant.tenant).await?;
            list::pages(&ctx, client.list().state(Phase::Failed).limit(limit), cursor, false, rows).await
        }
        DeadCommand::Show { task } => {
            let client = ctx.client(&task.tenant.tenant).await?;
            let view = client.get(&task.task).await?;
            if view.state != Phase::Failed {
                let what = format!("task {} is {}, not dead", view.task, view.state);
                return Err(Failure::new(Exit::Failed, Code::NotDead.as_str(), what)
                    .help("`selvedge get` shows any task")
                    .into());
            }
            ctx.output.either(&view, show::task)?;
            Ok(Exit::Ok.into())
        }
        DeadCommand::Retry { tasks, tenant, nonce, wait, max_wait } => {
            let client = ctx.client(&tenant.tenant).await?;
            let mut outcome = Ok(Exit::Ok);
            for dead in tasks {
                // One that cannot be retried does not keep the others from it.
                match retry(&ctx, &client, &dead, nonce.clone(), wait.then_some(max_wait)).await {
                    Ok(_) => {}
                    Err(error) if outcome.is_ok() => outcome = Err(error),
                    Err(error) => {
                        failure::report(&error, ctx.output.json);
                    }
                }
            }
            Ok(outcome?.into())
        }
    }
}

async fn retry(
    ctx: &Ctx,
    client: &Client,
    dead: &TaskId,
    nonce: Option<TaskId>,
    wait: Option<Duration>,
) -> Result<Exit> {
    let handle = client.retry_as(dead, nonce).await?;
    let Some(patience) = wait else {
        let state = client.get(handle.id()).await.ok().map(|view| view.state);
        let reply = Retried { task: handle.id(), retry_of: dead, state };
        ctx.output.either(&reply, |reply| reply.task.to_string())?;
        return Ok(Exit::Ok);
    };
    let ended = show::within(patience, handle.id(), handle.wait()).await?;
    let view = client.get_from(handle.id(), Some(ended.rev)).await?;
    show::ended(ctx, &view)?;
    show::verdict(&view.task, view.state, view.refusal.as_ref())
}

/// The JSON of `dead retry`.
#[derive(Serialize)]
struct Retried<'a> {
    task: &'a TaskId,
    retry_of: &'a TaskId,
    state: Option<Phase>,
}

fn rows(views: &[TaskView]) -> String {
    let now = unix_now();
    table(
        ["TASK", "AGENT", "DIED", "TRIES", "CODE", "LAST REASON"],
        views.iter().map(|view| {
            let last = view.failures.last();
            let code = last.map(|f| f.code).or(view.refusal.as_ref().map(|r| r.code));
            let message =
                last.map(|f| f.message.clone()).or(view.refusal.as_ref().map(|r| r.message.clone()));
            [
                view.task.to_string(),
                view.agent.to_string(),
                age(view.ended_at, now),
                view.tries.to_string(),
                code.map(|code| code.to_string()).unwrap_or_default(),
                message.unwrap_or_default(),
            ]
        }),
    )
}
