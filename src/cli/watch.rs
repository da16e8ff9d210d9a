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
