//! Arguments of `selvedge demo`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::dev::ServerArgs;
use crate::cli::target::duration;

/// Arguments of `demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge demo
  selvedge demo ~/src/project --readers 4 --output digest.md
  selvedge demo --json                          (the counts, for scripts)

Starts NATS, Redis, a coordinator and three agents as processes of their own, reads every file below PATH, writes a
digest and stops everything again. With NATS_URL set it uses that server and stops only what it started.")]
pub struct DemoArgs {
    /// Directory to read [default: the repository, or the working directory]
    pub path: Option<PathBuf>,

    /// Where to write the digest
    #[arg(short, long, value_name = "FILE", default_value = ".selvedge/digest.md")]
    pub output: PathBuf,

    /// Reader processes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub readers: u16,

    /// Files each reader reads at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub slots: u16,

    /// Give up after this time
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub max_wait: Duration,

    /// Keep everything running afterwards, until Ctrl-C
    #[arg(long)]
    pub keep: bool,

    /// Which servers.
    #[command(flatten)]
    pub servers: ServerArgs,
}
