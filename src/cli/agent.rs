//! `selvedge agent set | get | list | pause | resume | rm`: limits of an agent that all tenants share.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::limits::optional;
use super::operate::{self, Desk};
use super::output::table;
use crate::bus::limits::LimitsBucket;
use crate::flow::operate::Change;
use crate::task::{AgentName, AgentSettings, Per};

/// Arguments of `agent`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge agent set writer --rate 500 --per minute --burst 20
  selvedge agent set writer --cells 200000      (tokens per minute; a task takes its --cost)
  selvedge agent set writer --in-flight 40
  selvedge agent pause writer --stop            (what runs is stopped, and queued again; no try is lost)

A change counts at once, for queued tasks too, and for all tenants together; the command returns when the owner has
journaled it.")]
pub struct AgentArgs {
    /// Which.
    #[command(subcommand)]
    pub command: AgentCommand,
}

/// What can be done with agents.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Limit an agent, or change what is given
    Set {
        /// Name of the agent
        name: AgentName,

        /// Drop the limits it has before applying the ones given
        #[arg(long)]
        reset: bool,

        /// Change it only if its entry is at this revision
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,

        /// The limits.
        #[command(flatten)]
        limits: AgentLimitArgs,
    },
    /// Show an agent's limits
    Get {
        /// Name of the agent
        name: AgentName,
    },
    /// List the agents with limits
    #[command(visible_alias = "ls")]
    List,
    /// Dispatch nothing to an agent; what runs goes on, unless it is stopped
    Pause {
        /// Name of the agent
        name: AgentName,

        /// Stop what runs, too, and queue it again
        #[arg(long)]
        stop: bool,
    },
    /// Undo a pause
    Resume {
        /// Name of the agent
        name: AgentName,
    },
    /// Forget an agent's limits
    Rm {
        /// Name of the agent
        name: AgentName,
    },
}

/// The limits of an agent; what is not given stays as it is.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct AgentLimitArgs {
    /// Tasks running at once, of all tenants; 0 pauses
    #[arg(long, value_name = "N")]
    pub in_flight: Option<u32>,

    /// Dispatches per second, or per what --per says, on average; 0 pauses
    #[arg(long, value_name = "N")]
    pub rate: Option<u32>,

    /// What the rate is counted by: second, minute or hour
    #[arg(long, value_name = "TIME", value_parser = per)]
    pub per: Option<Per>,

    /// Dispatches at once after a quiet time [default: 1]
    #[arg(long, value_name = "N")]
    pub burst: Option<u32>,

    /// Cells (tokens, say) per minute, of which tasks take their cost; 0 pauses
    #[arg(long, value_name = "PER_MINUTE")]
    pub cells: Option<u32>,

    /// Cells at once after a quiet time [default: those of a minute]
    #[arg(long, value_name = "N")]
    pub cells_burst: Option<u32>,
}

impl AgentLimitArgs {
    /// What is given, over what there is.
    fn over(&self, known: AgentSettings) -> AgentSettings {
        AgentSettings {
            in_flight: self.in_flight.or(known.in_flight),
            rate: self.rate.or(known.rate),
            per: self.per.unwrap_or(known.per),
            burst: self.burst.or(known.burst),
            cells: self.cells.or(known.cells),
            cells_burst: self.cells_burst.or(known.cells_burst),
            ..known
        }
    }
}

fn per(text: &str) -> Result<Per, String> {
    Per::parse(text).ok_or_else(|| "expected second, minute or hour".to_owned())
}

/// An agent as `agent` prints it.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Which.
    pub agent: AgentName,
    #[serde(flatten)]
    settings: AgentSettings,
    /// Of its entry.
    pub revision: u64,
}

/// Runs it.
pub async fn run(args: AgentArgs, ctx: Ctx) -> Result<ExitCode> {
    let desk = Desk::open(&ctx).await?;
    let bucket = &desk.bucket;
    match args.command {
        AgentCommand::Set { name, reset, if_revision, limits } => {
            let shown = edit(bucket, name, if_revision, |known| {
                let bare =
                    AgentSettings { paused: known.paused, stopped: known.stopped, ..Default::default() };
                limits.over(if reset { bare } else { known })
            });
            let shown = shown.await?;
            desk.journaled(Change::Agent(shown.agent.clone(), shown.revision)).await?;
            ctx.output.either(&shown, one)?;
        }
        AgentCommand::Pause { name, stop } => {
            let shown = pause(&desk, name, true, stop).await?;
            ctx.output.either(&shown, one)?;
        }
        AgentCommand::Resume { name } => {
            let shown = pause(&desk, name, false, false).await?;
            ctx.output.either(&shown, one)?;
        }
        AgentCommand::Get { name } => {
            let Some(shown) = find(bucket, &name).await? else { return Err(not_set(&name)) };
            ctx.output.either(&shown, one)?;
        }
        AgentCommand::List => {
            let mut agents = Vec::new();
            for name in bucket.agents().await? {
                agents.extend(find(bucket, &name).await?);
            }
            if agents.is_empty() {
                ctx.output.hint("no agent has limits of its own")?;
            }
            ctx.output.either(&Agents { agents: &agents }, |_| many(&agents))?;
        }
        AgentCommand::Rm { name } => {
            let Some((known, revision)) = bucket.agent(&name).await? else { return Err(not_set(&name)) };
            if let Err(error) = bucket.remove_agent(&name, revision).await {
                return Err(operate::told(error, Some(&known), bucket.agent(&name)).await);
            }
            desk.journaled(Change::AgentRemoved(name.clone())).await?;
            ctx.output.either(&serde_json::json!({"agent": name, "removed": true}), |_| {
                format!("{name} has no limits of its own any more")
            })?;
        }
    }
    Ok(Exit::Ok.into())
}

