//! The index's write side: batches of views in, one script call per touched tenant.
//!
//! Who writes: one indexer per shard, the owner's. How it can know that Redis still holds what it wrote:
//!
//! - A [`Generation`] is a random id, made when an index is begun from nothing. It stands in the shard's
//!   restart point and in every tenant's meta hash.
//! - A [`Flush`] is (epoch, number): the owner's epoch, and +1 per batch. Tenants hold the flush that
//!   touched them last, the restart point holds the last one of all.
//! - The script compares the generation and flush it finds with what this writer wrote last, in the same
//!   step in which it writes. Gone or older: Redis lost writes (`FLUSHALL`, restart empty or stale,
//!   a lost node): [`Written::Lost`]. Newer: another owner writes: [`Written::Fenced`]. The
//!   restart point is checked in the same way after every batch and on every idle tick.
//!
//! A batch may be sent again: a record is applied only if its revision is higher than the stored one's.
//! Nothing in here retries.

mod batch;
mod plan;
mod wipe;

use std::collections::{HashMap, HashSet};

use redis::{Cmd, Pipeline, RedisResult, Script, Value};

pub use batch::{Flush, Flushed, Generation, IndexBatch, IndexWrite, Mark, RestartPoint, Retention, Written};

use super::{Connection, StoreError, is_noscript, keys, record};
use crate::{
    task::{Millis, Payload, Plan, TaskId, TenantName},
    wire::subjects::Shard,
};

/// Tasks per script call, so that no call holds Redis for long.
const WRITES_PER_CALL: usize = 256;

/// Calls per pipeline: many tenants' must be answered within the time that an answer may take, and let others in between.
const CALLS_AT_ONCE: usize = 256;

/// Bytes of records and results per script call, roughly.
const BYTES_PER_CALL: usize = 1024 * 1024;

/// Dropped beyond what a call has written, so that a lowered retention is caught up with.
const EXTRA_DROPS: usize = 64;

/// Tenants remembered with their last flush; beyond it the memory starts anew.
const MAX_KNOWN: usize = 100_000;

/// Writes one shard's index. Not shared: it remembers what it wrote.
pub struct IndexWriter {
    connection: Connection,
    script: Script,
    /// The same text, allowed to run when memory is full: for drops only.
    drop_script: Script,
    shard: Shard,
    generation: Generation,
    /// The flush that is stored in the restart point.
    last: Flush,
    /// The journal sequence stored there.
    seq: u64,
    /// Tenants this writer has written to.
    known: HashMap<TenantName, Known>,
}

/// What stands in Redis of a tenant.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// The flush it was last written with.
    flush: u64,
    /// When its oldest terminal task is to go, as noted in [`keys::due`]; `None`: not looked at.
    due: Option<Millis>,
}

type ScriptReply = (String, u64, u64, String);

struct TenantCall<'a> {
    tenant: &'a TenantName,
    known: Option<u64>,
    flush: u64,
    retain: Option<Retention>,
    seq: Option<u64>,
    writes: Vec<Touched<'a>>,
}

