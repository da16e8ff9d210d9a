//! Arguments that several verbs share: whose task, and how long to wait.

use std::time::Duration;

use clap::Args;

use crate::config::parse_duration;
use crate::task::{Priority, TaskId, TenantName};

/// Whose tasks a command is about.
#[derive(Debug, Clone, Args)]
pub struct TenantArg {
    /// Tenant the task belongs to
    #[arg(short = 't', long, env = "SELVEDGE_TENANT", default_value = "default", value_name = "NAME")]
    pub tenant: TenantName,
}

/// One task of a tenant.
#[derive(Debug, Clone, Args)]
pub struct TaskArg {
    /// Task id
    #[arg(value_name = "TASK")]
    pub task: TaskId,

    /// Whose it is.
    #[command(flatten)]
    pub tenant: TenantArg,
}

/// A duration on the command line: `250ms`, `15s`, `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

/// A priority class on the command line.
pub fn priority(text: &str) -> Result<Priority, String> {
    Priority::parse(text).ok_or_else(|| "expected low, normal, high or critical".to_owned())
}