#[derive(Serialize)]
struct Agents<'a> {
    agents: &'a [Shown],
}

/// Pauses an agent, or lets it go on; returns once that is journaled.
pub async fn pause(desk: &Desk, name: AgentName, paused: bool, stop: bool) -> Result<Shown> {
    let shown = edit(&desk.bucket, name, None, |known| AgentSettings {
        paused,
        stopped: paused && (stop || known.stopped),
        ..known
    });
    let shown = shown.await?;
    desk.journaled(Change::Agent(shown.agent.clone(), shown.revision)).await?;
    Ok(shown)
}

/// One change of one agent's settings: read, changed, written if nobody else wrote meanwhile.
async fn edit(
    bucket: &LimitsBucket,
    name: AgentName,
    if_revision: Option<u64>,
    change: impl FnOnce(AgentSettings) -> AgentSettings,
) -> Result<Shown> {
    let known = bucket.agent(&name).await?;
    let revision = known.as_ref().map(|(_, revision)| *revision);
    operate::expect(&format!("agent {name}"), if_revision, revision)?;
    let before = known.map(|(settings, _)| settings);
    let settings = change(before.clone().unwrap_or_default());
    match bucket.set_agent(&name, &settings, revision).await {
        Ok(revision) => Ok(Shown { agent: name, settings, revision }),
        Err(error) => Err(operate::told(error, before.as_ref(), bucket.agent(&name)).await),
    }
}

async fn find(bucket: &LimitsBucket, name: &AgentName) -> Result<Option<Shown>> {
    let found = bucket.agent(name).await?;
    Ok(found.map(|(settings, revision)| Shown { agent: name.clone(), settings, revision }))
}

fn not_set(name: &AgentName) -> anyhow::Error {
    Failure::new(Exit::Failed, "UNKNOWN_AGENT", format!("agent {name} has no limits of its own"))
        .help(format!("`selvedge agent set {name}` sets some; without, only its tenants' limits count"))
        .into()
}

fn state(settings: &AgentSettings) -> &'static str {
    match (settings.paused, settings.stopped) {
        (_, true) => "stopped",
        (true, false) => "paused",
        (false, false) => "active",
    }
}

fn rate(settings: &AgentSettings) -> String {
    settings.rate.map_or("-".to_owned(), |rate| format!("{rate}/{}", settings.per.as_str()))
}

fn bursts(settings: &AgentSettings) -> (String, String) {
    let burst = |quota: Option<crate::task::Quota>| optional(quota.map(|quota| quota.burst));
    (burst(settings.rate_quota()), burst(settings.cell_quota()))
}

fn one(shown: &Shown) -> String {
    let settings = &shown.settings;
    let (burst, cells_burst) = bursts(settings);
    let rows = [
        ("in flight", optional(settings.in_flight)),
        ("rate", rate(settings)),
        ("burst", burst),
        ("cells per minute", optional(settings.cells)),
        ("cells at once", cells_burst),
    ];
    let limits = table(["LIMIT", "VALUE"], rows.map(|(name, value)| [name.to_owned(), value]));
    format!("agent {} ({}, revision {})\n\n{limits}", shown.agent, state(settings), shown.revision)
}

fn many(agents: &[Shown]) -> String {
    table(
        ["AGENT", "STATE", "IN FLIGHT", "RATE", "BURST", "CELLS/MIN", "AT ONCE"],
        agents.iter().map(|shown| {
            let settings = &shown.settings;
            let (burst, cells_burst) = bursts(settings);
            [
                shown.agent.to_string(),
                state(settings).to_owned(),
                optional(settings.in_flight),
                rate(settings),
                burst,
                optional(settings.cells),
                cells_burst,
            ]
        }),
    )
}
