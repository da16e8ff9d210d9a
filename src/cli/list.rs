//! `selvedge list`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::Args;

use super::context::Ctx;
use super::failure::Exit;
use super::output::{safe, table};
use super::show;
use super::target::{TenantArg, duration, label};
use crate::client::List;
use crate::task::{AgentName, Millis, Phase, TaskId};
use crate::wire::api::TaskView;

/// Arguments of `list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge list
  selvedge list --state running,retrying --agent reader
  selvedge list --state failed --since 1h
  selvedge list --label team=search
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

    /// Only this task's children
    #[arg(long, value_name = "TASK")]
    pub parent: Option<TaskId>,

    /// Only tasks created so long ago or later: 90s, 15m, 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,

    /// Only tasks created longer ago than that
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub until: Option<Duration>,

    /// Only tasks with this label; may be repeated, for several
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,

    /// Tasks per page, 1 to 100
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub limit: u32,

    /// Skip this many tasks
    #[arg(long, value_name = "N", conflicts_with_all = ["cursor", "all"])]
    pub offset: Option<u32>,

    /// Go on where a page ended
    #[arg(long, value_name = "CURSOR", allow_hyphen_values = true)]
    pub cursor: Option<String>,

    /// Follow the pages to the end
    #[arg(long)]
    pub all: bool,

    /// Print counts per state instead of tasks
    #[arg(long, conflicts_with_all = ["state", "agent", "tree", "parent", "since", "until", "label", "offset", "cursor", "all"])]
    pub stats: bool,
}

fn phase(text: &str) -> Result<Phase, String> {
    let all = || Phase::ALL.map(Phase::as_str).join(", ");
    Phase::parse(text).ok_or_else(|| format!("expected one of {}", all()))
}

/// That long ago, Unix milliseconds.
fn ago(past: Duration) -> Millis {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(now.saturating_sub(past).as_millis()).unwrap_or(Millis::MAX)
}

/// Runs it.
pub async fn run(args: ListArgs, ctx: Ctx) -> Result<ExitCode> {
    let client = ctx.client(&args.tenant.tenant).await?;
    if args.stats {
        let stats = client.stats().await?;
        ctx.output.either(&stats, |stats| {
            let rows = stats.states.iter().map(|(state, count)| [state.clone(), count.to_string()]);
            table(["STATE", "TASKS"], rows.chain([["all".to_owned(), stats.total.to_string()]]))
        })?;
        return Ok(Exit::Ok.into());
    }
    let mut query = client.list().limit(args.limit);
    for state in &args.state {
        query = query.state(*state);
    }
    if let Some(agent) = &args.agent {
        query = query.agent(agent);
    }
    if let Some(root) = &args.tree {
        query = query.root(root);
    }
    if let Some(parent) = &args.parent {
        query = query.parent(parent);
    }
    if let Some(since) = args.since {
        query = query.since(ago(since));
    }
    if let Some(until) = args.until {
        query = query.until(ago(until));
    }
    for (key, value) in &args.label {
        query = query.label(key, value);
    }
    if let Some(offset) = args.offset {
        query = query.offset(offset);
    }
    pages(&ctx, query, args.cursor, args.all, show::tasks).await
}

/// Prints a page, or all that follow it. In JSON each page is one object; on one line if there may be several.
pub async fn pages(
    ctx: &Ctx,
    query: List<'_>,
    mut cursor: Option<String>,
    all: bool,
    shown: impl Fn(&[TaskView]) -> String,
) -> Result<ExitCode> {
    loop {
        let query = match cursor.take() {
            Some(cursor) => query.clone().cursor(cursor),
            None => query.clone(),
        };
        let page = query.page().await?;
        match (ctx.output.json, all) {
            (true, true) => ctx.output.json_line(&page)?,
            (true, false) => ctx.output.json_pretty(&page)?,
            (false, _) if page.tasks.is_empty() => ctx.output.hint("no tasks")?,
            (false, _) => ctx.output.raw(shown(&page.tasks))?,
        }
        match page.next {
            Some(next) if all => cursor = Some(next),
            Some(next) => {
                let short = if page.complete { "" } else { "looked at as many tasks as one query may; " };
                ctx.output.hint(format_args!("{short}more with --cursor {}", safe(&next)))?;
                return Ok(Exit::Ok.into());
            }
            None => return Ok(Exit::Ok.into()),
        }
    }
}
