//! `selvedge schedule add | ls | get | rm | pause | resume`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::output::{fields, human_duration, table, unix_now};
use super::show::{labels, payload, when};
use super::submit::json;
use super::target::MadeArgs;
use crate::bus::limits::LimitsBucket;
use crate::flow::cron::Cron;
use crate::task::{AgentName, Millis, Missed, Payload, ScheduleName, ScheduleSettings, TenantName};

/// Arguments of `schedule`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge schedule add report --cron '0 9 * * 1-5' --tz Europe/Amsterdam --agent writer --input '{\"kind\":\"daily\"}'
  selvedge schedule add sweep --cron '*/15 * * * *' --agent sweeper --missed once --ttl 10m
  selvedge schedule ls

The task that fires at a time is called NAME-<Unix seconds>, so each firing is one task, whatever happens.
When the clocks change, a time that is skipped fires when they have skipped it, and a time that comes twice fires once;
a schedule for every hour follows the hours as they pass.")]
pub struct ScheduleArgs {
    /// Which.
    #[command(subcommand)]
    pub command: ScheduleCommand,
}

/// What can be done with schedules.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Set up a schedule, or replace one
    Add(Box<AddArgs>),
    /// List the schedules, with their next times
    #[command(visible_alias = "list")]
    Ls,
    /// Show a schedule
    Get {
        /// Name of the schedule
        name: ScheduleName,
    },
    /// Remove a schedule; its tasks stay
    Rm {
        /// Name of the schedule
        name: ScheduleName,
    },
    /// Let it fire no more for now
    Pause {
        /// Name of the schedule
        name: ScheduleName,
    },
    /// Undo a pause; what it did not fire meanwhile is not made up for
    Resume {
        /// Name of the schedule
        name: ScheduleName,
    },
}

/// Arguments of `schedule add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Name of the schedule, at most 48 characters
    pub name: ScheduleName,

    /// When: minute, hour, day of the month, month, day of the week; or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "EXPRESSION")]
    pub cron: String,

    /// Zone in which the expression is read
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub tz: String,

    /// Agent that is to run its tasks
    #[arg(long)]
    pub agent: AgentName,

    /// Input of its tasks, JSON [default: null]
    #[arg(long, value_name = "JSON")]
    pub input: Option<String>,

    /// Tenant its tasks belong to
    #[arg(short = 't', long, env = "SELVEDGE_TENANT", default_value = "default", value_name = "NAME")]
    pub tenant: TenantName,

    /// What becomes of times at which no coordinator was there: skip them, one task for all, or all (up to 100)
    #[arg(long, value_name = "POLICY", default_value = "skip", value_parser = missed)]
    pub missed: Missed,

    #[command(flatten)]
    made: MadeArgs,
}

fn missed(text: &str) -> Result<Missed, String> {
    Missed::parse(text).ok_or_else(|| "expected skip, once or all".to_owned())
}

/// A schedule as `schedule` prints it.
#[derive(Debug, Serialize)]
struct Shown {
    schedule: ScheduleName,
    #[serde(flatten)]
    settings: ScheduleSettings,
    /// Unix milliseconds; by this machine's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Millis>,
    revision: u64,
}

impl Shown {
    fn of(schedule: ScheduleName, settings: ScheduleSettings, revision: u64) -> Self {
        let cron = Cron::read(&settings.cron, &settings.tz).ok().filter(|_| !settings.paused);
        let next = cron.and_then(|cron| cron.after(unix_now()));
        Self { schedule, settings, next, revision }
    }

    fn next(&self) -> String {
        match self.next {
            Some(at) => when(at, unix_now()),
            None if self.settings.paused => "paused".to_owned(),
            None => "never".to_owned(),
        }
    }
}

