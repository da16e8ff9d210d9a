//! `selvedge watch TASK`.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::output::safe;
use super::show;
use super::target::{TaskArg, duration};
use crate::client::{Client, Ended, Watch, WatchItem};
use crate::task::{Payload, Phase, Refusal, TaskId};
use crate::wire::messages::Event;

/// Arguments of `watch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge watch 0190f3c2a1b37d4e8f60718293a4b5c6
  selvedge watch 0190f3c2a1b37d4e8f60718293a4b5c6 --json | jq .

Prints events as they come and ends with the task: exits 0 if it completed, 1 if it ended in any other way, 75 at
--max-wait. With --json, one object a line. A gap in the stored events is shown as one.")]
pub struct WatchArgs {
    /// Which.
    #[command(flatten)]
    pub task: TaskArg,

    /// Leave out the events that were stored before
    #[arg(long)]
    pub new: bool,

    /// Give up after this time [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub max_wait: Option<Duration>,
}

/// Runs it.
pub async fn run(args: WatchArgs, ctx: Ctx) -> Result<ExitCode> {
    let client = ctx.client(&args.task.tenant.tenant).await?;
    let task = &args.task.task;
    // A task that is not there would be waited for in silence.
    client.get(task).await?;
    let following = async {
        let after = if args.new { newest(&client, task).await? } else { (0, 0) };
        let watch = client.watch_after(task, after).await?;
        let print = |line: Line| match (ctx.output.json, line.text()) {
            (true, _) => ctx.output.json_line(&line),
            (false, text) if text.is_empty() => Ok(()),
            (false, text) => ctx.output.line(text),
        };
        follow(watch, print).await
    };
    let ended = match args.max_wait {
        Some(patience) => show::within(patience, task, following).await?,
        None => following.await?,
    };
    Ok(show::verdict(task, ended.state, ended.refusal.as_ref())?.into())
}

/// One line of `watch --json`.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// The task is in another state than said before.
    State {
        /// Which.
        state: Phase,
    },
    /// Progress.
    Event {
        /// As the agent emitted it.
        event: Event,
    },
    /// Events that are lost.
    Gap {
        /// Of which attempt.
        attempt: u32,
        /// First missing one.
        from: u32,
        /// Last missing one.
        to: u32,
    },
    /// Nothing follows.
    End {
        /// Which task.
        task: TaskId,
        /// Its state.
        state: Phase,
        /// Its result, if it completed.
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Payload>,
        /// Why it went wrong.
        #[serde(skip_serializing_if = "Option::is_none")]
        refusal: Option<Refusal>,
    },
}

impl Line {
    /// The line for people.
    pub fn text(&self) -> String {
        match self {
            Line::State { state } => format!("── {state}"),
            Line::Event { event } => {
                let data = match &event.data {
                    Payload::Json(text) => safe(&String::from_utf8_lossy(text)),
                    Payload::Bytes(bytes) => format!("{} bytes", bytes.len()),
                };
                format!("{}.{}  {}  {data}", event.attempt, event.n, safe(&event.kind))
            }
            Line::Gap { attempt, from, to } => format!("{attempt}.{from}–{to}  lost"),
            Line::End { result: Some(result), .. } => show::payload(result),
            // Why it ended is the command's own failure, told on standard error.
            Line::End { .. } => String::new(),
        }
    }
}

/// Prints what a watch sees, until the end.
pub async fn follow(mut watch: Watch, mut print: impl FnMut(Line) -> io::Result<()>) -> Result<Ended> {
    while let Some(item) = watch.next().await {
        match item? {
            WatchItem::State(state) => print(Line::State { state })?,
            WatchItem::Event(event) => print(Line::Event { event })?,
            WatchItem::Gap { attempt, from, to } => print(Line::Gap { attempt, from, to })?,
            WatchItem::End(ended) => {
                print(Line::End {
                    task: ended.task.clone(),
                    state: ended.state,
                    result: ended.result.clone(),
                    refusal: ended.refusal.clone(),
                })?;
                return Ok(ended);
            }
        }
    }
    Err(Failure::new(Exit::Failed, "WATCH_ENDED", "the watch ended before the task did").into())
}

/// (attempt, n) of the newest stored event.
async fn newest(client: &Client, task: &TaskId) -> Result<(u32, u32)> {
    let mut at = (0, 0);
    loop {
        let page = client.events(task, Some(at)).await?;
        at = page.events.last().map_or(at, |event| (event.attempt, event.n));
        if !page.more || page.events.is_empty() {
            return Ok(at);
        }
    }
}
