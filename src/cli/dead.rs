//! `selvedge dead ls | show | retry`: tasks that failed for good.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::target::{TaskArg, TenantArg, duration};
use crate::task::TaskId;

/// Arguments of `dead`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge dead ls --tenant acme
  selvedge dead show 0190f3c2a1b37d4e8f60718293a4b5c6
  selvedge dead retry 0190f3c2a1b37d4e8f60718293a4b5c6 --wait

A dead task stays dead: a retry is a new task with the same input, linked to it.")]
pub struct DeadArgs {
    /// Which.
    #[command(subcommand)]
    pub command: DeadCommand,
}

/// What can be done with dead tasks.
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// List dead tasks with the reason of their last try, newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Whose.
        #[command(flatten)]
        tenant: TenantArg,

        /// Tasks per page, 1 to 100
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,

        /// Go on where a page ended
        #[arg(long, value_name = "CURSOR")]
        cursor: Option<String>,
    },
    /// Show every failed try of a dead task
    Show {
        /// Which.
        #[command(flatten)]
        task: TaskArg,
    },
    /// Submit dead tasks again
    Retry {
        /// Task ids
        #[arg(value_name = "TASK", required = true, num_args = 1..)]
        tasks: Vec<TaskId>,

        /// Whose.
        #[command(flatten)]
        tenant: TenantArg,

        /// The same nonce is the same retry [default: a new retry each time]
        #[arg(long, value_name = "NONCE")]
        nonce: Option<TaskId>,

        /// Wait until the new tasks have ended
        #[arg(short, long)]
        wait: bool,

        /// How long to wait at most
        #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
        max_wait: Duration,
    },
}
