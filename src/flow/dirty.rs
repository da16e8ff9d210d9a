//! What the index does not show yet: task keys in the order they were first touched.
//!
//! Views are built when the indexer asks, from the state as acknowledged then, so a task that
//! changed ten times in between is written once, and a Redis that is away costs one key per task.

use std::collections::{HashMap, VecDeque};

use crate::task::{Payload, TaskKey};

/// Results waiting to be indexed, in bytes; beyond this they are dropped and read back from the journal.
pub const MAX_RESULT_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug)]
struct Entry {
    /// Journal sequence of the last touch.
    last: u64,
    result: Option<Payload>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Dirty {
    /// By the sequence of the first touch since they were last taken.
    order: VecDeque<(u64, TaskKey)>,
    entries: HashMap<TaskKey, Entry>,
    bytes: usize,
    /// Journal sequence of the first result that had to be dropped.
    dropped_from: Option<u64>,
}

impl Dirty {
    /// A task was touched by the journal message at `seq`.
    pub fn touch(&mut self, seq: u64, key: TaskKey) {
        match self.entries.get_mut(&key) {
            Some(entry) => entry.last = entry.last.max(seq),
            None => {
                self.entries.insert(key.clone(), Entry { last: seq, result: None });
                self.order.push_back((seq, key));
            }
        }
    }

    /// A task was completed by the journal message at `seq`, with this result.
    pub fn result(&mut self, seq: u64, key: TaskKey, result: Payload) {
        self.touch(seq, key.clone());
        if self.bytes + result.len() > MAX_RESULT_BYTES {
            self.dropped_from.get_or_insert(seq);
            return;
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            self.bytes += result.len();
            self.bytes -= entry.result.replace(result).map_or(0, |old| old.len());
        }
    }

    /// Results of what was touched so far are not here.
    pub fn drop_results(&mut self) {
        if let Some((first, _)) = self.order.front() {
            self.dropped_from.get_or_insert(*first);
        }
    }

    /// The result waiting with this task.
    pub fn waiting_result(&self, key: &TaskKey) -> Option<&Payload> {
        self.entries.get(key)?.result.as_ref()
    }

    /// Everything touched up to `seq` is in the index already.
    pub fn prune(&mut self, seq: u64) {
        self.entries.retain(|_, entry| {
            let keep = entry.last > seq;
            if !keep {
                self.bytes -= entry.result.as_ref().map_or(0, Payload::len);
            }
            keep
        });
        let entries = &self.entries;
        self.order.retain_mut(|(first, key)| {
            *first = (*first).max(seq + 1);
            entries.contains_key(key)
        });
    }

    /// The index has to be made anew: everything in `keys` is dirty, from the beginning of the journal.
    pub fn restart(&mut self, keys: Vec<TaskKey>) {
        let mut old = std::mem::take(&mut self.entries);
        self.order.clear();
        for key in keys {
            let entry = old.remove(&key).unwrap_or(Entry { last: 0, result: None });
            self.entries.insert(key.clone(), entry);
            self.order.push_back((0, key));
        }
        self.bytes = self.entries.values().filter_map(|e| e.result.as_ref()).map(Payload::len).sum();
    }

    /// The oldest touched tasks: at most `max`, and at most `max_bytes` of results but at least one task.
    pub fn take(&mut self, max: usize, max_bytes: usize) -> Vec<(TaskKey, Option<Payload>)> {
        let mut out = Vec::with_capacity(max.min(self.order.len()));
        let mut bytes = 0;
        while out.len() < max
            && bytes < max_bytes
            && let Some((_, key)) = self.order.pop_front()
        {
            let result = self.entries.remove(&key).and_then(|entry| entry.result);
            bytes += result.as_ref().map_or(0, Payload::len);
            out.push((key, result));
        }
        self.bytes -= bytes;
        out
    }

    /// Everything up to here is taken, if the journal stands at `head`.
    pub fn clean_up_to(&self, head: u64) -> u64 {
        self.order.front().map_or(head, |(seq, _)| seq.saturating_sub(1))
    }

    /// Journal sequence from which results must be read back, said once.
    pub fn take_dropped(&mut self) -> Option<u64> {
        self.dropped_from.take()
    }

    /// Bytes of results waiting.
    pub fn result_bytes(&self) -> usize {
        self.bytes
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> TaskKey {
        TaskKey { tenant: "t".parse().unwrap(), id: id.parse().unwrap() }
    }

    #[test]
    fn what_was_touched_again_after_the_restart_point_stays() {
        let mut dirty = Dirty::default();
        dirty.touch(3, key("a"));
        dirty.touch(5, key("b"));
        dirty.touch(9, key("a"));
        dirty.prune(6);
        assert_eq!(dirty.clean_up_to(9), 6);
        assert_eq!(dirty.take(10, 10), vec![(key("a"), None)]);
        assert_eq!(dirty.clean_up_to(9), 9);
    }

    #[test]
    fn a_batch_holds_at_least_one_task_whatever_its_result() {
        let mut dirty = Dirty::default();
        for id in ["a", "b"] {
            dirty.result(1, key(id), Payload::json(&"x".repeat(100)).unwrap());
        }
        assert_eq!(dirty.take(10, 50).len(), 1);
        assert_eq!(dirty.result_bytes(), 102);
        assert_eq!(dirty.clean_up_to(1), 0);
    }

    #[test]
    fn a_rebuild_starts_over_until_its_last_task_is_taken() {
        let mut dirty = Dirty::default();
        dirty.touch(7, key("b"));
        dirty.restart(vec![key("a"), key("b")]);
        dirty.touch(9, key("c"));
        assert_eq!(dirty.clean_up_to(9), 0);
        dirty.take(1, 10);
        assert_eq!(dirty.clean_up_to(9), 0);
        dirty.take(1, 10);
        assert_eq!(dirty.clean_up_to(9), 8);
        assert_eq!(dirty.take(9, 10).len(), 1);
        assert_eq!(dirty.clean_up_to(9), 9);
    }
}
