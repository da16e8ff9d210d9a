//! What the index is told: which tasks changed, and how they look now.

use super::Engine;
use crate::{
    flow::{
        dirty::{Dirty, Taken},
        query,
        tasks::Slot,
    },
    task::{Payload, Phase, TaskKey},
    wire::api::TaskView,
};

/// A task that changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Touched {
    /// Which.
    pub key: TaskKey,
    /// How it looks now, without its result; `None`: it was forgotten, or is no task anybody may see.
    pub view: Option<TaskView>,
    /// Its result, if it was completed since it was told last.
    pub result: Option<Payload>,
    /// The phase in which it was told last; `None`: it was not, since it is in this memory.
    pub before: Option<Phase>,
}

impl<H> Engine<H> {
    /// What the index does not show yet.
    pub fn dirty(&self) -> &Dirty {
        &self.dirty
    }

    /// A task as the owner knows it, with its result if that is in memory; `None` for a bare tombstone.
    pub fn view(&self, key: &TaskKey) -> Option<TaskView> {
        let slot = self.state.find(key)?;
        let mut view = query::view_at(&self.state, slot)?;
        view.result = view.result.or_else(|| self.dirty.waiting_result(slot).cloned());
        Some(view)
    }

    /// Journal sequence from which results must be read back for the index, said once.
    pub fn take_dropped(&mut self) -> Option<u64> {
        self.dirty.take_dropped()
    }

    /// The oldest changed tasks: at most `max`, at most `max_bytes` of results but at least one task, and none that was
    /// first changed after the journal sequence `until`. Call only while nothing is in flight.
    pub fn take_dirty(&mut self, max: usize, max_bytes: usize, until: u64) -> Vec<Touched> {
        let taken = self.dirty.take(max, max_bytes, until);
        let touched = taken.into_iter().filter_map(|taken| match taken {
            Taken::Gone(key) => Some(Touched { key, view: None, result: None, before: None }),
            Taken::Task(slot, result) => {
                let key = self.state.key_of(self.state.tasks.get(slot)?);
                let mut view = query::view_at(&self.state, slot);
                let kept = view.as_mut().and_then(|view| view.result.take());
                let before = self.dirty.told(slot, view.as_ref().map(|view| view.state));
                Some(Touched { key, view, result: result.or(kept), before })
            }
        });
        touched.collect()
    }

    /// Everything up to this sequence is in the index already.
    pub fn prune_dirty(&mut self, seq: u64) {
        let (head_seq, head_rev, tasks) = (self.seq, self.state.rev, &self.state.tasks);
        // A revision's sequence is at most what it would be without gaps between it and the head.
        let last =
            |slot: Slot| tasks.get(slot).map_or(0, |task| head_seq.saturating_sub(head_rev - task.rev));
        self.dirty.prune(seq, last);
    }

    /// Every task is dirty, for an index that has to be made anew.
    pub fn touch_all(&mut self) {
        self.dirty.restart(self.state.tasks.iter().map(|(slot, _)| slot));
    }

    /// A result that was read back for the index.
    pub fn reread(&mut self, key: &TaskKey, result: Payload) {
        // Another task may have the id by now; only a completed one has a result.
        let completed = |slot: &Slot| self.state.tasks[*slot].phase == Phase::Completed;
        if let Some(slot) = self.state.find(key).filter(completed) {
            self.dirty.result(0, slot, result);
        }
    }

    /// Which tasks the index has is not in a snapshot: all are dirty until it says up to where it has come.
    pub(super) fn all_dirty_since(&mut self) {
        let (seq, rev) = (self.seq, self.state.rev);
        let mut tasks: Vec<(u64, Slot)> =
            self.state.tasks.iter().map(|(slot, task)| (task.rev, slot)).collect();
        tasks.sort_unstable();
        for (touched, slot) in tasks {
            self.dirty.touch(seq.saturating_sub(rev.saturating_sub(touched)), slot);
        }
        self.dirty.drop_results();
    }

    /// Forgets what the state has forgotten.
    pub(super) fn forget_gone(&mut self) {
        for (slot, key) in self.state.gone.drain(..) {
            self.dirty.gone(slot, key);
        }
    }
}