/// Runs it.
pub async fn run(args: ScheduleArgs, ctx: Ctx) -> Result<ExitCode> {
    // What was typed wrong is told before anything is connected to.
    let adding = match &args.command {
        ScheduleCommand::Add(add) => Some(settings(add)?),
        _ => None,
    };
    let connection = ctx.connection().await?;
    let bucket = LimitsBucket::open(connection.jetstream()).await?;
    match args.command {
        ScheduleCommand::Add(add) => {
            let revision = bucket.schedule(&add.name).await?.map(|(_, revision)| revision);
            let Some(settings) = adding else { return Ok(Exit::Ok.into()) };
            let revision = bucket.set_schedule(&add.name, &settings, revision).await?;
            ctx.output.either(&Shown::of(add.name, settings, revision), one)?;
        }
        ScheduleCommand::Pause { name } => pause(&ctx, &bucket, name, true).await?,
        ScheduleCommand::Resume { name } => pause(&ctx, &bucket, name, false).await?,
        ScheduleCommand::Get { name } => {
            let (settings, revision) = find(&bucket, &name).await?;
            ctx.output.either(&Shown::of(name, settings, revision), one)?;
        }
        ScheduleCommand::Ls => {
            let mut schedules = Vec::new();
            for name in bucket.schedules().await? {
                if let Some((settings, revision)) = bucket.schedule(&name).await? {
                    schedules.push(Shown::of(name, settings, revision));
                }
            }
            if schedules.is_empty() {
                ctx.output.hint("no schedules were set up")?;
            }
            ctx.output.either(&All { schedules: &schedules }, |_| many(&schedules))?;
        }
        ScheduleCommand::Rm { name } => {
            find(&bucket, &name).await?;
            bucket.remove_schedule(&name).await?;
            ctx.output.either(&serde_json::json!({"schedule": name, "removed": true}), |_| {
                format!("schedule {name} is removed; its tasks stay")
            })?;
        }
    }
    Ok(Exit::Ok.into())
}

#[derive(Serialize)]
struct All<'a> {
    schedules: &'a [Shown],
}

fn settings(add: &AddArgs) -> Result<ScheduleSettings> {
    Cron::read(&add.cron, &add.tz)
        .map_err(|error| Failure::new(Exit::Usage, "BAD_CRON", error.to_string()))?;
    let input = match &add.input {
        Some(text) => json(text.as_bytes(), "--input")?,
        None => Payload::default(),
    };
    let settings = ScheduleSettings {
        cron: add.cron.clone(),
        tz: add.tz.clone(),
        tenant: add.tenant.clone(),
        agent: add.agent.clone(),
        input,
        priority: add.made.priority,
        max_tries: add.made.max_tries,
        cost: add.made.cost,
        times: add.made.times(),
        missed: add.missed,
        paused: false,
        labels: add.made.labels(),
    };
    settings.check().map_err(|rule| Failure::new(Exit::Usage, "BAD_SCHEDULE", rule))?;
    Ok(settings)
}

async fn pause(ctx: &Ctx, bucket: &LimitsBucket, name: ScheduleName, paused: bool) -> Result<()> {
    let (mut settings, revision) = find(bucket, &name).await?;
    settings.paused = paused;
    let revision = bucket.set_schedule(&name, &settings, Some(revision)).await?;
    ctx.output.either(&Shown::of(name, settings, revision), one)?;
    Ok(())
}

async fn find(bucket: &LimitsBucket, name: &ScheduleName) -> Result<(ScheduleSettings, u64)> {
    bucket.schedule(name).await?.ok_or_else(|| {
        Failure::new(Exit::Failed, "UNKNOWN_SCHEDULE", format!("there is no schedule {name}"))
            .help("`selvedge schedule ls` lists them")
            .into()
    })
}

fn one(shown: &Shown) -> String {
    let s = &shown.settings;
    let times = s.times.as_deref().copied().unwrap_or_default();
    let span =
        |ms: Option<Millis>| ms.map(|ms| human_duration(Duration::from_millis(ms))).unwrap_or_default();
    fields([
        ("schedule", shown.schedule.to_string()),
        ("cron", s.cron.clone()),
        ("zone", s.tz.clone()),
        ("next", shown.next()),
        ("missed", s.missed.as_str().to_owned()),
        ("tenant", s.tenant.to_string()),
        ("agent", s.agent.to_string()),
        ("input", payload(&s.input)),
        ("priority", s.priority.as_str().to_owned()),
        ("max tries", s.max_tries.map(|tries| tries.to_string()).unwrap_or_default()),
        ("cost", s.cost.map(|cells| cells.to_string()).unwrap_or_default()),
        ("ttl", span(times.ttl_ms)),
        ("try timeout", span(times.try_timeout_ms)),
        ("deadline", span(times.deadline_ms)),
        ("labels", labels(s.labels.as_deref())),
    ])
}

fn many(schedules: &[Shown]) -> String {
    table(
        ["SCHEDULE", "CRON", "ZONE", "TENANT", "AGENT", "MISSED", "NEXT"],
        schedules.iter().map(|shown| {
            let s = &shown.settings;
            [
                shown.schedule.to_string(),
                s.cron.clone(),
                s.tz.clone(),
                s.tenant.to_string(),
                s.agent.to_string(),
                s.missed.as_str().to_owned(),
                shown.next(),
            ]
        }),
    )
}
