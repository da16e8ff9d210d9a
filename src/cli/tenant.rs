//! `selvedge tenant set | get | list | pause | resume | rm`.

use clap::{Args, Subcommand};

use super::limits::LimitArgs;
use crate::task::{PlanName, TenantName};

/// Arguments of `tenant`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge tenant set acme --plan pro --in-flight 40
  selvedge tenant set acme --reset              (back to the plan's own limits)
  selvedge tenant pause acme                    (nothing is dispatched; submits are still taken)
  selvedge tenant pause acme --refuse-submits

A change counts at once, for queued tasks too.")]
pub struct TenantArgs {
    /// Which.
    #[command(subcommand)]
    pub command: TenantCommand,
}

/// What can be done with tenants.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Set up a tenant, or change what is given
    Set {
        /// Name of the tenant
        name: TenantName,

        /// Its plan
        #[arg(long, value_name = "PLAN")]
        plan: Option<PlanName>,

        /// Drop the limits set for this tenant before applying the ones given
        #[arg(long)]
        reset: bool,

        /// The limits.
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Show a tenant: its plan, and the limits that count
    Get {
        /// Name of the tenant
        name: TenantName,
    },
    /// List the tenants that were set up
    #[command(visible_alias = "ls")]
    List,
    /// Dispatch nothing of a tenant's; what runs goes on
    Pause {
        /// Name of the tenant
        name: TenantName,

        /// Refuse its submits too
        #[arg(long)]
        refuse_submits: bool,
    },
    /// Undo a pause
    Resume {
        /// Name of the tenant
        name: TenantName,
    },
    /// Forget a tenant's settings; its tasks stay, under the default plan
    Rm {
        /// Name of the tenant
        name: TenantName,
    },
}
