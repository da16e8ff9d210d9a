//! The owner's side of the index: hands out what is dirty, reads dropped results back from the journal.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::indexer::{FollowReply, IndexAsk};
use crate::{
    bus::{archive::Archive, journal::JournalReader},
    flow::{
        engine::{Engine, Touched},
        record::{JournalMessage, Record},
    },
    store::index::{Generation, IndexBatch, IndexWrite, Mark, Retention},
    task::{Millis, Outcome, Payload, Plan, TaskKey, TenantName},
};

use super::calls::{OwnerCall, OwnerHandle};

struct Waiting {
    max: usize,
    max_bytes: usize,
    until: Option<Mark>,
    reply: oneshot::Sender<IndexBatch>,
}

/// See the module.
#[derive(Default)]
pub struct IndexFeed {
    generation: Option<Generation>,
    /// Nothing was handed out of this generation yet.
    fresh: bool,
    waiting: Option<Waiting>,
    /// Everything up to here is in the index.
    pub indexed: u64,
    /// Results have to be read back from this journal sequence on.
    reread: Option<u64>,
}

impl IndexFeed {
    /// Takes a question. Call only while nothing is in flight.
    pub fn ask<H>(&mut self, engine: &mut Engine<H>, ask: IndexAsk) {
        match ask {
            IndexAsk::Follow { from: Some(seq), reply, .. } if seq > engine.seq() => {
                // Written from a journal that is not this one, or was longer.
                let _ = reply.send(FollowReply::TooOld);
            }
            IndexAsk::Follow { generation, from, reply } => {
                self.generation = Some(generation);
                self.fresh = true;
                self.waiting = None;
                match from {
                    Some(seq) => {
                        engine.prune_dirty(seq);
                        self.reread = engine.take_dropped().map(|_| seq + 1);
                    }
                    None => {
                        engine.touch_all();
                        engine.take_dropped();
                        self.reread = Some(1);
                    }
                }
                // A receiver that went away asks again.
                let _ = reply.send(FollowReply::Following);
            }
            IndexAsk::Next { max, max_bytes, until, reply } => {
                self.waiting = Some(Waiting { max, max_bytes, until, reply })
            }
            IndexAsk::Retention { tenants, reply } => {
                let retain = tenants.into_iter().map(|tenant| {
                    let retention = retention(engine, &tenant);
                    (tenant, retention)
                });
                let _ = reply.send(retain.collect());
            }
            IndexAsk::Written { generation, upto_seq } => {
                if Some(generation) == self.generation {
                    self.indexed = upto_seq;
                }
            }
        }
    }

    /// Journal sequence from which results are to be read back now, said once.
    pub fn take_reread<H>(&mut self, engine: &mut Engine<H>) -> Option<u64> {
        self.reread.take().or_else(|| engine.take_dropped())
    }

    /// Hands out a batch, if one is asked for and something is dirty; the first of a generation even if it
    /// is empty, so that an index of no tasks is known to be complete. Call only while nothing is in flight.
    pub fn serve<H>(&mut self, engine: &mut Engine<H>, wall: Millis) {
        let Some(generation) = self.generation else { return };
        if engine.dirty().is_empty() && !self.fresh {
            return;
        }
        let Some(Waiting { max, max_bytes, until, reply }) = self.waiting.take() else { return };
        self.fresh = false;
        // Nothing that old: the rush is over, and what there is need not wait.
        let until = until.filter(|until| engine.dirty().has_until(until.seq));
        let until_seq = until.map_or(u64::MAX, |until| until.seq);
        let taken = engine.take_dirty(max, max_bytes, until_seq);
        let mut retain = HashMap::new();
        let mut writes = Vec::with_capacity(taken.len());
        let mut gone = Vec::new();
        for Touched { key, view, result, before } in taken {
            if !retain.contains_key(&key.tenant) {
                retain.insert(key.tenant.clone(), retention(engine, &key.tenant));
            }
            let Some(view) = view else {
                gone.push(key);
                continue;
            };
            writes.push(IndexWrite { view, result, aside: false, before });
        }
        let head = engine.seq();
        let upto_seq = engine.dirty().clean_up_to(head);
        let shard = engine.state().shard;
        let left = if engine.dirty().has_until(until_seq) { engine.dirty().len() } else { 0 };
        let shown = if engine.dirty().is_empty() { Some(wall) } else { until.map(|until| until.wall) };
        let batch = IndexBatch {
            shard,
            generation,
            upto_seq,
            writes,
            gone,
            retain,
            now_wall: wall,
            left,
            shows: shown.filter(|_| left == 0),
            mark: Mark { seq: head, wall },
        };
        // An indexer that went away comes back with `Follow`, from its restart point.
        let _ = reply.send(batch);
    }
}

