//! The owner's side of the indexer: which tasks the index has not seen yet, in the order they were touched.
//!
//! Keys only. Views are built when they are handed out, so that a task that changes ten times while Redis
//! is away is written once. Held by the owner loop; no I/O, no clock.
//!
//! The loop calls [`DirtySet::touch`] for every task an *acknowledged* journal message has touched, with
//! that message's sequence, then [`DirtySet::pop`] until its batch is full, then [`DirtySet::upto`].

use std::collections::{BTreeSet, HashMap};

use crate::task::TaskKey;

/// Task keys with the journal sequence they were first touched at since they were last popped.
#[derive(Debug, Default)]
pub struct DirtySet {
    first: HashMap<TaskKey, u64>,
    order: BTreeSet<(u64, TaskKey)>,
}

impl DirtySet {
    /// The journal message at `seq` has changed what a reader may see of the task.
    pub fn touch(&mut self, key: &TaskKey, seq: u64) {
        if !self.first.contains_key(key) {
            self.first.insert(key.clone(), seq);
            self.order.insert((seq, key.clone()));
        }
    }

    /// A new generation: forget what was touched; everything in `keys` is to be written.
    pub fn restart(&mut self, keys: impl IntoIterator<Item = (TaskKey, u64)>) {
        self.first.clear();
        self.order.clear();
        for (key, seq) in keys {
            self.touch(&key, seq);
        }
    }

    /// The task that waits longest.
    pub fn pop(&mut self) -> Option<TaskKey> {
        let (_, key) = self.order.pop_first()?;
        self.first.remove(&key);
        Some(key)
    }

    /// Everything touched up to here has been popped. `head`: the journal's last acknowledged sequence.
    pub fn upto(&self, head: u64) -> u64 {
        self.order.first().map_or(head, |(seq, _)| seq.saturating_sub(1))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{TaskId, TenantName};

    fn key(id: &str) -> TaskKey {
        TaskKey { tenant: TenantName::new("acme").unwrap(), id: TaskId::new(id).unwrap() }
    }

    #[test]
    fn the_restart_point_never_passes_a_task_that_waits() {
        let mut dirty = DirtySet::default();
        dirty.touch(&key("a"), 5);
        dirty.touch(&key("b"), 7);
        dirty.touch(&key("a"), 9);
        assert_eq!(dirty.pop(), Some(key("a")));
        assert_eq!(dirty.upto(9), 6);
        dirty.touch(&key("a"), 10);
        assert_eq!(dirty.pop(), Some(key("b")));
        assert_eq!(dirty.upto(10), 9);
        assert_eq!(dirty.pop(), Some(key("a")));
        assert_eq!((dirty.upto(10), dirty.pop()), (10, None));
    }

    #[test]
    fn a_rebuild_stands_at_zero_until_its_last_task() {
        let mut dirty = DirtySet::default();
        dirty.touch(&key("a"), 5);
        dirty.restart([(key("a"), 0), (key("b"), 0)]);
        dirty.touch(&key("c"), 9);
        dirty.pop();
        assert_eq!(dirty.upto(9), 0);
        dirty.pop();
        assert_eq!(dirty.upto(9), 8);
    }
}
