//! Arguments of `selvedge dev`, and what it shares with `demo`: where servers come from.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

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
Ctrl-C stops everything.")]
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
