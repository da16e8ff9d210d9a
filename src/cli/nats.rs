//! `selvedge nats export | check`: the topology as files, and the server compared with it.
//!
//! Neither changes anything on a server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Ctx;
use super::coordinator::sizing;
use super::failure::{Exit, Failure};
use crate::bus::JetStream;
use crate::bus::api::ApiError;
use crate::bus::provision::{self, Drift};
use crate::wire::topology::{Sizing, Topology};

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

/// Runs it.
pub async fn run(args: NatsCommandArgs, ctx: Ctx) -> Result<ExitCode> {
    let sizing = sizing(&ctx.settings()?.coordinator);
    match args.command {
        NatsCommand::Export { dir } => {
            let files = export(&dir, &sizing).map_err(|error| {
                Failure::new(Exit::Failed, "EXPORT", format!("cannot write: {error}"))
                    .at(dir.display().to_string())
            })?;
            ctx.output.either(&serde_json::json!({ "files": files }), |_| {
                files.iter().map(|file| format!("{}\n", file.display())).collect()
            })?;
        }
        NatsCommand::Check => {
            let connection = ctx.connection().await?;
            let drift = check(connection.jetstream(), &sizing).await?;
            let checked = Checked { ok: drift.is_empty(), drift };
            ctx.output.either(&checked, |checked| match checked.ok {
                true => "streams, consumers and buckets are as defined".to_owned(),
                false => checked.drift.iter().map(|drift| format!("{drift}\n")).collect(),
            })?;
            if !checked.ok {
                return Ok(Exit::Config.into());
            }
        }
    }
    Ok(Exit::Ok.into())
}

/// The JSON of `nats check`.
#[derive(Serialize)]
struct Checked {
    ok: bool,
    drift: Vec<Drift>,
}

/// The files `nats stream add --config` and `nats consumer add --config` accept: path below the
/// directory, content.
pub fn render(sizing: &Sizing) -> Vec<(PathBuf, String)> {
    let topology = Topology::new(sizing);
    let streams =
        topology.streams.iter().map(|s| (Path::new("streams").join(format!("{}.json", s.name)), pretty(s)));
    let buckets = topology.buckets.iter().map(|s| {
        let bucket = s.name.trim_start_matches("KV_");
        (Path::new("buckets").join(format!("{bucket}.json")), pretty(s))
    });
    let consumers = topology.consumers.iter().map(|c| {
        let name = format!("{}.{}.json", c.stream, c.name);
        (Path::new("consumers").join(name), pretty(c))
    });
    streams.chain(buckets).chain(consumers).collect()
}

/// Writes them below `dir` and returns their paths.
pub fn export(dir: &Path, sizing: &Sizing) -> io::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (path, content) in render(sizing) {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content)?;
        written.push(path);
    }
    Ok(written)
}

/// Every difference between the definition and the server; none means exit code 0, any 78.
pub async fn check(js: &JetStream, sizing: &Sizing) -> Result<Vec<Drift>, ApiError> {
    provision::drift(js, &Topology::new(sizing)).await
}

fn pretty(value: &impl Serialize) -> String {
    // Our own types have string keys and no failing serializers.
    let json = serde_json::to_string_pretty(value)
        .unwrap_or_else(|error| unreachable!("own definition not encodable: {error}"));
    format!("{json}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_in_nats_are_the_definition_in_code() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats");
        if std::env::var_os("UPDATE_NATS").is_some() {
            export(&dir, &Sizing::default()).unwrap();
        }
        for (path, content) in render(&Sizing::default()) {
            let found = fs::read_to_string(dir.join(&path)).unwrap_or_default();
            assert_eq!(found, content, "{} differs; run the tests once with UPDATE_NATS=1", path.display());
        }
    }
}
