//! Cancelling and expiring take the tree, top down; a cancel that overtakes its submit leaves a tombstone.

use super::{Changes, Misfit};
use crate::{
    flow::{entry::Task, state::State, tasks::Slot, times::deadline_passed},
    task::{AgentName, Code, Payload, Phase, Priority, Refusal, Spec, Step, TaskKey},
};

impl State {
    /// Cancels the task and everything below it, top down.
    pub(super) fn cancel(&mut self, top: Slot, reason: &str, changes: &mut Changes) -> Result<(), Misfit> {
        self.end_tree(top, Step::Cancel, |_, _| Refusal::new(Code::Cancelled, reason), changes)
    }

    /// A time has passed: the task and everything below it are over. Those below have a deadline that is no later.
    pub(super) fn expire(
        &mut self,
        top: Slot,
        refusal: &Refusal,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let wall = self.wall;
        let why = |slot, task: &Task| match task.timing().and_then(|timing| timing.deadline) {
            Some(deadline) if slot != top => deadline_passed(deadline, wall),
            _ => refusal.clone(),
        };
        self.end_tree(top, Step::Expire, why, changes)
    }

    fn end_tree(
        &mut self,
        top: Slot,
        step: Step,
        why: impl Fn(Slot, &Task) -> Refusal,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let mut next = vec![top];
        while let Some(slot) = next.pop() {
            let task = &self.tasks[slot];
            let children = task.more().children.iter();
            next.extend(children.filter_map(|id| self.tasks.find(task.tenant, id)));
            let refusal = why(slot, task);
            match task.phase {
                Phase::Queued if task.is_held() => {}
                Phase::Queued => self.dequeue(slot),
                Phase::Running => {
                    if let Some(token) = task.lease().map(|lease| lease.token) {
                        self.revoke(slot, token, refusal.code, changes)?;
                    }
                }
                Phase::Waiting | Phase::Retrying => {}
                _ => continue,
            }
            let task = self.step(slot, step)?;
            task.set_resumed(false);
            task.more_mut().refusal = Some(refusal);
            self.end(slot, changes);
            self.touch(slot, changes);
        }
        Ok(())
    }

    /// Remembers a cancel whose submit has not come yet.
    pub(super) fn tombstone(&mut self, key: &TaskKey, reason: &str) {
        let spec = Spec {
            labels: None,
            // A placeholder nobody sees: a tombstone is shown to no reader.
            agent: AgentName::new("none").unwrap_or_else(|_| unreachable!("a name by the grammar")),
            input: Payload::default(),
            priority: Priority::Normal,
            max_tries: None,
            times: None,
            cost: None,
        };
        let tenant = self.tenant_number(&key.tenant);
        // The owner's clock may be stepped: its first-try time stays 0, so that it does not move `TOO_OLD` when this
        // is forgotten.
        let mut task = self.new_task(tenant, &key.id, &spec.agent, spec.body_hash(), Phase::Cancelled);
        task.more_mut().refusal = Some(Refusal::new(Code::Cancelled, reason));
        task.tombstone = true;
        let slot = self.put(task, None);
        self.remember(slot);
    }
}
