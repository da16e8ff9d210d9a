//! The `selvedge` command: one file per verb, each with its arguments and its `run`.
//!
//! ```text
//! main ──▶ run ──▶ args::Cli ──▶ Ctx (configuration, output, stop) ──▶ <verb>::run ──▶ exit code
//!                                                                        └─ error ──▶ failure::report
//! ```
//!
//! Nothing here decides about tasks: the verbs go through the client SDK or start a coordinator. Results go to
//! standard output through [`output::Output`], everything else to standard error.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tokio_util::sync::CancellationToken;

pub mod agent;
pub mod agents;
pub mod args;
pub mod bench;
pub mod bridge;
pub mod call;
pub mod cancel;
pub mod completions;
pub mod config;
pub mod connect;
pub mod context;
pub mod coordinator;
pub mod dead;
pub mod demo;
pub mod dev;
pub mod doctor;
pub mod failure;
pub mod get;
pub mod index;
pub mod limits;
pub mod list;
pub mod nats;
pub mod nats_args;
pub mod operate;
pub mod output;
pub mod pause;
pub mod plan;
pub mod publish;
pub mod reference;
pub mod schedule;
pub mod servers;
pub mod show;
mod signals;
pub mod stack;
pub mod submit;
pub mod target;
pub mod tell;
pub mod tenant;
pub mod tenants;
pub mod trigger;
pub mod watch;
pub mod why;

use args::{Cli, Command};
use context::Ctx;
use failure::{Exit, Failure};

/// Parses the command line and runs the command; returns what to exit with.
pub async fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as an error too, and go to standard output. A closed pipe is nobody's concern.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    let json = cli.globals.json;
    let stop = CancellationToken::new();
    let watcher = signals::cancel_on_signal(stop.clone());
    let result = start(cli, stop).await;
    watcher.abort();
    match result {
        Ok(code) => code,
        Err(error) => failure::report(&error, json).into(),
    }
}

async fn start(cli: Cli, stop: CancellationToken) -> Result<ExitCode> {
    let ctx = Ctx::new(cli.globals, &cli.command, stop.clone());
    // Without a configuration there are still logs: the mistake itself may be in `[log]`.
    let log = ctx.loaded().ok().map(|loaded| cli.command.log(loaded));
    crate::telemetry::logs::init(log.as_ref()).map_err(|error| {
        Failure::new(Exit::Config, "CONFIG_BAD_VALUE", error.to_string())
            .help("for example: info,selvedge=debug")
    })?;
    match cli.command {
        Command::Demo(args) => demo::run(args, ctx).await,
        Command::Dev(args) => dev::run(args, ctx).await,
        Command::Bench(args) => bench::run(args, ctx).await,
        Command::BenchAgent(args) => bench::agent::run(args, ctx).await,
        Command::BenchReference(args) => bench::reference::run(args, ctx).await,
        Command::DemoAgent(args) => demo::agents::run(args, ctx).await,
        Command::Coordinator(args) => coordinator::run(args, ctx).await,
        Command::Bridge(args) => bridge::run(args, ctx).await,
        Command::Submit(args) => until(stop, submit::run(args, ctx)).await,
        Command::Get(args) => until(stop, get::run(args, ctx)).await,
        Command::List(args) => until(stop, list::run(args, ctx)).await,
        Command::Watch(args) => until(stop, watch::run(args, ctx)).await,
        Command::Cancel(args) => until(stop, cancel::run(args, ctx)).await,
        Command::Call(args) => until(stop, call::run(args, ctx)).await,
        Command::Tell(args) => until(stop, tell::tell(args, ctx)).await,
        Command::Signal(args) => until(stop, tell::signal(args, ctx)).await,
        Command::Dead(args) => until(stop, dead::run(args, ctx)).await,
        Command::Why(args) => until(stop, why::run(args, ctx)).await,
        Command::Tenants(args) => until(stop, tenants::run(args, ctx)).await,
        Command::Tenant(args) => until(stop, tenant::run(args, ctx)).await,
        Command::Plan(args) => until(stop, plan::run(args, ctx)).await,
        Command::Schedule(args) => until(stop, schedule::run(args, ctx)).await,
        Command::Trigger(args) => until(stop, trigger::run(args, ctx)).await,
        Command::Publish(args) => until(stop, publish::run(args, ctx)).await,
        Command::Agents(args) => until(stop, agents::run(args, ctx)).await,
        Command::Agent(args) => until(stop, agent::run(args, ctx)).await,
        Command::Pause(args) => until(stop, pause::run(args, ctx)).await,
        Command::Resume(args) => until(stop, pause::resume(args, ctx)).await,
        Command::Nats(args) => until(stop, nats::run(args, ctx)).await,
        Command::Doctor(args) => until(stop, doctor::run(args, ctx)).await,
        Command::Index(args) => until(stop, index::run(args, ctx)).await,
        Command::Config(args) => until(stop, config::run(args, ctx)).await,
        Command::Completions(args) => until(stop, completions::run(args, ctx)).await,
    }
}

/// Runs a command that has nothing to drain: at the signal it simply ends. The others watch `ctx.stop` themselves.
async fn until(stop: CancellationToken, command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    tokio::select! {
        result = command => result,
        () = stop.cancelled() => Ok(Exit::Interrupted.into()),
    }
}
