//! What follows from the end of an attempt: backoff, wait, wake, or a terminal phase and its parent.

use super::{Changes, KEEP_FAILURES, Misfit};
use crate::{
    flow::{
        record::{AfterFailure, Failure},
        state::{State, Task},
    },
    task::{Millis, Outcome, Payload, Phase, Refusal, Step, TaskId, TaskKey, WaitFor},
};

impl State {
    /// A try went wrong.
    pub(super) fn fail(
        &mut self,
        key: &TaskKey,
        failure: &Failure,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let step = match failure.next {
            AfterFailure::RetryAt(_) => Step::Retry,
            AfterFailure::Dead => Step::Fail,
        };
        self.task_mut(key)?.resumed = false;
        let task = self.step(key, step)?;
        task.tries = failure.tries;
        task.failures.push(failure.what.clone());
        if task.failures.len() > KEEP_FAILURES {
            task.failures.remove(0);
        }
        match failure.next {
            AfterFailure::RetryAt(due) => {
                task.wake_at = Some(due);
                self.timers.insert((due, key.clone()));
            }
            AfterFailure::Dead => {
                task.refusal = Some(Refusal::new(failure.what.code, failure.what.message.clone()));
                self.end(key, changes);
            }
        }
        Ok(())
    }

    /// What follows from an attempt's own end.
    pub(super) fn settle(
        &mut self,
        key: &TaskKey,
        outcome: &Outcome,
        failure: Option<&Failure>,
        wake_at: Option<Millis>,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        if let Some(failure) = failure {
            return self.fail(key, failure, changes);
        }
        match outcome {
            Outcome::Completed { result } => {
                let task = self.step(key, Step::Complete)?;
                task.result = Some(result.clone());
                changes.result = Some((key.clone(), result.clone()));
                self.end(key, changes);
            }
            Outcome::Snooze { .. } | Outcome::Failed { .. } => {
                let due = wake_at.unwrap_or(self.now);
                let task = self.step(key, Step::Wait)?;
                task.resumed = false;
                task.wake_at = Some(due);
                self.timers.insert((due, key.clone()));
            }
            Outcome::Wait(wait) => {
                let live = self.live_children_of(key, wait);
                let task = self.step(key, Step::Wait)?;
                task.awaits = live;
                if task.awaits.is_empty() {
                    // Free of rate only if there was something to wait for; else a handler that waits
                    // for nothing, again and again, would run unlimited and before everybody else.
                    let resumed = task.news;
                    self.wake(key, resumed)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn live_children_of(
        &self,
        key: &TaskKey,
        wait: &WaitFor,
    ) -> std::collections::BTreeSet<TaskId> {
        let Some(task) = self.tasks.get(key) else { return Default::default() };
        let is_live = |id: &&TaskId| {
            let child = TaskKey { tenant: key.tenant.clone(), id: (*id).clone() };
            self.tasks.get(&child).is_some_and(|c| !c.phase.is_terminal() && c.parent() == Some(&key.id))
        };
        match wait {
            WaitFor::AllChildren => task.children.iter().filter(is_live).cloned().collect(),
            WaitFor::Children(ids) => ids.iter().filter(is_live).cloned().collect(),
        }
    }

    /// Back into the queue: after a wait for children first in line, after a time in its old place.
    pub(super) fn wake(&mut self, key: &TaskKey, resumed: bool) -> Result<(), Misfit> {
        // `resumed` decides whether it counts as backlog, so it is set before the step.
        let task = self.task_mut(key)?;
        let before = task.in_backlog();
        task.resumed = resumed;
        if let Some(due) = task.wake_at.take() {
            self.timers.remove(&(due, key.clone()));
        }
        let after = self.tasks.get(key).is_some_and(Task::in_backlog);
        self.count_backlog(&key.tenant, before, after);
        self.step(key, Step::Wake)?;
        self.enqueue(key);
        Ok(())
    }

    /// A task has become terminal: free what it held, tell its parent.
    pub(super) fn end(&mut self, key: &TaskKey, changes: &mut Changes) {
        let wall = self.wall;
        changes.ended.push(key.clone());
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.ended = Some(wall);
        task.awaits.clear();
        if let Some(due) = task.wake_at.take() {
            self.timers.remove(&(due, key.clone()));
        }
        if task.phase != Phase::Failed {
            task.spec.input = Payload::default();
        }
        let parent = task.parent().map(|id| TaskKey { tenant: key.tenant.clone(), id: id.clone() });
        let root = TaskKey { tenant: key.tenant.clone(), id: task.root(&key.id).clone() };
        let parent_lives = parent.as_ref().is_some_and(|p| self.child_ended(p, key, changes));
        if !parent_lives && let Some(task) = self.tasks.get_mut(key) {
            task.result = None;
        }
        self.release_children(key);
        let Some(tree) = self.trees.get_mut(&root) else { return };
        tree.live -= 1;
        if tree.live == 0 {
            self.trees.remove(&root);
            self.remember_tree(root);
        }
    }

    /// Tells a parent that a child is terminal. Returns whether the parent lives.
    pub(super) fn child_ended(&mut self, parent: &TaskKey, child: &TaskKey, changes: &mut Changes) -> bool {
        let Some(task) = self.tasks.get_mut(parent) else { return false };
        task.live_children = task.live_children.saturating_sub(1);
        task.news = true;
        let lives = !task.phase.is_terminal();
        let awaited = task.awaits.remove(&child.id);
        if awaited && task.awaits.is_empty() && task.phase == Phase::Waiting {
            // Waiting → queued is in the table, so this can't misfit.
            if self.wake(parent, true).is_ok() {
                self.touch(parent, changes);
            }
        }
        lives
    }

    /// A terminal parent asks for nothing any more: the results of its ended children may go.
    pub(super) fn release_children(&mut self, key: &TaskKey) {
        let children = self.tasks.get(key).map(|t| t.children.clone()).unwrap_or_default();
        for id in children {
            let child = TaskKey { tenant: key.tenant.clone(), id };
            if let Some(task) = self.tasks.get_mut(&child)
                && task.phase.is_terminal()
            {
                task.result = None;
            }
        }
    }
}
