//! `selvedge submit AGENT INPUT`.

use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use tokio::sync::mpsc;

use super::context::Ctx;
use super::failure::{self, Exit, Failure};
use super::show;
use super::target::{TenantArg, TimesArgs, duration, label, priority};
use super::watch::{self, Line};
use crate::client::NewTask;
use crate::task::{AgentName, MAX_PAYLOAD_BYTES, Payload, Priority, TaskId, keyed_id};
use crate::wire::api::TaskReply;

/// Arguments of `submit`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge submit reader '{\"path\":\"README.md\"}' --wait
  selvedge submit reader --file input.json --key import-2026-11-21
  selvedge submit reader '{}' --delay 10m --deadline 2h --try-timeout 5m
  cat inputs.jsonl | selvedge submit reader --lines --tenant acme
  id=$(selvedge submit reader '{}' --json | jq -r .task)

Without --wait or --confirm the command ends once the task is stored; a refusal then shows in `selvedge get`.
With --wait it exits 0 if the task completed, 1 if it ended in any other way, 75 at --max-wait.")]
pub struct SubmitArgs {
    /// Agent that is to run it
    pub agent: AgentName,

    /// Input, JSON; `-` reads it from stdin [default: null]
    #[arg(value_name = "JSON", conflicts_with_all = ["file", "lines"])]
    pub input: Option<String>,

    /// Read the input from a file, `-` for stdin: JSON, or any bytes if it does not parse
    #[arg(short, long, value_name = "FILE", conflicts_with = "lines")]
    pub file: Option<PathBuf>,

    /// Submit one task per line of stdin, each a JSON value
    #[arg(long, conflicts_with_all = ["id", "key", "wait", "confirm"])]
    pub lines: bool,

    /// Whose task it is.
    #[command(flatten)]
    pub tenant: TenantArg,

    /// Use this task id; a repeated submit with it is the same task
    #[arg(long, value_name = "TASK")]
    pub id: Option<TaskId>,

    /// Derive the task id from this key: the same key is the same task
    #[arg(long, value_name = "KEY", conflicts_with = "id")]
    pub key: Option<String>,

    /// Class within the tenant: low, normal, high or critical; the plan may lower it
    #[arg(long, value_name = "CLASS", default_value = "normal", value_parser = priority)]
    pub priority: Priority,

    /// Tries before the task is dead [default: the plan's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tries: Option<u32>,

    #[command(flatten)]
    times: TimesArgs,

    /// Cells (tokens, say) that a try is expected to use; it waits until its tenant and its agent have them
    #[arg(long, value_name = "CELLS")]
    pub cost: Option<u32>,

    /// Write a label on it, for `list --label`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,

    /// Wait until it is admitted or refused
    #[arg(long)]
    pub confirm: bool,

    /// Wait until it ends, and print its result
    #[arg(short, long)]
    pub wait: bool,

    /// Print its events to stderr while waiting
    #[arg(long, requires = "wait")]
    pub follow: bool,

    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub max_wait: Duration,
}

/// Tasks of `--lines` that are read, sent and told of together.
const BATCH: usize = 512;

/// Runs it.
pub async fn run(args: SubmitArgs, ctx: Ctx) -> Result<ExitCode> {
    if args.lines {
        return lines(args, ctx).await;
    }
    let input = input(&args)?;
    let tenant = &args.tenant.tenant;
    // Made here, so that every message can name it.
    let id = match (&args.id, &args.key) {
        (Some(id), _) => id.clone(),
        (None, Some(key)) => keyed_id(tenant, key),
        (None, None) => TaskId::fresh(),
    };
    let client = ctx.client(tenant).await?;
    let submission = client.submit_task(new_task(&args, input)?.id(id.clone()));
    let handle = match args.confirm {
        true => show::within(args.max_wait, &id, submission.confirmed()).await?,
        false => submission.await?,
    };
    if !args.wait {
        let state = match args.confirm {
            true => Some(client.get(&id).await?.state),
            false => None,
        };
        let reply = TaskReply { task: id, state, refusal: None };
        ctx.output.either(&reply, |reply| reply.task.to_string())?;
        return Ok(Exit::Ok.into());
    }
    let waiting = async {
        if args.follow {
            let output = ctx.output;
            watch::follow(client.watch(&id).await?, |line| match line {
                Line::End { .. } => Ok(()),
                line => output.hint(line.text()),
            })
            .await?;
        }
        Ok::<_, anyhow::Error>(handle.wait().await?)
    };
    let ended = show::within(args.max_wait, &id, waiting).await?;
    let view = client.get_from(&id, Some(ended.rev)).await?;
    show::ended(&ctx, &view)?;
    Ok(show::verdict(&id, view.state, view.refusal.as_ref())?.into())
}

