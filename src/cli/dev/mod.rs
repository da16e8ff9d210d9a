//! `selvedge dev`: everything a developer needs, running until Ctrl-C or until a command ends.
//!
//! Starts a [`Stack`], says where it is once all of it is healthy, then reports what happens to its processes.
//! `command` runs the user's own command, [`endpoints`] is what scripts read.

mod command;
pub mod endpoints;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use owo_colors::OwoColorize;
use tokio::sync::broadcast::error::RecvError;

use self::command::UserCommand;
use self::endpoints::Endpoints;
pub use self::endpoints::write_whole;
use super::context::Ctx;
use super::failure::Exit;
use super::output::safe;
use super::servers::Event;
use super::stack::logs::Tail;
use super::stack::{DataDir, Given, Port, Stack, Wanted};

/// How often the logs are looked at.
const LOGS: Duration = Duration::from_millis(250);

/// Where nats-server and Redis or Valkey come from.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Servers")]
pub struct ServerArgs {
    /// The nats-server to run, at least 2.15.1 [default: PATH, then the cache, then installed]
    #[arg(long, value_name = "PATH", env = "SELVEDGE_NATS_SERVER")]
    pub nats_server: Option<PathBuf>,

    /// The redis-server or valkey-server to run, at least Redis 7.0 [default: PATH, then the cache, then installed]
    #[arg(long, value_name = "PATH", env = "SELVEDGE_REDIS_SERVER")]
    pub redis_server: Option<PathBuf>,

    /// Install nothing: end with the command to run instead
    #[arg(long)]
    pub offline: bool,
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge dev
  selvedge dev --ephemeral --json               (one line with the endpoints, for scripts)
  selvedge dev -- python3 examples/worker.py    (runs the command with NATS_URL set, and stops with it)

Everything listens on loopback. A server given with NATS_URL or REDIS_URL is used instead of starting one.
Ctrl-C stops everything. With a command, its exit code is passed on.")]
pub struct DevArgs {
    /// Where data, logs and the lock file are kept
    #[arg(long, value_name = "DIR", default_value = ".selvedge/dev", conflicts_with = "ephemeral")]
    pub data: PathBuf,

    /// Keep data in a temporary directory and remove it at the end
    #[arg(long)]
    pub ephemeral: bool,

    /// Remove the data of earlier runs first
    #[arg(long, conflicts_with = "ephemeral")]
    pub reset: bool,

    /// Port of NATS; 0 for any [default: 4222, or the next free one]
    #[arg(long, value_name = "PORT")]
    pub nats_port: Option<u16>,

    /// Port of Redis; 0 for any [default: 6379, or the next free one]
    #[arg(long, value_name = "PORT")]
    pub redis_port: Option<u16>,

    /// Port of the admin server; 0 for any [default: 7717, or the next free one]
    #[arg(long, value_name = "PORT")]
    pub admin_port: Option<u16>,

    /// Write the endpoints to this file as JSON once all is healthy
    #[arg(long, value_name = "FILE")]
    pub ports_file: Option<PathBuf>,

    /// Save a NATS context called selvedge-dev
    #[arg(long)]
    pub write_nats_context: bool,

    /// Which servers.
    #[command(flatten)]
    pub servers: ServerArgs,

