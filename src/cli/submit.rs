//! `selvedge submit AGENT INPUT`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::target::{TenantArg, duration, priority};
use crate::task::{AgentName, Priority, TaskId};

/// Arguments of `submit`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge submit reader '{\"path\":\"README.md\"}' --wait
  selvedge submit reader --file input.json --key import-2026-11-21
  cat inputs.jsonl | selvedge submit reader --lines --tenant acme
  id=$(selvedge submit reader '{}' --json | jq -r .task)

Without --wait or --confirm the command ends once the task is stored; a refusal then shows in `selvedge get`.
With --wait it exits 0 if the task completed, 1 if it ended in any other way, 75 at --within.")]
pub struct SubmitArgs {
    /// Agent that is to run it
    pub agent: AgentName,

    /// Input, JSON; `-` reads it from stdin [default: null]
    #[arg(value_name = "JSON", conflicts_with_all = ["file", "lines"])]
    pub input: Option<String>,

    /// Read the input from a file: JSON, or any bytes if it does not parse
    #[arg(short, long, value_name = "FILE", conflicts_with = "lines")]
    pub file: Option<PathBuf>,

    /// Submit one task per line of stdin, each a JSON value
    #[arg(long, conflicts_with_all = ["id", "key"])]
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
    pub within: Duration,
}
