//! `selvedge index`: the index in Redis, compared with the journal or begun anew.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::context::Ctx;
use super::failure::known::{nats_failure, redis_failure};
use super::failure::{Exit, Failure};
use super::output::safe;
use crate::bus;
use crate::bus::journal::JournalReader;
use crate::bus::snapshots::SnapshotStore;
use crate::coordinator::admin::Heartbeat;
use crate::coordinator::intake::Handle;
use crate::coordinator::shrink::start;
use crate::flow::engine::Engine;
use crate::flow::query;
use crate::store::{self, index::IndexWriter, keys, read::IndexReader};
use crate::task::{TaskId, TenantName};
use crate::wire::{api::TaskView, subjects::Shard};

/// Tasks compared at once.
const STEP: usize = 200;
/// What differs is looked at again so often: the index follows the journal, and is behind it for a moment.
const LOOKS: usize = 5;
/// Differences that are shown.
const SHOWN: usize = 20;

/// Arguments of `index`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge index verify
  selvedge index rebuild

The index is a projection of the journal: it can be wiped at any time, and work goes on meanwhile. `verify` restores the
newest snapshot, replays the journal behind it and compares every task with what Redis says of it. `rebuild` has the
coordinator that owns the shard wipe the index and write it anew. Both cost in proportion to what is stored.")]
pub struct IndexArgs {
    #[command(subcommand)]
    command: IndexCommand,
}

#[derive(Debug, Subcommand)]
enum IndexCommand {
    /// Compare every task in the index with the journal
    Verify,
    /// Wipe the index and have it written anew
    Rebuild,
}

/// The JSON of `index verify`.
#[derive(Debug, Serialize)]
struct Verified {
    ok: bool,
    /// Journal sequence up to which it was compared.
    seq: u64,
    /// Tasks compared.
    tasks: u64,
    /// Ended tasks that retention has dropped.
    dropped: u64,
    /// What is wrong: the task, and in what.
    differs: BTreeMap<String, String>,
}

/// Runs it.
pub async fn run(args: IndexArgs, ctx: Ctx) -> Result<ExitCode> {
    match args.command {
        IndexCommand::Verify => verify(ctx).await,
        IndexCommand::Rebuild => rebuild(ctx).await,
    }
}

async fn open(ctx: &Ctx) -> Result<store::Connection> {
    let options = ctx.redis_options()?;
    let (connection, _) = store::connect::connect(&options).await.map_err(|error| redis_failure(&error))?;
    Ok(connection)
}

async fn verify(ctx: Ctx) -> Result<ExitCode> {
    let connection =
        bus::connect(&ctx.nats()?, "selvedge-index").await.map_err(|error| nats_failure(&error))?;
    let js = connection.jetstream();
    let (reader, snapshots) =
        (JournalReader::new(js, Shard(0)).await?, SnapshotStore::new(js, Shard(0)).await?);
    let (mut engine, _) = start::engine(&reader, &snapshots, Shard(0), &Heartbeat::default()).await?;
    let index = IndexReader::new(open(&ctx).await?, Shard(0));
    let mut found = Verified { ok: false, seq: 0, tasks: 0, dropped: 0, differs: BTreeMap::new() };
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        replay(&reader, &mut engine).await?;
        found = compare(&engine, &index).await?;
        if found.differs.is_empty() {
            break;
        }
    }
    found.ok = found.differs.is_empty();
    let ok = found.ok;
    ctx.output.either(&found, |found| {
        let mut text = format!(
            "{} tasks compared up to journal sequence {}; {} ended ones are gone by retention\n",
            found.tasks, found.seq, found.dropped
        );
        for (task, what) in &found.differs {
            text.push_str(&format!("{} {}\n", safe(task), safe(what)));
        }
        text.push_str(if found.ok { "the index is as the journal says\n" } else { "the index differs\n" });
        text
    })?;
    if ok {
        return Ok(Exit::Ok.into());
    }
    Err(Failure::new(Exit::Failed, "INDEX_DIFFERS", "the index is not what the journal says")
        .help("`selvedge index rebuild` writes it anew")
        .into())
}

