//! `selvedge cancel TASK`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::context::Ctx;
use super::failure::Exit;
use super::show;
use super::target::{TaskArg, duration};
use crate::task::Phase;
use crate::wire::api::TaskReply;

/// Arguments of `cancel`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge cancel 0190f3c2a1b37d4e8f60718293a4b5c6 --reason 'wrong input'
  selvedge cancel 0190f3c2a1b37d4e8f60718293a4b5c6 --wait

The task and everything it spawned is cancelled: nothing of it starts any more, what runs is told to stop. A task that
has already ended stays as it is, and the command says so.")]
pub struct CancelArgs {
    /// Which.
    #[command(flatten)]
    pub task: TaskArg,

    /// Why, for people who look at it later
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,

    /// Wait until the task has ended
    #[arg(short, long)]
    pub wait: bool,

    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    pub max_wait: Duration,
}

/// Runs it.
pub async fn run(args: CancelArgs, ctx: Ctx) -> Result<ExitCode> {
    let client = ctx.client(&args.task.tenant.tenant).await?;
    let task = &args.task.task;
    let mut reply = client.cancel(task, &args.reason).await?;
    if args.wait && !reply.state.is_some_and(Phase::is_terminal) {
        let ended = show::within(args.max_wait, task, client.wait(task)).await?;
        reply = TaskReply { task: ended.task, state: Some(ended.state), refusal: ended.refusal };
    }
    ctx.output.either(&reply, |reply| match reply.state {
        Some(Phase::Cancelled) => format!("{task} is cancelled, with everything it spawned"),
        Some(state) if state.is_terminal() => format!("{task} had ended before: it is {state}"),
        Some(state) => format!("{task} is {state}; the cancel is stored and will be decided"),
        None => format!("{task} is not known yet; should it be submitted, it meets the cancel"),
    })?;
    Ok(Exit::Ok.into())
}
