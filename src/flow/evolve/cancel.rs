//! Cancelling takes the tree, top down; a cancel that overtakes its submit leaves a tombstone.

use super::{Changes, Misfit};
use crate::{
    flow::{state::State, tasks::Slot},
    task::{AgentName, Code, Payload, Phase, Priority, Refusal, Spec, Step, TaskKey},
};

impl State {
    /// Cancels the task and everything below it, top down.
    pub(super) fn cancel(&mut self, top: Slot, reason: &str, changes: &mut Changes) -> Result<(), Misfit> {
        let mut next = vec![top];
        while let Some(slot) = next.pop() {
            let task = &self.tasks[slot];
            let children = task.more().children.iter();
            next.extend(children.filter_map(|id| self.tasks.find(task.tenant, id)));
            match task.phase {
                Phase::Queued => self.dequeue(slot),
                Phase::Running => {
                    if let Some(token) = task.lease().map(|lease| lease.token) {
                        self.revoke(slot, token, Code::Cancelled, changes)?;
                    }
                }
                Phase::Waiting | Phase::Retrying => {}
                _ => continue,
            }
            let task = self.step(slot, Step::Cancel)?;
            task.set_resumed(false);
            task.more_mut().refusal = Some(Refusal::new(Code::Cancelled, reason));
            self.end(slot, changes);
            self.touch(slot, changes);
        }
        Ok(())
    }

    /// Remembers a cancel whose submit has not come yet.
    pub(super) fn tombstone(&mut self, key: &TaskKey, reason: &str) {
        let spec = Spec {
            // A placeholder nobody sees: a tombstone is shown to no reader.
            agent: AgentName::new("none").unwrap_or_else(|_| unreachable!("a name by the grammar")),
            input: Payload::default(),
            priority: Priority::Normal,
            max_tries: None,
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
