//! `selvedge get TASK`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::output::{fields, table};
use super::show;
use super::target::{TaskArg, duration};
use crate::client::Client;
use crate::task::{Phase, TaskId};
use crate::wire::api::{ChildView, TaskView};

/// Arguments of `get`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge get 0190f3c2a1b37d4e8f60718293a4b5c6
  selvedge get 0190f3c2a1b37d4e8f60718293a4b5c6 --wait --result > result.json
  selvedge get 0190f3c2a1b37d4e8f60718293a4b5c6 --children

Exits 1 if there is no such task; with --wait also if it ended in any other way than completed, 75 at --max-wait.")]
pub struct GetArgs {
    /// Which.
    #[command(flatten)]
    pub task: TaskArg,

    /// Print the result alone, as it is: JSON indented, bytes untouched
    #[arg(long, conflicts_with = "children")]
    pub result: bool,

    /// List its children too, in the order they were spawned
    #[arg(long)]
    pub children: bool,

    /// Wait until it ends
    #[arg(short, long)]
    pub wait: bool,

    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, requires = "wait")]
    pub max_wait: Duration,
}

/// Runs it.
pub async fn run(args: GetArgs, ctx: Ctx) -> Result<ExitCode> {
    let client = ctx.client(&args.task.tenant.tenant).await?;
    let task = &args.task.task;
    let view = if args.wait {
        let ended = show::within(args.max_wait, task, client.wait(task)).await?;
        client.get_from(task, Some(ended.rev)).await?
    } else {
        client.get(task).await?
    };
    if args.result {
        if !view.state.is_terminal() {
            let what = format!("task {task} is {}: it has no result yet", view.state);
            return Err(Failure::new(Exit::Temporary, "NOT_ENDED", what)
                .help("wait for it with --wait")
                .into());
        }
        if view.state == Phase::Completed {
            show::result(&ctx.output, view.result.as_ref())?;
        }
        return Ok(show::verdict(task, view.state, view.refusal.as_ref())?.into());
    }
    if args.children {
        let children = all_children(&client, task).await?;
        ctx.output.either(&WithChildren { view: &view, children: &children }, |_| {
            format!("{}\nchildren\n{}", show::task(&view), table_of(&children))
        })?;
    } else {
        // For people, who may wonder: what it is held back by, if the owner can be asked.
        let asks = !view.state.is_terminal() && !ctx.output.json;
        let why = if asks { client.why(task).await.ok() } else { None };
        let held = why.and_then(|why| why.reasons.into_iter().next());
        let held = held.map(|hold| fields([("why", hold.message)])).unwrap_or_default();
        ctx.output.either(&view, |view| format!("{}{held}", show::task(view)))?;
    }
    match args.wait {
        true => Ok(show::verdict(task, view.state, view.refusal.as_ref())?.into()),
        false => Ok(Exit::Ok.into()),
    }
}

/// The JSON of `get --children`: the task with one more field.
#[derive(Serialize)]
struct WithChildren<'a> {
    #[serde(flatten)]
    view: &'a TaskView,
    children: &'a [ChildView],
}

async fn all_children(client: &Client, task: &TaskId) -> Result<Vec<ChildView>> {
    let (mut children, mut after) = (Vec::new(), 0);
    loop {
        let page = client.children(task, after, false).await?;
        children.extend(page.children);
        match page.next {
            Some(next) => after = next,
            None => return Ok(children),
        }
    }
}

fn table_of(children: &[ChildView]) -> String {
    table(
        ["STEP", "TASK", "AGENT", "STATE", "NOTE"],
        children.iter().map(|child| {
            [
                format!("{}[{}]", child.step, child.index),
                child.task.to_string(),
                child.agent.to_string(),
                child.state.to_string(),
                child.refusal.as_ref().map(show::reason).unwrap_or_default(),
            ]
        }),
    )
}
