//! `selvedge bridge expose | forward`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::context::Ctx;
use super::failure::Exit;
use super::target::{TenantArg, duration};
use crate::bridge::{expose, forward};
use crate::bus::Link;
use crate::task::AgentName;

/// Arguments of `bridge`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge bridge expose --tenant acme                    (every agent that takes calls)
  selvedge bridge expose --agent writer --agent critic
  selvedge bridge forward claude --to agents.prompt.claude-code.ada.main --slots 4

Speaks the Synadia Agent Protocol for NATS, 0.3. Both run until SIGTERM.")]
pub struct BridgeArgs {
    /// Which way.
    #[command(subcommand)]
    pub command: BridgeCommand,
}

/// The two ways.
#[derive(Debug, Subcommand)]
pub enum BridgeCommand {
    /// Show a tenant's agents as agents of the protocol: a prompt becomes a call
    Expose {
        /// Whose calls the prompts are.
        #[command(flatten)]
        tenant: TenantArg,

        /// Show this agent; may be repeated [default: all that are heard of]
        #[arg(long, value_name = "AGENT")]
        agent: Vec<AgentName>,
    },
    /// Serve a fabric agent by prompting an agent of the protocol
    Forward {
        /// Name of the fabric agent
        name: AgentName,

        /// Subject of the other's prompt endpoint
        #[arg(long, value_name = "SUBJECT")]
        to: String,

        /// Prompts at once
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        slots: u32,

        /// How long running tasks may go on after SIGTERM
        #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = duration)]
        drain: Duration,
    },
}

/// Runs it.
pub async fn run(args: BridgeArgs, ctx: Ctx) -> Result<ExitCode> {
    match args.command {
        BridgeCommand::Expose { tenant, agent } => {
            let client = ctx.client(&tenant.tenant).await?;
            let which = match agent.is_empty() {
                true => expose::Which::Heard,
                false => expose::Which::These(agent),
            };
            expose::run(client, which, ctx.stop).await?;
        }
        BridgeCommand::Forward { name, to, slots, drain } => {
            let link = Link::connect(&ctx.nats()?, &format!("selvedge-bridge/{name}")).await?;
            let agent = forward::agent(name.as_str(), &to, &link)?.slots(slots).drain_timeout(drain);
            agent.run_until(link, ctx.stop).await?;
        }
    }
    Ok(Exit::Ok.into())
}