/// What the index keeps of a tenant's ended tasks.
fn retention<H>(engine: &Engine<H>, tenant: &TenantName) -> Retention {
    let plan = engine.state().tenant(tenant).map_or_else(Plan::free, |t| t.plan.clone());
    Retention { tasks: plan.retain_tasks, ms: plan.retain_ms }
}

/// Results waiting in the owner above which reading back pauses, in bytes.
const PAUSE_ABOVE: usize = crate::flow::dirty::MAX_RESULT_BYTES / 2;

/// Reads results back, from journal sequence `from` on, and hands them to the owner: from the archive as far as that reaches,
/// which may be where the journal does not reach any more, then from the journal.
pub async fn reread_results(reader: JournalReader, archive: Archive, from: u64, owner: OwnerHandle) {
    let mut reread = Reread { owner, read: 0 };
    let covered = match from {
        // A new index is filled from the archive before it asks the owner.
        0 | 1 => archive.covered().await.ok(),
        from => reread.read_archive(&archive, from).await,
    };
    let Some(covered) = covered else { return };
    if reread.read_journal(&reader, from.max(covered + 1)).await {
        tracing::info!(from, results = reread.read, "results were read back");
    }
}

struct Reread {
    owner: OwnerHandle,
    read: u64,
}

impl Reread {
    /// Up to where the archive reaches; `None`: the owner is gone.
    async fn read_archive(&mut self, archive: &Archive, from: u64) -> Option<u64> {
        let (mut next, mut covered) = (1, 0);
        loop {
            let (seq, chunk) = match archive.next(next).await {
                Ok(Some(found)) => found,
                Ok(None) => return Some(covered),
                Err(error) => {
                    tracing::warn!(%error, "results can't be read back from the archive");
                    return Some(covered);
                }
            };
            (next, covered) = (seq + 1, chunk.upto_seq);
            if chunk.upto_seq < from {
                continue;
            }
            let upto = chunk.upto_seq;
            let results = chunk.tasks.into_iter().filter_map(|task| {
                let key = TaskKey { tenant: task.view.tenant, id: task.view.task };
                Some((upto, key, task.result?))
            });
            if !self.hand_over(results.collect()).await {
                return None;
            }
        }
    }

    /// False: it could not be read, or the owner is gone.
    async fn read_journal(&mut self, reader: &JournalReader, from: u64) -> bool {
        let mut tail = match reader.read(from).await {
            Ok(tail) => tail,
            Err(error) => {
                tracing::warn!(%error, from, "results can't be read back from the journal");
                return false;
            }
        };
        while let Some(entry) = tail.next().await {
            let Ok(entry) = entry else { return false };
            // What can't be read was named when the journal was replayed.
            let Ok(message) = JournalMessage::decode(&entry.bytes) else { return false };
            let results = message.records.into_iter().filter_map(|record| match record {
                Record::Ended { key, outcome: Outcome::Completed { result }, .. } => {
                    Some((entry.seq, key, result))
                }
                _ => None,
            });
            if !self.hand_over(results.collect()).await {
                return false;
            }
        }
        true
    }

    async fn hand_over(&mut self, results: Vec<(u64, TaskKey, Payload)>) -> bool {
        if results.is_empty() {
            return true;
        }
        self.read += results.len() as u64;
        match self.owner.ask(|reply| OwnerCall::Results { results, reply }).await {
            Ok(Some(waiting)) => {
                if waiting > PAUSE_ABOVE {
                    // The indexer drains a batch in well under this.
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                true
            }
            Ok(None) | Err(_) => false,
        }
    }
}
