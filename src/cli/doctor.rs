//! Arguments of `selvedge doctor`: is this deployment fit?

use clap::Args;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge doctor
  selvedge doctor --context production --json

Checks the configuration, that NATS can be reached and is 2.15.1 or later, JetStream and its limits, the clock, rights,
the streams and buckets, and Redis with its eviction policy. It changes nothing. Each finding says what to do.
Exits 0 if nothing is wrong, 69 if a server cannot be reached, 78 if something is set up wrongly, 1 otherwise.")]
pub struct DoctorArgs {
    /// Treat warnings as failures
    #[arg(long)]
    pub strict: bool,
}
