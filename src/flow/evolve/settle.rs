//! What follows from the end of an attempt: backoff, wait, wake, or a terminal phase and its parent.

use std::{collections::BTreeSet, num::NonZeroU64};

use super::{Changes, KEEP_FAILURES, Misfit};
use crate::{
    flow::{
        entry::{Stored, Tree},
        record::{AfterFailure, Failure, What},
        state::State,
        tasks::Slot,
    },
    task::{Millis, Outcome, Phase, Refusal, Step, TaskId, WaitFor},
};

impl State {
    /// A try went wrong.
    pub(super) fn fail(
        &mut self,
        slot: Slot,
        failure: &Failure,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let step = match failure.next {
            AfterFailure::RetryAt(_) => Step::Retry,
            AfterFailure::Dead => Step::Fail,
        };
        self.tasks[slot].set_resumed(false);
        let task = self.step(slot, step)?;
        task.ran_mut().tries = failure.tries;
        let more = task.more_mut();
        more.failures.push(failure.what.clone());
        if more.failures.len() > KEEP_FAILURES {
            more.failures.remove(0);
        }
        match failure.next {
            AfterFailure::RetryAt(due) => self.wake_later(slot, due),
            AfterFailure::Dead => {
                more.refusal = Some(Refusal::new(failure.what.code, failure.what.message.clone()));
                self.end(slot, changes);
            }
        }
        Ok(())
    }

    pub(super) fn wake_later(&mut self, slot: Slot, due: Millis) {
        // 0 stands for no time at all, and both have passed.
        let due = due.max(1);
        self.tasks[slot].at = due;
        self.timers.insert((due, slot));
    }

    /// What follows from an attempt's own end.
    pub(super) fn settle(
        &mut self,
        slot: Slot,
        outcome: &Outcome,
        failure: Option<&Failure>,
        wake_at: Option<Millis>,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        if let Some(failure) = failure {
            return self.fail(slot, failure, changes);
        }
        match outcome {
            Outcome::Completed { result } => {
                let rev = self.rev;
                let task = self.step(slot, Step::Complete)?;
                if task.parent().is_some() {
                    // Dropped again below unless the parent lives.
                    let stored = Stored::of(result, rev);
                    task.more_mut().result = Some(stored);
                    self.references.add(stored);
                    if !stored.is_empty() {
                        self.resident.keep(slot, What::Result, result, false);
                    }
                }
                changes.result = Some((slot, result.clone()));
                self.end(slot, changes);
            }
            Outcome::Snooze { .. } | Outcome::Failed { .. } => {
                let due = wake_at.unwrap_or(self.now);
                let task = self.step(slot, Step::Wait)?;
                task.set_resumed(false);
                self.wake_later(slot, due);
            }
            Outcome::Wait(wait @ (WaitFor::Message { .. } | WaitFor::Time { .. })) => {
                self.step(slot, Step::Wait)?;
                self.await_recorded(slot, wait, wake_at)?;
            }
            Outcome::Wait(wait) => {
                let live = self.live_children_of(slot, wait);
                let none = live.is_empty();
                let task = self.step(slot, Step::Wait)?;
                if none {
                    // Free of rate only if there was something to wait for; else a handler that waits
                    // for nothing, again and again, would run unlimited and before everybody else.
                    let resumed = task.more().news;
                    self.wake(slot, resumed)?;
                } else {
                    task.more_mut().awaits = live;
                }
            }
        }
        Ok(())
    }

    pub(super) fn live_children_of(&self, slot: Slot, wait: &WaitFor) -> BTreeSet<TaskId> {
        let task = &self.tasks[slot];
        let is_live = |id: &&TaskId| {
            let child = self.tasks.find(task.tenant, id).map(|child| &self.tasks[child]);
            child.is_some_and(|c| !c.phase.is_terminal() && c.parent() == Some(&task.id))
        };
        match wait {
            WaitFor::AllChildren => task.more().children.iter().filter(is_live).cloned().collect(),
            WaitFor::Children(ids) => ids.iter().filter(is_live).cloned().collect(),
            WaitFor::Message { .. } | WaitFor::Time { .. } => BTreeSet::new(),
        }
    }

