//! What goes into the index, and what comes of it.

use std::collections::{HashMap, HashSet};

use crate::{
    store::record::ResultOf,
    task::{Millis, Payload, Phase, Plan, TaskKey, TenantName},
    wire::{api::TaskView, subjects::Shard},
};

/// One index from its beginning to its loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(pub u128);

impl Generation {
    /// One that was never used before.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Orders everything that was ever written within a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flush {
    /// The owner's epoch.
    pub epoch: u64,
    /// +1 per batch.
    pub number: u64,
}

/// A touched task as the owner sees it now.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexWrite {
    /// Everything but the result.
    pub view: TaskView,
    /// Set with the write that makes the task completed, and in a rebuild.
    pub result: Option<Payload>,
    /// Its result was too large for the index, and is kept beside it.
    pub aside: bool,
    /// The phase in which it was handed out before; `None`: it was not, as far as is known. A guess at what the
    /// index shows, which is checked.
    pub before: Option<Phase>,
}

impl IndexWrite {
    pub(super) fn result_of(&self) -> ResultOf<'_> {
        match &self.result {
            _ if self.aside => ResultOf::Aside,
            None => ResultOf::None,
            Some(result) => ResultOf::Given(result),
        }
    }
}

/// How long a tenant's terminal tasks stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// At most this many.
    pub tasks: u64,
    /// At most this long after their end, in milliseconds.
    pub ms: Millis,
}

impl From<&Plan> for Retention {
    fn from(plan: &Plan) -> Self {
        Self { tasks: plan.retain_tasks, ms: plan.retain_ms }
    }
}

/// What the owner hands out at once.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexBatch {
    /// Whose journal this is from.
    pub shard: Shard,
    /// The generation the owner was told to follow when it gathered this.
    pub generation: Generation,
    /// Every task touched up to this journal sequence is in the index once this batch is; 0 while a
    /// rebuild has tasks left.
    pub upto_seq: u64,
    /// The touched tasks, each once.
    pub writes: Vec<IndexWrite>,
    /// Tasks that were touched and that the owner has forgotten since; they leave the index.
    pub gone: Vec<TaskKey>,
    /// For each tenant in `writes` and `gone`.
    pub retain: HashMap<TenantName, Retention>,
    /// The owner's wall clock, Unix milliseconds.
    pub now_wall: Millis,
    /// Tasks waiting beyond these, if some of them could be handed out at once; 0 if not.
    pub left: usize,
    /// Everything decided up to then is in the index once this batch is, Unix milliseconds; `None` while tasks are left.
    pub shows: Option<Millis>,
    /// Where the journal stood when the owner handed this out, and when that was.
    pub mark: Mark,
}

/// A point of the journal, and its time on the owner's wall clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// Journal sequence.
    pub seq: u64,
    /// Unix milliseconds.
    pub wall: Millis,
}

impl IndexBatch {
    /// Tasks in it.
    pub fn len(&self) -> usize {
        self.writes.len() + self.gone.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of results in it.
    pub fn result_bytes(&self) -> usize {
        self.writes.iter().filter_map(|write| write.result.as_ref()).map(Payload::len).sum()
    }

    /// Takes in the batch that the owner handed out after this one. What is said of a task there replaces
    /// what is said here; a result that is here only stays.
    pub fn absorb(&mut self, mut later: IndexBatch) {
        let key =
            |write: &IndexWrite| TaskKey { tenant: write.view.tenant.clone(), id: write.view.task.clone() };
        let again: HashMap<TaskKey, usize> = later.writes.iter().map(key).zip(0..).collect();
        let gone: HashSet<TaskKey> = later.gone.iter().cloned().collect();
        self.gone.retain(|key| !gone.contains(key) && !again.contains_key(key));
        self.writes.retain_mut(|write| {
            let key = key(write);
            let Some(i) = again.get(&key) else { return !gone.contains(&key) };
            let newer = &mut later.writes[*i];
            // What is said here is not written.
            newer.before = write.before;
            if newer.result.is_none() && newer.view.state == write.view.state {
                newer.result = write.result.take();
            }
            false
        });
        self.writes.append(&mut later.writes);
        self.gone.append(&mut later.gone);
        self.retain.extend(later.retain);
        (self.upto_seq, self.now_wall, self.left) = (later.upto_seq, later.now_wall, later.left);
        (self.shows, self.mark) = (later.shows, later.mark);
    }
}

/// The shard's restart point as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPoint {
    /// Of which index.
    pub generation: Generation,
    /// The last batch.
    pub flush: Flush,
    /// Where to go on in the journal.
    pub seq: u64,
}

/// What came of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Stored, as far as it was newer.
    Done(Flushed),
    /// Redis does not hold what was written before: wipe and rebuild.
    Lost,
    /// A newer owner writes this index: stop.
    Fenced,
}

/// Numbers of a write that was stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Records that were newer than the stored ones.
    pub applied: u64,
    /// Terminal tasks that retention dropped.
    pub dropped: u64,
}