fn new_task(args: &SubmitArgs, input: Payload) -> Result<NewTask> {
    let task = NewTask::raw(args.agent.as_str(), input)?.priority(args.priority).times(args.times.times());
    let task = match args.cost {
        Some(cells) => task.cost(cells),
        None => task,
    };
    let task = args.label.iter().fold(task, |task, (key, value)| task.label(key, value));
    Ok(match args.max_tries {
        Some(tries) => task.max_tries(tries),
        None => task,
    })
}

/// The input, from wherever it was said to be.
fn input(args: &SubmitArgs) -> Result<Payload> {
    let (bytes, place) = match (&args.input, &args.file) {
        (Some(text), _) if text != "-" => return json(text.as_bytes(), "the argument"),
        (Some(_), _) => (from_stdin()?, "standard input".to_owned()),
        (None, Some(file)) if file.as_os_str() == "-" => (from_stdin()?, "standard input".to_owned()),
        (None, Some(file)) => (
            std::fs::read(file).map_err(|error| {
                Failure::new(Exit::Usage, "INPUT_UNREADABLE", format!("cannot read the input: {error}"))
                    .at(file.display().to_string())
            })?,
            file.display().to_string(),
        ),
        (None, None) => return Ok(Payload::default()),
    };
    match json(&bytes, &place) {
        // A file may hold anything; what is typed is meant to be JSON.
        Err(_) if args.file.is_some() => Ok(Payload::Bytes(bytes.into())),
        parsed => parsed,
    }
}

fn from_stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than may be sent is enough for the refusal.
    io::stdin().lock().take(MAX_PAYLOAD_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// JSON from `place`, told as such if it is none.
pub(super) fn json(bytes: &[u8], place: &str) -> Result<Payload> {
    let bytes = bytes.trim_ascii();
    // What is too large is told as such, not as cut off.
    if bytes.len() <= MAX_PAYLOAD_BYTES {
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|error| {
            Failure::new(Exit::Usage, "BAD_INPUT", format!("the input is not JSON: {error}"))
                .at(place)
                .help("quote it for the shell: '{\"path\":\"README.md\"}', or '\"a string\"'")
        })?;
    }
    Ok(Payload::Json(Bytes::copy_from_slice(bytes)))
}

/// Submits standard input line by line, a batch at a time.
async fn lines(args: SubmitArgs, ctx: Ctx) -> Result<ExitCode> {
    let client = ctx.client(&args.tenant.tenant).await?;
    let (mut number, mut failed) = (0u64, None);
    // A thread of its own: reading a terminal or a pipe cannot be interrupted.
    let (send, mut read) = mpsc::channel(BATCH);
    tokio::task::spawn_blocking(move || {
        for line in io::stdin().lock().lines() {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut waiting = Vec::new();
    while read.recv_many(&mut waiting, BATCH).await > 0 {
        let mut batch = Vec::new();
        for line in waiting.drain(..) {
            let line = line?;
            number += 1;
            if !line.trim().is_empty() {
                batch.push(new_task(&args, json(line.as_bytes(), &format!("line {number}"))?)?);
            }
        }
        for result in client.submit_many(batch).await {
            match result {
                Ok(handle) if ctx.output.json => {
                    ctx.output.json_line(&TaskReply {
                        task: handle.id().clone(),
                        state: None,
                        refusal: None,
                    })?;
                }
                Ok(handle) => ctx.output.line(handle.id())?,
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    failed = Some(failure::report(&error, ctx.output.json));
                }
            }
        }
    }
    Ok(failed.unwrap_or(Exit::Ok).into())
}
