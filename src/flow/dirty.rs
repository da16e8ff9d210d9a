//! What the index does not show yet: tasks in the order they were first touched.
//!
//! Views are built when the indexer asks, from the state as acknowledged then, so a task that
//! changed ten times in between is written once, and a Redis that is away costs a bit and a place in line per task.

use std::collections::VecDeque;

use super::{quick::QuickMap, tasks::Slot};
use crate::task::{Payload, Phase, TaskKey};

/// Results waiting to be indexed, in bytes; beyond this they are dropped and read back from the journal.
pub const MAX_RESULT_BYTES: usize = 64 * 1024 * 1024;

/// Forgotten tasks whose names are kept for an index that still shows them.
const MAX_GONE: usize = 262_144;

/// Something the index has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// How this task looks now, and its result if it was completed since.
    Task(Slot, Option<Payload>),
    /// That this one was forgotten.
    Gone(TaskKey),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Dirty {
    /// By the sequence of the first touch since they were last taken.
    order: VecDeque<(u64, Slot)>,
    /// A bit per slot: whether its task is in line.
    flags: Vec<u64>,
    /// By slot: the phase in which its task was taken last, from 1; 0: it was not.
    told: Vec<u8>,
    /// Tasks that were forgotten in line, by their slots; `None`: there were too many.
    gone: QuickMap<u32, VecDeque<Option<TaskKey>>>,
    gone_names: usize,
    results: QuickMap<u32, Payload>,
    bytes: usize,
    /// Journal sequence of the first result that had to be dropped.
    dropped_from: Option<u64>,
}

impl Dirty {
    fn is_set(&self, slot: Slot) -> bool {
        self.flags.get(slot.0 as usize / 64).is_some_and(|bits| bits >> (slot.0 % 64) & 1 == 1)
    }

    fn set(&mut self, slot: Slot, to: bool) {
        let at = slot.0 as usize / 64;
        if self.flags.len() <= at {
            self.flags.resize(at + 1, 0);
        }
        let bit = 1 << (slot.0 % 64);
        self.flags[at] = if to { self.flags[at] | bit } else { self.flags[at] & !bit };
    }

    /// A task was touched by the journal message at `seq`.
    pub fn touch(&mut self, seq: u64, slot: Slot) {
        if !self.is_set(slot) {
            self.set(slot, true);
            self.order.push_back((seq, slot));
        }
    }

    /// A task was completed by the journal message at `seq`, with this result.
    pub fn result(&mut self, seq: u64, slot: Slot, result: Payload) {
        self.touch(seq, slot);
        if self.bytes + result.len() > MAX_RESULT_BYTES {
            self.dropped_from.get_or_insert(seq);
            return;
        }
        self.bytes += result.len();
        self.bytes -= self.results.insert(slot.0, result).map_or(0, |old| old.len());
    }

    /// A task that was taken is told of in phase `now`; says in which it was before.
    pub fn told(&mut self, slot: Slot, now: Option<Phase>) -> Option<Phase> {
        let at = slot.0 as usize;
        if self.told.len() <= at {
            self.told.resize(at + 1, 0);
        }
        let place = |phase| Phase::ALL.iter().position(|other| *other == phase).map_or(0, |i| i as u8 + 1);
        let before = std::mem::replace(&mut self.told[at], now.map_or(0, place));
        Phase::ALL.get((before as usize).wrapping_sub(1)).copied()
    }

    /// A task was forgotten; its slot may be another's from now on.
    pub fn gone(&mut self, slot: Slot, key: TaskKey) {
        if let Some(told) = self.told.get_mut(slot.0 as usize) {
            *told = 0;
        }
        if !self.is_set(slot) {
            return;
        }
        self.set(slot, false);
        self.drop_result(slot);
        let room = self.gone_names < MAX_GONE;
        self.gone_names += usize::from(room);
        self.gone.entry(slot.0).or_default().push_back(room.then_some(key));
    }

    fn drop_result(&mut self, slot: Slot) -> Option<Payload> {
        let result = self.results.remove(&slot.0);
        self.bytes -= result.as_ref().map_or(0, Payload::len);
        result
    }

    /// Results of what was touched so far are not here.
    pub fn drop_results(&mut self) {
        if let Some((first, _)) = self.order.front() {
            self.dropped_from.get_or_insert(*first);
        }
    }

    /// The result waiting with this task.
    pub fn waiting_result(&self, slot: Slot) -> Option<&Payload> {
        self.results.get(&slot.0)
    }

    /// Everything touched up to `seq` is in the index already; `last` says at most when a task was touched last.
    pub fn prune(&mut self, seq: u64, last: impl Fn(Slot) -> u64) {
        for (first, slot) in std::mem::take(&mut self.order) {
            // Of the tasks that had the slot the forgotten ones stand before the one that has it.
            if self.gone.contains_key(&slot.0) || last(slot) > seq {
                self.order.push_back((first.max(seq + 1), slot));
            } else {
                self.set(slot, false);
                self.drop_result(slot);
            }
        }
    }

    /// The index has to be made anew: everything in `slots` is dirty, from the beginning of the journal.
    pub fn restart(&mut self, slots: impl Iterator<Item = Slot>) {
        self.order.clear();
        self.flags.clear();
        self.told.clear();
        self.gone.clear();
        self.gone_names = 0;
        for slot in slots {
            self.touch(0, slot);
        }
    }

