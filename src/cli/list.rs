//! `selvedge list`.

use clap::Args;

use super::target::TenantArg;
use crate::task::{AgentName, Phase, TaskId};

/// Arguments of `list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge list
  selvedge list --state running,retrying --agent reader
  selvedge list --tree 0190f3c2a1b37d4e8f60718293a4b5c6 --limit 100
  selvedge list --all --json | jq -r '.tasks[].task'

Newest first, without cancelled tasks unless a state is asked for. Combined filters look at a bounded number of tasks:
if that was not enough for a full page, the command says so and where to go on.")]
pub struct ListArgs {
    /// Whose.
    #[command(flatten)]
    pub tenant: TenantArg,

    /// Only these states, separated by commas
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = phase)]
    pub state: Vec<Phase>,

    /// Only this agent's tasks
    #[arg(short, long, value_name = "NAME")]
    pub agent: Option<AgentName>,

    /// Only the tree with this root
    #[arg(long, value_name = "TASK")]
    pub tree: Option<TaskId>,

    /// Tasks per page, 1 to 100
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub limit: u32,

    /// Skip this many tasks
    #[arg(long, value_name = "N", conflicts_with_all = ["cursor", "all"])]
    pub offset: Option<u32>,

    /// Go on where a page ended
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,

    /// Follow the pages to the end
    #[arg(long)]
    pub all: bool,

    /// Print counts per state instead of tasks
    #[arg(long, conflicts_with_all = ["state", "agent", "tree", "offset", "cursor", "all"])]
    pub stats: bool,
}

fn phase(text: &str) -> Result<Phase, String> {
    let all = || Phase::ALL.map(Phase::as_str).join(", ");
    Phase::parse(text).ok_or_else(|| format!("expected one of {}", all()))
}
