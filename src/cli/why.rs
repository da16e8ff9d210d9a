//! `selvedge why TASK`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::context::Ctx;
use super::failure::Exit;
use super::output::{fields, table, unix_now};
use super::show::when;
use super::target::TaskArg;
use crate::wire::api::Why;

/// Arguments of `why`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge why 0190f3c2a1b37d4e8f60718293a4b5c6
  selvedge why 0190f3c2a1b37d4e8f60718293a4b5c6 --tenant acme --json

It names every rule and resource that holds the task back, with the numbers, and where that can be known when it lets
it pass; the first one has to change first. docs/protocol.md has a line on each reason.")]
pub struct WhyArgs {
    /// Which.
    #[command(flatten)]
    pub task: TaskArg,
}

/// Runs it.
pub async fn run(args: WhyArgs, ctx: Ctx) -> Result<ExitCode> {
    let client = ctx.client(&args.task.tenant.tenant).await?;
    let why = client.why(&args.task.task).await?;
    ctx.output.either(&why, shown)?;
    Ok(Exit::Ok.into())
}

fn shown(why: &Why) -> String {
    let now = unix_now();
    let children: Vec<&str> = why.children.iter().map(|id| id.as_str()).collect();
    let head = fields([
        ("task", why.task.to_string()),
        ("state", why.state.to_string()),
        ("agent", why.agent.to_string()),
        ("tenant", why.tenant.to_string()),
        ("instance", why.instance.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("since", why.since.map(|at| when(at, now)).unwrap_or_default()),
        ("waits for", children.join(", ")),
        ("expires", why.expires_at.map(|at| when(at, now)).unwrap_or_default()),
    ]);
    let rows = why.reasons.iter().map(|hold| {
        let until = hold.until.map(|at| when(at, now)).unwrap_or_default();
        [hold.reason.as_str().to_owned(), hold.message.clone(), until]
    });
    format!("{head}\n{}", table(["REASON", "WHAT", "UNTIL"], rows))
}
