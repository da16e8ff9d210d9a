//! `selvedge get TASK`.

use std::time::Duration;

use clap::Args;

use super::target::{TaskArg, duration};

/// Arguments of `get`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge get 0190f3c2a1b37d4e8f60718293a4b5c6
  selvedge get 0190f3c2a1b37d4e8f60718293a4b5c6 --wait --result > result.json
  selvedge get 0190f3c2a1b37d4e8f60718293a4b5c6 --children

Exits 1 if there is no such task; with --wait also if it ended in any other way than completed, 75 at --within.")]
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
    pub within: Duration,
}