async fn replay(reader: &JournalReader, engine: &mut Engine<Handle>) -> Result<()> {
    let mut tail = reader.read(engine.seq() + 1).await?;
    while let Some(entry) = tail.next().await {
        let entry = entry?;
        engine.replay(entry.seq, &entry.bytes)?;
    }
    Ok(())
}

async fn compare(engine: &Engine<Handle>, index: &IndexReader) -> Result<Verified> {
    let state = engine.state();
    let mut found = Verified { ok: false, seq: engine.seq(), tasks: 0, dropped: 0, differs: BTreeMap::new() };
    let mut by_tenant: BTreeMap<TenantName, Vec<TaskId>> = BTreeMap::new();
    for (_, task) in state.tasks().iter().filter(|(_, task)| !task.tombstone) {
        let key = state.key_of(task);
        by_tenant.entry(key.tenant).or_default().push(key.id);
    }
    for (tenant, ids) in by_tenant {
        for ids in ids.chunks(STEP) {
            let views = index.get_many(&tenant, ids, false).await?;
            for (id, shown) in ids.iter().zip(views) {
                let key = crate::task::TaskKey { tenant: tenant.clone(), id: id.clone() };
                let Some(view) = query::view(state, &key) else { continue };
                found.tasks += 1;
                let what = match shown {
                    None if view.state.is_terminal() => {
                        found.dropped += 1;
                        continue;
                    }
                    None => "is not in the index".to_owned(),
                    Some(shown) => match difference(&view, &shown) {
                        None => continue,
                        Some(field) => format!("differs in {field}"),
                    },
                };
                if found.differs.len() < SHOWN {
                    found.differs.insert(key.to_string(), what);
                }
            }
        }
    }
    Ok(found)
}

/// The first field that is not the same, results left out.
fn difference(view: &TaskView, shown: &TaskView) -> Option<String> {
    let fields = |view: &TaskView| serde_json::to_value(TaskView { result: None, ..view.clone() });
    let (Ok(mine), Ok(theirs)) = (fields(view), fields(shown)) else {
        return Some("its encoding".to_owned());
    };
    let (mine, theirs) = (mine.as_object()?, theirs.as_object()?);
    let names = mine.keys().chain(theirs.keys());
    names.into_iter().find(|name| mine.get(*name) != theirs.get(*name)).cloned()
}

async fn rebuild(ctx: Ctx) -> Result<ExitCode> {
    let mut connection = open(&ctx).await?;
    let before = IndexWriter::restart_point(&connection, Shard(0)).await?;
    // Without a restart point there is no index: the indexer looks at it once a second.
    let () = redis::cmd("UNLINK").arg(keys::restart_point(Shard(0))).query_async(&mut connection).await?;
    let patience = Duration::from_secs(600);
    let written = tokio::time::timeout(patience, async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let point = IndexWriter::restart_point(&connection, Shard(0)).await?;
            let old = before.map(|point| point.generation);
            if let Some(point) = point.filter(|point| point.seq > 0 && Some(point.generation) != old) {
                return Ok::<_, store::StoreError>(point);
            }
        }
    });
    let point = match written.await {
        Ok(point) => point?,
        Err(_) => {
            let what = format!("the index was not whole again within {} s", patience.as_secs());
            return Err(Failure::new(Exit::Unavailable, "INDEX_NOT_WRITTEN", what)
                .help("a coordinator that owns the shard writes it: does one run, and reach this Redis?")
                .into());
        }
    };
    let told = json!({"generation": point.generation.to_string(), "seq": point.seq});
    ctx.output
        .either(&told, |_| format!("the index was written anew, up to journal sequence {}\n", point.seq))?;
    Ok(Exit::Ok.into())
}
