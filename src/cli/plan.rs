//! `selvedge plan set | get | list`.

use clap::{Args, Subcommand};

use super::limits::LimitArgs;
use crate::task::PlanName;

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge plan list
  selvedge plan set team --from pro --in-flight 50 --rate 100
  selvedge plan set free --backlog 5000

A change counts at once, for queued tasks too. `free` and `pro` are there from the start.")]
pub struct PlanArgs {
    /// Which.
    #[command(subcommand)]
    pub command: PlanCommand,
}

/// What can be done with plans.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Make a plan, or change the limits given
    Set {
        /// Name of the plan
        name: PlanName,

        /// Plan to start from, if this one is new
        #[arg(long, value_name = "PLAN", default_value = "free")]
        from: PlanName,

        /// The limits.
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Show a plan
    Get {
        /// Name of the plan
        name: PlanName,
    },
    /// List the plans
    #[command(visible_alias = "ls")]
    List,
}
