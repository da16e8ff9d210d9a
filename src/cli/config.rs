//! `selvedge config check | show | template`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use super::context::{self, Ctx};
use super::failure::Exit;
use super::output::table;
use crate::config;

/// Arguments of `config`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge config template > selvedge.toml
  selvedge config check deploy/selvedge.toml
  selvedge config show --origin

What counts, highest first: flag, environment variable, file, NATS context, default.")]
pub struct ConfigArgs {
    /// Which.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What can be done with a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read the whole configuration and report every mistake; exits 78 if there is one
    Check {
        /// The file to check instead of the one that would be used
        file: Option<PathBuf>,
    },
    /// Print the value of every option, secrets masked
    Show {
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
    },
    /// Print a file with every option at its default
    Template,
}

/// Runs it.
pub async fn run(args: ConfigArgs, ctx: Ctx) -> Result<ExitCode> {
    match args.command {
        ConfigCommand::Check { file } => check(file, &ctx)?,
        ConfigCommand::Show { origin } => show(origin, &ctx)?,
        ConfigCommand::Template => ctx.output.raw(config::template())?,
    }
    Ok(Exit::Ok.into())
}

fn check(file: Option<PathBuf>, ctx: &Ctx) -> Result<()> {
    let loaded = match file {
        Some(file) => context::load(&ctx.globals, config::Sources::of_process(Some(file)))?,
        None => ctx.loaded()?.clone(),
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let file = loaded.file.as_ref().map(|file| file.display().to_string());
    let result = json!({"ok": true, "file": file, "warnings": loaded.warnings});
    ctx.output.either(&result, |_| match &file {
        Some(file) => format!("{file}: fine"),
        None => "no configuration file; environment and flags are fine".to_owned(),
    })?;
    Ok(())
}

fn show(origin: bool, ctx: &Ctx) -> Result<()> {
    let loaded = ctx.loaded()?;
    ctx.output.either(&config::show_json(loaded), |_| {
        let rows = config::rows(loaded);
        let value = |row: &config::Row| row.value.clone().unwrap_or_else(|| "-".to_owned());
        if origin {
            table(
                ["OPTION", "VALUE", "FROM"],
                rows.iter().map(|row| [row.key.clone(), value(row), row.origin.clone()]),
            )
        } else {
            table(["OPTION", "VALUE"], rows.iter().map(|row| [row.key.clone(), value(row)]))
        }
    })?;
    Ok(())
}