    /// The oldest touched tasks: at most `max`, at most `max_bytes` of results but at least one task, and none that
    /// was first touched after `until`.
    pub fn take(&mut self, max: usize, max_bytes: usize, until: u64) -> Vec<Taken> {
        let mut out = Vec::with_capacity(max.min(self.order.len()));
        let mut bytes = 0;
        while out.len() < max
            && bytes < max_bytes
            && self.has_until(until)
            && let Some((_, slot)) = self.order.pop_front()
        {
            match self.gone.get_mut(&slot.0) {
                Some(keys) => {
                    if let Some(key) = keys.pop_front().flatten() {
                        self.gone_names -= 1;
                        out.push(Taken::Gone(key));
                    }
                    if keys.is_empty() {
                        self.gone.remove(&slot.0);
                    }
                }
                None => {
                    self.set(slot, false);
                    let result = self.drop_result(slot);
                    bytes += result.as_ref().map_or(0, Payload::len);
                    out.push(Taken::Task(slot, result));
                }
            }
        }
        if self.order.is_empty() {
            self.order = VecDeque::new();
        }
        out
    }

    /// Whether the first in line was first touched at `until` or before.
    pub fn has_until(&self, until: u64) -> bool {
        self.order.front().is_some_and(|(seq, _)| *seq <= until)
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

    const A: Slot = Slot(0);
    const B: Slot = Slot(70);
    const C: Slot = Slot(3);
    const ALL: u64 = u64::MAX;

    fn key(id: &str) -> TaskKey {
        TaskKey { tenant: "t".parse().unwrap(), id: id.parse().unwrap() }
    }

    #[test]
    fn what_was_touched_again_after_the_restart_point_stays() {
        let mut dirty = Dirty::default();
        dirty.touch(3, A);
        dirty.touch(5, B);
        dirty.touch(9, A);
        dirty.prune(6, |slot| if slot == A { 9 } else { 5 });
        assert_eq!(dirty.clean_up_to(9), 6);
        assert_eq!(dirty.take(10, 10, ALL), vec![Taken::Task(A, None)]);
        assert_eq!(dirty.clean_up_to(9), 9);
    }

    #[test]
    fn what_was_touched_later_than_asked_for_stays_in_line() {
        let mut dirty = Dirty::default();
        dirty.touch(3, A);
        dirty.touch(5, B);
        dirty.touch(6, A);
        assert_eq!(dirty.take(10, 10, 4), vec![Taken::Task(A, None)]);
        assert!(!dirty.has_until(4) && dirty.has_until(5));
        assert_eq!(dirty.clean_up_to(9), 4, "only what is taken is clean");
        assert_eq!(dirty.take(10, 10, 4), vec![]);
        assert_eq!(dirty.take(10, 10, 5), vec![Taken::Task(B, None)]);
        assert_eq!(dirty.clean_up_to(9), 9);
    }

    #[test]
    fn a_batch_holds_at_least_one_task_whatever_its_result() {
        let mut dirty = Dirty::default();
        for slot in [A, B] {
            dirty.result(1, slot, Payload::json(&"x".repeat(100)).unwrap());
        }
        assert_eq!(dirty.take(10, 50, ALL).len(), 1);
        assert_eq!(dirty.result_bytes(), 102);
        assert_eq!(dirty.clean_up_to(1), 0);
    }

    #[test]
    fn a_rebuild_starts_over_until_its_last_task_is_taken() {
        let mut dirty = Dirty::default();
        dirty.touch(7, B);
        dirty.restart([A, B].into_iter());
        dirty.touch(9, C);
        assert_eq!(dirty.clean_up_to(9), 0);
        dirty.take(1, 10, ALL);
        assert_eq!(dirty.clean_up_to(9), 0);
        dirty.take(1, 10, ALL);
        assert_eq!(dirty.clean_up_to(9), 8);
        assert_eq!(dirty.take(9, 10, ALL).len(), 1);
        assert_eq!(dirty.clean_up_to(9), 9);
    }

    #[test]
    fn a_forgotten_task_is_told_apart_from_the_next_in_its_slot() {
        let mut dirty = Dirty::default();
        dirty.touch(1, A);
        dirty.gone(A, key("old"));
        dirty.touch(2, A);
        dirty.gone(A, key("younger"));
        dirty.touch(3, A);
        let taken = dirty.take(10, 10, ALL);
        assert_eq!(taken, [Taken::Gone(key("old")), Taken::Gone(key("younger")), Taken::Task(A, None)]);
        assert!(dirty.is_empty());
    }

    #[test]
    fn what_was_told_of_a_task_is_not_said_of_the_next_in_its_slot_nor_to_a_new_index() {
        let mut dirty = Dirty::default();
        assert_eq!(dirty.told(B, Some(Phase::Queued)), None);
        for phase in Phase::ALL {
            assert!(dirty.told(B, Some(phase)).is_some());
            assert_eq!(dirty.told(B, Some(phase)), Some(phase));
        }
        dirty.gone(B, key("old"));
        assert_eq!(dirty.told(B, Some(Phase::Running)), None, "forgotten while nothing was to be told of it");
        dirty.restart([B].into_iter());
        assert_eq!(dirty.told(B, Some(Phase::Completed)), None);
    }
}
