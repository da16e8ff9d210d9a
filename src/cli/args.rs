//! The command line: flags every command has, and the list of commands.
//!
//! A verb's own arguments stand in the verb's file, with its `run`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::failure::EXIT_CODES;
use super::{completions, config};
use crate::config::Sources;

/// A NATS-native, event-driven fabric for fleets of AI agents.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, about, arg_required_else_help = true, propagate_version = true)]
#[command(after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Flags that go with every command.
    #[command(flatten)]
    pub globals: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that go with every command, before or after its name.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Print JSON: results on stdout, errors on stderr
    #[arg(long, global = true)]
    pub json: bool,

    /// Shape of the log lines on stderr [default: pretty on a terminal, else json]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormatArg>,

    /// Configuration file [default: ./selvedge.toml, then ~/.config/selvedge/selvedge.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// URL of Redis or Valkey, rediss:// for TLS [env: REDIS_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub redis_url: Option<String>,
}

/// The values of `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    /// For people
    Pretty,
    /// One object a line
    Json,
}

impl GlobalArgs {
    /// Adds what was given to the sources of the configuration.
    pub fn put(&self, sources: &mut Sources) {
        let format = self.log_format.map(|format| match format {
            LogFormatArg::Pretty => "pretty",
            LogFormatArg::Json => "json",
        });
        sources.flag("log.format", "--log-format", format);
        sources.flag("redis.url", "--redis-url", self.redis_url.clone());
    }
}

/// The commands, in the order a newcomer meets them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check, show or begin a configuration
    Config(config::ConfigArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
}
