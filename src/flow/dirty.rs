//! What the index does not show yet: task keys in the order they were first touched.
//!
//! Views are built when the indexer asks, from the state as acknowledged then, so a task that
//! changed ten times in between is written once, and a Redis that is away costs one key per task.

use std::collections::{HashMap, VecDeque};

use crate::task::{Payload, TaskKey};

/// Results waiting to be indexed, in bytes; beyond this they are dropped and read back from the journal.
const MAX_RESULT_BYTES: usize = 64 * 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Dirty {
    order: VecDeque<(u64, TaskKey)>,
    results: HashMap<TaskKey, Option<Payload>>,
    bytes: usize,
    /// Journal sequence of the first result that had to be dropped.
    dropped_from: Option<u64>,
}

impl Dirty {
    /// A task was touched by the journal message at `seq`.
    pub fn touch(&mut self, seq: u64, key: TaskKey) {
        if !self.results.contains_key(&key) {
            self.results.insert(key.clone(), None);
            self.order.push_back((seq, key));
        }
    }

    /// A task was completed by the journal message at `seq`, with this result.
    pub fn result(&mut self, seq: u64, key: TaskKey, result: Payload) {
        if self.bytes + result.len() > MAX_RESULT_BYTES {
            self.dropped_from.get_or_insert(seq);
            return;
        }
        self.touch(seq, key.clone());
        self.bytes += result.len();
        if let Some(Some(old)) = self.results.insert(key, Some(result)) {
            self.bytes -= old.len();
        }
    }

    /// The oldest touched tasks, at most `max`.
    pub fn take(&mut self, max: usize) -> Vec<(TaskKey, Option<Payload>)> {
        let mut out = Vec::with_capacity(max.min(self.order.len()));
        while out.len() < max
            && let Some((_, key)) = self.order.pop_front()
        {
            let result = self.results.remove(&key).flatten();
            self.bytes -= result.as_ref().map_or(0, Payload::len);
            out.push((key, result));
        }
        out
    }

    /// Everything up to here is taken, if the journal stands at `head`.
    pub fn clean_up_to(&self, head: u64) -> u64 {
        self.order.front().map_or(head, |(seq, _)| seq.saturating_sub(1))
    }

    /// Journal sequence from which results must be read back, once.
    pub fn take_dropped(&mut self) -> Option<u64> {
        self.dropped_from.take()
    }

    /// Tasks waiting.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether the index shows everything, once what was taken is written.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}
