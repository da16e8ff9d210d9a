//! Arguments of `selvedge nats export | check`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Arguments of `nats`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge nats export nats/                    (then: nats stream add --config nats/streams/INTAKE.json)
  selvedge nats check --context production

Sizes, ages and replicas come from [coordinator] in selvedge.toml.")]
pub struct NatsCommandArgs {
    /// Which.
    #[command(subcommand)]
    pub command: NatsCommand,
}

/// What can be done with the streams, consumers and buckets.
#[derive(Debug, Subcommand)]
pub enum NatsCommand {
    /// Write streams, consumers and buckets as JSON files
    Export {
        /// Directory to write to
        #[arg(default_value = "nats")]
        dir: PathBuf,
    },
    /// Compare them with the server; prints what differs and exits 78 if anything does
    Check,
}
