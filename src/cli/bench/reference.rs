//! What requests are compared with: services that answer them the plain way, in a process of their own, as the coordinator
//! is one.
//!
//! | subject | answers with |
//! |---|---|
//! | [`ECHO`] | so many bytes |
//! | [`BARE`] | ten ids and ten records, read by one script |
//! | [`STORY`] | ten tasks of 200 that it has fetched, decoded and sorted |
//!
//! The first two answer one question after the other, the last all that come at the same time.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::{Client as Nats, Message, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::BenchReferenceArgs;
use super::rig::Rig;
use crate::cli::context::Ctx;
use crate::cli::failure::Exit;
use crate::store::{keys, record};
use crate::task::TenantName;
use crate::wire::codec;

/// The name of the process.
pub const REFERENCE: &str = "reference";
/// A bare request and its answer.
pub const ECHO: &str = "bench.echo";
/// The same around one script.
pub const BARE: &str = "bench.list";
/// What is done where reads are not bounded.
pub const STORY: &str = "bench.story";
/// Ten ids, ten records.
const SCRIPT: &str = "\
local found = redis.call('ZRANGE', KEYS[1], 0, 9, 'REV')
for i, member in ipairs(found) do found[i] = string.sub(member, 12) end
return redis.call('HMGET', KEYS[2], unpack(found))";
/// What the last one fetches for a page of ten.
const FETCHED: isize = 200;
/// How long it may take until it answers.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const LOOK: Duration = Duration::from_millis(10);

/// Starts the process; it answers when this returns. Without a tenant nothing is read, and only [`ECHO`] is there.
pub(super) async fn start(
    rig: &mut Rig,
    nats: &Nats,
    bytes: usize,
    tenant: Option<&TenantName>,
) -> Result<()> {
    let bytes = bytes.to_string();
    let mut args = vec!["bench-reference", "--bytes", &bytes];
    let mut subjects = vec![ECHO];
    if let Some(tenant) = tenant {
        args.extend(["--tenant", tenant.as_str()]);
        subjects.extend([BARE, STORY]);
    }
    rig.stack.start_own(REFERENCE, &args)?;
    for subject in subjects {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = nats.request(subject, Bytes::new()).await {
            anyhow::ensure!(Instant::now() < deadline, "the reference does not answer: {error}");
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Answers until SIGTERM.
pub async fn run(args: BenchReferenceArgs, ctx: Ctx) -> Result<ExitCode> {
    let nats = async_nats::connect(ctx.nats()?.urls).await?;
    let mut serving = JoinSet::new();
    serving.spawn(echo(nats.clone(), args.bytes));
    if let Some(tenant) = args.tenant {
        let redis = redis::Client::open(ctx.settings()?.redis.url.0.expose())?;
        let redis = redis.get_multiplexed_async_connection().await?;
        serving.spawn(bare(nats.clone(), redis.clone(), tenant.clone()));
        serving.spawn(stories(nats, redis, tenant));
    }
    tokio::select! {
        () = ctx.stop.cancelled() => Ok(Exit::Ok.into()),
        Some(ended) = serving.join_next() => ended?.map(|()| Exit::Unavailable.into()),
    }
}

fn asker(question: &Message) -> Result<Subject> {
    question.reply.clone().context("a question without a reply subject")
}

async fn echo(nats: Nats, bytes: usize) -> Result<()> {
    let body = Bytes::from(vec![b'x'; bytes]);
    let mut questions = nats.subscribe(ECHO).await?;
    while let Some(question) = questions.next().await {
        nats.publish(asker(&question)?, body.clone()).await?;
    }
    Ok(())
}

async fn bare(nats: Nats, mut redis: MultiplexedConnection, tenant: TenantName) -> Result<()> {
    let script = redis::Script::new(SCRIPT);
    let (set, records) = (keys::shown(&tenant), keys::records(&tenant));
    let mut questions = nats.subscribe(BARE).await?;
    while let Some(question) = questions.next().await {
        let found: Vec<Vec<u8>> = script.key(&set).key(&records).invoke_async(&mut redis).await?;
        nats.publish(asker(&question)?, found.concat().into()).await?;
    }
    Ok(())
}

async fn stories(nats: Nats, redis: MultiplexedConnection, tenant: TenantName) -> Result<()> {
    let mut questions = nats.subscribe(STORY).await?;
    while let Some(question) = questions.next().await {
        let (reply, nats, page) = (asker(&question)?, nats.clone(), story(redis.clone(), tenant.clone()));
        tokio::spawn(async move { anyhow::Ok(nats.publish(reply, page.await?).await?) });
    }
    Ok(())
}

/// Fetches more than it needs, decodes all of it, sorts it, and gives a page.
async fn story(mut redis: MultiplexedConnection, tenant: TenantName) -> Result<Bytes> {
    let mut newest = redis::cmd("ZRANGE");
    newest.arg(keys::shown(&tenant)).arg(0).arg(FETCHED - 1).arg("REV");
    let members: Vec<String> = newest.query_async(&mut redis).await?;
    let ids: Vec<_> = members.iter().filter_map(|member| keys::task_of(member)).collect();
    let mut fetch = redis::pipe();
    for id in &ids {
        fetch.cmd("HGET").arg(keys::records(&tenant)).arg(id.as_str());
    }
    let found: Vec<Vec<u8>> = fetch.query_async(&mut redis).await?;
    let mut views = Vec::new();
    for (id, stored) in ids.iter().zip(&found) {
        views.push(record::decode(&tenant, id, stored, false)?);
    }
    views.sort_by_key(|view| std::cmp::Reverse(view.created_at));
    views.truncate(10);
    Ok(codec::pack(&views))
}
