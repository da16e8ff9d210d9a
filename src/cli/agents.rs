//! `selvedge agents [NAME]`: who is there, and what they say about themselves.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::context::Ctx;
use super::failure::Exit;
use super::output::{fields, human_duration, table};
use super::show::payload;
use super::target::TenantArg;
use crate::task::AgentName;
use crate::wire::about::{About, AgentView, AgentsReply, AgentsRequest, InstanceView};

/// Arguments of `agents`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge agents
  selvedge agents reader
  selvedge agents reader --schemas --json

The owner says what it has heard from live instances. Of the tasks they run it names those of the tenant only.")]
pub struct AgentsArgs {
    /// Only this agent, with what it says about itself
    pub name: Option<AgentName>,

    /// With the schemas of inputs and results
    #[arg(long)]
    pub schemas: bool,

    /// Whose tasks are named.
    #[command(flatten)]
    pub tenant: TenantArg,
}

/// Runs it.
pub async fn run(args: AgentsArgs, ctx: Ctx) -> Result<ExitCode> {
    let client = ctx.client(&args.tenant.tenant).await?;
    let request = AgentsRequest { agent: args.name.clone(), schemas: args.schemas };
    let reply = client.agents(&request).await?;
    if reply.agents.is_empty() {
        ctx.output.hint(match &args.name {
            Some(name) => format!("no instance of {name} is there"),
            None => "no agent is there".to_owned(),
        })?;
    }
    ctx.output.either(&reply, |reply| match args.name {
        Some(_) => reply.agents.iter().map(one).collect::<Vec<_>>().join("\n"),
        None => all(reply),
    })?;
    if reply.more {
        ctx.output.hint("there are more instances; ask for one agent")?;
    }
    Ok(Exit::Ok.into())
}

fn all(reply: &AgentsReply) -> String {
    let lines = reply.agents.iter().flat_map(|agent| {
        agent.instances.iter().map(|instance| {
            let about = about_of(agent, instance);
            let description = about.and_then(|about| about.description.as_deref()).unwrap_or_default();
            [
                agent.agent.to_string(),
                instance.instance.to_string(),
                instance.version.clone().unwrap_or_default(),
                instance.state.clone(),
                format!("{}/{}", instance.running, slots(instance)),
                tasks(instance),
                description.lines().next().unwrap_or_default().chars().take(60).collect(),
            ]
        })
    });
    table(["AGENT", "INSTANCE", "VERSION", "STATE", "RUNNING", "TASKS", "DESCRIPTION"], lines)
}

/// What the instance says: that of its version.
fn about_of<'a>(agent: &'a AgentView, instance: &InstanceView) -> Option<&'a About> {
    agent.about.iter().find(|about| about.version == instance.version)
}

fn slots(instance: &InstanceView) -> String {
    match instance.call_slots {
        0 => instance.slots.to_string(),
        kept => format!("{} ({kept} for calls)", instance.slots),
    }
}

fn tasks(instance: &InstanceView) -> String {
    let shown: Vec<&str> = instance.tasks.iter().take(3).map(|task| task.as_str()).collect();
    match instance.tasks.len() {
        n if n > 3 => format!("{} and {} more", shown.join(" "), n - 3),
        _ => shown.join(" "),
    }
}

fn one(agent: &AgentView) -> String {
    let mut parts = Vec::new();
    for about in &agent.about {
        let limits: Vec<String> = about.limits.iter().map(|(name, n)| format!("{name} {n}")).collect();
        parts.push(fields([
            ("agent", agent.agent.to_string()),
            ("version", about.version.clone().unwrap_or_default()),
            ("description", about.description.clone().unwrap_or_default()),
            ("limits", limits.join("\n")),
            ("input", about.input.as_ref().map(payload).unwrap_or_default()),
            ("output", about.output.as_ref().map(payload).unwrap_or_default()),
        ]));
    }
    parts.push(table(
        ["INSTANCE", "VERSION", "STATE", "SLOTS", "FREE", "RUNNING", "HEARD", "SCHEMA", "TASKS"],
        agent.instances.iter().map(|instance| {
            [
                instance.instance.to_string(),
                instance.version.clone().unwrap_or_default(),
                instance.state.clone(),
                slots(instance),
                instance.free.to_string(),
                instance.running.to_string(),
                format!("{} ago", human_duration(Duration::from_millis(instance.silent_ms))),
                instance.schema_error.clone().unwrap_or_default(),
                tasks(instance),
            ]
        }),
    ));
    parts.join("\n")
}
