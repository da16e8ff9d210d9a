//! `selvedge trigger add | ls | get | rm | pause | resume`.

mod show;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use self::show::{All, Shown};
use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::target::{MadeArgs, duration};
use crate::bus::JetStream;
use crate::bus::triggers::{TriggersBucket, source_stream, start_of};
use crate::task::trigger::{
    BatchSettings, DEFAULT_MAX_HOPS, MAX_TRIGGERS, Source, Start, TriggerRate, TriggerSettings,
    topic::TopicFilter,
};
use crate::task::{AgentName, TenantName, TriggerName, millis};
use crate::wire::topology::{self, TOPICS, Topology};

/// Arguments of `trigger`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge trigger add read-docs --topic 'docs.>' --agent reader --template '{\"path\":\"{{message.path}}\"}'
  selvedge trigger add big-orders --stream ORDERS --subject 'orders.new' --agent clerk --filter 'message.priority=high'
  selvedge trigger add digest --topic 'docs.read' --agent editor --batch 100 --within 30s
  selvedge trigger get read-docs

Placeholders: {{message}} and its fields, {{topic}}, {{subject}}, {{id}}, {{seq}}, {{time}}; of a batch {{batch}}, {{count}}. A field
that need not be there ends in a question mark: {{message.author?}}. docs/triggers.md says what is promised.")]
pub struct TriggerArgs {
    /// Which.
    #[command(subcommand)]
    pub command: TriggerCommand,
}

/// What can be done with triggers.
#[derive(Debug, Subcommand)]
pub enum TriggerCommand {
    /// Set up a trigger, or replace one: it goes on where it is in its stream
    Add(Box<AddArgs>),
    /// List the triggers, with what became of their messages
    #[command(visible_alias = "list")]
    Ls,
    /// Show a trigger, with its latest dead letters
    Get {
        /// Name of the trigger
        name: TriggerName,
    },
    /// Remove a trigger; its tasks stay
    Rm {
        /// Name of the trigger
        name: TriggerName,
    },
    /// Let it make no tasks for now; it keeps its place
    Pause {
        /// Name of the trigger
        name: TriggerName,
    },
    /// Undo a pause; what came meanwhile becomes tasks
    Resume {
        /// Name of the trigger
        name: TriggerName,
    },
}

/// Where a trigger begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum From {
    /// With what comes from now on
    New,
    /// With everything the stream still holds
    All,
}

/// Arguments of `trigger add`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["topic", "stream"]))]
pub struct AddArgs {
    /// Name of the trigger
    pub name: TriggerName,

    /// Topics of the tenant; `*` stands for one name, `>` at the end for all that follow
    #[arg(long, value_name = "FILTER")]
    pub topic: Option<TopicFilter>,

    /// A JetStream stream of your own instead
    #[arg(long, value_name = "STREAM")]
    pub stream: Option<String>,

    /// Only this subject of the stream, wildcards allowed
    #[arg(long, value_name = "SUBJECT", requires = "stream")]
    pub subject: Option<String>,

    /// Agent that is to run its tasks
    #[arg(long)]
    pub agent: AgentName,

    /// Input of its tasks, JSON with placeholders [default: the message, or the list of a batch]
    #[arg(long, value_name = "JSON")]
    pub template: Option<String>,

    /// Only messages like this: message.kind=report, message.kind!=x, message.author, !message.draft; all of several
    #[arg(long, value_name = "CONDITION")]
    pub filter: Vec<String>,

    /// What makes two messages the same, with placeholders [default: the message's id, or its place in the stream]
    #[arg(long, value_name = "TEMPLATE")]
    pub dedupe: Option<String>,

    /// Tasks per second at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,

    /// Tasks at once after a quiet time [default: a second's]
    #[arg(long, value_name = "N", requires = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    pub burst: Option<u32>,

    /// One task for so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,

    /// Or for those that came within so long of the first
    #[arg(long, value_name = "DURATION", requires = "batch", default_value = "1s", value_parser = duration)]
    pub within: Duration,

    /// Triggers that may lie behind one of its tasks, itself included
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_HOPS)]
    pub max_hops: u32,

    /// Where it begins if it is new
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = From::New)]
    pub from: From,

    /// Tenant its topics and tasks belong to
    #[arg(short = 't', long, env = "SELVEDGE_TENANT", default_value = "default", value_name = "NAME")]
    pub tenant: TenantName,

    #[command(flatten)]
    made: MadeArgs,
}

