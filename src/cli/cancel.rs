//! `selvedge cancel TASK`.

use std::time::Duration;

use clap::Args;

use super::target::{TaskArg, duration};

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
    pub within: Duration,
}