#[derive(Clone, Copy)]
enum Touched<'a> {
    Write(&'a IndexWrite),
    Gone(&'a TaskId),
}

impl IndexWriter {
    /// Reads the shard's restart point; `None` if there is no index, one that was being wiped, or one that
    /// another version laid out.
    pub async fn restart_point(
        connection: &Connection,
        shard: Shard,
    ) -> Result<Option<RestartPoint>, StoreError> {
        let fields: Vec<Option<String>> = redis::cmd("HMGET")
            .arg(keys::restart_point(shard))
            .arg(&["layout", "generation", "epoch", "flush", "seq"])
            .query_async(&mut connection.clone())
            .await?;
        let [Some(layout), Some(generation), Some(epoch), Some(flush), Some(seq)] = fields.as_slice() else {
            return Ok(None);
        };
        if *layout != record::LAYOUT.to_string() {
            return Ok(None);
        }
        let parsed = (Generation::parse(generation), epoch.parse(), flush.parse(), seq.parse());
        let (Some(generation), Ok(epoch), Ok(number), Ok(seq)) = parsed else { return Ok(None) };
        Ok(Some(RestartPoint { generation, flush: Flush { epoch, number }, seq }))
    }

    /// Goes on with the index found at `point`; `None` if a newer owner writes it.
    pub async fn resume(
        connection: Connection,
        shard: Shard,
        epoch: u64,
        point: RestartPoint,
    ) -> Result<Option<Self>, StoreError> {
        if point.flush.epoch > epoch {
            return Ok(None);
        }
        // Flushes of an earlier writer of this very epoch may be one ahead of the restart point.
        let number = if point.flush.epoch == epoch { point.flush.number + 2 } else { 0 };
        let mut writer = Self::new(connection, shard, point.generation, point.flush);
        writer.seq = point.seq;
        let next = Flush { epoch, number };
        if !writer.advance(next, point.seq, None, &[]).await? {
            // Somebody wrote between the reading and here; the next check says who.
            tracing::warn!(shard = shard.0, "the index's restart point moved while it was taken over");
        }
        writer.last = next;
        Ok(Some(writer))
    }

    /// Deletes every index key, then begins `generation`. Until the end there is no restart point, so
    /// that a crash in between leads here again.
    pub async fn begin(
        connection: Connection,
        shard: Shard,
        epoch: u64,
        generation: Generation,
    ) -> Result<Self, StoreError> {
        let mut c = connection.clone();
        let _: Value = redis::cmd("UNLINK").arg(keys::restart_point(shard)).query_async(&mut c).await?;
        let _: Value = redis::cmd("UNLINK").arg(keys::due(shard)).query_async(&mut c).await?;
        let wiped = wipe::wipe(&mut c).await?;
        tracing::info!(shard = shard.0, %generation, keys = wiped, "the index begins anew");
        let first = Flush { epoch, number: 0 };
        let _: Value = redis::cmd("HSET")
            .arg(keys::restart_point(shard))
            .arg("layout")
            .arg(record::LAYOUT)
            .arg("generation")
            .arg(generation.to_string())
            .arg("epoch")
            .arg(epoch)
            .arg("flush")
            .arg(0)
            .arg("seq")
            .arg(0)
            .query_async(&mut c)
            .await?;
        Ok(Self::new(connection, shard, generation, first))
    }

    fn new(connection: Connection, shard: Shard, generation: Generation, last: Flush) -> Self {
        let text = include_str!("index.lua");
        Self {
            connection,
            script: Script::new(&format!("#!lua\n{text}")),
            drop_script: Script::new(&format!("#!lua flags=allow-oom\n{text}")),
            shard,
            generation,
            last,
            seq: 0,
            known: HashMap::new(),
        }
    }

    /// Which index this writes.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Writes a batch: the touched tenants in a round trip for some hundred of them, then the restart point in another. After
    /// an error send the same batch again; whatever part of it was stored stays so.
    pub async fn write(&mut self, batch: &IndexBatch) -> Result<Written, StoreError> {
        let flush = Flush { number: self.last.number + 1, ..self.last };
        let mut calls = Vec::new();
        for (tenant, touched) in by_tenant(batch) {
            let retain = batch.retain.get(tenant).copied();
            debug_assert!(retain.is_some(), "no retention given for {tenant}");
            for writes in split_calls(touched) {
                calls.push(TenantCall {
                    tenant,
                    known: self.known.get(tenant).map(|known| known.flush),
                    flush: flush.number,
                    retain: Some(retain.unwrap_or_else(|| Retention::from(&Plan::free()))),
                    seq: Some(batch.upto_seq),
                    writes,
                });
            }
        }
        let (outcome, mut due) = self.run(&calls, batch.now_wall, false).await?;
        if !matches!(outcome, Written::Done(_)) {
            return Ok(outcome);
        }
        // Of several calls for a tenant the last one knows.
        let mut seen = HashSet::with_capacity(due.len());
        due.reverse();
        due.retain(|(tenant, at)| {
            let noted = self.known.get(*tenant).and_then(|known| known.due);
            seen.insert(*tenant) && noted != Some(*at)
        });
        let at = batch.shows.filter(|_| batch.upto_seq > 0);
        if !self.advance(flush, batch.upto_seq, at, &due).await? {
            return self.why_not().await;
        }
        self.scheduled(&due);
        self.last = flush;
        self.seq = batch.upto_seq;
        Ok(outcome)
    }

    /// Whether Redis still holds what was written last; if so, readers are told that it shows everything up
    /// to `now_wall`. For idle times.
    pub async fn check(&mut self, now_wall: Millis) -> Result<Written, StoreError> {
        let at = (self.seq > 0).then_some(now_wall);
        if self.advance(self.last, self.seq, at, &[]).await? {
            return Ok(Written::Done(Flushed::default()));
        }
        self.why_not().await
    }

    /// Drops what is due of tenants that are not written to now, `most` tenants at once. Works when
    /// memory is full, too.
    pub async fn sweep(&mut self, now_wall: Millis, most: usize) -> Result<Written, StoreError> {
        let tenants: Vec<String> = redis::cmd("ZRANGE")
            .arg(keys::due(self.shard))
            .arg("-inf")
            .arg(now_wall)
            .arg("BYSCORE")
            .arg("LIMIT")
            .arg(0)
            .arg(most)
            .query_async(&mut self.connection)
            .await?;
        let tenants: Vec<TenantName> = tenants.iter().filter_map(|t| TenantName::new(t).ok()).collect();
        if tenants.is_empty() {
            return Ok(Written::Done(Flushed::default()));
        }
        let calls: Vec<TenantCall<'_>> = tenants
            .iter()
            .map(|tenant| {
                let known = self.known.get(tenant).map(|known| known.flush);
                // A batch that is still to be sent again may have come as far as this tenant.
                let flush = known.map_or(self.last.number, |known| known.max(self.last.number));
                TenantCall { tenant, known, flush, retain: None, seq: None, writes: Vec::new() }
            })
            .collect();
        let (outcome, due) = self.run(&calls, now_wall, true).await?;
        if matches!(outcome, Written::Done(_)) && !due.is_empty() {
            let mut pipeline = Pipeline::new();
            self.schedule_drops(&mut pipeline, &due);
            pipeline.exec_async(&mut self.connection).await?;
            self.scheduled(&due);
        }
        Ok(outcome)
    }

    /// Calls the script for each, some in a pipeline; loads it if Redis does not know it.
    async fn run<'a>(
        &mut self,
        calls: &[TenantCall<'a>],
        now_wall: Millis,
        drops_only: bool,
    ) -> Result<(Written, Vec<(&'a TenantName, Millis)>), StoreError> {
        let script = if drops_only { self.drop_script.clone() } else { self.script.clone() };
        let mut total = Flushed::default();
        let mut due = Vec::with_capacity(calls.len());
        for calls in calls.chunks(CALLS_AT_ONCE) {
            let mut failure = None;
            let mut verdict = None;
            for (call, reply) in calls.iter().zip(self.call(&script, calls, now_wall).await?) {
                match reply {
                    Err(error) => failure = Some(error),
                    Ok((word, applied, dropped, next_due)) => match word.as_str() {
                        "ok" | "empty" => {
                            total.applied += applied;
                            total.dropped += dropped;
                            due.push((call.tenant, next_due.parse().unwrap_or(0)));
                            if word == "ok" {
                                self.remember(call.tenant, call.flush);
                            } else {
                                self.known.remove(call.tenant);
                            }
                        }
                        "fenced" => verdict = Some(Written::Fenced),
                        "lost" | "foreign" => {
                            verdict.get_or_insert(Written::Lost);
                        }
                        other => return Err(StoreError::Corrupt(format!("script answered {other:?}"))),
                    },
                }
            }
            match (verdict, failure) {
                (Some(verdict), _) => return Ok((verdict, due)),
                (None, Some(error)) => return Err(error.into()),
                (None, None) => {}
            }
        }
        Ok((Written::Done(total), due))
    }

    /// One pipeline of calls.
    async fn call(
        &mut self,
        script: &Script,
        calls: &[TenantCall<'_>],
        now_wall: Millis,
    ) -> Result<Vec<RedisResult<ScriptReply>>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(calls.len());
        for call in calls {
            pipeline.add_command(self.command(script, call, now_wall));
        }
        pipeline.ignore_errors();
        let replies: Vec<RedisResult<ScriptReply>> = pipeline.query_async(&mut self.connection).await?;
        if !replies.iter().any(|r| r.as_ref().is_err_and(is_noscript)) {
            return Ok(replies);
        }
        script.prepare_invoke().load_async(&mut self.connection).await?;
        Ok(pipeline.query_async(&mut self.connection).await?)
    }

    fn command(&self, script: &Script, call: &TenantCall<'_>, now_wall: Millis) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(script.get_hash())
            .arg(1)
            .arg(keys::meta(call.tenant))
            .arg(keys::index_prefix(call.tenant))
            .arg(self.generation.to_string())
            .arg(self.last.epoch)
            .arg(call.flush)
            .arg(call.known.map_or(String::new(), |n| n.to_string()))
            .arg(call.seq.map_or(String::new(), |n| n.to_string()))
            .arg(now_wall);
        match call.retain {
            Some(retain) => cmd.arg(retain.tasks).arg(retain.ms),
            None => cmd.arg("").arg(""),
        };
        cmd.arg(2 * call.writes.len() + EXTRA_DROPS);
        plan::write_tasks(&mut cmd, call.tenant, &call.writes, now_wall);
        cmd
    }

    fn remember(&mut self, tenant: &TenantName, flush: u64) {
        if let Some(known) = self.known.get_mut(tenant) {
            known.flush = flush;
            return;
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(tenant.clone(), Known { flush, due: None });
    }

    /// What [`IndexWriter::schedule_drops`] noted stands there.
    fn scheduled(&mut self, due: &[(&TenantName, Millis)]) {
        for (tenant, at) in due {
            if let Some(known) = self.known.get_mut(*tenant) {
                known.due = Some(*at);
            }
        }
    }

    /// Notes when each tenant's oldest terminal task is to go.
    fn schedule_drops(&self, pipeline: &mut Pipeline, due: &[(&TenantName, Millis)]) {
        let key = keys::due(self.shard);
        let (later, never): (Vec<_>, Vec<_>) = due.iter().partition(|(_, at)| *at > 0);
        if !never.is_empty() {
            let tenants: Vec<&str> = never.iter().map(|(tenant, _)| tenant.as_str()).collect();
            pipeline.cmd("ZREM").arg(&key).arg(tenants).ignore();
        }
        if !later.is_empty() {
            let entries: Vec<(Millis, &str)> =
                later.iter().map(|(tenant, at)| (*at, tenant.as_str())).collect();
            pipeline.cmd("ZADD").arg(&key).arg(entries).ignore();
        }
    }

    /// Moves the restart point from `self.last`, or from `flush` itself if an answer got lost. False if
    /// something else stands there. `at`: the index shows everything up to then. In the same round trip
    /// notes what is due.
    async fn advance(
        &mut self,
        flush: Flush,
        seq: u64,
        at: Option<Millis>,
        due: &[(&TenantName, Millis)],
    ) -> Result<bool, StoreError> {
        let mut pipeline = Pipeline::new();
        self.schedule_drops(&mut pipeline, due);
        pipeline
            .cmd("EVAL")
            .arg(ADVANCE)
            .arg(1)
            .arg(keys::restart_point(self.shard))
            .arg(self.generation.to_string())
            .arg(self.last.epoch)
            .arg(self.last.number)
            .arg(flush.epoch)
            .arg(flush.number)
            .arg(seq)
            .arg(at.map_or(String::new(), |at| at.to_string()));
        let (moved,): (u8,) = pipeline.query_async(&mut self.connection).await?;
        Ok(moved == 1)
    }

    async fn why_not(&self) -> Result<Written, StoreError> {
        let found = Self::restart_point(&self.connection, self.shard).await?;
        Ok(match found {
            Some(point) if point.flush.epoch > self.last.epoch => Written::Fenced,
            Some(point) if point.generation == self.generation && point.flush == self.last => {
                Written::Done(Flushed::default())
            }
            Some(_) | None => Written::Lost,
        })
    }
}

/// Compare-and-set of the restart point.
const ADVANCE: &str = "#!lua flags=allow-oom
local at = redis.call('HMGET', KEYS[1], 'generation', 'epoch', 'flush')
if at[1] ~= ARGV[1] then return 0 end
local from = at[2] == ARGV[2] and at[3] == ARGV[3]
local again = at[2] == ARGV[4] and at[3] == ARGV[5]
if not (from or again) then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[4], 'flush', ARGV[5], 'seq', ARGV[6])
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'at', ARGV[7]) end
return 1";

fn by_tenant(batch: &IndexBatch) -> Vec<(&TenantName, Vec<Touched<'_>>)> {
    let writes = batch.writes.iter().map(|w| (&w.view.tenant, Touched::Write(w)));
    let gone = batch.gone.iter().map(|key| (&key.tenant, Touched::Gone(&key.id)));
    let mut at: HashMap<&TenantName, usize> = HashMap::new();
    let mut groups: Vec<(&TenantName, Vec<Touched<'_>>)> = Vec::new();
    for (tenant, touched) in writes.chain(gone) {
        let i = *at.entry(tenant).or_insert_with(|| {
            groups.push((tenant, Vec::new()));
            groups.len() - 1
        });
        groups[i].1.push(touched);
    }
    groups
}

fn split_calls(touched: Vec<Touched<'_>>) -> Vec<Vec<Touched<'_>>> {
    let mut calls = Vec::new();
    let mut call = Vec::new();
    let mut bytes = 0;
    for one in touched {
        let size = match one {
            Touched::Write(write) => 512 + write.result.as_ref().map_or(0, Payload::len),
            Touched::Gone(_) => 64,
        };
        if !call.is_empty() && (call.len() == WRITES_PER_CALL || bytes + size > BYTES_PER_CALL) {
            calls.push(std::mem::take(&mut call));
            bytes = 0;
        }
        bytes += size;
        call.push(one);
    }
    if !call.is_empty() {
        calls.push(call);
    }
    calls
}