/// Runs it.
pub async fn run(args: TriggerArgs, ctx: Ctx) -> Result<ExitCode> {
    // What was typed wrong is told before anything is connected to.
    let adding = match &args.command {
        TriggerCommand::Add(add) => Some(settings(add)?),
        _ => None,
    };
    let connection = ctx.connection().await?;
    let bucket = TriggersBucket::open(connection.jetstream()).await?;
    match args.command {
        TriggerCommand::Add(args) => {
            let Some(settings) = adding else { return Ok(Exit::Ok.into()) };
            add(&ctx, &bucket, connection.jetstream(), *args, settings).await?;
        }
        TriggerCommand::Pause { name } => pause(&ctx, &bucket, name, true).await?,
        TriggerCommand::Resume { name } => pause(&ctx, &bucket, name, false).await?,
        TriggerCommand::Get { name } => {
            let (settings, revision) = find(&bucket, &name).await?;
            let state = bucket.state(&name).await?.map(|(state, _)| state);
            ctx.output.either(&Shown { trigger: name, settings, state, revision }, show::one)?;
        }
        TriggerCommand::Ls => {
            let mut triggers = Vec::new();
            for name in bucket.names().await? {
                if let Some((settings, revision)) = bucket.trigger(&name).await? {
                    let state = bucket.state(&name).await?.map(|(state, _)| state);
                    triggers.push(Shown { trigger: name, settings, state, revision });
                }
            }
            if triggers.is_empty() {
                ctx.output.hint("no triggers were set up")?;
            }
            ctx.output.either(&All { triggers: &triggers }, |_| show::many(&triggers))?;
        }
        TriggerCommand::Rm { name } => {
            find(&bucket, &name).await?;
            bucket.remove(&name).await?;
            ctx.output.either(&serde_json::json!({"trigger": name, "removed": true}), |_| {
                format!("trigger {name} is removed; its tasks stay")
            })?;
        }
    }
    Ok(Exit::Ok.into())
}

fn settings(add: &AddArgs) -> Result<TriggerSettings> {
    let bad = |what: String| Failure::new(Exit::Usage, "BAD_TRIGGER", what);
    let source = match (&add.topic, &add.stream) {
        (Some(topic), _) => Source::Topic(topic.clone()),
        (None, Some(name)) => Source::Stream { name: name.clone(), subject: add.subject.clone() },
        (None, None) => return Err(bad("give --topic or --stream".to_owned()).into()),
    };
    if let Source::Stream { name, .. } = &source
        && is_ours(name)
    {
        return Err(
            bad(format!("{name} is a stream of the fabric; use --topic, or a stream of your own")).into()
        );
    }
    let template = add.template.as_deref().map(serde_json::from_str).transpose();
    let template = template.map_err(|error| {
        bad(format!("the template is not JSON: {error}"))
            .at("--template")
            .help("quote it for the shell: '{\"path\":\"{{message.path}}\"}', or '\"{{message}}\"'")
    })?;
    let settings = TriggerSettings {
        source,
        tenant: add.tenant.clone(),
        agent: add.agent.clone(),
        template,
        filter: add.filter.clone(),
        dedupe: add.dedupe.clone(),
        rate: add.rate.map(|rate| TriggerRate { rate, burst: add.burst.unwrap_or(rate) }),
        batch: add.batch.map(|count| BatchSettings { count, within_ms: millis(add.within) }),
        max_hops: add.max_hops,
        priority: add.made.priority,
        max_tries: add.made.max_tries,
        times: add.made.times(),
        cost: add.made.cost,
        start: Start::default(),
        paused: false,
        labels: add.made.labels(),
    };
    settings.check().map_err(bad)?;
    Ok(settings)
}

/// Whether a stream is one of the fabric's own: a trigger on it would read what it makes.
fn is_ours(stream: &str) -> bool {
    Topology::new(&topology::Sizing::default()).all_streams().any(|ours| ours.name == stream)
}

async fn add(
    ctx: &Ctx,
    bucket: &TriggersBucket,
    js: &JetStream,
    args: AddArgs,
    mut settings: TriggerSettings,
) -> Result<()> {
    let known = bucket.trigger(&args.name).await?;
    let names = bucket.names().await?;
    if known.is_none() && names.len() >= MAX_TRIGGERS {
        let message = format!("there are {} triggers, at most {MAX_TRIGGERS}", names.len());
        return Err(Failure::new(Exit::Failed, "TOO_MANY_TRIGGERS", message).into());
    }
    let stream = match &settings.source {
        Source::Topic(_) => TOPICS,
        Source::Stream { name, .. } => name,
    };
    let found = source_stream(js, stream).await?;
    if found.is_none() {
        ctx.output.hint(format!("there is no stream {stream} yet; the trigger begins when there is one"))?;
    }
    settings.start = match &known {
        Some((known, _)) if known.source == settings.source => known.start.clone(),
        _ => start_of(found.as_ref(), args.from == From::All),
    };
    let revision = known.map(|(_, revision)| revision);
    let revision = bucket.set(&args.name, &settings, revision).await?;
    let state = bucket.state(&args.name).await?.map(|(state, _)| state);
    ctx.output.either(&Shown { trigger: args.name, settings, state, revision }, show::one)?;
    Ok(())
}

async fn pause(ctx: &Ctx, bucket: &TriggersBucket, name: TriggerName, paused: bool) -> Result<()> {
    let (mut settings, revision) = find(bucket, &name).await?;
    settings.paused = paused;
    let revision = bucket.set(&name, &settings, Some(revision)).await?;
    let state = bucket.state(&name).await?.map(|(state, _)| state);
    ctx.output.either(&Shown { trigger: name, settings, state, revision }, show::one)?;
    Ok(())
}

async fn find(bucket: &TriggersBucket, name: &TriggerName) -> Result<(TriggerSettings, u64)> {
    bucket.trigger(name).await?.ok_or_else(|| {
        Failure::new(Exit::Failed, "UNKNOWN_TRIGGER", format!("there is no trigger {name}"))
            .help("`selvedge trigger ls` lists them")
            .into()
    })
}
