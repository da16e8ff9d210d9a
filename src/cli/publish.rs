//! `selvedge publish TOPIC JSON`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::context::Ctx;
use super::failure::Exit;
use super::submit::json;
use super::target::TenantArg;
use crate::task::trigger::topic::Topic;

/// Arguments of `publish`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge publish docs.new '{\"path\":\"README.md\"}'
  selvedge publish docs.new '{\"path\":\"README.md\"}' --id readme-2026-12-01

The message is stored for every trigger on the topic, and reaches whoever listens on sv.topic.TENANT.TOPIC now.")]
pub struct PublishArgs {
    /// About what: up to eight names with dots between them
    #[arg(value_name = "TOPIC")]
    pub topic: Topic,

    /// Message, JSON
    #[arg(value_name = "JSON", default_value = "null")]
    pub message: String,

    /// Triggers make one task of all that is published under the same id [default: a fresh one]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,

    /// Whose topic it is.
    #[command(flatten)]
    pub tenant: TenantArg,
}

/// Runs it.
pub async fn run(args: PublishArgs, ctx: Ctx) -> Result<ExitCode> {
    let message = json(args.message.as_bytes(), "the message")?;
    let client = ctx.client(&args.tenant.tenant).await?;
    let publication = client.publish_raw(args.topic.as_str(), message);
    match args.id {
        Some(id) => publication.id(id).await?,
        None => publication.await?,
    }
    let topic = &args.topic;
    ctx.output.either(&serde_json::json!({"topic": topic, "stored": true}), |_| {
        format!("stored for every trigger on {topic}")
    })?;
    Ok(Exit::Ok.into())
}