    /// Command to run once all is healthy
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Runs it.
pub async fn run(args: DevArgs, ctx: Ctx) -> Result<ExitCode> {
    let stop = ctx.stop.clone();
    let wanted = wanted(&args, &ctx)?;
    let mut stack = tokio::select! {
        started = Stack::start(wanted, Arc::new(|line: &str| say(line))) => started?,
        () = stop.cancelled() => return Ok(Exit::Interrupted.into()),
    };
    let watched = watch(&args, &ctx, &mut stack).await;
    if let Some(file) = &args.ports_file {
        // Whoever still reads it would find nobody there.
        let _ = std::fs::remove_file(file);
    }
    stack.stop().await;
    watched
}

fn wanted(args: &DevArgs, ctx: &Ctx) -> Result<Wanted> {
    let given = Given::of(ctx)?;
    let data = if args.ephemeral { DataDir::ephemeral()? } else { DataDir::kept(&args.data, args.reset)? };
    Ok(Wanted {
        persist: !data.is_ephemeral(),
        data,
        nats_port: Port::of(args.nats_port, 4222, "--nats-port"),
        redis_port: Port::of(args.redis_port, 6379, "--redis-port"),
        admin_port: Port::of(args.admin_port, 7717, "--admin-port"),
        servers: args.servers.clone(),
        given,
        config: ctx.globals.config.as_deref().map(std::path::absolute).transpose()?,
    })
}

async fn watch(args: &DevArgs, ctx: &Ctx, stack: &mut Stack) -> Result<ExitCode> {
    let mut events = stack.events();
    let mut tail = Tail::from_now(stack.logs());
    if args.write_nats_context {
        let file = endpoints::write_nats_context(&stack.nats.url)?;
        say(&format!("wrote the NATS context {} ({})", endpoints::CONTEXT, file.display()));
    }
    let told = Endpoints::of(stack);
    if let Some(file) = &args.ports_file {
        told.write(file)?;
    }
    let with_command = !args.command.is_empty();
    match (ctx.output.json, with_command) {
        (true, false) => ctx.output.json_line(&told)?,
        (false, false) => ctx.output.raw(told.screen(args.write_nats_context))?,
        // Standard output belongs to the command.
        (true, true) => eprint_line(&serde_json::to_string(&told)?),
        (false, true) => eprint_line(&format!("{}\n", told.line())),
    }
    let mut command = match with_command {
        true => Some(UserCommand::start(&args.command, stack)?),
        false => None,
    };
    let mut looks = tokio::time::interval(LOGS);
    loop {
        tokio::select! {
            () = ctx.stop.cancelled() => {
                if let Some(command) = command {
                    return command.stop().await;
                }
                if std::io::stderr().is_terminal() {
                    // After the terminal's own ^C.
                    eprint_line("");
                }
                say("stopping everything");
                return Ok(Exit::Ok.into());
            }
            ended = UserCommand::ended(command.as_mut()) => return ended,
            event = events.recv() => {
                match event {
                    Ok(event) => tell(&event),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(Exit::Failed.into()),
                }
                if let Some(file) = &args.ports_file {
                    Endpoints::of(stack).write(file)?;
                }
            }
            _ = looks.tick() => {
                for (name, line) in tail.warnings() {
                    eprint_line(&format!("{} {}", format!("[{name}]").dimmed(), safe(&line)));
                }
            }
        }
    }
}

fn tell(event: &Event) {
    if let Some(line) = happened(event) {
        say(&line);
    }
}

/// What happened to a process, as a person reads it; nothing for what was to be expected.
pub fn happened(event: &Event) -> Option<String> {
    Some(match event {
        Event::Started { restarts: 0, .. } | Event::Stopped { .. } => return None,
        Event::Started { name, pid, .. } => format!("{name} is back as pid {pid}"),
        Event::Died { name, pid, how } => format!("{name} (pid {pid}) ended: {how}; starting it again"),
        Event::NotStarted { name, why } => format!("{name} cannot be started: {why}; trying again"),
        Event::CrashLooping { name, deaths } => {
            format!("{name} died {deaths} times in a row; trying more slowly (see its log)")
        }
    })
}

/// One line to the person at the terminal.
pub fn say(line: &str) {
    eprint_line(&format!("{} {}", "selvedge:".dimmed(), safe(line)));
}

/// What a person types to call us again: `selvedge`, or the path it was called by.
pub fn own_name() -> String {
    let name = std::env::args().next().unwrap_or_default();
    match name.contains('/') {
        true => safe(&name),
        false => "selvedge".to_owned(),
    }
}

fn eprint_line(line: &str) {
    use std::io::Write;
    // Nobody is left to be told if this fails.
    let _ = writeln!(anstream::stderr(), "{line}");
}
