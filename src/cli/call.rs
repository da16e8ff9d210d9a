//! `selvedge call AGENT INPUT`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::context::Ctx;
use super::failure::Exit;
use super::output::safe;
use super::show;
use super::submit::json;
use super::target::{TenantArg, duration};
use crate::client::Chunk;
use crate::task::{AgentName, Payload};

/// Arguments of `call`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge call writer '\"a haiku about looms\"'
  selvedge call writer '{\"topic\":\"looms\"}' --max 20s --tenant acme
  selvedge call writer '\"looms\"' --json | jq -r 'select(.chunk) | .chunk.data'

Prints each part of the answer as it comes, then the result. Nothing is queued: what can't be answered now is refused at once,
and the command exits 75 if trying again may help. Ctrl-C gives the call up, and its handler is cancelled.")]
pub struct CallArgs {
    /// Agent that is to answer
    pub agent: AgentName,

    /// Input, JSON
    #[arg(value_name = "JSON", default_value = "null")]
    pub input: String,

    /// Whose call it is.
    #[command(flatten)]
    pub tenant: TenantArg,

    /// How long it may take [default: as long as the plan allows]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub max: Option<Duration>,
}

/// One line of `call --json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Chunk { kind: &'a str, data: &'a Payload },
    Result(&'a Payload),
}

/// Runs it.
pub async fn run(args: CallArgs, ctx: Ctx) -> Result<ExitCode> {
    let input = json(args.input.as_bytes(), "the argument")?;
    let client = ctx.client(&args.tenant.tenant).await?;
    let call = client.call_raw(args.agent.as_str(), input);
    let mut answer = match args.max {
        Some(max) => call.max(max),
        None => call,
    }
    .await?;
    while let Some(chunk) = answer.next().await {
        let Chunk { kind, data } = chunk?;
        match ctx.output.json {
            true => ctx.output.json_line(&Line::Chunk { kind: &kind, data: &data })?,
            false => ctx.output.line(format!("{}  {}", safe(&kind), show::payload(&data)))?,
        }
    }
    let result = answer.raw_result().await?;
    match ctx.output.json {
        true => ctx.output.json_line(&Line::Result(&result))?,
        false => ctx.output.line(show::payload(&result))?,
    }
    Ok(Exit::Ok.into())
}
