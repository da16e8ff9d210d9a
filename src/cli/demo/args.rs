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
  selvedge demo --pace 50ms                     (slow enough to kill -9 a reader meanwhile)
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

    /// Take at least this long for each file, to watch it or to break something meanwhile
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub pace: Option<Duration>,

    /// Give up after this time
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub max_wait: Duration,

    /// Keep this file up to date with counts, processes and phase, as JSON
    #[arg(long, value_name = "FILE")]
    pub status_file: Option<PathBuf>,

    /// Keep everything running afterwards, until Ctrl-C
    #[arg(long)]
    pub keep: bool,

    /// Which servers.
    #[command(flatten)]
    pub servers: ServerArgs,
}

/// Arguments of the hidden `demo-agent`. Paths come from here and never from a task.
#[derive(Debug, Clone, Args)]
pub struct DemoAgentArgs {
    /// Which of the three
    pub role: super::agents::Role,

    /// The directory that is read
    #[arg(long)]
    pub root: PathBuf,

    /// Where the planner records its walk, for itself and for the librarian
    #[arg(long)]
    pub work: PathBuf,

    /// Where the librarian writes the digest
    #[arg(long)]
    pub output: PathBuf,

    /// Tasks it runs at once
    #[arg(long, default_value_t = 1)]
    pub slots: u32,

    /// Least time per file
    #[arg(long, value_parser = duration)]
    pub pace: Option<Duration>,
}
