//! `selvedge tell TASK JSON` and `selvedge signal TASK NAME JSON`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::context::Ctx;
use super::failure::Exit;
use super::submit::json;
use super::target::TaskArg;
use crate::task::TaskId;
use crate::wire::history::TellRequest;

/// Arguments of `tell`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge tell 0190f3c2a1b37d4e8f60718293a4b5c6 '{\"text\":\"look at chapter 3, too\"}'

The message is kept until the task's handler asks for it, also if it has not started yet.")]
pub struct TellArgs {
    /// To which.
    #[command(flatten)]
    pub task: TaskArg,

    /// Message, JSON
    #[arg(value_name = "JSON", default_value = "null")]
    pub message: String,

    /// How it is said.
    #[command(flatten)]
    pub said: SaidArgs,
}

/// Arguments of `signal`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge signal 0190f3c2a1b37d4e8f60718293a4b5c6 approval '{\"ok\":true}' --from ada

The signal is kept until the task's handler waits for one of this name. A task that is over takes none.")]
pub struct SignalArgs {
    /// To which.
    #[command(flatten)]
    pub task: TaskArg,

    /// Name of the signal
    #[arg(value_name = "NAME")]
    pub name: String,

    /// What is said with it, JSON
    #[arg(value_name = "JSON", default_value = "null")]
    pub message: String,

    /// How it is said.
    #[command(flatten)]
    pub said: SaidArgs,
}

/// Who says it, and how a repeat is recognised.
#[derive(Debug, Clone, Args)]
pub struct SaidArgs {
    /// Who says it, for the handler; 128 bytes of it are kept
    #[arg(long, value_name = "WHO")]
    pub from: Option<String>,

    /// The same id is the same message, however often it is sent [default: a fresh one]
    #[arg(long, value_name = "ID")]
    pub nonce: Option<TaskId>,
}

/// Runs `tell`.
pub async fn tell(args: TellArgs, ctx: Ctx) -> Result<ExitCode> {
    send(args.task, None, &args.message, args.said, ctx).await
}

/// Runs `signal`.
pub async fn signal(args: SignalArgs, ctx: Ctx) -> Result<ExitCode> {
    send(args.task, Some(args.name), &args.message, args.said, ctx).await
}

async fn send(
    task: TaskArg,
    name: Option<String>,
    message: &str,
    said: SaidArgs,
    ctx: Ctx,
) -> Result<ExitCode> {
    let message = json(message.as_bytes(), "the message")?;
    let client = ctx.client(&task.tenant.tenant).await?;
    let request = TellRequest { task: task.task.clone(), name, message, from: said.from, nonce: said.nonce };
    let reply = client.send(&request).await?;
    let task = &task.task;
    ctx.output.either(&reply, |reply| match reply.state {
        Some(state) => format!("{task} is told; it is {state}"),
        None => format!("the message to {task} is stored and will be decided"),
    })?;
    Ok(Exit::Ok.into())
}
