//! The agent that is measured: a process of its own whose handler does nothing but say when it was called, or takes as
//! long as its input says.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use tokio::task::JoinSet;

use super::args::{BenchAgentArgs, Work};
use super::{call::PARTS_PER_SECOND, clock, trace};
use crate::agent::{Agent, AgentError, Ctx};
use crate::bus::Link;
use crate::cli::context::Ctx as Command;
use crate::cli::failure::Exit;
use crate::task::Payload;

/// Below this a thread sleeps: a runtime's timers round up to a millisecond.
const SHORT: Duration = Duration::from_millis(200);

/// Runs it until SIGTERM.
pub async fn run(args: BenchAgentArgs, ctx: Command) -> Result<ExitCode> {
    let mut running = JoinSet::new();
    for _ in 0..args.instances {
        let link = Link::connect(&ctx.nats()?, &format!("selvedge-bench/{}", args.name)).await?;
        let agent = match args.work {
            Work::None => told(&args.name, args.events)?,
            Work::Timed => timed(&args.name, &link)?,
            Work::Stream => streaming(&args.name)?,
        };
        let agent = agent.slots(args.slots).drain_timeout(Duration::from_secs(3));
        running.spawn(agent.run_until(link, ctx.stop.clone()));
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(Exit::Ok.into())
}

/// Says when it was called, after so many events. As the floor's: 8 bytes of result, so that a start can be told without
/// another message.
fn told(name: &str, events: u32) -> Result<Agent> {
    let handler = move |ctx: Ctx, _: Payload| async move {
        let result = Payload::Bytes(Bytes::copy_from_slice(&clock::now().to_le_bytes()));
        for _ in 0..events {
            ctx.emit_raw("token", result.clone()).await?;
        }
        Ok::<_, AgentError>(result)
    };
    Ok(Agent::raw(name, handler)?)
}

/// Emits as many parts as its input says at an even pace, each with the time at which it was made.
fn streaming(name: &str) -> Result<Agent> {
    let handler = |ctx: Ctx, input: Payload| async move {
        let parts = match &input {
            Payload::Bytes(bytes) => clock::read(bytes).unwrap_or(0),
            Payload::Json(_) => 0,
        };
        let step = Duration::from_secs(1) / PARTS_PER_SECOND as u32;
        let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + step, step);
        for part in 0..parts {
            // The first one at once: a timer that is due takes up to a millisecond to say so.
            if part > 0 {
                pace.tick().await;
            }
            ctx.emit_raw("part", Payload::Bytes(Bytes::copy_from_slice(&clock::now().to_le_bytes()))).await?;
        }
        Ok::<_, AgentError>(Payload::default())
    };
    Ok(Agent::raw(name, handler)?)
}

/// Takes as many microseconds as its input says, and tells when it began, ended, or was told to stop.
fn timed(name: &str, link: &Link) -> Result<Agent> {
    let lane = link.main.clone();
    let handler = move |ctx: Ctx, input: Payload| {
        let lane = lane.clone();
        async move {
            let began = clock::now();
            let tell = async |what: &str| {
                let told = lane.tell(what.to_owned(), trace::encode(ctx.tenant().as_str(), began).into());
                told.await.map_err(|error| AgentError::fatal(error.to_string()))
            };
            tell(trace::BEGAN).await?;
            let length = match &input {
                Payload::Bytes(bytes) => Duration::from_micros(clock::read(bytes).unwrap_or(0)),
                Payload::Json(_) => Duration::ZERO,
            };
            let slept = async {
                match length < SHORT {
                    // It can't fail: it neither panics nor is aborted before it began.
                    true => drop(tokio::task::spawn_blocking(move || std::thread::sleep(length)).await),
                    false => tokio::time::sleep(length).await,
                }
            };
            tokio::select! {
                () = slept => tell(trace::ENDED).await?,
                () = ctx.cancelled() => tell(trace::STOPPED).await?,
            }
            Ok::<_, AgentError>(Payload::default())
        }
    };
    Ok(Agent::raw(name, handler)?)
}