    /// A delay is over, or `run_at` has come: into the queue.
    pub(super) fn may_start(&mut self, slot: Slot) {
        self.forget_timer(slot);
        let now = self.now;
        self.bounds.take(slot, &self.tasks[slot]);
        let task = &mut self.tasks[slot];
        if let Some(timing) = task.timing_mut() {
            timing.may_start(now);
        }
        self.bounds.put(slot, task);
        self.enqueue(slot);
    }

    /// Its next try waits for no time any more.
    fn forget_timer(&mut self, slot: Slot) {
        let at = std::mem::take(&mut self.tasks[slot].at);
        if at != 0 {
            self.timers.remove(&(at, slot));
        }
    }

    /// Back into the queue: after a wait for children first in line, after a time in its old place.
    pub(super) fn wake(&mut self, slot: Slot, resumed: bool) -> Result<(), Misfit> {
        // `resumed` decides whether it counts as backlog, so it is set before the step.
        self.forget_timer(slot);
        let task = &mut self.tasks[slot];
        let (before, tenant) = (task.in_backlog(), task.tenant);
        task.set_resumed(resumed);
        let after = task.in_backlog();
        self.count_backlog(tenant, before, after);
        self.step(slot, Step::Wake)?;
        self.enqueue(slot);
        Ok(())
    }

    /// A task has become terminal: free what it held, tell its parent.
    pub(super) fn end(&mut self, slot: Slot, changes: &mut Changes) {
        changes.ended.push(slot);
        let wall = self.wall;
        self.forget_timer(slot);
        self.drop_history(slot, changes);
        let task = &mut self.tasks[slot];
        task.ended = NonZeroU64::new(wall);
        if let Some(more) = &mut task.more {
            more.awaits = BTreeSet::new();
        }
        let task = &self.tasks[slot];
        let parent = task.parent().and_then(|parent| self.tasks.find(task.tenant, parent));
        let root = if task.is_root() { Some(slot) } else { self.tasks.find(task.tenant, task.root()) };
        match task.phase {
            // A dead task may be retried, but hardly soon.
            Phase::Failed => self.resident.drop_input(slot),
            _ => self.drop_input(slot),
        }
        let parent_lives = parent.is_some_and(|parent| self.child_ended(parent, slot, changes));
        if !parent_lives {
            self.drop_result(slot);
        }
        self.release_children(slot);
        let Some(root) = root else { return };
        if root == slot && self.tasks[root].more().tree.total == 0 {
            self.end_pause(root);
            return self.remember_tree(root);
        }
        let tree = &mut self.tasks[root].more_mut().tree;
        tree.live = tree.live.saturating_sub(1);
        if tree.live == 0 {
            *tree = Tree::default();
            self.end_pause(root);
            self.remember_tree(root);
        }
    }

    /// Tells a parent that a child is terminal. Returns whether the parent lives.
    pub(super) fn child_ended(&mut self, parent: Slot, child: Slot, changes: &mut Changes) -> bool {
        let id = self.tasks[child].id.clone();
        let task = &mut self.tasks[parent];
        let (phase, more) = (task.phase, task.more_mut());
        more.news = true;
        more.live_children = more.live_children.saturating_sub(1);
        let awaited = more.awaits.remove(&id);
        if awaited && more.awaits.is_empty() && phase == Phase::Waiting {
            // Waiting → queued is in the table, so this can't misfit.
            if self.wake(parent, true).is_ok() {
                self.touch(parent, changes);
            }
        }
        !phase.is_terminal()
    }

    /// A terminal parent asks for nothing any more: the results of its ended children may go.
    pub(super) fn release_children(&mut self, slot: Slot) {
        let task = &self.tasks[slot];
        if task.more().children.is_empty() {
            return;
        }
        let children: Vec<Slot> =
            task.more().children.iter().filter_map(|id| self.tasks.find(task.tenant, id)).collect();
        for child in children {
            if self.tasks[child].phase.is_terminal() {
                self.drop_result(child);
            }
        }
    }
}
