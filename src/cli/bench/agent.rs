//! The agent that is measured: a process of its own whose handler does nothing but say when it was called.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;

use super::args::BenchAgentArgs;
use super::clock;
use crate::agent::{Agent, AgentError, Ctx};
use crate::bus::Link;
use crate::cli::context::Ctx as Command;
use crate::cli::failure::Exit;
use crate::task::Payload;

/// Runs it until SIGTERM.
pub async fn run(args: BenchAgentArgs, ctx: Command) -> Result<ExitCode> {
    let link = Link::connect(&ctx.nats()?, &format!("selvedge-bench/{}", args.name)).await?;
    // As the floor's: 8 bytes of result, so that a start can be told without another message.
    let events = args.events;
    let handler = move |ctx: Ctx, _: Payload| async move {
        let result = Payload::Bytes(Bytes::copy_from_slice(&clock::now().to_le_bytes()));
        for _ in 0..events {
            ctx.emit_raw("token", result.clone()).await?;
        }
        Ok::<_, AgentError>(result)
    };
    let agent = Agent::raw(&args.name, handler)?.slots(args.slots).drain_timeout(Duration::from_secs(3));
    agent.run_until(link, ctx.stop).await?;
    Ok(Exit::Ok.into())
}
