//! `selvedge watch TASK`.

use std::time::Duration;

use clap::Args;

use super::target::{TaskArg, duration};

/// Arguments of `watch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge watch 0190f3c2a1b37d4e8f60718293a4b5c6
  selvedge watch 0190f3c2a1b37d4e8f60718293a4b5c6 --json | jq .

Prints events as they come and ends with the task: exits 0 if it completed, 1 if it ended in any other way, 75 at
--within. With --json, one object a line. A gap in the stored events is shown as one.")]
pub struct WatchArgs {
    /// Which.
    #[command(flatten)]
    pub task: TaskArg,

    /// Leave out the events that were stored before
    #[arg(long)]
    pub new: bool,

    /// Give up after this time [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub within: Option<Duration>,
}
